"""Performing the relay's effects, one by one: what every service does alike.

What lives here: which session gets which delivery, in which order, and who is told of a fate. What does not: how a
session is held and a name looked up, which each service does in its own way.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from smtpcore.drivers._relaying.fates import Tally, Watched
from smtpcore.drivers._relaying.owner import Bodies
from smtpcore.drivers._relaying.work import Work, close_body
from smtpcore.relay import Attempted, CloseSession, Continue, Effect, Fate, OpenSession, Resolve

__all__ = ["Inbox", "Notice", "Performing"]

_log = logging.getLogger(__name__)

Notice = Callable[[Fate | Attempted], None]


class Inbox(Protocol):
    """What lies ahead of a session: deliveries in their order; ``None`` ends it."""

    def put(self, work: Work | None, /) -> bool:
        """Add something; returns whether somebody will still ask for it."""
        ...


class Held(Protocol):
    """A session that was ordered and has not ended."""

    @property
    def inbox(self) -> Inbox: ...


_S = TypeVar("_S", bound=Held)


class Performing(ABC, Generic[_S]):
    """Performs effects in their order. Sessions leave ``sessions`` when they end, however they do."""

    def __init__(self, watched: Watched[Tally], notice: Notice | None) -> None:
        self._watched = watched
        self._notice = notice
        self.sessions: dict[int, _S] = {}

    def perform(self, effects: Sequence[Effect], bodies: Bodies) -> None:
        """Perform effects; ``bodies`` are those of their deliveries."""
        for effect in effects:
            if isinstance(effect, OpenSession):
                self._open_session(effect, (effect.delivery, bodies[effect.delivery.delivery_id]))
            elif isinstance(effect, Continue):
                self._put(effect.session_id, (effect.delivery, bodies[effect.delivery.delivery_id]))
            elif isinstance(effect, CloseSession):
                self._put(effect.session_id, None)
            elif isinstance(effect, Resolve):
                self._resolve(effect.domain)
            elif isinstance(effect, (Fate, Attempted)):
                self._tell(effect)

    def _put(self, session_id: int, work: Work | None) -> None:
        session = self.sessions.get(session_id)
        taken = session is not None and session.inbox.put(work)
        if not taken and work is not None:
            # The session ended meanwhile, and the machine is about to hear of it.
            close_body(work[1])

    def _tell(self, event: Fate | Attempted) -> None:
        """Tell whoever wants to know; a callback that fails harms nobody but itself."""
        if isinstance(event, Fate):
            self._watched.note(event)
        if self._notice is not None:
            try:
                self._notice(event)
            except Exception:
                _log.exception("the callback failed for mail %d to <%s>", event.mail_id, event.recipient)

    @abstractmethod
    def _open_session(self, effect: OpenSession, first: Work) -> None:
        """Begin a session, its first delivery ahead of it."""

    @abstractmethod
    def _resolve(self, domain: str) -> None:
        """Begin to look a domain up; ``DomainResolved`` answers."""
