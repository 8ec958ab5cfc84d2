"""The relay machine, one rule at a time.

What lives here: small scripts of facts and the orders they must bring. What does not: long lives (``simulation``).
"""

from __future__ import annotations

import pytest
from machine import START, accepted, job, machine, of_kind, report, settings, stored

from smtpcore import ConnectFailed, ServiceRefused, SessionAborted, Stage
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
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    NextHop,
    OpenSession,
    Relay,
    Reported,
    Save,
    SessionEnded,
    ShutDown,
    SmartHost,
    SpoolChanged,
    TimePassed,
)

HOUR = 3600.0


def opened(relay: Relay, *facts, now: float = START):
    """Hand in facts and return the one session that is opened for them."""
    (order,) = of_kind(relay.handle(facts, now), OpenSession)
    return order


def test_the_first_thing_is_to_ask_what_is_due() -> None:
    relay = machine()
    assert relay.wake_at == 0.0
    orders = relay.handle([], START)
    (look,) = orders.effects
    assert isinstance(look, LoadDomains)
    assert look.until == START
    assert look.known == ()
    assert not orders.durable


def test_a_domain_that_is_due_is_loaded_and_delivered() -> None:
    relay = machine()
    relay.handle([], START)
    (load,) = of_kind(relay.handle([DomainsLoaded(("a.example",), True, None)], START), Load)
    assert load.domain == "a.example"
    loaded = JobsLoaded("a.example", (stored(7),), (job(3, 7, "u@a.example", attempts=2),), True)
    orders = relay.handle([loaded], START)
    (claim,) = of_kind(orders, Claim)
    assert claim.job.attempts == 3
    (order,) = of_kind(orders, OpenSession)
    assert order.delivery.mail.mail_id == 7
    assert order.delivery.next_hop == NextHop("mx.a.example", 25)


def test_an_attempt_is_claimed_in_the_batch_that_hands_it_over() -> None:
    relay = machine()
    orders = relay.handle([accepted(1, "u@a.example")], START)
    assert [type(order) for order in orders.durable] == [Claim]
    assert len(of_kind(orders, OpenSession)) == 1


def test_success_forgets_the_job_and_tells_the_fate() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example", "v@a.example"))
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 250))], START)
    assert len(of_kind(orders, Forget)) == 1
    assert [fate.kind for fate in of_kind(orders, Fate)] == [FateKind.DELIVERED] * 2
    assert relay.jobs_in_memory == 0


def test_what_is_refused_for_good_is_bounced_before_it_is_forgotten() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example", "v@a.example"))
    said = report(order.delivery, 250, 550)
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, said)], START)
    kinds = [type(durable) for durable in orders.durable]
    assert kinds == [Bounce, Forget]
    (bounce,) = of_kind(orders, Bounce)
    assert [failure.recipient for failure in bounce.failures] == ["v@a.example"]
    assert bounce.failures[0].diagnostic == "550 in so many words"


def test_what_is_deferred_keeps_only_who_is_left() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example", "v@a.example"))
    said = report(order.delivery, 250, 450)
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, said)], START)
    (save,) = of_kind(orders, Save)
    assert [recipient.address for recipient in save.job.recipients] == ["v@a.example"]
    assert save.job.recipients[0].last_words == "450 in so many words"
    assert save.job.due_at == START + 300
    (attempt,) = of_kind(orders, Attempted)
    assert attempt.attempts == 1


def test_a_null_reverse_path_is_never_bounced_to() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example", reverse_path=""))
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 550))], START)
    assert not of_kind(orders, Bounce)
    (fate,) = of_kind(orders, Fate)
    assert fate.kind is FateKind.DISCARDED
    assert of_kind(orders, Forget)


def test_age_is_judged_only_when_an_attempt_has_failed() -> None:
    relay = machine()
    late = START + 30 * 24 * HOUR
    order = opened(relay, accepted(1, "u@a.example"), now=late)
    said = report(order.delivery, 450)
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, said)], late)
    (bounce,) = of_kind(orders, Bounce)
    assert bounce.failures[0].status == "4.4.7"
    assert [fate.kind for fate in of_kind(orders, Fate)] == [FateKind.EXPIRED]


def test_a_delay_is_told_once() -> None:
    relay = machine()
    late = START + 5 * HOUR
    order = opened(relay, accepted(1, "u@a.example"), now=late)
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 450))], late)
    (warning,) = of_kind(orders, DelayWarning)
    assert warning.retry_until == START + 5 * 24 * HOUR
    (save,) = of_kind(orders, Save)
    assert save.job.recipients[0].warned
    # The job comes back with the note, and nobody is told again.
    again = relay.handle([MailAccepted(stored(1), (save.job,))], late + HOUR)
    (next_order,) = of_kind(again, Continue) or of_kind(again, OpenSession)
    said = Reported(next_order.session_id, next_order.delivery.delivery_id, report(next_order.delivery, 450))
    assert not of_kind(relay.handle([said], late + HOUR), DelayWarning)


def test_a_session_is_used_again_and_closed_when_idle() -> None:
    relay = machine(sessions_per_next_hop=1, idle_seconds=5.0)
    order = opened(relay, accepted(1, "u@a.example"), accepted(2, "v@a.example"))
    said = Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 250))
    (more,) = of_kind(relay.handle([said], START), Continue)
    assert more.session_id == order.session_id
    said = Reported(more.session_id, more.delivery.delivery_id, report(more.delivery, 250))
    assert not of_kind(relay.handle([said], START + 1), CloseSession)
    assert relay.wake_at == START + 6
    assert of_kind(relay.handle([TimePassed()], START + 6), CloseSession) == [CloseSession(order.session_id)]
    assert not relay.idle
    relay.handle([SessionEnded(order.session_id, None)], START + 6)
    assert relay.idle


def test_a_session_ends_after_its_share_of_mails() -> None:
    relay = machine(sessions_per_next_hop=1, mails_per_session=1)
    order = opened(relay, accepted(1, "u@a.example"), accepted(2, "v@a.example"))
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 250))], START)
    assert of_kind(orders, CloseSession)
    assert not of_kind(orders, Continue)
    orders = relay.handle([SessionEnded(order.session_id, None)], START)
    assert len(of_kind(orders, OpenSession)) == 1


def test_limits_on_sessions_hold() -> None:
    relay = machine(sessions=3, sessions_per_next_hop=2)
    facts = [accepted(n, f"u{n}@{'ab'[n % 2]}.example") for n in range(1, 11)]
    assert len(of_kind(relay.handle(facts, START), OpenSession)) == 3


def test_jobs_of_one_mail_to_one_next_hop_go_together() -> None:
    relay = Relay(settings(), SmartHost("hub.example", 25))
    jobs = (job(1, 1, "u@a.example"), job(2, 1, "v@b.example"), job(3, 1, "w@c.example"))
    order = opened(relay, MailAccepted(stored(1), jobs))
    assert order.delivery.envelope.recipients == ("u@a.example", "v@b.example", "w@c.example")


def test_a_delivery_bears_only_so_many_recipients() -> None:
    relay = Relay(settings(recipients_per_delivery=2), SmartHost("hub.example", 25))
    jobs = (job(1, 1, "u@a.example"), job(2, 1, "v@b.example"), job(3, 1, "w@c.example"))
    orders = of_kind(relay.handle([MailAccepted(stored(1), jobs)], START), OpenSession)
    assert sorted(len(order.delivery.envelope.recipients) for order in orders) == [1, 2]


def test_a_host_that_cannot_be_reached_puts_off_all_that_waits_for_it() -> None:
    relay = machine(sessions_per_next_hop=1, rest=60.0)
    order = opened(relay, accepted(1, "u@a.example"), accepted(2, "v@a.example"))
    orders = relay.handle([SessionEnded(order.session_id, ConnectFailed("no route"))], START)
    saves = of_kind(orders, Save)
    assert sorted((save.job.job_id, save.job.attempts) for save in saves) == [(1, 1), (2, 1)]
    assert all(save.job.due_at > START and "no route" in save.job.recipients[0].last_words for save in saves)
    assert not of_kind(orders, OpenSession)
    # What is accepted meanwhile waits until the host has rested.
    assert not of_kind(relay.handle([accepted(3, "w@a.example")], START + 1), OpenSession)


def test_a_refused_session_says_nothing_of_the_mail() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example"))
    error = ServiceRefused("554 no service")
    said = report(order.delivery, 450, stage=Stage.NOT_STARTED, error=error)
    facts = [Reported(order.session_id, order.delivery.delivery_id, said), SessionEnded(order.session_id, error)]
    orders = relay.handle(facts, START)
    assert not of_kind(orders, Bounce)
    (save,) = of_kind(orders, Save)
    assert save.job.attempts == 1


def test_rests_grow_with_failures() -> None:
    relay = machine(rest=60.0, longest_rest=100.0)
    now = START
    rests = []
    for number in range(1, 4):
        order = opened(relay, accepted(number, "u@a.example"), now=now)
        relay.handle([SessionEnded(order.session_id, ConnectFailed("no"))], now)
        ((_, _, _, resting_until),) = relay.destinations
        rests.append(resting_until - now)
        now = resting_until
        relay.handle([TimePassed()], now)
    assert rests == [60.0, 100.0, 100.0]


def test_a_mail_that_was_not_begun_on_a_proven_session_costs_no_attempt() -> None:
    relay = machine(sessions_per_next_hop=1)
    order = opened(relay, accepted(1, "u@a.example"), accepted(2, "v@a.example"))
    said = Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 250))
    (more,) = of_kind(relay.handle([said], START), Continue)
    orders = relay.handle([SessionEnded(more.session_id, ServiceRefused("421 bye"))], START)
    (save,) = of_kind(orders, Save)
    (claim,) = of_kind(orders, Claim)
    assert (save.job.attempts, claim.job.attempts) == (0, 1)
    assert orders.durable.index(save) < orders.durable.index(claim)
    assert len(of_kind(orders, OpenSession)) == 1


def test_a_host_that_refuses_further_sessions_is_asked_for_fewer() -> None:
    relay = machine(sessions_per_next_hop=3)
    first = of_kind(relay.handle([accepted(n, f"u{n}@a.example") for n in range(1, 9)], START), OpenSession)
    assert len(first) == 3
    said = Reported(first[0].session_id, first[0].delivery.delivery_id, report(first[0].delivery, 250))
    relay.handle([said], START)
    orders = relay.handle([SessionEnded(first[1].session_id, ServiceRefused("421 too many"))], START)
    # The mail is not blamed, the host does not rest, and no further session is opened in its place.
    assert [save.job.attempts for save in of_kind(orders, Save)] == [0]
    assert not of_kind(orders, OpenSession)
    assert relay.destinations[0][3] is None


def test_after_a_failure_one_session_goes_ahead() -> None:
    relay = machine(sessions_per_next_hop=3, rest=60.0)
    order = opened(relay, accepted(1, "u@a.example"))
    relay.handle([SessionEnded(order.session_id, ConnectFailed("no"))], START)
    later = START + 61
    relay.handle([TimePassed()], later)
    probe = of_kind(relay.handle([accepted(n, f"u{n}@a.example") for n in range(2, 9)], later), OpenSession)
    assert len(probe) == 1
    said = Reported(probe[0].session_id, probe[0].delivery.delivery_id, report(probe[0].delivery, 250))
    assert len(of_kind(relay.handle([said], later), OpenSession)) == 2


def test_facts_that_come_twice_are_ignored() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example"))
    said = Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 250))
    relay.handle([said], START)
    again = relay.handle([said, SessionEnded(99, None), Reported(99, 1, report(order.delivery, 250))], START)
    assert not again.durable
    assert not relay.handle([SessionEnded(order.session_id, None)] * 2, START).durable


def test_a_job_that_is_held_is_not_taken_twice() -> None:
    relay = machine()
    opened(relay, accepted(1, "u@a.example"))
    assert not relay.handle([accepted(1, "u@a.example")], START).durable


def test_shutting_down_begins_nothing_and_closes_everything() -> None:
    relay = machine(sessions_per_next_hop=1)
    order = opened(relay, accepted(1, "u@a.example"), accepted(2, "v@a.example"))
    orders = relay.handle([ShutDown()], START)
    assert of_kind(orders, CloseSession) == [CloseSession(order.session_id)]
    orders = relay.handle([accepted(3, "w@a.example"), SpoolChanged()], START)
    assert not of_kind(orders, OpenSession)
    error = SessionAborted("stopping")
    said = report(order.delivery, 450, stage=Stage.NOT_STARTED, error=error)
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, said)], START)
    (save,) = of_kind(orders, Save)
    assert (save.job.attempts, save.job.due_at) == (0, START)
    relay.handle([SessionEnded(order.session_id, error)], START)
    assert relay.idle


def test_what_we_broke_off_ourselves_is_due_at_once() -> None:
    relay = machine()
    order = opened(relay, accepted(1, "u@a.example"))
    relay.handle([ShutDown()], START)
    said = report(order.delivery, 450, stage=Stage.BODY_BEGUN, error=SessionAborted("stopping"))
    orders = relay.handle([Reported(order.session_id, order.delivery.delivery_id, said)], START + 1)
    (save,) = of_kind(orders, Save)
    assert save.job.due_at == START + 1


def test_drained_means_that_nothing_due_is_left() -> None:
    relay = machine()
    assert not relay.drained(START)
    relay.handle([], START)
    relay.handle([DomainsLoaded((), True, START + 100)], START)
    assert relay.drained(START)
    assert relay.wake_at == START + 100
    order = opened(relay, accepted(1, "u@a.example"))
    assert not relay.drained(START)
    relay.handle([Reported(order.session_id, order.delivery.delivery_id, report(order.delivery, 450))], START)
    assert relay.drained(START)


def test_more_due_domains_than_fit_one_answer_are_asked_for_again() -> None:
    relay = machine()
    relay.handle([], START)
    orders = relay.handle([DomainsLoaded(("a.example", "b.example"), False, None)], START)
    (look,) = of_kind(orders, LoadDomains)
    assert set(look.known) == {"a.example", "b.example"}


def test_the_spool_is_looked_at_when_it_changed() -> None:
    relay = machine()
    relay.handle([], START)
    relay.handle([DomainsLoaded((), True, None)], START)
    assert relay.wake_at is None
    assert of_kind(relay.handle([SpoolChanged()], START + 5), LoadDomains)


@pytest.mark.parametrize("clock", [-1e8, 1e8])
def test_a_rest_does_not_outlive_a_jump_of_the_clock(clock: float) -> None:
    relay = machine(rest=60.0)
    order = opened(relay, accepted(1, "u@a.example"))
    relay.handle([SessionEnded(order.session_id, ConnectFailed("no"))], START)
    relay.handle([TimePassed()], START + clock)
    assert all(resting_until is None for _, _, _, resting_until in relay.destinations)
    assert relay.wake_at is None or relay.wake_at <= START + clock + 5 * HOUR
