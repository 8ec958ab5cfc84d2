"""What operators wish for queued mail: holding, releasing, retrying and removing it, whatever the relay does meanwhile.

What lives here: the rules of the machine for wishes. What does not: what a spool does with them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from smtpcore import ConnectFailed, Reply, ServiceRefused, Stage
from smtpcore.relay import (
    Action,
    AddressAnswer,
    AnswerKind,
    Attempted,
    Bounce,
    Claim,
    Commanded,
    DomainResolved,
    DomainsLoaded,
    Fate,
    FateKind,
    Forget,
    JobsLoaded,
    JobsRemoved,
    Load,
    LoadDomains,
    MailAccepted,
    Mx,
    MxAnswer,
    MxRecord,
    OpenSession,
    Operate,
    Resolve,
    Save,
    SessionEnded,
    SmartHost,
    SpoolChanged,
    TimePassed,
)

from .relay_bench import BUSY, HOUR, START, TAKEN, UNKNOWN, Bench, failed, reported

REFUSED = ServiceRefused("idle for too long", reply=Reply(421, ("4.4.2 idle",)))


def wish(bench: Bench, action: Action, *mails: MailAccepted) -> None:
    domains = tuple({job.domain for fact in mails for job in fact.jobs})
    bench.tell(Commanded(action, tuple(fact.mail.mail_id for fact in mails), domains))


def resolved(host: str | None, seconds: float = HOUR) -> DomainResolved:
    """The answer that far.example has this host, or that nobody can say."""
    if host is None:
        return DomainResolved("far.example", MxAnswer(AnswerKind.FAILURE), (), seconds)
    records = MxAnswer(AnswerKind.RECORDS, (MxRecord(10, host),))
    addresses = AddressAnswer(AnswerKind.RECORDS, ("192.0.2.1",))
    return DomainResolved("far.example", records, ((host, addresses),), seconds)


def load(bench: Bench, *facts: MailAccepted) -> None:
    """Give what was asked for: these jobs."""
    jobs = tuple(job for fact in facts for job in fact.jobs)
    bench.tell(JobsLoaded(bench.effect(Load).domain, tuple(fact.mail for fact in facts), jobs, True))


# --- every wish -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", Action)
def test_a_wish_is_recorded_though_nothing_of_its_mails_is_in_memory(action: Action) -> None:
    bench = Bench()
    bench.tell(Commanded(action, (71, 72), ("far.example",)))
    assert bench.orders.durable == (Operate(action, (71, 72)),)
    assert not bench.work


@pytest.mark.parametrize("action", [Action.RELEASE, Action.RETRY])
def test_what_may_be_due_by_a_wish_is_looked_for_at_once(action: Action) -> None:
    bench = Bench()
    bench.tell(Commanded(action, (71,), ("far.example",)))
    assert bench.effect(LoadDomains).until == bench.now


# --- mail that waits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [Action.HOLD, Action.REMOVE])
def test_mail_that_waits_is_left_to_the_spool(action: Action) -> None:
    bench = Bench(sessions_per_next_hop=1)
    first, second, third = (bench.mail(f"user{number}@far.example") for number in range(3))
    bench.tell(first, second, third)
    work = bench.effect(OpenSession)
    wish(bench, action, second)
    assert bench.relay.jobs_in_memory == 2
    assert not bench.effects(Fate), "the spool says what was removed"
    bench.tell(reported(work, TAKEN))
    assert [each.delivery.mail for each in bench.work] == [third.mail]


def test_all_jobs_of_a_mail_are_held_wherever_they_wait() -> None:
    class Two:
        def way(self, domain: str) -> SmartHost:
            return SmartHost("one.example" if domain < "c" else "two.example")

    bench = Bench(Two(), sessions=1)
    bench.accept("first@x.example")
    wide = bench.mail("you@a.example", "you@b.example", "you@d.example")
    bench.tell(wide)
    assert bench.relay.jobs_in_memory == 4
    wish(bench, Action.HOLD, wide)
    assert bench.relay.jobs_in_memory == 1
    assert sum(seen.waiting for seen in bench.relay.destinations) == 0


def test_what_was_removed_is_told_for_each_recipient() -> None:
    bench = Bench()
    fact = bench.mail("one@far.example", "two@far.example")
    bench.tell(JobsRemoved(fact.jobs))
    assert [(fate.mail_id, fate.recipient, fate.kind) for fate in bench.effects(Fate)] == [
        (fact.mail.mail_id, "one@far.example", FateKind.REMOVED),
        (fact.mail.mail_id, "two@far.example", FateKind.REMOVED),
    ]
    assert not bench.orders.durable


# --- mail on its way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [Action.HOLD, Action.REMOVE])
def test_what_is_delivered_in_spite_of_a_wish_is_delivered(action: Action) -> None:
    bench = Bench()
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    work = bench.effect(OpenSession)
    wish(bench, action, fact)
    bench.tell(reported(work, TAKEN))
    assert [type(order) for order in bench.orders.durable] == [Forget]
    assert bench.effect(Fate).kind is FateKind.DELIVERED


@pytest.mark.parametrize("reply", [BUSY, UNKNOWN])
def test_of_a_removed_mail_that_is_refused_nothing_is_left_and_nobody_is_told(reply: Reply) -> None:
    bench = Bench()
    fact = bench.mail("you@far.example", age=400 * 24 * HOUR)
    bench.tell(fact)
    work = bench.effect(OpenSession)
    wish(bench, Action.REMOVE, fact)
    bench.tell(reported(work, reply, stage=Stage.STARTED))
    assert bench.orders.durable == (Forget(work.delivery.jobs[0]),)
    fate = bench.effect(Fate)
    assert (fate.kind, fate.words) == (FateKind.REMOVED, str(reply))
    assert not bench.effects(Attempted)


def test_a_held_mail_that_is_refused_for_good_still_bounces() -> None:
    bench = Bench()
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    work = bench.effect(OpenSession)
    wish(bench, Action.HOLD, fact)
    bench.tell(reported(work, UNKNOWN, stage=Stage.STARTED))
    assert [type(order) for order in bench.orders.durable] == [Bounce, Forget]


def given_back(bench: Bench, *actions: Action) -> MailAccepted:
    """A mail that was given to a session which ended before it was begun, after these wishes."""
    bench.accept("first@far.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    (work,) = bench.work
    for action in actions:
        wish(bench, action, fact)
    bench.tell(failed(work, REFUSED, Stage.NOT_STARTED))
    bench.tell(SessionEnded(work.session_id, REFUSED))
    return fact


def test_a_held_mail_that_was_not_begun_is_given_back_and_not_tried() -> None:
    bench = Bench(sessions_per_next_hop=1)
    fact = given_back(bench, Action.HOLD)
    assert bench.orders.durable == (Save(fact.jobs[0]),)
    assert not bench.work
    assert bench.relay.jobs_in_memory == 0


def test_a_removed_mail_that_was_not_begun_is_forgotten() -> None:
    bench = Bench(sessions_per_next_hop=1)
    fact = given_back(bench, Action.REMOVE)
    assert bench.orders.durable == (Forget(fact.jobs[0]),)
    assert bench.effect(Fate).kind is FateKind.REMOVED
    assert not bench.work
    assert bench.relay.jobs_in_memory == 0


def test_a_mail_that_was_released_in_time_is_as_if_it_had_not_been_held() -> None:
    bench = Bench(sessions_per_next_hop=1)
    fact = given_back(bench, Action.HOLD, Action.RELEASE)
    assert [type(order) for order in bench.orders.durable] == [Save, Claim]
    assert bench.effect(OpenSession).delivery.mail == fact.mail


def test_a_removed_mail_cannot_be_released() -> None:
    bench = Bench(sessions_per_next_hop=1)
    fact = given_back(bench, Action.REMOVE, Action.RELEASE)
    assert bench.orders.durable == (Forget(fact.jobs[0]),)
    assert not bench.work


# --- trying again -----------------------------------------------------------------------------------------------------


def test_a_retry_cuts_the_rest_of_a_destination_short() -> None:
    bench = Bench(sessions_per_next_hop=1, rest=60.0)
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    assert bench.relay.wake_at == START + 60.0
    bench.now += 10.0
    wish(bench, Action.RETRY, fact)
    bench.tell(DomainsLoaded(("far.example",), True, None))
    load(bench, fact)
    assert bench.effect(OpenSession).delivery.mail == fact.mail
    assert bench.relay.wake_at is None, "there is no rest any more that could end"


def test_a_retry_takes_hosts_back_that_were_set_aside() -> None:
    bench = Bench(Mx(), sessions_per_next_hop=1, rest=1.0, hosts_per_attempt=1)
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    both = AddressAnswer(AnswerKind.RECORDS, ("192.0.2.1", "192.0.2.2"))
    bench.tell(replace(resolved("mx.far.example"), addresses=(("mx.far.example", both),)))
    load(bench, fact)
    tried = []
    for retried in (True, False, False):
        work = bench.effect(OpenSession)
        tried.append(work.host.address)
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
        bench.now += 1.0
        bench.tell(TimePassed())
        if retried:
            wish(bench, Action.RETRY, fact)
        bench.tell(fact)
    assert tried == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]


def test_a_retry_asks_anew_what_could_not_be_looked_up_and_the_new_answer_counts() -> None:
    bench = Bench(Mx(), rest=60.0)
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    bench.tell(resolved(None, seconds=0.0))
    load(bench, fact)
    assert bench.effect(Attempted).due_at > bench.now
    bench.now += 10.0
    wish(bench, Action.RETRY, fact)
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert bench.effect(Resolve).domain == "far.example"
    bench.tell(resolved("mx.far.example"))
    load(bench, fact)
    assert bench.effect(OpenSession).host.name == "mx.far.example"
    # The first answer would have been used until now: its end is not that of the second.
    bench.now = START + 61.0
    bench.accept("other@far.example")
    assert not bench.effects(Resolve)


def test_a_retry_cuts_the_rest_short_that_a_domain_waits_for_since_before_its_answer_grew_old() -> None:
    bench = Bench(Mx(), rest=600.0, sessions_per_next_hop=1)
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    bench.tell(resolved("mx.far.example", seconds=20.0))
    load(bench, fact)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert not bench.effects(Load), "it waits for the end of the rest"
    bench.now += 30.0
    wish(bench, Action.RETRY, fact)
    assert bench.effect(Resolve).domain == "far.example"
    bench.tell(resolved("mx.far.example"))
    load(bench, fact)
    assert bench.effect(OpenSession).host.name == "mx.far.example"


def test_a_retry_is_not_forgotten_while_the_domain_is_looked_up() -> None:
    """The new answer leads to the destination that rests."""
    bench = Bench(Mx(), rest=600.0, sessions_per_next_hop=1)
    fact = bench.mail("you@far.example")
    bench.tell(fact)
    bench.tell(resolved("mx.far.example", seconds=20.0))
    load(bench, fact)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.now += 30.0
    wish(bench, Action.RETRY, fact)
    bench.tell(DomainsLoaded(("far.example",), True, None))
    bench.tell(resolved("mx.far.example"))
    load(bench, fact)
    assert bench.effect(OpenSession).host.name == "mx.far.example"
