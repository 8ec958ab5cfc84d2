"""What can be found out about a body by reading it: octets above 127, and lines that are too long.

What lives here: a streaming measure, and the walk over lines. What does not: reading bodies.
"""

from __future__ import annotations

from dataclasses import replace

from smtpcore._body import LineNormaliser
from smtpcore._events import BodyFacts
from smtpcore._limits import LINE_OCTETS

__all__ = ["BodyMeasure", "last_line"]


class BodyMeasure:
    """Measures a body while it is read, for a driver that answers :class:`NeedFacts`; lines end with CRLF, CR or LF."""

    __slots__ = ("_eight_bit", "_line", "_lines", "_long_lines")

    def __init__(self) -> None:
        self._lines = LineNormaliser()
        self._eight_bit = False
        self._long_lines = False
        #: Octets of the line that has begun.
        self._line = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next octets of the body, in any division."""
        self._eight_bit = self._eight_bit or not chunk.isascii()
        if not self._long_lines:
            data = self._lines.feed(chunk)
            begins = last_line(data, -self._line)
            self._long_lines = begins is None
            self._line = len(data) - (begins or 0)

    def facts(self, known: BodyFacts) -> BodyFacts:
        """What is ``known`` of the body, and what its octets say."""
        return replace(known, eight_bit=self._eight_bit, long_lines=self._long_lines)


def last_line(data: bytes, begins: int = 0, stop: int | None = None) -> int | None:
    """Where the last line of ``data`` up to ``stop`` begins, whose first one begins at ``begins``.

    ``None`` if one is too long. ``begins`` is negative when the first octets of the line came before. Goes in leaps of
    the length of a line.
    """
    stop = len(data) if stop is None else stop
    while stop - begins > LINE_OCTETS:
        end = data.rfind(b"\n", max(begins, 0), min(begins + LINE_OCTETS + 2, stop))
        if end < 0:
            return None
        begins = end + 1
    end = data.rfind(b"\n", max(begins, 0), stop)
    return begins if end < 0 else end + 1
