"""Lookups for mail to the world, against a real name server, on threads, asyncio and trio.

What lives here: what is asked, and what is made of every answer and of none. What does not: what it means for mail
(``relay``), and deliveries (``world``).
"""

from __future__ import annotations

import ast
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import dns.resolver
import pytest

from smtpcore import LocalProtocolError
from smtpcore.drivers.resolver import AsyncResolver, Resolver, ResolverSettings
from smtpcore.relay import AddressAnswer, AnswerKind, DomainResolved, MxRecord

from .name_server import Fault, NameServer

Resolve = Callable[..., list[DomainResolved]]

ZONE = {
    "a.example": {"MX": ["300 20 mx2.a.example.", "300 10 MX1.A.example."]},
    "mx1.a.example": {"A": ["900 127.0.0.2"], "AAAA": ["900 ::2"]},
    "mx2.a.example": {"A": ["900 127.0.0.3", "900 127.0.0.4"]},
    "hostonly.example": {"A": ["600 127.0.0.5"], "AAAA": ["700 ::5"]},
    "null.example": {"MX": ["0 ."]},
    "empty.example": {},
}


def _blocking(settings: ResolverSettings, *domains: str) -> list[DomainResolved]:
    one = Resolver(settings)
    return [one.resolve(domain) for domain in domains]


def _on(backend: str) -> Resolve:
    def resolve(settings: ResolverSettings, *domains: str) -> list[DomainResolved]:
        async def main() -> list[DomainResolved]:
            one = AsyncResolver(settings)
            return [await one.resolve(domain) for domain in domains]

        return anyio.run(main, backend=backend)

    return resolve


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def resolve(request: pytest.FixtureRequest) -> Resolve:
    return _blocking if request.param == "blocking" else _on(request.param)


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer(ZONE) as running:
        yield running


def settings(server: NameServer, **values: Any) -> ResolverSettings:
    quick = {"query_seconds": 0.3, "lookup_seconds": 0.6, "total_seconds": 2.0}
    return ResolverSettings(name_servers=[server.address], port=server.port, **{**quick, **values})


#: Longer than any machine takes when nobody is silent.
PATIENT = {"query_seconds": 20.0, "lookup_seconds": 30.0, "total_seconds": 60.0}


def answers(resolved: DomainResolved) -> dict[str, AddressAnswer]:
    return dict(resolved.addresses)


def addresses(resolved: DomainResolved) -> dict[str, tuple[str, ...]]:
    return {host: answer.addresses for host, answer in resolved.addresses}


# --- what there is ---------------------------------------------------------------------------------------------------


def test_mx_hosts_come_with_their_addresses(resolve: Resolve, server: NameServer) -> None:
    (resolved,) = resolve(settings(server, **PATIENT), "A.Example")
    assert resolved.domain == "A.Example"
    assert resolved.mx.kind is AnswerKind.RECORDS
    assert set(resolved.mx.records) == {MxRecord(10, "mx1.a.example"), MxRecord(20, "mx2.a.example")}
    assert {host: set(found) for host, found in addresses(resolved).items()} == {
        "mx1.a.example": {"127.0.0.2", "::2"},
        "mx2.a.example": {"127.0.0.3", "127.0.0.4"},
    }
    assert 290 <= resolved.seconds <= 300


def test_without_mx_the_domain_itself_is_looked_up(resolve: Resolve, server: NameServer) -> None:
    (resolved,) = resolve(settings(server, **PATIENT), "hostonly.example")
    assert resolved.mx.kind is AnswerKind.NO_DATA
    assert set(addresses(resolved)["hostonly.example"]) == {"127.0.0.5", "::5"}
    assert 290 <= resolved.seconds <= 300, "the negative answer holds for the seconds of its SOA record"


def test_a_null_mx_is_passed_on(resolve: Resolve, server: NameServer) -> None:
    (resolved,) = resolve(settings(server, **PATIENT), "null.example")
    assert resolved.mx.records == (MxRecord(0, "."),)
    assert resolved.addresses == ()
    assert len(server.asked) == 1


def test_what_does_not_exist_what_has_no_data_and_what_failed_are_different_facts(
    resolve: Resolve, server: NameServer
) -> None:
    server.faults["broken.example"] = Fault.SERVFAIL
    nowhere, empty, broken = resolve(settings(server, **PATIENT), "nowhere.example", "empty.example", "broken.example")
    assert nowhere.mx.kind is AnswerKind.NO_NAME
    assert nowhere.addresses == ()
    assert empty.mx.kind is AnswerKind.NO_DATA
    assert answers(empty)["empty.example"].kind is AnswerKind.NO_DATA
    assert broken.mx.kind is AnswerKind.FAILURE
    assert broken.addresses == ()
    assert "SERVFAIL" in broken.mx.problem
    assert "127.0.0.1" in broken.mx.problem
    assert broken.seconds == 60


def test_no_data_needs_no_soa_record(resolve: Resolve, server: NameServer) -> None:
    server.negative_seconds = None
    (resolved,) = resolve(settings(server, **PATIENT), "empty.example")
    assert resolved.mx.kind is AnswerKind.NO_DATA


def test_addresses_of_one_family_count_when_the_other_cannot_be_looked_up(resolve: Resolve, server: NameServer) -> None:
    server.faults["mx1.a.example", "AAAA"] = Fault.SERVFAIL
    server.faults["mx2.a.example", "A"] = Fault.SERVFAIL
    (resolved,) = resolve(settings(server, **PATIENT), "a.example")
    assert answers(resolved)["mx1.a.example"] == AddressAnswer(AnswerKind.RECORDS, ("127.0.0.2",))
    failed = answers(resolved)["mx2.a.example"]
    assert failed.kind is AnswerKind.FAILURE, "that it has no AAAA record does not mean that it has no address"
    assert "SERVFAIL" in failed.problem
    assert resolved.seconds == 60, "what failed is asked again soon"


def test_an_mx_host_that_does_not_exist_is_said_to(resolve: Resolve, server: NameServer) -> None:
    server.zone["b.example"] = {"MX": ["1 gone.example.", "2 empty.example."]}
    (resolved,) = resolve(settings(server, **PATIENT), "b.example")
    assert answers(resolved)["gone.example"].kind is AnswerKind.NO_NAME
    assert answers(resolved)["empty.example"].kind is AnswerKind.NO_DATA


def test_only_so_many_hosts_are_looked_up(resolve: Resolve, server: NameServer) -> None:
    server.zone["many.example"] = {"MX": [f"{30 - number} mx{number}.many.example." for number in range(30)]}
    (resolved,) = resolve(settings(server, **PATIENT, hosts=3), "many.example")
    assert [record.host for record in resolved.mx.records] == [f"mx{n}.many.example" for n in (29, 28, 27)]
    assert set(answers(resolved)) == {"mx29.many.example", "mx28.many.example", "mx27.many.example"}


def test_a_host_that_is_named_twice_is_looked_up_once(resolve: Resolve, server: NameServer) -> None:
    server.zone["twice.example"] = {"MX": ["1 mx2.a.example.", "2 MX2.a.example."]}
    (resolved,) = resolve(settings(server, **PATIENT), "twice.example")
    assert len(resolved.mx.records) == 2
    assert server.questions("mx2.a.example", "A") == 1


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_absolute(resolve: Resolve, server: NameServer) -> None:
    (resolved,) = resolve(settings(server, **PATIENT), "nowhere")
    assert resolved.mx.kind is AnswerKind.NO_NAME
    assert server.asked == [("udp", "nowhere", "MX")]


def test_names_beyond_ascii_are_asked_for_as_a_labels(resolve: Resolve, server: NameServer) -> None:
    server.zone["xn--strae-oqa.example"] = {"MX": ["10 mx2.a.example."]}
    (resolved,) = resolve(settings(server, **PATIENT), "Straße.example")
    assert resolved.mx.records == (MxRecord(10, "mx2.a.example"),)


@pytest.mark.parametrize("domain", ["", ".", "@", "a..example", "x" * 64 + ".example", ".".join(["x" * 50] * 5) + ".x"])
def test_what_can_be_no_name_is_not_asked_for(resolve: Resolve, server: NameServer, domain: str) -> None:
    (resolved,) = resolve(settings(server), domain)
    assert resolved.domain == domain
    assert resolved.mx.kind is AnswerKind.NO_NAME
    assert resolved.mx.problem
    assert server.asked == []


# --- aliases ---------------------------------------------------------------------------------------------------------


def _chain(length: int, end: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    links = {f"alias{n}.example": {"CNAME": [f"alias{n + 1}.example."]} for n in range(length)}
    return {**links, f"alias{length}.example": end}


@pytest.mark.parametrize("alone", [False, True], ids=["in one answer", "by further questions"])
class TestAliases:
    @pytest.fixture(autouse=True)
    def _prepare(self, server: NameServer, alone: bool) -> None:
        if alone:
            server.faults.update({f"alias{number}.example": Fault.ALIAS_ALONE for number in range(40)})

    def test_are_followed(self, resolve: Resolve, server: NameServer) -> None:
        server.zone.update(_chain(8, {"MX": ["10 mx2.a.example."]}))
        (resolved,) = resolve(settings(server, **PATIENT), "alias0.example")
        assert resolved.mx.records == (MxRecord(10, "mx2.a.example"),)

    def test_of_a_host_lead_to_its_addresses(self, resolve: Resolve, server: NameServer) -> None:
        server.zone.update(_chain(2, {"A": ["30 127.0.0.9"]}))
        server.zone["c.example"] = {"MX": ["10 alias0.example."]}
        (resolved,) = resolve(settings(server, **PATIENT, shortest=1), "c.example")
        assert addresses(resolved) == {"alias0.example": ("127.0.0.9",)}
        assert 20 <= resolved.seconds <= 30

    def test_that_lead_to_no_data_do_so(self, resolve: Resolve, server: NameServer) -> None:
        server.zone.update(_chain(2, {"A": ["127.0.0.9"]}))
        (resolved,) = resolve(settings(server, **PATIENT), "alias0.example")
        assert resolved.mx.kind is AnswerKind.NO_DATA
        assert addresses(resolved) == {"alias0.example": ("127.0.0.9",)}
        alone = "alias2.example" in server.faults
        assert server.questions("alias2.example", "MX") == (1 if alone else 0)

    def test_that_lead_nowhere_do_so(self, resolve: Resolve, server: NameServer) -> None:
        server.zone.update(_chain(2, {}))
        del server.zone["alias2.example"]
        (resolved,) = resolve(settings(server, **PATIENT), "alias0.example")
        assert resolved.mx.kind is AnswerKind.NO_NAME

    @pytest.mark.parametrize("length", [9, 18])
    def test_in_too_long_a_chain_are_a_failure(self, resolve: Resolve, server: NameServer, length: int) -> None:
        server.zone.update(_chain(length, {"MX": ["10 mx2.a.example."]}))
        (resolved,) = resolve(settings(server, **PATIENT), "alias0.example")
        assert resolved.mx.kind is AnswerKind.FAILURE
        assert resolved.mx.problem == "alias0.example has a chain of more than 8 aliases"

    def test_in_a_circle_are_a_failure(self, resolve: Resolve, server: NameServer) -> None:
        server.zone.update(_chain(3, {"CNAME": ["alias1.example."]}))
        (resolved,) = resolve(settings(server, **PATIENT), "alias0.example")
        assert resolved.mx.kind is AnswerKind.FAILURE
        assert resolved.mx.problem == "the aliases of alias0.example run in a circle"

    def test_of_themselves_are_a_failure(self, resolve: Resolve, server: NameServer) -> None:
        server.zone["alias0.example"] = {"CNAME": ["alias0.example."]}
        (resolved,) = resolve(settings(server, **PATIENT), "alias0.example")
        assert resolved.mx.problem == "the aliases of alias0.example run in a circle"


# --- the wire --------------------------------------------------------------------------------------------------------


def test_what_is_cut_off_is_asked_for_over_tcp(resolve: Resolve, server: NameServer) -> None:
    server.faults["a.example"] = Fault.TRUNCATED
    (resolved,) = resolve(settings(server, **PATIENT), "a.example")
    assert len(resolved.mx.records) == 2
    assert server.asked[:2] == [("udp", "a.example", "MX"), ("tcp", "a.example", "MX")]


def test_more_than_a_datagram_holds_arrives(resolve: Resolve, server: NameServer) -> None:
    server.zone["big.example"] = {"A": [f"127.1.{n // 250}.{n % 250 + 1}" for n in range(600)]}
    (resolved,) = resolve(settings(server, **PATIENT), "big.example")
    assert len(answers(resolved)["big.example"].addresses) == 600
    assert ("tcp", "big.example", "A") in server.asked, "datagrams stay small enough for every path"


def test_a_server_without_edns_is_asked_without(resolve: Resolve, server: NameServer) -> None:
    server.faults["a.example"] = Fault.NO_EDNS
    (resolved,) = resolve(settings(server, **PATIENT), "a.example")
    assert len(resolved.mx.records) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.SERVFAIL, "SERVFAIL"),
        (Fault.REFUSED, "REFUSED"),
        (Fault.SILENCE, "no answer"),
        (Fault.GARBAGE, "a malformed answer"),
        (Fault.HANG_UP, "a malformed answer"),
    ],
)
def test_every_fault_of_a_server_is_a_failure_that_says_what(
    resolve: Resolve, server: NameServer, fault: Fault, words: str
) -> None:
    server.faults["a.example"] = fault
    (resolved,) = resolve(settings(server), "a.example")
    assert resolved.mx.kind is AnswerKind.FAILURE
    assert f"name server 127.0.0.1@{server.port}: {words}" in resolved.mx.problem


def test_damaged_answers_harm_nobody(resolve: Resolve, server: NameServer) -> None:
    domains = [f"d{number}.example" for number in range(150)]
    for number, domain in enumerate(domains):
        server.zone[domain] = {"MX": [f"10 mx{number}.example.", f"20 alias{number}.example."]}
        server.zone[f"mx{number}.example"] = {"A": ["127.0.0.2"]}
        server.zone[f"alias{number}.example"] = {"CNAME": [f"mx{number}.example."]}
        for name in (domain, f"mx{number}.example", f"alias{number}.example"):
            server.faults[name] = Fault.DAMAGED
    found = resolve(settings(server), *domains)
    kinds = {resolved.mx.kind for resolved in found}
    kinds |= {answer.kind for resolved in found for answer in answers(resolved).values()}
    assert kinds >= {AnswerKind.RECORDS, AnswerKind.FAILURE}


def test_another_server_is_asked_when_one_does_not_answer(resolve: Resolve, server: NameServer) -> None:
    # Nobody listens on the first address, which gives no answer or a refusal.
    patient: dict[str, Any] = {**PATIENT, "query_seconds": 0.3}
    both = ResolverSettings(name_servers=["127.0.0.66", server.address], port=server.port, **patient)
    (resolved,) = resolve(both, "null.example")
    assert resolved.mx.kind is AnswerKind.RECORDS


def test_answers_to_other_questions_are_not_believed(resolve: Resolve, server: NameServer) -> None:
    server.faults["a.example"] = Fault.FORGED
    server.faults["mx1.a.example"] = Fault.FORGED
    (resolved,) = resolve(settings(server, **PATIENT), "a.example")
    assert {record.host for record in resolved.mx.records} == {"mx1.a.example", "mx2.a.example"}
    assert set(addresses(resolved)["mx1.a.example"]) == {"127.0.0.2", "::2"}


def test_addresses_that_nobody_asked_for_are_not_believed(resolve: Resolve, server: NameServer) -> None:
    server.additional = ["mx1.a.example. 60 IN A 127.6.6.6", "mx2.a.example. 60 IN AAAA ::6"]
    (resolved,) = resolve(settings(server, **PATIENT), "a.example")
    assert set(addresses(resolved)["mx1.a.example"]) == {"127.0.0.2", "::2"}
    assert set(addresses(resolved)["mx2.a.example"]) == {"127.0.0.3", "127.0.0.4"}


def test_a_server_that_is_silent_is_asked_again(resolve: Resolve, server: NameServer) -> None:
    server.faults["a.example"] = Fault.SILENCE
    resolve(settings(server, query_seconds=0.1, lookup_seconds=1.5), "a.example")
    assert server.questions("a.example", "MX") >= 2


def test_a_silent_name_leaves_time_for_the_others(resolve: Resolve, server: NameServer) -> None:
    server.faults["mx1.a.example"] = Fault.SILENCE
    (resolved,) = resolve(settings(server, total_seconds=10), "a.example")
    assert answers(resolved)["mx1.a.example"].kind is AnswerKind.FAILURE
    assert answers(resolved)["mx2.a.example"].kind is AnswerKind.RECORDS


def test_all_of_it_has_a_deadline(resolve: Resolve, server: NameServer) -> None:
    server.zone["slow.example"] = {"MX": [f"{n} dead{n}.example." for n in range(16)]}
    server.faults.update({f"dead{n}.example": Fault.SILENCE for n in range(16)})
    # One after the other the lookups would take half an hour.
    patience = settings(server, query_seconds=60, lookup_seconds=60, total_seconds=0.5)
    (resolved,) = resolve(patience, "slow.example")
    assert resolved.mx.kind is AnswerKind.RECORDS
    assert {answer.kind for answer in answers(resolved).values()} == {AnswerKind.FAILURE}
    assert all("time" in answer.problem for answer in answers(resolved).values())


# --- the cache -------------------------------------------------------------------------------------------------------


def test_answers_are_kept_good_and_bad(resolve: Resolve, server: NameServer) -> None:
    domains = ["a.example", "hostonly.example", "nowhere.example"]
    first = resolve(settings(server, **PATIENT), *domains, *domains)
    assert [resolved.mx for resolved in first[:3]] == [resolved.mx for resolved in first[3:]]
    assert [addresses(resolved) for resolved in first[:3]] == [addresses(resolved) for resolved in first[3:]]
    assert len(server.asked) == len(set(server.asked))
    assert 290 <= first[5].seconds <= 300


def test_domains_with_the_same_hosts_share_their_addresses(resolve: Resolve, server: NameServer) -> None:
    domains = [f"customer{number}.example" for number in range(10)]
    server.zone.update({domain: {"MX": ["10 mx1.a.example."]} for domain in domains})
    resolve(settings(server, **PATIENT), *domains)
    assert server.questions("mx1.a.example", "A") == 1


@pytest.mark.parametrize("kind", ["good", "no data", "no name"])
def test_what_may_not_be_kept_is_asked_for_again(resolve: Resolve, server: NameServer, kind: str) -> None:
    server.negative_seconds = 0
    domain = {"good": "brief.example", "no data": "empty.example", "no name": "nowhere.example"}[kind]
    server.zone["brief.example"] = {"MX": ["0 10 mx2.a.example."]}
    resolved, _ = resolve(settings(server, **PATIENT, shortest=7), domain, domain)
    assert server.questions(domain, "MX") == 2
    assert resolved.seconds == 7


def test_failures_are_not_kept(resolve: Resolve, server: NameServer) -> None:
    server.faults["a.example"] = Fault.SERVFAIL
    resolve(settings(server, **PATIENT), "a.example", "a.example")
    assert server.questions("a.example", "MX") == 2


def test_no_zone_stretches_an_answer_beyond_the_bound(resolve: Resolve, server: NameServer) -> None:
    server.zone["long.example"] = {"MX": ["2000000000 10 ever.example."]}
    server.zone["ever.example"] = {"A": ["2000000000 127.0.0.2"], "AAAA": ["2000000000 ::2"]}
    (resolved,) = resolve(settings(server, **PATIENT), "long.example")
    assert resolved.seconds == pytest.approx(86_400, abs=100)


def test_what_is_kept_is_kept_no_longer_than_the_bound(resolve: Resolve, server: NameServer) -> None:
    resolve(settings(server, **PATIENT, shortest=1e-6, longest=1e-6), "a.example", "a.example")
    assert server.questions("a.example", "MX") == 2


def test_the_cache_is_bounded(resolve: Resolve, server: NameServer) -> None:
    domains = ["null.example", "nowhere.example", "nowhere2.example", "null.example"]
    resolve(settings(server, **PATIENT, cache_size=2), *domains)
    assert server.questions("null.example", "MX") == 2


# --- how it runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_leaves_nothing_behind(server: NameServer, backend: str) -> None:
    server.faults["a.example"] = Fault.SILENCE
    before = threading.active_count()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(AsyncResolver(settings(server, **PATIENT)).resolve, "a.example")
            with anyio.fail_after(20):
                while not server.silent.is_set():
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert threading.active_count() == before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_questions_go_together(server: NameServer, backend: str) -> None:
    """While the first host's server is silent, the second host is asked for."""
    server.faults["mx1.a.example"] = Fault.SILENCE

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(AsyncResolver(settings(server, **PATIENT)).resolve, "a.example")
            with anyio.fail_after(15):
                while server.questions("mx2.a.example", "A") == 0 or server.questions("mx1.a.example", "A") == 0:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)


def test_no_threads_are_left(server: NameServer) -> None:
    before = threading.active_count()
    _blocking(settings(server), "a.example", "nowhere.example")
    assert threading.active_count() == before


def test_the_two_faces_are_twins() -> None:
    texts = []
    for face in (Resolver, AsyncResolver):
        tree = ast.parse(inspect.getsource(face))
        calls = [
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        other = {"create_task_group", "start_soon", "get_backend", "sniff", "_look_up"}
        texts.append(sorted(call for call in calls if call not in other))
    assert texts[0] == texts[1]
    assert "answered" in texts[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"port": 0}, "port"),
        ({"port": 70_000}, "port"),
        ({"query_seconds": 0}, "query_seconds"),
        ({"total_seconds": -1.0}, "total_seconds"),
        ({"cache_size": 0}, "cache_size"),
        ({"shortest": 10, "longest": 5}, "longest"),
        ({"name_servers": "127.0.0.1"}, "sequence"),
        ({"name_servers": ["ns.example"]}, "ns.example"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        ResolverSettings(**values)


@pytest.mark.parametrize("face", [Resolver, AsyncResolver])
def test_a_system_without_name_servers_is_told(
    face: type[Resolver | AsyncResolver], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", nothing)
    with pytest.raises(LocalProtocolError, match="name_servers"):
        face()
