"""What is asked of real servers beside plain mail: addresses beyond ASCII, reports of delivery, what few can do.

What lives here: extensions that the envelope asks for, with those who offer them and with those who do not. What does
not: extensions that change how any mail is sent (`test_matrix.py`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest

from smtpcore import (
    BodyFacts,
    Conversion,
    DeliverBy,
    Envelope,
    ExtensionRequired,
    MailOptions,
    Notify,
    RecipientOptions,
    Report,
    Return,
    Stage,
    Verdict,
)

from .conftest import Driver
from .peers import OFFERS, UTF8_MAILBOX, Peer
from .postfix import A_LABELS, BROKEN, DOMAIN, UTF8_DOMAIN, wait_until
from .reports import Told, told_in
from .results import Results

pytestmark = pytest.mark.interop

ALICE = f"alice@{DOMAIN}"
BODY = b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <e@elsewhere.example>\r\n\r\nbody\r\n"
_numbers = itertools.count(1)


def offering(extension: str) -> pytest.MarkDecorator:
    """For servers that offer ``extension`` only."""
    return pytest.mark.parametrize("peer", [name for name in OFFERS if extension in OFFERS[name]], indirect=True)


@pytest.fixture
def number() -> str:
    """What no other test uses in a reverse-path or a message."""
    return f"extension-{next(_numbers)}"


def delivered(peer: Peer, driver: Driver, envelope: Envelope, message: bytes) -> list[str]:
    """Deliver one mail to all of its recipients; what was said and heard."""
    dialogue: list[str] = []

    async def story(session: Any) -> Report:
        report: Report = await session.deliver(envelope, message)
        return report

    report = driver.run(story, peer.clear, trace=dialogue.append, **peer.in_clear)
    assert [outcome.recipient for outcome in report.outcomes] == list(envelope.recipients)
    assert [(outcome.verdict, outcome.text) for outcome in report.outcomes if outcome.code != 250] == []
    return dialogue


def said(dialogue: list[str], verb: str) -> list[str]:
    return [line.removeprefix(">>> ") for line in dialogue if line.startswith(f">>> {verb} ")]


# --- beyond ASCII ---------------------------------------------------------------------------------------------------


@offering("SMTPUTF8")
def test_local_parts_and_a_header_beyond_ascii(peer: Peer, driver: Driver, number: str, results: Results) -> None:
    sender, recipient = f"jürgen.{number}@{UTF8_DOMAIN}", f"{UTF8_MAILBOX}@{UTF8_DOMAIN}"
    header = f"From: Jürgen <{sender}>\r\nTo: <{recipient}>\r\nSubject: Grüße, 東京, Αθήνα, 🐌\r\n"
    message = header.encode() + BODY + "Schöne Grüße\r\n".encode()
    envelope = Envelope(sender, (recipient,), body=BodyFacts(utf8_header=True, eight_bit=True))
    dialogue = delivered(peer, driver, envelope, message)
    assert said(dialogue, "MAIL") == [f"MAIL FROM:<{sender}> BODY=8BITMIME SMTPUTF8"]
    assert said(dialogue, "RCPT") == [f"RCPT TO:<{recipient}>"]
    wait_until(lambda: peer.mails(sender), "the mail")
    assert [mail for _, mail in peer.mails(sender)] == [message.replace(b"\r\n", peer.line_end)]
    what = "local parts, domains and a header beyond ASCII arrive octet for octet"
    results.checked("SMTPUTF8", peer.title, what, driver.name)


def test_a_mail_with_domains_alone_beyond_ascii(peer: Peer, driver: Driver, number: str, results: Results) -> None:
    """It needs no SMTPUTF8 on any part of its way."""
    envelope = Envelope(f"{number}@{UTF8_DOMAIN}", (f"alice@{UTF8_DOMAIN}",), body=BodyFacts(eight_bit=False))
    dialogue = delivered(peer, driver, envelope, BODY)
    sender = f"{number}@{A_LABELS}"
    assert said(dialogue, "MAIL") == [f"MAIL FROM:<{sender}>"]
    assert said(dialogue, "RCPT") == [f"RCPT TO:<alice@{A_LABELS}>"]
    wait_until(lambda: peer.mails(sender), "the mail")
    assert [mail for _, mail in peer.mails(sender)] == [BODY.replace(b"\r\n", peer.line_end)]
    offered = "offered and not needed" if "SMTPUTF8" in peer.offers else "not offered"
    results.checked("SMTPUTF8", peer.title, f"{offered}: domains alone go as A-labels", driver.name)


# --- what a server must offer ---------------------------------------------------------------------------------------

#: Extension -> a mail that needs it, and the enhanced code of its refusal where it is not offered. A binary body is
#: refused where that is wanted; else it is converted (`test_converted.py`).
NEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "SMTPUTF8": ({"recipients": (f"{UTF8_MAILBOX}@{DOMAIN}",)}, "5.6.7"),
    "BINARYMIME": ({"body": BodyFacts(binary=True)}, "5.6.3"),
    "REQUIRETLS": ({"options": MailOptions(require_tls=True)}, "5.7.30"),
    "DELIVERBY": ({"options": MailOptions(deliver_by=DeliverBy(seconds=3600))}, "5.3.3"),
    "FUTURERELEASE": ({"options": MailOptions(hold_for=60)}, "5.3.3"),
}


def test_what_a_server_does_not_offer_is_refused_here(
    peer: Peer, driver: Driver, number: str, results: Results
) -> None:
    sender = f"{number}@elsewhere.example"
    lacking = {name: need for name, need in NEEDS.items() if name not in peer.offers}
    dialogue: list[str] = []

    async def story(session: Any) -> dict[str, Report]:
        reports = {}
        for name, (needs, _) in lacking.items():
            reports[name] = await session.deliver(Envelope(sender, **{"recipients": (ALICE,), **needs}), BODY)
        assert not said(dialogue, "MAIL")
        await session.send(BODY, sender=sender, recipients=ALICE)
        return reports

    options = {**peer.in_clear, "eight_bit": Conversion.REFUSE, "trace": dialogue.append}
    reports = driver.run(story, peer.clear, **options)
    assert {"BINARYMIME", "REQUIRETLS"} <= reports.keys()
    for name, report in reports.items():
        enhanced = lacking[name][1]
        (outcome,) = report.outcomes
        assert (outcome.verdict, outcome.code, outcome.enhanced) == (Verdict.NEVER, None, enhanced)
        assert isinstance(outcome.error, ExtensionRequired)
        assert report.stage is Stage.NOT_STARTED
        results.checked(name, peer.title, f"not offered: refused here ({enhanced}), MAIL is not said", driver.name)
    wait_until(lambda: peer.mails(sender), "the plain mail in the same session")


# --- reports of delivery --------------------------------------------------------------------------------------------

#: As given, and in xtext (RFC 3461 §4).
ENVELOPE_ID, ENVELOPE_ID_SAID = 'a+b=c "d', "a+2Bb+3Dc+20+22d"


@dataclass(frozen=True)
class Original:
    """An original recipient: as given, with its type, as said, and in a report that knows UTF-8."""

    given: str
    kind: str
    said: str


ASCII = Original("first+one=two@elsewhere.example", "rfc822", "rfc822;first+2Bone+3Dtwo@elsewhere.example")
UTF8 = Original(f"{UTF8_MAILBOX}+a@{UTF8_DOMAIN}", "utf-8", r"utf-8;j\x{F6}rg\x{2B}a@b\x{FC}cher.example")


@dataclass(frozen=True)
class Reporting:
    """How a server writes reports."""

    #: Whether it knows that what it repeats is encoded; ``None`` if it repeats neither identifier nor recipient.
    decodes: bool | None
    #: Whether it gives back as much as was asked for.
    obeys_ret: bool
    #: Whether it takes whatever may be asked, original recipients beyond ASCII among it (`test_quirks.py`).
    takes_all: bool = True

    def envelope_id(self) -> str | None:
        return {None: None, True: ENVELOPE_ID, False: ENVELOPE_ID_SAID}[self.decodes]

    def original(self, original: Original) -> str | None:
        return {None: None, True: f"{original.kind};{original.given}", False: original.said}[self.decodes]


REPORTING = {
    "Postfix": Reporting(decodes=True, obeys_ret=True),
    "Exim": Reporting(decodes=False, obeys_ret=True),
    "OpenSMTPD": Reporting(decodes=None, obeys_ret=False, takes_all=False),
}


def notified(returned: Return, original: Original, *, unheard_of: bool) -> Envelope:
    """A mail from Bob to one who gets it, one who does not, and perhaps one of whom he does not want to hear."""
    both = RecipientOptions(notify=(Notify.SUCCESS, Notify.FAILURE), original_recipient=original.given)
    options = dict.fromkeys((ALICE, f"{BROKEN}@{DOMAIN}"), both)
    if unheard_of:
        options[f"carol@{DOMAIN}"] = RecipientOptions(notify=[Notify.NEVER])
    return Envelope(
        f"bob@{DOMAIN}",
        tuple(options),
        options=MailOptions(returned=returned, envelope_id=ENVELOPE_ID),
        recipient_options=options,
        body=BodyFacts(eight_bit=False),
    )


def test_notification_is_asked_for_where_it_is_offered(
    peer: Peer, driver: Driver, number: str, results: Results
) -> None:
    options = RecipientOptions(notify=[Notify.FAILURE, Notify.DELAY], original_recipient=ASCII.given)
    envelope = Envelope(
        f"{number}@elsewhere.example",
        (ALICE,),
        options=MailOptions(returned=Return.HEADERS, envelope_id=ENVELOPE_ID, priority=3),
        recipient_options={ALICE: options},
        body=BodyFacts(eight_bit=False),
    )
    dialogue = delivered(peer, driver, envelope, BODY)
    offered = "DSN" in peer.offers
    of_mail = f" RET=HDRS ENVID={ENVELOPE_ID_SAID}" if offered else ""
    of_recipient = f" NOTIFY=FAILURE,DELAY ORCPT={ASCII.said}" if offered else ""
    assert said(dialogue, "MAIL") == [f"MAIL FROM:<{envelope.reverse_path}>{of_mail}"]
    assert said(dialogue, "RCPT") == [f"RCPT TO:<{ALICE}>{of_recipient}"]
    wait_until(lambda: peer.mails(envelope.reverse_path), "the mail")
    what = (
        "RET, ENVID, NOTIFY and ORCPT are taken" if offered else "not offered: left out, and the mail goes on its way"
    )
    results.checked("DSN", peer.title, what, driver.name)


@pytest.mark.parametrize("peer", REPORTING, indirect=True)
@pytest.mark.parametrize(("returned", "wanted"), [(Return.HEADERS, ASCII), (Return.FULL, UTF8)], ids=["hdrs", "full"])
def test_reports_come_back(
    peer: Peer, driver: Driver, number: str, returned: Return, wanted: Original, results: Results
) -> None:
    reporting = REPORTING[peer.name]
    original = wanted if reporting.takes_all else ASCII
    message = f"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <{number}@elsewhere.example>\r\n\r\nbody\r\n"
    envelope = notified(returned, original, unheard_of=reporting.takes_all)
    dialogue = delivered(peer, driver, envelope, message.encode())
    assert said(dialogue, "MAIL") == [f"MAIL FROM:<bob@{DOMAIN}> RET={returned.value} ENVID={ENVELOPE_ID_SAID}"]
    asked = [f"NOTIFY=SUCCESS,FAILURE ORCPT={original.said}"] * 2 + ["NOTIFY=NEVER"] * reporting.takes_all
    assert [line.partition("> ")[2] for line in said(dialogue, "RCPT")] == asked

    def told() -> dict[str, Told]:
        return {one.action: one for one in told_in((octets for _, octets in peer.mails("")), number)}

    wait_until(lambda: {"delivered", "failed"} <= told().keys(), "a report of success and one of failure")
    fates = told()
    assert fates["delivered"].recipient == ALICE
    assert not [fate for fate in fates.values() if fate.recipient.startswith("carol@")]
    for action in ("delivered", "failed"):
        assert fates[action].envelope_id == reporting.envelope_id()
        assert fates[action].original == reporting.original(original)
    if reporting.obeys_ret:
        # RET is of failures; a report of success holds the header alone (RFC 3461 §4.3).
        whole = "text/rfc822-headers" if returned is Return.HEADERS else "message/rfc822"
        assert fates["failed"].given_back == whole
    heard = "SUCCESS and FAILURE reported" + ", nothing of NEVER" * reporting.takes_all
    results.checked("DSN", peer.title, f"{heard}; {describe(reporting)}", driver.name)


def describe(reporting: Reporting) -> str:
    repeated = {
        True: "ENVID and ORCPT repeated decoded",
        False: "ENVID and ORCPT repeated as they were said, in xtext",
        None: "ENVID and ORCPT not repeated",
    }[reporting.decodes]
    return f"{repeated}; RET {'obeyed' if reporting.obeys_ret else 'not obeyed'}"
