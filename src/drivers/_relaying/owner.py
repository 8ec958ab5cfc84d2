"""The owner of the relay machine: one thread with one inbox, between the spool and whoever holds the sessions.

What lives here: the loop that takes facts, commits what the machine decides and hands the effects on; intake. What does
not: any decision about mail, which is the machine's; SQL, which is the spool's; sessions, lookups and callbacks, which
are the hands of a service.

The loop is the whole story: take all facts that have come, let the machine decide, commit and load, hand the effects
over, wait for more. Facts that come while a commit is under way form the next batch, so commits group themselves when
there is much to do. It runs in a thread of its own under every service, so that neither an event loop nor a session
waits for a disk, and a report reaches the machine without a hop through the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import BinaryIO, Generic, Protocol, TypeAlias, TypeVar

from smtpcore import LocalProtocolError
from smtpcore.drivers._relaying.fates import RelayStopped, Tally, Watched
from smtpcore.drivers._relaying.log import LoggedRoute, RelayLog
from smtpcore.drivers.spool import Executed, Prepared, Spool, SpoolError
from smtpcore.relay import (
    DestinationView,
    Effect,
    Fact,
    MailAccepted,
    OpenSession,
    Orders,
    Relay,
    RelaySettings,
    Route,
    SessionEnded,
    ShutDown,
    SpoolChanged,
)

__all__ = ["LOOKUPS", "Bodies", "Hands", "Owner"]

_log = logging.getLogger(__name__)

#: Seconds between looks for what other processes have added, and operators wish for.
_WATCH = 0.5
#: Domains that are looked up at once.
LOOKUPS = 20

#: The octets of each delivery that is handed over, by its number.
Bodies: TypeAlias = Mapping[int, bytes | BinaryIO]

_T = TypeVar("_T", bound=Tally)


class Hands(Protocol):
    """What a service does for its owner, called from the owner's thread; neither may block."""

    def perform(self, effects: Sequence[Effect], bodies: Bodies) -> None:
        """Perform the effects in their order; every session that is opened ends with ``SessionEnded``."""
        ...

    def break_off(self) -> None:
        """Break off all sessions that there are."""
        ...


class _Submitted(Generic[_T]):
    """A mail on its way into the spool, and what came of it."""

    __slots__ = ("error", "prepared", "submission")

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.submission: _T | None = None
        self.error: Exception | None = None

    @property
    def answered(self) -> bool:
        return self.submission is not None or self.error is not None


class Owner(Generic[_T]):
    """Binds the machine to a spool and to the clock. It works once: a further relay is a new one over the same spool.

    ``put``, ``stop`` and ``submit`` may be called from every thread, the first two from signal handlers as well.
    ``failure`` is what stopped the relay, if anything but :meth:`stop` did.
    """

    def __init__(self, spool: Spool, route: Route, settings: RelaySettings, watched: Watched[_T], grace: float) -> None:
        self._spool = spool
        self._settings = settings
        self._machine = Relay(settings, LoggedRoute(route))
        self._watched = watched
        self._grace = grace
        self._log = RelayLog()
        self._inbox: SimpleQueue[Fact] = SimpleQueue()
        #: Holds while the spool is written and what came of it is put into the inbox, so that both have one order.
        self._order = threading.Lock()
        #: Mails that wait for the next transaction.
        self._arriving: deque[_Submitted[_T]] = deque()
        #: Holds while the machine decides, for those who look at it meanwhile.
        self._deciding = threading.Lock()
        self._open: set[int] = set()
        self._watch_at = 0.0
        self._break_off_at: float | None = None
        self._broken_off = False
        self._opened = False
        self._ended = False
        self.failure: Exception | None = None

    @property
    def destinations(self) -> tuple[DestinationView, ...]:
        """What :attr:`smtpcore.relay.Relay.destinations` says; may be asked for from every thread."""
        with self._deciding:
            return self._machine.destinations

    # --- for everybody ----------------------------------------------------------------------------------------------

    def put(self, fact: Fact) -> None:
        """Something happened."""
        self._inbox.put(fact)

    def stop(self, grace: float | None = None) -> None:
        """Begin no more deliveries; break off in ``grace`` seconds what is on its way then."""
        break_off_at = time.monotonic() + (self._grace if grace is None else grace)
        before = self._break_off_at
        self._break_off_at = break_off_at if before is None else min(before, break_off_at)
        self._inbox.put(ShutDown())

    def submit(self, prepared: Prepared) -> _T:
        """Commit a mail, together with all that others submit meanwhile; it is safe when this returns."""
        submitted: _Submitted[_T] = _Submitted(prepared)
        self._arriving.append(submitted)
        with self._order:
            if not submitted.answered:
                self._accept()
        if submitted.error is not None:
            raise submitted.error
        assert submitted.submission is not None
        return submitted.submission

    def _accept(self) -> None:
        batch: list[_Submitted[_T]] = []
        while self._arriving:
            batch.append(self._arriving.popleft())
        # What is accepted while this is not yet the relay of the spool may be in another's hands before it is: like all
        # that such a one leaves, it is found by looking.
        ours = self._opened
        try:
            accepted = self._add([submitted.prepared for submitted in batch])
        except BaseException as error:
            for submitted in batch:
                submitted.error = (
                    error if isinstance(error, Exception) else SpoolError(self._spool.directory, "interrupted")
                )
            if not isinstance(error, Exception):
                raise
            return
        for submitted, fact in zip(batch, accepted, strict=True):
            submitted.submission = self._watched.watch(fact.mail.mail_id, _recipients(fact))
            self._inbox.put(fact if ours else SpoolChanged())

    def _add(self, prepared: Sequence[Prepared]) -> tuple[MailAccepted, ...]:
        if not self._ended:
            return self._spool.add(prepared, time.time())
        for mail in prepared:
            mail.body.discard()
        raise self.failure or RelayStopped("the relay was stopped; nothing was accepted")

    # --- the owner's thread -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Become the one relay of the spool. Raises :class:`smtpcore.drivers.spool.SpoolError`."""
        if self._opened:
            raise LocalProtocolError("this relay has been run; make a new one over the same spool")
        self._spool.lock()
        self._opened = True

    def run(self, hands: Hands, *, once: bool) -> None:
        """Relay until stopped, or with ``once`` until nothing that is due is left; every session has ended then."""
        try:
            self._decide(hands, once=once)
        except Exception as error:
            # What could not be recorded has no effects: the spool tells the truth to whoever relays next.
            self.failure = error
            _log.error("the relay stops: %s", error)
            self._give_up(hands)
        with self._order:
            self._ended = True
            self._leave()

    def _leave(self) -> None:
        """Let others relay. A spool that cannot be left properly is left all the same, when it is closed."""
        try:
            self._spool.unlock()
        except SpoolError as error:
            _log.error("the spool was not given free: %s", error)

    def _decide(self, hands: Hands, *, once: bool) -> None:
        while True:
            facts = self._take_facts()
            with self._deciding:
                orders = self._machine.handle(facts, time.time())
            if orders.durable or orders.effects:
                bodies = self._execute(orders).bodies
                self._open |= {effect.session_id for effect in orders.effects if isinstance(effect, OpenSession)}
                self._log.write(facts, orders.effects, time.time())
                hands.perform(orders.effects, bodies)
            if self._break_off_at is None:
                if once and self._inbox.empty() and self._machine.drained(time.time()):
                    self.stop()
            else:
                if self._machine.idle and self._inbox.empty():
                    return
                self._mind_the_grace(hands, self._break_off_at)

    def _execute(self, orders: Orders) -> Executed:
        with self._order:
            executed = self._spool.execute(orders, self._settings, time.time())
            for fact in executed.facts:
                self._inbox.put(fact)
        return executed

    def _mind_the_grace(self, hands: Hands, break_off_at: float) -> None:
        if not self._broken_off and time.monotonic() >= break_off_at:
            self._broken_off = True
            hands.break_off()

    def _take_facts(self) -> list[Fact]:
        """All facts that have come; waits until something has, or until the machine wants to be woken."""
        facts: list[Fact] = []
        if self._inbox.empty():
            seconds = self._seconds_to_wait()
            with contextlib.suppress(Empty):
                facts.append(self._inbox.get(timeout=seconds))
        wishes = self._look_around() if time.monotonic() >= self._watch_at else ()
        # After the wishes, so that of every mail that they are about all is known.
        while not self._inbox.empty():
            facts.append(self._inbox.get())
        facts += wishes
        self._open -= {fact.session_id for fact in facts if isinstance(fact, SessionEnded)}
        return facts

    def _look_around(self) -> Sequence[Fact]:
        """What other processes have done to the spool since the last look; at first, since there was a relay."""
        first, self._watch_at = self._watch_at == 0.0, time.monotonic() + _WATCH
        with self._order:
            changed = self._spool.changed() or first
            return (*((SpoolChanged(),) if changed else ()), *self._spool.commands())

    def _seconds_to_wait(self) -> float:
        """The wall clock may jump while we wait on another one, so no wait is long."""
        seconds = self._watch_at - time.monotonic()
        if self._machine.wake_at is not None:
            seconds = min(seconds, self._machine.wake_at - time.time())
        if self._break_off_at is not None and not self._broken_off:
            seconds = min(seconds, self._break_off_at - time.monotonic())
        return max(0.0, seconds)

    def _give_up(self, hands: Hands) -> None:
        """Nothing can be recorded any more: break off what is on its way, and wait for its end."""
        try:
            hands.break_off()
            while self._open:
                fact = self._inbox.get()
                if isinstance(fact, SessionEnded):
                    self._open.discard(fact.session_id)
        except Exception:
            _log.exception("the sessions of a relay that failed could not be broken off")


def _recipients(fact: MailAccepted) -> list[str]:
    return [recipient.address for job in fact.jobs for recipient in job.recipients]
