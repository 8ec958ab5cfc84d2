"""How a client's session ends: 421, the end of the stream, silence, failed writes, broken bodies, abort, QUIT.

What lives here: the end in every place, and the law of answers there. What does not: sessions that go well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smtpcore import (
    BeginTls,
    BodyError,
    BodyFacts,
    Client,
    ConnectionLost,
    Deadlines,
    Disconnect,
    DisconnectReason,
    Envelope,
    Idle,
    LocalProtocolError,
    MailRefused,
    MailSent,
    NeedBody,
    PeerTimeout,
    RemoteProtocolError,
    SendLine,
    ServiceRefused,
    SessionAborted,
    Stage,
    Timeout,
    TlsPolicy,
    Verb,
    Verdict,
)
from smtpcore.sasl import Plain
from smtpcore.testing import PureDriver, ScriptedServer, converse

A, B = "ann@b.example", "bob@b.example"
D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER
EHLO = b"250-mx\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"
MAIL = Envelope("alice@a.example", (A, B))

#: Every place where a session waits for its peer: options, and what it has heard until then.
PLACES: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    "greeting": ({}, []),
    "EHLO": ({}, [b"220 hi\r\n"]),
    "HELO": ({}, [b"220 hi\r\n", b"500 what\r\n"]),
    "STARTTLS": ({"tls": TlsPolicy.REQUIRED}, [b"220 hi\r\n", EHLO]),
    "AUTH": ({"tls": TlsPolicy.SECURED, "credentials": [Plain("u", "p")]}, [b"220 hi\r\n", EHLO]),
    "AUTH answer": ({"tls": TlsPolicy.SECURED, "credentials": [Plain("u", "p")]}, [b"220 hi\r\n", EHLO, b"334 \r\n"]),
    "MAIL": ({"tls": TlsPolicy.NEVER}, [b"220 hi\r\n", EHLO]),
    "RCPT": ({"tls": TlsPolicy.NEVER}, [b"220 hi\r\n", EHLO, b"250 ok\r\n"]),
    "RCPT 2": ({"tls": TlsPolicy.NEVER}, [b"220 hi\r\n", EHLO, b"250 ok\r\n", b"250 ok\r\n"]),
    "DATA": ({"tls": TlsPolicy.NEVER}, [b"220 hi\r\n", EHLO, b"250 ok\r\n" * 3]),
    "body": ({"tls": TlsPolicy.NEVER}, [b"220 hi\r\n", EHLO, b"250 ok\r\n" * 3, b"354 go\r\n"]),
    "end of data": ({"tls": TlsPolicy.NEVER}, [b"220 hi\r\n", EHLO, b"250 ok\r\n" * 3, b"354 go\r\n"]),
}


def at(place: str) -> PureDriver:
    """A driver with two mails whose session stands at ``place``."""
    options, heard = PLACES[place]
    driver = PureDriver(Client("client.example", **options))
    driver.give(MAIL, None if place == "body" else b"hello\n")
    driver.give(MAIL, b"second\n")
    driver.run()
    for octets in heard:
        driver.hear(octets)
    if place == "body":
        assert isinstance(driver.last, NeedBody)
    else:
        assert isinstance(driver.last, Timeout)
    return driver


def idle() -> PureDriver:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.NEVER))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(EHLO)
    assert isinstance(driver.last, Idle)
    return driver


def check_end(driver: PureDriver, reason: DisconnectReason, error: type[Exception]) -> Disconnect:
    """What is true however a session is cut off; returns its last event."""
    end = driver.last
    assert isinstance(end, Disconnect)
    assert end.reason is reason
    assert isinstance(end.error, error)
    assert not end.clean
    assert driver.client.next_event() is end
    assert [report.mail for report in driver.reports] == driver.mails
    for report in driver.reports:
        assert [o.recipient for o in report.outcomes] == list(report.mail.envelope.recipients)
    with pytest.raises(LocalProtocolError):
        driver.client.send(MAIL)
    return end


STAGES = {"body": Stage.BODY_BEGUN, "end of data": Stage.BODY_ENDED}


def check_two_later(driver: PureDriver, place: str, *, in_doubt: bool) -> None:
    """Both mails are to be tried later, the first from where it got, the second from the beginning."""
    first, second = driver.reports
    said = any(isinstance(e, SendLine) and e.data.startswith(b"MAIL") for e in driver.events)
    assert first.stage is STAGES.get(place, Stage.STARTED if said else Stage.NOT_STARTED)
    assert second.stage is Stage.NOT_STARTED
    assert [(o.verdict, o.in_doubt) for o in first.outcomes] == [(L, in_doubt)] * 2
    assert [(o.verdict, o.in_doubt) for o in second.outcomes] == [(L, False)] * 2


# --- cut off by the peer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_421_ends_the_session_and_its_words_are_kept(place: str) -> None:
    driver = at(place)
    assert driver.hear(b"421-4.3.2 closing\r\n421 down\r\n") == b""
    end = check_end(driver, DisconnectReason.REFUSED, ServiceRefused)
    assert isinstance(end.error, ServiceRefused)
    assert end.error.reply is not None
    assert end.error.reply.text == "4.3.2 closing\ndown"
    check_two_later(driver, place, in_doubt=False)
    assert {o.code for report in driver.reports for o in report.outcomes} == {421}
    # Where it is the verdict, it says all by itself.
    first, second = driver.reports
    assert {o.error for o in first.outcomes} == {None if place in STAGES else end.error}
    assert {o.error for o in second.outcomes} == {end.error}


@pytest.mark.parametrize("place", PLACES)
def test_the_end_of_the_stream_ends_the_session(place: str) -> None:
    driver = at(place)
    driver.client.receive_eof()
    assert driver.run() == b""
    end = check_end(driver, DisconnectReason.LOST, ConnectionLost)
    assert "the peer closed the connection" in str(end.error)
    check_two_later(driver, place, in_doubt=place == "end of data")


@pytest.mark.parametrize("place", PLACES)
def test_a_line_that_the_end_of_the_stream_cut_off_is_no_reply(place: str) -> None:
    driver = at(place)
    driver.client.receive_data(b"250 o")
    driver.client.receive_eof()
    driver.run()
    check_end(driver, DisconnectReason.LOST, ConnectionLost)
    check_two_later(driver, place, in_doubt=place == "end of data")


@pytest.mark.parametrize("place", PLACES)
def test_silence_ends_the_session(place: str) -> None:
    driver = at(place)
    driver.client.receive_timeout()
    assert driver.run() == b""
    end = check_end(driver, DisconnectReason.TIMEOUT, PeerTimeout)
    waiting_for = {"greeting": "connect", "RCPT 2": "RCPT", "body": "end of data"}.get(place, place)
    assert waiting_for in str(end.error)
    check_two_later(driver, place, in_doubt=place == "end of data")


@pytest.mark.parametrize("place", PLACES)
def test_garbage_ends_the_session(place: str) -> None:
    driver = at(place)
    assert driver.hear(b"HTTP/1.1 400 Bad Request\r\n") == b""
    check_end(driver, DisconnectReason.PROTOCOL, RemoteProtocolError)
    check_two_later(driver, place, in_doubt=place == "end of data")


# --- cut off from this side -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_abort_answers_everything_without_another_word(place: str) -> None:
    driver = at(place)
    driver.client.abort()
    assert driver.run() == b""
    check_end(driver, DisconnectReason.ABORTED, SessionAborted)
    check_two_later(driver, place, in_doubt=place == "end of data")
    driver.client.abort()
    assert isinstance(driver.client.next_event(), Disconnect)
    assert driver.client.snapshot().current is None
    with pytest.raises(LocalProtocolError, match="no body is due"):
        driver.client.send_body(b"x")


def test_what_was_ordered_and_not_taken_is_forgotten_at_the_end() -> None:
    client = Client("client.example", tls=TlsPolicy.NEVER)
    driver = PureDriver(client)
    driver.run()
    for octets in (b"220 hi\r\n", EHLO):
        driver.hear(octets)
    driver.give(MAIL, b"")
    assert isinstance(client.next_event(), SendLine)
    assert client.snapshot().connection.unsent_orders == 3
    client.abort()
    assert client.snapshot().connection.unsent_orders == 0


@pytest.mark.parametrize("place", PLACES)
def test_after_a_failed_write_the_last_words_of_the_peer_are_the_outcome(place: str) -> None:
    driver = at(place)
    driver.client.send_failed(BrokenPipeError("broken pipe"))
    assert driver.run() == b""
    assert isinstance(driver.last, Timeout)
    assert driver.last.seconds == 5.0
    assert driver.client.next_event() is driver.last
    assert driver.hear(b"421 4.3.2 you are too slow\r\n") == b""
    end = check_end(driver, DisconnectReason.REFUSED, ServiceRefused)
    assert "too slow" in str(end.error)
    check_two_later(driver, place, in_doubt=False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["timeout", "eof", "second failure"])
def test_after_a_failed_write_silence_is_a_lost_connection(place: str, how: str) -> None:
    driver = at(place)
    driver.client.send_failed("broken pipe")
    driver.run()
    if how == "timeout":
        driver.client.receive_timeout()
    elif how == "eof":
        driver.client.receive_eof()
    else:
        driver.client.send_failed("broken again")
    assert driver.run() == b""
    end = check_end(driver, DisconnectReason.LOST, ConnectionLost)
    assert "broken pipe" in str(end.error)
    check_two_later(driver, place, in_doubt=place == "end of data")


def test_a_failed_write_of_which_nothing_is_known_is_named() -> None:
    driver = at("MAIL")
    driver.client.send_failed()
    driver.run()
    driver.client.receive_eof()
    driver.run()
    assert "a write failed" in str(check_end(driver, DisconnectReason.LOST, ConnectionLost).error)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("words", [b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"334 \r\n", b"220 go\r\n", EHLO])
def test_after_a_failed_write_nothing_is_ordered_to_be_written(place: str, words: bytes) -> None:
    driver = at(place)
    driver.client.send_failed("broken pipe")
    assert driver.hear(words) == b""
    assert isinstance(driver.last, (Timeout, Disconnect))
    if isinstance(driver.last, Timeout):
        driver.client.receive_timeout()
        driver.run()
    assert isinstance(driver.last, Disconnect)
    assert len(driver.reports) == 2


@pytest.mark.parametrize("place", ["greeting", "MAIL", "end of data"])
def test_after_a_failed_write_it_is_said_what_is_waited_for(place: str) -> None:
    driver = at(place)
    waited = driver.last
    assert isinstance(waited, Timeout)
    driver.client.send_failed("broken pipe")
    driver.run()
    assert driver.last == Timeout(waited.waiting_for, Deadlines().last_words)
    assert driver.client.snapshot().current is (None if place == "greeting" else driver.mails[0])


def test_the_lone_dot_is_not_said_after_a_failed_write() -> None:
    driver = at("RCPT")
    driver.hear(b"550 no\r\n450 no\r\n")
    driver.client.send_failed("broken pipe")
    assert driver.hear(b"354 go\r\n") == b""
    driver.client.receive_eof()
    assert driver.run() == b""
    assert [o.verdict for o in driver.reports[0].outcomes] == [N, L]


def test_a_verdict_after_a_failed_write_counts() -> None:
    driver = at("end of data")
    driver.client.send_failed("connection reset")
    driver.hear(b"250 taken\r\n")
    driver.client.receive_eof()
    driver.run()
    first, second = driver.reports
    assert isinstance(first, MailSent)
    assert [o.verdict for o in first.outcomes] == [D, D]
    assert [o.verdict for o in second.outcomes] == [L, L]


def test_an_early_refusal_after_a_failed_write_counts() -> None:
    driver = at("body")
    driver.client.send_failed("connection reset")
    driver.hear(b"552 too big\r\n")
    assert isinstance(driver.last, Disconnect)
    assert [o.verdict for o in driver.reports[0].outcomes] == [N, N]


def test_no_body_is_due_after_a_failed_write() -> None:
    driver = at("body")
    driver.client.send_failed("connection reset")
    calls: list[Callable[[], object]] = [
        lambda: driver.client.send_body(b"x"),
        lambda: driver.client.body_failed("broken"),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError):
            call()
    assert driver.run() == b""
    assert isinstance(driver.last, Timeout)


def test_an_end_of_data_that_never_left_is_not_in_doubt() -> None:
    driver = at("body")
    driver.client.send_body(b"")
    driver.client.send_failed("connection reset")
    driver.client.receive_eof()
    driver.run()
    assert [(o.verdict, o.in_doubt) for o in driver.reports[0].outcomes] == [(L, False)] * 2
    assert not any(isinstance(e, SendLine) and e.data == b".\r\n" for e in driver.events)


def test_an_acceptance_of_an_end_of_data_that_never_left_delivers_nothing() -> None:
    driver = at("body")
    driver.client.send_body(b"")
    driver.client.send_failed("connection reset")
    driver.hear(b"250 taken\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.reports[0], MailRefused)


def test_a_refusal_of_an_end_of_data_that_never_left_counts() -> None:
    driver = at("body")
    driver.client.send_body(b"")
    driver.client.send_failed("connection reset")
    driver.hear(b"552 too big\r\n")
    assert [o.verdict for o in driver.reports[0].outcomes] == [N, N]


def test_an_end_of_data_aborted_before_it_left_is_not_in_doubt() -> None:
    driver = at("body")
    driver.client.send_body(b"")
    driver.client.abort()
    driver.run()
    assert [(o.verdict, o.in_doubt) for o in driver.reports[0].outcomes] == [(L, False)] * 2


@pytest.mark.parametrize("error", [OSError("disk on fire"), "disk on fire"])
def test_a_broken_body_closes_the_connection_without_the_final_dot(error: str | OSError) -> None:
    driver = at("body")
    driver.client.send_body(b"half a mes")
    driver.run()
    driver.client.body_failed(error)
    assert driver.run() == b""
    end = check_end(driver, DisconnectReason.BODY, SessionAborted)
    assert "disk on fire" in str(end.error)
    check_two_later(driver, "body", in_doubt=False)
    for outcome in driver.reports[0].outcomes:
        assert isinstance(outcome.error, BodyError)
        assert outcome.reply is None
        assert outcome.error.__cause__ is (error if isinstance(error, OSError) else None)


def test_an_error_that_is_one_of_a_body_already_is_the_outcome_as_it_is() -> None:
    driver = at("body")
    error = BodyError("somebody had enough of it")
    driver.client.body_failed(error)
    driver.run()
    assert [outcome.error for outcome in driver.reports[0].outcomes] == [error] * 2


# --- outcomes that stood already ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["eof", "timeout", "abort", "421", "garbage"])
def test_a_recipient_that_was_refused_stays_refused_however_the_session_ends(end: str) -> None:
    driver = at("RCPT")
    driver.hear(b"550 unknown\r\n250 ok\r\n")
    if end == "eof":
        driver.client.receive_eof()
    elif end == "timeout":
        driver.client.receive_timeout()
    elif end == "abort":
        driver.client.abort()
    else:
        driver.client.receive_data(b"421 bye\r\n" if end == "421" else b"what?\r\n")
    driver.run()
    assert [(o.verdict, o.code) for o in driver.reports[0].outcomes] == [(N, 550), (L, 421 if end == "421" else None)]


@pytest.mark.parametrize("end", ["eof", "timeout", "abort"])
def test_only_those_accepted_are_in_doubt(end: str) -> None:
    driver = at("RCPT")
    driver.hear(b"550 unknown\r\n250 ok\r\n354 go\r\n")
    if end == "eof":
        driver.client.receive_eof()
    elif end == "timeout":
        driver.client.receive_timeout()
    else:
        driver.client.abort()
    driver.run()
    assert [(o.verdict, o.in_doubt) for o in driver.reports[0].outcomes] == [(N, False), (L, True)]
    assert "in doubt" in str(driver.reports[0].outcomes[1])


def test_those_put_off_keep_their_reply_when_the_session_ends() -> None:
    driver = at("RCPT")
    driver.hear(b"250 ok\r\n452 too many\r\n354 go\r\n")
    driver.client.receive_eof()
    driver.run()
    assert [(o.verdict, o.code, o.in_doubt) for o in driver.reports[0].outcomes] == [(L, None, True), (L, 452, False)]


def test_the_lone_dot_leaves_nobody_in_doubt() -> None:
    driver = at("RCPT")
    assert driver.hear(b"550 no\r\n550 no\r\n354 go\r\n") == b".\r\n"
    driver.client.receive_eof()
    driver.run()
    assert [(o.verdict, o.in_doubt) for o in driver.reports[0].outcomes] == [(N, False), (N, False)]


# --- QUIT -----------------------------------------------------------------------------------------------------------


def test_quit_ends_an_idle_session() -> None:
    driver = idle()
    driver.client.quit()
    assert driver.run() == b"QUIT\r\n"
    waiting = driver.last
    assert waiting == Timeout(Verb.QUIT, 5.0)
    assert driver.hear(b"221 bye\r\n") == b""
    assert driver.last == Disconnect(DisconnectReason.QUIT, None, clean=True)


@pytest.mark.parametrize("fate", ["221 bye", "250 ok", "421 bye", "550 no", "eof"])
def test_any_answer_to_quit_is_a_clean_end(fate: str) -> None:
    driver = idle()
    driver.client.quit()
    driver.run()
    if fate == "eof":
        driver.client.receive_eof()
    else:
        driver.client.receive_data(fate.encode() + b"\r\n")
    driver.run()
    assert driver.last == Disconnect(DisconnectReason.QUIT, None, clean=True)


@pytest.mark.parametrize("fate", ["silence", "failed write", "garbage", "354", "abort"])
def test_quit_that_is_not_answered_changes_nothing_but_cleanness(fate: str) -> None:
    driver = idle()
    driver.client.quit()
    driver.run()
    if fate == "silence":
        driver.client.receive_timeout()
    elif fate == "failed write":
        driver.client.send_failed("broken pipe")
    elif fate == "abort":
        driver.client.abort()
    else:
        driver.client.receive_data(f"{fate}\r\n".encode())
    driver.run()
    assert driver.last == Disconnect(DisconnectReason.QUIT, None, clean=False)


def test_quit_before_the_greeting_waits_for_it_and_says_nothing_else() -> None:
    driver = PureDriver(Client("client.example"))
    driver.client.quit()
    assert driver.run() == b""
    assert driver.hear(b"220 hi\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert driver.last == Disconnect(DisconnectReason.QUIT, None, clean=True)


def test_quit_while_mails_wait_sends_them_first() -> None:
    driver = PureDriver(Client("client.example"))
    server = ScriptedServer()
    driver.give(MAIL, b"one\n")
    driver.give(MAIL, b"two\n")
    driver.client.quit()
    with pytest.raises(LocalProtocolError):
        driver.client.send(MAIL)
    to_server = driver.run()
    to_client = server.connected()
    while not isinstance(driver.last, Disconnect):
        to_server = driver.hear(to_client)
        to_client = server.receive_data(to_server)
    assert [type(report) for report in driver.reports] == [MailSent, MailSent]
    assert server.commands[-1] == "QUIT"
    assert driver.last.clean


def test_quit_in_the_middle_of_a_mail_waits_for_its_verdict() -> None:
    driver = at("body")
    driver.client.quit()
    assert driver.run() == b""
    driver.client.send_body(b"")
    assert driver.run() == b".\r\n"
    assert driver.hear(b"250 ok\r\n").startswith(b"MAIL")
    driver.hear(b"550 no\r\n503 no\r\n503 no\r\n")
    assert driver.hear(b"503 no\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert driver.last == Disconnect(DisconnectReason.QUIT, None, clean=True)


def test_quit_while_starttls_is_answered_takes_its_turn() -> None:
    driver = PureDriver(Client("client.example"))
    driver.run()
    driver.hear(b"220 hi\r\n")
    assert driver.hear(EHLO) == b"STARTTLS\r\n"
    driver.client.quit()
    driver.hear(b"220 go\r\n")
    assert isinstance(driver.last, BeginTls)
    driver.client.abort()
    driver.run()
    assert isinstance(driver.last, Disconnect)


def test_quit_after_the_end_changes_nothing() -> None:
    driver = at("MAIL")
    driver.client.abort()
    driver.run()
    driver.client.quit()
    assert driver.client.next_event() is driver.last


def test_facts_after_the_end_change_nothing() -> None:
    driver = at("MAIL")
    driver.client.abort()
    driver.run()
    driver.client.receive_data(b"250 ok\r\n" * 100)
    driver.client.receive_timeout()
    driver.client.send_failed("late")
    driver.client.tls_failed("late")
    driver.client.receive_eof()
    assert driver.client.next_event() is driver.last
    assert driver.client.snapshot().connection.unread_octets == 0


@pytest.mark.parametrize(
    "ending",
    [
        lambda driver: driver.hear(b"221 bye\r\n"),
        lambda driver: (driver.client.receive_timeout(), driver.run()),
    ],
)
def test_the_polite_end_keeps_its_reason(ending: Callable[[PureDriver], object]) -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.REQUIRED))
    driver.run()
    driver.hear(b"220 hi\r\n")
    assert driver.hear(b"250 mx\r\n") == b"QUIT\r\n"
    ending(driver)
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.TLS
    assert driver.last.error is not None


def test_mail_is_not_taken_while_quit_is_answered() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.REQUIRED))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250 mx\r\n")
    with pytest.raises(LocalProtocolError):
        driver.client.send(MAIL)


# --- parked sessions ------------------------------------------------------------------------------------------------


def test_a_421_that_came_while_parked_is_heard_before_mail_is_said() -> None:
    driver = idle()
    driver.client.receive_data(b"421 4.4.2 idle too long\r\n")
    driver.give(MAIL, b"")
    assert driver.run() == b""
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, ServiceRefused)
    assert "idle too long" in str(driver.last.error)
    (report,) = driver.reports
    assert report.stage is Stage.NOT_STARTED
    assert [o.code for o in report.outcomes] == [421, 421]


def test_a_421_that_comes_in_pieces_to_a_parked_session_is_waited_for() -> None:
    driver = idle()
    driver.give(MAIL, b"")
    for piece in (b"4", b"21-", b"bye\r\n421 now"):
        assert driver.hear(piece) == b""
        assert driver.last == Timeout(None, 300.0)
    assert driver.hear(b"\r\n") == b""
    assert isinstance(driver.last, Disconnect)
    assert [o.code for o in driver.reports[0].outcomes] == [421, 421]


def test_neither_rset_nor_mail_is_said_while_a_line_arrives() -> None:
    driver = idle()
    driver.give(MAIL, b"")
    driver.run()
    driver.hear(b"250 ok\r\n550 no\r\n550 no\r\n554 no\r\n")
    before = driver.last
    assert isinstance(before, Idle)
    driver.hear(b"421 b")
    driver.give(MAIL, b"")
    assert driver.run() == b""
    assert driver.last == Timeout(None, 300.0)
    assert driver.hear(b"ye\r\n") == b""
    assert [report.stage for report in driver.reports] == [Stage.STARTED, Stage.NOT_STARTED]


@pytest.mark.parametrize("octets", [b"4", b"421 bye\r\n"])
def test_a_421_behind_the_verdict_takes_no_recipient_away_that_was_delivered(octets: bytes) -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.NEVER))
    driver.give(Envelope("", (A, B), body=BodyFacts(repeatable=True)), b"x")
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(EHLO)
    driver.hear(b"250 ok\r\n250 ok\r\n452 many\r\n354 go\r\n")
    assert driver.hear(b"250 taken\r\n" + octets) == b""
    if octets == b"4":
        assert driver.last == Timeout(None, 300.0)
        driver.hear(b"21 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.REFUSED
    (report,) = driver.reports
    assert [o.verdict for o in report.outcomes] == [D, L]


def test_an_unfinished_line_to_a_parked_session_has_a_deadline() -> None:
    driver = idle()
    driver.hear(b"421 by")
    assert driver.last == Timeout(None, 300.0)
    driver.client.receive_timeout()
    driver.run()
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, PeerTimeout)


def test_a_peer_that_closed_while_parked_costs_the_next_mail_no_attempt() -> None:
    driver = idle()
    driver.client.receive_eof()
    with pytest.raises(LocalProtocolError):
        driver.client.receive_data(b"x")
    driver.give(MAIL, b"")
    assert driver.run() == b""
    (report,) = driver.reports
    assert report.stage is Stage.NOT_STARTED
    assert [o.verdict for o in report.outcomes] == [L, L]


@pytest.mark.parametrize("octets", [b"2", b"250 ok\r\n", b"4210 no\r\n", b"422 no\r\n", b"\r\n"])
def test_anything_else_that_nobody_asked_for_is_a_violation(octets: bytes) -> None:
    driver = idle()
    driver.hear(octets)
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.PROTOCOL


def test_a_timeout_that_is_due_while_parked_ends_the_session() -> None:
    driver = idle()
    driver.client.receive_timeout()
    driver.run()
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.TIMEOUT


def test_a_failed_write_while_parked_waits_for_last_words() -> None:
    driver = idle()
    driver.client.send_failed("reset")
    driver.run()
    assert driver.last == Timeout(None, 5.0)
    driver.hear(b"421 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, ServiceRefused)


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_a_peer_that_drips_wins_no_time() -> None:
    driver = at("MAIL")
    running = driver.last
    for octet in b"250-o":
        driver.hear(bytes([octet]))
        assert driver.last is running
    # A whole line that does not end the reply wins none either.
    driver.hear(b"\r\n250-k\r\n")
    assert driver.last is running
    driver.hear(b"250 done\r\n")
    assert driver.last is not running
    assert driver.last == Timeout(Verb.RCPT, 300.0)


def test_the_same_wait_for_the_next_command_is_another_deadline() -> None:
    driver = at("RCPT")
    running = driver.last
    driver.hear(b"250 ok\r\n")
    assert driver.last == running
    assert driver.last is not running


def test_transcripts_come_with_every_end() -> None:
    events = converse(Client("client.example"), ScriptedServer({".": "421 bye"}), [(MAIL, b"x\n")])
    end = events[-1]
    assert isinstance(end, Disconnect)
    assert end.error is not None
    assert end.error.transcript is not None
    assert str(end.error.transcript).splitlines()[-3:] == [">>> (3 octets of message)", ">>> .", "<<< 421 bye"]
    (report,) = (e for e in events if isinstance(e, MailRefused))
    assert report.transcript == end.error.transcript


def test_a_repeatable_body_changes_nothing_about_the_end() -> None:
    mail = Envelope("alice@a.example", (A, B), body=BodyFacts(repeatable=True))
    events = converse(Client("client.example"), ScriptedServer({"RCPT": ["250 ok", "452 no"], ".": b""}), [(mail, b"")])
    (report,) = (e for e in events if isinstance(e, MailRefused))
    assert [(o.verdict, o.in_doubt) for o in report.outcomes] == [(L, True), (L, False)]
