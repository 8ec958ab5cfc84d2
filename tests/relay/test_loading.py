"""What the machine asks of the spool and when, what it takes into memory, and when it has nothing left to do.

What lives here: looks, loads, bites and being drained. What does not: what becomes of the jobs that came.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from smtpcore import ConnectFailed
from smtpcore.relay import (
    AddressAnswer,
    AnswerKind,
    Attempted,
    Continue,
    DomainResolved,
    DomainsLoaded,
    Fact,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    Mx,
    MxAnswer,
    MxRecord,
    OpenSession,
    Relay,
    Resolve,
    Save,
    SessionEnded,
    ShutDown,
    SmartHost,
    SpoolChanged,
    TimePassed,
)

from .relay_bench import HOUR, MINUTE, SETTINGS, START, TAKEN, Bench, reported

# --- drained ----------------------------------------------------------------------------------------------------------


def test_a_machine_is_drained_when_the_spool_holds_nothing_that_is_due() -> None:
    relay = Relay(SETTINGS, SmartHost("smart.example"))
    assert not relay.drained(START), "it has not looked yet"
    relay.handle((), START)
    assert not relay.drained(START), "the answer may name something"
    relay.handle((DomainsLoaded((), True, START + 100.0),), START)
    assert relay.drained(START)
    assert not relay.drained(START + 100.0), "by then something is due"


def test_a_machine_is_not_drained_while_mail_is_loaded_waits_or_is_on_its_way() -> None:
    bench = Bench(sessions_per_next_hop=1)
    assert bench.relay.drained(bench.now)
    first, second = bench.mail("one@far.example"), bench.mail("two@far.example")
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert not bench.relay.drained(bench.now)
    load(bench, first, second)
    assert not bench.relay.drained(bench.now)
    bench.tell(reported(bench.work[0], TAKEN))
    assert not bench.relay.drained(bench.now)
    bench.tell(reported(bench.work[0], TAKEN))
    assert bench.relay.drained(bench.now)


def test_a_machine_is_not_drained_while_a_domain_is_looked_up() -> None:
    bench = Bench(Mx())
    accepted = bench.mail("you@far.example")
    bench.tell(accepted)
    assert not bench.relay.drained(bench.now)
    bench.tell(resolved("far.example", "mx.example"))
    load(bench, accepted)
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert bench.relay.drained(bench.now)


def test_mail_that_waits_in_the_spool_for_a_resting_destination_is_not_due() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert bench.relay.drained(bench.now)
    bench.now += 60.0
    bench.tell(TimePassed())
    assert not bench.relay.drained(bench.now)
    assert bench.effect(Load).domain == "far.example"


def test_what_the_spool_answers_after_the_end_is_of_no_use() -> None:
    bench = Bench()
    bench.tell(SpoolChanged())
    bench.tell(ShutDown())
    assert not bench.relay.drained(bench.now), "an answer is still to come"
    bench.tell(DomainsLoaded(("far.example",), False, START + 1.0))
    assert not bench.orders.effects
    assert bench.relay.wake_at is None
    assert bench.relay.drained(bench.now)


def test_a_rest_that_ends_during_the_shutdown_leaves_nothing_to_do() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.accept("you@far.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example", "near.example"), True, None))
    bench.tell(ShutDown())
    assert bench.relay.drained(bench.now)
    bench.now += 60.0
    bench.tell(TimePassed())
    assert bench.relay.drained(bench.now)
    assert bench.relay.wake_at is None
    assert not bench.orders.effects


# --- looks ------------------------------------------------------------------------------------------------------------


def test_a_look_that_was_not_answered_whole_is_repeated_for_the_rest() -> None:
    bench = Bench()
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("a.example", "b.example"), False, None))
    look = bench.effect(LoadDomains)
    assert look.until == bench.now
    assert set(look.known) == {"a.example", "b.example"}
    bench.tell(DomainsLoaded((), True, None))
    assert not bench.effects(LoadDomains)


def test_mail_that_is_due_later_is_looked_for_then() -> None:
    bench = Bench()
    accepted = bench.mail("you@far.example")
    bench.tell(replace(accepted, jobs=(replace(accepted.jobs[0], due_at=START + MINUTE),)))
    assert not bench.work
    assert bench.relay.jobs_in_memory == 0
    assert bench.relay.wake_at == START + MINUTE


def test_mail_that_is_accepted_twice_is_held_once() -> None:
    bench = Bench(sessions_per_next_hop=1)
    accepted = bench.mail("you@far.example")
    bench.tell(accepted)
    assert len(bench.work) == 1
    bench.tell(accepted)
    assert not bench.work
    assert bench.relay.jobs_in_memory == 1


# --- loads ------------------------------------------------------------------------------------------------------------


def load(bench: Bench, *facts: MailAccepted, complete: bool = True) -> None:
    """Give what was asked for: these jobs."""
    jobs = tuple(job for fact in facts for job in fact.jobs)
    bench.tell(JobsLoaded(bench.effect(Load).domain, tuple(fact.mail for fact in facts), jobs, complete))


def resolved(domain: str, host: str | None, seconds: float = HOUR) -> DomainResolved:
    """The answer that a domain has this host, or that nobody can say."""
    if host is None:
        return DomainResolved(domain, MxAnswer(AnswerKind.FAILURE), (), seconds)
    found = AddressAnswer(AnswerKind.RECORDS, ("192.0.2.1",))
    return DomainResolved(domain, MxAnswer(AnswerKind.RECORDS, (MxRecord(10, host),)), ((host, found),), seconds)


def test_a_domain_of_which_more_is_due_is_loaded_again() -> None:
    bench = Bench(sessions_per_next_hop=1)
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    load(bench, bench.mail("one@far.example"), complete=False)
    load(bench, bench.mail("two@far.example"))
    assert not bench.effects(Load)
    assert bench.relay.jobs_in_memory == 2


def test_what_is_accepted_while_its_domain_is_loaded_is_loaded_after_it() -> None:
    """It fell due behind the time up to which is loaded, so it is not among what comes, though that is complete."""
    bench = Bench(sessions_per_next_hop=1, window_per_next_hop=4)
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    assert bench.effect(Load).limit == 4, "all the room there is"
    first, late = bench.mail("one@far.example"), bench.mail("two@far.example")
    bench.tell(late, JobsLoaded("far.example", (first.mail,), first.jobs, True))
    assert bench.relay.jobs_in_memory == 1
    load(bench, late)
    assert bench.relay.jobs_in_memory == 2
    assert not bench.effects(Load)


def test_a_domain_that_waited_for_room_until_its_answer_grew_old_is_looked_up_again() -> None:
    bench = Bench(Mx(), window=1, window_per_next_hop=1, sessions_per_next_hop=1)
    first, second = bench.mail("one@far.example"), bench.mail("two@far.example")
    bench.tell(first)
    bench.tell(resolved("far.example", "old.example", seconds=20.0))
    load(bench, first)
    work = bench.effect(OpenSession)
    bench.tell(second)
    assert not bench.effects(Load)
    bench.now += 30.0
    bench.tell(reported(work, TAKEN))
    assert not bench.effects(Load)
    assert bench.effect(Resolve).domain == "far.example"
    bench.tell(resolved("far.example", "new.example"))
    load(bench, second)
    assert [work.host.name for work in bench.effects(OpenSession)] == ["new.example"]


def test_jobs_that_are_here_already_are_not_asked_for_again() -> None:
    bench = Bench(sessions_per_next_hop=1, window_per_next_hop=8)
    first = [bench.mail(f"u{number}@far.example") for number in range(3)]
    bench.tell(*first)
    working, *waiting = first
    bench.tell(SpoolChanged())
    bench.tell(DomainsLoaded(("far.example",), True, None))
    order = bench.effect(Load)
    assert set(order.known) == {fact.jobs[0].job_id for fact in (working, *waiting)}
    assert order.limit == 6, "the room, whatever waits"
    load(bench, bench.mail("more@far.example"))
    assert bench.relay.jobs_in_memory == 4
    assert not bench.effects(Load)


@pytest.mark.parametrize("domains", [1, 30])
def test_a_queue_is_read_once(domains: int) -> None:
    bench = Bench(sessions=2, sessions_per_next_hop=2, window_per_next_hop=60, deliveries_ahead=4)
    left = {
        fact.jobs[0].job_id: fact
        for fact in (bench.mail(f"u{number}@d{number % domains}.example") for number in range(600))
    }
    claimed: set[int] = set()
    rows = done = 0
    bench.tell(SpoolChanged())
    answers: list[Fact] = []
    working: deque[OpenSession | Continue] = deque()
    while left:
        for order in bench.effects(LoadDomains):
            found = dict.fromkeys(f.jobs[0].domain for job, f in left.items() if job not in claimed)
            answers.append(DomainsLoaded(tuple(domain for domain in found if domain not in order.known), True, None))
        for load in bench.effects(Load):
            due = [
                fact
                for job, fact in left.items()
                if fact.jobs[0].domain == load.domain and job not in claimed and job not in load.known
            ]
            chosen = due[: load.limit]
            rows += len(chosen)
            assert rows <= 600
            jobs = tuple(fact.jobs[0] for fact in chosen)
            answers.append(JobsLoaded(load.domain, tuple(fact.mail for fact in chosen), jobs, chosen == due))
        working += bench.work
        claimed.update(work.delivery.jobs[0].job_id for work in bench.work)
        if not answers:
            work = working.popleft()
            del left[work.delivery.jobs[0].job_id]
            answers.append(reported(work, TAKEN))
            done += 1
        facts, answers = answers, []
        bench.tell(*facts)
    assert done == rows == 600


# --- bites: jobs that are loaded only to be put off -------------------------------------------------------------------

DOMAINS = tuple(f"d{number:02}.example" for number in range(13))
BITES = 10


def test_so_many_domains_that_lead_nowhere_are_put_off_at_a_time_and_no_more() -> None:
    bench = Bench(Mx(), rest=60.0)
    accepted = {domain: bench.mail(f"you@{domain}") for domain in DOMAINS}
    bench.tell(*accepted.values())
    bench.tell(*(resolved(domain, None, seconds=0.0) for domain in DOMAINS))
    asked = [load.domain for load in bench.effects(Load)]
    assert asked == list(DOMAINS[:BITES])
    first = accepted[asked[0]]
    bench.tell(JobsLoaded(asked[0], (first.mail,), first.jobs, True))
    assert bench.order(Save).job.attempts == 1
    assert bench.effect(Load).domain == DOMAINS[BITES]
    # What waits so long that its answer may be used no longer is looked up again, for it may lead somewhere by now.
    bench.now += 60.0
    second = accepted[asked[1]]
    bench.tell(JobsLoaded(asked[1], (second.mail,), second.jobs, True))
    assert not bench.effects(Load)
    assert [effect.domain for effect in bench.effects(Resolve)] == list(DOMAINS[BITES + 1 :])
    bench.tell(resolved(DOMAINS[-1], "mx.example"))
    load(bench, accepted[DOMAINS[-1]])
    assert bench.effect(OpenSession).host.name == "mx.example"


def gone(bench: Bench, facts: dict[str, MailAccepted], seconds: float = HOUR) -> None:
    """Have the destination of all these domains fail for as long as the first delay of the schedule."""
    first = facts[DOMAINS[0]]
    bench.tell(first)
    bench.tell(resolved(DOMAINS[0], "mx.example", seconds=24 * HOUR))
    load(bench, first)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.tell(first)
    bench.now += 5 * MINUTE
    bench.tell(TimePassed())
    load(bench, first)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    bench.tell(DomainsLoaded(tuple(facts)[1:], True, None))
    bench.tell(*(resolved(effect.domain, "mx.example", seconds) for effect in bench.effects(Resolve)))


def test_what_falls_due_for_a_destination_that_has_long_failed_is_put_off_without_a_try() -> None:
    bench = Bench(Mx(), rest=5 * MINUTE, sessions_per_next_hop=1)
    facts = {domain: bench.mail(f"you@{domain}") for domain in DOMAINS[:2]}
    gone(bench, facts)
    assert [load.domain for load in bench.effects(Load)] == [DOMAINS[1]]
    load(bench, facts[DOMAINS[1]])
    saved = bench.order(Save).job
    assert (saved.attempts, saved.due_at) == (1, bench.now + 5 * MINUTE)
    assert bench.effect(Attempted).words == "no route"
    assert not bench.work
    assert bench.relay.jobs_in_memory == 0


def test_of_a_destination_that_has_long_failed_so_many_domains_are_put_off_at_a_time_and_no_more() -> None:
    bench = Bench(Mx(), rest=5 * MINUTE, sessions_per_next_hop=1)
    facts = {domain: bench.mail(f"you@{domain}") for domain in DOMAINS}
    gone(bench, facts, seconds=20.0)
    asked = [load.domain for load in bench.effects(Load)]
    assert asked == list(DOMAINS[1 : BITES + 1])
    # What waits so long that its answer may be used no longer is looked up again, for it may lead elsewhere by now.
    bench.now += 30.0
    first = facts[asked[0]]
    bench.tell(JobsLoaded(asked[0], (first.mail,), first.jobs, True))
    assert not bench.effects(Load)
    assert [effect.domain for effect in bench.effects(Resolve)] == list(DOMAINS[BITES + 1 :])
    bench.tell(resolved(DOMAINS[-1], "other.example"))
    load(bench, facts[DOMAINS[-1]])
    assert bench.effect(OpenSession).host.name == "other.example"
