"""The relay's log: one structured line for each attempt that settled nothing, and one for each fate.

What lives here: the lines, and remembering which delivery an outcome belongs to. What does not: levels, handlers and
files, which are the application's. A line is ``key=value`` fields after one word; values that hold blanks, quotes or
control characters are quoted as in JSON, so that no peer can forge a line. Each record has the fields as attributes,
too. Bodies and secrets never come here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from smtpcore import Outcome, Verdict
from smtpcore.drivers._relaying.log_lines import plain
from smtpcore.relay import (
    Attempted,
    Continue,
    Delivery,
    Effect,
    Fact,
    Fate,
    Host,
    OpenSession,
    Reported,
    Route,
    SessionEnded,
    Way,
)

__all__ = ["LoggedRoute", "RelayLog"]

_log = logging.getLogger("smtpcore.relay")


@dataclass(frozen=True, slots=True)
class _Way:
    """How an outcome came about."""

    session_id: int
    host: Host
    delivery: Delivery
    attempts: int
    outcome: Outcome

    @property
    def fields(self) -> dict[str, object]:
        return {
            "next_hop": self.delivery.next_hop,
            "host": self.host,
            "session": self.session_id,
            "attempt": self.attempts,
            "code": self.outcome.code,
            "enhanced": self.outcome.enhanced,
        }


class LoggedRoute:
    """A route whose failures are written down: the machine tells senders no word of them."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def way(self, domain: str) -> Way:
        """What the route says; raises what it raises."""
        try:
            way = cast("object", self._route.way(domain))
        except Exception as error:
            _log.error("the route failed for the domain %s", domain or "(none)", exc_info=error)
            raise
        if not isinstance(way, Way):
            _log.error("the route gave %r for the domain %s, which is no way", way, domain or "(none)")
        return cast("Way", way)


class RelayLog:
    """Writes what a batch of effects says of recipients; costs next to nothing while nobody listens."""

    def __init__(self) -> None:
        #: Where each session leads, and its deliveries on their way, by their number.
        self._sessions: dict[int, tuple[Host, dict[int, Delivery]]] = {}

    def write(self, facts: Iterable[Fact], effects: Iterable[Effect], now: float) -> None:
        """Write the lines for ``effects``, which the machine gave for ``facts`` and which are safe in the spool."""
        listened_to = _log.isEnabledFor(logging.INFO)
        if not listened_to and not self._sessions:
            return
        ways = self._ways(facts)
        for effect in effects:
            if isinstance(effect, OpenSession):
                self._sessions[effect.session_id] = (effect.host, {effect.delivery.delivery_id: effect.delivery})
            elif isinstance(effect, Continue):
                if effect.session_id in self._sessions:
                    self._sessions[effect.session_id][1][effect.delivery.delivery_id] = effect.delivery
            elif isinstance(effect, (Fate, Attempted)) and listened_to:
                line = _line(effect, ways.get((effect.mail_id, effect.recipient)), now)
                _log.info(line, extra=line.fields)

    def _ways(self, facts: Iterable[Fact]) -> dict[tuple[int, str], _Way]:
        """How each outcome that was reported came about, by mail and recipient."""
        ways: dict[tuple[int, str], _Way] = {}
        for fact in facts:
            if isinstance(fact, SessionEnded):
                self._sessions.pop(fact.session_id, None)
            elif isinstance(fact, Reported) and fact.session_id in self._sessions:
                host, under_way = self._sessions[fact.session_id]
                delivery = under_way.pop(fact.delivery_id, None)
                if delivery is not None:
                    ways |= _ways_of(fact, host, delivery)
        return ways


def _ways_of(fact: Reported, host: Host, delivery: Delivery) -> dict[tuple[int, str], _Way]:
    attempts = [job.attempts for job in delivery.jobs for _ in job.recipients]
    return {
        (delivery.mail.mail_id, outcome.recipient): _Way(fact.session_id, host, delivery, count, outcome)
        for count, outcome in zip(attempts, fact.report.outcomes, strict=True)
    }


@dataclass(frozen=True, slots=True)
class _Line:
    """What is logged: its text is made only when somebody writes it."""

    word: str
    fields: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.word} " + " ".join(f"{key}={plain(value)}" for key, value in self.fields.items())


def _line(effect: Fate | Attempted, way: _Way | None, now: float) -> _Line:
    fields: dict[str, object] = {"queue_id": effect.mail_id, "recipient": effect.recipient}
    if isinstance(effect, Fate):
        fields["kind"] = effect.kind.value
    else:
        fields |= {"verdict": Verdict.LATER.value, "in_doubt": effect.in_doubt, "attempt": effect.attempts}
        fields["next_in"] = max(0.0, effect.due_at - now)
    if way is not None:
        fields |= way.fields
        fields["delay"] = max(0.0, now - way.delivery.mail.accepted_at)
    fields["words"] = effect.words
    known = {key: value for key, value in fields.items() if value is not None}
    return _Line("fate" if isinstance(effect, Fate) else "attempt", known)
