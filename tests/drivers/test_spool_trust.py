"""A spool that something else wrote to, that is full, that is of an earlier version, and operators' commands.

What lives here: what a spool does with what it cannot trust, and with what it is told. What does not: its daily work.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smtpcore import Envelope
from smtpcore.drivers.spool import Executed, QueueEntry, Spool, SpoolError
from smtpcore.relay import (
    Action,
    Claim,
    Commanded,
    DomainsLoaded,
    Forget,
    Job,
    JobsLoaded,
    JobsRemoved,
    Load,
    LoadDomains,
    Operate,
    Orders,
    RelaySettings,
    Save,
)

NOW = 1_800_000_000.0
SETTINGS = RelaySettings(reporting_mta="relay.example")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    with Spool(directory) as spool:
        yield spool


def add(spool: Spool, recipient: str = "you@far.example", body: bytes = b"hello\r\n") -> int:
    (accepted,) = spool.add([spool.prepare(Envelope("me@near.example", (recipient,)), [body])], NOW)
    return accepted.mail.mail_id


def execute(spool: Spool, *orders: object, effects: tuple[object, ...] = ()) -> Executed:
    return spool.execute(Orders(orders, effects), SETTINGS, NOW)  # type: ignore[arg-type]  # whatever orders a test has


def domains(spool: Spool) -> tuple[str, ...]:
    (fact,) = execute(spool, effects=(LoadDomains(NOW, NOW + 1e6, 100, ()),)).facts
    assert isinstance(fact, DomainsLoaded)
    assert fact.complete
    return fact.domains


def jobs(spool: Spool, domain: str = "far.example") -> tuple[Job, ...]:
    (fact,) = execute(spool, effects=(Load(domain, NOW, NOW + 1e6, 100),)).facts
    assert isinstance(fact, JobsLoaded)
    assert {mail.mail_id for mail in fact.mails} == {job.mail_id for job in fact.jobs}
    return fact.jobs


def entries(spool: Spool) -> dict[int, QueueEntry]:
    return {entry.mail.mail_id: entry for entry in spool.list()}


def meddle(directory: Path, statement: str) -> None:
    """Something else writes to the spool."""
    database = sqlite3.connect(directory / "spool.db")
    with database:
        assert database.execute(statement).rowcount
    database.close()


# --- what cannot be read is set aside -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE job SET recipients = 'no json' WHERE mail_id = 2", "no JSON"),
        ("UPDATE job SET recipients = '[]' WHERE mail_id = 2", "no recipients"),
        ("UPDATE job SET recipients = '{}' WHERE mail_id = 2", "no recipients"),
        ("UPDATE job SET recipients = '[5]' WHERE mail_id = 2", "one of its recipients is 5"),
        ("""UPDATE job SET recipients = '[["a@b.example", 5, false]]' WHERE mail_id = 2""", "one of its recipients"),
        ("""UPDATE job SET recipients = '[["a@b.example", ""]]' WHERE mail_id = 2""", "one of its recipients"),
        ("""UPDATE job SET recipients = '[["a b@c", "", false]]' WHERE mail_id = 2""", "a recipient cannot be said"),
        ("UPDATE job SET recipients = x'00ff' WHERE mail_id = 2", "list of recipients"),
        ("UPDATE job SET recipients = CAST(x'5bff' AS TEXT) WHERE mail_id = 2", "list of recipients"),
        (f"UPDATE job SET recipients = '{'[' * 200_000}' WHERE mail_id = 2", "no JSON"),
        ("UPDATE job SET due_at = 'tomorrow' WHERE mail_id = 2", "due time"),
        ("UPDATE job SET attempts = 'many' WHERE mail_id = 2", "number of attempts"),
        ("UPDATE job SET attempts = -50 WHERE mail_id = 2", "number of attempts"),
        ("UPDATE job SET due_at = 9e999 WHERE mail_id = 2", "due time"),
        ("UPDATE mail SET accepted_at = -9e999 WHERE mail_id = 2", "time of acceptance"),
        ("UPDATE job SET domain = x'00' WHERE mail_id = 2", "domain"),
        ("UPDATE job SET domain = CAST(x'66ff' AS TEXT) WHERE mail_id = 2", "its domain is b'f\\xff'"),
        ("UPDATE mail SET reverse_path = 'a b' WHERE mail_id = 2", "reverse-path"),
        ("UPDATE mail SET reverse_path = x'ff' WHERE mail_id = 2", "reverse-path"),
        ("UPDATE mail SET reverse_path = CAST(x'ff' AS TEXT) WHERE mail_id = 2", "reverse-path"),
        (f"UPDATE mail SET options = '{'[' * 200_000}' WHERE mail_id = 2", "no JSON"),
        ("UPDATE mail SET size = 'big' WHERE mail_id = 2", "size"),
        ("UPDATE mail SET size = -1 WHERE mail_id = 2", "size"),
        ("UPDATE mail SET size = 6 WHERE mail_id = 2", "its body has 7 octets; 6 were accepted"),
        ("UPDATE mail SET body = NULL WHERE mail_id = 2", "its body has None octets"),
        ("UPDATE mail SET accepted_at = 'once' WHERE mail_id = 2", "time of acceptance"),
        ("UPDATE mail SET eight_bit = 'maybe' WHERE mail_id = 2", "eight_bit"),
        ("UPDATE mail SET body_file = '../../secret' WHERE mail_id = 2", "its body is said to be in"),
        ("UPDATE mail SET body_file = 'absent.eml' WHERE mail_id = 2", "cannot be read: No such file"),
        ("UPDATE mail SET body_file = '..' WHERE mail_id = 2", "its body is said to be in"),
        ("DELETE FROM mail WHERE mail_id = 2", "there is no such mail"),
        ("UPDATE job SET mail_id = x'02' WHERE mail_id = 2", ""),
    ],
)
def test_what_cannot_be_read_is_set_aside_and_blocks_nothing(
    spool: Spool, directory: Path, statement: str, problem: str
) -> None:
    for _ in range(3):
        add(spool)
    meddle(directory, statement)
    spool.lock()
    assert "far.example" in domains(spool)
    assert [job.mail_id for job in jobs(spool)] == [1, 3]
    # It is not looked at again.
    assert [job.mail_id for job in jobs(spool)] == [1, 3]
    if problem:
        entry = entries(spool)[2]
        assert entry.problem is not None
        assert problem in entry.problem
        assert not entry.active
        assert not entry.held
    assert [entries(spool)[mail_id].problem for mail_id in (1, 3)] == [None, None]


def test_what_was_set_aside_and_mended_is_released(spool: Spool, directory: Path) -> None:
    add(spool)
    meddle(directory, "UPDATE mail SET size = 6")
    spool.lock()
    assert jobs(spool) == ()
    meddle(directory, "UPDATE mail SET size = 7")
    assert jobs(spool) == ()
    execute(spool, Operate(Action.RELEASE, (1,)))
    assert [job.mail_id for job in jobs(spool)] == [1]
    assert entries(spool)[1].problem is None


def test_a_job_that_was_on_its_way_when_its_mail_was_set_aside_waits_with_it(spool: Spool, directory: Path) -> None:
    (accepted,) = spool.add(
        [spool.prepare(Envelope("me@near.example", ("a@far.example", "b@wide.example")), [b"hello\r\n"])], NOW
    )
    far, wide = accepted.jobs
    spool.lock()
    execute(spool, Claim(far))
    meddle(directory, f"UPDATE job SET recipients = '' WHERE job_id = {wide.job_id}")
    assert jobs(spool, "wide.example") == ()
    execute(spool, Save(far))
    assert jobs(spool) == ()
    meddle(directory, "UPDATE job SET recipients = '[[\"b@wide.example\",\"\",false]]' WHERE recipients = ''")
    execute(spool, Operate(Action.RELEASE, (accepted.mail.mail_id,)))
    assert {job.job_id for job in jobs(spool)} == {far.job_id, wide.job_id}


def test_a_job_without_its_mail_can_be_removed(spool: Spool, directory: Path) -> None:
    add(spool)
    meddle(directory, "DELETE FROM mail")
    assert list(entries(spool)) == [1]
    spool.command(Action.REMOVE, [1])
    assert entries(spool) == {}


def test_what_was_released_and_not_mended_is_set_aside_again(spool: Spool, directory: Path) -> None:
    add(spool)
    meddle(directory, "UPDATE mail SET size = 6")
    spool.lock()
    assert jobs(spool) == ()
    execute(spool, Operate(Action.RELEASE, (1,)))
    assert jobs(spool) == ()
    assert entries(spool)[1].problem is not None


def test_a_large_body_of_another_size_is_set_aside(spool: Spool, directory: Path) -> None:
    add(spool, body=b"x" * 200_000)
    add(spool)
    (path,) = (directory / "bodies").iterdir()
    os.truncate(path, 100_000)
    spool.lock()
    assert [job.mail_id for job in jobs(spool)] == [2]
    assert "100000 octets; 200002 were accepted" in str(entries(spool)[1].problem)


@pytest.mark.parametrize(
    "name", ["'../../precious'", "''", "'..'", "x'ff'", "CAST(x'ff' AS TEXT)", "5", "'a' || char(0)"]
)
def test_nothing_but_a_file_of_the_spool_is_read_or_removed_as_a_body(
    spool: Spool, directory: Path, tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"hello\r\n")
    add(spool)
    add(spool)
    meddle(directory, f"UPDATE mail SET body_file = {name} WHERE mail_id = 1")
    body = spool.open_body(1)
    assert not isinstance(body, bytes)
    with body, pytest.raises(FileNotFoundError, match="the body is gone from the spool"):
        body.read(1)
    spool.command(Action.REMOVE, [1])
    assert list(entries(spool)) == [2]
    assert precious.exists()


@pytest.mark.parametrize("octets", ["NULL", "'text'", "7"])
def test_a_body_that_is_no_octets_is_gone(spool: Spool, directory: Path, octets: str) -> None:
    add(spool)
    meddle(directory, f"UPDATE mail SET body = {octets}")
    body = spool.open_body(1)
    assert not isinstance(body, bytes)
    with body, pytest.raises(FileNotFoundError):
        body.read(1)


def test_a_wish_for_mails_of_which_a_domain_cannot_be_read_names_the_others(spool: Spool, directory: Path) -> None:
    mails = [add(spool, f"you@{name}.example") for name in ("far", "wide")]
    meddle(directory, "UPDATE job SET domain = CAST(x'ff' AS TEXT) WHERE mail_id = 1")
    spool.lock()
    with Spool(directory) as other:
        other.command(Action.RETRY, mails)
    assert spool.commands() == (Commanded(Action.RETRY, tuple(mails), ("wide.example",)),)


def test_a_reason_that_cannot_be_read_is_shown_as_it_is(spool: Spool, directory: Path) -> None:
    add(spool)
    meddle(directory, "UPDATE mail SET problem = CAST(x'ff' AS TEXT)")
    assert entries(spool)[1].problem == "b'\\xff'"


def test_an_operator_sees_what_can_be_read(spool: Spool, directory: Path) -> None:
    add(spool)
    meddle(directory, "UPDATE job SET recipients = 'x', due_at = x'00', attempts = 'y', domain = 5")
    meddle(directory, "UPDATE mail SET reverse_path = 7, size = 'z', accepted_at = 'then'")
    entry = entries(spool)[1]
    assert (entry.mail.reverse_path, entry.mail.size, entry.mail.accepted_at) == ("7", 0, 0.0)
    assert (entry.job.recipients, entry.job.due_at, entry.job.attempts, entry.job.domain) == ((), 0.0, 0, "5")
    assert entry.problem


# --- versions -------------------------------------------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE incarnation (number INTEGER NOT NULL);
INSERT INTO incarnation VALUES (7);
CREATE TABLE mail (
    mail_id INTEGER PRIMARY KEY AUTOINCREMENT, reverse_path TEXT NOT NULL, size INTEGER NOT NULL,
    eight_bit INTEGER NOT NULL, leading_dots INTEGER NOT NULL, longest_line INTEGER NOT NULL,
    accepted_at REAL NOT NULL, body_file TEXT, body BLOB
);
CREATE TABLE job (
    job_id INTEGER PRIMARY KEY AUTOINCREMENT, mail_id INTEGER NOT NULL REFERENCES mail, domain TEXT NOT NULL,
    due_at REAL NOT NULL, attempts INTEGER NOT NULL, owner INTEGER NOT NULL, recipients TEXT NOT NULL
);
CREATE INDEX job_by_domain ON job (domain, due_at, job_id, owner);
CREATE INDEX job_by_time ON job (due_at, owner);
CREATE INDEX job_by_mail ON job (mail_id);
CREATE INDEX mail_by_file ON mail (body_file) WHERE body_file IS NOT NULL;
INSERT INTO mail VALUES (5, 'me@near.example', 7, 0, 0, 5, 1799999999.0, NULL, x'68656c6c6f0d0a');
INSERT INTO job VALUES (9, 5, 'far.example', 1799999999.0, 2, 7, '[["you@far.example","450 later",true]]');
PRAGMA application_id = 1397576771;
PRAGMA user_version = 1;
"""


def test_a_spool_of_the_first_version_is_brought_up_to_date(directory: Path) -> None:
    directory.mkdir()
    database = sqlite3.connect(directory / "spool.db")
    database.executescript(VERSION_1)
    database.close()
    with Spool(directory) as spool:
        spool.lock()
        (job,) = jobs(spool)
        assert (job.job_id, job.mail_id, job.attempts) == (9, 5, 2)
        assert (job.recipients[0].address, job.recipients[0].last_words, job.recipients[0].warned) == (
            "you@far.example",
            "450 later",
            True,
        )
        assert spool.open_body(5) == b"hello\r\n"
        execute(spool, Operate(Action.HOLD, (5,)))
        assert entries(spool)[5].held
        assert add(spool) == 6


# --- operators ------------------------------------------------------------------------------------------------------


def test_without_a_relay_a_command_is_done_at_once(spool: Spool) -> None:
    mails = [add(spool) for _ in range(4)]
    spool.command(Action.HOLD, mails[:2])
    assert [entries(spool)[mail].held for mail in mails] == [True, True, False, False]
    spool.command(Action.RELEASE, mails[:1])
    spool.command(Action.REMOVE, [mails[2], 77])
    assert list(entries(spool)) == [mails[0], mails[1], mails[3]]
    spool.lock()
    assert spool.commands() == ()
    assert [job.mail_id for job in jobs(spool)] == [mails[0], mails[3]]


def test_removing_a_large_mail_removes_its_file(spool: Spool, directory: Path) -> None:
    mail = add(spool, body=b"x" * 200_000)
    spool.command(Action.REMOVE, [mail])
    assert len(spool) == 0
    assert list((directory / "bodies").iterdir()) == []


def test_retry_makes_due_what_is_not(spool: Spool) -> None:
    mail = add(spool)
    spool.lock()
    (job,) = jobs(spool)
    later = Job(
        job_id=job.job_id,
        mail_id=mail,
        domain=job.domain,
        due_at=NOW + 3600.0,
        attempts=3,
        recipients=job.recipients,
    )
    execute(spool, Claim(job))
    execute(spool, Save(later))
    assert jobs(spool) == ()
    execute(spool, Operate(Action.RETRY, (mail,)))
    assert [(job.mail_id, job.attempts) for job in jobs(spool)] == [(mail, 3)]


def test_what_is_held_while_it_is_on_its_way_stays_held_afterwards(spool: Spool) -> None:
    mail = add(spool)
    spool.lock()
    (job,) = jobs(spool)
    execute(spool, Claim(job))
    execute(spool, Operate(Action.HOLD, (mail,)))
    assert entries(spool)[mail].active
    execute(spool, Save(job))
    assert not entries(spool)[mail].active
    assert entries(spool)[mail].held
    assert jobs(spool) == ()
    assert domains(spool) == ()
    execute(spool, Operate(Action.RELEASE, (mail,)))
    assert [job.mail_id for job in jobs(spool)] == [mail]


def test_what_is_removed_while_it_is_on_its_way_is_there_until_it_is_forgotten(spool: Spool) -> None:
    mail = add(spool)
    spool.lock()
    (job,) = jobs(spool)
    execute(spool, Claim(job))
    other = add(spool)
    (fact,) = execute(spool, Operate(Action.REMOVE, (mail, other, 77))).facts
    assert isinstance(fact, JobsRemoved)
    assert [job.mail_id for job in fact.jobs] == [other]
    assert list(entries(spool)) == [mail]
    execute(spool, Forget(job))
    assert len(spool) == 0


def test_what_is_removed_in_the_batch_that_gives_it_back_is_gone_and_told(spool: Spool) -> None:
    mail = add(spool)
    spool.lock()
    (job,) = jobs(spool)
    execute(spool, Claim(job))
    assert execute(spool, Operate(Action.REMOVE, (mail,)), Save(job)).facts == (JobsRemoved((job,)),)
    assert len(spool) == 0


def test_what_is_removed_and_not_on_its_way_is_told(spool: Spool) -> None:
    kept, removed = add(spool), add(spool)
    spool.lock()
    job = next(job for job in jobs(spool) if job.mail_id == removed)
    assert execute(spool, Operate(Action.REMOVE, (removed, 77))).facts == (JobsRemoved((job,)),)
    assert list(entries(spool)) == [kept]
    assert execute(spool, Operate(Action.REMOVE, (removed,))).facts == ()


@pytest.mark.parametrize("body", [b"hello\r\n", b"x" * 200_000])
def test_what_is_removed_while_it_is_on_its_way_is_forgotten_when_it_is_saved(
    spool: Spool, directory: Path, body: bytes
) -> None:
    mail, other = add(spool, body=body), add(spool)
    spool.lock()
    found = jobs(spool)
    execute(spool, *map(Claim, found))
    assert execute(spool, Operate(Action.REMOVE, (mail,))).facts == ()
    # Wished for twice, it is no more gone than before.
    assert execute(spool, Operate(Action.REMOVE, (mail,))).facts == ()
    assert entries(spool)[mail].active
    # An operator who changes his mind comes too late.
    execute(spool, Operate(Action.RELEASE, (mail,)))
    execute(spool, *map(Save, found))
    assert list(entries(spool)) == [other]
    assert [job.mail_id for job in jobs(spool)] == [other]
    assert list((directory / "bodies").iterdir()) == []


def test_what_was_removed_on_its_way_does_not_come_back_when_its_relay_dies(spool: Spool, directory: Path) -> None:
    mail = add(spool, body=b"x" * 200_000)
    spool.lock()
    execute(spool, *map(Claim, jobs(spool)))
    execute(spool, Operate(Action.REMOVE, (mail,)))
    spool.close()
    with Spool(directory) as next_one:
        next_one.lock()
        assert len(next_one) == 0
        assert list((directory / "bodies").iterdir()) == []


def test_what_the_last_relay_left_undone_is_done_before_what_is_wished_later(spool: Spool, directory: Path) -> None:
    mail = add(spool)
    spool.lock()
    with Spool(directory) as operator:
        operator.command(Action.HOLD, [mail])
        spool.close()
        operator.command(Action.RELEASE, [mail])
        assert not entries(operator)[mail].held
        operator.lock()
        assert operator.commands() == ()
        assert [job.mail_id for job in jobs(operator)] == [mail]


def test_commands_that_are_none_are_passed_over(spool: Spool, directory: Path) -> None:
    mail = add(spool)
    for action, mail_ids in (("explode", "[1]"), ("remove", "all"), ("remove", "{}"), ("remove", "['x']")):
        values = f"""'{action}', '{mail_ids.replace("'", '"')}'"""
        meddle(directory, f"INSERT INTO command (action, mail_ids) VALUES ({values})")
    spool.lock()
    assert spool.commands() == ()
    spool.command(Action.HOLD, [mail])
    assert [fact.action for fact in spool.commands()] == [Action.HOLD]


def test_beside_a_relay_a_command_is_a_fact_for_it(spool: Spool, directory: Path) -> None:
    mails = [add(spool), add(spool, "you@wide.example")]
    spool.lock()
    with Spool(directory) as operator:
        operator.command(Action.HOLD, mails)
        operator.command(Action.RETRY, mails[:1])
    assert not entries(spool)[mails[0]].held
    assert set(spool.commands()) == {
        Commanded(Action.HOLD, tuple(mails), ("far.example", "wide.example")),
        Commanded(Action.RETRY, (mails[0],), ("far.example",)),
    }
    # Each is given once ...
    assert spool.commands() == ()
    execute(spool, Operate(Action.HOLD, tuple(mails)), Operate(Action.RETRY, (mails[0],)))
    assert entries(spool)[mails[0]].held
    # ... and after it is answered never again.
    spool.close()
    with Spool(directory) as next_one:
        next_one.lock()
        assert next_one.commands() == ()


def test_a_command_survives_the_relay_that_did_not_answer_it(spool: Spool, directory: Path) -> None:
    mail = add(spool)
    spool.lock()
    with Spool(directory) as operator:
        operator.command(Action.HOLD, [mail])
        assert len(spool.commands()) == 1
        operator.command(Action.REMOVE, [mail])
        # The first is answered; of the second the relay has not heard.
        execute(spool, Operate(Action.HOLD, (mail,)))
    spool.close()
    with Spool(directory) as next_one:
        next_one.lock()
        assert [fact.action for fact in next_one.commands()] == [Action.REMOVE]


def test_only_the_holder_of_the_lock_may_load(spool: Spool) -> None:
    add(spool)
    with pytest.raises(SpoolError, match="holds its lock"):
        jobs(spool)


_RELAY = """
import sys
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Claim, Load, Orders, RelaySettings
spool = Spool(sys.argv[1])
spool.lock()
settings = RelaySettings(reporting_mta="relay.example")
(fact,) = spool.execute(Orders((), (Load("far.example", 2e9, 3e9, 10),)), settings, 1.8e9).facts
spool.execute(Orders(tuple(Claim(job) for job in fact.jobs), ()), settings, 1.8e9)
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_job_is_active_only_while_its_relay_lives(spool: Spool, directory: Path) -> None:
    mail = add(spool)
    with subprocess.Popen(
        [sys.executable, "-c", _RELAY, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as relay:
        assert relay.stdout is not None
        assert relay.stdout.readline() == b"claimed\n"
        assert entries(spool)[mail].active
        relay.kill()
    assert not entries(spool)[mail].active
    # What it had in hand can be commanded again, by whoever comes.
    spool.command(Action.REMOVE, [mail])
    assert len(spool) == 0


# --- a full disk ----------------------------------------------------------------------------------------------------

_FULL = """
import resource, sys
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool, SpoolFull
from smtpcore.relay import Claim, Forget, Load, Orders, RelaySettings, Save

spool, settings, now = Spool(sys.argv[1]), RelaySettings(reporting_mta="relay.example"), 1.8e9
spool.lock()

def add():
    (fact,) = spool.add([spool.prepare(Envelope("me@near.example", ("you@far.example",)), [b"x" * 50_000])], now)

accepted = 0
while True:
    try:
        add()
    except SpoolFull:
        break
    accepted += 1
(fact,) = spool.execute(Orders((), (Load("far.example", now, now + 1e6, 1000),)), settings, now).facts
assert len(fact.jobs) == accepted > 10, accepted
# There is no room to accept anything, and room for what came of everything that was accepted.
for job in fact.jobs:
    spool.execute(Orders((Claim(job),), ()), settings, now)
    try:
        add()
    except SpoolFull:
        pass
for job in fact.jobs[:-1]:
    spool.execute(Orders((Forget(job),), ()), settings, now)
spool.execute(Orders((Save(fact.jobs[-1]),), ()), settings, now)
print(len(spool))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_on_a_full_disk_nothing_is_accepted_and_everything_recorded(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        command = [sys.executable, "-c", _FULL, str(disk / "spool")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        with Spool(disk / "spool") as spool:
            assert len(spool) == int(done.stdout)
            # With room again, mail is taken again, and the reserve is back.
            add(spool)
            assert (disk / "spool" / "reserve").stat().st_size >= 2**20
    finally:
        subprocess.run(["umount", str(disk)], check=True)


_LIMITED = """
import resource, sys
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool, SpoolFull
spool = Spool(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    spool.add([spool.prepare(Envelope("", ("you@far.example",)), [b"x"])], 1.8e9)
except Exception as error:
    print(type(error).__name__, len(spool))
"""


def test_without_room_for_the_reserve_nothing_is_accepted(directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(directory)], capture_output=True, text=True, check=True)
    assert done.stdout == "SpoolFull 0\n"


def test_many_who_make_the_reserve_at_once_do_not_hinder_each_other(directory: Path) -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        spools = [stack.enter_context(Spool(directory)) for _ in range(8)]
        for _ in range(20):
            (directory / "reserve").unlink(missing_ok=True)
            list(threads.map(add, spools))
        assert len(spools[0]) == 160
