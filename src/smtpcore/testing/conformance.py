"""The suite that a driver passes: named cases, each a peer that does something and the story that must come of it.

What lives here: what the suite asks of a driver (:class:`Adapter`), the cases (:data:`CASES`), and the stage on which
they are played, against a scripted peer on a real socket of this machine. What does not: anything peculiar to one
driver, its ways of naming hosts or reading messages among them.

With pytest, and likewise with any other runner::

    ADAPTER = Adapter(connect)


    @pytest.mark.parametrize("case", cases_for(ADAPTER), ids=str)
    def test_conformance(case):
        case(ADAPTER)

A story is a list of lines that the caller's side writes down while it plays: reports, errors, how the session ended.
The words of errors are part of it where they are the core's; what a broken connection or a TLS library says is not.
A driver that waits where it should not is left by its peer after some seconds, and so fails instead of hanging.
"""

from __future__ import annotations

import enum
import inspect
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from smtpcore import (
    ConnectionLost,
    Deadlines,
    Disconnect,
    Envelope,
    Limits,
    MailSent,
    Report,
    SmtpError,
    TlsFailed,
    TlsPolicy,
)
from smtpcore.testing.certificates import server_context, trusting_context
from smtpcore.testing.peer import EXTENSIONS, PATIENCE, Line, Peer, Script

__all__ = ["CASES", "Adapter", "Case", "Need", "Nonconformant", "Session", "Stage", "cases_for", "run_blocking"]

# --- what is asked of a driver -------------------------------------------------------------------------------------


class Session(Protocol):
    """What the suite asks of a session; in a driver for an async loop ``deliver`` and ``quit`` give awaitables."""

    @property
    def end(self) -> Disconnect | None:
        """Why and how the session ended; ``None`` while it is open."""

    @property
    def last_report(self) -> Report | None:
        """The answer to the latest mail, also when the call that sent it was interrupted."""

    def deliver(self, envelope: Envelope, message: Any, /) -> Any:
        """Send one mail and return its :class:`~smtpcore.Report`; ``message`` is bytes, or an iterable of bytes."""

    def quit(self) -> Any:
        """End the session with QUIT and close the connection."""

    def close(self) -> None:
        """Close the connection at once, without QUIT."""


def run_blocking(play: Coroutine[Any, Any, None]) -> None:
    """Run a play with a driver that awaits nothing."""
    try:
        play.send(None)
    except StopIteration:
        return
    play.close()
    raise TypeError("the driver awaited something: give the adapter a function that runs coroutines")


def _wait_blocking(event: threading.Event) -> bool:
    return event.wait(PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A driver, as the suite sees it.

    ``connect(host, port, *, limits)`` opens a session, or gives an awaitable of one; where ``tls``, it is also called
    with ``tls`` (a :class:`~smtpcore.TlsPolicy`) and ``tls_context``. It raises the ``SessionError`` that kept the
    session from opening.
    """

    connect: Callable[..., Any]
    #: Runs a coroutine to its end in the driver's loop.
    run: Callable[[Coroutine[Any, Any, None]], object] = run_blocking
    #: Runs a coroutine in the driver's loop, and cancels it, as the loop cancels what it runs, once the event is set by
    #: another thread; ends when the coroutine has ended, and swallows the cancellation.
    run_cancelled: Callable[[Coroutine[Any, Any, None], threading.Event], object] | None = None
    #: Waits some seconds for an event that another thread sets, without blocking the loop, and says whether it was.
    wait: Callable[[threading.Event], Any] = _wait_blocking
    #: Whether the driver speaks TLS.
    tls: bool = True
    #: Whether it takes a ``pathlib.Path`` for a message, as one that uses ``sendfile`` does.
    files: bool = False

    def has(self, need: Need) -> bool:
        """Whether the driver can do what a case needs."""
        can = {
            Need.TLS: self.tls,
            Need.FILES: self.files,
            Need.CANCELLATION: self.run_cancelled is not None,
        }
        return can[need]


class Need(enum.Enum):
    """What a case needs beyond what every driver can do."""

    TLS = "tls"
    FILES = "files"
    CANCELLATION = "cancellation"


class Nonconformant(AssertionError):
    """The driver did not do what the case asks for; the message says what it did."""


# --- the stage -----------------------------------------------------------------------------------------------------


async def _call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of a driver, and await what it gives if the driver is an async one."""
    result = function(*args, **options)
    return await result if inspect.isawaitable(result) else result


class Stage:
    """What a caller has to play with: a driver, the peer, the options, and the story to write."""

    def __init__(self, adapter: Adapter, peer: Peer, host: str, options: Mapping[str, Any]) -> None:
        self.adapter = adapter
        self.peer = peer
        self.story: list[str] = []
        self._host = host
        self._options = options
        self._sessions: list[Any] = []

    def note(self, line: str) -> None:
        """Write a line of the story."""
        self.story.append(line)

    async def open(self) -> Any:
        """Connect to the peer."""
        session = await _call(self.adapter.connect, self._host, self.peer.port, **self._options)
        self._sessions.append(session)
        self.note("open")
        return session

    def close(self) -> None:
        """Close what is still open; a session that came to its end must have closed by itself."""
        for session in self._sessions:
            if session.end is None:
                session.close()

    async def deliver(self, session: Any, message: Any = b"Hello.\r\n") -> None:
        """Send a mail and tell its report, which must be the one on this mail."""
        envelope = Envelope("a@here.example", ("b@there.example",))
        report = await _call(session.deliver, envelope, message)
        if report.mail.envelope is not envelope:
            self.note("the report is on another mail")
        self.tell(report)

    def tell(self, report: Report) -> None:
        """Write down a report."""
        kind = "sent" if isinstance(report, MailSent) else "refused"
        self.note(f"{kind} {report.stage.name}")
        for outcome in report.outcomes:
            said = _named(outcome.error) if outcome.reply is None else str(outcome.reply)
            doubt = " (in doubt)" if outcome.in_doubt else ""
            self.note(f"  {outcome.recipient} {outcome.verdict.value}{doubt}: {said}")

    async def quit(self, session: Any) -> None:
        """End a session, and tell how it ended."""
        await _call(session.quit)
        self.tell_end(session)

    def tell_end(self, session: Any) -> None:
        """Write down how a session ended."""
        end = session.end
        if end is None:
            self.note("still open")
            return
        error = "" if end.error is None else f" {_named(end.error)}"
        self.note(f"end {end.reason.value}{' clean' if end.clean else ''}{error}")


def _named(error: BaseException | None) -> str:
    """An error for the story: with its words, unless they are another's."""
    name = type(error).__name__
    return name if isinstance(error, (ConnectionLost, TlsFailed)) else f"{name}: {error}"


#: What the caller does.
Act: TypeAlias = Callable[[Stage], Coroutine[Any, Any, None]]


def _nothing_more(_: Peer) -> None:
    """The story says it all."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that a driver must do right. Call it with an :class:`Adapter`; it raises :class:`Nonconformant`."""

    name: str
    script: Script
    act: Act
    story: tuple[str, ...]
    #: Seconds; all that are not named are far away.
    deadlines: Mapping[str, float] = field(default_factory=dict[str, float])
    tls: TlsPolicy | None = None
    host: str = "127.0.0.1"
    #: What the driver must be able to do, or the case is not for it.
    needs: tuple[Need, ...] = ()
    #: Looks at what the peer heard; what it asserts is part of the case.
    check: Callable[[Peer], object] = _nothing_more

    def __str__(self) -> str:
        return self.name

    def __call__(self, adapter: Adapter) -> None:
        """Play the case with a driver. Raises :class:`Nonconformant`."""
        story: list[str] = []
        try:
            with Peer(self.script) as peer:
                stage = Stage(adapter, peer, self.host, self._options())
                story = stage.story
                if Need.CANCELLATION in self.needs and adapter.run_cancelled is not None:
                    adapter.run_cancelled(self._play(stage), peer.done)
                else:
                    adapter.run(self._play(stage))
            self.check(peer)
        except Exception as error:
            raise Nonconformant(self._complaint(story, f"{type(error).__name__}: {error}")) from error
        if story != list(self.story):
            raise Nonconformant(self._complaint(story, "the story is another one"))

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"limits": Limits(deadlines=Deadlines(**{**_FAR_AWAY, **self.deadlines}))}
        if self.tls is not None:
            options |= {"tls": self.tls, "tls_context": trusting_context()}
        return options

    async def _play(self, stage: Stage) -> None:
        try:
            await self.act(stage)
        except SmtpError as error:
            stage.note(_named(error))
        finally:
            stage.close()

    def _complaint(self, story: Iterable[str], problem: str) -> str:
        lines = [f"{self.name}: {problem}", "expected:", *(f"    {line}" for line in self.story)]
        return "\n".join([*lines, "got:", *(f"    {line}" for line in story)])


_cases: list[Case] = []


def _case(name: str, script: Script, act: Act, story: str, **rest: Any) -> None:
    """Add a case; ``story`` is its lines as one text."""
    lines = tuple(line for line in inspect.cleandoc(story).splitlines() if line)
    _cases.append(Case(name=name, script=script, act=act, story=lines, **rest))


#: A deadline that is meant to pass, and all others: later than the peers' patience, and not for ever.
_SOON: Final = 0.1
_FAR_AWAY: Final[Mapping[str, float]] = {row.name: 4 * PATIENCE for row in fields(Deadlines)}


def _steps(*steps: Script) -> Script:
    """A script of steps, one after the other."""

    def script(line: Line) -> None:
        for step in steps:
            step(line)

    return script


def _says(*lines: str) -> Script:
    return lambda line: line.say(*lines)


def _raw(octets: bytes) -> Script:
    return lambda line: line.raw(octets)


def _serves(until: str | None = None, *, greet: bool = True, extensions: Iterable[str] = EXTENSIONS) -> Script:
    return lambda line: line.serve(until, greet=greet, extensions=extensions)


# --- what goes well ------------------------------------------------------------------------------------------------

_SENT: Final = """
    open
    sent BODY_ENDED
      b@there.example delivered: 250 accepted 1
    end quit clean
"""
#: 8 MiB, more than any buffer between the two.
_LARGE: Final = b"0123456789abcdef" * 64 * 1024 * 8 + b"\r\n"
_IN_PIECES: Final = tuple(_LARGE[start : start + 50_000] for start in range(0, len(_LARGE), 50_000))


def _bodies(*expected: bytes) -> Callable[[Peer], None]:
    """The peer read these messages, as they stand on the wire, without their final dots."""

    def check(peer: Peer) -> None:
        bodies = [body for line in peer.lines for body in line.bodies]
        # Not compared in the assertion itself: nobody wants to see megabytes in a message.
        same = bodies == [body + b".\r\n" for body in expected]
        assert same, f"the peer read other octets: {[len(body) for body in bodies]} of them"

    return check


def _sends(*messages: Any) -> Act:
    """A caller who sends messages, one after the other."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        for message in messages:
            await stage.deliver(session, message)
        await stage.quit(session)

    return act


def _taken(count: int) -> str:
    told = (f"sent BODY_ENDED\n  b@there.example delivered: 250 accepted {n}\n" for n in range(1, count + 1))
    return f"open\n{''.join(told)}end quit clean"


_one_mail: Final = _sends(b"Hello.\r\n")


def _octet_by_octet(line: Line) -> None:
    """Say everything in segments of one octet."""
    whole = line.raw

    def raw(octets: bytes) -> None:
        for octet in octets:
            whole(bytes([octet]))

    line.raw = raw  # type: ignore[method-assign]
    line.serve()


async def _a_file(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message"
        path.write_bytes(_LARGE)
        session = await stage.open()
        await stage.deliver(session, path)
    await stage.quit(session)


_case("a good mail", Line.serve, _one_mail, _SENT, check=_bodies(b"Hello.\r\n"))
_case("a good mail without PIPELINING", _serves(extensions=()), _one_mail, _SENT)
_case("a peer that writes octet by octet", _octet_by_octet, _one_mail, _SENT)
_case(
    "many mails in one session",
    Line.serve,
    _sends(*(b".mail %d" % n for n in range(5))),
    _taken(5),
    check=_bodies(*(b"..mail %d\r\n" % n for n in range(5))),
)
_case(
    "a message out of pieces",
    Line.serve,
    _sends([b"Subject: x\r\n\r", b"", b"\n.dot\r", b"\nlast"], [], b""),
    _taken(3),
    check=_bodies(b"Subject: x\r\n\r\n..dot\r\nlast\r\n", b"", b""),
)
_case(
    "large bodies",
    Line.serve,
    _sends(_LARGE, _IN_PIECES),
    _taken(2),
    check=_bodies(_LARGE, _LARGE),
)
_case("a large file", Line.serve, _a_file, _SENT, check=_bodies(_LARGE), needs=(Need.FILES,))
_case("a peer that closes at QUIT", _steps(_serves("QUIT"), Line.close), _one_mail, _SENT)
_case(
    "a peer that is silent at QUIT",
    _steps(_serves("QUIT"), Line.until_closed),
    _one_mail,
    _SENT.replace("end quit clean", "end quit"),
    deadlines={"quit": _SOON},
)

# --- the opening ---------------------------------------------------------------------------------------------------


def _flood(octets: bytes) -> Script:
    def script(line: Line) -> None:
        while True:
            line.raw(octets * 1000)

    return script


for _name, _script, _story in (
    (
        "a greeting that refuses",
        _steps(_says("554 no service"), Line.until_closed),
        "ServiceRefused: the peer refuses service: 554 no service",
    ),
    (
        "a greeting that is garbage",
        _raw(b"SSH-2.0-OpenSSH\r\n"),
        "RemoteProtocolError: not a reply line: b'SSH-2.0-OpenSSH'",
    ),
    (
        "a greeting that never ends",
        _flood(b"220-hello\r\n"),
        "RemoteProtocolError: a reply of more than 512 lines",
    ),
    (
        "a line that never ends",
        _flood(b"220 hello"),
        "RemoteProtocolError: a reply line of more than 4096 octets",
    ),
):
    _case(_name, _script, _one_mail, _story, deadlines={"quit": _SOON})

# --- every stage, and what a peer can do there ---------------------------------------------------------------------

_STAGES: Final = {
    # stage: (which deadline runs there, how messages call it)
    "CONNECT": ("greeting", "connect"),
    "EHLO": ("ehlo", "EHLO"),
    "MAIL": ("mail", "MAIL"),
    "RCPT": ("rcpt", "RCPT"),
    "DATA": ("data_initiation", "DATA"),
    "DOT": ("data_termination", "end of data"),
}


def _up_to(stage: str) -> Script:
    """Serve up to a stage, one command at a time."""

    def step(line: Line) -> None:
        if stage != "CONNECT":
            line.serve(stage, extensions=())

    return step


def _told(stage: str, error: str, reason: str) -> str:
    """The story of a session that fails with ``error`` at ``stage``."""
    if stage in {"CONNECT", "EHLO"}:
        return error
    reached = "BODY_ENDED" if stage == "DOT" else "STARTED"
    doubt = " (in doubt)" if stage == "DOT" and "421" not in error else ""
    said = "421 4.3.2 going down" if "421" in error else error
    return f"open\nrefused {reached}\n  b@there.example later{doubt}: {said}\nend {reason} {error}"


def _drip(octets: bytes) -> Script:
    """Each octet comes well within the deadline, and yet all of them together are too late."""
    return lambda line: line.drip(octets, _SOON / 5)


def _say_421(line: Line) -> None:
    line.say("421 4.3.2 going down")


_REFUSED: Final = "ServiceRefused: the peer refuses service: 421 4.3.2 going down"

for _stage, (_row, _called) in _STAGES.items():
    _late = _told(_stage, f"PeerTimeout: the peer was silent beyond the deadline for {_called}", "timeout")
    for _name, _then, _story, _within in (
        ("silence", Line.until_closed, _late, {_row: _SOON}),
        ("a drip", _drip(b"250-" + b"x" * 200), _late, {_row: _SOON}),
        ("a close", Line.close, _told(_stage, "ConnectionLost", "lost"), {}),
        (
            "a half-close",
            _steps(Line.finish_writing, Line.until_closed),
            _told(_stage, "ConnectionLost", "lost"),
            {},
        ),
        ("421 and a close", _steps(_say_421, Line.close), _told(_stage, _REFUSED, "refused"), {}),
        (
            "garbage",
            _says("2xx what?"),
            _told(_stage, "RemoteProtocolError: not a reply line: b'2xx what?'", "protocol"),
            {},
        ),
    ):
        _case(f"{_name} at {_stage}", _steps(_up_to(_stage), _then), _one_mail, _story, deadlines=_within)
    if _stage != "CONNECT":
        # There a reset may overtake the connection itself.
        _case(
            f"a reset at {_stage}",
            _steps(_up_to(_stage), Line.reset),
            _one_mail,
            _told(_stage, "ConnectionLost", "lost"),
            deadlines={"last_words": _SOON},
        )
        _case(
            f"421 and a reset at {_stage}",
            _steps(_up_to(_stage), _say_421, Line.reset),
            _one_mail,
            _told(_stage, _REFUSED, "refused"),
        )

# --- while the body flows ------------------------------------------------------------------------------------------


def _read_a_little(line: Line) -> None:
    line.octets(10_000)


def _read_slowly(line: Line) -> None:
    line.read_slowly(b"\r\n.\r\n", 0.005)


_begins_to_read: Final = _steps(_serves("BODY"), _read_a_little)


def _broken_off(error: str, reason: str, verdict: str = "later", said: str = "") -> str:
    return f"open\nrefused BODY_BEGUN\n  b@there.example {verdict}: {said or error}\nend {reason} {error}"


def _refused_early(text: str) -> str:
    error = f"ServiceRefused: the peer refused the message before its end: 552 {text}"
    return _broken_off(error, "body", "never", f"552 {text}")


_SILENT: Final = "PeerTimeout: the peer was silent beyond the deadline for end of data"
_WORDY: Final = ("5.3.4 " + "x" * 3990,) * 500

for _how, _message in (("in memory", _LARGE), ("in pieces", _IN_PIECES)):
    for _name, _script, _story, _within in (
        (
            "552 in a body {}, then the peer reads no more",
            _steps(_begins_to_read, _says("552 5.3.4 too big"), Line.stall),
            _refused_early("5.3.4 too big"),
            {},
        ),
        (
            "552 in a body {}, then a reset",
            _steps(_begins_to_read, _says("552 5.3.4 too big"), Line.reset),
            _refused_early("5.3.4 too big"),
            {},
        ),
        (
            # Both sides write, and neither can go on unless ours reads.
            "552 of two megabytes in a body {}, to a driver that must read while it writes",
            _steps(
                _serves("BODY"),
                _says(*(f"552-{text}" for text in _WORDY), "552 5.3.4 too big"),
                Line.stall,
            ),
            _refused_early(" / ".join((*_WORDY, "5.3.4 too big"))),
            {},
        ),
        (
            "421 in a body {}",
            _steps(_begins_to_read, _say_421, Line.close),
            _broken_off(_REFUSED, "refused", said="421 4.3.2 going down"),
            {},
        ),
        (
            "250 in a body {}",
            _steps(_begins_to_read, _says("250 thanks"), Line.stall),
            _broken_off("RemoteProtocolError: 250 is no answer to end of data: 250 thanks", "protocol"),
            {},
        ),
        (
            "a peer that reads no more of a body {}",
            _steps(_begins_to_read, Line.stall),
            _broken_off(_SILENT, "timeout"),
            {"data_block": _SOON},
        ),
        (
            # What drips is a reply in the making; nobody may buy time with it.
            "a peer that reads no more of a body {}, and drips",
            _steps(_begins_to_read, _drip(b"552-" + b"x" * 200)),
            _broken_off(_SILENT, "timeout"),
            {"data_block": _SOON},
        ),
        (
            "a reset in a body {}",
            _steps(_begins_to_read, Line.reset),
            _broken_off("ConnectionLost", "lost"),
            {"last_words": _SOON},
        ),
        (
            # Every block is in time, all of them together are beyond the deadline of one.
            "a slow reader of a body {} is waited for",
            _steps(
                _serves("BODY"),
                _read_slowly,
                _says("250 accepted 1"),
                _serves(greet=False),
            ),
            _SENT,
            {"data_block": 0.3},
        ),
    ):
        _case(_name.format(_how), _script, _sends(_message), _story, deadlines=_within)


def _breaks() -> Iterator[bytes]:
    yield from _IN_PIECES[:4]
    raise LookupError("no more")


async def _out_of_a_source_that_breaks(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session, _breaks())
    stage.tell_end(session)


def _no_final_dot(peer: Peer) -> None:
    heard = peer.lines[0].heard
    assert b"QUIT" not in heard, "QUIT after half a message"
    assert b"\r\n.\r\n" not in heard, "half a message was ended as if it were whole"


_case(
    "a source of a body that breaks",
    Line.serve,
    _out_of_a_source_that_breaks,
    _broken_off(
        "SessionAborted: the body could not be read: no more",
        "body",
        said="BodyError: the body could not be read: no more",
    ),
    check=_no_final_dot,
)


async def _without_end(stage: Stage) -> None:
    """What is read of a source is bounded by what the peer reads."""
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        while read < 1000:
            read += 1
            yield _LARGE[:100_000]

    session = await stage.open()
    await stage.deliver(session, pieces())
    stage.note("read to the end" if read >= 1000 else "read in part")
    stage.tell_end(session)


_case(
    "a body without end to a peer that reads no more",
    _steps(_begins_to_read, Line.stall),
    _without_end,
    _broken_off(_SILENT, "timeout").replace("\nend", "\nread in part\nend"),
    deadlines={"data_block": _SOON},
)

# --- between mails -------------------------------------------------------------------------------------------------


async def _parked(stage: Stage) -> None:
    """Send a second mail once the peer has done something in between."""
    session = await stage.open()
    await stage.deliver(session)
    stage.peer.go.set()
    assert await _call(stage.adapter.wait, stage.peer.done), "the peer did not do its part"
    await stage.deliver(session, b"second")
    await stage.quit(session)


def _done(line: Line) -> None:
    line.done.set()


def _meanwhile(*then: Script) -> Script:
    """Take a mail, and do something when the caller has its report."""

    def step(line: Line) -> None:
        line.serve("DOT")
        line.say("250 accepted 1")
        assert line.go.wait(PATIENCE), "the caller did not get its report"

    return _steps(step, *then, _done)


_STRAY: Final = "RemoteProtocolError: octets that nobody asked for: b'250 what else\\r\\n'"

for _name, _script, _said, _end in (
    ("421", _meanwhile(_say_421), "421 4.3.2 going down", f"refused {_REFUSED}"),
    ("421 and a close", _meanwhile(_say_421, Line.close), "421 4.3.2 going down", f"refused {_REFUSED}"),
    ("421 and a reset", _meanwhile(_say_421, Line.reset), "421 4.3.2 going down", f"refused {_REFUSED}"),
    ("a close", _meanwhile(Line.close), "ConnectionLost", "lost ConnectionLost"),
    ("a reset", _meanwhile(Line.reset), "ConnectionLost", "lost ConnectionLost"),
    ("a stray reply", _meanwhile(_says("250 what else")), _STRAY, f"protocol {_STRAY}"),
):
    _case(
        f"{_name} while idle",
        _script,
        _parked,
        f"""
            open
            sent BODY_ENDED
              b@there.example delivered: 250 accepted 1
            refused NOT_STARTED
              b@there.example later: {_said}
            end {_end}
        """,
    )

# --- cancellation --------------------------------------------------------------------------------------------------


async def _cancelled(stage: Stage) -> None:
    """A caller that is cancelled, and looks at what is left of its session."""
    session = await stage.open()
    try:
        await stage.deliver(session, _IN_PIECES)
    finally:
        if session.last_report is not None:
            stage.tell(session.last_report)
        stage.tell_end(session)


def _now_cancel(line: Line) -> None:
    line.done.set()
    line.until_closed()


def _closed(peer: Peer) -> None:
    assert peer.lines[0].saw_close, "the connection was left open"


_ABORTED: Final = "SessionAborted: the application gave the session up"

for _stage, _story in (
    ("CONNECT", ""),
    ("EHLO", ""),
    ("MAIL", _told("MAIL", _ABORTED, "aborted")),
    ("RCPT", _told("RCPT", _ABORTED, "aborted")),
    ("DATA", _told("DATA", _ABORTED, "aborted")),
    ("DOT", _told("DOT", _ABORTED, "aborted")),
):
    _case(
        f"cancelled at {_stage}",
        _steps(_up_to(_stage), _now_cancel),
        _cancelled,
        _story,
        needs=(Need.CANCELLATION,),
        check=_closed,
    )


def _cancel_unread(line: Line) -> None:
    line.done.set()
    line.stall()


_case(
    "cancelled while writing a body",
    _steps(_begins_to_read, _cancel_unread),
    _cancelled,
    _broken_off(_ABORTED, "aborted"),
    needs=(Need.CANCELLATION,),
)

# --- TLS -----------------------------------------------------------------------------------------------------------

_OFFERS_TLS: Final = (*EXTENSIONS, "STARTTLS")


def _starttls(kind: str = "good", injected: bytes = b"", until: str | None = None) -> Script:
    """Serve with STARTTLS, up to a point."""

    def step(line: Line) -> None:
        line.serve("STARTTLS", extensions=_OFFERS_TLS)
        line.raw(b"220 go on\r\n" + injected)
        if line.tls(server_context(kind)):
            line.serve(until, greet=False)

    return step


def _refuses_tls(line: Line) -> None:
    line.serve(extensions=_OFFERS_TLS, replies={"STARTTLS": "454 not now"})


def _implicit(kind: str = "good") -> Script:
    def step(line: Line) -> None:
        if line.tls(server_context(kind)):
            line.serve()

    return step


def _tls_case(name: str, script: Script, act: Act, story: str, **rest: Any) -> None:
    _case(name, script, act, story, **{"tls": TlsPolicy.REQUIRED, "host": "localhost", "needs": (Need.TLS,), **rest})


_tls_case("STARTTLS", _starttls(), _one_mail, _SENT, check=_bodies(b"Hello.\r\n"))
_tls_case("TLS before the greeting", _implicit(), _one_mail, _SENT, tls=TlsPolicy.IMPLICIT)
_tls_case("large bodies within TLS", _starttls(), _sends(_LARGE, _IN_PIECES), _taken(2), check=_bodies(_LARGE, _LARGE))
_tls_case("a large file within TLS", _starttls(), _a_file, _SENT, check=_bodies(_LARGE), needs=(Need.FILES, Need.TLS))
for _kind in ("unknown issuer", "wrong host", "expired"):
    _tls_case(f"STARTTLS, {_kind}", _starttls(_kind), _one_mail, "TlsFailed")
    _tls_case(f"TLS before the greeting, {_kind}", _implicit(_kind), _one_mail, "TlsFailed", tls=TlsPolicy.IMPLICIT)
_tls_case(
    "STARTTLS refused",
    _refuses_tls,
    _one_mail,
    "TlsRequired: TLS is required, and the peer refused STARTTLS: 454 not now",
)
_tls_case(
    "STARTTLS not offered",
    Line.serve,
    _one_mail,
    "TlsRequired: TLS is required, and the peer does not offer STARTTLS",
)
_tls_case(
    "plaintext behind the 220 of STARTTLS",
    _starttls(injected=b"250-peer.example\r\n250 AUTH PLAIN\r\n"),
    _one_mail,
    "RemoteProtocolError: octets in clear behind the reply to STARTTLS (RFC 3207 §4.2)",
)
_tls_case(
    "552 in a body within TLS, then the peer reads no more",
    _steps(_starttls(until="BODY"), _read_a_little, _says("552 5.3.4 too big"), Line.stall),
    _sends(_LARGE),
    _refused_early("5.3.4 too big"),
)
for _how, _message in (("in memory", _LARGE), ("in pieces", _IN_PIECES)):
    _tls_case(
        f"a peer that reads no more of a body {_how} within TLS",
        _steps(_starttls(until="BODY"), _read_a_little, Line.stall),
        _sends(_message),
        _broken_off(_SILENT, "timeout"),
        deadlines={"data_block": _SOON},
    )
    _tls_case(
        f"a reset in a body {_how} within TLS",
        _steps(_starttls(until="BODY"), _read_a_little, Line.reset),
        _sends(_message),
        _broken_off("ConnectionLost", "lost"),
        deadlines={"last_words": _SOON},
    )


def _no_handshake(line: Line) -> None:
    line.serve("STARTTLS", extensions=_OFFERS_TLS)
    line.say("220 go on")
    line.octets(1)


for _name, _then, _within in (
    ("garbage", _raw(b"what is this?\r\n"), {}),
    ("silence", Line.until_closed, {"starttls": _SOON}),
    # The beginning of a TLS record that never ends.
    ("a drip", _drip(b"\x16\x03\x03\x40\x00" + bytes(200)), {"starttls": _SOON}),
    ("a close", Line.close, {}),
    ("a reset", Line.reset, {}),
):
    _tls_case(
        f"{_name} instead of a handshake", _steps(_no_handshake, _then), _one_mail, "TlsFailed", deadlines=_within
    )
_tls_case(
    "TLS before the greeting, at a port in clear",
    _says("220 peer.example ready"),
    _one_mail,
    "TlsFailed",
    tls=TlsPolicy.IMPLICIT,
)
_tls_case(
    "TLS before the greeting, at a port that waits",
    Line.stall,
    _one_mail,
    "TlsFailed",
    tls=TlsPolicy.IMPLICIT,
    deadlines={"starttls": _SOON},
)

# --- the door ------------------------------------------------------------------------------------------------------

#: Every case.
CASES: Final = tuple(_cases)


def cases_for(adapter: Adapter) -> list[Case]:
    """The cases for what the driver can do."""
    return [case for case in CASES if all(adapter.has(need) for need in case.needs)]
