"""The installed package alone: imported, and mail sent by the drivers that need nothing beside it.

What lives here: a check that runs in an empty environment, on any Python. What does not: tests. The one argument is a
Python that has aiosmtpd, which receives the mail.
"""

import asyncio
import contextlib
import importlib.metadata
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import smtpcore
import smtpcore.drivers.asyncio
import smtpcore.drivers.blocking
import smtpcore.relay

MESSAGE = b"Subject: smoke\r\n\r\n.a line with a dot\r\nand the last one"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def receiver(python: str, folder: Path) -> Iterator[int]:
    """A server that writes into the maildir ``folder``; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ["-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}", "-c", "aiosmtpd.handlers.Mailbox", str(folder)]
    with subprocess.Popen([python, *server]) as process:
        try:
            deadline = time.monotonic() + 30
            while not listens(port):
                assert process.poll() is None, "the receiver has ended"
                assert time.monotonic() < deadline, "the receiver does not listen"
                time.sleep(0.02)
            yield port
        finally:
            process.terminate()


def main(python: str) -> None:
    assert smtpcore.__file__.startswith(sys.prefix), smtpcore.__file__
    others = {found.name for found in importlib.metadata.distributions()} - {"smtpcore", "pip", "setuptools"}
    assert not others, f"an empty environment holds {others}"
    with tempfile.TemporaryDirectory() as folder:
        maildir = pathlib.Path(folder, "mail")
        with receiver(python, maildir) as port:
            where: dict[str, Any] = {
                "host": "127.0.0.1",
                "port": port,
                "sender": "a@smoke.example",
                "recipients": "b@smoke.example",
            }
            smtpcore.drivers.blocking.send(MESSAGE, **where)
            asyncio.run(smtpcore.drivers.asyncio.send(MESSAGE, **where))
        arrived = [file.read_bytes() for file in maildir.glob("new/*")]
    assert len(arrived) == 2, arrived
    for mail in arrived:
        assert mail.endswith(b"\n\n.a line with a dot\nand the last one\n"), mail
    version = importlib.metadata.version("smtpcore")
    print(f"smtpcore {version} on Python {sys.version.split()[0]}: imported, with nothing beside it, and mail sent")


main(sys.argv[1])
