"""The relay at work: the pure machine bound to a spool, to sessions and to the clock, on asyncio or trio.

What lives here: one owner of the machine with one inbox of facts, and one task for each session. What does not: any
decision about mail, which is the machine's; SQL, which is the spool's; SMTP, which is the wire driver's.

The owner's loop is the whole story: take all facts that have come, let the machine decide, commit and load in one
worker thread, perform the effects, wait for more. Facts that come while a commit is under way form the next batch, so
commits group themselves when there is much to do.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import BinaryIO, Protocol

import anyio
import anyio.to_thread
import sniffio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from smtpcore import (
    DEFAULT_LIMITS,
    Envelope,
    LocalProtocolError,
    Mail,
    MailRefused,
    Outcome,
    Report,
    SessionAborted,
    SessionError,
    SmtpError,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.drivers._bodies import Body, Source, make_body
from smtpcore.drivers._options import Options, make_envelope
from smtpcore.drivers.spool import Prepared, Spool, SpoolError
from smtpcore.relay import (
    Attempted,
    CloseSession,
    Continue,
    Delivery,
    Effect,
    Fact,
    Fate,
    Host,
    OpenSession,
    Orders,
    Relay,
    RelaySettings,
    Reported,
    Route,
    SessionEnded,
    ShutDown,
    SpoolChanged,
)

__all__ = ["RelayService"]

_log = logging.getLogger(__name__)

#: Seconds between looks for what other processes have added.
_WATCH = 0.5
#: The longest wait in seconds: the wall clock may jump while we wait on another one.
_LONGEST_WAIT = 60.0

_Work = tuple[Delivery, bytes | BinaryIO]


class _Session(Protocol):
    """What the service asks of a wire driver's session."""

    last_report: Report | None

    async def deliver(self, envelope: Envelope, message: bytes | BinaryIO) -> Report: ...


class RelayService:
    """Relays what is in ``spool`` along ``route``, over sessions held as ``options`` say.

    ``notice`` is called with every :class:`smtpcore.relay.Fate` and :class:`smtpcore.relay.Attempted`, once it is safe
    in the spool. ``grace`` is how many seconds a delivery on its way has to finish after :meth:`stop`.
    """

    def __init__(
        self,
        spool: Spool,
        route: Route,
        settings: RelaySettings,
        options: Options | None = None,
        *,
        notice: Callable[[Fate | Attempted], None] | None = None,
        grace: float = 10.0,
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._options: Options = options if options is not None else {}
        self._notice = notice
        self._grace = grace
        self._relay = Relay(settings, route)
        self._facts: deque[Fact] = deque()
        #: Holds while the spool is written and what came of it is put among the facts, so that both have one order.
        self._order = threading.Lock()
        self._arrived = anyio.Event()
        self._sessions: dict[int, MemoryObjectSendStream[_Work]] = {}
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._driver: ModuleType | None = None
        self._stopping = False
        self._failure: SpoolError | None = None

    @property
    def relay(self) -> Relay:
        """The machine, for a live view of its destinations."""
        return self._relay

    # --- what users call --------------------------------------------------------------------------------------------

    async def submit(
        self, message: Source, *, sender: str | None = None, recipients: Sequence[str] | str | None = None
    ) -> int:
        """Accept a message and return its queue id: when this returns the message is safe.

        Sender and recipients default to what an email object's header says. A submission that is cancelled while it is
        being committed is finished. Raises ``LocalProtocolError``, :class:`smtpcore.drivers.spool.SpoolError`.
        """
        body = make_body(message, DEFAULT_LIMITS.body_chunk)
        envelope = make_envelope(message, sender, recipients, body.facts)
        prepared = await anyio.to_thread.run_sync(lambda: self._spool.prepare(envelope, _chunks(body)))
        mail_id = 0
        with anyio.CancelScope(shield=True):
            mail_id = await anyio.to_thread.run_sync(self._add, prepared)
        self._wake()
        return mail_id

    async def run(self, *, once: bool = False) -> None:
        """Relay until :meth:`stop`; with ``once`` until nothing that is due is left to do.

        Raises :class:`smtpcore.drivers.spool.SpoolError` when the spool is locked by another relay, or as soon as
        something cannot be recorded: no effect of the batch has been performed then, and the spool tells the truth.
        """
        self._driver = _driver()
        await anyio.to_thread.run_sync(self._spool.lock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            try:
                await self._decide(tasks, once=once)
            except SpoolError as error:
                self._failure = error
            tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begin no more deliveries; those on their way are finished, or broken off after the grace."""
        if not self._stopping:
            self._stopping = True
            self._put(ShutDown())

    # --- the owner --------------------------------------------------------------------------------------------------

    async def _decide(self, tasks: TaskGroup, *, once: bool) -> None:
        stopped_at: float | None = None
        while self._failure is None:
            facts = self._take_facts()
            orders = self._relay.handle(facts, time.time())
            if orders.durable or orders.effects:
                bodies = await anyio.to_thread.run_sync(self._execute, orders)
                for effect in orders.effects:
                    self._perform(tasks, effect, bodies)
            if once and not self._facts and self._relay.drained(time.time()):
                self.stop()
            if self._stopping:
                if self._relay.idle and not self._facts:
                    return
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() - stopped_at >= self._grace:
                    self._break_off()
            await self._wait()

    def _execute(self, orders: Orders) -> dict[int, bytes | BinaryIO]:
        with self._order:
            executed = self._spool.execute(orders, self._settings, time.time())
            self._facts.extend(executed.facts)
        return executed.bodies

    def _add(self, prepared: Prepared) -> int:
        with self._order:
            (accepted,) = self._spool.add([prepared], time.time())
            self._facts.append(accepted)
        return accepted.mail.mail_id

    def _take_facts(self) -> list[Fact]:
        self._arrived = anyio.Event()
        facts: list[Fact] = []
        while self._facts:
            facts.append(self._facts.popleft())
        return facts

    def _put(self, fact: Fact) -> None:
        self._facts.append(fact)
        self._wake()

    def _wake(self) -> None:
        self._arrived.set()

    async def _wait(self) -> None:
        """Wait until something has come, or until the machine wants to be woken."""
        if self._facts:
            return
        wake_at = self._relay.wake_at
        seconds = _LONGEST_WAIT if wake_at is None else min(max(0.0, wake_at - time.time()), _LONGEST_WAIT)
        if self._stopping:
            seconds = min(seconds, 1.0)
        with anyio.move_on_after(seconds):
            await self._arrived.wait()

    async def _watch(self) -> None:
        """Notice what other processes add."""
        while True:
            await anyio.sleep(_WATCH)
            try:
                if await anyio.to_thread.run_sync(self._spool.changed):
                    self._put(SpoolChanged())
            except SpoolError as error:
                self._failure = error
                self._wake()
                return

    # --- effects ----------------------------------------------------------------------------------------------------

    def _perform(self, tasks: TaskGroup, effect: Effect, bodies: dict[int, bytes | BinaryIO]) -> None:
        if isinstance(effect, OpenSession):
            send, receive = anyio.create_memory_object_stream[_Work](1)
            send.send_nowait((effect.delivery, bodies[effect.delivery.delivery_id]))
            self._sessions[effect.session_id] = send
            tasks.start_soon(self._hold_session, effect.session_id, effect.host, receive)
        elif isinstance(effect, Continue):
            work = (effect.delivery, bodies[effect.delivery.delivery_id])
            if effect.session_id in self._sessions:
                self._sessions[effect.session_id].send_nowait(work)
            else:
                # The session ended meanwhile, and the machine is about to hear of it.
                _close(work[1])
        elif isinstance(effect, CloseSession):
            if effect.session_id in self._sessions:
                self._sessions[effect.session_id].close()
        elif isinstance(effect, (Fate, Attempted)):
            _log_effect(effect)
            if self._notice is not None:
                self._notice(effect)

    def _break_off(self) -> None:
        for scope in self._scopes.values():
            scope.cancel()

    async def _hold_session(self, session_id: int, host: Host, work: MemoryObjectReceiveStream[_Work]) -> None:
        """One session from connecting to its end; whatever happens, the machine is told."""
        error: SessionError | None = None
        try:
            with anyio.CancelScope() as scope:
                self._scopes[session_id] = scope
                assert self._driver is not None
                options: Options = {"tls_server_name": host.name, **self._options} if host.address else self._options
                async with await self._driver.connect(host.address or host.name, host.port, **options) as session:
                    async for delivery, body in work:
                        await self._deliver(session_id, session, delivery, body)
                        if session.end is not None:
                            error = session.end.error
                            break
            if scope.cancelled_caught:
                error = SessionAborted("the relay is shutting down")
        except SessionError as failure:
            error = failure
        except Exception as failure:
            _log.exception("session %d failed in an unforeseen way", session_id)
            error = SessionAborted(f"unforeseen: {failure!r}")
        finally:
            self._scopes.pop(session_id, None)
            self._sessions.pop(session_id).close()
            with work, contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream):
                while True:
                    _close(work.receive_nowait()[1])
            self._put(SessionEnded(session_id, error))

    async def _deliver(self, session_id: int, session: _Session, delivery: Delivery, body: bytes | BinaryIO) -> None:
        report: Report | None = None
        envelope = delivery.envelope
        try:
            report = await session.deliver(envelope, body)
        except LocalProtocolError as error:
            report = _refused(delivery, error, Verdict.NEVER, Stage.NOT_STARTED)
        except SmtpError:
            # The session had ended while it was parked: the delivery was not begun, and the machine knows it.
            pass
        except Exception as error:
            _log.exception("delivery of mail %d failed in an unforeseen way", delivery.mail.mail_id)
            report = _refused(delivery, SmtpError(f"unforeseen: {error!r}"), Verdict.LATER, Stage.STARTED)
        except BaseException:
            # Cancelled: if the mail had been begun, the driver has the answer.
            last = session.last_report
            report = last if last is not None and last.mail.envelope is envelope else None
            raise
        finally:
            _close(body)
            if report is not None:
                self._put(Reported(session_id, delivery.delivery_id, report))


def _close(body: bytes | BinaryIO) -> None:
    if not isinstance(body, bytes):
        body.close()


def _refused(delivery: Delivery, error: SmtpError, verdict: Verdict, stage: Stage) -> MailRefused:
    envelope = delivery.envelope
    outcomes = tuple(Outcome(recipient, verdict, None, error) for recipient in envelope.recipients)
    return MailRefused(Mail(envelope), outcomes, stage, Transcript())


def _driver() -> ModuleType:
    """The wire driver for the event loop that runs."""
    name = "trio" if sniffio.current_async_library() == "trio" else "asyncio"
    return importlib.import_module(f"smtpcore.drivers.{name}")


def _chunks(body: Body) -> Iterable[bytes]:
    offset = 0
    with contextlib.closing(body):
        while chunk := body.read(offset):
            offset += len(chunk)
            yield chunk


def _log_effect(effect: Fate | Attempted) -> None:
    if isinstance(effect, Fate):
        _log.info("mail %d to <%s>: %s: %s", effect.mail_id, effect.recipient, effect.kind.value, effect.words)
    else:
        wait = max(0.0, effect.due_at - time.time())
        doubt = ", in doubt" if effect.in_doubt else ""
        _log.info(
            "mail %d to <%s>: attempt %d deferred%s, next in %.0f s: %s",
            effect.mail_id,
            effect.recipient,
            effect.attempts,
            doubt,
            wait,
            effect.words,
        )
