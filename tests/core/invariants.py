"""What must be true of a client whatever befalls it, for property tests and fuzzers alike.

What lives here: a life (one client, its mails, and every fact that can befall it), the checks of what came of it, and
:func:`live`, which reads a life out of any octets. The checks know the protocol from the wire alone: by rules of their
own they pair the replies that were heard with the lines that were written. What does not: the choice of the octets.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from smtpcore import (
    BeginTls,
    BodyFacts,
    Client,
    Command,
    CommandAnswered,
    Disconnect,
    Envelope,
    Event,
    Idle,
    Limits,
    LineEnds,
    LocalProtocolError,
    Mail,
    MailOptions,
    MailRefused,
    MailSent,
    NeedBody,
    NeedMail,
    Outcome,
    Pipelining,
    Protocol,
    RemoteProtocolError,
    Report,
    SendBody,
    SendLine,
    Stage,
    State,
    Timeout,
    TlsInfo,
    TlsPolicy,
    Verb,
    Verdict,
    XClient,
    XForward,
)
from smtpcore.sasl import Plain

T = TypeVar("T")

TLS = TlsInfo("TLSv1.3", "TLS_TEST", verified=True)

#: What a peer that is content says to a command.
CONTENT = {
    None: b"421 why are we here",
    Verb.CONNECT: b"220 mx.example",
    Verb.EHLO: b"250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-AUTH PLAIN\r\n"
    b"250-XCLIENT NAME ADDR\r\n250-XFORWARD NAME ADDR\r\n250 STARTTLS",
    Verb.STARTTLS: b"220 go ahead",
    Verb.AUTH: b"235 welcome",
    Verb.AUTH_ANSWER: b"235 welcome",
    Verb.XCLIENT: b"220 mx.example again",
    Verb.DATA: b"354 go ahead",
    Verb.HELP: b"214 RFC 5321",
    Verb.QUIT: b"221 bye",
}
CONTENT[Verb.LHLO] = CONTENT[Verb.EHLO]

#: More turns of ``next_event()`` than any of the small lives here can need between two facts.
_TURNS = 10_000


class Life:
    """A client with its mails, to be told any fact at any time by a driver that keeps its contract.

    Each method is one fact or wish, and :meth:`run` gives the client its turn. ``mails`` are pairs of an envelope, each
    with its own reverse-path, and a body. ``secrets`` are what no one may ever get to see.
    """

    def __init__(
        self, client: Client, limits: Limits, mails: Iterable[tuple[Envelope, bytes]], secrets: Sequence[str] = ()
    ) -> None:
        self.client = client
        self.mails: list[Mail] = []
        self.commands: list[Command] = []
        self.events: list[Event] = []
        #: All octets that the client was given.
        self.heard = b""
        #: Whether the client had its turn after each fact.
        self.patient = True
        #: Whether the client runs ahead of verdicts.
        self.across = False
        #: Whether there is a verdict for each recipient.
        self.lmtp = False
        #: What the peer announces by LIMITS, whenever it is content with EHLO (RFC 9422).
        self.announced: dict[str, int] = {}
        self._limits = limits
        self._to_give = list(mails)
        self._bodies: dict[Mail, bytes] = {}
        self._secrets = secrets

    # --- the driver's side -----------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Disconnect)

    @property
    def last(self) -> Event | None:
        return self.events[-1] if self.events else None

    def give(self) -> None:
        """Ask for the next mail, if the client still takes any."""
        if self._to_give:
            envelope, body = self._to_give[0]
            mail = self.careful(lambda: self.client.send(envelope))
            if isinstance(mail, Mail):
                del self._to_give[0]
                self.mails.append(mail)
                self._bodies[mail] = body

    def command(self) -> None:
        """Ask for a command, if the client still takes any."""
        line = f"{('NOOP', 'VRFY', 'HELP', 'X-ASK')[len(self.commands) % 4]} {len(self.commands)}"
        command = self.careful(lambda: self.client.command(line))
        if isinstance(command, Command):
            self.commands.append(command)

    def careful(self, call: Callable[[], object]) -> object:
        """Make a call that may be refused: if it is, nothing may have changed."""
        before, transcript = self.client.snapshot(), self.client.transcript
        try:
            return call()
        except LocalProtocolError as error:
            refusal = error
        assert self.client.snapshot() == before
        assert self.client.transcript == transcript
        return refusal

    def run(self) -> None:
        """Do as ordered until the peer, TLS or a body is waited for, or nothing more comes."""
        for _ in range(_TURNS):
            event = self.client.next_event()
            if self.over:
                assert event is self.events[-1], "something after the end"
            elif event is not self.last:
                self.events.append(event)
            self.check()
            if isinstance(event, NeedMail):
                if self._to_give:
                    self.give()
                else:
                    self.client.no_mail()
            elif isinstance(event, (Timeout, BeginTls, Idle, NeedBody, Disconnect)):
                return
        raise AssertionError("the client never comes to rest")

    def feed(self, octets: int | None = None) -> None:
        """Hand the next octets of the body in, or its end with ``None``, if a body is due."""
        mail = self.client.snapshot().current
        if mail is None:
            self.careful(lambda: self.client.send_body(b"x"))
            return
        need = next((e for e in reversed(self.events) if isinstance(e, NeedBody)), None)
        start = need.offset if need is not None and need.mail is mail else 0
        chunk = b"" if octets is None else self._bodies[mail][start : start + octets]
        self.careful(lambda: self.client.send_body(chunk))

    # --- facts -----------------------------------------------------------------------------------------------------

    def hear(self, octets: bytes) -> None:
        snapshot = self.client.snapshot()
        if not snapshot.connection.peer_closed:
            self.client.receive_data(octets)
            self.heard += octets if snapshot.over is None else b""
        else:
            self.careful(lambda: self.client.receive_data(octets))

    def hear_reply(self, code: str = "2") -> None:
        """A reply to the oldest command in flight: a good one, or the code with its first digit or whole."""
        in_flight = self.client.snapshot().connection.in_flight
        verb = in_flight[0] if in_flight else None
        if code == "2":
            limits = "".join(f" {name}={number}" for name, number in self.announced.items())
            extension = f"\r\n250-LIMITS{limits}\r\n".encode() if verb in {Verb.EHLO, Verb.LHLO} and limits else b"\r\n"
            self.hear(CONTENT.get(verb, b"250 ok").replace(b"\r\n", extension, 1) + b"\r\n")
        else:
            self.hear(f"{code.ljust(3, '5')} no\r\n".encode())

    def eof(self) -> None:
        self.client.receive_eof()

    def timeout(self) -> None:
        self.client.receive_timeout()

    def send_failed(self) -> None:
        self.client.send_failed("broken pipe")

    def body_failed(self) -> None:
        self.careful(lambda: self.client.body_failed("disk on fire"))

    def tls_started(self) -> None:
        self.careful(lambda: self.client.tls_started(TLS))

    def tls_failed(self) -> None:
        if isinstance(self.last, BeginTls):
            self.client.tls_failed("no common cipher")

    def abort(self) -> None:
        self.client.abort()

    def quit(self) -> None:
        self.client.quit()

    def misuse(self) -> None:
        """What no driver should do: it is refused, or it was right."""
        too_long = Envelope("x" * 300 + "@a.example", ("b@b.example",))
        for call in (
            lambda: self.client.send(too_long),
            lambda: self.client.command("RSET"),
            lambda: self.client.tls_started(TLS) if not isinstance(self.last, BeginTls) else None,
        ):
            self.careful(call)
        if not isinstance(self.last, NeedBody) or self.over:
            for call in (lambda: self.client.send_body(b"x"), lambda: self.client.body_failed("x")):
                assert isinstance(self.careful(call), LocalProtocolError)

    # --- what must be true -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """What is true at any time."""
        connection = self.client.snapshot().connection
        assert connection.said == connection.replied + len(connection.in_flight)
        assert len(connection.in_flight) <= self._limits.commands_in_flight
        assert len(self.client.transcript.entries) <= self._limits.transcript_lines
        if isinstance(self.last, (Timeout, Idle)):
            assert connection.unread_octets < self._limits.reply_line
            assert not connection.unsent_orders

    def finish(self) -> list[Event]:
        """Bring the life to an end, check all that must be true of it, and return its events."""
        self.run()
        if not self.over:
            self.client.abort()
            self.run()
        assert self.over
        check_answers(self.mails, self.events)
        check_commands(self.commands, self.events, self.heard, lmtp=self.lmtp)
        check_deliveries(self.events, self.heard, exactly=self.patient, across=self.across, lmtp=self.lmtp)
        check_bodies(self.events)
        check_forwarded(self.events)
        if "LIMITS" in self.client.capabilities:
            check_announced(self.announced, self.events)
        shown = everything_shown(self.client, self.events)
        assert not any(secret in shown for secret in self._secrets)
        return self.events


# --- the law of answers ---------------------------------------------------------------------------------------------


def check_answers(mails: Sequence[Mail], events: Sequence[Event]) -> None:
    """Every mail has one report, in order, with one outcome for each recipient, before the one ``Disconnect``."""
    reports = [event for event in events if isinstance(event, Report)]
    assert Counter(map(id, mails)) == Counter(id(report.mail) for report in reports)
    assert sum(isinstance(event, Disconnect) for event in events) == 1
    assert isinstance(events[-1], Disconnect)
    for report in reports:
        assert tuple(outcome.recipient for outcome in report.outcomes) == report.mail.envelope.recipients
        delivered = [outcome for outcome in report.outcomes if outcome.verdict is Verdict.DELIVERED]
        assert isinstance(report, MailSent if delivered else MailRefused)
        if isinstance(report, MailSent):
            assert report.reply.code // 100 == 2
            assert report.stage is Stage.BODY_ENDED
        for outcome in report.outcomes:
            check_outcome(outcome, report.stage)


def check_commands(commands: Sequence[Command], events: Sequence[Event], heard: bytes, *, lmtp: bool = False) -> None:
    """Every command has one answer, in order, and its reply is the one that stands in its place on the wire.

    So each was said once, and nothing was in flight beside it.
    """
    answers = [event for event in events if isinstance(event, CommandAnswered)]
    assert list(map(id, commands)) == [id(answer.command) for answer in answers]
    said_and_heard = dialogue(events, heard, lmtp=lmtp)
    lines = [text.removesuffix("\r\n") for text, _, _ in said_and_heard]
    for answer in answers:
        text = answer.command.line.decode()
        assert lines.count(text) <= 1
        if answer.reply is None:
            assert answer.error is not None
        else:
            assert answer.error is None
            assert [answer.reply.code] == said_and_heard[lines.index(text)][2]
            assert answer.reply.code // 100 in {2, 4, 5}
    said = [line for line in lines if line in {command.line.decode() for command in commands}]
    assert said == [command.line.decode() for command in commands[: len(said)]]


def check_outcome(outcome: Outcome, stage: Stage) -> None:
    """An outcome is explained, and what explains it fits."""
    assert outcome.reply is not None or outcome.error is not None
    assert str(outcome)
    if outcome.verdict is Verdict.DELIVERED:
        assert outcome.code is not None
        assert outcome.code // 100 == 2
    elif outcome.verdict is Verdict.NEVER and outcome.reply is not None:
        assert outcome.reply.permanent
        assert stage > Stage.NOT_STARTED
    elif outcome.verdict is Verdict.LATER and outcome.reply is not None:
        assert not outcome.reply.positive
    if outcome.in_doubt:
        assert outcome.verdict is Verdict.LATER
        assert outcome.reply is None
        assert stage is Stage.BODY_ENDED


# --- deliveries, judged by the wire alone ---------------------------------------------------------------------------


def replies_in(octets: bytes) -> list[int]:
    """The codes of the replies in what a peer said, up to what is no reply."""
    codes: list[int] = []
    begun: bytes | None = None
    *lines, _ = octets.split(b"\r\n")
    for line in lines:
        found = re.fullmatch(rb"([2-5][0-9][0-9])([ -][^\r\n\0]*)?", line)
        if found is None or (begun is not None and begun != found[1]):
            break
        begun = found[1]
        if line[3:4] != b"-":
            codes.append(int(begun))
            begun = None
    return codes


def dialogue(events: Sequence[Event], heard: bytes, *, lmtp: bool = False) -> list[tuple[str, bool, list[int]]]:
    """The lines that were written, whether each is whole (:func:`lines_of`), and the replies to it.

    The replies answer the greeting and then the lines, one by one; but in ``lmtp`` each recipient who was accepted has
    a reply of his own to the end of a message, unless a chunk of it was refused. A line written while a message is
    under way is its end. Nobody does what was sent behind what was answered by 421.
    """
    replies = iter(replies_in(heard))
    told: list[tuple[str, bool, list[int]]] = []
    codes = [code for code in [next(replies, None)] if code is not None]
    was_data, broken, accepted = False, False, 0
    for text, whole in lines_of(events):
        chunk, last_chunk = text.startswith("BDAT "), text.endswith(" LAST\r\n")
        wanted = accepted if lmtp and not broken and (was_data or (chunk and last_chunk)) else 1
        closing = 421 in codes
        codes = [421] if closing else []
        while not closing and len(codes) < max(wanted, 1) and all(code // 100 != 3 and code != 421 for code in codes):
            if (code := next(replies, None)) is None:
                break
            codes.append(code)
        told.append((text, whole, [] if closing else codes))
        first = codes[0] if codes and not closing else None
        if text.startswith("MAIL FROM:"):
            broken, accepted = False, 0
        elif text.startswith("RCPT TO:"):
            # Also where MAIL was refused: that is what the peer says.
            accepted += may_be_good(first)
        elif chunk and not last_chunk:
            broken = broken or (first is not None and first >= 400)
        was_data = text == "DATA\r\n" and first == 354
    return told


def check_deliveries(
    events: Sequence[Event], heard: bytes, *, exactly: bool = True, across: bool = False, lmtp: bool = False
) -> None:
    """Who has the mail, and who may have it, judged by the wire alone; ``exactly``, if all that came was heard.

    Delivered is who was accepted, where the end of the data, once written, was answered by a 2yz. In doubt is who was
    not refused, where the end of the data was written and not answered: a last chunk may leave ahead of the replies to
    RCPT. Where the dialogue ran ``across`` mails and lost step, those that have it may be in doubt as well.

    The last chunk ends a message once its octets are written. A message of which a chunk was refused was refused,
    unless the peer breaks the protocol and takes it nevertheless.
    """
    ended, have, may_have = set[tuple[str, str]](), set[tuple[str, str]](), set[tuple[str, str]]()
    sender, begun, was_data, broken, closing = "", False, False, False, False
    named, accepted = set[str](), list[str]()
    last = events[-1] if events else None
    violated = isinstance(last, Disconnect) and isinstance(last.error, RemoteProtocolError)
    for text, whole, codes in dialogue(events, heard, lmtp=lmtp):
        end_of_data, was_data = was_data, False
        code = codes[0] if codes else None
        chunk = text.startswith("BDAT ")
        last_chunk = chunk and text.endswith(" LAST\r\n")
        if last_chunk and whole and across:
            # Without a 354 in between nobody knows which of its recipients were refused, once step is lost.
            ended |= {(sender, recipient) for recipient in named}
        if chunk and not last_chunk:
            broken = broken or (code is not None and code >= 400)
        elif last_chunk and (not whole or (broken and code is None and not violated)):
            continue
        elif end_of_data or last_chunk:
            assert last_chunk or text.endswith(".\r\n")
            for number, recipient in enumerate(accepted):
                key = (sender, recipient)
                ended.add(key)
                code = code if not lmtp or broken else codes[number] if number < len(codes) else None
                if code is None and 421 in codes:
                    continue
                digit = 0 if code is None else code // 100
                if (code is None and not (last_chunk and closing)) or digit == 3 or (digit == 2 and broken):
                    may_have.add(key)
                elif digit == 2:
                    have.add(key)
        elif text.startswith("MAIL FROM:"):
            sender, accepted, named, broken = text.partition("<")[2].partition(">")[0], [], set(), False
            begun = may_be_good(code)
        elif text.startswith("RCPT TO:"):
            recipient = text.partition("<")[2].partition(">")[0]
            named.add(recipient)
            if begun and may_be_good(code):
                accepted.append(recipient)
        elif text == "DATA\r\n":
            was_data = code == 354
        closing = closing or 421 in codes
    for event in events:
        if isinstance(event, Report):
            for outcome in event.outcomes:
                key = (event.mail.envelope.reverse_path, outcome.recipient)
                assert (outcome.verdict is Verdict.DELIVERED) <= (key in have)
                assert outcome.in_doubt <= (key in ended)
                if exactly and across and violated:
                    assert (key in have) <= (outcome.verdict is Verdict.DELIVERED or outcome.in_doubt)
                    assert (key in may_have) <= outcome.in_doubt
                elif exactly:
                    assert (outcome.verdict is Verdict.DELIVERED) == (key in have)
                    assert outcome.in_doubt == (key in may_have)


def check_announced(limits: Mapping[str, int], events: Sequence[Event]) -> None:
    """No more is said than the peer announced that it takes."""
    mails, domains, recipients = 0, set[str](), 0
    for text, _ in lines_of(events):
        if text.startswith("MAIL FROM:"):
            mails, recipients = mails + 1, 0
            assert mails <= limits.get("MAILMAX", mails)
        elif text.startswith("RCPT TO:"):
            recipients += 1
            domains.add(text.partition("@")[2].partition(">")[0])
            assert recipients <= limits.get("RCPTMAX", recipients)
            assert len(domains) <= limits.get("RCPTDOMAINMAX", len(domains))


def check_forwarded(events: Sequence[Event]) -> None:
    """What was said of a mail before MAIL is of that mail, and nothing of it is left when the next one is begun."""
    told, begun = "", False
    for text, _ in lines_of(events):
        if text.startswith("XFORWARD "):
            assert not told
            told, begun = text.partition("=")[2].partition(".")[0], False
        elif text.startswith("MAIL FROM:"):
            assert not told or (not begun and text.startswith(f"MAIL FROM:<{told}@"))
            begun = True
        elif text == "RSET\r\n" or text.endswith((".\r\n", " LAST\r\n")):
            told, begun = "", False


def may_be_good(code: int | None) -> bool:
    """Whether a command was accepted, or nobody knows: a 3yz is no answer to MAIL or RCPT."""
    return code is None or code // 100 in {2, 3}


def lines_of(events: Sequence[Event]) -> list[tuple[str, bool]]:
    """The lines that were written, and of each whether the octets that it announces were written behind it."""
    lines: list[tuple[str, bool]] = []
    for event, following in zip(events, [*events[1:], None], strict=True):
        if isinstance(event, SendLine):
            text = event.data.decode("latin-1")
            announced = int(text.split()[1]) if text.startswith("BDAT ") else 0
            whole = isinstance(following, SendBody) and len(following.data) == announced if announced else True
            lines.append((text, whole))
    return lines


def check_bodies(events: Sequence[Event]) -> None:
    """Octets of a body are written only while one is due, or as the chunk that was announced."""
    due = chunk = False
    for event in events:
        if isinstance(event, NeedBody):
            due = True
        elif isinstance(event, SendBody):
            assert due or chunk
        elif isinstance(event, (SendLine, Report)):
            due = False
        chunk = isinstance(event, SendLine) and event.data.startswith(b"BDAT ")


# --- secrets --------------------------------------------------------------------------------------------------------


def everything_shown(client: Client, events: Iterable[Event]) -> str:
    """All that a person could get to see of a session: every representation, message and transcript."""
    shown: list[str] = [repr(client), repr(client.snapshot()), str(client.transcript), repr(client.transcript)]
    for event in events:
        shown += [repr(event), str(event)]
        errors: list[BaseException] = []
        if isinstance(event, SendLine):
            shown.append(event.shown)
        elif isinstance(event, (Disconnect, CommandAnswered)):
            errors = causes(event.error)
        elif isinstance(event, Report):
            shown += [str(event.transcript), repr(event.transcript)]
            for outcome in event.outcomes:
                shown += [str(outcome), repr(outcome), outcome.text]
                errors += causes(outcome.error)
        for error in errors:
            shown += [str(error), repr(error), str(vars(error)), str(getattr(error, "transcript", ""))]
    return "\n".join(shown)


def causes(error: BaseException | None) -> list[BaseException]:
    """An exception and all that stand behind it."""
    return [] if error is None else [error, *causes(error.__cause__ or error.__context__)]


# --- lives out of octets --------------------------------------------------------------------------------------------

LIMITS = Limits(reply_line=128, reply_lines=9, auth_steps=3, transcript_lines=10)
USER, PASSWORD = "user", "correct horse battery staple"
SECRET = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
BODIES = (b"", b"hello\n", b".\r\n.\n", b"a\rb", b"x" * 100)
#: Replies that are good for something else, lines that are none, and pieces of lines.
ODDITIES = (
    *(b"%d text\r\n" % code for code in (220, 221, 235, 250, 334, 354, 421, 452, 503, 535, 552)),
    *(
        b"421-",
        b"421-bye\r\n",
        b"42",
        b"2",
        b"250-more\r\n",
        b"250",
        b" \r\n",
        b"\r",
        b"\n",
        b"\x1b[2J\r\n",
        b"334 YQ==\r\n",
    ),
    b"x" * 130,
)
#: What a peer may make of credentials.
ECHOES = tuple(
    before + SECRET[:cut].encode() + behind
    for cut in (10, 30, 99)
    for before in (b"501 ", b"334 ", b"")
    for behind in (b"\r\n", b"...\r\n", b"\n", b"")
)
#: What a peer may announce that it takes.
ANNOUNCED: tuple[dict[str, int], ...] = (
    {},
    {},
    {"RCPTMAX": 2},
    {"MAILMAX": 2, "RCPTMAX": 3},
    {"MAILMAX": 1},
    {"RCPTDOMAINMAX": 1},
    {"RCPTMAX": 1},
)
REFUSALS = ("4", "5", "450", "452", "452", "530", "550", "552")
TROUBLES = (
    *("eof", "timeout", "send_failed", "body_failed", "tls_failed"),
    *("abort", "quit", "misuse", "give", "tls_started", "command", "command"),
)


def live(plan: bytes, make: Callable[..., Client] = Client) -> Life:
    """A whole life, checked, out of any octets: the first ones say what the client is, the others what befalls it.

    Most octets further the dialogue, so that lives get far; each value does the same thing wherever it can. ``make``
    makes the client.
    """
    octets = iter(plan)

    def pick(options: Sequence[T]) -> T:
        return options[next(octets, 0) % len(options)]

    protocol = pick([Protocol.SMTP, Protocol.SMTP, Protocol.LMTP])
    tls = pick([TlsPolicy.NEVER, TlsPolicy.SECURED, *TlsPolicy])
    credentials = [Plain(USER, PASSWORD)] if tls is not TlsPolicy.NEVER and pick([False, True]) else []
    limits = replace(LIMITS, commands_in_flight=pick([1024, 1, 2, 3]))
    pipelining = pick(list(Pipelining))
    client = make(
        "client.example",
        protocol=protocol,
        tls=tls,
        credentials=credentials,
        pipelining=pipelining,
        line_ends=pick(list(LineEnds)),
        chunking=pick([False, True]),
        xclient=pick([*[None] * 7, XClient(name="another.example")]),
        limits=limits,
    )
    mails: list[tuple[Envelope, bytes]] = []
    for number in range(pick([1, 2, 3, 4])):
        facts = BodyFacts(
            repeatable=pick([False, True]), size=pick([None, None, 10, 10_000]), eight_bit=pick([None, False, True])
        )
        # Most are of one domain.
        recipients = [f"r{n}@{'c' if n == 2 else 'b'}.example" for n in range(pick([1, 2, 3, 5]))]
        options = MailOptions(forwarded=pick([None, None, XForward(name=f"s{number}.example")]))
        mails.append((Envelope(f"s{number}@a.example", tuple(recipients), body=facts, options=options), pick(BODIES)))
    life = Life(client, limits, mails, [SECRET[:8]] if credentials else [])
    life.lmtp = protocol is Protocol.LMTP
    life.across = pipelining is Pipelining.ACROSS
    life.announced = pick(ANNOUNCED)
    hasty = pick([False, False, True])
    life.run()
    for octet in octets:
        befall(life, octet, pick)
        if hasty and pick([False, False, False, True]):
            life.patient = False
        else:
            life.run()
        if life.over and octet % 2:
            break
    life.finish()
    return life


def befall(life: Life, octet: int, pick: Callable[[Sequence[Any]], Any]) -> None:
    """Let one octet have its meaning."""
    connection = life.client.snapshot().connection
    if octet >= 244:
        getattr(life, TROUBLES[octet - 244])()
    elif octet >= 224:
        said_secret = any(isinstance(event, SendLine) and event.secret for event in life.events)
        life.hear(pick(ODDITIES + (ECHOES if said_secret else ())))
    elif connection.state is State.TLS:
        life.tls_started()
    elif isinstance(life.last, NeedBody):
        life.feed(pick([None, None, 1, 7, 1000]))
    elif isinstance(life.last, Idle) and octet % 4:
        life.give()
    elif octet >= 180:
        life.hear_reply(pick(REFUSALS))
    else:
        life.hear_reply()
