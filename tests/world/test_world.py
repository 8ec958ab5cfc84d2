"""Mail to the world, from the spool through the DNS to hosts of which some are dead, silent or rude.

What lives here: where mail arrives and what becomes of it. What does not: the rules one by one (``relay``), and lookups
(``drivers/test_resolver.py``).
"""

from __future__ import annotations

import email
import email.policy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpcore.relay import FateKind, Mx, Route, RoutingTable, SmartHost, Unroutable

from ..drivers.name_server import Fault
from ..drivers.peers import server_context
from .hosts import Host, Mood
from .relaying import SOON, Relaying, World

Relay = Callable[..., Relaying]

A, B, C, D, E = (f"127.0.0.{number}" for number in range(10, 15))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "spool") as running:
        yield running


@pytest.fixture(params=["asyncio", "trio", "threads"])
def relay(request: pytest.FixtureRequest, world: World) -> Relay:
    return lambda route=None, **settings: Relaying(world, request.param, route, **settings)


def bounce_in(host: Host) -> Any:
    """The delivery status of the one bounce that a host has taken."""
    ((_, _, content),) = [mail for mail in host.taken if mail[0] == ""]
    message: Any = email.message_from_bytes(content, policy=email.policy.default)
    return list(message.iter_parts())[1].get_payload()[1]


# --- which host -----------------------------------------------------------------------------------------------------


def test_the_preferred_host_gets_it(world: World, relay: Relay) -> None:
    a, b = world.hosts.add(A, B)
    world.mx("one.example", A, B)
    world.queue("u@one.example", "v@One.EXAMPLE")
    with relay() as running:
        running.until_settled("u@one.example", "v@One.EXAMPLE")
    assert a.recipients == ["u@one.example", "v@One.EXAMPLE"] or a.recipients == ["v@One.EXAMPLE", "u@one.example"]
    assert b.connections == 0


def test_hosts_of_equal_preference_share_the_load(world: World, relay: Relay) -> None:
    hosts = world.hosts.add(A, B)
    recipients = [f"u@d{number}.example" for number in range(24)]
    for number, recipient in enumerate(recipients):
        world.mx(f"d{number}.example", A, f"={B}")
        world.queue(recipient)
    with relay(mails_per_session=1) as running:
        running.until_settled(*recipients)
    assert sorted(recipient for host in hosts for recipient in host.recipients) == sorted(recipients)
    assert all(host.taken for host in hosts)


@pytest.mark.parametrize("mood", [None, Mood.REFUSING, Mood.BUSY, Mood.SILENT], ids=str)
def test_the_next_host_is_tried_in_the_same_attempt(world: World, relay: Relay, mood: Mood | None) -> None:
    if mood is not None:
        world.hosts.add(A, mood=mood)
    if mood is Mood.SILENT:
        world.greeting_seconds = SOON
    (b,) = world.hosts.add(B)
    world.mx("one.example", A, B)
    world.queue("u@one.example")
    with relay() as running:
        running.until_settled("u@one.example")
    assert b.recipients == ["u@one.example"]
    assert running.deferrals == []


def test_host_after_host_is_tried_in_the_same_attempt(world: World, relay: Relay) -> None:
    refusing, busy, silent, fine = (
        *world.hosts.add(B, mood=Mood.REFUSING), *world.hosts.add(C, mood=Mood.BUSY),
        *world.hosts.add(D, mood=Mood.SILENT), *world.hosts.add(E),
    )  # fmt: skip
    world.greeting_seconds = SOON
    world.mx("one.example", A, B, C, D, E)
    world.queue("u@one.example")
    with relay() as running:
        running.until_settled("u@one.example")
    assert fine.recipients == ["u@one.example"]
    assert [host.connections for host in (refusing, busy, silent)] == [1, 1, 1]
    assert running.deferrals == []


def test_what_a_host_says_of_a_recipient_is_final(world: World, relay: Relay) -> None:
    home, a, b = world.hosts.add(C, A, B)
    world.mx("home.example", C)
    world.mx("one.example", A, B)
    world.queue("nobody@one.example", "u@one.example", sender="me@home.example")
    with relay() as running:
        running.until_settled("nobody@one.example", "u@one.example", "me@home.example")
    assert running.kinds(["nobody@one.example", "u@one.example"]) == [FateKind.BOUNCED, FateKind.DELIVERED]
    assert a.recipients == ["u@one.example"]
    assert b.connections == 0
    assert bounce_in(home)["Diagnostic-Code"] == "smtp; 550 5.1.1 nobody of that name"


def test_when_all_hosts_fail_mail_is_deferred_until_one_is_back(world: World, relay: Relay) -> None:
    a, b = world.hosts.add(A, mood=Mood.REFUSING) + world.hosts.add(B, mood=Mood.BUSY)
    world.mx("one.example", A, B)
    world.queue("u@one.example")
    with relay() as running:
        running.until(lambda: running.deferrals, "a deferral")
        assert (a.connections, b.connections) == (1, 1)
        b.mood = Mood.FINE
        running.until_settled("u@one.example")
    assert b.recipients == ["u@one.example"]
    assert [deferral.attempts for deferral in running.deferrals] == list(range(1, len(running.deferrals) + 1))
    assert {fate.kind for fate in running.fates} == {FateKind.DELIVERED}


def test_a_host_that_failed_is_set_aside_and_taken_back(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A, mood=Mood.REFUSING)
    (b,) = world.hosts.add(B)
    world.mx("one.example", A, B)
    world.queue("first@one.example")
    with relay(idle_seconds=0.01) as running:
        running.until_settled("first@one.example")
        a.mood = Mood.FINE
        for number in range(200):
            world.queue(f"u{number}@one.example")
            running.until_settled(f"u{number}@one.example")
            if a.taken:
                break
    assert "first@one.example" in b.recipients
    assert a.recipients == [f"u{number}@one.example"]


def test_a_set_aside_host_is_not_asked_meanwhile(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A, mood=Mood.REFUSING)
    (b,) = world.hosts.add(B)
    world.mx("one.example", A, B)
    world.queue("first@one.example")
    with relay(idle_seconds=0.01, set_aside=3600.0) as running:
        running.until_settled("first@one.example")
        for number in range(5):
            running.until(lambda: b.open == 0, "the end of the session")
            world.queue(f"u{number}@one.example")
            running.until_settled(f"u{number}@one.example")
    assert a.connections == 1
    assert len(b.taken) == 6


def test_mail_is_encrypted_where_it_can_be_whoever_the_host_is(world: World, relay: Relay) -> None:
    """Between hosts of the world nobody checks names: RFC 7435."""
    (a,) = world.hosts.add(A)
    a.tls = server_context("wrong host")
    world.mx("one.example", A)
    world.queue("u@one.example")
    with relay() as running:
        running.until_settled("u@one.example")
    assert a.encrypted == [True]


def test_mail_does_not_go_in_a_circle(world: World, relay: Relay) -> None:
    """RFC 5321 §5.1: where this relay is an MX host itself, only better ones are given mail."""
    better, worse = world.hosts.add(A, C)
    world.mx("one.example", A, B, C)
    world.mx("two.example", B, C)
    world.queue("u@one.example", "u@two.example")
    with relay(own_names=(f"host-{B.replace('.', '-')}.example",)) as running:
        running.until_settled("u@one.example", "u@two.example")
    assert better.recipients == ["u@one.example"]
    assert worse.connections == 0


def test_whatever_hosts_and_names_do_every_mail_arrives_once(world: World, relay: Relay) -> None:
    world.greeting_seconds = world.lookup_seconds = SOON / 3
    dice = random.Random(3)
    addresses = [A, B, C, D, E]
    hosts = world.hosts.add(*addresses)
    domains = [f"d{number}.example" for number in range(15)]
    for domain in domains:
        chosen = dice.sample(addresses, dice.randint(1, 4))
        world.mx(domain, *(f"={address}" if dice.random() < 0.3 else address for address in chosen))
    recipients = [f"u{number}@{dice.choice(domains)}" for number in range(60)]
    for recipient in recipients:
        world.queue(recipient)

    def stir() -> None:
        dice.choice(hosts).mood = dice.choice([Mood.FINE, Mood.REFUSING, Mood.BUSY, Mood.SILENT])
        world.names.faults[dice.choice(domains)] = dice.choice([Fault.SERVFAIL, Fault.SILENCE, Fault.TRUNCATED])

    def stirred_enough() -> bool:
        stir()
        return len(running.deferrals) >= 40 or len(running.fates) == len(recipients)

    for host in hosts:
        host.mood = Mood.REFUSING
    with relay() as running:
        running.until(stirred_enough)
        for host in hosts:
            host.mood = Mood.FINE
        world.names.faults.clear()
        running.until_settled(*recipients)
    assert running.deferrals
    assert sorted(recipient for host in hosts for recipient in host.recipients) == sorted(recipients)
    assert sorted(fate.recipient for fate in running.fates) == sorted(recipients)


# --- what names say -------------------------------------------------------------------------------------------------


def test_without_mx_the_domain_itself_is_the_host(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A)
    world.names.zone["one.example"] = {"A": [A]}
    world.queue("u@one.example")
    with relay() as running:
        running.until_settled("u@one.example")
    assert a.recipients == ["u@one.example"]


def test_the_next_address_of_a_host_is_tried_in_the_same_attempt(world: World, relay: Relay) -> None:
    (b,) = world.hosts.add(B)
    world.names.zone["one.example"] = {"MX": ["10 mx.one.example."]}
    world.names.zone["mx.one.example"] = {"AAAA": ["::1"], "A": [A, B]}
    world.queue("u@one.example")
    with relay() as running:
        running.until_settled("u@one.example")
    assert b.recipients == ["u@one.example"]
    assert running.deferrals == []


def test_an_address_counts_when_the_other_family_cannot_be_looked_up(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A)
    world.names.zone["one.example"] = {"MX": ["10 mx.one.example."]}
    world.names.zone["mx.one.example"] = {"A": [A]}
    world.names.faults["mx.one.example", "AAAA"] = Fault.SERVFAIL
    world.queue("u@one.example")
    with relay() as running:
        running.until_settled("u@one.example")
    assert a.recipients == ["u@one.example"]
    assert running.deferrals == []


def test_an_alias_is_followed(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A)
    world.mx("true.example", A)
    world.names.zone["alias.example"] = {"CNAME": ["true.example."]}
    world.queue("u@alias.example")
    with relay() as running:
        running.until_settled("u@alias.example")
    assert a.recipients == ["u@alias.example"], "the recipient's domain stays as it was written"


def test_a_domain_that_moves_is_found_again(world: World, relay: Relay) -> None:
    a, b = world.hosts.add(A, B)
    world.mx("one.example", A)
    world.queue("first@one.example")
    with relay(idle_seconds=0.01) as running:
        running.until_settled("first@one.example")
        world.mx("one.example", B)
        for number in range(200):
            world.queue(f"u{number}@one.example")
            running.until_settled(f"u{number}@one.example")
            if b.taken:
                break
    assert "first@one.example" in a.recipients
    assert b.recipients == [f"u{number}@one.example"]


def test_address_literals_need_no_names(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A)
    world.queue(f"u@[{A}]")
    with relay() as running:
        running.until_settled(f"u@[{A}]")
    assert a.recipients == [f"u@[{A}]"]
    assert world.names.asked == []


@pytest.mark.parametrize(
    ("domain", "status"),
    # RFC 7505 §4.2 for the null MX, RFC 3463 §3.2 for the others.
    [("null.example", "5.1.10"), ("nowhere.example", "5.1.2"), ("empty.example", "5.1.2")],
)
def test_mail_to_where_no_mail_can_go_bounces_at_once(world: World, relay: Relay, domain: str, status: str) -> None:
    (home,) = world.hosts.add(A)
    world.mx("home.example", A)
    world.names.zone.update({"null.example": {"MX": ["0 ."], "A": [A]}, "empty.example": {}})
    world.queue(f"u@{domain}", sender="me@home.example")
    with relay() as running:
        running.until_settled(f"u@{domain}", "me@home.example")
    assert running.kinds([f"u@{domain}"]) == [FateKind.BOUNCED]
    assert running.deferrals == []
    assert home.recipients == ["me@home.example"]
    report = bounce_in(home)
    assert report["Final-Recipient"] == f"rfc822; u@{domain}"
    assert report["Status"] == status


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.SILENCE, Fault.GARBAGE], ids=lambda fault: fault.name)
def test_mail_waits_for_names_to_be_mended(world: World, relay: Relay, fault: Fault) -> None:
    (a,) = world.hosts.add(A)
    world.mx("one.example", A)
    world.names.faults["one.example"] = fault
    world.lookup_seconds = SOON
    world.queue("u@one.example")
    with relay() as running:
        running.until(lambda: running.deferrals, "a deferral")
        assert a.connections == 0
        world.names.faults.clear()
        running.until_settled("u@one.example")
    assert a.recipients == ["u@one.example"]
    assert "one.example" in running.deferrals[0].words


def test_aliases_in_a_circle_defer(world: World, relay: Relay) -> None:
    world.names.zone.update({"x.example": {"CNAME": ["y.example."]}, "y.example": {"CNAME": ["x.example."]}})
    world.queue("u@x.example")
    with relay() as running:
        running.until(lambda: running.deferrals, "a deferral")
    assert "circle" in running.deferrals[0].words


def test_names_that_cannot_be_looked_up_hold_nobody_else_up(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A)
    world.lookup_seconds = SOON
    recipients = [f"u@d{number}.example" for number in range(20)]
    for number, recipient in enumerate(recipients):
        world.mx(f"d{number}.example", A)
        world.queue(recipient)
        if number % 2:
            world.names.faults[f"d{number}.example"] = Fault.SILENCE
    with relay() as running:
        running.until_settled(*recipients[::2])
    assert a.recipients == sorted(recipients[::2])


# --- routes ---------------------------------------------------------------------------------------------------------


def test_rows_of_a_routing_table(world: World, relay: Relay) -> None:
    smart, mx, home = world.hosts.add(A, B, C)
    for domain in ("one.example", "x.below.example", "below.example", "shut.example"):
        world.mx(domain, B)
    world.mx("home.example", C)
    port = world.hosts.port
    table = RoutingTable(
        {
            "one.example": SmartHost(A, port),
            ".below.example": SmartHost(A, port),
            "shut.example": Unroutable("we do not write to them", status="5.7.1"),
            "*": Mx(port),
        }
    )
    recipients = ["u@one.example", "u@x.below.example", "u@below.example", "u@shut.example"]
    world.queue(*recipients, sender="me@home.example")
    with relay(table) as running:
        running.until_settled(*recipients, "me@home.example")
    assert smart.recipients == ["u@one.example", "u@x.below.example"]
    assert mx.recipients == ["u@below.example"]
    assert bounce_in(home)["Final-Recipient"] == "rfc822; u@shut.example"
    assert bounce_in(home)["Status"] == "5.7.1"


@pytest.mark.parametrize("why", ["no host listens", "no answer of the name server"])
def test_a_fallback_relay_takes_what_finds_no_way(world: World, relay: Relay, why: str) -> None:
    (fallback,) = world.hosts.add(E)
    world.mx("one.example", A, B)
    if why != "no host listens":
        world.names.faults["one.example"] = Fault.SERVFAIL
    world.queue("u@one.example")
    route: Route = Mx(world.hosts.port, fallback=(SmartHost(E, world.hosts.port),))
    with relay(route) as running:
        running.until_settled("u@one.example")
    assert fallback.recipients == ["u@one.example"]
    assert running.deferrals == []


def test_a_fallback_relay_does_not_take_what_must_not_go(world: World, relay: Relay) -> None:
    (fallback,) = world.hosts.add(E)
    world.names.zone["null.example"] = {"MX": ["0 ."]}
    world.queue("u@null.example")
    with relay(Mx(world.hosts.port, fallback=(SmartHost(E, world.hosts.port),))) as running:
        running.until_settled("u@null.example")
    assert fallback.connections == 0


# --- destinations ---------------------------------------------------------------------------------------------------


def test_domains_of_one_provider_share_its_sessions(world: World, relay: Relay) -> None:
    a, b = world.hosts.add(A, B)
    recipients = [f"u@customer{number}.example" for number in range(10)]
    for number, recipient in enumerate(recipients):
        world.mx(f"customer{number}.example", A, B)
        world.queue(recipient)
    a.gate.clear()
    with relay(sessions_per_next_hop=2) as running:
        running.until(lambda: a.open == 2, "two sessions")
        a.gate.set()
        running.until_settled(*recipients)
    assert a.recipients == sorted(recipients)
    assert a.most_open == 2
    assert b.connections == 0


def test_recipients_at_one_provider_share_a_transaction(world: World, relay: Relay) -> None:
    (a,) = world.hosts.add(A)
    recipients = [f"u@customer{number}.example" for number in range(10)]
    for number in range(10):
        world.mx(f"customer{number}.example", A)
    # Another mail first, so that the ways are known.
    world.queue(*recipients)
    with relay() as running:
        running.until_settled(*recipients)
    assert a.recipients == sorted(recipients)
