"""LMTP as a route of the relay services: over TCP and over a unix socket, a fate for each recipient.

What lives here: a store of mailboxes at the end of a route, and one that is not there. What does not: the rules of
routes (``relay``), and LMTP itself (``core``, ``drivers``).
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from smtpcore import TlsPolicy
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, Lmtp, Schedule
from smtpcore.sasl import Plain
from smtpcore.testing.peer import Line, Peer

from .relays import PATIENCE, Kind, wait_until

MAILBOXES = ["anna@here.example", "boris@here.example", "nobody@here.example"]
BODY = b"Subject: to a mailbox\r\n\r\nHello.\r\n"


def serve(line: Line) -> None:
    """A store that knows Anna and Boris; Boris' mailbox is broken."""
    line.say("220 store.example LMTP ready")
    line.expect("LHLO")
    line.say("250-store.example", "250 PIPELINING")
    line.expect("MAIL FROM:<>")
    line.say("250 ok")
    for reply in ("250 ok", "250 ok", "550 5.1.1 no such mailbox"):
        line.expect("RCPT TO:")
        line.say(reply)
    line.expect("DATA")
    line.say("354 go on")
    line.message()
    line.say("250 2.1.5 anna has it", "552 5.2.2 boris is over quota for good")
    line.expect("QUIT")
    line.say("221 bye")


def fates_of(kind: Kind, spool: Spool, route: Lmtp, **options: Any) -> list[tuple[str, FateKind, str]]:
    relay = kind.make(spool, 24, route=route, options=options)
    with relay:
        submission = relay.submit(BODY, sender="", recipients=MAILBOXES)
        fates = submission.fates()
    return sorted((fate.recipient.partition("@")[0], fate.kind, fate.words) for fate in fates)


EXPECTED = [
    ("anna", FateKind.DELIVERED, "250 2.1.5 anna has it"),
    ("boris", FateKind.DISCARDED, "552 5.2.2 boris is over quota for good"),
    ("nobody", FateKind.DISCARDED, "550 5.1.1 no such mailbox"),
]


@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "unix socket"])
def test_each_mailbox_has_its_fate(kind: Kind, spool: Spool, tmp_path: Path, unix: bool) -> None:
    path = str(tmp_path / "lmtp") if unix else None
    # The sessions through a network are not those with a socket of this machine.
    options: dict[str, Any] = (
        {
            "tls": TlsPolicy.REQUIRED,
            "tls_context": ssl.create_default_context(),
            "tls_server_name": "other.example",
            "credentials": [Plain("anna", "secret")],
            "source_address": "127.0.0.1",
        }
        if unix
        else {"tls": TlsPolicy.NEVER}
    )
    with Peer(serve, path=path) as peer:
        route = Lmtp(path=path) if path else Lmtp("127.0.0.1", peer.port)
        assert fates_of(kind, spool, route, **options) == EXPECTED
    assert peer.lines[0].bodies == [BODY + b".\r\n"]


def test_a_socket_that_is_not_there_yet_is_tried_again(kind: Kind, spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    notes: list[Fate | Attempted] = []
    schedule = Schedule(delays=(0.05,))
    relay = kind.make(
        spool, 24, route=Lmtp(path=str(path)), notes=notes, schedule=schedule, rest=0.05, longest_rest=0.1
    )
    with relay:
        submission = relay.submit(BODY, sender="", recipients=MAILBOXES)
        wait_until(lambda: notes)
        with Peer(serve, path=str(path)):
            fates = submission.fates()
            # Else the session stays open for more mail, and the store waits for its end.
            relay.stop()
    assert sorted((fate.recipient.partition("@")[0], fate.kind, fate.words) for fate in fates) == EXPECTED
    early = notes[0]
    assert isinstance(early, Attempted)
    assert early.words == f"cannot connect to {path}: No such file or directory"


def test_a_store_that_says_nothing_is_broken_off(kind: Kind, spool: Spool, tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        relay = kind.make(spool, 24, route=Lmtp(path=path), grace=0.0)
        relay.submit(BODY, sender="", recipients=MAILBOXES)
        background = relay.start()
        silent.settimeout(PATIENCE)
        connection, _ = silent.accept()
        with connection:
            relay.stop()
            assert background.ended() is None
            connection.settimeout(PATIENCE)
            assert connection.recv(1) == b""
    assert [entry.job.attempts for entry in spool.list()] == [0]
