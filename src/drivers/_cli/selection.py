"""Which of the queued jobs an operator means.

What lives here: the states of a job as operators call them, and matching jobs. What does not: the spool, and arguments.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Collection
from dataclasses import dataclass

from smtpcore.drivers.spool import QueueEntry

__all__ = ["JobState", "Selection", "state_of"]


class JobState(enum.Enum):
    """What becomes of a job if nobody does anything."""

    #: A relay is at it now.
    ACTIVE = "active"
    #: It is damaged, and out of the relay's sight until an operator releases it.
    SET_ASIDE = "set-aside"
    #: An operator holds it.
    HELD = "held"
    #: It was tried, and is tried again when it is due.
    DEFERRED = "deferred"
    #: It was not tried yet.
    WAITING = "waiting"

    @property
    def dispatched(self) -> bool:
        """Whether a relay takes it when it is due."""
        return self in {JobState.DEFERRED, JobState.WAITING}


def state_of(entry: QueueEntry) -> JobState:
    """The state of a queued job."""
    if entry.active:
        return JobState.ACTIVE
    if entry.problem is not None:
        return JobState.SET_ASIDE
    if entry.held:
        return JobState.HELD
    return JobState.DEFERRED if entry.job.attempts else JobState.WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Jobs that have everything that is asked for; what is empty or ``None`` is not asked for.

    Sender, recipient and domain are shell patterns, matched without regard to case; ``older_than`` is in seconds since
    the mail was accepted.
    """

    queue_ids: Collection[int] = ()
    sender: str | None = None
    recipient: str | None = None
    domain: str | None = None
    states: Collection[JobState] = ()
    older_than: float | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is asked for."""
        return self == Selection()

    def matches(self, entry: QueueEntry, now: float) -> bool:
        """Whether a job is meant."""
        return (
            (not self.queue_ids or entry.mail.mail_id in self.queue_ids)
            and (self.sender is None or _like(entry.mail.reverse_path, self.sender))
            and (self.recipient is None or any(_like(one.address, self.recipient) for one in entry.job.recipients))
            and (self.domain is None or _like(entry.job.domain, self.domain))
            and (not self.states or state_of(entry) in self.states)
            and (self.older_than is None or now - entry.mail.accepted_at > self.older_than)
        )


def _like(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())
