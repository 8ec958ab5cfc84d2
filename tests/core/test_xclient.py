"""Speaking for another client: XCLIENT for a session, XFORWARD for a mail, as Postfix defines them.

What lives here: the attributes as values, how and when they are said, and what replies mean. What does not: what
servers do with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import (
    BodyFacts,
    Client,
    Disconnect,
    DisconnectReason,
    EhloRequired,
    Envelope,
    Idle,
    Limits,
    LocalProtocolError,
    MailOptions,
    MailSource,
    Pipelining,
    Protocol,
    RemoteProtocolError,
    SendBody,
    SendLine,
    ServiceRefused,
    Stage,
    Timeout,
    TlsInfo,
    TlsPolicy,
    Unavailable,
    Verb,
    Verdict,
    XClient,
    XclientRequired,
    XForward,
    decode_xtext,
)
from smtpcore.sasl import Plain
from smtpcore.testing import PureDriver, ScriptedServer, converse

SPIKE = XClient(name="spike.example", address="192.0.2.1", login="anna+home")
SAID = b"XCLIENT LOGIN=anna+2Bhome NAME=spike.example ADDR=192.0.2.1\r\n"
OFFER = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"
FROM_SPIKE = XForward(name="spike.example", address="2001:db8::1", source=MailSource.REMOTE)
FORWARD = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"


# --- values ---------------------------------------------------------------------------------------------------------


def test_attributes_of_xclient_stand_in_their_order_and_are_encoded() -> None:
    xclient = XClient(
        destination_port=25,
        destination_address="::ffff:192.0.2.9",
        login="a=b",
        helo="[192.0.2.1]",
        protocol="ESMTP",
        port=4711,
        address="2001:DB8::1",
        name=Unavailable.FOR_NOW,
    )
    assert xclient.attributes == (
        ("PORT", "4711"),
        ("PROTO", "ESMTP"),
        ("HELO", "[192.0.2.1]"),
        ("LOGIN", "a+3Db"),
        ("DESTADDR", "IPV6:::ffff:192.0.2.9"),
        ("DESTPORT", "25"),
        ("NAME", "[TEMPUNAVAIL]"),
        ("ADDR", "IPV6:2001:DB8::1"),
    )


def test_attributes_of_xforward_stand_in_their_order_and_are_encoded() -> None:
    xforward = XForward(
        source=MailSource.LOCAL,
        ident="4bQ+1",
        helo=Unavailable.FOR_GOOD,
        protocol="UUCP",
        port=Unavailable.FOR_GOOD,
        address="x25:4711",
        name="spike_1",
    )
    assert xforward.attributes == (
        ("NAME", "spike_1"),
        ("ADDR", "x25:4711"),
        ("PORT", "[UNAVAILABLE]"),
        ("PROTO", "UUCP"),
        ("HELO", "[UNAVAILABLE]"),
        ("IDENT", "4bQ+2B1"),
        ("SOURCE", "LOCAL"),
    )
    assert XForward(source=Unavailable.FOR_GOOD).attributes == (("SOURCE", "[UNAVAILABLE]"),)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "at least one"),
        ({"name": ""}, "printable"),
        ({"name": "a b"}, "printable"),
        ({"helo": "a\r\nMAIL"}, "printable"),
        ({"helo": "a\n"}, "printable"),
        ({"login": "\xe4"}, "printable"),
        ({"name": "[UNAVAILABLE]"}, "said with Unavailable"),
        ({"helo": "[tempunavail]"}, "said with Unavailable"),
        ({"name": b"spike"}, "is text"),
        ({"helo": "x" * 256}, "255"),
        ({"login": "+" * 86}, "255"),
        ({"protocol": "P" * 65}, "64"),
        ({"port": 0}, "a port"),
        ({"port": 65_536}, "a port"),
        ({"port": True}, "a port"),
        ({"port": "25"}, "a port"),
        ({"address": "spike.example"}, "IP address as address"),
        ({"address": "fe80::1%eth0"}, "IP address as address"),
        ({"destination_address": "[192.0.2.1]"}, "IP address as destination_address"),
        ({"destination_port": -1}, "a port"),
        ({"helo": Unavailable.FOR_NOW}, "for now"),
        ({"port": Unavailable.FOR_NOW}, "for now"),
    ],
)
def test_values_of_xclient_that_cannot_be_said(values: dict[str, Any], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        XClient(**values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "at least one"),
        ({"ident": "a b"}, "printable"),
        ({"name": Unavailable.FOR_NOW}, "for now"),
        ({"source": Unavailable.FOR_NOW}, "for now"),
        ({"source": "LOCAL"}, "MailSource"),
        ({"address": "x" * 256}, "255"),
    ],
)
def test_values_of_xforward_that_cannot_be_said(values: dict[str, Any], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        XForward(**values)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80))
def test_what_can_be_said_comes_back_when_it_is_decoded(text: str) -> None:
    ((keyword, said),) = XForward(ident=text).attributes
    assert keyword == "IDENT"
    assert decode_xtext(said) == text
    assert " " not in said


# --- XCLIENT --------------------------------------------------------------------------------------------------------


def greeted(*extensions: str, **options: Any) -> PureDriver:
    driver = PureDriver(Client("client.example", **{"tls": TlsPolicy.SECURED, "xclient": SPIKE, **options}))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(ehlo(*extensions))
    return driver


def ehlo(*extensions: str) -> bytes:
    return "".join(f"250-{line}\r\n" for line in ("mx", *extensions)).encode() + b"250 HELP\r\n"


def written(driver: PureDriver) -> list[bytes]:
    return [event.data for event in driver.events if isinstance(event, (SendLine, SendBody))]


def test_xclient_begins_the_session_anew() -> None:
    driver = greeted(OFFER, "PIPELINING", "SIZE 10")
    assert written(driver)[-1] == SAID
    assert driver.last == Timeout(Verb.XCLIENT, 300.0)
    assert driver.client.snapshot().introductions == 1
    assert driver.hear(b"220 hi again\r\n") == b"EHLO client.example\r\n"
    assert driver.client.snapshot().introductions == 0
    assert not driver.client.capabilities.extensions
    assert not driver.client.snapshot().connection.pipelining
    assert driver.hear(ehlo("8BITMIME")) == b""
    assert isinstance(driver.last, Idle)
    assert "SIZE" not in driver.client.capabilities


def test_limits_that_were_announced_before_are_forgotten() -> None:
    driver = greeted(OFFER, "LIMITS RCPTMAX=1")
    driver.hear(b"220 hi again\r\n")
    driver.hear(ehlo("PIPELINING"))
    driver.give(Envelope("a@a.example", ("b@b.example", "c@b.example")), b"")
    assert driver.run().count(b"RCPT") == 2


def test_lmtp_greets_again_in_its_own_way() -> None:
    driver = greeted(OFFER, protocol=Protocol.LMTP)
    assert driver.hear(b"220 hi again\r\n") == b"LHLO client.example\r\n"


def test_keywords_of_the_offer_count_in_any_case() -> None:
    driver = greeted("xclient name addr login")
    assert written(driver)[-1] == SAID


def test_xclient_is_said_within_tls_and_before_authentication() -> None:
    driver = greeted(OFFER, "STARTTLS", "AUTH PLAIN", tls=TlsPolicy.REQUIRED, credentials=[Plain("u", "hunter2")])
    assert written(driver)[-1] == b"STARTTLS\r\n"
    driver.hear(b"220 go\r\n")
    driver.client.tls_started(TlsInfo("TLSv1.3", "X", True))
    driver.run()
    assert driver.hear(ehlo(OFFER, "AUTH PLAIN")) == SAID
    assert driver.hear(b"220 hi again\r\n") == b"EHLO client.example\r\n"
    assert driver.hear(ehlo(OFFER, "AUTH PLAIN")).startswith(b"AUTH PLAIN ")
    driver.hear(b"235 welcome\r\n")
    assert isinstance(driver.last, Idle)


LONG = XClient(name="n" * 250, address="192.0.2.1", helo="h" * 250, login="l" * 200)


def test_what_is_too_long_for_one_line_goes_in_several_each_with_a_greeting_of_its_own() -> None:
    driver = greeted(OFFER, xclient=LONG)
    assert written(driver)[-1] == b"XCLIENT HELO=%b LOGIN=%b\r\n" % (b"h" * 250, b"l" * 200)
    assert driver.hear(b"220 again\r\n") == b"EHLO client.example\r\n"
    assert driver.hear(ehlo(OFFER)) == b"XCLIENT NAME=%b ADDR=192.0.2.1\r\n" % (b"n" * 250)
    assert driver.hear(b"220 again\r\n") == b"EHLO client.example\r\n"
    assert driver.hear(ehlo(OFFER)) == b""
    assert isinstance(driver.last, Idle)


def test_a_line_is_filled_to_512_octets_and_no_further() -> None:
    helo = "h" * (512 - len("XCLIENT NAME= HELO=\r\n") - 250)
    driver = greeted(OFFER, xclient=XClient(name="n" * 250, helo=helo))
    assert len(written(driver)[-1]) == 512
    driver = greeted(OFFER, xclient=XClient(name="n" * 251, helo=helo))
    assert b"NAME" not in written(driver)[-1]


def test_a_peer_that_no_longer_offers_it_in_the_middle() -> None:
    driver = greeted(OFFER, xclient=LONG)
    driver.hear(b"220 again\r\n")
    assert driver.hear(ehlo("PIPELINING")) == b"QUIT\r\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Client("here.example", xclient="spike"),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: MailOptions(forwarded=SPIKE),  # type: ignore[arg-type]  # a wrong kind, on purpose
    ],
)
def test_what_is_no_value_of_its_kind_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(LocalProtocolError, match=r"must be a X(Client|Forward)"):
        make()


def test_an_attribute_beyond_the_limit_of_a_line_is_refused_at_once() -> None:
    with pytest.raises(LocalProtocolError, match="command line"):
        Client("client.example", xclient=LONG, limits=Limits(command_line=200))


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ((), "does not offer XCLIENT with LOGIN NAME ADDR"),
        (("XCLIENT",), "does not offer XCLIENT with LOGIN NAME ADDR"),
        (("XCLIENT NAME PORT LOGIN",), "does not offer XCLIENT with ADDR"),
    ],
)
def test_a_peer_that_does_not_take_all_attributes_gets_no_mail(extensions: tuple[str, ...], words: str) -> None:
    driver = greeted(*extensions)
    assert written(driver)[-1] == b"QUIT\r\n"
    driver.client.receive_eof()
    driver.run()
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.REFUSED
    assert isinstance(driver.last.error, XclientRequired)
    assert words in str(driver.last.error)
    assert not driver.last.error.retryable


@pytest.mark.parametrize(("reply", "retryable"), [("550 5.7.0 not you", False), ("450 not now", True)])
def test_a_peer_that_refuses_xclient_gets_no_mail(reply: str, retryable: bool) -> None:
    driver = greeted(OFFER)
    driver.give(Envelope("a@a.example", ("b@b.example",)), b"")
    assert driver.hear(f"{reply}\r\n".encode()) == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, XclientRequired)
    assert str(driver.last.error.reply) == reply
    assert driver.last.error.retryable is retryable
    (report,) = driver.reports
    assert report.stage is Stage.NOT_STARTED
    assert report.outcomes[0].verdict is Verdict.LATER


def test_421_and_other_replies_to_xclient() -> None:
    driver = greeted(OFFER)
    driver.hear(b"421 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, ServiceRefused)
    driver = greeted(OFFER)
    driver.hear(b"250 fine\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, RemoteProtocolError)


def test_a_peer_that_speaks_helo_only_is_told_of_nobody() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, xclient=SPIKE))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"502 what?\r\n")
    driver.hear(b"221 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, EhloRequired)


# --- XFORWARD -------------------------------------------------------------------------------------------------------


def mail(forwarded: XForward | None = FROM_SPIKE, *recipients: str, **facts: Any) -> tuple[Envelope, bytes]:
    options = MailOptions() if forwarded is None else MailOptions(forwarded=forwarded)
    to = recipients or ("b@b.example",)
    return Envelope("a@a.example", to, options=options, body=BodyFacts(repeatable=True, **facts)), b"hello\r\n"


def opened(*extensions: str, **options: Any) -> PureDriver:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, **options))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(ehlo(*extensions))
    return driver


FORWARDED = b"XFORWARD NAME=spike.example ADDR=IPV6:2001:db8::1 SOURCE=REMOTE\r\n"
MAIL = b"MAIL FROM:<a@a.example>\r\n"
RCPT = b"RCPT TO:<b@b.example>\r\n"


def test_xforward_leaves_in_one_group_with_its_mail() -> None:
    driver = opened(FORWARD, "PIPELINING")
    driver.give(*mail())
    assert driver.run() == FORWARDED + MAIL + RCPT + b"DATA\r\n"
    driver.hear(b"250 noted\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    # The message that was taken ended what stood for it: nothing is to be reset.
    assert driver.hear(b"250 taken\r\n") == b""
    assert [o.verdict for o in driver.reports[0].outcomes] == [Verdict.DELIVERED]
    # Nothing of it is said of the next mail.
    driver.give(*mail(None))
    assert driver.run() == MAIL + RCPT + b"DATA\r\n"


def test_without_pipelining_it_is_said_and_answered_alone() -> None:
    driver = opened(FORWARD)
    driver.give(*mail())
    assert driver.run() == FORWARDED
    assert driver.last == Timeout(Verb.XFORWARD, 300.0)
    assert driver.hear(b"250 noted\r\n") == MAIL


def test_only_attributes_that_are_offered_are_said() -> None:
    driver = opened("XFORWARD addr helo", "PIPELINING")
    driver.give(*mail())
    assert driver.run().startswith(b"XFORWARD ADDR=IPV6:2001:db8::1\r\nMAIL")


@pytest.mark.parametrize("extensions", [("PIPELINING",), ("PIPELINING", "XFORWARD"), ("PIPELINING", "XFORWARD PORT")])
def test_what_is_not_offered_is_left_out(extensions: tuple[str, ...]) -> None:
    driver = opened(*extensions)
    driver.give(*mail())
    assert driver.run().startswith(MAIL)


def test_what_is_too_long_for_one_line_goes_in_several() -> None:
    driver = opened(FORWARD, "PIPELINING")
    driver.give(*mail(XForward(name="n" * 250, helo="h" * 250, ident="i" * 250)))
    lines = driver.run().split(b"\r\n")
    assert [line[:14] for line in lines[:3]] == [b"XFORWARD NAME=", b"XFORWARD HELO=", b"XFORWARD IDENT"]
    assert lines[3].startswith(b"MAIL")


def test_attributes_beyond_the_limit_of_a_line_are_refused_before_anything_is_said() -> None:
    driver = opened(FORWARD, limits=Limits(command_line=200))
    with pytest.raises(LocalProtocolError, match="command line"):
        driver.client.send(mail(XForward(name="n" * 250))[0])
    assert isinstance(driver.last, Idle)


@pytest.mark.parametrize("reply", ["501 what?", "550 not you", "450 not now"])
def test_a_refusal_changes_nothing_for_the_mail(reply: str) -> None:
    driver = opened(FORWARD, "PIPELINING")
    driver.give(*mail())
    driver.run()
    driver.hear(f"{reply}\r\n".encode() + b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.hear(b"250 taken\r\n")
    assert [o.verdict for o in driver.reports[0].outcomes] == [Verdict.DELIVERED]


@pytest.mark.parametrize("pipelining", [Pipelining.NONE, Pipelining.WITHIN, Pipelining.ACROSS])
def test_a_refused_mail_leaves_no_attributes_for_the_next(pipelining: Pipelining) -> None:
    server = ScriptedServer({"XFORWARD": "250 noted", "MAIL": ["550 no", None]}, extensions=[FORWARD, "PIPELINING"])
    converse(Client("client.example", pipelining=pipelining), server, [mail(), mail(None), mail()])
    assert not server.complaints
    verbs = [command.split(" ")[0] for command in server.commands]
    assert verbs.count("XFORWARD") == 2
    first, second, third = [place for place, verb in enumerate(verbs) if verb == "MAIL"]
    assert "RSET" in verbs[first:second]
    assert verbs[third - 1] == "XFORWARD"
    assert len(server.mails) == 2


def test_a_lost_connection_before_mail_is_no_attempt() -> None:
    driver = opened(FORWARD)
    driver.give(*mail())
    driver.run()
    driver.hear(b"421 bye\r\n")
    (report,) = driver.reports
    assert report.stage is Stage.NOT_STARTED
    driver = opened(FORWARD)
    driver.give(*mail())
    driver.run()
    assert driver.hear(b"250 noted\r\n") == MAIL
    driver.hear(b"421 bye\r\n")
    assert driver.reports[0].stage is Stage.STARTED


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("pipelining", Pipelining)
def test_it_is_said_before_each_transaction_of_a_mail(pipelining: Pipelining, chunking: bool) -> None:
    server = ScriptedServer(
        {"XFORWARD": "250 noted"}, extensions=[FORWARD, "PIPELINING", "LIMITS RCPTMAX=1", *["CHUNKING"] * chunking]
    )
    recipients = ("b@b.example", "c@b.example")
    client = Client("client.example", pipelining=pipelining)
    converse(client, server, [mail(FROM_SPIKE, *recipients, size=7) for _ in range(3)])
    assert not server.complaints
    verbs = [command.split(" ")[0] for command in server.commands]
    assert verbs.count("MAIL") == 6
    assert all(verbs[place - 1] == "XFORWARD" for place, verb in enumerate(verbs) if verb == "MAIL")
    assert len(server.mails) == 6
