"""The relay with a real Postfix as its next hop, in each of its three services: what was accepted arrives, once.

What lives here: spool to maildir, through everything in between. What does not: the services' own rules (``service``),
and crashes (``crash``).
"""

from __future__ import annotations

import email
import email.policy
import itertools
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpcore import Envelope, MailOptions, Notify, RecipientOptions, Return, TlsPolicy
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, SmartHost

from .arrivals import Maildirs
from .corpus import MESSAGES, canonical
from .peers import MAILBOXES, Certificate, Peer, Way, start_postfix
from .postfix import BROKEN, DOMAIN, Postfix, postfix_missing, wait_until
from .relaying import Relayed
from .reports import Told, told_in
from .results import Results

pytestmark = pytest.mark.interop

TO_ALL = tuple(f"{name}@{DOMAIN}" for name in MAILBOXES)
_numbers = itertools.count(1)


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
        mails = [(Envelope(senders[shape], TO_ALL), octets) for shape, octets in MESSAGES.items()]
        way = Way.AUTH_CRAM_MD5
        port = peer.ends[way.door]
        assert isinstance(port, int)
        relayed(spool, SmartHost("localhost", port), mails, way.options(trusting))
        wait_until(
            lambda: all(len(peer.mails(path)) >= len(MAILBOXES) for path in senders.values()), "all mails, thrice each"
        )
        for shape, path in senders.items():
            traces, bodies = zip(*peer.mails(path), strict=True)
            whole = canonical(MESSAGES[shape]).replace(b"\r\n", b"\n")
            if shape in peer.rules:
                added = peer.rules[shape].added
                assert added is not None
                bodies = tuple(added.sub(b"", body) for body in bodies)
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

    mails = [(Envelope(sender, TO_ALL), body) for body in bodies]
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
    envelope = Envelope(f"carol@{DOMAIN}", (f"nobody@{DOMAIN}", f"alice@{DOMAIN}"))
    notes = relayed(spool, SmartHost("127.0.0.1", hop.port), [(envelope, body)])
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
    mail = (Envelope(sender, (f"alice@{DOMAIN}",)), b"Subject: screened\r\n\r\nbody\r\n")
    # Who is tested is let through over a new connection only.
    notes = relayed(spool, SmartHost("127.0.0.1", screened.port), [mail], idle_seconds=0.05)
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert attempt.words.startswith("450 4.3.2 ")
    assert [note.kind for note in notes if isinstance(note, Fate)] == [FateKind.DELIVERED]
    wait_until(lambda: screened.delivered("alice"), "the mail")
    assert len(screened.delivered("alice")) == 1
    results.saw("Postfix", "as the relay's next hop behind postscreen: deferred, then delivered once")


# --- reports that were asked for ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["dsn", "no-dsn"])
def reporting(
    request: pytest.FixtureRequest, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """A Postfix that gives back some mail, and offers DSN or does not."""
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    withheld = frozenset({"DSN"}) if request.param else frozenset[str]()
    with start_postfix(certificate, tmp_path_factory.mktemp("reporting"), withheld) as peer:
        yield peer


#: Local parts -> of what their sender wants to hear.
ASKED = {
    "alice": [Notify.SUCCESS, Notify.FAILURE],
    BROKEN: [Notify.SUCCESS, Notify.FAILURE],
    "carol": [Notify.NEVER],
}


def asking(number: str, returned: Return) -> tuple[Envelope, bytes]:
    """A mail that asks for reports."""
    options = {
        f"{name}@{DOMAIN}": RecipientOptions(notify=notify, original_recipient=f"was+{name}@elsewhere.example")
        for name, notify in ASKED.items()
    }
    of_mail = MailOptions(returned=returned, envelope_id="a+b c")
    message = f"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <{number}@elsewhere.example>\r\n\r\nbody\r\n"
    envelope = Envelope(f"bob@{DOMAIN}", tuple(options), options=of_mail, recipient_options=options)
    return envelope, message.encode()


@pytest.mark.parametrize("returned", list(Return), ids=lambda returned: returned.value.lower())
def test_reports_are_asked_of_the_next_hop_or_written_here(
    relayed: Relayed, service: str, spool: Spool, reporting: Peer, sender: str, returned: Return, results: Results
) -> None:
    number = sender.partition("@")[0]
    dialogue: list[str] = []
    options = {"tls": TlsPolicy.NEVER, "trace": dialogue.append}
    assert isinstance(reporting.clear, int)
    relayed(spool, SmartHost("127.0.0.1", reporting.clear), [asking(number, returned)], options)
    offered = "DSN" in reporting.offers
    # What the relay writes itself goes the same way, behind the mail.
    mail, *recipients = [line[4:] for line in dialogue if line.startswith((">>> MAIL", ">>> RCPT"))][:4]
    asked = " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;was+2B{}@elsewhere.example" if offered else ""
    assert mail.endswith(f" RET={returned.value} ENVID=a+2Bb+20c") == offered
    assert recipients == [
        f"RCPT TO:<alice@{DOMAIN}>" + asked.format("alice"),
        f"RCPT TO:<{BROKEN}@{DOMAIN}>" + asked.format(BROKEN),
        f"RCPT TO:<carol@{DOMAIN}>" + " NOTIFY=NEVER ORCPT=rfc822;was+2Bcarol@elsewhere.example" * offered,
    ]

    def told() -> dict[tuple[str, str], Told]:
        """By what became of which recipient; Postfix tells the one by the name that he has there."""
        reports = [octets for _, octets in reporting.mails("")]
        return {(one.action, one.recipient.partition("@")[0]): one for one in told_in(reports, number)}

    here = {("expanded", BROKEN), ("delivered", "alice")} if offered else {("relayed", BROKEN), ("relayed", "alice")}
    wait_until(lambda: len(told()) == 3, "three fates in reports")
    fates = told()
    assert set(fates) == {*here, ("failed", "no-longer-there")}
    failed = fates["failed", "no-longer-there"]
    assert (failed.reporter, failed.envelope_id) == (f"mx.{DOMAIN}", "a+b c" if offered else None)
    for fate in here:
        told_of = fates[fate]
        assert (told_of.envelope_id, told_of.given_back) == ("a+b c", "text/rfc822-headers")
        assert told_of.reporter == (f"mx.{DOMAIN}" if offered else "relay.example")
        assert (told_of.original or "").replace(" ", "") == f"rfc822;was+{fate[1]}@elsewhere.example"
    if offered:
        assert failed.original == f"rfc822;was+{BROKEN}@elsewhere.example"
        assert failed.given_back == ("text/rfc822-headers" if returned is Return.HEADERS else "message/rfc822")
    what = (
        "as the relay's next hop: RET, ENVID, NOTIFY and ORCPT arrive, and it reports where the relay does not"
        if offered
        else "as the relay's next hop, withheld from us: the relay reports what was relayed"
    )
    results.checked("DSN", reporting.title, what, service)
