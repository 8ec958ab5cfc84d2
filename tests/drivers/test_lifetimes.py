"""What lives how long: sessions are let go when they are over, without waiting for the garbage collector.

What lives here: weak references to sessions. What does not: descriptors and threads, which other tests count.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpcore import DeliveryFailed, SmtpError, TlsPolicy

from .peers import Line, Peer, trusting_context
from .pool_stage import RECIPIENT, SENDER
from .scenarios import DRIVERS, Driver, call, starttls


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Within, what is part of a cycle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def good(line: Line) -> None:
    line.serve()


def loses_the_connection(line: Line) -> None:
    line.serve("DATA")
    line.close()


def refuses(line: Line) -> None:
    line.serve(replies={"RCPT": "550 5.1.1 nobody"})


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("script", [good, starttls, loses_the_connection, refuses])
def test_a_session_that_is_over_is_let_go(driver: Driver, script: Callable[[Line], object]) -> None:
    options: dict[str, Any] = {"tls_context": trusting_context()} if script is starttls else {"tls": TlsPolicy.NEVER}

    async def play(port: int) -> weakref.ref[Any]:
        session = await call(driver.module.connect, "localhost", port, trace=lambda _: None, **options)
        with contextlib.suppress(DeliveryFailed):
            await call(session.send, [b"Hello."], sender=SENDER, recipients=RECIPIENT)
        with contextlib.suppress(SmtpError):
            await call(session.quit)
        assert session.end is not None
        return weakref.ref(session)

    with Peer(script) as peer, no_collector():
        assert driver.run(play(peer.port))() is None
