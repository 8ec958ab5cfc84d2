"""How the relay services look domains up: beside everything else, so many at once, whatever a resolver does.

What lives here: the services' part, with resolvers of the tests' own. What does not: the DNS (``drivers``), and what
records mean (``relay``, ``world``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from smtpcore.drivers._relaying.owner import LOOKUPS
from smtpcore.drivers.spool import Spool
from smtpcore.relay import (
    AddressAnswer,
    AnswerKind,
    Attempted,
    DomainResolved,
    Fate,
    FateKind,
    Mx,
    MxAnswer,
    Schedule,
)

from .relays import PATIENCE, Kind, wait_until
from .servers import Server


def found(domain: str) -> DomainResolved:
    """A domain without MX records, whose own address is this machine's."""
    address = AddressAnswer(AnswerKind.RECORDS, ("127.0.0.1",))
    return DomainResolved(domain, MxAnswer(AnswerKind.NO_DATA), ((domain, address),), 60.0)


def world(kind: Kind, spool: Spool, server: Server, answer: Callable[[str], DomainResolved], **settings: Any) -> Any:
    resolver = kind.look_up_with(answer)
    return kind.make(spool, server.port, route=Mx(server.port), resolver=resolver, **settings)


def test_mail_goes_where_the_resolver_says(kind: Kind, server: Server, spool: Spool) -> None:
    with world(kind, spool, server, found) as relay:
        submissions = [relay.submit(b"hi\n", sender="", recipients=f"u@{name}.example") for name in "abc"]
        for submission in submissions:
            assert [fate.kind for fate in submission.fates(PATIENCE)] == [FateKind.DELIVERED]


def test_a_slow_lookup_keeps_nobody_waiting(kind: Kind, server: Server, spool: Spool) -> None:
    answered = threading.Event()

    def slowly(domain: str) -> DomainResolved:
        if domain == "slow.example":
            assert answered.wait(PATIENCE)
        return found(domain)

    with world(kind, spool, server, slowly) as relay:
        slow = relay.submit(b"hi\n", sender="", recipients="u@slow.example")
        for name in "abc":
            assert len(relay.submit(b"hi\n", sender="", recipients=f"u@{name}.example").fates(PATIENCE)) == 1
        answered.set()
        assert len(slow.fates(PATIENCE)) == 1


def test_only_so_many_domains_are_looked_up_at_once(kind: Kind, server: Server, spool: Spool) -> None:
    mutex, now, most = threading.Lock(), 0, 0
    go_on = threading.Event()

    def counted(domain: str) -> DomainResolved:
        nonlocal now, most
        with mutex:
            now += 1
            most = max(most, now)
        assert go_on.wait(PATIENCE)
        with mutex:
            now -= 1
        return found(domain)

    with world(kind, spool, server, counted) as relay:
        submissions = [relay.submit(b"hi\n", sender="", recipients=f"u@d{n}.example") for n in range(2 * LOOKUPS)]
        wait_until(lambda: now == LOOKUPS)
        go_on.set()
        for submission in submissions:
            assert len(submission.fates(PATIENCE)) == 1
    assert most == LOOKUPS


def test_a_resolver_that_fails_puts_mail_off(kind: Kind, server: Server, spool: Spool) -> None:
    notes: list[Fate | Attempted] = []
    failed: list[str] = []

    def fails(domain: str) -> DomainResolved:
        if domain == "broken.example":
            failed.append(domain)
            raise ZeroDivisionError("no resolver")
        return found(domain)

    with world(kind, spool, server, fails, notes=notes, schedule=Schedule()) as relay:
        relay.submit(b"hi\n", sender="", recipients="u@broken.example")
        relay.submit(b"hi\n", sender="", recipients="u@a.example").fates(PATIENCE)
        wait_until(lambda: any(isinstance(note, Attempted) for note in notes))
    assert failed
    (attempt,) = [note for note in notes if isinstance(note, Attempted)]
    assert attempt.recipient == "u@broken.example"
    assert "ZeroDivisionError" in attempt.words
    assert "no resolver" not in attempt.words  # it may hold a secret, and senders read it
    assert [note.recipient for note in notes if isinstance(note, Fate)] == ["u@a.example"]


def test_leaving_does_not_wait_for_lookups(kind: Kind, server: Server, spool: Spool) -> None:
    asked, answered = threading.Event(), threading.Event()

    def never(domain: str) -> DomainResolved:
        asked.set()
        answered.wait(PATIENCE)
        return found(domain)

    with world(kind, spool, server, never, grace=0.0) as relay:
        relay.submit(b"hi\n", sender="", recipients="u@a.example")
        assert asked.wait(PATIENCE)
        if kind.name != "threads":
            # The test's own resolver blocks a thread that its event loop waits for.
            answered.set()
    answered.set()
    wait_until(lambda: kind.new_threads() == [])
    entries = list(spool.list())
    # Where the lookup was answered, the mail may have gone before the relay left.
    assert len(entries) == 1 or kind.name != "threads"
    assert not any(entry.active for entry in entries)
