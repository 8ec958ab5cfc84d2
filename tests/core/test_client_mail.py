"""The client's mail transactions: what is said, in which order, and what each reply means for each recipient.

What lives here: mails in sessions that are open. What does not: how they opened, and how they end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smtpcore import (
    BodyFacts,
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    ExtensionRequired,
    Idle,
    Limits,
    LineEnds,
    LocalProtocolError,
    MailRefused,
    MailSent,
    NeedBody,
    NeedMail,
    Pipelining,
    Protocol,
    SendBody,
    SendLine,
    ServiceRefused,
    Stage,
    Timeout,
    TlsPolicy,
    Verb,
    Verdict,
)
from smtpcore.testing import PureDriver, ScriptedServer, converse

A, B, C = "ann@b.example", "bob@b.example", "cid@b.example"
EXTENSIONS = ("PIPELINING", "8BITMIME", "SIZE 1000")
D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER
REPEATABLE = BodyFacts(repeatable=True)


def envelope(*recipients: str, sender: str = "alice@a.example", **facts: Any) -> Envelope:
    return Envelope(sender, recipients or (A,), body=BodyFacts(**facts))


def ready(*extensions: str, **options: Any) -> PureDriver:
    """A driver in an open session."""
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, **options))
    driver.run()
    driver.hear(b"220 hi\r\n")
    lines = ["mx", *extensions]
    driver.hear("".join(f"250{'-' if i < len(lines) - 1 else ' '}{x}\r\n" for i, x in enumerate(lines)).encode())
    assert isinstance(driver.last, Idle)
    return driver


def give(driver: PureDriver, mail: Envelope, body: bytes | None = b"hello\r\n") -> list[str]:
    driver.give(mail, body)
    return driver.run().decode().splitlines()


def hear(driver: PureDriver, *replies: str) -> list[str]:
    return driver.hear("".join(f"{reply}\r\n" for reply in replies).encode()).decode().splitlines()


def verdicts(driver: PureDriver, mail: int = 0) -> list[Verdict]:
    return [outcome.verdict for outcome in driver.reports[mail].outcomes]


# --- a transaction --------------------------------------------------------------------------------------------------


def test_one_command_at_a_time_without_pipelining() -> None:
    driver = ready()
    assert give(driver, envelope(A, B)) == ["MAIL FROM:<alice@a.example>"]
    assert driver.last == Timeout(Verb.MAIL, 300.0)
    assert hear(driver, "250 ok") == [f"RCPT TO:<{A}>"]
    assert hear(driver, "250 ok") == [f"RCPT TO:<{B}>"]
    assert hear(driver, "250 ok") == ["DATA"]
    assert driver.last == Timeout(Verb.DATA, 120.0)
    assert hear(driver, "354 go") == ["hello", "."]
    assert driver.last == Timeout(Verb.END_OF_DATA, 600.0)
    assert hear(driver, "250 2.0.0 queued as 42") == []
    (report,) = driver.reports
    assert isinstance(report, MailSent)
    assert report.mail is driver.mails[0]
    assert report.reply.text == "2.0.0 queued as 42"
    assert report.stage is Stage.BODY_ENDED
    assert [(o.recipient, o.verdict, o.enhanced) for o in report.outcomes] == [(A, D, "2.0.0"), (B, D, "2.0.0")]
    assert ">>> DATA" in report.transcript.lines
    assert isinstance(driver.last, Idle)


def test_with_pipelining_everything_before_the_body_leaves_at_once() -> None:
    driver = ready("PIPELINING")
    assert give(driver, envelope(A, B)) == [
        "MAIL FROM:<alice@a.example>",
        f"RCPT TO:<{A}>",
        f"RCPT TO:<{B}>",
        "DATA",
    ]
    assert driver.last == Timeout(Verb.MAIL, 300.0)


def test_pipelining_can_be_forbidden() -> None:
    driver = ready("PIPELINING", pipelining=Pipelining.NONE)
    assert give(driver, envelope(A, B)) == ["MAIL FROM:<alice@a.example>"]


def test_the_null_reverse_path_and_postmaster() -> None:
    driver = ready("PIPELINING")
    assert give(driver, Envelope("", ("Postmaster",))) == ["MAIL FROM:<>", "RCPT TO:<Postmaster>", "DATA"]


def test_of_a_long_reply_the_beginning_is_kept_for_one_recipient_and_the_whole_for_all() -> None:
    def wordy(code: int) -> list[str]:
        return [*(f"{code}-{line}" for line in range(99)), f"{code} 99"]

    cut, whole = (*map(str, range(16)), "..."), tuple(map(str, range(100)))
    driver = ready()
    give(driver, envelope(A, B, C))
    said = (["250 ok"], ["250 ok"], wordy(452), wordy(550), ["354 go on"], wordy(450))
    for replies in said:
        hear(driver, *replies)
    outcomes = driver.reports[0].outcomes
    assert [outcome.verdict for outcome in outcomes] == [L, L, N]
    assert [(outcome.code, outcome.reply and outcome.reply.lines) for outcome in outcomes] == [
        (450, whole),
        (452, cut),
        (550, cut),
    ]
    # It is so with LMTP, where the verdict on the message is one for each, too.
    lmtp = PureDriver(Client("c.example", protocol=Protocol.LMTP), [(envelope(A, B), b"hello\r\n")])
    lmtp.run()
    for replies in (["220 hi"], ["250 mx"], ["250 ok"], ["250 ok"], ["250 ok"], ["354 go on"], wordy(250), wordy(550)):
        hear(lmtp, *replies)
    assert [outcome.reply and outcome.reply.lines for outcome in lmtp.reports[0].outcomes] == [cut, cut]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
def test_each_recipient_has_its_own_outcome_in_the_order_of_the_envelope(extensions: tuple[str, ...]) -> None:
    server = ScriptedServer(
        {f"RCPT TO:<{A}>": "550 5.1.1 unknown", f"RCPT TO:<{C}>": "450 4.2.1 greylisted", ".": "250 taken"},
        extensions=extensions,
    )
    events = converse(Client("client.example"), server, [(envelope(A, B, C), b"hello\n")])
    (report,) = (e for e in events if isinstance(e, MailSent))
    assert [(o.recipient, o.verdict, o.text) for o in report.outcomes] == [
        (A, N, "5.1.1 unknown"),
        (B, D, "taken"),
        (C, L, "4.2.1 greylisted"),
    ]
    assert server.mails[0].recipients == (B,)


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
@pytest.mark.parametrize(
    ("answers", "expected", "stage"),
    [
        ({"MAIL": "550 no"}, N, Stage.STARTED),
        ({"MAIL": "451 later"}, L, Stage.STARTED),
        ({"MAIL": "530 authenticate first"}, L, Stage.STARTED),
        ({"MAIL": "535 bad credentials"}, L, Stage.STARTED),
        ({"MAIL": "538 encrypt first"}, L, Stage.STARTED),
        ({"MAIL": "539 not yet"}, L, Stage.STARTED),
        ({"MAIL": "540 no"}, N, Stage.STARTED),
        ({"MAIL": "529 no"}, N, Stage.STARTED),
        ({"RCPT": "550 no"}, N, Stage.STARTED),
        ({"RCPT": "450 later"}, L, Stage.STARTED),
        ({"RCPT": "400 later"}, L, Stage.STARTED),
        ({"RCPT": "452 too many"}, L, Stage.STARTED),
        ({"RCPT": "552 too many"}, N, Stage.STARTED),
        ({"RCPT": "530 no"}, N, Stage.STARTED),
        ({"DATA": "554 no"}, N, Stage.STARTED),
        ({"DATA": "451 later"}, L, Stage.STARTED),
        ({".": "554 spam"}, N, Stage.BODY_ENDED),
        ({".": "451 later"}, L, Stage.BODY_ENDED),
        ({".": "251 good"}, D, Stage.BODY_ENDED),
        ({"MAIL": "299 good", "RCPT": "252 good"}, D, Stage.BODY_ENDED),
    ],
)
def test_the_first_digit_decides(
    answers: dict[str, str], expected: Verdict, stage: Stage, extensions: tuple[str, ...]
) -> None:
    server = ScriptedServer(answers, extensions=extensions)
    events = converse(Client("client.example"), server, [(envelope(A, B), b"hello\n")])
    (report,) = (e for e in events if isinstance(e, (MailSent, MailRefused)))
    assert [o.verdict for o in report.outcomes] == [expected, expected]
    assert isinstance(report, MailSent) is (expected is D)
    assert report.stage is stage
    assert all(o.reply is not None and not o.in_doubt for o in report.outcomes)
    # None of these is a reason to give the session up.
    assert events[-1] == Disconnect(DisconnectReason.QUIT, None, clean=True)
    assert not server.complaints


@pytest.mark.parametrize(
    ("before", "reply"),
    [
        ([], "354 go"),
        ([], "334 "),
        (["250 ok"], "354 go"),
        (["250 ok", "250 ok"], "250 ok"),
        (["250 ok", "250 ok"], "220 ok"),
        (["250 ok", "250 ok", "354 go"], "354 go"),
    ],
)
def test_a_good_code_of_another_command_is_a_violation(before: list[str], reply: str) -> None:
    driver = ready()
    give(driver, envelope(A))
    for good in before:
        hear(driver, good)
    hear(driver, reply)
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.PROTOCOL
    (outcome,) = driver.reports[0].outcomes
    assert outcome.verdict is L
    # What breaks the protocol decides nothing.
    assert outcome.reply is None
    assert outcome.in_doubt is (before[-1:] == ["354 go"])


def test_a_violation_is_no_reply_that_decided_anything() -> None:
    driver = ready()
    give(driver, envelope(A))
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    (outcome,) = driver.reports[0].outcomes
    assert outcome.verdict is L
    assert outcome.code is None
    assert "250 is no answer to DATA" in outcome.text


# --- several mails --------------------------------------------------------------------------------------------------


def test_mails_are_pulled_one_after_the_other_and_never_overlap() -> None:
    server = ScriptedServer()
    mails = [(envelope(A, sender=f"s{n}@a.example"), b"%d\r\n" % n) for n in range(4)]
    events = converse(Client("client.example"), server, mails)
    assert [mail.content for mail in server.mails] == [b"0\r\n", b"1\r\n", b"2\r\n", b"3\r\n"]
    assert [mail.reverse_path for mail in server.mails] == [f"s{n}@a.example" for n in range(4)]
    assert "RSET" not in server.commands
    # One NeedMail for each mail, and one that was answered by no_mail().
    assert sum(isinstance(e, NeedMail) for e in events) == len(mails) + 1


def test_no_mail_leads_to_idle_until_the_next_send() -> None:
    driver = ready()
    assert isinstance(driver.client.next_event(), Idle)
    assert isinstance(driver.client.next_event(), Idle)
    driver.client.send(envelope(A))
    assert isinstance(driver.client.next_event(), SendLine)


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
@pytest.mark.parametrize(
    ("answers", "resets"),
    [
        ({"MAIL": ["550 no"]}, 0),
        ({"RCPT": ["550 no"]}, 1),
        ({"DATA": ["554 no"]}, 1),
        ({".": ["554 no"]}, 0),
        ({"RCPT": ["550 no"], "DATA": ["354 oh well"]}, None),
        ({}, 0),
    ],
)
def test_rset_only_where_a_transaction_was_left_open(
    answers: dict[str, list[str]], resets: int | None, extensions: tuple[str, ...]
) -> None:
    server = ScriptedServer(answers, extensions=extensions)
    mails = [(envelope(A), b"one\n"), (envelope(B), b"two\n")]
    events = converse(Client("client.example"), server, mails)
    if resets is None:  # the lone dot, said with pipelining only, ends the transaction as well
        resets = 0 if extensions else 1
    assert server.commands.count("RSET") == resets
    assert server.mails[-1].content == b"two\r\n"
    assert [type(e) for e in events if isinstance(e, (MailSent, MailRefused))][-1] is MailSent


def test_rset_leads_the_pipelined_group_of_the_next_mail() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A))
    hear(driver, "250 ok", "550 no", "554 no")
    assert give(driver, envelope(B)) == ["RSET", "MAIL FROM:<alice@a.example>", f"RCPT TO:<{B}>", "DATA"]
    assert driver.last == Timeout(Verb.RSET, 300.0)


def test_rset_is_not_said_when_no_mail_follows() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A))
    hear(driver, "250 ok", "550 no", "554 no")
    driver.client.quit()
    assert driver.run() == b"QUIT\r\n"


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
@pytest.mark.parametrize("reply", ["502 no", "451 no"])
def test_a_refused_rset_ends_the_session_and_answers_every_mail(extensions: tuple[str, ...], reply: str) -> None:
    driver = ready(*extensions)
    for recipient in (A, B, C):
        driver.give(envelope(recipient), b"")
    driver.run()
    for answer in ["250 ok", "550 no", "554 no"][: 3 if extensions else 2]:
        said = hear(driver, answer)
    assert said[0] == "RSET"
    said = hear(driver, reply)
    assert said == ([] if extensions else ["QUIT"])
    if not extensions:
        hear(driver, "221 bye")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, ServiceRefused)
    assert [verdicts(driver, n) for n in range(3)] == [[N], [L], [L]]
    assert [report.stage for report in driver.reports] == [
        Stage.STARTED,
        Stage.STARTED if extensions else Stage.NOT_STARTED,
        Stage.NOT_STARTED,
    ]


# --- the lone dot ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["250 ok", "554 no recipients", "451 hm"])
@pytest.mark.parametrize("replies", [("250 ok", "550 no", "450 no"), ("550 no", "250 odd", "503 no")])
def test_a_body_that_nobody_is_to_get_is_ended_at_once(replies: tuple[str, ...], verdict: str) -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A, B))
    assert hear(driver, *replies, "354 go") == ["."]
    assert not any(isinstance(event, (NeedBody, SendBody)) for event in driver.events)
    hear(driver, verdict)
    (report,) = driver.reports
    assert isinstance(report, MailRefused)
    assert [o.code for o in report.outcomes] == ([550, 450] if replies[0] == "250 ok" else [550, 550])
    assert give(driver, envelope(C))[0] == "MAIL FROM:<alice@a.example>"


# --- early verdicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "verdict"), [("552 too big", N), ("451 disk full", L)])
def test_an_early_refusal_stops_the_body_and_closes_without_dot_or_quit(reply: str, verdict: Verdict) -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A, B), None)
    driver.give(envelope(C), b"")
    hear(driver, "250 ok", "250 ok", "550 no", "354 go")
    assert isinstance(driver.last, NeedBody)
    driver.client.send_body(b"hello")
    assert driver.run() == b"hello"
    assert hear(driver, reply) == []
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.BODY
    assert not driver.last.clean
    assert verdicts(driver) == [verdict, N]
    assert driver.reports[0].outcomes[0].code == int(reply[:3])
    assert driver.reports[0].stage is Stage.BODY_BEGUN
    assert verdicts(driver, 1) == [L]
    assert driver.reports[1].stage is Stage.NOT_STARTED


def test_an_early_acceptance_is_a_violation_and_delivers_nothing() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A), None)
    hear(driver, "250 ok", "250 ok", "354 go")
    hear(driver, "250 taken already")
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.PROTOCOL
    assert isinstance(driver.reports[0], MailRefused)
    assert verdicts(driver) == [L]
    assert driver.reports[0].outcomes[0].code is None


# --- further transactions -------------------------------------------------------------------------------------------


def _hundred_at_a_time(n: int, code: int) -> Callable[[str], str | None]:
    """Answers of a server that takes ``n`` recipients in a transaction."""
    taken = 0

    def answer(line: str) -> str | None:
        nonlocal taken
        if line.startswith("MAIL"):
            taken = 0
        elif line.startswith("RCPT"):
            taken += 1
            return None if taken <= n else f"{code} too many recipients"
        return None

    return answer


@pytest.mark.parametrize("code", [452, 552])
@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
def test_recipients_put_off_as_too_many_go_in_further_transactions(code: int, extensions: tuple[str, ...]) -> None:
    server = ScriptedServer(_hundred_at_a_time(2, code), extensions=extensions)
    recipients = [f"r{n}@b.example" for n in range(5)]
    events = converse(Client("client.example"), server, [(envelope(*recipients, repeatable=True), b"hello\n")])
    assert [mail.recipients for mail in server.mails] == [tuple(recipients[i : i + 2]) for i in (0, 2, 4)]
    assert {mail.content for mail in server.mails} == {b"hello\r\n"}
    (report,) = (e for e in events if isinstance(e, MailSent))
    assert [(o.recipient, o.verdict) for o in report.outcomes] == [(r, D) for r in recipients]
    # The body is read from its beginning for each.
    assert [e.offset for e in events if isinstance(e, NeedBody)] == [0, 6] * 3


@pytest.mark.parametrize("code", [452, 552])
def test_without_a_repeatable_body_those_put_off_are_to_be_tried_later(code: int) -> None:
    server = ScriptedServer(_hundred_at_a_time(1, code))
    events = converse(Client("client.example"), server, [(envelope(A, B), b"hello\n")])
    (report,) = (e for e in events if isinstance(e, MailSent))
    assert [(o.verdict, o.code) for o in report.outcomes] == [(D, 250), (L, code)]
    assert len(server.mails) == 1


def test_no_further_transaction_when_the_first_brought_nothing_over() -> None:
    server = ScriptedServer({"RCPT": ["250 ok", "452 too many"], ".": "451 later"})
    events = converse(Client("client.example"), server, [(envelope(A, B, repeatable=True), b"hello\n")])
    (report,) = (e for e in events if isinstance(e, MailRefused))
    assert [(o.verdict, o.code) for o in report.outcomes] == [(L, 451), (L, 452)]


def test_what_earlier_transactions_brought_stands_when_a_further_one_fails() -> None:
    server = ScriptedServer({"RCPT": ["250 ok", "452 too many", "452 more"], "MAIL": [None, "550 enough"]})
    events = converse(Client("client.example"), server, [(envelope(A, B, C, repeatable=True), b"hello\n")])
    (report,) = (e for e in events if isinstance(e, MailSent))
    assert [(o.verdict, o.code) for o in report.outcomes] == [(D, 250), (N, 550), (N, 550)]
    assert report.stage is Stage.BODY_ENDED


def test_a_further_transaction_that_is_cut_off_leaves_the_rest_for_later() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A, B, C, repeatable=True))
    hear(driver, "250 ok", "250 ok", "452 many", "452 many", "354 go")
    said = hear(driver, "250 ok")
    assert said[1:] == [f"RCPT TO:<{B}>", f"RCPT TO:<{C}>", "DATA"]
    hear(driver, "250 ok", "250 ok", "452 many", "354 go")
    driver.client.receive_eof()
    driver.run()
    (report,) = driver.reports
    assert isinstance(report, MailSent)
    assert [(o.verdict, o.in_doubt) for o in report.outcomes] == [(D, False), (L, True), (L, False)]


# --- what the peer cannot take --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "extensions", "enhanced"),
    [
        ({"size": 1001}, ("SIZE 1000",), "5.3.4"),
        ({"eight_bit": True}, (), "5.6.3"),
    ],
)
def test_a_mail_that_the_peer_cannot_take_is_refused_before_mail_is_said(
    facts: dict[str, Any], extensions: tuple[str, ...], enhanced: str
) -> None:
    driver = ready(*extensions)
    driver.give(envelope(A, B, **facts), b"")
    assert give(driver, envelope(C))[0].startswith("MAIL FROM")
    (report,) = driver.reports
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    for outcome in report.outcomes:
        assert (outcome.verdict, outcome.reply, outcome.enhanced) == (N, None, enhanced)
        assert isinstance(outcome.error, ExtensionRequired)


@pytest.mark.parametrize(
    ("facts", "extensions", "parameters"),
    [
        ({"size": 1000}, ("SIZE 1000",), " SIZE=1000"),
        ({"size": 5000}, ("SIZE",), " SIZE=5000"),
        ({"size": 5000}, ("SIZE 0",), " SIZE=5000"),
        ({"size": 5000}, (), ""),
        ({}, ("8BITMIME", "SIZE"), " BODY=8BITMIME"),
        ({"eight_bit": True}, ("8bitmime",), " BODY=8BITMIME"),
        ({"eight_bit": False}, ("8BITMIME",), ""),
        ({}, (), ""),
    ],
)
def test_mail_declares_what_is_known_of_the_body(
    facts: dict[str, Any], extensions: tuple[str, ...], parameters: str
) -> None:
    driver = ready(*extensions)
    assert give(driver, envelope(A, **facts)) == [f"MAIL FROM:<alice@a.example>{parameters}"]


# --- bodies ---------------------------------------------------------------------------------------------------------


def body_on_the_wire(body: bytes, piece: int = 65_536, **options: Any) -> bytes:
    server = ScriptedServer(extensions=("PIPELINING", "8BITMIME"))
    facts = options.pop("facts", {})
    converse(Client("client.example", **options), server, [(envelope(A, **facts), body)], piece=piece)
    return server.mails[0].content


@pytest.mark.parametrize("piece", [1, 2, 3, 65_536])
@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a\nb", b"a\r\nb\r\n"),
        (b"a\rb", b"a\r\nb\r\n"),
        (b"a\r", b"a\r\n"),
        (b".", b".\r\n"),
        (b".\n..\n...", b".\r\n..\r\n...\r\n"),
        (b"a\n.\nb", b"a\r\n.\r\nb\r\n"),
        (b"a\r.\rb", b"a\r\n.\r\nb\r\n"),
        (b"\n\n", b"\r\n\r\n"),
        (b"\xff\x00.\n", b"\xff\x00.\r\n"),
    ],
)
def test_bodies_arrive_whole_with_every_line_end_as_crlf(body: bytes, content: bytes, piece: int) -> None:
    assert body_on_the_wire(body, piece) == content


def test_need_body_counts_the_octets_handed_in() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A), None)
    hear(driver, "250 ok", "250 ok", "354 go")
    offsets = []
    for piece in (b"a\n", b"\n", b"bc", b""):
        event = driver.client.next_event()
        assert isinstance(event, NeedBody)
        assert event.mail is driver.mails[0]
        offsets.append(event.offset)
        driver.client.send_body(piece)
        while isinstance(driver.client.next_event(), SendBody):
            pass
    assert offsets == [0, 2, 3, 5]


def test_octets_of_a_body_have_the_deadline_of_a_data_block() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A))
    hear(driver, "250 ok", "250 ok", "354 go")
    (block,) = (e for e in driver.events if isinstance(e, SendBody))
    assert block == SendBody(b"hello\r\n", 180.0)


def test_a_canonical_body_passes_through_as_the_very_same_object() -> None:
    driver = ready("PIPELINING")
    body = b"hello\r\nworld\r\n"
    give(driver, envelope(A, canonical=True), body)
    said = hear(driver, "250 ok", "250 ok", "354 go")
    assert said == ["hello", "world", "."]
    (block,) = (e for e in driver.events if isinstance(e, SendBody))
    assert block.data is body


def test_an_empty_canonical_body_is_a_lone_dot() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A, canonical=True), b"")
    assert hear(driver, "250 ok", "250 ok", "354 go") == ["."]


@pytest.mark.parametrize("extensions", [("PIPELINING",), ("PIPELINING", "CHUNKING")])
@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        ([b"hello"], False),
        ([b"hello\r\n", b"world"], False),
        ([b"hello\n"], False),
        ([b"hello\r"], False),
        ([b"hello\r\n", b"\n"], False),
        ([b"\n"], False),
        ([b"hello\r", b"\n"], True),
        ([b"hello", b"\r", b"\n"], True),
        ([b"hello", b"\r\n"], True),
        ([], True),
    ],
)
def test_a_body_that_is_declared_canonical_ends_with_a_line_end(
    extensions: tuple[str, ...], pieces: list[bytes], ends: bool
) -> None:
    """Behind anything else the dot is no line of its own, and the peer waits for another."""
    driver = ready(*extensions)
    # The mail before has left the end of a line, which is none of this one's.
    give(driver, envelope(A, canonical=True), b"before\r\n")
    go_on = ["250 ok", "250 ok"] if "CHUNKING" in extensions else ["250 ok", "250 ok", "354 go"]
    hear(driver, *go_on)
    hear(driver, "250 ok")
    give(driver, envelope(A, canonical=True), None)
    hear(driver, *go_on)
    for piece in pieces:
        driver.client.send_body(piece)
        while isinstance(driver.client.next_event(), (SendBody, SendLine)):
            pass
    if ends:
        driver.client.send_body(b"")
        return
    before = driver.client.snapshot()
    with pytest.raises(LocalProtocolError, match="a body that is declared canonical ends with CRLF"):
        driver.client.send_body(b"")
    assert driver.client.snapshot() == before


def test_a_binary_body_need_not_end_with_a_line_end() -> None:
    driver = ready("CHUNKING", "BINARYMIME", "8BITMIME")
    give(driver, envelope(A, binary=True), b"\0\1")
    for _ in range(3):
        hear(driver, "250 ok")
    assert verdicts(driver) == [D]


def test_line_ends_that_stand_alone_can_be_refused_and_nothing_has_changed_then() -> None:
    driver = ready("PIPELINING", line_ends=LineEnds.REFUSE)
    give(driver, envelope(A), None)
    hear(driver, "250 ok", "250 ok", "354 go")
    driver.client.send_body(b"good\r\n")
    before = driver.client.snapshot()
    for bad in (b"a\nb", b"a\rb", b"\n"):
        with pytest.raises(LocalProtocolError):
            driver.client.send_body(bad)
        assert driver.client.snapshot() == before
    driver.client.send_body(b"more\r")
    with pytest.raises(LocalProtocolError):
        driver.client.send_body(b"")
    driver.client.send_body(b"\n.\r\n")
    driver.client.send_body(b"")
    assert driver.run() == b"good\r\nmore\r\n..\r\n.\r\n"


def test_a_body_that_is_not_due_is_refused() -> None:
    driver = ready("PIPELINING")
    for _ in range(2):
        calls: list[Callable[[], object]] = [
            lambda: driver.client.send_body(b"x"),
            lambda: driver.client.body_failed("broken"),
        ]
        for call in calls:
            before = driver.client.snapshot()
            with pytest.raises(LocalProtocolError):
                call()
            assert driver.client.snapshot() == before
        give(driver, envelope(A))


# --- limits ---------------------------------------------------------------------------------------------------------


def test_the_window_bounds_commands_in_flight_and_is_refilled_at_half() -> None:
    driver = ready("PIPELINING", limits=Limits(commands_in_flight=4))
    recipients = [f"r{n}@b.example" for n in range(7)]
    assert len(give(driver, envelope(*recipients))) == 4
    assert hear(driver, "250 ok") == []
    assert hear(driver, "250 ok") == ["RCPT TO:<r3@b.example>", "RCPT TO:<r4@b.example>"]
    assert hear(driver, "250 ok", "250 ok") == ["RCPT TO:<r5@b.example>", "RCPT TO:<r6@b.example>"]
    assert hear(driver, "250 ok", "250 ok") == ["DATA"]


@pytest.mark.parametrize("window", [1, 2, 3, 1024])
def test_thousands_of_recipients_with_any_window(window: int) -> None:
    server = ScriptedServer({"RCPT TO:<r7@b.example>": "550 no"})
    recipients = [f"r{n}@b.example" for n in range(3000)]
    client = Client("client.example", limits=Limits(commands_in_flight=window))
    events = converse(client, server, [(envelope(*recipients), b"hello\n")])
    (report,) = (e for e in events if isinstance(e, MailSent))
    assert [o.recipient for o in report.outcomes] == recipients
    assert [o.recipient for o in report.outcomes if o.verdict is not D] == ["r7@b.example"]
    assert len(server.mails[0].recipients) == 2999


def test_a_refused_mail_stops_the_recipients_that_are_not_said_yet() -> None:
    driver = ready("PIPELINING", limits=Limits(commands_in_flight=2))
    give(driver, envelope(A, B, C))
    assert hear(driver, "550 no", "503 no") == []
    assert verdicts(driver) == [N, N, N]


def test_a_refused_mail_stops_them_though_the_window_opens_while_others_are_in_flight() -> None:
    driver = ready("PIPELINING", limits=Limits(commands_in_flight=4))
    give(driver, envelope(A, B, C, A, B))
    assert hear(driver, "550 no", "503 no") == []
    assert hear(driver, "503 no", "503 no") == []
    assert verdicts(driver) == [N] * 5


@pytest.mark.parametrize(
    ("mail", "limits"),
    [
        (envelope(A, B), Limits(recipients=1)),
        (envelope(A, sender="a" * 300 + "@a.example"), Limits()),
        (envelope("a" * 300 + "@a.example"), Limits()),
        (envelope(A), Limits(command_line=20)),
        (envelope("bobby.long@b.example", sender=""), Limits(command_line=31)),
    ],
)
def test_an_envelope_beyond_the_limits_is_refused_and_nothing_has_changed_then(mail: Envelope, limits: Limits) -> None:
    driver = ready(limits=limits)
    before = driver.client.snapshot()
    with pytest.raises(LocalProtocolError):
        driver.client.send(mail)
    assert driver.client.snapshot() == before
    assert isinstance(driver.client.next_event(), Idle)


# --- a line that has begun to arrive --------------------------------------------------------------------------------


@pytest.mark.parametrize("heard", [1, 2, 3])
@pytest.mark.parametrize("rest", ["1 bye\r\n", "eof", "x\r\n"])
def test_a_line_that_begins_behind_a_reply_ends_no_transaction(heard: int, rest: str) -> None:
    driver = ready()
    give(driver, envelope(A, B))
    for _ in range(heard - 1):
        hear(driver, "250 ok")
    # While it may become a 421, nothing is said, and nothing is over.
    assert driver.hear(b"250 ok\r\n42") == b""
    assert driver.last == Timeout(None, 300.0)
    assert not driver.reports
    if rest == "eof":
        driver.client.receive_eof()
    else:
        driver.client.receive_data(rest.encode())
    driver.run()
    assert isinstance(driver.last, Disconnect)
    assert verdicts(driver) == [L, L]
    assert not any(outcome.in_doubt for outcome in driver.reports[0].outcomes)


def test_a_line_that_begins_behind_a_verdict_ends_no_further_transaction() -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A, B, repeatable=True))
    hear(driver, "250 ok", "250 ok", "452 many", "354 go")
    assert driver.hear(b"250 ok\r\n42") == b""
    assert not driver.reports
    driver.hear(b"1 bye\r\n")
    assert [(o.verdict, o.code) for o in driver.reports[0].outcomes] == [(D, 250), (L, 452)]


@pytest.mark.parametrize("reply", ["552 5.3.4 too big", "452 4.3.1 no room"])
def test_an_early_verdict_is_about_its_own_mail_only(reply: str) -> None:
    driver = ready("PIPELINING")
    give(driver, envelope(A), None)
    driver.give(envelope(B, sender="other@a.example"), b"hello\r\n")
    hear(driver, "250 ok", "250 ok", "354 go")
    driver.client.send_body(b"hello\r\n")
    driver.run()
    hear(driver, reply)
    first, second = driver.reports
    assert [outcome.text for outcome in first.outcomes] == [reply[4:]]
    # The other mail was not begun, and nothing was said of it.
    (outcome,) = second.outcomes
    assert (outcome.verdict, outcome.reply, second.stage) == (L, None, Stage.NOT_STARTED)
    assert reply[4:] in str(outcome.error)
