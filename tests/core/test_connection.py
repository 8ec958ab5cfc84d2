"""A connection against a naive one: which keeps the whole history in lists and reads the RFC's rules off by hand.

What lives here: the comparison, every state with every event, what a connection still does once it is closed, its
deadlines, and what it masks. What does not: the tables of the law (``test_state.py``), and what should be said.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import (
    LEGAL,
    Command,
    Connection,
    Deadlines,
    Limits,
    LocalProtocolError,
    PeerClosed,
    RemoteProtocolError,
    Replied,
    SendBody,
    SendLine,
    State,
    Timeout,
    Verb,
)
from smtpcore._state import ENDS_GROUP

from .examples import examples

WINDOW = 4

#: What a peer that is content answers, where it is not 250.
CONTENT = {
    Verb.CONNECT: 220,
    Verb.STARTTLS: 220,
    Verb.XCLIENT: 220,
    Verb.AUTH: 235,
    Verb.AUTH_ANSWER: 235,
    Verb.DATA: 354,
    Verb.QUIT: 221,
}

#: RFC 2920 §3.1: what may stand in the middle of a group; the end of data by §3.1 too, HELP because it is not named
#: there, chunks by RFC 3030 §4.2, and XFORWARD as Postfix says.
MAY_BE_FOLLOWED = {
    Verb.XFORWARD,
    Verb.MAIL,
    Verb.RCPT,
    Verb.RSET,
    Verb.HELP,
    Verb.END_OF_DATA,
    Verb.BDAT,
    Verb.BDAT_LAST,
}
CHUNKS = {Verb.BDAT, Verb.BDAT_LAST}


def after(state: State, verb: Verb, code: int) -> State | None:
    """Where a reply leads by RFC 5321 §4.3.2, RFC 3207, RFC 4954 and Postfix, or ``None`` where none allows it."""
    positive, refused = code // 100 == 2, code >= 400
    match verb:
        case Verb.CONNECT | Verb.XCLIENT:
            return State.GREETED if code == 220 else state if refused else None
        case Verb.STARTTLS:
            return State.TLS if code == 220 else state if refused else None
        case Verb.AUTH | Verb.AUTH_ANSWER:
            return {235: State.READY, 334: State.AUTH}.get(code) or (State.READY if refused else None)
        case Verb.DATA:
            return State.DATA if code == 354 else state if refused else None
        case Verb.END_OF_DATA:
            return State.READY if positive or refused else None
        case Verb.QUIT:
            return State.CLOSED if positive or refused else None
        case Verb.BDAT | Verb.BDAT_LAST:
            if positive and state is not State.FAILED:
                return State.CHUNK if verb is Verb.BDAT else State.READY
            return State.FAILED if refused else None
        case Verb.EHLO | Verb.HELO | Verb.LHLO | Verb.RSET | Verb.XFORWARD:
            return State.READY if positive else state if refused else None
        case Verb.MAIL:
            return State.MAIL if positive else state if refused else None
        case Verb.RCPT:
            return State.RCPT if positive else state if refused else None
        case _:
            return state if positive or refused else None


class Naive:
    """What a connection should be, with nothing done in advance and nothing cleverly."""

    def __init__(self, *, implicit_tls: bool) -> None:
        self.state = State.TLS if implicit_tls else State.CONNECTED
        self.waiting = [Verb.CONNECT]
        self.said: list[Verb] = [Verb.CONNECT]
        self.answered = 0
        self.full = self.pipelining = self.body = self.ended = False

    @property
    def waits_for_others(self) -> bool:
        """No reply can come: TLS begins, or all is over."""
        return self.state in {State.TLS, State.CLOSED}

    def may(self, verb: Verb) -> bool:
        if self.state is State.CLOSED or self.body or self.ended or self.full:
            return False
        if self.waiting and not (self.pipelining and self.waiting[-1] in MAY_BE_FOLLOWED):
            return False
        if self.waiting and self.waiting[-1] is Verb.BDAT_LAST and verb is not Verb.RSET:
            return False
        state: State | None = self.state
        for other in self.waiting:
            assert state is not None
            # Success leads to the same state whatever was before.
            state = after(State.RCPT if other in CHUNKS else state, other, CONTENT.get(other, 250))
        assert state is not None
        return verb in LEGAL[state]

    def say(self, verb: Verb) -> None:
        self.waiting.append(verb)
        self.said.append(verb)
        self.full = len(self.waiting) >= WINDOW

    def hear(self, code: int) -> tuple[Verb | None, bool] | None:
        """The verb that is answered and whether it is early; ``None`` for a violation."""
        if not self.waiting and code != 421:
            return None
        verb = self.waiting.pop(0) if self.waiting else None
        self.answered += verb is not None
        self.full = self.full and len(self.waiting) > WINDOW / 2
        if code == 421:
            self.state, self.body = State.CLOSED, False
            return verb, False
        assert verb is not None
        early = verb is Verb.END_OF_DATA and self.body
        state = after(self.state, verb, code)
        if state is None or (early and code < 400):
            return None
        if early:
            self.state, self.body = State.CLOSED, False
            return verb, True
        self.state = state
        if verb is Verb.DATA and state is State.DATA:
            self.body = True
            self.waiting.append(Verb.END_OF_DATA)
            self.said.append(Verb.END_OF_DATA)
        return verb, False


def drain(connection: Connection) -> list[Any]:
    return list(itertools.takewhile(lambda event: event not in (None, PeerClosed()), iter(connection.next_event, ...)))


def line(verb: Verb) -> Command:
    return Command(verb, verb.value.encode())


def say_chunk(connection: Connection, *, last: bool) -> None:
    assert connection.try_send_chunk(b"octets", last=last, about="chunk")
    command, octets = drain(connection)
    assert (command.data, octets.data) == (b"BDAT 6 LAST\r\n" if last else b"BDAT 6\r\n", b"octets")
    assert ("chunk" in connection.in_doubt) is last


def agree(connection: Connection, naive: Naive) -> None:
    snapshot = connection.snapshot()
    assert snapshot.state is connection.state is naive.state
    assert snapshot.in_flight == tuple(naive.waiting)
    assert connection.in_flight == len(naive.waiting)
    assert (snapshot.said, snapshot.replied) == (len(naive.said), naive.answered)
    assert snapshot.said == snapshot.replied + len(snapshot.in_flight)
    assert len(snapshot.in_flight) <= WINDOW
    assert snapshot.body_open is connection.body_open is naive.body
    assert {verb for verb in Verb if connection.can_send(verb)} == {verb for verb in Verb if naive.may(verb)}
    timeout = connection.timeout
    if naive.state is State.CLOSED or not naive.waiting:
        assert timeout is None
    else:
        assert timeout is not None
        assert timeout.waiting_for is naive.waiting[0]
        assert connection.timeout is timeout


def refused(connection: Connection, call: Any, *arguments: Any) -> None:
    """A refused call changes nothing that can be seen."""
    before = (connection.snapshot(), connection.transcript, connection.timeout, connection.anticipated)
    with pytest.raises(LocalProtocolError):
        call(*arguments)
    assert (connection.snapshot(), connection.transcript, connection.timeout, connection.anticipated) == before


STEP = st.one_of(
    st.tuples(st.just("say"), st.integers(0, 23)),
    st.tuples(st.just("say"), st.integers(0, 23)),
    st.tuples(st.just("content"), st.integers(1, 4)),
    st.tuples(st.just("content"), st.integers(1, 4)),
    st.tuples(st.just("code"), st.sampled_from([220, 235, 250, 334, 354, 421, 450, 500, 530, 550, 599])),
    st.tuples(st.just("refuse"), st.sampled_from([450, 550])),
    st.tuples(st.sampled_from(["body", "end", "tls", "wrong"]), st.just(0)),
    st.tuples(st.just("pipelining"), st.sampled_from([1, 1, 1, 0])),
    st.tuples(st.just("eof"), st.just(0)),
)


@settings(max_examples=examples(300), deadline=None)
@given(implicit_tls=st.sampled_from([False, False, False, True]), steps=st.lists(STEP, max_size=60))
def test_a_connection_is_what_the_naive_one_is(implicit_tls: bool, steps: list[tuple[str, int]]) -> None:
    connection = Connection(Limits(commands_in_flight=WINDOW), implicit_tls=implicit_tls)
    naive = Naive(implicit_tls=implicit_tls)
    if not implicit_tls:
        # Most lives get past the greeting.
        steps = [("content", 1), ("say", 0), ("content", 1), *steps]
    for what, number in steps:
        agree(connection, naive)
        legal = [verb for verb in Verb if naive.may(verb)]
        if what == "say" and legal:
            verb = legal[number % len(legal)]
            if verb in CHUNKS:
                say_chunk(connection, last=verb is Verb.BDAT_LAST)
                naive.say(verb)
                continue
            connection.send(line(verb))
            naive.say(verb)
            (order,) = drain(connection)
            assert (order.data, order.secret) == (verb.value.encode() + b"\r\n", False)
        elif what == "wrong":
            for verb in set(Verb) - set(legal):
                refused(connection, connection.send, line(verb))
            for verb in CHUNKS - set(legal):
                before = connection.snapshot()
                assert not connection.try_send_chunk(b"octets", last=verb is Verb.BDAT_LAST)
                assert connection.snapshot() == before
        elif what in {"content", "code", "refuse"}:
            if naive.ended:
                refused(connection, connection.receive_data, b"250 ok\r\n")
                continue
            if naive.waits_for_others:
                continue
            codes = [CONTENT.get(verb, 250) for verb in naive.waiting[:number]] if what == "content" else [number]
            # The end of a message is answered when it was said, or else early: not by contentment.
            if what == "content" and naive.body:
                continue
            connection.receive_data(b"".join(b"%d-x\r\n%d y\r\n" % (code, code) for code in codes))
            for index, code in enumerate(codes):
                if naive.state is State.CLOSED:
                    assert connection.next_event() is None
                    break
                heard = naive.hear(code)
                if heard is None or (naive.state is State.TLS and index + 1 < len(codes)):
                    with pytest.raises(RemoteProtocolError) as caught:
                        connection.next_event()
                    assert caught.value.transcript is not None
                    return
                event = connection.next_event()
                assert isinstance(event, Replied)
                assert (None if event.command is None else event.command.verb, event.early) == heard
                assert (event.reply.code, event.reply.lines) == (code, ("x", "y"))
        elif what == "body":
            if naive.body:
                connection.send_data(b"octets")
                assert isinstance(connection.next_event(), SendBody)
            else:
                refused(connection, connection.send_data, b"octets")
        elif what == "end":
            if naive.body:
                connection.end_data(b".\r\n")
                naive.body = False
                assert not connection.in_doubt
                assert connection.next_event() == SendLine(b".\r\n", False, Deadlines().data_block)
                assert connection.in_doubt
            else:
                refused(connection, connection.end_data, b".\r\n")
        elif what == "tls":
            if naive.state is State.TLS:
                connection.tls_started()
                naive.state = State.CONNECTED if naive.waiting else State.GREETED
                naive.pipelining = False
            else:
                refused(connection, connection.tls_started)
        elif what == "pipelining":
            connection.allow_pipelining(bool(number))
            naive.pipelining = bool(number)
        elif what == "eof":
            connection.receive_eof()
            naive.ended = True
            assert connection.next_event() == (None if naive.state is State.CLOSED else PeerClosed())
    agree(connection, naive)


# --- every state and every event ------------------------------------------------------------------------------------

#: A way to each state: what is said, and the code that answers it.
WAYS: dict[State, list[tuple[Verb, int]]] = {State.CONNECTED: []}
WAYS[State.GREETED] = [(Verb.CONNECT, 220)]
WAYS[State.READY] = [*WAYS[State.GREETED], (Verb.EHLO, 250)]
WAYS[State.TLS] = [*WAYS[State.READY], (Verb.STARTTLS, 220)]
WAYS[State.AUTH] = [*WAYS[State.READY], (Verb.AUTH, 334)]
WAYS[State.MAIL] = [*WAYS[State.READY], (Verb.MAIL, 250)]
WAYS[State.RCPT] = [*WAYS[State.MAIL], (Verb.RCPT, 250)]
WAYS[State.DATA] = [*WAYS[State.RCPT], (Verb.DATA, 354)]
WAYS[State.CHUNK] = [*WAYS[State.RCPT], (Verb.BDAT, 250)]
WAYS[State.FAILED] = [*WAYS[State.RCPT], (Verb.BDAT, 550)]
WAYS[State.CLOSED] = [*WAYS[State.READY], (Verb.QUIT, 221)]

#: One code at least for each row of the law, and for each digit without one.
CODES = (211, 220, 235, 250, 299, 300, 334, 354, 399, 400, 421, 450, 499, 500, 554, 599)


def utter(connection: Connection, naive: Naive, verb: Verb) -> None:
    if verb in CHUNKS:
        say_chunk(connection, last=verb is Verb.BDAT_LAST)
    else:
        connection.send(line(verb))
        drain(connection)
    naive.say(verb)


def told(connection: Connection, naive: Naive, code: int) -> bool:
    """Let both hear ``code``, and compare what they make of it; false if it is a violation."""
    connection.receive_data(b"%d text\r\n" % code)
    if naive.state is State.CLOSED:
        assert connection.next_event() is None
        return True
    heard = None if naive.state is State.TLS else naive.hear(code)
    if heard is None:
        before = connection.snapshot().state
        with pytest.raises(RemoteProtocolError):
            connection.next_event()
        assert connection.state is before
        return False
    event = connection.next_event()
    assert isinstance(event, Replied)
    assert (None if event.command is None else event.command.verb, event.early) == heard
    agree(connection, naive)
    return True


def reached(state: State) -> tuple[Connection, Naive]:
    connection, naive = Connection(Limits(commands_in_flight=WINDOW)), Naive(implicit_tls=False)
    for verb, code in WAYS[state]:
        if verb is not Verb.CONNECT:
            utter(connection, naive, verb)
        assert told(connection, naive, code)
    assert connection.state is state
    return connection, naive


@pytest.mark.parametrize("state", State)
def test_in_every_state_every_command_is_said_or_refused_and_every_answer_is_heard(state: State) -> None:
    for verb, code in itertools.product(Verb, CODES):
        connection, naive = reached(state)
        if naive.may(verb):
            utter(connection, naive, verb)
            agree(connection, naive)
            told(connection, naive, code)
        elif verb in CHUNKS:
            before = connection.snapshot()
            assert not connection.try_send_chunk(b"octets", last=verb is Verb.BDAT_LAST)
            assert connection.snapshot() == before
        else:
            refused(connection, connection.send, line(verb))


@pytest.mark.parametrize("state", State)
def test_in_every_state_every_reply_is_heard_though_no_command_was_said(state: State) -> None:
    for code in CODES:
        told(*reached(state), code)


@pytest.mark.parametrize("state", State)
def test_in_every_state_every_other_fact_is_taken_or_refused(state: State) -> None:
    connection, naive = reached(state)
    if naive.body:
        connection.send_data(b"octets")
        assert isinstance(connection.next_event(), SendBody)
        connection.end_data(b".\r\n")
        drain(connection)
        naive.body = False
        agree(connection, naive)
        assert connection.in_doubt == (None,)
    else:
        refused(connection, connection.send_data, b"octets")
        refused(connection, connection.end_data, b".\r\n")
    if state is State.TLS:
        connection.tls_started()
        naive.state = State.GREETED
        agree(connection, naive)
    else:
        refused(connection, connection.tls_started)
    connection.drop_orders()
    agree(connection, naive)
    connection.receive_eof()
    naive.ended = True
    agree(connection, naive)
    refused(connection, connection.receive_data, b"2")
    assert connection.next_event() == (None if state is State.CLOSED else PeerClosed())


# --- any division ---------------------------------------------------------------------------------------------------


def opened(limits: Limits | None = None, *, pipelining: bool = True) -> Connection:
    connection = Connection(limits or Limits())
    connection.receive_data(b"220 hi\r\n")
    drain(connection)
    say(connection, Verb.EHLO)
    connection.receive_data(b"250 hello\r\n")
    drain(connection)
    connection.allow_pipelining(pipelining)
    return connection


def say(connection: Connection, *verbs: Verb) -> None:
    for verb in verbs:
        connection.send(line(verb))
        assert isinstance(connection.next_event(), SendLine)


PIECES = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250-a\r\n",
        b"354 go\r\n",
        b"421 bye\r\n",
        b"550-x\r\n550 y\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"25",
        b"4",
    ]
)


@settings(deadline=None)
@given(octets=st.lists(PIECES | st.binary(max_size=8), max_size=8).map(b"".join), cuts=st.lists(st.integers(0, 80)))
def test_any_division_of_the_octets_gives_the_same_replies(octets: bytes, cuts: list[int]) -> None:
    def life(pieces: Sequence[bytes]) -> tuple[list[object], bool]:
        connection = opened(Limits(reply_line=30, reply_lines=3))
        say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
        heard: list[object] = []
        try:
            for piece in pieces:
                connection.receive_data(piece)
                while (event := connection.next_event()) is not None:
                    heard.append(event)
        except RemoteProtocolError:
            return heard, True
        return heard, False

    borders = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    assert life([octets[start:end] for start, end in itertools.pairwise(borders)]) == life([octets])


# --- closed is closed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", range(4))
def test_after_a_421_nothing_may_be_said_though_commands_are_in_flight(answered: int) -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.RCPT)
    connection.receive_data(b"250 ok\r\n" * answered + b"421 bye\r\n250 ok\r\n")
    events = drain(connection)
    assert [event.reply.code for event in events] == [250] * answered + [421]
    assert connection.state is connection.anticipated is State.CLOSED
    assert not any(connection.can_send(verb) for verb in Verb)
    assert connection.timeout is None
    assert connection.next_event() is None


@pytest.mark.parametrize(("code", "early"), [(421, False), (552, True), (452, True)])
def test_after_an_early_verdict_no_octet_of_the_message_may_be_said(code: int, early: bool) -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
    connection.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
    drain(connection)
    connection.send_data(b"half a message")
    drain(connection)
    connection.receive_data(b"%d no\r\n" % code)
    (event,) = drain(connection)
    assert (event.command.verb, event.early) == (Verb.END_OF_DATA, early)
    assert connection.state is State.CLOSED
    assert not connection.body_open
    assert not connection.in_doubt
    refused(connection, connection.send_data, b"x")
    refused(connection, connection.end_data, b".\r\n")
    assert connection.next_event() is None


# --- deadlines ------------------------------------------------------------------------------------------------------

#: Every row with a length of its own, so that none can be taken for another.
ROWS = Deadlines(
    connect=1,
    greeting=2,
    ehlo=3,
    starttls=4,
    auth=5,
    mail=6,
    rcpt=7,
    data_initiation=8,
    data_block=9,
    data_termination=10,
    other=11,
    quit=12,
    last_words=13,
)


@pytest.mark.parametrize(
    ("verbs", "row"),
    [
        ([Verb.EHLO], ROWS.ehlo),
        ([Verb.HELO], ROWS.ehlo),
        ([Verb.LHLO], ROWS.ehlo),
        ([Verb.STARTTLS], ROWS.starttls),
        ([Verb.XCLIENT], ROWS.greeting),
        ([Verb.AUTH], ROWS.auth),
        ([Verb.MAIL], ROWS.mail),
        ([Verb.MAIL, Verb.RCPT], ROWS.rcpt),
        ([Verb.MAIL, Verb.RCPT, Verb.DATA], ROWS.data_initiation),
        ([Verb.RSET], ROWS.other),
        ([Verb.NOOP], ROWS.other),
        ([Verb.VRFY], ROWS.other),
        ([Verb.EXPN], ROWS.other),
        ([Verb.HELP], ROWS.other),
        ([Verb.XFORWARD], ROWS.other),
        ([Verb.OTHER], ROWS.other),
        ([Verb.QUIT], ROWS.quit),
    ],
)
def test_each_command_has_its_row(verbs: list[Verb], row: float) -> None:
    connection = Connection(Limits(deadlines=ROWS))
    assert connection.timeout == Timeout(Verb.CONNECT, ROWS.greeting)
    connection.receive_data(b"220 hi\r\n")
    drain(connection)
    say(connection, Verb.EHLO)
    connection.receive_data(b"250 hello\r\n")
    drain(connection)
    for verb in verbs[:-1]:
        say(connection, verb)
        connection.receive_data(b"250 ok\r\n")
        drain(connection)
    connection.send(line(verbs[-1]))
    assert connection.next_event() == SendLine(verbs[-1].value.encode() + b"\r\n", False, row)
    assert connection.timeout == Timeout(verbs[-1], row)


def test_a_message_has_a_row_for_each_block_and_one_for_its_verdict() -> None:
    connection = opened(Limits(deadlines=ROWS))
    say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
    connection.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
    drain(connection)
    connection.send_data(b"x")
    assert connection.next_event() == SendBody(b"x", ROWS.data_block)
    connection.end_data(b".\r\n")
    assert connection.next_event() == SendLine(b".\r\n", False, ROWS.data_block)
    assert connection.timeout == Timeout(Verb.END_OF_DATA, ROWS.data_termination)


def test_two_equal_commands_in_a_row_have_two_deadlines() -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT)
    connection.receive_data(b"250 ok\r\n")
    drain(connection)
    first = connection.timeout
    connection.receive_data(b"250-slow")
    assert drain(connection) == []
    assert connection.timeout is first
    connection.receive_data(b"\r\n250 ly\r\n")
    drain(connection)
    second = connection.timeout
    assert second == first
    assert second is not first


# --- orders that never left -----------------------------------------------------------------------------------------


def test_a_message_whose_end_never_left_is_open_again() -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
    connection.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
    drain(connection)
    connection.end_data(b".\r\n")
    connection.drop_orders()
    assert connection.body_open
    assert not connection.in_doubt
    assert connection.snapshot().unsent_orders == 0
    connection.receive_data(b"552 too big\r\n")
    (event,) = drain(connection)
    assert event.early


# --- secrets --------------------------------------------------------------------------------------------------------


def said_in_secret(secret: bytes) -> Connection:
    connection = opened()
    connection.send(Command(Verb.AUTH, b"AUTH X"))
    connection.next_event()
    connection.receive_data(b"334 \r\n")
    drain(connection)
    connection.send(Command(Verb.AUTH_ANSWER, secret, secret=True))
    order = connection.next_event()
    assert order == SendLine(secret + b"\r\n", True, Deadlines().auth)
    return connection


@pytest.mark.parametrize("secret", ["gehäim-gehäim", "tab\there", "esc\x1b[31mred", "AUTH", "auth", "a*b", "********"])
def test_whatever_a_secret_looks_like_its_echo_is_masked(secret: str) -> None:
    connection = said_in_secret(secret.encode())
    connection.receive_data(f"535 you said {secret}, {secret}!\r\n".encode())
    (event,) = drain(connection)
    assert event.reply.text == "you said ********, ********!"
    assert connection.transcript.lines[-2:] == (">>> ********", "<<< 535 you said ********, ********!")
    assert repr(event.command) == "Command(AUTH_ANSWER, b'********')"


@pytest.mark.parametrize(
    ("secret", "echo", "shown"),
    [
        (b"\0anna\0open sesame", "open sesame is not for anna", "******** is not for anna"),
        (b"\0anna\0annabel-lee", "not annabel-lee", "not ********"),
        (b"\0anna\0open\1sesame", "not open\1sesame", "not ********"),
        (b"\0anna\0open sesame", "b3BlbiBzZXNhbWU= of YW5uYQ==", "******** of YW5uYQ=="),
        (b"open sesame", "no: open sesame", "no: ********"),
        (b"open\0sesame", "no: sesame", "no: ********"),
        (b"user=anna\1auth=Bearer ya29.token\1\1", "anna, ya29.token", "anna, ********"),
        (b"n,a=anna,\1host=mx.example\1auth=Bearer ya29.token\1\1", "ya29.token, anna", "********, anna"),
        (b"n,,n=anna,r=fyko-d2lbb", "anna said fyko-d2lbb", "anna said ********"),
        (b"anna b913a602c7eda7a495b4e6e7334d3890", "anna b913a602c7eda7a495b4e6e7334d3890", "********"),
        (b"anna b913a602c7eda7a495b4e6e7334d3890", "anna: b913a602c7eda7a495b4e6e7334d3890", "anna: ********"),
        (b"anna b913a602c7eda7a495b4e6e7334d3890", "who is anna?", "who is anna?"),
        (b"me", "some", "some"),
    ],
)
def test_what_is_decoded_is_masked_too(secret: bytes, echo: str, shown: str) -> None:
    connection = said_in_secret(base64.b64encode(secret))
    connection.receive_data(f"535 {echo}\r\n".encode())
    (event,) = drain(connection)
    assert event.reply.text == shown
    assert connection.transcript.lines[-1] == f"<<< 535 {shown}"


def test_of_two_secrets_the_later_is_masked_whole_too() -> None:
    connection = said_in_secret(base64.b64encode(b"anna"))
    connection.receive_data(b"334 \r\n")
    drain(connection)
    connection.send(Command(Verb.AUTH_ANSWER, base64.b64encode(b"annabel-lee"), secret=True))
    connection.receive_data(b"535 not annabel-lee\r\n")
    assert drain(connection)[-1].reply.text == "not ********"


def test_octets_that_are_no_text_can_be_a_secret() -> None:
    connection = said_in_secret(b"\xff\xfe\xfd octets \xff\xfe\xfd")
    connection.receive_data(b"535 <\xff\xfe\xfd>\r\n")
    (event,) = drain(connection)
    assert event.reply.text == "<********>"


@pytest.mark.parametrize("secret", [b"", b"*", b"AUTH PLAIN "])
def test_a_secret_of_next_to_nothing_hangs_nobody(secret: bytes) -> None:
    connection = said_in_secret(secret)
    connection.receive_data(b"535 a * b\r\n")
    (event,) = drain(connection)
    assert event.reply.text == ("a ******** b" if secret == b"*" else "a * b")


@settings(deadline=None)
@given(st.text(st.characters(blacklist_characters="\r\n\0 ", blacklist_categories=["Cs"]), min_size=4, max_size=20))
def test_no_whole_echo_survives(secret: str) -> None:
    connection = said_in_secret(secret.encode())
    connection.receive_data(b"535 " + secret.encode() + b"\r\n")
    (event,) = drain(connection)
    assert event.reply.text == "********"


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"535 c2VjcmV0\0\r\n", "bare CR, bare LF or NUL in a reply line: ********"),
        (b"c2VjcmV0\r\n", "not a reply line: ********"),
        (b"535-c2VjcmV0\r\n536 c2VjcmV0\r\n", "a reply with two codes: 535 and 536"),
        (b"250 c2VjcmV0\r\n", "250 is no answer to AUTH answer: 250 ********"),
        (b"535 c2VjcmV0\n", "a bare LF in a reply: ********"),
        (b"535 " + b"c2VjcmV0" * 600, "a reply line of more than 4096 octets"),
    ],
)
def test_no_violation_quotes_a_secret(octets: bytes, words: str) -> None:
    connection = said_in_secret(b"c2VjcmV0")
    connection.receive_data(octets)
    with pytest.raises(RemoteProtocolError) as caught:
        drain(connection)
    assert str(caught.value) == words
    assert "c2VjcmV0" not in f"{caught.value!r} {caught.value.transcript} {caught.value.reply}"
    assert caught.value.__cause__ is None


def test_a_challenge_that_nobody_asked_for_is_a_violation_behind_secrets_too() -> None:
    connection = said_in_secret(b"c2VjcmV0")
    connection.receive_data(b"235 welcome\r\n")
    drain(connection)
    connection.receive_data(b"421-bye\r\n334 c2VjcmV0\r\n")
    with pytest.raises(RemoteProtocolError, match="two codes: 421 and 334"):
        drain(connection)


def test_an_echo_is_masked_in_every_reply_but_a_challenge() -> None:
    connection = said_in_secret(b"c2VjcmV0")
    connection.receive_data(b"334 c2VjcmV0\r\n")
    (challenge,) = drain(connection)
    assert challenge.reply.text == "c2VjcmV0"
    connection.send(Command(Verb.AUTH_ANSWER, b"*"))
    connection.next_event()
    connection.receive_data(b"535 no c2VjcmV0\r\n")
    (event,) = drain(connection)
    assert event.reply.text == "no ********"
    say(connection, Verb.NOOP)
    connection.receive_data(b"334 c2VjcmV0\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        drain(connection)
    assert "c2VjcmV0" not in f"{caught.value} {caught.value.reply}"


def test_a_refused_secret_is_not_shown() -> None:
    connection = opened()
    with pytest.raises(LocalProtocolError) as caught:
        connection.send(Command(Verb.AUTH, b"AUTH PLAIN c2Vj\r\ncmV0", secret=True))
    assert "c2Vj" not in f"{caught.value!r} {caught.value}"
    assert connection.transcript.lines[-1] == "<<< 250 hello"


def test_a_transcript_forgets_its_oldest_lines() -> None:
    connection = opened(Limits(transcript_lines=3))
    say(connection, Verb.NOOP)
    connection.receive_data(b"250 done\r\n")
    drain(connection)
    assert connection.transcript.lines == ("<<< 250 hello", ">>> NOOP", "<<< 250 done")
    assert [said for said, _ in connection.transcript.entries] == [False, True, False]
    silent = opened(Limits(transcript_lines=0))
    assert silent.transcript.lines == ()


# --- case by case -----------------------------------------------------------------------------------------------------


def heard(connection: Connection, octets: bytes) -> list[Any]:
    connection.receive_data(octets)
    return list(iter(connection.next_event, None))


def test_nothing_may_be_said_before_the_greeting() -> None:
    connection = Connection()
    assert not any(connection.can_send(verb) for verb in Verb)
    with pytest.raises(LocalProtocolError, match="EHLO"):
        connection.send(Command(Verb.EHLO, b"EHLO x"))


@pytest.mark.parametrize("verb", sorted(ENDS_GROUP & LEGAL[State.READY], key=str))
def test_what_ends_a_group_is_followed_by_nothing(verb: Verb) -> None:
    connection = opened()
    say(connection, Verb.RSET, verb)
    assert not any(connection.can_send(other) for other in Verb)


def test_a_group_runs_ahead_of_its_replies_and_a_refusal_needs_no_rollback() -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.DATA)
    anticipated = connection.anticipated
    assert anticipated is State.DATA
    replies = heard(connection, b"250 ok\r\n550 no\r\n550 no\r\n554 nobody\r\n")
    assert [reply.command.verb for reply in replies] == [Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.DATA]
    assert connection.state is connection.anticipated is State.MAIL
    assert connection.can_send(Verb.RSET)


def test_the_window_opens_again_when_half_of_it_is_answered() -> None:
    connection = opened(Limits(commands_in_flight=4))
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.RCPT)
    assert not connection.can_send(Verb.RCPT)
    heard(connection, b"250 ok\r\n")
    assert not connection.can_send(Verb.RCPT)
    heard(connection, b"250 ok\r\n")
    assert connection.can_send(Verb.RCPT)
    # One that was not full is not closed by a reply.
    other = opened(Limits(commands_in_flight=8))
    say(other, Verb.MAIL, *[Verb.RCPT] * 6)
    heard(other, b"250 ok\r\n")
    assert other.can_send(Verb.RCPT)


def test_a_verdict_that_is_not_the_last_opens_no_window() -> None:
    connection = Connection(Limits(commands_in_flight=8), lmtp=True)
    heard(connection, b"220 hi\r\n")
    say(connection, Verb.LHLO)
    heard(connection, b"250 hello\r\n")
    connection.allow_pipelining(True)
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT)
    heard(connection, b"250 ok\r\n" * 3)
    assert connection.try_send_chunk(b"a", last=False)
    assert connection.try_send_chunk(b"b", last=True)
    drain(connection)
    say(connection, Verb.RSET, Verb.MAIL, *[Verb.RCPT] * 4)
    for _ in range(2):
        # The chunk, and the first verdict.
        heard(connection, b"250 ok\r\n")
        assert not connection.can_send(Verb.RCPT)
    heard(connection, b"250 ok\r\n" * 3)
    assert connection.can_send(Verb.RCPT)


def test_the_octets_of_each_message_are_counted() -> None:
    connection = opened()
    for octets in (b"abc", b"defgh"):
        say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
        heard(connection, b"250 ok\r\n250 ok\r\n354 go\r\n")
        connection.send_data(octets)
        connection.end_data(b"\r\n.\r\n")
        assert connection.transcript.lines[-2:] == (f">>> ({len(octets)} octets of message)", ">>> .")
        drain(connection)
        heard(connection, b"250 taken\r\n")


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("reply", [b"250 taken\r\n", b"550 no\r\n", b"421 bye\r\n"])
def test_a_verdict_ends_the_doubt(chunks: bool, reply: bytes) -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT)
    heard(connection, b"250 ok\r\n250 ok\r\n")
    if chunks:
        assert connection.try_send_chunk(b"abc", last=True, about="a mail")
    else:
        connection.send(Command(Verb.DATA, b"DATA"), "a mail")
        heard(connection, b"354 go\r\n")
        connection.end_data(b".\r\n")
    assert not connection.in_doubt
    drain(connection)
    assert connection.in_doubt == ("a mail",)
    heard(connection, reply)
    assert not connection.in_doubt


@pytest.mark.parametrize("pipelining", [False, True])
def test_the_octets_of_a_message_flow_between_354_and_the_dot(pipelining: bool) -> None:
    connection = opened(pipelining=pipelining)
    for verb in (Verb.MAIL, Verb.RCPT):
        say(connection, verb)
        heard(connection, b"250 ok\r\n")
    with pytest.raises(LocalProtocolError, match="no message is open"):
        connection.send_data(b"x")
    say(connection, Verb.DATA)
    heard(connection, b"354 go\r\n")
    assert connection.body_open
    assert not any(connection.can_send(verb) for verb in Verb)
    connection.send_data(b"x")
    assert connection.next_event() == SendBody(b"x", Deadlines().data_block)
    connection.end_data(b"\r\n.\r\n")
    assert not connection.in_doubt
    connection.next_event()
    assert connection.in_doubt
    with pytest.raises(LocalProtocolError, match="no message is open"):
        connection.end_data(b".\r\n")
    heard(connection, b"250 taken\r\n")
    assert connection.state is State.READY
    assert not connection.in_doubt


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"250 what?\r\n", "nobody asked for: b'250 what"),
        (b"421-bye\r\n250 what?\r\n", "two codes: 421 and 250"),
        (b"2", "nobody asked"),
        (b"\x80", "nobody asked"),
        (b"42a", "nobody asked"),
    ],
)
def test_octets_that_nobody_asked_for(octets: bytes, words: str) -> None:
    connection = opened(pipelining=False)
    connection.receive_data(octets)
    with pytest.raises(RemoteProtocolError, match=words):
        connection.next_event()


def test_a_chunk_is_said_with_its_octets_and_shown_without_them() -> None:
    connection = opened()
    say(connection, Verb.MAIL, Verb.RCPT)
    for verb in CHUNKS:
        with pytest.raises(LocalProtocolError, match="together with its octets"):
            connection.send(Command(verb, b"BDAT 3"))
    assert connection.try_send_chunk(b"abc", last=False)
    assert connection.try_send_chunk(b"", last=True)
    assert connection.transcript.lines[-3:] == (">>> BDAT 3", ">>> (3 octets of message)", ">>> BDAT 0 LAST")


def test_a_421_may_come_at_any_time_and_in_pieces() -> None:
    connection = opened(pipelining=False)
    assert heard(connection, b"42") == []
    timeout = connection.timeout
    assert timeout is not None
    assert timeout.waiting_for is None
    assert not connection.can_send(Verb.MAIL)
    assert not connection.quiet
    # A whole line, and more to come.
    assert heard(connection, b"1-bye\r\n") == []
    assert connection.timeout is timeout
    assert not connection.can_send(Verb.MAIL)
    assert not connection.quiet
    (event,) = heard(connection, b"421 bye\r\n")
    assert (event.command, event.reply.code) == (None, 421)
    assert connection.state is State.CLOSED
    assert connection.timeout is None


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"250-a\r\n550 b\r\n", "two codes"),
        (b"250-a\r\n" * 600, "512 lines"),
        (b"250 " + b"x" * 5000, "4096 octets"),
        (b"250 ok\n", "bare LF"),
        (b"hello\r\n", "not a reply"),
        (b"354 go\r\n", "no answer to MAIL"),
    ],
)
def test_replies_that_break_the_protocol(octets: bytes, words: str) -> None:
    connection = opened(pipelining=False)
    say(connection, Verb.MAIL)
    connection.receive_data(octets)
    with pytest.raises(RemoteProtocolError, match=words) as caught:
        list(iter(connection.next_event, None))
    assert caught.value.transcript is not None


def test_a_line_that_is_no_reply_stands_in_the_transcript() -> None:
    connection = opened(pipelining=False)
    say(connection, Verb.NOOP)
    connection.receive_data(b"hello, " * 20 + b"\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        connection.next_event()
    assert caught.value.transcript is not None
    assert caught.value.transcript.lines[-2:] == (">>> NOOP", "<<< " + ("hello, " * 20)[:80])
    masked = said_in_secret(b"c2VjcmV0")
    masked.receive_data(b"c2VjcmV0\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        masked.next_event()
    assert caught.value.transcript is not None
    assert caught.value.transcript.lines[-1] == "<<< ********"


def test_a_reply_has_as_many_lines_as_may_be_and_no_more() -> None:
    connection = opened(Limits(reply_lines=3), pipelining=False)
    say(connection, Verb.NOOP)
    (event,) = heard(connection, b"250-a\r\n250-b\r\n250 c\r\n")
    assert event.reply.lines == ("a", "b", "c")
    say(connection, Verb.NOOP)
    connection.receive_data(b"250-a\r\n250-b\r\n250-c\r\n")
    with pytest.raises(RemoteProtocolError, match="more than 3 lines"):
        connection.next_event()


def test_nothing_in_clear_crosses_into_tls() -> None:
    connection = opened(pipelining=False)
    say(connection, Verb.STARTTLS)
    connection.receive_data(b"220 go\r\n250 injected\r\n")
    with pytest.raises(RemoteProtocolError, match="behind the reply to STARTTLS"):
        connection.next_event()

    connection = opened(pipelining=False)
    say(connection, Verb.STARTTLS)
    heard(connection, b"220 go\r\n")
    assert connection.state is State.TLS
    connection.receive_data(b"2")
    with pytest.raises(RemoteProtocolError, match="where TLS must begin"):
        connection.next_event()
    with pytest.raises(RemoteProtocolError, match="where TLS must begin"):
        connection.tls_started()


def test_after_tls_the_session_begins_anew() -> None:
    connection = opened()
    with pytest.raises(LocalProtocolError, match="no TLS handshake"):
        connection.tls_started()
    say(connection, Verb.STARTTLS)
    heard(connection, b"220 go\r\n")
    connection.tls_started()
    assert connection.state is State.GREETED
    assert not connection.can_send(Verb.MAIL)
    implicit = Connection(implicit_tls=True)
    before = implicit.state
    assert before is State.TLS
    implicit.tls_started()
    assert implicit.state is State.CONNECTED


def test_a_deadline_runs_until_its_reply_is_whole() -> None:
    connection = Connection()
    greeting = connection.timeout
    assert greeting is not None
    assert (greeting.waiting_for, greeting.seconds) == (Verb.CONNECT, 300)
    heard(connection, b"220-a")
    still = connection.timeout
    assert still is greeting
    heard(connection, b"\r\n220 b\r\n")
    assert connection.timeout is None
    say(connection, Verb.EHLO)
    assert connection.timeout is not greeting


@pytest.mark.parametrize("octets", [b"RSET\r\nMAIL", b"NOOP\n", b"NOOP\0", b"\r"])
def test_a_line_is_one_line(octets: bytes) -> None:
    connection = opened(pipelining=False)
    before = connection.snapshot()
    with pytest.raises(LocalProtocolError):
        connection.send(Command(Verb.NOOP, octets))
    assert connection.snapshot() == before


@pytest.mark.parametrize("kept", [8, 20, 199])
@pytest.mark.parametrize("behind", ["", " and so on", "\r\n501 the end"])
def test_secrets_are_masked_even_if_the_echo_breaks_off(kept: int, behind: str) -> None:
    secret = "".join(f"{number:02x}" for number in range(100))
    connection = opened(pipelining=False)
    connection.send(Command(Verb.AUTH, b"AUTH OAUTHBEARER " + secret.encode(), secret=True))
    connection.next_event()
    mark = "-" if "\r\n" in behind else " "
    (event,) = heard(connection, f"501{mark}{secret[:kept]} {secret[:kept]}{behind}\r\n".encode())
    assert isinstance(event, Replied)
    assert event.reply.lines[0] == "******** ********" + behind.partition("\r\n")[0]
    assert secret[:8] not in str(connection.transcript)


def test_a_secret_of_a_few_characters_is_masked_whole() -> None:
    connection = opened(pipelining=False)
    connection.send(Command(Verb.AUTH, b"AUTH LOGIN YQ==", secret=True))
    connection.next_event()
    (event,) = heard(connection, b"535 YQ and YQ== and YQ==\r\n")
    assert isinstance(event, Replied)
    assert event.reply.text == "YQ and ******** and ********"
