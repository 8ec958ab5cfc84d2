"""A wire of a given length: a proxy on the loopback address that hands every octet on after a delay.

What lives here: the delay, for any number of connections and without a limit to what is on its way. What does not:
anything about SMTP.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

__all__ = ["far_away"]


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Write what comes, each piece ``seconds`` after it came, and the end of it too."""
    loop = asyncio.get_running_loop()
    last = loop.create_future()

    def end() -> None:
        with suppress(OSError, RuntimeError):
            writer.write_eof()
        last.set_result(None)

    with suppress(ConnectionError):
        while octets := await reader.read(1 << 20):
            loop.call_later(seconds, _write(writer, octets))
    loop.call_later(seconds, end)
    await last


def _write(writer: asyncio.StreamWriter, octets: bytes) -> Callable[[], None]:
    def write() -> None:
        if not writer.is_closing():
            writer.write(octets)

    return write


async def _serve(port: int, seconds: float, ready: Connection) -> None:
    async def connected(near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_hand_on(near, far_writer, seconds), _hand_on(far, near_writer, seconds))
        near_writer.close()
        far_writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(port: int, seconds: float, ready: Connection, processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(port, seconds, ready))


@contextmanager
def far_away(port: int, round_trip: float, processor: int) -> Iterator[int]:
    """Within, the port that it gives is ``port`` at a distance of ``round_trip`` seconds there and back."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_run, args=(port, round_trip / 2, theirs, processor), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()
