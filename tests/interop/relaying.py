"""The relay in each of its three services behind one face, for tests with real servers as its next hop.

What lives here: relaying some mails until nothing is left. What does not: any server, and any test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

import smtpcore.drivers.service
import smtpcore.drivers.threads
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, RelaySettings, Route, Schedule

from .postfix import PATIENCE, wait_until

Mails = Sequence[tuple[Envelope, bytes]]
#: Relays mails from a spool along a route until the spool is empty; returns all that was told on the way.
Relayed = Callable[..., list[Fate | Attempted]]
SETTINGS: dict[str, Any] = {"reporting_mta": "relay.example", "schedule": Schedule(delays=(0.2,)), "rest": 0.2}


def _in_threads(
    spool: Spool, route: Route, mails: Mails, options: Any = None, **settings: Any
) -> list[Fate | Attempted]:
    told: list[Fate | Attempted] = []
    relay_settings = RelaySettings(**{**SETTINGS, **settings})
    with smtpcore.drivers.threads.RelayService(spool, route, relay_settings, options, notice=told.append) as relay:
        for submission in [relay.accept(envelope, octets) for envelope, octets in mails]:
            assert len(submission.fates(PATIENCE)) == len(submission.recipients)
        wait_until(lambda: not len(spool), "the spool to be empty")
    return told


def _on_a_loop(
    backend: str, spool: Spool, route: Route, mails: Mails, options: Any = None, **settings: Any
) -> list[Fate | Attempted]:
    told: list[Fate | Attempted] = []
    relay_settings = RelaySettings(**{**SETTINGS, **settings})
    service = smtpcore.drivers.service.RelayService

    async def main() -> None:
        async with service(spool, route, relay_settings, options, notice=told.append) as relay:
            submissions = [await relay.accept(envelope, octets) for envelope, octets in mails]
            with anyio.fail_after(PATIENCE):
                for submission in submissions:
                    assert len(await submission.fates()) == len(submission.recipients)
                while len(spool):
                    await anyio.sleep(0.02)

    anyio.run(main, backend=backend)
    return told


#: Each service by the driver that holds its sessions.
SERVICES: Mapping[str, Relayed] = {
    "blocking": _in_threads,
    "asyncio": functools.partial(_on_a_loop, "asyncio"),
    "trio": functools.partial(_on_a_loop, "trio"),
}
