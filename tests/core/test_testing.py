"""The public test helpers do what they say: the scripted server, the driver without I/O, and their conversation.

What lives here: ``smtpcore.testing`` itself. What does not: what is tested with it.
"""

from __future__ import annotations

import base64

import pytest

from smtpcore import (
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    Idle,
    MailRefused,
    MailSent,
    NeedBody,
    PeerTimeout,
    SendLine,
    Timeout,
    TlsPolicy,
)
from smtpcore.sasl import Plain
from smtpcore.testing import PureDriver, ReceivedMail, ScriptedServer, converse

MAIL = Envelope("alice@a.example", ("bob@b.example", "cid@b.example"))
CREDENTIALS = base64.b64encode(b"\0user\0hunter2")


def talk(server: ScriptedServer, *lines: bytes) -> list[bytes]:
    return [server.receive_data(line + b"\r\n") for line in lines]


# --- the server -----------------------------------------------------------------------------------------------------


def test_a_plain_server_takes_mail() -> None:
    server = ScriptedServer(extensions=["SIZE 10", "X"])
    assert server.connected() == b"220 server.example ready\r\n"
    assert server.receive_data(b"EHLO c\r\n") == b"250-server.example\r\n250-SIZE 10\r\n250 X\r\n"
    assert talk(server, b"mail from:<a@b> SIZE=3", b"RCPT TO:<c@d>", b"rcpt to:<e@f>") == [b"250 2.0.0 ok\r\n"] * 3
    assert talk(server, b"DATA", b"..x", b".", b"QUIT") == [
        b"354 go ahead\r\n",
        b"",
        b"250 2.0.0 accepted\r\n",
        b"221 2.0.0 bye\r\n",
    ]
    assert server.mails == [ReceivedMail("a@b", ("c@d", "e@f"), b".x\r\n")]
    assert server.closed
    assert not server.complaints


def test_a_plain_server_minds_the_order_of_commands() -> None:
    server = ScriptedServer()
    said = talk(
        server, b"RCPT TO:<a@b>", b"DATA", b"MAIL FROM:<>", b"DATA", b"RSET", b"DATA", b"NOOP", b"XYZ", b"HELO c"
    )
    assert [reply[:3] for reply in said] == [b"503", b"503", b"250", b"554", b"250", b"503", b"250", b"500", b"250"]


def test_a_chunk_for_nobody_is_refused_and_its_octets_are_counted() -> None:
    server = ScriptedServer(extensions=["CHUNKING"])
    assert talk(server, b"MAIL FROM:<>") == [b"250 2.0.0 ok\r\n"]
    assert server.receive_data(b"BDAT 6 LAST\r\nNOOP\r\n") == b"554 5.5.1 no valid recipients\r\n"
    assert not server.mails


def test_octets_may_come_in_any_pieces() -> None:
    whole, pieces = ScriptedServer(), ScriptedServer()
    octets = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n"
    assert whole.receive_data(octets) == b"".join(pieces.receive_data(octets[i : i + 1]) for i in range(len(octets)))
    assert whole.mails == pieces.mails == [ReceivedMail("", ("a@b",), b"")]


def test_a_large_mail_is_heard_without_going_over_it_line_by_line_again() -> None:
    body = (b"x" * 70 + b"\r\n") * 100_000
    for extensions in (list[str](), ["CHUNKING"]):
        server = ScriptedServer(extensions=extensions)
        converse(Client("c.example"), server, [(MAIL, body)], piece=len(body))
        assert [len(mail.content) for mail in server.mails] == [len(body)]
        assert server.mails[0].content == body


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        (b"<a@b> ENVID=x>y", "a@b"),
        (b'<"a>b \\"<"@b.example> SIZE=1', '"a>b \\"<"@b.example'),
        (b"<> BODY=8BITMIME", ""),
        (b"nothing", ""),
    ],
)
def test_a_path_is_what_is_in_its_brackets(argument: bytes, path: str) -> None:
    server = ScriptedServer(extensions=["DSN"])
    talk(server, b"MAIL FROM:" + argument, b"RCPT TO:<c@d>", b"DATA", b".")
    assert server.mails == [ReceivedMail(path, ("c@d",), b"")]


def test_answers_of_a_table_go_by_line_then_by_verb() -> None:
    server = ScriptedServer({"rcpt": "450 later", "RCPT TO:<a@b>": ["550 no", None, "250-one\n250 two"], "NOOP": b""})
    talk(server, b"MAIL FROM:<>")
    said = talk(server, *[b"RCPT TO:<a@b>"] * 4, b"RCPT TO:<c@d>", b"NOOP")
    assert said == [
        b"550 no\r\n",
        b"250 2.0.0 ok\r\n",
        b"250-one\r\n250 two\r\n",
        b"250 2.0.0 ok\r\n",
        b"450 later\r\n",
        b"",
    ]
    talk(server, b"DATA", b".")
    assert server.mails[0].recipients == ("a@b",) * 3


def test_answers_of_a_function_go_by_line() -> None:
    seen = []

    def answer(line: str) -> str | None:
        seen.append(line)
        return "554 no" if line == "." else None

    server = ScriptedServer(answer)
    server.connected()
    talk(server, b"MAIL FROM:<>", b"RCPT TO:<a@b>", b"DATA", b"hello", b".")
    assert seen == ["connect", "MAIL FROM:<>", "RCPT TO:<a@b>", "DATA", "."]
    assert server.mails == []


def test_421_closes_the_session() -> None:
    server = ScriptedServer({"NOOP": "421 bye"})
    assert talk(server, b"NOOP", b"NOOP") == [b"421 bye\r\n", b""]
    assert server.closed
    assert server.complaints == ["octets after the end of the session"]


def test_a_client_that_does_not_wait_is_complained_of() -> None:
    server = ScriptedServer(extensions=[])
    server.receive_data(b"EHLO c\r\nMAIL FROM:<>\r\n")
    assert "did not wait" in server.complaints[0]
    server = ScriptedServer()
    server.receive_data(b"EHLO c\nd\r\n")
    assert "bare" in server.complaints[0]
    server = ScriptedServer()
    assert server.receive_data(b"STARTTLS\r\nEHLO x\r\n") == b"220 go ahead\r\n"
    assert server.complaints == ["octets behind STARTTLS"]


def test_starttls_is_offered_until_tls_began() -> None:
    server = ScriptedServer(extensions=["STARTTLS"])
    assert b"STARTTLS" in server.receive_data(b"EHLO c\r\n")
    server.receive_data(b"STARTTLS\r\n")
    due = server.tls_due
    assert due
    server.tls_started()
    assert not server.tls_due
    assert b"STARTTLS" not in server.receive_data(b"EHLO c\r\n")


@pytest.mark.parametrize(
    ("lines", "code", "user"),
    [
        ([b"AUTH PLAIN " + CREDENTIALS], b"235", "user"),
        ([b"AUTH PLAIN", CREDENTIALS], b"235", "user"),
        ([b"AUTH PLAIN " + base64.b64encode(b"\0user\0wrong")], b"535", None),
        ([b"AUTH PLAIN " + base64.b64encode(b"user")], b"535", None),
        ([b"AUTH PLAIN ????"], b"535", None),
        ([b"AUTH PLAIN", b"*"], b"501", None),
        ([b"AUTH LOGIN"], b"500", None),
    ],
)
def test_auth_plain(lines: list[bytes], code: bytes, user: str | None) -> None:
    server = ScriptedServer(users={"user": "hunter2"})
    assert b"250 AUTH PLAIN\r\n" in server.receive_data(b"EHLO c\r\n")
    assert talk(server, *lines)[-1][:3] == code
    assert server.user == user


# --- the driver -----------------------------------------------------------------------------------------------------


def test_the_driver_stops_where_the_contract_lets_it_wait() -> None:
    driver = PureDriver(Client("client.example"), [(MAIL, b"hello\n")], piece=2)
    assert driver.run() == b""
    assert isinstance(driver.last, Timeout)
    assert driver.run() == b""
    assert len(driver.events) == 1
    driver.hear(b"220 hi\r\n")
    assert driver.hear(b"250 mx\r\n") == b"MAIL FROM:<alice@a.example>\r\n"
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n"):
        driver.hear(reply)
    assert driver.hear(b"354 go\r\n") == b"hello\r\n.\r\n"
    driver.hear(b"250 ok\r\n")
    assert isinstance(driver.last, Idle)
    assert [report.mail for report in driver.reports] == driver.mails


def test_the_driver_leaves_a_body_that_is_none_to_the_test() -> None:
    driver = PureDriver(Client("client.example"), [(MAIL, None)])
    driver.run()
    for reply in (b"220 hi\r\n", b"250-mx\r\n250 PIPELINING\r\n", b"250 ok\r\n" * 3 + b"354 go\r\n"):
        driver.hear(reply)
    assert driver.last == NeedBody(driver.mails[0], 0)


# --- the conversation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(), 1, [1, 2, 3, 400]])
def test_a_conversation_ends_with_quit(split: int | list[int] | tuple[int, ...]) -> None:
    server = ScriptedServer()
    events = converse(Client("client.example"), server, [(MAIL, b"one\n"), (MAIL, b"two\n")], split=split)
    assert [mail.content for mail in server.mails] == [b"one\r\n", b"two\r\n"]
    assert sum(isinstance(event, MailSent) for event in events) == 2
    assert events[-1] == Disconnect(DisconnectReason.QUIT, None, clean=True)
    assert server.commands[-1] == "QUIT"


def test_pieces_that_are_used_up_leave_the_rest_whole() -> None:
    events = converse(Client("client.example"), ScriptedServer(), split=[1])
    assert isinstance(events[0], Timeout)
    assert isinstance(events[-1], Disconnect)


@pytest.mark.parametrize("policy", [TlsPolicy.IMPLICIT, TlsPolicy.REQUIRED])
def test_tls_begins_on_both_sides(policy: TlsPolicy) -> None:
    server = ScriptedServer(extensions=["STARTTLS"], users={"user": "hunter2"})
    client = Client("client.example", tls=policy, credentials=[Plain("user", "hunter2")])
    converse(client, server, [(MAIL, b"one\n")])
    assert client.tls is not None
    assert server.user == "user"
    assert server.mails[0].content == b"one\r\n"
    assert server.commands.count("STARTTLS") == (policy is TlsPolicy.REQUIRED)


def test_a_silent_server_lets_the_deadline_expire_and_a_closed_one_is_heard_to_close() -> None:
    silent = converse(Client("client.example"), ScriptedServer({"MAIL": b""}), [(MAIL, b"")])
    assert isinstance(silent[-1], Disconnect)
    assert isinstance(silent[-1].error, PeerTimeout)
    server = ScriptedServer({"QUIT": b""})
    server.closed = True
    closed = converse(Client("client.example"), server, [(MAIL, b"")])
    assert isinstance(closed[-1], Disconnect)
    assert closed[-1].reason is DisconnectReason.LOST
    assert not any(isinstance(event, (SendLine, MailRefused)) and "MAIL" in repr(event) for event in closed)


def test_a_server_takes_chunks_and_wants_a_reset_behind_a_refused_one() -> None:
    server = ScriptedServer({"BDAT": ["452 full"]}, extensions=["CHUNKING", "PIPELINING"])
    server.connected()
    start = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n"
    said = start + b"BDAT 5\r\nDATA\rBDAT 3 LAST\r\nabc" + start + b"RSET\r\n" + start + b"BDAT 2\r\n"
    codes = [line[:3] for line in server.receive_data(b"EHLO c\r\n" + said).split(b"\r\n")]
    assert codes[3:] == [b"250", b"250", b"452", b"503", b"503", b"503", b"250", b"250", b"250", b""]
    assert server.receive_data(b"a\n") == b"250 2.0.0 2 octets\r\n"
    assert server.receive_data(b"BDAT 1 LAST\r\nb").startswith(b"250")
    assert [received.content for received in server.mails] == [b"a\nb"]
    assert server.receive_data(b"BDAT 0 LAST\r\n").startswith(b"503")


def test_a_server_without_chunking_knows_no_chunks() -> None:
    server = ScriptedServer(extensions=[])
    server.connected()
    assert server.receive_data(b"BDAT 4 LAST\r\n").startswith(b"500")
