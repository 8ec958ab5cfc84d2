"""One next hop as the relay sees it: what waits for it, how many sessions it bears, and whether it rests.

What lives here: the bookkeeping of one destination. What does not: orders, and anything about other destinations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from smtpcore.relay._facts import Delivery, Job, NextHop, StoredMail
from smtpcore.relay._settings import RelaySettings

__all__ = ["Destination", "Session"]

#: Deliveries that must succeed before a destination that was overrun is given one more session.
_SUCCESSES_TO_GROW = 20


@dataclass(slots=True)
class Session:
    """A session that was ordered and has not ended."""

    session_id: int
    destination: Destination
    delivery: Delivery | None
    #: Mails that got onto the wire.
    completed: int = 0
    idle_since: float = 0.0
    closing: bool = False


@dataclass(slots=True)
class Destination:
    """All that is known of one next hop."""

    next_hop: NextHop
    settings: RelaySettings
    #: Jobs that wait, by mail, longest due first.
    waiting: dict[int, list[Job]] = field(default_factory=dict[int, list[Job]])
    waiting_jobs: int = 0
    sessions: dict[int, Session] = field(default_factory=dict[int, Session])
    #: Failures of the host as a whole, in a row.
    failures: int = 0
    resting_until: float | None = None
    allowed_sessions: int = 0
    _successes: int = 0

    def __post_init__(self) -> None:
        self.allowed_sessions = self.settings.sessions_per_next_hop

    def add(self, job: Job, *, first: bool = False) -> None:
        """Let a job wait; ``first`` puts it before all others."""
        if first and job.mail_id not in self.waiting:
            self.waiting = {job.mail_id: [], **self.waiting}
        self.waiting.setdefault(job.mail_id, []).append(job)
        self.waiting_jobs += 1

    def take(self) -> list[Job]:
        """Take the jobs of the mail that waits longest, as many as one delivery bears."""
        mail_id = next(iter(self.waiting))
        jobs = self.waiting.pop(mail_id)
        taken: list[Job] = []
        recipients = 0
        while jobs and (not taken or recipients + len(jobs[0].recipients) <= self.settings.recipients_per_delivery):
            recipients += len(jobs[0].recipients)
            taken.append(jobs.pop(0))
        if jobs:
            self.waiting = {mail_id: jobs, **self.waiting}
        self.waiting_jobs -= len(taken)
        return taken

    def take_all(self) -> Iterator[list[Job]]:
        """Take everything, delivery by delivery."""
        while self.waiting:
            yield self.take()

    @property
    def room(self) -> int:
        """How many more jobs may wait here."""
        return self.settings.window_per_next_hop - self.waiting_jobs

    @property
    def may_open(self) -> bool:
        """Whether one more session is worth opening: one alone while it is not known whether the host is back."""
        most = 1 if self.failures else self.allowed_sessions
        return self.resting_until is None and len(self.sessions) < most

    @property
    def alive(self) -> int:
        """Sessions that have proved themselves, or have not failed yet: their first verdict is still to come."""
        return sum(1 for session in self.sessions.values() if session.completed or session.delivery is not None)

    def succeeded(self) -> None:
        """A delivery got through to the host."""
        self.failures = 0
        self.resting_until = None
        if self.allowed_sessions < self.settings.sessions_per_next_hop:
            self._successes += 1
            if self._successes >= _SUCCESSES_TO_GROW:
                self._successes = 0
                self.allowed_sessions += 1

    def overrun(self) -> None:
        """A further session was refused while others live: be content with those."""
        self.allowed_sessions = max(1, self.alive)
        self._successes = 0

    def failed(self, now: float) -> None:
        """The host failed as a whole: it rests, longer each time."""
        self.failures += 1
        self.allowed_sessions = self.settings.sessions_per_next_hop
        self.resting_until = now + self.settings.rest_after(self.failures)

    def delivery(self, delivery_id: int, mail: StoredMail, jobs: list[Job]) -> Delivery:
        return Delivery(delivery_id, mail, tuple(jobs), self.next_hop)
