"""A relay whose next hop does not take what is in the spool as it is.

What lives here: mails from the spool that are converted, small ones and those in files, and what becomes of those that
cannot be. What does not: how a message is converted, and when, which are the core's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from smtpcore import Conversion, TlsPolicy
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind, FixedHosts, SmartHost
from smtpcore.testing.peer import Line, Peer

from .relays import Kind

HEADER = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
LONG = HEADER + b"7bit\r\n\r\n" + b"x" * 999 + b"\r\n"


def eight_bit(lines: int) -> bytes:
    return HEADER + b"8bit\r\n\r\n" + b"Caf\xc3\xa9\r\n" * lines


def quoted(lines: int) -> bytes:
    return HEADER + b"quoted-printable\r\n\r\n" + b"Caf=C3=A9\r\n" * lines


def relay(
    kind: Kind, spool: Spool, message: bytes, extensions: Sequence[str] = (), **options: Any
) -> tuple[Line, list[Fate]]:
    """Relay a message from the null reverse-path; what the next hop heard, and the fates."""
    notes: list[Fate | Attempted] = []
    with Peer(lambda line: line.serve(extensions=extensions)) as peer:
        service = kind.make(spool, peer.port, notes=notes, options={"tls": TlsPolicy.NEVER, **options})
        service.submit(message, sender="", recipients=["b@there.example"])
        service.run(once=True)
    assert len(spool) == 0
    (line,) = peer.lines
    return line, [note for note in notes if isinstance(note, Fate)]


@pytest.mark.parametrize("lines", [1, 20_000], ids=["in the database", "in a file"])
def test_a_mail_is_converted_for_its_next_hop(kind: Kind, spool: Spool, lines: int) -> None:
    line, (fate,) = relay(kind, spool, eight_bit(lines), ["SIZE"])
    assert fate.kind is FateKind.DELIVERED
    assert line.bodies == [quoted(lines) + b".\r\n"]
    assert line.commands[1] == b"MAIL FROM:<> SIZE=%d" % len(quoted(lines))


def test_a_next_hop_that_takes_it_gets_what_was_accepted(kind: Kind, spool: Spool) -> None:
    line, (fate,) = relay(kind, spool, eight_bit(1), ["8BITMIME"])
    assert fate.kind is FateKind.DELIVERED
    assert line.bodies == [eight_bit(1) + b".\r\n"]


@pytest.mark.parametrize("size", ["SIZE", "SIZE 10"])
def test_a_mail_that_cannot_be_converted_goes_to_a_host_that_takes_it_as_it_is(
    kind: Kind, spool: Spool, size: str
) -> None:
    """The first host offers no 8BITMIME, and the second one too little or all that is needed."""
    signed = b"DKIM-Signature: v=1\r\n" + eight_bit(1)
    notes: list[Fate | Attempted] = []
    with (
        Peer(lambda line: line.serve(extensions=[])) as first,
        Peer(lambda line: line.serve(extensions=["8BITMIME", size])) as second,
    ):
        route = FixedHosts((SmartHost("127.0.0.1", first.port), SmartHost("127.0.0.1", second.port)))
        service = kind.make(spool, first.port, notes=notes, route=route, options={"tls": TlsPolicy.NEVER})
        service.submit(signed, sender="", recipients=["b@there.example"])
        service.run(once=True)
    (fate,) = [note for note in notes if isinstance(note, Fate)]
    assert fate.kind is (FateKind.DELIVERED if size == "SIZE" else FateKind.DISCARDED)
    assert [line.commands[-1] for line in (*first.lines, *second.lines)] == [b"QUIT"] * 2
    assert second.lines[0].bodies == ([signed + b".\r\n"] if size == "SIZE" else [])


def test_a_mail_that_is_signed_is_given_up(kind: Kind, spool: Spool) -> None:
    line, (fate,) = relay(kind, spool, b"DKIM-Signature: v=1\r\n" + eight_bit(1))
    assert fate.kind is FateKind.DISCARDED
    assert "it is signed (dkim-signature)" in fate.words
    assert line.bodies == []


@pytest.mark.parametrize("policy", list(Conversion))
def test_long_lines_are_known_from_the_spool(kind: Kind, spool: Spool, policy: Conversion) -> None:
    line, (fate,) = relay(kind, spool, LONG, ["8BITMIME"], long_lines=policy)
    if policy is Conversion.REFUSE:
        assert (fate.kind, line.bodies) == (FateKind.DISCARDED, [])
        assert "lines of more than 998 octets" in fate.words
    else:
        assert fate.kind is FateKind.DELIVERED
        (body,) = line.bodies
        assert (b"quoted-printable" in body) == (policy is Conversion.CONVERT)
