"""How the blocking driver connects.

What lives here: looking a name up, and waiting for the attempts that the race has begun. What does not: which address
is tried when.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from smtpcore import SmtpError
from smtpcore.drivers._connecting.race import (
    Address,
    Dialling,
    Way,
    check_socket,
    connect_failed,
    in_order,
    source_addresses,
)
from smtpcore.drivers._session.options import Options, connect_seconds

__all__ = ["dial"]

#: Seconds that fit into any system call; a deadline may be farther away, or infinite.
_LONGEST_WAIT = 86_400.0


def dial(way: Way, options: Options) -> socket.socket:
    """A connected socket, which the caller owns; raises ``ConnectFailed``."""
    seconds = connect_seconds(options)
    if "connect" in options:
        return _dial_by(options["connect"], way, seconds)
    sources = source_addresses(options.get("source_address", ()))
    dialling = Dialling(way, _look_up(way, seconds), seconds, _now(), sources)
    try:
        while (sock := dialling.next(_now())) is None:
            _wait_for_any(dialling.pending, dialling.wake_at)
    except BaseException:
        dialling.close()
        raise
    return sock


def _dial_by(make: Callable[[str, int, float], object], way: Way, seconds: float) -> socket.socket:
    """What the caller's own function makes of it; whatever fails in there is a failed connection."""
    try:
        return check_socket(make(way.host or "", way.port, seconds))
    except SmtpError:
        raise
    except Exception as error:
        raise connect_failed(way, [("", error)]) from error


def _look_up(way: Way, seconds: float) -> list[Address]:
    if way.path is not None:
        return [Address.of_path(way.path)]
    try:
        return in_order(socket.getaddrinfo(way.host, way.port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise connect_failed(way, [(str(way.host), error)]) from error


def _wait_for_any(socks: list[socket.socket], until: float) -> None:
    """Wait until one of the sockets is writable, or failed, but not beyond ``until``."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLOUT)
    poll.poll(max(0.0, min(until - time.monotonic(), _LONGEST_WAIT)) * 1000)


def _now() -> float:
    return time.monotonic()
