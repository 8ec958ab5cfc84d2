"""Sessions that are cut short: cancelled, interrupted, closed by another task, used by two at once.

What lives here: that nothing stays open and that every mail which was begun has its answer. What does not: what the
peer does to a session (the table of scenarios).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from smtpcore import Envelope, LocalProtocolError, Pipelining, SessionAborted, Stage, TlsPolicy, Verdict

from .peers import Line, Peer, silent_port, trusting_context
from .scenarios import DRIVERS, Driver, call, starttls

ENVELOPE = Envelope("a@here.example", ("b@there.example", "c@there.example"))
BLOCKING, ASYNCIO, UVLOOP, TRIO = DRIVERS
ASYNC = pytest.mark.parametrize("driver", [ASYNCIO, UVLOOP, TRIO], ids=lambda driver: driver.name)
ALL = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def closed_again(before: int) -> bool:
    """Whether no descriptor is left; the event loop's own threads may take a moment to end."""
    deadline = time.monotonic() + 10
    while descriptors() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    return descriptors() == before


# --- cancelled at every point --------------------------------------------------------------------------------------


class Stepped:
    """Awaits ``play``, and calls ``cancel`` just before its suspension number ``step``."""

    def __init__(self, play: Awaitable[Any], step: int, cancel: Callable[[], object]) -> None:
        self._play = play
        self._step = step
        self._cancel = cancel
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._play.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                awaited = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            if self.suspensions == self._step:
                self._cancel()
            try:
                value, error = (yield awaited), None
            except BaseException as thrown:
                value, error = None, thrown


async def cancelled_at(driver: Driver, play: Awaitable[Any], step: int) -> bool:
    """Cancel ``play`` at its suspension number ``step``; false if it ended before."""
    if driver is TRIO:
        with trio.CancelScope() as scope:
            stepped = Stepped(play, step, scope.cancel)
            await stepped
        assert scope.cancelled_caught == (stepped.suspensions >= step), "the cancellation was swallowed"
        return scope.cancelled_caught

    async def stepping() -> None:
        await stepped

    task = asyncio.ensure_future(stepping())
    stepped = Stepped(play, step, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled() == (stepped.suspensions >= step), "the cancellation was swallowed"
    if not task.cancelled():
        await task
    return task.cancelled()


class Play:
    """One whole session, and what is known of it when it is cut short."""

    def __init__(self, driver: Driver, peer: Peer, kind: str) -> None:
        self.module = driver.module
        self.peer = peer
        self.kind = kind
        self.session: Any = None
        self.begun = False
        self.finished = False
        self.body_open = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        self.body_open += 1
        try:
            for _ in range(4):
                yield b"x" * 30_000
        finally:
            self.body_open -= 1

    async def __call__(self) -> None:
        if self.kind == "small buffers":
            sock = socket.create_connection(("127.0.0.1", self.peer.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            self.session = await self.module.open_session(sock, tls=TlsPolicy.NEVER)
        elif self.kind == "addresses that race":
            self.session = await self.module.connect("race.example", self.peer.port)
        elif self.kind == "TLS":
            self.session = await self.module.connect(
                "localhost", self.peer.port, tls=TlsPolicy.REQUIRED, tls_context=trusting_context()
            )
        else:
            self.session = await self.module.connect("127.0.0.1", self.peer.port)
        message: Any = Path(__file__) if self.kind == "a file" else self.pieces()
        self.begun = True
        await self.session.deliver(ENVELOPE, message)
        self.finished = True
        await self.session.quit()


SCRIPTS: dict[str, Callable[[Line], object]] = {
    "in clear": lambda line: line.serve(),
    "one command at a time": lambda line: line.serve(extensions=()),
    "a file": lambda line: line.serve(),
    "small buffers": lambda line: line.serve(),
    "addresses that race": lambda line: line.serve(),
    "TLS": starttls,
}


def resolve_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """``race.example`` has two addresses at which nobody listens, and one where somebody does."""
    look_up = socket.getaddrinfo

    def several(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        hosts = ("127.0.0.2", "127.0.0.3", "127.0.0.1") if host == "race.example" else (host,)
        return [found for name in hosts for found in look_up(name, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", several)


def tardily(script: Callable[[Line], object]) -> Callable[[Line], object]:
    """A peer that lets its client wait for each reply."""

    def tardy(line: Line) -> None:
        line.lag = 0.002
        script(line)

    return tardy


@ASYNC
@pytest.mark.parametrize("kind", SCRIPTS)
def test_cancelled_at_every_point(driver: Driver, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to_several(monkeypatch)
    # The first loop of a process may open what the process keeps: libuv does.
    driver.run(call(int))
    step = 0
    cancelled = True
    while cancelled:
        step += 1
        before = descriptors()
        with Peer(tardily(SCRIPTS[kind]), small_buffers=kind == "small buffers") as peer:
            # The peer must have a connection to serve, also when the cancellation came before.
            play = Play(driver, peer, kind)
            cancelled = driver.run(cancelled_at(driver, play(), step))
            if play.session is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", peer.port)):
                    pass
        assert closed_again(before)
        assert not play.body_open
        if play.session is not None:
            assert play.session.end is not None
            check_answer(play, peer.lines[0])
    assert step > 5
    assert play.finished


def check_answer(play: Play, line: Line) -> None:
    """The law of answers, seen from outside."""
    if not play.begun:
        return
    report = play.session.last_report
    assert report.mail.envelope is ENVELOPE
    assert [outcome.recipient for outcome in report.outcomes] == list(ENVELOPE.recipients)
    for outcome in report.outcomes:
        if outcome.verdict is not Verdict.DELIVERED:
            assert not play.finished
            assert outcome.verdict is Verdict.LATER
            assert isinstance(outcome.error, SessionAborted)
        # What the peer has whole may have been delivered, and nobody may be told otherwise.
        if line.bodies:
            assert outcome.verdict is Verdict.DELIVERED or outcome.in_doubt
        if report.stage < Stage.BODY_ENDED:
            assert not line.bodies


# --- cancelled while a thread reads --------------------------------------------------------------------------------


async def until(driver: Driver, condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await (trio.sleep(0.005) if driver is TRIO else asyncio.sleep(0.005))
    raise AssertionError("it did not come about")


async def cancel_when(driver: Driver, play: Awaitable[Any], condition: Callable[[], bool]) -> None:
    """Cancel ``play`` once ``condition`` holds; it must end at once."""
    if driver is not TRIO:
        task = asyncio.ensure_future(play)
        await until(driver, condition)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await until(driver, condition)
                scope.cancel()

            nursery.start_soon(cancel)
            await play
    assert scope.cancelled_caught


@ASYNC
def test_cancelled_while_a_thread_runs_a_generator(driver: Driver) -> None:
    """The generator is busy in its thread; it is closed there, when it can be."""
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            yield b"one"
            entered.set()
            release.wait(10)
            yield b"two"
        finally:
            closed.set()

    async def play(port: int) -> None:
        session = await driver.module.connect("127.0.0.1", port)
        await cancel_when(driver, session.deliver(ENVELOPE, pieces()), entered.is_set)
        assert session.last_report.stage is Stage.BODY_BEGUN
        assert not closed.is_set()
        release.set()
        await until(driver, closed.is_set)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))
    assert not peer.lines[0].bodies


@ASYNC
def test_cancelled_while_addresses_race(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three attempts under way; nothing is left of any."""
    driver.run(call(int))
    dialled: list[socket.socket] = []

    class Dialled(socket.socket):
        def connect(self, address: Any) -> None:
            dialled.append(self)
            super().connect(address)

    async def play(port: int) -> None:
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        addresses = [(socket.AF_INET, *stream, (f"127.0.0.{last}", port)) for last in (1, 2, 3)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        monkeypatch.setattr(socket, "socket", Dialled)
        connecting = driver.module.connect("silent.example", port)
        await cancel_when(driver, connecting, lambda: len(dialled) == 3)

    with silent_port(everywhere=True) as port:
        before = descriptors()
        driver.run(play(port))
        monkeypatch.undo()
        assert closed_again(before)
    assert {sock.fileno() for sock in dialled} == {-1}


@ASYNC
def test_cancelled_while_a_name_is_looked_up(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver cannot be interrupted; nobody waits for it."""
    asked, release = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> Any:
        asked.set()
        release.wait(10)
        return []

    async def play() -> None:
        try:
            await cancel_when(driver, driver.module.connect("slow.example", 25), asked.is_set)
        finally:
            release.set()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    driver.run(play())


@ASYNC
def test_cancelled_while_a_callable_connects(driver: Driver) -> None:
    entered, left = threading.Event(), threading.Event()

    async def make(*_: object) -> None:
        entered.set()
        try:
            await (trio.sleep_forever() if driver is TRIO else asyncio.Event().wait())
        finally:
            left.set()

    async def play() -> None:
        await cancel_when(driver, driver.module.connect("x.example", 25, connect=make), entered.is_set)

    driver.run(play())
    assert left.is_set()


class SlowPath(type(Path())):  # type: ignore[misc]  # the class that paths have here
    """A path on a file system that takes its time."""

    def __init__(self, *_: object) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.file: Any = None

    def open(self, *args: Any, **options: Any) -> Any:
        self.entered.set()
        self.release.wait(10)
        self.file = super().open(*args, **options)
        return self.file


@ASYNC
def test_cancelled_while_a_thread_opens_a_file(driver: Driver) -> None:
    path = SlowPath(__file__)

    async def play(port: int) -> None:
        session = await driver.module.connect("127.0.0.1", port)
        await cancel_when(driver, session.deliver(ENVELOPE, path), path.entered.is_set)
        path.release.set()
        await until(driver, lambda: path.file is not None and path.file.closed)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))


# --- many mails, cut short -----------------------------------------------------------------------------------------


@ALL
def test_what_was_on_its_way_is_answered(driver: Driver) -> None:
    """Mails that ran ahead have their answers also when nobody goes on asking for reports."""
    envelopes = [Envelope("a@here.example", (f"user{number}@there.example",)) for number in range(4)]

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port, pipelining=Pipelining.ACROSS)
        assert session.broken_off == ()
        reports = session.send_many((envelope, b"Hello.") for envelope in envelopes)
        if hasattr(reports, "__aiter__"):
            await anext(reports)
            await reports.aclose()
        else:
            next(reports)
            reports.close()
        # The verdict on the first is given out when the second is under way.
        assert session.broken_off
        assert [report.mail.envelope for report in session.broken_off] == envelopes[1 : 1 + len(session.broken_off)]
        for report in session.broken_off:
            assert isinstance(report.outcomes[0].error, SessionAborted)
        assert session.last_report is session.broken_off[-1]

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))


# --- interrupted ---------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Stands for KeyboardInterrupt, SystemExit and their like."""


@ALL
def test_a_body_that_ends_the_world(driver: Driver) -> None:
    """What is no ``Exception`` is not an answer to a mail; it passes, and leaves an answer behind."""

    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise Interrupted

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port)
        with pytest.raises(Interrupted):
            await call(session.deliver, ENVELOPE, pieces())
        assert session.last_report.stage is Stage.BODY_BEGUN
        assert isinstance(session.end.error, SessionAborted)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))
    assert peer.lines[0].saw_close
    assert not peer.lines[0].bodies


@pytest.mark.parametrize("stage", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"])
def test_control_c_at_every_stage(stage: str) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def script(line: Line) -> None:
        if stage == "CONNECT":
            line.say("220-one moment")
        else:
            line.serve(stage, extensions=())
        # The client speaks, or shows that it heard: it is inside its session.
        assert line.go.wait(10)
        # A signal that comes in the instant before a system call does not interrupt it: that much is the interpreter's.
        while not line.closes_within(0.2):
            signal.pthread_kill(main, signal.SIGINT)

    before = descriptors()
    session = None
    with Peer(script) as peer:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # the block as a whole raises
            sock = socket.create_connection(("127.0.0.1", peer.port))
            session = BLOCKING.module.open_session(sock, trace=lambda _: peer.go.set())
            session.deliver(ENVELOPE, b"Hello.")
        assert sock.fileno() == -1
    assert peer.lines[0].saw_close
    assert closed_again(before)
    if session is not None:
        assert session.last_report.stage is (Stage.BODY_ENDED if stage == "DOT" else Stage.STARTED)
        assert {outcome.in_doubt for outcome in session.last_report.outcomes} == {stage == "DOT"}


# --- two at once ---------------------------------------------------------------------------------------------------


async def beside(driver: Driver, first: Awaitable[Any], second: Callable[[], Awaitable[Any]]) -> Any:
    """Run ``second`` while ``first`` waits; what ``first`` comes to."""
    if driver is not TRIO:
        task = asyncio.ensure_future(first)
        await second()
        return await task
    results = []

    async def run_first() -> None:
        results.append(await first)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_first)
        await second()
    return results[0]


@ASYNC
def test_one_session_serves_one_caller(driver: Driver) -> None:
    async def play(port: int, peer: Peer) -> None:
        session = await driver.module.connect("127.0.0.1", port)

        async def meddle() -> None:
            await until(driver, peer.done.is_set)
            for use in (lambda: session.deliver(ENVELOPE, b"mine"), session.quit):
                with pytest.raises(LocalProtocolError, match="one session serves one caller at a time"):
                    await use()
            peer.go.set()

        report = await beside(driver, session.deliver(ENVELOPE, b"first"), meddle)
        assert report.outcomes[0].code == 250
        await session.quit()

    def script(line: Line) -> None:
        line.serve("DOT")
        line.done.set()
        assert line.go.wait(10)
        line.say("250 ok")
        line.serve(greet=False)

    with Peer(script) as peer:
        driver.run(play(peer.port, peer))
    assert peer.lines[0].bodies == [b"first\r\n.\r\n"]


@ASYNC
@pytest.mark.parametrize("where", ["waiting", "writing", "reading the body"])
def test_closed_by_another_task(driver: Driver, where: str) -> None:
    """Whoever waits in the session gets the answer at once."""
    go_on: list[Any] = []

    async def pieces(peer: Peer) -> AsyncIterator[bytes]:
        yield b"x"
        peer.done.set()
        if where == "reading the body":
            await go_on[0].wait()
        while True:
            yield b"x" * 1_000_000

    async def play(port: int, peer: Peer) -> None:
        go_on.append(trio.Event() if driver is TRIO else asyncio.Event())
        session = await driver.module.connect("127.0.0.1", port)
        message: Any = b"Hello." if where == "waiting" else pieces(peer)

        async def close() -> None:
            await until(driver, peer.done.is_set)
            for _ in range(50):
                # Let the other one run into its wait.
                await (trio.sleep(0.001) if driver is TRIO else asyncio.sleep(0.001))
            session.close()
            go_on[0].set()

        report = await beside(driver, session.deliver(ENVELOPE, message), close)
        assert isinstance(report.outcomes[0].error, SessionAborted)
        assert report.outcomes[0].in_doubt == (where == "waiting")
        assert isinstance(session.end.error, SessionAborted)

    def script(line: Line) -> None:
        line.serve("DOT" if where == "waiting" else "BODY")
        line.done.set()
        line.stall()

    with Peer(script, small_buffers=True) as peer:
        driver.run(play(peer.port, peer))


def test_a_body_that_closes_the_session() -> None:
    with Peer(lambda line: line.serve()) as peer:
        session = BLOCKING.module.connect("127.0.0.1", peer.port)

        def pieces() -> Iterator[bytes]:
            yield b"one"
            session.close()
            yield b"two"

        report = session.deliver(ENVELOPE, pieces())
        assert isinstance(report.outcomes[0].error, SessionAborted)
    assert not peer.lines[0].bodies


# --- at rest -------------------------------------------------------------------------------------------------------


class CountingSelector(selectors.DefaultSelector):
    """Counts how often something was ready."""

    ready = 0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(timeout)
        self.ready += len(events)
        return events


@pytest.mark.parametrize("goodbye", [b"421 idle\r\n", b"", b"x" * 500_000])
def test_a_parked_session_costs_nothing(goodbye: bytes) -> None:
    """The event loop must not turn for ever because a parked session has something to read."""
    selector = CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)

    async def play(port: int, peer: Peer) -> None:
        session = await ASYNCIO.module.connect("127.0.0.1", port)
        peer.go.set()
        await until(ASYNCIO, peer.done.is_set)
        for _ in range(20):
            await asyncio.sleep(0)
        before = selector.ready
        for _ in range(100):
            await asyncio.sleep(0)
        assert selector.ready - before < 5
        session.close()

    def script(line: Line) -> None:
        line.say("220 hello")
        line.expect("EHLO")
        line.say("250 peer.example")
        assert line.go.wait(10)
        line._sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            line._sock.sendall(goodbye)
        line.close()
        line.done.set()

    with Peer(script) as peer:
        try:
            loop.run_until_complete(play(peer.port, peer))
        finally:
            loop.close()
