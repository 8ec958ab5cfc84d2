"""The relay services against real servers: on asyncio, on trio and in threads, by one table.

What lives here: what a program that runs a relay can count on. What does not: relays inside a program (``embedded``),
the machine's rules (``relay``) and killed processes (``crash``).
"""

from __future__ import annotations

import email
import email.policy
import os
import socket
import ssl
import threading
from typing import Any

import anyio
import pytest
import trustme

from smtpcore import Envelope, LocalProtocolError, TlsPolicy
from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import Spool, SpoolLocked, SpoolUnusable
from smtpcore.relay import Action, Attempted, Fate, FateKind, Forget, Operate, RelaySettings, Schedule, SmartHost
from smtpcore.sasl import Plain

from .relays import PATIENCE, Kind, failing_to, wait_until
from .servers import Server


def run_until_empty(relay: Any, spool: Spool) -> None:
    """Run the relay until its spool is empty."""
    background = relay.start()
    wait_until(lambda: not len(spool))
    relay.stop()
    assert background.ended() is None


def fates(notes: list[Fate | Attempted]) -> list[tuple[str, FateKind]]:
    return sorted((note.recipient, note.kind) for note in notes if isinstance(note, Fate))


def test_what_is_submitted_arrives_octet_for_octet(kind: Kind, server: Server, spool: Spool) -> None:
    small = b"Subject: small\n\n.dots\n..and more\rno end"
    large = b"Subject: large\r\n\r\n" + b".x" * 400 + b"\r\n" + b"y" * 70 + b"\r\n" + bytes(range(32, 256)) * 1000
    lines = b"\r\n".join(large[start : start + 900] for start in range(0, len(large), 900))
    relay = kind.make(spool, server.port)
    assert relay.submit(small, sender="me@home.example", recipients="u@a.example").queue_id == 1
    assert relay.submit([lines], sender="", recipients=["u@a.example", "v@b.example"]).queue_id == 2
    relay.run(once=True)
    assert [content for _, _, content in server.taken if content.startswith(b"Subject: small")] == [
        b"Subject: small\r\n\r\n.dots\r\n..and more\r\nno end\r\n"
    ]
    ((_, recipients, content),) = [mail for mail in server.taken if b"large" in mail[2][:20]]
    assert recipients == ["u@a.example", "v@b.example"]
    assert content == lines + b"\r\n"
    assert len(spool) == 0


def test_a_large_mail_is_sent_by_the_system(
    kind: Kind, server: Server, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    system = os.sendfile

    def sendfile(*args: Any) -> int:
        sent.append(system(*args))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", sendfile)
    large = b"Subject: large\r\n\r\n" + b"A line of the usual length.\r\n" * 20_000
    relay = kind.make(spool, server.port)
    relay.submit(large, sender="me@home.example", recipients="u@a.example")
    relay.run(once=True)
    assert [content for _, _, content in server.taken] == [large]
    assert sum(sent) == len(large)


def test_what_is_refused_for_good_comes_back_to_its_sender(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=notes)
    relay.submit(b"Subject: hi\n\nhi\n", sender="me@home.example", recipients=["nobody@a.example", "u@a.example"])
    relay.submit(b"Subject: hi\n\nhi\n", sender="", recipients=["nobody@b.example"])
    run_until_empty(relay, spool)
    assert fates(notes) == [
        ("me@home.example", FateKind.DELIVERED),
        ("nobody@a.example", FateKind.BOUNCED),
        ("nobody@b.example", FateKind.DISCARDED),
        ("u@a.example", FateKind.DELIVERED),
    ]
    ((_, told, content),) = [mail for mail in server.taken if mail[0] == ""]
    assert told == ["me@home.example"]
    bounce: Any = email.message_from_bytes(content, policy=email.policy.default)
    status = list(bounce.iter_parts())[1].get_payload()[1]
    assert status["Final-Recipient"] == "rfc822; nobody@a.example"
    assert status["Diagnostic-Code"] == "smtp; 550 5.1.1 nobody of that name"


def test_what_is_deferred_is_tried_again(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=notes)
    relay.submit(b"hi\n", sender="", recipients=["later@a.example", "u@a.example"])
    run_until_empty(relay, spool)
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert (attempt.recipient, attempt.attempts, attempt.words) == ("later@a.example", 1, "450 4.7.1 come back later")
    assert fates(notes) == [("later@a.example", FateKind.DELIVERED), ("u@a.example", FateKind.DELIVERED)]
    assert [recipients for _, recipients, _ in server.taken] == [["u@a.example"], ["later@a.example"]]


def test_a_route_that_fails_defers_that_mail_and_no_other(
    kind: Kind, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[Fate | Attempted] = []
    seen = threading.Event()

    class OwnRoute:
        def way(self, domain: str) -> SmartHost:
            if domain == "bad.example" and not seen.is_set():
                raise LookupError("the table server does not take hunter2")
            if domain == "strange.example" and not seen.is_set():
                return "hub.example"  # type: ignore[return-value]  # a wrong kind, on purpose
            return SmartHost("127.0.0.1", server.port)

    relay = kind.make(spool, server.port, notes=notes, route=OwnRoute())
    relay.submit(b"hi\n", sender="", recipients=["u@bad.example", "u@strange.example", "u@a.example"])
    background = relay.start()
    wait_until(lambda: fates(notes) == [("u@a.example", FateKind.DELIVERED)])
    wait_until(lambda: sum(isinstance(note, Attempted) for note in notes) >= 2)
    words = {note.recipient: note.words for note in notes if isinstance(note, Attempted)}
    # The sender may read these one day; the log is for operators.
    assert words == {
        f"u@{domain}": f"the route failed for the domain {domain}" for domain in ("bad.example", "strange.example")
    }
    written = {record.getMessage(): str(record.exc_info and record.exc_info[1]) for record in caplog.records}
    told = written["the route failed for the domain bad.example"]
    assert told == "the table server does not take hunter2"
    assert "the route gave 'hub.example' for the domain strange.example, which is no way" in written
    seen.set()
    wait_until(lambda: not len(spool))
    relay.stop()
    assert background.ended() is None
    assert sorted(fates(notes)) == [(f"u@{domain}.example", FateKind.DELIVERED) for domain in ("a", "bad", "strange")]


def test_a_smart_host_that_wants_tls_and_credentials(kind: Kind, spool: Spool) -> None:
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)
    options = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting, "credentials": [Plain("me", "secret")]}
    with Server(tls=context, users={"me": "secret"}) as server:
        relay = kind.make(spool, server.port, options=options)
        relay.submit(b"hi\n", sender="", recipients="u@a.example")
        run_until_empty(relay, spool)
        assert server.encrypted == {True}


@pytest.mark.parametrize(
    "options",
    [
        {"nonsense": 1},
        {"tls": "required"},
        {"helo_name": "a b"},
        {"tls": TlsPolicy.NEVER, "credentials": [Plain("me", "secret")]},
        {"credentials": Plain("me", "secret")},
    ],
)
def test_options_that_let_no_session_begin_are_refused_at_once(kind: Kind, spool: Spool, options: Any) -> None:
    with pytest.raises(LocalProtocolError):
        kind.make(spool, 25, options=options)


def test_what_a_function_for_credentials_raises_is_named_and_not_quoted(
    kind: Kind, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(host: str | None) -> list[Plain]:
        raise RuntimeError("the vault does not take hunter2")

    notes: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=notes, options={"credentials": refuse})
    relay.submit(b"hi\n", sender="me@a.example", recipients="u@a.example")
    background = relay.start()
    wait_until(lambda: bool(notes))
    relay.stop()
    assert background.ended() is None
    (attempt,) = notes
    assert attempt.words == "the function that gives the credentials: RuntimeError"
    (entry,) = spool.list()
    assert [recipient.last_words for recipient in entry.job.recipients] == [
        "the function that gives the credentials: RuntimeError"
    ]
    # Operators learn from the log what it was.
    assert "hunter2" in caplog.text


def test_sessions_are_shared_and_limited(kind: Kind, server: Server, spool: Spool) -> None:
    relay = kind.make(spool, server.port, sessions_per_next_hop=2)
    for number in range(40):
        relay.submit(b"hi\n", sender="", recipients=f"u{number}@d{number}.example")
    relay.run(once=True)
    assert len(server.taken) == 40
    assert server.connections <= 2
    assert server.most_connections <= 2


def test_a_server_that_tires_costs_no_attempt(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    server.mails_per_connection = 3
    relay = kind.make(spool, server.port, notes=notes, sessions_per_next_hop=1)
    for number in range(10):
        relay.submit(b"hi\n", sender="", recipients=f"u{number}@a.example")
    run_until_empty(relay, spool)
    assert len(server.taken) == 10
    # MAIL was answered with 421: that attempt is spent, and the mail goes with the next session.
    assert all("421" in note.words for note in notes if isinstance(note, Attempted))


def test_a_smart_host_that_is_down_puts_everything_off(kind: Kind, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    relay = kind.make(spool, port, notes=notes, schedule=Schedule())
    for number in range(20):
        relay.submit(b"hi\n", sender="", recipients=f"u{number}@a.example")
    relay.run(once=True)
    assert len(spool) == 20
    assert {note.attempts if isinstance(note, Attempted) else None for note in notes} == {1}
    assert all("cannot connect" in entry.job.recipients[0].last_words for entry in spool.list())


def test_stopping_breaks_off_what_hangs_and_loses_nothing(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    notes: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=notes, grace=0.1)
    relay.submit(b"hi\n", sender="", recipients="u@a.example")
    background = relay.start()
    assert server.holding.wait(PATIENCE)
    relay.stop()
    assert background.ended() is None
    (entry,) = spool.list()
    assert not entry.active
    (attempt,) = notes
    assert isinstance(attempt, Attempted)
    assert attempt.in_doubt


def test_stopping_lets_what_is_on_its_way_finish(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    notes: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=notes, grace=30.0)
    relay.submit(b"hi\n", sender="", recipients="u@a.example")
    background = relay.start()
    assert server.holding.wait(PATIENCE)
    relay.stop()
    server.hold.set()
    assert background.ended() is None
    assert fates(notes) == [("u@a.example", FateKind.DELIVERED)]
    assert len(spool) == 0


def test_interrupting_loses_nothing(kind: Kind, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    relay = kind.make(spool, server.port)
    relay.submit(b"hi\n", sender="", recipients="u@a.example")
    background = relay.start()
    assert server.holding.wait(PATIENCE)
    background.interrupt()
    background.ended()
    wait_until(lambda: kind.new_threads() == [])
    (entry,) = spool.list()
    assert not entry.active
    server.hold.set()
    run_until_empty(kind.make(spool, server.port), spool)


def test_what_hangs_before_the_first_mail_is_broken_off_and_costs_no_attempt(kind: Kind, spool: Spool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        relay = kind.make(spool, silent.getsockname()[1], grace=0.0)
        relay.submit(b"hi\n", sender="", recipients="u@a.example")
        background = relay.start()
        connection, _ = silent.accept()
        with connection:
            relay.stop()
            assert background.ended() is None
    (entry,) = spool.list()
    assert not entry.active
    assert entry.job.attempts == 0


def test_a_mail_that_another_program_adds_is_noticed(kind: Kind, server: Server, spool: Spool) -> None:
    relay = kind.make(spool, server.port)
    background = relay.start()
    with Spool(spool.directory) as other:
        other.add([other.prepare(Envelope("", ("u@a.example",)), [b"hi\n"])], 1.0)
    wait_until(lambda: server.taken)
    relay.stop()
    assert background.ended() is None
    assert len(spool) == 0


def test_a_second_relay_is_refused(kind: Kind, server: Server, spool: Spool) -> None:
    with Spool(spool.directory) as other:
        other.lock()
        with pytest.raises(SpoolLocked, match="another relay"):
            kind.make(spool, server.port).run()
        with pytest.raises(SpoolLocked, match="another relay"), kind.make(spool, server.port):
            pytest.fail("the block was entered")


def test_a_second_relay_over_one_spool_object_is_refused_until_the_first_has_ended(
    kind: Kind, server: Server, spool: Spool
) -> None:
    with kind.make(spool, server.port) as first:
        with pytest.raises(SpoolLocked, match="another relay of this process"):
            kind.make(spool, server.port).run(once=True)
        assert len(first.submit(b"hi\n", sender="", recipients="u@a.example").fates(PATIENCE)) == 1
    kind.make(spool, server.port).run(once=True)
    with Spool(spool.directory) as other:
        kind.make(other, server.port).run(once=True)


def test_what_another_relay_did_before_this_one_ran_is_not_done_again(kind: Kind, server: Server, spool: Spool) -> None:
    relay = kind.make(spool, server.port)
    relay.submit(b"hi\n", sender="", recipients=["u@a.example", "later@a.example"])
    gone = relay.submit(b"hi\n", sender="", recipients="w@a.example")
    with Spool(spool.directory) as other:
        other.command(Action.REMOVE, [gone.queue_id])
        kind.make(other, server.port, schedule=Schedule()).run(once=True)
    spool.command(Action.RETRY, [entry.mail.mail_id for entry in spool.list()])
    relay.run(once=True)
    assert [recipients for _, recipients, _ in server.taken] == [["u@a.example"], ["later@a.example"]]
    assert len(spool) == 0


def test_a_wish_that_could_not_be_recorded_is_heeded_by_the_next_relay_over_the_same_spool_object(
    kind: Kind, server: Server, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = kind.make(spool, server.port).submit(b"hi\n", sender="", recipients="u@a.example")
    with Spool(spool.directory) as last:
        last.lock()
        spool.command(Action.HOLD, [held.queue_id])
    with monkeypatch.context() as broken:
        broken.setattr(Spool, "execute", failing_to(Operate))
        with pytest.raises(SpoolUnusable, match="full"):
            kind.make(spool, server.port).run()
    kind.make(spool, server.port).run(once=True)
    assert [entry.held for entry in spool.list()] == [True]
    assert not server.taken


def test_a_service_works_once(kind: Kind, server: Server, spool: Spool) -> None:
    relay = kind.make(spool, server.port)
    relay.run(once=True)
    with pytest.raises(LocalProtocolError, match="make a new one"):
        relay.run(once=True)


def test_what_cannot_be_recorded_stops_the_relay(
    kind: Kind, server: Server, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = kind.make(spool, server.port)
    relay.submit(b"hi\n", sender="", recipients="u@a.example")
    monkeypatch.setattr(Spool, "execute", failing_to(Forget))
    with pytest.raises(SpoolUnusable, match="full"):
        relay.run()
    assert len(spool) == 1


def test_a_lost_body_keeps_nobody_else(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    server.hold = threading.Event()
    relay = kind.make(spool, server.port, notes=notes, schedule=Schedule(), sessions=1)
    background = relay.start()
    # While one mail is on its way the others wait in memory.
    relay.submit(b"first\r\n", sender="", recipients="t@a.example")
    assert server.holding.wait(PATIENCE)
    relay.submit(b"lost\r\n" * 20_000, sender="", recipients="u@a.example")
    found = relay.submit(b"found\r\n", sender="", recipients="v@a.example")
    (body,) = (spool.directory / "bodies").iterdir()
    body.unlink()
    server.hold.set()
    assert len(found.fates(PATIENCE)) == 1
    relay.stop()
    assert background.ended() is None
    assert [recipients for _, recipients, _ in server.taken] == [["t@a.example"], ["v@a.example"]]
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert "could not be read" in attempt.words
    assert len(spool) == 1


def test_what_may_not_be_sent_is_refused_at_once(kind: Kind, spool: Spool) -> None:
    relay = kind.make(spool, 25)
    with pytest.raises(LocalProtocolError, match="bad"):
        relay.submit(b"hi\n", sender="", recipients=["u@a.example", "bad"])
    with pytest.raises(LocalProtocolError, match="give the sender"):
        relay.submit(b"hi\n", recipients=["u@a.example"])
    assert len(spool) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_submission_that_is_cancelled_is_whole_or_not_there(backend: str, spool: Spool) -> None:
    async def main() -> None:
        relay = RelayService(spool, SmartHost("127.0.0.1", 25), RelaySettings(reporting_mta="relay.example"))
        for _ in range(20):
            with anyio.move_on_after(0.0005):
                await relay.submit(b"hi\n" * 100, sender="", recipients="u@a.example")

    anyio.run(main, backend=backend)
    for entry in spool.list():
        assert spool.open_body(entry.mail.mail_id) == b"hi\r\n" * 100


def test_an_operators_wish_reaches_a_relay_that_works(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    relay = kind.make(spool, server.port, notes=notes, schedule=Schedule())
    later = relay.submit(b"hi\n", sender="", recipients="later@a.example")
    unwanted = relay.submit(b"hi\n", sender="", recipients="later-too@b.example")
    background = relay.start()
    wait_until(lambda: len([note for note in notes if isinstance(note, Attempted)]) == 2)
    with Spool(spool.directory) as operator:
        operator.command(Action.REMOVE, [unwanted.queue_id])
        operator.command(Action.RETRY, [later.queue_id])
        wait_until(lambda: not len(operator))
    relay.stop()
    assert background.ended() is None
    assert [recipients for _, recipients, _ in server.taken] == [["later@a.example"]]


def test_an_operators_wish_that_the_last_relay_left_is_heeded(kind: Kind, server: Server, spool: Spool) -> None:
    relay = kind.make(spool, server.port)
    held, sent = (relay.submit(b"hi\n", sender="", recipients=f"u{n}@a.example") for n in range(2))
    with Spool(spool.directory) as last:
        last.lock()
        spool.command(Action.HOLD, [held.queue_id])
    background = relay.start()
    assert [fate.kind for fate in sent.fates(PATIENCE)] == [FateKind.DELIVERED]
    wait_until(lambda: [entry.mail.mail_id for entry in spool.list()] == [held.queue_id])
    relay.stop()
    assert background.ended() is None
    assert [recipients for _, recipients, _ in server.taken] == [["u1@a.example"]]
