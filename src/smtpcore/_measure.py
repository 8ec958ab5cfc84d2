"""What can be found out about a body by reading it: octets above 127, and lines that are too long.

What lives here: a streaming measure. What does not: reading bodies, and the walk over lines (:mod:`smtpcore._lines`).
"""

from __future__ import annotations

from dataclasses import replace

from smtpcore._body import LineNormaliser
from smtpcore._events import BodyFacts
from smtpcore._lines import last_line

__all__ = ["BodyMeasure"]


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
