"""Messages converted for peers that take less: what changes, what must not, and what cannot be converted.

What lives here: unit tests of every rule, and the properties that hold for any message. What does not: when a message
is converted (``test_planner.py``), and drivers that do it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpcore import BodyFacts, BodyForm, BodyMeasure, ConversionFailed
from smtpcore.mime import convert

SEVEN_BIT = BodyForm(long_lines=True)
SHORT = BodyForm(eight_bit=True)
STRICT = BodyForm()
ANYTHING = BodyForm(eight_bit=True, long_lines=True)

CAFE = "Zwei Caf\u00e9s, bitte.".encode()
LONG = b"x" * 999
OCTETS = b"\x89PNG\r\n\x00\n\x1a\r\xff"


def mime(*lines: bytes) -> bytes:
    """A MIME message out of lines."""
    return b"".join(line + b"\r\n" for line in (b"Subject: Hi", b"MIME-Version: 1.0", *lines))


def text(*lines: bytes, encoding: bytes = b"8bit") -> bytes:
    """A message with one part of text."""
    kind = b"Content-Type: text/plain; charset=utf-8"
    return mime(kind, b"Content-Transfer-Encoding: " + encoding, b"", *lines)


def multipart(*parts: bytes, kind: bytes = b"multipart/mixed", fields: tuple[bytes, ...] = ()) -> bytes:
    lines = [b'Content-Type: %b; boundary="b"' % kind, *fields, b""]
    for part in parts:
        lines += [b"--b", part]
    return mime(*lines, b"--b--")


def fits(octets: bytes, form: BodyForm) -> bool:
    lines = octets.split(b"\r\n")
    in_lines = not any(octet in line for line in lines for octet in b"\0\r\n")
    short = form.long_lines or all(len(line) <= 998 for line in lines)
    return in_lines and short and (form.eight_bit or octets.isascii())


def leaves(message: Message[Any, Any]) -> list[tuple[str, bytes]]:
    """The type and the content of every part, as a reader decodes them."""
    return [
        (part.get_content_type(), part.get_payload(decode=True))  # type: ignore[misc]  # the library's types are loose
        for part in message.walk()
        if not part.is_multipart()
    ]


def content(octets: bytes) -> bytes:
    """What a message of one part stands for."""
    ((_, found),) = leaves(message_from_bytes(octets))
    return found


def failure(octets: bytes, form: BodyForm = SEVEN_BIT, **options: Any) -> ConversionFailed:
    with pytest.raises(ConversionFailed) as caught:
        convert(octets, form, **options)
    return caught.value


# --- text and octets --------------------------------------------------------------------------------------------------


def test_text_becomes_quoted_printable_and_nothing_else_changes() -> None:
    converted = convert(text(CAFE, b"", b"= 1 =", b"tab at the end\t"), SEVEN_BIT)
    assert converted == text(
        b"Zwei Caf=C3=A9s, bitte.", b"", b"=3D 1 =3D", b"tab at the end=09", encoding=b"quoted-printable"
    )


def test_a_message_that_fits_is_the_same() -> None:
    seven, eight, long = text(b"plain", encoding=b"7bit"), text(CAFE), text(LONG, encoding=b"7bit")
    assert convert(seven, STRICT) is seven
    assert convert(eight, SHORT) is eight
    assert convert(long, SEVEN_BIT) is long
    assert convert(text(CAFE, LONG), ANYTHING) == text(CAFE, LONG)
    # No MIME, and a signature: where nothing needs to change nothing can be in the way.
    assert convert(b"DKIM-Signature: v=1\r\n\r\nHello\r\n", STRICT) == b"DKIM-Signature: v=1\r\n\r\nHello\r\n"


@pytest.mark.parametrize("ending", [b"\r\n", b""])
def test_a_line_may_have_998_octets(ending: bytes) -> None:
    fitting = mime(b"", b"y" * 998, b"z") + b"x" * 998 + ending
    assert convert(fitting, SHORT) is fitting
    converted = convert(mime(b"", b"y" * 998, b"z") + b"x" * 999 + ending, SHORT)
    assert fits(converted, STRICT)
    assert content(converted) == b"y" * 998 + b"\r\nz\r\n" + b"x" * 999 + ending


def test_long_lines_are_broken_softly() -> None:
    message = text(b"short", LONG, CAFE)
    converted = convert(message, SHORT)
    assert max(map(len, converted.split(b"\r\n"))) <= 76
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in converted
    assert content(converted) == content(message)


def test_what_is_no_text_becomes_base64() -> None:
    message = mime(b"Content-Type: image/png", b"content-transfer-encoding:binary", b"") + OCTETS
    converted = convert(message, STRICT)
    assert converted == mime(
        b"Content-Type: image/png", b"Content-Transfer-Encoding: base64", b"", base64.b64encode(OCTETS)
    ).removesuffix(b"\r\n")
    assert content(converted) == OCTETS


@pytest.mark.parametrize("octets", [b"a\0b\xff", b"a\rb", b"a\nb", "\u00e9".encode("utf-16")])
def test_text_that_is_not_in_lines_becomes_base64(octets: bytes) -> None:
    converted = convert(text(octets, encoding=b"binary"), STRICT)
    assert b"Content-Transfer-Encoding: base64\r\n" in converted
    assert content(converted) == octets + b"\r\n"


def test_a_missing_transfer_encoding_is_added_at_the_end_of_the_header() -> None:
    message = mime(b"Content-Type: text/plain; charset=utf-8", b"", CAFE)
    assert convert(message, SEVEN_BIT) == mime(
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Transfer-Encoding: quoted-printable",
        b"",
        b"Zwei Caf=C3=A9s, bitte.",
    )


def test_a_transfer_encoding_is_replaced_with_its_comments_and_folds() -> None:
    message = mime(b"content-transfer-encoding\t:\r\n (as it\r\n  came) 8Bit", b"X: y", b"", CAFE)
    converted = convert(message, SEVEN_BIT)
    assert converted == mime(b"Content-Transfer-Encoding: quoted-printable", b"X: y", b"", b"Zwei Caf=C3=A9s, bitte.")
    # The reader of the standard library is one that knows no field with white space before its colon.
    assert content(converted) == CAFE + b"\r\n"


def test_encoded_text_with_long_lines_is_encoded_again() -> None:
    quoted = text(b"=C3=A9" * 200, encoding=b"Quoted-Printable")
    converted = convert(quoted, STRICT)
    assert fits(converted, STRICT)
    assert content(converted) == content(quoted) == "\u00e9".encode() * 200 + b"\r\n"
    # White space at the end of a line was never written by who encoded it (RFC 2045 §6.7 (3)).
    padded = text(b"=C3=A9" * 200 + b" \t ", b"b=20 ", encoding=b"quoted-printable")
    assert content(convert(padded, STRICT)) == "\u00e9".encode() * 200 + b"\r\nb \r\n"
    # Text in base64 stays so.
    wide = text(base64.b64encode(b"\0" * 3000), encoding=b"base64")
    converted = convert(wide, STRICT)
    assert b"Content-Transfer-Encoding: base64\r\n" in converted
    assert content(converted) == content(wide) == b"\0" * 3000


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"base64", b"A" * 1000 + b"!"),
        (b"base64", b"A" * 1001),
        (b"base64", CAFE),
        (b"quoted-printable", CAFE),
        (b"x-uuencode", CAFE),
        (b"", CAFE),
        (b"8bit 7bit", CAFE),
    ],
)
def test_what_contradicts_its_encoding_is_left_alone(encoding: bytes, body: bytes) -> None:
    error = failure(text(body, encoding=encoding), STRICT)
    assert (error.part, error.enhanced) == ("", "5.6.3")
    assert error.why.startswith(f"it is said to be {encoding.decode()}")


# --- multiparts -------------------------------------------------------------------------------------------------------

PLAIN_PART = b"Content-Type: text/plain\r\n\r\nplain"
CAFE_PART = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + CAFE
QUOTED_PART = (
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"Zwei Caf=C3=A9s, bitte."
)
OCTETS_PART = b"Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n" + OCTETS
OCTETS_IN_BASE64 = (
    b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(OCTETS)
)  # fmt: skip
EIGHT_BIT = (b"Content-Transfer-Encoding: 8bit",)
NOW_SEVEN_BIT = (b"Content-Transfer-Encoding: 7bit",)


def test_only_parts_that_need_it_change_and_what_encloses_them() -> None:
    before = multipart(PLAIN_PART, CAFE_PART, b"", PLAIN_PART, fields=EIGHT_BIT)
    after = multipart(PLAIN_PART, QUOTED_PART, b"", PLAIN_PART, fields=NOW_SEVEN_BIT)
    assert convert(before, SEVEN_BIT) == after


def test_a_multipart_that_does_not_say_its_encoding_says_none() -> None:
    assert convert(multipart(CAFE_PART), SEVEN_BIT) == multipart(QUOTED_PART)


@pytest.mark.parametrize(
    ("said", "then", "form"),
    [
        (b"binary", b"8bit", SHORT),
        (b"8bit", b"8bit", SHORT),
        (b"binary", b"7bit", STRICT),
        (b"8bit", b"7bit", STRICT),
        (b"7bit", b"7bit", STRICT),
    ],
)
def test_what_encloses_parts_is_as_the_least_of_them(said: bytes, then: bytes, form: BodyForm) -> None:
    before = multipart(CAFE_PART, OCTETS_PART, fields=(b"Content-Transfer-Encoding: " + said,))
    cafe = CAFE_PART if form.eight_bit else QUOTED_PART
    after = multipart(cafe, OCTETS_IN_BASE64, fields=(b"Content-Transfer-Encoding: " + then,))
    assert convert(before, form) == after


def test_binary_around_seven_bits_becomes_seven_bits() -> None:
    before = multipart(OCTETS_PART, fields=(b"Content-Transfer-Encoding: binary",))
    assert convert(before, SHORT) == multipart(OCTETS_IN_BASE64, fields=NOW_SEVEN_BIT)


def test_boundaries_are_found_as_they_are_written() -> None:
    fields = b'Content-Type: multipart/mixed;\r\n boundary="a (b)*+"'
    before = mime(fields, b"", b"preamble", b"--a (b)*+ \t", CAFE_PART, b"--a (b)*+x", b"--a (b)*+--\t", b"epilogue")
    after = convert(before, SEVEN_BIT)
    quoted = QUOTED_PART + b"\r\n--a (b)*+x"
    expected = mime(fields, b"", b"preamble", b"--a (b)*+ \t", quoted, b"--a (b)*+--\t", b"epilogue")
    assert after == expected


def test_a_multipart_that_is_cut_off_is_converted_to_its_end() -> None:
    before = mime(b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", CAFE_PART)
    assert convert(before, SEVEN_BIT) == mime(b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", QUOTED_PART)


def test_a_delimiter_behind_the_last_one_is_text() -> None:
    message = multipart(CAFE_PART) + b"--b\r\n" + PLAIN_PART + b"\r\n"
    assert convert(message, SEVEN_BIT) == multipart(QUOTED_PART) + b"--b\r\n" + PLAIN_PART + b"\r\n"
    error = failure(multipart(CAFE_PART) + b"--b\r\n" + CAFE_PART)
    assert error.why == "there are octets above 127 outside of its parts"


@pytest.mark.parametrize("form", [SEVEN_BIT, STRICT])
def test_what_is_outside_of_all_parts_cannot_be_encoded(form: BodyForm) -> None:
    preamble = mime(b"Content-Type: multipart/mixed; boundary=b", b"", CAFE, b"--b", b"", b"--b--")
    epilogue = multipart(PLAIN_PART) + CAFE
    for message in (
        preamble,
        epilogue,
        multipart(multipart(PLAIN_PART) + CAFE, kind=b"multipart/x").replace(b"b", b"b"),
    ):
        error = failure(message, form)
        assert error.why == "there are octets above 127 outside of its parts"
        assert error.enhanced == "5.6.3"


def test_parts_of_a_digest_are_messages() -> None:
    inner = text(CAFE)
    converted = convert(multipart(b"\r\n" + inner, kind=b"multipart/digest"), SEVEN_BIT)
    quoted = text(b"Zwei Caf=C3=A9s, bitte.", encoding=b"quoted-printable")
    assert converted == multipart(b"\r\n" + quoted, kind=b"multipart/digest")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((b"Content-Type: multipart/mixed", b"", CAFE), "multipart/mixed has no boundary"),
        ((b'Content-Type: multipart/mixed; boundary=""', b"", CAFE), "multipart/mixed has no boundary"),
        ((b"Content-Type: multipart/x; boundary=b", b"", b"--c", CAFE), "the boundary of multipart/x is not in it"),
        (
            (b"Content-Type: multipart/x; boundary=b", b"Content-Transfer-Encoding: base64", b"", b"--b", CAFE),
            "multipart/x must not be encoded, and is said to be base64",
        ),
        ((b"Content-Type: message/partial", b"", CAFE), "message/partial must not be encoded"),
        (
            (b"Content-Type: multipart/x; boundary*=b; boundary*0=b", b"", b"--b", CAFE),
            "its Content-Type cannot be read",
        ),
        ((b"Content-Type: text/x", b"Content-type: text/y", b"", CAFE), "its header has content-type more than once"),
        (
            (b"Content-Transfer-Encoding: 8bit", b"Content-Transfer-Encoding: 8bit", b"", CAFE),
            "its header has content-transfer-encoding more than once",
        ),
        ((b"this is no header", b"", CAFE), "its header cannot be read"),
        ((b"Subject: \0", b"", CAFE), "its header has octets that are not in lines"),
        ((b"Subject: " + LONG, b"", CAFE), "its header has a line over 998 octets"),
    ],
)
def test_what_contradicts_itself_is_left_alone(lines: tuple[bytes, ...], why: str) -> None:
    error = failure(mime(*lines), STRICT)
    assert (error.part, error.why, error.enhanced) == ("", why, "5.6.3")
    assert str(error) == f"the message cannot be converted: {why}"


def test_headers_beyond_ascii_cannot_be_converted() -> None:
    header = mime(b"To: Andr\xc3\xa9 <a@b.example>", b"", b"plain")
    error = failure(header)
    assert (error.part, error.why, error.enhanced) == ("", "its header has octets above 127", "5.6.9")
    # Where a peer takes them, they are in nobody's way.
    long = mime(b"To: Andr\xc3\xa9 <a@b.example>", b"", LONG)
    assert convert(long, SHORT).startswith(header[: header.index(b"\r\n\r\n")])


def test_the_part_that_prevents_it_is_named() -> None:
    named = b'Content-Type: image/png; name="Caf\xc3\xa9"\r\n\r\n'
    inner = b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n\r\n--c\r\n" + named + b"\r\n--c--"
    error = failure(multipart(PLAIN_PART, inner))
    assert (error.part, error.why) == ("2.2", "its header has octets above 127")
    assert str(error) == "the message cannot be converted: part 2.2: its header has octets above 127"


def test_a_message_that_is_no_mime_is_left_alone() -> None:
    error = failure(b"Subject: Hi\r\n\r\n" + CAFE)
    assert error.why == "it is no MIME message: it has no MIME-Version"


def test_what_lies_too_deep_is_left_alone() -> None:
    def nested(depth: int) -> bytes:
        octets = CAFE_PART
        for level in range(depth):
            boundary = b"b%d" % level
            lines = (b"Content-Type: multipart/mixed; boundary=" + boundary, b"", b"--" + boundary, octets)
            octets = b"\r\n".join((*lines, b"--" + boundary + b"--", b""))
        return b"MIME-Version: 1.0\r\n" + octets

    assert fits(convert(nested(30), SEVEN_BIT), STRICT)
    error = failure(nested(31))
    assert error.why == "it lies in more than 30 other parts"
    assert error.part == ".".join(["1"] * 31)


# --- messages within messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"message/rfc822", b"MESSAGE/News"])
def test_a_message_within_a_message_is_converted_inside(kind: bytes) -> None:
    head = b"Content-Type: " + kind + b"\r\nContent-Transfer-Encoding: "
    converted = convert(multipart(PLAIN_PART, head + b"8bit\r\n\r\n" + text(CAFE), fields=EIGHT_BIT), SEVEN_BIT)
    quoted = text(b"Zwei Caf=C3=A9s, bitte.", encoding=b"quoted-printable")
    assert converted == multipart(PLAIN_PART, head + b"7bit\r\n\r\n" + quoted, fields=NOW_SEVEN_BIT)


def test_a_message_within_a_message_must_be_mime_itself() -> None:
    part = b"Content-Type: message/rfc822\r\n\r\nSubject: Hi\r\n\r\n" + CAFE
    error = failure(multipart(PLAIN_PART, part))
    assert (error.part, error.why) == ("2", "it is no MIME message: it has no MIME-Version")


def test_an_internationalised_message_within_a_message_is_encoded_as_a_whole() -> None:
    inner = "Subject: Caf\u00e9\r\n\r\nHi\r\n".encode()
    head = b"Content-Type: message/global\r\nContent-Transfer-Encoding: "
    converted = convert(multipart(head + b"8bit\r\n\r\n" + inner), SEVEN_BIT)
    encoded = base64.b64encode(inner) + b"\r\n"
    assert converted == multipart(head + b"base64\r\n\r\n" + encoded)


# --- signatures -------------------------------------------------------------------------------------------------------

SIGNED = [
    (b"DKIM-Signature: v=1\r\n" + text(CAFE), "", "dkim-signature"),
    (b"ARC-Message-Signature: i=1\r\n" + text(CAFE), "", "arc-message-signature"),
    (b"DomainKey-Signature: a=b\r\n" + text(CAFE), "", "domainkey-signature"),
    (multipart(CAFE_PART, kind=b"Multipart/Signed"), "", "multipart/signed"),
    (multipart(PLAIN_PART, CAFE_PART.replace(b"text/plain", b"application/pkcs7-mime")), "2", "application/pkcs7-mime"),
    (
        multipart(CAFE_PART.replace(b"text/plain", b"application/x-pkcs7-mime; smime-type=Signed-Data")),
        "1",
        "application/x-pkcs7-mime",
    ),
    (
        multipart(CAFE_PART.replace(b"text/plain", b"application/pkcs7-mime; smime-type*=us-ascii''signed%2Ddata")),
        "1",
        "application/pkcs7-mime",
    ),
    (text(b"-----BEGIN PGP SIGNED MESSAGE-----", b"Hash: SHA512", b"", CAFE), "", "text/plain"),
    (multipart(b"Content-Type: message/rfc822\r\n\r\nDKIM-Signature: v=1\r\n" + text(CAFE)), "1", "dkim-signature"),
]


@pytest.mark.parametrize(("message", "part", "how"), SIGNED)
def test_what_is_signed_is_never_changed_silently(message: bytes, part: str, how: str) -> None:
    error = failure(message)
    assert (error.part, error.enhanced) == (part, "5.6.2")
    assert error.why == f"it is signed ({how}), and would not be as it was signed"
    converted = convert(message, SEVEN_BIT, break_signatures=True)
    assert fits(converted, SEVEN_BIT)
    assert leaves(message_from_bytes(converted)) == leaves(message_from_bytes(message))


def test_what_is_signed_beside_other_parts_stays_as_it_is() -> None:
    signed = multipart(PLAIN_PART, kind=b"multipart/signed").replace(b'"b"', b'"c"').replace(b"--b", b"--c")
    converted = convert(multipart(signed, CAFE_PART), SEVEN_BIT)
    assert converted == multipart(signed, QUOTED_PART)


def test_what_is_encrypted_and_not_signed_is_converted() -> None:
    enveloped = OCTETS_PART.replace(b"image/png", b"application/pkcs7-mime; smime-type=enveloped-data")
    assert fits(convert(multipart(enveloped), STRICT), STRICT)


# --- any message ------------------------------------------------------------------------------------------------------

ATOMS = [b"plain words", b"=3D", b"", b"-- ", b".", b"From me", CAFE, b"\xff\xfe", LONG, b"z" * 998, b" \t"]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\0"]


@dataclass
class Part:
    """A part as it is built: its header, and its content or its parts."""

    fields: list[bytes]
    content: bytes = b""
    boundary: bytes = b""
    parts: list[Part] = field(default_factory=list)
    inner: Part | None = None

    def octets(self) -> bytes:
        lines = list(self.fields)
        if self.boundary:
            lines.append(b'Content-Type: multipart/mixed; boundary="%b"' % self.boundary)
        header = b"".join(line + b"\r\n" for line in lines) + b"\r\n"
        if self.inner is not None:
            return header + self.inner.octets()
        if not self.boundary:
            return header + self.content
        body = b"preamble\r\n"
        for part in self.parts:
            body += b"--" + self.boundary + b"\r\n" + part.octets() + b"\r\n"
        return header + body + b"--" + self.boundary + b"--\r\nepilogue\r\n"


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    pieces = draw(st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(ENDS)), max_size=4))
    return b"".join(atom + end for atom, end in pieces)


def numbered() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield b"=_%d_" % number


@st.composite
def trees(draw: st.DrawFn, depth: int = 2, names: Iterator[bytes] | None = None) -> Part:
    names = numbered() if names is None else names
    shapes = ["leaf"] if not depth else ["leaf", "leaf", "multipart", "message"]
    shape = draw(st.sampled_from(shapes))
    encodings = [b"7bit", b"8bit", b"BINARY", None]
    if shape == "leaf":
        kinds = [b"text/plain", b"text/html; charset=utf-8", b"image/png", b"application/octet-stream", None]
        kind, encoding = draw(st.sampled_from(kinds)), draw(st.sampled_from([*encodings, b"base64"]))
        octets = draw(contents())
        if encoding == b"base64":
            octets = base64.b64encode((octets * 1000)[:1200]) if draw(st.booleans()) else base64.encodebytes(octets)
            octets = octets.replace(b"\n", b"\r\n")
        fields = [b"Content-Type: " + kind] if kind else []
        return Part([*fields, *([b"Content-Transfer-Encoding: " + encoding] if encoding else [])], octets)
    encoding = draw(st.sampled_from(encodings))
    fields = [b"X-Folded: a\r\n b", *([b"Content-Transfer-Encoding:  " + encoding] if encoding else [])]
    if shape == "message":
        inner = draw(trees(depth=depth - 1, names=names))
        inner.fields.insert(0, b"MIME-Version: 1.0")
        return Part([*fields, b"Content-Type: message/rfc822"], inner=inner)
    name = next(names)
    return Part(fields, boundary=name, parts=draw(st.lists(trees(depth=depth - 1, names=names), max_size=3)))


def messages() -> st.SearchStrategy[bytes]:
    return trees().map(lambda tree: b"Subject: Hi\r\nMIME-Version: 1.0\r\n" + tree.octets())


forms = st.builds(BodyForm, eight_bit=st.booleans(), long_lines=st.booleans())


def segments(octets: bytes) -> list[bytes]:
    """What is between boundaries and between a message's header and a message within it, and those boundaries."""
    return re.split(rb"(--=_\d+_(?:--)?|message/rfc822|MIME-Version: 1\.0)", octets)


def without_encoding(octets: bytes) -> bytes:
    return re.sub(rb"Content-Transfer-Encoding:.*?\r\n", b"", octets, count=1)


@given(messages(), forms)
def test_every_message_fits_then_and_decodes_to_the_same(message: bytes, form: BodyForm) -> None:
    converted = convert(message, form)
    assert fits(converted, form)
    before, after = message_from_bytes(message), message_from_bytes(converted)
    assert [part.get_content_type() for part in before.walk()] == [part.get_content_type() for part in after.walk()]
    assert leaves(before) == leaves(after)
    assert convert(converted, form) is converted


@given(messages(), forms)
def test_what_fits_stays_octet_for_octet(message: bytes, form: BodyForm) -> None:
    converted = convert(message, form)
    if fits(message, form) and b"BINARY" not in message:
        assert converted is message
    before, after = segments(message), segments(converted)
    assert len(before) == len(after)
    for was, now in zip(before, after, strict=True):
        if fits(was, form):
            assert without_encoding(was) == without_encoding(now)
        else:
            header, changed = was.partition(b"\r\n\r\n")[0], now.partition(b"\r\n\r\n")[0]
            assert without_encoding(header + b"\r\n") == without_encoding(changed + b"\r\n")


@given(messages(), st.data(), forms)
def test_whatever_is_broken_is_converted_or_named(message: bytes, data: st.DataObject, form: BodyForm) -> None:
    start = data.draw(st.integers(0, len(message)))
    end = data.draw(st.integers(start, min(len(message), start + 20)))
    message = message[:start] + data.draw(st.binary(max_size=8)) + message[end:]
    try:
        converted = convert(message, form)
    except ConversionFailed:
        return
    assert fits(converted, form)


@given(
    st.lists(st.one_of(st.sampled_from([*ENDS, *ATOMS]), st.integers(990, 1002).map(lambda n: b"x" * n))),
    st.lists(st.integers(0, 5000)),
)
@example([b"x" * 998, b"\r\n", b"x" * 998], [998, 999, 1000])
@example([b"x" * 999], [500])
def test_a_body_is_measured_alike_in_any_division(pieces: list[bytes], cuts: list[int]) -> None:
    octets = b"".join(pieces)
    measure = BodyMeasure()
    previous = 0
    for cut in [*sorted(cuts), len(octets)]:
        measure.feed(octets[previous:cut])
        previous = max(previous, cut)
    lines = re.split(rb"\r\n|\r|\n", octets)
    expected = BodyFacts(size=7, eight_bit=not octets.isascii(), long_lines=any(len(line) > 998 for line in lines))
    assert measure.facts(BodyFacts(size=7)) == expected
