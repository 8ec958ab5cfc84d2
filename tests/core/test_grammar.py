"""The grammar of RFC 5321: what is taken, and what is refused with a rule that is named.

What lives here: addresses, names, reply lines, status codes, xtext, base64. What does not: dialogue.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import (
    LocalProtocolError,
    RemoteProtocolError,
    check_forward_path,
    check_host_name,
    check_mailbox,
    check_reverse_path,
    domain_of,
    printable,
)
from smtpcore._grammar import decode_base64, decode_xtext, encode_xtext, enhanced_status, parse_reply_line

LEGAL = [
    "a@b.example",
    "first.last+tag@sub.domain.example",
    "!#$%&'*+-/=?^_`{|}~@x.example",
    '"quoted string"@x.example',
    '"with \\" and \\\\"@x.example',
    '"@"@x.example',
    '""@x.example',
    "a@[127.0.0.1]",
    "a@[IPv6:::1]",
    "a@[ipv6:2001:db8::1]",
    "a@[tag:content]",
    "a@localhost",
    "a@1.example",
    "a@x--y.example",
    "x" * 64 + "@b.example",
    "bounces+" + "x" * 100 + "@b.example",
]

ILLEGAL = [
    "",
    "a",
    "@b.example",
    "a@",
    "a@b@c.example",
    "a b@c.example",
    ".a@b.example",
    "a.@b.example",
    "a..b@c.example",
    "a@b..example",
    "a@-b.example",
    "a@b-.example",
    "a@b_c.example",
    "a@b.example.",
    "a@" + "x" * 64 + ".example",
    "a@" + ".".join(["x" * 60] * 5),
    "<a@b.example>",
    "A <a@b.example>",
    "a@b.example, c@d.example",
    "a@b.example)c@d.example",
    "a@b.example>\r\nRCPT TO:<evil@x.example",
    "a@b.example\r\nRSET",
    "a@b.example\n",
    "a\0@b.example",
    "a\t@b.example",
    '"a\n"@b.example',
    '"unclosed@b.example',
    '"inner " quote"@b.example',
    "a@[127.0.0.256]",
    "a@[1.2.3]",
    "a@[IPv6:xyz]",
    "a@[IPv6:fe80::1%eth0]",
    "a@[]",
    "a@[tag:with space]",
    "ä@b.example",
    "a@bücher.example",
    "a@b.example BODY=BINARYMIME",
    "a@b.example> SIZE=1",
]


@pytest.mark.parametrize("mailbox", LEGAL)
def test_a_legal_mailbox_is_taken_as_it_is(mailbox: str) -> None:
    check_mailbox(mailbox)
    check_reverse_path(mailbox)
    check_forward_path(mailbox)


@pytest.mark.parametrize("mailbox", ILLEGAL)
def test_an_illegal_mailbox_is_refused_and_named(mailbox: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_mailbox(mailbox)
    assert caught.value.value == mailbox
    assert caught.value.rule
    with pytest.raises(LocalProtocolError):
        check_forward_path(mailbox)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="must be a str"):
        check_mailbox(b"a@b.example")  # type: ignore[arg-type]


def test_the_null_reverse_path_and_postmaster_stand_alone() -> None:
    check_reverse_path("")
    check_forward_path("Postmaster")
    with pytest.raises(LocalProtocolError):
        check_forward_path("")
    with pytest.raises(LocalProtocolError):
        check_reverse_path("Postmaster")


@given(st.text(max_size=40))
def test_nothing_that_is_taken_can_end_a_line_or_a_path(text: str) -> None:
    try:
        check_mailbox(text)
    except LocalProtocolError:
        return
    outside_quotes = text.rpartition("@")[2] if text.startswith('"') else text
    assert text.isascii()
    assert not any(octet < 32 or octet == 127 for octet in text.encode())
    assert not set(outside_quotes) & set(' <>()",;')


@pytest.mark.parametrize("name", ["a.example", "localhost", "[127.0.0.1]", "[IPv6:::1]", "123.example"])
def test_a_host_name_is_a_domain_or_a_literal(name: str) -> None:
    check_host_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a.example\r\nRSET", "a_b.example", "[1]", "127.0.0.1:25", "x" * 256])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        check_host_name(name)


def test_domains_are_compared_without_case() -> None:
    assert domain_of('"a@b"@X.Example') == "x.example"
    assert domain_of("Postmaster") == domain_of("") == ""


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        (b"250 ok", (250, True, "ok")),
        (b"250-ok", (250, False, "ok")),
        (b"250", (250, True, "")),
        (b"250 ", (250, True, "")),
        (b"250-", (250, False, "")),
        (b"599 x", (599, True, "x")),
        ("250 grüß".encode(), (250, True, "grüß")),
        (b"250 \xff\xfe", (250, True, "\\xff\\xfe")),
        (b"250 \x1b[31mred", (250, True, "\\x1b[31mred")),
        ("250 a\u202eb".encode(), (250, True, "a\\u202eb")),
        (b"250 a\tb", (250, True, "a\tb")),
    ],
)
def test_reply_lines(line: bytes, parsed: tuple[int, bool, str]) -> None:
    assert parse_reply_line(line) == parsed


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"2",
        b"25",
        b"250ok",
        b"+22 x",
        b"2_5 ok",
        b" 250 ok",
        b"000220 hi",
        b"199 x",
        b"600 x",
        b"25a x",
        b"250 a\rb",
        b"250 a\x00b",
        b"250 a\nb",
        "２５０ ok".encode(),
        b"\xb2\xb5\xb0 ok",
        b"-12 ok",
    ],
)
def test_illegal_reply_lines(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_reply_line(line)


@given(st.binary(max_size=60))
def test_whatever_a_peer_says_can_be_shown(octets: bytes) -> None:
    try:
        _, _, text = parse_reply_line(b"250 " + octets)
    except RemoteProtocolError:
        return
    assert text.replace("\t", "").isprintable()


def test_printable_leaves_what_can_be_shown() -> None:
    assert printable("a\tb grüß\x07\x7f") == "a\tb grüß\\x07\\x7f"


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        (550, "5.1.1 no", "5.1.1"),
        (250, "2.0.0", "2.0.0"),
        (550, "4.1.1 of another class", None),
        (550, "5.1.1no", None),
        (550, "see 5.1.1", None),
        (550, "5.1234.1 x", None),
        (250, "", None),
    ],
)
def test_enhanced_status_codes(code: int, text: str, status: str | None) -> None:
    assert enhanced_status(code, text) == status


@given(st.text(st.characters(max_codepoint=127)))
def test_xtext_comes_back(text: str) -> None:
    encoded = encode_xtext(text)
    assert decode_xtext(encoded) == text
    assert not set(encoded) & set(" =\r\n")


def test_xtext_encodes_what_must_be() -> None:
    assert encode_xtext("a+b=c d") == "a+2Bb+3Dc+20d"
    for broken in ("a+ZZ", "a+2b", "a b", "+2"):
        with pytest.raises(LocalProtocolError):
            decode_xtext(broken)
    with pytest.raises(LocalProtocolError):
        encode_xtext("ä")


@pytest.mark.parametrize(
    "text",
    ["a", "YQ=", "YQ==\n", "Y Q==", "YQ==YQ==", "ä", "!!!!", "=", "====", "A===", "YQ", "YWI", "YW=I", "-_-_", "*"],
)
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_base64(text)


@given(st.binary(max_size=50))
def test_base64_comes_back(octets: bytes) -> None:
    assert decode_base64(base64.b64encode(octets).decode()) == octets


@given(st.text("Yab1+/= \n-_", max_size=12) | st.text(max_size=8))
def test_base64_is_what_the_rfc_draws(text: str) -> None:
    group = "[A-Za-z0-9+/]"
    whole = re.fullmatch(rf"(?:{group}{{4}})*(?:{group}{{2}}==|{group}{{3}}=)?", text)
    try:
        octets = decode_base64(text)
    except RemoteProtocolError:
        assert not whole
    else:
        assert whole
        assert len(octets) == len(text) // 4 * 3 - text.count("=")


# --- a second reader of addresses, character by character, as §4.1.2 draws them ---------------------------------------

LETTERS = string.ascii_letters + string.digits
ATEXT = LETTERS + "!#$%&'*+-/=?^_`{|}~"


def is_quoted(text: str) -> bool:
    if len(text) < 2 or text[0] != '"':
        return False
    position = 1
    while position < len(text):
        character = text[position]
        if character == '"':
            return position == len(text) - 1
        if character == "\\":
            position += 1
            if position == len(text):
                return False
            character = text[position]
        if not " " <= character <= "~":
            return False
        position += 1
    return False


def is_local_part(text: str) -> bool:
    return is_quoted(text) or all(atom and set(atom) <= set(ATEXT) for atom in text.split("."))


def is_domain(text: str) -> bool:
    return len(text) <= 255 and all(
        0 < len(label) <= 63 and set(label) <= {*LETTERS, "-"} and label[0] != "-" and label[-1] != "-"
        for label in text.split(".")
    )


def is_mailbox(text: str) -> bool:
    return any(is_local_part(text[:at]) and is_domain(text[at + 1 :]) for at in range(len(text)) if text[at] == "@")


LOCAL_PART = st.text("ab.+_!", max_size=6) | st.text('a"\\@ .\x7f', max_size=6).map(lambda text: f'"{text}"')
DOMAIN = st.text("ab1.-", max_size=8) | st.text("a_ @é", max_size=4)


@settings(max_examples=300)
@given(st.one_of(st.builds("{}@{}".format, LOCAL_PART, DOMAIN), st.text('a@."\\ -[]<>\r\n\0é', max_size=8)))
def test_two_readers_agree_on_every_mailbox(text: str) -> None:
    try:
        check_mailbox(text)
    except LocalProtocolError as error:
        assert not is_mailbox(text)
        assert error.value == text
    else:
        assert is_mailbox(text)


@given(st.ip_addresses())
def test_every_address_has_a_literal(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    check_host_name(f"[{address}]" if address.version == 4 else f"[IPv6:{address}]")
    check_mailbox(f"a@[{address}]" if address.version == 4 else f"a@[IPv6:{address.exploded}]")
    with pytest.raises(LocalProtocolError):
        check_host_name(f"[IPv6:{address}]" if address.version == 4 else f"[IPv6:{address}%1]")


@pytest.mark.parametrize(
    "literal",
    ["[", "]", "[]", "[1.2.3.4", "1.2.3.4]", "[01.2.3.4]", "[1.2.3.4/8]", "[IPv6:]", "[IPv6:::1/64]", "[IPv6:1.2.3.4]"]
    + ["[IPv6 ::1]", "[tag-:x]", "[:x]", "[tag:]", "[tag:[x]", "[tag:x]]", "[tag:\\x]", "[tag:x y]", "[1.2.3.4]\n"],
)
def test_what_is_no_literal_is_refused(literal: str) -> None:
    for check, text in ((check_host_name, literal), (check_mailbox, f"a@{literal}")):
        with pytest.raises(LocalProtocolError) as caught:
            check(text)
        assert caught.value.value == text


@pytest.mark.parametrize("form", ["{}", "[tag:{}]"])
def test_a_domain_and_a_literal_have_255_octets_and_no_more(form: str) -> None:
    room = 255 - len(form.format(""))
    name = ".".join(["x" * 49] * 10)[:room]
    check_host_name(form.format(name))
    check_mailbox("a@" + form.format(name))
    for check, text in ((check_host_name, form.format(name + "x")), (check_mailbox, "a@" + form.format(name + "x"))):
        with pytest.raises(LocalProtocolError, match="255 octets") as caught:
            check(text)
        assert caught.value.value == text


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\r\n", "\x1b", "\x7f", "\x85", "\u2028", "\uff20", "\ud800"])
def test_no_control_and_nothing_beyond_ascii_gets_in_anywhere(character: str) -> None:
    places = [
        f"{character}a@b.example",
        f"a{character}@b.example",
        f'"a{character}"@b.example',
        f'"\\{character}"@b.example',
    ]
    places += [
        f"a@b{character}.example",
        f"a@b.example{character}",
        f"a@[{character}127.0.0.1]",
        f"a@[tag:x{character}]",
    ]
    for mailbox in places:
        for check in (check_mailbox, check_forward_path, check_reverse_path):
            with pytest.raises(LocalProtocolError) as caught:
                check(mailbox)
            assert caught.value.value == mailbox
            # What is shown of it is one line.
            assert str(caught.value).isprintable()
    for name in (f"b{character}.example", f"{character}", f"b.example{character}"):
        with pytest.raises(LocalProtocolError):
            check_host_name(name)


@pytest.mark.parametrize("path", ["Postmaster", "postmaster", "POSTMASTER", "pOsTmAsTeR"])
def test_postmaster_in_any_case(path: str) -> None:
    check_forward_path(path)


@pytest.mark.parametrize(
    "path", ["Postmaster ", "<Postmaster>", "Postmaster\r\n", "Postmasters", "postma\u017fter", "abuse"]
)
def test_nobody_else_stands_without_a_domain(path: str) -> None:
    with pytest.raises(LocalProtocolError):
        check_forward_path(path)


@pytest.mark.parametrize("value", [None, 1, b"Postmaster", ["a@b.example"]])
def test_only_text_is_an_address(value: object) -> None:
    for check in (check_mailbox, check_forward_path, check_reverse_path, check_host_name):
        with pytest.raises(LocalProtocolError, match="must be a str"):
            check(value)  # type: ignore[arg-type]


# --- reply lines ------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.builds(bytes.__add__, st.text("0123456789 -+_a", max_size=5).map(str.encode), st.binary(max_size=6)))
def test_a_reply_line_is_strict_in_structure(line: bytes) -> None:
    legal = re.fullmatch(rb"[2-5][0-9][0-9](?:[ -][^\r\n\0]*)?", line, re.DOTALL)
    try:
        code, last, _ = parse_reply_line(line)
    except RemoteProtocolError as error:
        assert not legal
        assert str(error).isprintable()
    else:
        assert legal
        assert (str(code).encode(), last) == (line[:3], line[3:4] != b"-")


@given(st.text(max_size=30))
def test_what_can_be_shown_stays_and_what_cannot_can_be_told(text: str) -> None:
    shown = printable(text)
    assert shown.replace("\t", "").isprintable()
    assert printable(shown) == shown
    if "\\" not in text:
        assert (
            re.sub(
                r"\\(?:x(..)|u(....)|U(........)|([rn]))",
                lambda found: (
                    {"r": "\r", "n": "\n"}[found[4]] if found[4] else chr(int(found[1] or found[2] or found[3], 16))
                ),
                shown,
            )
            == text
        )


@pytest.mark.parametrize(
    "character", ["\x07", "\x1b", "\x7f", "\x80", "\x9b", "\u200e", "\u202e", "\u2066", "\ufeff", "\u2028"]
)
def test_nothing_that_steers_a_terminal_is_shown(character: str) -> None:
    _, _, text = parse_reply_line(f"550 a{character}b grüß 例 😀".encode())
    assert character not in text
    assert text == f"a{character.encode('unicode_escape').decode()}b grüß 例 😀"


@pytest.mark.parametrize("code", [200, 421, 550])
@pytest.mark.parametrize(
    "text", ["2.1.5", "4.7.0 x", "5.1.10  x", "2.1", "2.1.5.6 x", "6.1.1 x", "3.1.1 x", " 2.1.5 x", "٢.1.5"]
)
def test_an_enhanced_code_is_of_the_class_of_its_reply(code: int, text: str) -> None:
    words = text.split(" ")
    legal = re.fullmatch(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", words[0]) and words[0][0] == str(code)[0]
    assert enhanced_status(code, text) == (words[0] if legal else None)
