"""The pool: which mail goes over which session and when, decided by a machine without clock, socket or dice.

What lives here: the machine. What does not: how the reports of one mail are put together (``_mail``), and everything
that waits.

How it works
============

**Facts in, orders out.** Whoever drives the machine hands it what has come, with the time, and performs the orders in
their turn. No order waits for anything.

**A mail is bound to a session only when that session is free.** Until then all mails wait in one queue, in the order
in which they came or fell due again. So a session that opens slowly holds up nobody, and a mail that is withdrawn
costs at most the session that has it in hand.

**A session may be given several mails at once,** if the settings say so, for a client that runs ahead of the replies.
The price is that of all pipelining across mails: when such a session breaks, each mail that was complete without a
verdict is in doubt. A host that broke the protocol is given one mail at a time from then on.

**An attempt counts once it has cost something.** A session that was parked may be found closed when it is taken up
again; a mail that was not begun then goes back to the head of the queue, and nothing is counted. Each such return uses
up a session that has served at least one mail, so there is an end to it.

**A host fails as a whole, or it does not.** When a session cannot be opened, or breaks before it has served one mail,
no other is opened for a while, longer each time, and then one alone until one has opened. While other sessions live
the waiting mails lose nothing by it; when there is none, each of them has failed an attempt.

**Some failures do not pass by waiting.** TLS or AUTH that cannot be had, or options that cannot be used, are the answer
to all that waits. Credentials that were refused are remembered: no session is opened again, for nobody may say the same
wrong password twice; unless whoever opens sessions asks for the credentials each time and minds that himself.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from smtpcore._errors import (
    AuthDeclined,
    BodyError,
    ConnectionLost,
    LimitReached,
    LocalProtocolError,
    RemoteProtocolError,
    SessionAborted,
    SessionError,
    SmtpError,
)
from smtpcore._events import Stage, Verdict
from smtpcore.pool._facts import (
    Answer,
    CloseSession,
    DropSession,
    Fact,
    GiveMail,
    MailAsked,
    MailWithdrawn,
    OpenSession,
    Order,
    PoolStatus,
    Reported,
    SessionEnded,
    SessionOpened,
    ShutDown,
)
from smtpcore.pool._mail import PooledMail
from smtpcore.pool._settings import PoolSettings

__all__ = ["PoolMachine"]


@dataclass(slots=True)
class _Session:
    """A session that was ordered and has not ended."""

    session_id: int
    #: How many mails it may have in hand.
    room: int
    opened_at: float | None = None
    idle_since: float = 0.0
    #: The mails that it has and has not reported, in the order in which they were given.
    hand: dict[int, PooledMail] = field(default_factory=dict[int, PooledMail])
    #: Mails given to it, and those reported; and whether one was served: a verdict, or a session that went on.
    mails: int = 0
    reports: int = 0
    served: bool = False
    closing: bool = False


class PoolMachine:
    """The machine. ``handle`` takes facts and answers with orders; ``wake_at`` says when to call it without any.

    ``seed`` is any number that keeps the retries of many pools apart. ``credentials_asked`` says that each session asks
    for its credentials and is not opened with any that were refused, so that a refusal holds for the time of the rest.
    """

    def __init__(self, settings: PoolSettings, seed: int = 0, *, credentials_asked: bool = False) -> None:
        self._settings = settings
        self._seed = seed
        self._credentials_asked = credentials_asked
        self._mails: dict[int, PooledMail] = {}
        self._queue: deque[PooledMail] = deque()
        #: Mails whose next attempt is not due yet: ``(due at, number, mail)``.
        self._delayed: list[tuple[float, int, PooledMail]] = []
        self._delays = 0
        self._sessions: dict[int, _Session] = {}
        #: Sessions that could take a mail, the one that came free last at the end.
        self._free: list[_Session] = []
        self._opening = 0
        self._sessions_ordered = 0
        #: Failures of the host as a whole, in a row.
        self._failures = 0
        self._resting_until: float | None = None
        #: Whether the last session that was to be opened did open.
        self._reachable = False
        #: Whether the host lost step in a dialogue that ran ahead: it is given one mail at a time from then on.
        self._out_of_step = False
        #: What kept a session from opening and would keep any other: for the time of the rest, or for ever.
        self._refusal: SmtpError | None = None
        self._next_mail_at = 0.0
        self._stopping = False
        self._orders: list[Order] = []

    # --- the face ---------------------------------------------------------------------------------------------------

    def handle(self, facts: Iterable[Fact], now: float) -> tuple[Order, ...]:
        """Take in all facts that have come, and decide."""
        for fact in facts:
            self._take_in(fact, now)
        self._mind_the_clock(now)
        self._assign(now)
        orders = tuple(self._orders)
        self._orders.clear()
        return orders

    @property
    def wake_at(self) -> float | None:
        """When to call ``handle`` though nothing happened; ``None`` for never."""
        times = [
            min(session.idle_since + self._settings.idle_seconds, self._expires_at(session))
            for session in self._free
            if not session.hand
        ]
        if self._delayed:
            times.append(self._delayed[0][0])
        if self._queue and self._free:
            times.append(self._next_mail_at)
        if self._queue and self._resting_until is not None:
            times.append(self._resting_until)
        return min(times, default=None)

    @property
    def idle(self) -> bool:
        """Whether all sessions have ended and all mails are answered."""
        return not self._sessions and not self._mails

    @property
    def status(self) -> PoolStatus:
        """What is going on, for a live view."""
        sessions = self._sessions.values()
        at_work = sum(bool(session.hand) for session in sessions)
        parked = sum(not session.hand for session in self._free)
        return PoolStatus(
            opening=self._opening,
            at_work=at_work,
            parked=parked,
            closing=len(sessions) - self._opening - at_work - parked,
            waiting=len(self._queue) + len(self._delayed),
            resting_until=self._resting_until,
        )

    # --- facts ------------------------------------------------------------------------------------------------------

    def _take_in(self, fact: Fact, now: float) -> None:
        if isinstance(fact, MailAsked):
            self._asked(fact)
        elif isinstance(fact, MailWithdrawn):
            self._withdrawn(fact)
        elif isinstance(fact, SessionOpened):
            self._session_opened(fact, now)
        elif isinstance(fact, Reported):
            self._reported(fact, now)
        elif isinstance(fact, SessionEnded):
            self._session_ended(fact, now)
        elif isinstance(fact, ShutDown):
            self._shut_down()

    def _asked(self, fact: MailAsked) -> None:
        if fact.mail_id in self._mails:
            raise LocalProtocolError("the number of a mail is another's", fact.mail_id)
        mail = self._mails[fact.mail_id] = PooledMail(fact.mail_id, fact.envelope, fact.repeatable)
        if self._stopping:
            self._answer(mail, _closed())
        else:
            self._queue.append(mail)

    def _withdrawn(self, fact: MailWithdrawn) -> None:
        mail = self._mails.pop(fact.mail_id, None)
        if mail is None:
            return
        if mail.session_id is not None:
            if not self._sessions[mail.session_id].closing:
                self._drop(self._sessions[mail.session_id])
        elif mail in self._queue:
            self._queue.remove(mail)
        else:
            self._delayed = [delayed for delayed in self._delayed if delayed[2] is not mail]
            heapq.heapify(self._delayed)
        if not self._queue and not self._delayed:
            self._drop_openings()

    def _session_opened(self, fact: SessionOpened, now: float) -> None:
        session = self._sessions.get(fact.session_id)
        if session is None or session.opened_at is not None:
            return
        session.opened_at = session.idle_since = now
        self._opening -= 1
        self._reachable = True
        if not session.closing:
            self._free.append(session)

    def _reported(self, fact: Reported, now: float) -> None:
        session = self._sessions.get(fact.session_id)
        if session is None or fact.mail_id not in session.hand:
            return
        outcomes = fact.report.outcomes
        if fact.report.stage is Stage.NOT_STARTED and any(o.verdict is Verdict.LATER for o in outcomes):
            # The mail stays in hand until it is known how the session ended.
            return
        mail = session.hand.pop(fact.mail_id)
        session.reports += 1
        session.idle_since = now
        if any(o.verdict is not Verdict.LATER or isinstance(o.error, BodyError) for o in outcomes):
            # A body that broke says nothing against the host.
            self._served(session)
        if not session.closing and session not in self._free:
            self._free.append(session)
        if mail.mail_id in self._mails:
            mail.session_id = None
            mail.report(fact.report)
            self._delay_or_answer(mail, now)

    def _session_ended(self, fact: SessionEnded, now: float) -> None:
        session = self._sessions.pop(fact.session_id, None)
        if session is None:
            return
        if session.opened_at is None:
            self._opening -= 1
        if session in self._free:
            self._free.remove(session)
        if isinstance(fact.error, RemoteProtocolError):
            self._out_of_step = True
        not_begun = [mail for mail in session.hand.values() if mail.mail_id in self._mails]
        for mail in not_begun:
            mail.session_id = None
        error = fact.error or ConnectionLost("the session ended before the mail was begun")
        if self._stopping:
            for mail in not_begun:
                mail.fail(error)
                self._answer(mail, error)
            return
        if not session.closing and not session.served and not isinstance(fact.error, LimitReached):
            self._host_failed(error, now)
            not_begun = [mail for mail in not_begun if self._fail(mail, error)]
        self._queue.extendleft(reversed(not_begun))

    def _shut_down(self) -> None:
        self._stopping = True
        for mail in [mail for mail in self._mails.values() if mail.session_id is None]:
            self._answer(mail, _closed())
        self._queue.clear()
        self._delayed.clear()
        self._drop_openings()

    # --- what failures mean -----------------------------------------------------------------------------------------

    def _host_failed(self, error: SmtpError, now: float) -> None:
        """A session could not be opened, or was of no use: open none for a while, and then one alone."""
        self._reachable = False
        if self._resting_until is None:
            self._failures += 1
            self._resting_until = now + self._settings.retries.delay(self._seed, 0, self._failures)
        lasting = not error.retryable if isinstance(error, SessionError) else isinstance(error, LocalProtocolError)
        if lasting and not self._refused_for_ever:
            self._refusal = error
        elif not self._alive:
            self._queue = deque(mail for mail in self._queue if self._fail(mail, error))

    @property
    def _refused_for_ever(self) -> bool:
        return isinstance(self._refusal, AuthDeclined) and not self._credentials_asked

    def _fail(self, mail: PooledMail, error: SmtpError) -> bool:
        """Note a failed attempt; whether there may be another, or else the mail is answered."""
        mail.fail(error)
        if mail.retry(self._settings.retries):
            return True
        self._answer(mail, error)
        return False

    def _delay_or_answer(self, mail: PooledMail, now: float) -> None:
        if self._stopping or not mail.retry(self._settings.retries):
            self._answer(mail, _closed())
            return
        if mail.cut_short:
            self._queue.appendleft(mail)
            return
        due_at = now + self._settings.retries.delay(self._seed, mail.mail_id, mail.attempts)
        self._delays += 1
        heapq.heappush(self._delayed, (due_at, self._delays, mail))

    def _answer(self, mail: PooledMail, error: SmtpError) -> None:
        del self._mails[mail.mail_id]
        self._orders.append(Answer(mail.mail_id, mail.answer(error)))

    def _served(self, session: _Session) -> None:
        session.served = True
        self._failures = 0

    @property
    def _alive(self) -> bool:
        """Whether a session is open, or may still open."""
        return any(not session.closing for session in self._sessions.values())

    # --- what comes next --------------------------------------------------------------------------------------------

    def _mind_the_clock(self, now: float) -> None:
        """End the rest that is over, queue what has fallen due, and close sessions that have served their time."""
        if self._resting_until is not None and now >= self._resting_until:
            self._resting_until = None
            if not self._refused_for_ever:
                self._refusal = None
        while self._delayed and self._delayed[0][0] <= now:
            self._queue.append(heapq.heappop(self._delayed)[2])
        for session in list(self._free):
            idle = not session.hand and now >= session.idle_since + self._settings.idle_seconds
            used_up = session.mails >= self._settings.mails_per_session or now >= self._expires_at(session)
            if idle or used_up or self._stopping:
                self._free.remove(session)
                if not session.hand:
                    session.closing = True
                    self._orders.append(CloseSession(session.session_id))

    def _expires_at(self, session: _Session) -> float:
        assert session.opened_at is not None
        return session.opened_at + self._settings.session_seconds

    def _assign(self, now: float) -> None:
        """Give what waits to sessions: to those that are free, and to new ones while the limits allow."""
        if self._refusal is not None and not self._alive:
            self._refuse_all(self._refusal)
        while self._queue and self._free and now >= self._next_mail_at:
            self._give(self._queue.popleft(), min(reversed(self._free), key=lambda session: len(session.hand)))
            self._next_mail_at = now + 1 / self._settings.mails_per_second
        if not self._free:
            for _ in range(math.ceil(len(self._queue) / self._room) - self._opening):
                if not self._may_open:
                    break
                self._open()

    def _refuse_all(self, refusal: SmtpError) -> None:
        for mail in list(self._mails.values()):
            mail.fail(refusal)
            self._answer(mail, refusal)
        self._queue.clear()
        self._delayed.clear()

    def _give(self, mail: PooledMail, session: _Session) -> None:
        if session.reports:
            self._served(session)
        session.mails += 1
        session.hand[mail.mail_id] = mail
        if len(session.hand) >= session.room or session.mails >= self._settings.mails_per_session:
            self._free.remove(session)
        mail.session_id = session.session_id
        self._orders.append(GiveMail(session.session_id, mail.mail_id, mail.next_envelope))

    @property
    def _may_open(self) -> bool:
        openings = self._settings.openings if self._reachable else 1
        in_service = self._resting_until is None and self._refusal is None
        return in_service and self._opening < openings and len(self._sessions) < self._settings.sessions

    def _open(self) -> None:
        self._sessions_ordered += 1
        session = _Session(self._sessions_ordered, self._room)
        self._sessions[session.session_id] = session
        self._opening += 1
        self._orders.append(OpenSession(session.session_id, ahead=session.room > 1))

    @property
    def _room(self) -> int:
        """How many mails a new session may have in hand."""
        return 1 if self._out_of_step else self._settings.mails_at_once

    def _drop(self, session: _Session) -> None:
        if session in self._free:
            self._free.remove(session)
        session.closing = True
        self._orders.append(DropSession(session.session_id))

    def _drop_openings(self) -> None:
        for session in self._sessions.values():
            if session.opened_at is None and not session.closing:
                self._drop(session)


def _closed() -> SessionAborted:
    return SessionAborted("the pool was closed")
