"""Mail to the world: which hosts the machine goes to for which records, in which order, and what it says when none is.

What lives here: the rules over records of the DNS, each through the public face of the machine. What does not: lookups.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import ConnectFailed
from smtpcore.relay import (
    AddressAnswer,
    AnswerKind,
    Attempted,
    Bounce,
    Claim,
    DomainResolved,
    FixedHosts,
    Forget,
    Host,
    Job,
    JobsLoaded,
    Load,
    MailAccepted,
    Mx,
    MxAnswer,
    MxRecord,
    OpenSession,
    Resolve,
    Save,
    SessionEnded,
    SmartHost,
    TimePassed,
)

from .relay_bench import HOUR, MINUTE, TAKEN, Bench, reported

FOUND = AnswerKind.RECORDS
SIX, FOUR = "2001:db8::%d", "192.0.2.%d"


def answer(
    *records: tuple[int, str],
    addresses: Mapping[str, Iterable[str] | AnswerKind] | None = None,
    kind: AnswerKind | None = None,
    domain: str = "far.example",
    seconds: float = HOUR,
) -> DomainResolved:
    """An answer; hosts of which nothing is said have one IPv4 address each."""
    said = addresses or {}
    names = [host for _, host in records] or [domain]
    found: list[tuple[str, AddressAnswer]] = []
    for number, name in enumerate(dict.fromkeys(names), 1):
        what = said.get(name, [FOUR % number])
        if isinstance(what, AnswerKind):
            found.append((name, AddressAnswer(what)))
        else:
            found.append((name, AddressAnswer(FOUND, tuple(what))))
    mx = MxAnswer(kind or (FOUND if records else AnswerKind.NO_DATA), tuple(MxRecord(*record) for record in records))
    return DomainResolved(domain, mx, tuple(found), seconds)


def load(bench: Bench, *facts: MailAccepted) -> None:
    """Give what was asked for: these jobs."""
    domain = bench.effect(Load).domain
    mails = tuple(fact.mail for fact in facts)
    jobs = tuple(job for fact in facts for job in fact.jobs)
    bench.tell(JobsLoaded(domain, mails, jobs, True))


def world(*facts: DomainResolved, way: Mx | None = None, **changes: object) -> Bench:
    """A machine that has been told of one mail, has asked where it goes, and has been answered."""
    bench = Bench(way or Mx(), **changes)
    accepted = bench.mail("you@far.example")
    bench.tell(accepted)
    assert bench.effect(Resolve).domain == "far.example"
    bench.tell(*facts)
    load(bench, accepted)
    return bench


def hosts(bench: Bench) -> list[Host]:
    """The hosts in the order in which they are tried, none of which can be reached."""
    tried: list[Host] = []
    while bench.effects(OpenSession):
        work = bench.effect(OpenSession)
        tried.append(work.host)
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no route")))
    return tried


def names(bench: Bench) -> list[str]:
    return [host.name for host in hosts(bench)]


# --- which hosts, and in which order ----------------------------------------------------------------------------------


def test_hosts_are_tried_by_preference_within_one_attempt() -> None:
    bench = world(answer((20, "two.example"), (10, "one.example"), (30, "three.example")))
    assert bench.order(Claim).job.attempts == 1
    assert names(bench) == ["one.example", "two.example", "three.example"]
    saved = bench.order(Save).job
    assert (saved.attempts, saved.due_at) == (1, bench.now + 5 * MINUTE)


def test_a_host_is_connected_to_by_address_and_known_by_name() -> None:
    bench = world(answer((10, "one.example")), way=Mx(2525))
    assert bench.effect(OpenSession).host == Host("one.example", "192.0.2.1", 2525)


def test_ipv6_and_ipv4_take_turns() -> None:
    addresses = [FOUR % 1, FOUR % 2, FOUR % 3, SIX % 1, SIX % 2, FOUR % 1]
    bench = world(answer((10, "one.example"), addresses={"one.example": addresses}))
    assert [host.address for host in hosts(bench)] == [SIX % 1, FOUR % 1, SIX % 2, FOUR % 2, FOUR % 3]


def test_hosts_of_one_preference_share_the_sessions_evenly() -> None:
    equal = [(10, f"mx{number}.example") for number in range(4)]
    bench = Bench(Mx(), sessions=4000, sessions_per_next_hop=4000, window=9000, window_per_next_hop=9000)
    accepted = [bench.mail(f"user{number}@far.example") for number in range(2000)]
    bench.tell(accepted[0])
    bench.tell(answer(*equal, (20, "last.example")))
    load(bench, *accepted)
    first = Counter(work.host.name for work in bench.effects(OpenSession))
    assert set(first) == {name for _, name in equal}
    assert all(400 < count < 600 for count in first.values())


def test_each_order_of_equal_hosts_occurs_and_none_is_chance() -> None:
    equal = [(10, f"mx{number}.example") for number in range(3)]

    def orders() -> list[tuple[str, ...]]:
        bench = Bench(Mx(), rest=1.0, longest_rest=1.0, set_aside=0.5)
        seen = []
        for number in range(60):
            accepted = bench.mail("you@far.example")
            bench.tell(accepted)
            if number == 0:
                bench.tell(answer(*equal))
                load(bench, accepted)
            seen.append(tuple(names(bench)))
            bench.now += 1.0
            bench.tell(TimePassed())
        return seen

    once = orders()
    assert set(once) == set(itertools.permutations(name for _, name in equal))
    assert orders() == once


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["a.example", "b.example", "c.example", "d.example"])),
        min_size=1,
        max_size=8,
    ),
    st.sets(st.sampled_from(["a.example", "b.example", "c.example", "d.example"])),
)
def test_whatever_the_records_each_host_is_tried_once_and_none_before_a_preferred_one(
    records: list[tuple[int, str]], without_address: set[str]
) -> None:
    bench = world(answer(*records, addresses=dict.fromkeys(without_address, AnswerKind.NO_DATA)))
    best = {name: min(p for p, other in records if other == name) for _, name in records}
    tried = names(bench)
    assert sorted(tried) == sorted(best.keys() - without_address)
    assert [best[name] for name in tried] == sorted(best[name] for name in tried)
    assert len(bench.durable(Save)) == 1


def test_an_attempt_tries_so_many_hosts_and_no_more() -> None:
    bench = world(answer(*((number, f"mx{number}.example") for number in range(9))), hosts_per_attempt=3)
    assert names(bench) == ["mx0.example", "mx1.example", "mx2.example"]
    assert bench.order(Save).job.attempts == 1


def test_a_domain_without_mx_is_its_own_host() -> None:
    assert hosts(world(answer())) == [Host("far.example", "192.0.2.1", 25)]


@pytest.mark.parametrize("bad", ["192.0.2.7", "2001:db8::7", "bad_host!.example", "sp ace.example", "."])
def test_what_is_no_host_name_is_passed_over(bad: str) -> None:
    assert names(world(answer((5, bad), (10, "one.example")))) == ["one.example"]


def test_names_differ_not_by_case() -> None:
    bench = world(answer((10, "one.example"), (20, "ONE.example."), addresses={"ONE.example.": [FOUR % 9]}))
    assert names(bench) == ["one.example"]


@pytest.mark.parametrize(
    ("domain", "address"),
    [
        ("[192.0.2.5]", "192.0.2.5"),
        ("[IPv6:2001:db8::5]", "2001:db8::5"),
        ("[ipv6:2001:DB8:0::5]", "2001:db8::5"),
    ],
)
def test_an_address_literal_needs_no_lookup(domain: str, address: str) -> None:
    bench = Bench(Mx())
    bench.accept(f"you@{domain}")
    assert not bench.effects(Resolve)
    assert bench.effect(OpenSession).host == Host(address, address, 25)


# --- when there is no host --------------------------------------------------------------------------------------------

NO_WAY = [
    pytest.param(answer((0, ".")), "5.1.10", id="null MX"),
    pytest.param(answer(kind=AnswerKind.NO_NAME), "5.1.2", id="no such domain"),
    pytest.param(answer(addresses={"far.example": AnswerKind.NO_DATA}), "5.1.2", id="neither MX nor address"),
    pytest.param(answer((10, "me.example"), (10, "peer.example")), "5.4.6", id="a loop"),
]
NOT_NOW = [
    pytest.param(answer(kind=AnswerKind.FAILURE), id="MX cannot be looked up"),
    pytest.param(answer((10, "one.example"), addresses={"one.example": AnswerKind.NO_DATA}), id="no address"),
    pytest.param(answer((10, "one.example"), addresses={"one.example": AnswerKind.NO_NAME}), id="no such host"),
    pytest.param(
        answer((10, "one.example"), addresses={"one.example": AnswerKind.FAILURE}), id="addresses not looked up"
    ),
    pytest.param(answer(addresses={"far.example": AnswerKind.FAILURE}), id="own address not looked up"),
    pytest.param(answer((10, "192.0.2.7")), id="no host name"),
]


@pytest.mark.parametrize(("said", "status"), NO_WAY)
def test_a_domain_that_takes_no_mail_is_told_to_the_sender_at_once(said: DomainResolved, status: str) -> None:
    bench = world(said, own_names=("me.example",))
    assert not bench.work
    assert [type(order) for order in bench.orders.durable] == [Bounce, Forget]
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, failure.remote_host, failure.diagnostic) == (status, "", None)
    assert "far.example" in failure.reason
    assert not bench.durable(Claim)


@pytest.mark.parametrize("said", NOT_NOW)
def test_a_domain_that_cannot_be_looked_up_now_is_tried_again(said: DomainResolved) -> None:
    bench = world(said)
    assert not bench.work
    (order,) = bench.orders.durable
    assert isinstance(order, Save)
    assert (order.job.attempts, order.job.due_at) == (1, bench.now + 5 * MINUTE)
    assert "far.example" in bench.effect(Attempted).words


@pytest.mark.parametrize(
    ("said", "status"),
    [(NOT_NOW[0].values[0], "4.4.3"), (NOT_NOW[1].values[0], "4.4.4"), (NOT_NOW[4].values[0], "4.4.3")],
)
def test_a_warning_names_what_is_wrong_with_the_names(said: DomainResolved, status: str) -> None:
    bench = Bench(Mx())
    accepted = bench.mail("you@far.example", age=5 * HOUR)
    bench.tell(accepted)
    bench.tell(said)
    load(bench, accepted)
    (warning, _) = bench.orders.durable
    assert [failure.status for failure in warning.failures] == [status]  # type: ignore[union-attr]  # None would fail the test


def test_a_null_mx_beside_others_is_passed_over() -> None:
    assert names(world(answer((0, "."), (10, "one.example")))) == ["one.example"]


def test_a_host_without_address_is_passed_over() -> None:
    bench = world(answer((5, "gone.example"), (10, "one.example"), addresses={"gone.example": AnswerKind.FAILURE}))
    assert names(bench) == ["one.example"]


@pytest.mark.parametrize("own", ["two.example", "TWO.example"])
def test_mail_is_not_given_to_hosts_that_are_no_better_than_this_one(own: str) -> None:
    records = [(10, "one.example"), (20, "two.example"), (20, "peer.example"), (30, "three.example")]
    assert names(world(answer(*records), own_names=(own,))) == ["one.example"]


def test_a_recipient_without_a_domain_is_refused() -> None:
    bench = Bench(Mx())
    accepted = bench.mail("Postmaster")
    bench.tell(accepted)
    load(bench, accepted)
    assert [failure.status for failure in bench.order(Bounce).failures] == ["5.1.3"]


# --- one destination for domains with the same hosts ------------------------------------------------------------------


def resolved_domains(bench: Bench, *answers: DomainResolved) -> None:
    """Make a mail for each domain, and have it waiting for its hosts."""
    accepted = {said.domain: bench.mail(f"you@{said.domain}") for said in answers}
    bench.tell(*accepted.values())
    bench.tell(*answers)
    mails = [(load.domain, accepted[load.domain]) for load in bench.effects(Load)]
    bench.tell(*(JobsLoaded(domain, (fact.mail,), fact.jobs, True) for domain, fact in mails))


def test_domains_with_the_same_hosts_share_a_session() -> None:
    bench = Bench(Mx(), sessions_per_next_hop=1)
    records = [(10, "mx1.provider.example"), (20, "mx2.provider.example")]
    other = [(5, "mx1.provider.example"), (7, "mx2.provider.example")]
    resolved_domains(bench, answer(*records, domain="a.example"), answer(*other, domain="b.example"))
    assert len(bench.relay.destinations) == 1
    (work,) = bench.work
    bench.tell(reported(work, TAKEN))
    (following,) = bench.work
    assert following.session_id == work.session_id
    assert {work.delivery.jobs[0].domain, following.delivery.jobs[0].domain} == {"a.example", "b.example"}


def test_domains_with_other_hosts_or_another_order_do_not() -> None:
    bench = Bench(Mx())
    one, two = "mx1.provider.example", "mx2.provider.example"
    resolved_domains(
        bench,
        answer((10, one), (20, two), domain="a.example"),
        answer((20, one), (10, two), domain="b.example"),
        answer((10, one), (10, two), domain="c.example"),
        answer((10, one), domain="d.example"),
    )
    assert len(bench.relay.destinations) == 4


# --- how long answers are used ----------------------------------------------------------------------------------------


def test_an_answer_is_used_as_long_as_it_may_be_and_then_asked_for_again() -> None:
    bench = world(answer((10, "one.example"), seconds=100.0), sessions_per_next_hop=1)
    bench.now += 99.0
    bench.accept("other@far.example")
    assert not bench.effects(Resolve)
    bench.now += 1.0
    later = bench.mail("third@far.example")
    bench.tell(later)
    assert bench.effect(Resolve).domain == "far.example"
    bench.tell(answer((10, "two.example")))
    load(bench, later)
    assert bench.effect(OpenSession).host.name == "two.example"


def test_a_domain_is_looked_up_once_at_a_time() -> None:
    bench = Bench(Mx())
    bench.accept("one@far.example")
    assert len(bench.effects(Resolve)) == 1
    bench.accept("two@far.example")
    assert not bench.effects(Resolve)


def test_what_is_out_of_order_is_not_asked_about_again_at_once() -> None:
    bench = world(answer(kind=AnswerKind.FAILURE, seconds=0.0), rest=60.0)
    bench.now += 59.0
    accepted = bench.mail("other@far.example")
    bench.tell(accepted)
    assert not bench.effects(Resolve)
    load(bench, accepted)
    assert len(bench.durable(Save)) == 1
    bench.now += 1.0
    bench.accept("third@far.example")
    assert len(bench.effects(Resolve)) == 1


def test_a_clock_that_was_set_back_ends_the_use_of_answers() -> None:
    bench = world(answer((10, "one.example"), seconds=100.0), sessions_per_next_hop=1)
    bench.now -= 1000 * HOUR
    bench.tell(TimePassed())
    bench.accept("other@far.example")
    assert bench.effects(Resolve)


def test_an_answer_that_nobody_asked_for_is_ignored() -> None:
    bench = Bench(Mx())
    bench.tell(answer((10, "one.example")))
    bench.accept("you@far.example")
    assert bench.effects(Resolve)


def test_so_many_lookups_are_on_their_way_and_no_more() -> None:
    bench = Bench(Mx())
    bench.tell(*(bench.mail(f"you@d{number}.example") for number in range(150)))
    asked = [effect.domain for effect in bench.effects(Resolve)]
    assert len(asked) == 100
    bench.tell(*(answer((10, "one.example"), domain=domain) for domain in asked[:30]))
    assert len(bench.effects(Resolve)) == 30


# --- what cannot be reached -------------------------------------------------------------------------------------------


def test_fallback_hosts_come_after_those_of_the_domain() -> None:
    way = Mx(fallback=(SmartHost("last.example", 2525), SmartHost("192.0.2.99")))
    assert hosts(world(answer((10, "one.example")), way=way)) == [
        Host("one.example", "192.0.2.1", 25),
        Host("last.example", None, 2525),
        Host("192.0.2.99", "192.0.2.99", 25),
    ]


@pytest.mark.parametrize("said", NOT_NOW)
def test_where_lookups_fail_the_fallback_hosts_are_all_there_is(said: DomainResolved) -> None:
    assert names(world(said, way=Mx(fallback=(SmartHost("last.example"),)))) == ["last.example"]


def test_what_takes_no_mail_is_not_given_to_the_fallback() -> None:
    bench = world(answer((0, ".")), way=Mx(fallback=(SmartHost("last.example"),)))
    assert bench.durable(Bounce)


def test_problems_of_many_jobs_of_one_mail_are_one_report() -> None:
    bench = Bench(Mx())
    accepted = bench.mail("one@far.example")
    twin: Job = replace(accepted.jobs[0], job_id=9999)
    whole = MailAccepted(accepted.mail, (*accepted.jobs, twin))
    bench.tell(whole)
    bench.tell(answer((0, ".")))
    load(bench, whole)
    assert [type(order) for order in bench.orders.durable] == [Bounce, Forget, Forget]
    assert len(bench.order(Bounce).failures) == 2


def test_fixed_hosts_are_tried_in_their_order() -> None:
    way = FixedHosts((SmartHost("z.example"), SmartHost("a.example", 26), SmartHost("[IPv6:2001:db8::1]")))
    bench = Bench(way)
    bench.accept("you@far.example")
    assert hosts(bench) == [
        Host("z.example", None, 25),
        Host("a.example", None, 26),
        Host("2001:db8::1", "2001:db8::1", 25),
    ]
