"""The relay machine, rule by rule: what it orders for which facts.

What lives here: single rules, each through the public face. What does not: long lives in a world of troubles, which are
the simulation's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import (
    ConnectFailed,
    ConnectionLost,
    LimitReached,
    Outcome,
    Reply,
    ServiceRefused,
    SessionAborted,
    SessionError,
    Stage,
    Verdict,
)
from smtpcore.relay import (
    Attempted,
    Bounce,
    Claim,
    CloseSession,
    Continue,
    DelayWarning,
    DomainsLoaded,
    Fate,
    FateKind,
    Forget,
    Job,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    NextHop,
    OpenSession,
    Orders,
    PendingRecipient,
    Relay,
    Reported,
    Save,
    SessionEnded,
    ShutDown,
    SmartHost,
    SpoolChanged,
    StoredMail,
    TimePassed,
)

from .relay_bench import (
    BUSY,
    DAY,
    HOUR,
    MINUTE,
    SETTINGS,
    START,
    TAKEN,
    UNKNOWN,
    Bench,
    OwnHosts,
    failed,
    report,
    reported,
    verdict,
)

# --- start, claim, results --------------------------------------------------------------------------------------------


def test_start_is_load() -> None:
    relay = Relay(SETTINGS, SmartHost("smart.example"))
    assert relay.wake_at is not None
    assert relay.wake_at <= START
    (order,) = relay.handle((), START).effects
    assert isinstance(order, LoadDomains)
    assert order.until == START
    assert relay.wake_at is None


def test_an_attempt_is_claimed_in_the_batch_that_begins_it() -> None:
    bench = Bench()
    bench.accept("you@far.example")
    claim, opened = bench.order(Claim), bench.effect(OpenSession)
    assert claim.job.attempts == 1
    assert opened.delivery.jobs == (claim.job,)
    assert opened.delivery.next_hop == NextHop("smart.example", 25)


def test_what_was_delivered_is_forgotten_and_told_once() -> None:
    bench = Bench()
    bench.accept("you@far.example")
    work = bench.effect(OpenSession)
    bench.tell(reported(work, TAKEN))
    assert bench.orders.durable == (Forget(work.delivery.jobs[0]),)
    fate = bench.effect(Fate)
    assert (fate.recipient, fate.kind, fate.words) == ("you@far.example", FateKind.DELIVERED, "250 2.0.0 taken")
    assert bench.relay.jobs_in_memory == 0


def test_a_refusal_for_good_bounces_before_the_job_is_forgotten() -> None:
    bench = Bench()
    bench.accept("nobody@far.example")
    bench.tell(reported(bench.effect(OpenSession), UNKNOWN, stage=Stage.STARTED))
    assert [type(order) for order in bench.orders.durable] == [Bounce, Forget]
    (failure,) = bench.order(Bounce).failures
    assert (failure.recipient, failure.status) == ("nobody@far.example", "5.1.1")
    assert failure.diagnostic == "550 5.1.1 no such user"
    assert failure.remote_host == "smart.example"
    assert bench.effect(Fate).kind is FateKind.BOUNCED


def test_a_deferral_is_saved_with_its_words_and_its_time() -> None:
    bench = Bench()
    bench.accept("you@far.example")
    bench.tell(reported(bench.effect(OpenSession), BUSY, stage=Stage.STARTED))
    (order,) = bench.orders.durable
    assert isinstance(order, Save)
    assert order.job.due_at == START + 5 * MINUTE
    assert order.job.attempts == 1
    assert order.job.recipients == (PendingRecipient("you@far.example", "451 4.3.0 later, please"),)
    attempted = bench.effect(Attempted)
    assert (attempted.recipient, attempted.due_at) == ("you@far.example", START + 5 * MINUTE)
    assert not bench.effects(Fate)
    assert bench.relay.wake_at is not None


def test_recipients_of_one_job_part_ways() -> None:
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", "three@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN, BUSY, UNKNOWN))
    assert [failure.recipient for failure in bench.order(Bounce).failures] == ["three@far.example"]
    assert [left.address for left in bench.order(Save).job.recipients] == ["two@far.example"]
    assert not bench.durable(Forget)
    assert [(fate.recipient, fate.kind) for fate in bench.effects(Fate)] == [
        ("one@far.example", FateKind.DELIVERED),
        ("three@far.example", FateKind.BOUNCED),
    ]


def test_domains_with_one_next_hop_are_one_delivery_and_one_bounce() -> None:
    bench = Bench()
    bench.accept("a@one.example", "b@two.example", "c@one.example")
    work = bench.effect(OpenSession)
    assert len(work.delivery.jobs) == 2
    assert sorted(work.delivery.envelope.recipients) == ["a@one.example", "b@two.example", "c@one.example"]
    bench.tell(reported(work, UNKNOWN, stage=Stage.STARTED))
    assert len(bench.order(Bounce).failures) == 3
    assert len(bench.durable(Forget)) == 2


def test_a_mail_in_doubt_is_tried_again() -> None:
    bench = Bench()
    bench.accept("you@far.example")
    lost = ConnectionLost("between end of data and its reply")
    bench.tell(failed(bench.effect(OpenSession), lost, Stage.BODY_ENDED, in_doubt=True))
    assert bench.order(Save).job.due_at > START
    assert bench.effect(Attempted).in_doubt


@pytest.mark.parametrize("reply", [UNKNOWN, BUSY])
def test_a_null_reverse_path_is_never_written_to(reply: Reply) -> None:
    bench = Bench()
    bench.accept("you@far.example", sender="", age=9 * DAY)
    bench.tell(reported(bench.effect(OpenSession), reply, stage=Stage.STARTED))
    assert [type(order) for order in bench.orders.durable] == [Forget]
    assert bench.effect(Fate).kind is FateKind.DISCARDED


# --- age --------------------------------------------------------------------------------------------------------------


def test_nothing_expires_without_an_attempt() -> None:
    bench = Bench()
    bench.accept("you@far.example", age=400 * DAY)
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert bench.effect(Fate).kind is FateKind.DELIVERED


def test_a_failed_attempt_of_an_old_mail_is_the_last() -> None:
    bench = Bench()
    bench.accept("you@far.example", age=2 * DAY)
    bench.tell(reported(bench.effect(OpenSession), BUSY, stage=Stage.STARTED))
    (failure,) = bench.order(Bounce).failures
    assert failure.status == "4.4.7"
    assert failure.diagnostic == "451 4.3.0 later, please"
    assert bench.effect(Fate).kind is FateKind.EXPIRED


def test_a_mail_accepted_in_the_future_has_no_age() -> None:
    bench = Bench()
    bench.accept("you@far.example", age=-9 * DAY)
    bench.tell(reported(bench.effect(OpenSession), BUSY, stage=Stage.STARTED))
    assert [type(order) for order in bench.orders.durable] == [Save]


def test_the_sender_is_warned_of_a_delay_once() -> None:
    bench = Bench()
    bench.accept("you@far.example", age=4 * HOUR)
    bench.tell(reported(bench.effect(OpenSession), BUSY, stage=Stage.STARTED))
    warning, saved = bench.order(DelayWarning), bench.order(Save).job
    assert [failure.recipient for failure in warning.failures] == ["you@far.example"]
    assert warning.retry_until == START - 4 * HOUR + 2 * DAY
    assert saved.recipients[0].warned
    again = Bench()
    again.tell(MailAccepted(warning.mail, (replace(saved, due_at=START),)))
    again.tell(reported(again.effect(OpenSession), BUSY, stage=Stage.STARTED))
    assert not again.durable(DelayWarning)
    assert again.order(Save).job.recipients[0].warned


@pytest.mark.parametrize("code", [452, 530, 552])
def test_a_warning_calls_a_delay_no_permanent_failure(code: int) -> None:
    bench = Bench()
    bench.accept("you@far.example", age=4 * HOUR)
    work = bench.effect(OpenSession)
    put_off = Outcome("you@far.example", Verdict.LATER, Reply(code, (f"{code // 100}.2.2 not now",)))
    bench.tell(Reported(work.session_id, work.delivery.delivery_id, report(work.delivery, (put_off,), Stage.STARTED)))
    (failure,) = bench.order(DelayWarning).failures
    assert (failure.status, failure.diagnostic) == ("4.2.2", f"{code} {code // 100}.2.2 not now")


@pytest.mark.parametrize("code", [450, 550])
def test_of_a_wordy_refusal_no_more_is_kept_than_one_needs_to_know(code: int) -> None:
    wordy = Reply(code, tuple("x" * 4000 for _ in range(500)))
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", age=4 * HOUR)
    bench.tell(reported(bench.effect(OpenSession), wordy))
    told = [order.failures for order in bench.durable(Bounce)]
    told += [order.failures for order in bench.durable(DelayWarning)]
    saved = [recipient.last_words for order in bench.durable(Save) for recipient in order.job.recipients]
    logged = [effect.words for effect in bench.effects(Fate)] + [effect.words for effect in bench.effects(Attempted)]
    words = [*saved, *logged, *(text for (one, two) in told for text in (one.reason, one.diagnostic, two.reason))]
    assert len(words) == (7 if code == 450 else 5)
    assert set(words) == {f"{code} {'x' * 1996}..."}


def test_of_a_destination_that_refuses_with_many_words_no_more_is_kept_than_one_needs_to_know() -> None:
    bench = Bench()
    bench.accept("one@far.example")
    work = bench.effect(OpenSession)
    bench.tell(SessionEnded(work.session_id, ServiceRefused("no " * 10_000)))
    assert len(bench.order(Save).job.recipients[0].last_words) == 2003


# --- what was not begun costs nothing, and dead hosts -----------------------------------------------------------------


def test_a_session_that_ends_between_mails_costs_no_attempt() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("one@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    bench.accept("two@far.example")
    work = bench.effect(Continue)
    idle = ServiceRefused("idle for too long", reply=Reply(421, ("4.4.2 idle",)))
    bench.tell(failed(work, idle, Stage.NOT_STARTED))
    assert bench.effect(CloseSession).session_id == work.session_id
    assert not bench.orders.durable
    bench.tell(SessionEnded(work.session_id, idle))
    assert bench.order(Save).job == replace(work.delivery.jobs[0], attempts=0)
    assert not bench.effects(Attempted)
    assert bench.effect(OpenSession).delivery.jobs == work.delivery.jobs
    assert bench.order(Claim).job.attempts == 1


LIMIT = LimitReached("the peer takes no more than 1 transactions in a session (MAILMAX)")


def left_out(work: OpenSession | Continue, *said: Reply | SessionError) -> Reported:
    """The report of a delivery in which some were not named."""
    outcomes = tuple(
        Outcome(to, verdict(what), what) if isinstance(what, Reply) else Outcome(to, Verdict.LATER, None, what)
        for to, what in zip(work.delivery.envelope.recipients, said, strict=True)
    )
    return Reported(work.session_id, work.delivery.delivery_id, report(work.delivery, outcomes, Stage.BODY_ENDED))


@pytest.mark.parametrize("served", [TAKEN, UNKNOWN])
def test_who_was_left_out_where_others_were_served_is_due_at_once_and_it_cost_no_attempt(served: Reply) -> None:
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", "three@far.example", age=3 * DAY)
    bench.tell(left_out(bench.effect(OpenSession), served, LIMIT, LIMIT))
    job = bench.order(Save).job
    assert (job.due_at, job.attempts) == (bench.now, 0)
    assert [left.address for left in job.recipients] == ["two@far.example", "three@far.example"]


def test_all_are_named_in_turn_before_anybody_is_tried_anew_and_that_is_one_attempt() -> None:
    """A peer takes one recipient in a session, and puts the first off for ever."""
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", "three@far.example")
    named = []
    for attempt, wait in ((1, 5 * MINUTE), (2, HOUR)):
        for left in (2, 1, 0):
            work = bench.effect(OpenSession)
            named.append(work.delivery.envelope.recipients[0].partition("@")[0])
            bench.tell(left_out(work, BUSY, LIMIT, LIMIT), SessionEnded(work.session_id, LIMIT))
            job = bench.order(Save).job
            at_once = (bench.now, attempt - 1)
            assert (job.due_at, job.attempts) == (at_once if left else (bench.now + wait, attempt))
            # Who was not named was told nothing; of the others nothing is forgotten.
            assert [to.last_words for to in job.recipients].count(str(BUSY)) == 3 - left
            bench.now = job.due_at
            bench.tell(MailAccepted(work.delivery.mail, (job,)))
    assert named == ["one", "two", "three"] * 2


def test_who_was_left_out_does_not_expire_before_his_turn_and_then_he_does() -> None:
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", age=3 * DAY)
    work = bench.effect(OpenSession)
    bench.tell(left_out(work, BUSY, LIMIT), SessionEnded(work.session_id, LIMIT))
    assert [failure.recipient for failure in bench.order(Bounce).failures] == ["one@far.example"]
    job = bench.order(Save).job
    assert [to.address for to in job.recipients] == ["two@far.example"]
    bench.tell(MailAccepted(work.delivery.mail, (job,)))
    bench.tell(left_out(bench.effect(OpenSession), BUSY))
    assert [failure.recipient for failure in bench.order(Bounce).failures] == ["two@far.example"]
    assert bench.order(Forget)


def test_where_the_peer_answered_for_nobody_who_was_left_out_waits_and_expires_as_all_others() -> None:
    lost = ConnectionLost("the peer closed the connection")
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", "three@north.example")
    bench.tell(left_out(bench.effect(OpenSession), lost, LIMIT, LIMIT))
    jobs = {order.job.domain: order.job for order in bench.durable(Save)}
    assert [to.address for to in jobs["far.example"].recipients] == ["two@far.example", "one@far.example"]
    # Of a job of which nobody was named no attempt is counted; it waits as long as after the first.
    assert [(job.due_at - START, job.attempts) for job in jobs.values()] == [(5 * MINUTE, 1), (5 * MINUTE, 0)]
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", age=3 * DAY)
    bench.tell(left_out(bench.effect(OpenSession), lost, LIMIT))
    assert [failure.recipient for failure in bench.order(Bounce).failures] == ["two@far.example", "one@far.example"]


def test_a_job_that_was_left_out_is_named_before_those_that_it_was_left_out_for() -> None:
    bench = Bench()
    bench.accept("one@far.example", "two@north.example")
    work = bench.effect(OpenSession)
    bench.tell(left_out(work, BUSY, LIMIT), SessionEnded(work.session_id, LIMIT))
    jobs = {order.job.domain: order.job for order in bench.durable(Save)}
    bench.now = jobs["far.example"].due_at
    both = (jobs["far.example"], jobs["north.example"])
    bench.tell(MailAccepted(work.delivery.mail, both))
    assert bench.effect(OpenSession).delivery.envelope.recipients == ("two@north.example", "one@far.example")


def test_a_job_that_was_left_out_as_a_whole_is_due_at_once_and_the_others_as_usual() -> None:
    bench = Bench()
    bench.accept("one@far.example", "two@far.example", "three@north.example", "four@east.example")
    bench.tell(left_out(bench.effect(OpenSession), TAKEN, BUSY, LIMIT, BUSY))
    jobs = {order.job.domain: order.job for order in bench.durable(Save)}
    assert {domain: (job.due_at - START, job.attempts) for domain, job in jobs.items()} == {
        "far.example": (5 * MINUTE, 1),
        "north.example": (0.0, 0),
        "east.example": (5 * MINUTE, 1),
    }


def test_a_session_that_has_brought_all_it_may_costs_the_next_mail_no_attempt() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("one@far.example")
    first = bench.effect(OpenSession)
    bench.accept("two@far.example")
    bench.tell(reported(first, TAKEN))
    work = bench.effect(Continue)
    bench.tell(failed(work, LIMIT, Stage.NOT_STARTED), SessionEnded(first.session_id, LIMIT))
    assert bench.order(Save).job == replace(work.delivery.jobs[0], attempts=0)
    assert bench.effect(OpenSession).delivery.jobs == work.delivery.jobs


@pytest.mark.parametrize("code", [421, 554])
def test_a_host_that_fails_as_a_whole_rests_and_all_its_mail_is_put_off(code: int) -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(5)))
    work = bench.effect(OpenSession)
    error = ServiceRefused("no service here", reply=Reply(code, ("no service here",)))
    bench.tell(SessionEnded(work.session_id, error))
    saved = [order.job for order in bench.durable(Save)]
    assert len(saved) == 5
    assert len(bench.orders.durable) == 5
    assert {job.attempts for job in saved} == {1}
    assert {job.due_at for job in saved} == {START + 5 * MINUTE}
    assert {job.recipients[0].last_words for job in saved} == {str(error)}
    assert not bench.work
    assert bench.relay.wake_at == START + 60.0


def test_the_rest_of_a_dead_host_grows_and_a_success_ends_it() -> None:
    bench = Bench(rest=10.0, longest_rest=30.0, sessions_per_next_hop=1)
    rests = []
    for _ in range(4):
        bench.accept("you@far.example")
        bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
        until = bench.relay.destinations[-1].resting_until
        assert until is not None
        rests.append(until - bench.now)
        bench.accept("other@far.example")
        assert not bench.work, "a host that rests is left alone"
        bench.now = until
        bench.tell(TimePassed())
    assert rests == [10.0, 20.0, 30.0, 30.0]
    bench.accept("you@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    bench.accept("you@far.example")
    work = bench.effect(Continue)
    bench.tell(reported(work, TAKEN), SessionEnded(work.session_id, None))
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    assert bench.relay.destinations[0].resting_until == bench.now + 10.0


def test_a_destination_shows_what_it_does_and_what_it_was_told() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(bench.mail("one@far.example", "two@far.example"), bench.mail("three@far.example"))
    work = bench.effect(OpenSession)
    (seen,) = bench.relay.destinations
    assert (seen.next_hop, seen.waiting, seen.on_their_way, seen.sessions) == (work.delivery.next_hop, 1, 1, 1)
    assert (seen.answered, seen.last_words, seen.resting_until) == (0, "", None)
    bench.tell(reported(work, TAKEN, TAKEN))
    (seen,) = bench.relay.destinations
    assert (seen.waiting, seen.on_their_way, seen.answered, seen.last_words) == (0, 1, 2, str(TAKEN))
    bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
    again = bench.effect(OpenSession)
    bench.tell(SessionEnded(again.session_id, ConnectFailed("no route")))
    (seen,) = bench.relay.destinations
    assert (seen.sessions, seen.answered, seen.last_words) == (0, 2, "no route")
    assert seen.resting_until == bench.now + 60.0


def test_while_it_is_not_known_whether_a_host_is_back_one_session_tries() -> None:
    bench = Bench(rest=10.0, sessions_per_next_hop=1)
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.now += 10.0
    bench.tell(TimePassed())
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(5)))
    assert len(bench.work) == 1


def test_mail_for_a_dead_host_expires_when_it_is_old_enough() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(bench.mail("old@far.example", age=3 * DAY), bench.mail("young@far.example"))
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    assert [failure.recipient for failure in bench.order(Bounce).failures] == ["old@far.example"]
    assert [order.job.recipients[0].address for order in bench.durable(Save)] == ["young@far.example"]


def test_a_further_session_refused_while_others_live_puts_nothing_off() -> None:
    bench = Bench(sessions_per_next_hop=2)
    bench.accept("one@far.example")
    first = bench.effect(OpenSession)
    bench.tell(reported(first, TAKEN))
    bench.tell(bench.mail("two@far.example"), bench.mail("three@far.example"))
    second = bench.effect(OpenSession)
    bench.tell(SessionEnded(second.session_id, ServiceRefused("too many sessions")))
    assert bench.order(Save).job.attempts == 0
    assert bench.order(Save).job.due_at <= START
    assert not bench.work
    assert all(seen.resting_until is None for seen in bench.relay.destinations)


def test_a_session_that_ends_without_a_word_before_its_first_mail_puts_it_off() -> None:
    bench = Bench()
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, None))
    assert bench.effect(Attempted).words == "the session ended before the mail was begun"
    assert bench.order(Save).job.due_at > bench.now


def test_a_destination_that_was_overrun_is_given_another_session_after_many_successes() -> None:
    bench = Bench(sessions_per_next_hop=2)
    bench.accept("first@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(40)))
    (kept,) = bench.effects(Continue)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ServiceRefused("too many sessions")))
    for _ in range(19):
        bench.tell(reported(kept, TAKEN))
        assert not bench.effects(OpenSession)
        (kept,) = bench.effects(Continue)
    bench.tell(reported(kept, TAKEN))
    assert len(bench.effects(OpenSession)) == 1


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_recipients_beyond_what_one_delivery_bears_are_a_further_delivery_of_the_same_mail() -> None:
    bench = Bench(sessions_per_next_hop=1, recipients_per_delivery=2)
    accepted = bench.mail("a@one.example", "b@two.example", "c@three.example")
    bench.tell(accepted)
    work = bench.effect(OpenSession)
    assert work.delivery.envelope.recipients == ("a@one.example", "b@two.example")
    bench.tell(reported(work, TAKEN))
    following = bench.effect(Continue)
    assert following.delivery.mail == accepted.mail
    assert following.delivery.envelope.recipients == ("c@three.example",)


def test_a_session_that_has_something_in_store_is_not_without_work() -> None:
    bench = Bench(sessions_per_next_hop=1, deliveries_ahead=2, idle_seconds=5.0)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(3)))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    second, third = bench.effects(Continue)
    bench.tell(reported(second, TAKEN))
    bench.now += 60.0
    bench.tell(TimePassed())
    assert not bench.effects(CloseSession)
    bench.tell(reported(third, TAKEN))
    assert bench.relay.wake_at == bench.now + 5.0


def test_a_session_that_has_had_its_mails_finishes_what_it_has_in_store() -> None:
    bench = Bench(sessions_per_next_hop=1, deliveries_ahead=2, mails_per_session=3)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(4)))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    second, third = bench.effects(Continue)
    bench.tell(reported(second, TAKEN))
    assert not bench.orders.effects[1:], "the fate, and nothing to do"
    bench.tell(reported(third, TAKEN))
    assert bench.effect(CloseSession).session_id == third.session_id


def test_a_clock_that_was_set_back_keeps_no_session_open_for_longer() -> None:
    bench = Bench(idle_seconds=5.0)
    bench.accept("you@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    bench.now = START - 300 * DAY
    bench.tell(TimePassed())
    assert bench.relay.wake_at == bench.now + 5.0


def test_an_open_session_is_used_again_before_another_is_opened() -> None:
    bench = Bench()
    bench.accept("one@far.example")
    work = bench.effect(OpenSession)
    bench.tell(reported(work, TAKEN), bench.mail("two@far.example"))
    assert bench.effect(Continue).session_id == work.session_id
    assert not bench.effects(OpenSession)


def test_a_session_carries_so_many_mails_and_no_more() -> None:
    bench = Bench(mails_per_session=2, sessions_per_next_hop=1)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(3)))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    work = bench.effect(Continue)
    bench.tell(reported(work, TAKEN))
    assert bench.effect(CloseSession).session_id == work.session_id
    assert not bench.work
    bench.tell(SessionEnded(work.session_id, None))
    assert bench.effect(OpenSession).session_id != work.session_id


def test_a_session_without_work_is_closed_in_time() -> None:
    bench = Bench(idle_seconds=5.0)
    bench.accept("you@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert bench.relay.wake_at == START + 5.0
    bench.now += 4.0
    bench.tell(TimePassed())
    assert not bench.effects(CloseSession)
    bench.now += 1.0
    bench.tell(TimePassed())
    bench.effect(CloseSession)
    bench.tell(TimePassed())
    assert not bench.orders.effects
    assert bench.relay.wake_at is None


def test_sessions_are_limited_for_one_next_hop_and_in_total() -> None:
    bench = Bench(OwnHosts(), sessions=5, sessions_per_next_hop=2)
    bench.tell(*(bench.mail(f"user{number}@d{number % 4}.example") for number in range(40)))
    hosts = [work.delivery.next_hop.host for work in bench.work]
    assert len(hosts) == 5
    assert max(hosts.count(host) for host in hosts) == 2


def test_the_oldest_goes_first() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(5)))
    order: list[str] = []
    while bench.work:
        (work,) = bench.work
        order += work.delivery.envelope.recipients
        bench.tell(reported(work, TAKEN))
    assert order == [f"user{number}@far.example" for number in range(5)]


def test_a_parked_session_makes_room_for_a_host_that_has_none() -> None:
    bench = Bench(OwnHosts(), sessions=1)
    bench.accept("you@one.example")
    work = bench.effect(OpenSession)
    bench.tell(reported(work, TAKEN))
    bench.accept("you@two.example")
    assert bench.effect(CloseSession).session_id == work.session_id
    bench.tell(SessionEnded(work.session_id, None))
    assert bench.effect(OpenSession).delivery.next_hop.host == "mx.two.example"


def test_a_busy_session_makes_room_for_a_host_that_has_none() -> None:
    bench = Bench(OwnHosts(), sessions=1)
    bench.tell(*(bench.mail(f"user{number}@one.example") for number in range(200)), bench.mail("you@two.example"))
    served = []
    while bench.work:
        (work,) = bench.work
        served.append(work.delivery.next_hop.host)
        bench.tell(reported(work, TAKEN))
        if bench.effects(CloseSession):
            bench.tell(SessionEnded(work.session_id, None))
    assert len(served) == 201
    assert served.index("mx.two.example") < 100


# --- loading and the window -------------------------------------------------------------------------------------------


def stored(bench: Bench, *recipients: str) -> tuple[StoredMail, Job]:
    accepted = bench.mail(*recipients)
    return accepted.mail, accepted.jobs[0]


def loaded(domain: str, jobs: Iterable[tuple[StoredMail, Job]], *, complete: bool) -> JobsLoaded:
    pairs = list(jobs)
    return JobsLoaded(domain, tuple(mail for mail, _ in pairs), tuple(job for _, job in pairs), complete)


def test_one_load_of_a_domain_is_on_its_way_at_a_time() -> None:
    bench = Bench()
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert bench.effect(Load).domain == "far.example"
    bench.tell(TimePassed())
    assert not bench.effects(Load)
    bench.tell(loaded("far.example", [stored(bench, "you@far.example")], complete=True))
    assert not bench.effects(Load)
    assert len(bench.work) == 1


def test_jobs_that_are_held_already_are_not_taken_twice() -> None:
    bench = Bench(sessions_per_next_hop=1)
    accepted = [bench.mail(f"user{number}@far.example") for number in range(3)]
    bench.tell(*accepted, SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    waiting = [(fact.mail, fact.jobs[0]) for fact in accepted[1:]]
    bench.tell(loaded("far.example", waiting, complete=True))
    assert bench.relay.jobs_in_memory == 3


@pytest.mark.parametrize("waiting", [1, 5])
def test_a_full_window_waits_without_asking_to_be_woken(waiting: int) -> None:
    bench = Bench(window=10, window_per_next_hop=10, sessions_per_next_hop=1)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(10 + waiting)), SpoolChanged())
    assert bench.relay.jobs_in_memory == 10
    assert not bench.effects(Load)
    assert bench.relay.wake_at is None or bench.relay.wake_at > bench.now


def test_what_did_not_fit_the_window_is_asked_for_when_there_is_room() -> None:
    bench = Bench(window=2, window_per_next_hop=2, sessions_per_next_hop=1)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(3)))
    loads = bench.effects(Load)
    while bench.work:
        bench.tell(reported(bench.work[0], TAKEN))
        loads += bench.effects(Load)
    assert [load.domain for load in loads] == ["far.example"]


def test_no_more_is_asked_for_than_the_next_hop_has_room_for() -> None:
    bench = Bench(window_per_next_hop=8, sessions_per_next_hop=1)
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("one.example", "two.example"), True, None))
    assert sum(load.limit for load in bench.effects(Load)) <= 8


def test_a_job_beyond_every_schedule_counts_as_due() -> None:
    bench = Bench()
    bench.tell(SpoolChanged())
    look = bench.effect(LoadDomains)
    # A job that was saved just now is not beyond the horizon; one that a clock since set back has saved is.
    assert START + HOUR < look.horizon < START + HOUR + MINUTE
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert bench.effect(Load).horizon == look.horizon


def test_the_next_look_is_when_the_next_job_falls_due() -> None:
    bench = Bench()
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded((), True, START + 100.0))
    assert bench.relay.wake_at == START + 100.0
    bench.now = START + 100.0
    bench.tell(TimePassed())
    assert bench.effect(LoadDomains).until == bench.now


def test_a_clock_that_was_set_back_delays_no_look_beyond_the_schedule() -> None:
    bench = Bench()
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded((), True, START + HOUR))
    bench.now = START - 300 * DAY
    bench.tell(TimePassed())
    assert bench.effects(LoadDomains)


def test_a_clock_that_was_set_back_ends_a_rest() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.now = START - 300 * DAY
    bench.tell(TimePassed())
    assert all(seen.resting_until is None for seen in bench.relay.destinations)


# --- the end, and repetition ------------------------------------------------------------------------------------------


def test_shutting_down_begins_nothing_and_closes_every_session() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(bench.mail("one@far.example"), bench.mail("two@far.example"))
    work = bench.effect(OpenSession)
    bench.tell(ShutDown(), bench.mail("three@far.example"))
    assert bench.effect(CloseSession).session_id == work.session_id
    assert not bench.orders.durable, "jobs that wait are in the spool as they are"
    before = bench.relay.idle
    bench.tell(SessionEnded(work.session_id, SessionAborted("shutting down")))
    assert bench.order(Save).job == replace(work.delivery.jobs[0], attempts=0)
    assert not bench.work
    assert (before, bench.relay.idle) == (False, True)
    assert bench.relay.jobs_in_memory == 0
    assert bench.relay.wake_at is None


@pytest.mark.parametrize(
    ("stopping", "in_doubt", "at_once"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_what_the_shutdown_broke_off_is_due_at_once_unless_it_is_in_doubt(
    stopping: bool, in_doubt: bool, at_once: bool
) -> None:
    bench = Bench()
    bench.accept("you@far.example")
    work = bench.effect(OpenSession)
    if stopping:
        bench.tell(ShutDown())
    bench.tell(failed(work, SessionAborted("closed here"), Stage.BODY_BEGUN, in_doubt=in_doubt))
    assert (bench.order(Save).job.due_at <= bench.now) is at_once


def test_a_delivery_that_finishes_during_the_shutdown_counts() -> None:
    bench = Bench()
    bench.accept("one@far.example")
    work = bench.effect(OpenSession)
    bench.tell(ShutDown())
    bench.tell(reported(work, TAKEN), SessionEnded(work.session_id, None))
    assert [type(order) for order in bench.orders.durable] == [Forget]
    assert bench.relay.idle


def test_facts_that_are_repeated_are_ignored() -> None:
    bench = Bench()
    bench.accept("one@far.example")
    work = bench.effect(OpenSession)
    report = reported(work, TAKEN)
    bench.tell(report)
    assert not bench.tell(report).durable
    bench.tell(SessionEnded(work.session_id, None))
    assert bench.tell(SessionEnded(work.session_id, None), report) == Orders()


def test_a_report_of_another_delivery_is_not_taken_for_that_on_its_way() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(bench.mail("one@far.example"), bench.mail("two@far.example"))
    first = reported(bench.effect(OpenSession), TAKEN)
    bench.tell(first)
    second = bench.effect(Continue)
    assert bench.tell(first) == Orders()
    bench.tell(reported(second, BUSY, stage=Stage.STARTED))
    assert bench.order(Save).job.recipients[0].address == "two@far.example"


@given(st.lists(st.integers(1, 4), max_size=12), st.lists(st.sampled_from([TAKEN, BUSY, UNKNOWN]), min_size=12))
def test_every_recipient_meets_one_fate_or_stays_pending(sizes: list[int], replies: list[Reply]) -> None:
    """Whatever is reported, each recipient is settled once, or saved as pending: none is lost, none is kept twice."""
    bench = Bench(sessions_per_next_hop=1)
    facts = [
        bench.mail(*(f"user{index}.{number}@d{number % 2}.example" for number in range(size)))
        for index, size in enumerate(sizes)
    ]
    expected = sorted(r.address for fact in facts for job in fact.jobs for r in job.recipients)
    bench.tell(*facts)
    seen: list[str] = []
    while bench.work:
        (work,) = bench.work
        count = len(work.delivery.envelope.recipients)
        bench.tell(reported(work, *(replies[(len(seen) + n) % 12] for n in range(count)), stage=Stage.STARTED))
        seen += [fate.recipient for fate in bench.effects(Fate)]
        seen += [left.address for order in bench.durable(Save) for left in order.job.recipients]
    assert sorted(seen) == expected
    assert bench.relay.jobs_in_memory == 0


def test_sessions_refused_before_the_first_verdict_put_nothing_off() -> None:
    bench = Bench(sessions_per_next_hop=5)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(50)))
    first, *others = bench.work
    for work in others:
        bench.tell(SessionEnded(work.session_id, ServiceRefused("too many connections")))
        assert {order.job.attempts for order in bench.durable(Save)} == {0}
        assert not bench.work
    bench.tell(reported(first, TAKEN))
    assert bench.effect(Continue).session_id == first.session_id
    assert bench.relay.jobs_in_memory == 49


def test_when_the_last_of_them_fails_too_the_host_is_dead() -> None:
    bench = Bench(sessions_per_next_hop=3)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(9)))
    opened = bench.work
    for work in opened[:-1]:
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
        assert not bench.work
    bench.tell(SessionEnded(opened[-1].session_id, ConnectFailed("no route")))
    assert {(order.job.attempts, order.job.due_at > bench.now) for order in bench.durable(Save)} == {(1, True)}
    assert len(bench.durable(Save)) == 9


def test_a_load_made_before_its_jobs_were_settled_brings_none_of_them_back() -> None:
    bench = Bench(sessions_per_next_hop=2)
    pairs = [stored(bench, f"user{number}@far.example") for number in range(3)]
    old = [(replace(mail, accepted_at=START - 9 * DAY), job) for mail, job in pairs]
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    bench.tell(loaded("far.example", old, complete=False))
    first, second = bench.work
    bench.tell(
        SessionEnded(first.session_id, ServiceRefused("421")),
        reported(second, TAKEN),
        loaded("far.example", old[2:], complete=True),
    )
    gone = {order.job.job_id for order in bench.durable(Forget)}
    assert not gone & {order.job.job_id for order in bench.durable(Claim)}


def test_an_answer_that_nobody_asked_for_is_ignored() -> None:
    bench = Bench()
    assert bench.tell(loaded("far.example", [stored(bench, "you@far.example")], complete=True)) == Orders()
