"""The octets of a message on their way to the wire: line ends and dot-stuffing.

What lives here: the streaming filters. They hold no octet of a body back; their memory is where the last octet left
the line. What does not: reading bodies, and the commands around them.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from smtpcore._errors import LocalProtocolError

__all__ = ["DataEncoder", "LineEnds", "LineNormaliser"]

_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class LineEnds(enum.Enum):
    """What to do with a CR or LF that stands alone; neither may ever reach the wire (RFC 5321 §2.3.8)."""

    #: Either alone becomes CRLF.
    NORMALISE = "normalise"
    #: Either alone is a ``LocalProtocolError``.
    REFUSE = "refuse"


class LineNormaliser:
    """Makes every line end CRLF, over any division of a body into chunks."""

    __slots__ = ("_after_cr", "_policy", "at_line_start")

    def __init__(self, policy: LineEnds = LineEnds.NORMALISE) -> None:
        self._policy = policy
        self._after_cr = False
        #: Whether the next octet begins a line: true at the beginning and after each line end.
        self.at_line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """The canonical octets for the next ``chunk`` of a body.

        Under ``REFUSE`` raises ``LocalProtocolError``, and nothing has changed then.
        """
        if not chunk:
            return chunk
        if self._policy is LineEnds.REFUSE:
            return self._checked(chunk)
        if self._after_cr and chunk[0] == 0x0A:
            # The CR before it was made a whole line end already.
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk[-1] == 0x0D
            chunk = _with_crlf(chunk)
            self.at_line_start = chunk[-1] == 0x0A
        else:
            self._after_cr = False
        return chunk

    def _checked(self, chunk: bytes) -> bytes:
        seen = b"\r" + chunk if self._after_cr else chunk
        found = _BARE.search(seen)
        if found and not (found[0] == b"\r" and found.end() == len(seen)):
            raise LocalProtocolError("a bare CR or LF in the body (LineEnds.REFUSE)", seen[found.start() :][:20])
        self._after_cr = chunk[-1] == 0x0D
        self.at_line_start = chunk[-1] == 0x0A
        return chunk

    def end(self) -> bytes:
        """What completes the last line: nothing, or a line end.

        Under ``REFUSE`` raises ``LocalProtocolError`` if the body ends with a bare CR.
        """
        if self._policy is LineEnds.REFUSE and self._after_cr:
            raise LocalProtocolError("a bare CR at the end of the body (LineEnds.REFUSE)", b"\r")
        if self.at_line_start:
            return b""
        self.at_line_start = True
        return b"\r\n"


def _with_crlf(chunk: bytes) -> bytes:
    """``chunk`` with CRLF, bare CR and bare LF all as CRLF."""
    returns = chunk.count(b"\r")
    feeds = chunk.count(b"\n")
    if not returns:
        return chunk.replace(b"\n", b"\r\n") if feeds else chunk
    pairs = chunk.count(b"\r\n")
    if returns != pairs:
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if feeds != pairs:
        return chunk.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return chunk


class DataEncoder:
    """The body as DATA carries it: canonical line ends, and a dot before each leading dot (RFC 5321 §4.5.2)."""

    __slots__ = ("_lines",)

    def __init__(self, policy: LineEnds = LineEnds.NORMALISE) -> None:
        self._lines = LineNormaliser(policy)

    def feed(self, chunk: bytes) -> bytes:
        """The octets to write for the next ``chunk``; raises as :meth:`LineNormaliser.feed`."""
        at_line_start = self._lines.at_line_start
        data = self._lines.feed(chunk)
        if b"\n." in data:
            data = data.replace(b"\r\n.", b"\r\n..")
        if at_line_start and data[:1] == b".":
            data = b"." + data
        # Under REFUSE a chunk may begin with the LF of the line end that the last one began, and a dot may follow.
        if data[:2] == b"\n.":
            data = b"\n." + data[1:]
        return data

    def end(self) -> bytes:
        """The end of data: what completes the last line, and the line with the single dot."""
        return self._lines.end() + b".\r\n"
