"""What crosses the borders of the machines: commands and replies, envelopes, orders, outcomes, reports.

What lives here: frozen values without behaviour beyond showing themselves. What does not: any rule about their order.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from smtpcore._errors import ExtensionRequired, LocalProtocolError, SessionError, SmtpError
from smtpcore._grammar import check_forward_path, check_reverse_path, enhanced_status, printable
from smtpcore._kinds import check_kind
from smtpcore._limits import Limits
from smtpcore._options import NO_OPTIONS, MailOptions, RecipientOptions
from smtpcore._values import value

__all__ = [
    "BeginTls",
    "BodyFacts",
    "BodyForm",
    "Command",
    "CommandAnswered",
    "Disconnect",
    "DisconnectReason",
    "Envelope",
    "Event",
    "FileRange",
    "Idle",
    "Mail",
    "MailRefused",
    "MailSent",
    "NeedBody",
    "NeedConversion",
    "NeedFacts",
    "NeedMail",
    "Outcome",
    "Reply",
    "Report",
    "SendBody",
    "SendFile",
    "SendLine",
    "Stage",
    "Timeout",
    "TlsInfo",
    "Transcript",
    "Verb",
    "Verdict",
]

MASKED: Final = b"********"
_SHORTEST_SECRET: Final = 4
#: What may be shown of a secret line. An answer to a challenge has no spaces, and so no keyword.
_SHOWN: Final = re.compile(rb"AUTH [^ ]*|(?P<private>[A-Z][A-Z0-9-]*)(?= )", re.IGNORECASE)
#: Secrets within a part of credentials: of OAuth, of SCRAM (RFC 5802 §7), of CRAM-MD5 (RFC 2195).
_SECRET_IN_PART: Final = re.compile(rb"^auth=Bearer (.+)|(?:^|,)[rp]=([^,]+)|^.+ ([0-9a-f]{32})$", re.DOTALL)


class Verb(enum.Enum):
    """What a reply can answer: the commands of SMTP, and three things that are answered though they are no commands."""

    #: The connection itself, answered by the greeting.
    CONNECT = "connect"
    EHLO = "EHLO"
    HELO = "HELO"
    #: The greeting of LMTP (RFC 2033 §4.1).
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    #: One answer within an authentication exchange (RFC 4954 §4).
    AUTH_ANSWER = "AUTH answer"
    #: For which client the session is held; answered by another greeting.
    XCLIENT = "XCLIENT"
    #: Which client the next mail came from.
    XFORWARD = "XFORWARD"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    #: The line with the single dot.
    END_OF_DATA = "end of data"
    #: A chunk that others follow (RFC 3030 §2).
    BDAT = "BDAT"
    #: The last chunk, whose reply is the verdict on the message.
    BDAT_LAST = "BDAT LAST"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    EXPN = "EXPN"
    HELP = "HELP"
    QUIT = "QUIT"
    #: Whatever else the application asks for, such as ETRN or a private extension.
    OTHER = "another command"

    # Members are compared by identity; the default hashes a name in Python code, on every look into a table.
    __hash__ = object.__hash__


@value
class Command:
    """One command: its verb, and its line without CRLF. ``secret`` marks a line that holds credentials."""

    verb: Verb
    line: bytes
    secret: bool = False

    def __repr__(self) -> str:
        return f"Command({self.verb.name}, {masked(self.line, self.secret)!r})"


def masked(line: bytes, secret: bool) -> bytes:
    """``line`` as it may be shown: of a secret line only the keyword survives, and of AUTH the mechanism."""
    if not secret:
        return line
    shown = _SHOWN.match(line)
    return MASKED if shown is None else shown[0] + b" " + MASKED


def echoes(line: bytes) -> tuple[str, ...]:
    """How a secret line may come back in a peer's words: its credentials as they were said, and what they hold.

    That is the whole of them decoded, and each part that is a password, a token or a proof, decoded or encoded alone.
    Of a private command it is what follows the keyword, as a whole and in its parts. Longest first, for one may be part
    of another. A part that is shorter than a password could ever be is passed over, for it would be found in any
    sentence.
    """
    said = _said_in_secret(line.rstrip(b"\r\n"))
    words = list(said)
    for word in said:
        with contextlib.suppress(binascii.Error):
            held = [part for part in _held(base64.b64decode(word, validate=True)) if len(part) >= _SHORTEST_SECRET]
            words += [*held, *map(base64.b64encode, held)]
    return longest_first(map(_text, words))


def _said_in_secret(line: bytes) -> list[bytes]:
    shown = _SHOWN.match(line)
    if shown is None or not shown["private"]:
        credentials = line.rpartition(b" ")[2]
        return [credentials] if credentials else []
    said = line[shown.end() :].strip(b" ")
    parts = said.split()
    parts += [part.partition(b"=")[2] for part in parts]
    return [*([said] if said else []), *(part for part in parts if len(part) >= _SHORTEST_SECRET)]


def _held(decoded: bytes) -> Iterator[bytes]:
    """What is secret in credentials, as a whole and in parts: PLAIN and OAuth divide them by octets, others otherwise.

    The name of a user is none of it where it can be told from the rest.
    """
    yield decoded
    plain = decoded.count(b"\0") == 2
    for part in [decoded.rpartition(b"\0")[2]] if plain else re.split(rb"[\0\1]", decoded):
        yield part
        for found in _SECRET_IN_PART.finditer(part):
            yield found[found.lastindex or 0]


def longest_first(words: Iterable[str]) -> tuple[str, ...]:
    """The different ones, in an order in which none is masked within another before that one."""
    return tuple(sorted(dict.fromkeys(words), key=len, reverse=True))


def _text(octets: bytes) -> str:
    return printable(octets.decode("utf-8", "backslashreplace"))


@value
class Reply:
    """One reply: its code and the texts of its lines, without codes (RFC 5321 §4.2)."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines joined by newlines."""
        return "\n".join(self.lines)

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463), such as ``5.1.1``, or ``None``."""
        return enhanced_status(self.code, self.lines[0])

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def __str__(self) -> str:
        return f"{self.code} {' / '.join(self.lines)}".rstrip()


def shown_challenge(reply: Reply) -> Reply:
    """A 334 as it may be shown: with what a challenge holds and a listener lacks, passwords could be tried out."""
    return Reply(reply.code, (MASKED.decode("ascii"),)) if any(reply.lines) else reply


@value
class Transcript:
    """The last lines of a dialogue, oldest first: ``(True, octets)`` was said, ``(False, reply)`` was heard."""

    entries: tuple[tuple[bool, bytes | Reply], ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """One text per line: ``>>>`` said, ``<<<`` heard."""
        lines: list[str] = []
        for said, what in self.entries:
            if isinstance(what, Reply):
                last = len(what.lines) - 1
                lines += [f"<<< {what.code}{' ' if i == last else '-'}{t}" for i, t in enumerate(what.lines)]
            else:
                lines.append(f"{'>>>' if said else '<<<'} {printable(what.decode('utf-8', 'backslashreplace'))}")
        return tuple(lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)


#: SIZE has at most 20 digits (RFC 1870 §3).
_BEYOND_SIZE: Final = 10**20


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyFacts:
    """What is known of a body before it is read; ``None`` means unknown.

    ``size`` is in octets, with CRLF line ends and without dot-stuffing, and has at most 20 digits (RFC 1870 §3);
    ``LocalProtocolError`` is raised for another one. ``eight_bit`` says whether octets above 127 occur. ``repeatable``
    says that the body can be read again from its beginning, as a further transaction for the same mail needs it.
    ``canonical`` declares that every line end is CRLF already, that the last line has one, and that no line begins with
    a dot: such a body passes through untouched. ``binary`` declares that it must pass so though it need not have lines,
    which takes a peer that offers BINARYMIME (RFC 3030 §3). ``utf8_header`` declares that the header holds characters
    beyond ASCII, which takes one that offers SMTPUTF8 (RFC 6531 §3.2). ``utf8_found`` says that somebody found UTF-8 in
    the header, and that no more than that is known: SMTPUTF8 is said where it is offered, and the mail goes as it is
    elsewhere. ``long_lines`` says whether lines of more than 998 octets occur, CRLF not counted (RFC 5321 §4.5.3.1.6).
    """

    size: int | None = None
    eight_bit: bool | None = None
    repeatable: bool = False
    canonical: bool = False
    binary: bool = False
    utf8_header: bool = False
    long_lines: bool | None = None
    utf8_found: bool = False

    def __post_init__(self) -> None:
        if self.size is not None:
            if not isinstance(self.size, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
                raise LocalProtocolError("size must be a whole number or None", self.size)
            if not 0 <= self.size < _BEYOND_SIZE:
                raise LocalProtocolError("a body has 0 octets or more, in 20 digits at most (RFC 1870 §3)", self.size)
        if self.binary:
            object.__setattr__(self, "canonical", True)


_UNKNOWN_BODY: Final = BodyFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyForm:
    """What a message may hold for a peer to take it: octets above 127, and lines of more than 998 octets."""

    eight_bit: bool = False
    long_lines: bool = False


def _no_options() -> dict[str, RecipientOptions]:
    return {}


@dataclass(frozen=True, slots=True)
class Envelope:
    """Where a mail comes from and goes to (RFC 5321 §2.3.1).

    ``reverse_path`` is a mailbox, or empty for the null reverse-path; ``recipients`` are mailboxes, at least one.
    Mailboxes come without angle brackets. ``options`` are asked for the mail, ``recipient_options`` for single
    recipients, by their mailboxes. Raises ``LocalProtocolError`` for whatever may not be sent.
    """

    reverse_path: str
    recipients: tuple[str, ...]
    body: BodyFacts = field(default=_UNKNOWN_BODY, kw_only=True)
    options: MailOptions = field(default=NO_OPTIONS, kw_only=True)
    recipient_options: Mapping[str, RecipientOptions] = field(default_factory=_no_options, kw_only=True, hash=False)
    #: Whether it asks for more than any server can do: by options, by addresses beyond ASCII, or by its body.
    extended: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.recipients, (str, bytes)):  # type: ignore[unreachable]  # callers without a type checker
            raise LocalProtocolError("recipients must be a sequence of mailboxes, not one", self.recipients)
        if not isinstance(self.recipients, (tuple, list, Iterable)):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise LocalProtocolError("recipients must be a sequence of mailboxes, each a str", self.recipients)
        object.__setattr__(self, "recipients", tuple(self.recipients))
        if not self.recipients:
            raise LocalProtocolError("a mail needs at least one recipient")
        check_reverse_path(self.reverse_path)
        ascii_only = self.reverse_path.isascii()
        for recipient in self.recipients:
            check_forward_path(recipient)
            ascii_only = ascii_only and recipient.isascii()
        if self.options is not NO_OPTIONS:
            check_kind("options", self.options, MailOptions)
        if self.recipient_options:
            self._check_recipient_options()
        body = self.body
        plain = ascii_only and not self.recipient_options and (self.options is NO_OPTIONS or self.options == NO_OPTIONS)
        object.__setattr__(self, "extended", not plain or body.binary or body.utf8_header or body.utf8_found)

    def _check_recipient_options(self) -> None:
        check_kind("recipient_options", self.recipient_options, Mapping)
        for options in self.recipient_options.values():
            check_kind("each of recipient_options", options, RecipientOptions)
        object.__setattr__(self, "recipient_options", dict(self.recipient_options))
        for recipient in self.recipient_options.keys() - set(self.recipients):
            raise LocalProtocolError("options for somebody who is no recipient of this mail", recipient)

    def check_limits(self, limits: Limits) -> None:
        """Raise ``LocalProtocolError`` if there are too many recipients or a path is too long (RFC 5321 §4.5.3.1)."""
        if len(self.recipients) > limits.recipients:
            raise LocalProtocolError(
                f"a mail has at most {limits.recipients} recipients (Limits.recipients)", len(self.recipients)
            )
        for path in (self.reverse_path, *self.recipients):
            if len(path.encode("utf-8") if self.extended else path) + 2 > limits.path:
                raise LocalProtocolError(
                    f"a path has at most {limits.path} octets with its brackets (RFC 5321 §4.5.3.1.3)", path
                )


@dataclass(frozen=True, slots=True, eq=False)
class Mail:
    """The handle of one ``send``: :class:`NeedBody` and the reports carry it. Compared by identity."""

    envelope: Envelope


class Verdict(enum.Enum):
    """What became of one recipient."""

    DELIVERED = "delivered"
    #: Not now: worth another attempt.
    LATER = "later"
    #: Refused for good.
    NEVER = "never"


class Stage(enum.IntEnum):
    """How far a mail got on the wire."""

    #: Not even MAIL was said: no attempt was spent.
    NOT_STARTED = 0
    #: MAIL was said, or an attempt was spent on a body that could not be read.
    STARTED = 1
    BODY_BEGUN = 2
    #: The end of data, or the last chunk, was said.
    BODY_ENDED = 3


@value
class Outcome:
    """The answer for one recipient.

    ``reply`` is the reply that decided; ``error`` says why there was none. Of a reply for this recipient alone the
    first 16 lines are kept, with ``...`` behind them, for a mail may have thousands of recipients. ``in_doubt`` stands
    beside ``LATER`` when the connection ended between the end of data and its reply: the peer may have the mail
    (RFC 1047).
    """

    recipient: str
    verdict: Verdict
    reply: Reply | None = None
    error: SmtpError | None = None
    in_doubt: bool = False

    @property
    def code(self) -> int | None:
        return None if self.reply is None else self.reply.code

    @property
    def enhanced(self) -> str | None:
        if self.reply is not None:
            return self.reply.enhanced
        return self.error.enhanced if isinstance(self.error, ExtensionRequired) else None

    @property
    def text(self) -> str:
        """The peer's own words, or what kept it from speaking."""
        return self.reply.text if self.reply is not None else str(self.error or "")

    def __str__(self) -> str:
        doubt = " (in doubt)" if self.in_doubt else ""
        said = self.reply if self.reply is not None else self.error
        return f"{self.recipient} {self.verdict.value}{doubt}: {said}"


# --- Orders: what the driver is to do -------------------------------------------------------------------------------


@value
class SendLine:
    """Write ``data``, one line with its CRLF, within ``seconds``; ``secret`` marks credentials."""

    data: bytes
    secret: bool
    seconds: float

    @property
    def shown(self) -> str:
        """The line as it may be shown: without CRLF, credentials masked."""
        return masked(self.data.rstrip(b"\r\n"), self.secret).decode("utf-8", "backslashreplace")

    @property
    def echoes(self) -> tuple[str, ...]:
        """What must not be shown of a reply that quotes it: credentials as they were said, and what they hold."""
        return echoes(self.data) if self.secret else ()

    def __repr__(self) -> str:
        return f"SendLine({self.shown!r}, seconds={self.seconds})"


@value
class SendBody:
    """Write ``data``, octets of a body, within ``seconds`` (RFC 5321 §4.5.3.2.5)."""

    data: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class FileRange:
    """Octets of a file that a driver sends as they are, by ``sendfile`` if it can; the machine never sees them.

    ``file`` is whatever the driver takes for a file. ``offset`` counts from the beginning of the file, in octets, and
    ``octets`` is how many they are. It stands for octets only where a body is declared canonical, and where nothing
    encrypts them on their way (``Client.takes_file_ranges``). Raises ``LocalProtocolError`` for negative numbers.
    """

    file: object
    offset: int
    octets: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.octets < 0:
            raise LocalProtocolError("a range of a file begins at 0 or behind it, and has 0 octets or more", self)

    def __len__(self) -> int:
        return self.octets

    def first(self, octets: int) -> FileRange:
        """The first ``octets`` of it, or all if it has no more."""
        return FileRange(self.file, self.offset, min(octets, self.octets))

    def behind(self, octets: int) -> FileRange:
        """What remains behind the first ``octets``."""
        return FileRange(self.file, self.offset + octets, self.octets - octets)


@value
class SendFile:
    """Write the octets of ``data``, a part of a body that was handed in as it is; each block of it within ``seconds``.

    Only an application that hands in a :class:`FileRange` meets this event. The octets are due even when the mail is
    answered before they are out: who refuses a chunk takes it all the same (RFC 3030 §2).
    """

    data: FileRange
    seconds: float


@dataclass(frozen=True, slots=True)
class NeedMail:
    """Another mail could be begun: answer with ``send(envelope)`` or ``no_mail()``, without blocking."""


@value
class NeedBody:
    """The body of ``mail`` may flow: answer with ``send_body(chunk)``, an empty chunk at its end.

    ``offset`` counts the octets handed in so far. It falls back to 0 when a repeatable body is to be read again from
    its beginning, for a further transaction of the same mail.
    """

    mail: Mail
    offset: int


@value
class NeedFacts:
    """Not enough is known of the body of ``mail`` to say whether it can go as it is: answer with ``body_facts(facts)``.

    The facts are those of ``mail.envelope.body``, with ``eight_bit`` and ``long_lines`` as far as they can be found
    out; what stays unknown is not asked for again.
    """

    mail: Mail


@value
class NeedConversion:
    """The peer does not take the body of ``mail`` as it is: convert it, and answer with ``body_facts(facts)``.

    The facts are those of the converted body, which is then the one that :class:`NeedBody` asks for. It is to fit
    ``form`` and not be binary; :func:`smtpcore.mime.convert` makes it so. Where that cannot be, answer with
    ``body_failed(error)``: a :class:`ConversionFailed` refuses the mail, and any other error is for another attempt.
    """

    mail: Mail
    form: BodyForm


@dataclass(frozen=True, slots=True)
class BeginTls:
    """Begin the TLS handshake as the client; answer with ``tls_started(info)`` or ``tls_failed(error)``."""


@value
class Timeout:
    """Nothing to do until the peer speaks, for at most ``seconds``; then ``receive_timeout()``.

    The same object again means the same running deadline. ``waiting_for`` is ``None`` when nothing was asked: a line
    that may become a 421 has begun to arrive.
    """

    waiting_for: Verb | None
    seconds: float


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What a handshake agreed on, and whether the certificate was verified against the host name."""

    version: str
    cipher: str
    verified: bool
    #: The channel binding ``tls-server-end-point`` (RFC 5929 §4), if a mechanism can use it and it could be made.
    server_end_point: bytes | None = field(default=None, repr=False)


# --- Reports: what became of the wishes -----------------------------------------------------------------------------


@value
class MailSent:
    """The transactions of ``mail`` are over and at least one recipient accepted it.

    One outcome per recipient, in the order of the envelope. ``reply`` is the last reply to an end of data.
    """

    mail: Mail
    outcomes: tuple[Outcome, ...]
    reply: Reply
    stage: Stage
    transcript: Transcript = field(repr=False)


@value
class MailRefused:
    """The transactions of ``mail`` are over, or were never reached, and no recipient accepted it."""

    mail: Mail
    outcomes: tuple[Outcome, ...]
    stage: Stage
    transcript: Transcript = field(repr=False)


Report: TypeAlias = MailSent | MailRefused


@dataclass(frozen=True, slots=True)
class Idle:
    """The session is open, nothing is in flight and nothing is to be said."""


class DisconnectReason(enum.Enum):
    """Why a session ended."""

    #: The application asked for it and QUIT was said.
    QUIT = "quit"
    #: The peer would not serve: greeting, EHLO, RSET or 421.
    REFUSED = "refused"
    #: The session has brought all that the peer takes in one (RFC 9422).
    LIMIT = "limit"
    #: TLS could not be had though it is required.
    TLS = "tls"
    #: Authentication could not be had, or was declined.
    AUTH = "auth"
    #: The peer, or the network, closed the connection.
    LOST = "lost"
    TIMEOUT = "timeout"
    #: The peer broke the protocol.
    PROTOCOL = "protocol"
    #: The end of data was answered before it was said, or a body source broke.
    BODY = "body"
    #: The application gave up.
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection; always the last event, repeated for ever.

    ``error`` is ``None`` when nothing went wrong. ``clean`` says that the peer answered QUIT, or had closed already.
    """

    reason: DisconnectReason
    error: SessionError | None
    clean: bool


@value
class CommandAnswered:
    """What came of a ``command`` that was asked for: its reply, whatever it says, or the error that ended the session.

    One of the two is ``None``. A 421 ends the session: it is the ``reply`` of the error.
    """

    command: Command
    reply: Reply | None
    error: SessionError | None


Event: TypeAlias = (
    SendLine
    | SendBody
    | SendFile
    | NeedMail
    | NeedFacts
    | NeedConversion
    | NeedBody
    | BeginTls
    | Timeout
    | MailSent
    | MailRefused
    | CommandAnswered
    | Idle
    | Disconnect
)
