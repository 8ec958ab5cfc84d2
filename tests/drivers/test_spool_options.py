"""What a spool keeps of an envelope beyond addresses: options, binary bodies, addresses beyond ASCII.

What lives here: into the spool and out of it again, also from a spool that an earlier version wrote. What does not:
what a relay makes of it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import (
    BodyFacts,
    DeliverBy,
    Envelope,
    LocalProtocolError,
    MailOptions,
    MailSource,
    Notify,
    RecipientOptions,
    Return,
    Unavailable,
    XForward,
)
from smtpcore.drivers.spool import QueueEntry, Spool
from smtpcore.relay import (
    Bounce,
    Confirmation,
    Failure,
    JobsLoaded,
    Load,
    MailAccepted,
    Orders,
    RelaySettings,
    Save,
    Success,
)

NOW = 1_800_000_000.0
SETTINGS = RelaySettings(reporting_mta="relay.example")
OLD = Path(__file__).parent / "spools" / "version-2"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    with Spool(directory) as opened:
        yield opened


def add(spool: Spool, envelope: Envelope, body: bytes = b"hello\r\n") -> MailAccepted:
    (accepted,) = spool.add([spool.prepare(envelope, [body])], NOW)
    return accepted


def loaded(spool: Spool, domain: str) -> JobsLoaded:
    """What a relay is given of a domain, in another run."""
    spool.lock()
    (fact,) = spool.execute(Orders(effects=(Load(domain, NOW, NOW + 1e6, 100),)), SETTINGS, NOW).facts
    assert isinstance(fact, JobsLoaded)
    spool.unlock()
    return fact


def entries(spool: Spool) -> dict[int, QueueEntry]:
    return {entry.job.job_id: entry for entry in spool.list()}


EVERYTHING = MailOptions(
    returned=Return.HEADERS,
    envelope_id="QQ 314=159",
    require_tls=True,
    deliver_by=DeliverBy(seconds=-5, notify_only=True, trace=True),
    priority=-3,
    hold_until=datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))),
    submitter="",
    forwarded=XForward(name=Unavailable.FOR_GOOD, address="2001:db8::1", port=25, source=MailSource.REMOTE),
)


@pytest.mark.parametrize(
    "options",
    [
        MailOptions(),
        EVERYTHING,
        MailOptions(returned=Return.FULL, hold_for=600, submitter="anna@home.example", priority=0),
        MailOptions(deliver_by=DeliverBy(seconds=120), hold_until=datetime(2030, 1, 1, tzinfo=UTC)),
        MailOptions(
            forwarded=XForward(
                name="spike.example",
                address="192.0.2.1",
                port=Unavailable.FOR_GOOD,
                protocol="ESMTP",
                helo="a=b+c",
                ident="REMOTE",
                source=Unavailable.FOR_GOOD,
            )
        ),
    ],
)
def test_what_is_asked_for_a_mail_comes_out_as_it_went_in(spool: Spool, options: MailOptions) -> None:
    accepted = add(spool, Envelope("me@near.example", ("you@far.example",), options=options))
    assert accepted.mail.options == options
    (mail,) = loaded(spool, "far.example").mails
    assert mail == accepted.mail


@pytest.mark.parametrize(
    "wish",
    [
        RecipientOptions(),
        RecipientOptions(notify=(Notify.NEVER,)),
        RecipientOptions(
            notify=(Notify.SUCCESS, Notify.DELAY), original_recipient="list+x@far.example", address_type="x400"
        ),
        RecipientOptions(notify=(Notify.FAILURE,), original_recipient="büro@far.example"),
    ],
)
def test_what_is_asked_for_a_recipient_comes_out_as_it_went_in(spool: Spool, wish: RecipientOptions) -> None:
    envelope = Envelope("", ("a@far.example", "b@far.example"), recipient_options={"b@far.example": wish})
    accepted = add(spool, envelope)
    fact = loaded(spool, "far.example")
    assert fact.jobs == accepted.jobs
    assert [recipient.options for recipient in fact.jobs[0].recipients] == [None, wish]
    # It stays when an attempt leaves something of the job.
    spool.lock()
    spool.execute(Orders(durable=(Save(fact.jobs[0]),)), SETTINGS, NOW)
    spool.unlock()
    assert loaded(spool, "far.example").jobs == accepted.jobs


texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30)
# The spool keeps the offset, not the zone; in an hour that a zone has twice the two would never be equal (PEP 495).
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()).map(
    lambda moment: moment.replace(tzinfo=timezone(moment.utcoffset() or timedelta()))
)
attributes = st.none() | st.sampled_from(["x", "REMOTE", "[192.0.2.1]", Unavailable.FOR_GOOD])
forwarded = st.builds(
    XForward,
    name=attributes,
    address=attributes,
    port=st.integers(1, 65_535) | st.just(Unavailable.FOR_GOOD),
    protocol=attributes,
    helo=attributes,
    ident=attributes,
    source=st.none() | st.sampled_from([*MailSource, Unavailable.FOR_GOOD]),
)
mail_options = st.builds(
    MailOptions,
    returned=st.none() | st.sampled_from(Return),
    envelope_id=st.none() | texts,
    require_tls=st.booleans(),
    deliver_by=st.none()
    | st.builds(DeliverBy, seconds=st.integers(1, 999_999_999), notify_only=st.booleans(), trace=st.booleans()),
    priority=st.none() | st.integers(-9, 9),
    hold_until=st.none() | moments,
    submitter=st.sampled_from([None, "", "anna@home.example"]),
    forwarded=st.none() | forwarded,
) | st.builds(MailOptions, hold_for=st.integers(1, 999_999_999))
wishes = st.builds(
    RecipientOptions,
    notify=st.sets(st.sampled_from([Notify.SUCCESS, Notify.FAILURE, Notify.DELAY])) | st.just([Notify.NEVER]),
    original_recipient=st.none() | texts | st.text("äß漢@.x", min_size=1, max_size=20),
    address_type=st.sampled_from(["rfc822", "x400", "utf-8"]),
)


def test_no_option_is_without_its_example_here() -> None:
    said = (EVERYTHING, MailOptions(hold_for=1))
    assert all(
        any(getattr(each, field.name) for each in said) or field.name == "submitter" for field in fields(MailOptions)
    )


@settings(deadline=None, max_examples=30)
@given(mail_options, st.none() | wishes)
def test_whatever_is_asked_comes_out_as_it_went_in(options: MailOptions, wish: RecipientOptions | None) -> None:
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "spool") as spool:
        asked = {} if wish is None else {"you@far.example": wish}
        accepted = add(spool, Envelope("", ("you@far.example",), options=options, recipient_options=asked))
        fact = loaded(spool, "far.example")
        assert (fact.mails, fact.jobs) == ((accepted.mail,), accepted.jobs)
        assert fact.mails[0].options == options


@pytest.mark.parametrize("size", [50, 200_000])
def test_a_binary_body_is_kept_as_it_came(spool: Spool, size: int) -> None:
    body = b"Subject: x\r\n\r\n" + bytes(range(256)) * (size // 50) + b"\r.\n"
    accepted = add(spool, Envelope("", ("you@far.example",), body=BodyFacts(binary=True, utf8_header=True)), body)
    (mail,) = loaded(spool, "far.example").mails
    assert mail == accepted.mail
    facts = mail.body_facts
    assert (facts.binary, facts.canonical, facts.utf8_header, facts.size) == (True, True, True, len(body))
    kept = spool.open_body(mail.mail_id)
    if not isinstance(kept, bytes):
        with kept as file:
            kept = file.read()
    assert kept == body


def test_domains_beyond_ascii_are_jobs_for_what_the_dns_knows(spool: Spool) -> None:
    recipients = ("büro@straße.example", "jörg@BÜCHER.example", "eva@xn--bcher-kva.example", "rené@[192.0.2.1]")
    accepted = add(spool, Envelope("größe@bücher.example", recipients))
    assert [job.domain for job in accepted.jobs] == ["xn--strae-oqa.example", "xn--bcher-kva.example", "[192.0.2.1]"]
    fact = loaded(spool, "xn--bcher-kva.example")
    assert fact.mails[0].reverse_path == "größe@bücher.example"
    members = [[recipient.address for recipient in job.recipients] for job in fact.jobs if "bcher" in job.domain]
    assert members == [["jörg@BÜCHER.example", "eva@xn--bcher-kva.example"]]


@pytest.mark.parametrize("envelope", [("x@\u2d80\u0378.example", "you@far.example"), ("", "x@\u2d80\u0378.example")])
def test_a_domain_that_no_dns_can_know_is_refused_before_anything_is_accepted(
    spool: Spool, envelope: tuple[str, str]
) -> None:
    with pytest.raises(LocalProtocolError, match="A-labels"):
        spool.prepare(Envelope(envelope[0], envelope[1:]), b"x\r\n")
    assert len(spool) == 0


def test_a_sender_whose_domain_lost_its_a_labels_keeps_no_report(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = add(spool, Envelope("größe@bücher.example", ("you@far.example",)))

    def unknown(domain: str) -> str:
        raise LocalProtocolError("not in this version of Unicode", domain)

    monkeypatch.setattr("smtpcore.drivers.spool.a_labels", unknown)
    spool.lock()
    failure = Failure("you@far.example", "5.1.1", None, "no", "")
    spool.execute(Orders(durable=(Bounce(accepted.mail, (failure,)),)), SETTINGS, NOW)
    assert [entry.job.domain for entry in entries(spool).values()] == ["far.example", "bücher.example"]


# --- reports ----------------------------------------------------------------------------------------------------------


def report_on(spool: Spool, envelope: Envelope, order: type[Bounce] | type[Confirmation] = Bounce) -> MailAccepted:
    """The report on a mail as it is stored."""
    accepted = add(spool, envelope, b"Subject: x\r\n\r\nthe text\r\n")
    spool.lock()
    if order is Bounce:
        about: object = Bounce(accepted.mail, (Failure("you@far.example", "5.1.1", None, "no", ""),))
    else:
        about = Confirmation(accepted.mail, (Success("you@far.example", True, "2.0.0", "250 ok", ""),))
    (fact,) = spool.execute(Orders(durable=(about,)), SETTINGS, NOW).facts  # type: ignore[arg-type]  # whatever orders a test has
    assert isinstance(fact, MailAccepted)
    assert fact.mail.reverse_path == ""
    return fact


def text_of(spool: Spool, fact: MailAccepted) -> str:
    body = spool.open_body(fact.mail.mail_id)
    assert isinstance(body, bytes)
    return body.decode()


@pytest.mark.parametrize("order", [Bounce, Confirmation])
@pytest.mark.parametrize("require_tls", [True, False])
def test_a_report_asks_for_tls_where_its_mail_did_and_for_nothing_else(
    spool: Spool, require_tls: bool, order: type[Bounce] | type[Confirmation]
) -> None:
    options = MailOptions(require_tls=require_tls, envelope_id="id", returned=Return.FULL, priority=3)
    fact = report_on(spool, Envelope("me@near.example", ("you@far.example",), options=options), order)
    assert fact.mail.options == MailOptions(require_tls=require_tls)
    assert ("the text" in text_of(spool, fact)) is (order is Bounce and not require_tls)
    assert "Action: relayed" in text_of(spool, fact) or order is Bounce


@pytest.mark.parametrize("size", [50, 200_000])
@pytest.mark.parametrize(
    ("header", "declared", "facts"),
    [
        ("Subject: é", False, (False, True)),
        ("Subject: é", True, (True, False)),
        ("Subject: e", False, (False, False)),
        ("Subject: e", True, (True, False)),
    ],
)
def test_utf8_in_the_header_is_found(
    spool: Spool, size: int, header: str, declared: bool, facts: tuple[bool, bool]
) -> None:
    octets = f"{header}\r\n\r\n{'é' * (size // 2)}\r\n".encode()
    pieces = [octets[start : start + 1000] for start in range(0, len(octets), 1000)]
    envelope = Envelope("", ("you@far.example",), body=BodyFacts(utf8_header=declared))
    (accepted,) = spool.add([spool.prepare(envelope, pieces)], 0.0)
    (mail,) = loaded(spool, "far.example").mails
    assert mail == accepted.mail
    assert (mail.body_facts.utf8_header, mail.body_facts.utf8_found) == facts
    (entry,) = spool.list()
    assert (entry.mail.utf8_header, entry.mail.utf8_found) == facts


def test_a_report_to_a_sender_beyond_ascii_is_declared(spool: Spool) -> None:
    fact = report_on(spool, Envelope("größe@bücher.example", ("you@far.example",)))
    assert fact.mail.utf8_header
    assert fact.jobs[0].domain == "xn--bcher-kva.example"
    assert "To: <größe@bücher.example>" in text_of(spool, fact)


def test_a_report_to_a_sender_whose_domain_alone_is_beyond_ascii_needs_no_smtputf8(spool: Spool) -> None:
    fact = report_on(spool, Envelope("me@bücher.example", ("you@far.example",)))
    assert not fact.mail.utf8_header
    assert fact.jobs[0].recipients[0].address == "me@xn--bcher-kva.example"
    assert "To: <me@xn--bcher-kva.example>" in text_of(spool, fact)


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE mail SET options = 'x'", "its list of options is no JSON"),
        ("UPDATE mail SET options = 5", "its options are 5"),
        ("UPDATE mail SET options = '[]'", "its options are []"),
        ("UPDATE mail SET options = '{\"priority\": 99}'", "its options are {'priority': 99}"),
        ("UPDATE mail SET options = '{\"priority\": true}'", "its options are {'priority': True}"),
        ('UPDATE mail SET options = \'{"returned": "ALL"}\'', "its options are {'returned': 'ALL'}"),
        ("UPDATE mail SET options = '{\"colour\": 1}'", "its options are {'colour': 1}"),
        ("UPDATE mail SET options = '{\"deliver_by\": [1]}'", "its options are {'deliver_by': [1]}"),
        ('UPDATE mail SET options = \'{"hold_until": "soon"}\'', "its options are {'hold_until': 'soon'}"),
        ("UPDATE mail SET options = '{\"forwarded\": {}}'", "its options are {'forwarded': {}}"),
        ("UPDATE mail SET options = '{\"forwarded\": 5}'", "its options are {'forwarded': 5}"),
        ('UPDATE mail SET options = \'{"forwarded": {"name": [1]}}\'', "its options are {'forwarded': {'name': [1]}}"),
        (
            'UPDATE mail SET options = \'{"forwarded": {"port": "25"}}\'',
            "its options are {'forwarded': {'port': '25'}}",
        ),
        (
            'UPDATE mail SET options = \'{"forwarded": {"source": "HERE"}}\'',
            "its options are {'forwarded': {'source': 'HERE'}}",
        ),
        ('UPDATE mail SET options = \'{"forwarded": {"colour": "red"}}\'', "its options are {'forwarded': {'colour'"),
        ("UPDATE mail SET binary = 'x'", "its binary is 'x'"),
        ('UPDATE job SET recipients = \'[["a@b","",false,{"notify":["PERHAPS"]}]]\'', "its options are"),
        ('UPDATE job SET recipients = \'[["a@b","",false,{},1]]\'', "one of its recipients is"),
    ],
)
def test_a_mail_whose_options_cannot_be_read_is_set_aside(
    spool: Spool, directory: Path, statement: str, problem: str
) -> None:
    add(spool, Envelope("me@near.example", ("you@far.example",)))
    with sqlite3.connect(directory / "spool.db") as database:
        database.execute(statement)
    database.close()
    assert loaded(spool, "far.example").jobs == ()
    (entry,) = entries(spool).values()
    assert problem in str(entry.problem)
    assert entry.mail.options == MailOptions()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE job SET attempts = -5", "its number of attempts is -5"),
        ("UPDATE job SET due_at = 9e999", "its due time is inf"),
        ("UPDATE job SET attempts = 9e999", "its number of attempts is inf"),
    ],
)
def test_of_a_mail_with_a_damaged_job_everything_else_is_shown(
    spool: Spool, directory: Path, statement: str, problem: str
) -> None:
    body = BodyFacts(utf8_header=True)
    wish = RecipientOptions(notify=[Notify.NEVER])
    envelope = Envelope(
        "", ("a@far.example",), body=body, options=EVERYTHING, recipient_options={"a@far.example": wish}
    )
    accepted = add(spool, envelope, b"caf\xc3\xa9\r\n")
    with sqlite3.connect(directory / "spool.db") as database:
        database.execute(statement)
    database.close()
    (entry,) = spool.list()
    assert entry.problem == problem
    assert entry.mail == accepted.mail
    assert (entry.job.domain, entry.job.recipients) == ("far.example", accepted.jobs[0].recipients)
    assert entry.job.attempts == 0 or entry.job.attempts == -5


@pytest.mark.parametrize(
    ("column", "field"), [("size", "size"), ("longest_line", "longest_line"), ("options", "options")]
)
def test_of_a_damaged_mail_everything_else_is_shown(spool: Spool, directory: Path, column: str, field: str) -> None:
    accepted = add(spool, Envelope("", ("a@far.example",), options=EVERYTHING))
    with sqlite3.connect(directory / "spool.db") as database:
        database.execute(f"UPDATE mail SET {column} = x'00'")
    database.close()
    (entry,) = spool.list()
    empty = {"size": 0, "longest_line": None, "options": MailOptions()}[field]
    assert entry.problem
    assert entry.mail == replace(accepted.mail, **{field: empty})  # type: ignore[arg-type]  # arguments by name


# --- from an earlier version ------------------------------------------------------------------------------------------


def test_a_spool_of_the_version_before_is_brought_up_to_date_with_all_that_is_in_it(directory: Path) -> None:
    shutil.copytree(OLD, directory)
    with Spool(directory) as spool:
        assert len(spool) == 3
        found = entries(spool)
        assert all(entry.problem is None for entry in found.values())
        assert all(entry.mail.options == MailOptions() and not entry.mail.binary for entry in found.values())
        first, _, held, large = (found[number] for number in (1, 2, 3, 4))
        (left,) = first.job.recipients
        assert (left.address, left.last_words, left.warned, left.options) == (
            "boris@far.example",
            "451 4.3.0 later",
            True,
            None,
        )
        assert (first.job.attempts, first.job.due_at, first.mail.leading_dots) == (2, 1_700_003_600.0, True)
        assert held.held
        assert (held.mail.reverse_path, held.mail.eight_bit, held.job.domain) == ("", True, "")
        assert spool.open_body(1) == b"Subject: small\r\n\r\n.dot\r\n"
        body = spool.open_body(3)
        assert not isinstance(body, bytes)
        with body:
            assert len(body.read()) == large.mail.size
        # It takes what the earlier version could not keep.
        accepted = add(spool, Envelope("größe@bücher.example", ("you@far.example",), options=EVERYTHING))
        assert accepted.mail.mail_id == 4
    with Spool(directory) as spool:
        assert entries(spool)[5].mail.options == EVERYTHING


def test_an_upgrade_that_fails_halfway_leaves_the_spool_as_it_was(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(OLD, directory)
    steps = {3: "ALTER TABLE mail ADD COLUMN binary INTEGER NOT NULL DEFAULT 0; CREATE TABLE mail (x)"}
    with monkeypatch.context() as patched:
        patched.setattr("smtpcore.drivers._spool.schema._STEPS", steps)
        with pytest.raises(Exception, match="already exists"):
            Spool(directory)
    with Spool(directory) as spool:
        assert len(spool) == 3
