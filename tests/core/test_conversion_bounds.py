"""Conversion of messages that strangers wrote: headers that can be read in two ways, and messages without measure.

What lives here: what hides from a careless reader, the bounds of what is read, and the memory it takes. What does not:
what becomes of a message that is as it should be (``test_conversion.py``).
"""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import Callable
from email import message_from_bytes
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpcore import BodyForm, ConversionFailed, LocalProtocolError
from smtpcore.mime import convert

from .examples import examples

SEVEN_BIT = BodyForm(long_lines=True)
SHORT = BodyForm(eight_bit=True)
STRICT = BodyForm()

EIGHT_BIT_PART = b"--b\r\n\r\n\xff\r\n--b--\r\n"
ENCODED_PART = b"--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=FF\r\n--b--\r\n"


def mime(*lines: bytes, body: bytes = EIGHT_BIT_PART) -> bytes:
    return b"".join(line + b"\r\n" for line in (b"MIME-Version: 1.0", *lines, b"")) + body


def why(message: bytes, form: BodyForm = SEVEN_BIT) -> str:
    with pytest.raises(ConversionFailed) as caught:
        convert(message, form)
    return caught.value.why


# --- headers that can be read in two ways -----------------------------------------------------------------------------

SIGNED = "it is signed (multipart/signed), and would not be as it was signed"


@pytest.mark.parametrize(
    "lines",
    [
        (b"Subject : hi", b"Content-Type: multipart/signed; boundary=b"),
        (b"Content-Type : multipart/signed; boundary=b",),
        (b"Content-Type: multipart/signed (as it was); boundary=b",),
        (b"Content-Type: (as (it\\)) was) multipart/signed; boundary=b",),
        (b"Content-Type: multipart (it's \"signed) / (x)signed ; boundary=b",),
        (b"Content-Type:\r\n\tmultipart/\r\n signed\r\n ;boundary=b",),
    ],
)
def test_nothing_hides_a_signature(lines: tuple[bytes, ...]) -> None:
    assert why(mime(*lines)) == SIGNED


@pytest.mark.parametrize(
    "value",
    [b"", b"multipart", b"/", b"multipart/signed boundary=b", b"multi(x)part/signed; boundary=b", b"(multipart/signed",
     b"\"multipart\"/signed; boundary=b", b"multipart/signed/x; boundary=b", b"multipart/\xff", b"(\\"],
)  # fmt: skip
def test_a_type_that_is_none_is_not_taken_for_text(value: bytes) -> None:
    assert why(mime(b"Content-Type: " + value, body=b"\xff" * 1000), SHORT) == "its Content-Type cannot be read"


@pytest.mark.parametrize(
    "parameters",
    [
        b"boundary=b",
        b"; ;charset=x; nothing; BOUNDARY = b ;",
        b'boundary="b"',
        b'boundary="\\b"',
        b'boundary="b "',
        b'name="; boundary=c; \\"x"; boundary=b',
        b'name=f(1).pdf; boundary=b (as "it (was")',
        b"name*0=x; name*0=y; boundary=b",
        b"boundary*=us-ascii''%62",
        b"boundary*=us-ascii'en'b",
        b'boundary*1=""; boundary*0=b',
        b"boundary*1*=; boundary*0*=''%62",
    ],
)
def test_boundaries_however_they_are_written(parameters: bytes) -> None:
    field = b"Content-Type: multipart/mixed; " + parameters
    assert convert(mime(field), SEVEN_BIT) == mime(field, body=ENCODED_PART)


@pytest.mark.parametrize(
    "parameters",
    [
        b"boundary=c; boundary=b",
        b"boundary=b; boundary*=''b",
        b"boundary*0=b; boundary*0*=''b",
        b"boundary*1=b",
        b"boundary*0=b; boundary*2=c",
        b"boundary*=b",
        b"boundary*='b",
        b'boundary="b',
        b'boundary="b"b',
        b'boundary=b"b"',
        b'"boundary"=b',
    ],
)
def test_boundaries_that_could_be_two_are_none(parameters: bytes) -> None:
    assert why(mime(b"Content-Type: multipart/mixed; " + parameters)) == "its Content-Type cannot be read"


@pytest.mark.parametrize("parameters", [b"name=f(1.pdf; boundary=b", b'name=("; boundary=b', b"charset=b"])
def test_a_comment_that_is_not_closed_hides_a_boundary(parameters: bytes) -> None:
    assert why(mime(b"Content-Type: multipart/mixed; " + parameters)) == "multipart/mixed has no boundary"


def test_parameters_of_text_are_in_nobodys_way() -> None:
    field = b'Content-Type: text/plain; charset=x; charset=y; name="a(; name=x'
    converted = convert(mime(field, body=b"\xff\r\n"), SEVEN_BIT)
    assert converted == mime(field, b"Content-Transfer-Encoding: quoted-printable", body=b"=FF\r\n")


def test_a_part_of_nothing_but_white_space_stands_for_nothing() -> None:
    message = mime(b"Content-Transfer-Encoding: base64", body=b" " * 999)
    assert convert(message, SHORT) == mime(b"Content-Transfer-Encoding: base64", body=b"")


def test_a_comment_does_not_hide_an_encoding() -> None:
    coded = base64.b64encode(b"x" * 900)
    message = mime(b"Content-Transfer-Encoding: (as (it)) base64 (was)", body=coded)
    assert convert(message, SHORT).endswith(b"\r\n\r\n" + base64.encodebytes(b"x" * 900).replace(b"\n", b"\r\n")[:-2])


def test_errors_show_words_of_the_message_only_as_far_as_they_can_be_shown() -> None:
    assert why(mime(b"Content-Transfer-Encoding: a\x1b[31m\xff", body=b"x" * 999), SHORT) == (
        "it is said to be a\\x1b[31m\\xff, and what it stands for cannot be told"
    )
    long = mime(b"Content-Transfer-Encoding: " + b"x" * 900)
    assert why(long) == f"it is said to be {'x' * 80}..., and what it stands for cannot be told"
    assert why(mime(b"Content-Type: message/" + b"x" * 900)) == f"message/{'x' * 72}... must not be encoded"


@pytest.mark.parametrize(
    ("message", "form"), [("text", STRICT), (None, STRICT), (bytearray(b"x"), STRICT), (b"x", None)]
)
def test_what_is_no_message_is_named(message: Any, form: Any) -> None:
    with pytest.raises(LocalProtocolError, match="must be a Body" if form is None else "must be a bytes"):
        convert(message, form)


# --- what is said of an encoding --------------------------------------------------------------------------------------

BINARY = b"Content-Transfer-Encoding: binary"


@pytest.mark.parametrize(
    ("body", "form", "label"),
    [(b"plain\r\n", STRICT, b"7bit"), (b"\xff\r\n", SHORT, b"8bit"), (b"plain\r\n", SHORT, b"7bit")],
)
def test_a_part_that_is_not_binary_is_not_said_to_be(body: bytes, form: BodyForm, label: bytes) -> None:
    relabelled = b"Content-Transfer-Encoding: " + label
    assert convert(mime(BINARY, body=body), form) == mime(relabelled, body=body)
    kind = b"Content-Type: multipart/mixed; boundary=b"
    for beside in (b"plain", b"x" * 999):
        before = b"--b\r\n%b\r\n\r\n%b--b\r\n\r\n%b\r\n--b--\r\n" % (BINARY, body, beside)
        converted = convert(mime(kind, BINARY, body=before), form)
        assert converted.startswith(mime(kind, relabelled, body=b"--b\r\n%b\r\n\r\n%b--b\r\n" % (relabelled, body)))


@pytest.mark.parametrize(
    "message",
    [
        b"DKIM-Signature: v=1\r\n" + mime(BINARY, body=b"plain\r\n"),
        BINARY + b"\r\n\r\nplain\r\n",
        mime(b"Content-Type: multipart/signed; boundary=b", body=b"--b\r\n" + BINARY + b"\r\n\r\n\r\n--b--\r\n"),
        mime(b"Content-Type: text/plain", body=BINARY + b"\r\n"),
        mime(b"Content-Type: multipart/mixed; boundary=b", BINARY, body=b"plain\r\n"),
        mime(b"Content-Type: multipart/mixed; boundary=b", body=b"--b\r\n\r\n" + BINARY + b"\r\n--b\r\n" + BINARY),
    ],
)
def test_what_fits_and_may_not_be_changed_stays_as_it_is(message: bytes) -> None:
    assert convert(message, STRICT) is message


# --- without measure --------------------------------------------------------------------------------------------------

MANY = 2_000_000


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (mime(b"Content-Type: multipart/mixed; boundary=b" + b";\r\n a=b" * 3000),
         "its header has content-type of more than 16384 octets"),
        (mime(b"Content-Transfer-Encoding: (" + b";\r\n a=b" * 3000),
         "its header has content-transfer-encoding of more than 16384 octets"),
        (mime(b"X:" + b" a\r\n" * 300_000), "its header has more than 1048576 octets"),
        (mime(b"X: a\r\n" * 300_000 + b"X: a"), "its header has more than 1048576 octets"),
        (mime(b"", body=b"x" * MANY), None),
        (b"X" * MANY + b"\xff", "its header has more than 1048576 octets"),
        (mime(b"\xff", body=b"x" * MANY), "its header cannot be read"),
    ],
    ids=["parameters", "comments", "folds", "fields", "body", "one line", "no field"],
)  # fmt: skip
def test_headers_have_a_bound(message: bytes, reason: str | None) -> None:
    if reason is None:
        assert convert(message, STRICT)
    else:
        assert why(message) == reason


@pytest.mark.parametrize("part", [b"--b\r\n\r\nplain\r\n", b"--b\r\n\r\n\xff\r\n"])
def test_parts_have_a_bound(part: bytes) -> None:
    field = b"Content-Type: multipart/mixed; boundary=b"
    assert convert(mime(field, body=part * 9_999 + EIGHT_BIT_PART), SEVEN_BIT)
    assert why(mime(field, body=part * 10_000 + EIGHT_BIT_PART)) == "the message has more than 10000 parts"


def test_a_delimiter_must_fit_as_well() -> None:
    message = mime(
        b"Content-Type: multipart/mixed; boundary=b", body=b"--b" + b" " * 999 + b"\r\n\r\n\xff\r\n--b--\r\n"
    )
    assert why(message, STRICT) == "there are a line over 998 octets outside of its parts"
    assert convert(message, SEVEN_BIT)


def nested(body: bytes, depth: int) -> bytes:
    part = b"Content-Type: application/octet-stream\r\n\r\n" + body
    for level in range(depth):
        delimiter = b"--b%d" % level
        field = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n" % level
        part = b"\r\n".join((field + delimiter, part, delimiter + b"--", b""))
    return b"MIME-Version: 1.0\r\n" + part


LARGE = 2**19
TEXT = b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda: TEXT + b"\r\n" + b"\xff" * LARGE,
        lambda: TEXT + b"\r\n" + b"\xff\r\n" * (LARGE // 3),
        lambda: TEXT + b"\r\n" + b"\r\n" * (LARGE // 2) + b"\xff\r\n",
        lambda: TEXT + b"Content-Transfer-Encoding: base64\r\n\r\n" + b"QUJD" * (LARGE // 4),
        lambda: TEXT + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=3D " * (LARGE // 4),
        lambda: b"MIME-Version: 1.0\r\n\r\n" + b"\0\xff" * (LARGE // 2),
        lambda: nested(b"\xff" * LARGE, 30),
        lambda: b"MIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n" * 30 + TEXT + b"\r\n" + b"\xff" * LARGE,
        lambda: nested(b"", 0) + b"\r\n" + nested(b"\xff" * LARGE, 0),
    ],
    ids=["a line", "lines", "line ends", "base64", "quoted-printable", "binary", "multiparts", "messages", "octets"],
)
def test_memory_is_at_most_five_times_the_message(make: Callable[[], bytes]) -> None:
    message = make()
    tracemalloc.start()
    try:
        convert(message, STRICT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The message itself was there before; beside it there are blocks of fixed size.
    assert peak < 4 * len(message) + 2**19


@given(st.lists(st.sampled_from([b"\xff", b"=", b" ", b"\r\n", b"a", b"."]), max_size=9), st.integers(0, 100))
@settings(max_examples=examples(40))
@example([b"\r\n"], 0)
def test_lines_without_end_are_broken_softly(pieces: list[bytes], before: int) -> None:
    body = b"\xff" * before + b"x" * (14_591 - before) + b"".join(pieces) + b"\xff" * 20_000 + b"".join(pieces)
    message = TEXT + b"\r\n" + body
    converted = convert(message, STRICT)
    assert max(map(len, converted.split(b"\r\n"))) <= 76
    assert message_from_bytes(converted).get_payload(decode=True) == body


@pytest.mark.parametrize("before", range(75))
def test_a_line_is_nowhere_divided_too_late(before: int) -> None:
    body = b"\xff" * before + b"x" * 30_000
    converted = convert(TEXT + b"\r\n" + body, STRICT)
    assert max(map(len, converted.split(b"\r\n"))) <= 76
    assert message_from_bytes(converted).get_payload(decode=True) == body
