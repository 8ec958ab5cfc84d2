"""Reply lines out of a bounded buffer.

What lives here: cutting received octets at CRLF, in time proportional to the octets whatever the pieces they come in.
What does not: what a line says.
"""

from __future__ import annotations

import itertools
from collections import deque

from smtpcore._errors import RemoteProtocolError

__all__ = ["LineBuffer"]


class LineBuffer:
    """Octets received and not yet consumed; at most one unfinished line is bounded by ``limit``."""

    __slots__ = ("_limit", "_lines", "_rest", "unread")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Lines without their LF, and what came behind the last LF.
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
        #: How many octets there are.
        self.unread = 0

    def __len__(self) -> int:
        return self.unread

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add received octets."""
        rest = self._rest
        before = len(rest)
        rest += data
        self.unread += len(rest) - before
        end = rest.rfind(b"\n", before)
        if end >= 0:
            self._lines.extend(bytes(rest[:end]).split(b"\n"))
            del rest[: end + 1]

    def next_line(self) -> bytes | None:
        """The next line without its CRLF, or ``None`` while it is incomplete.

        Raises ``RemoteProtocolError`` when the line, complete or not, exceeds the limit (its CRLF counted), or when a
        line feed stands without its carriage return (RFC 5321 §2.3.8): it could be read as the end of a line or not,
        and two readers would disagree.
        """
        line = self._lines[0] if self._lines else None
        octets = len(self._rest if line is None else line)
        if octets >= self._limit:
            raise RemoteProtocolError(f"a reply line of more than {self._limit} octets")
        if line is None:
            return None
        if line[-1:] != b"\r":
            raise RemoteProtocolError(f"a bare LF in a reply: {self.peek(80)!r}")
        self._lines.popleft()
        self.unread -= octets + 1
        return line[:-1]

    def peek(self, octets: int) -> bytes:
        """The first ``octets`` of what is buffered."""
        first = b"".join(line + b"\n" for line in itertools.islice(self._lines, octets))
        return (first + self._rest[:octets])[:octets]

    def clear(self) -> None:
        """Forget everything."""
        self._lines.clear()
        self._rest.clear()
        self.unread = 0
