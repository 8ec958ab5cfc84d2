"""One test for each defect of the libraries before this one, named after its cause: none of them may come back.

What lives here: the defects that a client's core can have. What does not: those of drivers and pools
(``tests/drivers/test_predecessors.py``), of queues and of relays.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    BeginTls,
    BodyFacts,
    Client,
    DeliverBy,
    Disconnect,
    DisconnectReason,
    Envelope,
    ExtensionRequired,
    Idle,
    LocalProtocolError,
    MailOptions,
    MailRefused,
    MailSent,
    NeedBody,
    Protocol,
    RemoteProtocolError,
    SendBody,
    SendLine,
    ServiceRefused,
    Timeout,
    TlsFailed,
    TlsInfo,
    TlsPolicy,
    TlsRequired,
    Verdict,
    decode_xtext,
    encode_xtext,
)
from smtpcore.sasl import CramMd5, Login, Mechanism, Plain, XOAuth2
from smtpcore.testing import PureDriver, ScriptedServer, converse

D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER
A, B = "ann@b.example", "bob@b.example"
MAIL = Envelope("alice@a.example", (A,))
TWO = Envelope("alice@a.example", (A, B))
SECRET = base64.b64encode(b"\0user\0hunter2").decode()


def delivered(body: bytes, piece: int = 65_536) -> bytes:
    """The content that a server receives for ``body``, and nothing but one mail."""
    server = ScriptedServer()
    converse(Client("client.example"), server, [(MAIL, body)], piece=piece)
    assert server.commands == ["EHLO client.example", *_MAIL_LINES, "QUIT"]
    (mail,) = server.mails
    return mail.content


_MAIL_LINES = ["MAIL FROM:<alice@a.example> BODY=8BITMIME", f"RCPT TO:<{A}>", "DATA"]


def reports(
    answers: Mapping[str, str | bytes | list[str]],
    *mails: tuple[Envelope, bytes],
    extensions: tuple[str, ...] = ("PIPELINING",),
    **options: Any,
) -> tuple[list[MailSent | MailRefused], Disconnect]:
    """The reports of a conversation, and its last event."""
    server = ScriptedServer(answers, extensions=extensions)
    events = converse(Client("client.example", **options), server, mails or [(TWO, b"hello\n")])
    assert not server.complaints
    end = events[-1]
    assert isinstance(end, Disconnect)
    return [e for e in events if isinstance(e, (MailSent, MailRefused))], end


def session(*heard: bytes, **options: Any) -> PureDriver:
    """A driver whose client heard what is given."""
    driver = PureDriver(Client("client.example", **options))
    driver.run()
    for octets in heard:
        driver.hear(octets)
    return driver


def in_clear(*extensions: str, **options: Any) -> PureDriver:
    lines = "".join(f"250-{e}\r\n" for e in ("mx", *extensions))
    return session(b"220 hi\r\n", lines.encode() + b"250 HELP\r\n", tls=TlsPolicy.SECURED, **options)


def said_last(driver: PureDriver) -> bytes:
    """The line before the driver began to wait."""
    line = driver.events[-2]
    assert isinstance(line, SendLine)
    return line.data


def disconnect(driver: PureDriver) -> Disconnect:
    assert isinstance(driver.last, Disconnect)
    return driver.last


# --- twisted.mail.smtp ----------------------------------------------------------------------------------------------


def test_t1_crlf_that_is_there_already_is_doubled() -> None:
    assert delivered(b"a\r\nb\r\n") == b"a\r\nb\r\n"


def test_t2_p2_a_dot_that_begins_the_first_line_is_not_stuffed() -> None:
    assert delivered(b".hidden\n") == b".hidden\r\n"
    assert delivered(b".X: header\n\n") == b".X: header\r\n\r\n"


@pytest.mark.parametrize("piece", range(1, 12))
def test_t3_the_border_of_chunks_ends_the_message_and_its_rest_becomes_commands(piece: int) -> None:
    body = b"a\r\n.\r\nMAIL FROM:<evil@x.example>\n.\n"
    assert delivered(body, piece) == b"a\r\n.\r\nMAIL FROM:<evil@x.example>\r\n.\r\n"


@pytest.mark.parametrize("body", [b"a\r.\rb", b"a\n.\rb", b"a\r.\nb", b"a\n.\nb", b"a\r\n.\rb", b"a\r\r\n.\r\r\nb"])
def test_t4_s1_bare_cr_and_bare_lf_reach_the_wire(body: bytes) -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, body)
    driver.run()
    wire = driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    rest = wire.replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest
    assert wire.count(b"\r\n.\r\n") == 1
    assert wire.endswith(b"\r\n.\r\n")


def test_t5_a_refusal_during_the_body_lets_commands_into_it() -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, None)
    driver.give(MAIL, b"")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.send_body(b"half")
    assert driver.run() == b"half"
    assert driver.hear(b"552 too big\r\n") == b""
    assert disconnect(driver).reason is DisconnectReason.BODY


def test_t6_a_refused_rset_is_said_again_for_ever() -> None:
    found, end = reports({"RCPT": "550 no", "RSET": "502 what"}, *[(MAIL, b"")] * 3, extensions=())
    assert [report.outcomes[0].verdict for report in found] == [N, L]
    assert isinstance(end.error, ServiceRefused)


def test_t7_a8_421_to_rcpt_is_taken_for_a_refused_recipient_or_lost() -> None:
    found, end = reports({"RCPT": "421 4.3.2 going down"}, (TWO, b""), (MAIL, b""), extensions=())
    assert [o.text for o in found[0].outcomes] == ["4.3.2 going down"] * 2
    assert [o.verdict for o in found[0].outcomes] == [L, L]
    assert isinstance(end.error, ServiceRefused)


def test_t8_the_answer_to_a_mail_without_accepted_recipients_depends_on_the_last_one() -> None:
    found, _ = reports({"RCPT": ["550 5.1.1 unknown", "450 4.2.1 later"]})
    assert isinstance(found[0], MailRefused)
    assert [(o.recipient, o.code, o.text) for o in found[0].outcomes] == [
        (A, 550, "5.1.1 unknown"),
        (B, 450, "4.2.1 later"),
    ]
    with pytest.raises(LocalProtocolError):
        Envelope("alice@a.example", ())


@pytest.mark.parametrize(
    "greeting", [b"554-go away\r\n220 hi\r\n", b"+22 hi\r\n", b" 22 hi\r\n", b"2_0 hi\r\n", "٢٢٠ hi\r\n".encode()]
)
def test_t9_a5_codes_of_one_reply_differ_or_are_no_three_digits(greeting: bytes) -> None:
    driver = session(greeting)
    assert isinstance(disconnect(driver).error, RemoteProtocolError)


def test_t10_s10_continuation_lines_without_end() -> None:
    driver = session()
    for _ in range(200):
        driver.hear(b"220-more\r\n" * 100)
        if isinstance(driver.last, Disconnect):
            break
    assert isinstance(disconnect(driver).error, RemoteProtocolError)


def test_t10_p7_a_line_without_end() -> None:
    driver = session()
    driver.hear(b"220 " + b"x" * 5000)
    assert "more than 4096 octets" in str(disconnect(driver).error)


@pytest.mark.parametrize(
    "address",
    [
        "alice@example.org)bob@x",
        "a@b, c@d",
        "a@b\r\nRSET",
        "a@b>\r\nRCPT TO:<evil@x",
        "a@b> SIZE=1",
        "a@b> BODY=BINARYMIME",
        "<a@b>",
        "Alice <a@b>",
        "a b@c",
        "a@b\0",
        "a",
        "@b",
        "a@",
        " a@b",
        None,
        b"a@b",
    ],
)
def test_t11_p3_p13_a6_s9_a_bad_address_becomes_another_one_or_a_command(address: Any) -> None:
    makes: list[Callable[[], object]] = [lambda: Envelope(address, ("a@b",)), lambda: Envelope("a@b", (address,))]
    for make in makes:
        with pytest.raises(LocalProtocolError):
            make()


def test_p3_a_host_name_becomes_a_command() -> None:
    with pytest.raises(LocalProtocolError):
        Client("x\r\nMAIL FROM:<evil@x>")


def test_p13_a_quoted_local_part_loses_its_quotes() -> None:
    driver = in_clear()
    driver.give(Envelope('"a b"@c.example', (A,)), b"")
    assert driver.run() == b'MAIL FROM:<"a b"@c.example>\r\n'


def test_t12_an_empty_line_in_the_ehlo_reply_ends_the_session() -> None:
    driver = session(b"220 hi\r\n", b"250-mx\r\n250-\r\n250-SIZE\r\n250 \r\n")
    assert isinstance(driver.last, Idle)
    assert "SIZE" in driver.client.capabilities


def test_t12_p13_keywords_and_mechanisms_in_lower_case_are_passed_over() -> None:
    driver = session(b"220 hi\r\n", b"250-mx\r\n250 starttls\r\n")
    assert said_last(driver) == b"STARTTLS\r\n"
    driver = session(
        b"220 hi\r\n",
        b"250-mx\r\n250 auth plain\r\n",
        tls=TlsPolicy.SECURED,
        credentials=[Plain("user", "hunter2")],
    )
    assert said_last(driver) == f"AUTH PLAIN {SECRET}\r\n".encode()


def test_t12_the_name_of_the_server_is_taken_for_an_extension() -> None:
    driver = session(b"220 hi\r\n", b"250 STARTTLS\r\n")
    assert isinstance(driver.last, Idle)


def test_t12_the_old_form_of_auth_is_ignored() -> None:
    driver = in_clear("AUTH=PLAIN", credentials=[Plain("user", "hunter2")])
    assert said_last(driver).startswith(b"AUTH PLAIN ")


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
def test_t14_after_a_handshake_that_failed_the_session_goes_on_in_clear(policy: TlsPolicy) -> None:
    driver = session(b"220 hi\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n", tls=policy)
    assert isinstance(driver.last, BeginTls)
    driver.client.tls_failed(ValueError("no such cipher"))
    assert driver.run() == b""
    assert isinstance(disconnect(driver).error, TlsFailed)


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
def test_t13_p4_an_injected_reply_survives_the_switch_to_tls(policy: TlsPolicy) -> None:
    hi, offer, go = b"220 hi\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n"
    injected = b"250-mx\r\n250 AUTH PLAIN\r\n"
    driver = session(hi, offer, go + injected, tls=policy, credentials=[Plain("user", "hunter2")])
    assert isinstance(disconnect(driver).error, RemoteProtocolError)
    driver = session(hi, offer, go, tls=policy, credentials=[Plain("user", "hunter2")])
    assert isinstance(driver.last, BeginTls)
    driver.client.receive_data(injected)
    driver.client.tls_started(TlsInfo("TLSv1.3", "X", True))
    assert driver.run() == b""
    assert isinstance(disconnect(driver).error, RemoteProtocolError)
    assert "AUTH" not in driver.client.capabilities


@pytest.mark.parametrize("echo", ["", f" you said AUTH PLAIN {SECRET}", f" {SECRET}", f"-{SECRET}\r\n535 {SECRET}"])
def test_t15_s10_credentials_stand_in_exceptions_and_logs(echo: str) -> None:
    driver = in_clear("AUTH PLAIN", credentials=[Plain("user", "hunter2")])
    driver.hear(f"535{echo}\r\n".encode())
    driver.hear(b"221 bye\r\n")
    error = disconnect(driver).error
    assert isinstance(error, AuthDeclined)
    shown = [str(error), repr(error), str(error.transcript), repr(error.transcript), repr(error.reply)]
    shown += [repr(event) for event in driver.events] + [repr(driver.client.snapshot())]
    assert not any(SECRET in text or "hunter2" in text for text in shown)
    assert ">>> AUTH PLAIN ********" in str(error.transcript)


@pytest.mark.parametrize(
    "echo",
    [
        f"AUTH PLAIN {SECRET}",
        f"5 {SECRET}",
        f"535-{SECRET}\r\n535 {SECRET}\r\n{SECRET}",
        f"501 no\r\n{'x' * 60}{SECRET}",
        f"501 {SECRET}\n",
        f"501 \0{SECRET}",
        f"334 {SECRET}x",
    ],
)
def test_t15_credentials_that_a_peer_echoes_where_no_reply_is_due(echo: str) -> None:
    driver = in_clear("AUTH PLAIN", credentials=[Plain("user", "hunter2")])
    driver.hear(f"{echo}\r\n".encode())
    if not isinstance(driver.last, Disconnect):
        driver.hear(b"501 cancelled\r\n")
        driver.hear(f"{echo}\r\n".encode())
    error = disconnect(driver).error
    assert error is not None
    shown = " ".join([str(error), repr(error), repr(error.transcript), repr(error.reply), repr(driver.events)])
    assert not any(SECRET[i : i + 8] in shown for i in range(len(SECRET) - 8))


@pytest.mark.parametrize("reply", ["535 wrong", "454 later", "421 bye", "534 too weak"])
def test_t16_s5_declined_credentials_are_tried_again_in_another_form(reply: str) -> None:
    driver = in_clear("AUTH PLAIN LOGIN", credentials=[Plain("user", "hunter2"), Plain("user", "hunter2")])
    driver.hear(f"{reply}\r\n".encode())
    driver.hear(b"221 bye\r\n") if not isinstance(driver.last, Disconnect) else None
    said = [event.data for event in driver.events if isinstance(event, SendLine) and event.secret]
    assert said == [f"AUTH PLAIN {SECRET}\r\n".encode()]
    assert base64.b64decode(SECRET).startswith(b"\0")
    assert disconnect(driver).error is not None


def test_t17_a3_p14_credentials_are_said_in_clear_when_starttls_is_stripped() -> None:
    client = Client("client.example", credentials=[Plain("user", "hunter2")])
    server = ScriptedServer(extensions=[], users={"user": "hunter2"})
    events = converse(client, server, [(MAIL, b"")])
    assert server.commands == ["EHLO client.example", "QUIT"]
    assert isinstance(events[-1], Disconnect)
    assert isinstance(events[-1].error, TlsRequired)


@pytest.mark.parametrize("mechanism", [Plain("user", "hunter2"), Login("user", "hunter2"), CramMd5("user", "hunter2")])
def test_t18_a_mechanism_that_served_once_is_out_of_step_the_second_time(mechanism: Mechanism) -> None:
    challenges = {"LOGIN": [b"Username:", b"Password:"], "CRAM-MD5": [b"<1@b.example>"], "PLAIN": []}[mechanism.name]

    def answers(driver: PureDriver) -> list[bytes]:
        return [driver.hear(b"334 " + base64.b64encode(challenge) + b"\r\n") for challenge in challenges]

    first, second, third = (in_clear(f"AUTH {mechanism.name}", credentials=[mechanism]) for _ in range(3))
    # An exchange that breaks off half way, and two at the same time, as the sessions of a pool have them.
    broken_off = first.hear(b"334 " + base64.b64encode(challenges[0]) + b"\r\n") if challenges else b""
    interleaved = [
        (second.hear(octets), third.hear(octets))
        for octets in (b"334 " + base64.b64encode(challenge) + b"\r\n" for challenge in challenges)
    ]
    alone = answers(in_clear(f"AUTH {mechanism.name}", credentials=[mechanism]))
    assert interleaved == [(answer, answer) for answer in alone]
    assert broken_off == (alone[0] if alone else b"")
    assert b"*\r\n" not in alone


@pytest.mark.parametrize("challenge", ["!!!!", "YQ", "Y Q==", "YQ==YQ==", "Y\u00e9=="])
def test_t19_a_challenge_is_decoded_though_it_is_garbage(challenge: str) -> None:
    driver = in_clear("AUTH PLAIN", credentials=[Plain("user", "hunter2")])
    assert driver.hear(f"334 {challenge}\r\n".encode()) == b"*\r\n"


def test_t20_xtext_leaves_plus_and_equals_sign_as_they_are() -> None:
    assert encode_xtext("a+b=c") == "a+2Bb+3Dc"
    assert decode_xtext("a+2Bb+3Dc") == "a+b=c"
    with pytest.raises(LocalProtocolError):
        decode_xtext("a+ZZ")


def test_t24_an_address_without_a_domain_is_given_one() -> None:
    makes: list[Callable[[], object]] = [lambda: Envelope("root", (A,)), lambda: Envelope("alice@a.example", ("root",))]
    for make in makes:
        with pytest.raises(LocalProtocolError):
            make()


# --- smtpproto ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"hello.", b"hello.\r", b"hello.\r\n", b"a\r\n."])
def test_p1_a_body_without_a_final_line_end_never_ends(body: bytes) -> None:
    content = delivered(body)
    assert content == (body.rstrip(b"\r\n") + b"\r\n" if body else b"")


def test_p5_a4_replies_that_come_together_are_paired_with_later_commands() -> None:
    driver = in_clear("PIPELINING")
    driver.give(TWO, b"x")
    driver.run()
    driver.hear(b"250 one\r\n550 two\r\n250 three\r\n354 go\r\n")
    driver.hear(b"250 done\r\n")
    assert [(o.verdict, o.text) for o in driver.reports[0].outcomes] == [(N, "two"), (D, "done")]


def test_a4_what_comes_between_commands_is_dropped() -> None:
    driver = in_clear()
    driver.client.receive_data(b"421 4.4.2 idle\r\n")
    driver.give(MAIL, b"")
    assert driver.run() == b""
    assert driver.reports[0].outcomes[0].text == "4.4.2 idle"


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ({".": "550 spam"}, N),
        ({".": "451 greylisted"}, L),
        ({".": "571 odd"}, N),
        ({"MAIL": "554 no"}, N),
        ({"RCPT": "554 no"}, N),
        ({"RCPT": "499 odd"}, L),
        ({"RCPT": "252 cannot verify"}, D),
        ({"MAIL": "421 bye"}, L),
        ({"STARTTLS": "454 no"}, D),
        ({"EHLO": "502 what"}, D),
        ({"connect": "450 later"}, None),
    ],
)
def test_p6_codes_that_are_not_on_a_list_end_the_session(answers: dict[str, str], verdict: Verdict | None) -> None:
    found, end = reports(answers, (MAIL, b""), extensions=("STARTTLS",))
    assert [o.verdict for report in found for o in report.outcomes] == ([] if verdict is None else [verdict])
    assert not isinstance(end.error, RemoteProtocolError)


@pytest.mark.parametrize("reply", ["501 bad", "504 unknown", "421 bye"])
def test_p6_refusals_of_auth_that_are_not_on_a_list(reply: str) -> None:
    driver = in_clear("AUTH PLAIN", credentials=[Plain("user", "hunter2")])
    driver.hear(f"{reply}\r\n".encode())
    driver.hear(b"221 bye\r\n") if not isinstance(driver.last, Disconnect) else None
    assert disconnect(driver).error is not None
    assert not isinstance(disconnect(driver).error, RemoteProtocolError)


def test_p7_a_reply_without_text_or_beyond_ascii_is_a_violation() -> None:
    found, _ = reports({"MAIL": "250", "RCPT": "550 Empfänger unbekannt", ".": b"250 \xff\r\n"})
    assert [o.text for o in found[0].outcomes] == ["Empfänger unbekannt"] * 2
    found, _ = reports({".": b"250 \xff\r\n"})
    assert [o.text for o in found[0].outcomes] == ["\\xff"] * 2


def test_p7_a_code_of_six_digits_is_taken() -> None:
    assert isinstance(disconnect(session(b"000220 hi\r\n")).error, RemoteProtocolError)
    assert isinstance(disconnect(session(b"220220 hi\r\n")).error, RemoteProtocolError)


class AskedTwice(Mechanism):
    """A mechanism that is asked for user and password, as LOGIN is."""

    name = "LOGIN"

    def start(self) -> bytes | None:
        return None

    def answer(self, challenge: bytes) -> bytes:
        return b"user" if challenge == b"Username:" else b"hunter2"


def test_p8_a_mechanism_of_several_steps_cannot_work() -> None:
    driver = in_clear("AUTH LOGIN", credentials=[AskedTwice()])
    said = [driver.hear(b"334 " + base64.b64encode(prompt) + b"\r\n") for prompt in (b"Username:", b"Password:")]
    assert said == [base64.b64encode(b"user") + b"\r\n", base64.b64encode(b"hunter2") + b"\r\n"]
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated


def test_p11_the_first_refused_recipient_takes_the_others_with_it() -> None:
    found, _ = reports({f"RCPT TO:<{A}>": "550 no"}, (TWO, b"x"), (MAIL, b""), (TWO, b"y"))
    assert [[o.verdict for o in report.outcomes] for report in found] == [[N, D], [N], [N, D]]


def test_p12_rset_while_the_body_flows_becomes_text_of_the_message() -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, None)
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.give(MAIL, None)
    driver.client.quit()
    assert driver.run() == b""
    assert isinstance(driver.last, NeedBody)


# --- aiosmtplib and smtplib -----------------------------------------------------------------------------------------


def test_a1_the_whole_message_waits_in_memory_to_be_written() -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, None)
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    for _ in range(3):
        driver.client.send_body(b"x" * 1000)
        assert isinstance(driver.client.next_event(), SendBody)
        # Nothing more is asked for than one piece, and that one is gone.
        assert isinstance(driver.client.next_event(), NeedBody)
        assert driver.client.snapshot().connection.unsent_orders == 0


def test_a2_the_time_for_the_verdict_includes_the_upload() -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, b"x" * 10)
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert [e.seconds for e in driver.events if isinstance(e, SendBody)] == [180.0]
    assert isinstance(driver.last, Timeout)
    assert driver.last.seconds == 600.0


def test_a7_s7_octets_above_127_go_out_without_8bitmime() -> None:
    eight = Envelope("alice@a.example", (A,), body=BodyFacts(eight_bit=True))
    found, _ = reports({}, (eight, b"\xff"), extensions=())
    (outcome,) = found[0].outcomes
    assert outcome.verdict is N
    assert isinstance(outcome.error, ExtensionRequired)
    driver = in_clear("8BITMIME")
    driver.give(eight, b"\xff")
    assert driver.run() == b"MAIL FROM:<alice@a.example> BODY=8BITMIME\r\n"


def test_s10_a_size_limit_is_not_checked_before_the_message_is_sent() -> None:
    big = Envelope("alice@a.example", (A,), body=BodyFacts(size=101))
    server = ScriptedServer(extensions=("SIZE 100",))
    converse(Client("client.example"), server, [(big, b"x" * 101)])
    assert server.commands == ["EHLO client.example", "QUIT"]


def test_s10_an_early_refusal_is_lost_when_the_peer_closes_behind_it() -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, None)
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.send_body(b"x" * 1000)
    driver.client.receive_data(b"552 5.3.4 too big\r\n")
    driver.client.receive_eof()
    driver.run()
    assert [(o.verdict, o.text) for o in driver.reports[0].outcomes] == [(N, "5.3.4 too big")]


def test_s10_421_after_data_leaves_the_session_open() -> None:
    found, end = reports({".": "421 full"}, (MAIL, b"x"), (MAIL, b"y"))
    assert [o.code for report in found for o in report.outcomes] == [421]
    assert end.reason is DisconnectReason.REFUSED


def test_s8_the_reply_that_holds_the_queue_id_is_discarded() -> None:
    found, _ = reports({".": "250 2.0.0 queued as 4711"})
    assert isinstance(found[0], MailSent)
    assert found[0].reply.text == "2.0.0 queued as 4711"
    assert [o.text for o in found[0].outcomes] == ["2.0.0 queued as 4711"] * 2


@pytest.mark.parametrize("chunking", [False, True])
def test_s3_a9_one_of_the_verdicts_of_lmtp_is_read_and_the_next_command_gets_the_other(chunking: bool) -> None:
    driver = PureDriver(
        Client("client.example", protocol=Protocol.LMTP, chunking=chunking), [(TWO, b"x"), (MAIL, b"y")]
    )
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 CHUNKING\r\n")
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", *([] if chunking else [b"354 go\r\n"])):
        driver.hear(reply)
    assert driver.hear(b"250 taken\r\n") == b""
    assert driver.hear(b"550 full\r\n").startswith(b"MAIL FROM:")
    assert [(o.verdict, o.text) for o in driver.reports[0].outcomes] == [(D, "taken"), (N, "full")]


def test_a9_s7_a_domain_beyond_ascii_cannot_be_written_to() -> None:
    driver = in_clear(to_a_labels={"bücher.example": "xn--bcher-kva.example"}.__getitem__)
    driver.give(Envelope("alice@a.example", ("ann@bücher.example",)), b"x")
    assert driver.run() == b"MAIL FROM:<alice@a.example>\r\n"
    assert driver.hear(b"250 ok\r\n") == b"RCPT TO:<ann@xn--bcher-kva.example>\r\n"


def test_s4_a_password_beyond_ascii_cannot_be_said() -> None:
    driver = in_clear("auth plain", credentials=[Plain("jürgen", "пароль")])
    (said,) = [event.data for event in driver.events if isinstance(event, SendLine) and event.secret]
    assert base64.b64decode(said.split()[2]) == "\0jürgen\0пароль".encode()


# --- XOAUTH2, in smtpproto and mail-send ----------------------------------------------------------------------------


def test_p9_f_the_error_behind_a_token_is_never_answered_or_with_the_token() -> None:
    driver = in_clear("AUTH XOAUTH2", credentials=[XOAuth2("user", lambda _: "hunter2")])
    assert driver.hear(b"334 " + base64.b64encode(b'{"status": "401"}') + b"\r\n") == b"\r\n"
    driver.hear(b"535 5.7.8 bad token\r\n")
    driver.hear(b"221 bye\r\n")
    error = disconnect(driver).error
    assert isinstance(error, AuthDeclined)
    assert error.reply is not None
    assert error.reply.code == 535


def test_p10_a_token_that_has_expired_is_said_for_ever() -> None:
    tokens = iter(["first", "second", "third"])
    mechanism = XOAuth2("user", lambda _: next(tokens))

    def token(driver: PureDriver) -> bytes:
        return base64.b64decode([e.data for e in driver.events if isinstance(e, SendLine) and e.secret][-1].split()[-1])

    driver = in_clear("AUTH XOAUTH2", credentials=[mechanism])
    assert b"Bearer first\1" in token(driver)
    driver.hear(b"334 " + base64.b64encode(b'{"status": "401"}') + b"\r\n")
    driver.hear(b"535 5.7.8 expired\r\n")
    # The same session asks once more; a later one asks anew in any case.
    assert b"Bearer second\1" in token(driver)
    assert b"Bearer third\1" in token(in_clear("AUTH XOAUTH2", credentials=[mechanism]))


# --- slimta, lettre, mail-send and go-smtp ----------------------------------------------------------------------------


def test_f_a_dot_that_begins_a_piece_in_the_middle_of_a_line_is_stuffed() -> None:
    assert delivered(b"a.b\r\n.c\r\n", 1) == b"a.b\r\n.c\r\n"
    driver = in_clear("PIPELINING")
    driver.give(MAIL, None)
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.send_body(b"a")
    driver.client.send_body(b".b\r\n")
    assert driver.run() == b"a.b\r\n"


def test_f_a_line_end_is_put_behind_every_message() -> None:
    driver = in_clear("PIPELINING")
    driver.give(MAIL, b"whole\r\n")
    driver.run()
    assert driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n") == b"whole\r\n.\r\n"


def test_f_what_follows_the_first_reply_of_a_read_is_dropped() -> None:
    driver = session(b"220 hi\r\n", b"250-mx\r\n250 HELP\r\n")
    driver.give(MAIL, b"x")
    driver.run()
    # The 421 behind the reply says why nothing else will come.
    driver.hear(b"250 ok\r\n421 4.3.2 going down\r\n")
    assert [(o.verdict, o.text) for o in driver.reports[0].outcomes] == [(L, "4.3.2 going down")]
    assert disconnect(driver).reason is DisconnectReason.REFUSED


def test_f_the_client_never_pipelines() -> None:
    driver = in_clear("pipelining")
    driver.give(TWO, b"x")
    assert driver.run().split(b"\r\n")[1:] == [b"RCPT TO:<%b>" % path.encode() for path in (A, B)] + [b"DATA", b""]


def test_f_the_kind_of_body_is_not_declared() -> None:
    driver = in_clear("8BITMIME")
    driver.give(Envelope("alice@a.example", (A,), body=BodyFacts(eight_bit=True)), b"\xff")
    assert driver.run() == b"MAIL FROM:<alice@a.example> BODY=8BITMIME\r\n"


def test_f_options_of_a_mail_are_said_with_its_recipients() -> None:
    options = MailOptions(deliver_by=DeliverBy(seconds=60), priority=4)
    driver = in_clear("DELIVERBY", "MT-PRIORITY")
    driver.give(Envelope("alice@a.example", (A,), options=options), b"x")
    assert driver.run() == b"MAIL FROM:<alice@a.example> BY=60;R MT-PRIORITY=4\r\n"
    assert driver.hear(b"250 ok\r\n") == b"RCPT TO:<%b>\r\n" % A.encode()
