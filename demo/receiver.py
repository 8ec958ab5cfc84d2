"""The demo's receiving server: aiosmtpd with STARTTLS, in a process of its own.

What lives here: a server that writes down what it takes, refuses some recipients for good and defers others at first.
What does not: judging what arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

__all__: list[str] = []


class Receiver:
    """Answers as an aiosmtpd handler, and keeps a journal: one JSON object for each message taken."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal.open("a", encoding="utf-8")
        self._deferred: set[str] = set()

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 There is nobody of that name here"
        if address.startswith("later") and address not in self._deferred:
            self._deferred.add(address)
            return "450 4.7.1 Greylisted, come back in a moment"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Recipient OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        content = envelope.content
        entry = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "octets": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "tls": session.ssl is not None,
            "bounce": content.decode("utf-8", "replace") if b"report-type=delivery-status" in content else None,
        }
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()
        return "250 2.0.0 Taken"


async def _serve(journal: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    receiver = Receiver(journal)
    loop = asyncio.get_running_loop()

    def protocol() -> SMTP:
        server = SMTP(receiver, hostname="receiver.example", tls_context=context, loop=loop, enable_SMTPUTF8=False)
        server.line_length_limit = 4096
        return server

    listener = await loop.create_server(protocol, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    # The demo closes our standard input when it is done.
    await asyncio.to_thread(sys.stdin.read)
    listener.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A receiving server that keeps a journal.")
    parser.add_argument("journal", type=Path)
    parser.add_argument("certificate", type=Path, help="certificate chain and key in one PEM file")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.journal, arguments.certificate))
