"""How the trio driver connects.

What lives here: looking a name up, and waiting for the attempts that the race has begun. What does not: which address
is tried when.
"""

from __future__ import annotations

import functools
import inspect
import socket
from collections.abc import Callable

import trio

from smtpcore import SmtpError
from smtpcore.drivers._connecting.race import (
    WHOLE,
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


async def dial(way: Way, options: Options) -> socket.socket:
    """A connected socket, which the caller owns; raises ``ConnectFailed``."""
    seconds = connect_seconds(options)
    if "connect" in options:
        return await _dial_by(options["connect"], way, seconds)
    sources = source_addresses(options.get("source_address", ()))
    dialling = Dialling(way, await _look_up(way, seconds), seconds, _now(), sources)
    try:
        while (sock := dialling.next(_now())) is None:
            await _wait_for_any(dialling.pending, dialling.wake_at)
    except BaseException:
        dialling.close()
        raise
    return sock


async def _dial_by(make: Callable[[str, int, float], object], way: Way, seconds: float) -> socket.socket:
    """What the caller's own function makes of it; whatever fails in there is a failed connection."""
    try:
        with trio.fail_after(WHOLE * seconds):
            made = make(way.host or "", way.port, seconds)
            return check_socket(await made if inspect.isawaitable(made) else made)
    except SmtpError:
        raise
    except Exception as error:
        raise connect_failed(way, [("", error)]) from error


async def _look_up(way: Way, seconds: float) -> list[Address]:
    if way.path is not None:
        return [Address.of_path(way.path)]
    look_up = functools.partial(socket.getaddrinfo, way.host, way.port, type=socket.SOCK_STREAM)
    try:
        with trio.fail_after(seconds):
            return in_order(await trio.to_thread.run_sync(look_up, abandon_on_cancel=True))
    except (OSError, UnicodeError, trio.TooSlowError) as error:
        raise connect_failed(way, [(str(way.host), error)]) from error


async def _wait_for_any(socks: list[socket.socket], until: float) -> None:
    """Wait until one of the sockets is writable, or failed, but not beyond ``until``."""
    with trio.move_on_at(until):
        async with trio.open_nursery() as nursery:

            async def wait(sock: socket.socket) -> None:
                await trio.lowlevel.wait_writable(sock)
                nursery.cancel_scope.cancel()

            for sock in socks:
                nursery.start_soon(wait, sock)


def _now() -> float:
    return trio.current_time()
