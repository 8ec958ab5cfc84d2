"""The stage for pools: a host that serves many connections at once, and one face for pools of every kind.

What lives here: the host and its threads, and the few words that a play needs. What does not: any scenario.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio

from smtpcore import Envelope, Report
from smtpcore.pool import Retries

from .peers import PATIENCE, Closed, Line

SENDER, RECIPIENT = "a@here.example", "b@there.example"

#: Retries that do not let a test wait.
QUICK = Retries(delays=(0.01, 0.02), spread=0.0)
NONE = Retries(most=0, delays=(0.01,))


def envelope(*recipients: str) -> Envelope:
    return Envelope(SENDER, recipients or (RECIPIENT,))


# --- the host ------------------------------------------------------------------------------------------------------


class Host:
    """A listening socket with a thread for each connection; ``serve`` is told the line and the connection's number."""

    def __init__(self, serve: Callable[[Line, int], object], *, listening: bool = True) -> None:
        self._serve = serve
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lines: list[Line] = []
        #: Set when the play is over.
        self.over = threading.Event()
        #: Set by a script, and by the play.
        self.done = threading.Event()
        self.go = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._at_once = 0
        self._lock = threading.Lock()
        #: The most connections that were open at once.
        self.most_at_once = 0
        if listening:
            self.listen()

    def listen(self) -> None:
        """Until this is called connections are refused."""
        self._listener.listen(50)
        self._begin(self._accept)

    def listen_at(self, path: str) -> None:
        """Listen on a unix socket instead."""
        self._listener.close()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self.listen()

    def _begin(self, run: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, name="host")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            line = Line(sock)
            line._over, line.done, line.go = self.over, self.done, self.go
            self.lines.append(line)
            self._begin(self._talk, line, len(self.lines))

    def _talk(self, line: Line, number: int) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            with contextlib.suppress(Closed):
                self._serve(line, number)
                if line._sock.fileno() >= 0:
                    line.until_closed()
        except BaseException as failure:
            self._failures.append(failure)
        finally:
            with self._lock:
                self._at_once -= 1
            line._sock.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.over.set()
        self.go.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if kind is not None:
            for line in self.lines:
                with contextlib.suppress(OSError):
                    line._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        if kind is None and self._failures:
            raise self._failures[0]

    def said(self, start: bytes) -> list[bytes]:
        """All commands with this beginning, over all connections in their order."""
        return [command for line in self.lines for command in line.commands if command.startswith(start)]

    @property
    def bodies(self) -> list[bytes]:
        return [body for line in self.lines for body in line.bodies]


# --- the pools ------------------------------------------------------------------------------------------------------


class Threads:
    """The pool for blocking programs, with a face that can be awaited and never waits there."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.pool: Any = importlib.import_module("smtpcore.drivers.blocking_pool").Pool(*args, **settings)

    async def __aenter__(self) -> Threads:
        self.pool.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.pool.__exit__(*error)

    async def send(self, *args: Any, **options: Any) -> Any:
        return self.pool.send(*args, **options)

    async def deliver(self, *args: Any) -> Any:
        return self.pool.deliver(*args)

    async def send_many(self, mails: Iterable[Any], **options: Any) -> AsyncIterator[Report]:
        with contextlib.closing(self.pool.send_many(mails, **options)) as reports:
            for report in reports:
                yield report

    async def send_many_as_completed(self, mails: Iterable[Any], **options: Any) -> AsyncIterator[Report]:
        with contextlib.closing(self.pool.send_many_as_completed(mails, **options)) as reports:
            for report in reports:
                yield report

    @property
    def status(self) -> Any:
        return self.pool.status


class Kind:
    """One kind of pool, and how plays are run with it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    @property
    def loop(self) -> str:
        """The event loop's module, if it is another than the standard library's."""
        return self.name.partition("+")[2]

    @property
    def is_async(self) -> bool:
        return self.name != "threads"

    def pool(self, *args: Any, **settings: Any) -> Any:
        made = Threads if not self.is_async else importlib.import_module("smtpcore.drivers.pool").Pool
        return made(*args, **settings)

    def run(self, play: Coroutine[Any, Any, Any]) -> Any:
        if self.name == "threads":
            return _to_its_end(play)

        async def awaited() -> Any:
            return await play

        uvloop = {"use_uvloop": True} if self.loop else {}
        return anyio.run(awaited, backend=self.name.partition("+")[0], backend_options=uvloop)

    async def together(self, *plays: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run plays at once; what each came to, errors too."""
        if self.name == "threads":
            with ThreadPoolExecutor(len(plays)) as threads:
                return [future.result() for future in [threads.submit(_caught, play) for play in plays]]
        results: list[Any] = [None] * len(plays)

        async def run(index: int, play: Awaitable[Any]) -> None:
            try:
                results[index] = await play
            except Exception as error:
                results[index] = error

        async with anyio.create_task_group() as tasks:
            for index, play in enumerate(plays):
                tasks.start_soon(run, index, play)
        return results

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            if self.name == "threads":
                time.sleep(0.002)
            else:
                await anyio.sleep(0.002)


def _to_its_end(play: Coroutine[Any, Any, Any]) -> Any:
    try:
        play.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the pool of threads awaited something")


def _caught(play: Coroutine[Any, Any, Any]) -> Any:
    try:
        return _to_its_end(play)
    except Exception as error:
        return error


KINDS = [Kind("asyncio"), Kind("asyncio+uvloop"), Kind("trio"), Kind("threads")]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@functools.cache
def _open_what_stays() -> None:
    """The first loop of uvloop opens a pipe for the whole process."""
    if importlib.util.find_spec("uvloop"):
        importlib.import_module("uvloop").new_event_loop().close()


@contextlib.contextmanager
def nothing_left() -> Any:
    """Whatever happens inside leaves no descriptor and no thread of a pool behind."""
    _open_what_stays()
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    # The worker threads of the event loops go away in their own time.
    while descriptors() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("smtpcore")]
