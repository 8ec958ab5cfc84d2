"""A Postfix that refuses, defers, delays and hangs up for reasons of its own, and what our outcomes say of it.

What lives here: refusals as administrators configure them. What does not: mail that is simply taken
(`test_matrix.py`), and the relay (`test_relay_through_postfix.py`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    BodyFacts,
    DisconnectReason,
    Envelope,
    ExtensionRequired,
    MailOptions,
    MailSource,
    Pipelining,
    Report,
    Stage,
    TlsPolicy,
    Verdict,
    XClient,
    XclientRequired,
    XForward,
)
from smtpcore.sasl import CramMd5, Login, Plain, Scram, ScramSha1, ScramSha256, mechanisms_for

from .arrivals import Maildirs
from .conftest import DRIVERS, Driver
from .dovecot import Dovecot
from .peers import MAILBOXES, Certificate, version_of_postfix
from .postfix import DOMAIN, PASSWORD, SERVICES, USER, Postfix, postfix_missing, wait_until
from .results import Results
from .unpacked import unpacked_missing

pytestmark = pytest.mark.interop

SENDER = "sender@elsewhere.example"
BODY = b"Subject: moods\r\n\r\nbody\r\n"
IN_CLEAR: dict[str, Any] = {"tls": TlsPolicy.NEVER}
_numbers = itertools.count(1)

LISTENERS: dict[str, dict[str, str]] = {
    "few recipients": {"smtpd_recipient_limit": "5"},
    "greylisting": {
        "smtpd_recipient_restrictions": (
            f"check_recipient_access inline:{{ {{bob@{DOMAIN} = 450 4.7.1 come back later}} }}, permit"
        )
    },
    # The greeting is held back, and whoever talks before it is refused.
    "slow": {
        "smtpd_delay_reject": "no",
        "smtpd_client_restrictions": "sleep 1, reject_unauth_pipelining",
        "smtpd_helo_restrictions": "sleep 1, reject_unauth_pipelining",
        "smtpd_data_restrictions": "sleep 1, reject_unauth_pipelining",
    },
    "weary": {
        "smtpd_sender_restrictions": (
            "check_sender_access inline:{ {last@elsewhere.example = 421 4.3.2 that was enough} }"
        )
    },
    "small": {"message_size_limit": "20000"},
    "trusting": {"smtpd_authorized_xclient_hosts": "127.0.0.1", "smtpd_authorized_xforward_hosts": "127.0.0.1"},
    **{
        f"rationed, {driver.name}": {
            "smtpd_client_message_rate_limit": "3",
            "smtpd_client_event_limit_exceptions": "",
        }
        for driver in DRIVERS
    },
}


class Moody:
    """The running server: its ports by the name of the mood, and what arrived."""

    def __init__(self, server: Postfix) -> None:
        self.server = server
        self.ports: Mapping[str, int] = dict(zip(LISTENERS, server.ports, strict=True))
        self.mails = Maildirs(server.maildirs).mails


@pytest.fixture(scope="module")
def moody() -> Iterator[Moody]:
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    settings = {"recipient_delimiter": "+", "smtpd_error_sleep_time": "0", "fast_flush_domains": DOMAIN}
    services = (*SERVICES, "flush unix n - n 1000? 0 flush")
    with Postfix(settings, mailboxes=MAILBOXES, listeners=tuple(LISTENERS.values()), services=services) as server:
        yield Moody(server)


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"sender-{next(_numbers)}@elsewhere.example"


def trace_of(mails: list[tuple[bytes, bytes]], recipient: str) -> list[bytes]:
    """The trace fields of the copies for ``recipient``."""
    return [trace for trace, _ in mails if b"Delivered-To: %s\n" % recipient.encode() in trace]


def verdicts(report: Report) -> list[tuple[Verdict, int | None, str | None]]:
    return [(outcome.verdict, outcome.code, outcome.enhanced) for outcome in report.outcomes]


@pytest.mark.parametrize("pipelining", list(Pipelining), ids=lambda pipelining: pipelining.value)
def test_recipients_beyond_the_servers_limit_go_in_further_transactions(
    moody: Moody, driver: Driver, pipelining: Pipelining, sender: str, results: Results
) -> None:
    recipients = [f"alice+{number}@{DOMAIN}" for number in range(12)]
    dialogue: list[str] = []

    async def story(session: Any) -> Report:
        report: Report = await session.send(BODY, sender=sender, recipients=recipients)
        return report

    options = {**IN_CLEAR, "pipelining": pipelining, "trace": dialogue.append}
    report = driver.run(story, moody.ports["few recipients"], **options)
    assert [outcome.recipient for outcome in report.outcomes] == recipients
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED] * 12
    assert sum(line.startswith(">>> MAIL") for line in dialogue) == 3
    assert any(line.startswith("<<< 452 4.5.3") for line in dialogue)
    wait_until(lambda: len(moody.mails(sender)) == 12, "a copy for every recipient")
    for recipient in recipients:
        assert len(trace_of(moody.mails(sender), recipient)) == 1
    results.saw("Postfix", "smtpd_recipient_limit (452 4.5.3): the rest go in further transactions at once")


def test_a_recipient_who_is_deferred_among_good_ones(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    async def story(session: Any) -> Report:
        report: Report = await session.deliver(
            Envelope(sender, tuple(f"{name}@{DOMAIN}" for name in ("alice", "bob", "nobody"))), BODY
        )
        return report

    report = driver.run(story, moody.ports["greylisting"], **IN_CLEAR)
    assert [(verdict, code) for verdict, code, _ in verdicts(report)] == [
        (Verdict.DELIVERED, 250),
        (Verdict.LATER, 450),
        (Verdict.NEVER, 550),
    ]
    assert report.outcomes[1].text.endswith("come back later")
    wait_until(lambda: moody.mails(sender), "the mail for the one who was accepted")
    assert len(moody.mails(sender)) == 1
    results.saw("Postfix", "450 to one recipient (greylisting): later for this one only")


def test_a_server_that_holds_back_its_words_is_not_talked_over(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    """The server is made to refuse whoever says anything out of turn while it sleeps."""

    async def story(session: Any) -> None:
        for _ in range(2):
            await session.send(BODY, sender=sender, recipients=[f"alice@{DOMAIN}"])

    driver.run(story, moody.ports["slow"], **IN_CLEAR)
    wait_until(lambda: len(moody.mails(sender)) == 2, "both mails")
    results.saw("Postfix", "held back greeting, EHLO and DATA replies, reject_unauth_pipelining: nothing out of turn")


def test_a_session_for_another_client_is_judged_and_noted_as_its(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    spike = XClient(
        name="spike.example", address="192.0.2.1", helo="[192.0.2.1]", protocol="ESMTP", port=4711, login="a+b=c"
    )
    outsider = f"somebody@{DOMAIN}.not"

    async def story(session: Any) -> Report:
        report: Report = await session.deliver(Envelope(sender, (f"alice@{DOMAIN}", outsider)), BODY)
        return report

    report = driver.run(story, moody.ports["trusting"], **IN_CLEAR, xclient=spike)
    # This host may relay; the other may not.
    assert [outcome.code for outcome in report.outcomes] == [250, 454]
    assert "Relay access denied" in report.outcomes[1].text
    wait_until(lambda: moody.mails(sender), "the mail")
    ((trace, _),) = moody.mails(sender)
    assert b"(spike.example [192.0.2.1])" in trace
    assert "client=spike.example[192.0.2.1]" in moody.server.log
    results.checked(
        "XCLIENT",
        f"Postfix {version_of_postfix()}",
        "the session is judged and noted as the other client's",
        driver.name,
    )


def test_a_mail_that_was_forwarded_is_noted_as_it_came(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    ident = f"Q{next(_numbers)}"
    spike = XForward(name="spike.example", address="192.0.2.7", ident=ident, helo="a+b", source=MailSource.REMOTE)

    async def story(session: Any) -> None:
        for options in (MailOptions(forwarded=spike), MailOptions()):
            await session.deliver(Envelope(sender, (f"alice@{DOMAIN}",), options=options), BODY)

    driver.run(story, moody.ports["trusting"], **IN_CLEAR)
    wait_until(lambda: len(moody.mails(sender)) == 2, "both mails")
    noted = [line for line in moody.server.log.splitlines() if f"orig_queue_id={ident}" in line]
    assert len(noted) == 1
    assert "orig_client=spike.example[192.0.2.7]" in noted[0]
    what = "the mail is noted as the one that came from there, the next in the session is not"
    results.checked("XFORWARD", f"Postfix {version_of_postfix()}", what, driver.name)


def test_a_server_that_does_not_trust_us_with_another_client(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    spike = XForward(name="spike.example", address="192.0.2.8", ident="unheard-of")
    dialogue: list[str] = []

    async def story(session: Any) -> Report:
        envelope = Envelope(sender, (f"alice@{DOMAIN}",), options=MailOptions(forwarded=spike))
        report: Report = await session.deliver(envelope, BODY)
        return report

    options = {**IN_CLEAR, "trace": dialogue.append}
    report = driver.run(story, moody.ports["small"], **options)
    assert [verdict for verdict, _, _ in verdicts(report)] == [Verdict.DELIVERED]
    with pytest.raises(XclientRequired):
        driver.run(story, moody.ports["small"], **options, xclient=XClient(address="192.0.2.8"))
    assert not [line for line in dialogue if line.startswith((">>> XFORWARD", ">>> XCLIENT"))]
    title = f"Postfix {version_of_postfix()}"
    results.checked("XFORWARD", title, "not offered: left out, and the mail goes on its way", driver.name)
    results.checked("XCLIENT", title, "not offered: XclientRequired, and no mail", driver.name)


def test_commands_between_mails(moody: Moody, driver: Driver, sender: str) -> None:
    async def story(session: Any) -> list[int]:
        await session.send(BODY, sender=sender, recipients=[f"alice@{DOMAIN}"])
        lines = ("NOOP", f"VRFY alice@{DOMAIN}", "HELP", "EXPN x", f"ETRN {DOMAIN}", "X-WHAT")
        return [(await session.command(line)).code for line in lines]

    codes = driver.run(story, moody.ports["slow"], **IN_CLEAR)
    assert codes[:2] == [250, 252]
    assert all(code >= 250 for code in codes)


#: What is asked -> the code and the enhanced code of Postfix's answer, where it has one.
ASKED = {
    f"VRFY alice@{DOMAIN}": (252, "2.0.0"),
    f"VRFY nobody@{DOMAIN}": (550, "5.1.1"),
    "EXPN friends": (500, "5.5.2"),
    f"ETRN {DOMAIN}": (250, None),
    "ETRN elsewhere.example": (459, None),
    "NOOP": (250, "2.0.0"),
    "X-UNHEARD-OF": (500, "5.5.2"),
}


def test_questions_and_their_answers(moody: Moody, driver: Driver, sender: str, results: Results) -> None:
    async def story(session: Any) -> dict[str, tuple[int, str | None]]:
        replies = {}
        for line in ASKED:
            reply = await session.command(line)
            replies[line] = (reply.code, reply.enhanced)
        # No answer is the end of anything.
        await session.send(BODY, sender=sender, recipients=[f"alice@{DOMAIN}"])
        return replies

    assert driver.run(story, moody.ports["trusting"], **IN_CLEAR) == ASKED
    wait_until(lambda: moody.mails(sender), "the mail behind them")
    said = ", ".join(f"{line.split()[0]} {code}" for line, (code, _) in ASKED.items())
    results.checked("command()", f"Postfix {version_of_postfix()}", f"{said}; a mail behind them arrives", driver.name)


def test_a_421_in_the_middle_of_a_session(moody: Moody, driver: Driver, sender: str, results: Results) -> None:
    senders = [sender, sender, "last@elsewhere.example", sender]

    async def story(session: Any) -> list[Report]:
        reports = []
        with contextlib.suppress(Exception):
            for path in senders:
                reports.append(await session.deliver(Envelope(path, (f"alice@{DOMAIN}",)), BODY))
        assert session.end is not None
        assert session.end.reason is DisconnectReason.REFUSED
        return reports

    reports = driver.run(story, moody.ports["weary"], **IN_CLEAR)
    assert len(reports) == 3
    assert [verdicts(report)[0][0] for report in reports] == [Verdict.DELIVERED, Verdict.DELIVERED, Verdict.LATER]
    (outcome,) = reports[-1].outcomes
    assert (outcome.code, outcome.in_doubt) == (421, False)
    assert "that was enough" in outcome.text
    wait_until(lambda: len(moody.mails(sender)) == 2, "what was accepted before")
    results.saw("Postfix", "421 in the middle of a session: later, not in doubt, the session is over")


def test_a_421_while_mails_are_sent_across(moody: Moody, driver: Driver, sender: str) -> None:
    """Every mail gets its report, and none is said to be delivered that is not there, nor the other way round."""
    senders = [f"{number}.{sender}" for number in range(6)]
    senders[3] = "last@elsewhere.example"
    mails = [(Envelope(path, (f"alice@{DOMAIN}",)), BODY) for path in senders]

    async def story(session: Any) -> list[Report]:
        reports = []
        with contextlib.suppress(Exception):
            async for report in session.send_many(mails):
                reports.append(report)
        assert session.end is not None
        assert session.end.reason is DisconnectReason.REFUSED
        return reports

    reports = driver.run(story, moody.ports["weary"], pipelining=Pipelining.ACROSS, **IN_CLEAR)
    assert len(reports) >= 4
    found = [verdicts(report)[0][0] for report in reports]
    assert found == [Verdict.DELIVERED] * 3 + [Verdict.LATER] * (len(reports) - 3)
    for path in senders[:3]:
        wait_until(functools.partial(moody.mails, path), f"the mail from {path}")
    assert not [path for path in senders[3:] if moody.mails(path)]


def test_a_ration_of_mails(moody: Moody, driver: Driver, sender: str, results: Results) -> None:
    async def story(session: Any) -> list[Report]:
        return [await session.deliver(Envelope(sender, (f"alice@{DOMAIN}",)), BODY) for _ in range(5)]

    reports = driver.run(story, moody.ports[f"rationed, {driver.name}"], **IN_CLEAR)
    assert [verdicts(report)[0][:2] for report in reports] == [(Verdict.DELIVERED, 250)] * 3 + [
        (Verdict.LATER, 450)
    ] * 2
    results.saw("Postfix", "smtpd_client_message_rate_limit (450 to MAIL): later, and the session goes on")


def test_too_large_a_mail_whose_size_is_known_is_refused_here(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    large = BODY + b"x" * 70 * 300
    dialogue: list[str] = []

    async def story(session: Any) -> Report:
        envelope = Envelope(sender, (f"alice@{DOMAIN}",), body=BodyFacts(size=len(large)))
        report: Report = await session.deliver(envelope, large)
        await session.send(BODY, sender=sender, recipients=f"alice@{DOMAIN}")
        return report

    report = driver.run(story, moody.ports["small"], trace=dialogue.append, **IN_CLEAR)
    assert verdicts(report) == [(Verdict.NEVER, None, "5.3.4")]
    assert isinstance(report.outcomes[0].error, ExtensionRequired)
    assert sum(line.startswith(">>> MAIL") for line in dialogue) == 1
    wait_until(lambda: moody.mails(sender), "the small mail")
    results.saw("Postfix", "message_size_limit: a mail known to be larger is refused here, without a word on the wire")


def test_too_large_a_mail_of_unknown_size_is_refused_by_the_server(
    moody: Moody, driver: Driver, sender: str, results: Results
) -> None:
    large = itertools.chain([BODY], itertools.repeat(b"x" * 70 + b"\r\n", 3000))

    async def story(session: Any) -> Report:
        report: Report = await session.deliver(Envelope(sender, (f"alice@{DOMAIN}",)), large)
        await session.send(BODY, sender=sender, recipients=f"alice@{DOMAIN}")
        return report

    report = driver.run(story, moody.ports["small"], **IN_CLEAR)
    assert verdicts(report) == [(Verdict.NEVER, 552, "5.3.4")]
    wait_until(lambda: moody.mails(sender), "the small mail")
    assert len(moody.mails(sender)) == 1
    results.saw("Postfix", "message_size_limit, size unknown: 552 5.3.4 after the body, and the session goes on")


# --- postscreen -----------------------------------------------------------------------------------------------------


def test_postscreen_lets_us_through_at_the_second_attempt(screened: Postfix, driver: Driver, results: Results) -> None:
    """A greeting in two parts seconds apart, tests of manners, 450 to everything; whoever passed is let through."""

    async def story(session: Any) -> Report:
        report: Report = await session.deliver(Envelope(SENDER, (f"alice@{DOMAIN}",)), BODY)
        return report

    assert verdicts(driver.run(story, screened.port, **IN_CLEAR)) == [(Verdict.LATER, 450, "4.3.2")]
    assert verdicts(driver.run(story, screened.port, **IN_CLEAR))[0][:2] == (Verdict.DELIVERED, 250)
    wait_until(lambda: len(screened.delivered("alice")) == 1, "the mail")
    assert "PASS NEW [127.0.0.1]" in screened.log
    for failure in ("PREGREET", "COMMAND PIPELINING", "BARE NEWLINE", "NON-SMTP COMMAND"):
        assert failure not in screened.log
    results.saw("Postfix", "postscreen with all tests: 450 4.3.2 at first, passed, let through at the second attempt")


# --- AUTH -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    """A Postfix that asks Dovecot: its first listener offers all mechanisms, its second PLAIN only."""
    missing = postfix_missing() or unpacked_missing("dovecot")
    if missing is not None:
        pytest.skip(missing)
    chain = tmp_path_factory.mktemp("certificate") / "chain.pem"
    chain.write_bytes(certificate.both)
    with Dovecot() as dovecot:
        settings = {
            "smtpd_tls_chain_files": str(chain),
            "smtpd_tls_security_level": "may",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_tls_auth_only": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": str(dovecot.socket),
            "smtpd_error_sleep_time": "0",
            "smtpd_relay_restrictions": "permit_sasl_authenticated,reject",
        }
        listeners: tuple[dict[str, str], ...] = ({}, {"smtpd_sasl_mechanism_filter": "plain"})
        with Postfix(settings, mailboxes=MAILBOXES, listeners=listeners) as server:
            yield server


def test_wrong_passwords_are_refused_and_said_once(
    guarded: Postfix, trusting: ssl.SSLContext, driver: Driver, results: Results
) -> None:
    wrong = [kind(USER, "not " + PASSWORD) for kind in (CramMd5, Login, Plain)]
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        raise AssertionError("the session opened")

    with pytest.raises(AuthDeclined) as declined:
        driver.run(story, guarded.port, credentials=wrong, tls_context=trusting, trace=dialogue.append)
    assert declined.value.reply is not None
    assert (declined.value.reply.code, declined.value.reply.enhanced) == (535, "5.7.8")
    assert sum(line.startswith(">>> AUTH") for line in dialogue) == 1
    assert PASSWORD not in "".join(dialogue)
    results.saw("Postfix with Dovecot", "535 to a wrong password: said once, and not again with another mechanism")


def test_the_first_mechanism_that_the_server_offers_is_taken(
    guarded: Postfix, trusting: ssl.SSLContext, driver: Driver
) -> None:
    credentials = [kind(USER, PASSWORD) for kind in (CramMd5, Login, Plain)]
    said: dict[int, list[str]] = {}

    for port in guarded.ports:
        dialogue: list[str] = []

        async def story(session: Any) -> None:
            await session.send(BODY, sender=SENDER, recipients=f"bob@{DOMAIN}")

        driver.run(story, port, credentials=credentials, tls_context=trusting, trace=dialogue.append)
        said[port] = [line.split()[2] for line in dialogue if line.startswith(">>> AUTH")]
    assert list(said.values()) == [["CRAM-MD5"], ["PLAIN"]]


@pytest.mark.parametrize("kind", [ScramSha1, ScramSha256])
def test_scram_with_dovecot(
    guarded: Postfix, trusting: ssl.SSLContext, driver: Driver, results: Results, kind: type[Scram]
) -> None:
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        await session.send(BODY, sender=SENDER, recipients=f"bob@{DOMAIN}")

    options: dict[str, Any] = {"tls_context": trusting, "trace": dialogue.append}
    driver.run(story, guarded.port, credentials=[kind(USER, PASSWORD)], **options)
    assert [line for line in dialogue if "AUTH SCRAM" in line and ">>>" in line] == [f">>> AUTH {kind.name} ********"]
    # The first message of the server and its proof came as challenges.
    assert dialogue.count("<<< 334 ********") == 2
    with pytest.raises(AuthDeclined):
        driver.run(story, guarded.port, credentials=[kind(USER, "not " + PASSWORD)], **options)
    assert PASSWORD not in "".join(dialogue)
    results.saw("Postfix with Dovecot", "SCRAM-SHA-1 and SCRAM-SHA-256, the server's proof checked")


def test_the_strongest_mechanism_is_taken(guarded: Postfix, trusting: ssl.SSLContext, driver: Driver) -> None:
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        await session.send(BODY, sender=SENDER, recipients=f"bob@{DOMAIN}")

    credentials = mechanisms_for(USER, PASSWORD)
    driver.run(story, guarded.port, credentials=credentials, tls_context=trusting, trace=dialogue.append)
    assert [line.split()[2] for line in dialogue if line.startswith(">>> AUTH")] == ["SCRAM-SHA-256"]


def test_no_mail_without_authentication(guarded: Postfix, trusting: ssl.SSLContext, driver: Driver) -> None:
    async def story(session: Any) -> Report:
        report: Report = await session.deliver(Envelope(SENDER, (f"bob@{DOMAIN}",)), BODY)
        return report

    report = driver.run(story, guarded.port, tls=TlsPolicy.REQUIRED, tls_context=trusting)
    assert [verdict for verdict, _, _ in verdicts(report)] == [Verdict.NEVER]
    assert report.stage is not Stage.NOT_STARTED
