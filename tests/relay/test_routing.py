"""Routes: which way a table gives a domain, what a fallback adds to it, and what is refused.

What lives here: ways and tables as values, and what becomes of mail whose way leads nowhere. What does not: hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from smtpcore import ConnectFailed, LocalProtocolError, Verdict
from smtpcore.relay import (
    AnswerKind,
    Attempted,
    Bounce,
    DomainResolved,
    Fate,
    FateKind,
    FixedHosts,
    Forget,
    Host,
    JobsLoaded,
    Lmtp,
    Load,
    LoadDomains,
    Mx,
    MxAnswer,
    NextHop,
    OpenSession,
    Resolve,
    RoutingTable,
    Save,
    SessionEnded,
    SmartHost,
    TimePassed,
    Unroutable,
    Way,
)

from .relay_bench import BUSY, DAY, TAKEN, UNKNOWN, Bench, reported

HUB, LAST, OTHER = SmartHost("hub.example"), SmartHost("last.example", 2525), SmartHost("other.example")


# --- which row --------------------------------------------------------------------------------------------------------

TABLE = RoutingTable(
    {
        "far.example": SmartHost("exact.example"),
        ".far.example": SmartHost("longer.example"),
        ".example": SmartHost("shorter.example"),
        "UPPER.test": SmartHost("upper.example"),
        "[192.0.2.1]": SmartHost("four.example"),
        "[IPv6:2001:DB8::1]": SmartHost("six.example"),
    }
)


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("far.example", "exact.example"),
        ("a.far.example", "longer.example"),
        ("b.a.far.example", "longer.example"),
        ("near.example", "shorter.example"),
        ("upper.test", "upper.example"),
        ("Far.Example", "exact.example"),
        ("[192.0.2.1]", "four.example"),
        ("[ipv6:2001:db8::1]", "six.example"),
    ],
)
def test_the_closest_row_is_the_way(domain: str, host: str) -> None:
    assert TABLE.way(domain) == SmartHost(host)


@pytest.mark.parametrize("domain", ["example", "other.test", "", "[192.0.2.2]", "notfar.exampl"])
def test_what_fits_no_row_goes_where_its_mx_records_say(domain: str) -> None:
    assert TABLE.way(domain) == Mx()


def test_a_row_for_everything_takes_the_rest_even_literals() -> None:
    table = RoutingTable({"*": HUB, ".example": OTHER})
    assert [table.way(domain) for domain in ("a.test", "", "[192.0.2.1]")] == [HUB] * 3
    assert table.way("a.example") == OTHER


def test_suffixes_do_not_reach_into_literals() -> None:
    assert RoutingTable({".1": HUB}).way("[192.0.2.1]") == Mx()


@pytest.mark.parametrize(
    "pattern", ["", ".", "..example", "a..example", "*.example", "a b", "[192.0.2.1", "[300.0.2.1]", "[far.example]"]
)
def test_a_row_whose_key_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        RoutingTable({"good.example": HUB, pattern: HUB})
    assert repr(pattern) in str(caught.value)


# --- the fallback -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "with_fallback"),
    [
        (HUB, FixedHosts((HUB,), (LAST,))),
        (LAST, FixedHosts((LAST,))),
        (FixedHosts((HUB, OTHER)), FixedHosts((HUB, OTHER), (LAST,))),
        (FixedHosts((HUB,), (OTHER,)), FixedHosts((HUB,), (OTHER,))),
        (FixedHosts((LAST, OTHER)), FixedHosts((LAST, OTHER))),
        (Mx(), Mx(fallback=(LAST,))),
        (Mx(26, (OTHER,)), Mx(26, (OTHER,))),
        (Unroutable("closed"), Unroutable("closed")),
    ],
)
def test_the_fallback_comes_after_the_hosts_of_every_way(way: Way, with_fallback: Way) -> None:
    assert RoutingTable({"far.example": way}, fallback=(LAST,)).way("far.example") == with_fallback
    assert RoutingTable({"far.example": way}).way("far.example") == way


def test_what_fits_no_row_has_the_fallback_too() -> None:
    assert RoutingTable({}, fallback=(LAST, HUB)).way("far.example") == Mx(fallback=(LAST, HUB))


# --- ways by themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [HUB, FixedHosts((HUB,)), Mx(), Unroutable("closed")])
def test_a_way_is_the_route_that_has_no_other(way: Way) -> None:
    assert way.way("a.example") is way.way("") is way


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (FixedHosts([HUB], [LAST]), FixedHosts((HUB,), (LAST,))),
        (Mx(fallback=[LAST]), Mx(fallback=(LAST,))),
        (RoutingTable({}, [LAST]).way("far.example"), Mx(fallback=(LAST,))),
    ],
)
def test_hosts_may_come_as_a_list_and_make_the_same_way(given: Way, meant: Way) -> None:
    assert given == meant
    assert hash(given) == hash(meant)


def test_a_way_over_a_list_of_hosts_is_gone() -> None:
    bench = Bench(FixedHosts([HUB], [LAST]))
    bench.accept("you@far.example")
    assert bench.effect(OpenSession).host.name == HUB.host


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedHosts("hub.example"),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: FixedHosts([HUB], HUB),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: Mx(fallback=["hub.example"]),  # type: ignore[list-item]  # a wrong kind, on purpose
        lambda: RoutingTable({}, HUB),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: RoutingTable({"far.example": "hub.example"}),  # type: ignore[dict-item]  # a wrong kind, on purpose
        lambda: RoutingTable(["far.example"]),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: SmartHost(25),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: SmartHost("hub.example", "25"),  # type: ignore[arg-type]  # a wrong kind, on purpose
        lambda: SmartHost("hub.example:25"),
        lambda: SmartHost("::1:x"),
    ],
)
def test_what_is_no_host_and_no_way_is_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(LocalProtocolError, match=r"must be a|a way is a|IPv6 address"):
        make()


@pytest.mark.parametrize("host", ["::1", "2001:db8::25", "fe80::1%eth0", "192.0.2.1", "[IPv6:::1]", "hub.example"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert SmartHost(host).host == host


def test_fixed_hosts_are_some() -> None:
    with pytest.raises(LocalProtocolError, match="at least one"):
        FixedHosts(())


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_mx_hosts_have_a_port(port: int) -> None:
    with pytest.raises(LocalProtocolError, match="from 1 to 65535"):
        Mx(port)


@pytest.mark.parametrize(
    ("way", "status"),
    [
        (Unroutable("closed"), "5.4.4"),
        (Unroutable("closed", Verdict.LATER), "4.4.4"),
        (Unroutable("closed", Verdict.NEVER, "5.1.2"), "5.1.2"),
        (Unroutable("closed", Verdict.LATER, "4.3.2"), "4.3.2"),
    ],
)
def test_no_way_has_a_status_that_fits_its_verdict(way: Unroutable, status: str) -> None:
    assert way.status == status


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict.NEVER, "4.4.4"), (Verdict.LATER, "5.4.4"), (Verdict.DELIVERED, "")]
)
def test_no_way_with_a_status_or_verdict_that_does_not_fit_is_refused(verdict: Verdict, status: str) -> None:
    with pytest.raises(LocalProtocolError):
        Unroutable("closed", verdict, status)


# --- what the machine makes of them -----------------------------------------------------------------------------------


def test_each_domain_goes_its_own_way() -> None:
    bench = Bench(RoutingTable({"far.example": HUB, ".near.example": FixedHosts((OTHER, LAST))}))
    bench.accept("you@far.example", "you@a.near.example", "you@else.example")
    assert [work.host.name for work in bench.effects(OpenSession)] == ["hub.example", "other.example"]
    assert [effect.domain for effect in bench.effects(Resolve)] == ["else.example"]


def test_mail_for_a_domain_that_leads_nowhere_bounces_with_the_words_of_the_row() -> None:
    bench = Bench(RoutingTable({"gone.example": Unroutable("that company is no more", status="5.1.2")}))
    accepted = bench.mail("you@gone.example")
    bench.tell(accepted)
    bench.tell(JobsLoaded(bench.effect(Load).domain, (accepted.mail,), accepted.jobs, True))
    assert [type(order) for order in bench.orders.durable] == [Bounce, Forget]
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, failure.reason, failure.remote_host) == ("5.1.2", "that company is no more", "")


def test_mail_for_a_domain_that_leads_nowhere_for_now_waits_until_it_expires() -> None:
    bench = Bench(Unroutable("closed for the holidays", Verdict.LATER))
    for age, kinds in ((0.0, [Save]), (9 * DAY, [Bounce, Forget])):
        accepted = bench.mail("you@gone.example", age=age)
        bench.tell(accepted)
        bench.tell(JobsLoaded(bench.effect(Load).domain, (accepted.mail,), accepted.jobs, True))
        assert [type(order) for order in bench.orders.durable] == kinds
        assert bench.effects(Attempted) == [] or bench.effect(Attempted).words == "closed for the holidays"


class OwnRoute:
    """A program's own route, which is not always well."""

    def __init__(self, **ways: object) -> None:
        self.ways = ways

    def way(self, domain: str) -> Way:
        return self.ways[domain.partition(".")[0]]  # type: ignore[return-value]  # a wrong kind, on purpose


def test_a_route_that_fails_defers_that_mail_and_no_other() -> None:
    route = OwnRoute(far=HUB, strange="hub.example")
    bench = Bench(route)
    facts = {domain: bench.mail(f"you@{domain}") for domain in ("bad.example", "strange.example", "far.example")}
    bench.tell(*facts.values())
    assert [work.host.name for work in bench.effects(OpenSession)] == ["hub.example"]
    asked = [effect.domain for effect in bench.effects(Load)]
    assert asked == ["bad.example", "strange.example"]
    bench.tell(*(JobsLoaded(domain, (facts[domain].mail,), facts[domain].jobs, True) for domain in asked))
    assert [job.job.attempts for job in bench.durable(Save)] == [1, 1]
    assert [attempt.words for attempt in bench.effects(Attempted)] == [
        "the route failed for the domain bad.example",
        "the route failed for the domain strange.example",
    ]
    # Once it is mended, the mail goes.
    route.ways["bad"] = OTHER
    bench.now += 5 * 60.0
    again = replace(facts["bad.example"].jobs[0], attempts=1)
    bench.tell(replace(facts["bad.example"], jobs=(again,)))
    assert bench.effect(OpenSession).host.name == "other.example"


def test_a_sender_is_told_in_the_end_how_the_route_failed() -> None:
    bench = Bench(OwnRoute())
    accepted = bench.mail("you@bad.example", age=9 * DAY)
    bench.tell(accepted)
    bench.tell(JobsLoaded(bench.effect(Load).domain, (accepted.mail,), accepted.jobs, True))
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, failure.reason) == ("4.4.7", "the route failed for the domain bad.example")


@pytest.mark.parametrize("later", [{}, {"far": HUB}], ids=["fails", "leads elsewhere"])
def test_a_route_that_changes_while_a_domain_is_looked_up_strands_nothing(later: dict[str, object]) -> None:
    route = OwnRoute(far=Mx())
    bench = Bench(route)
    accepted = bench.mail("you@far.example")
    bench.tell(accepted)
    assert bench.effect(Resolve).domain == "far.example"
    route.ways = later
    bench.tell(DomainResolved("far.example", MxAnswer(AnswerKind.NO_DATA), (), 60.0))
    assert bench.effect(Load).domain == "far.example"
    bench.tell(JobsLoaded("far.example", (accepted.mail,), accepted.jobs, True))
    assert bool(bench.work) is bool(later)
    assert bool(bench.durable(Save)) is not bool(later)
    bench.now += 2000.0
    bench.tell(TimePassed())
    assert bench.relay.wake_at is None or bench.relay.wake_at > bench.now


@pytest.mark.parametrize("literal", ["[300.0.2.1]", "[far.example]", "[]", "[IPv6:]"])
def test_a_literal_of_no_address_is_refused(literal: str) -> None:
    bench = Bench(Mx())
    accepted = bench.mail("you@far.example")
    strange = replace(accepted.jobs[0], domain=literal)
    bench.tell(replace(accepted, jobs=(strange,)))
    bench.tell(JobsLoaded(bench.effect(Load).domain, (accepted.mail,), (strange,), True))
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, failure.reason) == ("5.1.2", f"{literal} is not the literal of an address")
    assert not bench.work


# --- stores of mailboxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "host", "next_hop"),
    [
        (
            Lmtp("store.example"),
            Host("store.example", None, 24, lmtp=True),
            NextHop("store.example", 24, lmtp=True),
        ),
        (Lmtp("::1", 2424), Host("::1", "::1", 2424, lmtp=True), NextHop("::1", 2424, lmtp=True)),
        (
            Lmtp(path="/run/lmtp"),
            Host("", None, 0, lmtp=True, path="/run/lmtp"),
            NextHop("", 0, lmtp=True, path="/run/lmtp"),
        ),
    ],
    ids=["name", "address", "unix socket"],
)
def test_mail_goes_to_a_store_of_mailboxes_by_lmtp(store: Lmtp, host: Host, next_hop: NextHop) -> None:
    bench = Bench(RoutingTable({"home.example": store, "*": SmartHost("store.example", 24)}))
    bench.accept("you@home.example")
    assert bench.effect(OpenSession).host == host
    assert bench.effect(OpenSession).delivery.next_hop == next_hop
    # SMTP at the same place is another next hop, with sessions of its own.
    bench.accept("you@far.example")
    assert bench.effect(OpenSession).host == Host("store.example", None, 24)


def test_a_store_of_mailboxes_takes_everything_as_the_route_itself() -> None:
    bench = Bench(Lmtp("store.example"))
    bench.accept("you@home.example")
    assert bench.effect(OpenSession).host.lmtp


def test_mail_waits_for_its_mailbox_and_takes_no_fallback() -> None:
    bench = Bench(RoutingTable({"*": Lmtp(path="/run/lmtp")}, fallback=(LAST,)))
    bench.accept("you@home.example")
    bench.tell(SessionEnded(bench.effect(OpenSession).session_id, ConnectFailed("there is no such socket")))
    assert not bench.work
    (attempt,) = bench.effects(Attempted)
    assert attempt.words == "there is no such socket"
    bench.now = attempt.due_at + 1
    bench.tell(replace(bench.mail("other@home.example"), jobs=()))
    assert bench.effects(LoadDomains)


def test_what_a_store_answers_for_each_recipient_is_their_fate() -> None:
    bench = Bench(Lmtp(path="/run/lmtp"))
    bench.accept("anna@home.example", "boris@home.example", "clara@home.example")
    bench.tell(reported(bench.effect(OpenSession), TAKEN, UNKNOWN, BUSY))
    assert [(fate.recipient, fate.kind) for fate in bench.effects(Fate)] == [
        ("anna@home.example", FateKind.DELIVERED),
        ("boris@home.example", FateKind.BOUNCED),
    ]
    assert [left.address for left in bench.order(Save).job.recipients] == ["clara@home.example"]
    (failure,) = bench.order(Bounce).failures
    assert failure.remote_host == ""


@pytest.mark.parametrize(
    "wrong",
    [
        Lmtp,
        lambda: Lmtp("store.example", path="/run/lmtp"),
        lambda: Lmtp("store.example", 25),
        lambda: Lmtp("no host"),
        lambda: Lmtp("store.example", 0),
        lambda: Lmtp(path="/run/\0"),
        lambda: Lmtp(path=Path("/run/lmtp")),  # type: ignore[arg-type]  # a wrong kind, on purpose
    ],
)
def test_what_is_no_store_is_refused(wrong: Callable[[], Lmtp]) -> None:
    with pytest.raises(LocalProtocolError):
        wrong()


def test_next_hops_and_hosts_are_shown_by_name_address_and_port() -> None:
    assert str(NextHop("hub.example", 25, ("1 last.example:25",))) == "hub.example:25"
    assert str(Host("hub.example", None, 25)) == "hub.example:25"
    assert str(Host("hub.example", "192.0.2.7", 26)) == "hub.example (192.0.2.7):26"
    assert str(Host("192.0.2.7", "192.0.2.7", 26)) == "192.0.2.7:26"
    assert str(NextHop("store.example", 24, lmtp=True)) == "lmtp:store.example:24"
    assert str(Host("", None, 0, lmtp=True, path="/run/lmtp")) == "lmtp:/run/lmtp"
