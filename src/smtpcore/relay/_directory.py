"""Which hosts mail for a domain goes to: what the route says, and what has been found in the DNS.

What lives here: the memory of answers, each for as long as it may be used, and which lookups are to be made. What does
not: the rules over the answers (``_mx``), and destinations.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from smtpcore._events import Verdict
from smtpcore.relay._facts import DomainResolved, Resolve
from smtpcore.relay._hosts import HostSet
from smtpcore.relay._mx import hosts_of_domain, hosts_of_literal, listed_hosts
from smtpcore.relay._routing import FixedHosts, Mx, Route, SmartHost, Unroutable
from smtpcore.relay._settings import RelaySettings

__all__ = ["Directory"]

#: Lookups on their way at a time.
_LOOKUPS = 100
#: The shortest time in seconds for which an answer is used: at least for what it was asked for.
_LEAST_SECONDS = 1.0


class Directory:
    """From domains to hosts. Says ``None`` where it must ask first."""

    def __init__(self, settings: RelaySettings, route: Route) -> None:
        self._settings = settings
        self._route = route
        self._own_names = frozenset(name.lower() for name in settings.own_names)
        self._listed: dict[SmartHost | FixedHosts, HostSet] = {}
        #: What was found in the DNS, and until when it may be used.
        self._found: dict[str, tuple[HostSet | Unroutable, float]] = {}
        #: The same times, the earliest first; some are of answers that were forgotten since.
        self._ends: list[tuple[float, str]] = []
        #: Domains to look up, and those that are being looked up.
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._asked: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether anything is being looked up, or is to be."""
        return bool(self._wanted or self._asked)

    def find(self, domain: str, now: float) -> HostSet | Unroutable | None:
        """Where mail for a domain goes; ``None`` where it is not known."""
        way = self._route.way(domain)
        if isinstance(way, (SmartHost, FixedHosts)):
            return self._listed.get(way) or self._list(way)
        if isinstance(way, Unroutable):
            return way
        if not domain:
            return Unroutable("the recipient has no domain", Verdict.NEVER, "5.1.3")
        if domain.startswith("["):
            return hosts_of_literal(domain, way)
        found, until = self._found.get(domain, (None, 0.0))
        return found if until > now else None

    def _list(self, way: SmartHost | FixedHosts) -> HostSet:
        hosts = self._listed[way] = listed_hosts((way,) if isinstance(way, SmartHost) else way.hosts)
        return hosts

    def want(self, domain: str) -> None:
        """Have a domain looked up."""
        if domain not in self._asked:
            self._wanted[domain] = None

    def next_lookups(self) -> list[Resolve]:
        """The lookups to be made now."""
        lookups: list[Resolve] = []
        while self._wanted and len(self._asked) < _LOOKUPS:
            domain, _ = self._wanted.popitem(last=False)
            self._asked.add(domain)
            lookups.append(Resolve(domain))
        return lookups

    def resolved(self, answer: DomainResolved, now: float) -> bool:
        """Take in an answer; returns whether it was asked for."""
        way = self._route.way(answer.domain)
        if answer.domain not in self._asked or not isinstance(way, Mx):
            return False
        self._asked.discard(answer.domain)
        found = hosts_of_domain(answer, way, self._own_names)
        # Whoever asks again and again about what is out of order does not mend it.
        least = self._settings.rest if isinstance(found, Unroutable) else _LEAST_SECONDS
        until = now + max(answer.seconds, least)
        self._found[answer.domain] = (found, until)
        heapq.heappush(self._ends, (until, answer.domain))
        return True

    def forget(self, domain: str) -> None:
        """Ask anew when the domain is needed next."""
        self._found.pop(domain, None)

    def forget_all(self) -> None:
        """Ask anew about everything."""
        self._found.clear()
        self._ends.clear()

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
