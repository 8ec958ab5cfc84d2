"""What the outcomes of a delivery leave of its jobs: who is done, who is tried again, what the sender is told.

What lives here: one pure function over one delivery. What does not: sessions, and when things happen.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from smtpcore._errors import LimitReached, SessionAborted, SmtpError
from smtpcore._events import Outcome, Verdict
from smtpcore._options import Notify
from smtpcore.relay._facts import (
    Attempted,
    Bounce,
    Confirmation,
    DelayWarning,
    Delivery,
    Durable,
    Effect,
    Failure,
    Fate,
    FateKind,
    Forget,
    Host,
    Job,
    PendingRecipient,
    Save,
    StoredMail,
    Success,
)
from smtpcore.relay._schedule import Schedule
from smtpcore.relay._wishes import asks_for_trace, deadline, due_time, wants

__all__ = ["Results", "Undelivered", "given_back", "results_of"]

#: RFC 3463 §3.5: delivery time expired, that of the schedule, and that which the sender gave (RFC 2852 §4.1).
_EXPIRED = "4.4.7"
_LATE = "5.4.7"
#: Characters of what was said that are stored, logged and reported: a peer may say megabytes for each recipient.
_WORDS = 2000


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
    host: Host | None = None,
    dsn: bool = False,
    status: str | None = None,
    removed: bool = False,
    stopping: bool = False,
) -> Results:
    """Apply one outcome per recipient to the jobs of a mail, in their order; ``job.attempts`` counts the attempt.

    ``host`` is where the mail was taken, and ``dsn`` says that it reports by itself what becomes of it. ``status``
    stands for the status code that no peer has given. Of a mail that was ``removed`` nothing is left. What was broken
    off because the relay is ``stopping`` does not expire, and is due at once.

    Whom a limit of the peer left out (RFC 9422) comes first the next time, and at once if the peer has answered for
    others: so all are named in turn before anybody is named again for being due, and all that is one attempt. A job's
    own rows tell how far that is: who has not had his turn was told nothing.
    """
    heard = any(outcome.error is None for outcome in outcomes)
    collected = _Collector(mail, now, schedule, host, dsn, status, removed, stopping, heard)
    remaining = iter(outcomes)
    for job in jobs:
        collected.add_job(job, [next(remaining) for _ in job.recipients])
    return collected.results()


def given_back(delivery: Delivery) -> tuple[Job, ...]:
    """The jobs as they were before the attempt was claimed."""
    return tuple(replace(job, attempts=job.attempts - 1) for job in delivery.jobs)


class _Turn(enum.Enum):
    """How a recipient fared where the peer takes no more than some in a session, in the order of the next time."""

    #: Left out, and yet to be named.
    TO_COME = 1
    #: Left out, and named by an earlier session of the same attempt.
    HAD = 2
    NAMED = 3


class _Collector:
    """The results while they come together."""

    def __init__(
        self,
        mail: StoredMail,
        now: float,
        schedule: Schedule,
        host: Host | None,
        dsn: bool,
        status: str | None,
        removed: bool,
        stopping: bool,
        heard: bool,
    ) -> None:
        self._mail = mail
        self._remote_host = "" if host is None else host.name
        self._final = host is not None and host.lmtp
        self._dsn = dsn
        self._status = status
        self._removed = removed
        self._stopping = stopping
        self._heard = heard
        self._now = now
        self._schedule = schedule
        self._age = max(0.0, now - mail.accepted_at)
        until = deadline(mail)
        self._late = until is not None and now >= until
        self._successes: list[Success] = []
        self._failures: list[Failure] = []
        self._delayed: list[Failure] = []
        self._jobs: list[Durable] = []
        self._effects: list[Effect] = []
        self._due: list[float] = []

    def add_job(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        turns = _turns(job, outcomes)
        goes_on = self._heard and _Turn.TO_COME in turns
        at_once = goes_on or any(self._broken_off(outcome) for outcome in outcomes)
        due_at = self._now if at_once else self._due_at(job)
        if goes_on or _Turn.NAMED not in turns:
            job = replace(job, attempts=job.attempts - 1)
        # Whose turn is to come is named first the next time, and who was named now is named last.
        pending = [
            left
            for turn, recipient, outcome in sorted(
                zip(turns, job.recipients, outcomes, strict=True), key=lambda each: each[0].value
            )
            if (left := self._add_recipient(job, recipient, outcome, due_at, turn)) is not None
        ]
        if pending:
            self._jobs.append(Save(replace(job, due_at=due_at, recipients=tuple(pending))))
            self._due.append(due_at)
        else:
            self._jobs.append(Forget(job))

    def _due_at(self, job: Job) -> float:
        due_at = self._now + self._schedule.delay(job.job_id, job.attempts)
        # What the sender wants by a moment is looked at then, though it be only to tell that it did not come about.
        wanted_by = due_time(self._mail)
        return due_at if wanted_by is None or wanted_by <= self._now else min(due_at, wanted_by)

    def _broken_off(self, outcome: Outcome) -> bool:
        """Whether it was the relay's own end that left a recipient undone: no reason to wait, or to give up."""
        return self._stopping and isinstance(outcome.error, SessionAborted) and not outcome.in_doubt

    def _add_recipient(
        self, job: Job, recipient: PendingRecipient, outcome: Outcome, due_at: float, turn: _Turn
    ) -> PendingRecipient | None:
        """What is left of a recipient, or ``None`` when its fate is settled."""
        words = _words(outcome)
        if outcome.verdict is Verdict.DELIVERED:
            self._confirm(recipient, outcome)
            self._effects.append(Fate(job.mail_id, recipient.address, FateKind.DELIVERED, words))
            return None
        if self._removed:
            self._effects.append(Fate(job.mail_id, recipient.address, FateKind.REMOVED, words))
            return None
        over = self._late or self._age >= self._schedule.give_up_after
        no_attempt = self._broken_off(outcome) or (self._heard and turn is _Turn.TO_COME)
        expired = outcome.verdict is Verdict.LATER and over and not no_attempt
        if outcome.verdict is Verdict.NEVER or expired:
            self._settle(recipient, outcome, expired=expired)
            return None
        self._effects.append(Attempted(job.mail_id, recipient.address, job.attempts, due_at, words, outcome.in_doubt))
        told = {_Turn.NAMED: words, _Turn.HAD: recipient.last_words, _Turn.TO_COME: ""}[turn]
        return replace(recipient, last_words=told, warned=self._warn(recipient, outcome))

    def _settle(self, recipient: PendingRecipient, outcome: Outcome, *, expired: bool) -> None:
        kind = FateKind.EXPIRED if expired else FateKind.BOUNCED
        if self._mail.reverse_path == "" or not wants(recipient, Notify.FAILURE):
            kind = FateKind.DISCARDED
        else:
            over = _LATE if self._late else _EXPIRED
            self._failures.append(self._failure(recipient, outcome, over if expired else None))
        self._effects.append(Fate(self._mail.mail_id, recipient.address, kind, _words(outcome)))

    def _warn(self, recipient: PendingRecipient, outcome: Outcome) -> bool:
        """Note a delay that the sender should know of; returns whether the sender has been told by now."""
        if recipient.warned or not self._overdue or self._mail.reverse_path == "":
            return recipient.warned
        if not wants(recipient, Notify.DELAY):
            return False
        self._delayed.append(self._failure(recipient, outcome, None))
        return True

    @property
    def _overdue(self) -> bool:
        """Whether the mail is so late that its sender is told: by the schedule, or by what he asked (RFC 2852)."""
        after, wanted_by = self._schedule.warn_after, due_time(self._mail)
        return (after is not None and self._age >= after) or (wanted_by is not None and self._now >= wanted_by)

    def _confirm(self, recipient: PendingRecipient, outcome: Outcome) -> None:
        """Note a success that the sender wants to hear of, unless the host that took the mail will tell it."""
        wanted = not self._dsn and wants(recipient, Notify.SUCCESS)
        traced = not self._final and asks_for_trace(self._mail, recipient)
        if self._mail.reverse_path == "" or not (wanted or traced):
            return
        self._successes.append(
            Success(
                recipient=recipient.address,
                relayed=not self._final,
                status=outcome.enhanced or "2.0.0",
                diagnostic=_words(outcome),
                remote_host=self._remote_host,
                options=recipient.options,
            )
        )

    def _failure(self, recipient: PendingRecipient, outcome: Outcome, status: str | None) -> Failure:
        # A refusal of the session, or of further recipients, is none of the mail: it says 5, and the mail is put off.
        kind = "5" if outcome.verdict is Verdict.NEVER else "4"
        known = outcome.enhanced or self._status or "0.0.0"
        words = _words(outcome)
        return Failure(
            recipient=outcome.recipient,
            status=status or f"{kind}{known[1:]}",
            diagnostic=None if outcome.reply is None else words,
            reason=words,
            remote_host=self._remote_host,
            options=recipient.options,
        )

    def results(self) -> Results:
        reports: list[Durable] = []
        if self._failures:
            reports.append(Bounce(self._mail, tuple(self._failures)))
        if self._successes:
            reports.append(Confirmation(self._mail, tuple(self._successes)))
        if self._delayed:
            retry_until = self._mail.accepted_at + self._schedule.give_up_after
            if (until := deadline(self._mail)) is not None:
                retry_until = min(retry_until, until)
            reports.append(DelayWarning(self._mail, tuple(self._delayed), retry_until))
        return Results((*reports, *self._jobs), tuple(self._effects), min(self._due, default=None))


def _turns(job: Job, outcomes: Sequence[Outcome]) -> list[_Turn]:
    anew = all(recipient.last_words for recipient in job.recipients)
    return [_turn(recipient, outcome, anew) for recipient, outcome in zip(job.recipients, outcomes, strict=True)]


def _turn(recipient: PendingRecipient, outcome: Outcome, anew: bool) -> _Turn:
    if not isinstance(outcome.error, LimitReached):
        return _Turn.NAMED
    return _Turn.TO_COME if anew or not recipient.last_words else _Turn.HAD


def _words(outcome: Outcome) -> str:
    words = str(outcome.reply if outcome.reply is not None else outcome.error)
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}..."
