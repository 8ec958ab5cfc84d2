"""LMTP with each wire driver, over TCP and over a unix socket.

What lives here: that a driver speaks it, and tells what became of each recipient. What does not: all turns of the
dialogue, which are the core's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smtpcore import MailSent, Protocol, Report, TlsPolicy, Verdict

from .peers import Line, Peer
from .scenarios import DRIVERS, Driver, call

BODY = b"Subject: to a mailbox\r\n\r\nHello.\r\n"
MAILBOXES = ["anna@here.example", "boris@here.example", "nobody@here.example", "clara@here.example"]


def serve(line: Line) -> None:
    """A mailbox store where Boris has no room left and one recipient is unknown; it takes chunks."""
    line.say("220 store.example LMTP ready")
    line.expect("LHLO")
    line.say("250-store.example", "250-PIPELINING", "250 CHUNKING")
    line.expect("MAIL FROM:<ME@HERE.EXAMPLE>")
    for mailbox in MAILBOXES:
        line.expect(f"RCPT TO:<{mailbox}>".upper())
    line.expect(f"BDAT {len(BODY)} LAST")
    line.bodies.append(line.octets(len(BODY)))
    line.say("250 ok", "250 ok", "250 ok", "550 5.1.1 no such mailbox", "250 ok")
    line.say("250 2.1.5 anna has it", "452 4.2.2 boris is over quota", "250 2.1.5 clara has it")
    line.expect("QUIT")
    line.say("221 bye")


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "unix socket"])
def test_each_mailbox_has_its_verdict(driver: Driver, unix: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp") if unix else None

    async def story() -> Report:
        options: dict[str, Any] = {"protocol": Protocol.LMTP, "tls": TlsPolicy.NEVER}
        module = driver.module
        if path is not None:
            session = await call(module.connect_unix, path, **options)
        else:
            session = await call(module.connect, "127.0.0.1", peer.port, **options)
        report: Report = await call(session.send, BODY, sender="me@here.example", recipients=MAILBOXES)
        await call(session.quit)
        return report

    with Peer(serve, path=path) as peer:
        report = driver.run(story())
    assert isinstance(report, MailSent)
    assert [(o.verdict, o.enhanced) for o in report.outcomes] == [
        (Verdict.DELIVERED, "2.1.5"),
        (Verdict.LATER, "4.2.2"),
        (Verdict.NEVER, "5.1.1"),
        (Verdict.DELIVERED, "2.1.5"),
    ]
    assert peer.lines[0].bodies == [BODY]
