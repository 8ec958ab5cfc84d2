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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "interop"))

from postfix import Sink, on_processor, program, sink_missing, wait_until  # noqa: E402
from relays import RELAYS, Relay, source_command  # noqa: E402
from senders import SENDERS, Spent  # noqa: E402

MAIL_OCTETS = 1024
RELAY_OCTETS = 4096
SMTP_SOURCE = "smtp-source"


# --- one session ----------------------------------------------------------------------------------------------------


def run_python(name: str, port: int, mails: int) -> Spent:
    """One of the senders in a process of its own."""
    command = [sys.executable, str(HERE / "senders.py"), name, str(port), str(mails), str(MAIL_OCTETS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Spent(**json.loads(done.stdout))


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
        for placement, (sender, receiver) in placements().items():
            for name in _rotated(list(runs), number):
                with Sink(processor=receiver) as sink, on_processor(sender):
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


# --- relays ---------------------------------------------------------------------------------------------------------


def measure_relays(rounds: int, mails: int, disk: Path) -> dict[str, list[Spent]]:
    measured: dict[str, list[Spent]] = {}
    for number in range(rounds):
        for name in _rotated(list(RELAYS), number):
            missing = RELAYS[name].missing()
            if missing is not None:
                _progress(f"{name} is left out: {missing}")
                continue
            measured.setdefault(name, []).append(drain(RELAYS[name], mails, disk))
            _progress(f"round {number + 1} of {rounds}, relay: {name}")
    return measured


def drain(relay_class: type[Relay], mails: int, disk: Path) -> Spent:
    """Fill the queue of one relay, let go, and wait until the sink has all."""
    with tempfile.TemporaryDirectory(dir=disk, prefix="smtpcore-benchmark-") as folder, Sink(counting=True) as sink:
        os.chmod(folder, 0o755)
        relay = relay_class(Path(folder), sink.port)
        try:
            relay.fill(mails, RELAY_OCTETS)
            os.sync()
            cpu, began = relay.cpu_seconds(), time.perf_counter()
            relay.drain()
            wait_until(lambda: sink.counts().messages >= mails, f"{mails} mails at the sink", seconds=600)
            return Spent(time.perf_counter() - began, relay.cpu_seconds() - cpu)
        finally:
            relay.stop()


def show_relays(measured: dict[str, list[Spent]], mails: int, disk: Path) -> None:
    if not measured:
        return
    rows = {name: _median(spent) for name, spent in measured.items()}
    peers = _peers(rows)
    table = [["", "mails/s", "wall ms", "CPU us/mail", *(f"x {peer}" for peer in peers)]]
    for name, spent in rows.items():
        ratios = [f"{rows[peer].wall / spent.wall:.2f}" for peer in peers]
        cpu = f"{spent.cpu / mails * 1e6:.0f}"
        table.append([name, f"{mails / spent.wall:,.0f}", f"{spent.wall * 1e3:.0f}", cpu, *ratios])
    _show(f"Relay, from a filled queue in {disk} to smtp-sink, {mails:,} mails of {RELAY_OCTETS:,} octets", table)


# --- tables ---------------------------------------------------------------------------------------------------------


def _median(spent: Sequence[Spent]) -> Spent:
    """Each median for itself."""
    return Spent(*(statistics.median(values) for values in zip(*spent, strict=True)))


def _peers(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("smtpcore")]


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="how often everything is run; medians are shown (default: 7)")
    parser.add_argument("--messages", type=int, help="mails per session (default: 5000)")
    parser.add_argument("--relay-messages", type=int, help="mails per relay run (default: 2000)")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="where the queues are put")
    parser.add_argument("--only", choices=["sessions", "relays"], help="leave the other group out")
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
    sessions = {} if options.only == "relays" else measure_sessions(rounds, mails)
    relays = {} if options.only == "sessions" else measure_relays(rounds, relay_mails, options.disk)
    print(f"{python}, {os.cpu_count()} processors, medians of {rounds}; ratios are mails per second against each peer")
    if sessions:
        show_sessions(sessions, mails)
    show_relays(relays, relay_mails, options.disk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
