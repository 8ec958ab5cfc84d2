"""A pool machine on the bench: facts by hand, orders written down, a clock that is turned.

What lives here: short words for what tests say to the machine. What does not: any expectation.
"""

from __future__ import annotations

from typing import Any

from smtpcore import (
    ConnectionLost,
    Envelope,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    Reply,
    Report,
    ServiceRefused,
    SmtpError,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.pool import (
    Answer,
    CloseSession,
    DropSession,
    Fact,
    GiveMail,
    MailAsked,
    MailWithdrawn,
    OpenSession,
    Order,
    PoolMachine,
    PoolSettings,
    Reported,
    Retries,
    SessionEnded,
    SessionOpened,
    ShutDown,
    TimePassed,
)

OK = Reply(250, ("2.0.0 taken",))
NOT_NOW = Reply(451, ("4.2.0 come back later",))
NO = Reply(550, ("5.1.1 nobody",))
LOST = ConnectionLost("the peer closed the connection")
GOODBYE = ServiceRefused("the peer refuses service: 421 bye", reply=Reply(421, ("bye",)))

#: Delays without spread, so that tests can name the times.
PLAIN = Retries(spread=0.0)


def outcome(recipient: str, what: Reply | SmtpError | str) -> Outcome:
    """``what``: a reply, an error, or ``"doubt"``."""
    if isinstance(what, Reply):
        verdict = Verdict.DELIVERED if what.positive else Verdict.NEVER if what.permanent else Verdict.LATER
        return Outcome(recipient, verdict, what)
    if isinstance(what, str):
        return Outcome(recipient, Verdict.LATER, None, LOST, in_doubt=True)
    return Outcome(recipient, Verdict.LATER, None, what)


def report(envelope: Envelope, *what: Reply | SmtpError | str, stage: Stage = Stage.BODY_ENDED) -> Report:
    outcomes = tuple(outcome(to, said) for to, said in zip(envelope.recipients, what, strict=True))
    mail = Mail(envelope)
    if any(o.verdict is Verdict.DELIVERED for o in outcomes):
        return MailSent(mail, outcomes, OK, stage, Transcript())
    return MailRefused(mail, outcomes, stage, Transcript())


class Bench:
    """A machine, the time, and what it ordered."""

    def __init__(self, **settings: Any) -> None:
        self.machine = PoolMachine(PoolSettings(**{"retries": PLAIN, **settings}))
        self.now = 100.0
        self.answers: dict[int, Report] = {}
        self._mails = 0
        self._given: dict[int, list[GiveMail]] = {}

    def tell(self, *facts: Fact) -> list[str]:
        """Hand in a batch of facts; the orders as short words, answers also by the number of their mail."""
        return [self._word(order) for order in self.machine.handle(facts, self.now)]

    def _word(self, order: Order) -> str:
        if isinstance(order, OpenSession):
            return f"open {order.session_id}{' ahead' if order.ahead else ''}"
        if isinstance(order, GiveMail):
            self._given.setdefault(order.session_id, []).append(order)
            return f"give {order.mail_id} to {order.session_id}"
        if isinstance(order, CloseSession):
            return f"close {order.session_id}"
        if isinstance(order, DropSession):
            return f"drop {order.session_id}"
        assert isinstance(order, Answer)
        assert order.mail_id not in self.answers, "answered twice"
        self.answers[order.mail_id] = order.report
        return f"answer {order.mail_id}"

    @property
    def sessions(self) -> tuple[int, int, int]:
        """Sessions being opened or closed, at work, parked."""
        status = self.machine.status
        return status.opening + status.closing, status.at_work, status.parked

    def ask(self, *recipients: str, repeatable: bool = True) -> list[str]:
        self._mails += 1
        to = recipients or ("b@there.example",)
        return self.tell(MailAsked(self._mails, Envelope("a@here.example", to), repeatable))

    def withdraw(self, mail_id: int) -> list[str]:
        return self.tell(MailWithdrawn(mail_id))

    def opened(self, *sessions: int) -> list[str]:
        return self.tell(*[SessionOpened(session) for session in sessions])

    def ended(self, session: int, error: SmtpError | None = LOST) -> list[str]:
        return self.tell(SessionEnded(session, error))

    def envelope(self, session: int) -> Envelope:
        """What the session was given last."""
        return self._given[session][-1].envelope

    def reported(
        self,
        session: int,
        *what: Reply | SmtpError | str,
        stage: Stage = Stage.BODY_ENDED,
        end: SmtpError | None = None,
    ) -> list[str]:
        """The report of the mail that the session got first, and with ``end`` the end of the session, in one batch."""
        facts: list[Fact] = [self.report_of(session, *what, stage=stage)]
        if end is not None:
            facts.append(SessionEnded(session, end))
        return self.tell(*facts)

    def report_of(self, session: int, *what: Reply | SmtpError | str, stage: Stage = Stage.BODY_ENDED) -> Reported:
        given = self._given[session].pop(0)
        said = what or [OK] * len(given.envelope.recipients)
        return Reported(session, given.mail_id, report(given.envelope, *said, stage=stage))

    def wait(self, seconds: float) -> list[str]:
        self.now += seconds
        return self.tell(TimePassed())

    def shut_down(self) -> list[str]:
        return self.tell(ShutDown())

    def verdicts(self, mail_id: int) -> list[str]:
        return [str(outcome) for outcome in self.answers[mail_id].outcomes]
