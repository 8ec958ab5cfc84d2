"""Weeks of a relay's life in a pretend world: whatever happens, nothing that was accepted is lost.

What lives here: what must be true at the end of every life, and of some lives in particular. What does not: the world.
"""

from __future__ import annotations

import random

import pytest

from smtpcore.relay import Schedule

from .world import DAY, HOUR, MINUTE, Host, World, with_settings


def moody(name: str, chance: random.Random) -> Host:
    """A host with any trouble that hosts have."""
    start = 1_800_000_000.0
    host = Host(name, chance, doubt=chance.choice((0.0, 0.0, 0.1)))
    for _ in range(chance.randint(0, 2)):
        begin = start + chance.uniform(-HOUR, DAY)
        host.dead.append((begin, begin + chance.choice((5 * MINUTE, 3 * HOUR, DAY))))
    if chance.random() < 0.3:
        begin = start + chance.uniform(0, HOUR)
        host.refuses_service.append((begin, begin + 2 * HOUR))
    if chance.random() < 0.3:
        host.mails_per_session = chance.randint(1, 4)
    return host


def traffic(world: World, mails: int) -> None:
    chance = world.chance
    names = ("user", "user", "user", "nobody", "grey", "grey", "never-quite")
    for _ in range(mails):
        domains = [f"{chance.choice(('pool', 'own'))}{chance.randint(0, 6)}.example" for _ in range(3)]
        recipients = {f"{chance.choice(names)}{chance.randint(0, 9)}@{chance.choice(domains)}" for _ in range(4)}
        sender = chance.choice(("", "me@own0.example", "me@home.example", "never-quite@home.example"))
        world.arrive(world.now + chance.uniform(0, 6 * HOUR), sender, sorted(recipients))


def check_accounts(world: World) -> None:
    """Every recipient that was ever accepted has met its fate, and no fate is met twice."""
    assert not world.spool.mails
    assert not world.spool.jobs
    for (mail_id, recipient), mail in world.accepted.items():
        key = (mail_id, recipient)
        confirmed, bounced = world.ledger.confirmed[key], world.spool.bounces[key]
        assert confirmed <= 1, f"{key} delivered twice without excuse"
        assert bounced <= 1, f"{key} bounced twice"
        assert world.spool.warnings[key] <= 1, f"{key} warned of twice"
        if mail.reverse_path == "":
            assert not bounced, f"{key}: a bounce of a bounce"
        else:
            assert confirmed + bounced == 1, f"{key}: lost, or both delivered and bounced"
        if recipient.startswith("nobody"):
            assert not confirmed
    assert world.most_sessions <= world.settings.sessions
    assert world.most_sessions_per_hop <= world.settings.sessions_per_next_hop


@pytest.mark.parametrize("seed", range(240))
def test_nothing_is_lost_whatever_crashes(seed: int) -> None:
    world = World(seed, hosts=moody, crash_share=0.06, jumps=True)
    traffic(world, 25)
    world.run()
    check_accounts(world)
    assert world.commits > 25


def test_the_world_does_crash() -> None:
    crashes = doubts = 0
    for seed in range(20):
        world = World(seed, hosts=moody, crash_share=0.06, jumps=True)
        traffic(world, 25)
        world.run()
        crashes += world.crashes
        doubts += sum(world.ledger.unconfirmed.values())
    assert crashes > 50
    assert doubts > 20


@pytest.mark.parametrize("seed", range(10))
def test_without_crash_or_doubt_each_mail_arrives_once(seed: int) -> None:
    world = World(seed)
    traffic(world, 60)
    world.run()
    check_accounts(world)
    assert not world.ledger.unconfirmed
    assert not world.crashes


@pytest.mark.parametrize("seed", range(10))
def test_restarts_in_good_order_cost_nothing(seed: int) -> None:
    world = World(seed)
    traffic(world, 40)
    for _ in range(30):
        for _ in range(10):
            world._step()
        world.restart()
    world.run()
    check_accounts(world)
    assert not world.ledger.unconfirmed


def test_a_dead_host_starves_nobody() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        dead = [(0.0, 1_800_000_000.0 + 30 * DAY)] if name == "mx.own0.example" else []
        return Host(name, chance, dead=dead)

    world = World(1, hosts=hosts, settings=with_settings(window=50, window_per_next_hop=20))
    for number in range(300):
        world.arrive(world.now, "me@home.example", [f"user{number}@own0.example"])
    for number in range(50):
        world.arrive(world.now + 1, "me@home.example", [f"user{number}@own1.example"])
    start = world.now
    while sum(world.ledger.confirmed.values()) < 50:
        world._step()
        assert world.now < start + 30 * MINUTE
    world.run()
    check_accounts(world)
    assert world.most_jobs <= 50
    # Nobody expires unheard: each of them was tried, or put off with those that were.
    assert sum(world.spool.bounces.values()) == 300


def test_mail_for_a_dead_host_expires_by_age_and_not_before() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, dead=[(0.0, 4e9)] if "own0" in name else [])

    world = World(3, hosts=hosts)
    world.arrive(world.now, "me@home.example", ["user@own0.example"])
    start = world.now
    while not world.spool.bounces:
        world._step()
    assert 2 * DAY <= world.now - start <= 2 * DAY + 4.5 * HOUR
    assert sum(world.spool.warnings.values()) == 1
    world.run()
    check_accounts(world)


def test_a_clock_that_jumps_ahead_expires_nothing_untried() -> None:
    world = World(5)
    world.arrive(world.now, "me@home.example", [f"grey{n}@own{n}.example" for n in range(5)])
    while sum(world.ledger.attempts.values()) < 5:
        world._step()
    world._jump(300 * DAY)
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 5


def test_a_clock_that_was_set_back_strands_nothing() -> None:
    world = World(6)
    world.arrive(world.now, "me@home.example", [f"grey{n}@own{n}.example" for n in range(5)])
    while sum(world.ledger.attempts.values()) < 5:
        world._step()
    world._jump(-300 * DAY)
    start = world.now
    world.run()
    check_accounts(world)
    assert world.now - start < DAY


def test_every_destination_gets_its_turn() -> None:
    settings = with_settings(sessions=2, sessions_per_next_hop=2)
    world = World(7, settings=settings)
    for domain in range(12):
        for number in range(40):
            world.arrive(world.now, "me@home.example", [f"user{number}@own{domain}.example"])
    first: dict[str, int] = {}
    while len(first) < 12:
        world._step()
        for _, recipient in world.ledger.confirmed:
            first.setdefault(recipient.partition("@")[2], sum(world.ledger.confirmed.values()))
    # With two places for twelve hosts the last is served long before the first is done with.
    assert max(first.values()) < 12 * 40 * 0.75
    world.run()
    check_accounts(world)


def test_a_small_window_moves_a_large_queue() -> None:
    settings = with_settings(window=40, window_per_next_hop=10, schedule=Schedule(give_up_after=2 * DAY))
    world = World(8, settings=settings)
    for number in range(2000):
        world.arrive(world.now, "", [f"user{number}@own{number % 30}.example"])
    world.run()
    check_accounts(world)
    assert sum(world.ledger.confirmed.values()) == 2000
    assert world.most_jobs <= 40
