"""The relay machine when things go as badly as they can: what hangs, repeats, comes too late or all at once.

What lives here: single rules that keep mail from being stuck, lost or sent twice then. What does not: long lives
(``simulation``).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from smtpcore import ConnectFailed, ServiceRefused, SessionAborted, SessionError, Stage
from smtpcore.relay import (
    Action,
    AnswerKind,
    Attempted,
    Bounce,
    CloseSession,
    Commanded,
    DomainResolved,
    DomainsLoaded,
    Fate,
    FateKind,
    FixedHosts,
    Forget,
    Job,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    Mx,
    MxAnswer,
    OpenSession,
    Operate,
    Orders,
    Resolve,
    RoutingTable,
    Save,
    SessionEnded,
    ShutDown,
    SmartHost,
    SpoolChanged,
    TimePassed,
)

from .relay_bench import BUSY, DAY, HOUR, MINUTE, SCHEDULE, START, TAKEN, UNKNOWN, Bench, failed, reported

UNFORESEEN = SessionAborted("unforeseen: ZeroDivisionError()")


def fail_for(bench: Bench, seconds: float, error: SessionError) -> Job:
    """A destination fails once and again for a while; returns the job of the one mail for it as it was saved."""
    accepted = bench.mail("you@far.example")
    bench.tell(accepted)
    job, end = accepted.jobs[0], bench.now + seconds
    while True:
        bench.tell(SessionEnded(bench.effect(OpenSession).session_id, error))
        job = bench.order(Save).job
        if bench.now >= end:
            return job
        bench.now = max(job.due_at, bench.relay.destinations[0].resting_until or 0.0)
        bench.tell(TimePassed())
        bench.tell(DomainsLoaded((), True, None))
        bench.tell(MailAccepted(accepted.mail, (job,)))


# --- attempts -------------------------------------------------------------------------------------------------------


def test_what_fails_here_again_and_again_is_put_off_like_all_else() -> None:
    bench = Bench()
    job = fail_for(bench, 2 * HOUR, UNFORESEEN)
    assert job.due_at >= bench.now + HOUR
    # Nothing is due now, so that nothing is loaded only to be put off again.
    assert not bench.effects(LoadDomains)
    assert bench.relay.wake_at is not None
    assert bench.relay.wake_at > bench.now


def test_what_is_broken_off_at_the_end_does_not_expire() -> None:
    bench = Bench()
    bench.accept("you@far.example", age=3 * DAY)
    work = bench.effect(OpenSession)
    bench.tell(ShutDown())
    bench.tell(failed(work, SessionAborted("the relay is shutting down"), Stage.STARTED))
    assert bench.order(Save).job.due_at == bench.now
    assert not bench.durable(Bounce)


def test_an_answer_at_the_end_counts_however_it_ends() -> None:
    bench = Bench()
    bench.accept("you@far.example", age=3 * DAY)
    work = bench.effect(OpenSession)
    bench.tell(ShutDown())
    bench.tell(reported(work, BUSY, stage=Stage.STARTED))
    assert bench.effect(Fate).kind is FateKind.EXPIRED


def test_sessions_that_fail_together_are_one_failure() -> None:
    bench = Bench(sessions_per_next_hop=3, rest=MINUTE)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(3)))
    opened = bench.work
    error = ServiceRefused("421")
    bench.tell(*(failed(work, error, Stage.NOT_STARTED) for work in opened))
    bench.tell(*(SessionEnded(work.session_id, error) for work in opened))
    assert bench.relay.destinations[0].resting_until == bench.now + MINUTE
    assert len(bench.durable(Save)) == 3


def test_after_sessions_that_failed_together_the_relay_knows_what_is_left_to_do() -> None:
    bench = Bench(sessions_per_next_hop=2, window=4, window_per_next_hop=4)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(6)))
    error = ServiceRefused("421")
    opened = bench.work
    bench.tell(*(failed(work, error, Stage.NOT_STARTED) for work in opened))
    bench.tell(*(SessionEnded(work.session_id, error) for work in opened))
    bench.now += MINUTE
    bench.tell(TimePassed())
    assert bench.effects(Load)
    assert not bench.relay.drained(bench.now)
    accepted = bench.mail("late@far.example")
    bench.tell(JobsLoaded("far.example", (accepted.mail,), accepted.jobs, False))
    assert not bench.relay.drained(bench.now)


def test_a_schedule_that_never_gives_up_warns_all_the_same() -> None:
    bench = Bench(schedule=replace(SCHEDULE, give_up_after=math.inf))
    bench.accept("you@far.example", age=10 * DAY)
    bench.tell(reported(bench.effect(OpenSession), BUSY, stage=Stage.STARTED))
    assert bench.order(Save).job.recipients[0].warned


# --- lookups that are never answered --------------------------------------------------------------------------------


def unanswered(**changes: object) -> tuple[Bench, MailAccepted]:
    """A machine whose lookup has not been answered in a quarter of an hour."""
    bench = Bench(Mx(), **changes)
    accepted = bench.mail("you@far.example", age=3 * DAY)
    bench.tell(accepted)
    assert bench.effect(Resolve).domain == "far.example"
    assert bench.relay.wake_at is not None
    assert START + MINUTE < bench.relay.wake_at <= START + HOUR
    return bench, accepted


def test_mail_does_not_wait_for_ever_for_a_resolver_that_has_hung() -> None:
    bench, accepted = unanswered()
    bench.now = bench.relay.wake_at or 0.0
    bench.tell(TimePassed())
    assert bench.effect(Load).domain == "far.example"
    bench.tell(JobsLoaded("far.example", (accepted.mail,), accepted.jobs, True))
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, bench.effect(Fate).kind) == ("4.4.7", FateKind.EXPIRED)
    assert "does not answer" in failure.reason
    # It is asked again, and what it then says counts.
    bench.now += HOUR
    bench.accept("you@far.example")
    assert bench.effect(Resolve).domain == "far.example"


def test_a_jump_of_the_clock_is_no_time_to_answer_in() -> None:
    bench, _ = unanswered()
    bench.now += 30 * DAY
    bench.tell(TimePassed())
    assert not bench.effects(Load)
    assert bench.relay.wake_at is not None
    assert bench.relay.wake_at > bench.now


def test_a_clock_that_was_set_back_waits_no_longer_for_an_answer() -> None:
    bench, _ = unanswered()
    bench.now -= 30 * DAY
    bench.tell(TimePassed())
    assert bench.relay.wake_at is not None
    assert bench.relay.wake_at <= bench.now + HOUR


# --- dead destinations ----------------------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_does_not_make_a_dead_host_look_fresh() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    waiting = bench.mail("more@far.example")
    bench.tell(waiting)
    bench.now -= 300 * DAY
    bench.tell(TimePassed())
    assert bench.effect(Load).domain == "far.example"
    bench.tell(DomainsLoaded((), True, None))
    bench.now += HOUR
    bench.tell(JobsLoaded("far.example", (waiting.mail,), waiting.jobs, True))
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    # It has failed for an hour by now: what falls due is put off with it.
    other = bench.mail("other@far.example", age=3 * DAY)
    bench.tell(other)
    assert bench.effect(Load).domain == "far.example"
    bench.tell(JobsLoaded("far.example", (other.mail,), other.jobs, True))
    assert bench.effect(Fate).kind is FateKind.EXPIRED


def test_a_fallback_is_tried_however_many_hosts_are_dead() -> None:
    bench = Bench(Mx(fallback=(SmartHost("last.example"), SmartHost("very-last.example"))), hosts_per_attempt=2)
    accepted = bench.mail("you@[192.0.2.1]")
    bench.tell(accepted)
    assert bench.effect(OpenSession).host.name == "192.0.2.1"
    tried = []
    while bench.effects(OpenSession):
        work = bench.effect(OpenSession)
        tried.append(work.host.name)
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
    assert tried == ["192.0.2.1", "last.example", "very-last.example"]
    assert bench.effect(Attempted).attempts == 1


@pytest.mark.parametrize(
    "hosts",
    [
        FixedHosts(tuple(SmartHost(f"h{number}.example") for number in range(9))),
        FixedHosts((SmartHost("h0.example"), SmartHost("h1.example"))),
    ],
)
def test_a_fallback_is_tried_however_long_the_list_of_fixed_hosts_is(hosts: FixedHosts) -> None:
    table = RoutingTable({"far.example": hosts}, fallback=(SmartHost("last.example"), SmartHost("very-last.example")))
    bench = Bench(table, hosts_per_attempt=2)
    bench.accept("you@far.example")
    tried = []
    while bench.effects(OpenSession):
        work = bench.effect(OpenSession)
        tried.append(work.host.name)
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
    assert tried == ["h0.example", "h1.example", "last.example", "very-last.example"]
    assert bench.effect(Attempted).attempts == 1


# --- operators ------------------------------------------------------------------------------------------------------


def test_who_holds_what_is_being_removed_comes_too_late() -> None:
    bench = Bench()
    accepted = bench.mail("you@far.example")
    bench.tell(accepted)
    work, wanted = bench.effect(OpenSession), (accepted.mail.mail_id,)
    bench.tell(Commanded(Action.REMOVE, wanted))
    bench.tell(Commanded(Action.HOLD, wanted))
    bench.tell(reported(work, UNKNOWN))
    assert [type(order) for order in bench.orders.durable] == [Forget]
    assert bench.effect(Fate).kind is FateKind.REMOVED


@pytest.mark.parametrize("action", list(Action))
def test_a_wish_during_the_shutdown_is_recorded_and_begins_nothing(action: Action) -> None:
    bench = Bench(sessions_per_next_hop=1)
    first, second = bench.mail("one@far.example"), bench.mail("two@far.example")
    bench.tell(first, second)
    work = bench.effect(OpenSession)
    bench.tell(ShutDown())
    bench.tell(Commanded(action, (first.mail.mail_id, second.mail.mail_id), ("far.example",)))
    assert bench.orders == Orders((Operate(action, (first.mail.mail_id, second.mail.mail_id)),), ())
    assert bench.relay.wake_at is None
    bench.tell(SessionEnded(work.session_id, SessionAborted("the relay is shutting down")))
    assert [type(order) for order in bench.orders.durable] == [Forget if action is Action.REMOVE else Save]
    assert bench.relay.idle


def test_a_relay_that_is_shutting_down_does_not_ask_to_be_woken() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("you@far.example")
    bench.tell(ShutDown())
    bench.effect(CloseSession)
    bench.tell(SpoolChanged(), bench.mail("other@far.example"), TimePassed())
    assert bench.orders == Orders()
    assert bench.relay.wake_at is None


def test_an_answer_from_the_dns_that_comes_during_the_shutdown_begins_nothing() -> None:
    bench, _ = unanswered()
    bench.tell(ShutDown())
    assert bench.tell(DomainResolved("far.example", MxAnswer(AnswerKind.FAILURE), (), 1.0)) == Orders()
    assert bench.relay.wake_at is None


def test_what_is_released_while_it_is_on_its_way_goes_on_as_if_nothing_had_been() -> None:
    bench = Bench(sessions_per_next_hop=1)
    first, second = bench.mail("one@far.example"), bench.mail("two@far.example")
    bench.tell(first, second)
    work, wanted = bench.effect(OpenSession), (first.mail.mail_id,)
    bench.tell(Commanded(Action.HOLD, wanted))
    bench.tell(Commanded(Action.RELEASE, wanted))
    bench.tell(reported(work, TAKEN))
    assert bench.order(Forget).job.mail_id == first.mail.mail_id
    assert bench.effect(Fate).kind is FateKind.DELIVERED
