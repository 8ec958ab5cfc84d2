"""An adversary that says and does anything at any time, against a client with several mails.

What lives here: one state machine, whose rules are what a peer, a network and an application can do, and what must be
true whatever they do. What does not: what the client says in particular.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smtpcore import (
    BeginTls,
    BodyFacts,
    Client,
    Command,
    CommandAnswered,
    Conversion,
    ConversionFailed,
    Disconnect,
    Envelope,
    Event,
    Idle,
    Limits,
    LocalProtocolError,
    Mail,
    MailOptions,
    NeedBody,
    NeedConversion,
    NeedFacts,
    NeedMail,
    Pipelining,
    Protocol,
    Report,
    SendBody,
    SendLine,
    Timeout,
    TlsInfo,
    TlsPolicy,
    Verb,
    XClient,
    XForward,
)
from smtpcore.sasl import Plain

from .examples import examples
from .invariants import check_announced, check_answers, check_bodies, check_commands, check_deliveries, check_forwarded

INFO = TlsInfo("TLSv1.3", "X", True)
LIMITS = Limits(
    commands_in_flight=3, reply_line=100, reply_lines=4, auth_steps=2, mails_kept_back=3, chunks_in_flight=2
)
RECIPIENTS = [f"r{n}@{'c' if n == 2 else 'b'}.example" for n in range(4)]
CANNOT = ConversionFailed("1", "it is signed", "5.6.2")
#: No rule lets a client turn its wheel longer than this.
PATIENCE = 500

GOOD = {
    Verb.CONNECT: "220",
    Verb.STARTTLS: "220",
    Verb.XCLIENT: "220",
    Verb.AUTH: "235",
    Verb.AUTH_ANSWER: "235",
    Verb.DATA: "354",
    Verb.QUIT: "221",
    Verb.HELP: "214",
}
OFFERED = "PIPELINING", "CHUNKING", "STARTTLS", "AUTH PLAIN", "XCLIENT NAME", "XFORWARD NAME", "SIZE 100"
#: What the peer may announce that it takes (RFC 9422).
ANNOUNCED: tuple[dict[str, int], ...] = (
    {},
    {},
    {"RCPTMAX": 2},
    {"MAILMAX": 2, "RCPTMAX": 3},
    {"RCPTDOMAINMAX": 1},
    {"RCPTMAX": 1},
)

#: What an envelope is, but for its reverse-path, which names the mail; and whether a client is named that it came from.
Wish = tuple[tuple[str, ...], bool, BodyFacts]
wishes = st.builds(
    lambda count, forwarded, size, **facts: (RECIPIENTS[:count], forwarded, BodyFacts(size=size, **facts)),
    st.integers(1, 4),
    st.sampled_from([False, False, True]),
    st.sampled_from([None, None, 50, 500]),
    repeatable=st.booleans(),
    eight_bit=st.sampled_from([None, None, False, True]),
)


class Adversary(RuleBasedStateMachine):
    """The world around one client."""

    @initialize(
        protocol=st.sampled_from([Protocol.SMTP, Protocol.SMTP, Protocol.LMTP]),
        policy=st.sampled_from(list(TlsPolicy)),
        credentials=st.booleans(),
        pipelining=st.sampled_from([*Pipelining, Pipelining.ACROSS]),
        chunking=st.booleans(),
        eight_bit=st.sampled_from([None, *Conversion]),
        long_lines=st.sampled_from([Conversion.AS_IS, *Conversion]),
        xclient=st.sampled_from([None, None, None, XClient(name="another.example")]),
        announced=st.sampled_from(ANNOUNCED),
        mails=st.lists(wishes, max_size=4),
    )
    def begin(
        self,
        protocol: Protocol,
        policy: TlsPolicy,
        credentials: bool,
        pipelining: Pipelining,
        chunking: bool,
        eight_bit: Conversion | None,
        long_lines: Conversion,
        xclient: XClient | None,
        announced: dict[str, int],
        mails: list[Wish],
    ) -> None:
        wanted = [Plain("user", "hunter2")] if credentials and policy is not TlsPolicy.NEVER else []
        self.client = Client(
            "client.example",
            protocol=protocol,
            tls=policy,
            credentials=wanted,
            xclient=xclient,
            pipelining=pipelining,
            chunking=chunking,
            eight_bit=eight_bit,
            long_lines=long_lines,
            limits=LIMITS,
        )
        self.chunking = chunking
        self.lmtp = protocol is Protocol.LMTP
        self.announced = announced
        limits = "LIMITS" + "".join(f" {name}={number}" for name, number in announced.items())
        *others, last = "mx", *OFFERED, *([limits] if announced else [])
        self.hello = "".join(f"250-{line}\r\n" for line in others) + f"250 {last}"
        self.across = pipelining is Pipelining.ACROSS
        self.todo = deque(mails)
        self.asked: list[Mail] = []
        self.commands: list[Command] = []
        self.broken = self.closed = False
        self.end: Disconnect | None = None
        #: What happened, for those who judge by the wire alone.
        self.events: list[Event] = []
        self.heard = b""
        self.event: Event = Disconnect  # type: ignore[assignment]  # until there is one
        self.turn()

    # --- the driver, and what must be true of each event ---

    def turn(self) -> None:
        """Turn the client's wheel until it wants something that the adversary decides."""
        for _ in range(PATIENCE):
            event = self.event = self.client.next_event()
            assert self.end is None or event is self.end
            if not self.events or event is not self.events[-1]:
                self.events.append(event)
            if isinstance(event, (SendLine, SendBody)):
                assert not self.broken, "an order to write where the way out is broken"
            elif isinstance(event, NeedMail):
                if self.todo:
                    self.ask(self.todo.popleft())
                else:
                    self.client.no_mail()
            elif not isinstance(event, (Report, CommandAnswered)):
                if isinstance(event, Disconnect):
                    self.end = event
                if isinstance(event, (NeedBody, NeedFacts, NeedConversion, BeginTls)):
                    assert not self.broken
                return
        raise AssertionError("the client never came to rest")

    def ask(self, wish: Wish) -> None:
        recipients, forwarded, body = wish
        sender = f"s{len(self.asked)}"
        options = MailOptions(forwarded=XForward(name=f"{sender}.example") if forwarded else None)
        self.asked.append(self.client.send(Envelope(f"{sender}@a.example", recipients, body=body, options=options)))

    def hear(self, octets: bytes) -> None:
        self.heard += octets
        self.client.receive_data(octets)
        self.turn()

    @property
    def reports(self) -> list[Report]:
        return [event for event in self.events if isinstance(event, Report)]

    @property
    def body_by_data(self) -> bool:
        return isinstance(self.event, NeedBody) and not self.by_chunks

    @property
    def by_chunks(self) -> bool:
        return self.chunking and "CHUNKING" in self.client.capabilities

    def over(self) -> bool:
        return self.end is not None

    # --- what the peer can say ---

    @precondition(lambda self: not self.over() and not self.closed)
    @rule(times=st.integers(1, 6))
    def answer_well(self, times: int) -> None:
        for _ in range(times):
            in_flight = self.client.snapshot().connection.in_flight
            if not in_flight or self.over() or self.body_by_data:
                return
            greets = in_flight[0] in {Verb.EHLO, Verb.LHLO}
            self.hear(f"{self.hello if greets else GOOD.get(in_flight[0], '250') + ' ok'}\r\n".encode())

    @precondition(lambda self: not self.over() and not self.closed)
    @rule(code=st.sampled_from([250, 450, 451, 452, 550, 552, 530, 334, 354, 235, 220]), lines=st.integers(1, 2))
    def say(self, code: int, lines: int) -> None:
        self.hear(b"%d-more\r\n" % code * (lines - 1) + b"%d text\r\n" % code)

    @precondition(lambda self: not self.over() and not self.closed)
    @rule(codes=st.lists(st.sampled_from([250, 450, 452, 550, 354]), min_size=2, max_size=5))
    def say_many(self, codes: list[int]) -> None:
        self.hear(b"".join(b"%d text\r\n" % code for code in codes))

    @precondition(lambda self: not self.over() and not self.closed)
    @rule(
        octets=st.sampled_from(
            [b"2", b"250", b"-more\r\n", b" ok\r\n", b"421 bye\r\n", b"42", b"\r\n", b"\n", b"garbage\r\n", b"x" * 200]
        )
    )
    def mutter(self, octets: bytes) -> None:
        self.hear(octets)

    @precondition(lambda self: not self.over() and not self.closed)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.client.receive_eof()
        self.turn()

    # --- what the network can do ---

    @precondition(lambda self: not self.over() and isinstance(self.event, (Timeout, NeedBody)))
    @rule()
    def be_silent(self) -> None:
        self.client.receive_timeout()
        self.turn()
        assert self.over()

    @precondition(lambda self: not self.over())
    @rule()
    def break_the_way_out(self) -> None:
        again = self.broken
        self.broken = True
        self.client.send_failed("broken pipe")
        self.turn()
        assert self.over() or not again

    @precondition(lambda self: isinstance(self.event, BeginTls) and not self.over())
    @rule(works=st.booleans())
    def shake_hands(self, works: bool) -> None:
        if works:
            self.client.tls_started(INFO)
        else:
            self.client.tls_failed("no common cipher")
        self.turn()
        assert works or self.over()

    # --- what the application can do ---

    @precondition(lambda self: isinstance(self.event, NeedBody) and not self.over())
    @rule(
        chunks=st.lists(st.sampled_from([b"hello\n", b".", b"\r"]), max_size=2),
        ends=st.booleans(),
        breaks=st.booleans(),
    )
    def feed(self, chunks: list[bytes], ends: bool, breaks: bool) -> None:
        for chunk in chunks:
            self.client.send_body(chunk)
            self.turn()
            if not isinstance(self.event, NeedBody):
                return
        if ends:
            self.client.send_body(b"")
            if breaks:
                # The write fails before the end of data was even handed out.
                self.broken = True
                self.client.send_failed("broken pipe")
            self.turn()
        elif breaks and not chunks:
            self.client.body_failed("disk on fire")
            self.turn()
            assert self.over() is not self.by_chunks

    @precondition(lambda self: isinstance(self.event, (NeedFacts, NeedConversion)) and not self.over())
    @rule(answer=st.sampled_from([BodyFacts(eight_bit=False, long_lines=False)] * 3 + [None, OSError(), CANNOT]))
    def tell_of_the_body(self, answer: BodyFacts | Exception | None) -> None:
        if isinstance(answer, Exception):
            self.client.body_failed(answer)
        elif answer is None:
            # What is known already: of a body that needs to be converted that is never enough.
            assert isinstance(self.event, (NeedFacts, NeedConversion))
            known = self.event.mail.envelope.body
            if isinstance(self.event, NeedFacts):
                self.client.body_facts(known)
            else:
                with pytest.raises(LocalProtocolError):
                    self.client.body_facts(known)
                return
        else:
            self.client.body_facts(answer)
        asked = self.event
        self.turn()
        assert self.event is not asked
        assert not self.over()

    @rule(wish=wishes)
    def want_more(self, wish: Wish) -> None:
        try:
            self.ask(wish)
        except LocalProtocolError:
            return
        assert not self.over()
        self.turn()

    @rule(word=st.sampled_from(["NOOP", "HELP", "X-ASK"]))
    def want_a_command(self, word: str) -> None:
        try:
            self.commands.append(self.client.command(f"{word} {len(self.commands)}"))
        except LocalProtocolError:
            return
        assert not self.over()
        self.turn()

    @rule()
    def quit(self) -> None:
        self.client.quit()
        self.turn()

    @rule(really=st.integers(0, 5))
    def abort(self, really: int) -> None:
        if really == 0:
            self.client.abort()
            self.turn()
            assert self.over()

    # --- what is always true ---

    @invariant()
    def the_account_is_right(self) -> None:
        if not hasattr(self, "client"):
            return
        account = self.client.snapshot().connection
        assert account.replied + len(account.in_flight) == account.said
        assert len(account.in_flight) <= LIMITS.commands_in_flight + 1
        if self.over():
            assert len(self.reports) == len(self.asked)
            assert self.client.next_event() is self.end
        else:
            assert account.unread_octets < LIMITS.reply_line
            assert isinstance(self.event, (Timeout, NeedBody, NeedFacts, NeedConversion, BeginTls, Idle))
            if isinstance(self.event, Idle):
                assert len(self.reports) == len(self.asked)

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        if not self.over():
            self.client.abort()
            self.turn()
        check_answers(self.asked, self.events)
        check_commands(self.commands, self.events, self.heard, lmtp=self.lmtp)
        check_bodies(self.events)
        check_deliveries(self.events, self.heard, across=self.across, lmtp=self.lmtp)
        check_forwarded(self.events)
        if "LIMITS" in self.client.capabilities:
            check_announced(self.announced, self.events)


TestAdversary = Adversary.TestCase
TestAdversary.settings = settings(
    max_examples=examples(150), stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
