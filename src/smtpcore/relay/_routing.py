"""Where mail for a domain goes next.

What lives here: the ways that mail may take, and routes, which are pure functions from a recipient domain to a way.
What does not: what follows from the records of the DNS (``_mx``), and looking them up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from smtpcore._errors import LocalProtocolError
from smtpcore._events import Verdict
from smtpcore._grammar import check_host_name
from smtpcore._kinds import check_kind

__all__ = ["FixedHosts", "Lmtp", "Mx", "Route", "RoutingTable", "SmartHost", "Unroutable", "Way"]

_FOR_EVERYTHING = "*"
#: The port of SMTP, which LMTP may not use (RFC 2033 §5).
_SMTP_PORT = 25


@dataclass(frozen=True, slots=True)
class SmartHost:
    """All mail goes to one host, which knows the way. Raises ``LocalProtocolError`` for what is no host or port.

    It is a way, and the route that has no other. ``host`` is a host name, whose addresses the driver looks up, or an
    IPv4 or IPv6 address without brackets.
    """

    host: str
    port: int = 25

    def __post_init__(self) -> None:
        _check_port(self.port)
        check_kind("a host", self.host, str)
        if ":" not in self.host or self.host.startswith("["):
            check_host_name(self.host)
        else:
            _check_ipv6(self.host)

    def way(self, domain: str) -> Way:
        """The same for every domain."""
        return self


@dataclass(frozen=True, slots=True)
class FixedHosts:
    """Mail goes to the first of these hosts that can be reached. Raises ``LocalProtocolError`` where that is none.

    ``fallback`` holds hosts that are tried when none of those can be reached, however many they are.
    """

    hosts: Sequence[SmartHost]
    fallback: Sequence[SmartHost] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", _hosts(self.hosts))
        object.__setattr__(self, "fallback", _hosts(self.fallback))
        if not self.hosts:
            raise LocalProtocolError("a way over fixed hosts needs at least one", self.hosts)

    def way(self, domain: str) -> Way:
        """The same for every domain."""
        return self


@dataclass(frozen=True, slots=True)
class Lmtp:
    """Mail is handed to a store of mailboxes by LMTP (RFC 2033), which answers for each recipient alone.

    The store listens on a port of a host, as in :class:`SmartHost`, or on the unix socket ``path``. While it cannot be
    reached mail waits for it: the fallback of a routing table knows nothing of mailboxes. Raises
    ``LocalProtocolError`` for what is no host, port or path, and for port 25, which is SMTP's (RFC 2033 §5).
    """

    host: str = ""
    port: int = 24
    path: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        check_kind("a path", self.path, str)
        if bool(self.host) == bool(self.path):
            raise LocalProtocolError("a store of mailboxes has a host or a path, not both", self)
        if "\0" in self.path:
            raise LocalProtocolError("a path holds no NUL", self.path)
        if self.port == _SMTP_PORT:
            raise LocalProtocolError("LMTP may not be spoken on port 25 (RFC 2033 §5)", self.port)
        if self.host:
            SmartHost(self.host, self.port)

    def way(self, domain: str) -> Way:
        """The same for every domain."""
        return self


@dataclass(frozen=True, slots=True)
class Mx:
    """Mail goes where the MX records of its domain say (RFC 5321 §5.1).

    ``fallback`` holds hosts that are tried when none of those can be reached or looked up.
    """

    port: int = 25
    fallback: Sequence[SmartHost] = ()

    def __post_init__(self) -> None:
        _check_port(self.port)
        object.__setattr__(self, "fallback", _hosts(self.fallback))

    def way(self, domain: str) -> Way:
        """The same for every domain."""
        return self


@dataclass(frozen=True, slots=True)
class Unroutable:
    """Mail goes nowhere, and the sender is told ``words``: at once (``NEVER``), or when it expires (``LATER``).

    ``status`` is the enhanced status code of the report (RFC 3463); it defaults to "no route" of the verdict's class.
    """

    words: str
    verdict: Verdict = Verdict.NEVER
    status: str = ""

    def __post_init__(self) -> None:
        if self.verdict is Verdict.DELIVERED:
            raise LocalProtocolError("what cannot be routed is not delivered", self.verdict)
        digit = "5" if self.verdict is Verdict.NEVER else "4"
        if not self.status:
            object.__setattr__(self, "status", f"{digit}.4.4")
        elif not self.status.startswith(f"{digit}."):
            raise LocalProtocolError(f"the status of this verdict begins with {digit}", self.status)

    def way(self, domain: str) -> Way:
        """The same for every domain."""
        return self


Way: TypeAlias = SmartHost | FixedHosts | Lmtp | Mx | Unroutable


class Route(Protocol):
    """From a recipient domain, in lower case, to its way; the same for the same domain, always.

    A recipient without a domain has the domain ``""``, an address literal its brackets. Where ``way`` raises, or gives
    what is no way, mail for that domain is deferred, and all other mail goes on. Senders are told that the route
    failed, and not how: the services write that into their log.
    """

    def way(self, domain: str) -> Way: ...


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """A route that looks the domain up.

    The keys of ``rows`` are domains, ``.example`` for all below (but not ``example`` itself), and ``*`` for what fits
    nowhere else. The domain itself goes before a suffix, a longer suffix before a shorter one. What fits nowhere goes
    where its MX records say. ``fallback`` are hosts that are tried when those of a way cannot be reached. Raises
    ``LocalProtocolError`` for a key that is no pattern, and for what is no way and no host.
    """

    rows: Mapping[str, Way]
    fallback: Sequence[SmartHost] = ()
    _ways: dict[str, Way] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_kind("the rows of a routing table", self.rows, Mapping)
        fallback = _hosts(self.fallback)
        object.__setattr__(self, "fallback", fallback)
        for pattern, way in self.rows.items():
            _check_pattern(pattern)
            _check_way(way)
        ways = {pattern.lower(): _with_fallback(way, fallback) for pattern, way in self.rows.items()}
        ways.setdefault(_FOR_EVERYTHING, Mx(fallback=fallback))
        object.__setattr__(self, "_ways", ways)

    def way(self, domain: str) -> Way:
        """The way of the pattern that fits best."""
        return next(self._ways[pattern] for pattern in _patterns(domain.lower()) if pattern in self._ways)


def _patterns(domain: str) -> Iterable[str]:
    """The patterns that fit a domain, the closest first."""
    yield domain
    if not domain.startswith("["):
        labels = domain.split(".")
        for start in range(1, len(labels)):
            yield "." + ".".join(labels[start:])
    yield _FOR_EVERYTHING


def _with_fallback(way: Way, fallback: tuple[SmartHost, ...]) -> Way:
    if isinstance(way, (Unroutable, Lmtp)) or not fallback:
        return way
    if isinstance(way, Mx):
        return replace(way, fallback=way.fallback or fallback)
    if isinstance(way, SmartHost):
        way = FixedHosts((way,))
    others = tuple(host for host in fallback if host not in way.hosts)
    return replace(way, fallback=way.fallback or others)


def _check_way(way: object) -> None:
    if not isinstance(way, Way):
        raise LocalProtocolError("a way is a SmartHost, FixedHosts, Lmtp, Mx or Unroutable", way)


def _hosts(hosts: Sequence[SmartHost]) -> tuple[SmartHost, ...]:
    check_kind("hosts", hosts, Sequence)
    for host in hosts:
        check_kind("each host", host, SmartHost)
    return tuple(hosts)


def _check_ipv6(host: str) -> None:
    """Check an address that needs no brackets to be connected to."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise LocalProtocolError("a host with a colon is an IPv6 address; the port is given beside it", host) from None


def _check_port(port: int) -> None:
    check_kind("a port", port, int)
    if not 1 <= port <= 65_535:
        raise LocalProtocolError("a port is a number from 1 to 65535", port)


def _check_pattern(pattern: str) -> None:
    if pattern == _FOR_EVERYTHING:
        return
    if pattern.startswith("[") and pattern.endswith("]"):
        _check_literal(pattern)
        return
    try:
        check_host_name(pattern.removeprefix("."))
    except LocalProtocolError:
        raise LocalProtocolError("a pattern is a domain, .domain for all below it, or *", pattern) from None


def _check_literal(pattern: str) -> None:
    try:
        ipaddress.ip_address(pattern[1:-1].lower().removeprefix("ipv6:"))
    except ValueError:
        raise LocalProtocolError("an address literal holds an address", pattern) from None
