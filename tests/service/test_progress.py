"""The live view of a relay: what is drawn, and the real command on a real terminal.

What lives here: counts and destinations in, text out. What does not: relaying, but for the one relay on a terminal.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smtpcore import Envelope
from smtpcore.drivers.progress import Progress
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, DestinationView, Fate, FateKind, NextHop

from .servers import Server

SUMMARY = r"1 delivered, 0 bounced, 0 expired, 1 discarded.*; {} deferrals"
PROGRAM = "import sys; from smtpcore.drivers.cli import run; sys.exit(run(sys.argv[1:]))"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Relay:
    def __init__(self, *destinations: DestinationView) -> None:
        self.destinations = destinations


def seen(host: str, **given: Any) -> DestinationView:
    nothing = {"waiting": 0, "on_their_way": 0, "sessions": 0, "resting_until": None, "answered": 0, "last_words": ""}
    return DestinationView(next_hop=NextHop(host, 25), **{**nothing, **given})


def view(*, height: int = 24, terminal: bool = True) -> tuple[Progress, Console, Clock]:
    clock = Clock()
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=120, height=height, color_system=None, legacy_windows=False
    )
    return Progress(console=console, clock=clock, now=clock), console, clock


def drawn(progress: Progress, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(progress)
    return [line.rstrip() for line in captured.get().splitlines()]


def delivered(count: int = 1) -> list[Fate]:
    return [Fate(1, "u@a.example", FateKind.DELIVERED, "250 taken")] * count


def test_fates_are_counted_with_their_rates() -> None:
    progress, console, clock = view()
    for fate in delivered(100):
        progress.notice(fate)
    clock.seconds += 10
    assert drawn(progress, console)[0].split()[: len(FateKind)] == [kind.value for kind in FateKind]
    counts = ["100", *["0"] * (len(FateKind) - 1)]
    assert drawn(progress, console)[1].split() == [*counts, "0", "10", "10", "0:10"]
    for fate in delivered(1900):
        progress.notice(fate)
    clock.seconds += 10
    assert drawn(progress, console)[1].split()[:1] == ["2,000"]
    assert drawn(progress, console)[1].split()[-3:] == ["190", "100", "0:20"]
    clock.seconds += 3600
    assert drawn(progress, console)[1].split()[-3:] == ["0", "1", "1:00:20"]
    assert progress.summary.startswith("2000 delivered, 0 bounced")


def test_the_last_words_are_those_of_who_did_not_take_a_mail() -> None:
    progress, console, _ = view()
    progress.notice(Attempted(1, "v@b.example", 1, 2000.0, "450 [red]later[/red]", in_doubt=False))
    for fate in delivered():
        progress.notice(fate)
    assert drawn(progress, console)[-1] == "v@b.example: 450 [red]later[/red]"
    progress.notice(Fate(2, "w@c.example", FateKind.BOUNCED, "550 no"))
    assert drawn(progress, console)[-1] == "w@c.example: 550 no"
    assert progress.summary.startswith("1 delivered, 1 bounced, 0 expired, 0 discarded")
    assert progress.summary.endswith("; 1 deferrals")


def test_the_busiest_destinations_are_shown_and_the_others_counted() -> None:
    progress, console, clock = view(height=10)
    hops = [seen(f"h{number}.example", waiting=number) for number in range(50)]
    busy = seen("busy.example", waiting=3, sessions=2, on_their_way=7, last_words="250 [b]ok[/b]")
    rests = seen("resting.example", waiting=900, resting_until=clock.seconds + 90, last_words="x" * 500)
    with progress.shown(Relay(*hops, busy, rests)):
        pass
    lines = drawn(progress, console)
    assert [line.split() for line in lines[3:7]] == [
        ["busy.example:25", "3", "7", "2", "0", "250", "[b]ok[/b]"],
        ["resting.example:25", "900", "0", "0", "0", "rests", "for", "1:30", lines[4].split()[-1]],
        ["h49.example:25", "49", "0", "0", "0"],
        ["and", "49", "more"],
    ]
    assert lines[4].endswith("xxx\u2026")
    assert len(lines) <= 10


def test_each_destination_has_its_rate() -> None:
    progress, console, clock = view()
    relay = Relay(seen("a.example", answered=1000), seen("b.example"))
    with progress.shown(relay):
        pass
    drawn(progress, console)
    clock.seconds += 10
    relay.destinations = (seen("a.example", answered=1050), seen("b.example", answered=20))
    assert [line.split()[:5] for line in drawn(progress, console)[3:5]] == [
        ["a.example:25", "0", "0", "0", "5"],
        ["b.example:25", "0", "0", "0", "2"],
    ]
    clock.seconds += 1
    relay.destinations = (seen("a.example", answered=3),)
    assert drawn(progress, console)[3].split()[4] == "0"


def test_a_look_that_takes_its_time_is_not_taken_often() -> None:
    progress, console, clock = view()

    class Slow:
        looks = 0

        @property
        def destinations(self) -> tuple[DestinationView, ...]:
            self.looks += 1
            clock.seconds += 0.1
            return ()

    slow = Slow()
    with progress.shown(slow):
        pass
    for _ in range(50):
        drawn(progress, console)
        clock.seconds += 0.25
    assert slow.looks == 3


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    progress, console, _ = view(terminal=False)
    with progress.shown(Relay()):
        assert not progress.live
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def on_a_terminal(command: list[str], until: str) -> tuple[int, str, str]:
    """Run a command with its errors on a terminal until a pattern shows: status, seen by then, seen after."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES", "CI", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=theirs, env=environment) as child:
        os.close(theirs)
        try:
            seen = ""
            while not re.search(until, seen):
                seen += os.read(ours, 65_536).decode("utf-8", "replace")
            child.send_signal(signal.SIGTERM)
            after = ""
            while piece := read(ours):
                after += piece
            return child.wait(timeout=30), seen, after
        finally:
            child.kill()
            os.close(ours)


def read(terminal: int) -> str:
    try:
        return os.read(terminal, 65_536).decode("utf-8", "replace")
    except OSError:
        # What Linux says of a terminal whose other side has gone.
        return ""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    with Spool(tmp_path / "spool") as spool:
        recipients = ("u@a.example", "nobody@a.example")
        spool.add([spool.prepare(Envelope("", recipients), [b"Subject: hi\n\nhi\n"])], 1.0)
    return tmp_path / "spool"


def test_the_view_lives_on_a_real_terminal(spool: Path) -> None:
    with Server() as server:
        address = f"127.0.0.1:{server.port}"
        command = [sys.executable, "-c", PROGRAM, "relay", "--spool", str(spool), "--smarthost", address]
        status, seen, after = on_a_terminal(command, r"1 +0 +0 +1 +0 ")
    assert status == 0
    assert re.search(rf"{address} +0 +0 +1 .*550 5.1.1", seen + after)
    assert "nobody@a.example: 550 5.1.1" in seen + after
    assert "level=info" not in seen + after
    assert re.search(SUMMARY.format(0) + r"\s*$", after)


def test_a_quiet_relay_shows_nothing(spool: Path) -> None:
    with Server() as server:
        arguments = ["relay", "--quiet", "--once", "--spool", str(spool), "--smarthost", f"127.0.0.1:{server.port}"]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    assert (done.stdout, done.stderr) == ("", "")
