"""Messages made fit for peers that take less: parts encoded anew, everything else octet for octet as it was.

What lives here: MIME structure found in the octets (RFC 2045, RFC 2046), and the encoding of the parts that need it.
What does not: the decision when that is due (:mod:`smtpcore._planner`), and anything that ``import smtpcore`` loads.

The generator of the email package writes a message anew, with header fields and boundaries as it likes them. So only
its parser is used here, for the values of fields; the octets are cut at boundaries, and what needs no change is put
together again as it came.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email import policy
from email.message import Message
from email.parser import BytesParser
from email.utils import collapse_rfc2231_value
from typing import Final

from smtpcore._errors import ConversionFailed
from smtpcore._events import BodyForm
from smtpcore._limits import LINE_OCTETS
from smtpcore._measure import last_line

__all__ = ["convert"]

#: How deep parts may lie in parts.
_DEPTH: Final = 50

_NOT_IN_LINES: Final = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:(?:[^\r\n]|\r\n[ \t])*\r\n")
_WHITE: Final = re.compile(rb"[ \t\r\n]+")
_CLEAR_SIGNED: Final = re.compile(rb"^-----BEGIN PGP SIGNED MESSAGE-----[ \t]*\r?$", re.MULTILINE)

_ENCODING: Final = "content-transfer-encoding"
#: Encodings that are none (RFC 2045 §6.2), which alone composite types may have.
_PLAIN: Final = frozenset({"7bit", "8bit", "binary"})
#: Fields that hold a signature of the whole message (RFC 6376, RFC 8617, RFC 4870).
_SIGNATURES: Final = frozenset({"dkim-signature", "arc-message-signature", "domainkey-signature"})
_CRYPTOGRAPHIC: Final = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_MESSAGES: Final = frozenset({"message/rfc822", "message/news"})
#: Types of ``message`` that may be encoded (RFC 6532 §3.7, RFC 6533 §5 and §6).
_ENCODABLE_MESSAGES: Final = frozenset(
    f"message/global{kind}" for kind in ("", "-headers", "-delivery-status", "-disposition-notification")
)

_PARSER: Final = BytesParser(policy=policy.compat32)


def convert(message: bytes, form: BodyForm, *, break_signatures: bool = False) -> bytes:
    """The message in a form that a peer takes: parts that do not fit are encoded anew, text as quoted-printable.

    Only such parts and their Content-Transfer-Encoding change, and that of what encloses them: whoever decodes a part
    finds the octets that were there. A message that fits is returned as it is. Line ends are CRLF; a CR or LF that
    stands alone is an octet of a binary part. ``break_signatures`` allows to change what is signed: its signature then
    verifies no more.

    Raises :class:`ConversionFailed`, which names the part that prevents it: header fields beyond ASCII or too long, a
    signature, what is not MIME, and MIME that contradicts itself.
    """
    return _Conversion(form, break_signatures).message(message, _Place((), 0))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part is: its number as RFC 3501 §6.4.5 counts parts, and how deep it lies."""

    numbers: tuple[int, ...]
    depth: int

    def part(self, number: int) -> _Place:
        return _Place((*self.numbers, number), self.depth + 1)

    @property
    def within(self) -> _Place:
        """The message that is the content of this part."""
        return _Place(self.numbers, self.depth + 1)

    @property
    def name(self) -> str:
        return ".".join(map(str, self.numbers))


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of a part: its octets, the empty line behind it among them, and its fields as the parser sees them."""

    octets: bytes
    fields: Message[str, str]
    #: Names of the fields in lower case, in their order.
    names: Sequence[str]
    #: Where in the octets the value of Content-Transfer-Encoding is; where it would stand, if it is missing.
    span: tuple[int, int]

    @property
    def encoding(self) -> str:
        """The transfer encoding, without comments and in lower case."""
        return re.sub(r"\([^()]*\)", "", str(self.fields.get(_ENCODING, "7bit"))).strip().lower()

    def with_encoding(self, encoding: str) -> bytes:
        """The octets with another transfer encoding."""
        start, end = self.span
        name = b"" if _ENCODING in self.names else b"Content-Transfer-Encoding:"
        return b"%b%b %b\r\n%b" % (self.octets[:start], name, encoding.encode("ascii"), self.octets[end:])


class _Conversion:
    """One message on its way into another form."""

    def __init__(self, form: BodyForm, break_signatures: bool) -> None:
        self._form = form
        self._break_signatures = break_signatures

    # --- what fits --------------------------------------------------------------------------------------------------

    def _misfit(self, octets: bytes) -> str | None:
        """Why octets cannot stay as they are."""
        if not (self._form.eight_bit or octets.isascii()):
            return "octets above 127"
        if not self._form.long_lines and last_line(octets) is None:
            return f"a line over {LINE_OCTETS} octets"
        if _NOT_IN_LINES.search(octets):
            return "octets that are not in lines"
        return None

    def _failed(self, place: _Place, why: str, enhanced: str = "5.6.3") -> ConversionFailed:
        return ConversionFailed(place.name, why, enhanced)

    # --- messages and parts -----------------------------------------------------------------------------------------

    def message(self, octets: bytes, place: _Place) -> bytes:
        """A whole message, or one within a part."""
        if self._misfit(octets) is None:
            return octets
        header, body = self._cut(octets, place)
        if not self._break_signatures and (signatures := _SIGNATURES.intersection(header.names)):
            raise self._failed(place, f"it is signed ({min(signatures)}), and would not be as it was signed", "5.6.2")
        if "mime-version" not in header.names:
            raise self._failed(place, "it is no MIME message: it has no MIME-Version")
        return self._entity(header, body, place, "text/plain")

    def _part(self, octets: bytes, place: _Place, default_type: str) -> bytes:
        if self._misfit(octets) is None:
            return octets
        header, body = self._cut(octets, place)
        return self._entity(header, body, place, default_type)

    def _cut(self, octets: bytes, place: _Place) -> tuple[_Header, bytes]:
        """Header and body; raises if the header cannot be read or does not fit itself."""
        if place.depth > _DEPTH:
            raise self._failed(place, f"it lies in more than {_DEPTH} other parts")
        end = 0
        names: list[str] = []
        span: tuple[int, int] | None = None
        while field := _FIELD.match(octets, end):
            names.append(field[1].decode("ascii").lower())
            if names[-1] == _ENCODING:
                span = (octets.index(b":", field.start()) + 1, field.end())
            end = field.end()
        if octets[end : end + 2] not in (b"\r\n", b""):
            raise self._failed(place, "its header cannot be read")
        header = octets[: end + 2]
        if (why := self._misfit(header)) is not None:
            beyond_ascii = not (self._form.eight_bit or header.isascii())
            raise self._failed(place, f"its header has {why}", "5.6.9" if beyond_ascii else "5.6.3")
        for name in ("content-type", _ENCODING):
            if names.count(name) > 1:
                raise self._failed(place, f"its header has {name} more than once")
        fields = _PARSER.parsebytes(header, headersonly=True)
        return _Header(header, fields, names, span or (end, end)), octets[end + 2 :]

    def _entity(self, header: _Header, body: bytes, place: _Place, default_type: str) -> bytes:
        """A part of which not everything fits; its header does."""
        header.fields.set_default_type(default_type)
        kind = header.fields.get_content_type()
        if not self._break_signatures and self._is_signed(header, body, place, kind):
            raise self._failed(place, f"it is signed ({kind}), and would not be as it was signed", "5.6.2")
        composite = kind.startswith("multipart/") or kind in _MESSAGES
        if not composite:
            if kind.startswith("message/") and kind not in _ENCODABLE_MESSAGES:
                raise self._failed(place, f"{kind} must not be encoded")
            return self._leaf(header, body, place, kind)
        if header.encoding not in _PLAIN:
            raise self._failed(place, f"{kind} must not be encoded, and is said to be {header.encoding}")
        inside = self.message(body, place.within) if kind in _MESSAGES else self._parts(header, body, place, kind)
        return self._enclosing(header, inside) + inside

    def _is_signed(self, header: _Header, body: bytes, place: _Place, kind: str) -> bool:
        """Whether a part is what somebody signed, or holds it (RFC 1847, RFC 8551, RFC 9580 §7)."""
        if kind in _CRYPTOGRAPHIC:
            return (self._parameter(header, place, "smime-type") or "signed-data").lower() == "signed-data"
        return kind == "multipart/signed" or (kind == "text/plain" and _CLEAR_SIGNED.search(body) is not None)

    def _parameter(self, header: _Header, place: _Place, name: str) -> str | None:
        """A parameter of Content-Type (RFC 2045 §5.1, RFC 2231)."""
        try:
            value = header.fields.get_param(name)
            return None if value is None else collapse_rfc2231_value(value).strip()
        except (IndexError, LookupError, TypeError, ValueError):
            # The parser stumbles over some that are divided in no way that makes sense.
            raise self._failed(place, "its Content-Type cannot be read") from None

    def _enclosing(self, header: _Header, inside: bytes) -> bytes:
        """The header of what encloses other parts: its encoding is that of the least of them."""
        if header.encoding == "7bit" or (header.encoding == "8bit" and self._form.eight_bit):
            return header.octets
        return header.with_encoding("7bit" if inside.isascii() else "8bit")

    def _parts(self, header: _Header, body: bytes, place: _Place, kind: str) -> bytes:
        """The parts of a multipart, and what is before, between and behind them."""
        boundary = self._parameter(header, place, "boundary")
        if not boundary:
            raise self._failed(place, f"{kind} has no boundary")
        mark = re.escape(boundary.encode("utf-8", "surrogateescape"))
        pattern = re.compile(rb"(?:\A|\r\n)--%b(--)?[ \t]*(?=\r\n|\Z)" % mark)
        default_type = "message/rfc822" if kind == "multipart/digest" else "text/plain"
        made: list[bytes] = []
        end = number = 0
        closed = False
        for delimiter in pattern.finditer(body):
            made += (self._between(body[end : delimiter.start()], place, number, default_type), delimiter[0])
            end = delimiter.end()
            number += 1
            if closed := delimiter[1] is not None:
                break
        if not number:
            raise self._failed(place, f"the boundary of {kind} is not in it")
        made.append(self._between(body[end:], place, 0 if closed else number, default_type))
        return b"".join(made)

    def _between(self, octets: bytes, place: _Place, number: int, default_type: str) -> bytes:
        """What is between two delimiters: behind the line end of the first a part; with number 0 outside of all."""
        if number:
            return octets[:2] + self._part(octets[2:], place.part(number), default_type)
        if (why := self._misfit(octets)) is not None:
            raise self._failed(place, f"there are {why} outside of its parts")
        return octets

    # --- encoding ---------------------------------------------------------------------------------------------------

    def _leaf(self, header: _Header, body: bytes, place: _Place, kind: str) -> bytes:
        content = self._content(header.encoding, body, place)
        text = kind.startswith("text/") and not _NOT_IN_LINES.search(content)
        if text and header.encoding != "base64":
            return header.with_encoding("quoted-printable") + _quoted_printable(content)
        encoded = _base64(content)
        if not body.endswith(b"\r\n"):
            # The line end before a boundary belongs to the boundary.
            encoded = encoded.removesuffix(b"\r\n")
        return header.with_encoding("base64") + encoded

    def _content(self, encoding: str, body: bytes, place: _Place) -> bytes:
        """The octets that a part stands for."""
        if encoding in _PLAIN:
            return body
        try:
            if encoding == "base64":
                return base64.b64decode(_WHITE.sub(b"", body), validate=True)
            if encoding == "quoted-printable" and body.isascii():
                return quopri.decodestring(body)
        except binascii.Error:
            pass
        raise self._failed(place, f"it is said to be {encoding}, and what it stands for cannot be told")


def _quoted_printable(content: bytes) -> bytes:
    """RFC 2045 §6.7: line ends stay, lines that become too long are broken softly."""
    return b"\r\n".join(map(_quoted_line, content.split(b"\r\n")))


def _quoted_line(line: bytes) -> bytes:
    # Line ends are none of the octets here, so each that comes out is a soft one.
    return binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n")


def _base64(content: bytes) -> bytes:
    return base64.encodebytes(content).replace(b"\n", b"\r\n")
