"""The benchmarks: our drivers and relay beside their peers, interleaved in one run, medians and ratios in one table.

What lives here: the rounds, the processors, the clock, the tables. What does not: how each contestant does its work
(`senders.py`, `relays.py`), and the servers (`tests/interop/postfix.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.far import far_away
from benchmarks.receiver import receiver
from benchmarks.relays import RELAYS, Relay, source_command
from benchmarks.senders import LARGE, MANY_SESSIONS, SENDERS, WITHIN_TLS, Spent, message
from tests.interop.postfix import Sink, on_processor, program, sink_missing, wait_until

HERE = Path(__file__).parent
MAIL_OCTETS = 1024
RELAY_OCTETS = 4096
LARGE_OCTETS = 200 * 2**20
SESSIONS = 100
#: Seconds there and back to the peer that is far away.
ROUND_TRIP = 0.020
SMTP_SOURCE = "smtp-source"


class Large(NamedTuple):
    """Seconds for one large mail, and the most memory that was held, in octets."""

    wall: float
    cpu: float
    memory: int


# --- one session ----------------------------------------------------------------------------------------------------


def run_python(name: str, port: int, mails: int) -> Spent:
    """One of the senders in a process of its own."""
    return _python("session", name, port, mails, MAIL_OCTETS)[0]


def _python(kind: str, name: str, port: int, *what: object) -> tuple[Spent, int]:
    """What a sender in a process of its own spent, and the most memory that the process held, in octets."""
    command = [sys.executable, str(HERE / "senders.py"), kind, name, str(port), *map(str, what)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Spent(**json.loads(said)), usage.ru_maxrss * 1024


def _program(*command: str) -> tuple[Spent, int]:
    """The same of a program that is no Python, its start included."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Spent(time.perf_counter() - began, usage.ru_utime + usage.ru_stime), usage.ru_maxrss * 1024


def run_source(port: int, mails: int) -> Spent:
    """`smtp-source`, timed from outside: what ``mails`` take more than one mail, which is its start and its end."""
    return Spent(*(all_of - one for all_of, one in zip(_source(port, mails), _source(port, 1), strict=True)))


def _source(port: int, mails: int) -> Spent:
    command = source_command(port, mails, MAIL_OCTETS, sessions=1)
    before, began = _children_cpu(), time.perf_counter()
    subprocess.run(command, check=True)
    return Spent(time.perf_counter() - began, _children_cpu() - before)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def contestants() -> dict[str, Callable[[int, int], Spent]]:
    """The senders by name."""
    python = {name: (lambda port, mails, name=name: run_python(name, port, mails)) for name in SENDERS}
    return {SMTP_SOURCE: run_source, **python}


def placements() -> dict[str, tuple[int, int]]:
    """Which processors the sender and the sink are pinned to."""
    first, *others = sorted(os.sched_getaffinity(0))
    both = {"the same processor": (first, first)}
    return {**both, "different processors": (first, others[0])} if others else both


def measure_sessions(rounds: int, mails: int) -> dict[tuple[str, str], list[Spent]]:
    """Every sender with every placement, once a round, in rotating order: nobody always has the same neighbour."""
    runs = contestants()
    measured: dict[tuple[str, str], list[Spent]] = {}
    for number in range(rounds):
        for placement, (sender, sink_processor) in placements().items():
            for name in _rotated(list(runs), number):
                with Sink(processor=sink_processor) as sink, on_processor(sender):
                    measured.setdefault((placement, name), []).append(runs[name](sink.port, mails))
                _progress(f"round {number + 1} of {rounds}, {placement}: {name}")
    return measured


def show_sessions(measured: dict[tuple[str, str], list[Spent]], mails: int) -> None:
    peers = _peers(contestants())
    for placement in placements():
        rows = {name: _median(spent) for (where, name), spent in measured.items() if where == placement}
        table = [["", "mails/s", "wall us/mail", "CPU us/mail", *(f"x {peer}" for peer in peers)]]
        for name, spent in sorted(rows.items(), key=lambda row: row[1].wall, reverse=True):
            ratios = [f"{rows[peer].wall / spent.wall:.2f}" for peer in peers]
            per_mail = [f"{seconds / mails * 1e6:.1f}" for seconds in spent]
            table.append([name, f"{mails / spent.wall:,.0f}", *per_mail, *ratios])
        title = f"One session to smtp-sink, {mails:,} mails of {MAIL_OCTETS:,} octets, sender and sink on {placement}"
        _show(title, table)


# --- far away -------------------------------------------------------------------------------------------------------


def measure_far(rounds: int, mails: int) -> dict[str, list[Spent]]:
    """Every sender over one session with a peer that is ``ROUND_TRIP`` seconds away."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    runs = contestants()
    measured: dict[str, list[Spent]] = {}
    for number in range(rounds):
        for name in _rotated(list(runs), number):
            with Sink(processor=last) as sink, far_away(sink.port, ROUND_TRIP, last) as port, on_processor(first):
                measured.setdefault(name, []).append(runs[name](port, mails))
            _progress(f"round {number + 1} of {rounds}, far away: {name}")
    return measured


def show_far(measured: dict[str, list[Spent]], mails: int) -> None:
    table = [["", "mails/s", "round trips/mail", "CPU us/mail"]]
    for name, spent in _slowest_first(measured):
        trips = f"{spent.wall / mails / ROUND_TRIP:.2f}"
        table.append([name, f"{mails / spent.wall:,.1f}", trips, f"{spent.cpu / mails * 1e6:.1f}"])
    _show(f"One session to a peer {ROUND_TRIP * 1e3:.0f} ms away, {mails:,} mails of {MAIL_OCTETS:,} octets", table)


# --- chunks, and TLS ------------------------------------------------------------------------------------------------


def measure_chunks(rounds: int, mails: int, round_trip: float = 0.0) -> dict[str, list[tuple[Spent, int]]]:
    """Every sender over one session with a receiver that takes chunks, and with how many mails."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    runs = contestants()
    measured: dict[str, list[tuple[Spent, int]]] = {}
    for number in range(rounds):
        for name in _rotated(list(runs), number):
            # Far away, one that waits for each reply would take all day.
            count = mails if not round_trip or "across" in name else max(10, mails // 50)
            # smtp-source sends one mail more, and has a message of its own.
            expected, sent = (None, count + 1) if name == SMTP_SOURCE else (message(MAIL_OCTETS), count)
            with ExitStack() as stack:
                port = stack.enter_context(receiver(expected, sent, last))
                if round_trip:
                    port = stack.enter_context(far_away(port, round_trip, last))
                stack.enter_context(on_processor(first))
                measured.setdefault(name, []).append((runs[name](port, count), count))
            where = f"chunks, {round_trip * 1e3:.0f} ms away" if round_trip else "chunks"
            _progress(f"round {number + 1} of {rounds}, {where}: {name}")
    return measured


def show_chunks(measured: dict[str, list[tuple[Spent, int]]], round_trip: float = 0.0) -> None:
    each = {
        name: [Spent(spent.wall / count, spent.cpu / count) for spent, count in runs] for name, runs in measured.items()
    }
    where = f"{round_trip * 1e3:.0f} ms away" if round_trip else "on another processor"
    _show(
        f"One session to a receiver that takes chunks and compares octets, {where}, mails of {MAIL_OCTETS:,} octets",
        _per_mail(each),
    )


def measure_tls(rounds: int, mails: int) -> dict[str, list[Spent]]:
    """TLS from the first octet, with a receiver that takes chunks."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    measured: dict[str, list[Spent]] = {}
    for number in range(rounds):
        for name in _rotated(list(WITHIN_TLS), number):
            with receiver(message(MAIL_OCTETS), mails, last, tls=True) as port, on_processor(first):
                spent = _python("tls", name, port, mails, MAIL_OCTETS)[0]
            measured.setdefault(name, []).append(Spent(spent.wall / mails, spent.cpu / mails))
            _progress(f"round {number + 1} of {rounds}, TLS: {name}")
    return measured


def show_tls(measured: dict[str, list[Spent]]) -> None:
    title = f"One session within TLS to a receiver on another processor, mails of {MAIL_OCTETS:,} octets"
    _show(title, _per_mail(measured))


def _per_mail(measured: dict[str, list[Spent]]) -> list[list[str]]:
    """A table of senders; what they spent is for each mail."""
    rows = dict(_slowest_first(measured))
    peers = _peers(rows)
    table = [["", "mails/s", "wall us/mail", "CPU us/mail", *(f"x {peer}" for peer in peers)]]
    for name, spent in rows.items():
        ratios = [f"{rows[peer].wall / spent.wall:.2f}" for peer in peers]
        table.append([name, f"{1 / spent.wall:,.0f}", *(f"{seconds * 1e6:.1f}" for seconds in spent), *ratios])
    return table


# --- many sessions --------------------------------------------------------------------------------------------------


def measure_many(rounds: int, mails: int) -> dict[str, list[Spent]]:
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))

    def source(port: int) -> Spent:
        return _program(*source_command(port, mails, MAIL_OCTETS, sessions=SESSIONS))[0]

    def python(name: str) -> Callable[[int], Spent]:
        return lambda port: _python("sessions", name, port, mails, MAIL_OCTETS, SESSIONS)[0]

    runs = {SMTP_SOURCE: source, **{name: python(name) for name in MANY_SESSIONS}}
    measured: dict[str, list[Spent]] = {}
    for number in range(rounds):
        for name in _rotated(list(runs), number):
            with Sink(processor=last) as sink, on_processor(first):
                measured.setdefault(name, []).append(runs[name](sink.port))
            _progress(f"round {number + 1} of {rounds}, {SESSIONS} sessions: {name}")
    return measured


def show_many(measured: dict[str, list[Spent]], mails: int) -> None:
    rows = dict(_slowest_first(measured))
    peers = _peers(rows)
    table = [["", "mails/s", "CPU us/mail", *(f"x {peer}" for peer in peers)]]
    for name, spent in rows.items():
        ratios = [f"{rows[peer].wall / spent.wall:.2f}" for peer in peers]
        table.append([name, f"{mails / spent.wall:,.0f}", f"{spent.cpu / mails * 1e6:.1f}", *ratios])
    _show(f"{SESSIONS} sessions at once to smtp-sink, {mails:,} mails of {MAIL_OCTETS:,} octets in all", table)


# --- one large mail -------------------------------------------------------------------------------------------------


def measure_large(rounds: int, octets: int, disk: Path, *, chunks: bool = False) -> dict[str, list[Large]]:
    """One mail of ``octets`` out of a file that is in the page cache, to smtp-sink or to a receiver of ``chunks``."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    measured: dict[str, list[Large]] = {}
    with tempfile.NamedTemporaryFile(dir=disk, prefix="smtpcore-benchmark-") as file:
        line = b"x" * 70 + b"\r\n"
        file.write(b"Subject: large\r\n\r\n")
        # Piece by piece: what this process holds would be counted for those that it starts.
        for _ in range(octets // 2**20):
            file.write(line * (2**20 // len(line)))
        file.flush()
        runs = _large_runs(Path(file.name), octets)
        for number in range(rounds):
            for name in _rotated(list(runs), number):
                with ExitStack() as stack:
                    if chunks:
                        expected = None if name == SMTP_SOURCE else Path(file.name)
                        port = stack.enter_context(receiver(expected, 1, last))
                    else:
                        port = stack.enter_context(Sink(processor=last)).port
                    stack.enter_context(on_processor(first))
                    spent, memory = runs[name](port)
                measured.setdefault(name, []).append(Large(spent.wall, spent.cpu, memory))
                _progress(f"round {number + 1} of {rounds}, one large mail: {name}")
    return measured


def _large_runs(path: Path, octets: int) -> dict[str, Callable[[int], tuple[Spent, int]]]:
    def source(port: int) -> tuple[Spent, int]:
        return _program(*source_command(port, 1, octets, sessions=1))

    def curl(port: int) -> tuple[Spent, int]:
        addresses = ["--mail-from", "a@elsewhere.example", "--mail-rcpt", "b@interop.example"]
        return _program("curl", "--silent", f"smtp://127.0.0.1:{port}", *addresses, "--upload-file", str(path))

    def python(name: str) -> Callable[[int], tuple[Spent, int]]:
        return lambda port: _python("large", name, port, path)

    others = {"curl": curl} if shutil.which("curl") else {}
    return {SMTP_SOURCE: source, **others, **{name: python(name) for name in LARGE}}


def show_large(measured: dict[str, list[Large]], octets: int, *, chunks: bool = False) -> None:
    table = [["", "MB/s", "CPU s", "peak memory MiB"]]
    for name, runs in measured.items():
        wall, cpu, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        table.append([name, f"{octets / wall / 1e6:,.0f}", f"{cpu:.2f}", f"{memory / 2**20:,.0f}"])
    where = "a receiver that takes chunks and compares octets" if chunks else "smtp-sink"
    _show(f"One mail of {octets / 2**20:,.0f} MiB out of a file to {where}, on different processors", table)


# --- relays ---------------------------------------------------------------------------------------------------------


def measure_relays(rounds: int, mails: int, disk: Path, round_trip: float = 0.0) -> dict[str, list[Spent]]:
    measured: dict[str, list[Spent]] = {}
    for number in range(rounds):
        for name in _rotated(list(RELAYS), number):
            missing = RELAYS[name].missing()
            if missing is not None:
                _progress(f"{name} is left out: {missing}")
                continue
            measured.setdefault(name, []).append(drain(RELAYS[name], mails, disk, round_trip))
            _progress(f"round {number + 1} of {rounds}, relay: {name}")
    return measured


def drain(relay_class: type[Relay], mails: int, disk: Path, round_trip: float) -> Spent:
    """Fill the queue of one relay, let go, and wait until the sink has all."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=disk, prefix="smtpcore-benchmark-"))
        sink = stack.enter_context(Sink(counting=True))
        port = sink.port
        if round_trip:
            port = stack.enter_context(far_away(port, round_trip, max(os.sched_getaffinity(0))))
        os.chmod(folder, 0o755)
        relay = relay_class(Path(folder), port)
        try:
            relay.fill(mails, RELAY_OCTETS)
            os.sync()
            cpu, began = relay.cpu_seconds(), time.perf_counter()
            relay.drain()
            wait_until(lambda: sink.counts().messages >= mails, f"{mails} mails at the sink", seconds=600)
            return Spent(time.perf_counter() - began, relay.cpu_seconds() - cpu)
        finally:
            relay.stop()


def show_relays(measured: dict[str, list[Spent]], mails: int, disk: Path, round_trip: float = 0.0) -> None:
    if not measured:
        return
    rows = {name: _median(spent) for name, spent in measured.items()}
    peers = _peers(rows)
    table = [["", "mails/s", "wall ms", "CPU us/mail", *(f"x {peer}" for peer in peers)]]
    for name, spent in rows.items():
        ratios = [f"{rows[peer].wall / spent.wall:.2f}" for peer in peers]
        cpu = f"{spent.cpu / mails * 1e6:.0f}"
        table.append([name, f"{mails / spent.wall:,.0f}", f"{spent.wall * 1e3:.0f}", cpu, *ratios])
    sink = f"smtp-sink, {round_trip * 1e3:.0f} ms there and back" if round_trip else "smtp-sink"
    _show(f"Relay, from a filled queue in {disk} to {sink}, {mails:,} mails of {RELAY_OCTETS:,} octets", table)


# --- tables ---------------------------------------------------------------------------------------------------------


def _median(spent: Sequence[Spent]) -> Spent:
    """Each median for itself."""
    return Spent(*(statistics.median(values) for values in zip(*spent, strict=True)))


def _peers(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("smtpcore")]


def _slowest_first(measured: dict[str, list[Spent]]) -> list[tuple[str, Spent]]:
    rows = [(name, _median(spent)) for name, spent in measured.items()]
    return sorted(rows, key=lambda row: row[1].wall, reverse=True)


def _rotated(names: list[str], by: int) -> Iterable[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(title: str, table: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"\n{title}\n")
    for row in table:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join([f"{first.strip():<{widths[0]}}", *others]))


GROUPS = ("session", "far", "chunks", "far chunks", "tls", "many", "large", "large chunks", "relay", "far relay")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="how often everything is run; medians are shown (default: 7)")
    parser.add_argument("--messages", type=int, help="mails per session (default: 5000)")
    parser.add_argument("--relay-messages", type=int, help="mails per relay run (default: 2000)")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="where the queues are put")
    parser.add_argument("--only", choices=GROUPS, action="append", help="leave the other groups out; may be repeated")
    parser.add_argument("--quick", action="store_true", help="1 round of 500 mails: whether it works, not how fast")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 7)
    mails = options.messages or (500 if options.quick else 5_000)
    relay_mails = options.relay_messages or (200 if options.quick else 2_000)

    missing = sink_missing() or (None if program(SMTP_SOURCE) else f"{SMTP_SOURCE} is missing (it comes with Postfix)")
    if missing is not None:
        _progress(f"The benchmarks cannot run: {missing}.")
        return 1
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, {os.cpu_count()} processors, medians of {rounds}; ratios are mails per second against each peer")
    large = 2**20 if options.quick else LARGE_OCTETS
    far = 10 if options.quick else 100
    groups: dict[str, Callable[[], None]] = {
        "session": lambda: show_sessions(measure_sessions(rounds, mails), mails),
        "far": lambda: show_far(measure_far(rounds, far), far),
        "chunks": lambda: show_chunks(measure_chunks(rounds, mails)),
        "far chunks": lambda: show_chunks(measure_chunks(rounds, mails, ROUND_TRIP), ROUND_TRIP),
        "tls": lambda: show_tls(measure_tls(rounds, mails)),
        "many": lambda: show_many(measure_many(rounds, mails), mails),
        "large": lambda: show_large(measure_large(rounds, large, options.disk), large),
        "large chunks": lambda: show_large(measure_large(rounds, large, options.disk, chunks=True), large, chunks=True),
        "relay": lambda: show_relays(measure_relays(rounds, relay_mails, options.disk), relay_mails, options.disk),
        "far relay": lambda: show_relays(
            measure_relays(rounds, relay_mails, options.disk, ROUND_TRIP), relay_mails, options.disk, ROUND_TRIP
        ),
    }
    for group in options.only or GROUPS:
        groups[group]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
