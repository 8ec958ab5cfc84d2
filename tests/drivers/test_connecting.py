"""Connecting, opening, and what the options of a session do, with each wire driver.

What lives here: addresses that fail, deadlines that never come, options that do not exist, secrets that must not show.
What does not: dialogues (the table of scenarios).
"""

from __future__ import annotations

import math
import os
import socket
from dataclasses import fields
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    ConnectFailed,
    Deadlines,
    Envelope,
    Limits,
    LocalProtocolError,
    TlsPolicy,
)
from smtpcore.sasl import Plain

from .peers import EXTENSIONS, Peer, silent_port, trusting_context
from .scenarios import DRIVERS, Driver, call, starttls

pytestmark = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)

STREAM = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: Any) -> None:
    """Every name has these addresses; an exception is raised instead."""

    def getaddrinfo(host: Any, port: Any, *_: Any, **__: Any) -> Any:
        for address in addresses:
            if isinstance(address, BaseException):
                raise address
        return list(addresses)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


async def open_and_quit(driver: Driver, host: str, port: int, **options: Any) -> None:
    await call((await call(driver.module.connect, host, port, **options)).quit)


async def failure(driver: Driver, host: str, port: int, **options: Any) -> ConnectFailed:
    with pytest.raises(ConnectFailed) as caught:
        await call(driver.module.connect, host, port, **options)
    return caught.value


def test_the_next_address_is_tried(driver: Driver, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    with Peer(lambda line: line.serve()) as peer:
        resolve_to(
            monkeypatch,
            (socket.AF_INET, *STREAM, ("127.0.0.1", closed_port)),
            (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)),
        )
        driver.run(open_and_quit(driver, "two.example", 25))


def test_an_address_of_an_unknown_family_is_passed_over(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As IPv6 is on machines that were told to forget it: names have such addresses all the same."""
    with pytest.raises(OSError, match="not supported"):
        socket.socket(socket.AF_APPLETALK, socket.SOCK_STREAM)
    with Peer(lambda line: line.serve()) as peer:
        resolve_to(
            monkeypatch,
            (socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("::1", peer.port)),
            (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)),
        )
        driver.run(open_and_quit(driver, "two.example", 25))


def test_every_address_is_named_when_all_fail(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    resolve_to(
        monkeypatch,
        (socket.AF_INET, *STREAM, ("127.0.0.1", closed_port)),
        (socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("::1", closed_port)),
    )
    assert str(driver.run(failure(driver, "two.example", 25))) == (
        "cannot connect to two.example:25: 127.0.0.1: Connection refused; ::1: Address family not supported by protocol"
    )


def test_a_name_that_does_not_exist(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert "Name or service not known" in str(driver.run(failure(driver, "no.example", 25)))


def test_a_name_that_cannot_be_one(driver: Driver) -> None:
    assert "cannot connect to" in str(driver.run(failure(driver, "x" * 70 + ".example", 25)))


def test_a_name_without_addresses(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch)
    assert str(driver.run(failure(driver, "empty.example", 25))) == "empty.example:25: the name has no address"


def test_an_address_that_does_not_answer(driver: Driver) -> None:
    with silent_port() as port:
        error = driver.run(
            failure(driver, "127.0.0.1", port, limits=Limits(deadlines=Deadlines(connect=0.1, greeting=0.1)))
        )
    assert str(error) == f"cannot connect to 127.0.0.1:{port}: 127.0.0.1: timed out"


def test_deadlines_may_be_infinite(driver: Driver) -> None:
    never = Limits(deadlines=Deadlines(**{row.name: math.inf for row in fields(Deadlines)}))

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port, limits=never)
        report = await call(session.deliver, Envelope("a@x.example", ("b@x.example",)), [b"x" * 5_000_000])
        assert report.outcomes[0].code == 250
        await call(session.quit)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))


def test_an_option_that_does_not_exist_is_not_passed_over(driver: Driver) -> None:
    """A misspelt ``credentials`` or ``tls`` would otherwise send mail as nobody meant it."""

    async def play(port: int) -> None:
        with pytest.raises(LocalProtocolError, match="no such option: credentails"):
            await call(driver.module.connect, "127.0.0.1", port, credentails=[])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        driver.run(play(listener.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_verification_needs_a_name(driver: Driver) -> None:
    async def play(port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        with pytest.raises(LocalProtocolError, match="give tls_server_name"):
            await call(driver.module.open_session, sock, tls=TlsPolicy.REQUIRED)
        assert sock.fileno() == -1

    with Peer(lambda line: line.until_closed()) as peer:
        driver.run(play(peer.port))
    assert not peer.lines[0].heard


def test_a_socket_that_cannot_be_used_is_closed(driver: Driver) -> None:
    """A session owns its socket from the moment that it is asked for."""

    async def play() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        with pytest.raises(LocalProtocolError):
            await call(driver.module.open_session, ours, helo_name="not a name")
        assert ours.fileno() == -1

    driver.run(play())


def test_opening_twice_does_no_harm(driver: Driver) -> None:
    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port)
        assert await call(session.open) is session
        await call(session.quit)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))


@pytest.mark.parametrize("echo", ["535 5.7.8 no: {}", "535-{}\n535 5.7.8 no", "334 {}"])
def test_the_password_shows_nowhere(driver: Driver, echo: str) -> None:
    shown: list[str] = []
    password = "correct horse battery staple"
    mechanism = Plain("user", password)
    encoded = "AHVzZXIAY29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ=="

    async def play(port: int) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # whichever it is
            await call(
                driver.module.connect,
                "localhost",
                port,
                credentials=[mechanism],
                tls_context=trusting_context(),
                trace=shown.append,
            )
        error: Any = caught.value
        assert isinstance(error, AuthDeclined) or echo.startswith("334")
        shown.extend([str(error), repr(error), str(error.transcript), repr(error.transcript), repr(error.reply)])
        shown.append(repr(mechanism))

    replies = {"AUTH": echo.format(encoded), "*": "501 cancelled"}
    extensions = (*EXTENSIONS, "AUTH PLAIN")
    with Peer(lambda line: starttls(line, extensions=extensions, replies=replies)) as peer:
        driver.run(play(peer.port))
    assert f"AUTH PLAIN {encoded}".encode() in peer.lines[0].commands
    text = "\n".join(shown)
    assert ">>> AUTH PLAIN ********" in text
    assert password not in text
    assert encoded not in text


def test_the_trace_tells_the_whole_dialogue(driver: Driver) -> None:
    shown: list[str] = []

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port, trace=shown.append, helo_name="here.example")
        await call(session.send, b"no line end", sender="a@x.example", recipients="b@x.example")
        await call(session.quit)

    with Peer(lambda line: line.serve(extensions=())) as peer:
        driver.run(play(peer.port))
    assert shown == [
        "<<< 220 peer.example ready",
        ">>> EHLO here.example",
        "<<< 250 peer.example",
        ">>> MAIL FROM:<a@x.example>",
        "<<< 250 ok",
        ">>> RCPT TO:<b@x.example>",
        "<<< 250 ok",
        ">>> DATA",
        "<<< 354 go on",
        ">>> (11 octets of message)",
        ">>> .",
        "<<< 250 accepted 1",
        ">>> QUIT",
        "<<< 221 bye",
    ]


def test_no_descriptor_is_left(driver: Driver) -> None:
    """Sessions that fail while they open, in whatever way, close what they opened."""

    def refuse(line: Any) -> None:
        line.say("554 no")
        line.expect("QUIT")
        line.say("221 bye")

    def vanish(line: Any) -> None:
        line.reset()

    def babble(line: Any) -> None:
        line.say("what?")

    async def play(port: int) -> None:
        for _ in range(3):
            with pytest.raises(Exception):  # noqa: B017, PT011  # whichever it is
                await call(driver.module.connect, "127.0.0.1", port)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    with Peer(refuse, vanish, babble) as peer:
        driver.run(play(peer.port))
    assert descriptors() == before
