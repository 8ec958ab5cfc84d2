"""A relay inside a program: blocks, submissions and their fates, callbacks, the ways to leave.

What lives here: what a program that embeds a relay can count on, with every service. What does not: relaying itself
(``test_service``).
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
import sniffio

from smtpcore.drivers.service import RelayService, RelayStopped
from smtpcore.drivers.spool import Spool, SpoolUnusable
from smtpcore.relay import Attempted, Fate, FateKind, Forget, RelaySettings, Schedule, SmartHost
from smtpcore.testing.peer import Line, Peer

from .relays import PATIENCE, Kind, failing_to, wait_until
from .servers import Server


def submit(relay: Any, *recipients: str, sender: str = "") -> Any:
    return relay.submit(b"Subject: hi\n\nhi\n", sender=sender, recipients=recipients or ["u@a.example"])


# --- fates ------------------------------------------------------------------------------------------------------------


def test_fates_are_waited_for(kind: Kind, server: Server, spool: Spool) -> None:
    with kind.make(spool, server.port) as relay:
        submission = submit(relay, "u@a.example", "later@a.example", "nobody@b.example")
        fates = submission.fates(PATIENCE)
    assert sorted((fate.recipient, fate.kind) for fate in fates) == [
        ("later@a.example", FateKind.DELIVERED),
        ("nobody@b.example", FateKind.DISCARDED),
        ("u@a.example", FateKind.DELIVERED),
    ]
    assert {fate.mail_id for fate in fates} == {submission.queue_id}
    assert fates[-1].recipient == "later@a.example"


def test_what_a_session_may_not_bring_is_brought_by_others_at_once(kind: Kind, spool: Spool) -> None:
    """A server that takes one mail in a session, to two recipients (RFC 9422); a deferral would take an hour."""
    script = functools.partial(Line.serve, extensions=("LIMITS MAILMAX=1 RCPTMAX=2",))
    schedule = Schedule(delays=(3600.0,))
    with Peer(*[script] * 4) as peer, kind.make(spool, peer.port, schedule=schedule) as relay:
        fates = submit(relay, *[f"u{number}@{'ab'[number % 2]}.example" for number in range(8)]).fates(PATIENCE)
    assert [fate.kind for fate in fates] == [FateKind.DELIVERED] * 8
    assert [line.heard.count(b"RCPT TO:") for line in peer.lines] == [2] * 4
    assert all(b"QUIT" in line.heard for line in peer.lines)


@pytest.mark.parametrize(("limits", "sessions"), [("MAILMAX=1 RCPTMAX=1", 4), ("RCPTDOMAINMAX=1", 3)])
def test_whom_a_server_puts_off_for_ever_keeps_nobody_from_being_named(
    kind: Kind, spool: Spool, limits: str, sessions: int
) -> None:
    """A server that takes few recipients in a session, and the first of them never; a deferral would take an hour."""
    script = functools.partial(
        Line.serve, extensions=(f"LIMITS {limits}",), replies={"RCPT TO:<never": "450 4.2.0 not now"}
    )
    schedule = Schedule(delays=(3600.0,))
    with Peer(*[script] * sessions) as peer, kind.make(spool, peer.port, schedule=schedule) as relay:
        submit(relay, "never@a.example", "u1@b.example", "u2@c.example", "u3@c.example")
        wait_until(lambda: [to.address for entry in spool.list() for to in entry.job.recipients] == ["never@a.example"])
    assert sum(line.heard.count(b"RCPT TO:<u") for line in peer.lines) == 3
    assert sum(line.heard.count(b"RCPT TO:<never") for line in peer.lines) == 1


def test_fates_come_one_by_one(kind: Kind, server: Server, spool: Spool) -> None:
    with kind.make(spool, server.port) as relay:
        following = iter(submit(relay, "u@a.example", "later@a.example"))
        assert next(following).recipient == "u@a.example"
        assert next(following).recipient == "later@a.example"
        with pytest.raises(StopIteration):
            next(following)


def test_a_fate_that_was_known_before_one_asks_is_told_again_and_again(
    kind: Kind, server: Server, spool: Spool
) -> None:
    with kind.make(spool, server.port) as relay:
        submission = submit(relay)
        wait_until(lambda: not len(spool))
        assert submission.fates(PATIENCE) == submission.fates(PATIENCE)
    assert [fate.kind for fate in submission.fates(PATIENCE)] == [FateKind.DELIVERED]


def test_a_mail_submitted_before_the_relay_runs_has_its_fate_told(kind: Kind, server: Server, spool: Spool) -> None:
    relay = kind.make(spool, server.port)
    submission = submit(relay)
    relay.run(once=True)
    assert [fate.kind for fate in submission.fates(PATIENCE)] == [FateKind.DELIVERED]


def test_nothing_is_kept_of_a_submission_that_was_let_go(kind: Kind, server: Server, spool: Spool) -> None:
    told: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=told)
    held, let_go = submit(relay), submit(relay)
    gone = weakref.ref(getattr(let_go, "_inner", let_go))
    del let_go
    # The worker thread that made it may hold it for a moment more.
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    relay.run(once=True)
    assert [fate.mail_id for fate in held.fates(PATIENCE)] == [held.queue_id]
    assert len(told) == 2


def test_waiting_ends_when_the_relay_does(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    with kind.make(spool, server.port, grace=0.0) as relay:
        submission = submit(relay)
        assert server.holding.wait(PATIENCE)
    with pytest.raises(RelayStopped, match=f"mail {submission.queue_id} waits in the spool"):
        submission.fates(PATIENCE)
    assert len(spool) == 1


def test_waiting_has_a_bound(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    with kind.make(spool, server.port, grace=0.0) as relay:
        submission = submit(relay)
        with pytest.raises(TimeoutError):
            submission.fates(0.05)
        server.hold.set()
        assert len(submission.fates(PATIENCE)) == 1


def test_every_recipient_is_called_back_once(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    with kind.make(spool, server.port, notes=notes) as relay:
        submissions = [submit(relay, f"u{n}@a.example", f"nobody{n}@b.example") for n in range(20)]
        for submission in submissions:
            submission.fates(PATIENCE)
    told = sorted((note.mail_id, note.recipient) for note in notes if isinstance(note, Fate))
    assert told == sorted((s.queue_id, recipient) for s in submissions for recipient in s.recipients)


def test_a_callback_that_fails_harms_nobody(
    kind: Kind, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    def notice(event: Fate) -> None:
        raise ZeroDivisionError(event.recipient)

    with kind.make(spool, server.port, notice=notice) as relay:
        for number in range(3):
            assert [fate.kind for fate in submit(relay, f"u{number}@a.example").fates(PATIENCE)] == [FateKind.DELIVERED]
    logged = [record for record in caplog.records if record.exc_info]
    assert sorted(str(record.exc_info and record.exc_info[1]) for record in logged) == [
        "u0@a.example",
        "u1@a.example",
        "u2@a.example",
    ]


def test_a_callback_may_submit_and_stop(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []

    def notice(event: Fate) -> None:
        notes.append(event)
        relay.stop()

    relay = kind.make(spool, server.port, notice=notice)
    with relay:
        submit(relay).fates(PATIENCE)
        wait_until(lambda: notes)
    assert len(spool) == 0


def test_async_callbacks_come_on_the_event_loop(server: Server, spool: Spool) -> None:
    libraries: list[str] = []
    settings = RelaySettings(reporting_mta="relay.example")

    def notice(_: object) -> None:
        libraries.append(sniffio.current_async_library())

    async def main() -> None:
        route = SmartHost("127.0.0.1", server.port)
        async with RelayService(spool, route, settings, notice=notice) as relay:
            await (await relay.submit(b"hi\n", sender="", recipients="u@a.example")).fates()

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)
    assert libraries == ["asyncio", "trio"]


# --- many at once -----------------------------------------------------------------------------------------------------


def test_mails_submitted_at_once_share_commits_and_none_is_lost(kind: Kind, server: Server, spool: Spool) -> None:
    submissions: list[Any] = []
    with kind.make(spool, server.port) as relay:

        def fill(name: str) -> None:
            submissions.extend(submit(relay, f"{name}{number}@a.example") for number in range(10))

        callers = [threading.Thread(target=fill, args=(name,)) for name in "abcdefgh"]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        for submission in submissions:
            assert [fate.kind for fate in submission.fates(PATIENCE)] == [FateKind.DELIVERED]
    assert len({submission.queue_id for submission in submissions}) == 80
    taken = sorted(recipient for _, recipients, _ in server.taken for recipient in recipients)
    assert taken == sorted(f"{name}{number}@a.example" for name in "abcdefgh" for number in range(10))


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_leaving_lets_what_is_on_its_way_finish(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    with kind.make(spool, server.port, grace=30.0) as relay:
        submit(relay)
        assert server.holding.wait(PATIENCE)
        threading.Timer(0.1, server.hold.set).start()
    assert len(spool) == 0
    assert len(server.taken) == 1


def test_leaving_breaks_off_what_hangs_and_all_waits_in_the_spool(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    with kind.make(spool, server.port, grace=0.1, sessions_per_next_hop=1) as relay:
        for number in range(5):
            submit(relay, f"u{number}@a.example")
        assert server.holding.wait(PATIENCE)
    entries = list(spool.list())
    assert len(entries) == 5
    assert not any(entry.active for entry in entries)
    assert sum("shutting down" in entry.job.recipients[0].last_words for entry in entries) == 1


def test_an_error_of_the_block_passes_as_it_is(kind: Kind, server: Server, spool: Spool) -> None:
    with pytest.raises(ZeroDivisionError), kind.make(spool, server.port) as relay:  # noqa: PT012  # the block as a whole raises
        submit(relay).fates(PATIENCE)
        raise ZeroDivisionError
    assert len(spool) == 0


def test_who_is_interrupted_does_not_wait(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    relay = kind.make(spool, server.port, grace=1e6)
    with pytest.raises(KeyboardInterrupt), relay:  # noqa: PT012  # the block as a whole raises
        submit(relay)
        assert server.holding.wait(PATIENCE)
        raise KeyboardInterrupt
    (entry,) = spool.list()
    assert not entry.active


def test_after_the_block_nothing_is_accepted(kind: Kind, server: Server, spool: Spool) -> None:
    with kind.make(spool, server.port) as relay:
        pass
    with pytest.raises(RelayStopped, match="nothing was accepted"):
        submit(relay)
    with pytest.raises(RelayStopped, match="nothing was accepted"):
        relay.submit(b"large\n" * 50_000, sender="", recipients="u@a.example")
    assert len(spool) == 0
    assert list((spool.directory / "bodies").iterdir()) == []


def test_what_stops_the_relay_reaches_the_user_of_the_block(
    kind: Kind, server: Server, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "execute", failing_to(Forget))
    done: list[bool] = []
    with pytest.raises(SpoolUnusable, match="full"), kind.make(spool, server.port) as relay:  # noqa: PT012  # the block as a whole raises
        submission = submit(relay)
        with pytest.raises(SpoolUnusable, match="full"):
            submission.fates(PATIENCE)
        with pytest.raises(SpoolUnusable, match="full"):
            submit(relay)
        # The block itself goes on.
        done.append(True)
    assert done
    assert len(spool) == 1


def test_an_error_of_the_block_comes_before_that_of_the_relay(
    kind: Kind, server: Server, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "execute", failing_to(Forget))
    with pytest.raises(ZeroDivisionError), kind.make(spool, server.port) as relay:  # noqa: PT012  # the block as a whole raises
        with pytest.raises(SpoolUnusable):
            submit(relay).fates(PATIENCE)
        raise ZeroDivisionError


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_block_that_is_cancelled_breaks_off(backend: str, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()

    async def main() -> None:
        settings = RelaySettings(reporting_mta="relay.example")
        with anyio.CancelScope() as scope:
            async with RelayService(spool, SmartHost("127.0.0.1", server.port), settings, grace=1e6) as relay:
                await relay.submit(b"hi\n", sender="", recipients="u@a.example")
                await anyio.to_thread.run_sync(server.holding.wait)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    (entry,) = spool.list()
    assert not entry.active
    assert "shutting down" in entry.job.recipients[0].last_words


# --- processes --------------------------------------------------------------------------------------------------------

#: A program that never stops its relay: ``forgets`` it, ``waits`` for SIGTERM, or ``runs`` it as its main business.
PROGRAM = """
import signal, sys, threading
from smtpcore.drivers.spool import Spool
from smtpcore.drivers.threads import RelayService
from smtpcore.relay import RelaySettings, SmartHost

directory, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
settings = RelaySettings(reporting_mta="relay.example")
spool = Spool(directory)
relay = RelayService(spool, SmartHost("127.0.0.1", port), settings, grace=0.2)
signal.signal(signal.SIGTERM, lambda *_: relay.stop())
relay.submit(b"hi\\n", sender="", recipients="u@a.example")
if how == "runs":
    print("ready", flush=True)
    relay.run()
else:
    relay.__enter__()
    sys.stdin.readline()
print("ended", flush=True)
"""


@pytest.mark.parametrize("how", ["forgets", "runs"])
def test_a_process_that_ends_leaves_a_clean_spool(how: str, server: Server, tmp_path: Path) -> None:
    server.hold = threading.Event()
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "spool"), str(server.port), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert server.holding.wait(PATIENCE)
            if how == "runs":
                os.kill(process.pid, signal.SIGTERM)
                told = ""
            else:
                told = "go\n"
            printed, _ = process.communicate(told, timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert printed.endswith("ended\n")
    with Spool(tmp_path / "spool") as spool:
        (entry,) = spool.list()
    assert not entry.active
    assert entry.job.attempts == 1
    assert "shutting down" in entry.job.recipients[0].last_words
