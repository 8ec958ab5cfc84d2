"""The wide part of the pretend world: names and MX hosts with troubles of their own, operators, hosts that flap.

What lives here: a world whose relay asks the DNS where mail goes, and is told by operators what to do. What does not:
what must be true of its lives.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from smtpcore.relay import (
    Action,
    AddressAnswer,
    AnswerKind,
    Commanded,
    DomainResolved,
    Effect,
    Fact,
    Job,
    JobsLoaded,
    JobsRemoved,
    Load,
    Mx,
    MxAnswer,
    MxRecord,
    Operate,
    Orders,
    Relay,
    Resolve,
    Route,
    RoutingTable,
    SmartHost,
    Unroutable,
)

from .world import DAY, HOUR, MINUTE, Host, ModelSpool, World

__all__ = ["Names", "WideSpool", "WideWorld", "moody_host", "moody_names", "moody_route"]

START = 1_800_000_000.0

Spans = list[tuple[float, float]]


@dataclass
class Names:
    """The DNS: MX hosts of domains by preference, addresses of hosts, and times at which it does not answer."""

    mx: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    addresses: dict[str, list[str]] = field(default_factory=dict)
    failing: dict[str, Spans] = field(default_factory=dict)
    asked: int = 0

    def resolve(self, domain: str, now: float) -> DomainResolved:
        self.asked += 1
        if self._fails(domain, now):
            problem = MxAnswer(AnswerKind.FAILURE, problem="SERVFAIL")
            return DomainResolved(domain, problem, (), 30.0)
        if domain in self.mx:
            records = tuple(MxRecord(preference, host) for preference, host in self.mx[domain])
            answer = MxAnswer(AnswerKind.RECORDS, records)
            hosts = [host for _, host in self.mx[domain] if host != "."]
        elif domain in self.addresses:
            answer, hosts = MxAnswer(AnswerKind.NO_DATA), [domain]
        else:
            answer, hosts = MxAnswer(AnswerKind.NO_NAME), []
        return DomainResolved(domain, answer, tuple((host, self._address(host, now)) for host in hosts), 300.0)

    def _fails(self, name: str, now: float) -> bool:
        return any(start <= now < end for start, end in self.failing.get(name, ()))

    def _address(self, host: str, now: float) -> AddressAnswer:
        if self._fails(host, now):
            return AddressAnswer(AnswerKind.FAILURE, problem="SERVFAIL")
        if host not in self.addresses:
            return AddressAnswer(AnswerKind.NO_NAME)
        return AddressAnswer(AnswerKind.RECORDS, tuple(self.addresses[host]))


class WideSpool(ModelSpool):
    """A model that knows operators' wishes: what is held, and what was wished for and not yet answered."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[int] = set()
        self.wishes: list[Commanded] = []
        self.removed: set[tuple[int, str]] = set()

    def commit(self, orders: Orders, now: float) -> list[Fact]:
        facts = super().commit(orders, now)
        for order in orders.durable:
            if isinstance(order, Operate):
                removed = self._operate(order.action, order.mail_ids, now)
                self.wishes.pop(0)
                if order.action is Action.REMOVE:
                    facts.append(JobsRemoved(tuple(removed)))
        return facts

    def _operate(self, action: Action, mail_ids: Iterable[int], now: float) -> list[Job]:
        free = [
            job
            for job in self.jobs.values()
            if job.mail_id in mail_ids and self.owners.get(job.job_id) != self.incarnation
        ]
        if action is Action.HOLD:
            self.held.update(mail_ids)
        elif action is Action.RELEASE:
            self.held.difference_update(mail_ids)
        for job in free:
            if action is Action.RETRY:
                self.jobs[job.job_id] = Job(
                    job_id=job.job_id,
                    mail_id=job.mail_id,
                    domain=job.domain,
                    due_at=now,
                    attempts=job.attempts,
                    recipients=job.recipients,
                )
            elif action is Action.REMOVE:
                self.removed.update((job.mail_id, recipient.address) for recipient in job.recipients)
                self._forget(job)
        return free

    def _due(self, until: float, horizon: float) -> list[Job]:
        return [job for job in super()._due(until, horizon) if job.mail_id not in self.held]

    def load(self, order: Load) -> JobsLoaded:
        loaded = super().load(order)
        assert not any(job.mail_id in self.held for job in loaded.jobs)
        return loaded


class WideWorld(World):
    """Mail goes where the DNS says; operators hold, release, retry and remove."""

    def __init__(self, seed: int, names: Names, *, route: Route | None = None, **options: object) -> None:
        self.names = names
        self.route = route or Mx()
        #: Mails that an operator ever wished to remove.
        self.removable: set[int] = set()
        self.wishes: list[tuple[float, Action, tuple[int, ...]]] = []
        #: Domains about which the resolver never says anything.
        self.hung: set[str] = set()
        super().__init__(seed, **options)  # type: ignore[arg-type]  # arguments by name

    @property
    def wide_spool(self) -> WideSpool:
        assert isinstance(self.spool, WideSpool)
        return self.spool

    def _start(self) -> Relay:
        if not isinstance(self.spool, WideSpool):
            self.spool = WideSpool()
        # What was wished for and not answered is found by whoever comes next.
        self._inbox.extend(self.wide_spool.wishes)
        self.spool.incarnation += 1
        return Relay(self.settings, self.route)

    def wish(self, at: float, action: Action, mail_ids: Iterable[int]) -> None:
        """An operator wishes something, later."""
        self.wishes.append((at, action, tuple(mail_ids)))
        if action is Action.REMOVE:
            self.removable.update(mail_ids)
        self.wishes.sort(key=lambda wish: wish[0])
        self._later(max(0.0, at - self.now), None)  # type: ignore[arg-type]  # no fact: a moment to be woken at

    def _pass_time(self) -> None:
        super()._pass_time()
        while self.wishes and self.wishes[0][0] <= self.now:
            _, action, mail_ids = self.wishes.pop(0)
            domains = {job.domain for job in self.spool.jobs.values() if job.mail_id in mail_ids}
            wish = Commanded(action, mail_ids, tuple(sorted(domains)))
            self.wide_spool.wishes.append(wish)
            self._inbox.append(wish)

    def _jump(self, seconds: float) -> None:
        super()._jump(seconds)
        self.wishes = [(at + seconds, action, mails) for at, action, mails in self.wishes]
        for spans in self.names.failing.values():
            spans[:] = [(start + seconds, end + seconds) for start, end in spans]

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Resolve) and effect.domain in self.hung:
            return
        if isinstance(effect, Resolve):
            self._later(self.chance.uniform(0.01, 2.0), self.names.resolve(effect.domain, self.now))
        else:
            super()._perform(effect)


def moody_host(name: str, chance: random.Random) -> Host:
    """A host that may be dead, flap, be stormy, doubtful or slow."""
    host = Host(name, chance, doubt=chance.choice((0.0, 0.0, 0.0, 0.1)))
    for _ in range(chance.randint(0, 2)):
        begin = START + chance.uniform(-HOUR, DAY)
        host.dead.append((begin, begin + chance.choice((5 * MINUTE, 3 * HOUR, DAY))))
    if chance.random() < 0.3:
        # It comes and goes.
        begin = START + chance.uniform(0, HOUR)
        host.dead += [(begin + n * 10 * MINUTE, begin + (n + 0.5) * 10 * MINUTE) for n in range(40)]
    if chance.random() < 0.3:
        # A storm of 421.
        begin = START + chance.uniform(0, 3 * HOUR)
        host.refuses_service += [(begin + n * MINUTE, begin + n * MINUTE + 40.0) for n in range(180)]
    if chance.random() < 0.3:
        host.mails_per_session = chance.randint(1, 4)
    if chance.random() < 0.2:
        host.slowness = 200.0
    host.loses = chance.choice((0.0, 0.0, 0.1))
    return host


def moody_names(chance: random.Random) -> Names:
    """Domains of every kind: own hosts, shared ones, none, unknown, null, with trouble of their own."""
    names = Names()
    providers = [f"mx{n}.provider.example" for n in range(3)]
    for provider in providers:
        names.addresses[provider] = ["192.0.2.1"]
    for number in range(12):
        domain = f"own{number}.example"
        kind = chance.choice(("hosts", "hosts", "provider", "address", "null", "nothing", "no address"))
        if kind == "hosts":
            hosts = [f"mx{n}.{domain}" for n in range(chance.randint(1, 3))]
            names.mx[domain] = [(chance.choice((10, 10, 20)), host) for host in hosts]
            for host in hosts:
                names.addresses[host] = ["192.0.2.2", "2001:db8::2"][: chance.randint(1, 2)]
        elif kind == "provider":
            names.mx[domain] = [(10 * n, provider) for n, provider in enumerate(providers)]
        elif kind == "address":
            names.addresses[domain] = ["192.0.2.3"]
        elif kind == "null":
            names.mx[domain] = [(0, ".")]
        elif kind == "no address":
            names.mx[domain] = [(10, f"gone.{domain}")]
        for name in (domain, *(host for _, host in names.mx.get(domain, ()))):
            if chance.random() < 0.3:
                begin = START + chance.uniform(-HOUR, 6 * HOUR)
                names.failing.setdefault(name, []).append((begin, begin + chance.choice((MINUTE, HOUR, DAY))))
    return names


def moody_route(chance: random.Random) -> Route:
    """Mostly by MX; some domains have a way of their own, and sometimes there is a last resort."""
    fallback = (SmartHost("last.resort.example"),) if chance.random() < 0.3 else ()
    return RoutingTable(
        {
            "own0.example": SmartHost("smart.example"),
            "own1.example": Unroutable("mail for own1.example is not taken here"),
        },
        fallback,
    )
