"""One sender in one process: mails over a single session to a port of the loopback address, timed from inside.

What lives here: how each library is used for that, in its own plainest way and with its own defaults. What does not:
the sink, the processors, the comparison. Called by `run.py`; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

SENDER = "sender@elsewhere.example"
RECIPIENT = "recipient@interop.example"
HOST = "127.0.0.1"


def message(octets: int) -> bytes:
    """A mail with a small header and ``octets`` of text."""
    header = (
        f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: a benchmark\r\nMessage-Id: <1@elsewhere.example>\r\n\r\n"
    )
    line = b"x" * 62 + b"\r\n"
    whole, rest = divmod(octets, len(line))
    text = line * whole + (b"x" * (rest - 2) + b"\r\n" if rest > 1 else b"x" * rest)
    return header.encode("ascii") + text


class Spent(NamedTuple):
    """Seconds for all mails, between the open session and the last verdict."""

    wall: float
    cpu: float


class Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def spent(self) -> Spent:
        return Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def with_smtplib(port: int, mails: int, body: bytes) -> Spent:
    import smtplib

    with smtplib.SMTP(HOST, port) as session:
        session.ehlo()
        clock = Clock()
        for _ in range(mails):
            session.sendmail(SENDER, [RECIPIENT], body)
        return clock.spent()


def with_aiosmtplib(port: int, mails: int, body: bytes) -> Spent:
    import aiosmtplib

    async def main() -> Spent:
        async with aiosmtplib.SMTP(hostname=HOST, port=port) as session:
            await session.ehlo()
            clock = Clock()
            for _ in range(mails):
                await session.sendmail(SENDER, [RECIPIENT], body)
            return clock.spent()

    return asyncio.run(main())


def with_our_blocking(port: int, mails: int, body: bytes) -> Spent:
    import smtpcore.drivers.blocking

    with smtpcore.drivers.blocking.connect(HOST, port) as session:
        clock = Clock()
        for _ in range(mails):
            session.send(body, sender=SENDER, recipients=[RECIPIENT])
        return clock.spent()


def with_our_asyncio(port: int, mails: int, body: bytes) -> Spent:
    import smtpcore.drivers.asyncio

    async def main() -> Spent:
        async with await smtpcore.drivers.asyncio.connect(HOST, port) as session:
            clock = Clock()
            for _ in range(mails):
                await session.send(body, sender=SENDER, recipients=[RECIPIENT])
            return clock.spent()

    return asyncio.run(main())


def with_our_trio(port: int, mails: int, body: bytes) -> Spent:
    import trio

    import smtpcore.drivers.trio

    async def main() -> Spent:
        async with await smtpcore.drivers.trio.connect(HOST, port) as session:
            clock = Clock()
            for _ in range(mails):
                await session.send(body, sender=SENDER, recipients=[RECIPIENT])
            return clock.spent()

    return trio.run(main)


SENDERS: dict[str, Callable[[int, int, bytes], Spent]] = {
    "smtplib": with_smtplib,
    "aiosmtplib": with_aiosmtplib,
    "smtpcore blocking": with_our_blocking,
    "smtpcore asyncio": with_our_asyncio,
    "smtpcore trio": with_our_trio,
}


def main(name: str, port: str, mails: str, octets: str) -> None:
    spent = SENDERS[name](int(port), int(mails), message(int(octets)))
    print(json.dumps(spent._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
