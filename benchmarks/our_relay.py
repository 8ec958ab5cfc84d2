"""Our relay in a process of its own: everything is loaded, then it waits for a word, and drains the spool.

What lives here: the relay service used as an application would use it, with as many sessions at once as Postfix opens
by default. What does not: filling the spool, the clock. Called by `relays.py`.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio

from smtpcore import Pipelining
from smtpcore.drivers import service, threads
from smtpcore.drivers.spool import Spool
from smtpcore.relay import RelaySettings, SmartHost


def main(folder: str, host: str, port: str, backend: str, pipelining: str) -> None:
    route = SmartHost(host, int(port))
    options: Any = {"pipelining": Pipelining(pipelining)}
    settings = RelaySettings(reporting_mta="relay.elsewhere.example", sessions_per_next_hop=20)
    with Spool(folder) as spool:
        if backend == "threads":
            relay = threads.RelayService(spool, route, settings, options)
            wait_for_the_word()
            relay.run(once=True)
        else:
            anyio.run(drain, service.RelayService(spool, route, settings, options), backend=backend)


async def drain(relay: service.RelayService) -> None:
    wait_for_the_word()
    await relay.run(once=True)


def wait_for_the_word() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
