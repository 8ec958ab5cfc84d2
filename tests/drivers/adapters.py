"""The drivers of this project, as the conformance suite of the public test kit sees them.

What lives here: an adapter for each. What does not: the suite.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Coroutine
from typing import Any

import trio

from smtpcore.testing.conformance import Adapter

from .scenarios import Driver


def run_cancelled_in_asyncio(driver: Driver, play: Coroutine[Any, Any, None], when: threading.Event) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(play)
        await asyncio.to_thread(when.wait, 10)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    driver.run(main())


def run_cancelled_in_trio(play: Coroutine[Any, Any, None], when: threading.Event) -> None:
    async def playing() -> None:
        await play

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(playing)
            await trio.to_thread.run_sync(when.wait, 10)
            nursery.cancel_scope.cancel()

    trio.run(main)


CAN = ("files", "lmtp", "credentials", "xclient", "conversion", "across", "commands")
#: What every driver here can do.
ALL: dict[str, Any] = dict.fromkeys(CAN, True)


def adapter_for(driver: Driver) -> Adapter:
    module = driver.module
    if driver.module_name == "blocking":
        return Adapter(connect=module.connect, **ALL)
    if driver.module_name == "asyncio":
        return Adapter(
            connect=module.connect,
            run=driver.run,
            run_cancelled=functools.partial(run_cancelled_in_asyncio, driver),
            wait=lambda event: asyncio.to_thread(event.wait, 10),
            **ALL,
        )
    return Adapter(
        connect=module.connect,
        run=driver.run,
        run_cancelled=run_cancelled_in_trio,
        wait=lambda event: trio.to_thread.run_sync(event.wait, 10),
        **ALL,
    )
