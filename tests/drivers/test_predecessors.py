"""One test for each defect of the libraries before this one, named after its cause: none of them may come back.

What lives here: the defects that drivers and pools can have. What does not: those of the core
(``tests/core/test_predecessors.py``), of spools and of relays.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from email.message import Message
from typing import Any

import pytest

from smtpcore import (
    BodyNotRepeatable,
    ConnectionLost,
    Deadlines,
    DeliveryFailed,
    Limits,
    LocalProtocolError,
    MailSent,
    PeerTimeout,
    Pipelining,
    TlsFailed,
    TlsPolicy,
    Verdict,
)
from smtpcore.pool import Retries

from .peers import Line, Peer, server_context, steps, trusting_context
from .pool_stage import KINDS, QUICK, RECIPIENT, SENDER, Host, Kind, nothing_left
from .scenarios import DRIVERS, OFFERS_TLS, Driver, call, no_handshake, within

each_driver = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
each_pool = pytest.mark.parametrize("kind", KINDS, ids=repr)

#: More than any buffers between the two hold.
LARGE = b"0123456789abcdef" * 64 * 1024 * 8 + b"\r\n"


async def send(driver: Driver, port: int, message: Any, **options: Any) -> Any:
    envelope = {"sender": SENDER, "recipients": [RECIPIENT]}
    return await call(driver.module.send, message, host="localhost", port=port, **envelope, **options)


# --- twisted.mail.smtp ----------------------------------------------------------------------------------------------


@each_driver
@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
def test_t14_after_a_handshake_that_failed_the_session_goes_on_in_clear(driver: Driver, policy: TlsPolicy) -> None:
    scripts = [lambda line: no_handshake(line, lambda line: line.raw(b"what is this?\r\n"))]
    if policy is TlsPolicy.OPPORTUNISTIC:
        # In clear there is another connection; this one is over.
        scripts.append(lambda line: line.serve(extensions=OFFERS_TLS))
    with Peer(*scripts) as peer:
        try:
            driver.run(send(driver, peer.port, b"Hello.", tls=policy, tls_context=trusting_context()))
        except TlsFailed:
            assert policy is TlsPolicy.REQUIRED
    behind = bytes(peer.lines[0].heard).partition(b"STARTTLS\r\n")[2]
    assert behind.startswith(b"\x16\x03")
    assert not any(command in behind for command in (b"EHLO", b"QUIT", b"MAIL"))
    assert len(peer.lines) == len(scripts)


@each_driver
def test_t21_a_message_as_text_breaks_within_the_session(driver: Driver) -> None:
    """Text has no octets before somebody chooses an encoding, and might as well be the name of a file."""

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port)
        for text in ("Hello.", io.StringIO("Hello.")):
            with pytest.raises(LocalProtocolError):
                await call(session.send, text, sender=SENDER, recipients=RECIPIENT)
        await call(session.send, b"Hello.", sender=SENDER, recipients=RECIPIENT)
        await call(session.quit)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))
    assert peer.lines[0].bodies == [b"Hello.\r\n.\r\n"]


@each_driver
def test_t21_nobody_asked_for_a_deadline_and_a_silent_peer_is_waited_for_for_ever(driver: Driver) -> None:
    deadlines = Deadlines()
    assert all(getattr(deadlines, row.name) <= 600 for row in fields(deadlines))
    with (
        Peer(lambda line: line.until_closed()) as peer,
        pytest.raises(PeerTimeout, match="deadline for connect"),
    ):
        # The one setting that scales them all.
        driver.run(send(driver, peer.port, b"Hello.", limits=Limits().scaled(0.001)))


@each_driver
def test_t22_a_connection_lost_in_the_body_is_told_twice_or_not_at_all(driver: Driver) -> None:
    unheard: list[Any] = []

    async def play(port: int) -> None:
        if driver.module_name == "asyncio":
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        with pytest.raises(DeliveryFailed) as caught:
            await send(driver, port, LARGE, **within(last_words=0.1))
        (outcome,) = caught.value.report.outcomes
        assert outcome.verdict is Verdict.LATER
        assert isinstance(outcome.error, ConnectionLost)

    with Peer(steps(lambda line: line.serve("BODY"), lambda line: line.octets(10_000), Line.reset)) as peer:
        driver.run(play(peer.port))
    assert not unheard


def test_t23_retries_follow_each_other_at_once() -> None:
    retries = Retries()
    assert retries.most == 5
    assert Retries(spread=0.0).delays == retries.delays == (1.0, 2.0, 4.0, 8.0, 16.0)
    assert all(
        retries.delay(seed=0, number=1, attempts=attempts) > 0.9 * 2 ** (attempts - 1) for attempts in range(1, 6)
    )
    for impatient in ((0.0,), (2.0, 1.0), ()):
        with pytest.raises(LocalProtocolError):
            Retries(delays=impatient)


def lost_at_first(line: Line, number: int) -> None:
    """A host that resets the first connection in the middle of the body."""
    if number == 1:
        line.serve("BODY")
        line.octets(10_000)
        line.reset()
    else:
        line.serve()


@each_pool
def test_t23_a_body_is_read_again_from_its_very_beginning(kind: Kind) -> None:
    file = io.BytesIO(b"not a part of it" + LARGE)
    file.seek(len(b"not a part of it"))

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            assert isinstance(await pool.send(file, sender=SENDER, recipients=RECIPIENT), MailSent)

    with nothing_left(), Host(lost_at_first) as host:
        kind.run(play())
    assert host.bodies == [LARGE + b".\r\n"]


@each_pool
def test_t23_a_body_that_cannot_be_rewound_breaks_the_retry(kind: Kind) -> None:
    def pieces() -> Iterator[bytes]:
        yield LARGE

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            with pytest.raises(DeliveryFailed) as caught:
                await pool.send(pieces(), sender=SENDER, recipients=RECIPIENT)
            assert isinstance(caught.value.report.outcomes[0].error, BodyNotRepeatable)

    with nothing_left(), Host(lost_at_first) as host:
        kind.run(play())
    assert len(host.lines) == 1


@each_pool
def test_t23_a_temporary_refusal_of_all_recipients_is_taken_for_a_lasting_one(kind: Kind) -> None:
    def serve(line: Line, number: int) -> None:
        line.serve("RCPT")
        line.say("450 4.7.1 greylisted")
        line.serve(greet=False)

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            assert isinstance(await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT), MailSent)

    with nothing_left(), Host(serve) as host:
        kind.run(play())
    assert len(host.said(b"RCPT")) == 2


PROBE = """
import socket

def never(*_):
    raise AssertionError("a name was looked up")

for function in ("getfqdn", "gethostbyname", "gethostbyaddr", "getaddrinfo", "gethostbyname_ex"):
    setattr(socket, function, never)
socket.gethostname = lambda: "jürgens-rechner"

import smtpcore.drivers.asyncio, smtpcore.drivers.blocking, smtpcore.drivers.blocking_pool, smtpcore.drivers.cli
import smtpcore.drivers.pool, smtpcore.drivers.service, smtpcore.drivers.threads, smtpcore.drivers.trio

ours, theirs = socket.socketpair()
theirs.sendall(b"220 hi\\r\\n250 peer.example\\r\\n")
theirs.shutdown(socket.SHUT_WR)
try:
    smtpcore.drivers.blocking.open_session(ours)
except smtpcore.SmtpError:
    pass
"""


def test_t24_the_name_of_this_host_is_looked_up_when_the_module_is_imported() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", PROBE], check=True, env={**os.environ, "PYTHONUTF8": "1"})


@each_driver
def test_t25_a_peer_that_offers_extensions_is_spoken_to_as_if_it_offered_none(driver: Driver) -> None:
    """SIZE, 8BITMIME, PIPELINING and enhanced status codes, over TLS before the greeting."""
    said_ahead: list[bytes] = []

    def script(line: Line) -> None:
        assert line.tls(server_context())
        line.serve("MAIL")
        # Nothing is answered, and more comes.
        said_ahead.extend([line.line(), line.line()])
        line.say("250 2.1.0 ok", "250 2.1.5 ok", "354 go on")
        line.message()
        line.say("250 2.6.0 taken")
        line.serve(greet=False)

    with Peer(script) as peer:
        report = driver.run(
            send(
                driver,
                peer.port,
                "Grüße\n".encode(),
                tls=TlsPolicy.IMPLICIT,
                tls_context=trusting_context(),
                pipelining=Pipelining.WITHIN,
            )
        )
    assert b"MAIL FROM:<a@here.example> SIZE=9 BODY=8BITMIME" in peer.lines[0].commands
    assert said_ahead == [b"RCPT TO:<b@there.example>", b"DATA"]
    assert [outcome.enhanced for outcome in report.outcomes] == ["2.6.0"]


def test_t25_one_deadline_serves_for_everything() -> None:
    deadlines = Deadlines()
    assert (deadlines.greeting, deadlines.mail, deadlines.rcpt) == (300.0, 300.0, 300.0)
    assert (deadlines.data_initiation, deadlines.data_block, deadlines.data_termination) == (120.0, 180.0, 600.0)


# --- aiosmtplib and smtplib -----------------------------------------------------------------------------------------


@each_driver
@pytest.mark.parametrize("policy", [TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT])
def test_s2_a_certificate_that_nobody_vouches_for_is_taken(driver: Driver, policy: TlsPolicy) -> None:
    """Nobody gave a context: what serves then must judge certificates and names."""
    met: list[bool] = []

    def script(line: Line) -> None:
        if policy is TlsPolicy.REQUIRED:
            line.serve("STARTTLS", extensions=OFFERS_TLS)
            line.say("220 go on")
        met.append(line.tls(server_context()))

    with Peer(script) as peer, pytest.raises(TlsFailed, match="certificate was not accepted"):
        driver.run(send(driver, peer.port, b"Hello.", tls=policy))
    assert met == [False]


@each_driver
def test_s1_s6_only_the_first_of_several_headers_counts_and_the_size_is_that_before_line_ends(driver: Driver) -> None:
    message = Message()
    for name, address in [("From", SENDER), ("To", "a@b.example"), ("Cc", "c@b.example"), ("Cc", "d@b.example")]:
        message.add_header(name, address)
    message.add_header("Bcc", "e@b.example, f@b.example")
    message.set_payload("one\ntwo\n")
    with Peer(lambda line: line.serve()) as peer:
        driver.run(call(driver.module.send, message, host="127.0.0.1", port=peer.port))
    heard = bytes(peer.lines[0].heard).decode()
    assert [line[9] for line in heard.splitlines() if line.startswith("RCPT TO:")] == list("acdef")
    (body,) = peer.lines[0].bodies
    assert body.endswith(b"one\r\ntwo\r\n.\r\n")
    assert b"Bcc" not in body
    assert f" SIZE={len(body) - len(b'.' + bytes(2))} " in heard.splitlines()[1] + " "
