"""The hosts of one next hop: in which order they are tried, and which are set aside because they failed.

What lives here: sets of hosts and the choice among them. What does not: how the DNS came to name them (``_mx``), and
what is known of a next hop as a whole (``_destination``).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from smtpcore.relay._facts import Host, NextHop

__all__ = ["HostAddresses", "HostSet", "HostsAside"]


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """A host with its addresses in the order in which they are tried; ``None`` is one that the driver looks up."""

    name: str
    port: int
    addresses: tuple[str | None, ...] = (None,)
    #: Whether LMTP is spoken there, and the unix socket if it is one, in place of name and port.
    lmtp: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class HostSet:
    """The hosts of a next hop. Each group has one preference; the groups are tried in their order."""

    next_hop: NextHop
    groups: tuple[tuple[HostAddresses, ...], ...]
    #: How many of the groups, the last ones, are no hosts of the domain but what is left when none of those will do.
    fallback: int = 0

    def candidates(self, number: int, *, fallback_only: bool = False) -> Iterator[Host]:
        """Every address of every host, in the order in which session ``number`` tries them.

        Hosts of one preference are spread evenly over the numbers (RFC 5321 §5.1), the same for the same number.
        """
        for group in self.groups[len(self.groups) - self.fallback if fallback_only else 0 :]:
            for host in sorted(group, key=lambda host: self._place(host, number)) if len(group) > 1 else group:
                for address in host.addresses:
                    yield Host(host.name, address, host.port, lmtp=host.lmtp, path=host.path)

    def _place(self, host: HostAddresses, number: int) -> bytes:
        return hashlib.blake2b(
            f"{self.next_hop.host} {host.name} {host.port} {number}".encode(), digest_size=8
        ).digest()


class HostsAside:
    """Hosts that could not be reached a short while ago: others are tried before them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        #: Since when; the longest ago first.
        self._since: OrderedDict[Host, float] = OrderedDict()

    def put(self, host: Host, now: float) -> None:
        """A session with this host could not be opened."""
        self._since.pop(host, None)
        self._since[host] = now

    def take_back(self, host: Host) -> None:
        """The host works, or an operator says that it does."""
        self._since.pop(host, None)

    def mind_the_clock(self, now: float) -> None:
        """Take back those whose time is over."""
        while self._since:
            host, since = next(iter(self._since.items()))
            if since + self._seconds > now:
                return
            del self._since[host]

    def clear(self) -> None:
        """Take all back."""
        self._since.clear()

    def choose(self, hosts: HostSet, number: int, tried: frozenset[Host], most: int) -> Host | None:
        """The host that session ``number`` tries next, when it has tried some.

        It is the first that is not set aside. If there is none, and none has been tried, it is the one that was set
        aside longest ago: so all are tried in turn. ``most`` bounds the hosts that are tried before those of the
        fallback, which always have their chance.
        """
        candidates = list(hosts.candidates(number, fallback_only=len(tried) >= most))
        for host in candidates:
            if host not in tried and host not in self._since:
                return host
        return None if tried else min(candidates, key=lambda host: self._since[host])
