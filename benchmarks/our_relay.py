"""Our relay in a process of its own: everything is loaded, then it waits for a word, and drains the spool.

What lives here: the relay service used as an application would use it, with as many sessions at once as Postfix opens
by default. What does not: filling the spool, the clock. Called by `relays.py`.
"""

from __future__ import annotations

import sys

import anyio

from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import Spool
from smtpcore.relay import RelaySettings, SmartHost


async def drain(spool: Spool, host: str, port: int) -> None:
    settings = RelaySettings(reporting_mta="relay.elsewhere.example", sessions_per_next_hop=20)
    service = RelayService(spool, SmartHost(host, port), settings)
    print("ready", flush=True)
    sys.stdin.readline()
    await service.run(once=True)


def main(folder: str, host: str, port: str, backend: str) -> None:
    with Spool(folder) as spool:
        anyio.run(drain, spool, host, int(port), backend=backend)


if __name__ == "__main__":
    main(*sys.argv[1:])
