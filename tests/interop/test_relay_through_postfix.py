"""The relay with a real Postfix as its next hop, in each of its three services: what was accepted arrives, once.

What lives here: spool to maildir, through everything in between. What does not: the services' own rules (``service``),
and crashes (``crash``).
"""

from __future__ import annotations

import email
import email.policy
import functools
import itertools
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import smtpcore.drivers.service
import smtpcore.drivers.threads
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, RelaySettings, Schedule, SmartHost

from .arrivals import Maildirs
from .corpus import MESSAGES, canonical
from .peers import MAILBOXES, Certificate, Way, start_postfix
from .postfix import DOMAIN, PATIENCE, Postfix, postfix_missing, wait_until
from .results import Results

pytestmark = pytest.mark.interop

#: A message, its reverse-path, its recipients.
Submitted = tuple[bytes, str, Sequence[str]]
#: Relays mails from a spool along a route until the spool is empty; returns all that was told on the way.
Relayed = Callable[..., list[Fate | Attempted]]
SETTINGS: dict[str, Any] = {"reporting_mta": "relay.example", "schedule": Schedule(delays=(0.2,)), "rest": 0.2}
TO_ALL = tuple(f"{name}@{DOMAIN}" for name in MAILBOXES)
_numbers = itertools.count(1)


def _in_threads(
    spool: Spool, route: SmartHost, mails: Sequence[Submitted], options: Any = None, **settings: Any
) -> list[Fate | Attempted]:
    told: list[Fate | Attempted] = []
    relay_settings = RelaySettings(**{**SETTINGS, **settings})
    with smtpcore.drivers.threads.RelayService(spool, route, relay_settings, options, notice=told.append) as relay:
        submissions = [relay.submit(octets, sender=sender, recipients=to) for octets, sender, to in mails]
        for submission in submissions:
            assert len(submission.fates(PATIENCE)) == len(submission.recipients)
        wait_until(lambda: not len(spool), "the spool to be empty")
    return told


def _on_a_loop(
    backend: str, spool: Spool, route: SmartHost, mails: Sequence[Submitted], options: Any = None, **settings: Any
) -> list[Fate | Attempted]:
    told: list[Fate | Attempted] = []
    relay_settings = RelaySettings(**{**SETTINGS, **settings})
    service = smtpcore.drivers.service.RelayService

    async def main() -> None:
        async with service(spool, route, relay_settings, options, notice=told.append) as relay:
            submissions = [await relay.submit(octets, sender=sender, recipients=to) for octets, sender, to in mails]
            with anyio.fail_after(PATIENCE):
                for submission in submissions:
                    assert len(await submission.fates()) == len(submission.recipients)
                while len(spool):
                    await anyio.sleep(0.02)

    anyio.run(main, backend=backend)
    return told


@pytest.fixture(params=["threads", "asyncio", "trio"])
def relayed(request: pytest.FixtureRequest) -> Relayed:
    return _in_threads if request.param == "threads" else functools.partial(_on_a_loop, request.param)


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


def test_every_message_through_starttls_and_auth(
    relayed: Relayed,
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
        mails = [(octets, senders[shape], TO_ALL) for shape, octets in MESSAGES.items()]
        way = Way.AUTH_CRAM_MD5
        relayed(spool, SmartHost("localhost", peer.ends[way.door]), mails, way.options(trusting))
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
    relayed: Relayed, spool: Spool, hop: Postfix, arrived: Any, sender: str, listener: int, results: Results
) -> None:
    """The narrow listener greets every session but one with 421, and takes no mail from it."""
    bodies = [b"Subject: %d\r\n\r\n.%s\r\n" % (number, b"x" * number) for number in range(150)]

    mails = [(body, sender, TO_ALL) for body in bodies]
    relayed(spool, SmartHost("127.0.0.1", hop.ports[listener]), mails)
    wait_until(lambda: len(arrived(sender)) >= len(bodies) * len(MAILBOXES), "all mails")
    expected = {body.replace(b"\r\n", b"\n"): len(MAILBOXES) for body in bodies}
    assert Counter(mail for _, mail in arrived(sender)) == expected
    if listener:
        assert "Connection concurrency limit exceeded" in hop.log
        results.saw("Postfix", "as the relay's next hop, one client at a time (421 to the others): every mail once")


def test_what_postfix_refuses_comes_back_to_the_sender(
    relayed: Relayed, spool: Spool, hop: Postfix, arrived: Any, sender: str, results: Results
) -> None:
    body = b"Subject: to nobody\r\nMessage-ID: <%s>\r\n\r\nbody\r\n" % sender.encode()
    to = [f"nobody@{DOMAIN}", f"alice@{DOMAIN}"]
    notes = relayed(spool, SmartHost("127.0.0.1", hop.port), [(body, f"carol@{DOMAIN}", to)])
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
    relayed: Relayed, spool: Spool, screened: Postfix, sender: str, results: Results
) -> None:
    mail = (b"Subject: screened\r\n\r\nbody\r\n", sender, [f"alice@{DOMAIN}"])
    # Who is tested is let through over a new connection only.
    notes = relayed(spool, SmartHost("127.0.0.1", screened.port), [mail], idle_seconds=0.05)
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert attempt.words.startswith("450 4.3.2 ")
    assert [note.kind for note in notes if isinstance(note, Fate)] == [FateKind.DELIVERED]
    wait_until(lambda: screened.delivered("alice"), "the mail")
    assert len(screened.delivered("alice")) == 1
    results.saw("Postfix", "as the relay's next hop behind postscreen: deferred, then delivered once")
