"""``smtpcore relay`` with a configuration: what it does with it, what it writes, how it stops.

What lives here: the command with a file, on real servers. What does not: what a file may say, and what relaying means.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme

from smtpcore import Envelope
from smtpcore.drivers.cli import run
from smtpcore.drivers.spool import Spool

from .relays import wait_until
from .servers import Server

PROGRAM = [sys.executable, "-c", "from smtpcore.drivers.cli import main; main()"]
SUMMARY = "1 delivered, 0 bounced, 0 expired, 1 discarded.*; 1 deferrals"
PASSWORD = "correct horse battery"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A mail to one who takes it, one who is not there and one who is to be asked again."""
    with Spool(tmp_path / "spool") as spool:
        recipients = ("u@a.example", "nobody@a.example", f"later-{tmp_path.name}@b.example")
        spool.add([spool.prepare(Envelope("", recipients), [b"Subject: hi\n\nhi\n"])], time.time())
    return tmp_path / "spool"


def configure(folder: Path, port: int, more: str = "") -> str:
    path = folder / "relay.toml"
    path.write_text(f'spool = "{folder}/spool"\nrouting.default = "127.0.0.1:{port}"\n{more}')
    return str(path)


def test_every_attempt_and_fate_is_a_line_with_the_queue_id(
    spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "relay.log"
    with Server() as server:
        path = configure(tmp_path, server.port, f'[logging]\nfile = "{log}"\nformat = "json"\n')
        assert run(["relay", "--config", path, "--once"]) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = {line["recipient"].partition("-")[0]: line for line in lines if "queue_id" in line}
    assert {line["queue_id"] for line in events.values()} == {1}
    assert {name: (line["event"], line.get("kind"), line["code"]) for name, line in events.items()} == {
        "u@a.example": ("fate", "delivered", 250),
        "nobody@a.example": ("fate", "discarded", 550),
        "later": ("attempt", None, 450),
    }
    assert events["later"]["next_in"] > 200
    assert events["u@a.example"]["words"] == "250 2.0.0 taken"
    assert re.fullmatch(SUMMARY, capsys.readouterr().err.rstrip())


def test_the_log_goes_to_standard_error_where_no_file_is_named(spool: Path, tmp_path: Path) -> None:
    with Server() as server:
        path = configure(tmp_path, server.port, "[schedule]\ndelays = [1000]\nspread = 0\n")
        done = subprocess.run(
            [*PROGRAM, "relay", "--config", path, "--once"], capture_output=True, text=True, check=True
        )
    lines = [line for line in done.stderr.splitlines() if "queue_id=1" in line]
    assert len(lines) == 3
    (later,) = (line for line in lines if " event=attempt " in line)
    assert 'words="450 4.7.1 come back later"' in later
    assert " next_in=999." in later or " next_in=1000.0" in later


@pytest.mark.parametrize("backend", ["asyncio", "trio", "threads"])
def test_credentials_and_certificates_come_from_the_configuration(
    backend: str, spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with Server(tls=context, users={"me": PASSWORD}) as server:
        more = f"""
            backend = "{backend}"
            tls.ca_file = "{tmp_path}/ca.pem"
            credentials = {{ user = "me", password_file = "{tmp_path}/password" }}
            logging.level = "debug"
        """
        assert run(["relay", "--config", configure(tmp_path, server.port, more), "--once"]) == 0
        assert len(server.taken) == 1
        assert server.encrypted == {True}
    printed = capsys.readouterr()
    assert "1 delivered" in printed.err
    assert PASSWORD not in printed.out + printed.err


def test_counts_are_written_where_there_is_no_terminal_until_it_is_told_to_stop(spool: Path, tmp_path: Path) -> None:
    with Server() as server:
        path = configure(tmp_path, server.port, '[logging]\nsummary_every = "50ms"\n')
        with subprocess.Popen([*PROGRAM, "relay", "--config", path], stderr=subprocess.PIPE, text=True) as relay:
            try:
                assert relay.stderr is not None
                seen = ""
                while not re.search(f'message="{SUMMARY}"', seen):
                    seen = relay.stderr.readline()
                    assert seen, "the relay ended"
                assert "event=summary" in seen
                os.kill(relay.pid, signal.SIGTERM)
                assert re.fullmatch(SUMMARY, relay.stderr.read().splitlines()[-1])
                assert relay.wait(timeout=30) == 0
            finally:
                relay.kill()


def test_a_log_that_was_renamed_is_begun_anew(spool: Path, tmp_path: Path) -> None:
    log, old = tmp_path / "relay.log", tmp_path / "relay.log.1"
    with Server() as server:
        path = configure(tmp_path, server.port, f'[logging]\nfile = "{log}"\nsummary_every = "50ms"\n')
        with subprocess.Popen([*PROGRAM, "relay", "--config", path], stderr=subprocess.DEVNULL) as relay:
            try:
                wait_until(lambda: log.exists() and "event=fate" in log.read_text())
                log.rename(old)
                wait_until(lambda: log.exists() and "event=summary" in log.read_text())
                os.kill(relay.pid, signal.SIGTERM)
                assert relay.wait(timeout=30) == 0
            finally:
                relay.kill()
    assert "event=fate" not in log.read_text()


def test_a_log_that_cannot_be_written_is_said_at_once(
    spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configure(tmp_path, 25, f'[logging]\nfile = "{tmp_path}"\n')
    assert run(["relay", "--config", path, "--once"]) == 66
    assert capsys.readouterr().err == f"smtpcore: {tmp_path}: Is a directory\n"


def test_a_mail_that_is_set_aside_is_told_of_once(spool: Path, tmp_path: Path) -> None:
    database = sqlite3.connect(spool / "spool.db")
    with database:
        database.execute("UPDATE job SET recipients = 'nonsense' WHERE domain = 'a.example'")
    database.close()
    log = tmp_path / "relay.log"
    with Server() as server:
        path = configure(tmp_path, server.port, f'[logging]\nfile = "{log}"\nformat = "json"\n')
        for _ in range(2):
            assert run(["relay", "--config", path, "--once", "--quiet"]) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (told,) = (line for line in lines if line.get("event") == "set-aside")
    assert (told["level"], told["queue_id"]) == ("warning", 1)
    assert told["words"].endswith("its list of recipients is no JSON")


@pytest.mark.parametrize("backend", ["asyncio", "trio", "threads"])
def test_a_terminal_that_is_gone_lets_finish_what_is_on_its_way(backend: str, spool: Path, tmp_path: Path) -> None:
    with Server() as server:
        server.hold = threading.Event()
        path = configure(tmp_path, server.port, f'backend = "{backend}"\ngrace = "1h"\n')
        with subprocess.Popen([*PROGRAM, "relay", "--config", path, "--quiet"]) as relay:
            try:
                assert server.holding.wait(60)
                # A shell and the system may both say so.
                for _ in range(2):
                    os.kill(relay.pid, signal.SIGHUP)
                    wait_until(lambda: not pending(relay.pid))
                server.hold.set()
                assert relay.wait(timeout=60) == 0
            finally:
                relay.kill()
                server.hold.set()
    with Spool(spool) as left:
        assert "u@a.example" not in {recipient.address for entry in left.list() for recipient in entry.job.recipients}


def pending(process: int) -> bool:
    """Whether a process has not been told of a signal yet."""
    status = Path(f"/proc/{process}/status").read_text()
    return any(int(mask, 16) for mask in re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)", status, re.MULTILINE))


def test_under_nohup_a_terminal_that_is_gone_is_nothing(spool: Path, tmp_path: Path) -> None:
    with Server() as server:
        path = configure(tmp_path, server.port)
        command = f"trap '' HUP; exec {shlex.join([*PROGRAM, 'relay', '--config', path, '--quiet'])}"
        with subprocess.Popen(["sh", "-c", command]) as relay:
            try:
                wait_until(lambda: len(server.taken) == 1)
                os.kill(relay.pid, signal.SIGHUP)
                with Spool(spool) as more:
                    more.add([more.prepare(Envelope("", ("u@far.example",)), [b"hi\n"])], time.time())
                wait_until(lambda: len(server.taken) == 2)
                assert relay.poll() is None
                os.kill(relay.pid, signal.SIGTERM)
                assert relay.wait(timeout=60) == 0
            finally:
                relay.kill()


@pytest.mark.parametrize("backend", ["asyncio", "trio", "threads"])
def test_a_second_signal_breaks_off_what_is_on_its_way(backend: str, spool: Path, tmp_path: Path) -> None:
    with Server() as server:
        server.hold = threading.Event()
        path = configure(tmp_path, server.port, f'backend = "{backend}"\ngrace = "1h"\n')
        with subprocess.Popen([*PROGRAM, "relay", "--config", path, "--quiet"]) as relay:
            try:
                assert server.holding.wait(60)
                os.kill(relay.pid, signal.SIGTERM)
                os.kill(relay.pid, signal.SIGINT)
                assert relay.wait(timeout=60) == 0
            finally:
                relay.kill()
                server.hold.set()
    with Spool(spool) as left:
        assert "u@a.example" in {recipient.address for entry in left.list() for recipient in entry.job.recipients}
