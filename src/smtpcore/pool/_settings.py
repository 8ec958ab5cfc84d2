"""Every number of a pool, with its reason.

What lives here: two value objects. What does not: the code that applies them; and no dice, for the spread that keeps
retries apart is a hash.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, fields

from smtpcore._errors import LocalProtocolError
from smtpcore._kinds import check_delays, check_fields

__all__ = ["PoolSettings", "Retries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often, and after how many seconds, a mail without a final verdict is tried again.

    ``delays[n]`` follows attempt ``n + 1``; the last one repeats. Raises ``LocalProtocolError`` for values that make no
    sense.
    """

    #: Attempts after the first; 0 for none.
    most: int = 5
    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    #: How far a delay is stretched or shortened, as a share of it.
    spread: float = 0.1
    #: Whether those are tried again whom the mail may have reached already: a second copy instead of a doubt.
    in_doubt: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.most < 0:
            raise LocalProtocolError("retries must be 0 or more", self.most)
        check_delays("Retries", self.delays)
        if not 0 <= self.spread < 1:
            raise LocalProtocolError("spread must be at least 0 and less than 1", self.spread)

    def delay(self, seed: int, number: int, attempts: int) -> float:
        """Seconds from the failure of attempt number ``attempts`` to the next; the same for the same arguments."""
        delay = self.delays[min(attempts, len(self.delays)) - 1]
        share = zlib.crc32(b"%d %d %d" % (seed, number, attempts)) / 0xFFFF_FFFF
        return delay * (1 + self.spread * (2 * share - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How a pool works. Raises ``LocalProtocolError`` that names a setting which makes no sense."""

    #: Sessions at once, those that are being opened or closed among them.
    sessions: int = 4
    #: Sessions that are being opened at once. Until one has opened, and again after a failure, it is one.
    openings: int = 4
    #: Mails in the hand of one session: more than one make sense with ``Pipelining.ACROSS``. With ``sessions`` this
    #: bounds the mails that are in doubt when the host, or the network, goes away.
    mails_at_once: int = 1
    #: Mails over one session; some servers end sessions that last.
    mails_per_session: int = 100
    #: Seconds after which a session takes no more mail.
    session_seconds: float = 600.0
    #: Seconds that a session without work stays open; servers wait for five minutes at most (RFC 5321 §4.5.3.2.7).
    idle_seconds: float = 30.0
    #: Attempts begun in a second, evenly spaced.
    mails_per_second: float = math.inf
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        check_fields(self, retries=Retries)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, (int, float)) and not value > 0:
                raise LocalProtocolError(f"{setting.name} must be more than 0", value)
