"""What the sender of a mail asks beyond delivery, through the relay services: said to the next hop, or answered here.

What lives here: mails with options, in by ``accept`` and out over a real session. What does not: who is told what
(``relay``), and what the spool keeps (``drivers``).
"""

from __future__ import annotations

from relays import Kind

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
from smtpcore.relay import FateKind
from smtpcore.testing.peer import Line, Peer

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
