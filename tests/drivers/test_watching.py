"""What is told while a session works: the lines of the standard library's logging, and the progress of a body.

What lives here: who is called when, with each wire driver. What does not: the trace floor by itself.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from smtpcore import BodyError, Envelope, SessionAborted, Stage
from smtpcore.sasl import Plain

from .peers import EXTENSIONS, Line, Peer, trusting_context
from .scenarios import DRIVERS, Driver, call, starttls

pytestmark = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)

ENVELOPE = Envelope("a@x.example", ("b@x.example", "c@x.example"))


# --- logging -------------------------------------------------------------------------------------------------------


async def one_mail(driver: Driver, port: int, **options: Any) -> None:
    session = await call(driver.module.connect, "localhost", port, helo_name="here.example", **options)
    await call(session.deliver, ENVELOPE, b"private\r\n")
    await call(session.quit)


def lines(caplog: pytest.LogCaptureFixture, driver: Driver, level: int) -> list[str]:
    """What the driver's own logger wrote, with the number of the session left out."""
    name = f"smtpcore.drivers.{driver.module_name}"
    texts = [record.getMessage() for record in caplog.records if record.name == name and record.levelno == level]
    numbers = {re.match(r"session (\d+): ", text)[1] for text in texts}  # type: ignore[index]  # None would fail the test
    assert len(numbers) <= 1
    return [text.partition(": ")[2] for text in texts]


def test_info_tells_of_sessions_and_mails(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtpcore")
    with Peer(lambda line: line.serve(replies={"RCPT TO:<b": "550 5.1.1 nobody \x1b[31m"})) as peer:
        driver.run(one_mail(driver, peer.port))
    where = f"localhost (127.0.0.1 port {peer.port})"
    assert lines(caplog, driver, logging.INFO) == [
        f"open with {where}: in clear, not authenticated",
        r"mail from <a@x.example> sent: 1 never, 1 delivered; b@x.example never: 550 5.1.1 nobody \x1b[31m",
        f"ended with {where}: quit",
    ]
    assert lines(caplog, driver, logging.DEBUG) == []


def test_tls_authentication_and_the_dialogue(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "smtpcore")
    extensions = (*EXTENSIONS, "AUTH PLAIN")
    with Peer(lambda line: starttls(line, extensions=extensions, replies={"AUTH": "235 ok"})) as peer:
        driver.run(
            one_mail(driver, peer.port, credentials=[Plain("user", "open sesame")], tls_context=trusting_context())
        )
    told = lines(caplog, driver, logging.INFO)
    assert re.fullmatch(r"open with .*: TLSv1\.3 with \w+, certificate verified, authenticated", told[0])
    assert "2 delivered; c@x.example delivered: 250 accepted 1" in told[1]
    dialogue = lines(caplog, driver, logging.DEBUG)
    assert dialogue[0] == "<<< 220 peer.example ready"
    for line in (">>> EHLO here.example", "--- TLS begins", ">>> AUTH PLAIN ********", ">>> (9 octets of message)"):
        assert line in dialogue
    assert dialogue[-2:] == [">>> QUIT", "<<< 221 bye"]
    assert "private" not in caplog.text
    assert "AG9wZW4gc2VzYW1l" not in caplog.text


def test_of_a_secret_command_the_keyword_alone_is_told(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    traced: list[str] = []

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port, trace=traced.append)
        reply = await call(session.command, "X-KEY open sesame", secret=True)
        assert reply.text == "what is ********?"
        session.close()

    caplog.set_level(logging.DEBUG, "smtpcore")
    with Peer(lambda line: line.serve(replies={"X-KEY": "500 what is open sesame?"})) as peer:
        driver.run(play(peer.port))
    dialogue = [">>> X-KEY ********", "<<< 500 what is ********?"]
    assert lines(caplog, driver, logging.DEBUG)[-2:] == dialogue
    assert traced[-2:] == dialogue
    assert "sesame" not in caplog.text


def test_the_end_of_a_session_that_was_given_up(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port)
        session.close()

    caplog.set_level(logging.INFO, "smtpcore")
    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))
    assert re.search(r"ended with .*: aborted: SessionAborted: ", lines(caplog, driver, logging.INFO)[-1])


def test_both_a_trace_and_a_log(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    caplog.set_level(logging.DEBUG, "smtpcore")
    with Peer(lambda line: line.serve()) as peer:
        driver.run(one_mail(driver, peer.port, trace=shown.append))
    assert lines(caplog, driver, logging.DEBUG) == shown
    assert shown[1] == ">>> EHLO here.example"


def test_nothing_is_made_for_a_log_that_nobody_reads(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """The levels count as they are when the session is made: later mails ask no more."""

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port)
        caplog.set_level(logging.DEBUG, "smtpcore")
        await call(session.deliver, ENVELOPE, b"x")
        await call(session.quit)

    for level, told in ((logging.WARNING, 0), (logging.INFO, 3)):
        caplog.set_level(level, "smtpcore")
        with Peer(lambda line: line.serve()) as peer:
            driver.run(play(peer.port))
        assert lines(caplog, driver, logging.DEBUG) == []
        assert len(lines(caplog, driver, logging.INFO)) == told


def test_going_on_in_clear_is_told_of(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def broken(line: Line) -> None:
        line.serve("STARTTLS", extensions=("STARTTLS",))
        line.say("220 go on")
        line.await_octet()
        line.raw(b"what is this?\r\n")

    caplog.set_level(logging.INFO, "smtpcore")
    with Peer(broken, lambda line: line.serve()) as peer:
        driver.run(one_mail(driver, peer.port))
    told = f"localhost:{peer.port}: TLS is not to be had, going on in clear: the TLS handshake failed: "
    assert [record for record in caplog.records if record.getMessage().startswith(told)]


# --- progress ------------------------------------------------------------------------------------------------------


def test_progress_of_a_body(driver: Driver) -> None:
    told: list[tuple[Any, int, int | None]] = []
    pieces = [b"x" * 70_000 + b"\r\n"] * 3

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port, progress=lambda *progress: told.append(progress))
        envelope = Envelope("a@x.example", ("b@x.example",))
        report = await call(session.deliver, envelope, pieces)
        assert [mail for mail, *_ in told] == [report.mail] * 3
        await call(session.send, b"".join(pieces), sender="a@x.example", recipients="b@x.example")
        await call(session.quit)

    with Peer(lambda line: line.serve(extensions=())) as peer:
        driver.run(play(peer.port))
    assert [(octets, size) for _, octets, size in told] == [
        (70_002, None),
        (140_004, None),
        (210_006, None),
        (65_536, 210_006),
        (131_072, 210_006),
        (196_608, 210_006),
        (210_006, 210_006),
    ]


def test_progress_that_raises_aborts_the_mail(driver: Driver) -> None:
    enough = RuntimeError("enough")

    def stop(_: object, octets: int, __: object) -> None:
        if octets >= 100_000:
            raise enough

    async def play(port: int) -> None:
        session = await call(driver.module.connect, "127.0.0.1", port, progress=stop)
        report = await call(session.deliver, ENVELOPE, [b"x" * 60_000] * 10)
        assert report.stage is Stage.BODY_BEGUN
        for outcome in report.outcomes:
            assert isinstance(outcome.error, BodyError)
            assert str(outcome.error) == "the progress function raised RuntimeError"
            assert outcome.error.__cause__ is enough
        assert isinstance(session.end.error, SessionAborted)

    with Peer(lambda line: line.serve()) as peer:
        driver.run(play(peer.port))
    assert not peer.lines[0].bodies
