"""Callers of a pool that are cancelled or interrupted: at every moment of a mail's life, and of the pool's.

What lives here: that nothing stays open, that the others are served, and that the pool goes on. What does not: what the
machine orders when a mail is withdrawn (``tests/pool``).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from smtpcore import Deadlines, Limits, MailSent, Pipelining
from smtpcore.pool import Retries

from .peers import Line
from .pool_stage import KINDS, QUICK, Host, Kind, envelope, nothing_left

ASYNC = pytest.mark.parametrize("kind", KINDS[:3], ids=repr)


class Moments:
    """Counts what happens, and does something at one moment."""

    def __init__(self, moment: int, act: Callable[[], object]) -> None:
        self._moment = moment
        self._act = act
        self._count = 0
        self._lock = threading.Lock()

    def stop(self) -> bool:
        """Count no further; whether the moment has come."""
        with self._lock:
            come = self._count >= self._moment
            self._moment = -1
        return come

    def tick(self, _: str = "") -> None:
        with self._lock:
            self._count += 1
            if self._count == self._moment:
                self._act()


class Pieces:
    """An async message that ticks, and knows whether it is being read."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self.open = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            for _ in range(3):
                self._moments.tick()
                yield b"x" * 100_000
                await anyio.sleep(0)
        finally:
            self.open -= 1


def serve(line: Line, _: int) -> None:
    line.serve()


def marks(line: Line, _: int) -> None:
    line.serve(replies={"HELP": "214 no help"})


def greylisting(line: Line, number: int) -> None:
    """The first three connections put off; each takes one mail."""
    line.serve(replies={"RCPT TO:<victim": "451 4.7.1 later"} if number <= 3 else {})


# --- one caller of several ------------------------------------------------------------------------------------------


class Scene:
    """How busy the pool is when the victim comes."""

    def __init__(self, name: str, script: Callable[[Line, int], None], before: int = 0, **settings: Any) -> None:
        self.name = name
        self.script = script
        self.before = before
        self.settings = settings

    @property
    def ahead(self) -> bool:
        return "mails_at_once" in self.settings

    def options(self, moments: Moments) -> Any:
        pipelining = Pipelining.ACROSS if self.ahead else Pipelining.WITHIN
        return {"trace": moments.tick, "pipelining": pipelining}


SCENES = [
    Scene("connecting", serve),
    Scene("parked", serve, 1),
    Scene("waiting for the only session", serve, 1, sessions=1),
    Scene("tried again", greylisting, mails_per_session=1, retries=Retries(delays=(0.005,))),
    Scene("ahead of the replies", marks, 1, sessions=1, mails_at_once=4),
]


async def with_a_victim(scene: Scene, port: int, moment: int, *, native: bool) -> bool:
    """Cancel one caller at that moment, and see that the others do not suffer; false if it was done before."""
    scope = anyio.CancelScope()
    task: list[asyncio.Task[Any]] = []

    def cancel() -> None:
        if not native:
            scope.cancel()
        elif task:
            task[0].cancel()

    moments = Moments(moment, cancel)
    pieces = Pieces(moments)
    module: Any = __import__("smtpcore.drivers.pool", fromlist=["Pool"])
    done: list[Any] = []

    async def victim() -> None:
        with scope:
            done.append(await pool.deliver(envelope("victim@there.example"), pieces))
        assert not pieces.open

    async def other() -> None:
        done.append(await pool.deliver(envelope("other@there.example"), b"other"))

    settings = {"sessions": 2, "retries": QUICK, **scene.settings}
    async with module.Pool("127.0.0.1", port, scene.options(moments), **settings) as pool:
        if moment == 0:
            cancel()
        for _ in range(scene.before):
            assert isinstance(await pool.deliver(envelope(), b"before"), MailSent)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            if native:
                task.append(asyncio.ensure_future(victim()))
                with contextlib.suppress(asyncio.CancelledError):
                    await task[0]
                assert not pieces.open
            else:
                tasks.start_soon(victim)
        await pool.deliver(envelope(), b"after")
        done.append(await pool.deliver(envelope(), b"after"))
        for report in done:
            # Who runs ahead of the replies has his mail in doubt when the session is dropped.
            assert isinstance(report, MailSent) or (scene.ahead and report.outcomes[0].in_doubt)
        assert not pool.status.waiting
        assert not pool.status.at_work
        return moments.stop()


def at_every_moment(kind: Kind, scene: Scene, *, native: bool) -> int:
    moment = -1
    come = True
    while come:
        moment += 1
        with Host(tardily(scene.script)) as host:
            come = kind.run(with_a_victim(scene, host.port, moment, native=native))
        # A lone dot ends what was pipelined behind a refused RCPT.
        assert {body for body in host.bodies if 3 < len(body) < 20} <= {
            b"before\r\n.\r\n",
            b"other\r\n.\r\n",
            b"after\r\n.\r\n",
        }
        assert host.bodies.count(b"other\r\n.\r\n") == 1 or scene.ahead
        assert host.bodies.count(b"other\r\n.\r\n") <= 1
        assert host.bodies.count(b"after\r\n.\r\n") == 2
    return moment


def tardily(script: Callable[[Line, int], None]) -> Callable[[Line, int], None]:
    def tardy(line: Line, number: int) -> None:
        line.lag = 0.001
        script(line, number)

    return tardy


@ASYNC
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_cancelling_one_caller_at_every_moment(kind: Kind, scene: Scene) -> None:
    with nothing_left():
        assert at_every_moment(kind, scene, native=False) > 20


@pytest.mark.parametrize("kind", KINDS[:2], ids=repr)
def test_cancelling_a_task_of_asyncio(kind: Kind) -> None:
    with nothing_left():
        assert at_every_moment(kind, SCENES[0], native=True) > 20


# --- the whole pool -------------------------------------------------------------------------------------------------


async def with_everything(port: int, moment: int) -> bool:
    """Cancel the whole block at that moment; false if it was done before."""
    scope = anyio.CancelScope()
    moments = Moments(moment, scope.cancel)
    pieces = Pieces(moments)
    module: Any = __import__("smtpcore.drivers.pool", fromlist=["Pool"])

    with scope:
        async with module.Pool("127.0.0.1", port, {"trace": moments.tick}, sessions=2) as pool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.deliver, envelope(), pieces)
                tasks.start_soon(pool.deliver, envelope(), b"Hello.")
            async with contextlib.aclosing(pool.send_many([(envelope(), b"one"), (envelope(), b"two")])) as reports:
                async for report in reports:
                    assert isinstance(report, MailSent)
    assert not pieces.open
    return moments.stop()


@ASYNC
def test_cancelling_the_whole_pool_at_every_moment(kind: Kind) -> None:
    moment = 0
    come = True
    while come:
        moment += 1
        with nothing_left(), Host(tardily(serve)) as host:
            come = kind.run(with_everything(host.port, moment))
    assert moment > 40


# --- threads --------------------------------------------------------------------------------------------------------


def interrupt_main() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def blocking_pool(*args: Any, **settings: Any) -> Any:
    module: Any = __import__("smtpcore.drivers.blocking_pool", fromlist=["Pool"])
    return module.Pool(*args, **settings)


def interrupted(run: Callable[[], object], moments: Moments) -> bool:
    """Whether ``run`` is interrupted; the signal may come a little late."""
    try:
        run()
        if moments.stop():
            time.sleep(10)
            raise AssertionError("the interrupt did not come")
    except KeyboardInterrupt:
        return True
    return False


def slow_pieces(moments: Moments) -> Iterator[bytes]:
    for _ in range(3):
        moments.tick()
        yield b"x" * 100_000


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_interrupting_one_caller_at_every_moment(scene: Scene) -> None:
    moment = 0
    come = True
    while come:
        moment += 1
        moments = Moments(moment, interrupt_main)
        with nothing_left(), Host(tardily(scene.script)) as host:
            settings = {"sessions": 2, "retries": QUICK, **scene.settings}
            with blocking_pool("127.0.0.1", host.port, scene.options(moments), **settings) as pool:

                def run(pool: Any = pool, moments: Moments = moments) -> None:
                    for _ in range(scene.before):
                        pool.deliver(envelope(), b"before")
                    pool.deliver(envelope("victim@there.example"), [b"x" * 100_000] * 3)

                come = interrupted(run, moments)
                assert isinstance(pool.deliver(envelope(), b"after"), MailSent)
    assert moment > 15


@pytest.mark.parametrize("moment", range(1, 60, 3))
def test_interrupting_the_whole_pool(moment: int) -> None:
    moments = Moments(moment, interrupt_main)

    def run() -> None:
        with blocking_pool("127.0.0.1", host.port, {"trace": moments.tick}, sessions=2) as pool:
            for report in pool.send_many([(envelope(), slow_pieces(moments)) for _ in range(4)]):
                assert isinstance(report, MailSent)

    with nothing_left(), Host(tardily(serve)) as host:
        interrupted(run, moments)


@contextlib.contextmanager
def unreachable() -> Iterator[int]:
    """A port that answers no attempt to connect: its backlog is full."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(5):
            sock = open_sockets.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


#: Nothing ends by a deadline here.
PATIENT: Any = {"limits": Limits(deadlines=Deadlines(connect=1e6, greeting=1e6))}


@pytest.mark.parametrize("leaving", [True, False])
def test_interrupted_while_connecting(leaving: bool) -> None:
    """The connection that is being made is given up at once, though its own deadline is far."""
    with nothing_left(), unreachable() as port:
        pool = blocking_pool("127.0.0.1", port, PATIENT)

        def interrupt() -> None:
            while not pool.status.opening:
                time.sleep(0.005)
            interrupt_main()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with contextlib.ExitStack() as leaves:
            if leaving:
                leaves.enter_context(pytest.raises(KeyboardInterrupt))
            with pool:
                if leaving:
                    pool.deliver(envelope(), b"Hello.")
                with contextlib.suppress(KeyboardInterrupt):
                    pool.deliver(envelope(), b"Hello.")
                while pool.status.opening:
                    time.sleep(0.005)
        thread.join()


@ASYNC
def test_cancelled_while_connecting(kind: Kind) -> None:
    async def play(port: int) -> None:
        async with kind.pool("127.0.0.1", port, PATIENT) as pool:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(pool.deliver, envelope(), b"Hello.")
                    await kind.until(lambda: pool.status.opening)
                    scope.cancel()
            await kind.until(lambda: not pool.status.opening)

    with nothing_left(), unreachable() as port:
        kind.run(play(port))


def test_leaving_while_the_greeting_is_awaited() -> None:
    def silent(line: Line, _: int) -> None:
        line.done.set()

    with nothing_left(), Host(silent) as host:
        pool = blocking_pool("127.0.0.1", host.port, PATIENT)
        sender = threading.Thread(target=lambda: pool.deliver(envelope(), b"Hello."))
        with pytest.raises(KeyError, match="mine"), pool:  # noqa: PT012  # the block as a whole raises
            sender.start()
            assert host.done.wait(10)
            raise KeyError("mine")
        sender.join()
