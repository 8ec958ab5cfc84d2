"""Every number of the core, with its source.

What lives here: the bounds of buffers and the deadlines of waits, as one value object. What does not: the code that
applies them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Final

from smtpcore._errors import LocalProtocolError
from smtpcore._kinds import check_fields

__all__ = ["DEFAULT_LIMITS", "LINE_OCTETS", "Deadlines", "Limits"]

#: Octets of a line of a message without its CRLF, RFC 5321 §4.5.3.1.6.
LINE_OCTETS: Final = 998


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long to wait for the peer, in seconds: the rows of RFC 5321 §4.5.3.2 and what it leaves open."""

    #: One attempt to reach one address (the RFC names no number).
    connect: float = 30.0
    #: The greeting, §4.5.3.2.1.
    greeting: float = 300.0
    #: EHLO and HELO (no row of their own; as MAIL).
    ehlo: float = 300.0
    #: The reply to STARTTLS, and the handshake that follows it.
    starttls: float = 120.0
    #: Each step of an authentication exchange; RFC 4954 §4 asks for no less than three minutes of a server.
    auth: float = 180.0
    #: MAIL, §4.5.3.2.2.
    mail: float = 300.0
    #: RCPT, §4.5.3.2.3.
    rcpt: float = 300.0
    #: The reply to DATA, §4.5.3.2.4.
    data_initiation: float = 120.0
    #: Handing one block of the body to the transport, §4.5.3.2.5.
    data_block: float = 180.0
    #: The verdict on the message, §4.5.3.2.6.
    data_termination: float = 600.0
    #: RSET and everything that has no row.
    other: float = 300.0
    #: The reply to QUIT; all verdicts are known by then, so politeness is cheap or not at all.
    quit: float = 5.0
    #: Reading on after a failed write, for the peer's last words.
    last_words: float = 5.0

    def __post_init__(self) -> None:
        check_fields(self)
        for row in fields(self):
            seconds = getattr(self, row.name)
            if not seconds > 0:
                raise LocalProtocolError(f"deadline {row.name!r} must be more than 0 seconds", seconds)

    def scaled(self, factor: float) -> Deadlines:
        """All rows multiplied by ``factor``."""
        if not factor > 0:
            raise LocalProtocolError("a factor for deadlines must be more than 0", factor)
        return Deadlines(**{row.name: getattr(self, row.name) * factor for row in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what either side may send, in octets unless said otherwise."""

    #: One command line with its CRLF. RFC 5321 §4.5.3.1.4 gives 512; the extensions add to it (§4.5.3.1, last rows
    #: of RFC 1870, 3461, 4954), and 2,048 holds them all but AUTH.
    command_line: int = 2048
    #: One AUTH line with its CRLF, RFC 4954 §4: 12,288.
    auth_line: int = 12_288
    #: One reply line with its CRLF. RFC 5321 §4.5.3.1.5 gives 512; servers in the field write longer ones.
    reply_line: int = 4096
    #: Lines of one reply (the RFC names no number).
    reply_lines: int = 512
    #: Challenges answered in one authentication exchange.
    auth_steps: int = 16
    #: A path with its angle brackets, RFC 5321 §4.5.3.1.3.
    path: int = 256
    #: Recipients of one mail, over all its transactions. A server must take 100 at a time (§4.5.3.1.8).
    recipients: int = 10_000
    #: Commands said and not yet answered; more are said when half of them are.
    commands_in_flight: int = 1024
    #: Chunks of one message said and not yet answered: a server that refuses one may count those behind it as errors.
    chunks_in_flight: int = 8
    #: With pipelining across mails: mails that are over and kept back until a reply that cannot be mistaken has come.
    mails_kept_back: int = 64
    #: Octets read from a body source at a time.
    body_chunk: int = 65_536
    #: A message that must be converted for a peer, which takes up to five times as much memory, itself included.
    converted_message: int = 64 * 1024 * 1024
    #: Commands and replies kept of the dialogue; 0 keeps none.
    transcript_lines: int = 40
    deadlines: Deadlines = field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        check_fields(self, deadlines=Deadlines)
        for row in fields(self):
            number = getattr(self, row.name)
            least = 0 if row.name == "transcript_lines" else 1
            if isinstance(number, int) and number < least:
                raise LocalProtocolError(f"limit {row.name!r} must be at least {least}", number)

    def scaled(self, factor: float) -> Limits:
        """The same bounds with every deadline multiplied by ``factor``."""
        return replace(self, deadlines=self.deadlines.scaled(factor))


DEFAULT_LIMITS = Limits()
