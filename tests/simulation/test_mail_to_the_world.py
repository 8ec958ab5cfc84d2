"""Weeks of a relay that finds its way by the DNS, with operators at work: nothing that was accepted is lost.

What lives here: what must be true at the end of such lives, and of some in particular. What does not: the world.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from smtpcore import Mail, MailRefused, MailSent, Verdict
from smtpcore.relay import Action, Delivery, FixedHosts, Mx, Route, RoutingTable, SmartHost, Unroutable

from .wide_world import START, Names, WideWorld, moody_host, moody_names, moody_route
from .world import DAY, HOUR, MINUTE, Host, with_settings


def traffic(world: WideWorld, mails: int) -> None:
    chance = world.chance
    names = ("user", "user", "user", "nobody", "grey", "never-quite")
    for _ in range(mails):
        domains = [f"own{chance.randint(0, 13)}.example" for _ in range(3)]
        recipients = {f"{chance.choice(names)}{chance.randint(0, 9)}@{chance.choice(domains)}" for _ in range(4)}
        sender = chance.choice(("", "me@own2.example", "me@home.example"))
        world.arrive(world.now + chance.uniform(0, 6 * HOUR), sender, sorted(recipients))


def meddle(world: WideWorld, wishes: int) -> None:
    """Operators wish for anything at any time; what they hold they release in the end."""
    chance = world.chance
    for _ in range(wishes):
        action = chance.choice(list(Action))
        mail_ids = sorted({chance.randint(1, 120) for _ in range(chance.randint(1, 20))})
        at = world.now + chance.uniform(0, 12 * HOUR)
        world.wish(at, action, mail_ids)
        if action is Action.HOLD:
            world.wish(at + chance.uniform(0, DAY), Action.RELEASE, mail_ids)
    world.wish(world.now + 3 * DAY, Action.RELEASE, range(1, 2000))


def check_accounts(world: WideWorld) -> None:
    """Every recipient that was ever accepted has met its fate, or was removed, and no fate is met twice."""
    assert not world.spool.mails
    assert not world.spool.jobs
    for key, mail in world.accepted.items():
        confirmed, bounced = world.ledger.confirmed[key], world.spool.bounces[key]
        removed = key[0] in world.removable
        assert confirmed <= 1, f"{key} delivered twice without excuse"
        assert bounced <= 1, f"{key} bounced twice"
        assert world.spool.warnings[key] <= 1, f"{key} warned of twice"
        if mail.reverse_path == "":
            assert not bounced, f"{key}: a bounce of a bounce"
        else:
            assert removed or confirmed + bounced == 1, f"{key}: lost, or both delivered and bounced"
            assert confirmed + bounced <= 1
    assert world.most_sessions <= world.settings.sessions
    assert world.most_jobs <= world.settings.window


@pytest.mark.parametrize("seed", range(120))
def test_nothing_is_lost_in_the_wide_world(seed: int) -> None:
    world = WideWorld(seed, Names(), hosts=moody_host, crash_share=0.05, jumps=True)
    world.names.__dict__.update(moody_names(world.chance).__dict__)
    if seed % 3 == 0:
        world.route = moody_route(world.chance)
        world.relay = world._start()
    traffic(world, 25)
    meddle(world, 10 if seed % 2 else 0)
    world.run()
    check_accounts(world)
    assert world.names.asked


def test_the_wide_world_is_as_wild_as_it_looks() -> None:
    seen: Counter[str] = Counter()
    for seed in range(30):
        world = WideWorld(seed, Names(), hosts=moody_host, crash_share=0.05, jumps=True)
        world.names.__dict__.update(moody_names(world.chance).__dict__)
        traffic(world, 25)
        meddle(world, 10)
        world.run()
        seen["crashes"] += world.crashes
        seen["removed"] += len(world.wide_spool.removed)
        seen["bounced"] += sum(world.spool.bounces.values())
        seen["confirmed"] += sum(world.ledger.confirmed.values())
        seen["hosts"] += len(world.hosts)
    assert seen["crashes"] > 50
    assert seen["removed"] > 20
    assert seen["bounced"] > 100
    assert seen["confirmed"] > 500
    assert seen["hosts"] > 100


# --- lives in particular --------------------------------------------------------------------------------------------


def names_of(domain: str, *hosts: tuple[int, str]) -> Names:
    names = Names(mx={domain: list(hosts)})
    for _, host in hosts:
        names.addresses[host] = ["192.0.2.1"]
    return names


def test_the_next_host_takes_it_in_the_same_attempt() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, dead=[(0.0, 4e9)] if name == "first.example" else [])

    names = names_of("own0.example", (10, "first.example"), (20, "second.example"))
    world = WideWorld(1, names, hosts=hosts)
    for number in range(20):
        world.arrive(world.now, "me@home.example", [f"user{number}@own0.example"])
    start = world.now
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 20
    # Nobody had to wait for another attempt.
    assert world.now - start < 5 * MINUTE


def test_a_host_that_was_set_aside_is_taken_back() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, dead=[(START, START + 10 * MINUTE)] if name == "first.example" else [])

    names = names_of("own0.example", (10, "first.example"), (20, "second.example"))
    world = WideWorld(2, names, hosts=hosts, settings=with_settings(set_aside=HOUR))
    for hour in range(4):
        world.arrive(START + hour * HOUR + 1.0, "me@home.example", [f"user{hour}@own0.example"])
    served: list[str] = []
    deliver = world._report

    def report(host: Host, delivery: Delivery, mail: Mail) -> MailSent | MailRefused:
        served.append(host.name)
        return deliver(host, delivery, mail)

    world._report = report  # type: ignore[method-assign]  # replaced for this test
    world.run()
    assert served[0] == "second.example"
    assert served[-1] == "first.example"


def test_a_domain_that_takes_no_mail_and_one_that_does_not_exist_bounce_at_once() -> None:
    world = WideWorld(3, Names(mx={"null.example": [(0, ".")]}))
    world.arrive(world.now, "me@home.example", ["a@null.example", "b@nowhere.example"])
    start = world.now
    while sum(world.spool.bounces.values()) < 2:
        world._step()
        assert world.now < start + MINUTE
    assert world.crashes == 0


def test_a_dns_that_fails_costs_time_and_nothing_else() -> None:
    names = names_of("own0.example", (10, "mx.own0.example"))
    names.failing["own0.example"] = [(START, START + 5 * HOUR)]
    world = WideWorld(4, names)
    for number in range(10):
        world.arrive(world.now, "", [f"user{number}@own0.example"])
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 10
    # It was not asked for each mail.
    assert names.asked < 60


def test_ten_domains_with_one_provider_share_its_sessions() -> None:
    names = Names(addresses={"mx.provider.example": ["192.0.2.1"]})
    for number in range(10):
        names.mx[f"own{number}.example"] = [(10, "mx.provider.example")]
    settings = with_settings(sessions=20, sessions_per_next_hop=3)
    world = WideWorld(5, names, settings=settings)
    for number in range(200):
        world.arrive(world.now, "me@home.example", [f"user{number}@own{number % 10}.example"])
    world.run()
    check_accounts(world)
    assert world.most_sessions_per_hop <= 3
    assert sum(world.ledger.confirmed.values()) == 200


def test_what_is_held_stays_until_it_is_released() -> None:
    names = names_of("own0.example", (10, "mx.own0.example"))
    world = WideWorld(6, names)
    world.arrive(world.now + 60.0, "me@home.example", ["grey1@own0.example"])
    world.wish(world.now + 120.0, Action.HOLD, [1])
    world.wish(world.now + 10 * HOUR, Action.RELEASE, [1])
    start = world.now
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 1
    assert world.now - start >= 10 * HOUR


def test_retry_wakes_a_host_that_rests() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, dead=[(START, START + 20 * MINUTE)])

    names = names_of("own0.example", (10, "mx.own0.example"))
    settings = with_settings(rest=6 * HOUR, longest_rest=6 * HOUR)
    world = WideWorld(7, names, hosts=hosts, settings=settings)
    world.arrive(world.now, "me@home.example", ["user@own0.example"])
    world.wish(world.now + 30 * MINUTE, Action.RETRY, [1])
    start = world.now
    world.run()
    assert sum(world.ledger.confirmed.values()) == 1
    assert world.now - start < 2 * HOUR


def test_a_domain_that_never_resolves_warns_and_bounces_by_age() -> None:
    names = Names()
    names.failing["own0.example"] = [(0.0, 4e9)]
    world = WideWorld(8, names)
    world.arrive(world.now, "me@home.example", ["user@own0.example"])
    names.mx["home.example"] = [(10, "mx.home.example")]
    names.addresses["mx.home.example"] = ["192.0.2.1"]
    start = world.now
    while not world.spool.bounces:
        world._step()
    assert 2 * DAY <= world.now - start <= 2 * DAY + 4.5 * HOUR
    assert sum(world.spool.warnings.values()) == 1
    world.run()
    check_accounts(world)


def test_a_resolver_that_never_answers_keeps_no_mail_for_ever() -> None:
    names = names_of("own1.example", (10, "mx.own1.example"))
    world = WideWorld(9, names)
    world.hung = {"own0.example"}
    world.arrive(world.now, "me@own1.example", ["user@own0.example", "user@own1.example"])
    world.run()
    check_accounts(world)
    assert [key[1] for key in world.spool.bounces] == ["user@own0.example"]
    assert world.ledger.confirmed[next(iter(world.accepted))[0], "user@own1.example"] == 1


def test_a_slow_host_keeps_no_other_waiting() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, slowness=400.0 if name == "mx.own0.example" else 1.0)

    names = names_of("own0.example", (10, "mx.own0.example"))
    for number in range(1, 5):
        names.mx[f"own{number}.example"] = [(10, f"mx.own{number}.example")]
        names.addresses[f"mx.own{number}.example"] = ["192.0.2.1"]
    world = WideWorld(14, names, hosts=hosts)
    for number in range(50):
        world.arrive(world.now, "", [f"user{number}@own0.example"])
    for number in range(100):
        world.arrive(world.now + 1.0, "", [f"user{number}@own{1 + number % 4}.example"])
    start = world.now
    while sum(n for key, n in world.ledger.confirmed.items() if "own0" not in key[1]) < 100:
        world._step()
        assert world.now < start + 10 * MINUTE
    assert any("own0" in job.domain for job in world.spool.jobs.values())
    world.run()
    check_accounts(world)


@pytest.mark.parametrize("seed", range(10))
def test_routes_that_change_between_restarts_strand_nothing(seed: int) -> None:
    names = Names(addresses={"mx.provider.example": ["192.0.2.1"]})
    for number in range(6):
        names.mx[f"own{number}.example"] = [(10, "mx.provider.example")]
    world = WideWorld(seed, names, hosts=moody_host, crash_share=0.05)
    routes: list[Route] = [
        Mx(),
        SmartHost("smart.example"),
        SmartHost("mx.provider.example"),
        Unroutable("the way is closed for now", Verdict.LATER),
        RoutingTable({".example": FixedHosts((SmartHost("one.example"), SmartHost("two.example")))}),
    ]
    traffic(world, 25)
    for _ in range(20):
        for _ in range(world.chance.randint(1, 30)):
            world._step()
        world.route = world.chance.choice(routes)
        world.restart()
    world.route = Mx()
    world.restart()
    world.run()
    check_accounts(world)


def test_a_route_that_is_opened_by_a_restart_gets_what_was_put_off() -> None:
    world = WideWorld(10, names_of("own0.example", (10, "mx.own0.example")))
    world.route = Unroutable("the way is closed for now", Verdict.LATER)
    world.relay = world._start()
    world.arrive(world.now, "me@home.example", ["user@own0.example"])
    while not any(job.attempts for job in world.spool.jobs.values()):
        world._step()
    world.route = Mx()
    world.restart()
    world.run()
    assert sum(world.ledger.confirmed.values()) == 1


def test_domains_that_move_behind_one_provider_lose_nothing_and_share_its_limit() -> None:
    names = Names(addresses={"mx.provider.example": ["192.0.2.1"]})
    for number in range(6):
        names.mx[f"own{number}.example"] = [(10, f"mx.own{number}.example")]
        names.addresses[f"mx.own{number}.example"] = ["192.0.2.1"]
    settings = with_settings(sessions=20, sessions_per_next_hop=2, idle_seconds=1.0)
    world = WideWorld(11, names, settings=settings)
    for number in range(300):
        world.arrive(START + number * 10.0, "me@home.example", [f"grey{number}@own{number % 6}.example"])
    while world.now < START + 20 * MINUTE:
        world._step()
    for number in range(6):
        names.mx[f"own{number}.example"] = [(10, "mx.provider.example")]
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 300
    assert "mx.provider.example" in world.hosts
    assert world.most_sessions_per_hop <= 2


def test_what_is_held_beyond_its_age_is_tried_before_it_expires() -> None:
    world = WideWorld(12, names_of("own0.example", (10, "mx.own0.example")))
    world.arrive(world.now + 60.0, "me@home.example", ["user@own0.example", "never-quite@own0.example"])
    world.wish(world.now + 60.0, Action.HOLD, [1])
    world.wish(world.now + 10 * DAY, Action.RELEASE, [1])
    names = world.names
    names.failing["own0.example"] = [(START, START + HOUR)]
    names.mx["home.example"] = [(10, "mx.own0.example")]
    world.run()
    check_accounts(world)
    assert world.ledger.confirmed[1, "user@own0.example"] == 1
    assert world.spool.bounces[1, "never-quite@own0.example"] == 1
    assert world.ledger.attempts[1, "never-quite@own0.example"] == 1


def test_a_fallback_that_is_dead_too_costs_time_and_nothing_else() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, dead=[(START, START + (8 * HOUR if name == "last.example" else 30 * DAY))])

    world = WideWorld(13, names_of("own0.example", (10, "mx.own0.example")), hosts=hosts)
    world.route = Mx(fallback=(SmartHost("last.example"),))
    world.relay = world._start()
    for number in range(10):
        world.arrive(world.now, "", [f"user{number}@own0.example"])
    start = world.now
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 10
    assert world.now - start < 16 * HOUR
