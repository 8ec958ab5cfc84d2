"""The scenarios that every wire driver here must play alike, as one table, and the stage on which they are played.

What lives here: for each scenario what the peer does, what the caller does, and the story that must come of it. What
does not: what every driver of anybody must do (:mod:`smtpcore.testing.conformance`), the peers' machinery
(:mod:`peers`), and whatever is peculiar to one driver.

A story is a list of lines that the caller's side writes down while it plays: reports, errors with their words, how
the session ended. All drivers must write the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import io
import os
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trio

from smtpcore import (
    BodyFacts,
    Conversion,
    Deadlines,
    DeliveryFailed,
    Envelope,
    Limits,
    LineEnds,
    LocalProtocolError,
    MailOptions,
    MailSent,
    Pipelining,
    Report,
    SmtpError,
    TlsPolicy,
    XClient,
    XForward,
)
from smtpcore.sasl import Plain

from .peers import EXTENSIONS, Line, Peer, Script, server_context, steps, trusting_context

# --- the stage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver:
    """One wire driver, and how a coroutine that plays a scenario is run with it."""

    name: str

    @property
    def module_name(self) -> str:
        return self.name.partition("+")[0]

    @property
    def loop(self) -> str:
        """The event loop's module, if it is another than the standard library's."""
        return self.name.partition("+")[2]

    @property
    def module(self) -> Any:
        return importlib.import_module(f"smtpcore.drivers.{self.module_name}")

    def run(self, play: Coroutine[Any, Any, Any]) -> Any:
        if self.module_name == "asyncio":
            factory = importlib.import_module(self.loop).new_event_loop if self.loop else None
            with asyncio.Runner(loop_factory=factory) as runner:
                return runner.run(play)
        if self.name == "trio":
            return trio.run(_awaited, play)
        try:
            play.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("the blocking driver awaited something")


async def _awaited(play: Awaitable[Any]) -> Any:
    return await play


DRIVERS = [Driver("blocking"), Driver("asyncio"), Driver("asyncio+uvloop"), Driver("trio")]


async def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of a driver, and await what it gives if the driver is an async one."""
    result = function(*args, **options)
    return await result if inspect.isawaitable(result) else result


class Stage:
    """What a caller has to play with: a driver, the peer, the options, and the story to write."""

    def __init__(self, driver: Driver, peer: Peer, options: dict[str, Any], host: str) -> None:
        self.driver = driver
        self.peer = peer
        self.options = options
        self.host = host
        self.story: list[str] = []
        self._sessions: list[Any] = []

    def note(self, line: str) -> None:
        self.story.append(line.replace(str(self.peer.port), "PORT"))

    async def open(self) -> Any:
        session = await call(self.driver.module.connect, self.host, self.peer.port, **self.options)
        self._sessions.append(session)
        self.note("open")
        return session

    def close(self) -> None:
        """Close what an error left open; a session that did not open must have closed by itself."""
        for session in self._sessions:
            session.close()

    async def deliver(self, session: Any, message: Any = b"Hello.\r\n", *recipients: str, **facts: Any) -> Report:
        envelope = Envelope("a@here.example", recipients or ("b@there.example",), **facts)
        report: Report = await call(session.deliver, envelope, message)
        self.tell(report)
        return report

    def tell(self, report: Report) -> None:
        kind = "sent" if isinstance(report, MailSent) else "refused"
        self.note(f"{kind} {report.stage.name}")
        for outcome in report.outcomes:
            self.note(f"  {outcome}")

    async def send_many(self, session: Any, mails: Iterable[tuple[Envelope, Any]], *, stop_after: int = 1000) -> None:
        """Send mails and tell each report, but for those behind the first ``stop_after``."""
        reports = session.send_many(mails)
        if hasattr(reports, "__aiter__"):
            async with contextlib.aclosing(reports):
                async for report in reports:
                    self.tell(report)
                    if (stop_after := stop_after - 1) == 0:
                        return
        else:
            with contextlib.closing(reports):
                for report in reports:
                    self.tell(report)
                    if (stop_after := stop_after - 1) == 0:
                        return

    async def quit(self, session: Any) -> None:
        await call(session.quit)
        self.tell_end(session)

    def tell_end(self, session: Any) -> None:
        end = session.end
        error = "" if end.error is None else f" {type(end.error).__name__}: {end.error}"
        self.note(f"end {end.reason.value}{' clean' if end.clean else ''}{error}")


Act = Callable[[Stage], Coroutine[Any, Any, None]]


async def one_mail(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session)
    await stage.quit(session)


@dataclass(frozen=True)
class Scenario:
    """``scripts`` is what the peer does, one for each connection that it must be made."""

    name: str
    scripts: tuple[Script, ...]
    story: tuple[str, ...]
    act: Act = one_mail
    options: dict[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    small_buffers: bool = False
    #: Looks at what the peer heard.
    check: Callable[[Peer], object] = lambda _: None
    drivers: tuple[str, ...] = ("blocking", "asyncio", "trio")

    def play(self, driver: Driver) -> list[str]:
        """Play it, and return the story; only errors that are of smtpcore may come out of a driver."""
        with Peer(*self.scripts, small_buffers=self.small_buffers) as peer:
            stage = Stage(driver, peer, self.options, self.host)
            driver.run(self._play(stage))
        assert len(peer.lines) == len(self.scripts)
        self.check(peer)
        return stage.story

    async def _play(self, stage: Stage) -> None:
        try:
            await self.act(stage)
        except SmtpError as error:
            stage.note(f"{type(error).__name__}: {error}")
        finally:
            stage.close()


TABLE: list[Scenario] = []


def scenario(name: str, *scripts: Script, story: str = "", **rest: Any) -> None:
    """Add a row; ``story`` is its lines as one text."""
    lines = tuple(line for line in inspect.cleandoc(story).splitlines() if line)
    TABLE.append(Scenario(name, scripts, lines, **rest))


def within(**seconds: float) -> dict[str, Any]:
    """Options with some deadlines set and all others far away."""
    return {"limits": Limits(deadlines=Deadlines(**seconds))}


SOON = 0.1

SENT = """
    open
    sent BODY_ENDED
      b@there.example delivered: 250 accepted 1
    end quit clean
"""

# --- what goes well ------------------------------------------------------------------------------------------------


def bodies(*expected: bytes) -> Callable[[Peer], None]:
    def check(peer: Peer) -> None:
        assert [body for line in peer.lines for body in line.bodies] == list(expected)

    return check


scenario(
    "a peer that speaks HELO only",
    lambda line: line.serve(replies={"EHLO": "502 what?", "HELO": "250 peer.example"}),
    story=SENT,
)


# --- many mails, asked for one after the other ----------------------------------------------------------------------

TO = ("b@there.example",)
ACROSS = {"pipelining": Pipelining.ACROSS}
EACH_WAY = [("within", {}), ("across", ACROSS)]


def numbered(count: int) -> Iterator[tuple[Envelope, bytes]]:
    for number in range(count):
        yield Envelope("a@here.example", TO), b".mail %d" % number


def taken(count: int) -> str:
    return "".join(f"sent BODY_ENDED\n  b@there.example delivered: 250 accepted {n}\n" for n in range(1, count + 1))


async def send_many(stage: Stage) -> None:
    session = await stage.open()
    await stage.send_many(session, numbered(5))
    # The session is as good as new.
    await stage.send_many(session, [])
    await stage.deliver(session, b"one more")
    await stage.quit(session)


async def send_many_of_all_kinds(stage: Stage) -> None:
    session = await stage.open()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"from a file\n" * 10_000)
        file.flush()
        envelope = Envelope("a@here.example", TO)
        messages: list[Any] = [Path(file.name), io.BytesIO(b"from memory"), iter([b"in ", b"pieces"]), b""]
        await stage.send_many(session, [(envelope, message) for message in messages])
    await stage.quit(session)


async def send_many_out_of_a_source_that_breaks(stage: Stage) -> None:
    def mails() -> Iterator[tuple[Envelope, bytes]]:
        yield from numbered(2)
        raise LookupError("the source broke")

    session = await stage.open()
    try:
        await stage.send_many(session, mails())
    except LookupError as error:
        stage.note(f"raised {error}")
    await stage.deliver(session, b"one more")
    await stage.quit(session)


async def send_many_with_one_that_may_not_go_out(stage: Stage) -> None:
    session = await stage.open()
    mails: list[tuple[Envelope, Any]] = list(numbered(4))
    mails[2] = (Envelope("a@here.example", TO * 3), b"too many recipients")
    try:
        await stage.send_many(session, mails)
    except LocalProtocolError as error:
        stage.note(f"raised {error}")
    await stage.deliver(session, b"one more")
    await stage.quit(session)


async def send_many_of_what_are_no_mails(stage: Stage) -> None:
    session = await stage.open()
    for mails in (5, [Envelope("a@here.example", TO)], [*numbered(1), (b"Hello.", Envelope("a@here.example", TO))]):
        try:
            await stage.send_many(session, mails)  # type: ignore[arg-type]  # a wrong kind, on purpose
        except LocalProtocolError as error:
            stage.note(f"raised {error}")
    try:
        await call(session.deliver, b"hunter2", b"Hello.")
    except LocalProtocolError as error:
        stage.note(f"raised {error}")
    await stage.deliver(session, b"one more")
    await stage.quit(session)


async def send_many_and_stop(stage: Stage) -> None:
    session = await stage.open()
    await stage.send_many(session, numbered(5), stop_after=2)
    stage.tell_end(session)


async def send_many_while_sending_many(stage: Stage) -> None:
    session = await stage.open()

    async def again() -> None:
        try:
            await call(session.deliver, Envelope("a@here.example", TO), b"at once")
        except LocalProtocolError as error:
            stage.note(f"raised {error}")

    reports = session.send_many(numbered(2))
    if hasattr(reports, "__aiter__"):
        async for report in reports:
            stage.tell(report)
            await again()
    else:
        for report in reports:
            stage.tell(report)
            await again()
    await stage.quit(session)


for way, options in EACH_WAY:
    scenario(
        f"many mails asked for, {way}",
        lambda line: line.serve(),
        act=send_many,
        options=options,
        story="open\n" + taken(6) + "end quit clean",
        check=bodies(*(b"..mail %d\r\n.\r\n" % n for n in range(5)), b"one more\r\n.\r\n"),
    )
    scenario(
        f"many mails of all kinds, {way}",
        lambda line: line.serve(),
        act=send_many_of_all_kinds,
        options=options,
        story="open\n" + taken(4) + "end quit clean",
        check=bodies(b"from a file\r\n" * 10_000 + b".\r\n", b"from memory\r\n.\r\n", b"in pieces\r\n.\r\n", b".\r\n"),
    )
    scenario(
        f"many mails out of a source that breaks, {way}",
        lambda line: line.serve(),
        act=send_many_out_of_a_source_that_breaks,
        options=options,
        story="open\n" + taken(2) + "raised the source broke\n" + taken(3).split("\n", 4)[4] + "end quit clean",
    )
    scenario(
        f"many mails, one of which may not go out, {way}",
        lambda line: line.serve(),
        act=send_many_with_one_that_may_not_go_out,
        options={**options, "limits": Limits(recipients=2)},
        story="open\n"
        + taken(2)
        + "raised 3: a mail has at most 2 recipients (Limits.recipients)\n"
        + taken(3).split("\n", 4)[4]
        + "end quit clean",
    )
    scenario(
        f"many mails that are none, {way}",
        lambda line: line.serve(),
        act=send_many_of_what_are_no_mails,
        options=options,
        story="open\n"
        "raised the mails come from an iterable of pairs, not a int\n"
        "raised each of the mails is a pair of an Envelope and its message, not: Envelope\n"
        + taken(1)
        + "raised each of the mails is a pair of an Envelope and its message, not: bytes, Envelope\n"
        "raised an Envelope says where a mail goes, not a bytes\n" + taken(2).split("\n", 2)[2] + "end quit clean",
    )
    scenario(
        f"many mails, and nobody waits for the last, {way}",
        lambda line: line.serve(),
        act=send_many_and_stop,
        options=options,
        story="open\n" + taken(2) + "end aborted SessionAborted: the application gave the session up",
    )
    scenario(
        f"many mails, and one more in between, {way}",
        lambda line: line.serve(),
        act=send_many_while_sending_many,
        options=options,
        story="open\n"
        + "".join(
            f"sent BODY_ENDED\n  b@there.example delivered: 250 accepted {n}\n"
            "raised the session is sending another mail: one session serves one caller at a time\n"
            for n in (1, 2)
        )
        + "end quit clean",
    )


def says_421_to_the_third(line: Line) -> None:
    line.serve(replies={"MAIL FROM:<s2@": "421 that was enough"})


async def send_many_and_quit(stage: Stage) -> None:
    session = await stage.open()
    await stage.send_many(session, ((Envelope(f"s{n}@here.example", TO), b"hello") for n in range(5)))


for way, options in EACH_WAY:
    scenario(
        f"many mails to a peer that has enough, {way}",
        says_421_to_the_third,
        act=send_many_and_quit,
        options=options,
        story="open\n"
        + taken(2)
        + """refused STARTED
  b@there.example later: 421 that was enough
"""
        # The next one was asked for while the peer was waited for.
        + "refused NOT_STARTED\n  b@there.example later: 421 that was enough\n" * (way == "across")
        + "ServiceRefused: the peer refuses service: 421 that was enough\n",
    )


async def one_mail_by_send(stage: Stage) -> None:
    send = stage.driver.module.send
    address = {"host": stage.host, "port": stage.peer.port}
    envelope = {"sender": "a@here.example", "recipients": ["b@there.example", "c@there.example"]}
    try:
        stage.tell(await call(send, b"Hello.", **address, **envelope, **stage.options))
    except DeliveryFailed as failed:
        stage.tell(failed.report)
        raise


REFUSES_C = {"RCPT TO:<c@": "550-5.1.1 no c\n550 5.1.1 here"}

scenario(
    "one call, one of two recipients refused",
    lambda line: line.serve(replies=REFUSES_C),
    act=one_mail_by_send,
    story="""
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
          c@there.example never: 550 5.1.1 no c / 5.1.1 here
    """,
    check=lambda peer: peer.lines[0].commands[-1] == b"QUIT" or 1 / 0,
)
scenario(
    "all recipients refused",
    lambda line: line.serve(replies={"RCPT": "451 4.7.1 greylisted", **REFUSES_C, "DATA": "503 no recipients"}),
    act=one_mail_by_send,
    story="""
        refused STARTED
          b@there.example later: 451 4.7.1 greylisted
          c@there.example never: 550 5.1.1 no c / 5.1.1 here
        DeliveryFailed: b@there.example later: 451 4.7.1 greylisted; c@there.example never: 550 5.1.1 no c / 5.1.1 here
    """,
)


async def refused_then_good(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session, b"one", "c@there.example")
    await stage.deliver(session, b"two", "b@there.example")
    await stage.quit(session)


scenario(
    "a refused mail leaves nothing behind for the next",
    lambda line: line.serve(replies=REFUSES_C, extensions=()),
    act=refused_then_good,
    story="""
        open
        refused STARTED
          c@there.example never: 550 5.1.1 no c / 5.1.1 here
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        end quit clean
    """,
    check=lambda peer: b"RSET" in peer.lines[0].commands or 1 / 0,
)
scenario(
    "a verdict against the message",
    lambda line: line.serve(replies={"DOT": "554 5.7.1 spam"}),
    story="""
        open
        refused BODY_ENDED
          b@there.example never: 554 5.7.1 spam
        end quit clean
    """,
)

# --- the opening ---------------------------------------------------------------------------------------------------

scenario(
    "a greeting that refuses",
    steps(
        lambda line: line.say("554-no service", "554 for you"),
        lambda line: line.expect("QUIT"),
        lambda line: line.say("221 bye"),
    ),
    story="ServiceRefused: the peer refuses service: 554 no service / for you",
)
scenario(
    "a greeting that refuses and closes",
    steps(lambda line: line.say("554 no service"), Line.close),
    story="ServiceRefused: the peer refuses service: 554 no service",
)
scenario(
    "a greeting that puts off",
    lambda line: line.say("421 busy"),
    story="ServiceRefused: the peer refuses service: 421 busy",
)
scenario(
    "a greeting of zeros",
    lambda line: line.raw(bytes(100) + b"\r\n"),
    story=f"RemoteProtocolError: not a reply line: {bytes(80)!r}",
)
scenario(
    "a greeting with two codes",
    lambda line: line.say("554-go away", "220 hello"),
    story="RemoteProtocolError: a reply with two codes: 554 and 220",
)
scenario(
    "a greeting that knows too much",
    lambda line: line.say("220 hello", "250 there"),
    story="RemoteProtocolError: octets that nobody asked for: b'250 there\\r\\n'",
)


# --- before the session begins ---------------------------------------------------------------------------------------


async def opened_late(stage: Stage) -> None:
    """Connect, and begin the session only when the peer has done its part."""
    sock = socket.create_connection((stage.host, stage.peer.port))
    sock.sendall(b"\n")
    assert stage.peer.done.wait(10)
    await call(stage.driver.module.open_session, sock, **stage.options)


def early(line: Line, then: Callable[[Line], object]) -> None:
    """Do something once the connection is there for both sides, and before a session begins on it."""
    line.octets(1)
    then(line)
    line.done.set()


scenario(
    "the peer resets before the session begins",
    lambda line: early(line, Line.reset),
    act=opened_late,
    options=within(last_words=SOON),
    story="ConnectionLost: [Errno 104] Connection reset by peer",
)
scenario(
    "421 and a reset before the session begins",
    lambda line: early(line, steps(lambda line: line.say("421 4.3.2 going down"), Line.reset)),
    act=opened_late,
    story="ServiceRefused: the peer refuses service: 421 4.3.2 going down",
)

# --- while the body flows ------------------------------------------------------------------------------------------

LARGE = b"0123456789abcdef" * 64 * 1024 * 8 + b"\r\n"  # 8 MiB, more than any buffer between the two


REFUSED_EARLY = """
    open
    refused BODY_BEGUN
      b@there.example never: 552 5.3.4 too big
    end body ServiceRefused: the peer refused the message before its end: 552 5.3.4 too big
"""
BROKEN_OFF = """
    open
    refused BODY_BEGUN
      b@there.example later: {}
    end {}: {}
"""


async def one_mail_without_end(stage: Stage) -> None:
    """What is read of a source is bounded by what the peer reads; at the end of all, the source is closed."""
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        try:
            while read < 1000:
                read += 1
                yield LARGE[:100_000]
        finally:
            stage.note(f"closed {'early' if read < 1000 else 'late'}")

    session = await stage.open()
    await stage.deliver(session, pieces())
    stage.tell_end(session)


for _name, _then, _told in (
    (
        "a peer that reads no more",
        Line.stall,
        ("the peer was silent beyond the deadline for end of data", "timeout PeerTimeout"),
    ),
    ("a peer that resets", Line.reset, ("[Errno 104] Connection reset by peer", "lost ConnectionLost")),
):
    scenario(
        f"{_name} of a body without end",
        steps(lambda line: line.serve("BODY"), lambda line: line.octets(10_000), _then),
        act=one_mail_without_end,
        options=within(data_block=SOON, last_words=SOON),
        story=BROKEN_OFF.format(_told[0], _told[1], _told[0]).replace("    refused", "    closed early\n    refused"),
    )


async def refused_while_reading(stage: Stage) -> None:
    """The refusal is there before the octets that nobody will read."""

    def pieces() -> Iterator[bytes]:
        yield b"The beginning.\r\n"
        assert stage.peer.done.wait(10)
        for _ in range(20):
            # Each piece is a turn of the loop, in which it may read ahead.
            yield b"x\r\n"
        yield LARGE

    session = await stage.open()
    await stage.deliver(session, pieces())
    await stage.quit(session)


scenario(
    "552 while the next piece is being read",
    steps(
        lambda line: line.serve("BODY"),
        lambda line: line.octets(10),
        lambda line: line.say("552 5.3.4 too big"),
        lambda line: line.done.set(),
        Line.stall,
    ),
    act=refused_while_reading,
    small_buffers=True,
    options=within(data_block=5.0),
    story=REFUSED_EARLY,
)


async def small_buffers_large_group(stage: Stage) -> None:
    sock = socket.create_connection((stage.host, stage.peer.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    session = await call(stage.driver.module.open_session, sock, **stage.options)
    recipients = [f"{'r' * 200}{number}@there.example" for number in range(1500)]
    report = await call(session.deliver, Envelope("a@here.example", tuple(recipients)), b"Hello.")
    stage.note(f"{len([o for o in report.outcomes if o.code == 250])} accepted {report.stage.name}")
    await stage.quit(session)


scenario(
    "a large group against small buffers",
    # The peer answers each command with more octets than it had, and reads nothing while it writes.
    lambda line: line.serve(replies={"RCPT": "\n".join(f"250{'- '[n == 5]}{'x' * 80}" for n in range(6))}),
    act=small_buffers_large_group,
    small_buffers=True,
    story="""
        1500 accepted BODY_ENDED
        end quit clean
    """,
)


def accepts_unread(line: Line) -> None:
    """Accept a message that is still to be read; read it, and all else, afterwards."""
    line.serve("BODY")
    line.await_octet()
    line.say("250 accepted early")
    line.gone(SOON)
    line.message()
    line.serve(greet=False)


async def small_buffers_two_mails(stage: Stage) -> None:
    sock = socket.create_connection((stage.host, stage.peer.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    session = await call(stage.driver.module.open_session, sock, **stage.options)
    await stage.deliver(session, b"x" * 60_000)
    await stage.deliver(session, b"second")
    await stage.quit(session)


scenario(
    "a peer that accepts what it has not read",
    # The rest of the first message must not be forgotten: the next command would become a part of it.
    accepts_unread,
    act=small_buffers_two_mails,
    small_buffers=True,
    story="""
        sent BODY_ENDED
          b@there.example delivered: 250 accepted early
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 2
        end quit clean
    """,
    check=bodies(b"x" * 60_000 + b"\r\n.\r\n", b"second\r\n.\r\n"),
)

# --- TLS -----------------------------------------------------------------------------------------------------------

OFFERS_TLS = (*EXTENSIONS, "STARTTLS")
TLS_REQUIRED = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context()}
TLS_IMPLICIT = {"tls": TlsPolicy.IMPLICIT, "tls_context": trusting_context()}


def starttls(line: Line, kind: str = "good", injected: bytes = b"", **serve: Any) -> None:
    """Serve with STARTTLS."""
    line.serve("STARTTLS", extensions=OFFERS_TLS)
    line.raw(b"220 go on\r\n" + injected)
    if line.tls(server_context(kind)):
        line.serve(greet=False, **serve)


def implicit(line: Line, kind: str = "good") -> None:
    if line.tls(server_context(kind)):
        line.serve()


async def one_mail_with_tls(stage: Stage) -> None:
    session = await stage.open()
    assert session.tls is not None
    stage.note(f"verified={session.tls.verified}")
    await stage.deliver(session)
    await stage.quit(session)


for _tls_policy, _verified in ((TlsPolicy.REQUIRED, True), (TlsPolicy.OPPORTUNISTIC, False)):
    scenario(
        f"STARTTLS, {_tls_policy.value}",
        starttls,
        host="localhost",
        act=one_mail_with_tls,
        options=TLS_REQUIRED if _verified else {},
        story=SENT.replace("open", f"open\n    verified={_verified}"),
    )


for _kind in ("unknown issuer", "wrong host", "expired"):
    scenario(
        f"STARTTLS, opportunistic, {_kind}: encrypted all the same",
        functools.partial(starttls, kind=_kind),
        host="localhost",
        act=one_mail_with_tls,
        story=SENT.replace("open", "open\n    verified=False"),
    )

scenario(
    "STARTTLS refused, required",
    lambda line: line.serve(extensions=OFFERS_TLS, replies={"STARTTLS": "454 not now"}),
    options=TLS_REQUIRED,
    story="TlsRequired: TLS is required, and the peer refused STARTTLS: 454 not now",
    check=lambda peer: peer.lines[0].commands[-1] == b"QUIT" or 1 / 0,
)
scenario(
    "STARTTLS refused, opportunistic",
    lambda line: line.serve(extensions=OFFERS_TLS, replies={"STARTTLS": "454 not now"}),
    story=SENT,
)
scenario(
    "plaintext behind the 220 of STARTTLS, opportunistic",
    lambda line: starttls(line, injected=b"250-peer.example\r\n250 AUTH PLAIN\r\n"),
    host="localhost",
    # There is no second attempt in clear: that is what an attacker would want.
    story="RemoteProtocolError: octets in clear behind the reply to STARTTLS (RFC 3207 §4.2)",
)


def no_handshake(line: Line, then: Callable[[Line], object]) -> None:
    line.serve("STARTTLS", extensions=OFFERS_TLS)
    line.say("220 go on")
    line.octets(1)
    then(line)


for _name, _then, _tls_deadlines in (
    ("garbage", lambda line: line.raw(b"what is this?\r\n"), {}),
    ("silence", Line.until_closed, within(starttls=SOON)),
    # The beginning of a TLS record that never ends.
    ("a drip", lambda line: line.drip(b"\x16\x03\x03\x40\x00" + bytes(1000), SOON / 5), within(starttls=SOON)),
    ("a close", Line.close, {}),
    ("a reset", Line.reset, {}),
):
    scenario(
        f"{_name} instead of a handshake, opportunistic",
        functools.partial(no_handshake, then=_then),
        lambda line: line.serve(extensions=OFFERS_TLS),
        options=_tls_deadlines,
        story=SENT,
        check=lambda peer: b"STARTTLS" not in peer.lines[1].commands or 1 / 0,
    )

scenario("TLS before the greeting, by address", implicit, options=TLS_IMPLICIT, story=SENT)
scenario(
    "a host name with its root dot",
    starttls,
    host="localhost",
    options=TLS_REQUIRED | {"tls_server_name": "localhost."},
    story=SENT,
)
scenario(
    "a certificate for another name, asked for",
    lambda line: starttls(line, "wrong host"),
    host="localhost",
    options=TLS_REQUIRED | {"tls_server_name": "elsewhere.example"},
    story=SENT,
)

# --- authentication ------------------------------------------------------------------------------------------------

PASSWORD = "hunter2-hunter2"
AUTH = TLS_REQUIRED | {"credentials": [Plain("user", PASSWORD)]}
OFFERS_AUTH = (*EXTENSIONS, "AUTH LOGIN PLAIN")
ECHO = "AHVzZXIAaHVudGVyMi1odW50ZXIy"

scenario(
    "authentication",
    lambda line: starttls(line, extensions=OFFERS_AUTH, replies={"AUTH": "235 welcome"}),
    host="localhost",
    options=AUTH,
    story=SENT,
    check=lambda peer: f"AUTH PLAIN {ECHO}".encode() in peer.lines[0].commands or 1 / 0,
)
scenario(
    "authentication, TLS not asked for by name",
    lambda line: starttls(line, extensions=OFFERS_AUTH, replies={"AUTH": "235 welcome"}),
    host="localhost",
    options={"credentials": AUTH["credentials"], "tls_context": trusting_context()},
    story=SENT,
)
scenario(
    "authentication declined",
    lambda line: starttls(line, extensions=OFFERS_AUTH, replies={"AUTH": f"535 5.7.8 wrong: {ECHO}"}),
    host="localhost",
    options=AUTH,
    story="AuthDeclined: the peer refused the credentials: 535 5.7.8 wrong: ********",
    check=lambda peer: peer.lines[0].commands[-1] == b"QUIT" or 1 / 0,
)
scenario(
    "authentication, no common mechanism",
    lambda line: starttls(line, extensions=("AUTH GSSAPI",)),
    host="localhost",
    options=AUTH,
    story="AuthRequired: no common mechanism: we have PLAIN; the peer offers GSSAPI",
)
scenario(
    "authentication against a peer that hides STARTTLS",
    lambda line: line.serve(extensions=OFFERS_AUTH),
    host="localhost",
    options=AUTH,
    story="TlsRequired: TLS is required, and the peer does not offer STARTTLS",
    check=lambda peer: ECHO.encode() not in peer.lines[0].heard or 1 / 0,
)
scenario(
    "authentication where TLS is forbidden",
    options={"credentials": AUTH["credentials"], "tls": TlsPolicy.NEVER},
    story="LocalProtocolError: 'never': credentials are never said without TLS; choose another TlsPolicy",
    check=lambda peer: not peer.lines or 1 / 0,
)
scenario(
    "silence at AUTH",
    steps(lambda line: starttls(line, extensions=OFFERS_AUTH, until="AUTH"), Line.stall),
    host="localhost",
    options=AUTH | within(auth=SOON),
    story="PeerTimeout: the peer was silent beyond the deadline for AUTH",
)

# --- sources of bodies ---------------------------------------------------------------------------------------------

TEXT = b"Subject: x\r\n\r\n.dot\r\nlast"
ON_THE_WIRE = b"Subject: x\r\n\r\n..dot\r\nlast\r\n.\r\n"


def sends(make: Callable[[], Any], *, recipients: tuple[str, ...] = (), **facts: Any) -> Act:
    """A caller who sends what ``make`` gives; what it opened it closes."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        message = make()
        try:
            await stage.deliver(session, message, *recipients, **facts)
        finally:
            if hasattr(message, "close"):
                message.close()
        await stage.quit(session)

    return act


def a_path() -> Path:
    path = Path(tempfile.mkdtemp()) / "message"
    path.write_bytes(TEXT)
    return path


def a_file_in_the_middle() -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # it outlives this function
    file.write(b"not this" + TEXT)
    file.seek(len(b"not this"))
    return file


def a_pipe() -> Any:
    reader, writer = os.pipe()
    os.write(writer, TEXT)
    os.close(writer)
    return os.fdopen(reader, "rb")


def a_generator() -> Any:
    yield b"Subject: x\r\n\r"
    yield b""
    yield b"\n.dot\r\nlast"


async def an_async_generator() -> Any:
    for piece in a_generator():
        await call(lambda: None)
        yield piece


for _name, _make in (
    ("bytes", lambda: TEXT),
    ("a bytearray", lambda: bytearray(TEXT)),
    ("a memoryview", lambda: memoryview(TEXT)),
    ("a path", a_path),
    ("a file, not from its start", a_file_in_the_middle),
    ("a file in memory", lambda: io.BytesIO(TEXT)),
    ("a pipe", a_pipe),
    ("a list", lambda: [TEXT[:20], TEXT[20:]]),
    ("a generator", a_generator),
    ("bare line feeds", lambda: TEXT.replace(b"\r\n", b"\n")),
):
    scenario(
        f"a message out of {_name}",
        lambda line: line.serve(),
        act=sends(_make),
        story=SENT,
        check=bodies(ON_THE_WIRE),
    )
for _name, _make in (
    ("an async generator", an_async_generator),
    ("an async iterable", type("Pieces", (), {"__aiter__": lambda _: an_async_generator()})),
):
    scenario(
        f"a message out of {_name}",
        lambda line: line.serve(),
        act=sends(_make),
        story=SENT,
        check=bodies(ON_THE_WIRE),
        drivers=("asyncio", "trio"),
    )
scenario("an empty message", lambda line: line.serve(), act=sends(lambda: b""), story=SENT, check=bodies(b".\r\n"))
scenario("a message of no pieces", lambda line: line.serve(), act=sends(list), story=SENT, check=bodies(b".\r\n"))


def an_email() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Someone <a@here.example>"
    message["To"] = "b@there.example"
    message["Cc"] = '"Doe, J" <c@there.example>'
    message["Bcc"] = "d@there.example"
    message["Subject"] = "Grüße"
    message.set_content("From here\n.dot\nä\n", cte="8bit")
    return message


async def send_email(stage: Stage) -> None:
    session = await stage.open()
    stage.tell(await call(session.send, an_email()))
    await stage.quit(session)


def check_email(peer: Peer) -> None:
    (body,) = peer.lines[0].bodies
    assert b"Bcc" not in body
    assert b"d@there" not in body
    assert body.endswith("\r\n\r\nFrom here\r\n..dot\r\nä\r\n.\r\n".encode())
    assert "BODY=8BITMIME" in peer.lines[0].commands[1].decode()


def check_converted_email(peer: Peer) -> None:
    (body,) = peer.lines[0].bodies
    assert body.endswith(b"\r\n\r\nFrom here\r\n..dot\r\n=C3=A4\r\n.\r\n")
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in body
    assert "BODY=" not in peer.lines[0].commands[1].decode()


scenario(
    "an email object",
    lambda line: line.serve(),
    act=send_email,
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
          c@there.example delivered: 250 accepted 1
          d@there.example delivered: 250 accepted 1
        end quit clean
    """,
    check=check_email,
)
scenario(
    "a message with octets above 127 for a peer that cannot",
    lambda line: line.serve(extensions=()),
    act=send_email,
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
          c@there.example delivered: 250 accepted 1
          d@there.example delivered: 250 accepted 1
        end quit clean
    """,
    check=check_converted_email,
)
scenario(
    "a message with octets above 127 for a peer that cannot, and they must stay",
    lambda line: line.serve(extensions=()),
    act=send_email,
    options={"eight_bit": Conversion.REFUSE},
    story="""
        open
        DeliveryFailed: b@there.example never: the message has octets above 127 and the peer does not offer 8BITMIME; \
c@there.example never: the message has octets above 127 and the peer does not offer 8BITMIME; \
d@there.example never: the message has octets above 127 and the peer does not offer 8BITMIME
    """,
)

# --- bodies that break ---------------------------------------------------------------------------------------------


class Breaks:
    """An iterable that gives some octets and then raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Any:
        yield b"The beginning.\r\n" * 10_000
        raise self._error


def no_final_dot(peer: Peer) -> None:
    assert not peer.lines[0].bodies
    assert b"\r\n.\r\n" not in peer.lines[0].heard
    assert b"QUIT" not in peer.lines[0].heard


def broken(words: str) -> str:
    return BROKEN_OFF.format(
        f"the body could not be read: {words}",
        "body SessionAborted",
        f"the body could not be read: {words}",
    )


class Vanishes(io.RawIOBase):
    """A file that breaks in the middle."""

    def __init__(self) -> None:
        self._left = 3

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._left -= 1
        if not self._left:
            raise OSError(5, "Input/output error")
        return b"x" * size


for _name, _make, _words in (
    ("an iterable that raises", lambda: Breaks(ValueError("no more")), "no more"),
    ("a file that breaks", Vanishes, "[Errno 5] Input/output error"),
    ("pieces of text", lambda: iter(["Hello."]), "'Hello.': the pieces of a message must be bytes"),
    ("pieces that are numbers", lambda: iter([5, 6]), "5: the pieces of a message must be bytes"),
):
    scenario(
        f"{_name} instead of a message",
        lambda line: line.serve(),
        act=sends(_make),
        story=broken(_words),
        check=no_final_dot,
    )
scenario(
    "a bare line feed that is to be refused",
    lambda line: line.serve(),
    act=sends(lambda: b"one\r\ntwo\nthree\r\n"),
    options={"line_ends": LineEnds.REFUSE},
    story=broken("b'\\nthree\\r\\n': a bare CR or LF in the body (LineEnds.REFUSE)"),
    check=no_final_dot,
)


def a_file_on_the_disk() -> Any:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # it outlives this function
    file.write(b"Hello.\r\nlast")
    file.seek(0)
    return file


for _name, _make, _tail in (
    ("in memory", lambda: b"Hello.", "b'o.'"),
    ("in pieces", lambda: iter([b"Hello.\r\n", b"\n"]), "b'\\n\\n'"),
    ("in a file in memory", lambda: io.BytesIO(b"Hello.\r"), "b'.\\r'"),
    ("in a file that the system could send", a_file_on_the_disk, "b'st'"),
):
    scenario(
        f"octets that are declared canonical and do not end so, {_name}",
        lambda line: line.serve(),
        act=sends(_make, body=BodyFacts(canonical=True, eight_bit=False)),
        story=broken(f"{_tail}: a body that is declared canonical ends with CRLF"),
        check=no_final_dot,
    )


async def unsendable_then_good(stage: Stage, message: Any, **envelope: Any) -> None:
    session = await stage.open()
    try:
        await call(session.send, message, **({"sender": "a@here.example", "recipients": "b@there.example"} | envelope))
    except LocalProtocolError as error:
        stage.note(f"{type(error).__name__}: {error}")
    await stage.deliver(session)
    await stage.quit(session)


async def unsendable_before_connecting(stage: Stage) -> None:
    """Nobody is connected to: the port is that of another peer, who would be missed by the play."""
    nobody = {"host": "127.0.0.1", "port": 1, "sender": "a@here.example", "recipients": "b@there.example"}
    messages: list[Any] = [Path("/nowhere/at/all"), Path("/"), ["Hello."], {}, 5, "Hello.", io.StringIO("Hello.")]
    for message in messages:
        try:
            await call(stage.driver.module.send, message, **nobody)
        except LocalProtocolError as error:
            stage.note(f"raised {error.rule}")
    await stage.quit(await stage.open())


async def text_file_then_good(stage: Stage) -> None:
    with open(os.devnull, encoding="utf-8") as file:
        await unsendable_then_good(stage, file)


TOO_MANY = [f"r{number}@there.example" for number in range(5)]
NO_MESSAGE = "not a message: give bytes, a pathlib.Path, a binary file, an iterable of bytes, or an email object"
for _name, _message, _envelope, _words in (
    ("a str", "Hello.", {}, "'Hello.': a str may be text or the name of a file; give bytes or a pathlib.Path"),
    ("a file in memory of text", io.StringIO("Hello."), {}, "the file was opened as text; open it in binary mode"),
    ("nothing", None, {}, NO_MESSAGE),
    ("a list of texts", [b"Hello.", "you"], {}, "'you': the pieces of a message must be bytes"),
    ("a tuple of numbers", (5, 6), {}, "5: the pieces of a message must be bytes"),
    ("a dict", {"Subject": "x"}, {}, f"{{'Subject': 'x'}}: {NO_MESSAGE}"),
    (
        "a path that is not there",
        Path("/nowhere/at/all"),
        {},
        "'/nowhere/at/all': the message cannot be read: No such file or directory",
    ),
    (
        "a path that cannot be",
        Path("no\0where"),
        {},
        "'no\\x00where': the message cannot be read: embedded null byte",
    ),
    ("a directory", Path("/"), {}, "'/': a directory is no message"),
    ("a number", 5, {}, f"5: {NO_MESSAGE}"),
    ("no sender", b"Hello.", {"sender": None}, "give the sender: only email.message objects have a header that says"),
    (
        "a bad address among good ones",
        b"Hello.",
        {"recipients": ["b@there.example", "c@there.example>\r\nRCPT TO:<d@there.example"]},
        "'c@there.example>\\r\\nRCPT TO:<d@there.example': control characters (CR, LF, NUL, ...) are not allowed",
    ),
    (
        "a bad sender",
        b"Hello.",
        {"sender": "a@here.example> SIZE=1"},
        "'a@here.example> SIZE=1': 'here.example> SIZE=1' is not a domain or address literal (RFC 5321 §4.1.2)",
    ),
    ("no recipients", b"Hello.", {"recipients": []}, "a mail needs at least one recipient"),
    (
        "too many recipients",
        b"Hello.",
        {"recipients": TOO_MANY},
        "5: a mail has at most 4 recipients (Limits.recipients)",
    ),
    (
        "a path that is too long",
        b"Hello.",
        {"recipients": ["x" * 300 + "@there.example"]},
        f"'{'x' * 300}@there.example': a path has at most 256 octets with its brackets (RFC 5321 §4.5.3.1.3)",
    ),
):
    scenario(
        f"{_name}: refused, and the session goes on",
        lambda line: line.serve(),
        act=lambda stage, message=_message, envelope=_envelope: unsendable_then_good(stage, message, **envelope),
        options={"limits": Limits(recipients=4)},
        story=SENT.replace("open", f"open\n    LocalProtocolError: {_words}"),
    )
scenario(
    "what is no message: refused before anybody is connected to",
    lambda line: line.serve(),
    act=unsendable_before_connecting,
    story=f"""
        raised the message cannot be read: No such file or directory
        raised a directory is no message
        raised the pieces of a message must be bytes
        raised {NO_MESSAGE}
        raised {NO_MESSAGE}
        raised a str may be text or the name of a file; give bytes or a pathlib.Path
        raised the file was opened as text; open it in binary mode
        open
        end quit clean
    """,
)
scenario(
    "a text file: refused, and the session goes on",
    lambda line: line.serve(),
    act=text_file_then_good,
    story=SENT.replace("open", "open\n    LocalProtocolError: the file was opened as text; open it in binary mode"),
)


async def two_transactions(stage: Stage, make: Callable[[], Any], repeatable: bool) -> None:
    from smtpcore import BodyFacts

    session = await stage.open()
    envelope = Envelope("a@here.example", ("b@there.example", "c@there.example"), body=BodyFacts(repeatable=repeatable))
    stage.tell(await call(session.deliver, envelope, make()))
    await stage.quit(session)


def one_recipient_at_a_time(line: Line, *extensions: str) -> None:
    line.serve("RCPT TO:<C", extensions=extensions)
    line.say("452 4.5.3 too many")
    line.serve(greet=False, extensions=extensions)


for _name, _make in (
    ("bytes", lambda: TEXT),
    ("a file", lambda: io.BytesIO(TEXT)),
    ("a list", lambda: [TEXT]),
    ("a path", a_path),
):
    scenario(
        f"recipients that were put off get {_name} again",
        one_recipient_at_a_time,
        act=lambda stage, make=_make: two_transactions(stage, make, True),
        story="""
            open
            sent BODY_ENDED
              b@there.example delivered: 250 accepted 1
              c@there.example delivered: 250 accepted 2
            end quit clean
        """,
        check=bodies(ON_THE_WIRE, ON_THE_WIRE),
    )
for _name, _make in (("a generator", a_generator), ("a pipe", a_pipe)):
    scenario(
        f"{_name} said to be repeatable does not become an empty mail",
        # A body that may have to be converted is read ahead, and can be read again from then on.
        lambda line: one_recipient_at_a_time(line, "8BITMIME"),
        act=lambda stage, make=_make: closing(stage, make),
        story="""
            open
            sent BODY_ENDED
              b@there.example delivered: 250 accepted 1
              c@there.example later: the body could not be read: the message can be read only once, \
and its envelope says that it is repeatable
            end body SessionAborted: the body could not be read: the message can be read only once, \
and its envelope says that it is repeatable
        """,
        check=bodies(ON_THE_WIRE),
    )


async def closing(stage: Stage, make: Callable[[], Any]) -> None:
    message = make()
    try:
        await two_transactions(stage, lambda: message, True)
    finally:
        message.close()


# --- sessions over sockets that are there already ------------------------------------------------------------------


async def over_a_pair(stage: Stage) -> None:
    """The peer's script runs on a Unix socket; the listening peer is not used but to run another session."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_serve_socket, args=(theirs,))
    thread.start()
    session = await call(stage.driver.module.open_session, ours, **stage.options)
    await stage.deliver(session)
    await stage.quit(session)
    thread.join()
    await stage.quit(await stage.open())


def _serve_socket(sock: socket.socket) -> None:
    line = Line(sock)
    line.serve()
    line.until_closed()
    sock.close()


async def over_no_socket(stage: Stage) -> None:
    for given in ("localhost", None, 5):
        try:
            await call(stage.driver.module.open_session, given, **stage.options)
        except LocalProtocolError as error:
            stage.note(f"raised {error}")
    await stage.quit(await stage.open())


scenario(
    "what is no socket",
    lambda line: line.serve(),
    act=over_no_socket,
    story="""
        raised 'localhost': open_session was given no connected socket
        raised open_session was given no connected socket
        raised 5: open_session was given no connected socket
        open
        end quit clean
    """,
)
scenario(
    "a session over a pair of Unix sockets",
    lambda line: line.serve(),
    act=over_a_pair,
    options={"helo_name": "here.example"},
    story="""
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        end quit clean
        open
        end quit clean
    """,
)


async def use_after_end(stage: Stage) -> None:
    session = await stage.open()
    await stage.quit(session)
    await call(session.quit)
    session.close()
    await stage.deliver(session)


scenario(
    "a session that is over",
    lambda line: line.serve(),
    act=use_after_end,
    story="""
        open
        end quit clean
        ConnectionLost: the session has ended
    """,
)


# --- the limits of a peer (RFC 9422) -------------------------------------------------------------------------------


def limited(limits: str) -> Script:
    """A peer that announces limits."""
    return lambda line: line.serve(extensions=(*EXTENSIONS, f"LIMITS {limits}"))


async def deliver_twice(stage: Stage) -> None:
    session = await stage.open()
    facts = {"body": BodyFacts(repeatable=True)}
    await stage.deliver(session, b"Hello.\r\n", "1@x.example", "2@y.example", "3@x.example", **facts)
    await stage.deliver(session, b"Hello.\r\n", "4@x.example", **facts)
    await stage.quit(session)


scenario(
    "more recipients than the peer takes at a time",
    limited("RCPTMAX=2"),
    act=deliver_twice,
    story="""
        open
        sent BODY_ENDED
          1@x.example delivered: 250 accepted 1
          2@y.example delivered: 250 accepted 1
          3@x.example delivered: 250 accepted 2
        sent BODY_ENDED
          4@x.example delivered: 250 accepted 3
        end quit clean
    """,
)
scenario(
    "more domains than the peer takes in a session",
    limited("RCPTDOMAINMAX=1"),
    act=deliver_twice,
    story="""
        open
        sent BODY_ENDED
          1@x.example delivered: 250 accepted 1
          2@y.example later: the peer takes recipients of no more than 1 domains in a session (RCPTDOMAINMAX)
          3@x.example delivered: 250 accepted 1
        sent BODY_ENDED
          4@x.example delivered: 250 accepted 2
        end quit clean
    """,
)
scenario(
    "more mails than the peer takes in a session",
    limited("MAILMAX=1"),
    act=deliver_twice,
    story="""
        open
        sent BODY_ENDED
          1@x.example delivered: 250 accepted 1
          2@y.example delivered: 250 accepted 1
          3@x.example delivered: 250 accepted 1
        LimitReached: the peer takes no more than 1 transactions in a session (MAILMAX)
    """,
    check=lambda peer: b"QUIT" in peer.lines[0].heard or 1 / 0,
)


async def send_many_and_end(stage: Stage) -> None:
    session = await stage.open()
    await stage.send_many(session, numbered(2))
    stage.tell_end(session)


scenario(
    "as many mails one after the other as the peer takes in a session",
    limited("MAILMAX=2"),
    act=send_many_and_end,
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 2
        end limit clean LimitReached: the peer takes no more than 2 transactions in a session (MAILMAX)
    """,
)
scenario(
    "one mail more than the peer takes in a session",
    limited("MAILMAX=1"),
    act=send_many_and_end,
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        refused NOT_STARTED
          b@there.example later: the peer takes no more than 1 transactions in a session (MAILMAX)
        LimitReached: the peer takes no more than 1 transactions in a session (MAILMAX)
    """,
)


# --- speaking for another client ------------------------------------------------------------------------------------

SPIKE = XClient(name="spike.example", address="2001:db8::1", login="anna")
OFFERED = (*EXTENSIONS, "XCLIENT NAME ADDR LOGIN", "XFORWARD NAME IDENT")


def hears_of_another(line: Line) -> None:
    """A peer that judges the session as another client's once it is told so."""
    assert line.serve("XCLIENT", extensions=OFFERED) == b"XCLIENT LOGIN=anna NAME=spike.example ADDR=IPV6:2001:db8::1"
    line.say("220 peer.example welcomes spike.example")
    line.serve(greet=False, extensions=())


async def one_forwarded_mail(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session, options=MailOptions(forwarded=XForward(name="spike.example", ident="4b+1", helo="x")))
    await stage.deliver(session)
    await stage.quit(session)


scenario(
    "a session for another client",
    hears_of_another,
    options={"xclient": SPIKE},
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        end quit clean
    """,
)
scenario(
    "a session for another client, and a peer that knows nothing of it",
    lambda line: line.serve(),
    options={"xclient": SPIKE},
    story="XclientRequired: the peer does not offer XCLIENT with LOGIN NAME ADDR",
    check=lambda peer: b"QUIT" in peer.lines[0].heard or 1 / 0,
)
scenario(
    "a session for another client, and a peer that will not have it",
    lambda line: line.serve(extensions=OFFERED, replies={"XCLIENT": "550 5.7.0 not from you"}),
    options={"xclient": SPIKE},
    story="XclientRequired: the peer refused XCLIENT: 550 5.7.0 not from you",
)
scenario(
    "a mail that was forwarded",
    lambda line: line.serve(extensions=OFFERED),
    act=one_forwarded_mail,
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 2
        end quit clean
    """,
    check=lambda peer: peer.lines[0].heard.count(b"XFORWARD NAME=spike.example IDENT=4b+2B1\r\nMAIL") == 1 or 1 / 0,
)


# --- commands that a caller asks for -------------------------------------------------------------------------------


def commands(*lines: str) -> Act:
    """A caller who asks for commands between two mails, and notes what came of each."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        await stage.deliver(session)
        for line in lines:
            try:
                stage.note(f"{line}: {await call(session.command, line)}")
            except SmtpError as error:
                stage.note(f"{line}: {type(error).__name__}: {error}")
        await stage.deliver(session)
        await stage.quit(session)

    return act


scenario(
    "421 to a command",
    steps(lambda line: line.serve("NOOP"), lambda line: line.say("421 going down"), Line.until_closed),
    act=commands("NOOP", "NOOP"),
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        NOOP: ServiceRefused: the peer refuses service: 421 going down
        NOOP: ServiceRefused: the peer refuses service: 421 going down
        ServiceRefused: the peer refuses service: 421 going down
    """,
)
scenario(
    "a peer that hangs up instead of answering a command",
    steps(lambda line: line.serve("ETRN"), Line.close),
    act=commands("ETRN there.example"),
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        ETRN there.example: ConnectionLost: the peer closed the connection
        ConnectionLost: the peer closed the connection
    """,
)
scenario(
    "silence at a command",
    steps(lambda line: line.serve("X-WAIT"), Line.until_closed),
    act=commands("X-WAIT"),
    options=within(other=0.2),
    story="""
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        X-WAIT: PeerTimeout: the peer was silent beyond the deadline for another command
        PeerTimeout: the peer was silent beyond the deadline for another command
    """,
)


async def end_with_an_exception(stage: Stage) -> None:
    session = await stage.open()
    try:
        if stage.driver.name == "blocking":
            with session:
                raise ZeroDivisionError
        else:
            async with session:
                raise ZeroDivisionError
    except ZeroDivisionError:
        stage.tell_end(session)


scenario(
    "a block that raises",
    lambda line: line.serve(),
    act=end_with_an_exception,
    story="""
        open
        end aborted SessionAborted: the application gave the session up
    """,
    check=lambda peer: b"QUIT" not in peer.lines[0].heard or 1 / 0,
)
