"""A driver for gevent: a session over a socket that greenlets wait for.

What lives here: a socket, a clock, and the pump that binds them to the core. What does not: any decision about SMTP.
"""

import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import gevent.socket

import smtpcore
from smtpcore.drivers.tls import TlsFloor, client_context

READ, WRITE, BLOCK = 1, 2, 65_536


class Stream:
    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.unsent = b""

    def exchange(self, octets: bytes, deadline: float) -> bytes | None:
        """Write, or wait for the peer: ``None`` when all is written, or octets that came before, ``b""`` at the end."""
        self.unsent += octets
        writes = bool(self.unsent)
        while True:
            with contextlib.suppress(BlockingIOError):
                while self.unsent:
                    self.unsent = self.unsent[self.socket.send(self.unsent) :]
                if writes:
                    return None
            with contextlib.suppress(BlockingIOError):
                return self.socket.recv(BLOCK)
            self._wait(READ | WRITE if writes else READ, deadline - time.monotonic())

    def _wait(self, events: int, seconds: float) -> None:
        if seconds <= 0:
            raise TimeoutError
        hub = gevent.get_hub()
        with gevent.Timeout(seconds, TimeoutError), contextlib.closing(hub.loop.io(self.socket.fileno(), events)) as io:
            hub.wait(io)


class Session:
    def __init__(self, sock: socket.socket, client: smtpcore.Client, wire: TlsFloor) -> None:
        self._stream = Stream(sock)
        self._client = client
        self._wire = wire
        self._body: Iterator[bytes] = iter(())
        self._to_write = b""
        self._write_seconds = self._write_deadline = self._deadline = 0.0
        self._timeout: smtpcore.Timeout | None = None
        self.end: smtpcore.Disconnect | None = None
        self.last_report: smtpcore.Report | None = None

    def deliver(self, envelope: smtpcore.Envelope, message: bytes | Iterable[bytes]) -> smtpcore.Report | None:
        if isinstance(message, bytes):
            message = [message[start : start + BLOCK] for start in range(0, len(message), BLOCK)]
        self._body = iter(message)
        self._client.send(envelope)
        self._exchange(b"", 0.0, on_timeout=lambda: None)  # an idle 421 is heard before MAIL is said
        self.run()
        return self.last_report

    def quit(self) -> None:
        if self.end is None:
            self._client.quit()
            self.run()

    def close(self) -> None:
        self._client.abort()
        while self.end is None:
            self._note(self._client.next_event())

    def run(self) -> None:
        """Do what the core says until it has nothing more to say; cut short, answer the mail and close."""
        try:
            while not isinstance(event := self._wire.next_event(), smtpcore.Disconnect):
                match event:
                    case smtpcore.Idle() if self._flush():  # a peer that refused a chunk waits for its rest
                        return
                    case smtpcore.SendLine() | smtpcore.SendBody():
                        self._to_write += event.data
                        self._write_seconds = event.seconds
                        if len(self._to_write) >= BLOCK:
                            self._flush()
                    case smtpcore.Timeout():
                        self._hear(event)
                    case smtpcore.NeedBody():
                        self._feed()
                    case smtpcore.NeedMail():
                        self._client.no_mail()
                    case _:
                        self._note(event)
            if event.clean:
                self._flush()
            self._note(event)
        except BaseException:
            self.close()
            raise

    def _note(self, event: smtpcore.Event) -> None:
        if isinstance(event, smtpcore.Report):
            self.last_report = event
        elif isinstance(event, smtpcore.Disconnect):
            self.end = event
            self._stream.socket.close()

    def _flush(self) -> bool:
        """Write, unless the peer speaks first; returns whether all is out."""
        octets, self._to_write = self._to_write, b""
        if octets:
            self._write_deadline = time.monotonic() + self._write_seconds
        return not (octets or self._stream.unsent) or self._exchange(octets, self._write_deadline)

    def _hear(self, timeout: smtpcore.Timeout) -> None:
        """Hear the peer; the deadline runs for as long as the core speaks of the same timeout."""
        if self._flush():
            if timeout is not self._timeout:
                self._timeout, self._deadline = timeout, time.monotonic() + timeout.seconds
            self._exchange(b"", self._deadline)

    def _exchange(self, octets: bytes, deadline: float, on_timeout: Callable[[], object] | None = None) -> bool:
        """Write or hear, and tell the core what came; returns whether nothing did."""
        try:
            received = self._stream.exchange(octets, deadline)
        except TimeoutError:
            (on_timeout or self._wire.receive_timeout)()
        except OSError as error:
            self._stream.unsent = b""
            self._wire.send_failed(error)
        else:
            if received:
                self._wire.receive_data(received)
            elif received is not None:
                self._wire.receive_eof()
            return received is None
        return False

    def _feed(self) -> None:
        """Hand over the next piece of the body, once the last one is written."""
        if self._flush():
            try:
                self._client.send_body(next((piece for piece in self._body if piece), b""))  # b"" is the end
            except Exception as error:
                self._client.body_failed(error)


def connect(
    host: str,
    port: int,
    *,
    limits: smtpcore.Limits = smtpcore.DEFAULT_LIMITS,
    tls: smtpcore.TlsPolicy = smtpcore.TlsPolicy.NEVER,
    tls_context: ssl.SSLContext | None = None,
    **options: Any,
) -> Session:
    client = smtpcore.Client("client.example", tls=tls, limits=limits, nonce=secrets.token_urlsafe, **options)
    try:
        sock = gevent.socket.create_connection((host, port), limits.deadlines.connect)
    except OSError as error:
        raise smtpcore.ConnectFailed(f"{host}: {error}") from error
    session = Session(sock, client, TlsFloor(client, client, tls_context or client_context(verify=True), host, limits))
    session.run()
    if session.end is not None:
        raise session.end.error or smtpcore.SessionError("the session ended before it was open")
    return session
