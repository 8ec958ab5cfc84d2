"""The spool on a real disk: what was acknowledged is there, whole, whatever happens to the processes around it."""

from __future__ import annotations

import email
import email.policy
import hashlib
import importlib.util
import itertools
import math
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import (
    ConnectFailed,
    Envelope,
    LocalProtocolError,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    Reply,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.drivers.spool import Prepared, Spool, SpoolError, SpoolLocked, SpoolUnusable
from smtpcore.relay import (
    Bounce,
    Claim,
    CloseSession,
    Continue,
    DelayWarning,
    DomainsLoaded,
    Fact,
    Failure,
    Forget,
    Job,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    OpenSession,
    Orders,
    PendingRecipient,
    Relay,
    RelaySettings,
    Reported,
    Save,
    Schedule,
    SessionEnded,
    SmartHost,
)

NOW = 1_800_000_000.0
FAR = NOW + 1_000_000.0
LARGE = 200_000
SETTINGS = RelaySettings(
    reporting_mta="relay.example",
    schedule=Schedule(delays=(300.0, 3600.0), give_up_after=20_000.0, warn_after=4000.0, spread=0.0),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    """A spool that a relay holds."""
    with Spool(directory) as opened:
        opened.lock()
        yield opened


def add(
    spool: Spool, *recipients: str, sender: str = "me@home.example", body: bytes = b"hello", now: float = NOW
) -> MailAccepted:
    envelope = Envelope(sender, recipients or ("you@far.example",))
    (accepted,) = spool.add([spool.prepare(envelope, [body])], now)
    return accepted


def octets(spool: Spool, mail_id: int) -> bytes:
    body = spool.open_body(mail_id)
    if isinstance(body, bytes):
        return body
    with body:
        return body.read()


def perform(spool: Spool, *durable: object) -> tuple[Fact, ...]:
    return spool.execute(Orders(tuple(durable)), SETTINGS, NOW).facts  # type: ignore[arg-type]  # whatever orders a test has


def look(spool: Spool, until: float = NOW, limit: int = 100, known: tuple[str, ...] = ()) -> DomainsLoaded:
    order = LoadDomains(until, FAR, limit, known)
    (fact,) = spool.execute(Orders((), (order,)), SETTINGS, NOW).facts
    assert isinstance(fact, DomainsLoaded)
    return fact


def load(
    spool: Spool, domain: str = "far.example", until: float = NOW, limit: int = 100, known: tuple[int, ...] = ()
) -> JobsLoaded:
    (fact,) = spool.execute(Orders((), (Load(domain, until, FAR, limit, known),)), SETTINGS, NOW).facts
    assert isinstance(fact, JobsLoaded)
    return fact


def jobs(spool: Spool) -> list[Job]:
    return [entry.job for entry in spool.list()]


def body_files(directory: Path) -> list[Path]:
    return sorted((directory / "bodies").iterdir())


# --- intake -----------------------------------------------------------------------------------------------------------


def test_what_was_added_is_there_for_whoever_opens_the_spool(directory: Path) -> None:
    with Spool(directory) as first:
        accepted = add(first, "a@one.example", "b@two.example", "c@one.example")
    with Spool(directory) as second:
        (one, two) = second.list()
        assert octets(second, accepted.mail.mail_id) == b"hello\r\n"
        assert len(second) == 1
    assert one.mail == two.mail == accepted.mail
    assert (one.job, two.job) == accepted.jobs
    assert [r.address for r in one.job.recipients] == ["a@one.example", "c@one.example"]
    assert not one.active


@pytest.mark.parametrize("size", [0, 2, 65_535, 65_536, 65_537, 500_000])
def test_a_body_of_any_size_comes_back_as_it_was(spool: Spool, directory: Path, size: int) -> None:
    body = b"x" * (size - 2) + b"\r\n" if size else b""
    mail = add(spool, body=body).mail
    assert mail.size == size
    assert octets(spool, mail.mail_id) == body
    assert bool(body_files(directory)) == (size > 65_536)


@given(st.lists(st.text("ab.é\r\n", max_size=8).map(str.encode), max_size=8))
def test_a_body_is_made_canonical_once_and_measured(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    whole = b"".join(chunks)
    lines = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    expected = b"".join(line + b"\r\n" for line in lines)
    with Spool(tmp_path_factory.mktemp("spool")) as spool:
        (accepted,) = spool.add([spool.prepare(Envelope("", ("you@far.example",)), chunks)], NOW)
        assert octets(spool, accepted.mail.mail_id) == expected
    assert accepted.mail.size == len(expected)
    assert accepted.mail.eight_bit == (not expected.isascii())
    assert accepted.mail.leading_dots == any(line.startswith(b".") for line in lines)


def test_nobody_else_may_read_it(directory: Path) -> None:
    with Spool(directory) as spool:
        add(spool, body=b"x" * LARGE)
        for path in (directory, directory / "bodies"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for path in (*directory.glob("spool.db*"), *body_files(directory)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_source_that_breaks_leaves_nothing_behind(spool: Spool, directory: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * LARGE
        raise ConnectionResetError("the source is gone")

    with pytest.raises(ConnectionResetError):
        spool.prepare(Envelope("", ("you@far.example",)), broken())
    assert not body_files(directory)
    assert not len(spool)


def test_an_envelope_beyond_the_limits_is_refused_before_the_body_is_read(spool: Spool) -> None:
    envelope = Envelope("", ("a" * 300 + "@far.example",))
    with pytest.raises(LocalProtocolError):
        spool.prepare(envelope, iter(lambda: pytest.fail("the body was read"), b""))


def test_several_mails_are_one_transaction(spool: Spool) -> None:
    prepared = [spool.prepare(Envelope("", (f"user{n}@far.example",)), [b"x"]) for n in range(10)]
    accepted = spool.add(prepared, NOW)
    assert len({fact.mail.mail_id for fact in accepted}) == len(spool) == 10


@pytest.mark.parametrize(
    "now", ["now", None, b"1", True, math.nan, math.inf, -math.inf, pytest.param(10**400, id="no float")]
)
def test_nothing_is_accepted_at_a_time_that_is_none(spool: Spool, now: Any) -> None:
    prepared = spool.prepare(Envelope("", ("you@far.example",)), [b"x" * LARGE])
    with pytest.raises(LocalProtocolError, match="the time of acceptance must be a finite number of seconds"):
        spool.add([prepared], now)
    assert not len(spool)
    assert not body_files(spool.directory)


@pytest.mark.parametrize("body", ["text", 5, ["text"], [5], [b"x" * LARGE, "text"]])
def test_a_body_is_octets(spool: Spool, body: Any) -> None:
    with pytest.raises(LocalProtocolError, match="bytes"):
        spool.prepare(Envelope("", ("you@far.example",)), body)
    assert not body_files(spool.directory)


@pytest.mark.parametrize("body", [bytearray(b"x\r\n"), memoryview(b"x\r\n")])
def test_octets_of_another_type_are_a_body_too(spool: Spool, body: Any) -> None:
    (accepted,) = spool.add([spool.prepare(Envelope("", ("you@far.example",)), body)], NOW)
    assert spool.open_body(accepted.mail.mail_id) == b"x\r\n"


def test_what_is_no_envelope_is_told_and_not_shown(spool: Spool) -> None:
    with pytest.raises(LocalProtocolError, match="an Envelope says where a mail goes, not a bytes") as caught:
        spool.prepare(b"hunter2", b"x")  # type: ignore[arg-type]  # a wrong kind, on purpose
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda prepared: prepared, "not: one"),
        (lambda prepared: [prepared, b"x"], "not: bytes"),
        (lambda prepared: None, "not: NoneType"),
        (lambda prepared: "ab", "not: str"),
    ],
)
def test_what_is_added_was_prepared(spool: Spool, make: Callable[[Prepared], Any], words: str) -> None:
    prepared = spool.prepare(Envelope("", ("you@far.example",)), [b"x" * LARGE])
    with pytest.raises(LocalProtocolError, match=f"add takes a list of what prepare gave, {words}"):
        spool.add(make(prepared), NOW)
    assert not len(spool)
    prepared.body.discard()
    assert not body_files(spool.directory)


def test_a_mail_that_is_not_added_whole_is_not_added(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(recipients: tuple[str, ...], **_: object) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield "far.example", recipients
        raise KeyboardInterrupt

    prepared = spool.prepare(Envelope("", ("you@far.example",)), [b"x" * LARGE])
    with monkeypatch.context() as patched:
        patched.setattr("smtpcore.drivers.spool.recipients_by_domain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spool.add([prepared], NOW)
    assert not len(spool)
    assert not jobs(spool)
    assert not body_files(spool.directory)
    add(spool)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_due_jobs_come_oldest_first_and_only_so_many(spool: Spool) -> None:
    ages = [5, 1, 3, 2, 4]
    for age in ages:
        add(spool, f"user{age}@far.example", now=NOW - age)
    some = load(spool, limit=3)
    assert [job.due_at for job in some.jobs] == [NOW - 5, NOW - 4, NOW - 3]
    assert {mail.mail_id for mail in some.mails} == {job.mail_id for job in some.jobs}
    assert not some.complete
    assert load(spool, limit=5).complete


def test_jobs_that_are_known_are_not_read_again(spool: Spool) -> None:
    here = [add(spool, f"user{number}@far.example", now=NOW - 10).jobs[0].job_id for number in range(3)]
    new = add(spool, "user3@far.example").jobs[0].job_id
    beyond = add(spool, "user4@far.example", now=2 * FAR).jobs[0].job_id
    fact = load(spool, limit=1, known=tuple(here))
    assert [job.job_id for job in fact.jobs] == [new]
    assert not fact.complete, "what lies beyond all schedules is due as well"
    fact = load(spool, limit=1, known=(*here, new))
    assert [job.job_id for job in fact.jobs] == [beyond]
    assert fact.complete
    assert load(spool, known=(*here, new, beyond)) == JobsLoaded("far.example", (), (), complete=True)


def test_a_load_brings_the_siblings_of_its_mails(spool: Spool) -> None:
    accepted = add(spool, "a@one.example", "b@two.example", "c@three.example")
    add(spool, "d@two.example")
    later = next(job for job in accepted.jobs if job.domain == "three.example")
    perform(spool, Save(replace(later, due_at=NOW + 60.0)))
    fact = load(spool, "one.example", limit=1)
    assert sorted(job.domain for job in fact.jobs) == ["one.example", "two.example"]
    assert {job.mail_id for job in fact.jobs} == {accepted.mail.mail_id}


def test_domains_come_the_longest_due_first_and_without_those_that_are_known(spool: Spool) -> None:
    for age, domain in ((1, "one.example"), (3, "three.example"), (2, "two.example")):
        add(spool, f"user@{domain}", now=NOW - age)
    add(spool, "user@tomorrow.example", now=NOW + 86_400.0)
    fact = look(spool)
    assert fact == DomainsLoaded(("three.example", "two.example", "one.example"), True, NOW + 86_400.0)
    assert look(spool, limit=2).domains == ("three.example", "two.example")
    assert not look(spool, limit=2).complete
    assert look(spool, known=("three.example", "one.example")).domains == ("two.example",)


@pytest.mark.parametrize("known", [(), ("busy.example",)])
def test_domains_behind_a_long_queue_are_found(spool: Spool, known: tuple[str, ...]) -> None:
    busy = Envelope("me@near.example", ("you@busy.example",))
    spool.add([spool.prepare(busy, [b"hello"]) for _ in range(3000)], NOW - 10.0)
    for number, domain in enumerate(("c.example", "a.example", "b.example")):
        add(spool, f"you@{domain}", now=NOW - 5.0 + number)
    expected = tuple(d for d in ("busy.example", "c.example", "a.example", "b.example") if d not in known)
    assert look(spool, known=known) == DomainsLoaded(expected, complete=True, next_due=None)
    assert look(spool, known=known, limit=2) == DomainsLoaded(expected[:2], complete=False, next_due=None)
    assert look(spool, known=expected) == DomainsLoaded(
        tuple({"busy.example"} - set(expected)), complete=True, next_due=None
    )


def test_a_list_is_read_by_pages_and_can_be_of_some_mails(spool: Spool) -> None:
    many = tuple(f"you@d{number}.example" for number in range(700))
    mails = [add(spool, *many).mail.mail_id for _ in range(3)]
    found = [(entry.mail.mail_id, entry.job.domain) for entry in spool.list()]
    assert len(set(found)) == len(found) == 2100
    assert [mail_id for mail_id, _ in found] == sorted(mails * 700)
    assert {entry.mail.mail_id for entry in spool.list([mails[2], mails[0], 77])} == {mails[0], mails[2]}
    assert list(spool.list([])) == []
    # Whoever reads keeps nobody from writing.
    reading = spool.list()
    first = next(reading)
    late = add(spool, "late@far.example").mail.mail_id
    assert [first.mail.mail_id, *(entry.mail.mail_id for entry in reading)].count(late) == 1


def test_a_job_beyond_the_horizon_is_due(spool: Spool) -> None:
    add(spool, now=FAR + 5.0)
    assert look(spool).domains == ("far.example",)
    assert len(load(spool).jobs) == 1


# --- recording --------------------------------------------------------------------------------------------------------


def test_a_claim_hides_a_job_from_this_relay_and_not_from_the_next(directory: Path) -> None:
    with Spool(directory) as spool:
        spool.lock()
        (job,) = add(spool).jobs
        claimed = replace(job, attempts=1)
        perform(spool, Claim(claimed))
        assert not look(spool).domains
        assert not load(spool).jobs
        assert [entry.active for entry in spool.list()] == [True]
    with Spool(directory) as spool:
        spool.lock()
        assert load(spool).jobs == (claimed,)


def test_saving_gives_a_job_free_with_all_that_is_known(spool: Spool) -> None:
    (job,) = add(spool).jobs
    words = "451 4.3.0 'später' \\ \"/ \x00 \ud800 \u2028"
    recipient = PendingRecipient("b@far.example", words, warned=True)
    saved = replace(job, attempts=3, due_at=NOW + 0.125, recipients=(recipient,))
    perform(spool, Claim(job))
    perform(spool, Save(saved))
    assert jobs(spool) == [saved]
    assert not load(spool).jobs
    assert load(spool, until=NOW + 1.0).jobs == (saved,)


def test_a_job_that_is_given_back_and_claimed_in_one_batch_stays_claimed(spool: Spool) -> None:
    (job,) = add(spool).jobs
    again = replace(job, attempts=1)
    perform(spool, Claim(again))
    perform(spool, Save(job), Claim(again))
    assert not load(spool).jobs
    assert jobs(spool) == [again]


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_mail_goes_with_its_last_job(spool: Spool, directory: Path, size: int) -> None:
    accepted = add(spool, "a@one.example", "b@two.example", body=b"x" * size)
    one, two = accepted.jobs
    perform(spool, Forget(one))
    assert octets(spool, accepted.mail.mail_id).startswith(b"x" * size)
    perform(spool, Forget(two))
    assert not len(spool)
    assert not body_files(directory)
    with pytest.raises(SpoolError):
        spool.open_body(accepted.mail.mail_id)


def test_queue_ids_are_never_used_again(spool: Spool) -> None:
    first = add(spool)
    perform(spool, Forget(first.jobs[0]))
    assert add(spool).mail.mail_id > first.mail.mail_id


def failure(recipient: str = "you@far.example") -> Failure:
    return Failure(
        recipient=recipient, status="5.1.1", diagnostic="550 no such user", reason="550 no such user", remote_host="mx"
    )


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_bounce_is_stored_in_the_batch_that_forgets_the_original(spool: Spool, directory: Path, size: int) -> None:
    accepted = add(spool, body=b"Subject: the original\r\n\r\n" + b"x" * size)
    (fact,) = perform(spool, Bounce(accepted.mail, (failure(),)), Forget(accepted.jobs[0]))
    assert isinstance(fact, MailAccepted)
    assert fact.mail.reverse_path == ""
    assert [r.address for job in fact.jobs for r in job.recipients] == ["me@home.example"]
    report = email.message_from_bytes(octets(spool, fact.mail.mail_id), policy=email.policy.SMTP)
    assert report.get_content_type() == "multipart/report"
    assert "the original" in report.as_string()
    assert fact.mail.size == len(octets(spool, fact.mail.mail_id))
    assert [entry.mail for entry in spool.list()] == [fact.mail]
    assert not body_files(directory)


def test_a_warning_leaves_the_original_where_it_is(spool: Spool) -> None:
    accepted = add(spool)
    (fact,) = perform(spool, DelayWarning(accepted.mail, (failure(),), FAR), Save(accepted.jobs[0]))
    assert isinstance(fact, MailAccepted)
    assert b"Action: delayed" in octets(spool, fact.mail.mail_id)
    assert len(spool) == 2


def test_a_batch_that_fails_leaves_no_trace(spool: Spool) -> None:
    kept, gone = add(spool), add(spool)
    perform(spool, Forget(gone.jobs[0]))
    before = jobs(spool)
    later = replace(kept.jobs[0], due_at=NOW + 60.0)
    with pytest.raises(SpoolError):
        perform(spool, Save(later), Bounce(kept.mail, (failure(),)), Bounce(gone.mail, (failure(),)))
    assert jobs(spool) == before
    assert len(spool) == 1


def test_the_bodies_of_a_batch_come_together_and_apart(spool: Spool) -> None:
    small, large = add(spool, "a@far.example"), add(spool, "b@far.example", body=b"y" * LARGE)
    relay = Relay(SETTINGS, SmartHost("smart.example"))
    orders = relay.handle([small, large], NOW)
    executed = spool.execute(orders, SETTINGS, NOW)
    opened = [effect.delivery for effect in orders.effects if isinstance(effect, OpenSession)]
    bodies: list[bytes | BinaryIO] = [executed.bodies[delivery.delivery_id] for delivery in opened]
    assert bodies[0] == b"hello\r\n"
    assert not isinstance(bodies[1], bytes)
    with bodies[1] as file:
        assert file.read() == b"y" * LARGE + b"\r\n"


# --- the lock, and other processes ------------------------------------------------------------------------------------

_HOLD = """
import sys
from smtpcore.drivers.spool import Spool
spool = Spool(sys.argv[1])
spool.lock()
print("locked", flush=True)
sys.stdin.read()
"""

_ADD = """
import hashlib, itertools, sys
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool
spool = Spool(sys.argv[1])
for number in itertools.count() if len(sys.argv) == 2 else range(int(sys.argv[2])):
    body = b"%d\\r\\n" % number * (1 + 40_000 * (number % 3))
    (fact,) = spool.add([spool.prepare(Envelope("", ("you@far.example",)), [body])], 1_800_000_000.0)
    print(fact.mail.mail_id, hashlib.sha256(body).hexdigest(), flush=True)
"""


def child(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[0]


def test_one_relay_at_a_time_and_the_other_is_told_who(directory: Path) -> None:
    holder = child(_HOLD, directory)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with Spool(directory) as second:
        with pytest.raises(SpoolLocked) as refused:
            second.lock()
        assert str(directory) in str(refused.value)
        assert str(holder.pid) in str(refused.value)
        assert refused.value.directory == directory
        # Whoever does not relay may add all the same.
        add(second)
        holder.kill()
        finish(holder)
        second.lock()


def test_within_one_process_there_is_one_relay_too(directory: Path) -> None:
    with Spool(directory) as first, Spool(directory) as second:
        first.lock()
        with pytest.raises(SpoolLocked):
            second.lock()


def test_a_relay_notices_what_others_add_and_not_its_own(spool: Spool, directory: Path) -> None:
    assert not spool.changed()
    add(spool)
    assert not spool.changed()
    finish(child(_ADD, directory, 3))
    assert spool.changed()
    assert not spool.changed()
    assert len(load(spool).jobs) == 4


def test_others_add_while_a_relay_records(spool: Spool, directory: Path) -> None:
    adding = [child(_ADD, directory, 30) for _ in range(3)]
    done = 0
    while done < 90:
        for job in load(spool, limit=10).jobs:
            perform(spool, Claim(job))
            perform(spool, Forget(job))
            done += 1
    printed = [finish(process).splitlines() for process in adding]
    assert sum(map(len, printed)) == 90
    assert not len(spool)
    assert not body_files(directory)


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize("acknowledged", [1, 5, 18, 40])
def test_what_was_acknowledged_survives_the_kill_of_its_process(directory: Path, acknowledged: int) -> None:
    process = child(_ADD, directory)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(acknowledged)]
    os.kill(process.pid, signal.SIGKILL)
    lines += finish(process).splitlines(keepends=True)
    promised = dict(line.split() for line in lines if line.endswith("\n"))
    assert len(promised) >= acknowledged
    with Spool(directory) as spool:
        spool.lock()
        found = {str(e.mail.mail_id): hashlib.sha256(octets(spool, e.mail.mail_id)).hexdigest() for e in spool.list()}
        large = sum(entry.mail.size > 65_536 for entry in spool.list())
    assert promised.items() <= found.items()
    # At most the mail on its way was committed without a word, and no body is left that no mail knows of.
    assert len(found) <= len(promised) + 1
    assert len(body_files(directory)) == large


def test_orphans_are_swept_and_what_is_being_written_is_not(directory: Path) -> None:
    with Spool(directory) as intake, Spool(directory) as relay:
        known = add(intake, body=b"k" * LARGE)
        for name in ("left-behind.tmp", "left-behind.eml"):
            (directory / "bodies" / name).write_bytes(b"half a bo")
        underway = intake.prepare(Envelope("", ("you@far.example",)), [b"u" * LARGE])
        relay.lock()
        assert len(body_files(directory)) == 2
        (accepted,) = intake.add([underway], NOW)
        assert octets(relay, accepted.mail.mail_id) == b"u" * LARGE + b"\r\n"
        assert octets(relay, known.mail.mail_id) == b"k" * LARGE + b"\r\n"


# --- what cannot be used ----------------------------------------------------------------------------------------------


def _later_version(directory: Path) -> None:
    Spool(directory).close()
    with sqlite3.connect(directory / "spool.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def _foreign(directory: Path) -> None:
    directory.mkdir()
    with sqlite3.connect(directory / "spool.db") as database:
        database.execute("CREATE TABLE bookmarks (url)")
    database.close()


def _garbage(directory: Path) -> None:
    directory.mkdir()
    (directory / "spool.db").write_bytes(b"this is no database\n" * 1000)


def _under_a_file(directory: Path) -> None:
    directory.parent.joinpath("spool").write_text("a file stands where the folder should be")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [(_later_version, "99"), (_foreign, "something else"), (_garbage, "damaged"), (_under_a_file, "")],
)
def test_what_is_no_spool_of_ours_is_refused_by_name(
    directory: Path, prepare: Callable[[Path], None], said: str
) -> None:
    prepare(directory)
    with pytest.raises(SpoolUnusable) as refused:
        Spool(directory)
    assert refused.value.directory == directory
    assert str(directory) in str(refused.value)
    assert said in refused.value.problem


def test_damage_that_is_met_later_is_told_as_such(directory: Path) -> None:
    with Spool(directory) as spool:
        for _ in range(200):
            add(spool, body=b"x" * 4000)
    path = directory / "spool.db"
    pages = bytearray(path.read_bytes())
    pages[8192:] = b"\xff" * (len(pages) - 8192)
    path.write_bytes(pages)
    with pytest.raises(SpoolUnusable), Spool(directory) as spool:
        list(spool.list())


_READ_ONLY = """
import os, sys
from smtpcore.drivers.spool import Spool, SpoolUnusable
if os.geteuid() == 0:
    os.setuid(65_534)
try:
    Spool(sys.argv[1])
except SpoolUnusable as error:
    print(error.directory)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX users")
def test_a_spool_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    Spool(directory).close()
    modes = {path: path.stat().st_mode for path in (tmp_path, directory, directory / "bodies", directory / "spool.db")}
    try:
        for path in modes:
            path.chmod(0o444 if path.is_file() else 0o555)
        assert finish(child(_READ_ONLY, directory)).strip() == str(directory)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


_UNTIL_FULL = """
import resource, sys
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool, SpoolUnusable
spool = Spool(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
try:
    while True:
        (fact,) = spool.add([spool.prepare(Envelope("", ("you@far.example",)), [b"x" * 20_000])], 1_800_000_000.0)
        print(fact.mail.mail_id, flush=True)
except SpoolUnusable:
    print("full")
"""


def test_a_disk_that_fills_up_costs_nothing_that_was_acknowledged(directory: Path) -> None:
    *promised, last = finish(child(_UNTIL_FULL, directory)).split()
    assert last == "full"
    assert promised
    with Spool(directory) as spool:
        found = {str(entry.mail.mail_id) for entry in spool.list()}
        assert set(promised) == found
        add(spool)


# --- the machine over this spool, and over the model of it ------------------------------------------------------------


def _world() -> ModuleType:
    """The simulation's pretend world, which has a model of a spool."""
    path = Path(__file__).parents[1] / "simulation" / "world.py"
    spec = importlib.util.spec_from_file_location("spool_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["spool_model"] = module
    spec.loader.exec_module(module)
    return module


class _Real:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spool = Spool(directory)
        self._spool.lock()

    def add(self, sender: str, recipients: tuple[str, ...], now: float) -> MailAccepted:
        return add(self._spool, *recipients, sender=sender, now=now)

    def execute(self, orders: Orders, now: float) -> list[Fact]:
        return list(self._spool.execute(orders, SETTINGS, now).facts)

    def restart(self) -> None:
        self._spool.close()
        self._spool = Spool(self._directory)
        self._spool.lock()

    def state(self) -> list[object]:
        return [_shown(entry.mail.reverse_path, entry.mail.accepted_at, entry.job) for entry in self._spool.list()]

    def close(self) -> None:
        self._spool.close()


class _Model:
    def __init__(self, model: ModuleType) -> None:
        self._spool = model.ModelSpool()
        self._spool.incarnation = 1

    def add(self, sender: str, recipients: tuple[str, ...], now: float) -> MailAccepted:
        accepted: MailAccepted = self._spool.add(Envelope(sender, recipients), now)
        return accepted

    def execute(self, orders: Orders, now: float) -> list[Fact]:
        facts: list[Fact] = self._spool.commit(orders, now)
        for effect in orders.effects:
            if isinstance(effect, LoadDomains):
                facts.append(self._spool.load_domains(effect))
            elif isinstance(effect, Load):
                facts.append(self._spool.load(effect))
        return facts

    def restart(self) -> None:
        self._spool.incarnation += 1

    def state(self) -> list[object]:
        mails = self._spool.mails
        return [
            _shown(mails[job.mail_id].reverse_path, mails[job.mail_id].accepted_at, job)
            for job in sorted(self._spool.jobs.values(), key=lambda job: (job.mail_id, job.job_id))
        ]


def _shown(reverse_path: str, accepted_at: float, job: Job) -> object:
    return reverse_path, round(accepted_at, 3), job.domain, round(job.due_at, 3), job.attempts, job.recipients


def _answer(recipient: str, attempts: int) -> Reply:
    if recipient.startswith("nobody"):
        return Reply(550, ("5.1.1 no such user",))
    if recipient.startswith("grey") and attempts < 3:
        return Reply(450, ("4.7.1 greylisted",))
    if recipient.startswith("full"):
        return Reply(452, ("4.2.2 full",))
    return Reply(250, ("taken",))


def _live(spool: _Real | _Model, seed: int) -> list[list[object]]:
    """The same script over any spool: all kinds of answers, a dead host, restarts; the state after each step."""
    chance = random.Random(seed)
    relay, now = Relay(SETTINGS, SmartHost("smart.example")), NOW
    facts: list[Fact] = []
    states: list[list[object]] = []
    work: list[OpenSession | Continue] = []
    for step in range(120):
        now += chance.choice((0.0, 1.0, 60.0, 400.0))
        if step < 60 and chance.random() < 0.5:
            kinds = [chance.choice(("user", "nobody", "grey", "full")) for _ in range(3)]
            names = tuple(f"{kind}{n}@d{chance.randint(0, 4)}.example" for n, kind in enumerate(kinds))
            facts.append(spool.add(chance.choice(("", "me@home.example")), names, now))
        dead = 30 <= step < 40
        for order in work:
            facts += [SessionEnded(order.session_id, ConnectFailed("dead"))] if dead else [_reported(order)]
        work = []
        if chance.random() < 0.05:
            spool.restart()
            relay, facts = Relay(SETTINGS, SmartHost("smart.example")), []
        orders = relay.handle(facts, now)
        facts = [_with_ties_in_order(fact) for fact in spool.execute(orders, now)]
        for effect in orders.effects:
            if isinstance(effect, (OpenSession, Continue)):
                work.append(effect)
            elif isinstance(effect, CloseSession):
                facts.append(SessionEnded(effect.session_id, None))
        states.append(spool.state())
    return states


def _with_ties_in_order(fact: Fact) -> Fact:
    """Which of two domains comes first that have been due equally long is nobody's promise."""
    return replace(fact, domains=tuple(sorted(fact.domains))) if isinstance(fact, DomainsLoaded) else fact


def _reported(order: OpenSession | Continue) -> Reported:
    delivery = order.delivery
    attempts = {r.address: job.attempts for job in delivery.jobs for r in job.recipients}
    replies = [(to, _answer(to, attempts[to])) for to in delivery.envelope.recipients]
    kinds = {2: Verdict.DELIVERED, 4: Verdict.LATER, 5: Verdict.NEVER}
    outcomes = tuple(Outcome(to, kinds[reply.code // 100], reply) for to, reply in replies)
    taken = next((reply for _, reply in replies if reply.positive), None)
    mail = Mail(delivery.envelope)
    if taken is None:
        return Reported(
            order.session_id, delivery.delivery_id, MailRefused(mail, outcomes, Stage.STARTED, Transcript())
        )
    return Reported(
        order.session_id, delivery.delivery_id, MailSent(mail, outcomes, taken, Stage.BODY_ENDED, Transcript())
    )


@pytest.mark.parametrize("seed", range(8))
def test_this_spool_and_its_model_live_the_same_life(tmp_path: Path, seed: int) -> None:
    real, model = _Real(tmp_path / "spool"), _Model(_world())
    try:
        ours, theirs = _live(real, seed), _live(model, seed)
    finally:
        real.close()
    for step, (found, expected) in enumerate(itertools.zip_longest(ours, theirs)):
        assert found == expected, f"apart from step {step} on"
    assert any(ours)


def test_a_second_spool_in_one_process_takes_no_lock_from_the_first(directory: Path) -> None:
    """POSIX drops a process's locks on a file when it closes any descriptor of it, whoever opened that."""
    with Spool(directory) as first, Spool(directory):
        # Another process that finds no lock takes itself for the last, and removes the journal when it closes.
        script = f"from smtpcore.drivers.spool import Spool; Spool({str(directory)!r}).close()"
        subprocess.run([sys.executable, "-c", script], check=True)
        first.add([first.prepare(Envelope("a@b.example", ("c@d.example",)), [b"hello"])], NOW)
        found = subprocess.run(
            [sys.executable, "-c", f"from smtpcore.drivers.spool import Spool; print(len(Spool({str(directory)!r})))"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert found.stdout == "1\n"


def test_the_database_of_something_else_is_left_as_it_was(directory: Path) -> None:
    _foreign(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(SpoolUnusable, match="something else"):
        Spool(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
