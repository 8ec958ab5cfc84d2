"""What the outcomes of a delivery leave of its jobs: who is done, who is tried again, what the sender is told.

What lives here: one pure function over one delivery. What does not: sessions, and when things happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from smtpcore._errors import LimitReached, SessionAborted, SmtpError
from smtpcore._events import Outcome, Verdict
from smtpcore.relay._facts import (
    Attempted,
    Bounce,
    DelayWarning,
    Delivery,
    Durable,
    Effect,
    Failure,
    Fate,
    FateKind,
    Forget,
    Job,
    PendingRecipient,
    Save,
    StoredMail,
)
from smtpcore.relay._schedule import Schedule

__all__ = ["Results", "Undelivered", "given_back", "results_of"]

#: RFC 3463 §3.5: delivery time expired.
_EXPIRED = "4.4.7"


@dataclass(frozen=True, slots=True)
class Results:
    """Durable orders, reports first; effects for whoever keeps the log; the earliest time that a job is due again."""

    durable: tuple[Durable, ...]
    effects: tuple[Effect, ...]
    due_at: float | None


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Why jobs were not brought to any peer: an answer without a session."""

    verdict: Verdict
    error: SmtpError
    #: The enhanced status code for the report (RFC 3463).
    status: str | None = None

    def outcomes(self, jobs: Iterable[Job]) -> tuple[Outcome, ...]:
        """The same for every recipient."""
        return tuple(Outcome(to.address, self.verdict, None, self.error) for job in jobs for to in job.recipients)


def results_of(
    mail: StoredMail,
    jobs: Sequence[Job],
    outcomes: Sequence[Outcome],
    now: float,
    schedule: Schedule,
    *,
    remote_host: str = "",
    status: str | None = None,
    removed: bool = False,
    stopping: bool = False,
) -> Results:
    """Apply one outcome per recipient to the jobs of a mail, in their order; ``job.attempts`` counts the attempt.

    ``status`` stands for the status code that no peer has given. Of a mail that was ``removed`` nothing is left. What
    was broken off because the relay is ``stopping`` does not expire, and is due at once; so is who was left out where
    others were served, for the peer takes no more in one session (RFC 9422): that counts as no attempt.
    """
    served = any(outcome.verdict is not Verdict.LATER for outcome in outcomes)
    collected = _Collector(mail, now, schedule, remote_host, status, removed, stopping, served)
    remaining = iter(outcomes)
    for job in jobs:
        collected.add_job(job, [next(remaining) for _ in job.recipients])
    return collected.results()


def given_back(delivery: Delivery) -> tuple[Job, ...]:
    """The jobs as they were before the attempt was claimed."""
    return tuple(replace(job, attempts=job.attempts - 1) for job in delivery.jobs)


class _Collector:
    """The results while they come together."""

    def __init__(
        self,
        mail: StoredMail,
        now: float,
        schedule: Schedule,
        remote_host: str,
        status: str | None,
        removed: bool,
        stopping: bool,
        served: bool,
    ) -> None:
        self._mail = mail
        self._remote_host = remote_host
        self._status = status
        self._removed = removed
        self._stopping = stopping
        self._served = served
        self._now = now
        self._schedule = schedule
        self._age = max(0.0, now - mail.accepted_at)
        self._failures: list[Failure] = []
        self._delayed: list[Failure] = []
        self._jobs: list[Durable] = []
        self._effects: list[Effect] = []
        self._due: list[float] = []

    def add_job(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        due_at = self._due_at(job, outcomes)
        if any(self._left_out(outcome) for outcome in outcomes):
            job = replace(job, attempts=job.attempts - 1)
        pending = [
            left
            for recipient, outcome in zip(job.recipients, outcomes, strict=True)
            if (left := self._add_recipient(job, recipient, outcome, due_at)) is not None
        ]
        if pending:
            self._jobs.append(Save(replace(job, due_at=due_at, recipients=tuple(pending))))
            self._due.append(due_at)
        else:
            self._jobs.append(Forget(job))

    def _due_at(self, job: Job, outcomes: Sequence[Outcome]) -> float:
        if any(self._broken_off(outcome) or self._left_out(outcome) for outcome in outcomes):
            return self._now
        return self._now + self._schedule.delay(job.job_id, job.attempts)

    def _broken_off(self, outcome: Outcome) -> bool:
        """Whether it was the relay's own end that left a recipient undone: no reason to wait, or to give up."""
        return self._stopping and isinstance(outcome.error, SessionAborted) and not outcome.in_doubt

    def _left_out(self, outcome: Outcome) -> bool:
        """Whether others of the mail were served, and this one was not named for a limit of the peer."""
        return self._served and isinstance(outcome.error, LimitReached)

    def _add_recipient(
        self, job: Job, recipient: PendingRecipient, outcome: Outcome, due_at: float
    ) -> PendingRecipient | None:
        """What is left of a recipient, or ``None`` when its fate is settled."""
        words = _words(outcome)
        if outcome.verdict is Verdict.DELIVERED:
            self._effects.append(Fate(job.mail_id, recipient.address, FateKind.DELIVERED, words))
            return None
        if self._removed:
            self._effects.append(Fate(job.mail_id, recipient.address, FateKind.REMOVED, words))
            return None
        too_old = self._age >= self._schedule.give_up_after and not (
            self._broken_off(outcome) or self._left_out(outcome)
        )
        expired = outcome.verdict is Verdict.LATER and too_old
        if outcome.verdict is Verdict.NEVER or expired:
            self._settle(recipient, outcome, expired=expired)
            return None
        self._effects.append(Attempted(job.mail_id, recipient.address, job.attempts, due_at, words, outcome.in_doubt))
        return replace(recipient, last_words=words, warned=self._warn(recipient, outcome))

    def _settle(self, recipient: PendingRecipient, outcome: Outcome, *, expired: bool) -> None:
        kind = FateKind.EXPIRED if expired else FateKind.BOUNCED
        if self._mail.reverse_path == "":
            kind = FateKind.DISCARDED
        else:
            self._failures.append(self._failure(outcome, _EXPIRED if expired else None))
        self._effects.append(Fate(self._mail.mail_id, recipient.address, kind, _words(outcome)))

    def _warn(self, recipient: PendingRecipient, outcome: Outcome) -> bool:
        """Note a delay that the sender should know of; returns whether the sender has been told by now."""
        after = self._schedule.warn_after
        if recipient.warned or after is None or self._age < after or self._mail.reverse_path == "":
            return recipient.warned
        self._delayed.append(self._failure(outcome, None))
        return True

    def _failure(self, outcome: Outcome, status: str | None) -> Failure:
        general = "5.0.0" if outcome.verdict is Verdict.NEVER else "4.0.0"
        return Failure(
            recipient=outcome.recipient,
            status=status or outcome.enhanced or self._status or general,
            diagnostic=None if outcome.reply is None else str(outcome.reply),
            reason=_words(outcome),
            remote_host=self._remote_host,
        )

    def results(self) -> Results:
        reports: list[Durable] = []
        if self._failures:
            reports.append(Bounce(self._mail, tuple(self._failures)))
        if self._delayed:
            retry_until = self._mail.accepted_at + self._schedule.give_up_after
            reports.append(DelayWarning(self._mail, tuple(self._delayed), retry_until))
        return Results((*reports, *self._jobs), tuple(self._effects), min(self._due, default=None))


def _words(outcome: Outcome) -> str:
    return str(outcome.reply if outcome.reply is not None else outcome.error)
