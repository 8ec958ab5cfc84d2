"""What a peer announces by LIMITS (RFC 9422), and a client that keeps to it.

What lives here: mails whose recipients are more than a transaction takes, sessions that have brought all that they may,
recipients of more domains than a session takes. What does not: what pools and relays make of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import (
    BodyError,
    BodyFacts,
    BodyNotRepeatable,
    Capabilities,
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    Idle,
    LimitReached,
    LocalProtocolError,
    MailRefused,
    MailSent,
    NeedBody,
    NeedMail,
    Outcome,
    Pipelining,
    Protocol,
    Reply,
    Report,
    SendLine,
    ServiceRefused,
    Stage,
    TlsPolicy,
    Verdict,
)
from smtpcore.testing import PureDriver, ScriptedServer, converse

from .examples import examples

D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER
BODY = b"hello\r\n"
REPEATABLE = BodyFacts(repeatable=True)


def mail(*recipients: str, sender: str = "a@a.example", body: BodyFacts = REPEATABLE) -> tuple[Envelope, bytes]:
    return Envelope(sender, recipients, body=body), BODY


def many(count: int, **facts: Any) -> tuple[Envelope, bytes]:
    return mail(*(f"r{number}@b.example" for number in range(count)), **facts)


def run(
    limits: str, *mails: tuple[Envelope, bytes], answers: Any = None, extensions: tuple[str, ...] = (), **options: Any
) -> tuple[list[Report], Disconnect, ScriptedServer]:
    server = ScriptedServer(answers or {}, extensions=[f"LIMITS {limits}", "PIPELINING", *extensions])
    events = converse(Client("client.example", tls=TlsPolicy.SECURED, **options), server, mails)
    assert not server.complaints
    end = events[-1]
    assert isinstance(end, Disconnect)
    return [event for event in events if isinstance(event, Report)], end, server


def told(report: Report) -> list[tuple[Verdict, int | type]]:
    return [(o.verdict, o.code if o.code is not None else type(o.error)) for o in report.outcomes]


def transactions(server: ScriptedServer) -> list[int]:
    """How many recipients each transaction named."""
    counts: list[int] = []
    for command in server.commands:
        if command.startswith("MAIL"):
            counts.append(0)
        elif command.startswith("RCPT"):
            counts[-1] += 1
    return counts


# --- what is announced ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("LIMITS MAILMAX=10 RCPTMAX=200 RCPTDOMAINMAX=3", (10, 200, 3)),
        ("limits rcptmax=999999", (None, 999999, None)),
        ("LIMITS RCPTMAX=20 RCPTMAX=10", (None, 10, None)),
        ("LIMITS MAILMAX=0 RCPTMAX=01 RCPTDOMAINMAX=1000000", (None, None, None)),
        ("LIMITS MAILMAX RCPTMAX= RCPTDOMAINMAX=-1 FUTURE=7 =3", (None, None, None)),
        ("LIMITS", (None, None, None)),
        ("SIZE 100", (None, None, None)),
    ],
)
def test_limits_are_read_from_an_ehlo_reply(line: str, found: tuple[int | None, ...]) -> None:
    capabilities = Capabilities.from_reply(Reply(250, ("mx.example", line)))
    assert (capabilities.mail_limit, capabilities.recipient_limit, capabilities.domain_limit) == found


# --- recipients of a transaction ------------------------------------------------------------------------------------

WAYS = [
    {"pipelining": Pipelining.NONE},
    {"pipelining": Pipelining.WITHIN},
    {"pipelining": Pipelining.ACROSS},
    {"pipelining": Pipelining.WITHIN, "extensions": ("CHUNKING",)},
    {"pipelining": Pipelining.ACROSS, "extensions": ("CHUNKING",)},
]
by_any_way = pytest.mark.parametrize("way", WAYS, ids=str)


@by_any_way
def test_recipients_beyond_the_limit_go_to_further_transactions(way: dict[str, Any]) -> None:
    reports, end, server = run("RCPTMAX=2", many(5), many(2), many(3), **way)
    assert [told(report) for report in reports] == [[(D, 250)] * 5, [(D, 250)] * 2, [(D, 250)] * 3]
    assert transactions(server) == [2, 2, 1, 2, 2, 1]
    assert {received.content for received in server.mails} == {BODY}
    assert end.reason is DisconnectReason.QUIT


@by_any_way
def test_a_group_that_is_refused_as_a_whole_keeps_nobody_from_the_next(way: dict[str, Any]) -> None:
    answers = {"RCPT": ["550 no", "450 not now", None, None, "550 no"]}
    reports, _, server = run("RCPTMAX=2", many(5), answers=answers, **way)
    assert told(reports[0]) == [(N, 550), (L, 450), (D, 250), (D, 250), (N, 550)]
    assert isinstance(reports[0], MailSent)
    assert transactions(server) == [2, 2, 1]
    assert "RSET" in server.commands


@by_any_way
def test_a_mail_that_is_refused_with_its_group_waits_for_nothing_more(way: dict[str, Any]) -> None:
    wanted = [many(2, body=BodyFacts(size=len(BODY), eight_bit=False, repeatable=True)) for _ in range(3)]
    reports, end, _ = run("RCPTMAX=1", *wanted, answers={"MAIL": ["550 no"]}, **way)
    assert [told(report) for report in reports] == [[(N, 550)] * 2, [(D, 250)] * 2, [(D, 250)] * 2]
    assert end.reason is DisconnectReason.QUIT


@by_any_way
def test_a_verdict_against_the_message_is_for_its_group(way: dict[str, Any]) -> None:
    end_of_message = "BDAT LAST" if "extensions" in way else "."
    reports, _, server = run("RCPTMAX=2", many(4), answers={end_of_message: ["554 spam", None]}, **way)
    assert told(reports[0]) == [(N, 554), (N, 554), (D, 250), (D, 250)]
    assert transactions(server) == [2, 2]


@by_any_way
def test_a_refused_mail_is_refused_for_all(way: dict[str, Any]) -> None:
    reports, _, server = run("RCPTMAX=2", many(5), many(1), answers={"MAIL": ["550 no", None]}, **way)
    assert [told(report) for report in reports] == [[(N, 550)] * 5, [(D, 250)]]
    assert len([command for command in server.commands if command.startswith("MAIL")]) == 2


def test_who_was_put_off_by_a_reply_comes_with_those_who_wait() -> None:
    answers = {"RCPT": [None, "452 too many", None, None, None]}
    reports, _, server = run("RCPTMAX=2", many(4), answers=answers)
    assert told(reports[0]) == [(D, 250)] * 4
    assert transactions(server) == [2, 2, 1]
    assert [received.recipients for received in server.mails] == [
        ("r0@b.example",),
        ("r1@b.example", "r2@b.example"),
        ("r3@b.example",),
    ]


def test_who_was_put_off_where_nobody_was_served_is_not_tried_again() -> None:
    answers = {"RCPT": [None, "452 too many", None], ".": ["451 later", None]}
    reports, _, server = run("RCPTMAX=2", many(3), answers=answers)
    assert told(reports[0]) == [(L, 451), (L, 452), (D, 250)]
    assert transactions(server) == [2, 1]


def test_a_body_that_can_be_read_once_serves_one_transaction() -> None:
    reports, _, server = run("RCPTMAX=2", many(3, body=BodyFacts()))
    assert told(reports[0]) == [(D, 250), (D, 250), (L, BodyNotRepeatable)]
    assert transactions(server) == [2]


def test_a_body_that_was_not_begun_can_still_be_read() -> None:
    reports, _, server = run("RCPTMAX=1", many(3, body=BodyFacts()), answers={"RCPT": ["550 no", None]})
    assert told(reports[0]) == [(N, 550), (D, 250), (L, BodyNotRepeatable)]
    assert transactions(server) == [1, 1]


def test_a_body_that_breaks_is_not_read_for_others() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED))
    driver.give(many(2)[0], None)
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250-CHUNKING\r\n250 LIMITS RCPTMAX=1\r\n")
    driver.hear(b"250 ok\r\n")
    driver.hear(b"250 ok\r\n")
    assert isinstance(driver.last, NeedBody)
    driver.client.body_failed("disk on fire")
    driver.run()
    assert told(driver.reports[0]) == [(L, BodyError)] * 2


def test_a_connection_lost_between_two_transactions_leaves_the_rest_for_later() -> None:
    answers = {"MAIL": [None, "421 enough"]}
    reports, end, _ = run("RCPTMAX=2", many(5), answers=answers)
    assert told(reports[0]) == [(D, 250), (D, 250), (L, 421), (L, 421), (L, 421)]
    assert isinstance(end.error, ServiceRefused)


def test_lmtp_gives_a_verdict_for_each_in_each_transaction() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, protocol=Protocol.LMTP), [many(3)])
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 LIMITS RCPTMAX=2\r\n")
    for _ in range(3):
        driver.hear(b"250 ok\r\n")
    driver.hear(b"354 go\r\n")
    driver.hear(b"250 one\r\n452 full\r\n")
    for _ in range(2):
        driver.hear(b"250 ok\r\n")
    driver.hear(b"354 go\r\n")
    driver.hear(b"250 three\r\n")
    assert [o.text for o in driver.reports[0].outcomes] == ["one", "full", "three"]


def test_behind_a_reset_alone_nothing_runs_ahead_of_a_verdict() -> None:
    driver = opened("RCPTMAX=1")
    driver.give(*many(2))
    driver.run()
    assert driver.hear(b"250 ok\r\n550 no\r\n554 no\r\n").startswith(b"RSET\r\nMAIL")
    driver.hear(b"452 not now\r\n")
    driver.hear(b"221 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, ServiceRefused)
    assert told(driver.reports[0]) == [(N, 550), (L, 452)]


# --- mails of a session ---------------------------------------------------------------------------------------------


@by_any_way
def test_a_session_that_has_brought_its_mails_ends_and_costs_the_next_nothing(way: dict[str, Any]) -> None:
    reports, end, server = run("MAILMAX=2", many(1), many(2), many(1), **way)
    assert [told(report) for report in reports] == [[(D, 250)], [(D, 250)] * 2, [(L, LimitReached)]]
    assert reports[2].stage is Stage.NOT_STARTED
    assert transactions(server) == [1, 2]
    assert server.commands[-1] == "QUIT"
    assert end.reason is DisconnectReason.LIMIT
    assert end.clean
    assert isinstance(end.error, LimitReached)
    assert end.error.retryable
    assert "MAILMAX" in str(end.error)


@by_any_way
def test_a_session_that_is_to_bring_no_more_ends_by_itself(way: dict[str, Any]) -> None:
    reports, end, server = run("MAILMAX=2", many(1), many(1), **way)
    assert [told(report) for report in reports] == [[(D, 250)]] * 2
    assert server.commands[-1] == "QUIT"
    assert end.clean


def opened(limits: str, **options: Any) -> PureDriver:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, **options))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(f"250-mx\r\n250-PIPELINING\r\n250 LIMITS {limits}\r\n".encode())
    return driver


def bring(driver: PureDriver, wish: tuple[Envelope, bytes]) -> bytes:
    driver.give(*wish)
    assert driver.run().startswith(b"MAIL")
    driver.hear(b"250 ok\r\n" * (1 + len(wish[0].recipients)) + b"354 go\r\n")
    return driver.hear(b"250 taken\r\n")


def test_the_owner_may_still_end_the_session_or_ask_for_a_command() -> None:
    driver = opened("MAILMAX=1")
    driver.client.command("NOOP")
    driver.run()
    driver.hear(b"250 ok\r\n")
    before = driver.last
    assert isinstance(before, Idle)
    mail = driver.client.send(many(1)[0])
    driver.client.command("NOOP 1")
    assert driver.run() == b"NOOP 1\r\n"
    driver.client.quit()
    assert driver.hear(b"250 ok\r\n").startswith(b"MAIL")
    assert driver.hear(b"550 no\r\n550 no\r\n503 no\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert driver.reports[0].mail is mail
    assert driver.last == Disconnect(DisconnectReason.QUIT, None, True)


def test_the_owner_is_asked_before_the_session_ends() -> None:
    client = Client("client.example", tls=TlsPolicy.SECURED)
    server = ScriptedServer(extensions=["LIMITS MAILMAX=1"])
    client.receive_data(server.connected())
    asked = 0
    while not isinstance(event := client.next_event(), Disconnect):
        if isinstance(event, NeedMail):
            asked += 1
            if asked == 1:
                client.send(many(1)[0])
            else:
                client.no_mail()
        elif isinstance(event, NeedBody):
            client.send_body(b"")
        elif isinstance(event, SendLine):
            client.receive_data(server.receive_data(event.data))
    assert asked == 2
    assert event.reason is DisconnectReason.LIMIT
    assert server.closed
    with pytest.raises(LocalProtocolError, match="the session is over"):
        client.send(many(1)[0])


def test_a_refused_mail_counts_as_one() -> None:
    driver = opened("MAILMAX=1")
    driver.give(*many(1))
    driver.run()
    assert driver.hear(b"450 no\r\n450 no\r\n503 no\r\n") == b"QUIT\r\n"


def test_a_mail_that_the_peer_cannot_be_given_counts_not() -> None:
    reports, _, server = run("MAILMAX=1", many(1, body=BodyFacts(binary=True)), many(1))
    assert [type(report) for report in reports] == [MailRefused, MailSent]
    assert transactions(server) == [1]


@by_any_way
def test_a_mail_that_needs_more_transactions_than_are_left_is_brought_in_part(way: dict[str, Any]) -> None:
    reports, end, server = run("MAILMAX=2 RCPTMAX=2", many(7), many(1), **way)
    assert told(reports[0]) == [(D, 250)] * 4 + [(L, LimitReached)] * 3
    assert told(reports[1]) == [(L, LimitReached)]
    assert [report.stage for report in reports] == [Stage.BODY_ENDED, Stage.NOT_STARTED]
    assert transactions(server) == [2, 2]
    assert end.reason is DisconnectReason.LIMIT


def test_the_last_transaction_of_a_session_may_be_a_further_one_behind_a_reset() -> None:
    reports, end, server = run("MAILMAX=2 RCPTMAX=1", many(2), answers={"RCPT": ["550 no", None]})
    assert told(reports[0]) == [(N, 550), (D, 250)]
    assert transactions(server) == [1, 1]
    assert end.clean


def test_across_mails_the_last_verdict_is_proved_before_the_session_ends() -> None:
    driver = opened("MAILMAX=2", pipelining=Pipelining.ACROSS)
    driver.give(*many(1))
    driver.give(*many(1))
    driver.give(*many(1))
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    # The second mail is refused, so that no 354 proves the verdict on the first.
    assert driver.hear(b"250 taken\r\n550 no\r\n550 no\r\n550 no\r\n") == b"RSET\r\nHELP\r\n"
    assert not driver.reports
    assert driver.hear(b"250 ok\r\n214 help\r\n") == b"QUIT\r\n"
    assert [told(report) for report in driver.reports] == [[(D, 250)], [(N, 550)], [(L, LimitReached)]]


# --- domains of a session -------------------------------------------------------------------------------------------

MIXED = ("1@b.example", "2@c.example", "3@B.example", "Postmaster", "4@d.example", "5@c.example")


@by_any_way
def test_recipients_of_further_domains_wait_for_another_session(way: dict[str, Any]) -> None:
    reports, end, server = run("RCPTDOMAINMAX=2", mail(*MIXED), mail("6@C.example"), **way)
    assert told(reports[0]) == [(D, 250)] * 4 + [(L, LimitReached), (D, 250)]
    assert "RCPTDOMAINMAX" in str(reports[0].outcomes[4].error)
    assert told(reports[1]) == [(D, 250)]
    assert transactions(server) == [5, 1]
    assert end.reason is DisconnectReason.QUIT


@by_any_way
def test_a_mail_to_further_domains_alone_ends_the_session(way: dict[str, Any]) -> None:
    reports, end, server = run("RCPTDOMAINMAX=1", mail("1@b.example"), mail("2@c.example"), **way)
    assert [told(report) for report in reports] == [[(D, 250)], [(L, LimitReached)]]
    assert reports[1].stage is Stage.NOT_STARTED
    assert transactions(server) == [1]
    assert end.reason is DisconnectReason.LIMIT
    assert end.clean


def test_whom_a_mail_names_first_is_never_left_out_for_others_of_it() -> None:
    mails = (mail("1@b.example"), mail("2@c.example", "3@b.example"))
    reports, end, _ = run("RCPTDOMAINMAX=1", *mails)
    assert [told(report) for report in reports] == [[(D, 250)], [(L, LimitReached)] * 2]
    assert reports[1].stage is Stage.NOT_STARTED
    assert end.reason is DisconnectReason.LIMIT


@pytest.mark.parametrize(("reply", "verdict"), [("550 not from there", N), ("451 not now", L)])
def test_a_refused_mail_is_refused_for_those_too_who_would_wait(reply: str, verdict: Verdict) -> None:
    reports, *_ = run("RCPTDOMAINMAX=1", mail("1@b.example", "2@c.example"), answers={"MAIL": [reply]})
    assert told(reports[0]) == [(verdict, int(reply[:3]))] * 2


def test_domains_that_earlier_groups_used_up_are_not_left_for_later_ones() -> None:
    recipients = ("1@b.example", "2@c.example", "3@d.example", "4@e.example")
    reports, end, server = run("RCPTMAX=1 RCPTDOMAINMAX=2", mail(*recipients))
    assert told(reports[0]) == [(D, 250)] * 2 + [(L, LimitReached)] * 2
    assert transactions(server) == [1, 1]
    assert end.reason is DisconnectReason.QUIT


def test_a_recipient_without_a_domain_uses_up_none() -> None:
    reports, *_ = run("RCPTDOMAINMAX=1", mail("Postmaster", "1@b.example", "2@c.example"))
    assert told(reports[0]) == [(D, 250), (D, 250), (L, LimitReached)]


def test_a_domain_is_one_however_it_is_written() -> None:
    recipients = ("1@b\xfccher.example", "2@B\xdcCHER.example")
    to_a_labels = {"b\xfccher.example": "xn--bcher-kva.example", "B\xdcCHER.example": "xn--bcher-kva.example"}
    reports, *_ = run("RCPTDOMAINMAX=1", mail(*recipients), mail(recipients[1]), to_a_labels=to_a_labels.__getitem__)
    assert [told(report) for report in reports] == [[(D, 250)] * 2, [(D, 250)]]


def test_what_was_announced_in_clear_is_forgotten_within_tls() -> None:
    server = ScriptedServer(
        {"EHLO": ["250-mx\n250-LIMITS MAILMAX=1 RCPTMAX=1\n250 STARTTLS", "250 mx"]}, extensions=["STARTTLS"]
    )
    events = converse(Client("client.example"), server, [many(3), many(3)])
    reports = [event for event in events if isinstance(event, Report)]
    assert [told(report) for report in reports] == [[(D, 250)] * 3] * 2
    assert transactions(server) == [3, 3]


# --- whatever the numbers -------------------------------------------------------------------------------------------

some = st.one_of(st.none(), st.integers(1, 4))


@settings(max_examples=examples(400), deadline=None)
@given(
    limits=st.tuples(some, some, some),
    wishes=st.lists(st.lists(st.sampled_from("bcde"), min_size=1, max_size=6), min_size=1, max_size=4),
    codes=st.lists(st.sampled_from([None, None, None, "550 no", "452 many", "450 later"]), max_size=12),
    verdicts=st.lists(st.sampled_from([None, None, "554 no", "451 later"]), max_size=4),
    way=st.sampled_from(WAYS),
    repeatable=st.booleans(),
)
def test_no_limit_is_exceeded_and_nobody_is_lost_or_served_twice(
    limits: tuple[int | None, int | None, int | None],
    wishes: list[list[str]],
    codes: list[str | None],
    verdicts: list[str | None],
    way: dict[str, Any],
    repeatable: bool,
) -> None:
    mails, recipients, domains = limits
    names = zip(("MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"), limits, strict=True)
    asked = [
        mail(
            *(f"{place}@{domain}.example" for place, domain in enumerate(wish)),
            sender=f"s{number}@a.example",
            body=BodyFacts(repeatable=repeatable),
        )
        for number, wish in enumerate(wishes)
    ]
    reports, end, server = run(
        " ".join(f"{name}={number}" for name, number in names if number is not None),
        *asked,
        answers={"RCPT": [*codes, None], "BDAT LAST" if "extensions" in way else ".": [*verdicts, None]},
        **way,
    )
    named = transactions(server)
    assert mails is None or len(named) <= mails
    assert recipients is None or max(named) <= recipients
    said = {command.partition("@")[2] for command in server.commands if command.startswith("RCPT")}
    assert domains is None or len(said) <= domains
    have: Counter[tuple[str, str]] = Counter()
    for received in server.mails:
        have.update((received.reverse_path, recipient) for recipient in received.recipients)
    assert set(have.values()) <= {1}
    delivered = {(r.mail.envelope.reverse_path, o.recipient) for r in reports for o in r.outcomes if o.verdict is D}
    assert delivered == set(have)
    # The session ends at the first mail that it may not bring; the others were not asked for.
    taken = asked[: len(reports)]
    assert [tuple(map(recipient_of, report.outcomes)) for report in reports] == [wish[0].recipients for wish in taken]
    assert end.clean
    assert all(report.stage is not Stage.NOT_STARTED for report in reports[:-1])
    if reports[-1].stage is Stage.NOT_STARTED or len(taken) < len(asked):
        assert end.reason is DisconnectReason.LIMIT


def recipient_of(outcome: Outcome) -> str:
    return outcome.recipient
