"""One mail by the driver of one's choice: what ``smtpcore send`` does once its arguments are understood.

What lives here: the same three lines for each driver, and an answer for every recipient whatever goes wrong. What does
not: arguments, printing, exit statuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from smtpcore import Disconnect, Envelope, Outcome, Report, SessionError, SmtpError, Verdict
from smtpcore.drivers._session.options import Options

__all__ = ["DRIVERS", "Sent", "deliver"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One outcome per recipient, and what ended the session early, if anything did."""

    outcomes: tuple[Outcome, ...]
    error: SmtpError | None


Deliver = Callable[[str, int, Options, Envelope, BinaryIO], tuple[Report, Disconnect | None]]


def _blocking(
    host: str, port: int, options: Options, envelope: Envelope, message: BinaryIO
) -> tuple[Report, Disconnect | None]:
    from smtpcore.drivers import blocking

    with blocking.connect(host, port, **options) as session:
        return session.deliver(envelope, message), session.end


def _asyncio(
    host: str, port: int, options: Options, envelope: Envelope, message: BinaryIO
) -> tuple[Report, Disconnect | None]:
    import asyncio

    from smtpcore.drivers import asyncio as driver

    async def run() -> tuple[Report, Disconnect | None]:
        async with await driver.connect(host, port, **options) as session:
            return await session.deliver(envelope, message), session.end

    return asyncio.run(run())


def _trio(
    host: str, port: int, options: Options, envelope: Envelope, message: BinaryIO
) -> tuple[Report, Disconnect | None]:
    import trio

    from smtpcore.drivers import trio as driver

    async def run() -> tuple[Report, Disconnect | None]:
        async with await driver.connect(host, port, **options) as session:
            return await session.deliver(envelope, message), session.end

    return trio.run(run)


DRIVERS: Mapping[str, Deliver] = {"blocking": _blocking, "asyncio": _asyncio, "trio": _trio}


def deliver(driver: str, host: str, port: int, options: Options, envelope: Envelope, message: BinaryIO) -> Sent:
    """Send one mail over a session of its own.

    A session that cannot be opened is an answer too: every recipient is to be tried later. Raises
    ``LocalProtocolError`` for what was refused here.
    """
    try:
        report, end = DRIVERS[driver](host, port, options, envelope, message)
    except SessionError as error:
        outcomes = tuple(Outcome(to, Verdict.LATER, error.reply, error) for to in envelope.recipients)
        return Sent(outcomes, error)
    return Sent(report.outcomes, None if end is None else end.error)
