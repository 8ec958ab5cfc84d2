"""A relay machine on a bench: facts are made short to say, and the last batch of orders stays at hand.

What lives here: the bench, and the reports that tests put on it. What does not: any test.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from smtpcore import (
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    Reply,
    SessionError,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.relay import (
    Continue,
    Delivery,
    DomainsLoaded,
    Fact,
    Job,
    MailAccepted,
    OpenSession,
    Orders,
    PendingRecipient,
    Relay,
    RelaySettings,
    Reported,
    Route,
    Schedule,
    SmartHost,
    StoredMail,
    TimePassed,
    recipients_by_domain,
)

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
START = 1_800_000_000.0
SCHEDULE = Schedule(delays=(5 * MINUTE, HOUR), warn_after=4 * HOUR, give_up_after=2 * DAY, spread=0.0)
#: One delivery at a time, so that what follows from what is plain to see.
SETTINGS = RelaySettings(reporting_mta="relay.example", schedule=SCHEDULE, deliveries_ahead=1)

TAKEN = Reply(250, ("2.0.0 taken",))
BUSY = Reply(451, ("4.3.0 later, please",))
UNKNOWN = Reply(550, ("5.1.1 no such user",))

_Order = TypeVar("_Order")


class OwnHosts:
    """Each domain has a host of its own."""

    def way(self, domain: str) -> SmartHost:
        return SmartHost(f"mx.{domain}")


class Bench:
    """A machine on a bench: facts are made short to say, and the last batch of orders stays at hand."""

    def __init__(self, route: Route | None = None, **changes: object) -> None:
        settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]  # arguments by name
        self.relay = Relay(settings, route or SmartHost("smart.example"))
        self.now = START
        self.orders = Orders()
        self._ids = 0
        self.tell(TimePassed())
        self.tell(DomainsLoaded((), True, None))

    def tell(self, *facts: Fact) -> Orders:
        self.orders = self.relay.handle(facts, self.now)
        return self.orders

    def mail(self, *recipients: str, sender: str = "me@home.example", age: float = 0.0) -> MailAccepted:
        self._ids += 1
        mail = StoredMail(
            mail_id=self._ids,
            reverse_path=sender,
            size=10,
            eight_bit=False,
            leading_dots=False,
            accepted_at=self.now - age,
        )
        jobs: list[Job] = []
        for domain, members in recipients_by_domain(recipients):
            self._ids += 1
            pending = tuple(PendingRecipient(member) for member in members)
            jobs.append(
                Job(
                    job_id=self._ids,
                    mail_id=mail.mail_id,
                    domain=domain,
                    due_at=self.now,
                    attempts=0,
                    recipients=pending,
                )
            )
        return MailAccepted(mail, tuple(jobs))

    def accept(self, *recipients: str, sender: str = "me@home.example", age: float = 0.0) -> Orders:
        return self.tell(self.mail(*recipients, sender=sender, age=age))

    def effects(self, kind: type[_Order]) -> list[_Order]:
        return [effect for effect in self.orders.effects if isinstance(effect, kind)]

    def durable(self, kind: type[_Order]) -> list[_Order]:
        return [order for order in self.orders.durable if isinstance(order, kind)]

    def effect(self, kind: type[_Order]) -> _Order:
        (effect,) = self.effects(kind)
        return effect

    def order(self, kind: type[_Order]) -> _Order:
        (order,) = self.durable(kind)
        return order

    @property
    def work(self) -> list[OpenSession | Continue]:
        return [effect for effect in self.orders.effects if isinstance(effect, (OpenSession, Continue))]


def reported(work: OpenSession | Continue, *replies: Reply, stage: Stage = Stage.BODY_ENDED) -> Reported:
    """The report that each recipient was answered so; the last reply stands for all further ones."""
    recipients = work.delivery.envelope.recipients
    said = [*replies, *[replies[-1]] * len(recipients)]
    outcomes = tuple(Outcome(to, verdict(reply), reply) for to, reply in zip(recipients, said, strict=False))
    return Reported(work.session_id, work.delivery.delivery_id, report(work.delivery, outcomes, stage))


def failed(work: OpenSession | Continue, error: SessionError, stage: Stage, *, in_doubt: bool = False) -> Reported:
    outcomes = tuple(
        Outcome(to, Verdict.LATER, error.reply, error, in_doubt) for to in work.delivery.envelope.recipients
    )
    return Reported(work.session_id, work.delivery.delivery_id, report(work.delivery, outcomes, stage))


def report(delivery: Delivery, outcomes: tuple[Outcome, ...], stage: Stage) -> MailSent | MailRefused:
    mail = Mail(delivery.envelope)
    taken = next((o.reply for o in outcomes if o.verdict is Verdict.DELIVERED and o.reply is not None), None)
    if taken is None:
        return MailRefused(mail, outcomes, stage, Transcript())
    return MailSent(mail, outcomes, taken, stage, Transcript())


def verdict(reply: Reply) -> Verdict:
    if reply.positive:
        return Verdict.DELIVERED
    return Verdict.NEVER if reply.permanent else Verdict.LATER
