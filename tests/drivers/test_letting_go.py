"""What a session does with the bodies of mails that it will not finish.

What lives here: sources that cannot even be closed. What does not: how bodies are read (``test_bodies.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from smtpcore import BodyFacts, Envelope, Pipelining

from .peers import EXTENSIONS, Line
from .pool_stage import Host, envelope
from .scenarios import DRIVERS, Driver, call


class Pieces:
    """A source that keeps its own count of being closed, and fails at it."""

    def __init__(self, number: int, closed: list[int]) -> None:
        self._pieces = iter([b"Hello.\r\n"])
        self._number = number
        self._closed = closed

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self._closed.append(self._number)
        raise OSError(f"cannot close number {self._number}")


async def to_the_end(reports: Any) -> None:
    if hasattr(reports, "__aiter__"):
        async for _ in reports:
            pass
    else:
        for _ in reports:
            pass


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_bodies_that_cannot_be_closed_keep_no_other_open(driver: Driver) -> None:
    closed: list[int] = []

    def script(line: Line, _: int) -> None:
        line.serve("MAIL", extensions=(*EXTENSIONS, "CHUNKING"))
        line.go.wait()
        line.close()

    def mails() -> Iterator[tuple[Envelope, Any]]:
        for number in range(3):
            yield replace(envelope(), body=BodyFacts(size=8, eight_bit=False, canonical=True)), Pieces(number, closed)
        host.go.set()

    async def play() -> None:
        session = await call(driver.module.connect, "127.0.0.1", host.port, pipelining=Pipelining.ACROSS)
        with pytest.raises(OSError, match="cannot close"):
            await to_the_end(session.send_many(mails()))
        assert session.end is not None

    with Host(script) as host:
        driver.run(play())
    assert sorted(closed) == [0, 1, 2]
