"""Messages in chunks (RFC 3030): what leaves together, what a refused chunk means, and many mails in flight.

What lives here: BDAT as a client says it, with each kind of pipelining. What does not: what the replies to MAIL and
RCPT mean, which is the same with DATA (``test_client_mail.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import (
    BodyError,
    BodyFacts,
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    Idle,
    Limits,
    LineEnds,
    LocalProtocolError,
    LostStep,
    MailRefused,
    MailSent,
    NeedBody,
    Pipelining,
    RemoteProtocolError,
    SendBody,
    SendLine,
    Stage,
    Timeout,
    TlsPolicy,
    Verb,
    Verdict,
)
from smtpcore.testing import PureDriver, ScriptedServer, converse

from .examples import examples

D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER
OFFERED = "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"


def mail(number: int = 1, *recipients: str, body: bytes = b"hello\r\n", **facts: Any) -> tuple[Envelope, bytes]:
    known = {"size": len(body), "repeatable": True} | facts
    paths = recipients or (f"r{number}@b.example",)
    return Envelope(f"s{number}@a.example", paths, body=BodyFacts(**known)), body


class Greeted(PureDriver):
    """A driver whose session is open, and what its client said to the EHLO reply."""

    said: bytes = b""


def ready(*mails: tuple[Envelope, bytes], offered: str = OFFERED, piece: int = 65_536, **options: Any) -> Greeted:
    """A driver whose session is open; the mails are given as they are asked for."""
    driver = Greeted(Client("client.example", tls=TlsPolicy.SECURED, **options), mails, piece=piece)
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.said = driver.hear(offered.encode())
    return driver


def hear(driver: PureDriver, *replies: str) -> bytes:
    return driver.hear("".join(f"{reply}\r\n" for reply in replies).encode())


def start(number: int, *recipients: str) -> bytes:
    paths = recipients or (f"r{number}@b.example",)
    return f"MAIL FROM:<s{number}@a.example>\r\n".encode() + b"".join(f"RCPT TO:<{p}>\r\n".encode() for p in paths)


def told(driver: PureDriver) -> list[tuple[str, list[Verdict], list[bool]]]:
    return [
        (
            report.mail.envelope.reverse_path[:2],
            [o.verdict for o in report.outcomes],
            [o.in_doubt for o in report.outcomes],
        )
        for report in driver.reports
    ]


# --- one mail -------------------------------------------------------------------------------------------------------


def test_a_small_mail_leaves_in_one_write() -> None:
    driver = ready(mail())
    assert driver.said == start(1) + b"BDAT 7 LAST\r\nhello\r\n"
    assert hear(driver, "250 ok", "250 ok", "250 taken") == b""
    (report,) = driver.reports
    assert isinstance(report, MailSent)
    assert (report.reply.text, report.stage) == ("taken", Stage.BODY_ENDED)
    assert isinstance(driver.last, Idle)


@pytest.mark.parametrize(
    ("offered", "options"),
    [("250-mx\r\n250 PIPELINING\r\n", {}), (OFFERED, {"chunking": False})],
    ids=["not offered", "not wanted"],
)
def test_without_chunking_it_is_data(offered: str, options: dict[str, Any]) -> None:
    assert ready(mail(), offered=offered, **options).said == start(1) + b"DATA\r\n"


def test_octets_are_counted_and_dots_left_alone() -> None:
    body = b".\n..two\r\nthree\rlast"
    driver = ready(mail(body=body, size=23))
    assert driver.said == start(1) + b"BDAT 23 LAST\r\n.\r\n..two\r\nthree\r\nlast\r\n"


def test_line_ends_may_be_refused() -> None:
    driver = ready(line_ends=LineEnds.REFUSE)
    driver.give(mail()[0], None)
    driver.run()
    assert isinstance(driver.last, NeedBody)
    with pytest.raises(LocalProtocolError, match="bare"):
        driver.client.send_body(b"a\nb")


@pytest.mark.parametrize("size", [None, 65_537], ids=["unknown", "large"])
def test_a_large_body_waits_for_the_recipients(size: int | None) -> None:
    driver = ready(mail(1, "a@b.example", "b@b.example", size=size), mail(2))
    assert driver.said == start(1, "a@b.example", "b@b.example")
    assert hear(driver, "250 ok", "550 no") == b""
    assert hear(driver, "250 ok") == b"BDAT 7 LAST\r\nhello\r\n"
    assert hear(driver, "250 taken") == start(2) + b"BDAT 7 LAST\r\nhello\r\n"
    assert told(driver) == [("s1", [N, D], [False, False])]


def test_of_a_large_body_no_octet_is_said_in_vain() -> None:
    driver = ready(mail(size=None))
    assert hear(driver, "250 ok", "550 no") == b""
    assert told(driver) == [("s1", [N], [False])]
    assert driver.reports[0].stage is Stage.STARTED


def test_a_small_body_may_be_said_in_vain() -> None:
    driver = ready(mail(), mail(2))
    assert hear(driver, "250 ok", "550 no", "554 no recipients") == b"RSET\r\n" + start(2) + b"BDAT 7 LAST\r\nhello\r\n"
    assert told(driver) == [("s1", [N], [False])]


def test_a_body_of_just_one_piece_does_not_wait() -> None:
    assert ready(mail(body=b"hello\r\n", size=65_536)).said == start(1) + b"BDAT 7 LAST\r\nhello\r\n"


def test_behind_a_refused_reverse_path_no_octet_is_asked_for() -> None:
    driver = ready()
    driver.give(mail()[0], None)
    driver.run()
    asked = driver.last
    assert isinstance(asked, NeedBody)
    hear(driver, "550 no")
    assert driver.last == Timeout(Verb.RCPT, 300.0)


def test_with_nobody_accepted_no_more_of_a_body_is_asked_for() -> None:
    driver = ready()
    driver.give(mail(body=b"1\r\n2\r\n3\r\n")[0], None)
    driver.run()
    driver.client.send_body(b"1\r\n")
    driver.client.send_body(b"2\r\n")
    assert driver.run() == b"BDAT 3\r\n1\r\n"
    asked = driver.last
    assert isinstance(asked, NeedBody)
    assert hear(driver, "250 ok", "550 no") == b""
    assert driver.last == Timeout(Verb.BDAT, 600.0)


def test_of_a_piece_that_adds_nothing_no_chunk_is_made() -> None:
    driver = ready()
    driver.give(mail(body=b"1\r\n")[0], None)
    driver.run()
    # The LF belongs to a line end that is complete already.
    for piece, said in ((b"1\r", b""), (b"\n", b""), (b"", b"BDAT 3 LAST\r\n1\r\n")):
        driver.client.send_body(piece)
        assert driver.run() == said


def test_of_several_chunks_the_last_is_marked() -> None:
    body = b"0123456\r\n" * 3
    driver = ready(mail(body=body), piece=9)
    chunks = b"".join(b"BDAT 9%b\r\n0123456\r\n" % mark for mark in (b"", b"", b" LAST"))
    assert driver.said == start(1) + chunks
    assert hear(driver, *["250 ok"] * 4, "250 taken") == b""
    assert told(driver) == [("s1", [D], [False])]


def test_chunks_ahead_of_their_replies_are_bounded() -> None:
    driver = ready(mail(body=b"1\r\n" * 9), piece=3, limits=Limits(chunks_in_flight=3))
    assert driver.said.count(b"BDAT") == 3
    assert hear(driver, "250 ok", "250 ok") == b""
    assert hear(driver, "250 ok").count(b"BDAT") == 1
    assert hear(driver, *["250 ok"] * 3).count(b"BDAT") == 3
    assert hear(driver, *["250 ok"] * 3).count(b"LAST") == 1


def test_a_body_of_nothing_is_one_empty_chunk() -> None:
    driver = ready(mail(body=b""))
    assert driver.said == start(1) + b"BDAT 0 LAST\r\n"
    assert not any(isinstance(event, SendBody) for event in driver.events)
    assert hear(driver, *["250 ok"] * 3) == b""
    assert told(driver) == [("s1", [D], [False])]


def test_without_pipelining_every_chunk_waits() -> None:
    driver = ready(mail(body=b"1\r\n2\r\n"), piece=3, offered="250-mx\r\n250 CHUNKING\r\n")
    assert hear(driver, "250 ok") == start(1).split(b"\r\n")[1] + b"\r\n"
    assert hear(driver, "250 ok") == b"BDAT 3\r\n1\r\n"
    assert driver.last == Timeout(Verb.BDAT, 600.0)
    assert hear(driver, "250 ok") == b"BDAT 3 LAST\r\n2\r\n"
    assert hear(driver, "250 taken") == b""
    assert told(driver) == [("s1", [D], [False])]


def test_what_is_handed_in_at_once_is_said_one_by_one() -> None:
    driver = ready(offered="250-mx\r\n250 CHUNKING\r\n")
    driver.give(mail(size=None)[0], None)
    driver.run()
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    for piece in (b"1\r\n", b"2\n", b""):
        driver.client.send_body(piece)
    assert driver.run() == b"BDAT 3\r\n1\r\n"
    assert hear(driver, "250 ok") == b"BDAT 3 LAST\r\n2\r\n"


def test_two_pieces_are_kept_and_no_third() -> None:
    driver = ready(offered="250-mx\r\n250 CHUNKING\r\n")
    driver.give(mail(size=None)[0], None)
    driver.run()
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    driver.client.send_body(b"1\r\n")
    driver.client.send_body(b"2\r\n")
    with pytest.raises(LocalProtocolError, match="no body is due"):
        driver.client.send_body(b"3\r\n")


def test_behind_a_refused_chunk_nothing_is_said_though_its_neighbour_is_in_flight() -> None:
    driver = ready(limits=Limits(commands_in_flight=4))
    driver.give(mail()[0], None)
    assert driver.run() == start(1)
    for piece, said in ((b"1\r\n", b""), (b"2\r\n", b"BDAT 3\r\n1\r\n"), (b"3\r\n", b"BDAT 3\r\n2\r\n")):
        driver.client.send_body(piece)
        assert driver.run() == said
    driver.client.send_body(b"")
    assert hear(driver, "250 ok", "250 ok", "452 full") == b""
    assert hear(driver, "503 RSET first") == b""
    assert told(driver) == [("s1", [L], [False])]


def test_recipients_put_off_get_the_body_again() -> None:
    driver = ready(mail(1, "a@b.example", "b@b.example"))
    again = start(1, "b@b.example") + b"BDAT 7 LAST\r\nhello\r\n"
    assert hear(driver, "250 ok", "250 ok", "452 later", "250 taken") == again
    assert hear(driver, "250 ok", "250 ok", "250 taken too") == b""
    assert told(driver) == [("s1", [D, D], [False, False])]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "verdict"), [("452 full", L), ("552 too large", N)])
def test_a_refused_chunk_refuses_the_message(reply: str, verdict: Verdict) -> None:
    driver = ready(mail(body=b"1\r\n2\r\n3\r\n", size=None), mail(2), piece=3, offered="250-mx\r\n250 CHUNKING\r\n")
    hear(driver, "250 ok")
    assert hear(driver, "250 ok") == b"BDAT 3\r\n1\r\n"
    assert hear(driver, reply) == b"RSET\r\n"
    assert told(driver) == [("s1", [verdict], [False])]
    assert str(driver.reports[0].outcomes[0].reply) == reply
    assert driver.reports[0].stage is Stage.BODY_BEGUN
    assert hear(driver, "250 ok").startswith(b"MAIL FROM:<s2")


def test_what_follows_a_refused_chunk_is_refused_as_well() -> None:
    driver = ready(mail(body=b"1\r\n2\r\n"), piece=3)
    assert hear(driver, "250 ok", "250 ok", "452 full") == b""
    # The first refusal says why.
    assert hear(driver, "503 RSET first") == b""
    assert told(driver) == [("s1", [L], [False])]
    assert driver.reports[0].outcomes[0].code == 452


@pytest.mark.parametrize(("reply", "verdict"), [("452 full", L), ("552 too large", N)])
def test_a_refused_chunk_is_the_outcome_though_the_connection_is_lost_behind_it(reply: str, verdict: Verdict) -> None:
    driver = ready(mail(body=b"1\r\n2\r\n"), piece=3)
    hear(driver, "250 ok", "250 ok", reply)
    driver.client.receive_eof()
    driver.run()
    assert told(driver) == [("s1", [verdict], [False])]
    assert str(driver.reports[0].outcomes[0].reply) == reply


def test_a_message_with_a_hole_that_is_taken_is_in_doubt() -> None:
    driver = ready(mail(body=b"1\r\n2\r\n"), piece=3)
    hear(driver, "250 ok", "250 ok", "452 full", "250 taken")
    assert told(driver) == [("s1", [L], [True])]
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, RemoteProtocolError)
    assert driver.last.reason is DisconnectReason.PROTOCOL


def test_a_refused_message_is_refused_for_those_accepted() -> None:
    driver = ready(mail(1, "a@b.example", "b@b.example"))
    assert hear(driver, "250 ok", "250 ok", "550 no", "451 not now") == b""
    assert [o.code for o in driver.reports[0].outcomes] == [451, 550]
    assert driver.client.send(mail(2)[0])
    assert driver.run() == b"RSET\r\n" + start(2)


def test_a_refused_reverse_path_answers_for_all() -> None:
    driver = ready(mail(), mail(2))
    assert hear(driver, "550 not you") == b""
    assert hear(driver, "503 MAIL first", "503 MAIL first").startswith(b"RSET\r\nMAIL")
    assert [o.code for o in driver.reports[0].outcomes] == [550]


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_421_ends_the_session_at_every_step(after: int) -> None:
    driver = ready(mail(body=b"1\r\n2\r\n"), piece=3)
    hear(driver, *["250 ok"] * (after - 1), "421 bye")
    assert told(driver) == [("s1", [L], [False])]
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.REFUSED


@pytest.mark.parametrize("heard", [0, 1, 2, 3])
def test_a_connection_lost_behind_the_last_chunk_leaves_doubt(heard: int) -> None:
    driver = ready(mail(body=b"1\r\n2\r\n"), piece=3)
    hear(driver, *["250 ok"] * heard)
    driver.client.receive_eof()
    driver.run()
    assert told(driver) == [("s1", [L], [True])]


def test_who_was_refused_before_the_connection_was_lost_is_in_no_doubt() -> None:
    driver = ready(mail(1, "a@b.example", "b@b.example", "c@b.example"))
    hear(driver, "250 ok", "550 no")
    driver.client.receive_eof()
    driver.run()
    assert told(driver) == [("s1", [N, L, L], [False, True, True])]


def test_a_refused_reset_leaves_the_mail_behind_it_in_doubt() -> None:
    driver = ready(mail(), mail(2))
    assert hear(driver, "250 ok", "550 no", "554 no recipients").endswith(b"BDAT 7 LAST\r\nhello\r\n")
    hear(driver, "500 what?")
    assert told(driver) == [("s1", [N], [False]), ("s2", [L], [True])]
    # The refusal of RSET is no answer to a message; it is told with the error.
    (outcome,) = driver.reports[1].outcomes
    assert outcome.reply is None
    assert outcome.error is not None
    assert "500 what?" in str(outcome.error)


def test_a_refused_reset_among_mails_is_no_answer_to_those_that_wait() -> None:
    driver = across(*map(mail, (1, 2, 3)), limits=Limits(mails_kept_back=2))
    driver.give(*mail(3))
    hear(driver, *TAKEN, "550 no")
    assert told(driver)[-1] == ("s3", [L], [False])
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, LostStep)
    assert [outcome.reply for outcome in driver.reports[-1].outcomes] == [None]


def test_a_last_chunk_that_never_left_leaves_no_doubt() -> None:
    client = Client("client.example", tls=TlsPolicy.SECURED, pipelining=Pipelining.NONE)
    driver = PureDriver(client)
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 CHUNKING\r\n")
    driver.give(mail()[0], None)
    driver.run()
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    client.send_body(b"hello\r\n")
    client.send_body(b"")
    order = client.next_event()
    assert isinstance(order, SendLine)
    assert order.data == b"BDAT 7 LAST\r\n"
    client.send_failed("broken pipe")
    client.receive_eof()
    driver.run()
    assert told(driver) == [("s1", [L], [False])]


def test_a_source_that_breaks_costs_its_own_mail_only() -> None:
    driver = ready(pipelining=Pipelining.WITHIN)
    driver.give(mail(size=None)[0], None)
    driver.give(*mail(2))
    driver.run()
    hear(driver, "250 ok", "250 ok")
    for _ in range(2):
        driver.client.send_body(b"half\r\n")
    assert driver.run() == b"BDAT 6\r\nhalf\r\n"
    driver.client.body_failed(OSError("disk"))
    assert driver.run() == b""
    assert hear(driver, "250 ok") == b"RSET\r\n" + start(2) + b"BDAT 7 LAST\r\nhello\r\n"
    (outcome,) = driver.reports[0].outcomes
    assert isinstance(outcome.error, BodyError)
    assert isinstance(outcome.error.__cause__, OSError)
    assert (outcome.verdict, outcome.in_doubt) == (L, False)
    assert hear(driver, *["250 ok"] * 4) == b""
    assert told(driver)[1] == ("s2", [D], [False])


def test_no_body_is_taken_when_none_is_due() -> None:
    driver = ready(mail(size=None))
    client = driver.client
    calls: list[Callable[[], object]] = [
        lambda: client.send_body(b"x"),
        lambda: client.send_body(b""),
        lambda: client.body_failed("x"),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError, match="no body is due"):
            call()


def test_without_pipelining_no_chunk_is_asked_for_before_it_may_be_said() -> None:
    driver = ready(pipelining=Pipelining.NONE)
    driver.give(mail(size=None)[0], None)
    driver.run()
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    for piece in (b"1\r\n", b"2\r\n"):
        assert isinstance(driver.last, NeedBody)
        driver.client.send_body(piece)
        said = driver.run()
    assert said == b"BDAT 3\r\n1\r\n"
    assert driver.last == Timeout(Verb.BDAT, 600.0)
    hear(driver, "250 ok")
    assert isinstance(driver.last, NeedBody)


def test_a_body_ends_once() -> None:
    driver = ready(pipelining=Pipelining.NONE)
    driver.give(mail(size=None)[0], None)
    driver.run()
    hear(driver, "250 ok")
    hear(driver, "250 ok")
    driver.client.send_body(b"1\r\n")
    driver.client.send_body(b"")
    with pytest.raises(LocalProtocolError, match="no body is due"):
        driver.client.send_body(b"")
    assert driver.run() == b"BDAT 3 LAST\r\n1\r\n"
    with pytest.raises(LocalProtocolError, match="no body is due"):
        driver.client.send_body(b"")


@pytest.mark.parametrize("offered", [OFFERED, "250-mx\r\n250 PIPELINING\r\n"], ids=["chunks", "data"])
def test_a_cr_that_ends_one_mail_is_no_matter_to_the_next(offered: str) -> None:
    server = ScriptedServer(extensions=offered.replace("250-mx\r\n", "").replace("250", "").split())
    mails = [mail(1, body=b"a\r\nb\r", size=None), mail(2, body=b"\nc\r", size=None)]
    events = converse(Client("client.example", tls=TlsPolicy.SECURED), server, mails, piece=1)
    assert [received.content for received in server.mails] == [b"a\r\nb\r\n", b"\r\nc\r\n"]
    # No octets are no order.
    assert all(event.data for event in events if isinstance(event, SendBody))


# --- many mails in flight -------------------------------------------------------------------------------------------


def across(*mails: tuple[Envelope, bytes], **options: Any) -> Greeted:
    return ready(*mails, pipelining=Pipelining.ACROSS, **options)


def whole(number: int) -> bytes:
    return start(number) + b"BDAT 7 LAST\r\nhello\r\n"


TAKEN = ["250 ok"] * 3


def test_mails_leave_together_with_a_reset_between() -> None:
    driver = across(*map(mail, (1, 2, 3)))
    assert driver.said == b"RSET\r\n".join(map(whole, (1, 2, 3))) + b"RSET\r\nHELP\r\n"
    assert hear(driver, *[*TAKEN, "250 reset"] * 3) == b""
    assert told(driver) == []
    assert hear(driver, "214 help") == b""
    assert told(driver) == [(f"s{n}", [D], [False]) for n in (1, 2, 3)]
    assert isinstance(driver.last, Idle)


def test_a_message_refused_among_others_is_no_matter() -> None:
    driver = across(*map(mail, (1, 2, 3)))
    hear(driver, *TAKEN, "250 reset", "250 ok", "250 ok", "554 spam", "250 reset", *TAKEN, "250 reset", "502 what")
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False]), ("s3", [D], [False])]


def test_marks_are_said_on_the_way_and_free_what_is_before_them() -> None:
    driver = across(*map(mail, range(12)), limits=Limits(mails_kept_back=4))
    assert driver.said.count(b"MAIL") == 4
    assert driver.said.count(b"HELP") == 2
    # The first mark stands behind the second mail.
    assert driver.said.index(b"HELP") > driver.said.index(b"MAIL FROM:<s1@")
    assert driver.said.index(b"HELP") < driver.said.index(b"MAIL FROM:<s2@")
    assert hear(driver, *[*TAKEN, "250 reset"] * 2) == b""
    assert told(driver) == []
    said = hear(driver, "214 help")
    assert [row[0] for row in told(driver)] == ["s0", "s1"]
    assert said.count(b"MAIL") == 2


def test_mails_that_are_asked_for_beforehand_wait_for_the_mark_as_well() -> None:
    driver = across(limits=Limits(mails_kept_back=4))
    for number in range(9):
        driver.give(*mail(number))
    assert driver.run().count(b"MAIL") == 4
    assert hear(driver, *[*TAKEN, "250 reset"] * 2, "214 help").count(b"MAIL") == 2
    assert [row[0] for row in told(driver)] == ["s0", "s1"]


def test_a_report_that_opens_the_window_makes_no_body_due_before_all_recipients_are_said() -> None:
    mails = mail(1), mail(2), mail(3, "a@b.example", "b@b.example")
    driver = across(*mails, limits=Limits(mails_kept_back=3, commands_in_flight=11))
    assert driver.said.endswith(b"HELP\r\n" + start(3, "a@b.example"))
    replies = [*TAKEN, "250 reset", *TAKEN, "250 reset", "214 help"]
    driver.client.receive_data("".join(f"{reply}\r\n" for reply in replies).encode())
    assert isinstance(driver.client.next_event(), MailSent)
    with pytest.raises(LocalProtocolError, match="no body is due"):
        driver.client.send_body(b"hello\r\n")
    assert driver.run() == b"RCPT TO:<b@b.example>\r\nBDAT 7 LAST\r\nhello\r\nRSET\r\nHELP\r\n"


@pytest.mark.parametrize("stray", ["250 stray", "550 stray"])
def test_one_reply_too_many_is_found_out(stray: str) -> None:
    driver = across(*map(mail, (1, 2, 3)))
    replies = [stray] + [*TAKEN, "250 reset"] * 3
    hear(driver, *replies)
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, LostStep)
    # Nobody knows who was refused either.
    assert told(driver) == [(f"s{n}", [L], [True]) for n in (1, 2, 3)]


@pytest.mark.parametrize("stray", ["250 stray", "550 stray"])
def test_who_waits_for_a_further_transaction_is_in_no_doubt_when_step_is_lost(stray: str) -> None:
    offered = OFFERED.replace("250 ", "250-") + "250 LIMITS RCPTMAX=1\r\n"
    driver = across(mail(1), mail(2, "a@b.example", "b@b.example"), offered=offered)
    hear(driver, stray, *[*TAKEN, "250 reset"] * 2)
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, LostStep)
    assert told(driver) == [("s1", [L], [True]), ("s2", [L, L], [True, False])]


def test_nobody_knows_who_was_put_off_when_step_is_lost() -> None:
    driver = across(mail(1, "a@b.example", "b@b.example"), mail(2))
    hear(driver, "250 ok", "250 ok", "452 too many", "whatever")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, LostStep)
    assert told(driver) == [("s1", [L, L], [True, True]), ("s2", [L], [True])]
    assert [outcome.reply for outcome in driver.reports[0].outcomes] == [None, None]


def test_what_a_mark_has_proved_is_true_though_step_is_lost_later() -> None:
    driver = across(*map(mail, range(4)), limits=Limits(mails_kept_back=4))
    hear(driver, *[*TAKEN, "250 reset"] * 2, "214 help", *[*TAKEN, "250 reset"] * 2, "250 stray")
    assert told(driver) == [("s0", [D], [False]), ("s1", [D], [False]), ("s2", [L], [True]), ("s3", [L], [True])]


def test_put_off_recipients_get_their_further_transaction_behind_the_others() -> None:
    driver = across(mail(1, "a@b.example", "b@b.example"), mail(2))
    assert driver.said.endswith(b"RSET\r\n" + whole(2) + b"RSET\r\nHELP\r\n")
    again = start(1, "b@b.example") + b"BDAT 7 LAST\r\nhello\r\n"
    assert hear(driver, "250 ok", "250 ok", "452 later", "250 taken").startswith(again)
    hear(driver, "250 reset", *TAKEN, "250 reset", "214 help")
    assert told(driver) == []
    # The mark that was said before it proves nothing of it.
    hear(driver, "250 ok", "250 ok", "250 taken too")
    assert told(driver) == []
    hear(driver, "250 reset", "214 help")
    assert told(driver) == [("s1", [D, D], [False, False]), ("s2", [D], [False])]


def test_the_window_bounds_what_is_in_flight() -> None:
    driver = across(*map(mail, range(20)), limits=Limits(commands_in_flight=8))
    assert sum(driver.said.count(word) for word in (b"MAIL", b"RCPT", b"BDAT", b"RSET", b"HELP")) == 8
    for _ in range(200):
        if not isinstance(driver.last, Timeout):
            break
        verb = driver.last.waiting_for
        hear(driver, "214 help" if verb is Verb.HELP else "250 ok")
        assert len(driver.client.snapshot().connection.in_flight) <= 8
    assert [row[1] for row in told(driver)] == [[D]] * 20


# --- the same with DATA ---------------------------------------------------------------------------------------------

BODY = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\n", b"\r", b"text"]), max_size=12).map(b"".join)
REPLY = st.sampled_from([None, None, None, None, "450 not now", "550 never", "452 too many"])


@settings(max_examples=examples(200), deadline=None)
@given(
    bodies=st.lists(BODY, min_size=1, max_size=4),
    replies=st.lists(st.tuples(REPLY, REPLY, REPLY, REPLY), min_size=4, max_size=4),
    known=st.booleans(),
    piece=st.integers(1, 9),
    split=st.integers(1, 40),
    pipelining=st.sampled_from(Pipelining),
)
def test_outcomes_and_octets_are_those_of_data(
    bodies: list[bytes],
    replies: list[tuple[str | None, str | None, str | None, str | None]],
    known: bool,
    piece: int,
    split: int,
    pipelining: Pipelining,
) -> None:
    """Each mail has two recipients, and the peer says the same of each, however the octets travel."""

    def results(chunking: bool) -> tuple[object, object]:
        def answer(line: str) -> str | None:
            words = line.replace("<", ">").split(">")
            if line.startswith("MAIL"):
                return replies[int(words[1][1])][0]
            if line.startswith("RCPT"):
                return replies[int(words[1][1])][2 if words[1].startswith("r") else 3]
            return None

        extensions = ["PIPELINING", "CHUNKING"] if chunking else ["PIPELINING"]
        server = ScriptedServer(answer, extensions=extensions)
        client = Client(
            "client.example", tls=TlsPolicy.SECURED, pipelining=pipelining, limits=Limits(mails_kept_back=2)
        )
        mails = [
            (
                Envelope(
                    f"s{n}@a.example",
                    (f"r{n}@b.example", f"q{n}@b.example"),
                    body=BodyFacts(size=len(body) if known else None),
                ),
                body,
            )
            for n, body in enumerate(bodies)
        ]
        events = converse(client, server, mails, split=split, piece=piece)
        assert not server.complaints
        reports = [event for event in events if isinstance(event, (MailSent, MailRefused))]
        end = events[-1]
        assert isinstance(end, Disconnect)
        return (
            [(r.mail.envelope.reverse_path, [(o.recipient, o.verdict, o.code) for o in r.outcomes]) for r in reports],
            (end.reason, [(m.reverse_path, m.recipients, m.content) for m in server.mails]),
        )

    assert results(True) == results(False)
