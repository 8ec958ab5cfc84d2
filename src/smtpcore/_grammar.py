"""The grammar of RFC 5321 and 6531: addresses, domains, reply lines, enhanced status codes, xtext.

What lives here: pure functions from text to its parts. Text of the caller's that breaks a rule is a
``LocalProtocolError`` that names value and rule; text of the peer's is a ``RemoteProtocolError``. Nothing is repaired.
What does not: what a value means for the dialogue.

The productions (RFC 5321 §4.1.2, §4.1.3)::

    Mailbox        = Local-part "@" ( Domain / address-literal )
    Local-part     = Dot-string / Quoted-string
    Dot-string     = Atom *("." Atom)
    Quoted-string  = DQUOTE *( qtextSMTP / quoted-pairSMTP ) DQUOTE
    Domain         = sub-domain *("." sub-domain)
    sub-domain     = Let-dig [Ldh-str]
    address-literal = "[" ( IPv4 / "IPv6:" IPv6 / tag ":" 1*dcontent ) "]"

In a mailbox, atoms, quoted strings and sub-domains may hold characters beyond ASCII as well (RFC 6531 §3.3).
"""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import re
from typing import Final

from smtpcore._errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "check_forward_path",
    "check_host_name",
    "check_mailbox",
    "check_reverse_path",
    "decode_base64",
    "decode_utf8_address",
    "decode_xtext",
    "domain_of",
    "encode_utf8_address",
    "encode_utf8_original",
    "encode_xtext",
    "enhanced_status",
    "parse_reply_line",
    "printable",
]

#: Everything beyond ASCII but controls, line and paragraph separators and lone surrogates.
_BEYOND: Final = "\xa0-\u2027\u202a-\ud7ff\ue000-\U0010ffff"
_ATEXT: Final = rf"[A-Za-z0-9!#$%&'*+\-/=?^_`{{|}}~{_BEYOND}]+"
_DOT_STRING: Final = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_QUOTED_STRING: Final = re.compile(rf'"(?:[\x20\x21\x23-\x5b\x5d-\x7e{_BEYOND}]|\\[\x20-\x7e])*"')
_LET_DIG: Final = f"A-Za-z0-9{_BEYOND}"
_SUB_DOMAIN: Final = f"[{_LET_DIG}](?:[{_LET_DIG}-]{{0,61}}[{_LET_DIG}])?"
_DOMAIN: Final = re.compile(rf"{_SUB_DOMAIN}(?:\.{_SUB_DOMAIN})*")
_NOT_ALLOWED: Final = re.compile(f"[^ -~{_BEYOND}]")
_GENERAL_LITERAL: Final = re.compile(r"[A-Za-z0-9-]*[A-Za-z0-9]:[\x21-\x5a\x5e-\x7e]+")
#: Without leading zeros: reports say it on, and there they are forbidden (RFC 3464 §2.3.4).
_ENHANCED: Final = re.compile(r"([245](?:\.(?:0|[1-9][0-9]{0,2})){2})(?: |$)")
#: A quotation mark need not be encoded and may be: Exim takes it for the beginning of a quoted string.
_XTEXT_ENCODED: Final = re.compile(r"[^\x21\x23-\x2a\x2c-\x3c\x3e-\x7e]")
_UTF8_ADDRESS_ENCODED: Final = re.compile(r"[^!-*,-<>-\[\]-~]")
_UNITEXT_ENCODED: Final = re.compile(rf"[^!-*,-<>-\[\]-~{_BEYOND}]")
_UTF8_ADDRESS: Final = re.compile(r"(?:[!-*,-<>-\[\]-~]|\\x\{[0-9A-F]{2,6}\})*")
_XTEXT: Final = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")

_DOMAIN_OCTETS: Final = 255


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise LocalProtocolError("an address or a host name must be a str", value)


def _check_characters(value: str) -> None:
    if not (value.isascii() and value.isprintable()) and _NOT_ALLOWED.search(value):
        raise LocalProtocolError("control characters (CR, LF, NUL, ...) are not allowed", value)


def _check_literal(literal: str, value: str) -> None:
    """``address-literal`` of §4.1.3, given with its brackets."""
    inside = literal[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            if "%" in inside:
                raise LocalProtocolError("an address literal has no scope (RFC 5321 §4.1.3)", value)
            ipaddress.IPv6Address(inside[5:])
        elif not _GENERAL_LITERAL.fullmatch(inside):
            ipaddress.IPv4Address(inside)
    except ValueError:
        raise LocalProtocolError("not a valid address literal (RFC 5321 §4.1.3)", value) from None


def check_host_name(name: str) -> None:
    """Check a ``Domain`` or an ``address-literal``, as EHLO takes it: in ASCII."""
    _check_text(name)
    _check_characters(name)
    if not name.isascii():
        raise LocalProtocolError("a host name is in ASCII: give the A-labels (RFC 5890 §2.3.2.1)", name)
    _check_domain(name, name)


def _check_domain(name: str, value: str) -> None:
    """Check the right side of a mailbox; ``value`` is what an error names."""
    octets = len(name) if name.isascii() else len(name.encode("utf-8"))
    if octets > _DOMAIN_OCTETS:
        raise LocalProtocolError("a domain or address literal has at most 255 octets (RFC 5321 §4.5.3.1.2)", value)
    if name[:1] == "[" and name[-1:] == "]":
        _check_literal(name, value)
    elif not _DOMAIN.fullmatch(name):
        raise LocalProtocolError(f"{name!r} is not a domain or address literal (RFC 5321 §4.1.2)", value)


def check_mailbox(mailbox: str) -> None:
    """Check a ``Mailbox``; one with characters beyond ASCII needs a peer that offers SMTPUTF8 (RFC 6531 §3.3).

    The 64 octets of §4.5.3.1.1 are not enforced on the local part: return paths that encode the recipient exceed them
    everywhere, and the RFC asks for no limits where none are needed. The whole path is bounded by ``Limits.path``.
    """
    _check_text(mailbox)
    _check_mailbox(mailbox)


@functools.lru_cache(maxsize=1024)
def _check_mailbox(mailbox: str) -> None:
    # The same senders and recipients come again and again.
    _check_characters(mailbox)
    local_part, at, domain = mailbox.rpartition("@")
    if not at:
        raise LocalProtocolError("a mailbox is local-part@domain (RFC 5321 §4.1.2)", mailbox)
    if not (_DOT_STRING.fullmatch(local_part) or _QUOTED_STRING.fullmatch(local_part)):
        raise LocalProtocolError(
            f"local part {local_part!r} is neither a dot-string nor a quoted string (RFC 5321 §4.1.2)",
            mailbox,
        )
    _check_domain(domain, mailbox)


def check_reverse_path(path: str) -> None:
    """Check what stands in ``MAIL FROM:<...>``: a mailbox, or nothing (the null reverse-path, §4.5.5)."""
    if path != "":
        check_mailbox(path)


def check_forward_path(path: str) -> None:
    """Check what stands in ``RCPT TO:<...>``: a mailbox, or ``Postmaster`` without a domain (§4.1.1.3)."""
    if not (isinstance(path, str) and path.lower() == "postmaster"):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        check_mailbox(path)


def domain_of(path: str) -> str:
    """The domain of a checked mailbox in lower case; empty for ``Postmaster`` and the null reverse-path."""
    return path.rpartition("@")[2].lower() if "@" in path else ""


def parse_reply_line(line: bytes) -> tuple[int, bool, str]:
    """``(code, whether it is the last line, text)`` of one reply line without its CRLF (RFC 5321 §4.2).

    Strict about structure: three digits of which the first is 2 to 5, then nothing, a space or a hyphen. Liberal about
    text: octets that are not UTF-8 and characters that are not printable come out as backslash escapes, so that what a
    peer says can be shown on any terminal.
    """
    code, mark = line[:3], line[3:4]
    if not (code.isdigit() and len(code) == 3 and 0x32 <= code[0] <= 0x35 and mark in (b"", b" ", b"-")):
        raise RemoteProtocolError(f"not a reply line: {line[:80]!r}")
    if b"\r" in line or b"\n" in line or b"\0" in line:
        raise RemoteProtocolError(f"bare CR, bare LF or NUL in a reply line: {line[:80]!r}")
    text = line[4:].decode("utf-8", "backslashreplace")
    return int(code), mark != b"-", text if text.isprintable() else printable(text)


def printable(text: str) -> str:
    """``text`` with every character that is not printable (but for tab) as a backslash escape."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def enhanced_status(code: int, text: str) -> str | None:
    """The enhanced status code that begins ``text``, such as ``5.1.1``, if its class fits ``code`` (RFC 2034 §4)."""
    found = _ENHANCED.match(text)
    return found[1] if found and int(text[0]) == code // 100 else None


def encode_xtext(text: str) -> str:
    """``xtext`` of RFC 3461 §4: ``+``, ``=``, ``"`` and everything outside printable ASCII as ``+XX``."""
    if not text.isascii():
        raise LocalProtocolError("xtext holds ASCII only (RFC 3461 §4)", text)
    return _XTEXT_ENCODED.sub(lambda found: f"+{ord(found[0]):02X}", text)


def decode_xtext(text: str) -> str:
    """The inverse of :func:`encode_xtext`."""
    if not _XTEXT.fullmatch(text):
        raise LocalProtocolError("not xtext (RFC 3461 §4)", text)
    return re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)


def encode_utf8_address(text: str) -> str:
    r"""``utf-8-addr-xtext`` of RFC 6533 §3: ``\``, ``+``, ``=`` and all but printable ASCII as ``\x{HEX}``."""
    return _UTF8_ADDRESS_ENCODED.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", text)


def encode_utf8_original(text: str) -> str:
    r"""``utf-8-addr-unitext`` of RFC 6533 §3: as :func:`encode_utf8_address`, and what is beyond ASCII as it is."""
    return _UNITEXT_ENCODED.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", text)


def decode_utf8_address(text: str) -> str:
    """The inverse of :func:`encode_utf8_address`; code points that are no characters are refused."""
    if _UTF8_ADDRESS.fullmatch(text):
        points = [int(found, 16) for found in re.findall(r"\\x\{([0-9A-F]+)\}", text)]
        if all(point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF for point in points):
            return re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: chr(int(found[1], 16)), text)
    raise LocalProtocolError("not utf-8-addr-xtext (RFC 6533 §3)", text)


def decode_base64(text: str) -> bytes:
    """The octets of a challenge (RFC 4954 §4), strictly: garbage and missing padding are errors.

    Raises ``RemoteProtocolError``.
    """
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise RemoteProtocolError("a challenge that is not base64") from None
