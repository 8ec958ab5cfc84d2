"""One test for each defect of Twisted's queue, relayers and bounces, named after its cause.

What lives here: what shows only with a spool, threads and a real server. What does not: the same for the machine
(``relay``) and for a client's core (``core``).
"""

from __future__ import annotations

import email
import email.policy
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from smtpcore import DEFAULT_LIMITS, LocalProtocolError
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, Schedule
from smtpcore.sasl import Plain

from .relays import PATIENCE, Kind, wait_until
from .servers import Server, raw_server

MANY = [f"u{number}@{name}.example" for number in range(3) for name in "abc"]


@pytest.fixture
def threads() -> Iterator[Kind]:
    with Kind("threads") as made:
        yield made
        assert made.new_threads() == []


def taken(server: Server) -> list[str]:
    return sorted(recipient for _, recipients, _ in server.taken for recipient in recipients)


@pytest.mark.parametrize("mails", [1, 30])
def test_r1_r2_r3_messages_that_wait_cannot_be_walked_through(
    threads: Kind, server: Server, spool: Spool, mails: int
) -> None:
    relay = threads.make(spool, server.port)
    for _ in range(mails):
        relay.submit(b"hi\n", sender="", recipients=MANY)
    relay.run(once=True)
    assert taken(server) == sorted(MANY * mails)
    assert len(spool) == 0


def test_r4_after_a_connection_that_failed_messages_stay_taken(threads: Kind, spool: Spool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    notes: list[Fate | Attempted] = []
    relay = threads.make(spool, port, notes=notes, schedule=Schedule())
    relay.submit(b"hi\n", sender="", recipients=["u@a.example", "v@b.example"])
    background = relay.start()
    wait_until(lambda: len([note for note in notes if isinstance(note, Attempted)]) == 2)
    assert [entry.active for entry in spool.list()] == [False, False]
    relay.stop()
    assert background.ended() is None


def test_r5_bodies_are_read_as_text_and_all_files_stay_open(threads: Kind, server: Server, spool: Spool) -> None:
    body = b"Subject: octets\r\n\r\n" + b"\xff" * 70 + b"\r\n"
    large = body + b"caf\xc3\xa9\r\n" * 20_000
    relay = threads.make(spool, server.port, sessions=1, deliveries_ahead=2)
    for number in range(30):
        relay.submit(large if number % 2 else body, sender="", recipients="u@a.example")
    server.hold = threading.Event()
    background = relay.start()
    assert server.holding.wait(PATIENCE)
    assert open_bodies(spool) <= 2
    server.hold.set()
    wait_until(lambda: not len(spool))
    relay.stop()
    assert background.ended() is None
    assert {content for _, _, content in server.taken} == {body, large}
    assert open_bodies(spool) == 0


def open_bodies(spool: Spool) -> int:
    """How many bodies this process has open."""
    folder, found = str(spool.directory / "bodies"), 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith(folder)
        except FileNotFoundError:
            continue
    return found


def test_r6_nothing_can_be_queued(threads: Kind, spool: Spool) -> None:
    relay = threads.make(spool, 25)
    relay.submit(b"hi\n", sender="me@home.example", recipients=MANY)
    assert sorted(r.address for entry in spool.list() for r in entry.job.recipients) == sorted(MANY)
    with pytest.raises(LocalProtocolError):
        relay.submit(b"hi\n", sender="me@home.example", recipients=["nowhere"])
    assert len(spool) == 1


def test_r9_an_exception_stops_the_relay_for_ever(threads: Kind, server: Server, spool: Spool) -> None:
    def notice(_event: object) -> None:
        raise ZeroDivisionError("a callback")

    def options(host: object) -> dict[str, Any]:
        raise ZeroDivisionError("options")

    broken = threads.make(spool, server.port, options=options, schedule=Schedule())
    broken.submit(b"hi\n", sender="", recipients="u@a.example")
    broken.run(once=True)
    (entry,) = spool.list()
    assert "ZeroDivisionError" in entry.job.recipients[0].last_words
    relay = threads.make(spool, server.port, notice=notice)
    with relay:
        for _ in range(3):
            relay.submit(b"hi\n", sender="", recipients="v@a.example").fates(PATIENCE)


def bounce_of(threads: Kind, server: Server, spool: Spool, message: bytes, *recipients: str) -> EmailMessage:
    """The bounce that comes when these are refused."""
    relay = threads.make(spool, server.port)
    relay.submit(message, sender="me@home.example", recipients=recipients)
    relay.run(once=True)
    ((sender, recipients_of_bounce, content),) = [mail for mail in server.taken if mail[1] == ["me@home.example"]]
    assert (sender, recipients_of_bounce) == ("", ["me@home.example"])
    found = email.message_from_bytes(content, policy=email.policy.SMTP)
    assert isinstance(found, EmailMessage)
    return found


def test_r10_a_bounce_poisons_the_queue(threads: Kind, server: Server, spool: Spool) -> None:
    bounce_of(threads, server, spool, b"Subject: hi\n\nhi\n", "nobody@a.example", "u@b.example")
    assert taken(server) == ["me@home.example", "u@b.example"]
    assert len(spool) == 0


def test_r12_a_bounce_is_no_message_that_a_program_could_read(threads: Kind, server: Server, spool: Spool) -> None:
    latin = b"Subject: hi\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=latin-1\r\n\r\ncaf\xe9\r\n"
    report = bounce_of(threads, server, spool, latin, "nobody@a.example")
    assert [part.get_content_type() for part in report.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "message/rfc822",
    ]
    assert not [defect for part in report.walk() if part.get_content_type() != "text/plain" for defect in part.defects]
    assert report["From"].addresses[0].addr_spec == "MAILER-DAEMON@relay.example"
    assert report["Message-ID"].startswith("<")
    assert report["Date"].datetime
    assert (report["MIME-Version"], report["Auto-Submitted"]) == ("1.0", "auto-replied")
    text, status, original = cast("Iterator[Any]", report.iter_parts())
    about, recipient = status.get_payload()
    assert about["Reporting-MTA"] == "dns; relay.example"
    assert recipient["Final-Recipient"] == "rfc822; nobody@a.example"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")
    assert recipient["Diagnostic-Code"] == f"smtp; {server.refusal}"
    assert server.refusal in text.get_content()
    (given_back,) = original.iter_parts()
    assert (given_back["Subject"], given_back.get_content()) == ("hi", "caf\xe9\r\n")


def test_a_bounce_gives_back_the_header_of_what_has_no_form_of_seven_bits(
    threads: Kind, server: Server, spool: Spool
) -> None:
    report = bounce_of(threads, server, spool, b"Subject: caf\xe9\r\n\r\ncaf\xe9\r\n", "nobody@a.example")
    *_, original = report.iter_parts()
    assert original.get_content_type() == "text/rfc822-headers"
    assert original.get_content() == "Subject: caf\ufffd\r\n"


def test_r13_one_damaged_entry_blocks_the_queue(threads: Kind, server: Server, spool: Spool, tmp_path: Path) -> None:
    relay = threads.make(spool, server.port)
    damaged = relay.submit(b"x" * 200_000, sender="", recipients="u@a.example")
    orphan = spool.directory / "bodies" / "orphan.eml"
    orphan.write_bytes(b"nobody knows of it")
    body = next(path for path in (spool.directory / "bodies").iterdir() if path != orphan)
    body.unlink()
    relay.submit(b"hi\n", sender="", recipients="v@a.example")
    relay.run(once=True)
    assert taken(server) == ["v@a.example"]
    (entry,) = spool.list()
    assert entry.mail.mail_id == damaged.queue_id
    assert "cannot be read" in str(entry.problem)
    assert not orphan.exists()


def test_r13_the_envelope_is_code_that_is_run(threads: Kind, server: Server, spool: Spool) -> None:
    relay = threads.make(spool, server.port)
    relay.submit(b"hi\n", sender="", recipients="u@a.example")
    with sqlite3.connect(spool.directory / "spool.db") as database:
        database.execute("UPDATE job SET recipients = ?", (b"cos\nsystem\n(S'exit 1'\ntR.",))
    database.close()
    relay.run(once=True)
    assert [entry.problem is not None for entry in spool.list()] == [True]
    assert not server.taken


def test_r21_a_silent_server_holds_its_place_for_ever(threads: Kind, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    options = {"limits": DEFAULT_LIMITS.scaled(0.001)}
    with raw_server(lambda connection: None) as port:
        relay = threads.make(spool, port, notes=notes, options=options, schedule=Schedule(), sessions=1)
        relay.submit(b"hi\n", sender="", recipients="u@a.example")
        relay.run(once=True)
    (attempt,) = notes
    assert isinstance(attempt, Attempted)
    assert [entry.active for entry in spool.list()] == [False]


def test_r22_a_secret_for_each_peer_cannot_be_had(threads: Kind, spool: Spool) -> None:
    asked: list[str | None] = []

    def secret(host: str | None) -> list[Plain]:
        asked.append(host)
        return [Plain("me", "secret")]

    with Server() as server:
        # Credentials are never said in clear: what is wanted is that they are asked for, and by whom.
        notes: list[Fate | Attempted] = []
        relay = threads.make(spool, server.port, notes=notes, options={"credentials": secret}, schedule=Schedule())
        relay.submit(b"hi\n", sender="", recipients="u@a.example")
        relay.run(once=True)
    assert asked == ["127.0.0.1"]
    assert not server.taken


def test_r23_a_restart_forgets_everything_but_the_files(threads: Kind, server: Server, spool: Spool) -> None:
    first = threads.make(spool, server.port, schedule=Schedule())
    first.submit(b"hi\n", sender="", recipients=["later@a.example", "u@a.example"])
    first.run(once=True)
    with Spool(spool.directory) as after:
        (entry,) = after.list()
    assert entry.job.attempts == 1
    assert [(r.address, r.last_words) for r in entry.job.recipients] == [
        ("later@a.example", "450 4.7.1 come back later")
    ]


def test_r24_recipients_of_a_folded_header_are_lost_and_a_full_name_is_the_sender(
    threads: Kind, server: Server, spool: Spool
) -> None:
    message = email.message_from_bytes(
        b'From: "Full Name" <me@home.example>\nTo: a@a.example, b@b.example,\n "C, D" <c@c.example>\n'
        b"Bcc: d@d.example\nSubject: hi\n\nhi\n",
        policy=email.policy.default,
    )
    notes: list[Fate | Attempted] = []
    relay = threads.make(spool, server.port, notes=notes)
    relay.submit(message)
    relay.run(once=True)
    assert taken(server) == ["a@a.example", "b@b.example", "c@c.example", "d@d.example"]
    assert {sender for sender, _, _ in server.taken} == {"me@home.example"}
    assert not [content for _, _, content in server.taken if b"Bcc" in content]
    assert {note.kind for note in notes if isinstance(note, Fate)} == {FateKind.DELIVERED}
