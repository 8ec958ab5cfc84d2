"""The spool as a relay meets it: orders in, facts out, one transaction each, and trouble told in its own words.

What lives here: the spool beside its model, its lock, its files, its refusals. What does not: how a body is taken in
(``test_intake``), and killed processes (``crash``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from smtpcore import Envelope
from smtpcore.drivers._intake import INLINE_OCTETS
from smtpcore.drivers.spool import QueueEntry, Spool, SpoolError, SpoolLocked, SpoolUnusable
from smtpcore.relay import (
    Bounce,
    Claim,
    Continue,
    DelayWarning,
    Delivery,
    DomainsLoaded,
    Durable,
    Fact,
    Failure,
    Forget,
    Job,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    NextHop,
    OpenSession,
    Orders,
    PendingRecipient,
    RelaySettings,
    Save,
    StoredMail,
)

NOW = 1_800_000_000.0
HORIZON = NOW + 1_000_000.0
LARGE = b"x" * (2 * INLINE_OCTETS)
SETTINGS = RelaySettings(reporting_mta="relay.example")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    """A spool that is locked for relaying."""
    with Spool(directory) as opened:
        opened.lock()
        yield opened


def add(
    spool: Spool, *recipients: str, sender: str = "me@home.example", body: bytes = b"hello", now: float = NOW
) -> MailAccepted:
    (accepted,) = spool.add([spool.prepare(Envelope(sender, recipients or ("you@far.example",)), [body])], now)
    return accepted


def perform(spool: Spool, *durable: Durable, settings: RelaySettings = SETTINGS) -> tuple[Fact, ...]:
    return spool.execute(Orders(durable), settings, NOW).facts


def domains_due(
    spool: Spool, until: float = NOW, horizon: float = HORIZON, limit: int = 100, known: tuple[str, ...] = ()
) -> DomainsLoaded:
    (fact,) = spool.execute(Orders((), (LoadDomains(until, horizon, limit, known),)), SETTINGS, NOW).facts
    assert isinstance(fact, DomainsLoaded)
    return fact


def load(
    spool: Spool, domain: str = "far.example", until: float = NOW, horizon: float = HORIZON, limit: int = 100
) -> JobsLoaded:
    (fact,) = spool.execute(Orders((), (Load(domain, until, horizon, limit),)), SETTINGS, NOW).facts
    assert isinstance(fact, JobsLoaded)
    return fact


def octets(spool: Spool, mail_id: int) -> bytes:
    body = spool.open_body(mail_id)
    if isinstance(body, bytes):
        return body
    with body:
        return body.read()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "bodies").iterdir())


def failure(recipient: str = "you@far.example", reason: str = "550 no such user") -> Failure:
    return Failure(recipient=recipient, status="5.1.1", diagnostic=reason, reason=reason, remote_host="mx.far.example")


def everything(spool: Spool) -> tuple[list[QueueEntry], dict[int, bytes], int, list[str]]:
    """All that can be seen of a spool."""
    entries = list(spool.list())
    bodies = {mail_id: octets(spool, mail_id) for mail_id in {entry.mail.mail_id for entry in entries}}
    return entries, bodies, len(spool), files(spool.directory)


# --- adding and listing -----------------------------------------------------------------------------------------------


def test_an_empty_spool_is_empty(spool: Spool) -> None:
    assert everything(spool) == ([], {}, 0, [])
    assert domains_due(spool) == DomainsLoaded((), True, None)
    assert load(spool) == JobsLoaded("far.example", (), (), True)


def test_a_mail_is_one_job_for_each_domain_and_listed_oldest_first(spool: Spool) -> None:
    first = add(spool, "a@one.example", "b@two.example", "c@one.example", body=b"one\n.two", now=NOW + 9)
    second = add(spool, "d@two.example", sender="", body=b"\xe9", now=NOW + 0.125)
    assert first.mail == StoredMail(
        mail_id=first.mail.mail_id,
        reverse_path="me@home.example",
        size=11,
        eight_bit=False,
        leading_dots=True,
        accepted_at=NOW + 9,
    )
    assert (second.mail.reverse_path, second.mail.size, second.mail.eight_bit) == ("", 3, True)
    assert [(job.domain, [r.address for r in job.recipients]) for job in first.jobs] == [
        ("one.example", ["a@one.example", "c@one.example"]),
        ("two.example", ["b@two.example"]),
    ]
    assert {(job.mail_id, job.due_at, job.attempts) for job in first.jobs} == {(first.mail.mail_id, NOW + 9, 0)}
    expected = [QueueEntry(fact.mail, job, active=False) for fact in (first, second) for job in fact.jobs]
    assert list(spool.list()) == expected
    assert len(spool) == 2


def test_what_is_listed_stays_as_it_was_while_the_spool_goes_on(spool: Spool) -> None:
    (job,) = add(spool).jobs
    listing = spool.list()
    entry = next(listing)
    perform(spool, Forget(job))
    assert entry.job == job
    assert list(listing) == []


def test_only_a_large_body_has_a_file(spool: Spool) -> None:
    small, large = b"x" * (INLINE_OCTETS - 2) + b"\r\n", b"x" * (INLINE_OCTETS - 1) + b"\r\n"
    inline = add(spool, body=small).mail
    assert files(spool.directory) == []
    filed = add(spool, body=large).mail
    (name,) = files(spool.directory)
    assert (spool.directory / "bodies" / name).read_bytes() == large
    assert octets(spool, inline.mail_id) == spool.open_body(inline.mail_id) == small
    assert octets(spool, filed.mail_id) == large
    assert filed.size == inline.size + 1 == len(large)


def test_a_body_is_canonical_however_it_came(spool: Spool) -> None:
    chunks = [b"a\r", b"\nb\r", b"c\n", b"", b"\n\r\n", b".", b"end"]
    (accepted,) = spool.add([spool.prepare(Envelope("", ("you@far.example",)), chunks)], NOW)
    assert octets(spool, accepted.mail.mail_id) == b"a\r\nb\r\nc\r\n\r\n\r\n.end\r\n"
    assert accepted.mail.leading_dots


def test_a_source_that_breaks_leaves_no_file_and_no_mail(spool: Spool) -> None:
    def broken() -> Iterator[bytes]:
        yield LARGE
        assert files(spool.directory)
        raise ConnectionResetError("the sender is gone")

    with pytest.raises(ConnectionResetError, match="the sender is gone"):
        spool.prepare(Envelope("", ("you@far.example",)), broken())
    assert everything(spool) == ([], {}, 0, [])


def test_only_its_owner_may_look_into_it(directory: Path) -> None:
    before = os.umask(0o022)
    try:
        with Spool(directory) as spool:
            spool.lock()
            add(spool, body=LARGE)
            modes = {p.relative_to(directory).parts[0]: stat.S_IMODE(p.stat().st_mode) for p in directory.iterdir()}
            (body,) = (directory / "bodies").iterdir()
            assert stat.S_IMODE(body.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes == {"bodies": 0o700, "lock": 0o600, "spool.db": 0o600, "spool.db-wal": 0o600, "spool.db-shm": 0o600}


# --- claims, saves, forgets -------------------------------------------------------------------------------------------


def test_a_claim_counts_the_attempt_and_keeps_the_job_from_every_load(spool: Spool) -> None:
    claimed, free = add(spool, "a@one.example", "b@two.example").jobs
    perform(spool, Claim(replace(claimed, attempts=1)))
    assert list(spool.list())[0] == QueueEntry(next(spool.list()).mail, replace(claimed, attempts=1), active=True)
    assert [entry.active for entry in spool.list()] == [True, False]
    assert domains_due(spool) == DomainsLoaded(("two.example",), True, None)
    assert load(spool, "one.example").jobs == ()
    assert load(spool, "two.example").jobs == (free,)
    perform(spool, Claim(free))
    assert domains_due(spool, until=NOW - 1) == DomainsLoaded((), True, None)


def test_a_save_gives_the_job_free_as_it_is_now(spool: Spool) -> None:
    (job,) = add(spool, "a@far.example", "b@far.example").jobs
    perform(spool, Claim(replace(job, attempts=1)))
    left = (PendingRecipient("b@far.example", "451 4.3.0 \"später\" '\\' \x00", warned=True),)
    saved = replace(job, attempts=1, due_at=NOW + 1 / 3, recipients=left)
    perform(spool, Save(saved))
    assert [(entry.job, entry.active) for entry in spool.list()] == [(saved, False)]
    assert load(spool).jobs == ()
    assert domains_due(spool) == DomainsLoaded((), True, saved.due_at)
    assert load(spool, until=saved.due_at).jobs == (saved,)


@pytest.mark.parametrize("body", [b"small", LARGE], ids=["inline", "file"])
def test_a_mail_and_its_file_go_with_the_last_job(spool: Spool, body: bytes) -> None:
    kept = add(spool, body=LARGE)
    kept_files = files(spool.directory)
    mail, (one, two) = (accepted := add(spool, "a@one.example", "b@two.example", body=body)).mail, accepted.jobs
    perform(spool, Forget(one))
    assert octets(spool, mail.mail_id) == body + b"\r\n"
    perform(spool, Forget(two))
    with pytest.raises(SpoolError, match=f"no mail {mail.mail_id}"):
        spool.open_body(mail.mail_id)
    assert len(spool) == 1
    assert files(spool.directory) == kept_files
    assert octets(spool, kept.mail.mail_id) == LARGE + b"\r\n"


def test_all_jobs_of_a_mail_may_be_forgotten_at_once_beside_others(spool: Spool) -> None:
    done, kept = add(spool, "a@one.example", "b@two.example", body=LARGE), add(spool, "c@one.example")
    saved = replace(kept.jobs[0], due_at=NOW + 60, attempts=1)
    perform(spool, *(Forget(job) for job in done.jobs), Save(saved))
    assert [entry.job for entry in spool.list()] == [saved]
    assert files(spool.directory) == []


def test_each_delivery_has_its_own_body(spool: Spool) -> None:
    accepted = add(spool, "a@one.example", "b@two.example", body=LARGE)
    hop = NextHop("mx.example", 25)
    deliveries = [Delivery(number, accepted.mail, (job,), hop) for number, job in enumerate(accepted.jobs, 7)]
    orders = Orders((), (OpenSession(1, deliveries[0]), Continue(2, deliveries[1])))
    with contextlib.ExitStack() as stack:
        bodies = spool.execute(orders, SETTINGS, NOW).bodies
        for body in bodies.values():
            assert not isinstance(body, bytes)
            stack.enter_context(body)
        assert sorted(bodies) == [7, 8]
        # A body that was opened is whole though its mail is forgotten meanwhile.
        perform(spool, *(Forget(job) for job in accepted.jobs))
        assert files(spool.directory) == []
        assert [body.read() for body in bodies.values() if not isinstance(body, bytes)] == [LARGE + b"\r\n"] * 2


# --- loads ------------------------------------------------------------------------------------------------------------


def test_a_load_is_the_longest_due_up_to_its_limit_and_says_whether_that_was_all(spool: Spool) -> None:
    accepted = {age: add(spool, f"user{age}@far.example", now=NOW - age) for age in (2, 5, 0, 3)}
    add(spool, "later@far.example", now=NOW + 0.5)
    ordered = [accepted[age] for age in (5, 3, 2, 0)]
    for limit in (1, 3, 4, 5):
        fact = load(spool, limit=limit)
        assert fact.jobs == tuple(a.jobs[0] for a in ordered[:limit])
        assert fact.mails == tuple(a.mail for a in ordered[:limit])
        assert fact.complete == (limit >= 4)


def test_a_load_brings_each_due_sibling_and_no_other(spool: Spool) -> None:
    accepted = add(spool, *(f"user@{name}.example" for name in ("one", "due", "claimed", "later", "beyond")))
    add(spool, "other@due.example")
    one, due, claimed, later, beyond = accepted.jobs
    beyond = replace(beyond, due_at=HORIZON + 1)
    perform(spool, Claim(claimed), Save(replace(later, due_at=NOW + 1)), Save(beyond))
    fact = load(spool, "one.example", limit=1)
    assert fact.jobs[0] == one
    assert sorted(fact.jobs, key=lambda job: job.job_id) == [one, due, beyond]
    assert fact.mails == (accepted.mail,)
    assert fact.complete


def test_what_is_due_beyond_the_horizon_is_due_now(spool: Spool) -> None:
    """For a clock that was set back would keep it for ever."""
    at_horizon = add(spool, "a@far.example", now=HORIZON)
    beyond = add(spool, "b@far.example", now=HORIZON + 0.5)
    old = add(spool, "c@far.example", now=NOW - 1)
    fact = load(spool)
    assert fact.jobs == (*old.jobs, *beyond.jobs)
    assert fact.complete
    assert load(spool, limit=1).jobs == old.jobs
    assert not load(spool, limit=1).complete
    perform(spool, Forget(old.jobs[0]))
    assert domains_due(spool) == DomainsLoaded(("far.example",), True, at_horizon.jobs[0].due_at)
    perform(spool, Forget(beyond.jobs[0]))
    assert domains_due(spool) == DomainsLoaded((), True, HORIZON)


def test_domains_come_by_their_longest_due_job_without_those_that_are_known(spool: Spool) -> None:
    for age, domain in ((1, "a"), (4, "b"), (2, "c"), (9, "b")):
        add(spool, f"user@{domain}.example", now=NOW - age)
    add(spool, "user@d.example", now=NOW + 7)
    assert domains_due(spool) == DomainsLoaded(("b.example", "c.example", "a.example"), True, NOW + 7)
    assert domains_due(spool, limit=3).complete
    assert domains_due(spool, limit=2) == DomainsLoaded(("b.example", "c.example"), False, NOW + 7)
    assert domains_due(spool, known=("c.example", "e.example")).domains == ("b.example", "a.example")
    assert domains_due(spool, limit=1, known=("b.example", "c.example")).complete
    assert domains_due(spool, until=NOW + 7) == DomainsLoaded(
        ("b.example", "c.example", "a.example", "d.example"), True, None
    )


def test_next_due_is_of_the_jobs_that_are_free_and_not_due(spool: Spool) -> None:
    (claimed,), (later,) = add(spool, now=NOW + 5).jobs, add(spool, now=NOW + 8).jobs
    add(spool, now=HORIZON + 1)
    assert domains_due(spool).next_due == NOW + 5
    perform(spool, Claim(claimed))
    assert domains_due(spool).next_due == NOW + 8
    assert domains_due(spool, until=NOW + 8).next_due is None
    perform(spool, Forget(later))
    assert domains_due(spool).next_due is None


def test_what_was_claimed_is_due_for_the_next_incarnation(directory: Path) -> None:
    with Spool(directory) as first:
        first.lock()
        (job,) = add(first).jobs
        claimed = replace(job, attempts=1)
        perform(first, Claim(claimed))
        assert domains_due(first).domains == ()
    with Spool(directory) as second:
        second.lock()
        assert [entry.active for entry in second.list()] == [False]
        assert domains_due(second).domains == ("far.example",)
        assert load(second).jobs == (claimed,)
        perform(second, Claim(replace(claimed, attempts=2)))
        assert load(second).jobs == ()


@pytest.mark.parametrize("order", [Load("d7.example", NOW, HORIZON, 10), LoadDomains(NOW, HORIZON, 10, ())])
def test_no_load_reads_the_whole_queue(
    directory: Path, monkeypatch: pytest.MonkeyPatch, order: Load | LoadDomains
) -> None:
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        database = connect(*arguments, **options)  # type: ignore[call-overload]
        database.set_trace_callback(statements.append)
        return database  # type: ignore[no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", traced)
        spool = Spool(directory)
    with spool:
        spool.lock()
        prepared = [
            spool.prepare(Envelope("", (f"user@d{n % 50}.example", f"user@e{n % 9}.example")), [b"x"])
            for n in range(500)
        ]
        spool.add(prepared, NOW)
        statements.clear()
        spool.execute(Orders((), (order,)), SETTINGS, NOW)
        asked = [statement for statement in statements if "SELECT" in statement and "FROM job" in statement]
        assert len(asked) >= 2
    with contextlib.closing(connect(directory / "spool.db")) as database:
        for statement in asked:
            plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert any("job" in step for step in plan)
            # "SCAN job" reads a table or an index through; "SEARCH job" goes to the rows.
            assert not [step for step in plan if step.startswith(("SCAN job", "SCAN TABLE job"))], statement
            if "due_at >" in statement and "domain =" in statement:
                assert not any("TEMP B-TREE" in step for step in plan), statement
        # And the plan would tell.
        plan = [row[3] for row in database.execute("EXPLAIN QUERY PLAN SELECT * FROM job WHERE attempts = 1")]
        assert any(step.startswith("SCAN job") for step in plan)


# --- one transaction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"Subject: the original\r\n\r\nsmall", b"Subject: the original\r\n\r\n" + LARGE])
def test_a_bounce_is_stored_where_its_mail_is_forgotten_and_is_a_fact(spool: Spool, body: bytes) -> None:
    accepted = add(spool, body=body)
    (fact,) = perform(spool, Bounce(accepted.mail, (failure(),)), Forget(accepted.jobs[0]))
    assert isinstance(fact, MailAccepted)
    assert fact.mail.reverse_path == ""
    assert [(job.domain, job.recipients) for job in fact.jobs] == [
        ("home.example", (PendingRecipient("me@home.example"),))
    ]
    report = octets(spool, fact.mail.mail_id)
    assert b"Subject: the original" in report
    assert fact.mail.size == len(report)
    assert list(spool.list()) == [QueueEntry(fact.mail, fact.jobs[0], active=False)]
    assert load(spool, "home.example").jobs == fact.jobs
    assert files(spool.directory) == []


def test_nobody_sees_a_bounce_without_the_rest_of_its_batch(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = add(spool)
    seen = []

    def compose(*_: object) -> bytes:
        with Spool(directory) as other:
            seen.append(list(other.list()))
        return b"the report"

    monkeypatch.setattr("smtpcore.drivers.spool.compose_bounce", compose)
    bounce = Bounce(accepted.mail, (failure(),))
    first, second = perform(spool, bounce, bounce, Forget(accepted.jobs[0]))
    assert seen == [[QueueEntry(accepted.mail, accepted.jobs[0], active=False)]] * 2
    assert isinstance(first, MailAccepted)
    assert isinstance(second, MailAccepted)
    assert [entry.mail for entry in spool.list()] == [first.mail, second.mail]


def test_a_warning_is_stored_beside_its_mail(spool: Spool) -> None:
    accepted = add(spool)
    (fact,) = perform(spool, DelayWarning(accepted.mail, (failure(),), HORIZON), Save(accepted.jobs[0]))
    assert isinstance(fact, MailAccepted)
    assert b"Action: delayed" in octets(spool, fact.mail.mail_id)
    assert [entry.mail for entry in spool.list()] == [accepted.mail, fact.mail]


@pytest.mark.parametrize("error", [ValueError("cannot compose"), KeyboardInterrupt()])
@pytest.mark.parametrize("report", [b"small", LARGE], ids=["small", "large"])
def test_a_batch_that_fails_leaves_everything_as_it_was(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, report: bytes
) -> None:
    bounced, done, late = add(spool, body=LARGE), add(spool, "a@one.example", body=LARGE), add(spool, "b@two.example")
    claimed, free = add(spool, "c@three.example", "d@four.example").jobs
    perform(spool, Claim(replace(claimed, attempts=1)))
    before = everything(spool)
    reports = iter([report])

    def compose(*_: object) -> bytes:
        for composed in reports:
            return composed
        raise error

    batch = (
        Save(replace(claimed, due_at=NOW + 60, attempts=1)),
        Forget(done.jobs[0]),
        Claim(replace(free, attempts=1)),
        Bounce(late.mail, (failure(),)),
        Bounce(bounced.mail, (failure(),)),
        Forget(bounced.jobs[0]),
    )
    with monkeypatch.context() as patched:
        patched.setattr("smtpcore.drivers.spool.compose_bounce", compose)
        with pytest.raises(type(error)) as raised:
            perform(spool, *batch)
    assert raised.value is error
    assert everything(spool) == before
    with Spool(directory) as other:
        assert everything(other) == before
    # And the spool goes on.
    assert len(perform(spool, *batch)) == 2


def test_one_mail_that_cannot_be_stored_keeps_out_the_others_of_its_batch(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [spool.prepare(Envelope("", (f"user{n}@far.example",)), [LARGE]) for n in range(3)]
    assert len(files(spool.directory)) == 3
    calls = []

    def fails_at_last(recipients: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
        calls.append(recipients)
        if len(calls) == 3:
            raise sqlite3.OperationalError("disk I/O error")
        yield "far.example", recipients

    with monkeypatch.context() as patched:
        patched.setattr("smtpcore.drivers.spool.recipients_by_domain", fails_at_last)
        with pytest.raises(SpoolUnusable, match="disk I/O error"):
            spool.add(prepared, NOW)
    assert everything(spool) == ([], {}, 0, [])
    add(spool)


def test_a_mail_that_was_committed_keeps_its_body_though_the_call_is_interrupted(spool: Spool) -> None:
    """A signal may come between the commit and the return."""
    prepared = spool.prepare(Envelope("", ("you@far.example",)), [LARGE])
    committed = threading.Event()

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_return" and getattr(argument, "__name__", "") == "execute" and len(others) == 1:
            committed.set()
            sys.setprofile(None)
            raise KeyboardInterrupt

    with Spool(spool.directory) as others:
        sys.setprofile(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                spool.add([prepared], NOW)
        finally:
            sys.setprofile(None)
    assert committed.is_set()
    (entry,) = spool.list()
    assert octets(spool, entry.mail.mail_id) == LARGE + b"\r\n"


# --- the model --------------------------------------------------------------------------------------------------------


def world() -> ModuleType:
    """The simulation's pretend world, which has a model of a spool."""
    path = Path(__file__).parents[1] / "simulation" / "world.py"
    spec = importlib.util.spec_from_file_location("model_of_a_spool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Pair:
    """A spool and its model, given the same orders; every answer and every state is compared.

    The model numbers mails and jobs in its own way and knows nothing of bodies.
    """

    def __init__(self, directory: Path) -> None:
        self.model = world().ModelSpool()
        self.directory = directory
        self.mails: dict[int, int] = {}
        self.jobs: dict[int, int] = {}
        self.large: set[int] = set()
        self.spool = self._open()

    def _open(self) -> Spool:
        spool = Spool(self.directory)
        spool.lock()
        self.model.incarnation += 1
        return spool

    def restart(self) -> None:
        self.spool.close()
        self.spool = self._open()

    def add(self, sender: str, recipients: tuple[str, ...], body: bytes, now: float) -> None:
        self._same_mail(add(self.spool, *recipients, sender=sender, body=body, now=now),
                        self.model.add(sender, recipients, now))  # fmt: skip

    def _same_mail(self, real: Fact, modelled: Fact) -> None:
        assert isinstance(real, MailAccepted)
        assert isinstance(modelled, MailAccepted)
        self.mails[real.mail.mail_id] = modelled.mail.mail_id
        self.jobs |= {ours.job_id: theirs.job_id for ours, theirs in zip(real.jobs, modelled.jobs, strict=True)}
        if real.mail.size > INLINE_OCTETS:
            self.large.add(real.mail.mail_id)
        assert self.mail(real.mail) == modelled.mail
        assert tuple(map(self.job, real.jobs)) == modelled.jobs

    def mail(self, mail: StoredMail) -> StoredMail:
        return replace(mail, mail_id=self.mails[mail.mail_id], size=10, eight_bit=False, leading_dots=False)

    def job(self, job: Job) -> Job:
        return replace(job, job_id=self.jobs[job.job_id], mail_id=self.mails[job.mail_id])

    def order(self, order: Durable) -> Durable:
        if isinstance(order, (Bounce, DelayWarning)):
            return replace(order, mail=self.mail(order.mail))
        return replace(order, job=self.job(order.job))

    def commit(self, *durable: Durable, now: float) -> None:
        real = self.spool.execute(Orders(durable), SETTINGS, now).facts
        modelled = self.model.commit(Orders(tuple(map(self.order, durable))), now)
        for ours, theirs in zip(real, modelled, strict=True):
            self._same_mail(ours, theirs)

    def load(self, order: Load) -> None:
        (real,) = self.spool.execute(Orders((), (order,)), SETTINGS, NOW).facts
        modelled = self.model.load(order)
        assert isinstance(real, JobsLoaded)
        assert (real.domain, real.complete) == (modelled.domain, modelled.complete)
        ours = list(map(self.job, real.jobs))
        asked = [job for job in modelled.jobs if job.domain == order.domain]
        # The jobs that were asked for come first and in order; their siblings in any.
        assert ours[: len(asked)] == asked
        assert sorted(ours, key=by_id) == sorted(modelled.jobs, key=by_id)
        assert sorted(map(self.mail, real.mails), key=by_mail) == sorted(modelled.mails, key=by_mail)

    def load_domains(self, order: LoadDomains) -> None:
        (real,) = self.spool.execute(Orders((), (order,)), SETTINGS, NOW).facts
        modelled = self.model.load_domains(order)
        assert isinstance(real, DomainsLoaded)
        assert (real.complete, real.next_due) == (modelled.complete, modelled.next_due)
        due = {
            domain: min(
                job.due_at for job in self.model.load(replace_domain(order, domain)).jobs if job.domain == domain
            )
            for domain in {*real.domains, *modelled.domains}
        }
        # Which comes first of two that have been due equally long is nobody's promise.
        assert [due[domain] for domain in real.domains] == [due[domain] for domain in modelled.domains]
        assert len({*real.domains} - {*order.known}) == len(real.domains)

    def compare(self) -> None:
        entries = list(self.spool.list())
        assert {self.job(entry.job).job_id: self.job(entry.job) for entry in entries} == self.model.jobs
        assert {self.mails[entry.mail.mail_id]: self.mail(entry.mail) for entry in entries} == self.model.mails
        assert len(self.spool) == len(self.model.mails)
        for entry in entries:
            assert entry.active == (self.model.owners.get(self.jobs[entry.job.job_id]) == self.model.incarnation)
        kept = {mail_id for mail_id in self.large if self.mails[mail_id] in self.model.mails}
        assert len(files(self.directory)) == len(kept)


def by_id(job: Job) -> int:
    return job.job_id


def by_mail(mail: StoredMail) -> int:
    return mail.mail_id


def replace_domain(order: LoadDomains, domain: str) -> Load:
    return Load(domain, order.until, order.horizon, 1_000_000)


def batch(chance: random.Random, entries: list[QueueEntry], due: Callable[[], float], now: float) -> Iterator[Durable]:
    """Orders about some jobs, each once, as a relay might give them."""
    for entry in chance.sample(entries, k=min(len(entries), chance.randint(0, 5))):
        job, mail = entry.job, entry.mail
        words = chance.choice(("", "451 later", "é\x00\"'\\"))
        left = chance.sample(job.recipients, k=chance.randint(1, len(job.recipients)))
        saved = replace(
            job,
            due_at=due(),
            attempts=job.attempts + 1,
            recipients=tuple(replace(r, last_words=words, warned=chance.random() < 0.5) for r in left),
        )
        failures = tuple(failure(r.address) for r in job.recipients)
        kind = chance.choice(("claim", "claim", "save", "save and claim", "forget", "forget", "bounce", "warn"))
        if kind == "claim":
            yield Claim(replace(job, attempts=job.attempts + 1))
        elif kind.startswith("save"):
            yield Save(saved)
            if kind == "save and claim":
                yield Claim(replace(saved, attempts=saved.attempts + 1))
        elif kind == "warn":
            if mail.reverse_path:
                yield DelayWarning(mail, failures, now + 1000)
            yield Save(saved)
        else:
            if kind == "bounce" and mail.reverse_path:
                yield Bounce(mail, failures)
            yield Forget(job)


@pytest.mark.parametrize("seed", range(10))
def test_a_spool_and_its_model_answer_and_hold_the_same(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    domains = [f"d{n}.example" for n in range(5)]
    now, horizon = NOW, NOW + 1000.0
    pair = Pair(directory)

    def due() -> float:
        """Some are due, some later, some beyond the horizon, and the borders themselves."""
        return chance.choice(
            (now, now - 1.5, now + 0.125, now + chance.randrange(900), horizon, horizon + 0.125, horizon + 5000.0)
        )

    try:
        for _ in range(150):
            now += chance.choice((0.0, 0.5, 30.0))
            horizon = now + 1000.0
            step = chance.random()
            if step < 0.35:
                recipients = tuple(f"user{n}@{chance.choice(domains)}" for n in range(chance.randint(1, 4)))
                body = LARGE if chance.random() < 0.2 else b"hello"
                pair.add(chance.choice(("", "me@home.example")), recipients, body, due())
            elif step < 0.65:
                pair.commit(*batch(chance, list(pair.spool.list()), due, now), now=now)
            elif step < 0.7:
                pair.restart()
            until = chance.choice((now, now, now + 100.0, now - 100.0))
            known = tuple(chance.sample(domains, k=chance.randint(0, 3)))
            pair.load_domains(LoadDomains(until, horizon, chance.choice((1, 2, 3, 100)), known))
            pair.load(Load(chance.choice(domains), until, horizon, chance.choice((1, 2, 5, 100))))
            pair.compare()
        # Whatever was claimed and left is there for the next, and all can be brought to its end.
        pair.restart()
        pair.compare()
        pair.load_domains(LoadDomains(horizon, horizon, 100, ()))
        pair.commit(*(Forget(entry.job) for entry in pair.spool.list()), now=now)
        pair.compare()
        assert everything(pair.spool) == ([], {}, 0, [])
    finally:
        pair.spool.close()


# --- the lock, the sweep, the others ----------------------------------------------------------------------------------

TRY_LOCK = """
import sys
from smtpcore.drivers.spool import Spool, SpoolLocked
with Spool(sys.argv[1]) as spool:
    try:
        spool.lock()
    except SpoolLocked as error:
        print(error)
    else:
        print("locked")
"""

HOLD_FILE = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""

ADD_ONE = """
import sys
from smtpcore import Envelope
from smtpcore.drivers.spool import Spool
with Spool(sys.argv[1]) as spool:
    (accepted,) = spool.add([spool.prepare(Envelope("", ("you@far.example",)), [b"hello"])], float(sys.argv[2]))
    print(accepted.mail.mail_id)
"""


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.strip()


def test_a_second_relay_is_refused_and_told_whose_the_spool_is(directory: Path) -> None:
    with Spool(directory) as spool:
        # Whoever only opened it is in nobody's way.
        assert run(TRY_LOCK, directory) == "locked"
        spool.lock()
        refusal = run(TRY_LOCK, directory)
        assert str(directory) in refusal
        assert f"process {os.getpid()}" in refusal
    assert run(TRY_LOCK, directory) == "locked"


def test_the_lock_is_of_one_spool_and_not_of_one_process(directory: Path) -> None:
    with Spool(directory) as first, Spool(directory) as second:
        first.lock()
        with pytest.raises(SpoolLocked) as refused:
            second.lock()
        assert refused.value.directory == directory
        first.close()
        second.lock()


def test_the_lock_file_names_its_holder_and_nobody_before(directory: Path) -> None:
    with Spool(directory) as spool:
        (directory / "lock").write_text("1234567890123456789\n")
        spool.lock()
        assert (directory / "lock").read_text() == f"{os.getpid()}\n"


def test_a_relay_notices_what_others_write_and_not_its_own(spool: Spool, directory: Path) -> None:
    assert not spool.changed()
    (job,) = add(spool).jobs
    perform(spool, Claim(job))
    perform(spool, Forget(job))
    assert not spool.changed()
    mail_id = int(run(ADD_ONE, directory, NOW))
    assert spool.changed()
    assert not spool.changed()
    assert [entry.mail.mail_id for entry in spool.list()] == [mail_id]
    with Spool(directory) as other:
        assert not spool.changed()
        add(other)
        assert spool.changed()


def test_orphans_are_swept_when_a_relay_starts_and_what_is_of_use_is_kept(directory: Path) -> None:
    bodies = directory / "bodies"
    with Spool(directory) as spool:
        known = add(spool, body=LARGE)
        kept = files(directory)
        for name in ("orphan.eml", "orphan.tmp", "held.tmp"):
            (bodies / name).write_bytes(b"half a bo")
        command = [sys.executable, "-c", HOLD_FILE, str(bodies / "held.tmp")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert len(files(directory)) == 4
            spool.lock()
            assert files(directory) == sorted([*kept, "held.tmp"])
            holder.communicate(timeout=60)
        assert octets(spool, known.mail.mail_id) == LARGE + b"\r\n"
    with Spool(directory) as spool:
        # Only a relay sweeps.
        assert files(directory) == sorted([*kept, "held.tmp"])
        spool.lock()
        assert files(directory) == kept


def test_a_body_on_its_way_is_not_swept_and_is_free_once_it_is_accepted(directory: Path) -> None:
    with Spool(directory) as intake, Spool(directory) as relay:
        prepared = intake.prepare(Envelope("", ("you@far.example",)), [LARGE])
        (name,) = files(directory)
        relay.lock()
        assert files(directory) == [name]
        (accepted,) = intake.add([prepared], NOW)
        with (directory / "bodies" / name).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert octets(relay, accepted.mail.mail_id) == LARGE + b"\r\n"


# --- what cannot be used ----------------------------------------------------------------------------------------------


def edit(directory: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(directory / "spool.db", isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def newer(directory: Path) -> None:
    Spool(directory).close()
    edit(directory, "PRAGMA user_version = 2")


def foreign(directory: Path) -> None:
    directory.mkdir()
    edit(directory, "CREATE TABLE bookmarks (url)")


def foreign_with_version(directory: Path) -> None:
    directory.mkdir()
    edit(directory, "CREATE TABLE bookmarks (url)", "PRAGMA user_version = 1", "PRAGMA application_id = 7")


def garbage(directory: Path) -> None:
    directory.mkdir()
    (directory / "spool.db").write_bytes(random.Random(1).randbytes(20_000))


def short_garbage(directory: Path) -> None:
    directory.mkdir()
    (directory / "spool.db").write_bytes(b"no database")


def under_a_file(directory: Path) -> None:
    directory.parent.joinpath("regular").write_text("")


def a_file(directory: Path) -> None:
    directory.write_text("")


def a_folder_for_a_database(directory: Path) -> None:
    (directory / "spool.db").mkdir(parents=True)


@pytest.mark.parametrize(
    ("prepare", "at", "said"),
    [
        (newer, "spool", "its version is 2; this program knows version 1"),
        (foreign, "spool", "spool.db is the database of something else"),
        (foreign_with_version, "spool", "spool.db is the database of something else"),
        (garbage, "spool", "the database is damaged (file is not a database)"),
        (short_garbage, "spool", "the database is damaged (file is not a database)"),
        (under_a_file, "regular/spool", "Not a directory"),
        (a_file, "spool", "File exists"),
        (a_folder_for_a_database, "spool", "Is a directory"),
    ],
)
def test_what_is_no_spool_of_ours_is_refused_in_readable_words(
    tmp_path: Path, prepare: Callable[[Path], None], at: str, said: str
) -> None:
    directory = tmp_path / at
    prepare(tmp_path / "spool")
    for _ in range(2):
        with pytest.raises(SpoolUnusable) as refused:
            Spool(directory)
        assert str(refused.value) == f"spool {directory}: {said}"
        assert (refused.value.directory, refused.value.problem) == (directory, said)


@pytest.mark.parametrize("prepare", [newer, foreign, foreign_with_version, garbage, short_garbage])
def test_what_is_refused_is_left_as_it_was(directory: Path, prepare: Callable[[Path], None]) -> None:
    prepare(directory)
    before = (directory / "spool.db").read_bytes()
    with pytest.raises(SpoolUnusable):
        Spool(directory)
    assert (directory / "spool.db").read_bytes() == before


def test_a_spool_that_is_closed_says_so(directory: Path) -> None:
    spool = Spool(directory)
    spool.close()
    spool.close()
    with pytest.raises(SpoolUnusable, match="closed"):
        add(spool)
    with pytest.raises(SpoolUnusable, match="closed"):
        len(spool)


def test_a_body_that_cannot_be_stored_is_a_spool_error(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    accepted = add(spool)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpoolUnusable, match="No space left"):
        add(spool, body=LARGE)
    monkeypatch.setattr("smtpcore.drivers.spool.compose_bounce", lambda *_: LARGE)
    with pytest.raises(SpoolUnusable, match="No space left"):
        perform(spool, Bounce(accepted.mail, (failure(),)), Forget(accepted.jobs[0]))
    assert [entry.mail for entry in spool.list()] == [accepted.mail]
    assert files(spool.directory) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run([umount, place], check=True)


@pytest.mark.parametrize("body", [b"y" * 30_000, LARGE], ids=["inline", "file"])
def test_a_disk_that_is_full_costs_nothing_that_was_accepted(small_disk: Path, body: bytes) -> None:
    accepted: list[MailAccepted] = []
    with Spool(small_disk / "spool") as spool:
        spool.lock()

        def fill() -> None:
            for number in range(100):
                accepted.append(add(spool, f"user{number}@far.example", body=body))

        with pytest.raises(SpoolUnusable, match="(?i)full|no space|disk") as refused:
            fill()
        assert refused.value.directory == spool.directory
        assert len(accepted) >= 2

        def intact(opened: Spool) -> None:
            entries, bodies, mails, names = everything(opened)
            assert [(entry.mail, entry.job) for entry in entries] == [(a.mail, a.jobs[0]) for a in accepted]
            assert bodies == {a.mail.mail_id: body + b"\r\n" for a in accepted}
            assert mails == len(accepted)
            assert len(names) == sum(a.mail.size > INLINE_OCTETS for a in accepted)

        intact(spool)
    with Spool(small_disk / "spool") as spool:
        spool.lock()
        intact(spool)
        # Room comes back with what is done.
        perform(spool, *(Forget(a.jobs[0]) for a in accepted))
        assert everything(spool) == ([], {}, 0, [])
    with Spool(small_disk / "spool") as spool:
        accepted = [add(spool, body=body)]
        intact(spool)
