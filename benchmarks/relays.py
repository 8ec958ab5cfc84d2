"""The relays that are compared: each fills its queue, then drains it to one smart host.

What lives here: one class per relay, with the same few methods. What does not: the sink, the clock, the comparison. A
relay joins by a class of its own and a line in :data:`RELAYS`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.senders import RECIPIENT, SENDER, message
from tests.interop.postfix import HOST, SERVICES, Postfix, cpu_seconds, postfix_missing, program, wait_until

from smtpcore import Envelope
from smtpcore.drivers.spool import Spool


class Relay(Protocol):
    """One run of one relay. ``folder`` is an empty folder on the disk that is to hold the queue."""

    def __init__(self, folder: Path, sink_port: int) -> None: ...

    @staticmethod
    def missing() -> str | None:
        """What is missing on this machine, or ``None``."""
        ...

    def fill(self, mails: int, octets: int) -> None:
        """Accept ``mails`` durably and deliver none; the clock does not run yet."""
        ...

    def drain(self) -> None:
        """Begin to deliver and return at once; the clock runs from this call until the sink has all."""
        ...

    def cpu_seconds(self) -> float:
        """Processor time so far, of all processes that deliver."""
        ...

    def stop(self) -> None:
        """End whatever runs."""
        ...


class PostfixRelay:
    """Postfix with its defaults but for the smart host.

    Its queue manager is left out while the queue is filled, so that every mail waits in the incoming queue, and added
    to drain it: no mail is deferred first, and nothing but delivery is measured.
    """

    def __init__(self, folder: Path, sink_port: int) -> None:
        settings = {
            "relayhost": f"[{HOST}]:{sink_port}",
            # Without a queue manager every mail would seem to arrive faster than it leaves, and be slowed down.
            "in_flow_delay": "0",
        }
        self._services = SERVICES
        waiting = [line for line in SERVICES if not line.startswith("qmgr ")]
        self._postfix = Postfix(settings, services=waiting, within=folder)

    @staticmethod
    def missing() -> str | None:
        return postfix_missing() or (None if program("smtp-source") else "smtp-source is missing")

    def fill(self, mails: int, octets: int) -> None:
        self._postfix.start()
        subprocess.run(source_command(self._postfix.port, mails, octets, sessions=10), check=True)
        wait_until(lambda: self._postfix.queued("incoming") == mails, f"{mails} mails in the incoming queue")

    def drain(self) -> None:
        self._postfix.write_services(self._services)
        self._postfix.reload()

    def cpu_seconds(self) -> float:
        return self._postfix.cpu_seconds()

    def stop(self) -> None:
        self._postfix.stop()


class OurRelay:
    """Our relay service; its process is up and idle before the clock runs, as Postfix's master is."""

    backend = "asyncio"
    pipelining = "within"

    def __init__(self, folder: Path, sink_port: int) -> None:
        self._folder = folder / "spool"
        self._sink_port = sink_port
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        return None

    def fill(self, mails: int, octets: int) -> None:
        body, envelope = message(octets), Envelope(SENDER, (RECIPIENT,))
        with Spool(self._folder) as spool:
            for _ in range(mails):
                spool.add([spool.prepare(envelope, [body])], time.time())
        arguments = [str(self._folder), HOST, str(self._sink_port), self.backend, self.pipelining]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("our_relay.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise OSError("our relay did not start")

    def drain(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def cpu_seconds(self) -> float:
        assert self._process is not None
        return cpu_seconds(self._process.pid)

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            if self._process.returncode:
                raise OSError(f"our relay ended with code {self._process.returncode}")


class OurRelayOnTrio(OurRelay):
    backend = "trio"


class OurRelayInThreads(OurRelay):
    backend = "threads"


class OurRelayAcross(OurRelay):
    pipelining = "across"


class OurRelayOnTrioAcross(OurRelayOnTrio):
    pipelining = "across"


class OurRelayInThreadsAcross(OurRelayInThreads):
    pipelining = "across"


def source_command(port: int, mails: int, octets: int, *, sessions: int) -> Sequence[str]:
    """`smtp-source`, its sessions kept open from mail to mail."""
    path = program("smtp-source")
    assert path is not None
    numbers = ["-s", str(sessions), "-m", str(mails), "-l", str(octets)]
    return [path, "-4", "-d", *numbers, "-f", SENDER, "-t", RECIPIENT, f"{HOST}:{port}"]


RELAYS: dict[str, type[Relay]] = {
    "Postfix": PostfixRelay,
    "smtpcore asyncio": OurRelay,
    "smtpcore trio": OurRelayOnTrio,
    "smtpcore threads": OurRelayInThreads,
    "smtpcore asyncio, across": OurRelayAcross,
    "smtpcore trio, across": OurRelayOnTrioAcross,
    "smtpcore threads, across": OurRelayInThreadsAcross,
}
