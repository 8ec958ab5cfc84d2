"""A pretend world for the relay machine: a spool in memory, hosts with moods, a clock, and crashes.

What lives here: the world and the accounts it keeps. What does not: what must be true of them.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from smtpcore import (
    ConnectFailed,
    ConnectionLost,
    Envelope,
    ExtensionRequired,
    LimitReached,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    RecipientOptions,
    Reply,
    ServiceRefused,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.relay import (
    Bounce,
    Claim,
    CloseSession,
    Confirmation,
    Continue,
    DelayWarning,
    Delivery,
    DomainsLoaded,
    Effect,
    Fact,
    Forget,
    Job,
    JobsLoaded,
    Lmtp,
    Load,
    LoadDomains,
    MailAccepted,
    OpenSession,
    Orders,
    PendingRecipient,
    Relay,
    RelaySettings,
    Reported,
    Save,
    Schedule,
    SessionEnded,
    ShutDown,
    SmartHost,
    SpoolChanged,
    StoredMail,
    recipients_by_domain,
)

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


class Crash(Exception):
    """The process is gone; only the spool is left."""


class ModelSpool:
    """What a spool must do, without a disk: every ``commit`` is atomic."""

    def __init__(self) -> None:
        self.mails: dict[int, StoredMail] = {}
        self.jobs: dict[int, Job] = {}
        self.owners: dict[int, int] = {}
        self.incarnation = 0
        self.bounces: Counter[tuple[int, str]] = Counter()
        self.warnings: Counter[tuple[int, str]] = Counter()
        #: Reports of success, by recipient: whether they say that the mail was passed on, or delivered.
        self.passed_on: Counter[tuple[int, str]] = Counter()
        self.delivered: Counter[tuple[int, str]] = Counter()
        self.reports: dict[int, StoredMail] = {}
        self._ids = 0

    def _id(self) -> int:
        self._ids += 1
        return self._ids

    def add(self, envelope: Envelope, now: float) -> MailAccepted:
        mail = StoredMail(
            mail_id=self._id(),
            reverse_path=envelope.reverse_path,
            size=10,
            eight_bit=False,
            leading_dots=False,
            accepted_at=now,
            options=envelope.options,
        )
        self.mails[mail.mail_id] = mail
        jobs = []
        for domain, members in recipients_by_domain(envelope.recipients):
            wishes = envelope.recipient_options
            pending = tuple(PendingRecipient(member, options=wishes.get(member)) for member in members)
            job = Job(
                job_id=self._id(), mail_id=mail.mail_id, domain=domain, due_at=now, attempts=0, recipients=pending
            )
            self.jobs[job.job_id] = job
            jobs.append(job)
        return MailAccepted(mail, tuple(jobs))

    def commit(self, orders: Orders, now: float) -> list[Fact]:
        facts: list[Fact] = []
        for order in orders.durable:
            if isinstance(order, Claim):
                self.jobs[order.job.job_id] = order.job
                self.owners[order.job.job_id] = self.incarnation
            elif isinstance(order, Save):
                assert order.job.job_id in self.jobs, "a job that is done was saved"
                self.jobs[order.job.job_id] = order.job
                self.owners.pop(order.job.job_id, None)
            elif isinstance(order, Forget):
                self._forget(order.job)
            elif isinstance(order, (Bounce, DelayWarning, Confirmation)):
                facts.append(self._report(order, now))
        return facts

    def _forget(self, job: Job) -> None:
        del self.jobs[job.job_id]
        self.owners.pop(job.job_id, None)
        if not any(other.mail_id == job.mail_id for other in self.jobs.values()):
            del self.mails[job.mail_id]

    def _report(self, order: Bounce | DelayWarning | Confirmation, now: float) -> MailAccepted:
        assert order.mail.mail_id in self.mails, "a report on a mail that is forgotten"
        assert order.mail.reverse_path != "", "a report to nobody"
        if isinstance(order, Confirmation):
            for success in order.successes:
                kind = self.passed_on if success.relayed else self.delivered
                kind[order.mail.mail_id, success.recipient] += 1
        else:
            kind = self.bounces if isinstance(order, Bounce) else self.warnings
            for failure in order.failures:
                kind[order.mail.mail_id, failure.recipient] += 1
        accepted = self.add(Envelope("", (order.mail.reverse_path,)), now)
        self.reports[accepted.mail.mail_id] = order.mail
        return accepted

    def _due(self, until: float, horizon: float) -> list[Job]:
        free = [job for job in self.jobs.values() if self.owners.get(job.job_id) != self.incarnation]
        return sorted(
            (job for job in free if job.due_at <= until or job.due_at > horizon),
            key=lambda job: (job.due_at, job.job_id),
        )

    def load_domains(self, order: LoadDomains) -> DomainsLoaded:
        due = [job.domain for job in self._due(order.until, order.horizon) if job.domain not in order.known]
        domains = tuple(dict.fromkeys(due))
        later = [
            job.due_at
            for job in self.jobs.values()
            if order.until < job.due_at <= order.horizon and self.owners.get(job.job_id) != self.incarnation
        ]
        return DomainsLoaded(domains[: order.limit], len(domains) <= order.limit, min(later, default=None))

    def load(self, order: Load) -> JobsLoaded:
        due = self._due(order.until, order.horizon)
        of_domain = [job for job in due if job.domain == order.domain and job.job_id not in order.known]
        chosen = of_domain[: order.limit]
        mails = {job.mail_id for job in chosen}
        jobs = chosen + [job for job in due if job.mail_id in mails and job.domain != order.domain]
        return JobsLoaded(order.domain, tuple(self.mails[m] for m in mails), tuple(jobs), len(of_domain) <= order.limit)


class DomainRoute:
    """Each domain is a destination, but that all ``pool*`` domains are one; ``box*`` are stores of mailboxes."""

    def way(self, domain: str) -> SmartHost | Lmtp:
        if domain.startswith("box"):
            return Lmtp(f"mx.{domain}")
        return SmartHost("mx.pool.example" if domain.startswith("pool") else f"mx.{domain}")


@dataclass
class Host:
    """A receiving server: when it is dead, how it answers, and what it has taken."""

    name: str
    chance: random.Random
    dead: list[tuple[float, float]] = field(default_factory=list)
    refuses_service: list[tuple[float, float]] = field(default_factory=list)
    mails_per_session: int = 1_000_000
    doubt: float = 0.0
    #: How often the connection breaks under all that is on its way; sessions with such a host run ahead of its replies.
    loses: float = 0.0
    #: How many times longer than others it takes for everything.
    slowness: float = 1.0
    #: How many recipients it takes in a session, as it has announced.
    recipients_per_session: int | None = None
    #: Whether it reports by itself what becomes of mail.
    dsn: bool = False
    #: Whether it takes mail that requires TLS all the way.
    tls_all_the_way: bool = True
    grey: dict[tuple[int, str], float] = field(default_factory=dict)

    def is_in(self, spans: list[tuple[float, float]], now: float) -> bool:
        return any(start <= now < end for start, end in spans)

    def can_take(self, mail: Mail) -> bool:
        return self.tls_all_the_way or not (mail.envelope.options.require_tls and mail.envelope.reverse_path)

    def named(self, delivery: Delivery) -> tuple[str, ...]:
        """The recipients that a session names, if it names any of this delivery."""
        return delivery.envelope.recipients[: self.recipients_per_session]

    def verdict(self, mail_id: int, recipient: str, now: float) -> Reply:
        if recipient.startswith("nobody"):
            return Reply(550, ("5.1.1 no such user",))
        if recipient.startswith("never-quite"):
            return Reply(451, ("4.2.0 come back later",))
        if recipient.startswith("grey") and now < self.grey.setdefault((mail_id, recipient), now + 7 * MINUTE):
            return Reply(450, ("4.7.1 greylisted",))
        return Reply(250, ("2.0.0 taken",))


@dataclass
class Ledger:
    """Every acceptance by a host: which may be repeated without blame, and which may not."""

    confirmed: Counter[tuple[int, str]] = field(default_factory=Counter)
    #: Taken by a host though the relay could not know it: in doubt, or crashed before the commit.
    unconfirmed: Counter[tuple[int, str]] = field(default_factory=Counter)
    attempts: Counter[tuple[int, str]] = field(default_factory=Counter)
    #: Sessions that were lost, by how many deliveries were in doubt with them.
    losses: Counter[int] = field(default_factory=Counter)


class World:
    """Time, hosts, one spool, and a relay that may crash at any commit."""

    def __init__(
        self,
        seed: int,
        *,
        settings: RelaySettings | None = None,
        hosts: Callable[[str, random.Random], Host] | None = None,
        crash_share: float = 0.0,
        jumps: bool = False,
        asks: Callable[[Envelope, random.Random], Envelope] | None = None,
    ) -> None:
        self._asks = asks
        self.chance = random.Random(seed)
        self.now = 1_800_000_000.0
        self.settings = settings or RelaySettings(
            reporting_mta="relay.example", schedule=Schedule(give_up_after=2 * DAY), sessions=6, sessions_per_next_hop=3
        )
        self.spool = ModelSpool()
        self.hosts: dict[str, Host] = {}
        self._make_host = hosts or Host
        self.crash_share = crash_share
        self.jumps = jumps
        self.crashes = 0
        self.ledger = Ledger()
        self.accepted: dict[tuple[int, str], StoredMail] = {}
        self.wanted: dict[tuple[int, str], RecipientOptions | None] = {}
        self.arrivals: list[tuple[float, str, tuple[str, ...]]] = []
        self.most_sessions = 0
        self.most_sessions_per_hop = 0
        self.most_jobs = 0
        self.commits = 0
        self._events: list[tuple[float, int, Fact | None]] = []
        self._order = 0
        self._inbox: list[Fact] = []
        #: Session -> (host, mails done, deliveries that it was given, the first of them on its way).
        self._sessions: dict[int, tuple[Host, int, list[Delivery]]] = {}
        self._closing: set[int] = set()
        #: Sessions that are lost, with the reports of what was on their way.
        self._lost: set[int] = set()
        self._taken: dict[int, list[tuple[int, str]]] = {}
        self.relay = self._start()

    def _start(self) -> Relay:
        self.spool.incarnation += 1
        return Relay(self.settings, DomainRoute())

    # --- traffic ----------------------------------------------------------------------------------------------------

    def arrive(self, at: float, reverse_path: str, recipients: Iterable[str]) -> None:
        self.arrivals.append((at, reverse_path, tuple(recipients)))
        self.arrivals.sort()

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = self._make_host(name, self.chance)
        return self.hosts[name]

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, most_steps: int = 200_000) -> None:
        """Go on until the spool is empty and nothing more arrives."""
        for _ in range(most_steps):
            self._step()
            if not self.spool.jobs and not self.arrivals and not self._events and not self._inbox:
                return
        raise AssertionError(f"still {len(self.spool.jobs)} jobs after {most_steps} steps at {self.now}")

    def _step(self) -> None:
        self._pass_time()
        for _, reverse_path, recipients in self._arrived():
            envelope = Envelope(reverse_path, recipients)
            if self._asks is not None:
                envelope = self._asks(envelope, self.chance)
            fact = self.spool.add(envelope, self.now)
            self._note_accepted(fact)
            # Another process's mail is only noticed; our own is handed in.
            self._inbox.append(SpoolChanged() if self.chance.random() < 0.2 else fact)
        facts, self._inbox = self._inbox, []
        orders = self.relay.handle(facts, self.now)
        try:
            self._commit(orders, facts)
        except Crash:
            self._crash()
            return
        for effect in orders.effects:
            self._perform(effect)
        self._measure()

    def _arrived(self) -> list[tuple[float, str, tuple[str, ...]]]:
        due = [arrival for arrival in self.arrivals if arrival[0] <= self.now]
        self.arrivals = [arrival for arrival in self.arrivals if arrival[0] > self.now]
        return due

    def _note_accepted(self, fact: MailAccepted) -> None:
        for job in fact.jobs:
            for recipient in job.recipients:
                self.accepted[fact.mail.mail_id, recipient.address] = fact.mail
                self.wanted[fact.mail.mail_id, recipient.address] = recipient.options

    def _pass_time(self) -> None:
        if self._inbox:
            return
        times = [self._events[0][0]] if self._events else []
        times += [self.arrivals[0][0]] if self.arrivals else []
        if self.relay.wake_at is not None:
            times.append(self.relay.wake_at)
        if times:
            self.now = max(self.now, min(times))
        else:
            self.now += 60.0
        if self.jumps and self.chance.random() < 0.002:
            self._jump(self.chance.choice((-3 * HOUR, -20 * MINUTE, 5 * HOUR, 30 * DAY)))
        while self._events and self._events[0][0] <= self.now:
            fact = heapq.heappop(self._events)[2]
            if fact is not None:
                self._finish(fact)

    def _jump(self, seconds: float) -> None:
        """The wall clock jumps; what is on its way arrives as it would have."""
        self.now += seconds
        self._events = [(at + seconds, order, fact) for at, order, fact in self._events]
        self.arrivals = [(at + seconds, *rest) for at, *rest in self.arrivals]  # type: ignore[misc]  # the rest keeps its shape
        for host in self.hosts.values():
            host.dead = [(start + seconds, end + seconds) for start, end in host.dead]
            host.refuses_service = [(start + seconds, end + seconds) for start, end in host.refuses_service]
            host.grey = {key: at + min(seconds, 0.0) for key, at in host.grey.items()}

    def _commit(self, orders: Orders, facts: Iterable[Fact]) -> None:
        self.commits += 1
        fate = self.chance.random()
        if orders.durable and fate < self.crash_share / 2:
            raise Crash
        made = self.spool.commit(orders, self.now)
        for fact in made:
            if isinstance(fact, MailAccepted):
                self._note_accepted(fact)
        self._inbox += made
        for fact in facts:
            if isinstance(fact, Reported):
                self._confirm(fact)
        if orders.durable and fate > 1 - self.crash_share / 2:
            raise Crash

    def _crash(self) -> None:
        self.crashes += 1
        for host, _, deliveries in self._sessions.values():
            # The host may or may not have taken what was on its way when the process died: the first, or the first few.
            for delivery in deliveries if host.loses else deliveries[:1]:
                if delivery.delivery_id in self._taken or self.chance.random() < 0.5:
                    break
                self._take(host, delivery)
        for taken in self._taken.values():
            self.ledger.unconfirmed.update(taken)
        self._taken.clear()
        self._sessions.clear()
        self._closing.clear()
        self._lost.clear()
        self._events.clear()
        self._inbox.clear()
        self.relay = self._start()

    def restart(self) -> None:
        """Stop in good order, then start anew."""
        self._inbox.append(ShutDown())
        while True:
            self._step()
            if self.relay.idle and not self._inbox:
                break
        self._events.clear()
        self.relay = self._start()

    def _measure(self) -> None:
        self.most_sessions = max(self.most_sessions, len(self._sessions))
        per_hop = Counter(host.name for host, _, _ in self._sessions.values())
        self.most_sessions_per_hop = max(self.most_sessions_per_hop, *per_hop.values(), 0)
        self.most_jobs = max(self.most_jobs, self.relay.jobs_in_memory)

    # --- effects ----------------------------------------------------------------------------------------------------

    def _later(self, seconds: float, fact: Fact) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + seconds, self._order, fact))

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, LoadDomains):
            self._inbox.append(self.spool.load_domains(effect))
        elif isinstance(effect, Load):
            self._inbox.append(self.spool.load(effect))
        elif isinstance(effect, OpenSession):
            assert effect.session_id not in self._sessions
            self._check_time(effect.delivery)
            self._sessions[effect.session_id] = (self.host(effect.host.name), 0, [effect.delivery])
            self._deliver(effect.session_id)
        elif isinstance(effect, Continue):
            self._check_time(effect.delivery)
            deliveries = self._sessions[effect.session_id][2]
            deliveries.append(effect.delivery)
            assert len(deliveries) <= self.settings.deliveries_ahead
            if len(deliveries) == 1:
                self._deliver(effect.session_id)
        elif isinstance(effect, CloseSession) and effect.session_id in self._sessions:
            # A delivery on its way is finished first.
            if not self._sessions[effect.session_id][2]:
                self._later(0.1, SessionEnded(effect.session_id, None))
            self._closing.add(effect.session_id)

    def _check_time(self, delivery: Delivery) -> None:
        """What is to be delivered by a moment is begun before it, and the next host is told how much time is left."""
        asked, said = delivery.mail.options.deliver_by, delivery.envelope.options.deliver_by
        if asked is None or said is None:
            assert said is None
            assert asked is None or delivery.next_hop.lmtp
            return
        left = delivery.mail.accepted_at + asked.seconds - self.now
        assert said.notify_only or left > 0
        assert min(left, asked.seconds) <= said.seconds < max(left, 0.0) + 1 or said.seconds == asked.seconds

    def _deliver(self, session_id: int) -> None:
        """Begin the delivery that is next over a session."""
        host, done, deliveries = self._sessions[session_id]
        delivery = deliveries[0]
        seconds = self.chance.uniform(0.05, 3.0) * host.slowness
        mail = Mail(delivery.envelope)
        if host.is_in(host.dead, self.now):
            self._later(seconds, SessionEnded(session_id, ConnectFailed("no route to host")))
            return
        if host.is_in(host.refuses_service, self.now) or (done and done % host.mails_per_session == 0):
            reply = Reply(421, ("4.3.2 too busy",))
            error = ServiceRefused("the peer refuses service", reply=reply)
            outcomes = tuple(Outcome(to, Verdict.LATER, reply, error) for to in mail.envelope.recipients)
            report = MailRefused(mail, outcomes, Stage.NOT_STARTED, Transcript())
            self._later(seconds, Reported(session_id, delivery.delivery_id, report))
            self._later(seconds, SessionEnded(session_id, error))
            return
        if not host.can_take(mail):
            unable = ExtensionRequired("the peer does not offer REQUIRETLS", "5.7.30")
            outcomes = tuple(Outcome(to, Verdict.NEVER, None, unable) for to in mail.envelope.recipients)
            report = MailRefused(mail, outcomes, Stage.NOT_STARTED, Transcript())
            self._later(seconds, Reported(session_id, delivery.delivery_id, report))
            return
        if host.loses and self.chance.random() < host.loses:
            self._lose(session_id, host, deliveries[: self.chance.randint(1, len(deliveries))], seconds)
            return
        self._later(seconds, Reported(session_id, delivery.delivery_id, self._report(host, delivery, mail), host.dsn))
        if host.recipients_per_session is not None:
            self._later(seconds, SessionEnded(session_id, LimitReached("the peer takes no more in a session")))
        elif self.chance.random() < 0.02:
            self._later(seconds, SessionEnded(session_id, ConnectionLost("closed")))

    def _lose(self, session_id: int, host: Host, begun: list[Delivery], seconds: float) -> None:
        """The connection breaks while deliveries are on their way: the host has taken the first few, or none."""
        self._lost.add(session_id)
        self.ledger.losses[len(begun)] += 1
        error = ConnectionLost("lost before the verdicts")
        taken = self.chance.randint(0, len(begun))
        for place, delivery in enumerate(begun):
            recipients = delivery.envelope.recipients
            keys = [(delivery.mail.mail_id, to) for to in recipients]
            self.ledger.attempts.update(keys)
            if place < taken:
                self.ledger.unconfirmed.update(key for key in keys if host.verdict(*key, self.now).positive)
            outcomes = tuple(Outcome(to, Verdict.LATER, None, error, True) for to in recipients)
            report = MailRefused(Mail(delivery.envelope), outcomes, Stage.BODY_ENDED, Transcript())
            self._later(seconds, Reported(session_id, delivery.delivery_id, report))
        self._later(seconds, SessionEnded(session_id, error))

    def _report(self, host: Host, delivery: Delivery, mail: Mail) -> MailSent | MailRefused:
        named = host.named(delivery)
        keys = [(delivery.mail.mail_id, recipient) for recipient in named]
        self.ledger.attempts.update(keys)
        limit = LimitReached("the peer takes no more in a session")
        left_out = tuple(Outcome(to, Verdict.LATER, None, limit) for to in mail.envelope.recipients[len(named) :])
        if self.chance.random() < host.doubt:
            error = ConnectionLost("lost before the verdict")
            outcomes = tuple(Outcome(to, Verdict.LATER, None, error, True) for to in named)
            if self.chance.random() < 0.5:
                self.ledger.unconfirmed.update(keys)
            return MailRefused(mail, outcomes + left_out, Stage.BODY_ENDED, Transcript())
        replies = [host.verdict(*key, self.now) for key in keys]
        outcomes = tuple(Outcome(to, _verdict(reply), reply) for to, reply in zip(named, replies, strict=True))
        taken = next((reply for reply in replies if reply.positive), None)
        if taken is None:
            return MailRefused(mail, outcomes + left_out, Stage.STARTED, Transcript())
        return MailSent(mail, outcomes + left_out, taken, Stage.BODY_ENDED, Transcript())

    def _finish(self, fact: Fact) -> None:
        """What a session brought arrives at the relay."""
        if isinstance(fact, Reported):
            if fact.session_id not in self._sessions:
                return
            host, done, deliveries = self._sessions[fact.session_id]
            delivery = deliveries.pop(0)
            assert delivery.delivery_id == fact.delivery_id
            self._sessions[fact.session_id] = (host, done + 1, deliveries)
            if fact.session_id in self._lost:
                pass
            elif fact.session_id in self._closing or (
                fact.report.stage is Stage.NOT_STARTED and fact.report.outcomes[0].verdict is Verdict.LATER
            ):
                self._later(0.1, SessionEnded(fact.session_id, None))
            elif deliveries:
                self._deliver(fact.session_id)
            self._taken[fact.delivery_id] = [
                (delivery.mail.mail_id, outcome.recipient)
                for outcome in fact.report.outcomes
                if outcome.verdict is Verdict.DELIVERED
            ]
        elif isinstance(fact, SessionEnded):
            self._lost.discard(fact.session_id)
            if self._sessions.pop(fact.session_id, None) is None:
                return
        self._inbox.append(fact)

    def _take(self, host: Host, delivery: Delivery) -> None:
        self._taken[delivery.delivery_id] = [
            (delivery.mail.mail_id, to)
            for to in host.named(delivery)
            if host.can_take(Mail(delivery.envelope)) and host.verdict(delivery.mail.mail_id, to, self.now).positive
        ]

    def _confirm(self, fact: Reported) -> None:
        self.ledger.confirmed.update(self._taken.pop(fact.delivery_id, ()))


def _verdict(reply: Reply) -> Verdict:
    if reply.positive:
        return Verdict.DELIVERED
    return Verdict.NEVER if reply.permanent else Verdict.LATER


def with_settings(**changes: object) -> RelaySettings:
    """The settings of most simulations, changed."""
    settings = RelaySettings(
        reporting_mta="relay.example", schedule=Schedule(give_up_after=2 * DAY), sessions=6, sessions_per_next_hop=3
    )
    return replace(settings, **changes)  # type: ignore[arg-type]  # arguments by name
