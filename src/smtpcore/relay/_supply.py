"""What is asked of the spool: which domains have due jobs, and jobs of those for which there is room.

What lives here: the domains with due jobs that are not all in memory, and the orders to load. What does not: what
happens to the jobs that come.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from smtpcore.relay._destination import Destination
from smtpcore.relay._destinations import Destinations
from smtpcore.relay._directory import Directory
from smtpcore.relay._facts import DomainsLoaded, Load, LoadDomains, NextHop
from smtpcore.relay._memory import Memory
from smtpcore.relay._routing import Unroutable
from smtpcore.relay._settings import RelaySettings

__all__ = ["Place", "Supply"]

#: Domains asked for at a time, and jobs of one domain.
_DOMAINS = 1000
_JOBS = 250
#: Jobs of one domain asked for to be put off at once, and how many such orders are on their way.
_JOBS_OF_BITE = 250
_BITES = 10
#: When so many domains wait for destinations that rest, the jobs of further ones are put off at once.
_MOST_RESTING_DOMAINS = 10_000

#: Where the jobs of a domain go.
Place = Destination | Unroutable


@dataclass(frozen=True, slots=True)
class _Loading:
    """Jobs of a domain are on their way into memory, or, as a bite, only to be put off."""

    place: Place
    limit: int
    bite: bool


class Supply:
    """The domains with due jobs, and when to look for more of them."""

    def __init__(
        self, settings: RelaySettings, memory: Memory, directory: Directory, destinations: Destinations
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._directory = directory
        self._destinations = destinations
        #: Domains with due jobs. Each is also being looked up, or nowhere, or loading, or due at its destination.
        self._domains: dict[str, None] = {}
        self._nowhere: OrderedDict[str, Unroutable] = OrderedDict()
        self._loading: dict[str, _Loading] = {}
        #: Those that were given more jobs since they are loading.
        self._grown: set[str] = set()
        #: Destinations that have room for more, and those for which nothing that falls due is kept.
        self._hungry: OrderedDict[NextHop, Destination] = OrderedDict()
        self._gone: OrderedDict[NextHop, Destination] = OrderedDict()
        self._promised = 0
        self._bites = 0
        #: Domains that wait until their destination has rested.
        self._resting = 0
        self._looking = False
        self._stopped = False
        #: When to look for due domains; ``None`` when nothing is known to fall due.
        self._look_at: float | None = 0.0

    # --- due domains ------------------------------------------------------------------------------------------------

    def place(self, domain: str, now: float) -> Place | None:
        """Where the jobs of a domain go; ``None`` where that must be looked up."""
        found = self._directory.find(domain, now)
        return found if found is None or isinstance(found, Unroutable) else self._destinations.of(found)

    def add(self, domain: str, now: float) -> None:
        """A domain has due jobs that are not in memory."""
        if domain in self._loading:
            # They may have fallen due behind the time up to which is loaded.
            self._grown.add(domain)
        elif domain not in self._domains:
            self._domains[domain] = None
            self._sort(domain, now)

    def _sort(self, domain: str, now: float) -> None:
        place = self.place(domain, now)
        if place is None:
            self._directory.want(domain)
        elif isinstance(place, Unroutable):
            self._nowhere[domain] = place
        else:
            place.due[domain] = None
            if place.resting_until is not None:
                self._resting += 1
                place.gone = place.gone or self._resting > _MOST_RESTING_DOMAINS
            self.review(place)

    def resolved(self, domain: str, now: float) -> None:
        """It is known where a domain goes that was looked up."""
        self._sort(domain, now)

    def began_to_rest(self, destination: Destination) -> None:
        """The domains of a destination wait until it has rested."""
        self._resting += len(destination.due)
        self.review(destination)

    def rested(self, destination: Destination) -> None:
        """A rest is over."""
        self._resting -= len(destination.due)
        self.review(destination)

    def review(self, destination: Destination) -> None:
        """Something happened to a destination: does it want jobs, and what for?"""
        rests = destination.resting_until is not None
        for queue, wanted in (
            (self._hungry, destination.hungry),
            (self._gone, rests and destination.gone and bool(destination.due)),
        ):
            if not wanted:
                queue.pop(destination.next_hop, None)
            elif destination.next_hop not in queue:
                queue[destination.next_hop] = destination

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopped = True
        for destination in self._destinations.table.values():
            # A rest that ends later must not count what nobody waits for any more.
            destination.due.clear()
        self._domains.clear()
        self._grown.clear()
        self._nowhere.clear()
        self._hungry.clear()
        self._gone.clear()
        self._resting = 0
        self._look_at = None

    @property
    def busy(self) -> bool:
        """Whether anything is being loaded, or can be."""
        return self._looking or bool(self._loading) or self._reachable > 0

    @property
    def _reachable(self) -> int:
        return len(self._domains) - self._resting

    # --- jobs -------------------------------------------------------------------------------------------------------

    def loads(self, now: float) -> list[Load]:
        """Ask for jobs: to be put off at once, and for destinations as far as there is room."""
        orders: list[Load] = []
        while self._nowhere and self._bites < _BITES:
            domain, _ = self._nowhere.popitem(last=False)
            place = self.place(domain, now)
            if isinstance(place, Unroutable):
                orders.append(self._load(domain, _Loading(place, _JOBS_OF_BITE, True), now))
            else:
                self._sort(domain, now)
        while self._gone and self._bites < _BITES:
            self._bite(orders, now)
        while self._hungry and self.room > 0:
            self._fill(orders, now)
        return orders

    @property
    def room(self) -> int:
        """How many more jobs may be held, beside those that are on their way into memory."""
        return self._settings.window - len(self._memory) - self._promised

    def _bite(self, orders: list[Load], now: float) -> None:
        _, destination = self._gone.popitem(last=False)
        domain, _ = destination.due.popitem(last=False)
        self._resting -= 1
        if self.place(domain, now) is destination:
            orders.append(self._load(domain, _Loading(destination, _JOBS_OF_BITE, True), now))
        else:
            self._sort(domain, now)
        self.review(destination)

    def _fill(self, orders: list[Load], now: float) -> None:
        _, destination = self._hungry.popitem(last=False)
        domain, _ = destination.due.popitem(last=False)
        if self.place(domain, now) is destination:
            limit = min(_JOBS, destination.room, self.room)
            orders.append(self._load(domain, _Loading(destination, limit, False), now))
        else:
            self._sort(domain, now)
        self.review(destination)

    def _load(self, domain: str, loading: _Loading, now: float) -> Load:
        self._loading[domain] = loading
        self._count(loading, 1)
        # Jobs that wait here are not claimed, so they would be among the answer.
        return Load(domain, now, self._horizon(now), loading.limit, self._memory.of_domain(domain))

    def _count(self, loading: _Loading, sign: int) -> None:
        if loading.bite:
            self._bites += sign
            return
        assert isinstance(loading.place, Destination), "what leads nowhere is not kept"
        self._promised += sign * loading.limit
        loading.place.promised += sign * loading.limit

    def loaded(self, domain: str) -> Place | None:
        """Jobs of a domain have come: for whom; ``None`` if nobody asked for them."""
        loading = self._loading.pop(domain, None)
        if loading is None:
            return None
        self._count(loading, -1)
        if isinstance(loading.place, Destination):
            self._destinations.touch(loading.place)
        return loading.place

    def settle(self, domain: str, now: float, *, complete: bool) -> None:
        """The jobs that came are where they belong; ``complete`` says that there were no others to be loaded."""
        if complete and domain not in self._grown:
            self._domains.pop(domain, None)
        else:
            self._sort(domain, now)
        self._grown.discard(domain)

    # --- looks ------------------------------------------------------------------------------------------------------

    def look_again(self, due_at: float, now: float) -> None:
        """Something falls due at this time."""
        if self._stopped:
            return
        due_at = min(max(due_at, now), now + self._settings.schedule.longest_delay)
        self._look_at = due_at if self._look_at is None else min(self._look_at, due_at)

    def mind_the_clock(self, now: float) -> None:
        """A clock that was set back puts no look out of reach."""
        if self._look_at is not None and self._look_at > now + self._settings.schedule.longest_delay:
            self._look_at = now

    @property
    def look_at(self) -> float | None:
        """When to look for due domains; ``None`` when nothing is known to fall due, or there is no room."""
        full = self._looking or self.room + self._promised <= 0 or self._reachable >= _DOMAINS
        return None if full else self._look_at

    def looks(self, now: float) -> list[LoadDomains]:
        """Ask for domains that have due jobs, if it is time."""
        if self.look_at is None or self.look_at > now:
            return []
        self._looking = True
        self._look_at = None
        # Domains whose due jobs all wait in memory will be among the answer.
        limit = _DOMAINS + len(self._memory.domains)
        return [LoadDomains(now, self._horizon(now), limit, tuple(self._domains))]

    def looked(self, fact: DomainsLoaded, now: float) -> None:
        """The answer to a look."""
        self._looking = False
        for domain in fact.domains:
            self.add(domain, now)
        if fact.next_due is not None:
            self.look_again(fact.next_due, now)
        if not fact.complete:
            self._look_at = now

    def stop_looking(self) -> None:
        """An answer came too late to be of use."""
        self._looking = False

    def _horizon(self, now: float) -> float:
        return now + self._settings.schedule.longest_delay + 1.0

    def due_now(self, now: float) -> bool:
        """Whether it is time to look, though there may be no room."""
        return self._look_at is not None and self._look_at <= now
