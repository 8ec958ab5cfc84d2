"""What single servers are known to do differently, pinned: should one change, a test here says so.

What lives here: the servers' peculiarities, each with what our client makes of it. What does not: the mail itself
(`test_matrix.py`), and refusals by configuration (`test_postfix_moods.py`).
"""

from __future__ import annotations

import itertools
import socket
import ssl
from typing import Any

import pytest

from smtpcore import (
    DeliveryFailed,
    DisconnectReason,
    Envelope,
    MailOptions,
    Notify,
    Pipelining,
    RecipientOptions,
    Report,
    TlsFailed,
    TlsPolicy,
    Verdict,
)

from .conftest import Driver
from .exim import Exim
from .peers import MAILBOXES, OFFERS, Certificate, Door, Peer, Way, handshake_failure
from .postfix import DOMAIN, HOST, Sink, sink_missing, wait_until
from .results import Results
from .unpacked import unpacked_missing

pytestmark = pytest.mark.interop

SENDER = "quirks@elsewhere.example"
TO_ALICE = (f"alice@{DOMAIN}",)
BODY = b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <q@elsewhere.example>\r\n\r\nbody\r\n"
IN_CLEAR: dict[str, Any] = {"tls": TlsPolicy.NEVER}
_numbers = itertools.count(1)
#: What our client looks at of what a server may offer.
EXTENSIONS = {"BINARYMIME", "REQUIRETLS", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "LIMITS"}.union(*OFFERS.values())


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"quirks-{next(_numbers)}@elsewhere.example"


def about(*names: str) -> pytest.MarkDecorator:
    """For tests of some servers' peculiarities only."""
    return pytest.mark.parametrize("peer", names, indirect=True)


WITHOUT_PIPELINING = [name for name, offers in OFFERS.items() if "PIPELINING" not in offers]


def test_what_each_server_offers(peer: Peer, driver: Driver, results: Results) -> None:
    """OpenSMTPD 6.8 and aiosmtpd know no PIPELINING; smtp-sink knows no CHUNKING, and no SIZE."""

    async def story(session: Any) -> set[str]:
        return {name for name in EXTENSIONS if name in session.capabilities}

    found = driver.run(story, peer.clear, **peer.in_clear)
    assert found == peer.offers
    results.saw(peer.name, "offers " + ", ".join(sorted(found)))
    if "LIMITS" not in found:
        results.checked("LIMITS", peer.title, "not announced", driver.name)


@about(*WITHOUT_PIPELINING)
def test_nothing_is_said_ahead_where_pipelining_is_not_offered(peer: Peer, driver: Driver, sender: str) -> None:
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        for _ in range(2):
            await session.send(BODY, sender=sender, recipients=TO_ALICE)

    driver.run(story, peer.clear, pipelining=Pipelining.ACROSS, trace=dialogue.append, **peer.in_clear)
    commands = [line for line in dialogue if line.startswith(">>> ") and "octets of message" not in line]
    assert len(commands) == 1 + 2 * 4 + 1
    for line, then in itertools.pairwise(line for line in dialogue if "octets of message" not in line):
        assert not (line.startswith(">>>") and then.startswith(">>>"))


def test_an_empty_last_line_in_the_reply_to_ehlo(driver: Driver) -> None:
    """smtp-sink ends its list of extensions with a line that is a code, a space and nothing."""
    missing = sink_missing()
    if missing is not None:
        pytest.skip(missing)
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        assert "PIPELINING" in session.capabilities
        assert "" not in session.capabilities
        await session.send(BODY, sender=SENDER, recipients=TO_ALICE)

    with Sink() as sink:
        driver.run(story, sink.port, trace=dialogue.append, **IN_CLEAR)
    assert "<<< 250 " in dialogue


# --- lines that are too long ----------------------------------------------------------------------------------------


@about("aiosmtpd")
def test_a_line_that_aiosmtpd_finds_too_long(peer: Peer, driver: Driver, sender: str, results: Results) -> None:
    """It takes 1,001 octets with the line end; the dot that is put before a leading one counts."""
    fits, exceeds = BODY + b"." + b"x" * 997 + b"\r\n", BODY + b"." + b"x" * 998 + b"\r\n"

    async def story(session: Any) -> Report:
        await session.send(fits, sender=sender, recipients=TO_ALICE)
        report: Report = await session.deliver(Envelope(sender, TO_ALICE), exceeds)
        return report

    report = driver.run(story, peer.clear, **peer.in_clear)
    (outcome,) = report.outcomes
    assert (outcome.verdict, outcome.code) == (Verdict.NEVER, 500)
    assert [mail for _, mail in peer.mails(sender)] == [fits]
    results.saw("aiosmtpd", "refuses a line over 1,001 octets (500 to the end of data): never")


# --- TLS ------------------------------------------------------------------------------------------------------------


@about("OpenSMTPD")
def test_a_handshake_that_fails(
    peer: Peer, driver: Driver, trusting: ssl.SSLContext, sender: str, results: Results
) -> None:
    """OpenSMTPD 6.8 with OpenSSL 3 offers STARTTLS and fails then: in clear where TLS is a wish, else not at all."""
    port = peer.ends[Door.STARTTLS]
    assert isinstance(port, int)
    if handshake_failure(port) is None:
        pytest.skip("this OpenSMTPD can do TLS")

    async def story(session: Any) -> None:
        assert session.tls is None
        await session.send(BODY, sender=sender, recipients=TO_ALICE)

    async def nothing(session: Any) -> None:
        raise AssertionError("the session opened")

    driver.run(story, port)
    wait_until(lambda: peer.mails(sender), "the mail")
    with pytest.raises(TlsFailed):
        driver.run(nothing, port, tls=TlsPolicy.REQUIRED, tls_context=trusting)
    results.saw("OpenSMTPD", "STARTTLS offered and the handshake fails: a new connection in clear where TLS is a wish")


# --- who counts what ------------------------------------------------------------------------------------------------


def test_no_reset_before_the_first_mail_and_no_quit_before_the_verdict(
    peer: Peer, driver: Driver, sender: str, results: Results
) -> None:
    """Postfix counts an RSET before the first MAIL as junk; its own client once lost mail by an early QUIT."""
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        for _ in range(3):
            await session.send(BODY, sender=sender, recipients=TO_ALICE)

    driver.run(story, peer.clear, pipelining=Pipelining.ACROSS, trace=dialogue.append, **peer.in_clear)
    assert ">>> RSET" not in dialogue
    assert ">>> NOOP" not in dialogue
    quitting = dialogue.index(">>> QUIT")
    ends = [number for number, line in enumerate(dialogue) if line == ">>> ." or line.endswith(" LAST")]
    assert any(line.startswith("<<< 250") for line in dialogue[ends[-1] : quitting])
    results.saw(peer.name, "no RSET or NOOP in an ordinary session, QUIT only after the last verdict")


@about("Postfix", "Exim", "OpenSMTPD", "Dovecot (LMTP)")
def test_a_mail_whose_recipients_are_all_refused_is_taken_back(
    peer: Peer, driver: Driver, sender: str, results: Results
) -> None:
    """Whatever the server says to a message without a recipient, the session goes on, and nothing arrives."""
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        with pytest.raises(DeliveryFailed) as failed:
            await session.send(BODY, sender=f"lost.{sender}", recipients=[f"nobody@{DOMAIN}", f"none@{DOMAIN}"])
        assert [outcome.verdict for outcome in failed.value.report.outcomes] == [Verdict.NEVER] * 2
        await session.send(BODY, sender=sender, recipients=TO_ALICE)

    driver.run(story, peer.clear, trace=dialogue.append, **peer.in_clear)
    wait_until(lambda: peer.mails(sender), "the mail that was accepted")
    assert not peer.mails(f"lost.{sender}")
    first, second = (number for number, line in enumerate(dialogue) if line.startswith(">>> MAIL"))
    asked = [line for line in dialogue[first:second] if line.startswith((">>> DATA", ">>> BDAT"))]
    assert bool(asked) == ("PIPELINING" in peer.offers)
    if asked:
        replies = [line for line in dialogue[first:second] if line.startswith("<<< ")]
        verb = asked[0].split()[1]
        results.saw(peer.name, f"{verb} in one group with recipients who are all refused: {replies[3][4:]}")


# --- parameters -----------------------------------------------------------------------------------------------------


@about("OpenSMTPD")
def test_what_opensmtpd_takes_for_mistakes_in_the_parameters_of_rcpt(
    peer: Peer, driver: Driver, sender: str, results: Results
) -> None:
    """OpenSMTPD 6.8 refuses these recipients for good, though RFC 6533 §3 and RFC 3461 §4.1 allow what was said.

    It takes an original recipient for a mailbox in ASCII whatever its type, and adds up what was said in NOTIFY of all
    recipients of a mail.
    """
    alice, bob = f"alice@{DOMAIN}", f"bob@{DOMAIN}"
    beyond_ascii = RecipientOptions(original_recipient="jörg@bücher.example")
    success, never = RecipientOptions(notify=[Notify.SUCCESS]), RecipientOptions(notify=[Notify.NEVER])

    async def story(session: Any) -> tuple[Report, Report]:
        return (
            await session.deliver(Envelope(sender, (alice,), recipient_options={alice: beyond_ascii}), BODY),
            await session.deliver(
                Envelope(f"bob@{DOMAIN}", (alice, bob), recipient_options={alice: success, bob: never}), BODY
            ),
        )

    original, mixed = driver.run(story, peer.clear, **peer.in_clear)
    found = [(outcome.verdict, outcome.code) for report in (original, mixed) for outcome in report.outcomes]
    assert found == [(Verdict.NEVER, 553), (Verdict.DELIVERED, 250), (Verdict.NEVER, 553)]
    assert original.outcomes[0].text == "ORCPT address syntax error"
    assert "NEVER" in mixed.outcomes[1].text
    results.saw(peer.name, "ORCPT beyond ASCII (of type utf-8): 553, never, though RFC 6533 allows it")
    results.saw(peer.name, "NOTIFY=NEVER behind a recipient with another NOTIFY: 553, never, for this one")


@about("Postfix", "Exim", "aiosmtpd")
def test_the_submitter_on_mail(
    peer: Peer, driver: Driver, trusting: ssl.SSLContext, sender: str, results: Results
) -> None:
    """``AUTH=`` is part of the extension AUTH (RFC 4954 §5); aiosmtpd offers that and refuses this."""
    excuse = peer.excuse(Way.AUTH_PLAIN)
    if excuse is not None:
        pytest.skip(excuse)
    dialogue: list[str] = []

    async def story(session: Any) -> Report:
        options = MailOptions(submitter="first+last@elsewhere.example")
        report: Report = await session.deliver(Envelope(sender, TO_ALICE, options=options), BODY)
        return report

    report = driver.run(story, peer.ends[Door.AUTH], trace=dialogue.append, **Way.AUTH_PLAIN.options(trusting))
    assert any(line.endswith(" AUTH=first+2Blast@elsewhere.example") for line in dialogue)
    (outcome,) = report.outcomes
    if peer.name == "aiosmtpd":
        assert (outcome.verdict, outcome.code) == (Verdict.NEVER, 555)
        results.saw(peer.name, "AUTH= on MAIL: 555, never, though it offers AUTH")
    else:
        assert (outcome.verdict, outcome.code) == (Verdict.DELIVERED, 250)
        wait_until(lambda: peer.mails(sender), "the mail")
        results.checked("AUTH", peer.title, "AUTH= on MAIL, in xtext, is taken", driver.name)


# --- Exim -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipelining", [Pipelining.WITHIN, Pipelining.ACROSS], ids=lambda value: value.value)
def test_exim_ends_sessions_of_those_who_speak_out_of_turn(
    certificate: Certificate, driver: Driver, sender: str, pipelining: Pipelining, results: Results
) -> None:
    """With PIPELINING withheld it enforces turns; ours keeps them."""
    missing = unpacked_missing("exim")
    if missing is not None:
        pytest.skip(missing)

    async def story(session: Any) -> None:
        assert "PIPELINING" not in session.capabilities
        for _ in range(2):
            await session.send(BODY, sender=sender, recipients=TO_ALICE)

    # With either of the two Exim forgives what is said too early.
    settings = {"pipelining_advertise_hosts": "", "pipelining_connect_advertise_hosts": ""}
    with Exim(certificate.both, mailboxes=MAILBOXES, settings=settings) as server:
        driver.run(story, server.clear, pipelining=pipelining, **IN_CLEAR)
        assert "synchronization error" not in server.log
        with socket.create_connection((HOST, server.clear)) as rude:
            rude.sendall(b"EHLO localhost\r\nMAIL FROM:<>\r\nRCPT TO:<nobody>\r\n")
            wait_until(lambda: "synchronization error" in server.log, "Exim to be offended")
    results.saw("Exim", "PIPELINING withheld, smtp_enforce_sync: no synchronization error")


def test_exim_ends_a_session_after_so_many_mails(
    certificate: Certificate, driver: Driver, sender: str, results: Results
) -> None:
    missing = unpacked_missing("exim")
    if missing is not None:
        pytest.skip(missing)

    async def story(session: Any) -> list[Report]:
        reports = [await session.deliver(Envelope(sender, TO_ALICE), BODY) for _ in range(3)]
        assert session.end is None or session.end.reason is DisconnectReason.REFUSED
        return reports

    with Exim(certificate.both, mailboxes=MAILBOXES, settings={"smtp_accept_max_per_connection": "2"}) as server:
        reports = driver.run(story, server.clear, **IN_CLEAR)
    found = [(report.outcomes[0].verdict, report.outcomes[0].code) for report in reports]
    assert found == [(Verdict.DELIVERED, 250)] * 2 + [(Verdict.LATER, 421)]
    results.saw("Exim", "smtp_accept_max_per_connection (421 to MAIL): later, and what was accepted stays so")
