"""A pool of sessions to one host for blocking programs: mails in, one report for each, whatever becomes of connections.

What lives here: one thread for each session, one that owns the machine, and the callers' waiting. What does not: any
decision, which is the machine's (:mod:`smtpcore.pool`); SMTP, which is the blocking driver's.

Only the owner's thread touches the machine; all others put facts into its inbox. So a signal that interrupts a caller,
at whatever instruction, finds nothing half done.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeAlias, Unpack

from smtpcore import (
    DEFAULT_LIMITS,
    DeliveryFailed,
    Envelope,
    LocalProtocolError,
    MailRefused,
    MailSent,
    Report,
    SessionAborted,
    SmtpError,
    Verdict,
)
from smtpcore.drivers._connecting.interruptible import Interruptible
from smtpcore.drivers._connecting.race import Way
from smtpcore.drivers._pooling import (
    PoolOptions,
    Readers,
    asking_credentials,
    body_facts,
    checked_window,
    is_repeatable,
    make_settings,
    refused_here,
    rewindable,
    session_options,
    unforeseen,
)
from smtpcore.drivers._session.bodies import Source
from smtpcore.drivers._session.cut_short import answers_of, in_doubt
from smtpcore.drivers._session.options import Options, check_envelope, make_envelope, rehearse_options
from smtpcore.drivers._session.supply import check_pair, iterator_of
from smtpcore.drivers.blocking import Session, connect
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
    PoolStatus,
    Reported,
    SessionEnded,
    SessionOpened,
    ShutDown,
)

__all__ = ["Pool"]

_log = logging.getLogger(__name__)

#: The longest wait of the clock's thread, in seconds: what fits into any system call.
_LONGEST_WAIT = 86_400.0

#: What ``send_many`` takes: envelopes with their messages.
Mails: TypeAlias = "Iterable[tuple[Envelope, Source]]"


class _Mail:
    """A mail whose answer somebody waits for."""

    def __init__(
        self, mail_id: int, envelope: Envelope, message: Source, repeatable: bool, batch: _Batch | None
    ) -> None:
        self.mail_id = mail_id
        self.envelope = envelope
        self.message = message
        self.repeatable = repeatable
        self.batch = batch
        self.report: Report | None = None
        #: Why the mail may not go out, if that was found by the session.
        self.refusal: LocalProtocolError | None = None
        #: Whether nobody waits for the answer any more.
        self.withdrawn = False
        #: Set when it is answered, or withdrawn and in no session's hand.
        self.ended = threading.Event()

    @property
    def over(self) -> bool:
        """Whether its message will not be read again."""
        return self.ended.is_set()

    def answer(self, report: Report) -> None:
        self.report = report
        self.ended.set()
        if self.batch is not None:
            self.batch.ended.put(self)


class _Line:
    """A session's thread as its pool sees it: what it has to do, and how to stop it."""

    def __init__(self, order: OpenSession, options: Options, hold: Callable[[_Line], None]) -> None:
        self.session_id = order.session_id
        self.ahead = order.ahead
        self.connection = Interruptible(session_options(options, ahead=order.ahead))
        name = f"smtpcore pool: session {order.session_id}"
        self.thread = threading.Thread(target=hold, args=(self,), name=name, daemon=True)
        #: The mails in hand, for the owner.
        self.hand: dict[int, _Mail] = {}
        self.dropped = False
        self._work: queue.SimpleQueue[tuple[GiveMail, _Mail] | None] = queue.SimpleQueue()
        #: For the session's thread: mails that are begun and not reported, and the session's last report before them.
        self.session: Session | None = None
        self._begun: deque[tuple[GiveMail, _Mail]] = deque()
        self._before: Report | None = None
        self._over = False

    # --- for the owner ---------------------------------------------------------------------------------------------

    def give(self, order: GiveMail, mail: _Mail) -> None:
        self.hand[order.mail_id] = mail
        self._work.put((order, mail))

    def close(self) -> None:
        self._work.put(None)

    def drop(self) -> None:
        self.dropped = True
        self._work.put(None)
        self.connection.interrupt()

    def release(self, mail_id: int) -> None:
        """A mail is in this session's hand no more."""
        mail = self.hand.pop(mail_id)
        if mail.withdrawn:
            mail.ended.set()

    # --- for the session's thread ----------------------------------------------------------------------------------

    def begin(self) -> tuple[GiveMail, _Mail] | None:
        """Wait for the mail that is next; ``None`` when the session is to be closed or has been dropped."""
        work = None if self._over else self._work.get()
        if work is None or self.dropped:
            self._over = True
            return None
        assert self.session is not None
        if not self._begun:
            self._before = self.session.last_report
        self._begun.append(work)
        return work

    def supply(self, first: tuple[GiveMail, _Mail]) -> Iterator[tuple[Envelope, Source]]:
        """The mails that were given, one after the other, for as long as there are any."""
        work: tuple[GiveMail, _Mail] | None = first
        while work is not None:
            order, mail = work
            yield order.envelope, mail.message
            work = None if self._work.empty() else self.begin()

    def reported(self, report: Report) -> Reported:
        """The first mail that was begun is done with."""
        assert self.session is not None
        order, _ = self._begun.popleft()
        self._before = self.session.last_report
        return Reported(self.session_id, order.mail_id, report)

    def refused(self, error: LocalProtocolError) -> Reported:
        """The mail that was begun last may not go out."""
        order, mail = self._begun[-1]
        mail.refusal = error
        return self.reported(refused_here(order.envelope, error))

    def cut_short(self) -> list[Fact]:
        """What became of the mails that were begun, when the session ended before it reported them."""
        answers = answers_of(self.session, [order.envelope for order, _ in self._begun], self._before)
        return [self.reported(report) for report in answers]


class _Batch:
    """The mails of one ``send_many`` whose reports have not been taken."""

    def __init__(self) -> None:
        #: In the order of the input, and those that are answered in the order of their answers.
        self.mails: deque[_Mail] = deque()
        self.ended: queue.SimpleQueue[_Mail] = queue.SimpleQueue()

    def ready(self, *, in_order: bool) -> bool:
        """Whether there is a report that may be given out at once."""
        return self.mails[0].ended.is_set() if in_order else not self.ended.empty()

    def take(self, *, in_order: bool) -> Report:
        """Wait for the report that is next to be given out."""
        if in_order:
            mail = self.mails[0]
            mail.ended.wait()
        else:
            mail = self.ended.get()
        self.mails.remove(mail)
        assert mail.report is not None
        return mail.report


class Pool:
    """Keeps sessions to one host and sends mail over them, as a context manager.

    ``options`` are those of ``connect``, ``settings`` those of :class:`smtpcore.pool.PoolSettings`. Leaving the block
    lets the mails in the hands of sessions come to their ends, answers all others, and ends the sessions with QUIT;
    leaving it by an exception drops everything. Any number of threads may send at once.

    ``credentials`` that are a function are asked for each session: what it raises is the answer to all that waits, as
    ``CredentialsUnavailable``, and what the peer refused is not said again until the function gives something else. A
    unix socket is reached by the ``connect`` option; the host is then the name that TLS verifies.
    """

    def __init__(
        self, host: str, port: int = 25, options: Options | None = None, **settings: Unpack[PoolOptions]
    ) -> None:
        self._host = host
        self._port = port
        given: Options = {} if options is None else options
        rehearse_options(given, Way(host, port))
        self._options, self._credentials = asking_credentials(given)
        self._limits = self._options.get("limits", DEFAULT_LIMITS)
        self._settings = make_settings(self._options, settings)
        seed = int.from_bytes(os.urandom(4))
        self._machine = PoolMachine(self._settings, seed, credentials_asked=self._credentials is not None)
        self._mails: dict[int, _Mail] = {}
        #: Asked and told under the gate.
        self._readers = Readers()
        self._numbers = itertools.count(1)
        self._lines: dict[int, _Line] = {}
        self._threads: list[threading.Thread] = []
        self._inbox: queue.SimpleQueue[tuple[Fact, ...]] = queue.SimpleQueue()
        #: Held while a mail is put before the owner, or the pool is closed, so that none comes after its closing.
        self._gate = threading.Lock()
        self._owner: threading.Thread | None = None
        self._closed = False
        self._dropping = False
        self._status = self._machine.status

    # --- what users call --------------------------------------------------------------------------------------------

    def send(
        self, message: Source, *, sender: str | None = None, recipients: Sequence[str] | str | None = None
    ) -> MailSent:
        """Send one message; sender and recipients default to what an email object's header says.

        Returns the report when at least one recipient accepted it; its outcomes say what happened to each. Raises
        ``DeliveryFailed``, which carries the report, when none did, after the last retry; ``LocalProtocolError`` for
        what may not go out, and when the pool is closed. Interrupting it drops the session that has the mail in hand.
        """
        source = rewindable(message, self._limits.body_chunk)
        facts = body_facts(source, self._limits.body_chunk)
        report = self.deliver(make_envelope(message, sender, recipients, facts), source)
        if isinstance(report, MailRefused):
            raise DeliveryFailed(report)
        return report

    def deliver(self, envelope: Envelope, message: Source) -> Report:
        """Send one mail and return its report, whatever it says; the envelope declares what is known of the body."""
        mail = self._make_mail(envelope, message, None)
        try:
            self._ask(mail)
            mail.ended.wait()
        finally:
            if mail.report is None and mail.mail_id in self._mails:
                self._inbox.put((MailWithdrawn(mail.mail_id),))
                mail.ended.wait()
        if mail.refusal is not None:
            raise mail.refusal
        assert mail.report is not None
        return mail.report

    def send_many(self, mails: Mails, *, window: int | None = None) -> Generator[Report, None, None]:
        """Send mails out of an iterable over all sessions at once; the reports come in its order.

        There is one report for each, also for one that may not go out; ``report.mail.envelope`` is the very envelope
        that was given. The input is read by the thread that asks for reports; at most ``window`` mails are taken from
        it whose reports have not been taken; default: twice as many as the sessions may have in hand, and no less than
        100. What the input raises is raised after the reports of the mails before it. Leaving early withdraws what is
        under way. Raises ``LocalProtocolError`` when the pool is closed.
        """
        return self._many(mails, window, in_order=True)

    def send_many_as_completed(self, mails: Mails, *, window: int | None = None) -> Generator[Report, None, None]:
        """As :meth:`send_many`, each report as soon as it is there."""
        return self._many(mails, window, in_order=False)

    @property
    def status(self) -> PoolStatus:
        """What is going on: sessions, mails that wait, and whether the host rests."""
        return self._status

    @property
    def is_open(self) -> bool:
        """Whether mail can be sent: within the block, and not once it is being left."""
        return self._owner is not None and not self._closed

    def __enter__(self) -> Self:
        if self._owner is not None:
            raise LocalProtocolError("a pool is entered once")
        self._owner = threading.Thread(target=self._own, name="smtpcore pool", daemon=True)
        self._owner.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._owner is not None
        try:
            self._shut(dropping=kind is not None)
            self._owner.join()
        except BaseException:
            self._shut(dropping=True)
            self._owner.join()
            raise

    def _shut(self, *, dropping: bool) -> None:
        with self._gate:
            self._closed = True
            self._dropping = dropping
            self._inbox.put((ShutDown(),))

    # --- the owner of the machine -----------------------------------------------------------------------------------

    def _own(self) -> None:
        try:
            while not (self._closed and self._machine.idle and self._inbox.empty()):
                facts = self._next_facts()
                for fact in facts:
                    self._note(fact)
                for order in self._machine.handle(facts, time.monotonic()):
                    self._perform(order)
                self._status = self._machine.status
                if self._dropping:
                    for line in self._lines.values():
                        line.drop()
        finally:
            with self._gate:
                self._closed = True
            for line in self._lines.values():
                line.drop()
                for mail_id in list(line.hand):
                    line.release(mail_id)
            for mail in self._mails.values():
                mail.answer(in_doubt(mail.envelope, "the pool broke down"))
            for thread in self._threads:
                thread.join()

    def _next_facts(self) -> list[Fact]:
        """Wait for what comes, but not beyond the time when the machine wants to be woken."""
        wake_at = self._machine.wake_at
        seconds = _LONGEST_WAIT if wake_at is None else max(0.0, min(wake_at - time.monotonic(), _LONGEST_WAIT))
        facts: list[Fact] = []
        with contextlib.suppress(queue.Empty):
            facts += self._inbox.get(timeout=seconds)
            while True:
                facts += self._inbox.get_nowait()
        return facts

    def _note(self, fact: Fact) -> None:
        """Keep up with what the machine is about to be told."""
        if isinstance(fact, Reported):
            self._lines[fact.session_id].release(fact.mail_id)
        elif isinstance(fact, SessionEnded):
            line = self._lines.pop(fact.session_id)
            for mail_id in list(line.hand):
                line.release(mail_id)
        elif isinstance(fact, MailWithdrawn):
            mail = self._mails.pop(fact.mail_id, None)
            if mail is not None:
                mail.withdrawn = True
                if not any(fact.mail_id in line.hand for line in self._lines.values()):
                    mail.ended.set()

    def _perform(self, order: Order) -> None:
        if isinstance(order, Answer):
            # Or else the caller withdrew it while the answer was on its way.
            if order.mail_id in self._mails:
                self._mails.pop(order.mail_id).answer(order.report)
        elif isinstance(order, OpenSession):
            line = _Line(order, self._options, self._hold_session)
            self._lines[order.session_id] = line
            try:
                line.thread.start()
            except RuntimeError as error:
                self._inbox.put((SessionEnded(order.session_id, SessionAborted(f"no thread for it: {error}")),))
            else:
                self._threads = [thread for thread in self._threads if thread.is_alive()] + [line.thread]
        elif order.session_id in self._lines:
            # Or else the session has ended meanwhile, and the machine knows it.
            self._direct(self._lines[order.session_id], order)

    def _direct(self, line: _Line, order: GiveMail | CloseSession | DropSession) -> None:
        if isinstance(order, GiveMail):
            line.give(order, self._mails[order.mail_id])
        elif isinstance(order, CloseSession):
            line.close()
        else:
            line.drop()

    # --- mails ------------------------------------------------------------------------------------------------------

    def _make_mail(self, envelope: Envelope, message: Source, batch: _Batch | None) -> _Mail:
        self._check_open()
        check_envelope(envelope)
        envelope.check_limits(self._limits)
        message = rewindable(message, self._limits.body_chunk)
        repeatable = is_repeatable(message, self._limits.body_chunk)
        mail = _Mail(next(self._numbers), envelope, message, repeatable, batch)
        with self._gate:
            self._readers.enter(message, mail)
        return mail

    def _ask(self, mail: _Mail) -> None:
        with self._gate:
            self._check_open()
            self._mails[mail.mail_id] = mail
            self._inbox.put((MailAsked(mail.mail_id, mail.envelope, mail.repeatable),))

    def _check_open(self) -> None:
        if not self.is_open:
            raise LocalProtocolError("the pool is not open: send within its `with` block")

    def _many(self, mails: Mails, window: int | None, *, in_order: bool) -> Generator[Report, None, None]:
        self._check_open()
        most = checked_window(window, self._settings)
        batch = _Batch()
        source = iterator_of(mails)
        failure: Exception | None = None
        complete = False
        try:
            while batch.mails or not complete:
                while not complete and len(batch.mails) < most and not (batch.mails and batch.ready(in_order=in_order)):
                    try:
                        pair = next(source)
                        check_pair(pair)
                        self._add(batch, *pair)
                    except StopIteration:
                        complete = True
                    except Exception as error:
                        failure, complete = error, True
                if batch.mails:
                    yield batch.take(in_order=in_order)
            if failure is not None:
                raise failure
        finally:
            self._inbox.put(tuple(MailWithdrawn(mail.mail_id) for mail in batch.mails))

    def _add(self, batch: _Batch, envelope: Envelope, message: Source) -> None:
        try:
            mail = self._make_mail(envelope, message, batch)
        except LocalProtocolError as error:
            self._check_open()
            mail = _Mail(next(self._numbers), envelope, message, False, batch)
            batch.mails.append(mail)
            mail.answer(refused_here(envelope, error))
        else:
            batch.mails.append(mail)
            self._ask(mail)

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _hold_session(self, line: _Line) -> None:
        """One session from connecting to its end; whatever happens, the machine is told."""
        error: SmtpError | None = None
        last: list[Fact] = []
        try:
            with connect(self._host, self._port, **line.connection.options) as session:
                line.session = session
                self._inbox.put((SessionOpened(line.session_id),))
                last = self._serve(session, line)
                error = None if session.end is None else session.end.error
                if line.dropped:
                    session.close()
        except SmtpError as failure:
            error = failure
            if self._credentials is not None:
                self._credentials.note_end(error)
        except Exception as failure:
            error = unforeseen(_log, line.session_id, failure)
        finally:
            line.connection.close()
            self._inbox.put((*last, *line.cut_short(), SessionEnded(line.session_id, error)))

    def _serve(self, session: Session, line: _Line) -> list[Fact]:
        """Send what the machine gives to an open session, until either has had enough.

        What the machine has not been told then belongs into one batch with the session's end.
        """
        while (work := line.begin()) is not None:
            facts = self._send_ahead(session, line, work) if line.ahead else self._send_one(session, line, *work)
            if session.end is not None:
                return facts
            self._inbox.put(tuple(facts))
        return []

    def _send_one(self, session: Session, line: _Line, order: GiveMail, mail: _Mail) -> list[Fact]:
        try:
            return [line.reported(session.deliver(order.envelope, mail.message))]
        except LocalProtocolError as error:
            return [line.refused(error)]
        except SmtpError:
            # The session had ended while it was parked: nothing was begun.
            return []

    def _send_ahead(self, session: Session, line: _Line, first: tuple[GiveMail, _Mail]) -> list[Fact]:
        """Send all that was given, and what is given meanwhile, before the verdicts are there."""
        facts: list[Fact] = []
        try:
            for report in session.send_many(line.supply(first)):
                facts.append(line.reported(report))
                if not any(outcome.verdict is Verdict.LATER for outcome in report.outcomes):
                    # Otherwise it may be that the session is at its end, which is known a little later.
                    self._inbox.put(tuple(facts))
                    facts.clear()
        except LocalProtocolError as error:
            facts.append(line.refused(error))
        except SmtpError:
            # The session had ended, and what was not reported was not begun.
            pass
        return facts
