"""What is fuzzed: functions of any octets that raise if something is true that must never be.

What lives here: one target for each gate through which octets of strangers come: the client as a whole, its reader of
replies, the filters of bodies, the conversion of messages, and TLS. What does not: the choice of the octets
(``run.py``), and the invariants of a client's life, which the tests share (``tests/core/invariants.py``).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from tests.core.invariants import (
    CONTENT,
    LIMITS,
    PASSWORD,
    REFUSALS,
    SECRET,
    USER,
    check_answers,
    everything_shown,
    live,
    replies_in,
)

from smtpcore import (
    BeginTls,
    BodyForm,
    Client,
    Command,
    Connection,
    ConversionFailed,
    Disconnect,
    Envelope,
    Event,
    Idle,
    Limits,
    LineEnds,
    LocalProtocolError,
    Mail,
    NeedBody,
    NeedMail,
    RemoteProtocolError,
    Replied,
    SendBody,
    SendLine,
    Timeout,
    TlsPolicy,
    Verb,
)
from smtpcore.drivers.tls import TlsFloor
from smtpcore.mime import convert
from smtpcore.sasl import Plain
from smtpcore.testing import ScriptedServer, converse
from smtpcore.testing.certificates import server_context, trusting_context

T = TypeVar("T")

__all__ = ["TARGETS"]


class _Plan:
    """Octets that are taken one after the other to choose by; nothing is chosen for ever when they are used up."""

    def __init__(self, octets: bytes) -> None:
        self.octets: Iterator[int] = iter(octets)

    def pick(self, options: Sequence[T]) -> T:
        return options[next(self.octets, 0) % len(options)]


def client(octets: bytes) -> None:
    """A whole life of a client (``tests/core/invariants.py``)."""
    live(octets)


# --- replies --------------------------------------------------------------------------------------------------------

_SMALL: Final = Limits(reply_line=128, reply_lines=6)


def replies(octets: bytes) -> None:
    """What a peer answers to a mail of many recipients: the codes are those that are there, in any division."""
    size, octets = 1 + octets[0] % 16 if octets else 1, octets[1:]
    whole = _heard([octets])
    assert whole == _heard([octets[start : start + size] for start in range(0, len(octets), size)])
    codes, _ = whole
    assert codes == replies_in(octets)[: len(codes)]


def _heard(pieces: Sequence[bytes]) -> tuple[list[int], str]:
    """The codes of the replies, and the violation that ended them."""
    connection = Connection(_SMALL)
    connection.receive_data(b"220 hi\r\n")
    connection.next_event()
    connection.send(Command(Verb.EHLO, b"EHLO client.example"))
    connection.receive_data(b"250 hi\r\n")
    connection.next_event()
    connection.next_event()
    connection.allow_pipelining(True)
    connection.send(Command(Verb.MAIL, b"MAIL FROM:<>"))
    for _ in range(8):
        connection.send(Command(Verb.RCPT, b"RCPT TO:<r@b.example>"))
    connection.send(Command(Verb.DATA, b"DATA"))
    codes: list[int] = []
    try:
        for piece in pieces:
            connection.receive_data(piece)
            while (event := connection.next_event()) is not None:
                if isinstance(event, Replied):
                    codes.append(event.reply.code)
            # What is kept is bounded; what came at once is read at once.
            assert connection.snapshot().unread_octets < _SMALL.reply_line or codes[-1:] == [421] or event is None
    except RemoteProtocolError as violation:
        return codes, str(violation).partition(":")[0]
    return codes, ""


# --- bodies ---------------------------------------------------------------------------------------------------------

_ENVELOPE: Final = Envelope("a@a.example", ("b@b.example",))
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def bodies(octets: bytes) -> None:
    """A body by DATA or in chunks, handed in by any pieces: what arrives is the body with each line end as CRLF."""
    plan = _Plan(octets[:3])
    chunking, line_ends, piece = plan.pick([False, True]), plan.pick(list(LineEnds)), 1 + plan.pick(range(40))
    body = octets[3:]
    offered = ["PIPELINING", "CHUNKING"] if chunking else ["PIPELINING"]
    server = ScriptedServer(extensions=offered)
    mails = [(_ENVELOPE, body), (_ENVELOPE, b"the next\r\n")]
    try:
        events = converse(Client("client.example", line_ends=line_ends), server, mails, piece=piece)
    except LocalProtocolError:
        assert line_ends is LineEnds.REFUSE
        assert _BARE.search(body)
        assert not server.mails
        return
    assert line_ends is LineEnds.NORMALISE or not _BARE.search(body)
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", body)
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    assert [mail.content for mail in server.mails] == [content, b"the next\r\n"]
    assert not server.complaints
    if not chunking:
        # A chunk may end within a line end: its octets are counted.
        assert not _BARE.search(b"".join(event.data for event in events if isinstance(event, (SendLine, SendBody))))


# --- TLS ------------------------------------------------------------------------------------------------------------

_MAILS: Final = 3
_TURNS: Final = 10_000


class _Talk:
    """A client with the TLS floor upon it, and a peer that speaks TLS as well, until it is told otherwise."""

    def __init__(self, policy: TlsPolicy, credentials: bool) -> None:
        wanted = [Plain(USER, PASSWORD)] if credentials else []
        self.client = Client("client.example", tls=policy, credentials=wanted, limits=LIMITS)
        self.floor = TlsFloor(self.client, self.client, trusting_context(), "localhost", LIMITS)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server_context().wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.events: list[Event] = []
        self.mails: list[Mail] = []
        #: All that the client wrote; what the peer has to say and has not said; what it was promised in TLS.
        self.wire = b""
        self.to_client = b""
        self.closed = False
        self.secure = False

    @property
    def over(self) -> bool:
        return isinstance(self.events[-1], Disconnect)

    def run(self) -> None:
        """Do as ordered until the peer is waited for; the peer hears what is written."""
        for _ in range(_TURNS):
            event = self.floor.next_event()
            if not self.events or event is not self.events[-1]:
                self.events.append(event)
            assert not isinstance(event, BeginTls), "the floor is there to do that"
            if isinstance(event, (SendLine, SendBody)):
                self.wire += event.data
                self._incoming.write(event.data)
                self._answer_in_tls()
            elif isinstance(event, NeedMail):
                self._give()
            elif isinstance(event, NeedBody):
                self.client.send_body(b"" if event.offset else b"hello\n")
            elif isinstance(event, (Timeout, Idle, Disconnect)):
                return
        raise AssertionError("the client never comes to rest")

    def _give(self) -> None:
        if len(self.mails) < _MAILS:
            self.mails.append(self.client.send(Envelope(f"s{len(self.mails)}@a.example", ("r@b.example",))))
        else:
            self.client.no_mail()

    def _answer_in_tls(self) -> None:
        """Let the peer's TLS do what it can with what it has heard; in clear it has heard nothing for it."""
        if not self.in_tls:
            self._incoming.read()
            return
        try:
            self._tls.do_handshake()
            self.secure = True
            while self._tls.read(65_536):
                pass
        except ssl.SSLError:
            pass
        self.to_client += self._outgoing.read()

    @property
    def in_tls(self) -> bool:
        """Whether what the client writes is TLS: it began with a handshake, at once or behind STARTTLS."""
        return b"\x16\x03" in self.wire

    def say(self, octets: bytes) -> None:
        """Let the peer say something, in TLS where it is there."""
        if self.secure:
            try:
                self._tls.write(octets)
            except ssl.SSLError:
                return
            self.to_client += self._outgoing.read()
        elif not self.in_tls:
            self.to_client += octets

    def reply(self, code: str) -> None:
        in_flight = self.client.snapshot().connection.in_flight
        verb = in_flight[0] if in_flight else None
        good = CONTENT.get(verb, b"250 ok")
        self.say(good + b"\r\n" if code == "2" else f"{code.ljust(3, '5')} no\r\n".encode())

    def deliver(self, octets: int) -> None:
        """Let the client hear so much of what the peer has said."""
        heard, self.to_client = self.to_client[:octets], self.to_client[octets:]
        if heard and not self.closed:
            self.floor.receive_data(heard)

    def spoil(self, place: int) -> None:
        """Change one bit on the way."""
        if self.to_client:
            place %= len(self.to_client)
            changed = self.to_client[place] ^ 0x10
            self.to_client = self.to_client[:place] + bytes([changed]) + self.to_client[place + 1 :]

    def eof(self) -> None:
        if not self.closed:
            self.closed = True
            self.floor.receive_eof()

    def goodbye(self) -> None:
        """The peer's end of TLS, without the end of the stream."""
        if self.secure:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                self.to_client += self._outgoing.read()

    def trouble(self, what: str) -> None:
        if what == "eof":
            self.eof()
        elif what == "timeout":
            self.floor.receive_timeout()
        elif what == "send_failed":
            self.floor.send_failed("broken pipe")
        elif what == "goodbye":
            self.goodbye()
        elif what == "quit":
            self.client.quit()
        else:
            self.client.abort()


_TROUBLES: Final = ("eof", "timeout", "send_failed", "goodbye", "quit", "abort")
_INJECTED: Final = (
    b"250 ok\r\n",
    b"2",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x17\x03\x03\x00\x05hello",
    b"\x16\x03",
    b"\r\n",
)


def tls(octets: bytes) -> None:
    """A session under the TLS floor: nothing in clear behind its beginning, no secret shown, every mail answered."""
    plan = _Plan(octets)
    policy = plan.pick([TlsPolicy.REQUIRED, TlsPolicy.OPPORTUNISTIC, TlsPolicy.IMPLICIT])
    credentials = plan.pick([False, True])
    talk = _Talk(policy, credentials)
    talk.run()
    for octet in plan.octets:
        if talk.over:
            break
        _befall(talk, octet, plan)
        talk.run()
    if not talk.over:
        talk.client.abort()
        talk.run()
    assert talk.over
    check_answers(talk.mails, talk.events)
    _check_wire(
        talk.wire, must=credentials or policy is not TlsPolicy.OPPORTUNISTIC, at_once=policy is TlsPolicy.IMPLICIT
    )
    shown = everything_shown(talk.client, talk.events)
    assert SECRET[:8] not in shown
    assert PASSWORD not in shown


def _befall(talk: _Talk, octet: int, plan: _Plan) -> None:
    """Let one octet have its meaning; most further the dialogue."""
    if octet >= 250:
        talk.trouble(_TROUBLES[octet - 250])
    elif octet >= 240:
        talk.to_client += plan.pick(_INJECTED)
    elif octet >= 230:
        talk.spoil(plan.pick(range(256)))
    elif octet >= 200:
        talk.deliver(1 + plan.pick(range(256)))
    elif talk.to_client:
        talk.deliver(len(talk.to_client))
    else:
        talk.reply(plan.pick(REFUSALS) if octet >= 180 else "2")


def _check_wire(wire: bytes, *, must: bool, at_once: bool) -> None:
    """In clear go greetings only, where TLS ``must`` be, and records behind its beginning."""
    clear, _, behind = (b"", b"", wire) if at_once else wire.partition(b"STARTTLS\r\n")
    assert SECRET.encode()[:8] not in wire
    if must:
        words = {line.split(b" ")[0] for line in clear.split(b"\r\n")} - {b""}
        assert words <= {b"EHLO", b"HELO", b"QUIT"}
    if must and not behind.startswith(b"\x16\x03"):
        assert behind in {b"", b"QUIT\r\n"}
    elif behind.startswith(b"\x16\x03"):
        while behind:
            kind, length = behind[0], int.from_bytes(behind[3:5])
            assert kind in range(20, 24)
            assert behind[1] == 3
            assert len(behind) >= 5 + length
            behind = behind[5 + length :]


# --- messages -------------------------------------------------------------------------------------------------------


def messages(octets: bytes) -> None:
    """A message that is converted: it fits then and stays so, or the part that prevents it is named."""
    flags = octets[0] if octets else 0
    form = BodyForm(eight_bit=bool(flags & 1), long_lines=bool(flags & 2))
    try:
        converted = convert(octets[1:], form, break_signatures=bool(flags & 4))
    except ConversionFailed:
        return
    assert form.eight_bit or converted.isascii()
    assert form.long_lines or all(len(line) <= 998 for line in converted.split(b"\r\n"))
    assert b"\0" not in converted
    assert _BARE.search(converted) is None
    assert convert(converted, form) is converted


#: Each target by its name, which is that of its corpus as well.
TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "client": client,
    "replies": replies,
    "bodies": bodies,
    "messages": messages,
    "tls": tls,
}
