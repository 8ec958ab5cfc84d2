"""Lives of a relay among hosts that take few recipients in a session (RFC 9422).

What lives here: that nobody is lost, and nobody waits for those who are put off for ever. What does not: the world.
"""

from __future__ import annotations

import random

import pytest

from .wide_world import moody_host
from .world import DAY, HOUR, MINUTE, Host, World


def narrow(name: str, chance: random.Random) -> Host:
    host = moody_host(name, chance)
    host.recipients_per_session, host.loses = chance.randint(1, 3), 0.0
    return host


def check_accounts(world: World) -> None:
    assert not world.spool.jobs
    for key, mail in world.accepted.items():
        told = world.ledger.confirmed[key] + world.spool.bounces[key]
        assert told == 1 or (mail.reverse_path == "" and told == 0), key
    assert world.most_sessions_per_hop <= world.settings.sessions_per_next_hop


@pytest.mark.parametrize("seed", range(15))
def test_nobody_is_lost_who_has_to_wait_for_another_session(seed: int) -> None:
    world = World(seed, hosts=narrow, crash_share=0.06, jumps=True)
    names = ("user", "user", "nobody", "grey", "never-quite")
    for _ in range(15):
        recipients = {
            f"{world.chance.choice(names)}{n}@{world.chance.choice(('pool', 'own'))}{n % 3}.x" for n in range(6)
        }
        world.arrive(world.now + world.chance.uniform(0, 6 * HOUR), "me@home.x", sorted(recipients))
    world.run()
    check_accounts(world)


@pytest.mark.parametrize("recipients_per_session", [1, 2])
def test_nobody_waits_for_those_who_are_put_off_for_ever(recipients_per_session: int) -> None:
    world = World(1, hosts=lambda name, chance: Host(name, chance, recipients_per_session=recipients_per_session))
    slow = [f"never-quite{number}@pool{number % 2}.example" for number in range(6)]
    users = [f"user{number}@pool{number % 2}.example" for number in range(6)]
    world.arrive(world.now, "me@home.example", [*slow, *users])
    start = world.now
    while sum(world.ledger.confirmed.values()) < len(users):
        assert world.now - start < 5 * MINUTE, "each is named before anybody is tried anew"
        world._step()
    assert all(count <= 2 for count in world.ledger.attempts.values())
    world.run()
    check_accounts(world)
    # All of them had alike: none was tried with every session that another one needed.
    attempts = [count for (_, to), count in world.ledger.attempts.items() if to.startswith("never-quite")]
    assert max(attempts) < 2 * min(attempts)
    assert world.now - start < 3 * DAY
