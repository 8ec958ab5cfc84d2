"""The relay at work on asyncio or trio: the pure machine bound to a spool, to sessions and to the clock.

What lives here: one task for each session, lookups and callbacks, on the event loop. What does not: any decision about
mail, which is the machine's; the loop over its facts and orders, which is the owner's; SMTP, which is the wire
driver's. :mod:`smtpcore.drivers.threads` is the same for blocking programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, Generic, Protocol, Self, TypeVar

try:
    import anyio
    import anyio.to_thread
    import sniffio
    from anyio.abc import TaskGroup
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"the relay service needs the extra smtpcore[relay]: {error}", name=error.name) from error

from smtpcore import Envelope, Report, SessionAborted, SessionError
from smtpcore.drivers._relaying.fates import RelayStopped, Tally, Watched
from smtpcore.drivers._relaying.owner import LOOKUPS, Bodies, Owner
from smtpcore.drivers._relaying.performing import Notice, Performing
from smtpcore.drivers._relaying.under_way import UnderWay, Wire
from smtpcore.drivers._relaying.work import (
    OptionsFor,
    Work,
    check_service,
    checked_options,
    close_body,
    log_cause,
    lookup_failed,
    prepare,
    prepare_with,
    shutting_down,
    unforeseen,
    way_to,
)
from smtpcore.drivers._session.bodies import Source
from smtpcore.drivers._session.options import Options
from smtpcore.drivers.spool import Spool
from smtpcore.relay import (
    DestinationView,
    DomainResolved,
    Effect,
    Fate,
    Host,
    OpenSession,
    RelaySettings,
    Route,
    SessionEnded,
)

__all__ = ["LooksUp", "RelayService", "RelayStopped", "Submission"]

_T = TypeVar("_T")
_Order = Callable[[], None] | None


class LooksUp(Protocol):
    """What answers questions about domains, such as :class:`smtpcore.drivers.resolver.AsyncResolver`."""

    async def resolve(self, domain: str) -> DomainResolved: ...


class Submission(Tally):
    """A mail that is safe in the spool; ``queue_id`` is its number there.

    Its fates are collected as long as this object is held on to: ask for them early or late, or let it go and nothing
    is kept. As an async iterator it gives every :class:`smtpcore.relay.Fate` as it becomes known, and ends with the
    last one. Waiting raises :class:`RelayStopped` when the relay is stopped first, or the error that stopped it.
    """

    _more: anyio.Event | None = None

    async def fates(self) -> tuple[Fate, ...]:
        """Wait until the fate of every recipient is known: one fate for each, in the order they became known."""
        return tuple([fate async for fate in self])

    async def __aiter__(self) -> AsyncIterator[Fate]:
        for index in range(len(self.recipients)):
            while (fate := self._at(index)) is None:
                self._more = self._more or anyio.Event()
                await self._more.wait()
            yield fate

    def note(self, fate: Fate) -> None:
        super().note(fate)
        self._wake()

    def end(self, failure: Exception | None) -> None:
        super().end(failure)
        self._wake()

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None


class RelayService:
    """Relays what is in ``spool`` along ``route``, over sessions held as ``options`` say, or say of each host.

    Two ways to use it: :meth:`run` relays until :meth:`stop`; ``async with`` relays in the background while the block
    lasts. Leaving the block stops the relay; when it failed, the error is raised there, and by every later
    :meth:`submit`. A service works once.

    ``notice`` is called on the event loop with every :class:`smtpcore.relay.Fate` and
    :class:`smtpcore.relay.Attempted`, once each, after it is safe in the spool; what it raises is logged. ``grace`` is
    how many seconds a delivery on its way has to finish when the relay is stopped; a task that is cancelled breaks off
    at once. In every case what was not delivered waits in the spool. ``resolver`` looks domains up where the route
    says so; default: :class:`smtpcore.drivers.resolver.AsyncResolver`. Raises ``LocalProtocolError`` for arguments of
    a wrong kind, and for options with which no session could be held.
    """

    def __init__(
        self,
        spool: Spool,
        route: Route,
        settings: RelaySettings,
        options: Options | OptionsFor | None = None,
        *,
        notice: Notice | None = None,
        grace: float = 10.0,
        resolver: LooksUp | None = None,
    ) -> None:
        check_service(spool, route, settings, notice, grace, resolver)
        self._spool = spool
        self._options = checked_options(options)
        self._notice = notice
        self._resolver = resolver
        self._watched = Watched(Submission)
        self._owner = Owner(spool, route, settings, self._watched, grace)
        self._tasks: TaskGroup | None = None
        self._ended: anyio.Event | None = None

    # --- what users call --------------------------------------------------------------------------------------------

    @property
    def destinations(self) -> tuple[DestinationView, ...]:
        """Every destination, for a live view; may be asked for from every thread."""
        return self._owner.destinations

    async def submit(
        self, message: Source, *, sender: str | None = None, recipients: Sequence[str] | str | None = None
    ) -> Submission:
        """Accept a message: when this returns it is safe.

        Sender and recipients default to what an email object's header says. A submission that is cancelled is finished
        first. Mails may be submitted before the relay runs. Raises ``LocalProtocolError``,
        :class:`smtpcore.drivers.spool.SpoolError`, and :class:`RelayStopped` once the relay has come to its end.
        """
        return await anyio.to_thread.run_sync(self._submit, message, sender, recipients)

    async def accept(self, envelope: Envelope, message: Source) -> Submission:
        """Accept a message with an envelope of one's own, which may ask for more; else as :meth:`submit`."""
        return await anyio.to_thread.run_sync(self._accept, envelope, message)

    def _accept(self, envelope: Envelope, message: Source) -> Submission:
        return self._owner.submit(prepare_with(self._spool, envelope, message))

    def _submit(self, message: Source, sender: str | None, recipients: Sequence[str] | str | None) -> Submission:
        return self._owner.submit(prepare(self._spool, message, sender, recipients))

    async def run(self, *, once: bool = False) -> None:
        """Relay until :meth:`stop`; with ``once`` until nothing that is due is left to do.

        Raises :class:`smtpcore.drivers.spool.SpoolError` when the spool is locked by another relay, or as soon as
        something cannot be recorded: no effect of the batch has been performed then, and the spool tells the truth.
        """
        await anyio.to_thread.run_sync(self._owner.open)
        await self._serve(once=once)
        if self._owner.failure is not None:
            raise self._owner.failure

    def stop(self, grace: float | None = None) -> None:
        """Begin no more deliveries; those on their way are finished, or broken off after ``grace`` seconds.

        May be called from every thread and from signal handlers; returns at once.
        """
        self._owner.stop(grace)

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self._owner.open)
        self._ended = anyio.Event()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._serve_in_background)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        # Whoever is cancelled or interrupted does not wait.
        self.stop(None if kind is None or issubclass(kind, Exception) else 0.0)
        try:
            await self._wait_for_the_end()
        finally:
            # The error of the block passes as it is, not as a group.
            await self._tasks.__aexit__(None, None, None)
        if kind is None and self._owner.failure is not None:
            raise self._owner.failure

    async def _wait_for_the_end(self) -> None:
        assert self._ended is not None
        try:
            await self._ended.wait()
        except BaseException:
            self.stop(0.0)
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
            raise

    # --- on the event loop ------------------------------------------------------------------------------------------

    async def _serve_in_background(self) -> None:
        try:
            await self._serve(once=False)
        finally:
            assert self._ended is not None
            self._ended.set()

    async def _serve(self, *, once: bool) -> None:
        """Do what the owner orders, until it has ended; if cancelled, break off and let it record what there is."""
        orders: _Inbox[_Order] = _Inbox()
        try:
            async with anyio.create_task_group() as tasks:
                sessions = _Sessions(self._owner, self._watched, self._notice, self._options, self._resolver, tasks)
                hands = _Hands(sessions, orders)
                owner = threading.Thread(target=self._own, args=(hands, once), name="relay owner", daemon=True)
                owner.start()
                try:
                    await _obey(orders, owner)
                except BaseException:
                    self.stop(0.0)
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await _obey(orders, owner)
                    raise
                # Lookups that nobody waits for any more.
                tasks.cancel_scope.cancel()
        finally:
            self._watched.end(self._owner.failure)

    def _own(self, hands: _Hands, once: bool) -> None:
        self._owner.run(hands, once=once)
        hands.finish()


class _Inbox(Generic[_T]):
    """A queue within one event loop."""

    def __init__(self) -> None:
        self._items: deque[_T] = deque()
        self._more: anyio.Event | None = None

    def put(self, item: _T) -> bool:
        self._items.append(item)
        if self._more is not None:
            self._more.set()
        return True

    async def get(self) -> _T:
        await self.wait()
        return self.pop()

    async def wait(self) -> None:
        """Wait until there is something."""
        while not self._items:
            self._more = anyio.Event()
            await self._more.wait()
        self._more = None

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def first(self) -> _T:
        """What comes next."""
        return self._items[0]

    def pop(self) -> _T:
        """Take what comes next."""
        return self._items.popleft()

    def rest(self) -> Sequence[_T]:
        """What nobody will ask for any more."""
        return tuple(self._items)


class _Ahead(_Inbox[Work | None]):
    """What lies ahead of a session: deliveries in their order; ``None`` ends it."""

    async def has_work(self) -> bool:
        """Wait for a delivery; false when the session is to end."""
        await self.wait()
        return self.first is not None

    def take(self) -> Work | None:
        """The next delivery, if it has come."""
        return self.pop() if self and self.first is not None else None


class _Session:
    """A session that was ordered and has not ended."""

    def __init__(self, session_id: int, host: Host) -> None:
        self.session_id = session_id
        self.host = host
        self.inbox = _Ahead()
        self.scope = anyio.CancelScope()


class _Wire(Wire, Protocol):
    """What the service asks of a wire driver's session."""

    def send_many(self, mails: Iterable[tuple[Envelope, bytes | BinaryIO]]) -> AsyncGenerator[Report, None]: ...


class _Sessions(Performing[_Session]):
    """The sessions and lookups: each a task on the event loop."""

    def __init__(
        self,
        owner: Owner[Submission],
        watched: Watched[Submission],
        notice: Notice | None,
        options: Options | OptionsFor,
        resolver: LooksUp | None,
        tasks: TaskGroup,
    ) -> None:
        super().__init__(watched, notice)
        self._owner = owner
        self._options = options
        self._resolver = resolver
        self._tasks = tasks
        self._driver = _driver()
        self._lookups = anyio.Semaphore(LOOKUPS)

    def _open_session(self, effect: OpenSession, first: Work) -> None:
        session = self.sessions[effect.session_id] = _Session(effect.session_id, effect.host)
        session.inbox.put(first)
        self._tasks.start_soon(self._hold, session)

    def break_off(self) -> None:
        """Break off all sessions that there are."""
        for session in self.sessions.values():
            session.scope.cancel()

    async def _hold(self, session: _Session) -> None:
        """One session from connecting to its end; whatever happens, the machine is told."""
        error: SessionError | None = shutting_down()
        try:
            with session.scope:
                error = await self._make_deliveries(session)
        except SessionError as failure:
            log_cause(f"session {session.session_id}", failure)
            error = failure
        except Exception as failure:
            error = SessionAborted(unforeseen(f"session {session.session_id}", failure))
        finally:
            del self.sessions[session.session_id]
            for work in session.inbox.rest():
                if work is not None:
                    close_body(work[1])
            self._owner.put(SessionEnded(session.session_id, error))

    async def _make_deliveries(self, session: _Session) -> SessionError | None:
        """Make the deliveries that come, until none will; returns what ended the session early, if anything did."""
        try:
            async with await self._connect(session.host) as connected:
                wire: _Wire = connected
                while await session.inbox.has_work():
                    await self._deliver(session, wire)
                    if wire.end is not None:
                        return wire.end.error
        except Exception:
            raise
        except BaseException:
            self._cancelled()
            raise
        return None

    async def _connect(self, host: Host) -> Any:
        where, options = way_to(host, self._options)
        if host.path:
            return await self._driver.connect_unix(where, **options)
        return await self._driver.connect(where, host.port, **options)

    async def _deliver(self, session: _Session, wire: _Wire) -> None:
        """Make the deliveries that lie ahead, and those that come meanwhile."""
        under_way = UnderWay(session.session_id, wire, self._owner.put)
        try:
            async with contextlib.aclosing(wire.send_many(under_way.supply(session.inbox.take))) as reports:
                async for report in reports:
                    under_way.reported(report)
        except Exception as error:
            under_way.failed(error)
        except BaseException:
            self._cancelled()
            under_way.given_up()
            raise
        finally:
            under_way.close()

    def _cancelled(self) -> None:
        """Sessions are broken off only when all ends: the machine must know it before it hears of them."""
        self._owner.stop(0.0)

    def _resolve(self, domain: str) -> None:
        self._tasks.start_soon(self._look_up, domain)

    async def _look_up(self, domain: str) -> None:
        async with self._lookups:
            try:
                if self._resolver is None:
                    from smtpcore.drivers.resolver import AsyncResolver

                    self._resolver = AsyncResolver()
                resolved = await self._resolver.resolve(domain)
            except Exception as error:
                resolved = lookup_failed(domain, error)
        self._owner.put(resolved)


class _Hands:
    """Brings what the owner orders onto the event loop, from the owner's thread."""

    def __init__(self, sessions: _Sessions, orders: _Inbox[_Order]) -> None:
        self._sessions = sessions
        self._orders = orders
        self._call = _from_other_threads()

    def perform(self, effects: Sequence[Effect], bodies: Bodies) -> None:
        self._call(self._orders.put, partial(self._sessions.perform, effects, bodies))

    def break_off(self) -> None:
        self._call(self._orders.put, self._sessions.break_off)

    def finish(self) -> None:
        """The owner has ended; if the event loop has ended before it, nobody waits for that."""
        with contextlib.suppress(RuntimeError):
            self._call(self._orders.put, None)


async def _obey(orders: _Inbox[_Order], owner: threading.Thread) -> None:
    """Do what is ordered, until the owner has ended."""
    while (order := await orders.get()) is not None:
        order()
    owner.join()


def _driver() -> ModuleType:
    """The wire driver for the event loop that runs."""
    return importlib.import_module(f"smtpcore.drivers.{'trio' if _on_trio() else 'asyncio'}")


def _on_trio() -> bool:
    return sniffio.current_async_library() == "trio"


def _from_other_threads() -> Callable[..., Any]:
    """What calls a function on the event loop that runs, from other threads."""
    if _on_trio():
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe
