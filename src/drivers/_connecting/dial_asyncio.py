"""How the asyncio driver connects.

What lives here: looking a name up, and waiting for the attempts that the race has begun. What does not: which address
is tried when.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
from collections.abc import Callable

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
        async with asyncio.timeout(WHOLE * seconds):
            made = make(way.host or "", way.port, seconds)
            return check_socket(await made if inspect.isawaitable(made) else made)
    except SmtpError:
        raise
    except Exception as error:
        raise connect_failed(way, [("", error)]) from error


async def _look_up(way: Way, seconds: float) -> list[Address]:
    if way.path is not None:
        return [Address.of_path(way.path)]
    # The system's resolver, whatever the loop: a loop may have one of its own that knows less.
    look_up = functools.partial(socket.getaddrinfo, way.host, way.port, type=socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(seconds):
            return in_order(await asyncio.get_running_loop().run_in_executor(None, look_up))
    except (OSError, UnicodeError) as error:
        raise connect_failed(way, [(str(way.host), error)]) from error


async def _wait_for_any(socks: list[socket.socket], until: float) -> None:
    """Wait until one of the sockets is writable, or failed, but not beyond ``until``."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_at(until, wake)
    for sock in socks:
        loop.add_writer(sock, wake)
    try:
        await waiter
    finally:
        timer.cancel()
        for sock in socks:
            loop.remove_writer(sock)


def _now() -> float:
    return asyncio.get_running_loop().time()
