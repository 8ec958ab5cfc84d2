"""The relay services behind one blocking face, so that one table of tests speaks for all of them.

What lives here: calling the async services from a test that blocks, on asyncio and on trio. What does not: any
expectation.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from smtpcore.drivers import service, threads
from smtpcore.drivers.spool import Spool, SpoolUnusable
from smtpcore.relay import Attempted, Durable, Fate, Orders, RelaySettings, Schedule, SmartHost

__all__ = ["KINDS", "PATIENCE", "Background", "Kind", "failing_to", "wait_until"]

#: Seconds to wait for what happens at once on any machine that is not overloaded.
PATIENCE = 120.0


class Background:
    """A relay that runs beside the test."""

    def __init__(self, future: Future[None], interrupt: Callable[[], object]) -> None:
        self._future = future
        #: Cancels it, where that is known; elsewhere breaks it off.
        self.interrupt = interrupt

    def ended(self) -> BaseException | None:
        """Wait for its end; returns what it raised."""
        with contextlib.suppress(BaseException):
            return self._future.exception(PATIENCE)
        return None


class _Submission:
    """A submission of an async service."""

    def __init__(self, portal: BlockingPortal, inner: service.Submission) -> None:
        self._portal = portal
        self._inner = inner
        self.queue_id = inner.queue_id
        self.recipients = inner.recipients

    def fates(self, timeout: float = PATIENCE) -> tuple[Fate, ...]:
        async def wait() -> tuple[Fate, ...]:
            with anyio.fail_after(timeout):
                return await self._inner.fates()

        return self._portal.call(wait)

    def __iter__(self) -> Iterator[Fate]:
        fates = self._inner.__aiter__()

        async def following() -> Fate | None:
            return await anext(fates, None)

        while (fate := self._portal.call(following)) is not None:
            yield fate


class _Async:
    """A service on asyncio or trio; all else is as it is."""

    def __init__(self, portal: BlockingPortal, inner: service.RelayService) -> None:
        self._portal = portal
        self._inner = inner
        self.stop = inner.stop
        self._block: contextlib.AbstractContextManager[Any] | None = None

    @property
    def destinations(self) -> Any:
        return self._inner.destinations

    def submit(self, *arguments: Any, **options: Any) -> _Submission:
        return _Submission(self._portal, self._portal.call(partial(self._inner.submit, *arguments, **options)))

    def accept(self, *arguments: Any) -> _Submission:
        return _Submission(self._portal, self._portal.call(self._inner.accept, *arguments))

    def run(self, *, once: bool = False) -> None:
        self._portal.call(partial(self._inner.run, once=once))

    def start(self) -> Background:
        future = self._portal.start_task_soon(self._inner.run)
        return Background(future, future.cancel)

    def __enter__(self) -> _Async:
        self._block = self._portal.wrap_async_context_manager(self._inner)
        self._block.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._block is not None
        self._block.__exit__(*exception)


class _Threads(threads.RelayService):
    """The thread service."""

    def start(self) -> Background:
        executor = ThreadPoolExecutor(1, "test")
        future = executor.submit(self.run)
        executor.shutdown(wait=False)
        return Background(future, partial(self.stop, 0.0))


class Kind:
    """One of the services; inside ``with``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Kind:
        if self.name != "threads":
            self._portal = self._stack.enter_context(start_blocking_portal(self.name))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def make(
        self,
        spool: Spool,
        port: int,
        *,
        notes: list[Fate | Attempted] | None = None,
        notice: Callable[[Any], object] | None = None,
        options: Any = None,
        **settings: Any,
    ) -> Any:
        """A service that relays to ``port`` of this machine."""
        grace = settings.pop("grace", 10.0)
        resolver, route = settings.pop("resolver", None), settings.pop("route", SmartHost("127.0.0.1", port))
        values = RelaySettings(**{"reporting_mta": "relay.example", "schedule": Schedule(delays=(0.2,)), **settings})
        keywords = {"notice": notes.append if notes is not None else notice, "grace": grace, "resolver": resolver}
        if self._portal is None:
            return _Threads(spool, route, values, options, **keywords)
        return _Async(self._portal, service.RelayService(spool, route, values, options, **keywords))

    def new_threads(self) -> list[str]:
        """The names of the relay's threads that are left."""
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("relay")]

    def look_up_with(self, answer: Callable[[str], Any]) -> Any:
        """A resolver that answers what ``answer`` does."""
        if self._portal is None:
            return _Resolver(answer)
        return _AsyncResolver(answer)


class _Resolver:
    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.resolve = answer


class _AsyncResolver:
    def __init__(self, answer: Callable[[str], Any]) -> None:
        self._answer = answer

    async def resolve(self, domain: str) -> Any:
        return await anyio.to_thread.run_sync(self._answer, domain)


KINDS = ["asyncio", "trio", "threads"]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def failing_to(kind: type[Durable]) -> Callable[..., Any]:
    """``Spool.execute`` on a disk that is full as soon as an order of this kind is to be recorded."""
    execute = Spool.execute

    def failing(self: Spool, orders: Orders, *arguments: Any) -> Any:
        if any(isinstance(order, kind) for order in orders.durable):
            raise SpoolUnusable(self.directory, "the disk is full")
        return execute(self, orders, *arguments)

    return failing
