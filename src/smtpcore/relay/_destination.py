"""One next hop as the relay sees it: what waits for it, how many sessions it bears, and whether it rests.

What lives here: the bookkeeping of one destination and of its sessions. What does not: orders, and anything about other
destinations.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smtpcore._errors import SmtpError
from smtpcore._events import Outcome, Report
from smtpcore.relay._facts import Delivery, Host, Job, NextHop
from smtpcore.relay._hosts import HostSet
from smtpcore.relay._settings import RelaySettings

__all__ = ["Destination", "DestinationView", "Session", "Unfit"]

#: Deliveries that must succeed before a destination that was overrun is given one more session.
_SUCCESSES_TO_GROW = 20


@dataclass(frozen=True, slots=True)
class DestinationView:
    """What a relay shows of one next hop."""

    next_hop: NextHop
    #: Jobs that wait in memory.
    waiting: int
    #: Deliveries that sessions were given and have not reported.
    on_their_way: int
    sessions: int
    #: On the relay's clock; ``None`` where it does not rest.
    resting_until: float | None
    #: Recipients that the peer has answered for, since the relay has known the destination.
    answered: int
    #: What the peer said last, or why it could not be reached.
    last_words: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A delivery that needs more than a host offers: nothing of it was said there."""

    delivery: Delivery
    host: Host
    report: Report


@dataclass(slots=True, eq=False)
class Session:
    """A session that was ordered and has not ended."""

    session_id: int
    destination: Destination
    host: Host
    #: Hosts that were tried for its first delivery, this one among them.
    tried: frozenset[Host]
    #: What it was given and has not reported, in this order.
    deliveries: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    #: Deliveries that it was given in all, and those that got onto the wire.
    given: int = 0
    completed: int = 0
    #: Deliveries that this host cannot be given and another may, once the session has ended.
    elsewhere: dict[int, Unfit] = field(default_factory=dict[int, Unfit])
    #: What it was opened for, if that is what a host before could not be given.
    unfit_before: dict[int, Unfit] = field(default_factory=dict[int, Unfit])
    #: Why the peer will take no more, once that is known.
    refused: SmtpError | None = None
    idle_since: float = 0.0
    #: It is given nothing more, and closed when it has nothing left.
    leaving: bool = False
    closing: bool = False


@dataclass(slots=True, eq=False)
class Destination:
    """All that is known of one next hop."""

    hosts: HostSet
    settings: RelaySettings
    #: Jobs that wait, by mail, longest due first.
    waiting: OrderedDict[int, deque[Job]] = field(default_factory=OrderedDict[int, deque[Job]])
    waiting_jobs: int = 0
    #: Domains with due jobs that are not all in memory, and how many jobs are on their way into memory.
    due: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    promised: int = 0
    sessions: dict[int, Session] = field(default_factory=dict[int, Session])
    #: Failures of the host as a whole, in a row; when the first was, and what the last one said.
    failures: int = 0
    failing_since: float = 0.0
    error: SmtpError | None = None
    resting_until: float | None = None
    #: Whether what falls due while it rests is put off with what the last failure said.
    gone: bool = False
    allowed_sessions: int = 0
    #: Recipients that the peer has answered for, and its last answer.
    answered: int = 0
    last_answer: Outcome | None = None
    _successes: int = 0

    def __post_init__(self) -> None:
        self.allowed_sessions = self.settings.sessions_per_next_hop

    @property
    def next_hop(self) -> NextHop:
        return self.hosts.next_hop

    # --- what waits -------------------------------------------------------------------------------------------------

    def add(self, job: Job, *, first: bool = False) -> None:
        """Let a job wait; ``first`` puts it before all others."""
        jobs = self.waiting.setdefault(job.mail_id, deque())
        if first:
            self.waiting.move_to_end(job.mail_id, last=False)
            jobs.appendleft(job)
        else:
            jobs.append(job)
        self.waiting_jobs += 1

    def take(self) -> list[Job]:
        """Take the jobs of the mail that waits longest, as many as one delivery bears."""
        mail_id, jobs = next(iter(self.waiting.items()))
        taken: list[Job] = []
        recipients = 0
        while jobs and (not taken or recipients + len(jobs[0].recipients) <= self.settings.recipients_per_delivery):
            recipients += len(jobs[0].recipients)
            taken.append(jobs.popleft())
        if not jobs:
            del self.waiting[mail_id]
        self.waiting_jobs -= len(taken)
        # Whom a limit of the peer left out is due before those whom it was for, and is to be named before them.
        return sorted(taken, key=lambda job: job.due_at)

    def take_all(self) -> Iterator[list[Job]]:
        """Take everything, delivery by delivery."""
        while self.waiting:
            yield self.take()

    def take_mail(self, mail_id: int) -> list[Job]:
        """Take all that waits of one mail."""
        jobs = list(self.waiting.pop(mail_id, ()))
        self.waiting_jobs -= len(jobs)
        return jobs

    @property
    def room(self) -> int:
        """How many more jobs may wait here."""
        return self.settings.window_per_next_hop - self.waiting_jobs - self.promised

    @property
    def hungry(self) -> bool:
        """Whether more jobs should be loaded."""
        return bool(self.due) and self.resting_until is None and self.room * 2 >= self.settings.window_per_next_hop

    @property
    def unused(self) -> bool:
        """Whether there is nothing here that anybody would miss."""
        rests = self.resting_until is not None
        return not (self.waiting or self.sessions or self.due or self.promised or rests)

    # --- sessions ---------------------------------------------------------------------------------------------------

    @property
    def may_open(self) -> bool:
        """Whether one more session is worth opening: one alone while it is not known whether the host is back."""
        most = 1 if self.failures else self.allowed_sessions
        return self.resting_until is None and len(self.sessions) < most

    @property
    def alive(self) -> int:
        """Sessions that have proved themselves, or have not failed yet: their first verdict is still to come."""
        return sum(1 for session in self.sessions.values() if session.completed or not session.refused)

    def works(self, host: Host) -> bool:
        """Whether a session with this very host has proved itself."""
        return any(session.completed and session.host == host for session in self.sessions.values())

    @property
    def share(self) -> int:
        """How many deliveries each session should have been given and not reported, so that all have alike."""
        sessions = [session for session in self.sessions.values() if not session.leaving]
        total = len(self.waiting) + sum(len(session.deliveries) for session in sessions)
        return max(1, min(self.settings.deliveries_ahead, total // max(1, len(sessions))))

    # --- how it fares -----------------------------------------------------------------------------------------------

    def succeeded(self, outcomes: Sequence[Outcome]) -> None:
        """A delivery got through to the host, which has answered for its recipients."""
        self.answered += len(outcomes)
        self.last_answer = outcomes[-1]
        self.failures = 0
        self.gone = False
        if self.allowed_sessions < self.settings.sessions_per_next_hop:
            self._successes += 1
            if self._successes >= _SUCCESSES_TO_GROW:
                self._successes = 0
                self.allowed_sessions += 1

    def overrun(self) -> None:
        """A further session was refused while others live: be content with those."""
        self.allowed_sessions = max(1, self.alive)
        self._successes = 0

    def failed(self, error: SmtpError, now: float) -> float:
        """The hosts failed as a whole: they rest, longer each time. Returns until when."""
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self.error = error
        self.gone = now - self.failing_since >= self.settings.schedule.delays[0]
        self.allowed_sessions = self.settings.sessions_per_next_hop
        self.resting_until = now + self.settings.rest_after(self.failures)
        return self.resting_until

    @property
    def view(self) -> DestinationView:
        """What there is to see."""
        return DestinationView(
            next_hop=self.next_hop,
            waiting=self.waiting_jobs,
            on_their_way=sum(len(session.deliveries) for session in self.sessions.values()),
            sessions=len(self.sessions),
            resting_until=self.resting_until,
            answered=self.answered,
            last_words=self._last_words(),
        )

    def _last_words(self) -> str:
        if self.failures:
            return str(self.error)
        if self.last_answer is None:
            return ""
        said = self.last_answer.error if self.last_answer.reply is None else self.last_answer.reply
        return str(said)
