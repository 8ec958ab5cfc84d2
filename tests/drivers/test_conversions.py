"""Messages that are converted on their way, with each wire driver, out of every kind of source.

What lives here: what arrives at peers with and without 8BITMIME, and what is refused instead. What does not: how a
message is converted, and when, which are the core's.
"""

from __future__ import annotations

import functools
import io
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from smtpcore import (
    BodyError,
    BodyFacts,
    BodyMeasure,
    Conversion,
    ConversionFailed,
    Envelope,
    ExtensionRequired,
    LineEnds,
    MailRefused,
    MailSent,
    Pipelining,
    Report,
    Stage,
    TlsPolicy,
    Verdict,
)
from smtpcore import Limits as Bounds
from smtpcore.drivers._pooling import rewindable

from .peers import Line, Peer
from .scenarios import DRIVERS, Driver, call

CAFE = "Zwei Caf\u00e9s, bitte.\r\n"
HEADER = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
EIGHT_BIT = HEADER + b"8bit\r\n\r\n" + CAFE.encode()
QUOTED = HEADER + b"quoted-printable\r\n\r\nZwei Caf=C3=A9s, bitte.\r\n"
SEVEN_BIT = HEADER + b"7bit\r\n\r\nplain\r\n"
LONG = HEADER + b"7bit\r\n\r\n" + b"x" * 999 + b"\r\n"
SIGNED = b"DKIM-Signature: v=1\r\n" + EIGHT_BIT
DOT = b".\r\n"

pytestmark = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)


def serve(*extensions: str, put_off: str | None = None) -> Callable[[Line], object]:
    """A peer that offers ``extensions``, and puts a command off when it hears it first."""

    def script(line: Line) -> None:
        if put_off is not None:
            line.serve(put_off, extensions=("PIPELINING", *extensions))
            line.say("452 one at a time")
        line.serve(greet=put_off is None, extensions=("PIPELINING", *extensions))

    return script


def deliver(
    driver: Driver,
    source: Callable[[], Any],
    *extensions: str,
    recipients: tuple[str, ...] = ("b@there.example",),
    facts: BodyFacts | None = None,
    put_off: str | None = None,
    **options: Any,
) -> tuple[Line, Report]:
    """Deliver what ``source`` gives and a plain mail behind it, which goes in any case; the line and the report."""

    async def story() -> list[Report]:
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER, **options)
        envelope = Envelope("a@here.example", recipients, body=facts or BodyFacts())
        reports = [await call(session.deliver, envelope, source())]
        plain = Envelope("a@here.example", ("b@there.example",), body=BodyFacts(eight_bit=False, long_lines=False))
        reports.append(await call(session.deliver, plain, SEVEN_BIT))
        await call(session.quit)
        return reports

    with Peer(serve(*extensions, put_off=put_off)) as peer:
        first, second = driver.run(story())
    assert isinstance(second, MailSent)
    (line,) = peer.lines
    assert line.bodies.pop() == SEVEN_BIT + DOT
    return line, first


def error_of(report: Report) -> ExtensionRequired:
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    (outcome,) = report.outcomes
    assert outcome.verdict is Verdict.NEVER
    assert isinstance(outcome.error, ExtensionRequired)
    return outcome.error


def a_path(octets: bytes = EIGHT_BIT) -> Path:
    path = Path(tempfile.mkdtemp()) / "message"
    path.write_bytes(octets)
    return path


def an_email() -> EmailMessage:
    message = EmailMessage()
    message.set_content(CAFE.replace("\r\n", "\n"), cte="8bit")
    return message


SOURCES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: EIGHT_BIT,
    "lines that end with LF": lambda: EIGHT_BIT.replace(b"\r\n", b"\n"),
    "a path": a_path,
    "a file": lambda: io.BytesIO(EIGHT_BIT),
    "a list": lambda: [EIGHT_BIT[:50], EIGHT_BIT[50:]],
    "a pooled file": lambda: rewindable(io.BytesIO(EIGHT_BIT), 10),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_a_peer_without_8bitmime_gets_seven_bits(driver: Driver, source: Callable[[], Any]) -> None:
    line, report = deliver(driver, source, "SIZE")
    assert isinstance(report, MailSent)
    assert line.bodies == [QUOTED + DOT]
    assert line.commands[1] == b"MAIL FROM:<a@here.example> SIZE=%d" % len(QUOTED)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_a_peer_with_8bitmime_gets_what_was_given(driver: Driver, source: Callable[[], Any]) -> None:
    line, report = deliver(driver, source, "8BITMIME")
    assert isinstance(report, MailSent)
    assert line.bodies == [EIGHT_BIT + DOT]
    assert line.commands[1] == b"MAIL FROM:<a@here.example> BODY=8BITMIME"


def test_an_email_object_is_sent_in_seven_bits(driver: Driver) -> None:
    async def story() -> Report:
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER)
        report: Report = await call(session.send, an_email(), sender="a@here.example", recipients="b@there.example")
        await call(session.quit)
        return report

    with Peer(serve()) as peer:
        assert isinstance(driver.run(story()), MailSent)
    (body,) = peer.lines[0].bodies
    assert body.isascii()
    assert body.endswith(b"\r\n\r\nZwei Caf=C3=A9s, bitte.\r\n.\r\n")


def test_what_fits_is_sent_as_it_is(driver: Driver) -> None:
    line, report = deliver(driver, lambda: a_path(SEVEN_BIT), long_lines=Conversion.CONVERT)
    assert isinstance(report, MailSent)
    assert line.bodies == [SEVEN_BIT + DOT]


class Pipe(io.BytesIO):
    """A file that cannot be rewound."""

    def seekable(self) -> bool:
        return False


async def async_pieces(octets: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(octets), 10):
        yield octets[start : start + 10]


class Once:
    """Pieces that come again and need not be the same."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def __iter__(self) -> Iterator[bytes]:
        octets, self._octets = self._octets, b""
        yield from (octets[start : start + 10] for start in range(0, len(octets), 10))


ONCE: dict[str, Callable[[bytes], Any]] = {
    "an iterator": lambda octets: iter([octets[at : at + 10] for at in range(0, len(octets), 10)]),
    "pieces that may differ": Once,
    "a pipe": Pipe,
    "an async source": async_pieces,
}


@pytest.fixture(params=ONCE)
def once(driver: Driver, request: pytest.FixtureRequest) -> Callable[[bytes], Any]:
    if driver.name == "blocking" and request.param == "an async source":
        pytest.skip("the blocking driver takes no async sources")
    return ONCE[request.param]


@pytest.mark.parametrize("facts", [BodyFacts(), BodyFacts(eight_bit=True)])
def test_what_can_be_read_only_once_is_converted(
    driver: Driver, once: Callable[[bytes], Any], facts: BodyFacts
) -> None:
    line, report = deliver(driver, lambda: once(EIGHT_BIT), "SIZE", facts=facts)
    assert isinstance(report, MailSent)
    assert line.bodies == [QUOTED + DOT]
    assert line.commands[1] == b"MAIL FROM:<a@here.example> SIZE=%d" % len(QUOTED)


def test_what_can_be_read_only_once_and_fits_goes_as_it_is(driver: Driver, once: Callable[[bytes], Any]) -> None:
    line, report = deliver(driver, lambda: once(SEVEN_BIT), "SIZE", eight_bit=Conversion.REFUSE)
    assert isinstance(report, MailSent)
    assert line.bodies == [SEVEN_BIT + DOT]
    assert line.commands[1] == b"MAIL FROM:<a@here.example> SIZE=%d" % len(SEVEN_BIT)


@pytest.mark.parametrize(
    ("octets", "enhanced", "options"),
    [
        (EIGHT_BIT, "5.6.3", {"eight_bit": Conversion.REFUSE}),
        (LONG, "5.6.0", {"long_lines": Conversion.REFUSE}),
    ],
)
def test_what_can_be_read_only_once_is_refused(
    driver: Driver, once: Callable[[bytes], Any], octets: bytes, enhanced: str, options: dict[str, Any]
) -> None:
    _, report = deliver(driver, lambda: once(octets), **options)
    error = error_of(report)
    assert (error.enhanced, "not known" in str(error)) == (enhanced, False)


FEW = Bounds(converted_message=100, body_chunk=50)
MUCH = HEADER + b"7bit\r\n\r\n" + b"plain\r\n" * 100


def test_what_is_too_much_to_be_kept_goes_as_it_is(driver: Driver, once: Callable[[bytes], Any]) -> None:
    for octets in (MUCH, MUCH + CAFE.encode()):
        line, report = deliver(driver, functools.partial(once, octets), limits=FEW)
        assert isinstance(report, MailSent)
        assert line.bodies == [octets + DOT]
        assert line.commands[1] == b"MAIL FROM:<a@here.example>"


def test_what_is_too_much_and_cannot_be_judged_is_refused_if_it_is_to_be(
    driver: Driver, once: Callable[[bytes], Any]
) -> None:
    _, report = deliver(driver, lambda: once(MUCH), limits=FEW, eight_bit=Conversion.REFUSE)
    assert str(error_of(report)) == "the message may have octets above 127: it is not known"
    _, report = deliver(driver, lambda: once(CAFE.encode() + MUCH), limits=FEW)
    assert str(error_of(report)).endswith("it has more than 100 octets (Limits.converted_message)")


def test_what_is_too_much_to_be_kept_is_closed(driver: Driver) -> None:
    closed: list[bool] = []

    def source() -> Iterator[bytes]:
        try:
            for start in range(0, len(MUCH), 10):
                yield MUCH[start : start + 10]
            yield b"never"
        finally:
            closed.append(True)

    _, report = deliver(driver, source, limits=FEW, eight_bit=Conversion.REFUSE)
    assert error_of(report).enhanced == "5.6.3"
    assert closed == [True]


def test_bodies_are_not_measured_where_other_tasks_wait(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    if driver.name == "blocking":
        pytest.skip("the blocking driver has nobody else waiting")
    threads: list[threading.Thread] = []

    class Measure(BodyMeasure):
        def feed(self, chunk: bytes) -> None:
            threads.append(threading.current_thread())
            super().feed(chunk)

    monkeypatch.setattr("smtpcore.drivers._session.fitting.BodyMeasure", Measure)
    for source in (lambda: LONG, lambda: a_path(LONG), lambda: async_pieces(LONG), lambda: iter([LONG])):
        deliver(driver, source, long_lines=Conversion.CONVERT)
    assert threads
    assert threading.current_thread() not in threads


def test_the_end_of_a_mail_does_not_wait_until_the_next_is_converted(driver: Driver) -> None:
    ended = threading.Event()
    seen: list[bool] = []

    def script(line: Line) -> None:
        line.serve("DATA", extensions=("PIPELINING",))
        line.say("354 go")
        line.message()
        ended.set()
        line.say("250 taken")
        line.serve(greet=False)

    def source() -> Iterator[bytes]:
        seen.append(ended.wait(10))
        yield EIGHT_BIT

    async def story() -> list[Report]:
        session = await call(
            driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER, pipelining=Pipelining.ACROSS
        )
        first, second = (
            Envelope("a@here.example", ("b@there.example",), body=BodyFacts(eight_bit=eight_bit))
            for eight_bit in (False, True)
        )
        found = session.send_many([(first, SEVEN_BIT), (second, source())])
        reports = list(found) if driver.name == "blocking" else [report async for report in found]
        await call(session.quit)
        return reports

    with Peer(script) as peer:
        reports = driver.run(story())
    assert all(isinstance(report, MailSent) for report in reports)
    assert seen == [True]


def test_a_peer_that_leaves_while_a_body_is_converted_is_heard_before_mail_is_said(driver: Driver) -> None:
    begun, left = threading.Event(), threading.Event()

    def script(line: Line) -> None:
        line.say("220 hi")
        line.expect("EHLO")
        line.say("250 hi")
        begun.wait(10)
        line.say("421 too late")
        line.close()
        left.set()

    def source() -> Iterator[bytes]:
        begun.set()
        left.wait(10)
        yield EIGHT_BIT

    async def story() -> Report:
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER)
        envelope = Envelope("a@here.example", ("b@there.example",), body=BodyFacts(eight_bit=True))
        return cast("Report", await call(session.deliver, envelope, source()))

    with Peer(script) as peer:
        report = driver.run(story())
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    assert report.outcomes[0].reply is not None or "421" in str(report.outcomes[0].error)


def test_a_converted_message_is_read_again_for_a_further_transaction(driver: Driver) -> None:
    line, report = deliver(
        driver,
        lambda: iter([EIGHT_BIT]),
        recipients=("b@there.example", "later@there.example"),
        facts=BodyFacts(eight_bit=True),
        put_off="RCPT TO:<LATER",
    )
    assert isinstance(report, MailSent)
    assert line.bodies == [QUOTED + DOT, QUOTED + DOT]
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED, Verdict.DELIVERED]


def test_binary_messages_go_to_peers_without_binarymime(driver: Driver) -> None:
    octets = b"\0\r\n\xff\n"
    binary = b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n" + octets
    line, report = deliver(driver, lambda: binary, "8BITMIME", facts=BodyFacts(binary=True))
    assert isinstance(report, MailSent)
    assert line.bodies == [binary.partition(b"binary")[0] + b"base64\r\n\r\nAA0K/wo=\r\n" + DOT]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Conversion.AS_IS, EIGHT_BIT), (Conversion.CONVERT, QUOTED), (Conversion.REFUSE, None)],
)
def test_octets_above_127_by_setting(driver: Driver, policy: Conversion, expected: bytes | None) -> None:
    line, report = deliver(driver, a_path, eight_bit=policy)
    if expected is None:
        error = error_of(report)
        assert not isinstance(error, ConversionFailed)
        assert error.enhanced == "5.6.3"
        assert line.bodies == []
    else:
        assert line.bodies == [expected + DOT]


@pytest.mark.parametrize("source", [lambda: LONG, lambda: a_path(LONG)], ids=["bytes", "a path"])
@pytest.mark.parametrize("policy", [*Conversion, None])
def test_long_lines_by_setting(driver: Driver, policy: Conversion | None, source: Callable[[], Any]) -> None:
    options: dict[str, Any] = {} if policy is None else {"long_lines": policy}
    line, report = deliver(driver, source, "8BITMIME", **options)
    if policy is Conversion.REFUSE:
        assert error_of(report).enhanced == "5.6.0"
    elif policy is Conversion.CONVERT:
        (body,) = line.bodies
        assert body.startswith(HEADER + b"quoted-printable\r\n\r\n" + b"x" * 75 + b"=\r\n")
    else:
        assert line.bodies == [LONG + DOT]


def test_signed_messages_are_refused_unless_they_may_be_broken(driver: Driver) -> None:
    line, report = deliver(driver, lambda: SIGNED)
    error = error_of(report)
    assert isinstance(error, ConversionFailed)
    assert str(error).startswith("the message cannot be converted: it is signed (dkim-signature)")
    assert (error.enhanced, line.bodies) == ("5.6.2", [])
    line, report = deliver(driver, lambda: SIGNED, break_signatures=True)
    assert line.bodies == [b"DKIM-Signature: v=1\r\n" + QUOTED + DOT]
    line, report = deliver(driver, lambda: SIGNED, "8BITMIME")
    assert line.bodies == [SIGNED + DOT]


@pytest.mark.parametrize("source", [lambda: EIGHT_BIT, a_path], ids=["bytes", "a path"])
def test_messages_that_are_too_large_are_refused(driver: Driver, source: Callable[[], Any]) -> None:
    _, report = deliver(driver, source, limits=Bounds(converted_message=len(EIGHT_BIT) - 1, body_chunk=10))
    error = error_of(report)
    assert isinstance(error, ConversionFailed)
    most = len(EIGHT_BIT) - 1
    assert error.why == f"it has more than {most} octets (Limits.converted_message)"
    line, _ = deliver(driver, source, limits=Bounds(converted_message=len(EIGHT_BIT), body_chunk=10))
    assert line.bodies == [QUOTED + DOT]


def test_large_messages_that_fit_are_only_looked_at(driver: Driver) -> None:
    line, report = deliver(driver, lambda: a_path(SEVEN_BIT), limits=Bounds(converted_message=1))
    assert isinstance(report, MailSent)
    assert line.bodies == [SEVEN_BIT + DOT]


class Unreadable(io.BytesIO):
    """A file on a disk that is broken."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("facts", [BodyFacts(), BodyFacts(eight_bit=True)], ids=["looked at", "converted"])
def test_a_source_that_breaks_ahead_leaves_the_session_open(driver: Driver, facts: BodyFacts) -> None:
    line, report = deliver(driver, Unreadable, facts=facts)
    assert isinstance(report, MailRefused)
    (outcome,) = report.outcomes
    assert outcome.verdict is Verdict.LATER
    assert isinstance(outcome.error, BodyError)
    assert str(outcome.error.__cause__) == "[Errno 5] Input/output error"
    assert sum(command.startswith(b"MAIL") for command in line.commands) == 1


def test_bare_line_ends_may_be_refused(driver: Driver) -> None:
    _, report = deliver(driver, lambda: EIGHT_BIT.replace(b"\r\n", b"\n"), line_ends=LineEnds.REFUSE)
    assert isinstance(report, MailRefused)
    assert isinstance(report.outcomes[0].error, BodyError)
    assert "bare CR or LF" in report.outcomes[0].text


def test_a_conversion_is_written_down(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="smtpcore.drivers"):
        deliver(driver, lambda: EIGHT_BIT)
    assert sum("converting the message of the mail from <a@here.example>" in line for line in caplog.messages) == 1


def test_the_source_is_closed_when_it_is_converted(driver: Driver) -> None:
    class Source:
        """Pieces that know whether they were closed."""

        def __init__(self) -> None:
            self.pieces = iter([EIGHT_BIT])
            self.closed = 0

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> bytes:
            return next(self.pieces)

        def close(self) -> None:
            self.closed += 1

    source = Source()
    line, _ = deliver(driver, lambda: source, facts=BodyFacts(eight_bit=True))
    assert line.bodies == [QUOTED + DOT]
    assert source.closed


# --- headers beyond ASCII ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "offered", "said"),
    [
        ("Subject: Caf\u00e9\r\n\r\nhi\r\n".encode(), True, True),
        ("Subject: Caf\u00e9\r\n\r\nhi\r\n".encode(), False, False),
        (bytearray("Subject: x\r\n\r\nCaf\u00e9\r\n".encode()), True, False),
        (b"Subject: Caf\xe9\r\n\r\nhi\r\n", True, False),
    ],
    ids=["found", "found where nobody asks", "in the body", "in another charset"],
)
def test_octets_say_themselves_that_their_header_is_utf8(
    driver: Driver, source: bytes, offered: bool, said: bool
) -> None:
    """A peer that knows SMTPUTF8 is told; to all others the mail goes as it always went."""

    async def story() -> None:
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER)
        await call(session.send, source, sender="a@here.example", recipients="b@there.example")
        await call(session.quit)

    with Peer(serve("8BITMIME", *["SMTPUTF8"] * offered)) as peer:
        driver.run(story())
    (line,) = peer.lines
    assert line.bodies == [bytes(source) + DOT]
    (mail,) = [command for command in line.commands if command.startswith(b"MAIL")]
    assert mail.endswith(b" BODY=8BITMIME" + b" SMTPUTF8" * said)
