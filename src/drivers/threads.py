"""The relay at work in threads, for blocking programs: the pure machine bound to a spool, to sessions and to the clock.

What lives here: one thread for each session, and threads for lookups. What does not: any decision about mail, which is
the machine's; the loop over its facts and orders, which is the owner's; SMTP, which is the blocking driver's.
:mod:`smtpcore.drivers.service` is the same for asyncio and trio.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from smtpcore import Envelope, SessionAborted, SessionError
from smtpcore.drivers._connecting.interruptible import Interruptible
from smtpcore.drivers._connecting.race import Way
from smtpcore.drivers._relaying.fates import RelayStopped, Tally, Watched
from smtpcore.drivers._relaying.owner import LOOKUPS, Owner
from smtpcore.drivers._relaying.performing import Notice, Performing
from smtpcore.drivers._relaying.under_way import UnderWay
from smtpcore.drivers._relaying.work import (
    OptionsFor,
    Work,
    broken_off,
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
from smtpcore.drivers._session.options import Options, connect_seconds, settled
from smtpcore.drivers.blocking import Session, connect, open_session
from smtpcore.drivers.spool import Spool
from smtpcore.relay import (
    DestinationView,
    DomainResolved,
    Fate,
    Host,
    OpenSession,
    RelaySettings,
    Route,
    SessionEnded,
)

__all__ = ["LooksUp", "RelayService", "RelayStopped", "Submission"]


class LooksUp(Protocol):
    """What answers questions about domains, such as :class:`smtpcore.drivers.resolver.Resolver`."""

    def resolve(self, domain: str) -> DomainResolved: ...


class Submission(Tally):
    """A mail that is safe in the spool; ``queue_id`` is its number there.

    Its fates are collected as long as this object is held on to: ask for them early or late, or let it go and nothing
    is kept. As an iterator it gives every :class:`smtpcore.relay.Fate` as it becomes known, and ends with the last one.
    Waiting raises :class:`RelayStopped` when the relay is stopped first, or the error that stopped it.
    """

    def __init__(self, queue_id: int, recipients: Sequence[str]) -> None:
        super().__init__(queue_id, recipients)
        self._more = threading.Condition()

    def fates(self, timeout: float | None = None) -> tuple[Fate, ...]:
        """Wait until the fate of every recipient is known: one fate for each, in the order they became known.

        Raises ``TimeoutError`` after ``timeout`` seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        return tuple(self._wait_for(index, until) for index in range(len(self.recipients)))

    def __iter__(self) -> Iterator[Fate]:
        return (self._wait_for(index, None) for index in range(len(self.recipients)))

    def _wait_for(self, index: int, until: float | None) -> Fate:
        with self._more:
            while (fate := self._at(index)) is None:
                seconds = None if until is None else until - time.monotonic()
                if seconds is not None and seconds <= 0:
                    raise TimeoutError(f"the fate of mail {self.queue_id} is not known yet")
                self._more.wait(seconds)
            return fate

    def note(self, fate: Fate) -> None:
        with self._more:
            super().note(fate)
            self._more.notify_all()

    def end(self, failure: Exception | None) -> None:
        with self._more:
            super().end(failure)
            self._more.notify_all()


class RelayService:
    """Relays what is in ``spool`` along ``route``, over sessions held as ``options`` say, or say of each host.

    Two ways to use it: :meth:`run` relays until :meth:`stop`; ``with`` relays in the background while the block lasts.
    Leaving the block stops the relay; when it failed, the error is raised there, and by every later :meth:`submit`. A
    service works once, and an interpreter that exits stops it.

    ``notice`` is called in the relay's own thread with every :class:`smtpcore.relay.Fate` and
    :class:`smtpcore.relay.Attempted`, once each, after it is safe in the spool; what it raises is logged, and the relay
    waits while it runs. ``grace`` is how many seconds a delivery on its way has to finish when the relay is stopped;
    whoever is interrupted breaks off at once. In every case what was not delivered waits in the spool. ``resolver``
    looks domains up where the route says so, in several threads; default:
    :class:`smtpcore.drivers.resolver.Resolver`. Raises ``LocalProtocolError`` for arguments of a wrong kind, and for
    options with which no session could be held.

    A name that is being looked up cannot be interrupted: the thread that does it may outlive the relay for as long as
    that takes, and an interpreter that exits does not wait for it.
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
        self._watched = Watched(Submission)
        self._owner = Owner(spool, route, settings, self._watched, grace)
        self._sessions = _Sessions(
            self._owner, self._watched, notice, checked_options(options), _Lookups(self._owner, resolver)
        )
        self._thread: threading.Thread | None = None

    # --- what users call --------------------------------------------------------------------------------------------

    @property
    def destinations(self) -> tuple[DestinationView, ...]:
        """Every destination, for a live view; may be asked for from every thread."""
        return self._owner.destinations

    def submit(
        self, message: Source, *, sender: str | None = None, recipients: Sequence[str] | str | None = None
    ) -> Submission:
        """Accept a message: when this returns it is safe. May be called from many threads at once.

        Sender and recipients default to what an email object's header says. Mails may be submitted before the relay
        runs. Raises ``LocalProtocolError``, :class:`smtpcore.drivers.spool.SpoolError`, and :class:`RelayStopped` once
        the relay has come to its end.
        """
        return self._owner.submit(prepare(self._spool, message, sender, recipients))

    def accept(self, envelope: Envelope, message: Source) -> Submission:
        """Accept a message with an envelope of one's own, which may ask for more; else as :meth:`submit`."""
        return self._owner.submit(prepare_with(self._spool, envelope, message))

    def run(self, *, once: bool = False) -> None:
        """Relay until :meth:`stop`; with ``once`` until nothing that is due is left to do.

        Raises :class:`smtpcore.drivers.spool.SpoolError` when the spool is locked by another relay, or as soon as
        something cannot be recorded: no effect of the batch has been performed then, and the spool tells the truth.
        """
        self._wait_for_the_end(self._start(once=once))
        if self._owner.failure is not None:
            raise self._owner.failure

    def stop(self, grace: float | None = None) -> None:
        """Begin no more deliveries; those on their way are finished, or broken off after ``grace`` seconds.

        May be called from every thread and from signal handlers; returns at once.
        """
        self._owner.stop(grace)

    def __enter__(self) -> Self:
        self._thread = self._start(once=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        # Whoever is interrupted does not wait.
        self.stop(None if kind is None or issubclass(kind, Exception) else 0.0)
        self._wait_for_the_end(self._thread)
        if kind is None and self._owner.failure is not None:
            raise self._owner.failure

    # --- the owner's thread -----------------------------------------------------------------------------------------

    def _start(self, *, once: bool) -> threading.Thread:
        self._owner.open()
        # A thread that the interpreter does not wait for, and a call at its exit that stops it: in the other order it
        # would wait for ever for a relay that nobody stops.
        thread = threading.Thread(target=self._own, args=(once,), name="relay owner", daemon=True)
        atexit.register(self._exit, thread)
        thread.start()
        return thread

    def _own(self, once: bool) -> None:
        self._owner.run(self._sessions, once=once)
        self._sessions.finish()
        self._watched.end(self._owner.failure)

    def _wait_for_the_end(self, thread: threading.Thread) -> None:
        try:
            # A signal may be given to any thread, and its handler waits for this one to wake.
            while thread.is_alive():
                thread.join(0.5)
        except BaseException:
            self.stop(0.0)
            thread.join()
            raise
        finally:
            atexit.unregister(self._exit)

    def _exit(self, thread: threading.Thread) -> None:
        self.stop()
        thread.join()


class _Inbox:
    """What lies ahead of a session: deliveries in their order; ``None`` ends it."""

    def __init__(self, first: Work) -> None:
        self._items: deque[Work | None] = deque([first])
        self._more = threading.Condition()
        self._closed = False

    def put(self, work: Work | None) -> bool:
        with self._more:
            if not self._closed:
                self._items.append(work)
                self._more.notify()
            return not self._closed

    def has_work(self) -> bool:
        """Wait for a delivery; false when the session is to end."""
        with self._more:
            while not self._items and not self._closed:
                self._more.wait()
            return not self._closed and self._items[0] is not None

    def take(self) -> Work | None:
        """The next delivery, if it has come and the inbox is open."""
        with self._more:
            return self._items.popleft() if self._items and self._items[0] is not None else None

    def close(self) -> None:
        """Take nothing more, and hand out nothing more."""
        with self._more:
            self._closed = True
            while self._items:
                if (work := self._items.popleft()) is not None:
                    close_body(work[1])
            self._more.notify()


class _Session:
    """A session that was ordered and has not ended."""

    def __init__(self, session_id: int, host: Host, how: Options | OptionsFor, first: Work) -> None:
        self.session_id = session_id
        self._host = host
        self._where, self._options = way_to(host, how)
        self.connection = Interruptible(self._options)
        self.inbox = _Inbox(first)
        self.connected = False
        self.broken_off = False

    def open(self) -> Session:
        """Connect, and open the session; raises the ``SessionError`` that prevents it."""
        if not self._host.path:
            return connect(self._where, self._host.port, **self.connection.options)
        # As ``connect_unix`` does, but over a connection that another thread can interrupt.
        options = settled(self._options, Way(None, path=self._where))
        return open_session(self.connection.dial_unix(self._where, connect_seconds(options)), **options)

    def break_off(self) -> None:
        """End it, from another thread."""
        self.broken_off = True
        self.inbox.close()
        self.connection.interrupt()


class _Sessions(Performing[_Session]):
    """The sessions: each a thread."""

    def __init__(
        self,
        owner: Owner[Submission],
        watched: Watched[Submission],
        notice: Notice | None,
        options: Options | OptionsFor,
        lookups: _Lookups,
    ) -> None:
        super().__init__(watched, notice)
        self._owner = owner
        self._options = options
        self._lookups = lookups
        self._threads: dict[int, threading.Thread] = {}

    def _open_session(self, effect: OpenSession, first: Work) -> None:
        session_id = effect.session_id
        try:
            session = _Session(session_id, effect.host, self._options, first)
            self.sessions[session_id] = session
            thread = threading.Thread(
                target=self._hold, args=(session,), name=f"relay session {session_id}", daemon=True
            )
            thread.start()
        except Exception as error:
            # No more threads are to be had, or the options are wrong.
            self.sessions.pop(session_id, None)
            close_body(first[1])
            self._owner.put(SessionEnded(session_id, SessionAborted(unforeseen(f"session {session_id}", error))))
        else:
            self._threads = {number: other for number, other in self._threads.items() if other.is_alive()}
            self._threads[session_id] = thread

    def break_off(self) -> None:
        """Break off all sessions that there are."""
        for session in list(self.sessions.values()):
            session.break_off()
            if not session.connected:
                # It may be looking a name up, which nothing ends: do not wait for it.
                self._end(session, None)
                self._threads.pop(session.session_id, None)

    def finish(self) -> None:
        """Wait for the threads of sessions that have ended."""
        for thread in self._threads.values():
            thread.join()
        self._lookups.close()

    def _hold(self, session: _Session) -> None:
        """One session from connecting to its end; whatever happens, the machine is told."""
        error: SessionError | None = None
        try:
            error = self._make_deliveries(session)
        except SessionError as failure:
            log_cause(f"session {session.session_id}", failure)
            error = failure
        except Exception as failure:
            error = SessionAborted(unforeseen(f"session {session.session_id}", failure))
        finally:
            session.connection.close()
            session.inbox.close()
            self._end(session, error)

    def _end(self, session: _Session, error: SessionError | None) -> None:
        """Tell the machine of a session's end, once."""
        if self.sessions.pop(session.session_id, None) is not None:
            if session.broken_off:
                error = shutting_down()
            self._owner.put(SessionEnded(session.session_id, error))

    def _make_deliveries(self, session: _Session) -> SessionError | None:
        """Make the deliveries that come, until none will; returns what ended the session early, if anything did."""
        with session.open() as wire:
            session.connected = True
            while session.inbox.has_work():
                self._deliver(session, wire)
                if wire.end is not None:
                    return wire.end.error
        return None

    def _deliver(self, session: _Session, wire: Session) -> None:
        """Make the deliveries that lie ahead, and those that come meanwhile."""
        under_way = UnderWay(session.session_id, wire, self._owner.put)
        try:
            for report in wire.send_many(under_way.supply(session.inbox.take)):
                under_way.reported(broken_off(report) if session.broken_off else report)
        except Exception as error:
            under_way.failed(error)
        finally:
            under_way.close()

    def _resolve(self, domain: str) -> None:
        self._lookups.put(domain)


class _Lookups:
    """Looks domains up, in as many threads as there are questions, up to a bound."""

    def __init__(self, owner: Owner[Submission], resolver: LooksUp | None) -> None:
        self._owner = owner
        self._resolver = resolver
        self._waiting: deque[str] = deque()
        self._mutex = threading.Lock()
        self._threads = 0

    def put(self, domain: str) -> None:
        with self._mutex:
            self._waiting.append(domain)
            if self._threads >= LOOKUPS:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._run, name="relay lookup", daemon=True).start()
        except RuntimeError as error:
            with self._mutex:
                self._threads -= 1
            self._owner.put(lookup_failed(domain, error))

    def close(self) -> None:
        """Begin no more lookups."""
        with self._mutex:
            self._waiting.clear()

    def _run(self) -> None:
        while (domain := self._next()) is not None:
            try:
                resolved = self._chosen().resolve(domain)
            except Exception as error:
                resolved = lookup_failed(domain, error)
            self._owner.put(resolved)

    def _next(self) -> str | None:
        with self._mutex:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _chosen(self) -> LooksUp:
        with self._mutex:
            if self._resolver is None:
                from smtpcore.drivers.resolver import Resolver

                self._resolver = Resolver()
            return self._resolver
