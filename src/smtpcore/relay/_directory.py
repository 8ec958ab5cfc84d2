"""Which hosts mail for a domain goes to: what the route says, and what has been found in the DNS.

What lives here: the memory of answers, each for as long as it may be used, and which lookups are to be made. What does
not: the rules over the answers (``_mx``), and destinations.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import OrderedDict
from typing import cast

from smtpcore._events import Verdict
from smtpcore._grammar import printable
from smtpcore.relay._facts import DomainResolved, Resolve
from smtpcore.relay._hosts import HostSet
from smtpcore.relay._mx import hosts_of_domain, hosts_of_literal, listed_hosts, store_of_mailboxes
from smtpcore.relay._names import AnswerKind, MxAnswer
from smtpcore.relay._routing import FixedHosts, Lmtp, Mx, Route, SmartHost, Unroutable, Way
from smtpcore.relay._settings import RelaySettings

__all__ = ["Directory"]

#: Lookups on their way at a time.
_LOOKUPS = 100
#: Seconds after which a lookup counts as failed that nobody answers. A resolver has shorter deadlines of its own: this
#: is for one that has hung, so that mail does not wait for it without end, and its sender is told.
_PATIENCE = 900.0
#: Seconds after the end of a lookup's time that can only have passed in a jump.
_LATE = 60.0
#: The shortest time in seconds for which an answer is used: at least for what it was asked for.
_LEAST_SECONDS = 1.0


class Directory:
    """From domains to hosts. Says ``None`` where it must ask first."""

    def __init__(self, settings: RelaySettings, route: Route) -> None:
        self._settings = settings
        self._route = route
        self._own_names = frozenset(name.lower() for name in settings.own_names)
        self._listed: dict[SmartHost | FixedHosts | Lmtp, HostSet] = {}
        #: What was found in the DNS, and until when it may be used.
        self._found: dict[str, tuple[HostSet | Unroutable, float]] = {}
        #: The same times, the earliest first; some are of answers that were forgotten since.
        self._ends: list[tuple[float, str]] = []
        #: Domains to look up, and those that are being looked up, the longest asked for first, each with its deadline.
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._asked: dict[str, float] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is being looked up, or is to be."""
        return bool(self._wanted or self._asked)

    def find(self, domain: str, now: float) -> HostSet | Unroutable | None:
        """Where mail for a domain goes; ``None`` where it is not known."""
        way = self._way(domain)
        if isinstance(way, (SmartHost, FixedHosts, Lmtp)):
            return self._listed.get(way) or self._list(way)
        if isinstance(way, Unroutable):
            return way
        if not domain:
            return Unroutable("the recipient has no domain", Verdict.NEVER, "5.1.3")
        if domain.startswith("["):
            return hosts_of_literal(domain, way)
        found, until = self._found.get(domain, (None, 0.0))
        return found if until > now else None

    def _way(self, domain: str) -> Way:
        """What the route says. It may be anybody's code: where it fails, mail waits.

        The sender is told that it failed, and no word of how: that may be what no sender should know.
        """
        with contextlib.suppress(Exception):
            way = cast("object", self._route.way(domain))
            if isinstance(way, Way):
                return way
        # The system is wrongly configured (RFC 3463 §3.4): what is put right later is delivered then.
        return Unroutable(printable(f"the route failed for the domain {domain or '(none)'}"), Verdict.LATER, "4.3.5")

    def _list(self, way: SmartHost | FixedHosts | Lmtp) -> HostSet:
        if isinstance(way, Lmtp):
            listed = store_of_mailboxes(way)
        else:
            listed = listed_hosts((way,)) if isinstance(way, SmartHost) else listed_hosts(way.hosts, way.fallback)
        self._listed[way] = listed
        return listed

    def want(self, domain: str) -> None:
        """Have a domain looked up, which is not being looked up yet."""
        self._wanted[domain] = None

    def next_lookups(self, now: float) -> list[Resolve]:
        """The lookups to be made now."""
        lookups: list[Resolve] = []
        while self._wanted and len(self._asked) < _LOOKUPS:
            domain, _ = self._wanted.popitem(last=False)
            self._asked[domain] = now + _PATIENCE
            lookups.append(Resolve(domain))
        return lookups

    def resolved(self, answer: DomainResolved, now: float) -> bool:
        """Take in an answer; returns whether it was asked for."""
        if answer.domain not in self._asked:
            return False
        del self._asked[answer.domain]
        way = self._way(answer.domain)
        if not isinstance(way, Mx):
            # The route changed its mind; what it says now needs no answer.
            return True
        found = hosts_of_domain(answer, way, self._own_names)
        # Whoever asks again and again about what is out of order does not mend it.
        least = self._settings.rest if isinstance(found, Unroutable) else _LEAST_SECONDS
        until = now + max(answer.seconds, least)
        self._found[answer.domain] = (found, until)
        heapq.heappush(self._ends, (until, answer.domain))
        return True

    def overdue(self, now: float) -> list[DomainResolved]:
        """What stands for the answers that have not come in all this time."""
        if self.next_overdue is not None and now - self.next_overdue > _LATE:
            # The clock jumped, or this machine slept: there was no time to answer in.
            self._asked = dict.fromkeys(self._asked, now + _PATIENCE)
        problem = MxAnswer(AnswerKind.FAILURE, problem="the resolver does not answer")
        return [DomainResolved(domain, problem, (), 0.0) for domain, until in self._asked.items() if until <= now]

    @property
    def next_overdue(self) -> float | None:
        """When the next lookup counts as failed."""
        return next(iter(self._asked.values()), None)

    def forget(self, domain: str) -> None:
        """Ask anew when the domain is needed next."""
        self._found.pop(domain, None)

    def set_back(self, now: float) -> None:
        """The clock was set back: ask anew about everything, and wait for no answer longer than usual."""
        self._found.clear()
        self._ends.clear()
        self._asked = {domain: min(until, now + _PATIENCE) for domain, until in self._asked.items()}

    def mind_the_clock(self, now: float) -> None:
        """Forget answers that may be used no longer."""
        while self._ends and self._ends[0][0] <= now:
            until, domain = heapq.heappop(self._ends)
            if self._found.get(domain, (None, None))[1] == until:
                del self._found[domain]

    def stop(self) -> None:
        """Look nothing up any more."""
        self._wanted.clear()
        self._asked.clear()
