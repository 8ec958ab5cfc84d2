"""The pool machine, rule by rule: what it orders for which facts.

What lives here: single rules, each through the public face. What does not: long lives with a host of moods
(``test_pool_life.py``).
"""

from __future__ import annotations

import math

import pytest

from smtpcore import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    BodyError,
    BodyNotRepeatable,
    ConnectFailed,
    CredentialsUnavailable,
    EhloRequired,
    Envelope,
    ExtensionRequired,
    LimitReached,
    LocalProtocolError,
    Mail,
    MailOptions,
    MailRefused,
    MailSent,
    Notify,
    Outcome,
    RecipientOptions,
    RemoteProtocolError,
    Reply,
    SessionAborted,
    SessionError,
    Stage,
    TlsFailed,
    TlsRequired,
    Transcript,
    Verdict,
)
from smtpcore.pool import (
    Answer,
    MailAsked,
    OpenSession,
    PoolMachine,
    PoolSettings,
    Reported,
    Retries,
    SessionEnded,
    SessionOpened,
)

from .bench import GOODBYE, LOST, NO, NOT_NOW, OK, PLAIN, Bench

LIMIT = LimitReached("the peer takes no more than 1 transactions in a session (MAILMAX)")
REFUSED = ConnectFailed("cannot connect to there.example:25: Connection refused")


def open_bench(sessions: int = 1, **settings: object) -> Bench:
    """A bench with this many sessions parked, each of which has served a mail."""
    bench = Bench(sessions=sessions, **settings)
    for _ in range(sessions):
        bench.ask()
    session = 0
    while session < sessions:
        session += 1
        bench.opened(session)
    for number in range(1, sessions + 1):
        bench.reported(number)
    return bench


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_mail_opens_a_session_and_waits_for_it() -> None:
    bench = Bench()
    assert bench.ask() == ["open 1"]
    assert bench.machine.status.waiting == 1
    assert bench.opened(1) == ["give 1 to 1"]
    assert bench.sessions == (0, 1, 0)
    assert bench.reported(1) == ["answer 1"]
    assert bench.verdicts(1) == ["b@there.example delivered: 250 2.0.0 taken"]
    assert isinstance(bench.answers[1], MailSent)
    assert bench.sessions == (0, 0, 1)
    assert not bench.machine.status.waiting


def test_a_parked_session_is_taken_up_again() -> None:
    bench = open_bench()
    assert bench.ask() == ["give 2 to 1"]


def test_the_session_used_last_is_taken_up_first() -> None:
    bench = open_bench(2)
    bench.ask()
    bench.reported(2)
    assert bench.ask() == ["give 4 to 2"]


def test_one_session_is_opened_before_others_are_tried() -> None:
    bench = Bench(sessions=3, openings=3)
    assert [bench.ask() for _ in range(5)] == [["open 1"], [], [], [], []]
    assert bench.opened(1) == ["give 1 to 1", "open 2", "open 3"]
    assert bench.opened(3) == ["give 2 to 3"]
    assert bench.reported(1) == ["answer 1", "give 3 to 1"]


def test_no_more_are_opened_at_once_than_the_limit_says() -> None:
    bench = Bench(sessions=10, openings=2)
    for _ in range(10):
        bench.ask()
    assert bench.opened(1) == ["give 1 to 1", "open 2", "open 3"]
    assert bench.opened(2) == ["give 2 to 2", "open 4"]


def test_a_session_that_is_being_closed_counts() -> None:
    bench = open_bench(mails_per_session=2)
    bench.ask()
    bench.ask()
    assert bench.reported(1) == ["answer 2", "close 1"]
    assert bench.ended(1, None) == ["open 2"]


def test_a_used_up_session_makes_room() -> None:
    bench = open_bench(mails_per_session=1)
    assert bench.sessions == (1, 0, 0)


def test_an_old_session_takes_no_more_mail() -> None:
    bench = open_bench(session_seconds=50.0, idle_seconds=1000.0)
    assert bench.machine.wake_at == bench.now + 50
    bench.wait(49)
    assert bench.ask() == ["give 2 to 1"]
    bench.now += 2
    assert bench.reported(1) == ["answer 2", "close 1"]


def test_an_idle_session_is_closed() -> None:
    bench = open_bench(2, idle_seconds=30.0)
    bench.now += 20
    bench.ask()
    bench.reported(2)
    assert bench.machine.wake_at == bench.now + 10
    assert bench.wait(10) == ["close 1"]
    assert bench.wait(19) == []
    assert bench.wait(1) == ["close 2"]
    assert bench.ended(1, None) == bench.ended(2, None) == []
    assert bench.machine.idle
    assert bench.machine.wake_at is None


def test_the_rate_holds() -> None:
    bench = Bench(sessions=2, mails_per_second=4.0)
    bench.ask()
    bench.ask()
    bench.opened(1)
    assert bench.opened(2) == []
    assert bench.wait(0.25) == ["give 2 to 2"]
    bench.reported(1)
    bench.reported(2)
    bench.wait(10)
    assert [bench.ask(), bench.ask(), bench.ask()] == [["give 3 to 2"], [], []]
    assert bench.machine.wake_at == bench.now + 0.25
    assert bench.wait(0.125) == []
    assert bench.wait(0.125) == ["give 4 to 1"]
    bench.reported(2)
    assert bench.wait(0.25) == ["give 5 to 2"]
    # Nothing is saved up for later.
    bench.reported(1)
    bench.reported(2)
    bench.wait(20)
    assert [bench.ask(), bench.ask()] == [["give 6 to 2"], []]


def test_a_rate_opens_no_sessions_that_it_cannot_use() -> None:
    bench = Bench(sessions=4, mails_per_second=1.0)
    for _ in range(4):
        bench.ask()
    assert bench.opened(1) == ["give 1 to 1", "open 2", "open 3", "open 4"]
    bench.reported(1)
    for session in (2, 3, 4):
        assert bench.opened(session) == []
    for _ in range(3):
        bench.wait(1)
    for session in (2, 3, 4):
        bench.ended(session)
    assert "open" not in " ".join(bench.ask() + bench.ask())


# --- verdicts and retries -------------------------------------------------------------------------------------------


def test_only_those_without_a_final_verdict_are_tried_again() -> None:
    bench = Bench()
    bench.ask("b@there.example", "c@there.example", "d@there.example", "c@there.example")
    bench.opened(1)
    assert bench.reported(1, OK, NOT_NOW, NO, NOT_NOW) == []
    assert bench.machine.status.waiting == 1
    assert bench.machine.wake_at == bench.now + 1
    assert bench.wait(1) == ["give 1 to 1"]
    assert bench.envelope(1).recipients == ("c@there.example", "c@there.example")
    assert bench.reported(1, NO, OK) == ["answer 1"]
    assert bench.verdicts(1) == [
        "b@there.example delivered: 250 2.0.0 taken",
        "c@there.example never: 550 5.1.1 nobody",
        "d@there.example never: 550 5.1.1 nobody",
        "c@there.example delivered: 250 2.0.0 taken",
    ]


def test_a_further_attempt_asks_for_its_recipients_what_was_asked() -> None:
    bench = Bench()
    wishes = {
        "b@there.example": RecipientOptions(notify=[Notify.FAILURE]),
        "c@there.example": RecipientOptions(notify=[Notify.DELAY]),
    }
    options = MailOptions(envelope_id="order 4711")
    asked = Envelope("a@here.example", tuple(wishes), options=options, recipient_options=wishes)
    bench.tell(MailAsked(1, asked, True))
    bench.opened(1)
    bench.reported(1, OK, NOT_NOW)
    assert bench.wait(1) == ["give 1 to 1"]
    again = bench.envelope(1)
    assert (again.recipients, again.options) == (("c@there.example",), options)
    assert again.recipient_options == {"c@there.example": RecipientOptions(notify=[Notify.DELAY])}
    bench.reported(1, OK)
    assert bench.answers[1].mail.envelope is asked


def test_a_refused_mail_is_not_tried_again() -> None:
    bench = Bench()
    bench.ask()
    bench.opened(1)
    assert bench.reported(1, NO) == ["answer 1"]
    assert isinstance(bench.answers[1], MailRefused)


def test_a_mail_that_may_not_be_said_to_this_peer_is_answered() -> None:
    bench = Bench()
    bench.ask()
    bench.opened(1)
    envelope = bench.envelope(1)
    error = ExtensionRequired("needs 8BITMIME", "5.6.3")
    outcomes = (Outcome("b@there.example", Verdict.NEVER, None, error),)
    report = MailRefused(Mail(envelope), outcomes, Stage.NOT_STARTED, Transcript())
    assert bench.tell(Reported(1, 1, report)) == ["answer 1"]
    assert bench.ask() == ["give 2 to 1"]


def test_retries_are_bounded_and_their_delays_grow() -> None:
    bench = Bench(idle_seconds=100.0)
    bench.ask()
    bench.opened(1)
    delays = []
    while not bench.answers:
        bench.reported(1, NOT_NOW)
        if (wake_at := bench.machine.wake_at) is not None and not bench.answers:
            delays.append(wake_at - bench.now)
            assert bench.wait(wake_at - bench.now) == ["give 1 to 1"]
    assert delays == [1, 2, 4, 8, 16]
    assert bench.verdicts(1) == ["b@there.example later: 451 4.2.0 come back later"]


def test_retries_can_be_forgone() -> None:
    bench = Bench(retries=Retries(most=0))
    bench.ask()
    bench.opened(1)
    assert bench.reported(1, NOT_NOW) == ["answer 1"]


def test_a_session_lost_in_the_middle_of_a_mail() -> None:
    bench = open_bench()
    bench.ask()
    assert bench.reported(1, LOST, stage=Stage.STARTED, end=LOST) == []
    assert bench.wait(1) == ["open 2"]
    assert bench.opened(2) == ["give 2 to 2"]
    assert bench.reported(2) == ["answer 2"]


def test_a_doubt_is_final() -> None:
    bench = Bench()
    bench.ask("b@there.example", "c@there.example")
    bench.opened(1)
    assert bench.reported(1, "doubt", NOT_NOW, end=LOST) == []
    bench.wait(1)
    bench.opened(2)
    assert bench.envelope(2).recipients == ("c@there.example",)
    assert bench.reported(2) == ["answer 1"]
    assert [outcome.in_doubt for outcome in bench.answers[1].outcomes] == [True, False]
    assert isinstance(bench.answers[1], MailSent)


def test_a_doubt_can_be_risked() -> None:
    bench = Bench(retries=Retries(in_doubt=True, spread=0.0))
    bench.ask("b@there.example", "c@there.example")
    bench.opened(1)
    bench.reported(1, "doubt", "doubt", end=LOST)
    bench.wait(1)
    bench.opened(2)
    bench.reported(2, OK, NOT_NOW)
    bench.wait(2)
    # Another attempt that fails does not take back what may have arrived.
    assert bench.reported(2, NO) == ["answer 1"]
    assert [str(outcome) for outcome in bench.answers[1].outcomes] == [
        "b@there.example delivered: 250 2.0.0 taken",
        "c@there.example never: 550 5.1.1 nobody",
    ]


def test_a_doubt_stays_one() -> None:
    bench = Bench(retries=Retries(most=1, in_doubt=True, spread=0.0))
    bench.ask()
    bench.opened(1)
    bench.reported(1, "doubt", end=LOST)
    bench.wait(1)
    assert bench.ended(2, REFUSED) == ["answer 1"]
    (outcome,) = bench.answers[1].outcomes
    assert outcome.in_doubt
    assert outcome.error is REFUSED
    assert bench.answers[1].stage is Stage.BODY_ENDED


def test_a_body_that_cannot_be_read_again() -> None:
    bench = Bench()
    bench.ask("b@there.example", "c@there.example", repeatable=False)
    bench.opened(1)
    assert bench.reported(1, OK, NOT_NOW) == ["answer 1"]
    done, put_off = bench.answers[1].outcomes
    assert done.verdict is Verdict.DELIVERED
    assert (put_off.verdict, put_off.reply) == (Verdict.LATER, NOT_NOW)
    assert isinstance(put_off.error, BodyNotRepeatable)
    assert "451 4.2.0 come back later" in str(put_off.error)


def test_a_lost_session_is_the_cause_that_a_refused_retry_names() -> None:
    bench = Bench()
    bench.ask(repeatable=False)
    bench.opened(1)
    assert bench.reported(1, LOST, stage=Stage.BODY_BEGUN, end=LOST) == ["answer 1"]
    (outcome,) = bench.answers[1].outcomes
    assert isinstance(outcome.error, BodyNotRepeatable)
    assert outcome.error.__cause__ is LOST


def test_a_body_that_was_not_read_yet_can_be_read() -> None:
    bench = Bench()
    bench.ask(repeatable=False)
    bench.opened(1)
    assert bench.reported(1, NOT_NOW, stage=Stage.STARTED) == []
    assert bench.wait(1) == ["give 1 to 1"]


def test_a_body_that_broke_is_the_callers_affair() -> None:
    bench = Bench(sessions=1)
    bench.ask()
    bench.ask()
    bench.opened(1)
    broken = BodyError("the body could not be read")
    answer = bench.reported(1, broken, stage=Stage.BODY_BEGUN, end=SessionAborted("the body could not be read"))
    # It says nothing against the host.
    assert answer == ["answer 1", "open 2"]
    assert bench.machine.status.resting_until is None


def test_an_envelope_of_one_attempt_is_the_callers_own() -> None:
    bench = Bench()
    envelope = Envelope("a@here.example", ("b@there.example",))
    bench.tell(MailAsked(7, envelope, True))
    bench.opened(1)
    assert bench.envelope(1) is envelope
    bench.reported(1)
    assert bench.answers[7].mail.envelope is envelope


def test_a_mail_due_again_waits_behind_those_that_came_meanwhile() -> None:
    bench = Bench(sessions=1)
    bench.ask()
    bench.opened(1)
    bench.reported(1, NOT_NOW)
    bench.ask()
    bench.ask()
    bench.now += 5
    assert bench.reported(1) == ["answer 2", "give 3 to 1"]
    assert bench.reported(1) == ["answer 3", "give 1 to 1"]


# --- what costs no attempt ------------------------------------------------------------------------------------------


def test_a_parked_session_found_closed_costs_nothing() -> None:
    bench = open_bench(retries=Retries(most=0))
    bench.ask()
    bench.ask()
    assert bench.reported(1, GOODBYE, stage=Stage.NOT_STARTED, end=GOODBYE) == ["open 2"]
    assert bench.opened(2) == ["give 2 to 2"]
    assert bench.reported(2) == ["answer 2", "give 3 to 2"]
    assert bench.verdicts(2) == ["b@there.example delivered: 250 2.0.0 taken"]


def test_a_session_that_ended_before_it_could_report() -> None:
    bench = open_bench()
    bench.ask()
    assert bench.ended(1, None) == ["open 2"]
    assert bench.opened(2) == ["give 2 to 2"]


def test_a_fresh_session_that_is_of_no_use_costs_an_attempt() -> None:
    bench = Bench(retries=Retries(most=1, spread=0.0))
    bench.ask()
    bench.opened(1)
    assert bench.reported(1, GOODBYE, stage=Stage.NOT_STARTED, end=GOODBYE) == []
    assert bench.machine.status.resting_until == bench.now + 1
    assert bench.wait(1) == ["open 2"]
    bench.opened(2)
    assert bench.reported(2, GOODBYE, stage=Stage.NOT_STARTED, end=GOODBYE) == ["answer 1"]
    (outcome,) = bench.answers[1].outcomes
    assert (outcome.code, outcome.error) == (421, GOODBYE)
    assert bench.answers[1].stage is Stage.NOT_STARTED


# --- the host -------------------------------------------------------------------------------------------------------


def test_a_dead_host_is_tried_less_and_less_often() -> None:
    bench = Bench()
    bench.ask()
    bench.ask()
    delays = []
    for session in range(1, 6):
        assert bench.ended(session, REFUSED) == []
        assert bench.machine.wake_at == bench.machine.status.resting_until
        resting_until = bench.machine.status.resting_until
        assert resting_until is not None
        delays.append(resting_until - bench.now)
        assert bench.wait(delays[-1]) == [f"open {session + 1}"]
    assert bench.ended(6, REFUSED) == ["answer 1", "answer 2"]
    assert delays == [1, 2, 4, 8, 16]
    assert {outcome.error for answer in bench.answers.values() for outcome in answer.outcomes} == {REFUSED}
    # Who comes now finds the host at rest.
    assert bench.ask() == []
    assert bench.wait(15) == []
    assert bench.wait(1) == ["open 7"]
    assert bench.opened(7) == ["give 3 to 7"]
    bench.reported(7)
    bench.ended(7)
    assert bench.machine.status.resting_until is None


def test_a_host_that_is_back_is_tried_soon_when_it_fails_again() -> None:
    bench = Bench()
    bench.ask()
    bench.ended(1, REFUSED)
    bench.wait(1)
    bench.ended(2, REFUSED)
    bench.wait(2)
    bench.opened(3)
    bench.reported(3, end=LOST)
    bench.ask()
    bench.ended(4, REFUSED)
    assert bench.machine.status.resting_until == bench.now + 1


def test_a_host_that_takes_fewer_sessions_costs_nobody_an_attempt() -> None:
    bench = Bench(sessions=3, openings=1, retries=Retries(most=0, spread=0.0))
    for _ in range(4):
        bench.ask()
    bench.opened(1)
    busy = SessionError("421 too many connections")
    assert bench.ended(2, busy) == []
    assert bench.reported(1) == ["answer 1", "give 2 to 1"]
    # After a rest one more is tried, and only one.
    assert bench.wait(1) == ["open 3"]
    assert bench.ended(3, busy) == []
    assert bench.machine.status.resting_until == bench.now + 1
    assert bench.reported(1) == ["answer 2", "give 3 to 1"]
    assert not any("later" in word for answer in bench.answers for word in bench.verdicts(answer))


def test_sessions_that_fail_together_are_one_failure() -> None:
    bench = Bench(sessions=3)
    for _ in range(4):
        bench.ask()
    bench.opened(1)
    bench.reported(1, LOST, stage=Stage.STARTED, end=LOST)
    resting_until = bench.machine.status.resting_until
    assert resting_until == bench.now + 1
    bench.ended(2, REFUSED)
    bench.ended(3, REFUSED)
    assert bench.machine.status.resting_until == resting_until
    assert bench.wait(1) == ["open 4"]


def test_a_session_lost_in_its_first_mail_lets_the_host_rest() -> None:
    bench = Bench()
    bench.ask()
    bench.opened(1)
    bench.ask()
    bench.reported(1, LOST, stage=Stage.STARTED, end=LOST)
    assert bench.machine.status.resting_until == bench.now + 1


def test_a_session_that_ends_with_its_verdict_is_no_failure() -> None:
    bench = Bench(sessions=1)
    bench.ask()
    bench.opened(1)
    bench.ask()
    assert bench.reported(1, OK, end=GOODBYE) == ["answer 1", "open 2"]
    assert bench.machine.status.resting_until is None


LASTING = [
    AuthDeclined("no", reply=Reply(535, ("5.7.8 no",))),
    AuthRequired("no common mechanism"),
    CredentialsUnavailable("the function that gives the credentials: KeyError"),
    AuthExchangeFailed("no base64", reply=Reply(334, ("!",))),
    EhloRequired("HELO only", reply=Reply(502, ("what?",))),
    TlsRequired("no STARTTLS"),
]


@pytest.mark.parametrize("error", LASTING, ids=lambda error: type(error).__name__)
def test_what_does_not_pass_by_waiting_is_the_answer_to_all(error: SessionError) -> None:
    bench = Bench()
    bench.ask("b@there.example", "c@there.example")
    bench.ask()
    assert bench.ended(1, error) == ["answer 1", "answer 2"]
    assert {outcome.error for answer in bench.answers.values() for outcome in answer.outcomes} == {error}
    assert {outcome.verdict for answer in bench.answers.values() for outcome in answer.outcomes} == {Verdict.LATER}
    # Who comes at once gets the same; nobody knocks again before the rest is over.
    assert bench.ask() == ["answer 3"]
    bench.wait(1)
    assert bench.ask() == (["answer 4"] if isinstance(error, AuthDeclined) else ["open 2"])


def test_credentials_that_are_asked_for_each_time_are_refused_for_a_while() -> None:
    machine = PoolMachine(PoolSettings(openings=1, retries=PLAIN), credentials_asked=True)
    machine.handle([MailAsked(1, Envelope("", ("b@there.example",)), True)], 0.0)
    (answer,) = machine.handle([SessionEnded(1, LASTING[0])], 0.0)
    assert isinstance(answer, Answer)
    (again,) = machine.handle([MailAsked(2, Envelope("", ("b@there.example",)), True)], 0.5)
    assert isinstance(again, Answer)
    assert machine.handle([MailAsked(3, Envelope("", ("b@there.example",)), True)], 1.0) == (OpenSession(2, False),)


@pytest.mark.parametrize(
    "error",
    [
        AuthDeclined("busy", reply=Reply(454, ("4.7.0 busy",))),
        TlsRequired("busy", reply=Reply(454, ("4.7.0 busy",))),
        TlsFailed("the peer closed the connection during the TLS handshake"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(error: SessionError) -> None:
    bench = Bench()
    bench.ask()
    assert bench.ended(1, error) == []
    assert bench.wait(1) == ["open 2"]


def test_credentials_that_were_refused_are_not_said_again() -> None:
    """Sessions that live go on; those who wait when the last has ended get the refusal."""
    bench = Bench(sessions=2, openings=1, idle_seconds=5000.0)
    bench.ask()
    bench.ask()
    bench.opened(1)
    declined = LASTING[0]
    assert bench.ended(2, declined) == []
    assert bench.reported(1) == ["answer 1", "give 2 to 1"]
    bench.ask()
    assert bench.wait(1000) == []
    assert bench.reported(1, NOT_NOW, end=LOST) == ["answer 2", "answer 3"]
    assert [outcome.error for outcome in bench.answers[3].outcomes] == [declined]
    bench.wait(1000)
    assert bench.ask() == ["answer 4"]


# --- several mails at once ------------------------------------------------------------------------------------------


def ahead_bench(mails: int, **settings: object) -> Bench:
    """A bench with one session that may have three mails in hand, and as many mails asked for."""
    bench = Bench(**{"sessions": 2, "mails_at_once": 3, "idle_seconds": 30.0, **settings})
    for _ in range(mails):
        bench.ask()
    return bench


def test_a_session_is_given_several_mails() -> None:
    bench = ahead_bench(1)
    assert bench.opened(1) == ["give 1 to 1"]
    assert bench.ask() == ["give 2 to 1"]
    assert bench.ask() == ["give 3 to 1"]
    assert bench.sessions == (0, 1, 0)
    # It is full: only now another is opened.
    assert bench.ask() == ["open 2 ahead"]
    assert bench.reported(1) == ["answer 1", "give 4 to 1"]
    assert bench.opened(2) == []
    # The one with less in hand comes first.
    assert [bench.ask(), bench.ask(), bench.ask()] == [["give 5 to 2"], ["give 6 to 2"], ["give 7 to 2"]]


def test_a_session_with_a_mail_in_hand_is_not_idle() -> None:
    bench = ahead_bench(2, session_seconds=1e6)
    bench.opened(1)
    bench.now += 1
    bench.reported(1)
    wake_at = bench.machine.wake_at
    assert wake_at is None
    assert bench.wait(1000) == []
    bench.reported(1)
    assert bench.machine.wake_at == bench.now + 30
    assert bench.wait(30) == ["close 1"]


@pytest.mark.parametrize("limit", [{"mails_per_session": 2}, {"session_seconds": 10.0}])
def test_a_used_up_session_is_closed_when_its_hand_is_empty(limit: dict[str, object]) -> None:
    bench = ahead_bench(2, **limit)
    bench.opened(1)
    bench.now += 10
    assert bench.ask() == ["open 2 ahead"]
    assert bench.reported(1) == ["answer 1"]
    assert bench.reported(1) == ["answer 2", "close 1"]


def test_what_was_not_begun_goes_elsewhere_at_no_cost() -> None:
    bench = ahead_bench(4, retries=Retries(most=0))
    bench.opened(1)
    bench.reported(1)
    doubtful = bench.report_of(1, "doubt")
    not_begun = bench.report_of(1, LOST, stage=Stage.NOT_STARTED)
    assert bench.tell(doubtful, not_begun, SessionEnded(1, LOST)) == ["answer 2"]
    assert bench.verdicts(2) == ["b@there.example later (in doubt): the peer closed the connection"]
    # In the order in which they were asked for, before what came later.
    bench.ask()
    assert bench.opened(2) == ["give 3 to 2", "give 4 to 2", "give 5 to 2"]


def test_mails_that_a_fresh_session_did_not_begin_cost_an_attempt_each() -> None:
    bench = ahead_bench(3, retries=Retries(most=0), sessions=1)
    bench.opened(1)
    assert bench.ended(1, GOODBYE) == ["answer 1", "answer 2", "answer 3"]


def test_withdrawing_one_of_several() -> None:
    bench = ahead_bench(3)
    bench.opened(1)
    assert bench.withdraw(2) == ["drop 1"]
    assert bench.withdraw(3) == []
    assert bench.ask() == ["open 2 ahead"]
    assert bench.ended(1, SessionAborted("dropped")) == []
    assert bench.opened(2) == ["give 1 to 2", "give 4 to 2"]
    assert bench.machine.status.resting_until is None


def test_a_host_that_lost_step_is_given_one_at_a_time() -> None:
    bench = ahead_bench(3)
    bench.opened(1)
    bench.reported(1)
    lost_step = RemoteProtocolError("an answer that nobody asked for")
    assert bench.ended(1, lost_step) == ["open 2", "open 3"]
    assert bench.opened(2) == ["give 2 to 2"]
    assert bench.opened(3) == ["give 3 to 3"]


def test_shutting_down_lets_all_in_hand_come_to_their_ends() -> None:
    bench = ahead_bench(3)
    bench.opened(1)
    assert bench.shut_down() == []
    assert bench.reported(1) == ["answer 1"]
    assert bench.reported(1, NOT_NOW) == ["answer 2"]
    assert bench.reported(1) == ["answer 3", "close 1"]


# --- withdrawn ------------------------------------------------------------------------------------------------------


def test_withdrawn_before_there_is_a_session() -> None:
    bench = Bench()
    bench.ask()
    assert bench.withdraw(1) == ["drop 1"]
    assert bench.ended(1, SessionAborted("dropped")) == []
    assert bench.machine.idle
    assert bench.machine.status.resting_until is None
    assert not bench.answers


def test_a_session_that_others_wait_for_is_opened_all_the_same() -> None:
    bench = Bench()
    bench.ask()
    bench.ask()
    assert bench.withdraw(1) == []
    assert bench.opened(1) == ["give 2 to 1"]


def test_withdrawn_while_it_waits_for_a_session() -> None:
    bench = Bench(sessions=1)
    bench.ask()
    bench.opened(1)
    bench.ask()
    bench.ask()
    assert bench.withdraw(2) == []
    assert bench.reported(1) == ["answer 1", "give 3 to 1"]


def test_withdrawn_between_attempts() -> None:
    bench = Bench(idle_seconds=100.0)
    bench.ask()
    bench.ask()
    bench.opened(1)
    bench.reported(1, NOT_NOW)
    bench.reported(1, NOT_NOW)
    assert bench.withdraw(1) == []
    assert bench.wait(1) == ["give 2 to 1"]


def test_withdrawn_while_a_session_has_it_in_hand() -> None:
    bench = open_bench(2)
    bench.ask()
    bench.ask()
    assert bench.withdraw(3) == ["drop 2"]
    aborted = SessionAborted("the application gave the session up")
    assert bench.reported(2, aborted, stage=Stage.STARTED, end=aborted) == []
    assert bench.reported(1) == ["answer 4"]
    assert bench.machine.status.resting_until is None
    assert 3 not in bench.answers


def test_opened_after_it_was_to_be_dropped() -> None:
    bench = Bench()
    bench.ask()
    bench.withdraw(1)
    assert bench.opened(1) == []
    assert bench.ask() == ["open 2"]


def test_withdrawing_what_is_answered_changes_nothing() -> None:
    bench = open_bench()
    assert bench.withdraw(1) == bench.withdraw(99) == []
    assert bench.ask() == ["give 2 to 1"]


# --- the end --------------------------------------------------------------------------------------------------------


def test_what_waits_for_its_next_attempt_is_answered_when_the_pool_is_closed() -> None:
    bench = open_bench(2)
    bench.ask()
    bench.reported(2, NOT_NOW)
    assert bench.shut_down() == ["answer 3", "close 1", "close 2"]
    assert bench.verdicts(3) == ["b@there.example later: 451 4.2.0 come back later"]


def test_what_waits_is_answered_when_the_pool_is_closed() -> None:
    bench = Bench(sessions=1)
    bench.ask()
    bench.ask()
    bench.opened(1)
    assert bench.shut_down() == ["answer 2"]
    assert bench.verdicts(2) == ["b@there.example later: the pool was closed"]
    # The one in hand comes to its end, but is not tried again.
    assert bench.reported(1, NOT_NOW) == ["answer 1", "close 1"]
    assert bench.ask() == ["answer 3"]
    assert bench.ended(1, None) == []
    assert bench.machine.idle


def test_a_session_that_ends_as_the_pool_is_closed() -> None:
    bench = Bench()
    bench.ask()
    bench.ask()
    bench.opened(1)
    assert bench.shut_down() == ["answer 2", "drop 2"]
    assert bench.ended(2, SessionAborted("dropped")) == []
    assert bench.ended(1, SessionAborted("dropped")) == ["answer 1"]
    assert bench.verdicts(1) == ["b@there.example later: dropped"]


# --- misuse ---------------------------------------------------------------------------------------------------------


def test_facts_that_no_longer_concern_anyone() -> None:
    bench = open_bench()
    envelope = Envelope("a@here.example", ("b@there.example",))
    report = MailRefused(Mail(envelope), (), Stage.STARTED, Transcript())
    assert bench.tell(SessionOpened(9), SessionEnded(9, LOST), Reported(9, 1, report), Reported(1, 1, report)) == []
    assert bench.opened(1) == []
    assert bench.sessions == (0, 0, 1)


def test_a_number_is_used_once() -> None:
    bench = Bench()
    envelope = Envelope("a@here.example", ("b@there.example",))
    with pytest.raises(LocalProtocolError, match="another's"):
        bench.tell(MailAsked(1, envelope, True), MailAsked(1, envelope, True))


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"sessions": 0},
        {"openings": 0},
        {"mails_at_once": 0},
        {"mails_per_session": -1},
        {"session_seconds": 0.0},
        {"idle_seconds": 0.0},
        {"mails_per_second": math.nan},
    ],
)
def test_a_setting_that_makes_no_sense_is_named(setting: dict[str, float]) -> None:
    with pytest.raises(LocalProtocolError, match=next(iter(setting))):
        PoolSettings(**setting)  # type: ignore[arg-type]  # arguments by name


# --- the limits of a peer (RFC 9422) --------------------------------------------------------------------------------


def test_a_session_that_has_brought_all_it_may_says_nothing_against_the_host() -> None:
    bench = Bench(sessions=1)
    bench.ask()
    bench.opened(1)
    bench.ask()
    assert bench.reported(1, NOT_NOW, end=LIMIT) == ["open 2"]
    assert bench.machine.status.resting_until is None


def test_who_was_left_out_is_tried_at_once_and_it_counts_as_no_attempt() -> None:
    bench = Bench(retries=Retries(most=1, spread=0.0))
    recipients = [f"r{number}@there.example" for number in range(5)]
    bench.ask(*recipients)
    for session in range(1, 6):
        assert bench.opened(session) == [f"give 1 to {session}"]
        assert bench.envelope(session).recipients == tuple(recipients[session - 1 :])
        left = [LIMIT] * (5 - session)
        assert bench.reported(session, OK, *left, end=LIMIT) == ([f"open {session + 1}"] if left else ["answer 1"])
    assert all("delivered" in verdict for verdict in bench.verdicts(1))


def test_who_was_left_out_is_named_first() -> None:
    bench = Bench()
    bench.ask("a@there.example", "b@there.example", "c@there.example")
    bench.opened(1)
    assert bench.reported(1, NO, NOT_NOW, LIMIT, end=LIMIT) == ["open 2"]
    bench.opened(2)
    assert bench.envelope(2).recipients == ("c@there.example", "b@there.example")
    assert bench.reported(2, OK, OK) == ["answer 1"]
    assert [verdict.split(":")[0] for verdict in bench.verdicts(1)] == [
        "a@there.example never",
        "b@there.example delivered",
        "c@there.example delivered",
    ]


def test_all_are_named_in_turn_before_anybody_is_tried_anew_and_that_is_one_attempt() -> None:
    bench = Bench(retries=Retries(most=1, delays=(10.0,), spread=0.0))
    bench.ask("a@there.example", "b@there.example", "c@there.example")
    bench.opened(1)
    assert bench.reported(1, NOT_NOW, LIMIT, LIMIT) == ["give 1 to 1"]
    assert bench.envelope(1).recipients == ("b@there.example", "c@there.example", "a@there.example")
    assert bench.reported(1, NOT_NOW, LIMIT, LIMIT) == ["give 1 to 1"]
    assert bench.envelope(1).recipients == ("c@there.example", "a@there.example", "b@there.example")
    assert bench.reported(1, NOT_NOW, LIMIT, LIMIT) == []
    assert bench.wait(10) == ["give 1 to 1"]
    assert bench.envelope(1).recipients == ("a@there.example", "b@there.example", "c@there.example")
    assert bench.reported(1, NOT_NOW, OK, LIMIT) == ["give 1 to 1"]
    assert bench.envelope(1).recipients == ("c@there.example", "a@there.example")
    assert bench.reported(1, NOT_NOW, LIMIT) == ["answer 1"]
    # Of those who were left out at last the answer says what they were told before.
    assert [verdict.split(":")[0] for verdict in bench.verdicts(1)] == [
        "a@there.example later",
        "b@there.example delivered",
        "c@there.example later",
    ]
    assert not any("MAILMAX" in verdict for verdict in bench.verdicts(1))


def test_where_the_peer_answered_for_nobody_who_was_left_out_waits_and_comes_first() -> None:
    bench = Bench(retries=Retries(most=1, delays=(10.0,), spread=0.0))
    bench.ask("a@there.example", "b@there.example")
    bench.opened(1)
    assert bench.reported(1, LOST, LIMIT) == []
    assert bench.wait(10) == ["give 1 to 1"]
    assert bench.envelope(1).recipients == ("b@there.example", "a@there.example")
    assert bench.reported(1, NOT_NOW, LOST) == ["answer 1"]


@pytest.mark.parametrize(
    "values",
    [
        {"most": -1},
        {"delays": ()},
        {"delays": (0.0,)},
        {"delays": (math.inf,)},
        {"delays": (2.0, 1.0)},
        {"spread": 1.0},
        {"spread": -0.1},
    ],
)
def test_retries_that_make_no_sense(values: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        Retries(**values)  # type: ignore[arg-type]  # arguments by name


def test_delays_are_spread_by_a_hash() -> None:
    retries = Retries(delays=(10.0, 20.0), spread=0.1)
    delays = [retries.delay(1, number, 1) for number in range(100)]
    assert delays == [retries.delay(1, number, 1) for number in range(100)]
    assert all(9 <= delay <= 11 for delay in delays)
    assert max(delays) - min(delays) > 1.5
    assert delays != [retries.delay(2, number, 1) for number in range(100)]
    assert all(18 <= retries.delay(1, number, 9) <= 22 for number in range(100))
