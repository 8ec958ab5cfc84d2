"""All sessions: who has a place, who is given one next, and who must make room.

What lives here: the table of sessions and the fairness among destinations. What does not: what sessions are given.
"""

from __future__ import annotations

from collections import OrderedDict

from smtpcore.relay._destination import Destination, Session
from smtpcore.relay._facts import CloseSession, Host, NextHop
from smtpcore.relay._settings import RelaySettings

__all__ = ["Sessions"]

#: Deliveries that a session is given before it must make room for a destination that has none.
_TURN = 20


class Sessions:
    """Sessions that were ordered and have not ended; ``closings`` collects orders to close some."""

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self.table: dict[int, Session] = {}
        self.closings: list[CloseSession] = []
        self._opened = 0
        self._leaving = 0
        #: Sessions without work, the longest idle first.
        self._idle: OrderedDict[int, Session] = OrderedDict()
        #: Destinations that wait for a place: those that have none go before those that have some.
        self._starving: OrderedDict[NextHop, Destination] = OrderedDict()
        self._wanting: OrderedDict[NextHop, Destination] = OrderedDict()

    @property
    def next_number(self) -> int:
        """The number of the session that is opened next."""
        return self._opened + 1

    def open(self, destination: Destination, host: Host, tried: frozenset[Host]) -> Session:
        """A session takes a place."""
        self._opened += 1
        session = Session(self._opened, destination, host, tried | {host})
        self.table[session.session_id] = destination.sessions[session.session_id] = session
        return session

    def ended(self, session_id: int) -> Session | None:
        """A session gives up its place; ``None`` if it has none."""
        session = self.table.pop(session_id, None)
        if session is not None:
            del session.destination.sessions[session_id]
            self._idle.pop(session_id, None)
            self._leaving -= session.leaving
        return session

    # --- without work -----------------------------------------------------------------------------------------------

    def reported(self, session: Session, now: float) -> None:
        """A session has finished a delivery."""
        if session.deliveries:
            return
        if session.leaving:
            self.close(session)
        else:
            session.idle_since = now
            self._idle[session.session_id] = session

    def at_work(self, session: Session) -> None:
        """A session was given a delivery."""
        self._idle.pop(session.session_id, None)

    def close_idle(self, now: float) -> None:
        """Close those that have been without work for long."""
        while (at := self.next_idle_end) is not None and at <= now:
            self.close(next(iter(self._idle.values())))

    @property
    def next_idle_end(self) -> float | None:
        """When the next one has been without work for long."""
        for session in self._idle.values():
            return session.idle_since + self._settings.idle_seconds
        return None

    def set_back(self, now: float) -> None:
        """The clock was set back: nobody is idle since the future."""
        for session in self._idle.values():
            session.idle_since = min(session.idle_since, now)

    def close(self, session: Session) -> None:
        """End a session."""
        if not session.closing:
            session.closing = True
            self._leaves(session)
            self._idle.pop(session.session_id, None)
            self.closings.append(CloseSession(session.session_id))

    def _leaves(self, session: Session) -> None:
        if not session.leaving:
            session.leaving = True
            self._leaving += 1

    # --- fairness ---------------------------------------------------------------------------------------------------

    def queue(self, destination: Destination) -> None:
        """Let a destination wait for a place, if it wants one; whoever waits already keeps his turn."""
        wants = bool(destination.waiting) and destination.may_open
        for queue, wanted in (
            (self._starving, wants and not destination.sessions),
            (self._wanting, wants and bool(destination.sessions)),
        ):
            if not wanted:
                queue.pop(destination.next_hop, None)
            elif destination.next_hop not in queue:
                queue[destination.next_hop] = destination

    def next_to_open(self) -> Destination | None:
        """The destination that is given a place now; it leaves the queue."""
        if len(self.table) >= self._settings.sessions:
            return None
        for queue in (self._starving, self._wanting):
            if queue:
                return queue.popitem(last=False)[1]
        return None

    def may_give(self, session: Session) -> bool:
        """Whether a session is given one more delivery. One that is not is to leave."""
        if session.leaving:
            return False
        if session.given < self._settings.mails_per_session and not self._must_make_room(session):
            return True
        self._leaves(session)
        if not session.deliveries:
            self.close(session)
        return False

    def _must_make_room(self, session: Session) -> bool:
        """Whether other destinations wait for the place that a session takes."""
        if len(self.table) < self._settings.sessions or len(self._starving) <= self._leaving:
            return False
        return len(session.destination.sessions) > 1 or session.given % _TURN == 0

    def make_room(self) -> None:
        """Close sessions without work whose places others wait for."""
        while self._idle and len(self.table) >= self._settings.sessions:
            if len(self._starving) <= self._leaving and not (self._wanting and not self._leaving):
                return
            self.close(next(iter(self._idle.values())))
