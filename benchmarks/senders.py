"""One sender in one process: mails to a port of the loopback address, timed from inside.

What lives here: how each library is used for that, in its own plainest way and with its own defaults: many mails over
one session, many sessions at once, one large mail out of a file. What does not: the sink, the processors, the
comparison. Called by `run.py`; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


def with_our_blocking_across(port: int, mails: int, body: bytes) -> Spent:
    import smtpcore.drivers.blocking
    from smtpcore import MailSent, Pipelining

    with smtpcore.drivers.blocking.connect(HOST, port, pipelining=Pipelining.ACROSS) as session:
        clock = Clock()
        sent = sum(isinstance(report, MailSent) for report in session.send_many(_pairs(mails, body)))
        assert sent == mails
        return clock.spent()


def with_our_asyncio_across(port: int, mails: int, body: bytes) -> Spent:
    import smtpcore.drivers.asyncio

    return asyncio.run(_async_across(smtpcore.drivers.asyncio, port, mails, body))


def with_our_trio_across(port: int, mails: int, body: bytes) -> Spent:
    import trio

    import smtpcore.drivers.trio

    return trio.run(_async_across, smtpcore.drivers.trio, port, mails, body)


async def _async_across(
    driver: Any, port: int, mails: int, body: bytes, options: dict[str, Any] | None = None
) -> Spent:
    from smtpcore import MailSent, Pipelining

    async with await driver.connect(HOST, port, **(options or {"pipelining": Pipelining.ACROSS})) as session:
        clock = Clock()
        sent = 0
        async for report in session.send_many(_pairs(mails, body)):
            sent += isinstance(report, MailSent)
        assert sent == mails
        return clock.spent()


def _pairs(mails: int, body: bytes) -> Iterator[tuple[Any, bytes]]:
    """What ``send_many`` takes: an envelope of its own for each mail, as a queue would make it."""
    from smtpcore import BodyFacts, Envelope

    facts = BodyFacts(size=len(body), eight_bit=False, repeatable=True, canonical=True)
    for _ in range(mails):
        yield Envelope(SENDER, (RECIPIENT,), body=facts), body


# --- many sessions at once ------------------------------------------------------------------------------------------


def many_with_aiosmtplib(port: int, mails: int, body: bytes, sessions: int) -> Spent:
    import aiosmtplib

    async def one() -> None:
        async with aiosmtplib.SMTP(hostname=HOST, port=port) as session:
            for _ in range(mails // sessions):
                await session.sendmail(SENDER, [RECIPIENT], body)

    async def main() -> Spent:
        clock = Clock()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(sessions):
                tasks.create_task(one())
        return clock.spent()

    return asyncio.run(main())


def many_with_our_asyncio(port: int, mails: int, body: bytes, sessions: int) -> Spent:
    import smtpcore.drivers.asyncio

    async def main() -> Spent:
        clock = Clock()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(sessions):
                tasks.create_task(_one_of_many(smtpcore.drivers.asyncio, port, mails // sessions, body))
        return clock.spent()

    return asyncio.run(main())


def many_with_our_trio(port: int, mails: int, body: bytes, sessions: int) -> Spent:
    import trio

    import smtpcore.drivers.trio

    async def main() -> Spent:
        clock = Clock()
        async with trio.open_nursery() as nursery:
            for _ in range(sessions):
                nursery.start_soon(_one_of_many, smtpcore.drivers.trio, port, mails // sessions, body)
        return clock.spent()

    return trio.run(main)


async def _one_of_many(driver: Any, port: int, mails: int, body: bytes) -> None:
    async with await driver.connect(HOST, port) as session:
        for _ in range(mails):
            await session.send(body, sender=SENDER, recipients=[RECIPIENT])


def many_with_our_threads(port: int, mails: int, body: bytes, sessions: int) -> Spent:
    import smtpcore.drivers.blocking

    def one() -> None:
        with smtpcore.drivers.blocking.connect(HOST, port) as session:
            for _ in range(mails // sessions):
                session.send(body, sender=SENDER, recipients=[RECIPIENT])

    return _in_threads(one, sessions)


def many_with_smtplib(port: int, mails: int, body: bytes, sessions: int) -> Spent:
    import smtplib

    def one() -> None:
        with smtplib.SMTP(HOST, port) as session:
            for _ in range(mails // sessions):
                session.sendmail(SENDER, [RECIPIENT], body)

    return _in_threads(one, sessions)


def _in_threads(one: Callable[[], None], sessions: int) -> Spent:
    clock = Clock()
    threads = [threading.Thread(target=one) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clock.spent()


# --- one large mail -------------------------------------------------------------------------------------------------


def large_with_smtplib(port: int, path: Path) -> Spent:
    import smtplib

    with smtplib.SMTP(HOST, port) as session:
        clock = Clock()
        session.sendmail(SENDER, [RECIPIENT], path.read_bytes())
        return clock.spent()


def large_with_aiosmtplib(port: int, path: Path) -> Spent:
    import aiosmtplib

    async def main() -> Spent:
        async with aiosmtplib.SMTP(hostname=HOST, port=port, timeout=600) as session:
            clock = Clock()
            await session.sendmail(SENDER, [RECIPIENT], path.read_bytes())
            return clock.spent()

    return asyncio.run(main())


def large_with_our_blocking(port: int, path: Path) -> Spent:
    import smtpcore.drivers.blocking

    with smtpcore.drivers.blocking.connect(HOST, port) as session:
        clock = Clock()
        session.send(path, sender=SENDER, recipients=[RECIPIENT])
        return clock.spent()


def large_with_our_asyncio(port: int, path: Path) -> Spent:
    import smtpcore.drivers.asyncio

    return asyncio.run(_large(smtpcore.drivers.asyncio, port, path))


def large_with_our_trio(port: int, path: Path) -> Spent:
    import trio

    import smtpcore.drivers.trio

    return trio.run(_large, smtpcore.drivers.trio, port, path)


def large_with_our_blocking_untouched(port: int, path: Path) -> Spent:
    import smtpcore.drivers.blocking

    with smtpcore.drivers.blocking.connect(HOST, port) as session:
        clock = Clock()
        report = session.deliver(_canonical(path), path)
        assert report.outcomes[0].reply, report
        return clock.spent()


def large_with_our_asyncio_untouched(port: int, path: Path) -> Spent:
    import smtpcore.drivers.asyncio

    return asyncio.run(_large_untouched(smtpcore.drivers.asyncio, port, path))


def large_with_our_trio_untouched(port: int, path: Path) -> Spent:
    import trio

    import smtpcore.drivers.trio

    return trio.run(_large_untouched, smtpcore.drivers.trio, port, path)


async def _large_untouched(driver: Any, port: int, path: Path) -> Spent:
    async with await driver.connect(HOST, port) as session:
        clock = Clock()
        report = await session.deliver(_canonical(path), path)
        assert report.outcomes[0].reply, report
        return clock.spent()


def _canonical(path: Path) -> Any:
    """An envelope which declares that the file may be sent as it is."""
    from smtpcore import BodyFacts, Envelope

    facts = BodyFacts(size=path.stat().st_size, eight_bit=False, repeatable=True, canonical=True)
    return Envelope(SENDER, (RECIPIENT,), body=facts)


async def _large(driver: Any, port: int, path: Path) -> Spent:
    async with await driver.connect(HOST, port) as session:
        clock = Clock()
        await session.send(path, sender=SENDER, recipients=[RECIPIENT])
        return clock.spent()


# --- within TLS, from the first octet -------------------------------------------------------------------------------


def tls_with_smtplib(port: int, mails: int, body: bytes) -> Spent:
    import smtplib

    with smtplib.SMTP_SSL(HOST, port, context=_trusting_anybody()) as session:
        session.ehlo()
        clock = Clock()
        for _ in range(mails):
            session.sendmail(SENDER, [RECIPIENT], body)
        return clock.spent()


def _trusting_anybody() -> Any:
    from smtpcore.drivers.tls import client_context

    return client_context(verify=False)


def _within_tls() -> dict[str, Any]:
    from smtpcore import Pipelining, TlsPolicy

    return {"tls": TlsPolicy.IMPLICIT, "tls_context": _trusting_anybody(), "pipelining": Pipelining.ACROSS}


def tls_with_our_blocking(port: int, mails: int, body: bytes) -> Spent:
    from smtpcore import Pipelining

    return _tls_one_by_one(port, mails, body, pipelining=Pipelining.WITHIN)


def _tls_one_by_one(port: int, mails: int, body: bytes, **options: Any) -> Spent:
    import smtpcore.drivers.blocking

    with smtpcore.drivers.blocking.connect(HOST, port, **(_within_tls() | options)) as session:
        clock = Clock()
        for _ in range(mails):
            session.send(body, sender=SENDER, recipients=[RECIPIENT])
        return clock.spent()


def tls_with_our_blocking_across(port: int, mails: int, body: bytes) -> Spent:
    import smtpcore.drivers.blocking
    from smtpcore import MailSent

    with smtpcore.drivers.blocking.connect(HOST, port, **_within_tls()) as session:
        clock = Clock()
        sent = sum(isinstance(report, MailSent) for report in session.send_many(_pairs(mails, body)))
        assert sent == mails
        return clock.spent()


def tls_with_our_asyncio_across(port: int, mails: int, body: bytes) -> Spent:
    import smtpcore.drivers.asyncio

    return asyncio.run(_async_across(smtpcore.drivers.asyncio, port, mails, body, _within_tls()))


def tls_with_our_trio_across(port: int, mails: int, body: bytes) -> Spent:
    import trio

    import smtpcore.drivers.trio

    return trio.run(_async_across, smtpcore.drivers.trio, port, mails, body, _within_tls())


SENDERS: dict[str, Callable[[int, int, bytes], Spent]] = {
    "smtplib": with_smtplib,
    "aiosmtplib": with_aiosmtplib,
    "smtpcore blocking": with_our_blocking,
    "smtpcore asyncio": with_our_asyncio,
    "smtpcore trio": with_our_trio,
    "smtpcore blocking, across": with_our_blocking_across,
    "smtpcore asyncio, across": with_our_asyncio_across,
    "smtpcore trio, across": with_our_trio_across,
}

MANY_SESSIONS: dict[str, Callable[[int, int, bytes, int], Spent]] = {
    "smtplib in threads": many_with_smtplib,
    "aiosmtplib": many_with_aiosmtplib,
    "smtpcore blocking in threads": many_with_our_threads,
    "smtpcore asyncio": many_with_our_asyncio,
    "smtpcore trio": many_with_our_trio,
}

WITHIN_TLS: dict[str, Callable[[int, int, bytes], Spent]] = {
    "smtplib": tls_with_smtplib,
    "smtpcore blocking": tls_with_our_blocking,
    "smtpcore blocking, across": tls_with_our_blocking_across,
    "smtpcore asyncio, across": tls_with_our_asyncio_across,
    "smtpcore trio, across": tls_with_our_trio_across,
}

LARGE: dict[str, Callable[[int, Path], Spent]] = {
    "smtplib": large_with_smtplib,
    "aiosmtplib": large_with_aiosmtplib,
    "smtpcore blocking": large_with_our_blocking,
    "smtpcore asyncio": large_with_our_asyncio,
    "smtpcore trio": large_with_our_trio,
    "smtpcore blocking, sendfile": large_with_our_blocking_untouched,
    "smtpcore asyncio, sendfile": large_with_our_asyncio_untouched,
    "smtpcore trio, sendfile": large_with_our_trio_untouched,
}


def main(kind: str, name: str, port: str, *what: str) -> None:
    if kind == "large":
        spent = LARGE[name](int(port), Path(what[0]))
    elif kind == "sessions":
        spent = MANY_SESSIONS[name](int(port), int(what[0]), message(int(what[1])), int(what[2]))
    elif kind == "tls":
        spent = WITHIN_TLS[name](int(port), int(what[0]), message(int(what[1])))
    else:
        spent = SENDERS[name](int(port), int(what[0]), message(int(what[1])))
    print(json.dumps(spent._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
