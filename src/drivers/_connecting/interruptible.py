"""A connection of the blocking driver that another thread can interrupt, while it is being made and ever after.

What lives here: the pipe that wakes a thread which is connecting, and the second handle that shuts a connection down.
What does not: sessions, and who interrupts them.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from smtpcore import SessionAborted
from smtpcore.drivers._connecting.race import (
    Address,
    Dialling,
    Way,
    check_socket,
    connect_failed,
    in_order,
    source_addresses,
)
from smtpcore.drivers._session.options import Options

__all__ = ["Interruptible"]

#: Seconds that fit into any system call.
_LONGEST_WAIT = 86_400.0


class Interruptible:
    """Makes the connections of one session; whatever waits in them ends at once when it is interrupted.

    Looking a name up cannot be interrupted, nor can a ``connect`` callable of the user's, but by its own deadline.
    """

    def __init__(self, options: Options) -> None:
        self._sources = source_addresses(options.get("source_address", ()))
        self._connect = options.get("connect")
        #: The options by which a session with a host is connected through :meth:`_dial`.
        self.options: Options = {**options, "connect": self._dial}
        self.options.pop("source_address", None)
        self._lock = threading.Lock()
        self._wake: int | None = None
        self._handle: socket.socket | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """End whatever waits; from any thread, at any time."""
        with self._lock:
            self._interrupted = True
            if self._wake is not None:
                os.write(self._wake, b"!")
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the second handle go, once the session has ended."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def dial_unix(self, path: str, seconds: float) -> socket.socket:
        """A connection to a unix socket, which the caller owns; raises ``ConnectFailed``, or ``SessionAborted``."""
        way = Way(None, path=path)
        try:
            return self._watched(self._race(way, [Address.of_path(path)], seconds))
        except OSError as error:
            raise connect_failed(way, [("", error)]) from error

    def _dial(self, host: str, port: int, seconds: float) -> socket.socket:
        self.close()
        if self._connect is not None:
            return self._watched(check_socket(self._connect(host, port, seconds)))
        found = in_order(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return self._watched(self._race(Way(host, port), found, seconds))

    def _watched(self, sock: socket.socket) -> socket.socket:
        """A connection that can be interrupted from now on."""
        try:
            with self._lock:
                self._check()
                # A number of its own: the session closes its socket when it likes, and the number may be taken again.
                self._handle = sock.dup()
        except BaseException:
            sock.close()
            raise
        return sock

    def _race(self, way: Way, addresses: Sequence[Address], seconds: float) -> socket.socket:
        dialling = Dialling(way, addresses, seconds, time.monotonic(), self._sources)
        woken, wake = os.pipe()
        try:
            with self._lock:
                self._check()
                self._wake = wake
            while (sock := dialling.next(time.monotonic())) is None:
                self._wait(woken, dialling)
            return sock
        finally:
            dialling.close()
            with self._lock:
                self._wake = None
                os.close(woken)
                os.close(wake)

    def _wait(self, woken: int, dialling: Dialling) -> None:
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        for sock in dialling.pending:
            poll.register(sock, select.POLLOUT)
        seconds = max(0.0, min(dialling.wake_at - time.monotonic(), _LONGEST_WAIT))
        if any(number == woken for number, _ in poll.poll(seconds * 1000)):
            self._check()

    def _check(self) -> None:
        if self._interrupted:
            raise SessionAborted("the session was dropped")
