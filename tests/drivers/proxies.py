"""A proxy on loopback: SOCKS5 (RFC 1928, RFC 1929) and HTTP CONNECT (RFC 9110 §9.3.6), as much as a client sees.

What lives here: the two openings, and carrying octets both ways. What does not: looking names up; whatever host is
asked for, the connection goes to one port of this machine.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading

PATIENCE = 5.0


class Proxy:
    """Takes any number of connections, one after the other, and carries each to ``target``; with ``refuse`` none."""

    def __init__(self, target: int, *, refuse: bool = False) -> None:
        self._target = target
        self._refuse = refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: The hosts and ports that were asked for.
        self.asked: list[tuple[str, int]] = []
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            with sock, contextlib.suppress(OSError, EOFError):
                self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock.makefile("rb", buffering=0) as stream:
            first = _exactly(stream, 1)
            accept, refuse = self._socks(sock, stream) if first == b"\x05" else self._http(stream)
        if self._refuse:
            sock.sendall(refuse)
            return
        with socket.create_connection(("127.0.0.1", self._target), PATIENCE) as onward:
            # An SMTP server speaks first: its greeting may come in one piece with the proxy's answer, and here it does.
            sock.sendall(accept + onward.recv(65_536))
            _carry(sock, onward)

    def _socks(self, sock: socket.socket, stream: io.RawIOBase) -> tuple[bytes, bytes]:
        """Hear what is asked for; what there is to answer."""
        _exactly(stream, _exactly(stream, 1)[0])
        sock.sendall(b"\x05\x00")
        kind = _exactly(stream, 4)[3]
        assert kind == 3, "a name was to be asked for"
        host = _exactly(stream, _exactly(stream, 1)[0]).decode()
        (port,) = struct.unpack("!H", _exactly(stream, 2))
        self.asked.append((host, port))
        rest = bytes([0, 1]) + bytes(6)
        return b"\x05\x00" + rest, b"\x05\x05" + rest

    def _http(self, stream: io.RawIOBase) -> tuple[bytes, bytes]:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _exactly(stream, 1)
        host, _, port = head.split()[1].decode().rpartition(":")
        self.asked.append((host, int(port)))
        return b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 403 Forbidden\r\n\r\n"


def _exactly(stream: io.RawIOBase, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        if not (more := stream.read(count - len(octets))):
            raise EOFError
        octets += more
    return octets


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Carry octets both ways until both sides have closed."""
    back = threading.Thread(target=_carry_one_way, args=(other, one))
    back.start()
    _carry_one_way(one, other)
    back.join()


def _carry_one_way(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while octets := source.recv(65_536):
            sink.sendall(octets)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
