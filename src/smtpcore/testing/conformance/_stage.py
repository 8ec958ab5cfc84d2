"""The stage: what a caller plays with, and how a case is played on it.

What lives here: the stage with its story, the case, and the table that cases stand in. What does not: what any peer or
caller does.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias

from smtpcore import (
    BodyFacts,
    ConnectionLost,
    Deadlines,
    Envelope,
    Limits,
    MailSent,
    Report,
    SmtpError,
    TlsFailed,
    TlsPolicy,
)
from smtpcore.testing.certificates import trusting_context
from smtpcore.testing.conformance._adapter import Adapter, Need, Nonconformant, call
from smtpcore.testing.peer import PATIENCE, Peer, Script

#: A deadline that is meant to pass, and all others: later than the peers' patience, and not for ever.
SOON: Final = 0.1
FAR_AWAY: Final[Mapping[str, float]] = {row.name: 4 * PATIENCE for row in fields(Deadlines)}


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
        session = await call(self.adapter.connect, self._host, self.peer.port, **self._options)
        self._sessions.append(session)
        self.note("open")
        return session

    def close(self) -> None:
        """Close what is still open; a session that came to its end must have closed by itself."""
        for session in self._sessions:
            if session.end is None:
                session.close()

    async def deliver(self, session: Any, message: Any = b"Hello.\r\n", *recipients: str, **facts: Any) -> None:
        """Send a mail and tell its report, which must be the one on this mail; ``facts`` are known of its body."""
        envelope = Envelope("a@here.example", recipients or ("b@there.example",), body=BodyFacts(**facts))
        report = await call(session.deliver, envelope, message)
        if report.mail.envelope is not envelope:
            self.note("the report is on another mail")
        self.tell(report)

    async def send_many(self, session: Any, *messages: bytes) -> None:
        """Send mails that the session asks for one by one, and tell their reports, which must come in their order."""
        mails = [(Envelope("a@here.example", ("b@there.example",)), message) for message in messages]
        reports = session.send_many(mails)
        told = 0
        async for report in reports if hasattr(reports, "__aiter__") else _each(reports):
            if report.mail.envelope is not mails[told][0]:
                self.note("the report is on another mail")
            self.tell(report)
            told += 1

    def tell(self, report: Report, *, how_far: bool = True) -> None:
        """Write down a report; ``how_far`` says whether all drivers get as far with the mail."""
        kind = "sent" if isinstance(report, MailSent) else "refused"
        self.note(f"{kind} {report.stage.name}" if how_far else kind)
        for outcome in report.outcomes:
            said = named(outcome.error) if outcome.reply is None else str(outcome.reply)
            doubt = " (in doubt)" if outcome.in_doubt else ""
            self.note(f"  {outcome.recipient} {outcome.verdict.value}{doubt}: {said}")

    async def quit(self, session: Any) -> None:
        """End a session, and tell how it ended."""
        await call(session.quit)
        self.tell_end(session)

    def tell_end(self, session: Any) -> None:
        """Write down how a session ended."""
        end = session.end
        if end is None:
            self.note("still open")
            return
        error = "" if end.error is None else f" {named(end.error)}"
        self.note(f"end {end.reason.value}{' clean' if end.clean else ''}{error}")


async def _each(reports: Iterable[Report]) -> AsyncIterator[Report]:
    for report in reports:
        yield report


def named(error: BaseException | None) -> str:
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
    #: What else ``connect`` is called with.
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
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
        options: dict[str, Any] = {"limits": Limits(deadlines=Deadlines(**{**FAR_AWAY, **self.deadlines}))}
        if self.tls is not None:
            options |= {"tls": self.tls, "tls_context": trusting_context()}
        return {**options, **self.options}

    async def _play(self, stage: Stage) -> None:
        try:
            await self.act(stage)
        except SmtpError as error:
            stage.note(named(error))
        finally:
            stage.close()

    def _complaint(self, story: Iterable[str], problem: str) -> str:
        lines = [f"{self.name}: {problem}", "expected:", *(f"    {line}" for line in self.story)]
        return "\n".join([*lines, "got:", *(f"    {line}" for line in story)])


class Cases(list[Case]):
    """Cases of one kind."""

    def add(self, name: str, script: Script, act: Act, story: str, **rest: Any) -> None:
        """Add a case; ``story`` is its lines as one text."""
        lines = tuple(line for line in inspect.cleandoc(story).splitlines() if line)
        self.append(Case(name=name, script=script, act=act, story=lines, **rest))
