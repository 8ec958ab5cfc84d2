"""Real processes, killed at random moments: what was accepted arrives.

What lives here: a relay and a program that adds mail, both killed again and again, against a server that writes down
all it takes. What does not: simulated crashes (``simulation``), which reach every commit.

``SMTPCORE_KILLS`` sets how many kills of relays there are (50 by default), and ``SMTPCORE_SEED`` repeats a run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Session
from aiosmtpd.smtp import Envelope as SmtpEnvelope

from smtpcore import Envelope
from smtpcore.drivers.spool import Spool

KILLS = int(os.environ.get("SMTPCORE_KILLS", "50"))
SEED = int(os.environ.get("SMTPCORE_SEED", str(random.SystemRandom().randrange(2**32))))

#: Adds mails for ever, and says of each when it is accepted: the queue id, the recipients and a digest of the body.
ADDER = """
import hashlib, json, random, sys, time
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool

directory, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
with Spool(directory) as spool:
    for number in range(100_000):
        size = chance.choice((100, 3_000, 60_000, 200_000))
        text = chance.randbytes(size).hex()[:size]
        lines = [text[start : start + 70] for start in range(0, size, 70)]
        header = f"Subject: {seed} {number}\\r\\n\\r\\n"
        body = (header + "".join(f".{line}\\r\\n" for line in lines)).encode()
        recipients = [f"u{i}@{'abc'[chance.randrange(3)]}.example" for i in range(chance.randint(1, 4))]
        prepared = spool.prepare(Envelope("me@home.example", tuple(recipients)), [body])
        spool.add([prepared], time.time())
        print(json.dumps([hashlib.sha256(body).hexdigest(), recipients]), flush=True)
        while len(spool) > 200:
            time.sleep(0.005)
"""

#: How many spools have their lives side by side: what one life waits for leaves a processor to the other.
LANES = 2


class Server:
    """aiosmtpd in a thread, with a count of every body taken for every recipient."""

    def __init__(self) -> None:
        self.taken: Counter[tuple[str, str]] = Counter()
        self.mails = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: SmtpEnvelope) -> str:  # noqa: N802  # aiosmtpd calls it by this name
        assert isinstance(envelope.content, bytes)
        digest = hashlib.sha256(envelope.content).hexdigest()
        self.taken.update((digest, recipient) for recipient in envelope.rcpt_tos)
        self.mails += 1
        return "250 2.0.0 Taken"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = self._loop.run_until_complete(
            self._loop.create_server(lambda: SMTP(self, hostname="server.example", loop=self._loop), "127.0.0.1", 0)
        )
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        listener.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __enter__(self) -> Server:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def start_relay(spool: Path, port: int, *arguments: str) -> subprocess.Popen[bytes]:
    program = "import sys; from smtpcore.drivers.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "relay", "--spool", str(spool), "--smarthost", f"127.0.0.1:{port}"]
    return subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL)


def start_adder(spool: Path, seed: int, output: Path) -> subprocess.Popen[bytes]:
    output.mkdir(exist_ok=True)
    with (output / str(seed)).open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", ADDER, str(spool), str(seed)], stdout=file)


def wait_for_octets(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.01)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def acknowledged(output: Path) -> Counter[tuple[str, str]]:
    """What was said to be accepted; a last line that the kill cut short was not said."""
    counts: Counter[tuple[str, str]] = Counter()
    for said in output.iterdir():
        for line in said.read_bytes().split(b"\n")[:-1]:
            digest, recipients = json.loads(line)
            counts.update((digest, recipient) for recipient in recipients)
    return counts


def live(spool: Path, output: Path, server: Server, number: int, chance: random.Random) -> None:
    """One life of a relay and of a program that adds mail, from their start to their kill."""
    adder = start_adder(spool, number, output)
    relay = start_relay(spool, server.port)
    before = server.mails
    try:
        # The moment of the kill is what the test is about; it is chosen, not waited for. Most fall into the delivery
        # of mail, wherever a busy machine puts that, and some into the start.
        if chance.random() < 0.8:
            deadline = time.monotonic() + 120
            while server.mails == before:
                assert relay.poll() is None, "the relay ended by itself"
                assert time.monotonic() < deadline, "no mail arrived"
                time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.6))
        if chance.random() < 0.5:
            kill(adder)
            time.sleep(chance.uniform(0.0, 0.2))
        assert relay.poll() is None, "the relay ended by itself"
    finally:
        kill(relay)
        kill(adder)


def live_often(directory: Path, kills: int, seed: int) -> str:
    """``kills`` lives on one spool, one after the other; then what was accepted is compared with what arrived."""
    chance = random.Random(seed)
    spool, output = directory / "spool", directory / "accepted"
    with Server() as server:
        for number in range(kills):
            live(spool, output, server, number, chance)
        with Spool(spool) as rest:
            left = len(rest)
        assert start_relay(spool, server.port, "--once").wait(timeout=300) == 0
    with Spool(spool) as rest:
        assert len(rest) == 0
    assert list((spool / "bodies").iterdir()) == []

    accepted = acknowledged(output)
    missing = accepted - server.taken
    assert not missing, f"{missing.total()} accepted and not arrived"
    # A mail that was committed when its process was killed may have gone unacknowledged: one for each kill.
    surplus = Counter({key: count for key, count in server.taken.items() if key not in accepted})
    assert len({digest for digest, _ in surplus}) <= kills
    # Twice is what arrived in the window between the server's yes and the commit: at most one mail for each session.
    twice = {digest for (digest, _), count in server.taken.items() if count > 1}
    assert len(twice) <= kills * 5
    assert accepted.total() > kills
    assert left < accepted.total()
    return f"{kills} kills, {accepted.total()} recipients accepted, none missing, {len(twice)} mails twice, {left} left"


@pytest.mark.crash
def test_what_was_accepted_arrives_whatever_is_killed(tmp_path: Path) -> None:
    print(f"SMTPCORE_SEED={SEED}")
    shares = [KILLS // LANES + (lane < KILLS % LANES) for lane in range(LANES)]
    with ThreadPoolExecutor(LANES) as lanes:
        running = []
        for lane, kills in enumerate(shares):
            (tmp_path / str(lane)).mkdir()
            running.append(lanes.submit(live_often, tmp_path / str(lane), kills, SEED + lane))
        for lived in running:
            print(lived.result())


@pytest.mark.crash
def test_an_addition_that_is_killed_leaves_nothing_half(tmp_path: Path) -> None:
    spool, output = tmp_path / "spool", tmp_path / "accepted"
    chance = random.Random(SEED)
    for number in range(8):
        adder = start_adder(spool, number, output)
        # Interpreters take their time to start: it is killed while it adds, at any moment of that.
        wait_for_octets(output / str(number))
        time.sleep(chance.uniform(0.0, 0.5))
        kill(adder)
    accepted = acknowledged(output)
    with Spool(spool) as opened:
        opened.lock()
        found: Counter[tuple[str, str]] = Counter()
        for entry in opened.list():
            body = opened.open_body(entry.mail.mail_id)
            if not isinstance(body, bytes):
                with body:
                    body = body.read()
            assert len(body) == entry.mail.size
            digest = hashlib.sha256(body).hexdigest()
            found.update((digest, recipient.address) for recipient in entry.job.recipients)
        names = {path.name for path in (spool / "bodies").iterdir()}
        assert all(name.endswith(".eml") for name in names)
    assert accepted
    assert not accepted - found
    assert len({digest for digest, _ in found - accepted}) <= 8


def test_a_mail_added_while_a_relay_runs_is_noticed(server: Server, tmp_path: Path) -> None:
    relay = start_relay(tmp_path / "spool", server.port)
    try:
        with Spool(tmp_path / "spool") as spool:
            spool.add([spool.prepare(Envelope("", ("u@a.example",)), [b"hello\n"])], time.time())
            deadline = time.monotonic() + 30
            while len(spool):
                assert time.monotonic() < deadline, "the mail was not noticed"
                time.sleep(0.02)
    finally:
        relay.terminate()
        assert relay.wait(timeout=30) == 0
    assert server.taken.total() == 1
