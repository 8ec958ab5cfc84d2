"""A receiving server that takes chunks, in a process of its own: it compares every octet and counts the mails.

What lives here: the server, on asyncio's protocols, for plain text and for TLS from the first octet. What does not: the
senders. Postfix's `smtp-sink` takes no chunks and speaks no TLS; where it can serve, it is the better judge.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

__all__ = ["Wrong", "receiver"]

_EHLO = b"250-receiver.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 CHUNKING\r\n"
_OK = b"250 2.0.0 ok\r\n"
_TAKEN = b"250 2.0.0 taken\r\n"
_REPLIES = {b"EHLO": _EHLO, b"HELP": b"214 there is none\r\n", b"QUIT": b"221 bye\r\n"}
_END = b"\r\n.\r\n"


class Wrong(Exception):
    """What arrived is not what was sent."""


class _Session(asyncio.Protocol):
    """One client; ``expected`` is every message, and ``count`` hears of each whether it is that one.

    Without ``expected`` every message is right.
    """

    def __init__(self, expected: bytes | None, count: Callable[[bool], None]) -> None:
        self._expected = expected
        self._count = count
        self._unread = b""
        #: Octets of the message so far, whether they are the expected ones, and how many of the chunk are to come.
        self._octets = 0
        self._right = True
        self._chunk = 0
        self._last = False
        self._reading: Callable[[bytes, int], int] = self._command
        self._replies: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 receiver.example\r\n")

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
        at = 0
        while at < len(data) and (read := self._reading(data, at)):
            at += read
        self._unread = data[at:]
        if self._replies:
            self._transport.write(b"".join(self._replies))
            self._replies.clear()

    def _command(self, data: bytes, at: int) -> int:
        """Take a command; returns how many octets it has, or 0 if there is no whole one yet."""
        end = data.find(b"\r\n", at)
        if end < 0:
            return 0
        verb = data[at : at + 4].upper()
        if verb == b"BDAT":
            _, octets, *last = data[at:end].split()
            self._chunk, self._last = int(octets), bool(last)
            self._reading = self._of_chunk
            if not self._chunk:
                self._chunk_ends()
        elif verb == b"DATA":
            self._replies.append(b"354 go on\r\n")
            self._reading = self._of_data
        else:
            self._replies.append(_REPLIES.get(verb, _OK))
        return end + 2 - at

    def _of_chunk(self, data: bytes, at: int) -> int:
        octets = min(self._chunk, len(data) - at)
        self._compare(data, at, octets)
        self._chunk -= octets
        if not self._chunk:
            self._chunk_ends()
        return octets

    def _chunk_ends(self) -> None:
        self._replies.append(_TAKEN)
        self._reading = self._command
        if self._last:
            self._message_ends()

    def _of_data(self, data: bytes, at: int) -> int:
        """Take what comes after DATA; no line of the expected message begins with a dot."""
        end = data.find(_END, at)
        if end >= 0:
            octets = end + 2 - at
            self._compare(data, at, octets)
            self._replies.append(_TAKEN)
            self._reading = self._command
            self._message_ends()
            return octets + 3
        # The end may have begun.
        octets = max(0, len(data) - at - len(_END) + 1)
        self._compare(data, at, octets)
        return octets

    def _compare(self, data: bytes, at: int, octets: int) -> None:
        if self._expected is not None:
            piece = data if octets == len(data) else data[at : at + octets]
            self._right = self._right and self._expected.startswith(piece, self._octets)
        self._octets += octets

    def _message_ends(self) -> None:
        self._count(self._expected is None or (self._right and self._octets == len(self._expected)))
        self._octets, self._right = 0, True


async def _serve(expected: bytes | None, context: ssl.SSLContext | None, pipe: Connection) -> None:
    counted = {True: 0, False: 0}

    def count(right: bool) -> None:
        counted[right] += 1

    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_reader(pipe.fileno(), asked.set)
    server = await loop.create_server(lambda: _Session(expected, count), "127.0.0.1", 0, ssl=context)
    pipe.send(server.sockets[0].getsockname()[1])
    await asked.wait()
    pipe.send((counted[True], counted[False]))


def _run(expected: bytes | Path | None, processor: int, tls: bool, pipe: Connection) -> None:
    os.sched_setaffinity(0, {processor})
    if isinstance(expected, Path):
        # Not in the process that makes this one: what it holds would be counted as its senders' memory.
        expected = expected.read_bytes()
    context = None
    if tls:
        # Here for the same reason.
        from smtpcore.testing.certificates import server_context

        context = server_context()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(expected, context, pipe))


@contextmanager
def receiver(expected: bytes | Path | None, mails: int, processor: int, *, tls: bool = False) -> Iterator[int]:
    """Within, a receiver listens at the port that it gives; afterwards it must have had ``expected``, the octets or
    those of a file, ``mails`` times.

    Without ``expected`` mails are only counted. With ``tls`` that begins with the first octet. Raises :class:`Wrong`.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_run, args=(expected, processor, tls, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
        ours.send("how many?")
        right, wrong = ours.recv()
        if (right, wrong) != (mails, 0):
            raise Wrong(f"{right} right mails and {wrong} wrong ones came instead of {mails}")
    finally:
        process.terminate()
        process.join()
