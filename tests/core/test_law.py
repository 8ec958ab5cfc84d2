"""The law: the two tables, and a connection that keeps to them.

What lives here: what may be said when, and what a reply leads to. What does not: what should be said.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smtpcore
from smtpcore import (
    LEADS,
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
    Verb,
)
from smtpcore._state import ENDS_GROUP, anticipated, leads


def say(connection: Connection, *verbs: Verb) -> None:
    for verb in verbs:
        connection.send(Command(verb, verb.value.encode()))
        assert isinstance(connection.next_event(), SendLine)


def hear(connection: Connection, octets: bytes) -> list[object]:
    connection.receive_data(octets)
    return list(iter(connection.next_event, None))


def opened(*, pipelining: bool = False, limits: Limits | None = None) -> Connection:
    connection = Connection(limits or Limits())
    hear(connection, b"220 hi\r\n")
    say(connection, Verb.EHLO)
    hear(connection, b"250 hello\r\n")
    connection.allow_pipelining(pipelining)
    assert connection.state is State.READY
    return connection


def test_every_state_and_every_verb_has_a_row() -> None:
    assert set(LEGAL) == set(State)
    assert set(LEADS) == set(Verb)
    assert set().union(*LEGAL.values()) == set(Verb) - {Verb.CONNECT, Verb.END_OF_DATA}


def test_every_code_leads_somewhere_or_breaks_the_law() -> None:
    for state, verb, code in itertools.product(State, Verb, range(200, 600)):
        after = leads(state, verb, code)
        if code >= 400:
            assert after is not None
        elif after is not None:
            assert code in LEADS[verb] or code // 100 in LEADS[verb]


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (Verb.CONNECT, 250),
        (Verb.STARTTLS, 250),
        (Verb.AUTH, 250),
        (Verb.DATA, 250),
        (Verb.DATA, 334),
        (Verb.MAIL, 354),
        (Verb.RCPT, 334),
        (Verb.END_OF_DATA, 354),
        (Verb.EHLO, 354),
    ],
)
def test_an_answer_that_fits_no_command_is_none(verb: Verb, code: int) -> None:
    assert leads(State.READY, verb, code) is None


def naive_fold(state: State, verbs: tuple[Verb, ...]) -> State:
    for verb in verbs:
        after = leads(state, verb, next(iter(LEADS[verb])) if next(iter(LEADS[verb])) > 9 else 250)
        assert after is not None
        state = after
    return state


def test_the_anticipated_state_is_the_fold_of_successes() -> None:
    for length in range(4):
        for verbs in itertools.product(Verb, repeat=length):
            assert anticipated(State.READY, reversed(verbs)) is naive_fold(State.READY, verbs)


def test_nothing_may_be_said_before_the_greeting() -> None:
    connection = Connection()
    assert not any(connection.can_send(verb) for verb in Verb)
    with pytest.raises(LocalProtocolError, match="EHLO"):
        connection.send(Command(Verb.EHLO, b"EHLO x"))


def test_nothing_leads_past_ehlo() -> None:
    for verb in LEGAL[State.GREETED]:
        connection = Connection()
        hear(connection, b"220 hi\r\n")
        say(connection, verb)
        hear(connection, b"250 ok\r\n")
        assert connection.can_send(Verb.MAIL) is (verb in {Verb.EHLO, Verb.HELO})


def test_a_reply_that_nobody_asked_for_answers_nothing() -> None:
    connection = opened()
    before = connection.snapshot()
    (event,) = hear(connection, b"421 bye\r\n")
    assert isinstance(event, Replied)
    assert event.command is None
    assert (connection.snapshot().said, connection.snapshot().replied) == (before.said, before.replied)


def test_a_refused_greeting_leaves_quit_and_nothing_else() -> None:
    connection = Connection()
    hear(connection, b"554 no service\r\n")
    assert {verb for verb in Verb if connection.can_send(verb)} == {Verb.QUIT}


def test_one_command_at_a_time_without_pipelining() -> None:
    connection = opened()
    say(connection, Verb.MAIL)
    assert not connection.can_send(Verb.RCPT)
    hear(connection, b"250 ok\r\n")
    assert connection.can_send(Verb.RCPT)
    assert not connection.can_send(Verb.DATA)


@pytest.mark.parametrize("verb", sorted(ENDS_GROUP & LEGAL[State.READY], key=lambda verb: verb.value))
def test_what_ends_a_group_is_followed_by_nothing(verb: Verb) -> None:
    connection = opened(pipelining=True)
    say(connection, Verb.RSET, verb)
    assert not any(connection.can_send(other) for other in Verb)


def test_a_group_runs_ahead_of_its_replies_and_a_refusal_needs_no_rollback() -> None:
    connection = opened(pipelining=True)
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.DATA)
    assert connection.anticipated is State.DATA
    replies = hear(connection, b"250 ok\r\n550 no\r\n550 no\r\n554 nobody\r\n")
    assert [reply.command.verb for reply in replies] == [Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.DATA]
    assert connection.state is connection.anticipated is State.MAIL
    assert connection.can_send(Verb.RSET)


def test_the_window_opens_again_when_half_of_it_is_answered() -> None:
    connection = opened(pipelining=True, limits=Limits(commands_in_flight=4))
    say(connection, Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.RCPT)
    assert not connection.can_send(Verb.RCPT)
    hear(connection, b"250 ok\r\n")
    assert not connection.can_send(Verb.RCPT)
    hear(connection, b"250 ok\r\n")
    assert connection.can_send(Verb.RCPT)


def test_the_octets_of_a_message_flow_between_354_and_the_dot() -> None:
    connection = opened()
    for verb in (Verb.MAIL, Verb.RCPT):
        say(connection, verb)
        hear(connection, b"250 ok\r\n")
    with pytest.raises(LocalProtocolError, match="no message is open"):
        connection.send_data(b"x")
    say(connection, Verb.DATA)
    hear(connection, b"354 go\r\n")
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
    hear(connection, b"250 taken\r\n")
    assert connection.state is State.READY
    assert not connection.in_doubt


@pytest.mark.parametrize(
    ("reply", "legal"), [(b"552 too big\r\n", True), (b"452 full\r\n", True), (b"250 ok\r\n", False)]
)
def test_a_verdict_before_the_end_of_the_message(reply: bytes, legal: bool) -> None:
    connection = opened(pipelining=True)
    say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
    hear(connection, b"250 ok\r\n250 ok\r\n354 go\r\n")
    connection.receive_data(reply)
    if not legal:
        with pytest.raises(RemoteProtocolError, match="no answer to end of data"):
            connection.next_event()
        return
    event = connection.next_event()
    assert isinstance(event, Replied)
    assert event.early
    assert connection.state is State.CLOSED


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"250 what?\r\n", "nobody asked"),
        (b"2", "nobody asked"),
        (b"\x80", "nobody asked"),
        (b"42a", "nobody asked"),
    ],
)
def test_octets_that_nobody_asked_for(octets: bytes, words: str) -> None:
    connection = opened()
    connection.receive_data(octets)
    with pytest.raises(RemoteProtocolError, match=words):
        connection.next_event()


def test_a_421_may_come_at_any_time_and_in_pieces() -> None:
    connection = opened()
    assert hear(connection, b"42") == []
    timeout = connection.timeout
    assert timeout is not None
    assert timeout.waiting_for is None
    assert not connection.can_send(Verb.MAIL)
    (event,) = hear(connection, b"1-bye\r\n421 bye\r\n")
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
    connection = opened()
    say(connection, Verb.MAIL)
    connection.receive_data(octets)
    with pytest.raises(RemoteProtocolError, match=words) as caught:
        list(iter(connection.next_event, None))
    assert caught.value.transcript is not None


def test_nothing_in_clear_crosses_into_tls() -> None:
    connection = opened()
    say(connection, Verb.STARTTLS)
    connection.receive_data(b"220 go\r\n250 injected\r\n")
    with pytest.raises(RemoteProtocolError, match="behind the reply to STARTTLS"):
        connection.next_event()

    connection = opened()
    say(connection, Verb.STARTTLS)
    hear(connection, b"220 go\r\n")
    assert connection.state is State.TLS
    connection.receive_data(b"2")
    with pytest.raises(RemoteProtocolError, match="where TLS must begin"):
        connection.next_event()
    with pytest.raises(RemoteProtocolError, match="where TLS must begin"):
        connection.tls_started()


def test_after_tls_the_session_begins_anew() -> None:
    connection = opened(pipelining=True)
    with pytest.raises(LocalProtocolError, match="no TLS handshake"):
        connection.tls_started()
    say(connection, Verb.STARTTLS)
    hear(connection, b"220 go\r\n")
    connection.tls_started()
    assert connection.state is State.GREETED
    assert not connection.can_send(Verb.MAIL)
    implicit = Connection(implicit_tls=True)
    assert implicit.state is State.TLS
    implicit.tls_started()
    assert implicit.state is State.CONNECTED


def test_a_deadline_runs_until_its_reply_is_whole() -> None:
    connection = Connection()
    greeting = connection.timeout
    assert greeting is not None
    assert (greeting.waiting_for, greeting.seconds) == (Verb.CONNECT, 300)
    hear(connection, b"220-a")
    assert connection.timeout is greeting
    hear(connection, b"\r\n220 b\r\n")
    assert connection.timeout is None
    say(connection, Verb.EHLO)
    assert connection.timeout is not greeting


@pytest.mark.parametrize("octets", [b"RSET\r\nMAIL", b"NOOP\n", b"NOOP\0", b"\r"])
def test_a_line_is_one_line(octets: bytes) -> None:
    connection = opened()
    before = connection.snapshot()
    with pytest.raises(LocalProtocolError):
        connection.send(Command(Verb.NOOP, octets))
    assert connection.snapshot() == before


def test_octets_after_the_end_are_refused() -> None:
    connection = opened()
    connection.receive_eof()
    assert connection.next_event() == PeerClosed()
    assert not connection.can_send(Verb.MAIL)
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"x")


def test_secrets_are_masked_even_if_echoed() -> None:
    connection = opened()
    connection.send(Command(Verb.AUTH, b"AUTH PLAIN c2VjcmV0", secret=True))
    connection.next_event()
    (event,) = hear(connection, b"535 bad: c2VjcmV0\r\n")
    assert "c2VjcmV0" not in str(event)
    assert "c2VjcmV0" not in str(connection.transcript)
    assert ">>> AUTH PLAIN ********" in connection.transcript.lines


@pytest.mark.parametrize("kept", [8, 20, 199])
@pytest.mark.parametrize("behind", ["", " and so on", "\r\n501 the end"])
def test_secrets_are_masked_even_if_the_echo_breaks_off(kept: int, behind: str) -> None:
    secret = "".join(f"{number:02x}" for number in range(100))
    connection = opened()
    connection.send(Command(Verb.AUTH, b"AUTH OAUTHBEARER " + secret.encode(), secret=True))
    connection.next_event()
    mark = "-" if "\r\n" in behind else " "
    (event,) = hear(connection, f"501{mark}{secret[:kept]} {secret[:kept]}{behind}\r\n".encode())
    assert isinstance(event, Replied)
    assert event.reply.lines[0] == "******** ********" + behind.partition("\r\n")[0]
    assert secret[:8] not in str(connection.transcript)


def test_a_secret_of_a_few_characters_is_masked_whole() -> None:
    connection = opened()
    connection.send(Command(Verb.AUTH, b"AUTH LOGIN YQ==", secret=True))
    connection.next_event()
    (event,) = hear(connection, b"535 YQ and YQ== and YQ==\r\n")
    assert isinstance(event, Replied)
    assert event.reply.text == "YQ and ******** and ********"


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"250 ok\r\n", b"354 go\r\n", b"421 no\r\n", b"550 x\r\n"])))
def test_arbitrary_octets_raise_only_what_is_the_peers_fault(pieces: list[bytes]) -> None:
    connection = opened(pipelining=True)
    say(connection, Verb.MAIL, Verb.RCPT, Verb.DATA)
    try:
        for piece in pieces:
            hear(connection, piece)
            snapshot = connection.snapshot()
            assert snapshot.replied + len(snapshot.in_flight) == snapshot.said
            assert snapshot.unread_octets <= Limits().reply_line
    except RemoteProtocolError:
        pass


PROBE = """
import sys
sys.path.insert(0, {root!r})
before = set(sys.modules)
import {module}
impure = {{"socket", "ssl", "select", "random", "logging", "threading", "asyncio", "email", "sqlite3", "anyio"}}
print(sorted(impure & (set(sys.modules) - before)))
"""


@pytest.mark.parametrize("module", ["smtpcore", "smtpcore.relay", "smtpcore.sasl"])
def test_the_core_is_pure(module: str) -> None:
    # Isolated, and without the site's packages: nothing else can have been imported before, and nothing else be found.
    root = str(pathlib.Path(smtpcore.__file__).parents[1])
    probe = PROBE.format(module=module, root=root)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_depends_on_nothing() -> None:
    requires = importlib.metadata.requires("smtpcore") or []
    assert all("extra ==" in requirement for requirement in requires)
