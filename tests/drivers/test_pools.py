"""Pools over real connections: one table of plays for asyncio, trio and threads.

What lives here: what a host does, what callers do, and what must come of it. What does not: decisions, whose tests are
the machine's; being cancelled at every point (``test_pool_cancellation.py``).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import importlib
import io
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from smtpcore import (
    AuthDeclined,
    BodyError,
    BodyFacts,
    BodyNotRepeatable,
    ConnectFailed,
    ConnectionLost,
    CredentialsUnavailable,
    Deadlines,
    DeliveryFailed,
    Limits,
    LocalProtocolError,
    MailRefused,
    MailSent,
    PeerTimeout,
    Pipelining,
    Report,
    SessionAborted,
    Stage,
    TlsPolicy,
    TlsRequired,
    Verdict,
)
from smtpcore.pool import PoolMachine, Retries
from smtpcore.sasl import OAuthBearer, Plain, TokenRequest, XOAuth2

from .peers import Line, server_context, trusting_context
from .pool_stage import KINDS, NONE, QUICK, RECIPIENT, SENDER, Host, Kind, envelope, nothing_left

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=repr)

SHORT = Limits(deadlines=Deadlines(mail=0.5))


def serve(line: Line, _: int) -> None:
    line.serve()


def first_and_others(first: Callable[[Line], object], others: Callable[[Line], object] = Line.serve) -> Any:
    """A host whose first connection goes otherwise than the rest."""
    return lambda line, number: first(line) if number == 1 else others(line)


def run(kind: Kind, play: Callable[[], Any]) -> Any:
    with nothing_left():
        return kind.run(play())


def words(report: Any) -> list[str]:
    return [str(outcome) for outcome in report.outcomes]


# --- keeping sessions -----------------------------------------------------------------------------------------------


def test_a_session_is_kept_and_ended_with_quit(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port) as pool:
            for number in range(5):
                report = await pool.send(f"mail {number}".encode(), sender=SENDER, recipients=RECIPIENT)
                assert isinstance(report, MailSent)
            await kind.until(lambda: pool.status.parked == 1)

    with Host(serve) as host:
        run(kind, play)
    assert len(host.lines) == 1
    assert host.lines[0].bodies == [f"mail {number}\r\n.\r\n".encode() for number in range(5)]
    assert host.lines[0].commands[-1] == b"QUIT"


def test_the_header_says_whom_it_is_for(kind: Kind) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = SENDER, RECIPIENT, "c@there.example"
    message.set_content("Hello.\n")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port) as pool:
            report = await pool.send(message)
            assert words(report) == [
                f"{RECIPIENT} delivered: 250 accepted 1",
                "c@there.example delivered: 250 accepted 1",
            ]

    with Host(serve) as host:
        run(kind, play)
    assert b"Bcc" not in host.bodies[0]


def test_many_callers_share_a_few_sessions(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=3) as pool:
            reports = await kind.together(*[pool.deliver(envelope(), b"x%d" % number) for number in range(20)])
            assert all(isinstance(report, MailSent) for report in reports)

    with Host(serve) as host:
        run(kind, play)
    assert sorted(host.bodies) == sorted(b"x%d\r\n.\r\n" % number for number in range(20))
    assert host.most_at_once <= 3


def test_a_session_ends_after_so_many_mails(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=1, mails_per_session=2, retries=NONE) as pool:
            for _ in range(5):
                await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT)

    with Host(serve) as host:
        run(kind, play)
    assert [len(line.bodies) for line in host.lines] == [2, 2, 1]
    assert all(line.commands[-1] == b"QUIT" for line in host.lines)


@pytest.mark.parametrize("limits", ["MAILMAX=1", "MAILMAX=2 RCPTMAX=3", "RCPTDOMAINMAX=1"])
def test_what_a_session_may_not_bring_another_one_brings_and_it_costs_no_attempt(kind: Kind, limits: str) -> None:
    recipients = [f"{number}@{domain}.example" for number in range(3) for domain in ("here", "there")]

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=1, retries=NONE) as pool:
            for _ in range(3):
                report = await pool.send(b"Hello.", sender=SENDER, recipients=recipients)
                assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED] * 6

    with Host(lambda line, _: line.serve(extensions=(f"LIMITS {limits}", "PIPELINING"))) as host:
        run(kind, play)
    assert all(line.commands[-1] == b"QUIT" for line in host.lines)
    assert sorted(host.said(b"RCPT")) == sorted(f"RCPT TO:<{recipient}>".encode() for recipient in recipients * 3)


@pytest.mark.parametrize("limits", ["MAILMAX=1 RCPTMAX=1", "RCPTDOMAINMAX=1"])
def test_whom_the_host_puts_off_for_ever_keeps_nobody_from_being_named(kind: Kind, limits: str) -> None:
    recipients = ["never@a.example", *(f"u{number}@{number}.example" for number in range(3))]

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=1, retries=NONE) as pool:
            report = await pool.send(b"Hello.", sender=SENDER, recipients=recipients)
            assert [outcome.code for outcome in report.outcomes] == [450, 250, 250, 250]

    replies = {"RCPT TO:<never": "450 4.2.0 not now"}
    with Host(lambda line, _: line.serve(extensions=(f"LIMITS {limits}",), replies=replies)) as host:
        run(kind, play)
    assert host.said(b"RCPT") == [f"RCPT TO:<{recipient}>".encode() for recipient in recipients]


def test_an_idle_session_is_ended(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, idle_seconds=0.05) as pool:
            await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT)
            await kind.until(lambda: host.said(b"QUIT"))
            await kind.until(lambda: not pool.status.parked + pool.status.closing)

    with Host(serve) as host:
        run(kind, play)


@pytest.mark.parametrize("goodbye", [("421 4.4.2 idle for too long",), ()])
def test_a_session_that_the_host_ended_while_parked(kind: Kind, goodbye: tuple[str, ...]) -> None:
    """It is seen before MAIL, and costs no attempt."""

    def script(line: Line) -> None:
        line.serve("MAIL")
        line.say("250 ok")
        line.serve("DOT", greet=False)
        line.say("250 accepted", *goodbye)
        line.close()
        line.done.set()

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=NONE) as pool:
            await pool.send(b"one", sender=SENDER, recipients=RECIPIENT)
            await kind.until(host.done.is_set)
            await pool.send(b"two", sender=SENDER, recipients=RECIPIENT)

    with Host(first_and_others(script)) as host:
        run(kind, play)
    assert [line.bodies for line in host.lines] == [[b"one\r\n.\r\n"], [b"two\r\n.\r\n"]]


# --- trying again ---------------------------------------------------------------------------------------------------


def test_a_host_that_refuses_connections_at_first(kind: Kind) -> None:
    async def play() -> None:
        async def open_up() -> None:
            await kind.until(lambda: pool.status.resting_until is not None)
            host.listen()

        retries = Retries(most=50, delays=(0.02,))
        async with kind.pool("127.0.0.1", host.port, retries=retries) as pool:
            report, _ = await kind.together(pool.deliver(envelope(), b"Hello."), open_up())
            assert isinstance(report, MailSent)

    with Host(serve, listening=False) as host:
        run(kind, play)


def test_a_host_that_is_dead(kind: Kind) -> None:
    """The last reason is what the caller gets."""

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            with pytest.raises(DeliveryFailed) as caught:
                await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT)
            (outcome,) = caught.value.report.outcomes
            assert outcome.verdict is Verdict.LATER
            assert isinstance(outcome.error, ConnectFailed)
            assert "Connection refused" in outcome.text

    with Host(serve, listening=False) as host:
        run(kind, play)


def test_a_host_that_hangs(kind: Kind) -> None:
    def script(line: Line) -> None:
        line.serve("MAIL")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, {"limits": SHORT}, retries=QUICK) as pool:
            assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    with Host(first_and_others(script)) as host:
        run(kind, play)
    assert len(host.lines) == 2


def test_a_host_that_hangs_for_ever(kind: Kind) -> None:
    async def play() -> None:
        retries = Retries(most=2, delays=(0.01,))
        async with kind.pool("127.0.0.1", host.port, {"limits": SHORT}, retries=retries) as pool:
            report = await pool.deliver(envelope(), b"Hello.")
            assert isinstance(report.outcomes[0].error, PeerTimeout)
            assert report.stage is Stage.STARTED

    with Host(lambda line, _: line.serve("MAIL")) as host:
        run(kind, play)
    assert len(host.lines) == 3


def test_only_those_who_were_put_off_are_tried_again(kind: Kind) -> None:
    def script(line: Line) -> None:
        line.serve(replies={"RCPT TO:<c": "451 4.2.0 later", "RCPT TO:<d": "550 5.1.1 nobody"})

    def second(line: Line) -> None:
        line.serve(replies={"RCPT TO:<d": "250 ok"})

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK, mails_per_session=1) as pool:
            report = await pool.deliver(envelope("b@t.example", "c@t.example", "d@t.example"), b"Hello.")
            assert words(report) == [
                "b@t.example delivered: 250 accepted 1",
                "c@t.example delivered: 250 accepted 1",
                "d@t.example never: 550 5.1.1 nobody",
            ]
            assert isinstance(report, MailSent)

    with Host(first_and_others(script, second)) as host:
        run(kind, play)
    assert [command for command in host.lines[1].commands if command.startswith(b"RCPT")] == [b"RCPT TO:<c@t.example>"]


def test_retries_have_an_end(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=Retries(delays=(0.01,))) as pool:
            with pytest.raises(DeliveryFailed, match=r"451 4\.2\.0 later"):
                await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT)

    with Host(lambda line, _: line.serve(replies={"RCPT": "451 4.2.0 later"})) as host:
        run(kind, play)
    assert len(host.said(b"RCPT")) == 6


def test_a_doubt_is_not_resolved_by_a_second_copy(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            report = await pool.deliver(envelope(), b"Hello.")
            assert isinstance(report, MailRefused)
            assert report.outcomes[0].in_doubt

    with Host(first_and_others(dies_at("DOT"))) as host:
        run(kind, play)
    assert len(host.bodies) == 1


def test_a_doubt_may_be_risked(kind: Kind) -> None:
    async def play() -> None:
        retries = Retries(delays=(0.01,), in_doubt=True)
        async with kind.pool("127.0.0.1", host.port, retries=retries) as pool:
            assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    with Host(first_and_others(dies_at("DOT"))) as host:
        run(kind, play)
    assert len(host.bodies) == 2


# --- bodies ---------------------------------------------------------------------------------------------------------


def dies_at(point: str) -> Callable[[Line], None]:
    """The connection breaks there; ``BODY``: in the middle of the body, which no buffers hold as a whole."""

    def script(line: Line) -> None:
        line._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.serve(point)
        if point == "BODY":
            line.octets(1000)
        line.reset()

    return script


TEXT = b"".join(b"line %070d\r\n" % number for number in range(100_000))


def as_bytes(_: Path) -> bytes:
    return TEXT


def as_bytearray(_: Path) -> bytearray:
    return bytearray(TEXT)


def as_path(folder: Path) -> Path:
    path = folder / "message"
    path.write_bytes(TEXT)
    return path


def as_file(folder: Path) -> io.BufferedReader:
    """From where it stands."""
    (folder / "message").write_bytes(b"skipped" + TEXT)
    file = (folder / "message").open("rb")
    file.seek(7)
    return file


def as_list(_: Path) -> list[bytes]:
    return [TEXT[at : at + 100_000] for at in range(0, len(TEXT), 100_000)]


def as_email(_: Path) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "x"
    message.set_content(TEXT.decode())
    return message


@pytest.mark.parametrize("form", [as_bytes, as_bytearray, as_path, as_file, as_list, as_email])
def test_a_body_is_read_again_for_each_attempt(kind: Kind, form: Callable[[Path], Any], tmp_path: Path) -> None:
    message = form(tmp_path)

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            report = await pool.send(message, sender=SENDER, recipients=RECIPIENT)
            assert isinstance(report, MailSent)

    with contextlib.ExitStack() as files:
        if isinstance(message, io.BufferedReader):
            files.enter_context(message)
        with Host(first_and_others(dies_at("BODY"))) as host:
            run(kind, play)
    (body,) = host.bodies
    assert body.endswith(TEXT[-2000:] + b".\r\n")
    assert body == TEXT + b".\r\n" or isinstance(message, EmailMessage)


class Pieces:
    """An async message that can be read again."""

    def __init__(self) -> None:
        self.readings = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.readings += 1
        for at in range(0, len(TEXT), 100_000):
            yield TEXT[at : at + 100_000]


def test_an_async_body_is_read_again(kind: Kind) -> None:
    if not kind.is_async:
        pytest.skip("blocking programs have none")
    pieces = Pieces()

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            assert isinstance(await pool.deliver(envelope(), pieces), MailSent)

    with Host(first_and_others(dies_at("BODY"))) as host:
        run(kind, play)
    assert host.bodies == [TEXT + b".\r\n"]
    assert pieces.readings == 2


def test_a_body_that_can_be_read_once(kind: Kind) -> None:
    def pieces() -> Iterator[bytes]:
        yield TEXT

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            report = await pool.deliver(envelope(), pieces())
            (outcome,) = report.outcomes
            assert isinstance(outcome.error, BodyNotRepeatable)
            assert isinstance(outcome.error.__cause__, ConnectionLost)

    with Host(first_and_others(dies_at("BODY"))) as host:
        run(kind, play)
    assert len(host.lines) == 1


def as_open_file() -> io.BytesIO:
    return io.BytesIO(b"Hello.")


def as_iterator() -> Iterator[bytes]:
    return iter([b"Hello."])


@pytest.mark.parametrize("make", [as_open_file, as_iterator])
def test_a_file_for_two_mails_at_once(kind: Kind, make: Callable[[], Any]) -> None:
    """It has one position: two sessions that read it would each send a part of it."""
    source = make()

    def script(line: Line) -> None:
        line.serve("MAIL")
        line.go.wait()
        line.say("250 ok")
        line.serve(greet=False)

    async def play() -> None:
        async def meanwhile() -> None:
            await kind.until(lambda: host.said(b"MAIL"))
            with pytest.raises(LocalProtocolError, match="the same file or iterator"):
                await pool.deliver(envelope(), source)
            reports = [report async for report in pool.send_many([(envelope(), source)])]
            assert reports[0].outcomes[0].verdict is Verdict.NEVER
            host.go.set()

        async with kind.pool("127.0.0.1", host.port, retries=NONE) as pool:
            report, failure = await kind.together(pool.deliver(envelope(), source), meanwhile())
            assert failure is None
            assert isinstance(report, MailSent)
            if isinstance(source, io.BytesIO):
                # One after the other they may well read it.
                source.seek(0)
                assert isinstance(await pool.deliver(envelope(), source), MailSent)

    with Host(first_and_others(script)) as host:
        run(kind, play)
    assert set(host.bodies) == {b"Hello.\r\n.\r\n"}


def test_octets_in_memory_are_counted_once(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many attempts there are, and not at all for an envelope that says what it wishes to."""
    counted: list[int] = []
    bodies = importlib.import_module("smtpcore.drivers._session.bodies")
    count = bodies.facts_of

    def counting(octets: bytes) -> BodyFacts:
        counted.append(len(octets))
        facts: BodyFacts = count(octets)
        return facts

    monkeypatch.setattr(bodies, "facts_of", counting)

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            await pool.deliver(envelope(), b"Hello.")
            assert not counted
            await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT)
            assert counted == [6]

    with Host(first_and_others(dies_at("MAIL"))) as host:
        run(kind, play)
    assert counted == [6]


def test_a_body_that_breaks(kind: Kind) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the disk is gone")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            report = await pool.deliver(envelope(), pieces())
            assert isinstance(report.outcomes[0].error, BodyError)
            assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    with Host(serve) as host:
        run(kind, play)
    assert host.bodies == [b"Hello.\r\n.\r\n"]


# --- what does not pass by waiting ----------------------------------------------------------------------------------


def declining(line: Line, _: int) -> None:
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go")
    if line.tls(server_context()):
        line.serve(greet=False, extensions=("AUTH PLAIN",), replies={"AUTH": "535 5.7.8 wrong"})


def test_the_same_wrong_password_is_not_said_twice(kind: Kind) -> None:
    options = {"tls_context": trusting_context(), "credentials": [Plain("anna", "wrong")]}

    async def play() -> None:
        async with kind.pool("localhost", host.port, options, sessions=4, retries=QUICK) as pool:
            reports = await kind.together(*[pool.deliver(envelope(), b"Hello.") for _ in range(6)])
            reports.append(await pool.deliver(envelope(), b"Hello."))
            for report in reports:
                assert isinstance(report.outcomes[0].error, AuthDeclined)
                assert report.outcomes[0].verdict is Verdict.LATER

    with Host(declining) as host:
        run(kind, play)
    assert len(host.said(b"AUTH")) == 1
    assert len(host.lines) == 1


class Changing:
    """A function for credentials: gives these passwords in their turn, the last one again and again."""

    def __init__(self, *passwords: str) -> None:
        self._passwords = list(passwords)

    def __call__(self, host: str | None) -> list[Plain]:
        assert host == "localhost"
        return [Plain("anna", self._passwords.pop(0) if len(self._passwords) > 1 else self._passwords[0])]


def only_the_right_one(line: Line, _: int) -> None:
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go")
    if line.tls(server_context()):
        line.serve("AUTH", greet=False, extensions=("AUTH PLAIN",))
        right = base64.b64encode(b"\0anna\0right")
        line.say("235 ok" if right in line.commands[-1] else "535 5.7.8 wrong")
        line.serve(greet=False)


def test_a_password_that_changes_is_tried_and_the_same_one_is_not(kind: Kind) -> None:
    function = Changing("wrong", "wrong", "worse", "wrong", "right")
    options = {"tls_context": trusting_context(), "credentials": function}

    async def play() -> None:
        async with kind.pool("localhost", host.port, options, retries=Retries(delays=(0.001,))) as pool:
            while not isinstance(report := await pool.deliver(envelope(), b"Hello."), MailSent):
                assert isinstance(report.outcomes[0].error, AuthDeclined)

    with Host(only_the_right_one) as host:
        run(kind, play)
    said = [base64.b64decode(command.split()[-1]) for command in host.said(b"AUTH")]
    assert said == [b"\0anna\0wrong", b"\0anna\0worse", b"\0anna\0right"]
    assert len(host.lines) == 3


def test_a_token_that_changes_is_tried_and_the_same_one_is_not(kind: Kind) -> None:
    tokens: list[str] = []
    asked: list[bool] = []

    def current(request: TokenRequest) -> str:
        asked.append(request.refused)
        return tokens[-1]

    options = {"tls_context": trusting_context(), "credentials": lambda host: [XOAuth2("anna", current)]}

    async def play() -> None:
        async with kind.pool("localhost", host.port, options, retries=Retries(delays=(0.001,))) as pool:
            for token in ("one-token", "another-token"):
                tokens.append(token)
                before = len(host.lines)
                while len(host.lines) == before:
                    report = await pool.deliver(envelope(), b"Hello.")
                    assert isinstance(report.outcomes[0].error, AuthDeclined)
                for _ in range(5):
                    await pool.deliver(envelope(), b"Hello.")

    def script(line: Line, _: int) -> None:
        line.serve("STARTTLS", extensions=("STARTTLS",))
        line.say("220 go")
        if line.tls(server_context()):
            line.serve(greet=False, extensions=("AUTH XOAUTH2",), replies={"AUTH": "535 5.7.8 wrong"})

    with Host(script) as host:
        run(kind, play)
    said = [base64.b64decode(command.split()[-1]).split(b"\1")[1] for command in host.said(b"AUTH")]
    assert said == [b"auth=Bearer one-token", b"auth=Bearer another-token"]
    # Once for each session that was due, and once when the peer had refused it.
    assert asked.count(True) == 2
    assert asked[:2] == [False, True]


@pytest.mark.parametrize("mechanism", [XOAuth2, OAuthBearer])
def test_a_token_is_asked_for_once_in_a_session(kind: Kind, mechanism: type[XOAuth2 | OAuthBearer]) -> None:
    tokens: list[str] = []

    def fresh(request: TokenRequest) -> str:
        tokens.append(f"token-{len(tokens)}")
        return tokens[-1]

    options = {"tls_context": trusting_context(), "credentials": lambda host: [mechanism("anna", fresh)]}

    async def play() -> None:
        async with kind.pool("localhost", host.port, options, mails_per_session=1) as pool:
            for _ in range(2):
                assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    def script(line: Line, _: int) -> None:
        line.serve("STARTTLS", extensions=("STARTTLS",))
        line.say("220 go")
        line.tls(server_context())
        line.serve(greet=False, extensions=(f"AUTH {mechanism.name}",), replies={"AUTH": "235 welcome"})

    with Host(script) as host:
        run(kind, play)
    said = [base64.b64decode(command.split()[-1]).split(b"\1")[1] for command in host.said(b"AUTH")]
    assert said == [b"auth=Bearer token-0", b"auth=Bearer token-1"]
    assert len(tokens) == 2


def test_credentials_that_cannot_be_had_are_the_answer(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str | None] = []

    def locked(host: str | None) -> list[Plain]:
        asked.append(host)
        raise KeyError("open sesame")

    async def play() -> None:
        retries = Retries(delays=(100.0,))
        async with kind.pool("localhost", host.port, {"credentials": locked}, retries=retries) as pool:
            for _ in range(3):
                report = await pool.deliver(envelope(), b"Hello.")
                error = report.outcomes[0].error
                assert isinstance(error, CredentialsUnavailable)
                assert isinstance(error.__cause__, KeyError)
                assert "KeyError" in str(error)
                assert "sesame" not in str(error)

    with Host(serve) as host:
        run(kind, play)
    assert asked == ["localhost"]
    assert not host.lines
    assert not [record for record in caplog.records if record.exc_info]


def test_a_unix_socket(kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def connected(host: str, port: int, seconds: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return sock

    async def connect(host: str, port: int, seconds: float) -> socket.socket:
        return connected(host, port, seconds)

    async def play() -> None:
        options = {"connect": connect if kind.is_async else connected}
        async with kind.pool("mx.example", 25, options) as pool:
            for _ in range(2):
                assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    with Host(serve, listening=False) as host:
        host.listen_at(path)
        run(kind, play)
    assert [len(line.bodies) for line in host.lines] == [2]


def test_a_pool_of_another_event_loop_says_so(kind: Kind) -> None:
    if not kind.is_async:
        pytest.skip("any thread may send")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port) as pool:
            await pool.deliver(envelope(), b"Hello.")

            async def elsewhere() -> None:
                with pytest.raises(LocalProtocolError, match="another event loop"):
                    await pool.deliver(envelope(), b"Hello.")
                with pytest.raises(LocalProtocolError, match="another event loop"):
                    await anext(pool.send_many([(envelope(), b"Hello.")]))

            await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, backend=kind.name.partition("+")[0]))
            await pool.deliver(envelope(), b"Hello.")

    with Host(serve) as host:
        # The event loops keep their worker threads for a while.
        kind.run(play())
    assert len(host.bodies) == 2


def test_tls_that_is_not_to_be_had(kind: Kind) -> None:
    async def play() -> None:
        retries = Retries(delays=(100.0,))
        async with kind.pool("127.0.0.1", host.port, {"tls": TlsPolicy.REQUIRED}, retries=retries) as pool:
            for _ in range(3):
                report = await pool.deliver(envelope(), b"Hello.")
                assert isinstance(report.outcomes[0].error, TlsRequired)

    with Host(serve) as host:
        run(kind, play)
    assert len(host.lines) == 1


def test_what_may_not_go_out(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, {"limits": Limits(recipients=1, path=30)}) as pool:
            await pool.deliver(envelope(), b"Hello.")
            with pytest.raises(LocalProtocolError, match="at most 1 recipients"):
                await pool.deliver(envelope("b@t.example", "c@t.example"), b"Hello.")
            with pytest.raises(LocalProtocolError, match="a str may be text"):
                await pool.deliver(envelope(), "Hello.")
            with pytest.raises(LocalProtocolError, match="give the recipients"):
                await pool.send(b"Hello.", sender=SENDER)
            # The session is as good as before.
            await pool.deliver(envelope(), b"Hello.")

    with Host(serve) as host:
        run(kind, play)
    assert len(host.lines) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"nonsense": 1}, "no such option: nonsense"),
        ({"source_address": "nonsense"}, "must be an IP address"),
        ({"helo_name": "not a name"}, "not a name"),
        ({"tls": TlsPolicy.NEVER, "credentials": [Plain("anna", "secret")]}, "never said without TLS"),
        ({"source_address": "127.0.0.1", "connect": print}, "connections that the driver makes itself"),
    ],
)
def test_options_that_make_no_sense(kind: Kind, options: Any, match: str) -> None:
    with pytest.raises(LocalProtocolError, match=match):
        kind.pool("127.0.0.1", 25, options)


def test_options_that_no_session_can_use_are_not_tried_again(kind: Kind) -> None:
    asked: list[str] = []

    def credentials(host: str) -> list[Plain]:
        asked.append(host)
        return [Plain("anna", "secret")]

    async def play() -> None:
        # What a function gives is seen when a session is due.
        options = {"credentials": credentials, "tls": TlsPolicy.NEVER}
        async with kind.pool("127.0.0.1", host.port, options) as pool:
            report = await pool.deliver(envelope(), b"Hello.")
            assert isinstance(report.outcomes[0].error, LocalProtocolError)

    with Host(serve) as host:
        run(kind, play)
    assert asked == ["127.0.0.1"]
    assert not host.lines


def test_what_foreign_code_raises_is_named_and_not_quoted(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    def trace(line: str) -> None:
        raise RuntimeError("the collector does not take hunter2")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, {"trace": trace}, retries=NONE) as pool:
            report = await pool.deliver(envelope(), b"Hello.")
            error = report.outcomes[0].error
            assert isinstance(error, SessionAborted)
            assert str(error) == "unforeseen: RuntimeError"
            assert isinstance(error.__cause__, RuntimeError)
            assert "hunter2" not in repr(report)

    with Host(serve) as host:
        run(kind, play)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert str(record.exc_info[1]) == "the collector does not take hunter2"  # type: ignore[index]  # None would fail the test


def test_no_thread_for_a_session(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind.is_async:
        pytest.skip("has none")
    start = threading.Thread.start
    refusals = [True, True]

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("smtpcore pool: session") and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with Host(serve) as host:
        run(kind, play)
    assert not refusals


def test_a_pool_that_breaks_down_answers_all(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the owner's thread, wherever it comes from, leaves nobody waiting."""
    if kind.is_async:
        pytest.skip("there an error goes to the task group")
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)

    broken = threading.Event()

    def script(line: Line, _: int) -> None:
        line.serve("DOT")
        monkeypatch.setattr(PoolMachine, "status", property(lambda _: 1 / 0))
        broken.set()

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=1) as pool:
            calls = pool.deliver(envelope(), b"one"), in_a_row(pool), pool.deliver(envelope(), b"three")
            for reports in await kind.together(*calls, poke(pool)):
                assert isinstance(reports, LocalProtocolError) or all_in_doubt(reports)

    async def in_a_row(pool: Any) -> Any:
        return [report async for report in pool.send_many_as_completed(some_mails(3))]

    async def poke(pool: Any) -> Any:
        # Whatever the owner hears of next, it breaks down.
        await kind.until(broken.is_set)
        return await pool.deliver(envelope(), b"four")

    def all_in_doubt(reports: Any) -> bool:
        reports = reports if isinstance(reports, list) else [reports]
        return all(report.outcomes[0].in_doubt for report in reports)

    with Host(script) as host:
        run(kind, play)


# --- many at once ---------------------------------------------------------------------------------------------------


def some_mails(count: int) -> Iterator[tuple[Any, bytes]]:
    for number in range(count):
        yield envelope(f"user{number}@there.example"), b"mail %d" % number


def recipient_of(report: Report) -> str:
    return report.outcomes[0].recipient.partition("@")[0]


def greylisting() -> Callable[[Line, int], object]:
    """Puts off every recipient with a 3 in its name the first time, and refuses those with a 7."""
    known: set[bytes] = set()
    lock = threading.Lock()

    def script(line: Line, _: int) -> None:
        line.serve("RCPT")
        while True:
            command = line.commands[-1]
            with lock:
                first = command not in known
                known.add(command)
            line.say(
                "550 5.1.1 no" if b"7@" in command else "451 4.7.1 later" if b"3@" in command and first else "250 ok"
            )
            line.serve("RCPT", greet=False)

    return script


def test_many_mails_in_order(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=3, retries=QUICK) as pool:
            reports = [report async for report in pool.send_many(some_mails(40))]
            assert [recipient_of(report) for report in reports] == [f"user{number}" for number in range(40)]
            for number, report in enumerate(reports):
                assert isinstance(report, MailRefused if number % 10 == 7 else MailSent)

    with Host(greylisting()) as host:
        run(kind, play)
    assert host.most_at_once <= 3


def test_many_mails_as_they_come(kind: Kind) -> None:
    async def play() -> None:
        retries = Retries(delays=(1.0,))
        async with kind.pool("127.0.0.1", host.port, sessions=1, retries=retries) as pool:
            reports = [report async for report in pool.send_many_as_completed(some_mails(20), window=20)]
            names = [recipient_of(report) for report in reports]
            assert sorted(names) == sorted(f"user{number}" for number in range(20))
            # Who was put off does not hold up the next.
            assert names.index("user4") < names.index("user3")

    with Host(greylisting()) as host:
        run(kind, play)


@pytest.mark.parametrize("way", ["send_many", "send_many_as_completed"])
def test_the_input_is_asked_for_no_more_than_the_window_holds(kind: Kind, way: str) -> None:
    asked = 0

    def counted() -> Iterator[Any]:
        nonlocal asked
        for pair in some_mails(50):
            asked += 1
            yield pair

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=2) as pool:
            taken = 0
            async for _ in getattr(pool, way)(counted(), window=5):
                assert asked <= taken + 5
                taken += 1
            assert taken == asked == 50

    with Host(serve) as host:
        run(kind, play)


@pytest.mark.parametrize("way", ["send_many", "send_many_as_completed"])
def test_an_input_that_breaks_loses_no_report(kind: Kind, way: str) -> None:
    def breaking() -> Iterator[Any]:
        yield from some_mails(3)
        raise KeyError("the list is torn")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port) as pool:
            reports = []
            with pytest.raises(KeyError, match="torn"):  # noqa: PT012  # the block as a whole raises
                async for report in getattr(pool, way)(breaking()):
                    reports.append(report)
            assert len(reports) == 3

    with Host(serve) as host:
        run(kind, play)
    assert len(host.bodies) == 3


def test_one_of_many_that_may_not_go_out(kind: Kind) -> None:
    mails = [
        (envelope(), b"one"),
        (envelope("b@t.example", "c@t.example"), b"two"),
        (envelope(), "three"),
        (envelope(), b"4"),
    ]

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, {"limits": Limits(recipients=1)}) as pool:
            reports = [report async for report in pool.send_many(mails)]
            assert [report.mail.envelope for report in reports] == [pair[0] for pair in mails]
            assert [type(report) for report in reports] == [MailSent, MailRefused, MailRefused, MailSent]
            assert {outcome.verdict for report in reports[1:3] for outcome in report.outcomes} == {Verdict.NEVER}
            assert isinstance(reports[1].outcomes[0].error, LocalProtocolError)

    with Host(serve) as host:
        run(kind, play)


@pytest.mark.parametrize(
    ("mails", "words"),
    [
        (5, "an iterable of pairs, not a int"),
        ([envelope()], "a pair of an Envelope and its message, not: Envelope"),
        ([(b"Hello.", envelope())], "a pair of an Envelope and its message, not: bytes, Envelope"),
        ([(envelope(), b"Hello.", 5)], "a pair of an Envelope and its message, not: Envelope, bytes, int"),
    ],
)
def test_what_are_no_mails(kind: Kind, mails: Any, words: str) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port) as pool:
            with pytest.raises(LocalProtocolError, match=words):
                [report async for report in pool.send_many(mails)]
            with pytest.raises(LocalProtocolError, match="an Envelope says where a mail goes, not a bytes"):
                await pool.deliver(b"hunter2", b"Hello.")

    with Host(serve) as host:
        run(kind, play)
    assert not host.lines


def test_leaving_many_mails_early(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, sessions=2) as pool:
            async with contextlib.aclosing(pool.send_many(some_mails(1000), window=10)) as reports:
                async for _ in reports:
                    break
            await kind.until(lambda: not pool.status.waiting)
            assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    with Host(serve) as host:
        run(kind, play)
    assert len(host.bodies) <= 13


def test_many_mails_out_of_an_async_input(kind: Kind) -> None:
    """Reports do not wait for an input that takes its time."""
    if not kind.is_async:
        pytest.skip("blocking programs have none")
    seen = 0

    def seen_so_far(number: int) -> bool:
        return seen == number

    async def slow() -> AsyncIterator[Any]:
        for number, pair in enumerate(some_mails(5)):
            await kind.until(functools.partial(seen_so_far, number))
            yield pair

    async def play() -> None:
        nonlocal seen
        async with kind.pool("127.0.0.1", host.port) as pool:
            async for _ in pool.send_many(slow()):
                seen += 1
        assert seen == 5

    with Host(serve) as host:
        run(kind, play)


def test_what_is_cancelled_elsewhere_does_not_end_the_pool(kind: Kind) -> None:
    """An input, or a message, that waits for a task which somebody cancels: one caller's affair."""
    if not kind.name.startswith("asyncio"):
        pytest.skip("only asyncio cancels by an exception that anyone may raise")

    async def torn() -> AsyncIterator[Any]:
        for pair in some_mails(2):
            yield pair
        raise asyncio.CancelledError

    class Torn:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"Hello."
            raise asyncio.CancelledError

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, retries=QUICK) as pool:
            reports = []
            with pytest.raises(asyncio.CancelledError):  # noqa: PT012  # the block as a whole raises
                async for report in pool.send_many(torn()):
                    reports.append(report)
            assert len(reports) == 2
            report = await pool.deliver(envelope(), Torn())
            assert isinstance(report.outcomes[0].error, SessionAborted)
            assert isinstance(await pool.deliver(envelope(), b"Hello."), MailSent)

    with Host(serve) as host:
        run(kind, play)


def test_a_window_needs_room(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port) as pool:
            with pytest.raises(LocalProtocolError, match="at least 1"):
                _ = [report async for report in pool.send_many(some_mails(1), window=0)]

    with Host(serve) as host:
        run(kind, play)


# --- ahead of the replies -------------------------------------------------------------------------------------------

ACROSS: Any = {"pipelining": Pipelining.ACROSS}


def marks(line: Line, _: int) -> None:
    line.serve(replies={"HELP": "214 no help"})


@pytest.mark.parametrize("way", ["send_many", "send_many_as_completed"])
def test_many_mails_ahead_of_the_replies(kind: Kind, way: str) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, ACROSS, sessions=2, mails_at_once=5) as pool:
            reports = [report async for report in getattr(pool, way)(some_mails(40))]
            assert sorted(recipient_of(report) for report in reports) == sorted(f"user{number}" for number in range(40))
            assert all(isinstance(report, MailSent) for report in reports)
            # One that comes alone has its verdict at once.
            assert isinstance(await pool.deliver(envelope(), b"alone"), MailSent)

    with Host(marks) as host:
        run(kind, play)
    assert sorted(host.bodies) == sorted([b"alone\r\n.\r\n", *(b"mail %d\r\n.\r\n" % number for number in range(40))])


def test_verdicts_ahead_of_the_replies_find_their_mails(kind: Kind) -> None:
    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, ACROSS, sessions=2, mails_at_once=5, retries=QUICK) as pool:
            reports = [report async for report in pool.send_many(some_mails(40))]
            for number, report in enumerate(reports):
                assert recipient_of(report) == f"user{number}"
                assert isinstance(report, MailRefused if number % 10 == 7 else MailSent)

    with Host(greylisting()) as host:
        run(kind, play)
    assert len(host.bodies) >= 36


def test_one_of_several_that_may_not_go_out(kind: Kind) -> None:
    """The session finds it out; the others do not suffer."""
    message = [b"x"]

    async def play() -> None:
        options = {**ACROSS, "limits": Limits(path=25)}
        async with kind.pool("127.0.0.1", host.port, options, sessions=1, mails_at_once=5) as pool:
            long = envelope("b@there.example", "somebody-else@there.example")
            mails = [(envelope(), message), (envelope(), message), (long, message), (envelope(), message)]
            reports = [report async for report in pool.send_many(mails)]
            assert [type(report) for report in reports] == [MailSent, MailSent, MailRefused, MailSent]
            assert isinstance(reports[2].outcomes[0].error, LocalProtocolError)

    with Host(marks) as host:
        run(kind, play)


def test_a_host_that_loses_step_is_given_one_at_a_time(kind: Kind) -> None:
    """What it says out of place puts mails in doubt; from then on nothing runs ahead."""

    def script(line: Line) -> None:
        line.serve("DOT", replies={"HELP": "214 no help"})
        line.say("250 one", "250 too many")
        line.serve("QUIT", greet=False, replies={"HELP": "214 no help"})

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, ACROSS, sessions=1, mails_at_once=5, retries=QUICK) as pool:
            reports = [report async for report in pool.send_many(some_mails(12))]
            assert len(reports) == 12
            for report in reports:
                assert isinstance(report, MailSent) or report.outcomes[0].in_doubt

    with Host(first_and_others(script)) as host:
        run(kind, play)
    later = [command for line in host.lines[1:] for command in line.commands]
    assert b"QUIT" in later
    assert b"HELP" not in later


def test_a_watcher_that_breaks_sends_nothing_twice(kind: Kind) -> None:
    """An error of the caller's own, in the middle of a session: what the host may have is not sent again."""

    def trace(line: str) -> None:
        if "accepted" in line:
            raise ZeroDivisionError("mine")

    async def play() -> None:
        async with kind.pool("127.0.0.1", host.port, {"trace": trace}, retries=QUICK) as pool:
            report = await pool.deliver(envelope(), b"Hello.")
            assert isinstance(report, MailSent) or report.outcomes[0].in_doubt

    with Host(serve) as host:
        run(kind, play)
    assert len(host.bodies) == 1


# --- the end --------------------------------------------------------------------------------------------------------


def test_a_pool_is_used_within_its_block(kind: Kind) -> None:
    async def play() -> None:
        pool = kind.pool("127.0.0.1", host.port)
        for _ in range(2):
            with pytest.raises(LocalProtocolError, match="not open"):
                await pool.deliver(envelope(), b"Hello.")
            with pytest.raises(LocalProtocolError, match="not open"):
                await pool.send(b"Hello.", sender=SENDER, recipients=RECIPIENT)
            with pytest.raises(LocalProtocolError, match="not open"):
                _ = [report async for report in pool.send_many([])]
            with contextlib.suppress(LocalProtocolError):
                async with pool:
                    pass
        with pytest.raises(LocalProtocolError, match="once"):
            await pool.__aenter__()

    with Host(serve) as host:
        run(kind, play)
    assert not host.lines


def test_what_waits_when_the_pool_is_closed(kind: Kind) -> None:
    """The mail in hand comes to its end; the one that waits is answered."""

    def script(line: Line, _: int) -> None:
        line.serve("DOT")
        line.done.set()
        line.go.wait(10)
        line.say("250 accepted")
        line.serve(greet=False)

    async def play() -> None:
        pool = kind.pool("127.0.0.1", host.port, sessions=1)
        leaving: list[bool] = []

        def busy() -> bool:
            return host.done.is_set() and pool.status.waiting == 1

        async def use() -> None:
            async with pool:
                await kind.until(busy)
                leaving.append(True)

        async def go_on() -> None:
            await kind.until(lambda: leaving and not pool.status.waiting)
            host.go.set()

        async def deliver(after: Callable[[], object]) -> Any:
            await kind.until(after)
            return await pool.deliver(envelope(), b"Hello.")

        plays = use(), deliver(lambda: is_open(pool)), deliver(host.done.is_set), go_on()
        used, first, second, went_on = await kind.together(*plays)
        assert used is went_on is None
        assert isinstance(first, MailSent)
        assert isinstance(second.outcomes[0].error, SessionAborted)

    with Host(script) as host:
        run(kind, play)
    assert len(host.bodies) == 1


def is_open(pool: Any) -> bool:
    return bool(getattr(pool, "pool", pool).is_open)


def test_an_exception_in_the_block_drops_everything(kind: Kind) -> None:
    def script(line: Line, _: int) -> None:
        line.serve("DOT")
        line.done.set()

    async def play() -> None:
        pool = kind.pool("127.0.0.1", host.port, sessions=1)

        async def use() -> None:
            with pytest.raises(KeyError, match="mine"):  # noqa: PT012  # the block as a whole raises
                async with pool:
                    await kind.until(lambda: pool.status.waiting == 1 and host.done.is_set())
                    raise KeyError("mine")

        async def deliver(after: Callable[[], object]) -> Any:
            await kind.until(after)
            return await pool.deliver(envelope(), b"Hello.")

        failure, first, second = await kind.together(use(), deliver(lambda: is_open(pool)), deliver(host.done.is_set))
        assert failure is None
        assert first.outcomes[0].in_doubt
        assert isinstance(second.outcomes[0].error, SessionAborted)

    with Host(script) as host:
        run(kind, play)
    assert host.lines[0].saw_close
    assert not host.said(b"QUIT")
