"""From a host to a connected socket: which addresses, in which order, when, from where, and the words for a failure.

What lives here: the order of addresses and the schedule of attempts (RFC 8305), over sockets that never wait. What does
not: looking names up and waiting, which each driver does in its own way.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Final, Self, cast

from smtpcore import ConnectFailed, LocalProtocolError

__all__ = [
    "WHOLE",
    "Address",
    "Dialling",
    "Ends",
    "Way",
    "check_socket",
    "connect_failed",
    "in_order",
    "prepare",
    "source_addresses",
]

#: Seconds between the beginnings of two attempts, RFC 8305 §8: the Connection Attempt Delay.
ATTEMPT_DELAY: Final = 0.25
#: A host is given up after so many times the deadline of one attempt, however many addresses it has.
WHOLE: Final = 2


@dataclass(frozen=True, slots=True)
class Way:
    """What to connect to: a port of a host, or a unix socket; ``host`` is also whose name TLS verifies."""

    host: str | None
    port: int = 0
    path: str | bytes | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return os.fsdecode(self.path)
        return f"[{self.host}]:{self.port}" if self.host and ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """One address to try: what ``socket.socket`` and ``connect`` take."""

    family: int
    kind: int
    protocol: int
    address: Any

    def __str__(self) -> str:
        return os.fsdecode(self.address) if isinstance(self.address, (str, bytes)) else str(self.address[0])

    @classmethod
    def of_path(cls, path: str | bytes) -> Self:
        return cls(socket.AF_UNIX, socket.SOCK_STREAM, 0, path)


def in_order(found: Iterable[tuple[Any, ...]]) -> list[Address]:
    """What ``getaddrinfo`` found, each address once, the families in turn (RFC 8305 §4); the first stays the first."""
    families: dict[int, dict[Address, None]] = {}
    for family, kind, protocol, _, address in found:
        families.setdefault(family, {})[Address(family, kind, protocol, address)] = None
    return [address for address in chain.from_iterable(zip_longest(*families.values())) if address is not None]


class Dialling:
    """The race of the attempts to reach one host (RFC 8305 §5); the first to succeed wins, the others are closed.

    Facts and orders: :meth:`next` begins what is due and looks at what is under way; when it gives no socket, wait
    until one of ``pending`` is writable or ``wake_at`` has come, and ask again. Every attempt has ``seconds``; all
    together have twice that, so that a host with many dead addresses costs no more than one with two. All times are
    those of the driver's clock.
    """

    def __init__(
        self, way: Way, addresses: Sequence[Address], seconds: float, now: float, sources: Sequence[str] = ()
    ) -> None:
        self._way = way
        self._waiting = deque(addresses)
        self._seconds = seconds
        self._give_up_at = now + WHOLE * seconds
        self._next_at = now
        self._sources = {_family(source): source for source in sources}
        self._under_way: dict[socket.socket, tuple[Address, float]] = {}
        self._failures: list[tuple[str, BaseException | str]] = []

    @property
    def pending(self) -> list[socket.socket]:
        """The sockets that are being connected."""
        return list(self._under_way)

    @property
    def wake_at(self) -> float:
        """When the next attempt is to begin, or one under way to be given up."""
        moments = [self._give_up_at, *(until for _, until in self._under_way.values())]
        if self._waiting:
            moments.append(self._next_at)
        return min(moments)

    def next(self, now: float) -> socket.socket | None:
        """The connected socket, which the caller owns from now on, or ``None``: wait.

        Raises ``ConnectFailed`` when there is nothing left to wait for.
        """
        connected = self._look(now)
        while connected is None and self._waiting and now < self._give_up_at and now >= self._next_at:
            connected = self._begin(self._waiting.popleft(), now)
        if connected is not None:
            self.close()
            return connected
        if not self._under_way and (not self._waiting or now >= self._give_up_at):
            self._failures += [(str(address), "not tried, for the time was up") for address in self._waiting]
            raise connect_failed(self._way, self._failures)
        return None

    def close(self) -> None:
        """Give up what is under way."""
        for sock in self._under_way:
            sock.close()
        self._under_way.clear()

    def _look(self, now: float) -> socket.socket | None:
        """Look at the attempts under way; the one that succeeded, if any did."""
        ready = _writable(self._under_way)
        for sock, (address, until) in list(self._under_way.items()):
            if sock in ready:
                del self._under_way[sock]
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not error:
                    return sock
                self._fail(sock, address, OSError(error, os.strerror(error)), now)
            elif now >= min(until, self._give_up_at):
                del self._under_way[sock]
                self._fail(sock, address, "timed out", now)
        return None

    def _begin(self, address: Address, now: float) -> socket.socket | None:
        """Begin an attempt; the socket if it is connected at once."""
        if self._sources and address.family not in self._sources:
            self._fail(None, address, "no source address of its family was given", now)
            return None
        try:
            # The machine may know the address family by name only.
            sock = socket.socket(address.family, address.kind, address.protocol)
        except OSError as error:
            self._fail(None, address, error, now)
            return None
        try:
            sock.setblocking(False)
            if self._sources:
                sock.bind((self._sources[address.family], 0))
            sock.connect(address.address)
        except BlockingIOError as error:
            if error.errno == errno.EINPROGRESS:
                self._under_way[sock] = (address, now + self._seconds)
                self._next_at = now + ATTEMPT_DELAY
            else:
                # A unix socket with a full queue; there is no telling when it has room again.
                self._fail(sock, address, error, now)
            return None
        except OSError as error:
            self._fail(sock, address, error, now)
            return None
        except BaseException:
            sock.close()
            raise
        return sock

    def _fail(self, sock: socket.socket | None, address: Address, why: BaseException | str, now: float) -> None:
        """An attempt failed: the next one begins at once."""
        if sock is not None:
            sock.close()
        self._failures.append(("" if self._way.path is not None else str(address), why))
        self._next_at = now


def _writable(socks: Iterable[socket.socket]) -> set[socket.socket]:
    by_number = {sock.fileno(): sock for sock in socks}
    poll = select.poll()
    for number in by_number:
        poll.register(number, select.POLLOUT)
    return {by_number[number] for number, _ in poll.poll(0)}


def _family(source: str) -> int:
    try:
        address = ipaddress.ip_address(source)
    except ValueError as error:
        raise LocalProtocolError("a source address must be an IP address of this machine", source) from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise LocalProtocolError("a source address with a zone is not supported", source)
        return socket.AF_INET6
    return socket.AF_INET


def source_addresses(sources: str | Sequence[str]) -> tuple[str, ...]:
    """The option as a tuple; raises ``LocalProtocolError`` for what is no address, or two of one family."""
    if not isinstance(sources, (str, Sequence)):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError("a source address is text, or a list of texts", sources)
    given = (sources,) if isinstance(sources, str) else tuple(sources)
    if len({_family(source) for source in given}) < len(given):
        raise LocalProtocolError("give at most one source address of each family", sources)
    return given


def connect_failed(way: Way, failures: Sequence[tuple[str, BaseException | str]]) -> ConnectFailed:
    """The error for a host of which no address could be reached, each with its reason."""
    if not failures:
        return ConnectFailed(f"{way}: the name has no address")
    details = "; ".join(f"{address}: {_words(why)}" if address else _words(why) for address, why in failures)
    return ConnectFailed(f"cannot connect to {way}: {details}")


def _words(why: BaseException | str) -> str:
    """What failed in the words of the system, whichever event loop met it; a deadline that passed says nothing."""
    if isinstance(why, OSError) and why.errno is not None:
        return os.strerror(why.errno) if why.errno > 0 else str(why.strerror)
    return str(why) or "timed out"


# --- the socket, however it came about -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a connection: our address, ``None`` where there is none, and the peer's in words."""

    local_address: str | None
    peer: str


def check_socket(made: object, source: str = "the connect callable gave") -> socket.socket:
    """What ``source`` names, the ``connect`` callable or a caller, gave for a socket, as one of the standard library.

    A trio socket gives its descriptor up. Raises ``LocalProtocolError`` for what is neither, and for a socket that is
    inside TLS already: the session's own TLS needs the bare one.
    """
    if isinstance(made, ssl.SSLSocket):
        made.close()
        raise LocalProtocolError(f"{source} a socket inside TLS; give the bare one")
    if isinstance(made, socket.socket):
        return made
    if hasattr(made, "detach") and hasattr(made, "getpeername"):
        return socket.socket(fileno=cast("Any", made).detach())
    raise LocalProtocolError(f"{source} no connected socket", made)


def prepare(sock: socket.socket, host: str | None) -> Ends:
    """Set what a session needs of a connected socket, and say where it leads."""
    over_ip = sock.family in {socket.AF_INET, socket.AF_INET6}
    if over_ip:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    where = ""
    # A peer that reset the connection already has no name any more.
    with contextlib.suppress(OSError):
        name = sock.getpeername()
        where = f"{name[0]} port {name[1]}" if over_ip else os.fsdecode(name)
    peer = f"{host} ({where})" if host and where else host or where or "a socket"
    return Ends(sock.getsockname()[0] if over_ip else None, peer)
