"""Commands that the application asks for: what goes through, when it is said, and that each is answered once.

What lives here: the door for NOOP, VRFY, EXPN, HELP, ETRN and private extensions. What does not: the commands that a
session says itself.
"""

from __future__ import annotations

from typing import Any

import pytest

from smtpcore import (
    BodyFacts,
    Client,
    CommandAnswered,
    ConnectionLost,
    Disconnect,
    Envelope,
    Idle,
    Limits,
    LocalProtocolError,
    LostStep,
    MailSent,
    NeedMail,
    PeerTimeout,
    Pipelining,
    Reply,
    SendLine,
    ServiceRefused,
    SessionAborted,
    Timeout,
    TlsPolicy,
    Verb,
)
from smtpcore.sasl import Plain
from smtpcore.testing import PureDriver

ENVELOPE = Envelope("a@b.example", ("c@d.example",), body=BodyFacts(size=3, repeatable=True))


def opened(*extensions: str, **options: Any) -> PureDriver:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, **options))
    driver.run()
    driver.hear(b"220 hi\r\n")
    lines = ["mx.example", *extensions]
    driver.hear("".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode())
    return driver


def answers(driver: PureDriver) -> list[CommandAnswered]:
    return [event for event in driver.events if isinstance(event, CommandAnswered)]


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        ("NOOP", Verb.NOOP),
        ("vrfy anna", Verb.VRFY),
        ("EXPN list", Verb.EXPN),
        ("Help MAIL", Verb.HELP),
        ("ETRN example.org", Verb.OTHER),
        ("X-private  two  spaces ", Verb.OTHER),
    ],
)
@pytest.mark.parametrize("reply", ["250 fine", "252 perhaps", "458 not now", "502 never"])
def test_a_command_is_said_and_its_reply_handed_back(line: str, verb: Verb, reply: str) -> None:
    driver = opened("PIPELINING")
    command = driver.client.command(line)
    assert command.verb is verb
    assert driver.run() == line.encode() + b"\r\n"
    assert driver.last == Timeout(verb, 300.0)
    assert driver.hear(reply.encode() + b"\r\n") == b""
    (answer,) = answers(driver)
    assert answer.command is command
    assert answer == CommandAnswered(command, Reply(int(reply[:3]), (reply[4:],)), None)
    assert isinstance(driver.last, Idle)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "keyword"),
        (" NOOP", "keyword"),
        ("-X", "keyword"),
        ("1X", "keyword"),
        ("X_Y z", "keyword"),
        ("NOOP\r\nRSET", "one line"),
        ("NOOP\n", "one line"),
        ("NOOP\0", "one line"),
        ("NOOP\t", "one line"),
        ("VRFY ä", "one line"),
        *(
            (word, "says it itself")
            for word in ("ehlo x", "HELO x", "LHLO x", "STARTTLS", "AUTH PLAIN", "QUIT", "Rset")
        ),
        *((word, "send\\(\\)") for word in ("MAIL FROM:<>", "RCPT TO:<a@b>", "data", "BDAT 0 LAST", "BURL x")),
        *((word, "begins a mail") for word in ("SEND FROM:<>", "SOML FROM:<>", "SAML FROM:<>")),
        ("TURN", "a client"),
        ("ATRN x", "a client"),
        ("XCLIENT NAME=x", "anew"),
        ("xforward NAME=x", "option of a mail"),
        ("NOOP " + "x" * 2042, "Limits.command_line"),
    ],
)
def test_what_may_not_be_asked_for_changes_nothing(line: str, named: str) -> None:
    driver = opened()
    before = driver.client.snapshot()
    with pytest.raises(LocalProtocolError, match=named):
        driver.client.command(line)
    assert driver.client.snapshot() == before


def test_a_command_that_is_no_text() -> None:
    with pytest.raises(LocalProtocolError, match="must be a str"):
        opened().client.command(b"NOOP")  # type: ignore[arg-type]  # a wrong kind, on purpose
    with pytest.raises(LocalProtocolError, match="secret must be a bool"):
        opened().client.command("NOOP", secret=1)  # type: ignore[arg-type]  # a wrong kind, on purpose


@pytest.mark.parametrize(
    ("line", "keyword"),
    [
        ("AUTH PLAIN AGFubmEAb3BlbnNlc2FtZQ==", "AUTH"),
        ("auth opensesame", "auth"),
        ("XCLIENT LOGIN=opensesame", "XCLIENT"),
        ("XPASS opensesame\x01", None),
        ("XPASS opensesame ä", None),
        ("X_PASS opensesame", None),
        ("opensesame\r\n", None),
        ("XPASS opensesame" * 200, "XPASS"),
        ("opensesame" * 300, None),
        (b"XPASS opensesame", bytes),
    ],
)
def test_an_error_names_the_keyword_of_what_was_refused_and_no_more(line: Any, keyword: object) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        opened().client.command(line)
    assert caught.value.value == keyword
    assert "opensesame" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert "AGFub" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"


# --- commands that are secret ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("XPASS anna opensesame", "XPASS ********"),
        ("xpass user=anna; token=opensesame ", "xpass ********"),
        ("XPASS opensesame 1", "XPASS ********"),
        ("XPASS opensesame", "XPASS ********"),
        ("opensesame", "********"),
    ],
)
@pytest.mark.parametrize(
    "reply", ["250 {}", "500 5.5.1 what is opensesame?", "250-{} opensesa\r\n250 <{}>", "421 {}", "x{}"]
)
def test_of_a_secret_command_the_keyword_alone_is_shown(line: str, shown: str, reply: str) -> None:
    driver = opened()
    command = driver.client.command(line, secret=True)
    assert driver.run() == line.encode() + b"\r\n"
    driver.hear(reply.replace("{}", line).encode() + b"\r\n")
    driver.client.abort()
    driver.run()
    (answer,) = answers(driver)
    assert (answer.command, command.secret) == (command, True)
    (said,) = [event for event in driver.events if isinstance(event, SendLine) and event.secret]
    assert (said.shown, repr(command)) == (shown, f"Command(OTHER, b'{shown}')")
    assert f">>> {shown}" in driver.client.transcript.lines
    told = f"{answer!r} {driver.last!r} {driver.client.transcript} {driver.client.snapshot()!r} {driver.client!r}"
    for error in (answer.error, getattr(driver.last, "error", None)):
        told += f"{error} {error!r} {getattr(error, 'reply', None)!r} {getattr(error, 'transcript', None)}"
    assert "opensesa" not in told


@pytest.mark.parametrize(
    ("line", "reply", "shown"),
    [
        ("XPIN 1234", "1234? 123? 12345", "********? 123? ********5"),
        ("XPIN 12 34", "12, 34, 12 34", "12, 34, ********"),
        ("XTOKEN b3BlbnNlc2FtZQ==", "opensesame", "********"),
        ("XPIN ", "XPIN 12", "XPIN 12"),
        ("XPIN   ", "XPIN 12", "XPIN 12"),
        ("XPIN =12", "=12 12", "******** 12"),
    ],
)
def test_what_a_reply_echoes_of_a_secret_command_is_masked(line: str, reply: str, shown: str) -> None:
    driver = opened()
    driver.client.command(line, secret=True)
    driver.run()
    driver.hear(f"250 {reply}\r\n".encode())
    (answer,) = answers(driver)
    assert answer.reply is not None
    assert answer.reply.text == shown
    assert driver.client.transcript.lines[-1] == f"<<< 250 {shown}"


def test_a_command_that_is_no_secret_is_shown_whole() -> None:
    driver = opened()
    command = driver.client.command("VRFY anna")
    driver.run()
    driver.hear(b"250 anna\r\n")
    assert repr(command) == "Command(VRFY, b'VRFY anna')"
    assert driver.client.transcript.lines[-2:] == (">>> VRFY anna", "<<< 250 anna")


def test_behind_auth_a_reply_is_handed_back_as_it_is_but_for_the_secret() -> None:
    client = Client("client.example", tls=TlsPolicy.SECURED, credentials=[Plain("anna", "open-sesame")])
    driver = PureDriver(client)
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 AUTH PLAIN\r\n")
    driver.hear(b"235 ok\r\n")
    driver.client.command("VRFY anna")
    driver.run()
    driver.hear(b"250 Anna Karenina <anna@x.example>, whose password is open-sesame\r\n")
    (answer,) = answers(driver)
    assert answer.reply is not None
    assert answer.reply.text == "Anna Karenina <anna@x.example>, whose password is ********"


def test_a_command_is_as_long_as_a_line() -> None:
    driver = opened(limits=Limits(command_line=10))
    driver.client.command("NOOP 678")
    assert driver.client.snapshot().asked == 1
    with pytest.raises(LocalProtocolError):
        driver.client.command("NOOP 6789")


def test_commands_go_alone_in_their_order_ahead_of_mails_that_wait() -> None:
    driver = opened("PIPELINING")
    driver.give(ENVELOPE, b"x\r\n")
    driver.client.command("NOOP 1")
    driver.client.command("HELP 2")
    assert driver.run() == b"NOOP 1\r\n"
    assert driver.hear(b"250 one\r\n") == b"HELP 2\r\n"
    assert driver.client.snapshot().asked == 1
    assert driver.hear(b"214 two\r\n").startswith(b"MAIL FROM:")
    assert [answer.reply and answer.reply.text for answer in answers(driver)] == ["one", "two"]


def test_a_command_waits_for_the_end_of_a_transaction() -> None:
    driver = opened()
    driver.give(ENVELOPE, b"x\r\n")
    assert driver.run() == b"MAIL FROM:<a@b.example>\r\n"
    driver.client.command("NOOP")
    assert driver.hear(b"250 ok\r\n") == b"RCPT TO:<c@d.example>\r\n"
    # What the refusal leaves behind is reset first.
    assert driver.hear(b"550 no\r\n") == b"RSET\r\n"
    assert driver.hear(b"250 ok\r\n") == b"NOOP\r\n"
    driver.hear(b"250 ok\r\n")
    assert len(answers(driver)) == 1


def test_a_command_goes_ahead_of_a_mail_that_waits_for_a_reset() -> None:
    driver = opened()
    driver.give(ENVELOPE, b"x\r\n")
    driver.give(ENVELOPE, b"y\r\n")
    assert driver.run() == b"MAIL FROM:<a@b.example>\r\n"
    assert driver.hear(b"250 ok\r\n") == b"RCPT TO:<c@d.example>\r\n"
    assert driver.hear(b"550 no\r\n") == b"RSET\r\n"
    driver.client.command("NOOP")
    assert driver.hear(b"250 ok\r\n") == b"NOOP\r\n"
    assert driver.hear(b"250 ok\r\n") == b"MAIL FROM:<a@b.example>\r\n"


def test_no_mail_is_asked_for_behind_a_command_unless_it_may_run_ahead() -> None:
    driver = opened("PIPELINING")
    driver.give(ENVELOPE, b"x\r\n")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.command("HELP")
    asked = driver.events.count(NeedMail())
    assert driver.hear(b"250 ok\r\n") == b"HELP\r\n"
    assert isinstance(driver.last, Timeout)
    assert driver.events.count(NeedMail()) == asked
    driver.hear(b"214 words\r\n")
    assert driver.events.count(NeedMail()) == asked + 1


def test_while_a_command_holds_a_mail_up_no_other_is_asked_for() -> None:
    driver = opened("PIPELINING", pipelining=Pipelining.ACROSS)
    driver.give(ENVELOPE, b"x\r\n")
    driver.run()
    driver.client.command("NOOP")
    driver.give(ENVELOPE, b"y\r\n")
    asked = driver.events.count(NeedMail())
    assert driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n") == b"x\r\n.\r\n"
    assert isinstance(driver.last, Timeout)
    assert driver.events.count(NeedMail()) == asked
    assert driver.hear(b"250 ok\r\n") == b"NOOP\r\n"
    assert driver.hear(b"250 ok\r\n").startswith(b"MAIL FROM:")


def test_a_command_is_asked_for_before_the_session_is_open_and_before_its_end() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED))
    driver.client.command("NOOP")
    driver.client.quit()
    with pytest.raises(LocalProtocolError, match="the session is over"):
        driver.client.command("NOOP")
    driver.run()
    assert driver.hear(b"220 hi\r\n") == b"EHLO client.example\r\n"
    assert driver.hear(b"250 mx\r\n") == b"NOOP\r\n"
    assert driver.hear(b"250 ok\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert answers(driver)[0].reply == Reply(250, ("ok",))


def test_no_command_is_taken_while_quit_is_answered() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.REQUIRED))
    driver.run()
    driver.hear(b"220 hi\r\n")
    assert driver.hear(b"250 mx\r\n") == b"QUIT\r\n"
    with pytest.raises(LocalProtocolError, match="takes no more commands"):
        driver.client.command("NOOP")
    driver.hear(b"221 bye\r\n")
    assert not answers(driver)


@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("end", ["eof", "421", "abort", "garbage", "timeout"])
def test_commands_without_a_reply_are_answered_by_what_ended_the_session(said: bool, end: str) -> None:
    driver = opened("PIPELINING")
    commands = [driver.client.command("NOOP 1"), driver.client.command("NOOP 2")]
    if said:
        driver.run()
    if end == "eof":
        driver.client.receive_eof()
    elif end == "421":
        driver.client.receive_data(b"421 going\r\n")
    elif end == "timeout":
        driver.client.receive_timeout()
    elif end == "garbage":
        driver.client.receive_data(b"garbage\r\n")
    else:
        driver.client.abort()
    driver.run()
    got = answers(driver)
    assert [answer.command for answer in got] == commands
    assert driver.client.snapshot().asked == 0
    assert isinstance(driver.last, Disconnect)
    expected = {"eof": ConnectionLost, "421": ServiceRefused, "abort": SessionAborted, "timeout": PeerTimeout}
    for answer in got:
        assert answer.reply is None
        assert answer.error is driver.last.error
        assert isinstance(answer.error, expected.get(end, Exception))
    with pytest.raises(LocalProtocolError, match="the session is over"):
        driver.client.command("NOOP")


def test_a_reply_that_is_none_breaks_the_protocol() -> None:
    driver = opened()
    driver.client.command("X-WAIT")
    driver.run()
    driver.hear(b"354 go on\r\n")
    (answer,) = answers(driver)
    assert "354 is no answer to another command" in str(answer.error)


def test_across_mails_a_command_waits_until_the_dialogue_is_proved_in_step() -> None:
    driver = opened("PIPELINING", pipelining=Pipelining.ACROSS)
    driver.give(ENVELOPE, b"x\r\n")
    driver.give(ENVELOPE, b"y\r\n")
    driver.run()
    second = driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert second.endswith(b"DATA\r\n")
    driver.client.command("NOOP")
    driver.hear(b"250 taken\r\n")
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert driver.hear(b"250 taken\r\n") == b"NOOP\r\n"
    driver.hear(b"250 ok\r\n")
    assert [type(event) for event in driver.reports] == [MailSent, MailSent]
    assert len(answers(driver)) == 1


def test_across_mails_a_mark_is_said_before_a_command_when_verdicts_are_kept_back() -> None:
    driver = opened("PIPELINING", pipelining=Pipelining.ACROSS)
    driver.give(ENVELOPE, b"x\r\n")
    driver.give(ENVELOPE, b"y\r\n")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.command("NOOP")
    # The second mail is refused, so no 354 proves the verdict on the first.
    driver.hear(b"250 taken\r\n250 ok\r\n550 no\r\n")
    assert driver.hear(b"503 no recipients\r\n") == b"RSET\r\nHELP\r\n"
    assert not answers(driver)
    assert driver.hear(b"250 ok\r\n214 help\r\n") == b"NOOP\r\n"
    driver.hear(b"250 ok\r\n")
    assert len(driver.reports) == 2
    assert len(answers(driver)) == 1


def test_a_command_is_answered_when_the_dialogue_has_lost_step() -> None:
    driver = opened("PIPELINING", pipelining=Pipelining.ACROSS)
    driver.give(ENVELOPE, b"x\r\n")
    driver.give(ENVELOPE, b"y\r\n")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.command("NOOP")
    driver.hear(b"250 taken\r\n250 ok\r\n550 no\r\n503 no recipients\r\n")
    driver.hear(b"250 stray\r\n250 ok\r\n")
    (answer,) = answers(driver)
    assert isinstance(answer.error, LostStep)
