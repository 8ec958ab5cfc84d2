"""Messages made fit for peers that take less: parts encoded anew, everything else octet for octet as it was.

What lives here: MIME structure found in the octets (RFC 2045, RFC 2046), and the encoding of the parts that need it.
What does not: the decision when that is due (:mod:`smtpcore._planner`), and the values of fields
(:mod:`smtpcore._mime_fields`).

The email package writes a message anew, with header fields and boundaries as it likes them. Here the octets are cut at
boundaries, and what needs no change is copied as it came. Messages are what strangers wrote: parts are places in the
one message and never copies of it, and whatever a message may have many of has a bound.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from smtpcore._errors import ConversionFailed
from smtpcore._events import BodyForm
from smtpcore._grammar import printable
from smtpcore._kinds import check_kind
from smtpcore._limits import LINE_OCTETS
from smtpcore._lines import last_line
from smtpcore._mime_fields import media_type, parameter, without_comments

__all__ = ["convert"]

#: How deep parts may lie in parts, for each level is read once more.
_DEPTH: Final = 30
#: How many parts a message may have.
_PARTS: Final = 10_000
#: Octets of a header.
_HEADER: Final = 2**20
#: Octets of a field whose value is read.
_VALUE: Final = 2**14
#: Octets that are looked at or encoded at a time; what is encoded grows threefold on the way. A multiple of 57 makes
#: lines of base64 that are full.
_BLOCK: Final = 57 * 256
#: Octets of a line of quoted-printable (RFC 2045 §6.7).
_QUOTED_LINE: Final = 76
#: Characters of the message's own words that errors repeat.
_SHOWN: Final = 80

_FIELD: Final = re.compile(rb"([!-9;-~]++)[ \t]*+:((?:[^\r\n]++|\r\n[ \t])*+)\r\n")
_WHITE: Final = b" \t\r\n"
_CLEAR_SIGNED: Final = re.compile(rb"^-----BEGIN PGP SIGNED MESSAGE-----[ \t]*+\r?$", re.MULTILINE)
_SAYS_BINARY: Final = re.compile(rb"^content-transfer-encoding[ \t]*+:[^a-z]*+binary", re.MULTILINE | re.IGNORECASE)

_ENCODING: Final = "content-transfer-encoding"
_TYPE: Final = "content-type"
_VERSION: Final = "mime-version"
#: Encodings that are none (RFC 2045 §6.2), which alone composite types may have.
_PLAIN: Final = frozenset({"7bit", "8bit", "binary"})
#: Fields that hold a signature of the whole message (RFC 6376, RFC 8617, RFC 4870).
_SIGNATURES: Final = frozenset({"dkim-signature", "arc-message-signature", "domainkey-signature"})
_FIELDS: Final = frozenset({_ENCODING, _TYPE, _VERSION, *_SIGNATURES})
_CRYPTOGRAPHIC: Final = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_MESSAGES: Final = frozenset({"message/rfc822", "message/news"})
#: Types of ``message`` that may be encoded (RFC 6532 §3.7, RFC 6533 §5 and §6).
_ENCODABLE_MESSAGES: Final = frozenset(
    f"message/global{kind}" for kind in ("", "-headers", "-delivery-status", "-disposition-notification")
)


def convert(message: bytes, form: BodyForm, *, break_signatures: bool = False) -> bytes:
    """The message in a form that a peer takes: parts that do not fit are encoded anew, text as quoted-printable.

    Only such parts and their Content-Transfer-Encoding change, and that of what encloses them: whoever decodes a part
    finds the octets that were there. A part that is said to be ``binary`` and fits is said to be what it is (RFC 2045
    §6.2). A message that fits is returned as it is. Line ends are CRLF; a CR or LF that stands alone is an octet of a
    binary part. ``break_signatures`` allows to change what is signed: its signature then verifies no more.

    It takes no more memory than five times the octets of the message, itself and what comes out included.

    Raises ``LocalProtocolError`` for a message that is not ``bytes``, and :class:`ConversionFailed`, which names
    the part that prevents it: header fields beyond ASCII or too long, a signature, what is not MIME, and MIME that
    contradicts itself or has no end: more than 10,000 parts, parts that lie in more than 30 others, a header of more
    than 1 MiB.
    """
    check_kind("a message", message, bytes)
    check_kind("the form of a message", form, BodyForm)
    return _Conversion(form, break_signatures).run(message)


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
class _Span:
    """A stretch of octets that are held once."""

    octets: bytes
    start: int
    end: int

    def until(self, end: int) -> _Span:
        return _Span(self.octets, self.start, end)

    def behind(self, start: int) -> _Span:
        return _Span(self.octets, start, self.end)

    @property
    def blocks(self) -> Iterator[bytes]:
        for start in range(self.start, self.end, _BLOCK):
            yield self.octets[start : min(start + _BLOCK, self.end)]

    @property
    def is_ascii(self) -> bool:
        return all(map(bytes.isascii, self.blocks))

    @property
    def has_short_lines(self) -> bool:
        return last_line(self.octets, self.start, self.end) is not None

    @property
    def is_in_lines(self) -> bool:
        """Whether there is neither NUL nor a CR or LF that stands alone."""
        counts = {self.octets.count(end, self.start, self.end) for end in (b"\r\n", b"\r", b"\n")}
        return len(counts) == 1 and self.octets.find(b"\0", self.start, self.end) < 0

    @property
    def ends_with_line_end(self) -> bool:
        return self.octets.endswith(b"\r\n", self.start, self.end)

    def holds(self, pattern: re.Pattern[bytes]) -> bool:
        return pattern.search(self.octets, self.start, self.end) is not None


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of a part, the empty line behind it included."""

    span: _Span
    #: Where the values of the fields are that matter here.
    values: Mapping[str, _Span]
    #: From where to where Content-Transfer-Encoding stands, or would, if it is missing.
    place_of_encoding: tuple[int, int]
    #: The transfer encoding, without comments and in lower case.
    encoding: str
    #: Content-Type without comments; empty if it is missing.
    content_type: bytes
    #: The type it says.
    kind: str


class _Conversion:
    """One message on its way into another form."""

    def __init__(self, form: BodyForm, break_signatures: bool) -> None:
        self._form = form
        self._break_signatures = break_signatures
        self._made = io.BytesIO()
        self._parts_found = 0

    def run(self, message: bytes) -> bytes:
        span = _Span(message, 0, len(message))
        if self._fits(span):
            return message
        self._message(span, _Place((), 0))
        made = self._made.getvalue()
        return message if made == message else made

    # --- what fits --------------------------------------------------------------------------------------------------

    def _misfit(self, span: _Span) -> str | None:
        """Why octets cannot stay as they are."""
        if not (self._form.eight_bit or span.is_ascii):
            return "octets above 127"
        if not (self._form.long_lines or span.has_short_lines):
            return f"a line over {LINE_OCTETS} octets"
        return None if span.is_in_lines else "octets that are not in lines"

    def _fits(self, span: _Span) -> bool:
        """Whether nothing needs to be done, not even with what is said of an encoding."""
        return self._misfit(span) is None and not span.holds(_SAYS_BINARY)

    def _keep(self, span: _Span) -> None:
        """Copy what stays as it is."""
        self._made.writelines(span.blocks)

    def _failed(self, place: _Place, why: str, enhanced: str = "5.6.3") -> ConversionFailed:
        return ConversionFailed(place.name, why, enhanced)

    # --- messages and parts -----------------------------------------------------------------------------------------

    def _message(self, span: _Span, place: _Place) -> None:
        """A whole message, or one within a part."""
        self._entity(span, place, "text/plain", is_message=True)

    def _entity(self, span: _Span, place: _Place, default_type: str, *, is_message: bool) -> None:
        """A message or a part: as it is where it fits, unless only what is said of its encoding does not."""
        if self._fits(span):
            self._keep(span)
            return
        before = self._made.tell()
        try:
            self._convert(span, place, default_type, is_message=is_message)
        except ConversionFailed:
            if self._misfit(span) is not None:
                raise
            self._made.seek(before)
            self._made.truncate()
            self._keep(span)

    def _convert(self, span: _Span, place: _Place, default_type: str, *, is_message: bool) -> None:
        header = self._cut(span, place, default_type)
        if is_message:
            self._check_message(header, place)
        body, kind = span.behind(header.span.end), header.kind
        if not self._break_signatures and self._is_signed(header, body, place):
            raise self._failed(place, f"it is signed ({_shown(kind)}), and would not be as it was signed", "5.6.2")
        if not kind.startswith("multipart/") and kind not in _MESSAGES:
            if kind.startswith("message/") and kind not in _ENCODABLE_MESSAGES:
                raise self._failed(place, f"{_shown(kind)} must not be encoded")
            self._leaf(header, body, place)
            return
        if header.encoding not in _PLAIN:
            said = _shown(header.encoding)
            raise self._failed(place, f"{_shown(kind)} must not be encoded, and is said to be {said}")
        label = self._enclose(header)
        begins = self._made.tell()
        if kind in _MESSAGES:
            self._message(body, place.within)
        else:
            self._parts(header, body, place)
        if label is not None and self._made_ascii_since(begins):
            self._made.seek(label)
            self._made.write(b"7bit")
            self._made.seek(0, io.SEEK_END)

    def _check_message(self, header: _Header, place: _Place) -> None:
        if not self._break_signatures and (signatures := _SIGNATURES.intersection(header.values)):
            raise self._failed(place, f"it is signed ({min(signatures)}), and would not be as it was signed", "5.6.2")
        if _VERSION not in header.values:
            raise self._failed(place, "it is no MIME message: it has no MIME-Version")

    def _is_signed(self, header: _Header, body: _Span, place: _Place) -> bool:
        """Whether a part is what somebody signed, or holds it (RFC 1847, RFC 8551, RFC 9580 §7)."""
        if header.kind in _CRYPTOGRAPHIC:
            return (self._parameter(header, place, b"smime-type") or b"signed-data").lower() == b"signed-data"
        if header.kind != "text/plain":
            return header.kind == "multipart/signed"
        return body.holds(_CLEAR_SIGNED)

    # --- headers ----------------------------------------------------------------------------------------------------

    def _cut(self, span: _Span, place: _Place, default_type: str) -> _Header:
        """The header of a part; raises if it cannot be read or does not fit itself."""
        if place.depth > _DEPTH:
            raise self._failed(place, f"it lies in more than {_DEPTH} other parts")
        octets, end = span.octets, span.start
        stop = min(span.end, span.start + _HEADER)
        values: dict[str, _Span] = {}
        place_of_encoding: tuple[int, int] | None = None
        while field := _FIELD.match(octets, end, stop):
            name = field[1].decode("ascii").lower()
            if name in _FIELDS:
                if name in values and name in (_TYPE, _ENCODING):
                    raise self._failed(place, f"its header has {name} more than once")
                values[name] = _Span(octets, *field.span(2))
                if name == _ENCODING:
                    place_of_encoding = field.span()
            end = field.end()
        whole = span.until(min(end + 2, span.end))
        if octets[end : whole.end] not in (b"\r\n", b""):
            too_large = stop < span.end and octets.find(b"\r\n\r\n", span.start, stop) < 0
            raise self._failed(
                place, f"its header has more than {_HEADER} octets" if too_large else "its header cannot be read"
            )
        if (why := self._misfit(whole)) is not None:
            beyond_ascii = not (self._form.eight_bit or whole.is_ascii)
            raise self._failed(place, f"its header has {why}", "5.6.9" if beyond_ascii else "5.6.3")
        content_type, encoding = self._value(values, _TYPE, place), self._value(values, _ENCODING, place)
        return _Header(
            whole,
            values,
            place_of_encoding or (end, end),
            "7bit" if encoding is None else encoding.decode("ascii", "backslashreplace").strip().lower(),
            content_type or b"",
            default_type if content_type is None else self._kind(content_type, place),
        )

    def _value(self, values: Mapping[str, _Span], name: str, place: _Place) -> bytes | None:
        """The value of a field without comments."""
        span = values.get(name)
        if span is None:
            return None
        if span.end - span.start > _VALUE:
            raise self._failed(place, f"its header has {name} of more than {_VALUE} octets")
        return without_comments(_slice(span))

    def _kind(self, content_type: bytes, place: _Place) -> str:
        try:
            return media_type(content_type)
        except ValueError:
            raise self._failed(place, "its Content-Type cannot be read") from None

    def _parameter(self, header: _Header, place: _Place, name: bytes) -> bytes | None:
        try:
            return parameter(header.content_type, name)
        except ValueError:
            raise self._failed(place, "its Content-Type cannot be read") from None

    def _write_header(self, header: _Header, encoding: bytes) -> int:
        """Write a header with another transfer encoding; returns where that stands."""
        start, end = header.place_of_encoding
        self._keep(header.span.until(start))
        # Written anew as a whole: many a reader does not know a field with white space before its colon.
        self._made.write(b"Content-Transfer-Encoding: ")
        label = self._made.tell()
        self._made.write(encoding + b"\r\n")
        self._keep(header.span.behind(end))
        return label

    # --- multiparts -------------------------------------------------------------------------------------------------

    def _enclose(self, header: _Header) -> int | None:
        """Write the header of what encloses other parts: its encoding is that of the least of them.

        Returns where it says 8bit, if that is still to be seen.
        """
        if header.encoding == "7bit" or (header.encoding == "8bit" and self._form.eight_bit):
            self._keep(header.span)
            return None
        return self._write_header(header, b"8bit")

    def _made_ascii_since(self, begins: int) -> bool:
        with self._made.getbuffer() as made:
            return all(bytes(made[start : start + _BLOCK]).isascii() for start in range(begins, len(made), _BLOCK))

    def _parts(self, header: _Header, body: _Span, place: _Place) -> None:
        """The parts of a multipart, and what is before, between and behind them."""
        boundary = (self._parameter(header, place, b"boundary") or b"").rstrip()
        if not boundary:
            raise self._failed(place, f"{_shown(header.kind)} has no boundary")
        delimiter = re.compile(rb"\r\n--%b(--)?+[ \t]*+(?=\r\n|\Z)" % re.escape(boundary))
        default_type = "message/rfc822" if header.kind == "multipart/digest" else "text/plain"
        number, end, closed = 0, body.start, False
        # A body that begins with a delimiter has the line end before it in the empty line behind the header.
        for found in delimiter.finditer(body.octets, body.start - 2, body.end):
            start = max(found.start(), body.start)
            self._between(_Span(body.octets, end, start), place, number, default_type)
            end = found.end()
            self._outside(_Span(body.octets, start, end), place)
            number += 1
            if closed := found[1] is not None:
                break
        if not number:
            raise self._failed(place, f"the boundary of {_shown(header.kind)} is not in it")
        self._between(body.behind(end), place, 0 if closed else number, default_type)

    def _between(self, span: _Span, place: _Place, number: int, default_type: str) -> None:
        """What is between two delimiters: behind the line end of the first a part; with number 0 outside of all."""
        if not number:
            self._outside(span, place)
            return
        self._parts_found += 1
        if self._parts_found > _PARTS:
            raise self._failed(place, f"the message has more than {_PARTS} parts")
        begins = min(span.start + 2, span.end)
        self._keep(span.until(begins))
        self._entity(span.behind(begins), place.part(number), default_type, is_message=False)

    def _outside(self, span: _Span, place: _Place) -> None:
        if (why := self._misfit(span)) is not None:
            raise self._failed(place, f"there are {why} outside of its parts")
        self._keep(span)

    # --- encoding ---------------------------------------------------------------------------------------------------

    def _leaf(self, header: _Header, body: _Span, place: _Place) -> None:
        if self._misfit(body) is None:
            # Only what is said of it may be wrong.
            if header.encoding == "binary":
                self._write_header(header, b"7bit" if body.is_ascii else b"8bit")
            else:
                self._keep(header.span)
            self._keep(body)
            return
        content = body if header.encoding in _PLAIN else self._decoded(header, body, place)
        if header.encoding != "base64" and header.kind.startswith("text/") and content.is_in_lines:
            self._write_header(header, b"quoted-printable")
            self._made.writelines(_quoted_printable(content))
            return
        self._write_header(header, b"base64")
        self._made.writelines(base64.encodebytes(block).replace(b"\n", b"\r\n") for block in content.blocks)
        if content.start < content.end and not body.ends_with_line_end:
            # The line end before a boundary belongs to the boundary.
            self._made.seek(-2, io.SEEK_END)
            self._made.truncate()

    def _decoded(self, header: _Header, body: _Span, place: _Place) -> _Span:
        """The octets that an encoded part stands for."""
        with suppress(binascii.Error):
            if header.encoding == "base64":
                content = binascii.a2b_base64(_slice(body).translate(None, _WHITE), strict_mode=True)
                return _Span(content, 0, len(content))
            if header.encoding == "quoted-printable" and body.is_ascii:
                # White space at the end of a line was added on the way (RFC 2045 §6.7 (3)).
                lines = (line.rstrip(b" \t") for line in _slice(body).split(b"\r\n"))
                content = binascii.a2b_qp(b"\r\n".join(lines))
                return _Span(content, 0, len(content))
        said = _shown(header.encoding)
        raise self._failed(place, f"it is said to be {said}, and what it stands for cannot be told")


def _slice(span: _Span) -> bytes:
    return span.octets[span.start : span.end]


def _shown(text: str) -> str:
    """Words of the message for an error."""
    return printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _quoted_printable(content: _Span) -> Iterator[bytes]:
    """RFC 2045 §6.7: line ends stay, lines that become too long are broken softly."""
    octets, start = content.octets, content.start
    while start < content.end:
        stop = start + _BLOCK
        if stop >= content.end:
            stop = content.end
        elif (last := octets.rfind(b"\r\n", start, stop)) >= 0:
            stop = last + 2
        else:
            stop, beginning = _beginning_of_line(octets, start, stop)
            yield beginning
            start = stop
            continue
        yield b"\r\n".join(map(_quoted_line, octets[start:stop].split(b"\r\n")))
        start = stop


def _beginning_of_line(octets: bytes, start: int, stop: int) -> tuple[int, bytes]:
    """As much as may be of a line that goes on behind ``stop``, up to a soft line break, and where the rest begins."""
    # A line end is not divided.
    stop -= octets[stop - 1] == 0x0D
    while len((quoted := _quoted_line(octets[start:stop])).rpartition(b"\n")[2]) > _QUOTED_LINE - 1:
        stop -= 1
    return stop, quoted + b"=\r\n"


def _quoted_line(line: bytes) -> bytes:
    # Line ends are none of the octets here, so each that comes out is a soft one.
    return binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n")
