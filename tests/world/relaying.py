"""A relay at work in a world of its own: names, hosts, a spool.

What lives here: the world, queueing, and a relay of each kind, in a thread. What does not: any
expectation. Mails are queued as by another process; the test looks on from outside and waits for what it expects.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from smtpcore import Deadlines, Envelope, Limits
from smtpcore.drivers import service, threads
from smtpcore.drivers.resolver import AsyncResolver, Resolver, ResolverSettings
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, Mx, RelaySettings, Route, Schedule

from ..drivers.name_server import NameServer
from .hosts import Hosts

__all__ = ["SOON", "Relaying", "World"]

#: How long a test waits for what it expects; none comes near it unless something is wrong.
PATIENCE = 40.0
BODY = b"Subject: to the world\r\n\r\nHello.\r\n"
#: Seconds until a host or a name server that says nothing is given up, for tests that have such: long enough for the
#: others to answer on a busy machine.
SOON = 1.5


class World:
    """A name server, hosts and a spool, running inside ``with``."""

    def __init__(self, folder: Path) -> None:
        self.names = NameServer()
        self.hosts = Hosts()
        self.folder = folder
        #: Seconds until a name server, or a host, is given up.
        self.lookup_seconds = PATIENCE
        self.greeting_seconds = PATIENCE

    def __enter__(self) -> World:
        self.names.__enter__()
        self.hosts.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.hosts.__exit__(*exception)
        self.names.__exit__(*exception)

    def mx(self, domain: str, *addresses: str) -> None:
        """Give a domain MX hosts on these addresses, by preference; an address with ``=`` is as good as the last."""
        records, preference = [], 0
        for address in addresses:
            preference += 0 if address.startswith("=") else 10
            host = f"host-{address.removeprefix('=').replace('.', '-')}.example"
            self.names.zone[host] = {"A": [address.removeprefix("=")]}
            records.append(f"0 {preference} {host}.")
        self.names.zone[domain] = {"MX": records}

    def queue(self, *recipients: str, sender: str = "") -> int:
        """Queue one mail to all of them; returns its queue id."""
        with Spool(self.folder) as spool:
            prepared = spool.prepare(Envelope(sender, recipients), [BODY])
            (accepted,) = spool.add([prepared], time.time())
            return accepted.mail.mail_id

    def resolver_settings(self) -> ResolverSettings:
        return ResolverSettings(
            name_servers=[self.names.address],
            port=self.names.port,
            query_seconds=self.lookup_seconds / 2,
            lookup_seconds=self.lookup_seconds,
            shortest=0.01,
        )

    def options(self) -> Any:
        return {"limits": Limits(deadlines=Deadlines(greeting=self.greeting_seconds))}


class Relaying:
    """A relay in a thread, running inside ``with``."""

    def __init__(self, world: World, kind: str, route: Route | None = None, **settings: Any) -> None:
        self._world = world
        self._kind = kind
        self._route = route or Mx(world.hosts.port)
        values: dict[str, Any] = {
            "reporting_mta": "relay.example", "schedule": Schedule(delays=(0.3,)),
            "rest": 0.3, "longest_rest": 0.3, "set_aside": 0.3,
        }  # fmt: skip
        self._settings = RelaySettings(**{**values, **settings})
        self.notes: list[Fate | Attempted] = []
        self._relay: service.RelayService | threads.RelayService
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with Spool(self._world.folder) as spool:
                if self._kind == "threads":
                    self._relay_on_threads(spool)
                else:
                    anyio.run(self._relay_on_a_loop, spool, backend=self._kind)
        except BaseException as failure:
            self._failure = failure
        finally:
            self._ready.set()

    def _relay_on_threads(self, spool: Spool) -> None:
        self._relay = relay = threads.RelayService(
            spool, self._route, self._settings, self._world.options(), notice=self.notes.append,
            resolver=Resolver(self._world.resolver_settings()),
        )  # fmt: skip
        self._ready.set()
        relay.run()

    async def _relay_on_a_loop(self, spool: Spool) -> None:
        self._relay = relay = service.RelayService(
            spool, self._route, self._settings, self._world.options(), notice=self.notes.append,
            resolver=AsyncResolver(self._world.resolver_settings()),
        )  # fmt: skip
        self._ready.set()
        await relay.run()

    def __enter__(self) -> Relaying:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._failure is None:
            self._relay.stop()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait for it."""
        give_up = time.monotonic() + PATIENCE
        while not condition():
            if self._failure is not None:
                raise self._failure
            assert time.monotonic() < give_up, f"waited in vain{what and ' for ' + what}: {self.notes}"
            time.sleep(0.01)

    def until_settled(self, *recipients: str) -> None:
        """Wait until the fate of all of them is known."""
        self.until(lambda: set(recipients) <= {fate.recipient for fate in self.fates}, f"the fates of {recipients}")

    @property
    def fates(self) -> list[Fate]:
        return [note for note in self.notes if isinstance(note, Fate)]

    @property
    def deferrals(self) -> list[Attempted]:
        return [note for note in self.notes if isinstance(note, Attempted)]

    def kinds(self, recipients: Sequence[str]) -> list[FateKind]:
        return [fate.kind for recipient in recipients for fate in self.fates if fate.recipient == recipient]
