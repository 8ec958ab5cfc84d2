"""Scripted peers: real listening sockets whose every octet is written down in a test.

What lives here: the peer in its thread, and the line to one client with the few things that a script can do on it. What
does not: any scenario, and anything of the core.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

__all__ = ["EXTENSIONS", "PATIENCE", "Closed", "Line", "Peer", "Script", "demand", "steps"]

#: How long a script waits before it gives the test up; no test comes near it unless something is wrong.
PATIENCE: Final = 5.0

#: What an honest server offers, but for STARTTLS and AUTH.
EXTENSIONS: Final = ("PIPELINING", "8BITMIME", "SIZE 100000000")


def demand(fulfilled: bool, words: str) -> None:
    """Raise ``AssertionError`` with these words unless it is so, also where Python leaves out ``assert``."""
    if not fulfilled:
        raise AssertionError(words)


class Closed(Exception):
    """The client closed where the script expected it to go on."""


class Line:
    """The line to one client."""

    def __init__(self, sock: socket.socket, peer: Peer | None = None) -> None:
        sock.settimeout(PATIENCE)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._over = peer.over if peer else threading.Event()
        #: For the script to set when it has done what the client's side waits for.
        self.done = peer.done if peer else threading.Event()
        #: For the script to wait for.
        self.go = peer.go if peer else threading.Event()
        self._unread = bytearray()
        #: Everything that came, as it stood inside TLS.
        self.heard = bytearray()
        self.commands: list[bytes] = []
        self.bodies: list[bytes] = []
        #: Whether the client was seen to close.
        self.saw_close = False
        #: Seconds before each reply.
        self.lag = 0.0

    # --- one thing at a time ---------------------------------------------------------------------------------------

    def raw(self, octets: bytes) -> None:
        """Write octets, whole; a client that is gone ends the script."""
        try:
            self._sock.sendall(octets)
        except OSError as error:
            self.saw_close = True
            raise Closed from error

    def say(self, *lines: str) -> None:
        """Write lines, given without CRLF."""
        if self.lag:
            self._over.wait(self.lag)
        self.raw("".join(f"{line}\r\n" for line in lines).encode())

    def _more(self) -> None:
        try:
            octets = self._sock.recv(65_536)
        except TimeoutError:
            raise
        except OSError as error:
            self.saw_close = True
            raise Closed from error
        if not octets:
            self.saw_close = True
            raise Closed
        self.heard += octets
        self._unread += octets

    def until(self, mark: bytes) -> bytes:
        """What comes up to and with ``mark``."""
        searched = 0
        while (at := self._unread.find(mark, max(0, searched - len(mark)))) < 0:
            searched = len(self._unread)
            self._more()
        return self._take(at + len(mark))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken

    def line(self) -> bytes:
        """The next line, without CRLF."""
        line = self.until(b"\r\n")[:-2]
        self.commands.append(line)
        return line

    def expect(self, start: str) -> bytes:
        """The next line, which must begin so."""
        line = self.line()
        demand(line.upper().startswith(start.encode()), f"expected {start!r}, got {line!r}")
        return line

    def octets(self, count: int) -> bytes:
        """At least ``count`` octets."""
        while len(self._unread) < count:
            self._more()
        return self._take(len(self._unread))

    def exactly(self, count: int) -> bytes:
        """``count`` octets; what comes behind them is left there."""
        while len(self._unread) < count:
            self._more()
        return self._take(count)

    def await_octet(self) -> None:
        """Wait for something to read, and leave it there."""
        while not self._unread:
            self._more()

    @property
    def is_open(self) -> bool:
        """Whether this end is still open."""
        return self._sock.fileno() >= 0

    def close(self) -> None:
        """Close; a second time is nothing."""
        self._sock.close()

    def shut_down(self) -> None:
        """End the script's wait from another thread: it reads the end of the stream."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def finish_writing(self) -> None:
        """Half-close."""
        self._sock.shutdown(socket.SHUT_WR)

    def gone(self, seconds: float = 0.0) -> bool:
        """Whether the client's play is over within ``seconds``; nothing is read.

        That it closed cannot be seen from here: behind octets that nobody reads, the end does not arrive.
        """
        return self._over.wait(seconds)

    def stall(self) -> None:
        """Neither read nor write until the client has finished."""
        demand(self.gone(PATIENCE), "the client did not come to an end")

    def drip(self, octets: Iterable[int], interval: float) -> None:
        """One octet per interval for as long as the client listens."""
        for octet in octets:
            if self.gone(interval):
                return
            self.raw(bytes([octet]))
        raise AssertionError("the client listened to all of it")

    def read_slowly(self, mark: bytes, interval: float) -> None:
        """Read up to ``mark``, one read per interval."""
        while mark not in self._unread:
            demand(not self.gone(interval), "the client did not wait")
            del self._unread[: -len(mark)]
            self._more()
        self._unread.clear()

    def until_closed(self) -> None:
        """Read until the client closes."""
        with contextlib.suppress(Closed):
            while True:
                self._more()

    def closes_within(self, seconds: float) -> bool:
        """Whether the client closes in time; what it says meanwhile is read."""
        self._sock.settimeout(seconds)
        try:
            self.until_closed()
        except TimeoutError:
            return False
        finally:
            self._sock.settimeout(PATIENCE)
        return True

    def tls(self, context: ssl.SSLContext) -> bool:
        """Shake hands as the server; whether it came about."""
        try:
            # A client that is gone before its first octet would make the wrapping forget to close what it wrapped.
            if not self._sock.recv(1, socket.MSG_PEEK):
                return False
            self._sock = context.wrap_socket(self._sock, server_side=True)
        except (ssl.SSLError, OSError):
            return False
        return True

    # --- a server, up to a point -----------------------------------------------------------------------------------

    def serve(
        self,
        until: str | None = None,
        *,
        greet: bool = True,
        extensions: Iterable[str] = EXTENSIONS,
        replies: Mapping[str, str] | None = None,
    ) -> bytes:
        """Serve as an honest server does, and return when the client says ``until``, which stays unanswered.

        ``until`` is the beginning of a command, or ``BODY`` (354 is said, nothing read) or ``DOT`` (the message is
        read). ``replies`` are other answers, by the beginning of the command; ``DOT`` is the one to the message.
        """
        answers = {"EHLO": _ehlo(extensions), "RSET": "250 reset", "QUIT": "221 bye"} | dict(replies or {})
        starts = sorted(answers, key=len, reverse=True)
        if greet:
            self.say("220 peer.example ready")
        while True:
            line = self.line()
            text = line.decode().upper()
            if until and text.startswith(until):
                return line
            answer = next((answers[start] for start in starts if text.startswith(start.upper())), "250 ok")
            if not text.startswith("DATA") or "DATA" in answers:
                self.say(*answer.split("\n"))
                if text.startswith("QUIT"):
                    return line
                continue
            self.say("354 go on")
            if until == "BODY":
                return line
            self.message()
            if until == "DOT":
                return line
            answer = answers.get("DOT", f"250 accepted {len(self.bodies)}")
            self.say(*answer.split("\n"))

    def message(self) -> bytes:
        """Read a message: its octets as they stood on the wire, with the final dot."""
        while len(self._unread) < 3:
            self._more()
        body = self._take(3) if self._unread.startswith(b".\r\n") else self.until(b"\r\n.\r\n")
        self.bodies.append(body)
        return body


def _ehlo(extensions: Iterable[str]) -> str:
    lines = ["peer.example", *extensions]
    return "\n".join(f"250{' ' if index == len(lines) - 1 else '-'}{line}" for index, line in enumerate(lines))


#: What a peer does on the line to one client.
Script: TypeAlias = Callable[[Line], object]


def steps(*steps: Script) -> Script:
    """A script of steps, one after the other."""

    def script(line: Line) -> None:
        for step in steps:
            step(line)

    return script


class Peer:
    """A listening socket, and one script for each connection that it takes; then it stops listening.

    It listens on ``port`` of 127.0.0.1 (of ::1 for ``AF_INET6``), or on the unix socket ``path``. ``small_buffers``
    asks the system for little room between the ends. A script that returns does not close the connection: the peer
    waits until the client does. What a script raises, the context manager raises at its end; an expectation that was
    not met is noted with the error of the client's side, if there is one.
    """

    def __init__(
        self, *scripts: Script, small_buffers: bool = False, family: int = socket.AF_INET, path: str | None = None
    ) -> None:
        self._scripts = scripts
        self._listener = socket.socket(family if path is None else socket.AF_UNIX, socket.SOCK_STREAM)
        if small_buffers:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._listener.bind(path or ("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self._listener.listen()
        self._listener.settimeout(PATIENCE)
        self.port: int = 0 if path else self._listener.getsockname()[1]
        #: One for each connection that was taken.
        self.lines: list[Line] = []
        #: Set when the client's side has finished.
        self.over = threading.Event()
        #: Set by a script.
        self.done = threading.Event()
        #: Set by the client's side, for scripts that wait for it.
        self.go = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="peer")

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self.over.set()
        if kind is not None:
            # The test failed already: nobody will connect any more.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            for line in self.lines:
                with contextlib.suppress(OSError):
                    line.shut_down()
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure
        if error is not None and isinstance(self._failure, AssertionError):
            error.add_note(f"The peer ended before, for its script expected something else: {self._failure}")

    def _run(self) -> None:
        try:
            for index, script in enumerate(self._scripts):
                sock, _ = self._listener.accept()
                if index == len(self._scripts) - 1:
                    self._listener.close()
                self._serve(script, sock)
        except BaseException as failure:
            self._failure = failure
        finally:
            self._listener.close()

    def _serve(self, script: Script, sock: socket.socket) -> None:
        line = Line(sock, self)
        self.lines.append(line)
        try:
            with contextlib.suppress(Closed):
                script(line)
                if line.is_open:
                    line.until_closed()
        finally:
            line.close()
