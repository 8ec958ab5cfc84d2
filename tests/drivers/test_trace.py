"""The trace floor: what is shown of a dialogue, and what never is.

What lives here: the floor over a client in memory. What does not: where the lines go.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from smtpcore import (
    BodyFacts,
    Client,
    Disconnect,
    Envelope,
    FileRange,
    NeedBody,
    NeedMail,
    SendBody,
    SendLine,
    Timeout,
    TlsPolicy,
)
from smtpcore.drivers.trace import Traced
from smtpcore.sasl import Mechanism, Plain

SECRET = base64.b64encode(b"\0user\0open sesame").decode()


def traced(**options: object) -> tuple[Client, Traced, list[str]]:
    shown: list[str] = []
    client = Client("here.example", tls=TlsPolicy.SECURED, **options)  # type: ignore[arg-type]  # arguments by name
    return client, Traced(client, shown.append), shown


def turn(wire: Traced) -> object:
    """The next event that is no octets to write."""
    while isinstance(event := wire.next_event(), (SendLine, SendBody)):
        pass
    return event


def hear(wire: Traced, *lines: str) -> object:
    wire.receive_data("".join(f"{line}\r\n" for line in lines).encode())
    return turn(wire)


def test_lines_in_any_division() -> None:
    for size in (1, 2, 3, 100):
        _, wire, shown = traced()
        octets = b"220-one\r\n220 two\r\n"
        for start in range(0, len(octets), size):
            wire.receive_data(octets[start : start + size])
        turn(wire)
        assert shown == ["<<< 220-one", "<<< 220 two", ">>> EHLO here.example"]


def test_of_a_file_it_shows_how_many_octets_it_has() -> None:
    client, wire, shown = traced()
    hear(wire, "220 hello")
    hear(wire, "250-peer.example", "250-PIPELINING", "250 CHUNKING")
    client.send(Envelope("", ("a@b.example",), body=BodyFacts(size=300, canonical=True)))
    assert isinstance(turn(wire), NeedBody)
    client.send_body(FileRange(object(), 0, 300))
    client.send_body(b"")
    while not isinstance(wire.next_event(), Timeout):
        pass
    assert shown[-2:] == [">>> BDAT 300 LAST", ">>> (300 octets of message)"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_secrets_are_masked_also_when_the_peer_repeats_them(size: int) -> None:
    _, wire, shown = traced(credentials=[Plain("user", "open sesame")])
    hear(wire, "220 hello")
    hear(wire, "250-peer.example", "250 AUTH PLAIN")
    octets = f"535 what is {SECRET} to open sesame?\r\n".encode()
    for start in range(0, len(octets), size):
        wire.receive_data(octets[start : start + size])
    turn(wire)
    assert shown[4:6] == [">>> AUTH PLAIN ********", "<<< 535 what is ******** to ********?"]
    assert SECRET not in "".join(shown)


def test_a_secret_that_begins_like_another_is_masked_whole() -> None:
    _, wire, shown = traced(credentials=[Plain("anna", "annabel-lee")])
    hear(wire, "220 hello")
    hear(wire, "250-peer.example", "250 AUTH PLAIN")
    hear(wire, "535 anna, not annabel-lee")
    assert "<<< 535 anna, not ********" in shown


def test_an_answer_within_an_exchange_is_masked() -> None:
    class Asks(Mechanism):
        name = "ASKS"

        def start(self) -> None:
            return None

        def answer(self, challenge: bytes) -> bytes:
            return b"open sesame"

    _, wire, shown = traced(credentials=[Asks()])
    hear(wire, "220 hello")
    hear(wire, "250-peer.example", "250 AUTH ASKS")
    hear(wire, "334 ")
    assert shown[-3:] == [">>> AUTH ASKS", "<<< 334 ", ">>> ********"]


def test_bodies_are_counted_not_shown() -> None:
    client, wire, shown = traced()
    hear(wire, "220 hello")
    assert isinstance(hear(wire, "250 peer.example"), NeedMail)
    client.send(Envelope("", ("b@x.example",)))
    turn(wire)
    hear(wire, "250 ok")
    hear(wire, "250 ok")
    assert isinstance(hear(wire, "354 go on"), NeedBody)
    client.send_body(b"private")
    turn(wire)
    client.send_body(b"")
    turn(wire)
    # One line each, also for the dot behind a last line that had no end.
    assert shown[-2:] == [">>> (7 octets of message)", ">>> ."]
    assert "private" not in "".join(shown)


def test_what_a_peer_says_cannot_write_on_the_terminal() -> None:
    _, wire, shown = traced()
    wire.receive_data(b"220 \x1b[31mred\xff\x00\n\r\n")
    assert shown == [r"<<< 220 \x1b[31mred\xff\x00\n"]


def test_the_ends() -> None:
    ends: list[tuple[Callable[[Traced], None], str]] = [
        (lambda wire: wire.receive_eof(), "--- the peer closed"),
        (lambda wire: wire.receive_timeout(), "--- the deadline passed"),
    ]
    for fact, line in ends:
        _, wire, shown = traced()
        fact(wire)
        assert isinstance(turn(wire), Disconnect)
        assert shown == [line]
    _, wire, shown = traced()
    wire.send_failed("broken pipe")
    assert isinstance(turn(wire), Timeout)
    assert shown == ["--- the connection failed: broken pipe"]


def test_a_line_without_end_is_not_kept() -> None:
    """However much comes, what the floor holds is bounded."""
    _, wire, shown = traced()
    for _ in range(100):
        wire.receive_data(b"x" * 10_000)
    wire.receive_data(b"\r\n")
    assert len(shown[0]) < 10_000
