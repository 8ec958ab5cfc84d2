"""The grammar of RFC 5321: what is taken, and what is refused with a rule that is named.

What lives here: addresses, names, reply lines, status codes, xtext, base64. What does not: dialogue.
"""

from __future__ import annotations

import pytest
from hypothesis import given
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
from smtpcore._grammar import (
    decode_base64,
    decode_utf8_address,
    decode_xtext,
    encode_utf8_address,
    encode_xtext,
    enhanced_status,
    parse_reply_line,
)

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
    "ä@b.example",
    "用户@例え.テスト",
    "a@bücher.example",
    '"zwei wörter"@b.example',
    "a\u200cb@b.example",
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
    "a\x85@b.example",
    "a\u2028@b.example",
    "a\ud800@b.example",
    "a@b\x9f.example",
    "a@" + ".".join(["ü" * 60] * 3),
    "a@[IPv6:::١]",
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
        check_mailbox(b"a@b.example")  # type: ignore[arg-type]  # a wrong kind, on purpose


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
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    assert text.encode().decode() == text
    assert not set(outside_quotes) & set(' <>()",;')


@pytest.mark.parametrize("name", ["a.example", "localhost", "[127.0.0.1]", "[IPv6:::1]", "123.example"])
def test_a_host_name_is_a_domain_or_a_literal(name: str) -> None:
    check_host_name(name)


@pytest.mark.parametrize(
    "name", ["", "a b", "a.example\r\nRSET", "a_b.example", "[1]", "127.0.0.1:25", "x" * 256, "bücher.example"]
)
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
        (550, "5.01.1 x", None),
        (550, "5.1.00", None),
        (550, "5.0.0 x", "5.0.0"),
        (550, "5.100.10", "5.100.10"),
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
    # Not a must, but Exim refuses a parameter with a single one.
    assert encode_xtext('a"b') == "a+22b"
    assert decode_xtext('a"b') == 'a"b'
    assert decode_xtext("a+2Bb+3Dc+20d") == "a+b=c d"
    for broken in ("a+ZZ", "a+2b", "a b", "+2"):
        with pytest.raises(LocalProtocolError):
            decode_xtext(broken)
    with pytest.raises(LocalProtocolError):
        encode_xtext("ä")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_utf8_addresses_come_back(text: str) -> None:
    encoded = encode_utf8_address(text)
    assert decode_utf8_address(encoded) == text
    assert all("!" <= character <= "~" and character not in "+=" for character in encoded)


def test_utf8_addresses_are_written_as_the_rfc_has_them() -> None:
    assert encode_utf8_address("a+b=c\\d") == "a\\x{2B}b\\x{3D}c\\x{5C}d"
    assert encode_utf8_address("ü€😀") == "\\x{FC}\\x{20AC}\\x{1F600}"
    for broken in ("ü", "a b", "a+b", "a=b", "a\\b", "\\x{}", "\\x{fc}", "\\x{FC", "\\x{D800}", "\\x{110000}"):
        with pytest.raises(LocalProtocolError):
            decode_utf8_address(broken)


@pytest.mark.parametrize("text", ["a", "YQ=", "YQ==\n", "Y Q==", "YQ==YQ==", "ä", "!!!!"])
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_base64(text)


@given(st.binary(max_size=50))
def test_base64_comes_back(octets: bytes) -> None:
    import base64

    assert decode_base64(base64.b64encode(octets).decode()) == octets
