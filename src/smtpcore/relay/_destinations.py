"""All destinations: which there are, which have changed, which rest.

What lives here: the table of destinations, and their rests by time, so that no step walks through all of them. What
does not: what happens to any of them.
"""

from __future__ import annotations

import heapq

from smtpcore._errors import SmtpError
from smtpcore.relay._destination import Destination
from smtpcore.relay._facts import NextHop
from smtpcore.relay._hosts import HostSet
from smtpcore.relay._settings import RelaySettings

__all__ = ["Destinations"]


class Destinations:
    """Destinations by next hop. One that has nothing left is forgotten."""

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self.table: dict[NextHop, Destination] = {}
        #: Those that something happened to since they were last looked at.
        self._touched: dict[NextHop, Destination] = {}
        #: Ends of rests, the earliest first; some are over already.
        self._rests: list[tuple[float, int, Destination]] = []
        self._rests_begun = 0

    def of(self, hosts: HostSet) -> Destination:
        """The destination of these hosts, as the DNS knows them now."""
        destination = self.table.get(hosts.next_hop)
        if destination is None:
            destination = self.table[hosts.next_hop] = Destination(hosts, self._settings)
        destination.hosts = hosts
        self.touch(destination)
        return destination

    def touch(self, destination: Destination) -> None:
        """Something happened to a destination."""
        self._touched[destination.next_hop] = destination

    @property
    def touched(self) -> list[Destination]:
        """Those that something happened to in this batch."""
        return list(self._touched.values())

    def tidy(self) -> None:
        """The batch is done: forget what has nothing left."""
        for next_hop, destination in self._touched.items():
            if destination.unused:
                self.table.pop(next_hop, None)
        self._touched.clear()

    # --- rests ------------------------------------------------------------------------------------------------------

    def rest(self, destination: Destination, error: SmtpError, now: float) -> None:
        """The hosts failed as a whole."""
        until = destination.failed(error, now)
        self._rests_begun += 1
        heapq.heappush(self._rests, (until, self._rests_begun, destination))
        self.touch(destination)

    def rests_over(self, now: float) -> list[Destination]:
        """Those whose rest is over by now."""
        over: list[Destination] = []
        while (until := self.next_end) is not None and until <= now:
            over.append(heapq.heappop(self._rests)[2])
        return over

    def set_back(self, now: float) -> list[Destination]:
        """The clock was set back: nobody fails since the future. Returns those that would rest longer than any rest."""
        for destination in self.table.values():
            destination.failing_since = min(destination.failing_since, now)
        latest = now + self._settings.longest_rest
        return [d for until, _, d in self._rests if until > latest and until == d.resting_until]

    @property
    def next_end(self) -> float | None:
        """When the next rest is over."""
        while self._rests and self._rests[0][0] != self._rests[0][2].resting_until:
            heapq.heappop(self._rests)
        return self._rests[0][0] if self._rests else None
