"""One mail by the driver of one's choice: what ``smtpcore send`` does once its arguments are understood.

What lives here: the same few lines for each driver, and an answer for every recipient whatever goes wrong. What does
not: arguments, printing, exit statuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from smtpcore import Disconnect, Envelope, Outcome, Report, SessionError, SmtpError, Verdict
from smtpcore.drivers._session.options import Options

__all__ = ["DRIVERS", "Sent", "Server", "deliver"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One outcome per recipient, and what ended the session early, if anything did."""

    outcomes: tuple[Outcome, ...]
    error: SmtpError | None


@dataclass(frozen=True, slots=True)
class Server:
    """A port of a host, or a unix socket; then the host, if there is one, is whose name TLS verifies."""

    host: str | None
    port: int
    socket: str | None = None


Deliver = Callable[[Server, Options, Envelope, BinaryIO], tuple[Report, Disconnect | None]]


def _blocking(
    server: Server, options: Options, envelope: Envelope, message: BinaryIO
) -> tuple[Report, Disconnect | None]:
    from smtpcore.drivers import blocking

    if server.socket is None:
        opened = blocking.connect(server.host or "", server.port, **options)
    else:
        opened = blocking.connect_unix(server.socket, server.host, **options)
    with opened as session:
        return session.deliver(envelope, message), session.end


def _asyncio(
    server: Server, options: Options, envelope: Envelope, message: BinaryIO
) -> tuple[Report, Disconnect | None]:
    import asyncio

    from smtpcore.drivers import asyncio as driver

    async def run() -> tuple[Report, Disconnect | None]:
        if server.socket is None:
            opened = await driver.connect(server.host or "", server.port, **options)
        else:
            opened = await driver.connect_unix(server.socket, server.host, **options)
        async with opened as session:
            return await session.deliver(envelope, message), session.end

    return asyncio.run(run())


def _trio(server: Server, options: Options, envelope: Envelope, message: BinaryIO) -> tuple[Report, Disconnect | None]:
    import trio

    from smtpcore.drivers import trio as driver

    async def run() -> tuple[Report, Disconnect | None]:
        if server.socket is None:
            opened = await driver.connect(server.host or "", server.port, **options)
        else:
            opened = await driver.connect_unix(server.socket, server.host, **options)
        async with opened as session:
            return await session.deliver(envelope, message), session.end

    return trio.run(run)


DRIVERS: Mapping[str, Deliver] = {"blocking": _blocking, "asyncio": _asyncio, "trio": _trio}


def deliver(driver: str, server: Server, options: Options, envelope: Envelope, message: BinaryIO) -> Sent:
    """Send one mail over a session of its own.

    A session that cannot be opened is an answer too: every recipient is to be tried later. Raises
    ``LocalProtocolError`` for what was refused here.
    """
    try:
        report, end = DRIVERS[driver](server, options, envelope, message)
    except SessionError as error:
        outcomes = tuple(Outcome(to, Verdict.LATER, error.reply, error) for to in envelope.recipients)
        return Sent(outcomes, error)
    return Sent(report.outcomes, None if end is None else end.error)
