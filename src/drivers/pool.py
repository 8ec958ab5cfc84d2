"""A pool of sessions to one host, on asyncio or trio: mails in, one report for each, whatever becomes of connections.

What lives here: one task for each session, one for the clock, and the callers' waiting. What does not: any decision,
which is the machine's (:mod:`smtpcore.pool`); SMTP, which is the wire driver's.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from types import ModuleType, TracebackType
from typing import Protocol, Self, TypeAlias, Unpack

try:
    import anyio
    import anyio.lowlevel
    import sniffio
    from anyio.abc import TaskGroup
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the pool for asyncio and trio needs the extra smtpcore[pool]: {error}", name=error.name
    ) from error

from smtpcore import (
    DEFAULT_LIMITS,
    DeliveryFailed,
    Disconnect,
    Envelope,
    LocalProtocolError,
    MailRefused,
    MailSent,
    Report,
    SessionAborted,
    SmtpError,
    Verdict,
)
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
from smtpcore.drivers._session.bodies import AsyncSource
from smtpcore.drivers._session.cut_short import CutShort, answers_of
from smtpcore.drivers._session.options import Options, check_envelope, make_envelope, rehearse_options
from smtpcore.drivers._session.supply import check_pair, iterator_of
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
    TimePassed,
)

__all__ = ["Pool"]

_log = logging.getLogger(__name__)

#: What ``send_many`` takes: envelopes with their messages.
Mails: TypeAlias = "Iterable[tuple[Envelope, AsyncSource]] | AsyncIterable[tuple[Envelope, AsyncSource]]"


class _Session(CutShort, Protocol):
    """What the pool asks of a wire driver's session."""

    @property
    def end(self) -> Disconnect | None: ...

    async def deliver(self, envelope: Envelope, message: AsyncSource) -> Report: ...

    def send_many(self, mails: Iterable[tuple[Envelope, AsyncSource]]) -> AsyncGenerator[Report, None]: ...


class _Mail:
    """A mail whose answer somebody waits for."""

    def __init__(self, mail_id: int, message: AsyncSource, batch: _Batch | None) -> None:
        self.mail_id = mail_id
        self.message = message
        self.batch = batch
        self.report: Report | None = None
        #: Why the mail may not go out, if that was found by the session.
        self.refusal: LocalProtocolError | None = None
        self.answered = anyio.Event()
        #: Set while no session has the message in hand.
        self.at_rest = anyio.Event()
        self.at_rest.set()
        self.withdrawn = False

    @property
    def over(self) -> bool:
        """Whether its message will not be read again."""
        return (self.withdrawn or self.answered.is_set()) and self.at_rest.is_set()

    def answer(self, report: Report) -> None:
        self.report = report
        self.answered.set()
        if self.batch is not None:
            self.batch.ended.append(self)
            self.batch.news.set()


class _Line:
    """A session's task as its pool sees it: what it has to do, and how to stop it."""

    def __init__(self, session_id: int) -> None:
        self.session_id = session_id
        self.scope = anyio.CancelScope()
        self.session: _Session | None = None
        self.closing = False
        #: Mails that were given and not begun, and those that are begun and not reported.
        self._given: deque[tuple[GiveMail, _Mail]] = deque()
        self._begun: deque[tuple[GiveMail, _Mail]] = deque()
        #: The session's last report before it began those.
        self._before: Report | None = None
        self._news = anyio.Event()

    def give(self, order: GiveMail, mail: _Mail) -> None:
        mail.at_rest = anyio.Event()
        self._given.append((order, mail))
        self._news.set()

    def close(self) -> None:
        self.closing = True
        self._news.set()

    async def has_work(self) -> bool:
        """Wait for a mail; false when the session is to be closed."""
        while not self._given and not self.closing:
            self._news = anyio.Event()
            await self._news.wait()
        return bool(self._given)

    def begin(self) -> tuple[GiveMail, _Mail]:
        """The mail that is next."""
        assert self.session is not None
        if not self._begun:
            self._before = self.session.last_report
        work = self._given.popleft()
        self._begun.append(work)
        return work

    def supply(self) -> Iterator[tuple[Envelope, AsyncSource]]:
        """The mails that were given, one after the other, for as long as there are any."""
        while self._given:
            order, mail = self.begin()
            yield order.envelope, mail.message

    def reported(self, report: Report) -> Reported:
        """The first mail that was begun is done with."""
        assert self.session is not None
        order, mail = self._begun.popleft()
        mail.at_rest.set()
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

    def release(self) -> None:
        """The mails that are left are in this session's hand no more."""
        for _, mail in (*self._begun, *self._given):
            mail.at_rest.set()


class _Batch:
    """The mails of one ``send_many`` whose reports have not been taken."""

    def __init__(self, window: int) -> None:
        self._window = window
        #: In the order of the input, and those that are answered in the order of their answers.
        self.mails: deque[_Mail] = deque()
        self.ended: deque[_Mail] = deque()
        #: Whether the input has come to its end, and what it raised.
        self.complete = False
        self.failure: BaseException | None = None
        #: Set by whatever the consumer or the feeder may wait for.
        self.news = anyio.Event()

    @property
    def full(self) -> bool:
        return len(self.mails) >= self._window

    async def change(self) -> None:
        """Wait until something happens; the consumer and the feeder may both do so."""
        if self.news.is_set():
            self.news = anyio.Event()
        await self.news.wait()

    def take(self, *, in_order: bool) -> Report | None:
        """A report that may be given out, if there is one."""
        if not self.ended:
            return None
        mail = self.mails[0] if in_order else self.ended[0]
        if mail.report is not None:
            self.mails.remove(mail)
            self.ended.remove(mail)
            self.news.set()
        return mail.report


class Pool:
    """Keeps sessions to one host and sends mail over them, as an async context manager.

    ``options`` are those of ``connect``, ``settings`` those of :class:`smtpcore.pool.PoolSettings`. Leaving the block
    lets the mails in the hands of sessions come to their ends, answers all others, and ends the sessions with QUIT;
    leaving it by an exception drops everything. Any number of tasks of its event loop may send at once.

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
        self._readers = Readers()
        self._mails_asked = 0
        self._lines: dict[int, _Line] = {}
        self._tasks: TaskGroup | None = None
        self._driver: ModuleType | None = None
        #: The event loop in which it was opened.
        self._loop: object = None
        self._closed = False
        #: Until when the clock's task sleeps, and what wakes it earlier.
        self._sleeping_until = math.inf
        self._wake: anyio.Event
        #: Set once the pool is closed and all sessions have ended.
        self._empty: anyio.Event

    # --- what users call --------------------------------------------------------------------------------------------

    async def send(
        self, message: AsyncSource, *, sender: str | None = None, recipients: Sequence[str] | str | None = None
    ) -> MailSent:
        """Send one message; sender and recipients default to what an email object's header says.

        Returns the report when at least one recipient accepted it; its outcomes say what happened to each. Raises
        ``DeliveryFailed``, which carries the report, when none did, after the last retry; ``LocalProtocolError`` for
        what may not go out, and when the pool is closed. Cancelling it drops the session that has the mail in hand.
        """
        source = rewindable(message, self._limits.body_chunk)
        facts = body_facts(source, self._limits.body_chunk)
        report = await self.deliver(make_envelope(message, sender, recipients, facts), source)
        if isinstance(report, MailRefused):
            raise DeliveryFailed(report)
        return report

    async def deliver(self, envelope: Envelope, message: AsyncSource) -> Report:
        """Send one mail and return its report, whatever it says; the envelope declares what is known of the body."""
        mail = self._ask(envelope, message, None)
        try:
            await mail.answered.wait()
        finally:
            if mail.report is None:
                self._withdraw(mail)
                with anyio.CancelScope(shield=True):
                    await mail.at_rest.wait()
        if mail.refusal is not None:
            raise mail.refusal
        assert mail.report is not None
        return mail.report

    def send_many(self, mails: Mails, *, window: int | None = None) -> AsyncGenerator[Report, None]:
        """Send mails out of an iterable, sync or async, over all sessions at once; the reports come in its order.

        There is one report for each, also for one that may not go out; ``report.mail.envelope`` is the very envelope
        that was given. At most ``window`` mails are taken from the input whose reports have not been taken; default:
        twice as many as the sessions may have in hand, and no less than 100. What the input raises is raised after the
        reports of the mails before it. Leaving early withdraws what is under way: use ``contextlib.aclosing``. Raises
        ``LocalProtocolError`` when the pool is closed.
        """
        return self._many(mails, window, in_order=True)

    def send_many_as_completed(self, mails: Mails, *, window: int | None = None) -> AsyncGenerator[Report, None]:
        """As :meth:`send_many`, each report as soon as it is there."""
        return self._many(mails, window, in_order=False)

    @property
    def status(self) -> PoolStatus:
        """What is going on: sessions, mails that wait, and whether the host rests."""
        return self._machine.status

    @property
    def is_open(self) -> bool:
        """Whether mail can be sent: within the block, and not once it is being left."""
        return self._tasks is not None and not self._closed

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise LocalProtocolError("a pool is entered once")
        self._driver = _driver()
        self._loop = anyio.lowlevel.current_token()
        self._wake, self._empty = anyio.Event(), anyio.Event()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._mind_the_clock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._closed = True
        self._tell(ShutDown())
        try:
            if kind is None and not self._machine.idle:
                await self._empty.wait()
        finally:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)

    # --- the owner of the machine -----------------------------------------------------------------------------------

    def _tell(self, *facts: Fact) -> None:
        for order in self._machine.handle(facts, anyio.current_time()):
            self._perform(order)
        wake_at = self._machine.wake_at
        if wake_at is not None and wake_at < self._sleeping_until:
            self._wake.set()
        if self._closed and self._machine.idle:
            self._empty.set()

    def _perform(self, order: Order) -> None:
        if isinstance(order, Answer):
            self._mails.pop(order.mail_id).answer(order.report)
        elif isinstance(order, OpenSession):
            assert self._tasks is not None
            line = self._lines[order.session_id] = _Line(order.session_id)
            self._tasks.start_soon(self._hold_session, line, order.ahead)
        elif order.session_id in self._lines:
            # Or else the session has ended meanwhile, and the machine knows it.
            self._direct(self._lines[order.session_id], order)

    def _direct(self, line: _Line, order: GiveMail | CloseSession | DropSession) -> None:
        if isinstance(order, GiveMail):
            line.give(order, self._mails[order.mail_id])
        elif isinstance(order, CloseSession):
            line.close()
        else:
            line.scope.cancel()

    async def _mind_the_clock(self) -> None:
        while True:
            self._wake = anyio.Event()
            wake_at = self._machine.wake_at
            self._sleeping_until = math.inf if wake_at is None else wake_at
            with anyio.CancelScope(deadline=self._sleeping_until) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                self._tell(TimePassed())

    # --- mails ------------------------------------------------------------------------------------------------------

    def _ask(self, envelope: Envelope, message: AsyncSource, batch: _Batch | None) -> _Mail:
        self._check_open()
        check_envelope(envelope)
        envelope.check_limits(self._limits)
        message = rewindable(message, self._limits.body_chunk)
        repeatable = is_repeatable(message, self._limits.body_chunk)
        self._mails_asked += 1
        mail = _Mail(self._mails_asked, message, batch)
        self._readers.enter(message, mail)
        self._mails[mail.mail_id] = mail
        self._tell(MailAsked(mail.mail_id, envelope, repeatable))
        return mail

    def _check_open(self) -> None:
        if not self.is_open:
            raise LocalProtocolError("the pool is not open: send within its `async with` block")
        if anyio.lowlevel.current_token() != self._loop:
            raise LocalProtocolError("the pool belongs to another event loop: send within the one that opened it")

    def _withdraw(self, mail: _Mail) -> None:
        mail.withdrawn = True
        if self._mails.pop(mail.mail_id, None) is not None:
            self._tell(MailWithdrawn(mail.mail_id))

    async def _many(self, mails: Mails, window: int | None, *, in_order: bool) -> AsyncGenerator[Report, None]:
        self._check_open()
        assert self._tasks is not None
        batch = _Batch(checked_window(window, self._settings))
        scope = anyio.CancelScope()
        self._tasks.start_soon(self._feed, mails, batch, scope)
        try:
            while batch.mails or not batch.complete:
                report = batch.take(in_order=in_order)
                if report is None:
                    await batch.change()
                else:
                    yield report
            if batch.failure is not None:
                raise batch.failure
        finally:
            scope.cancel()
            for mail in batch.mails:
                self._withdraw(mail)

    async def _feed(self, mails: Mails, batch: _Batch, scope: anyio.CancelScope) -> None:
        """Take mails from the input while there is room for them."""
        batch.failure = LocalProtocolError("the pool was closed before all mails were taken")
        try:
            with scope:
                if isinstance(mails, AsyncIterable):
                    async for pair in mails:
                        check_pair(pair)
                        await self._add(batch, *pair)
                else:
                    for pair in iterator_of(mails):
                        check_pair(pair)
                        await self._add(batch, *pair)
                batch.failure = None
        except Exception as error:
            batch.failure = error
        except anyio.get_cancelled_exc_class() as error:
            if _cancelled_from_outside():
                raise
            # The input waited for something else that was cancelled: that is no reason to end the pool.
            batch.failure = error
        finally:
            batch.complete = True
            batch.news.set()

    async def _add(self, batch: _Batch, envelope: Envelope, message: AsyncSource) -> None:
        """Ask for a mail, and wait until there is room for another."""
        try:
            mail = self._ask(envelope, message, batch)
        except LocalProtocolError as error:
            if self._closed:
                raise
            mail = _Mail(0, message, batch)
            mail.answer(refused_here(envelope, error))
        batch.mails.append(mail)
        await anyio.lowlevel.checkpoint()
        while batch.full:
            await batch.change()

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def _hold_session(self, line: _Line, ahead: bool) -> None:
        """One session from connecting to its end; whatever happens, the machine is told."""
        error: SmtpError | None = None
        last: list[Fact] = []
        try:
            with line.scope:
                assert self._driver is not None
                options = session_options(self._options, ahead=ahead)
                async with await self._driver.connect(self._host, self._port, **options) as session:
                    line.session = session
                    self._tell(SessionOpened(line.session_id))
                    last = await self._serve(session, line, ahead=ahead)
                    error = None if session.end is None else session.end.error
            if line.scope.cancelled_caught:
                error = SessionAborted("the session was dropped")
        except SmtpError as failure:
            error = failure
            if self._credentials is not None:
                self._credentials.note_end(error)
        except Exception as failure:
            error = unforeseen(_log, line.session_id, failure)
        except anyio.get_cancelled_exc_class():
            if _cancelled_from_outside():
                raise
            error = SessionAborted("something that the session waited for was cancelled")
        finally:
            last += line.cut_short()
            line.release()
            del self._lines[line.session_id]
            self._tell(*last, SessionEnded(line.session_id, error))

    async def _serve(self, session: _Session, line: _Line, *, ahead: bool) -> list[Fact]:
        """Send what the machine gives to an open session, until either has had enough.

        What the machine has not been told then belongs into one batch with the session's end.
        """
        while await line.has_work():
            facts = await (self._send_ahead(session, line) if ahead else self._send_one(session, line))
            if session.end is not None:
                return facts
            self._tell(*facts)
        return []

    async def _send_one(self, session: _Session, line: _Line) -> list[Fact]:
        order, mail = line.begin()
        try:
            return [line.reported(await session.deliver(order.envelope, mail.message))]
        except LocalProtocolError as error:
            return [line.refused(error)]
        except SmtpError:
            # The session had ended while it was parked: nothing was begun.
            return []

    async def _send_ahead(self, session: _Session, line: _Line) -> list[Fact]:
        """Send all that was given, and what is given meanwhile, before the verdicts are there."""
        facts: list[Fact] = []
        try:
            async with contextlib.aclosing(session.send_many(line.supply())) as reports:
                async for report in reports:
                    facts.append(line.reported(report))
                    if not any(outcome.verdict is Verdict.LATER for outcome in report.outcomes):
                        # Otherwise it may be that the session is at its end, which is known a little later.
                        self._tell(*facts)
                        facts.clear()
        except LocalProtocolError as error:
            facts.append(line.refused(error))
        except SmtpError:
            # The session had ended, and what was not reported was not begun.
            pass
        return facts


def _cancelled_from_outside() -> bool:
    """Whether this task is cancelled, and not merely something that it waited for (asyncio tells them not apart)."""
    return anyio.current_effective_deadline() == -math.inf


def _driver() -> ModuleType:
    """The wire driver for the event loop that runs."""
    name = "trio" if sniffio.current_async_library() == "trio" else "asyncio"
    return importlib.import_module(f"smtpcore.drivers.{name}")
