"""Senders who ask for more, in the pretend world: they get exactly the reports that they asked for.

What lives here: what must be true of reports whatever crashes, and of mail that is to be delivered by a moment. What
does not: the world, and how reports are written.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from smtpcore import DeliverBy, Envelope, MailOptions, Notify, RecipientOptions

from .wide_world import Names, WideWorld, moody_host, moody_names
from .world import DAY, HOUR, MINUTE, Host, World

WISHES = (
    None,
    None,
    (),
    (Notify.NEVER,),
    (Notify.SUCCESS,),
    (Notify.FAILURE,),
    (Notify.DELAY,),
    (Notify.SUCCESS, Notify.FAILURE),
    (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY),
)


def asks(envelope: Envelope, chance: random.Random) -> Envelope:
    """Any wish that a sender may have."""
    wishes = {to: chance.choice(WISHES) for to in envelope.recipients}
    options = {to: RecipientOptions(notify=wish) for to, wish in wishes.items() if wish is not None}
    by = DeliverBy(
        seconds=chance.choice((600, 7200, 100_000)), notify_only=chance.random() < 0.5, trace=chance.random() < 0.3
    )
    return replace(
        envelope,
        options=MailOptions(deliver_by=by if chance.random() < 0.4 else None),
        recipient_options=options,
    )


def moody(name: str, chance: random.Random) -> Host:
    """A host with troubles, half of which report by themselves; stores of mailboxes do not."""
    host = Host(
        name, chance, doubt=chance.choice((0.0, 0.0, 0.1)), dsn=not name.startswith("mx.box") and chance.random() < 0.5
    )
    for _ in range(chance.randint(0, 2)):
        begin = 1_800_000_000.0 + chance.uniform(-HOUR, DAY)
        host.dead.append((begin, begin + chance.choice((5 * MINUTE, 3 * HOUR, DAY))))
    return host


def traffic(world: World, mails: int) -> None:
    chance = world.chance
    names = ("user", "user", "user", "nobody", "grey", "never-quite")
    for _ in range(mails):
        domains = [f"{chance.choice(('pool', 'own', 'box'))}{chance.randint(0, 4)}.example" for _ in range(3)]
        recipients = {f"{chance.choice(names)}{chance.randint(0, 9)}@{chance.choice(domains)}" for _ in range(4)}
        sender = chance.choice(("", "me@own0.example", "me@home.example"))
        world.arrive(world.now + chance.uniform(0, 6 * HOUR), sender, sorted(recipients))


def told(wish: RecipientOptions | None, kind: Notify) -> bool:
    """What RFC 3461 §5.2 says of a recipient."""
    if wish is None or not wish.notify:
        return kind in (Notify.FAILURE, Notify.DELAY)
    return kind in wish.notify


def check_reports(world: World) -> None:
    """Nothing is lost, and every sender has heard what he asked for, once, and nothing else."""
    spool = world.spool
    assert not spool.mails
    for key, mail in world.accepted.items():
        wish = world.wanted[key]
        confirmed = world.ledger.confirmed[key]
        assert confirmed <= 1
        reports = (spool.bounces[key], spool.warnings[key], spool.passed_on[key], spool.delivered[key])
        if mail.reverse_path == "":
            assert reports == (0, 0, 0, 0), f"{key}: a report on a report"
            continue
        domain = key[1].partition("@")[2]
        store = domain.startswith("box")
        host = world.hosts.get("mx.pool.example" if domain.startswith("pool") else f"mx.{domain}")
        assert spool.bounces[key] == (not confirmed and told(wish, Notify.FAILURE)), key
        assert spool.warnings[key] <= told(wish, Notify.DELAY), key
        by = mail.options.deliver_by
        trace = by is not None and by.trace and not told(wish, Notify.NEVER)
        silent = host is not None and not host.dsn
        passed_on = not store and ((silent and told(wish, Notify.SUCCESS)) or trace)
        assert spool.passed_on[key] == (bool(confirmed) and passed_on), key
        assert spool.delivered[key] == (bool(confirmed) and store and told(wish, Notify.SUCCESS)), key


@pytest.mark.parametrize("seed", range(60))
def test_senders_hear_exactly_what_they_asked_for_whatever_crashes(seed: int) -> None:
    world = World(seed, hosts=moody, crash_share=0.05, jumps=True, asks=asks)
    traffic(world, 25)
    world.run()
    check_reports(world)


def test_all_kinds_of_reports_do_occur() -> None:
    kinds = [0, 0, 0, 0]
    for seed in range(10):
        world = World(seed, hosts=moody, crash_share=0.05, jumps=True, asks=asks)
        traffic(world, 25)
        world.run()
        spool = world.spool
        for place, counter in enumerate((spool.bounces, spool.warnings, spool.passed_on, spool.delivered)):
            kinds[place] += sum(counter.values())
    assert min(kinds) > 10


def dead(name: str, chance: random.Random) -> Host:
    return Host(name, chance, dead=[(0.0, 4e9)] if "own0" in name else [])


def wanted_by(seconds: int, *, notify_only: bool) -> World:
    """A mail for a dead host, to be delivered within some time."""

    def wishes(envelope: Envelope, chance: random.Random) -> Envelope:
        return replace(envelope, options=MailOptions(deliver_by=DeliverBy(seconds=seconds, notify_only=notify_only)))

    world = World(3, hosts=dead, asks=wishes)
    world.arrive(world.now, "me@home.example", ["user@own0.example"])
    return world


def test_what_is_not_delivered_in_time_is_given_back_then() -> None:
    world = wanted_by(90 * 60, notify_only=False)
    start = world.now
    while not world.spool.bounces:
        world._step()
    assert 90 * MINUTE <= world.now - start <= 121 * MINUTE
    world.run()
    check_reports(world)
    assert not world.spool.warnings


def test_a_sender_who_wants_word_of_a_delay_has_it_in_time_and_once() -> None:
    world = wanted_by(90 * 60, notify_only=True)
    start = world.now
    while not world.spool.warnings:
        world._step()
    assert 90 * MINUTE <= world.now - start <= 121 * MINUTE
    while not world.spool.bounces:
        world._step()
    assert world.now - start >= 2 * DAY
    world.run()
    check_reports(world)
    assert sum(world.spool.warnings.values()) == 1


# --- TLS all the way --------------------------------------------------------------------------------------------------


def some_strict(envelope: Envelope, chance: random.Random) -> Envelope:
    return replace(envelope, options=MailOptions(require_tls=chance.random() < 0.5))


def sometimes_able(name: str, chance: random.Random) -> Host:
    host = moody_host(name, chance)
    host.tls_all_the_way, host.loses = chance.random() < 0.5, 0.0
    return host


@pytest.mark.parametrize("seed", range(40))
def test_mail_that_requires_tls_is_not_lost_on_its_way_from_host_to_host(seed: int) -> None:
    world = WideWorld(seed, Names(), hosts=sometimes_able, crash_share=0.05, jumps=True, asks=some_strict)
    world.names.__dict__.update(moody_names(world.chance).__dict__)
    for _ in range(25):
        recipients = sorted({f"user{n}@own{world.chance.randint(0, 11)}.example" for n in range(4)})
        world.arrive(world.now + world.chance.uniform(0, 6 * HOUR), "me@home.example", recipients)
    world.run()
    assert not world.spool.mails
    for key, mail in world.accepted.items():
        told = world.ledger.confirmed[key] + world.spool.bounces[key]
        assert told == 1 or (mail.reverse_path == "" and told == 0), key
    assert world.most_sessions <= world.settings.sessions


def test_it_comes_back_only_where_no_host_can_take_it() -> None:
    def hosts(name: str, chance: random.Random) -> Host:
        return Host(name, chance, tls_all_the_way="able" in name)

    names = Names()
    for domain, pair in {"one": ("first.example", "able.example"), "none": ("third.example", "fourth.example")}.items():
        names.mx[f"{domain}.example"] = [(10 * place, host) for place, host in enumerate(pair)]
        names.addresses |= {host: ["192.0.2.1"] for host in pair}
    strict = MailOptions(require_tls=True)
    world = WideWorld(1, names, hosts=hosts, asks=lambda envelope, _: replace(envelope, options=strict))
    for number in range(20):
        world.arrive(world.now, "me@one.example", [f"user{number}@one.example", f"user{number}@none.example"])
    world.run()
    assert sum(world.ledger.confirmed[key] for key in world.accepted if key[1].endswith("@one.example")) >= 20
    assert {key[1].partition("@")[2] for key in world.spool.bounces} == {"none.example"}
    assert sum(world.spool.bounces.values()) == 20
    assert world.most_sessions_per_hop <= world.settings.sessions_per_next_hop
