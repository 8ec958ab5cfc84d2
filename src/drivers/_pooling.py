"""What both pools make alike: settings out of options, bodies that can be read for each attempt, and refusals.

What lives here: pure helpers. What does not: anything that waits, and any decision about mail.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from email.message import Message
from typing import BinaryIO, Protocol, TypedDict, TypeVar, cast
from weakref import WeakValueDictionary

from smtpcore import (
    AuthDeclined,
    BodyFacts,
    Envelope,
    LocalProtocolError,
    Mail,
    MailRefused,
    Outcome,
    Pipelining,
    Report,
    SessionAborted,
    SmtpError,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.drivers._session.bodies import AsyncSource, Rewindable, make_body
from smtpcore.drivers._session.options import Options, credentials_unavailable
from smtpcore.mime import flatten
from smtpcore.pool import PoolSettings, Retries
from smtpcore.sasl import Circumstances, Mechanism, OAuthBearer, XOAuth2

__all__ = [
    "AskedCredentials",
    "PoolOptions",
    "Readers",
    "asking_credentials",
    "body_facts",
    "checked_window",
    "is_repeatable",
    "make_settings",
    "refused_here",
    "rewindable",
    "session_options",
    "unforeseen",
]

_Source = TypeVar("_Source", bound="AsyncSource")


class PoolOptions(TypedDict, total=False):
    """The settings of a pool as keyword arguments; meanings and defaults are those of :class:`PoolSettings`."""

    sessions: int
    openings: int
    mails_at_once: int
    mails_per_session: int
    session_seconds: float
    idle_seconds: float
    mails_per_second: float
    retries: Retries


def make_settings(options: Options, settings: PoolOptions) -> PoolSettings:
    """The settings of a pool; with credentials one session is opened at a time, so that none is refused twice."""
    unknown = settings.keys() - PoolOptions.__annotations__.keys()
    if unknown:
        raise LocalProtocolError(f"no such setting of a pool: {', '.join(sorted(unknown))}")
    made = PoolSettings(**settings)
    return replace(made, openings=1) if options.get("credentials") else made


def session_options(options: Options, *, ahead: bool) -> Options:
    """The options of a session; one that may not run ahead does not, whatever the options say."""
    if ahead or options.get("pipelining") is not Pipelining.ACROSS:
        return options
    return {**options, "pipelining": Pipelining.WITHIN}


class AskedCredentials:
    """The caller's function that gives credentials, as a pool asks it for each session.

    What it raises comes out as ``CredentialsUnavailable``. Credentials that the peer refused are not said again: when
    the function gives the same ones, the refusal is raised in place of another session.
    """

    def __init__(self, ask: Callable[[str | None], Sequence[Mechanism]]) -> None:
        self._ask = ask
        self._given: list[object] = []
        self._refused: list[tuple[list[object], AuthDeclined]] = []

    def __call__(self, host: str | None) -> Sequence[Mechanism]:
        try:
            begun = [_begun(mechanism) for mechanism in self._ask(host)]
        except Exception as error:
            raise credentials_unavailable(error) from error
        self._given = [content for _, content in begun]
        for given, refusal in self._refused:
            if given == self._given:
                raise refusal
        return [mechanism for mechanism, _ in begun]

    def note_end(self, error: SmtpError | None) -> None:
        """A session ended so; with its credentials refused for good, they are remembered."""
        known = any(refusal is error for _, refusal in self._refused)
        if isinstance(error, AuthDeclined) and not error.retryable and not known:
            self._refused.append((self._given, error))


def _begun(mechanism: Mechanism) -> tuple[Mechanism, object]:
    """A mechanism, and what makes two of them say the same; those with a token say another one when the token is."""
    fresh = copy.copy(mechanism)
    if isinstance(fresh, (OAuthBearer, XOAuth2)):
        begun = _Begun(fresh)
        return begun, (type(fresh), begun.said)
    # The state that a copy would be made from; what has none that can be told is itself and nothing else.
    try:
        made = fresh.__reduce_ex__(4)
    except TypeError:
        return mechanism, mechanism
    return mechanism, made[1:3]


class _Begun(Mechanism):
    """A mechanism whose first exchange has begun already, so that its token need not be asked for twice."""

    __slots__ = ("_mechanism", "_waiting", "name", "said")

    def __init__(self, mechanism: Mechanism) -> None:
        self.name = mechanism.name
        self._mechanism = mechanism
        #: The first initial response.
        self.said = mechanism.start()
        self._waiting = True

    def prepare(self, circumstances: Circumstances) -> bool:
        return self._mechanism.prepare(circumstances)

    def start(self) -> bytes | None:
        if self._waiting:
            self._waiting = False
            return self.said
        return self._mechanism.start()

    def answer(self, challenge: bytes) -> bytes:
        return self._mechanism.answer(challenge)

    def conclude(self, additional: bytes) -> None:
        self._mechanism.conclude(additional)

    def refused(self) -> bool:
        return self._mechanism.refused()

    def explanation(self) -> Mapping[str, str]:
        return self._mechanism.explanation()


def asking_credentials(options: Options) -> tuple[Options, AskedCredentials | None]:
    """The options with a function for credentials, if it is one, in a pool's care."""
    credentials = options.get("credentials")
    if not callable(credentials):
        return options, None
    asked = AskedCredentials(credentials)
    return {**options, "credentials": asked}, asked


def unforeseen(log: logging.Logger, session_id: int, failure: Exception) -> SessionAborted:
    """Write down an error that is a mistake of somebody's, with its trace, and make what ends the session of it.

    Reports are shown to many: what foreign code raised is named in them, and not quoted.
    """
    log.error("session %d failed in an unforeseen way", session_id, exc_info=failure)
    error = SessionAborted(f"unforeseen: {type(failure).__name__}")
    error.__cause__ = failure
    return error


def checked_window(window: int | None, settings: PoolSettings) -> int:
    """How many mails of one input may be on their way."""
    if window is None:
        return max(100, 2 * settings.sessions * settings.mails_at_once)
    if window < 1:
        raise LocalProtocolError("the window must be at least 1", window)
    return window


def rewindable(message: _Source, piece: int) -> _Source:
    """The message in a form that gives the same octets at each attempt, if it has one; files from where they stand."""
    if isinstance(message, Message):
        return cast("_Source", flatten(message))  # pyright: ignore[reportUnknownArgumentType]  # of whatever parameters its type has
    if isinstance(message, (bytearray, memoryview)):
        return cast("_Source", bytes(message))  # pyright: ignore[reportUnknownArgumentType]  # of whatever parameters its type has
    if hasattr(message, "read") and not isinstance(message, io.TextIOBase):
        file = cast("BinaryIO", message)
        if file.seekable():
            return cast("_Source", _FileFromHere(file, piece))
    return message


class _FileFromHere(Rewindable):
    """The pieces of a seekable file from where it stands now, as often as they are asked for."""

    def __init__(self, file: BinaryIO, piece: int) -> None:
        self.file = file
        self._piece = piece
        self._start = file.tell()

    def __iter__(self) -> Iterator[bytes]:
        self.file.seek(self._start)
        while piece := self.file.read(self._piece):
            yield piece


def body_facts(message: AsyncSource, piece: int) -> BodyFacts:
    """What is known of the body of a message, as an envelope declares it; octets in memory are counted for it.

    Raises ``LocalProtocolError`` for what is no message.
    """
    if isinstance(message, AsyncIterable):
        return BodyFacts(repeatable=not isinstance(message, AsyncIterator))
    return make_body(message, piece).facts


def is_repeatable(message: AsyncSource, piece: int) -> bool:
    """Whether a message can be read for each attempt; raises as :func:`body_facts`, and counts nothing."""
    if isinstance(message, AsyncIterable):
        return not isinstance(message, AsyncIterator)
    body = make_body(message, piece)
    return body.in_memory or body.facts.repeatable


class PooledMessage(Protocol):
    """A mail in a pool, for as long as its message may be read."""

    @property
    def over(self) -> bool:
        """Whether its message will not be read again."""
        ...


class Readers:
    """Which mail is being read out of which file or iterator: each has one position, and so one reader at a time."""

    def __init__(self) -> None:
        self._mails: WeakValueDictionary[int, PooledMessage] = WeakValueDictionary()

    def enter(self, message: AsyncSource, mail: PooledMessage) -> None:
        """Note that ``mail``, which holds ``message``, reads it; raises ``LocalProtocolError`` if another mail does."""
        source = message.file if isinstance(message, _FileFromHere) else message
        if not (hasattr(source, "read") or isinstance(source, (Iterator, AsyncIterator))):
            return
        other = self._mails.get(id(source))
        if other is not None and not other.over:
            raise LocalProtocolError(
                "another mail is read out of the same file or iterator; open the file once for each, or give bytes",
                source,
            )
        self._mails[id(source)] = mail


def refused_here(envelope: Envelope, error: LocalProtocolError) -> Report:
    """The report of a mail that may not go out: nothing reached the wire."""
    outcomes = tuple(Outcome(recipient, Verdict.NEVER, None, error) for recipient in envelope.recipients)
    return MailRefused(Mail(envelope), outcomes, Stage.NOT_STARTED, Transcript())
