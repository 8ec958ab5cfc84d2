"""When a mail is tried again, when its sender is warned, and when the relay gives up (RFC 5321 §4.5.4.1).

What lives here: one value. What does not: clocks; and no dice, for the spread that keeps retries apart is a hash.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from smtpcore._errors import LocalProtocolError
from smtpcore._kinds import check_delays, check_fields

__all__ = ["Schedule"]

_MINUTE = 60.0
_HOUR = 3600.0
_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Delays between attempts and the ages that matter, all in seconds.

    ``delays[n]`` follows attempt ``n + 1``; the last one repeats. ``warn_after`` is the age at which the sender is told
    of the delay, ``None`` for never. ``give_up_after`` is the age from which a failed attempt is the last.
    """

    delays: tuple[float, ...] = (
        5 * _MINUTE, 10 * _MINUTE, 20 * _MINUTE, 40 * _MINUTE, 1 * _HOUR, 2 * _HOUR, 4 * _HOUR,
    )  # fmt: skip
    warn_after: float | None = 4 * _HOUR
    give_up_after: float = 5 * _DAY

    #: How far a delay is stretched or shortened, as a share of it.
    spread: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        check_delays("a schedule", self.delays)
        if not self.give_up_after > 0:
            raise LocalProtocolError("give_up_after must be more than 0 seconds", self.give_up_after)
        if self.warn_after is not None and not self.warn_after > 0:
            raise LocalProtocolError("warn_after must be more than 0 seconds, or None", self.warn_after)
        if not 0 <= self.spread < 1:
            raise LocalProtocolError("spread must be at least 0 and less than 1", self.spread)

    def delay(self, job_id: int, attempts: int) -> float:
        """Seconds from the failure of attempt number ``attempts`` to the next; the same for the same arguments."""
        delay = self.delays[min(attempts, len(self.delays)) - 1]
        share = zlib.crc32(b"%d %d" % (job_id, attempts)) / 0xFFFF_FFFF
        return delay * (1 + self.spread * (2 * share - 1))

    @property
    def longest_delay(self) -> float:
        """No job is due further ahead than this, unless the clock was set back."""
        return self.delays[-1] * (1 + self.spread)
