"""The walk over the lines of a message, for those who must know whether one is too long.

What lives here: that walk. What does not: line ends that are not CRLF (:mod:`smtpcore._body`).
"""

from __future__ import annotations

from smtpcore._limits import LINE_OCTETS

__all__ = ["last_line"]


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
