"""Helpers for tests of the relay machine: mails, jobs, reports, and a short way to hand in facts.

What lives here: making values. What does not: any expectation.
"""

from __future__ import annotations

from smtpcore import Mail, MailRefused, MailSent, Outcome, Reply, SmtpError, Stage, Transcript, Verdict
from smtpcore.relay import (
    Delivery,
    Job,
    MailAccepted,
    NextHop,
    PendingRecipient,
    Relay,
    RelaySettings,
    Schedule,
    StoredMail,
)

START = 1_800_000_000.0


class ByDomain:
    """Each domain is a destination of its own."""

    def next_hop(self, domain: str) -> NextHop:
        return NextHop(f"mx.{domain}", 25)


def settings(**changes: object) -> RelaySettings:
    values: dict[str, object] = {"reporting_mta": "relay.example", "schedule": Schedule(spread=0.0), **changes}
    return RelaySettings(**values)  # type: ignore[arg-type]


def stored(mail_id: int = 1, reverse_path: str = "me@home.example", **changes: object) -> StoredMail:
    values: dict[str, object] = {"size": 10, "eight_bit": False, "leading_dots": False, "accepted_at": START, **changes}
    return StoredMail(mail_id=mail_id, reverse_path=reverse_path, **values)  # type: ignore[arg-type]


def job(job_id: int, mail_id: int, *recipients: str, **changes: object) -> Job:
    values: dict[str, object] = {"due_at": START, "attempts": 0, **changes}
    domain = recipients[0].partition("@")[2]
    pending = tuple(PendingRecipient(recipient) for recipient in recipients)
    return Job(job_id=job_id, mail_id=mail_id, domain=domain, recipients=pending, **values)  # type: ignore[arg-type]


def accepted(number: int, *recipients: str, reverse_path: str = "me@home.example") -> MailAccepted:
    return MailAccepted(stored(number, reverse_path), (job(number, number, *recipients),))


def report(delivery: Delivery, *codes: int, stage: Stage | None = None, error: SmtpError | None = None):
    """A report in which each recipient was told a code; one code may stand for all."""
    recipients = delivery.envelope.recipients
    codes = codes * len(recipients) if len(codes) == 1 else codes
    outcomes = tuple(
        Outcome(to, verdict(code), Reply(code, ("in so many words",)), error)
        for to, code in zip(recipients, codes, strict=True)
    )
    mail = Mail(delivery.envelope)
    if any(outcome.verdict is Verdict.DELIVERED for outcome in outcomes):
        return MailSent(mail, outcomes, Reply(250, ("taken",)), stage or Stage.BODY_ENDED, Transcript())
    return MailRefused(mail, outcomes, Stage.STARTED if stage is None else stage, Transcript())


def verdict(code: int) -> Verdict:
    return {2: Verdict.DELIVERED, 4: Verdict.LATER, 5: Verdict.NEVER}[code // 100]


def of_kind(orders, kind):
    """The orders of one kind, durable or not."""
    return [order for order in (*orders.durable, *orders.effects) if isinstance(order, kind)]


def machine(**changes: object) -> Relay:
    return Relay(settings(**changes), ByDomain())
