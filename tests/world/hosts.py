"""Receiving hosts on addresses of loopback, all on one port, as the hosts of the world all listen on 25.

What lives here: hosts with moods that a test may change while they run. What does not: names, and any expectation.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import threading
from collections.abc import Coroutine
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

__all__ = ["Host", "Hosts", "Mood"]


class Mood(enum.Enum):
    """How a host meets a connection."""

    FINE = ""
    REFUSING = "554 5.3.2 no service here"
    BUSY = "421 4.3.2 too busy"
    #: Takes the connection and says nothing.
    SILENT = "silent"


class Host:
    """One receiving host; made by :class:`Hosts`. Recipients: ``nobody*`` are refused, ``later*`` deferred, at FINE."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.mood = Mood.FINE
        #: (reverse-path, recipients, content) of every mail taken.
        self.taken: list[tuple[str, list[str], bytes]] = []
        #: Connections ever, at this moment, and at most at one moment.
        self.connections = 0
        self.open = 0
        self.most_open = 0
        #: What every mail waits for before it is taken.
        self.gate = threading.Event()
        self.gate.set()
        self.listener: asyncio.Server | None = None
        #: STARTTLS is offered when there is one.
        self.tls: ssl.SSLContext | None = None
        #: Whether each mail came encrypted.
        self.encrypted: list[bool] = []

    @property
    def recipients(self) -> list[str]:
        """Of all mails taken, sorted."""
        return sorted(recipient for _, recipients, _ in self.taken for recipient in recipients)

    async def handle_RCPT(  # noqa: N802  # aiosmtpd calls it by this name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 nobody of that name"
        if address.startswith("later"):
            return "450 4.2.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd calls it by this name
        assert isinstance(envelope.content, bytes)
        await asyncio.to_thread(self.gate.wait, 30)
        self.encrypted.append(session.ssl is not None)
        self.taken.append(((envelope.mail_from or "").strip("<>"), envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 taken"

    def protocol(self) -> asyncio.BaseProtocol:
        self.connections += 1
        return _Receiving(self) if self.mood is Mood.FINE else _Moody(self)

    def opened(self) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def closed(self) -> None:
        self.open -= 1


class _Receiving(SMTP):
    def __init__(self, host: Host) -> None:
        super().__init__(host, hostname="host.example", loop=asyncio.get_running_loop(), tls_context=host.tls)
        self._host = host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Once more after STARTTLS, about the same connection.
        if not self.transport:
            self._host.opened()
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._host.closed()
        super().connection_lost(error)


class _Moody(asyncio.Protocol):
    def __init__(self, host: Host) -> None:
        self._host = host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._host.opened()
        if self._host.mood is not Mood.SILENT:
            transport.write(f"{self._host.mood.value}\r\n".encode())
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._host.closed()


class Hosts:
    """Running inside ``with``; a host that was not added refuses connections, for nobody listens there."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    def add(self, *addresses: str, mood: Mood = Mood.FINE) -> list[Host]:
        """Let hosts listen on these addresses."""
        added = []
        for address in addresses:
            host = self._hosts.setdefault(address, Host(address))
            host.mood = mood
            host.listener = self._do(self._listen(host))
            added.append(host)
        return added

    def kill(self, host: Host) -> None:
        """Let a host refuse connections from now on; those that stand remain."""
        self._do(self._close(host))

    def revive(self, host: Host) -> None:
        """Let a killed host listen again."""
        host.listener = self._do(self._listen(host))

    async def _listen(self, host: Host) -> asyncio.Server:
        return await self._loop.create_server(host.protocol, host.address, self.port)

    async def _close(self, host: Host) -> None:
        assert host.listener is not None
        host.listener.close()

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __enter__(self) -> Hosts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts.values():
            host.gate.set()
            self._do(self._close(host))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
