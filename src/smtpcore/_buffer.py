"""Reply lines out of a bounded buffer.

What lives here: cutting received octets at CRLF, in time proportional to the octets whatever the pieces they come in.
What does not: what a line says.
"""

from __future__ import annotations

from smtpcore._errors import RemoteProtocolError

__all__ = ["LineBuffer"]


class LineBuffer:
    """Octets received and not yet consumed; at most one unfinished line is bounded by ``limit``."""

    __slots__ = ("_data", "_limit", "_searched", "_start", "unread")

    def __init__(self, limit: int) -> None:
        self._data = bytearray()
        self._limit = limit
        self._start = 0
        self._searched = 0
        #: How many octets there are.
        self.unread = 0

    def __len__(self) -> int:
        return self.unread

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add received octets."""
        if self._start:
            del self._data[: self._start]
            self._searched -= self._start
            self._start = 0
        self._data += data
        self.unread = len(self._data)

    def next_line(self) -> bytes | None:
        """The next line without its CRLF, or ``None`` while it is incomplete.

        Raises ``RemoteProtocolError`` when the line, complete or not, exceeds the limit (its CRLF counted), or when a
        line feed stands without its carriage return (RFC 5321 §2.3.8): it could be read as the end of a line or not,
        and two readers would disagree.
        """
        end = self._data.find(b"\n", self._searched)
        if (end if end >= 0 else len(self._data)) - self._start >= self._limit:
            raise RemoteProtocolError(f"a reply line of more than {self._limit} octets")
        if end < 0:
            self._searched = len(self._data)
            return None
        if end == self._start or self._data[end - 1] != 0x0D:
            raise RemoteProtocolError(f"a bare LF in a reply: {self.peek(80)!r}")
        line = bytes(self._data[self._start : end - 1])
        self._start = self._searched = end + 1
        self.unread = len(self._data) - self._start
        return line

    def peek(self, octets: int) -> bytes:
        """The first ``octets`` of what is buffered."""
        return bytes(self._data[self._start : self._start + octets])

    def clear(self) -> None:
        """Forget everything."""
        self._data.clear()
        self._start = self._searched = self.unread = 0
