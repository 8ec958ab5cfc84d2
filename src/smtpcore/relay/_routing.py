"""Where mail for a domain goes next.

What lives here: routes, which are pure functions from a recipient domain to a next hop. What does not: looking up
names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from smtpcore._errors import LocalProtocolError
from smtpcore._grammar import check_host_name
from smtpcore.relay._facts import NextHop

__all__ = ["Route", "SmartHost"]


class Route(Protocol):
    """From a recipient domain, in lower case, to the next hop."""

    def next_hop(self, domain: str) -> NextHop: ...


@dataclass(frozen=True, slots=True)
class SmartHost:
    """All mail goes to one host, which knows the way. Raises ``LocalProtocolError`` for what is no host or port."""

    host: str
    port: int = 25

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise LocalProtocolError("a port is a number from 1 to 65535", self.port)
        if ":" not in self.host:
            # What holds a colon is an IPv6 address, which needs no brackets to be connected to.
            check_host_name(self.host)

    def next_hop(self, domain: str) -> NextHop:
        return NextHop(self.host, self.port)
