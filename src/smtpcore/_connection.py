"""The law, applied: one end of an SMTP connection that says only what may be said, and pairs replies with commands.

What lives here: the queue of commands in flight, the stored state, the assembly of replies, the transcript. What does
not: any choice. Whoever holds a ``Connection`` decides what to say; :class:`smtpcore.Client` is one who does.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from smtpcore._buffer import LineBuffer
from smtpcore._errors import LocalProtocolError, RemoteProtocolError
from smtpcore._events import (
    MASKED,
    Command,
    FileRange,
    Reply,
    SendBody,
    SendFile,
    SendLine,
    Timeout,
    Transcript,
    Verb,
    echoes,
    longest_first,
    masked,
    shown_challenge,
)
from smtpcore._grammar import parse_reply_line
from smtpcore._limits import DEFAULT_LIMITS, Deadlines, Limits
from smtpcore._state import LEGAL, MAY_FOLLOW, State, anticipated, leads

__all__ = ["Connection", "ConnectionSnapshot", "PeerClosed", "Replied"]

# Looking up a member of an enumeration by name costs a call; these are needed at every turn.
_CLOSED: Final = State.CLOSED
_DATA: Final = State.DATA
_TLS: Final = State.TLS
_HELP: Final = Verb.HELP
_BDAT_LAST: Final = Verb.BDAT_LAST
_CHUNKS: Final = frozenset({Verb.BDAT, Verb.BDAT_LAST})
_VERDICTS: Final = frozenset({Verb.END_OF_DATA, Verb.BDAT_LAST})
_NO_RECIPIENTS: Final = frozenset({State.GREETED, State.READY, State.MAIL})

# As numbers: bytes look for octets much faster than for bytes of one octet.
_CR, _LF, _NUL = b"\r\n\0"

_GREETING: Final = Command(Verb.CONNECT, b"")
_END_OF_DATA: Final = Command(Verb.END_OF_DATA, b".")
#: So many characters of a secret in a reply are taken for an echo of it.
_ECHO: Final = 8
_AUTH: Final = frozenset({Verb.AUTH, Verb.AUTH_ANSWER})

#: Which row of RFC 5321 §4.5.3.2 is running while a command waits for its reply.
_ROW: Final[dict[Verb, Callable[[Deadlines], float]]] = {
    Verb.CONNECT: lambda row: row.greeting,
    Verb.EHLO: lambda row: row.ehlo,
    Verb.HELO: lambda row: row.ehlo,
    Verb.LHLO: lambda row: row.ehlo,
    Verb.STARTTLS: lambda row: row.starttls,
    Verb.AUTH: lambda row: row.auth,
    Verb.AUTH_ANSWER: lambda row: row.auth,
    # It is answered by a greeting.
    Verb.XCLIENT: lambda row: row.greeting,
    Verb.MAIL: lambda row: row.mail,
    Verb.RCPT: lambda row: row.rcpt,
    Verb.DATA: lambda row: row.data_initiation,
    Verb.END_OF_DATA: lambda row: row.data_termination,
    Verb.BDAT: lambda row: row.data_termination,
    Verb.BDAT_LAST: lambda row: row.data_termination,
    Verb.QUIT: lambda row: row.quit,
}


@functools.lru_cache(maxsize=256)
def _usual_reply(line: bytes) -> Reply | None:
    """The reply of one well-formed line; most replies of a session are alike. ``None`` for every other line."""
    try:
        code, last, text = parse_reply_line(line)
    except RemoteProtocolError:
        return None
    return Reply(code, (text,)) if last else None


def _seconds(deadlines: Deadlines) -> dict[Verb, float]:
    """The deadline for each verb."""
    return {verb: _ROW[verb](deadlines) if verb in _ROW else deadlines.other for verb in Verb}


def _without(secret: str, text: str) -> str:
    """``text`` with each echo of ``secret`` masked, also one that breaks off."""
    begin = secret[:_ECHO]
    start = text.find(begin)
    while start >= 0:
        end = start + len(begin)
        while text[end : end + 1] and text[end] == secret[end - start : end - start + 1]:
            end += 1
        text = text[:start] + MASKED.decode("ascii") + text[end:]
        start = text.find(begin, start + len(MASKED))
    return text


class Replied(NamedTuple):
    """``reply`` answers ``command``; ``about`` is what the command was said with.

    ``command`` is ``None`` for a 421 that nobody asked for. ``early`` marks a verdict on a message that came before the
    end of the message was said: nothing can follow it but the end of the connection. ``more`` says that the same
    command has further replies, as a message in LMTP has one for each recipient.
    """

    command: Command | None
    reply: Reply
    about: object = None
    early: bool = False
    more: bool = False


#: As ``Replied`` makes them, without the way through Python code that takes arguments by name.
_replied: Final = functools.partial(tuple.__new__, Replied)  # pyright: ignore[reportUnknownMemberType]  # typeshed


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer closed its side and everything that it said before has been reported."""


@dataclass(frozen=True, slots=True)
class ConnectionSnapshot:
    """The whole state of a :class:`Connection`, for comparison."""

    state: State
    in_flight: tuple[Verb, ...]
    #: Commands said, the connection itself and each end of data among them.
    said: int
    #: Replies consumed, but for those that nobody asked for.
    replied: int
    unread_octets: int
    unsent_orders: int
    body_open: bool
    pipelining: bool
    peer_closed: bool


Order: TypeAlias = SendLine | SendBody | SendFile
Heard: TypeAlias = Order | Replied | PeerClosed | None


class Connection:
    """The client's end of one connection.

    ``implicit_tls`` says that TLS comes before the greeting, ``lmtp`` that the peer gives one verdict on a message for
    each recipient that it accepted (RFC 2033 §4.2). A refused call raises ``LocalProtocolError`` and changes
    nothing; :meth:`next_event` raises ``RemoteProtocolError`` when the peer breaks the protocol, and then the
    connection is good for nothing but closing.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, implicit_tls: bool = False, lmtp: bool = False) -> None:
        self._limits = limits
        self._lmtp = lmtp
        #: In LMTP: recipients that were accepted in this transaction, and verdicts on the message yet to come.
        self._accepted = 0
        self._verdicts = 0
        self._seconds = _seconds(limits.deadlines)
        self._state = State.TLS if implicit_tls else State.CONNECTED
        self._in_flight: deque[tuple[Command, object]] = deque([(_GREETING, None)])
        self._said = 1
        self._replied = 0
        self._pipelining = False
        self._window = limits.commands_in_flight
        self._window_full = False
        self._body_open = False
        self._body_octets = 0
        self._buffer = LineBuffer(limits.reply_line)
        self._reply_code = 0
        self._reply_lines: list[str] = []
        self._peer_closed = False
        #: What was said and is not yet taken; whoever holds the connection may take from the left.
        self.orders: deque[Order] = deque()
        #: Whether all that came was heard: until more comes, :meth:`next_event` has nothing but orders to tell.
        self.silent = False
        #: For each message without a verdict what it is about, and the order that ends it, once it was given.
        self._messages: deque[tuple[object, Order | None]] = deque()
        self._timeout: Timeout | None = None
        self._timeout_of: tuple[int, int] | None = None
        self._transcript: deque[tuple[bool, bytes | Reply]] = deque(maxlen=limits.transcript_lines)
        self._secrets: tuple[str, ...] = ()

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the session stands as far as replies are known."""
        return self._state

    @property
    def anticipated(self) -> State:
        """Where it will stand once everything in flight has succeeded; once closed, nothing will."""
        if self._state is State.CLOSED:
            return State.CLOSED
        return anticipated(self._state, (command.verb for command, _ in reversed(self._in_flight)))

    @property
    def in_flight(self) -> int:
        """How many commands wait for their replies."""
        return len(self._in_flight)

    @property
    def newest(self) -> Verb | None:
        """The last of the commands that wait for their replies."""
        return self._in_flight[-1][0].verb if self._in_flight else None

    @property
    def quiet(self) -> bool:
        """Whether nothing is in flight and nothing has begun to arrive."""
        return not self._in_flight and not self._unread

    @property
    def body_open(self) -> bool:
        """Whether octets of a message may be said."""
        return self._body_open

    @property
    def in_doubt(self) -> tuple[object, ...]:
        """For each message whose end left and whose verdict did not come (RFC 1047), what it is about."""
        return tuple(about for about, end in self._messages if end is not None and not self._is_unsaid(end))

    def _is_unsaid(self, end: Order) -> bool:
        return any(order is end for order in self.orders)

    @property
    def transcript(self) -> Transcript:
        """The last lines of the dialogue, secrets masked."""
        return Transcript(tuple(self._transcript))

    @property
    def timeout(self) -> Timeout | None:
        """The deadline that runs now; the same object while it is the same deadline (RFC 5321 §4.5.3.2)."""
        if self._state is State.CLOSED:
            return None
        if self._in_flight:
            verb = self._in_flight[0][0].verb
        elif self._unread:
            verb = None
        else:
            return None
        key = (self._replied, self._body_octets)
        if self._timeout is None or self._timeout_of != key or self._timeout.waiting_for is not verb:
            seconds = self._limits.deadlines.other if verb is None else self._seconds[verb]
            self._timeout = Timeout(verb, seconds)
            self._timeout_of = key
        return self._timeout

    def snapshot(self) -> ConnectionSnapshot:
        """The whole state, comparable."""
        return ConnectionSnapshot(
            state=self._state,
            in_flight=tuple(command.verb for command, _ in self._in_flight),
            said=self._said,
            replied=self._replied,
            unread_octets=len(self._buffer),
            unsent_orders=len(self.orders),
            body_open=self._body_open,
            pipelining=self._pipelining,
            peer_closed=self._peer_closed,
        )

    @property
    def _unread(self) -> bool:
        return self._buffer.unread > 0 or bool(self._reply_lines)

    # --- wishes ----------------------------------------------------------------------------------------------------

    def allow_pipelining(self, allowed: bool) -> None:
        """Whether commands may be said while others wait for their replies (RFC 2920)."""
        self._pipelining = allowed

    def can_send(self, verb: Verb) -> bool:
        """Whether a command may be said now.

        It must be legal in the anticipated state. While anything is in flight it must be allowed to join the pipelined
        group, and the window must have room: once full, it opens again when half of it is answered.
        """
        if self._body_open or self._peer_closed or self._state is _CLOSED:
            return False
        if not self._in_flight:
            return not self._buffer.unread and not self._reply_lines and verb in LEGAL[self._state]
        if not self._pipelining or self._window_full:
            return False
        last = self._in_flight[-1][0].verb
        return verb in (LEGAL[self.anticipated] if last is _HELP else MAY_FOLLOW[last])

    def send(self, command: Command, about: object = None) -> None:
        """Say a command; ``about`` comes back with its reply.

        Raises ``LocalProtocolError`` if it may not be said now, or if its line could be read as more than one.
        """
        if not self.try_send(command, about):
            raise LocalProtocolError(
                f"{command.verb.value} may not be said in state {self._state.value!r} "
                f"with {len(self._in_flight)} commands in flight"
            )

    def try_send(self, command: Command, about: object = None) -> bool:
        """Say a command if it may be said now, and return whether it was; raises as :meth:`send` for its line."""
        if command.verb in _CHUNKS:
            raise LocalProtocolError("a chunk is said together with its octets", command)
        return self._try_say(command, about)

    def _try_say(self, command: Command, about: object) -> bool:
        line = command.line
        if _CR in line or _LF in line or _NUL in line:
            raise LocalProtocolError("a command line may not hold CR, LF or NUL", command)
        if not self.can_send(command.verb):
            return False
        in_flight = self._in_flight
        in_flight.append((command, about))
        self._said += 1
        self._window_full = len(in_flight) >= self._window
        if command.secret:
            self._secrets = longest_first((*self._secrets, *echoes(line)))
            self._transcript.append((True, masked(line, True)))
        else:
            self._transcript.append((True, line))
        self.orders.append(SendLine(line + b"\r\n", command.secret, self._seconds[command.verb]))
        return True

    def send_data(self, data: bytes | FileRange) -> None:
        """Say octets of a message as they go over the wire; raises ``LocalProtocolError`` if no message is open."""
        if not self._body_open:
            raise LocalProtocolError("no message is open: its octets may flow after 354 and before its end")
        self._order_octets(data)

    def _order_octets(self, data: bytes | FileRange) -> None:
        self._body_octets += len(data)
        seconds = self._limits.deadlines.data_block
        self.orders.append(SendBody(data, seconds) if isinstance(data, bytes) else SendFile(data, seconds))

    def end_data(self, data: bytes) -> None:
        """Say the end of the message: ``data`` is the line with the dot and what must stand before it."""
        if not self._body_open:
            raise LocalProtocolError("no message is open: its end may be said once, after 354")
        self._body_open = False
        self._transcript.append((True, b"(%d octets of message)" % self._body_octets))
        self._transcript.append((True, b"."))
        self._body_octets += len(data)
        end = SendLine(data, False, self._limits.deadlines.data_block)
        self._messages[-1] = (self._messages[-1][0], end)
        self.orders.append(end)

    def try_send_chunk(self, data: bytes | FileRange, *, last: bool, about: object = None) -> bool:
        """Say a chunk of a message, its command and its octets, if that may be said now, and return whether it was."""
        verb, mark = (_BDAT_LAST, b" LAST") if last else (Verb.BDAT, b"")
        if not self._try_say(Command(verb, b"BDAT %d%b" % (len(data), mark)), about):
            return False
        if data:
            self._transcript.append((True, b"(%d octets of message)" % len(data)))
            self._order_octets(data)
        if last:
            self._messages.append((about, self.orders[-1]))
        return True

    def drop_orders(self) -> None:
        """Forget what was said and not yet taken: the way out is broken, and a message whose end never left is open."""
        for index, (about, end) in enumerate(self._messages):
            if end is not None and self._is_unsaid(end):
                self._messages[index] = (about, None)
                self._body_open = True
        self.orders.clear()

    # --- facts -----------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Octets from the peer, in any division."""
        if self._peer_closed:
            raise LocalProtocolError("octets cannot come after the end of the stream")
        self.silent = False
        self._buffer.append(data)

    def receive_eof(self) -> None:
        """The peer closed its side."""
        self.silent = False
        self._peer_closed = True

    def tls_started(self) -> None:
        """The handshake succeeded: the session begins anew, but for the greeting (RFC 3207 §4.2).

        Raises ``RemoteProtocolError`` if octets came in clear meanwhile.
        """
        if self._state is not State.TLS:
            raise LocalProtocolError(f"no TLS handshake was due in state {self._state.value!r}")
        if self._unread:
            raise self._violation("octets in clear where TLS must begin (RFC 3207 §4.2)")
        self._state = State.CONNECTED if self._in_flight else State.GREETED
        self._pipelining = False

    def next_event(self) -> Heard:
        """An order to write, a reply, the end of the stream, or ``None``: nothing until more is said or heard.

        Raises ``RemoteProtocolError``.
        """
        if self.orders:
            return self.orders.popleft()
        if self._state is _CLOSED:
            return None
        if self._state is _TLS and self._unread:
            raise self._violation("octets in clear where TLS must begin (RFC 3207 §4.2)")
        if self._buffer.unread and (reply := self._next_reply()) is not None:
            return self._pair(reply)
        if self._peer_closed:
            return PeerClosed()
        self.silent = True
        return None

    # --- replies ---------------------------------------------------------------------------------------------------

    def _violation(self, message: str, reply: Reply | None = None) -> RemoteProtocolError:
        return RemoteProtocolError(message, reply=reply, transcript=self.transcript)

    def _signed(self, error: RemoteProtocolError) -> RemoteProtocolError:
        """A violation that quotes octets which are no reply: with its transcript, and without what may be an echo."""
        if self._secrets:
            what, colon, _ = str(error).partition(": ")
            error.args = (what + colon + (MASKED.decode("ascii") if colon else ""),)
        error.transcript = self.transcript
        return error

    def _next_reply(self) -> Reply | None:
        """The next whole reply (RFC 5321 §4.2.1)."""
        while True:
            if not self._in_flight and not self._reply_lines:
                self._check_unasked()
            try:
                line = self._buffer.next_line()
            except RemoteProtocolError as error:
                raise self._signed(error) from None
            if line is None:
                return None
            if not (self._reply_lines or self._secrets) and (usual := _usual_reply(line)) is not None:
                return usual
            code, last, text = self._parse(line)
            if self._reply_lines and code != self._reply_code:
                raise self._violation(f"a reply with two codes: {self._reply_code} and {code}")
            self._reply_code = code
            self._reply_lines.append(text)
            if last:
                break
            if len(self._reply_lines) >= self._limits.reply_lines:
                raise self._violation(f"a reply of more than {self._limits.reply_lines} lines")
        reply = Reply(code, tuple(self._reply_lines))
        self._reply_lines = []
        return reply

    def _check_unasked(self) -> None:
        """Only a 421 may come unasked, so anything else is refused before it is complete."""
        if self._buffer.unread and not b"421".startswith(self._buffer.peek(3)):
            raise self._signed(RemoteProtocolError(f"octets that nobody asked for: {self._buffer.peek(80)!r}"))

    def _parse(self, line: bytes) -> tuple[int, bool, str]:
        try:
            code, last, text = parse_reply_line(line)
        except RemoteProtocolError as error:
            self._transcript.append((False, MASKED if self._secrets else line[:80]))
            raise self._signed(error) from None
        if self._secrets and not (code == 334 and self._in_flight and self._in_flight[0][0].verb in _AUTH):
            # A peer may echo what it was sent; its words are shown to people. A challenge is for the mechanism, whole.
            for secret in self._secrets:
                text = _without(secret, text)
        return code, last, text

    def _pair(self, reply: Reply) -> Replied:
        """Give ``reply`` to the oldest command in flight and move the state."""
        code = reply.code
        self._transcript.append((False, reply if code != 334 else shown_challenge(reply)))
        if not self._in_flight:
            # All else that nobody asked for was refused before it was a reply.
            self._state = _CLOSED
            return Replied(None, reply)
        command, about = self._in_flight.popleft()
        self._replied += 1
        if self._window_full:
            self._window_full = len(self._in_flight) * 2 > self._window
        verb = command.verb
        if code == 421:
            self._state, self._body_open = _CLOSED, False
            if verb in _VERDICTS:
                self._messages.popleft()
            return Replied(command, reply, about)
        state = self._lmtp_leads(verb, reply) if self._lmtp else leads(self._state, verb, code)
        if state is None:
            raise self._misplaced(command, reply)
        if verb in _VERDICTS:
            return self._pair_verdict(command, reply, about, state)
        self._state = state
        if state is _DATA and verb is Verb.DATA:
            self._open_body(about)
        elif state is _TLS and self._unread:
            raise self._violation("octets in clear behind the reply to STARTTLS (RFC 3207 §4.2)")
        return _replied((command, reply, about, False, False))

    def _misplaced(self, command: Command, reply: Reply) -> RemoteProtocolError:
        return self._violation(f"{reply.code} is no answer to {command.verb.value}: {reply}", reply)

    def _pair_verdict(self, command: Command, reply: Reply, about: object, state: State) -> Replied:
        """The verdict on a message, or one of several, or one that came before the end of the message was said."""
        early = self._messages[0][1] is None
        if early and reply.positive:
            raise self._misplaced(command, reply)
        if self._verdicts and not early:
            self._in_flight.appendleft((command, about))
            self._said += 1
            self._window_full = self._window_full or len(self._in_flight) >= self._limits.commands_in_flight
            return Replied(command, reply, about, more=True)
        self._messages.popleft()
        if early:
            self._state, self._body_open = _CLOSED, False
        else:
            self._state = state
        return Replied(command, reply, about, early)

    def _lmtp_leads(self, verb: Verb, reply: Reply) -> State | None:
        """Where a reply leads in LMTP; counts the verdicts that are yet to come."""
        if verb not in _VERDICTS:
            state = leads(self._state, verb, reply.code)
            if verb is Verb.RCPT:
                self._accepted += reply.positive
            elif state in _NO_RECIPIENTS:
                self._accepted = 0
            return state
        if not self._accepted or self._state is State.FAILED:
            # There is nobody to give one for, or the message as a whole was refused before its end.
            return leads(self._state, verb, reply.code)
        self._verdicts = (self._verdicts or self._accepted) - 1
        if not self._verdicts:
            self._accepted = 0
        # A message that one recipient is refused is no failed one, however it was brought over.
        return leads(self._state, Verb.END_OF_DATA, reply.code)

    def _open_body(self, about: object) -> None:
        self._body_open = True
        self._body_octets = 0
        self._in_flight.append((_END_OF_DATA, about))
        self._messages.append((about, None))
        self._window_full = len(self._in_flight) >= self._window
        self._said += 1
