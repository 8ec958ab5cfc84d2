"""The demo: a queue of real-looking mail, relayed to a real server over STARTTLS, and proof that all of it arrived.

What lives here: the order of events and the judgement at the end. What does not: the mail (``corpus.py``) and the
server (``receiver.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import trustme
from demo.corpus import Letter, letters
from rich.console import Console
from rich.table import Table

from smtpcore import Envelope, TlsPolicy
from smtpcore.drivers.progress import Progress
from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import Spool
from smtpcore.drivers.tls import client_context
from smtpcore.relay import RelaySettings, Schedule, SmartHost

_HERE = Path(__file__).parent


def main() -> int:
    console = Console()
    console.width = max(console.width, 110)
    with tempfile.TemporaryDirectory(prefix="smtpcore-demo-") as folder:
        return demonstrate(Path(folder), console)


def demonstrate(folder: Path, console: Console) -> int:
    """Queue, relay, judge; returns the exit status."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "receiver.pem")
    context = client_context(verify=True)
    authority.configure_trust(context)
    corpus = list(letters())
    with receiver(folder) as port, Spool(folder / "spool") as spool:
        console.print(f"Receiving server: aiosmtpd on 127.0.0.1:{port}, STARTTLS required by us.")
        began = time.monotonic()
        for letter in corpus:
            envelope = Envelope(letter.sender, letter.recipients)
            spool.add([spool.prepare(envelope, [letter.octets])], time.time())
        octets = sum(len(letter.octets) for letter in corpus)
        seconds = time.monotonic() - began
        console.print(f"Queued {len(corpus)} messages, {octets / 2**20:.1f} MiB, in {seconds:.1f} s. Relaying.")
        progress = Progress()
        options: Any = {"tls": TlsPolicy.REQUIRED, "tls_context": context, "helo_name": "relay.home.example"}
        settings = RelaySettings(reporting_mta="relay.home.example", schedule=Schedule(delays=(1.0, 2.0, 4.0)))
        service = RelayService(spool, SmartHost("127.0.0.1", port), settings, options, notice=progress.notice)
        began = time.monotonic()
        with progress.shown(service):
            anyio.run(relay_until_empty, service, spool)
        seconds = time.monotonic() - began
        left = len(spool)
    journal = [json.loads(line) for line in (folder / "journal").read_text(encoding="utf-8").splitlines()]
    console.print(f"Relayed: {progress.summary}; {progress.fates.total() / seconds:,.0f} recipients a second.")
    return judge(corpus, journal, left, console)


@contextmanager
def receiver(folder: Path) -> Iterator[int]:
    """A receiving server while the block runs; gives its port."""
    command = [sys.executable, str(_HERE / "receiver.py"), str(folder / "journal"), str(folder / "receiver.pem")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


async def relay_until_empty(service: RelayService, spool: Spool) -> None:
    """Run the relay until the last mail has met its fate."""

    async def watch() -> None:
        while await anyio.to_thread.run_sync(spool.__len__):
            await anyio.sleep(0.1)
        service.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await service.run()


def canonical(octets: bytes) -> bytes:
    """What must arrive: every line end CRLF, the last line ended. Written here anew, so that it can disagree."""
    lines = re.split(rb"\r\n|\r|\n", octets)
    return b"".join(line + b"\r\n" for line in lines[:-1]) + (lines[-1] + b"\r\n" if lines[-1] else b"")


def judge(corpus: list[Letter], journal: list[dict[str, Any]], left: int, console: Console) -> int:
    """Hold what arrived against what was queued; print a table, one bounce and the verdict."""
    arrived = Counter((entry["sha256"], to) for entry in journal if entry["bounce"] is None for to in entry["to"])
    bounces = [entry for entry in journal if entry["bounce"] is not None]
    bounced = Counter(to for entry in bounces for to in re.findall(r"Final-Recipient: rfc822; (\S+)", entry["bounce"]))
    faults: list[str] = []
    table = Table("shape", "messages", "recipients", "octet-exact", "deferred, then delivered", "bounced", "discarded")
    expected: Counter[tuple[str, str]] = Counter()
    rows: dict[str, Counter[str]] = {}
    for letter in corpus:
        row = rows.setdefault(letter.shape, Counter())
        row["messages"] += 1
        digest = hashlib.sha256(canonical(letter.octets)).hexdigest()
        for recipient in letter.recipients:
            row["recipients"] += 1
            if recipient.startswith("nobody"):
                row["discarded" if letter.sender == "" else "bounced"] += 1
                if bounced[recipient] != (letter.sender != ""):
                    faults.append(f"{recipient}: {bounced[recipient]} bounces")
            else:
                expected[digest, recipient] += 1
                row["later" if recipient.startswith("later") else "exact"] += 1
    if arrived != expected:
        missing, surplus = expected - arrived, arrived - expected
        faults.append(f"{missing.total()} bodies are missing or altered, {surplus.total()} are unexpected")
    if not all(entry["tls"] for entry in journal):
        faults.append("something came in clear")
    if left:
        faults.append(f"{left} mails are still queued")
    for shape, row in rows.items():
        exact = row["exact"] + row["later"]
        cells = (row["messages"], row["recipients"], exact, row["later"], row["bounced"], row["discarded"])
        table.add_row(shape, *(str(cell) if cell else "" for cell in cells))
    console.print("\nOne of the bounces, as it arrived at the sender:\n", style="bold")
    shown = bounces[0]["bounce"].splitlines()[:45] if bounces else ["(none)"]
    console.print("\n".join([*shown, "[...]"]), style="dim", markup=False, highlight=False)
    console.print(table)
    for fault in faults:
        console.print(f"FAULT: {fault}", style="bold red")
    if not faults:
        console.print(
            f"All {expected.total()} deliveries arrived octet for octet over TLS, "
            f"and each of the {len(bounces)} bounces reached its sender."
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
