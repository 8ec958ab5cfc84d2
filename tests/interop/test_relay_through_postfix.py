"""The relay with a real Postfix as its next hop: what was accepted arrives, octet for octet, once.

What lives here: spool to maildir, through everything in between. What does not: the service's own rules (``service``),
and crashes (``crash``).
"""

from __future__ import annotations

import email
import email.policy
import itertools
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, RelaySettings, Schedule, SmartHost

from .arrivals import Maildirs
from .corpus import MESSAGES, canonical
from .peers import MAILBOXES, Certificate, Way, start_postfix
from .postfix import DOMAIN, Postfix, postfix_missing, wait_until
from .results import Results

pytestmark = pytest.mark.interop

Run = Callable[[Callable[[], Awaitable[None]]], None]
SETTINGS: dict[str, Any] = {"reporting_mta": "relay.example", "schedule": Schedule(delays=(0.2,)), "rest": 0.2}
_numbers = itertools.count(1)


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as opened:
        yield opened


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"relayed-{next(_numbers)}@elsewhere.example"


@pytest.fixture(scope="module")
def hop() -> Iterator[Postfix]:
    """Two listeners: one takes all that comes, one serves a single client at a time."""
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    narrow = {"smtpd_client_connection_count_limit": "1", "smtpd_client_event_limit_exceptions": ""}
    with Postfix({"smtpd_error_sleep_time": "0"}, mailboxes=MAILBOXES, listeners=({}, narrow)) as server:
        yield server


@pytest.fixture(scope="module")
def arrived(hop: Postfix) -> Callable[[str], list[tuple[bytes, bytes]]]:
    return Maildirs(hop.maildirs).mails


async def relay_all(relay: RelayService, spool: Spool) -> None:
    """Run the relay until its spool is empty."""

    async def watch() -> None:
        while len(spool):
            await anyio.sleep(0.02)
        relay.stop()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await relay.run()


def test_every_message_through_starttls_and_auth(
    run: Run,
    spool: Spool,
    sender: str,
    certificate: Certificate,
    trusting: ssl.SSLContext,
    tmp_path: Path,
    results: Results,
) -> None:
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    with start_postfix(certificate, tmp_path) as peer:
        excuse = peer.excuse(Way.AUTH_CRAM_MD5)
        if excuse is not None:
            pytest.skip(excuse)
        senders = {shape: f"{number}.{sender}" for number, shape in enumerate(MESSAGES)}

        async def main() -> None:
            route = SmartHost("localhost", peer.ports[Way.AUTH_CRAM_MD5.door])
            options = Way.AUTH_CRAM_MD5.options(trusting)
            relay = RelayService(spool, route, RelaySettings(**SETTINGS), options)
            for shape, octets in MESSAGES.items():
                await relay.submit(octets, sender=senders[shape], recipients=[f"{name}@{DOMAIN}" for name in MAILBOXES])
            await relay_all(relay, spool)

        run(main)
        wait_until(
            lambda: all(len(peer.mails(path)) >= len(MAILBOXES) for path in senders.values()), "all mails, thrice each"
        )
        for shape, path in senders.items():
            traces, bodies = zip(*peer.mails(path), strict=True)
            whole = canonical(MESSAGES[shape]).replace(b"\r\n", b"\n")
            if shape in peer.rules:
                added = peer.rules[shape].added
                assert added is not None
                bodies = [added.sub(b"", body) for body in bodies]
            assert list(bodies) == [whole] * len(MAILBOXES), shape
            for name in MAILBOXES:
                assert sum(b"Delivered-To: %s@" % name.encode() in trace for trace in traces) == 1, shape
    results.saw("Postfix", "as the relay's next hop, STARTTLS and AUTH: every message once, octet for octet")


@pytest.mark.parametrize("listener", [0, 1], ids=["wide", "one-client-at-a-time"])
def test_many_mails_arrive_once(
    run: Run, spool: Spool, hop: Postfix, arrived: Any, sender: str, listener: int, results: Results
) -> None:
    """The narrow listener greets every session but one with 421, and takes no mail from it."""
    bodies = [b"Subject: %d\r\n\r\n.%s\r\n" % (number, b"x" * number) for number in range(150)]

    async def main() -> None:
        route = SmartHost("127.0.0.1", hop.ports[listener])
        relay = RelayService(spool, route, RelaySettings(**SETTINGS))
        for body in bodies:
            await relay.submit(body, sender=sender, recipients=[f"{name}@{DOMAIN}" for name in MAILBOXES])
        await relay_all(relay, spool)

    run(main)
    wait_until(lambda: len(arrived(sender)) >= len(bodies) * len(MAILBOXES), "all mails")
    expected = {body.replace(b"\r\n", b"\n"): len(MAILBOXES) for body in bodies}
    assert Counter(mail for _, mail in arrived(sender)) == expected
    if listener:
        assert "Connection concurrency limit exceeded" in hop.log
        results.saw("Postfix", "as the relay's next hop, one client at a time (421 to the others): every mail once")


def test_what_postfix_refuses_comes_back_to_the_sender(
    run: Run, spool: Spool, hop: Postfix, arrived: Any, sender: str, results: Results
) -> None:
    notes: list[Any] = []
    body = b"Subject: to nobody\r\nMessage-ID: <%s>\r\n\r\nbody\r\n" % sender.encode()

    async def main() -> None:
        relay = RelayService(spool, SmartHost("127.0.0.1", hop.port), RelaySettings(**SETTINGS), notice=notes.append)
        await relay.submit(body, sender=f"carol@{DOMAIN}", recipients=[f"nobody@{DOMAIN}", f"alice@{DOMAIN}"])
        await relay_all(relay, spool)

    run(main)
    fates = {note.recipient.partition("@")[0]: note.kind for note in notes if isinstance(note, Fate)}
    assert fates == {"nobody": FateKind.BOUNCED, "alice": FateKind.DELIVERED, "carol": FateKind.DELIVERED}

    def bounces() -> list[bytes]:
        return [mail for _, mail in arrived("") if sender.encode() in mail]

    wait_until(bounces, "the bounce in its sender's maildir")
    (octets,) = bounces()
    bounce = email.message_from_bytes(octets, policy=email.policy.default)
    status: Any = list(bounce.iter_parts())[1].get_payload()
    assert status[1]["Final-Recipient"] == f"rfc822; nobody@{DOMAIN}"
    assert status[1]["Status"] == "5.1.1"
    assert "User unknown in virtual mailbox table" in status[1]["Diagnostic-Code"]
    results.saw("Postfix", "as the relay's next hop, 550 5.1.1: a bounce in its words, delivered through it")


def test_what_postscreen_defers_is_delivered_later(
    run: Run, spool: Spool, screened: Postfix, sender: str, results: Results
) -> None:
    notes: list[Any] = []
    # Who is tested is let through over a new connection only.
    settings = RelaySettings(**SETTINGS, idle_seconds=0.05)

    async def main() -> None:
        relay = RelayService(spool, SmartHost("127.0.0.1", screened.port), settings, notice=notes.append)
        await relay.submit(b"Subject: screened\r\n\r\nbody\r\n", sender=sender, recipients=f"alice@{DOMAIN}")
        await relay_all(relay, spool)

    run(main)
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert attempt.words.startswith("450 4.3.2 ")
    assert [note.kind for note in notes if isinstance(note, Fate)] == [FateKind.DELIVERED]
    wait_until(lambda: screened.delivered("alice"), "the mail")
    assert len(screened.delivered("alice")) == 1
    results.saw("Postfix", "as the relay's next hop behind postscreen: deferred, then delivered once")
