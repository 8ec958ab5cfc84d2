"""``smtpcore queue``: what operators and scripts see of a spool, and what they can do to it.

What lives here: the command on spools that were filled for it. What does not: sending and relaying.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smtpcore import Envelope, MailOptions, MailSource, XForward
from smtpcore.drivers.cli import run
from smtpcore.drivers.spool import Spool

from .servers import Server

PROGRAM = [sys.executable, "-c", "from smtpcore.drivers.cli import main; main()"]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Mail 1: Anna to two domains, an hour old; mail 2: a bounce to one; mail 3: large, just accepted."""
    with Spool(tmp_path / "spool") as spool:
        now = time.time()
        header = b"Subject: caf\xc3\xa9 \x1b[2J\nX-Long: a\n b\n\nbody\n"
        mails = [
            (Envelope("anna@home.example", ("u@a.example", "v@b.example", "w@a.example")), [header], now - 3600),
            (Envelope("", ("anna@home.example",)), [b"\nno header\n"], now - 7300),
            (Envelope("Boris@Home.example", ("u@A.example",)), [b"Subject: large\n\n", b"x" * 70 + b"\n"] * 2000, now),
        ]
        for envelope, chunks, accepted_at in mails:
            spool.add([spool.prepare(envelope, chunks)], accepted_at)
    return tmp_path / "spool"


def out(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """What a command prints; it must succeed."""
    assert run(["queue", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def listed(capsys: pytest.CaptureFixture[str], spool: Path, *arguments: str) -> list[tuple[int, str]]:
    """Queue id and recipient of what ``queue list`` shows."""
    rows = [json.loads(line) for line in out(capsys, "list", "--json", "--spool", spool, *arguments)]
    return [(row["queue_id"], row["recipient"]) for row in rows]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            [],
            [(1, "u@a.example"), (1, "w@a.example"), (1, "v@b.example"), (2, "anna@home.example"), (3, "u@A.example")],
        ),
        (["3"], [(3, "u@A.example")]),
        (["2", "3"], [(2, "anna@home.example"), (3, "u@A.example")]),
        (["--sender", "boris@home.example"], [(3, "u@A.example")]),
        (["--sender", ""], [(2, "anna@home.example")]),
        (["--sender", "*@home.example", "--domain", "b.example"], [(1, "v@b.example")]),
        (["--recipient", "u@*"], [(1, "u@a.example"), (1, "w@a.example"), (3, "u@A.example")]),
        (["--domain", "a.example"], [(1, "u@a.example"), (1, "w@a.example"), (3, "u@A.example")]),
        (["--domain", "example"], []),
        (["--older-than", "2h"], [(2, "anna@home.example")]),
        (["--older-than", "1800", "--sender", "anna*"], [(1, "u@a.example"), (1, "w@a.example"), (1, "v@b.example")]),
        (["--state", "deferred"], []),
        (["--state", "active", "--state", "waiting", "2"], [(2, "anna@home.example")]),
    ],
)
def test_filters(
    arguments: list[str], expected: list[tuple[int, str]], spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys, spool, *arguments) == expected


def test_lines_for_people_and_for_scripts(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *_ = out(capsys, "list", "--spool", spool)
    assert first == "1 <anna@home.example> -> <u@a.example> 44 octets, 0 attempts, due now"
    row = json.loads(out(capsys, "list", "--json", "--spool", spool, 2)[0])
    assert 7300 <= row.pop("age") < 7400
    assert row.pop("due_in") < 0
    assert row == {
        "queue_id": 2,
        "sender": "",
        "recipient": "anna@home.example",
        "size": 13,
        "domain": "home.example",
        "state": "waiting",
        "attempts": 0,
        "held": False,
        "problem": None,
        "last_words": "",
    }


def test_a_mail_is_shown_whole(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(capsys, "show", "--spool", spool, 1)
    assert lines[0] == "mail 1 from <anna@home.example>, 44 octets"
    assert lines[1].endswith(", 1h 0m ago")
    assert lines[2] == "  to a.example: waiting, 0 attempts"
    assert lines[4:7] == [
        "    <u@a.example>: not tried yet",
        "    <w@a.example>: not tried yet",
        "  to b.example: waiting, 0 attempts",
    ]
    assert lines[-4:] == ["  header:", "    Subject: café \\x1b[2J", "    X-Long: a", "     b"]


def test_a_mail_is_shown_whole_to_scripts(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = out(capsys, "show", "--json", "--spool", spool, 3)
    shown = json.loads(line)
    (job,) = shown.pop("jobs")
    assert shown.pop("accepted").endswith("Z")
    assert shown == {
        "queue_id": 3,
        "sender": "Boris@Home.example",
        "size": 180_000,
        "options": {},
        "header": ["Subject: large"],
    }
    assert job["recipients"] == [{"recipient": "u@A.example", "last_words": "", "warned": False, "options": {}}]
    assert (job["domain"], job["state"]) == ("a.example", "waiting")


def test_a_mail_without_a_header(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "show", "--spool", spool, 2)[-1] == "  header:"


def test_what_is_asked_for_a_mail_is_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = tmp_path / "message.eml"
    message.write_bytes(b"Subject: gr\xc3\xb6\xc3\x9fe\n\nx\n")
    spool = tmp_path / "spool"
    flags = ["--notify", "success,Delay", "--ret", "hdrs", "--envid", "QQ 314", "--require-tls", "--priority", "4"]
    late = ["--deliver-by", "2h", "--if-late", "notify", "--smtputf8", "--binary"]
    command = ["add", "--spool", spool, "--from", "größe@bücher.example", "--to", "u@a.example", "--to", "v@b.example"]
    assert out(capsys, *command, *flags, *late, message) == ["1"]
    shown = json.loads(*out(capsys, "show", "--json", "--spool", spool, 1))
    assert shown["options"] == {
        "body": "BINARYMIME",
        "smtputf8": True,
        "ret": "HDRS",
        "envid": "QQ 314",
        "requiretls": True,
        "by": "7200s, then notify",
        "priority": 4,
    }
    wishes = [recipient["options"] for job in shown["jobs"] for recipient in job["recipients"]]
    assert wishes == [{"notify": "SUCCESS,DELAY"}] * 2
    lines = out(capsys, "show", "--spool", spool, 1)
    assert lines[2:9] == [
        "  body: BINARYMIME",
        "  smtputf8: True",
        "  ret: HDRS",
        "  envid: QQ 314",
        "  requiretls: True",
        "  by: 7200s, then notify",
        "  priority: 4",
    ]
    assert lines.count("      notify: SUCCESS,DELAY") == 2


def test_the_client_that_a_mail_came_from_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spike = XForward(name="spike.example", address="192.0.2.1", source=MailSource.REMOTE)
    with Spool(tmp_path / "spool") as spool:
        envelope = Envelope("", ("u@a.example",), options=MailOptions(forwarded=spike))
        spool.add([spool.prepare(envelope, b"Subject: x\r\n")], 0.0)
    assert "  xforward: NAME=spike.example ADDR=192.0.2.1 SOURCE=REMOTE" in out(
        capsys, "show", "--spool", tmp_path / "spool", 1
    )


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--notify", "never,delay"], 64, "NEVER stands alone"),
        (["--notify", "sometimes"], 64, "'sometimes' is not never, or some of success, failure and delay"),
        (["--ret", "half"], 64, "'half' is not one of"),
        (["--if-late", "notify"], 64, "--if-late needs --deliver-by"),
        (["--deliver-by", "0"], 64, "out of range"),
        (["--priority", "10"], 65, "a priority (RFC 6710 §3)"),
        (["--envid", "ä"], 65, "an envelope identifier is printable ASCII"),
    ],
)
def test_what_may_not_be_asked_is_not_queued(
    flags: list[str], status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "message.eml").write_bytes(b"x\n")
    command = ["queue", "add", "--spool", str(tmp_path / "spool"), "--from", "", "--to", "u@a.example", *flags]
    assert run([*command, str(tmp_path / "message.eml")]) == status
    assert words in capsys.readouterr().err
    with Spool(tmp_path / "spool") as spool:
        assert len(spool) == 0


def test_the_spool_may_be_named_by_the_environment(
    spool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMTPCORE_SPOOL", str(spool))
    assert len(out(capsys, "list")) == 5


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["show"], 64, "say which mails"),
        (["hold"], 64, "say which mails"),
        (["remove", "--all", "1"], 64, "say which mails"),
        (["retry", "1", "7"], 66, "there is no mail 7 in the queue"),
        (["list", "x"], 64, "not a valid integer"),
        (["list", "--older-than", "soon"], 64, "'soon' is not a number with a unit"),
        (["list", "--older-than", "0"], 64, "out of range"),
        (["list", "--state", "lost"], 64, "'lost' is not one of"),
        (["show", "7"], 66, "smtpcore: there is no mail 7 in the queue"),
    ],
)
def test_what_makes_no_sense(
    arguments: list[str], status: int, words: str, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["queue", *arguments, "--spool", str(spool)]) == status
    assert words in capsys.readouterr().err


def test_a_spool_that_may_not_be_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A name that is too long is refused by the system whoever asks, as a directory of others is for most.
    assert run(["queue", "list", "--spool", str(tmp_path / ("x" * 300))]) == 66
    assert capsys.readouterr().err.endswith("x: File name too long\n")


@pytest.mark.parametrize("command", ["list", "show", "hold", "release", "retry", "remove"])
def test_a_filter_that_nothing_fits_is_said_and_is_no_error(
    command: str, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["queue", command, "--spool", str(spool), "--sender", "nobody@*"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "no mail in the queue fits\n")


def states(capsys: pytest.CaptureFixture[str], spool: Path) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in out(capsys, "list", "--json", "--spool", spool)]
    return list(dict.fromkeys((row["queue_id"], row["state"]) for row in rows))


def test_mails_are_held_released_and_removed(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "hold", "--spool", spool, "--recipient", "v@*") == ["1 held"]
    assert states(capsys, spool) == [(1, "held"), (2, "waiting"), (3, "waiting")]
    assert out(capsys, "list", "--spool", spool, "--domain", "b.example")[0].endswith(" 0 attempts, held")
    assert "  to b.example: held, 0 attempts" in out(capsys, "show", "--spool", spool, 1)
    assert listed(capsys, spool, "--state", "held", "--domain", "b.example") == [(1, "v@b.example")]
    assert out(capsys, "hold", "--spool", spool, "--all") == ["1 held", "2 held", "3 held"]
    lines = out(capsys, "release", "--json", "--spool", spool, 2, 3)
    assert [json.loads(line) for line in lines] == [
        {"queue_id": 2, "action": "release"},
        {"queue_id": 3, "action": "release"},
    ]
    assert states(capsys, spool) == [(1, "held"), (2, "waiting"), (3, "waiting")]
    assert out(capsys, "remove", "--spool", spool, "--state", "waiting", "--sender", "boris*") == ["3 removed"]
    assert states(capsys, spool) == [(1, "held"), (2, "waiting")]
    assert out(capsys, "remove", "--spool", spool, "--older-than", "3h") == []
    assert out(capsys, "remove", "--spool", spool, "--all") == ["1 removed", "2 removed"]
    assert states(capsys, spool) == []


def test_what_is_held_is_not_relayed_and_what_is_retried_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = f"later-{tmp_path.name}@a.example"
    directory = tmp_path / "spool"
    with Spool(directory) as spool:
        for recipient in ("u@a.example", later):
            spool.add([spool.prepare(Envelope("", (recipient,)), [b"hi\n"])], time.time())
    with Server() as server:
        relay = ["relay", "--quiet", "--once", "--spool", str(directory), "--smarthost", f"127.0.0.1:{server.port}"]
        out(capsys, "hold", "--spool", directory, 1)
        assert run(relay) == 0
        assert states(capsys, directory) == [(1, "held"), (2, "deferred")]
        assert "450 4.7.1" in out(capsys, "show", "--spool", directory, 2)[4]
        assert out(capsys, "retry", "--spool", directory, "--state", "deferred") == ["2 to be tried now"]
        out(capsys, "release", "--spool", directory, 1)
        assert run(relay) == 0
        assert sorted(taken[1][0] for taken in server.taken) == [later, "u@a.example"]
    assert states(capsys, directory) == []


def test_a_relay_at_work_takes_the_wish_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "spool"
    later = f"later-{tmp_path.name}@a.example"
    with Spool(directory) as spool, Server() as server:
        spool.add([spool.prepare(Envelope("", (later,)), [b"hi\n"])], time.time())
        arguments = ["relay", "--quiet", "--spool", str(directory), "--smarthost", f"127.0.0.1:{server.port}"]
        with subprocess.Popen([*PROGRAM, *arguments]) as relay:
            try:
                while states(capsys, directory) != [(1, "deferred")]:
                    assert relay.poll() is None
                out(capsys, "hold", "--spool", directory, "--state", "deferred")
                while states(capsys, directory) != [(1, "held")]:
                    assert relay.poll() is None
                out(capsys, "release", "--spool", directory, 1)
                out(capsys, "retry", "--spool", directory, 1)
                while states(capsys, directory):
                    assert relay.poll() is None
                assert [taken[1] for taken in server.taken] == [[later]]
                relay.terminate()
                assert relay.wait(timeout=30) == 0
            finally:
                relay.kill()


def test_a_damaged_mail_is_shown_with_what_is_wrong_and_keeps_nobody_else(
    spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = sqlite3.connect(spool / "spool.db")
    with database:
        database.execute("UPDATE job SET recipients = 'nonsense' WHERE mail_id = 1")
        database.execute("UPDATE mail SET accepted_at = 1e300 WHERE mail_id = 2")
    database.close()
    for path in (spool / "bodies").iterdir():
        path.unlink()
    rows = [json.loads(line) for line in out(capsys, "list", "--json", "--spool", spool)]
    assert [(row["queue_id"], row["state"]) for row in rows[:2]] == [(1, "set-aside"), (1, "set-aside")]
    assert rows[0]["problem"]
    assert listed(capsys, spool, "--state", "set-aside")[0] == (1, "")
    assert any(line.startswith("1 <") and rows[0]["problem"] in line for line in out(capsys, "list", "--spool", spool))
    lines = out(capsys, "show", "--spool", spool, "1", "2", "3")
    assert f"    {rows[0]['problem']}" in lines
    assert lines[-1] == "    (the body is gone from the spool)"
    assert out(capsys, "remove", "--spool", spool, "--state", "set-aside")[0] == "1 removed"


@pytest.mark.parametrize(("closed", "status"), [("> /dev/full", 74), ("2> /dev/full", 0), (">&-", 0), (">&- 2>&-", 0)])
def test_output_that_cannot_be_written_is_no_traceback(spool: Path, closed: str, status: int) -> None:
    with Spool(spool) as opened:
        opened.add([opened.prepare(Envelope("", ("you@far.example",)), [b"x\n"])], time.time())
    command = f"{shlex.join([*PROGRAM, 'queue', 'list', '--spool', str(spool)])} {closed}"
    ended = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == status
    assert ended.stderr == ("smtpcore: the output cannot be written: No space left on device\n" if status else "")


def test_a_reader_that_has_seen_enough_is_no_error(spool: Path) -> None:
    with Spool(spool) as opened:
        recipients = tuple(f"u{number}@d{number}.example" for number in range(5000))
        opened.add([opened.prepare(Envelope("", recipients), [b"x\n"])], time.time())
    with subprocess.Popen(
        [*PROGRAM, "queue", "list", "--json", "--spool", str(spool)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["queue_id"] == 1
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=60) == 0
