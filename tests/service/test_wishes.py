"""What the sender of a mail asks beyond delivery, through the relay services: said to the next hop, or answered here.

What lives here: mails with options, in by ``accept`` and out over a real session. What does not: who is told what
(``relay``), and what the spool keeps (``drivers``).
"""

from __future__ import annotations

import pytest

from smtpcore import (
    BodyFacts,
    Envelope,
    MailOptions,
    Notify,
    RecipientOptions,
    Return,
    TlsPolicy,
)
from smtpcore.drivers.spool import Spool
from smtpcore.relay import FateKind, FixedHosts, Lmtp, RoutingTable, SmartHost
from smtpcore.testing.peer import Line, Peer

from .relays import Kind
from .servers import Server

BODY = b"Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\nHello.\r\n"
ALL = ("DSN", "SMTPUTF8", "8BITMIME", "MT-PRIORITY", "SIZE")


def test_what_is_asked_is_said_to_a_host_that_offers_it(kind: Kind, spool: Spool) -> None:
    def serve(line: Line) -> None:
        line.serve(extensions=ALL)

    envelope = Envelope(
        "größe@bücher.example",
        ("u@far.example", "v@far.example"),
        body=BodyFacts(utf8_header=True),
        options=MailOptions(returned=Return.HEADERS, envelope_id="QQ 314", priority=3),
        recipient_options={
            "v@far.example": RecipientOptions(notify=[Notify.SUCCESS], original_recipient="list@far.example")
        },
    )
    with Peer(serve) as peer:
        with kind.make(spool, peer.port, options={"tls": TlsPolicy.NEVER}) as relay:
            fates = relay.accept(envelope, BODY).fates()
        assert [fate.kind for fate in fates] == [FateKind.DELIVERED] * 2
    said = [command.decode() for command in peer.lines[0].commands]
    assert said[1:4] == [
        f"MAIL FROM:<größe@bücher.example> SIZE={len(BODY)} BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+20314"
        " MT-PRIORITY=3",
        "RCPT TO:<u@far.example>",
        "RCPT TO:<v@far.example> NOTIFY=SUCCESS ORCPT=rfc822;list@far.example",
    ]


@pytest.mark.parametrize("offered", [True, False])
def test_a_header_in_utf8_is_said_where_it_is_offered_and_goes_everywhere(
    kind: Kind, spool: Spool, offered: bool
) -> None:
    def serve(line: Line) -> None:
        line.serve(extensions=ALL if offered else ("8BITMIME",))

    with Peer(serve) as peer, kind.make(spool, peer.port, options={"tls": TlsPolicy.NEVER}) as relay:
        fates = relay.submit(BODY, sender="", recipients="u@far.example").fates()
    assert [fate.kind for fate in fates] == [FateKind.DELIVERED]
    (mail,) = [command for command in peer.lines[0].commands if command.startswith(b"MAIL")]
    assert mail.endswith(b" SMTPUTF8" if offered else b" BODY=8BITMIME")


def reports_of(kind: Kind, spool: Spool, *, dsn: bool, store: bool = False) -> list[str]:
    """What the sender hears of a mail of which one recipient of three is refused."""

    def serve(line: Line) -> None:
        if store:
            mailboxes(line)
        else:
            extensions = ("DSN", "PIPELINING") if dsn else ("PIPELINING",)
            line.serve(extensions=extensions, replies={"RCPT TO:<NOBODY": "550 5.1.1 no such user"})

    envelope = Envelope(
        "me@home.example",
        ("anna@far.example", "nobody@far.example", "nobody.2@far.example"),
        options=MailOptions(envelope_id="my id"),
        recipient_options={
            "anna@far.example": RecipientOptions(notify=[Notify.SUCCESS], original_recipient="Anna+x@far.example"),
            "nobody.2@far.example": RecipientOptions(notify=[Notify.NEVER]),
        },
    )
    with Peer(serve) as peer, Server() as sender:
        far = Lmtp("127.0.0.1", peer.port) if store else FixedHosts((SmartHost("127.0.0.1", peer.port),))
        route = RoutingTable({"far.example": far, "*": SmartHost("127.0.0.1", sender.port)})
        relay = kind.make(spool, 25, route=route, options={"tls": TlsPolicy.NEVER})
        relay.accept(envelope, b"Subject: x\n\nHello.\n")
        relay.run(once=True)
    assert len(spool) == 0
    return [content.decode() for _, _, content in sender.taken]


def mailboxes(line: Line) -> None:
    line.say("220 store.example")
    line.expect("LHLO")
    line.say("250-store.example", "250 PIPELINING")
    line.expect("MAIL")
    line.say("250 ok")
    for reply in ("250 ok", "550 5.1.1 no such user", "550 5.1.1 no such user"):
        line.expect("RCPT")
        line.say(reply)
    line.expect("DATA")
    line.say("354 go on")
    line.message()
    line.say("250 2.1.5 stored")
    line.expect("QUIT")
    line.say("221 bye")


def test_a_sender_hears_what_he_asked_for_and_nothing_else(kind: Kind, spool: Spool) -> None:
    reports = reports_of(kind, spool, dsn=False)
    assert len(reports) == 2
    (good,) = [report for report in reports if "Action: relayed" in report]
    (bad,) = [report for report in reports if "Action: failed" in report]
    assert "Original-Recipient: rfc822; Anna+x@far.example\r\nFinal-Recipient: rfc822; anna@far.example" in good
    assert "Final-Recipient: rfc822; nobody@far.example" in bad
    assert "nobody.2@" not in "".join(reports)
    assert all("Original-Envelope-Id: my id" in report for report in reports)


def test_where_the_next_host_reports_a_success_the_relay_does_not(kind: Kind, spool: Spool) -> None:
    (bad,) = reports_of(kind, spool, dsn=True)
    assert "Action: failed" in bad


def test_what_is_in_its_mailbox_is_reported_as_delivered(kind: Kind, spool: Spool) -> None:
    reports = reports_of(kind, spool, dsn=False, store=True)
    (good,) = [report for report in reports if "Action: delivered" in report]
    assert "Diagnostic-Code: smtp; 250 2.1.5 stored" in good
