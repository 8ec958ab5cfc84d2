"""The client with pipelining across mails: what leaves together, and when a verdict may be believed.

What lives here: the order of the dialogue over several mails, and the ways it can lose step. What does not: a mail by
itself, which is the same with every kind of pipelining.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import (
    BodyFacts,
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    Event,
    ExtensionRequired,
    Idle,
    Limits,
    LostStep,
    MailRefused,
    MailSent,
    NeedMail,
    Pipelining,
    SendBody,
    SendLine,
    Stage,
    Timeout,
    TlsPolicy,
    Verb,
    Verdict,
)
from smtpcore.testing import PureDriver, ScriptedServer, converse

D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER


def mail(number: int, *recipients: str, **facts: Any) -> tuple[Envelope, bytes]:
    return Envelope(
        f"s{number}@a.example", recipients or (f"r{number}@b.example",), body=BodyFacts(**facts)
    ), b"hello\n"


class Greeted(PureDriver):
    """A driver whose session is open, and the lines that its client said to the EHLO reply."""

    said: list[str]


def ready(*mails: tuple[Envelope, bytes], offered: str = "PIPELINING", **options: Any) -> Greeted:
    """A driver whose session is open; the mails are given as they are asked for."""
    client = Client("client.example", tls=TlsPolicy.SECURED, pipelining=Pipelining.ACROSS, **options)
    driver = Greeted(client, mails)
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.said = driver.hear(f"250-mx\r\n250-{offered}\r\n250 HELP\r\n".encode()).decode().splitlines()
    return driver


def hear(driver: PureDriver, *replies: str) -> list[str]:
    return driver.hear("".join(f"{reply}\r\n" for reply in replies).encode()).decode().splitlines()


def commands(number: int) -> list[str]:
    return [f"MAIL FROM:<s{number}@a.example>", f"RCPT TO:<r{number}@b.example>", "DATA"]


def told(driver: PureDriver) -> list[tuple[str, list[Verdict], list[bool]]]:
    return [
        (
            report.mail.envelope.reverse_path[:2],
            [o.verdict for o in report.outcomes],
            [o.in_doubt for o in report.outcomes],
        )
        for report in driver.reports
    ]


def octets_of(event: Event) -> bytes:
    """What is to be written by it."""
    assert isinstance(event, (SendLine, SendBody))
    return event.data


TAKEN = ("250 ok", "250 ok", "354 go")


# --- what leaves together -------------------------------------------------------------------------------------------


def test_a_mail_costs_one_round_trip() -> None:
    driver = ready(mail(1), mail(2), mail(3))
    assert driver.said == commands(1)
    assert hear(driver, *TAKEN) == ["hello", ".", *commands(2)]
    # The verdict on the first mail is believed with the 354 to the second, in whatever pieces they come.
    assert hear(driver, "250 first", "250 ok", "250 ok") == []
    assert told(driver) == []
    assert hear(driver, "354 go") == ["hello", ".", *commands(3)]
    assert told(driver) == [("s1", [D], [False])]
    assert hear(driver, "250 second", *TAKEN) == ["hello", "."]
    assert told(driver)[1:] == [("s2", [D], [False])]
    # Nothing is said behind the last one, so its verdict cannot be anybody else's.
    assert hear(driver, "250 third") == []
    assert told(driver)[2:] == [("s3", [D], [False])]
    assert [report.reply.text for report in driver.reports if isinstance(report, MailSent)] == [
        "first",
        "second",
        "third",
    ]
    assert isinstance(driver.last, Idle)


def test_a_mail_that_is_refused_here_runs_ahead_of_nothing() -> None:
    big = Envelope("s2@a.example", ("r2@b.example",), body=BodyFacts(size=1000))
    driver = ready(mail(1), (big, b""), offered="PIPELINING\r\n250-SIZE 100")
    assert hear(driver, *TAKEN) == ["hello", "."]
    # So no mark is needed behind the verdict.
    assert hear(driver, "250 first") == []
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False])]
    assert isinstance(driver.last, Idle)


def test_who_is_about_to_say_goodbye_asks_for_no_more() -> None:
    driver = ready()
    driver.give(*mail(1))
    driver.run()
    driver.client.quit()
    asked = sum(isinstance(event, NeedMail) for event in driver.events)
    assert hear(driver, *TAKEN) == ["hello", "."]
    assert hear(driver, "250 first") == ["QUIT"]
    assert sum(isinstance(event, NeedMail) for event in driver.events) == asked


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("limits", [Limits(commands_in_flight=1), Limits(mails_kept_back=1)], ids=["window", "kept"])
def test_no_mail_is_asked_for_that_could_not_be_begun(limits: Limits, chunking: bool) -> None:
    driver = ready(offered="PIPELINING\r\n250-CHUNKING" if chunking else "PIPELINING", limits=limits)
    driver.give(*mail(1))
    driver.run()
    for reply in TAKEN[: 2 if chunking else 3]:
        hear(driver, reply)
    assert isinstance(driver.last, Timeout)
    assert driver.last.waiting_for in {Verb.END_OF_DATA, Verb.BDAT_LAST}
    asked = sum(isinstance(event, NeedMail) for event in driver.events)
    assert asked == 1
    hear(driver, "250 first")
    assert told(driver) == [("s1", [D], [False])]
    assert sum(isinstance(event, NeedMail) for event in driver.events) == 2


def test_a_mail_is_taken_ahead_by_who_has_none_and_may_yet_begin_one() -> None:
    driver = ready(mail(1))

    def takes_ahead() -> bool:
        return driver.client.takes_mail_ahead

    assert takes_ahead()
    driver.give(*mail(2))
    assert not takes_ahead()
    assert hear(driver, *TAKEN) == ["hello", ".", *commands(2)]
    assert takes_ahead()
    driver.client.no_mail()
    assert not takes_ahead()


def test_no_mail_is_taken_ahead_at_the_end_of_a_session() -> None:
    quitting, over = ready(mail(1)), ready(mail(1))
    quitting.client.quit()
    assert not quitting.client.takes_mail_ahead
    over.client.abort()
    assert not over.client.takes_mail_ahead
    ending = ready(mail(1), mail(2), offered="PIPELINING\r\n250-LIMITS MAILMAX=1")
    assert hear(ending, *TAKEN) == ["hello", "."]
    assert hear(ending, "250 first") == ["QUIT"]
    assert not ending.client.takes_mail_ahead


def test_without_the_extension_nothing_runs_ahead() -> None:
    driver = ready(mail(1), mail(2), offered="HELP")
    assert driver.said == commands(1)[:1]
    assert hear(driver, "250 ok") == commands(1)[1:2]
    assert hear(driver, "250 ok") == ["DATA"]
    assert hear(driver, "354 go") == ["hello", "."]
    assert driver.last == Timeout(Verb.END_OF_DATA, 600.0)
    assert not driver.client.takes_mail_ahead
    assert hear(driver, "250 ok") == commands(2)[:1]
    assert told(driver) == [("s1", [D], [False])]


def test_within_is_not_across() -> None:
    client = Client("client.example", tls=TlsPolicy.SECURED, pipelining=Pipelining.WITHIN)
    server = ScriptedServer(extensions=["PIPELINING"])
    events = converse(client, server, [mail(1), mail(2)])
    asked = [index for index, event in enumerate(events) if isinstance(event, NeedMail)]
    sent = [index for index, event in enumerate(events) if isinstance(event, MailSent)]
    # Another mail is asked for only once the one before is reported.
    assert asked[0] < sent[0] < asked[1] < sent[1] < asked[2]


def test_the_next_mail_is_asked_for_once_until_there_is_one() -> None:
    driver = ready(mail(1))
    hear(driver, *TAKEN)
    asked = [event for event in driver.events if isinstance(event, NeedMail)]
    assert len(asked) == 2
    assert driver.last == Timeout(Verb.END_OF_DATA, 600.0)
    # One that comes late still leaves before the verdict.
    driver.give(*mail(2))
    assert driver.run().decode().splitlines() == commands(2)
    assert hear(driver, "250 ok", *TAKEN) == ["hello", "."]
    assert told(driver) == [("s1", [D], [False])]


def test_a_mail_with_recipients_put_off_is_finished_before_the_next() -> None:
    first = mail(1, "a@b.example", "b@b.example", repeatable=True)
    driver = ready(first, mail(2))
    assert hear(driver, "250 ok", "250 ok", "452 too many", "354 go") == ["hello", "."]
    assert hear(driver, "250 ok") == ["MAIL FROM:<s1@a.example>", "RCPT TO:<b@b.example>", "DATA"]
    assert hear(driver, *TAKEN) == ["hello", ".", *commands(2)]
    hear(driver, "250 ok", *TAKEN)
    assert told(driver) == [("s1", [D, D], [False, False])]


# --- a mail that is refused -----------------------------------------------------------------------------------------


def test_a_mail_refused_behind_another_is_proved_by_the_next_one() -> None:
    driver = ready(mail(1), mail(2), mail(3))
    hear(driver, *TAKEN)
    said = hear(driver, "250 first", "250 ok", "550 nobody", "554 no recipients")
    # What the refused one left is reset; the reports wait for the 354.
    assert said == ["RSET", *commands(3)]
    assert told(driver) == []
    assert hear(driver, "250 reset", *TAKEN) == ["hello", "."]
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False])]


@pytest.mark.parametrize("answer", ["214 help yourself", "211 status", "502 5.5.1 no", "500 what?"])
def test_a_refused_mail_at_the_end_is_proved_by_help(answer: str) -> None:
    driver = ready(mail(1), mail(2))
    hear(driver, *TAKEN)
    assert hear(driver, "250 first", "250 ok", "550 nobody", "554 no recipients") == ["RSET", "HELP"]
    assert hear(driver, "250 reset") == []
    assert told(driver) == []
    hear(driver, answer)
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False])]
    assert isinstance(driver.last, Idle)
    assert not driver.client.snapshot().ran_ahead


def test_quit_waits_for_the_proof() -> None:
    driver = ready(mail(1), mail(2))
    hear(driver, *TAKEN)
    driver.client.quit()
    assert hear(driver, "250 first", "550 no", "503 no", "503 no") == ["RSET", "HELP"]
    assert hear(driver, "250 reset", "214 help") == ["QUIT"]
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False])]


def test_a_mail_that_the_peer_cannot_take_is_reported_in_its_turn() -> None:
    driver = ready(mail(1), mail(2, eight_bit=True), mail(3))
    assert hear(driver, *TAKEN) == ["hello", ".", *commands(3)]
    assert told(driver) == []
    hear(driver, "250 first", *TAKEN)
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False])]
    assert isinstance(driver.reports[1].outcomes[0].error, ExtensionRequired)


def test_so_many_may_be_kept_back_and_no_more() -> None:
    driver = ready(*(mail(n) for n in range(1, 6)), limits=Limits(mails_kept_back=2))
    hear(driver, *TAKEN)
    assert hear(driver, "250 first", "550 no", "503 no", "503 no") == ["RSET", "HELP"]
    assert hear(driver, "250 reset", "214 help") == commands(3)
    assert told(driver) == [("s1", [D], [False]), ("s2", [N], [False])]


def test_nobody_was_accepted_and_354_came_nevertheless() -> None:
    driver = ready(mail(1), mail(2), mail(3))
    hear(driver, *TAKEN)
    assert hear(driver, "250 first", "250 ok", "550 nobody", "354 go") == ["."]
    assert told(driver) == [("s1", [D], [False])]
    assert hear(driver, "554 no valid recipients") == commands(3)
    assert told(driver)[1:] == [("s2", [N], [False])]


# --- out of step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", ["250 stray", "250 first"])
def test_one_reply_too_many_leaves_the_mail_in_doubt(stray: str) -> None:
    driver = ready(mail(1), mail(2), mail(3))
    hear(driver, *TAKEN)
    # The verdict is the second line; it is taken for the reply to MAIL, and so on.
    hear(driver, stray, "451 the true verdict", "250 ok", "250 ok")
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.PROTOCOL
    assert told(driver) == [("s1", [L], [True]), ("s2", [L], [False])]
    assert all(isinstance(o.error, LostStep) for report in driver.reports for o in report.outcomes)
    assert all(o.reply is None for report in driver.reports for o in report.outcomes)
    assert [report.stage for report in driver.reports] == [Stage.BODY_ENDED, Stage.STARTED]


@pytest.mark.parametrize(
    "answers",
    [("250 reset", "250 that was for RSET"), ("554 that was for DATA",), ("250 reset", "220 what")],
)
def test_a_dialogue_out_of_step_at_its_end_is_found_out(answers: tuple[str, ...]) -> None:
    driver = ready(mail(1), mail(2))
    hear(driver, *TAKEN)
    assert hear(driver, "250 stray", "250 first", "250 ok", "550 nobody") == ["RSET", "HELP"]
    hear(driver, *answers)
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, LostStep)
    assert told(driver) == [("s1", [L], [True]), ("s2", [L], [False])]


def test_what_was_refused_before_the_354_stays_refused() -> None:
    driver = ready(mail(1, "a@b.example", "b@b.example"), mail(2))
    assert hear(driver, "250 ok", "250 ok", "550 nobody", "354 go") == ["hello", ".", *commands(2)]
    hear(driver, "250 first", "garbage")
    assert told(driver) == [("s1", [L, N], [True, False]), ("s2", [L], [False])]


def test_what_was_refused_here_stays_refused() -> None:
    driver = ready(mail(1), mail(2, eight_bit=True), mail(3))
    hear(driver, *TAKEN)
    hear(driver, "250 first", "garbage")
    assert told(driver) == [("s1", [L], [True]), ("s2", [N], [False]), ("s3", [L], [False])]


# --- other ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["421", "eof", "timeout", "abort", "send failed"])
@pytest.mark.parametrize("heard", [0, 1, 2])
def test_an_end_that_contradicts_nothing_leaves_verdicts_as_they_are(end: str, heard: int) -> None:
    driver = ready(mail(1), mail(2), mail(3))
    hear(driver, *TAKEN)
    hear(driver, *["250 first", "250 ok"][:heard])
    if end == "421":
        hear(driver, "421 that was enough")
    else:
        call = {"eof": "receive_eof", "timeout": "receive_timeout", "abort": "abort", "send failed": "send_failed"}[end]
        getattr(driver.client, call)()
        driver.run()
        driver.client.receive_timeout()
        driver.run()
    assert isinstance(driver.last, Disconnect)
    # A 421 in the place of the verdict is one: not taken.
    first = ("s1", [D], [False]) if heard else ("s1", [L], [end != "421"])
    # The third was never asked for.
    assert told(driver) == [first, ("s2", [L], [False])]


def test_an_end_of_data_that_never_left_is_not_in_doubt_though_more_stands_behind_it() -> None:
    client = Client("client.example", tls=TlsPolicy.SECURED, pipelining=Pipelining.ACROSS)
    driver = PureDriver(client, [(mail(1)[0], None)])
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 PIPELINING\r\n")
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    client.send_body(b"hello\r\n")
    client.send_body(b"")
    # The octets of the body are taken by the driver, the end of data is not.
    assert octets_of(client.next_event()) == b"hello\r\n"
    client.send(mail(2)[0])
    client.send_failed("reset")
    client.receive_timeout()
    driver.run()
    assert told(driver) == [("s1", [L], [False]), ("s2", [L], [False])]


def test_an_end_of_data_that_left_is_in_doubt_though_more_behind_it_did_not() -> None:
    client = Client("client.example", tls=TlsPolicy.SECURED, pipelining=Pipelining.ACROSS)
    driver = PureDriver(client, [(mail(1)[0], None)])
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 PIPELINING\r\n")
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    client.send_body(b"hello\r\n")
    client.send_body(b"")
    client.send(mail(2)[0])
    said = [octets_of(client.next_event()) for _ in range(3)]
    assert said[1:] == [b".\r\n", b"MAIL FROM:<s2@a.example>\r\n"]
    client.send_failed("reset")
    client.receive_timeout()
    driver.run()
    assert told(driver) == [("s1", [L], [True]), ("s2", [L], [False])]


# --- all together ---------------------------------------------------------------------------------------------------

LINES = st.fixed_dictionaries(
    {
        **{f"RCPT TO:<r{n}@b.example>": st.sampled_from(["250 ok", "250 ok", "550 no", "450 later"]) for n in range(4)},
        **{f"MAIL FROM:<s{n}@a.example>": st.sampled_from(["250 ok", "250 ok", "550 no"]) for n in range(4)},
        ".": st.lists(st.sampled_from(["250 ok", "550 no", "451 later"]), max_size=4),
    }
)


@given(LINES, st.sampled_from([1, 2, 3, 5, 1024]), st.integers(1, 64))
def test_the_same_outcomes_as_within_a_mail(answers: dict[str, Any], window: int, kept_back: int) -> None:
    def run(pipelining: Pipelining) -> tuple[object, object]:
        server = ScriptedServer(answers, extensions=["PIPELINING"])
        limits = Limits(commands_in_flight=window, mails_kept_back=kept_back)
        client = Client("client.example", tls=TlsPolicy.SECURED, pipelining=pipelining, limits=limits)
        events = converse(client, server, [mail(n) for n in range(4)], split=7)
        assert not server.complaints
        reports = [event for event in events if isinstance(event, (MailSent, MailRefused))]
        return [[(o.recipient, o.verdict, o.code) for o in report.outcomes] for report in reports], server.mails

    assert run(Pipelining.ACROSS) == run(Pipelining.WITHIN)


def test_what_an_earlier_transaction_of_the_same_mail_brought_stays() -> None:
    first = mail(1, "a@b.example", "b@b.example", repeatable=True)
    driver = ready(first, mail(2))
    hear(driver, "250 ok", "250 ok", "452 too many", "354 go")
    hear(driver, "250 ok")
    assert hear(driver, *TAKEN) == ["hello", ".", *commands(2)]
    hear(driver, "250 second", "250 ok", "garbage")
    assert told(driver) == [("s1", [D, L], [False, True]), ("s2", [L], [False])]
    assert isinstance(driver.reports[0], MailSent)
    assert driver.reports[0].reply.text == "ok"
