"""Receiving servers for tests of the service and the command line: aiosmtpd in a thread, with moods.

What lives here: a server that takes, refuses, defers, hangs up, offers TLS and AUTH. What does not: any expectation.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

__all__ = ["Server", "raw_server"]

#: Seconds that a verdict is held back at most.
PATIENCE = 120.0


class Server:
    """Running inside ``with``. Recipients: ``nobody*`` are refused, ``later*`` deferred at first, the rest taken."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, users: dict[str, str] | None = None) -> None:
        self.tls = tls
        self.users = users
        #: (reverse-path, recipients, content) of every mail taken.
        self.taken: list[tuple[str, list[str], bytes]] = []
        self.connections = 0
        self.most_connections = 0
        self.open_connections = 0
        self.encrypted: set[bool] = set()
        #: Mails after which the server says 421 to the next.
        self.mails_per_connection = 1_000_000
        #: Set to let the verdicts that are held back go.
        self.hold: threading.Event | None = None
        self.holding = threading.Event()
        self.refusal = "550 5.1.1 nobody of that name"
        self._deferred: set[str] = set()
        self._mails: dict[Session, int] = {}
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    async def handle_MAIL(  # noqa: N802  # aiosmtpd calls it by this name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self._mails[session] = self._mails.get(session, 0) + 1
        if self._mails[session] > self.mails_per_connection:
            return "421 4.3.2 that was enough"
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802  # aiosmtpd calls it by this name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return self.refusal
        if address.startswith("later") and address not in self._deferred:
            self._deferred.add(address)
            return "450 4.7.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd calls it by this name
        assert isinstance(envelope.content, bytes)
        if self.hold is not None:
            self.holding.set()
            await asyncio.to_thread(self.hold.wait, PATIENCE)
        self.encrypted.add(session.ssl is not None)
        self.taken.append(((envelope.mail_from or "").strip("<>"), envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 taken"

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        users = self.users or {}
        known = isinstance(data, LoginPassword) and users.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=known, handled=known)

    def _protocol(self) -> SMTP:
        outer = self

        class Counted(SMTP):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                if not isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext):
                    outer.connections += 1
                    outer.open_connections += 1
                    outer.most_connections = max(outer.most_connections, outer.open_connections)
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                outer.open_connections -= 1
                super().connection_lost(error)

        return Counted(
            self,
            hostname="server.example",
            loop=self._loop,
            tls_context=self.tls,
            authenticator=self._authenticate if self.users else None,
            auth_required=bool(self.users),
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = self._loop.run_until_complete(self._loop.create_server(self._protocol, "127.0.0.1", 0))
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        listener.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __enter__(self) -> Server:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.hold is not None:
            self.hold.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class raw_server:  # noqa: N801  # used like a function
    """A server that hands its one connection to ``talk``; ``with`` gives its port."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(20)
            try:
                self._talk(connection)
                while connection.recv(4096):
                    pass
            except OSError:
                return

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
