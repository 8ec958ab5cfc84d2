"""One test for each defect of Twisted's relay manager that a relay machine can have, named after its cause.

What lives here: what a machine decides. What does not: the same for queues and services (``service``) and for a
client's core (``core``).
"""

from __future__ import annotations

import pytest

from smtpcore import (
    AuthDeclined,
    ConnectFailed,
    Reply,
    ServiceRefused,
    SessionError,
    Stage,
    TlsFailed,
)
from smtpcore.relay import (
    AddressAnswer,
    AnswerKind,
    Attempted,
    Bounce,
    Continue,
    DomainResolved,
    Fate,
    FateKind,
    Forget,
    Host,
    JobsLoaded,
    Load,
    MailAccepted,
    Mx,
    MxAnswer,
    MxRecord,
    OpenSession,
    Orders,
    Resolve,
    Save,
    SessionEnded,
    SmartHost,
    TimePassed,
)

from .relay_bench import BUSY, DAY, HOUR, MINUTE, TAKEN, UNKNOWN, Bench, failed, reported

FOUND = AnswerKind.RECORDS


def mx(*records: tuple[int, str], domain: str = "far.example") -> DomainResolved:
    """MX records whose hosts have one address each."""
    addresses = tuple((host, AddressAnswer(FOUND, (f"192.0.2.{n}",))) for n, (_, host) in enumerate(records, 1))
    return DomainResolved(domain, MxAnswer(FOUND, tuple(MxRecord(*record) for record in records)), addresses, HOUR)


def load_all(bench: Bench, *accepted: MailAccepted) -> None:
    """Give all that is asked for."""
    facts = []
    for domain in [load.domain for load in bench.effects(Load)]:
        jobs = tuple(job for fact in accepted for job in fact.jobs if job.domain == domain)
        mails = tuple(fact.mail for fact in accepted if any(job.mail_id == fact.mail.mail_id for job in jobs))
        facts.append(JobsLoaded(domain, mails, jobs, True))
    bench.tell(*facts)


def by_mx(*facts: DomainResolved, to: str = "you@far.example", **changes: object) -> Bench:
    """A machine that has a mail for a domain of which it has been told."""
    bench = Bench(Mx(), **changes)
    accepted = bench.mail(to)
    bench.tell(accepted)
    bench.tell(*facts)
    load_all(bench, accepted)
    return bench


@pytest.mark.parametrize("reply", [BUSY, Reply(421, ("4.3.2 too busy",)), Reply(450, ("4.7.1 greylisted",))])
def test_r7_a_temporary_failure_is_taken_for_a_final_one(reply: Reply) -> None:
    bench = Bench()
    bench.accept("you@far.example")
    bench.tell(reported(bench.effect(OpenSession), reply, stage=Stage.STARTED))
    assert not bench.durable(Bounce)
    assert bench.order(Save).job.due_at >= bench.now + 5 * MINUTE


@pytest.mark.parametrize(
    "error",
    [
        ServiceRefused("554", reply=Reply(554, ("no service",))),
        AuthDeclined("535", reply=Reply(535, ("who are you",))),
        TlsFailed("the certificate is for somebody else"),
        ConnectFailed("connection refused"),
    ],
)
def test_r8_what_fails_before_the_first_mail_is_tried_for_ever_and_at_once(error: SessionError) -> None:
    bench = Bench(sessions_per_next_hop=1)
    young = bench.mail("young@far.example")
    bench.tell(young, bench.mail("old@far.example", age=3 * DAY))
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, error))
    job = bench.order(Save).job
    assert (job.attempts, job.due_at) == (1, bench.now + 5 * MINUTE)
    assert [failure.recipient for failure in bench.order(Bounce).failures] == ["old@far.example"]
    # The next attempt waits for longer.
    bench.now = job.due_at
    bench.tell(TimePassed())
    bench.tell(MailAccepted(young.mail, (job,)))
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, error))
    assert bench.order(Save).job.due_at == bench.now + HOUR


def test_r11_a_bounce_of_a_bounce_is_made_and_never_goes_away() -> None:
    bench = Bench()
    bench.accept("you@far.example", sender="")
    bench.tell(reported(bench.effect(OpenSession), UNKNOWN))
    assert [type(order) for order in bench.orders.durable] == [Forget]
    assert bench.effect(Fate).kind is FateKind.DISCARDED


def test_r14_a_recipient_that_leads_nowhere_waits_for_ever() -> None:
    bench = Bench(Mx())
    accepted = bench.mail("postmaster")
    bench.tell(accepted)
    load_all(bench, accepted)
    assert [type(order) for order in bench.orders.durable] == [Bounce, Forget]


def test_r15_equal_preferences_cannot_be_compared_and_one_host_is_all() -> None:
    bench = by_mx(mx((10, "a.example"), (10, "b.example"), (20, "c.example")))
    tried = []
    while bench.effects(OpenSession):
        work = bench.effect(OpenSession)
        tried.append(work.host.name)
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
    assert (sorted(tried[:2]), tried[2:]) == (["a.example", "b.example"], ["c.example"])
    assert bench.effect(Attempted).attempts == 1


def test_r16_a_null_mx_is_taken_for_a_host() -> None:
    bench = by_mx(mx((0, ".")))
    assert not bench.effects(OpenSession)
    assert bench.order(Bounce).failures[0].status == "5.1.10"


def test_r16_upper_case_misses_the_answer() -> None:
    bench = Bench(Mx())
    accepted = bench.mail("you@FAR.Example")
    bench.tell(accepted)
    assert bench.effect(Resolve).domain == "far.example"
    bench.tell(DomainResolved("far.example", MxAnswer(FOUND, (MxRecord(10, "MX.Far.example."),)), (), HOUR))
    load_all(bench, accepted)
    # The host is known under its one name; that it has no address is what is wrong here.
    assert "mx.far.example" in bench.effect(Attempted).words


def test_r16_the_fallback_to_the_domain_itself_knows_no_ipv6() -> None:
    addresses = (("far.example", AddressAnswer(FOUND, ("192.0.2.1", "2001:db8::1"))),)
    bench = by_mx(DomainResolved("far.example", MxAnswer(AnswerKind.NO_DATA), addresses, HOUR))
    assert bench.effect(OpenSession).host == Host("far.example", "2001:db8::1", 25)


def test_r16_address_literals_are_looked_up_as_names() -> None:
    bench = Bench(Mx())
    bench.accept("you@[IPv6:2001:db8::1]")
    assert not bench.effects(Resolve)
    assert bench.effect(OpenSession).host.address == "2001:db8::1"


def test_r17_nobody_says_that_a_host_is_bad() -> None:
    bench = by_mx(mx((10, "dead.example"), (20, "good.example")), idle_seconds=1.0)
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("no route")))
    work = bench.effect(OpenSession)
    assert work.host.name == "good.example"
    bench.tell(reported(work, TAKEN))
    bench.tell(SessionEnded(work.session_id, None))
    # The next mail does not try the dead one again.
    accepted = bench.mail("next@far.example")
    bench.tell(accepted)
    assert bench.effect(OpenSession).host.name == "good.example"


def test_r18_the_limit_of_mails_over_a_session_is_kept_and_never_used() -> None:
    bench = Bench(mails_per_session=2, sessions_per_next_hop=1)
    bench.tell(*(bench.mail(f"user{number}@far.example") for number in range(3)))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    bench.tell(reported(bench.effect(Continue), TAKEN))
    assert not bench.work


def test_r19_two_lookups_that_fail_are_taken_for_one() -> None:
    bench = Bench(Mx())
    accepted = [bench.mail(f"you@{name}.example") for name in ("one", "two", "three")]
    bench.tell(*accepted)
    problem = MxAnswer(AnswerKind.FAILURE, problem="SERVFAIL")
    bench.tell(*(DomainResolved(resolve.domain, problem, (), MINUTE) for resolve in bench.effects(Resolve)))
    load_all(bench, *accepted)
    assert sorted(attempt.recipient for attempt in bench.effects(Attempted)) == [
        "you@one.example",
        "you@three.example",
        "you@two.example",
    ]
    assert bench.relay.jobs_in_memory == 0


def test_r20_the_end_of_a_session_that_is_told_twice_is_an_error() -> None:
    bench = Bench()
    bench.accept("you@far.example")
    work = bench.effect(OpenSession)
    report = failed(work, ServiceRefused("421"), Stage.STARTED)
    bench.tell(report, SessionEnded(work.session_id, None))
    assert bench.tell(report, SessionEnded(work.session_id, None), SessionEnded(work.session_id, None)) == Orders()


def test_r23_the_smart_host_is_none_and_each_recipient_is_a_mail() -> None:
    bench = Bench(SmartHost("smart.example", 587))
    bench.accept("a@one.example", "b@one.example", "c@two.example")
    work = bench.effect(OpenSession)
    assert (work.host.name, work.host.port) == ("smart.example", 587)
    assert work.delivery.envelope.recipients == ("a@one.example", "b@one.example", "c@two.example")
