"""The relay service against real servers, on asyncio and on trio.

What lives here: what a program that runs a relay can count on. What does not: the machine's rules (``relay``) and
killed processes (``crash``).
"""

from __future__ import annotations

import email
import email.policy
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest
import trustme
from servers import Server

from smtpcore import Envelope, LocalProtocolError, TlsPolicy
from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import Spool, SpoolLocked, SpoolUnusable
from smtpcore.relay import Attempted, Fate, FateKind, RelaySettings, Schedule, SmartHost
from smtpcore.sasl import Plain

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as opened:
        yield opened


def service(spool: Spool, port: int, *, notes: list | None = None, options=None, grace: float = 10.0, **settings):
    values = {"reporting_mta": "relay.example", "schedule": Schedule(delays=(0.2,)), **settings}
    notice = None if notes is None else notes.append
    route = SmartHost("127.0.0.1", port)
    return RelayService(spool, route, RelaySettings(**values), options, notice=notice, grace=grace)


async def until_empty(relay: RelayService, spool: Spool) -> None:
    """Run the relay until its spool is empty."""

    async def watch() -> None:
        while len(spool):
            await anyio.sleep(0.02)
        relay.stop()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await relay.run()


def fates(notes: list) -> list[tuple[str, FateKind]]:
    return sorted((note.recipient, note.kind) for note in notes if isinstance(note, Fate))


def test_what_is_submitted_arrives_octet_for_octet(run: Run, server: Server, spool: Spool) -> None:
    small = b"Subject: small\n\n.dots\n..and more\rno end"
    large = b"Subject: large\r\n\r\n" + b".x" * 400 + b"\r\n" + b"y" * 70 + b"\r\n" + bytes(range(32, 256)) * 1000

    async def main() -> None:
        relay = service(spool, server.port)
        assert (await relay.submit(small, sender="me@home.example", recipients="u@a.example")).queue_id == 1
        lines = b"\r\n".join(large[start : start + 900] for start in range(0, len(large), 900))
        assert (await relay.submit([lines], sender="", recipients=["u@a.example", "v@b.example"])).queue_id == 2
        await relay.run(once=True)
        assert [content for _, _, content in server.taken if content.startswith(b"Subject: small")] == [
            b"Subject: small\r\n\r\n.dots\r\n..and more\r\nno end\r\n"
        ]
        ((_, recipients, content),) = [mail for mail in server.taken if b"large" in mail[2][:20]]
        assert recipients == ["u@a.example", "v@b.example"]
        assert content == lines + b"\r\n"

    run(main)
    assert len(spool) == 0


def test_what_is_refused_for_good_comes_back_to_its_sender(run: Run, server: Server, spool: Spool) -> None:
    notes: list = []

    async def main() -> None:
        relay = service(spool, server.port, notes=notes)
        await relay.submit(
            b"Subject: hi\n\nhi\n", sender="me@home.example", recipients=["nobody@a.example", "u@a.example"]
        )
        await relay.submit(b"Subject: hi\n\nhi\n", sender="", recipients=["nobody@b.example"])
        await until_empty(relay, spool)

    run(main)
    assert fates(notes) == [
        ("me@home.example", FateKind.DELIVERED),
        ("nobody@a.example", FateKind.BOUNCED),
        ("nobody@b.example", FateKind.DISCARDED),
        ("u@a.example", FateKind.DELIVERED),
    ]
    ((_, told, content),) = [mail for mail in server.taken if mail[0] == ""]
    assert told == ["me@home.example"]
    bounce = email.message_from_bytes(content, policy=email.policy.default)
    status = list(bounce.iter_parts())[1].get_payload()[1]
    assert status["Final-Recipient"] == "rfc822; nobody@a.example"
    assert status["Diagnostic-Code"] == "smtp; 550 5.1.1 nobody of that name"


def test_what_is_deferred_is_tried_again(run: Run, server: Server, spool: Spool) -> None:
    notes: list = []

    async def main() -> None:
        relay = service(spool, server.port, notes=notes)
        await relay.submit(b"hi\n", sender="", recipients=["later@a.example", "u@a.example"])
        await until_empty(relay, spool)

    run(main)
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert (attempt.recipient, attempt.attempts, attempt.words) == ("later@a.example", 1, "450 4.7.1 come back later")
    assert fates(notes) == [("later@a.example", FateKind.DELIVERED), ("u@a.example", FateKind.DELIVERED)]
    assert [recipients for _, recipients, _ in server.taken] == [["u@a.example"], ["later@a.example"]]


def test_a_smart_host_that_wants_tls_and_credentials(run: Run, spool: Spool) -> None:
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)
    options = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting, "credentials": [Plain("me", "secret")]}
    with Server(tls=context, users={"me": "secret"}) as server:

        async def main() -> None:
            relay = service(spool, server.port, options=options)
            await relay.submit(b"hi\n", sender="", recipients="u@a.example")
            await until_empty(relay, spool)

        run(main)
        assert server.encrypted == {True}


def test_sessions_are_shared_and_limited(run: Run, server: Server, spool: Spool) -> None:
    async def main() -> None:
        relay = service(spool, server.port, sessions_per_next_hop=2)
        for number in range(40):
            await relay.submit(b"hi\n", sender="", recipients=f"u{number}@d{number}.example")
        await relay.run(once=True)

    run(main)
    assert len(server.taken) == 40
    assert server.connections <= 2
    assert server.most_connections <= 2


def test_a_server_that_tires_costs_no_attempt(run: Run, server: Server, spool: Spool) -> None:
    notes: list = []
    server.mails_per_connection = 3

    async def main() -> None:
        relay = service(spool, server.port, notes=notes, sessions_per_next_hop=1)
        for number in range(10):
            await relay.submit(b"hi\n", sender="", recipients=f"u{number}@a.example")
        await until_empty(relay, spool)

    run(main)
    assert len(server.taken) == 10
    # MAIL was answered with 421: that attempt is spent, and the mail goes with the next session.
    assert all("421" in note.words for note in notes if isinstance(note, Attempted))


def test_a_smart_host_that_is_down_puts_everything_off(run: Run, spool: Spool) -> None:
    notes: list = []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def main() -> None:
        relay = service(spool, port, notes=notes, schedule=Schedule())
        for number in range(20):
            await relay.submit(b"hi\n", sender="", recipients=f"u{number}@a.example")
        with anyio.fail_after(20):
            await relay.run(once=True)

    run(main)
    assert len(spool) == 20
    assert {note.attempts for note in notes} == {1}
    assert all("cannot connect" in entry.job.recipients[0].last_words for entry in spool.list())


def test_stopping_breaks_off_what_hangs_and_loses_nothing(run: Run, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()
    notes: list = []

    async def main() -> None:
        relay = service(spool, server.port, notes=notes, grace=0.1)
        await relay.submit(b"hi\n", sender="", recipients="u@a.example")
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(relay.run)
                await anyio.to_thread.run_sync(server.holding.wait)
                relay.stop()

    run(main)
    (entry,) = spool.list()
    assert not entry.active
    (attempt,) = notes
    assert attempt.in_doubt


def test_cancelling_loses_nothing(run: Run, server: Server, spool: Spool) -> None:
    server.hold = threading.Event()

    async def main() -> None:
        relay = service(spool, server.port)
        await relay.submit(b"hi\n", sender="", recipients="u@a.example")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.run)
            await anyio.to_thread.run_sync(server.holding.wait)
            tasks.cancel_scope.cancel()

    run(main)
    (entry,) = spool.list()
    assert not entry.active
    server.hold.set()
    run(lambda: until_empty(service(spool, server.port), spool))
    assert len(spool) == 0


def test_a_mail_that_another_program_adds_is_noticed(run: Run, server: Server, spool: Spool) -> None:
    async def main() -> None:
        relay = service(spool, server.port)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(relay.run)
                with Spool(spool.directory) as other:
                    other.add([other.prepare(Envelope("", ("u@a.example",)), [b"hi\n"])], 1.0)
                while not server.taken:
                    await anyio.sleep(0.02)
                relay.stop()

    run(main)
    assert len(spool) == 0


def test_a_second_relay_is_refused(run: Run, server: Server, spool: Spool) -> None:
    async def main() -> None:
        with Spool(spool.directory) as other:
            other.lock()
            with pytest.raises(SpoolLocked, match="another relay"):
                await service(spool, server.port).run()

    run(main)


def test_what_cannot_be_recorded_stops_the_relay(run: Run, server: Server, spool: Spool, monkeypatch) -> None:
    execute = Spool.execute

    def failing(self, orders, settings, now):
        if any(type(order).__name__ == "Forget" for order in orders.durable):
            raise SpoolUnusable(self.directory, "the disk is full")
        return execute(self, orders, settings, now)

    async def main() -> None:
        relay = service(spool, server.port)
        await relay.submit(b"hi\n", sender="", recipients="u@a.example")
        monkeypatch.setattr(Spool, "execute", failing)
        with anyio.fail_after(20), pytest.raises(SpoolUnusable, match="full"):
            await relay.run()

    run(main)
    assert len(spool) == 1


def test_a_lost_body_keeps_nobody_else(run: Run, server: Server, spool: Spool) -> None:
    notes: list = []

    async def main() -> None:
        relay = service(spool, server.port, notes=notes, schedule=Schedule())
        await relay.submit(b"lost\r\n" * 20_000, sender="", recipients="u@a.example")
        await relay.submit(b"found\r\n", sender="", recipients="v@a.example")
        (body,) = (spool.directory / "bodies").iterdir()
        body.unlink()
        with anyio.fail_after(20):
            await relay.run(once=True)

    run(main)
    assert [recipients for _, recipients, _ in server.taken] == [["v@a.example"]]
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert "could not be read" in attempt.words
    assert len(spool) == 1


def test_what_may_not_be_sent_is_refused_at_once(run: Run, spool: Spool) -> None:
    async def main() -> None:
        relay = service(spool, 25)
        with pytest.raises(LocalProtocolError, match="bad"):
            await relay.submit(b"hi\n", sender="", recipients=["u@a.example", "bad"])
        with pytest.raises(LocalProtocolError, match="give the sender"):
            await relay.submit(b"hi\n", recipients=["u@a.example"])

    run(main)
    assert len(spool) == 0


def test_a_submission_that_is_cancelled_is_whole_or_not_there(run: Run, spool: Spool) -> None:
    async def main() -> None:
        relay = service(spool, 25)
        for _ in range(20):
            with anyio.move_on_after(0.0005):
                await relay.submit(b"hi\n" * 100, sender="", recipients="u@a.example")

    run(main)
    for entry in spool.list():
        assert spool.open_body(entry.mail.mail_id) == b"hi\r\n" * 100
