"""A driver without I/O, a scripted server, and the two in conversation.

What lives here: pure machines for tests and for fuzzing of replies. What does not: sockets, clocks, chance, and any
judgement: the tests that use these say what must be true.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final, TypeAlias

from smtpcore._client import Client
from smtpcore._events import (
    BeginTls,
    Disconnect,
    Envelope,
    Event,
    Idle,
    Mail,
    NeedBody,
    NeedConversion,
    NeedFacts,
    NeedMail,
    Report,
    SendBody,
    SendLine,
    Timeout,
    TlsInfo,
)

__all__ = ["AS_USUAL", "Answer", "Answers", "PureDriver", "ReceivedMail", "ScriptedServer", "converse"]

#: One answer of a server: a line or several without CRLF (``"550 no"``), or the very octets. No octets: silence.
Answer: TypeAlias = str | bytes

#: What a server answers: a function of the line, or a table. ``None``: as usual.
Answers: TypeAlias = Mapping[str, Answer | Sequence[Answer | None]] | Callable[[str], Answer | None]

#: No answer but the usual ones.
AS_USUAL: Final[Answers] = {}

#: A path in its brackets, in which a quoted string may hold a bracket.
_PATH: Final = re.compile(r'<((?:[^">]|"(?:[^"\\]|\\.)*")*)>')
_TLS: Final = TlsInfo("TLSv1.3", "TLS_TEST", verified=True)


class PureDriver:
    """A driver of a :class:`Client` that does no I/O: it keeps the driver's contract and leaves the wire to a test.

    ``mails`` are pairs of an envelope and the octets of a body. They are given one by one as the client asks
    (``NeedMail``), and their bodies are read in pieces of ``piece`` octets (``NeedBody``). A body that is ``None`` is
    left to the test.
    """

    def __init__(
        self, client: Client, mails: Iterable[tuple[Envelope, bytes | None]] = (), *, piece: int = 65_536
    ) -> None:
        self.client = client
        #: Every event of the client in turn; of a ``Timeout`` that is repeated, the first only.
        self.events: list[Event] = []
        #: The handles of the mails given, in order.
        self.mails: list[Mail] = []
        self._to_give = deque(mails)
        self._bodies: dict[Mail, bytes | None] = {}
        self._piece = piece

    @property
    def last(self) -> Event:
        """The event at which the driver stopped."""
        return self.events[-1]

    @property
    def reports(self) -> list[Report]:
        """What became of the mails so far."""
        return [event for event in self.events if isinstance(event, Report)]

    def give(self, envelope: Envelope, body: bytes | None) -> Mail:
        """Ask the client to send a mail now."""
        mail = self.client.send(envelope)
        self.mails.append(mail)
        self._bodies[mail] = body
        return mail

    def run(self) -> bytes:
        """Do what the client orders until it needs the peer, TLS, a wish of the owner, or nothing more.

        Returns the octets written. Stops at ``Timeout``, ``BeginTls``, ``NeedFacts``, ``NeedConversion``, ``Idle``,
        ``Disconnect``, and at ``NeedBody`` for a body that is ``None``.
        """
        written: list[bytes] = []
        while True:
            event = self.client.next_event()
            if not (isinstance(event, Timeout) and self.events and event is self.events[-1]):
                self.events.append(event)
            if isinstance(event, (SendLine, SendBody)):
                written.append(event.data)
            elif isinstance(event, NeedMail):
                if self._to_give:
                    self.give(*self._to_give.popleft())
                else:
                    self.client.no_mail()
            elif isinstance(event, NeedBody) and (body := self._bodies.get(event.mail)) is not None:
                self.client.send_body(body[event.offset : event.offset + self._piece])
            elif isinstance(event, (Timeout, BeginTls, Idle, NeedBody, NeedFacts, NeedConversion, Disconnect)):
                return b"".join(written)

    def hear(self, octets: bytes) -> bytes:
        """Let the client hear ``octets`` of the peer, and :meth:`run`."""
        self.client.receive_data(octets)
        return self.run()


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail that a :class:`ScriptedServer` accepted; ``content`` is its octets without dot-stuffing."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


class ScriptedServer:
    """A server in memory: octets in, octets out.

    By itself it is a plain, obliging server. ``answers`` overrides single replies: a function that is called with each
    line, or a table by whole line (``"RCPT TO:<a@b.example>"``) or by verb (``"RCPT"``), in any case. A sequence in
    the table gives the answers one after the other, and afterwards the usual ones. Three things are answered that are
    no command lines, and have names in a table: ``"connect"``, ``"."`` (the end of data), and ``"AUTH answer"``;
    a function is called with ``"connect"``, ``"."``, and the line of the answer. The verb of a last chunk is ``"BDAT
    LAST"`` in a table.

    A command that is refused has no effect; a 421 closes the session. ``extensions`` are the further lines of its EHLO
    reply; ``STARTTLS`` among them disappears once TLS began. ``users`` maps names to passwords for AUTH PLAIN.
    """

    def __init__(
        self,
        answers: Answers = AS_USUAL,
        *,
        name: str = "server.example",
        extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "SIZE"),
        users: Mapping[str, str] | None = None,
    ) -> None:
        self._answers: Callable[[str, str], Answer | None]
        if callable(answers):
            function = answers
            self._answers = lambda line, _: function(line)
        else:
            self._answers = _Table(answers)
        self._name = name
        self._extensions = tuple(extensions)
        self._users = users or {}
        self._pipelining = any(e.upper() == "PIPELINING" for e in extensions)
        self._unread = bytearray()
        #: Up to where they are read, and where no line end was found yet.
        self._at = 0
        self._searched = 0
        self._reverse_path: str | None = None
        self._recipients: list[str] = []
        self._content: list[bytes] | None = None
        #: The chunk whose octets are awaited: its line, their number, whether it is the last.
        self._chunk: tuple[str, int, bool] | None = None
        self._chunks: list[bytes] = []
        #: A chunk was refused: only RSET is taken (RFC 3030 §2).
        self._failed = False
        self._in_auth = False
        self._in_tls = False
        #: The lines that were received as commands, without CRLF.
        self.commands: list[str] = []
        #: The mails accepted.
        self.mails: list[ReceivedMail] = []
        #: The user that authenticated.
        self.user: str | None = None
        #: STARTTLS was accepted: call :meth:`tls_started` on both sides.
        self.tls_due = False
        #: The server will say nothing more and would close.
        self.closed = False
        #: What the client did that no client may do.
        self.complaints: list[str] = []

    def connected(self) -> bytes:
        """The greeting."""
        return self._reply("connect", "connect", f"220 {self._name} ready")[0]

    def tls_started(self) -> None:
        """TLS began: what is known of the client is forgotten (RFC 3207 §4.2)."""
        self.tls_due = False
        self._in_tls = True
        self._forget()

    def receive_data(self, octets: bytes) -> bytes:
        """What the server answers to ``octets`` of the client."""
        if octets and self.closed:
            self.complaints.append("octets after the end of the session")
        self._unread += octets
        replies: list[bytes] = []
        commands = 0
        while not self.closed and not self.tls_due:
            if self._chunk is not None:
                if len(self._unread) < self._at + self._chunk[1]:
                    break
                replies.append(self._hear_chunk(*self._chunk))
                continue
            end = self._unread.find(b"\r\n", max(self._at, self._searched - 1))
            if end < 0:
                self._searched = len(self._unread)
                break
            line, self._at = bytes(self._unread[self._at : end]), end + 2
            if self._content is not None:
                replies.append(self._hear_content(self._content, line))
                continue
            commands += 1
            if commands > 1 and not self._pipelining:
                self.complaints.append(f"a command that did not wait for a reply: {line!r}")
            replies.append(self._hear_command(line.decode("utf-8", "backslashreplace")))
        del self._unread[: self._at]
        self._searched, self._at = max(0, self._searched - self._at), 0
        if self.tls_due and self._unread:
            self.complaints.append("octets behind STARTTLS")
            self._unread.clear()
        return b"".join(replies)

    # --- one line --------------------------------------------------------------------------------------------------

    def _reply(self, line: str, key: str, usual: str) -> tuple[bytes, int]:
        """The octets of the reply and the code by which to go on."""
        answer = self._answers(line, key)
        if answer is None:
            answer = usual
        octets = _wire(answer) if isinstance(answer, str) else answer
        code = octets[:3]
        if code == b"421":
            self.closed = True
        return octets, int(code) if code.isdigit() else 0

    def _hear_command(self, line: str) -> bytes:
        self.commands.append(line)
        if "\r" in line or "\n" in line:
            self.complaints.append(f"a bare CR or LF in a command: {line!r}")
        if self._in_auth:
            self._in_auth = False
            return self._hear_auth(line, "AUTH answer", line)
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        if verb == "BDAT" and (size := argument.partition(" ")[0]).isdigit() and self._offers_chunking:
            self._chunk = (line, int(size), argument.upper().endswith(" LAST"))
            return b""
        if verb == "AUTH":
            mechanism, _, response = argument.partition(" ")
            if mechanism.upper() == "PLAIN":
                return self._hear_auth(line, verb, response)
        octets, code = self._reply(line, verb, self._usual(verb))
        if code == 354 or 200 <= code <= 299:
            self._accept(verb, code, argument)
        return octets

    def _usual(self, verb: str) -> str:
        if verb == "EHLO":
            offered = [e for e in self._extensions if not (self._in_tls and e.upper() == "STARTTLS")]
            if self._users:
                offered.append("AUTH PLAIN")
            lines = [self._name, *offered]
            return "\n".join(f"250{' ' if i == len(lines) - 1 else '-'}{text}" for i, text in enumerate(lines))
        if verb in {"RCPT", "DATA"} and self._reverse_path is None:
            return "503 5.5.1 MAIL first"
        if self._failed and verb in {"MAIL", "RCPT", "DATA"}:
            return "503 5.5.1 RSET first"
        if verb == "DATA":
            return "354 go ahead" if self._recipients else "554 5.5.1 no valid recipients"
        usual = {"HELO": f"250 {self._name}", "STARTTLS": "220 go ahead", "QUIT": "221 2.0.0 bye"}
        if verb in {"MAIL", "RCPT", "RSET", "NOOP"}:
            return "250 2.0.0 ok"
        return usual.get(verb, "500 5.5.2 what?")

    def _accept(self, verb: str, code: int, argument: str) -> None:
        """Let a command that was answered well have its effect."""
        if verb in {"EHLO", "HELO", "RSET"}:
            self._forget()
        elif verb == "MAIL":
            self._reverse_path = _path(argument)
        elif verb == "RCPT":
            self._recipients.append(_path(argument))
        elif verb == "DATA" and code == 354:
            self._content = []
        elif verb == "STARTTLS":
            self.tls_due = True
        elif verb == "QUIT":
            self.closed = True

    def _forget(self) -> None:
        self._reverse_path = None
        self._recipients = []
        self._chunks = []
        self._failed = False

    @property
    def _offers_chunking(self) -> bool:
        return any(e.upper() == "CHUNKING" for e in self._extensions)

    def _hear_chunk(self, line: str, size: int, last: bool) -> bytes:
        """A chunk with all its octets (RFC 3030 §2); they are counted whether the chunk is taken or not."""
        self._chunk = None
        data = bytes(self._unread[self._at : self._at + size])
        self._at += size
        if self._failed or self._reverse_path is None:
            usual = "503 5.5.1 RSET first" if self._failed else "503 5.5.1 MAIL first"
        elif not self._recipients:
            usual = "554 5.5.1 no valid recipients"
        else:
            usual = "250 2.0.0 accepted" if last else f"250 2.0.0 {size} octets"
        octets, code = self._reply(line, "BDAT LAST" if last else "BDAT", usual)
        if not 200 <= code <= 299:
            self._failed = True
            return octets
        self._chunks.append(data)
        if last:
            self.mails.append(ReceivedMail(self._reverse_path or "", tuple(self._recipients), b"".join(self._chunks)))
            self._forget()
        return octets

    def _hear_auth(self, line: str, key: str, response: str) -> bytes:
        if response == "*":
            usual = "501 5.7.0 cancelled"
        elif not response and key == "AUTH":
            usual = "334 "
        else:
            user, password = _plain(response)
            right = user in self._users and self._users[user] == password
            usual = "235 2.7.0 welcome" if right else "535 5.7.8 bad credentials"
        octets, code = self._reply(line, key, usual)
        if code == 334:
            self._in_auth = True
        elif code == 235:
            self.user = _plain(response)[0]
        return octets

    def _hear_content(self, content: list[bytes], line: bytes) -> bytes:
        if line != b".":
            content.append((line[1:] if line[:1] == b"." else line) + b"\r\n")
            return b""
        octets, code = self._reply(".", ".", "250 2.0.0 accepted")
        if 200 <= code <= 299:
            self.mails.append(ReceivedMail(self._reverse_path or "", tuple(self._recipients), b"".join(content)))
        self._content = None
        self._forget()
        return octets


class _Table:
    """Answers by whole line or by verb."""

    def __init__(self, answers: Mapping[str, Answer | Sequence[Answer | None]]) -> None:
        self._rows: dict[str, Answer | Iterator[Answer | None]] = {
            key.upper(): answer if isinstance(answer, (str, bytes)) else iter(answer) for key, answer in answers.items()
        }

    def __call__(self, line: str, key: str) -> Answer | None:
        row = self._rows.get(line.upper(), self._rows.get(key.upper()))
        return row if row is None or isinstance(row, (str, bytes)) else next(row, None)


def _wire(answer: str) -> bytes:
    return answer.replace("\n", "\r\n").encode() + b"\r\n"


def _path(argument: str) -> str:
    found = _PATH.search(argument)
    return "" if found is None else found[1]


def _plain(response: str) -> tuple[str, str]:
    """User and password out of a response of PLAIN; both empty if it is none."""
    try:
        parts = base64.b64decode(response, validate=True).decode().split("\0")
    except ValueError:
        parts = []
    return (parts[1], parts[2]) if len(parts) == 3 else ("", "")


def converse(
    client: Client,
    server: ScriptedServer,
    mails: Iterable[tuple[Envelope, bytes]] = (),
    *,
    split: int | Iterable[int] = (),
    piece: int = 65_536,
) -> list[Event]:
    """Let ``client`` send ``mails`` to ``server``, then QUIT; returns all events.

    ``split`` gives the sizes of the pieces in which the client hears the server: one for all, or one after the other,
    and when they are used up, whatever there is. A server that is silent lets the client's deadline expire; one that
    has closed is heard to do so. TLS begins when both want it.
    """
    driver = PureDriver(client, mails, piece=piece)
    sizes = repeat(split) if isinstance(split, int) else iter(split)
    to_server = driver.run()
    if isinstance(driver.last, BeginTls):
        to_server += _begin_tls(driver, server)
    to_client = server.connected()
    while True:
        to_client += server.receive_data(to_server) if to_server else b""
        event = driver.last
        if isinstance(event, Disconnect):
            return driver.events
        if to_client:
            size = next(sizes, len(to_client))
            to_server, to_client = driver.hear(to_client[:size]), to_client[size:]
            continue
        if isinstance(event, BeginTls):
            to_server = _begin_tls(driver, server)
            continue
        if server.closed:
            client.receive_eof()
        elif isinstance(event, Idle):
            client.quit()
        else:
            client.receive_timeout()
        to_server = driver.run()


def _begin_tls(driver: PureDriver, server: ScriptedServer) -> bytes:
    server.tls_started()
    driver.client.tls_started(_TLS)
    return driver.run()
