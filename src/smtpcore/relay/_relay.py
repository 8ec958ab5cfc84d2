"""The relay: which mail goes where and when, decided by a machine without clock, socket or dice.

What lives here: the machine. What does not: how a report changes a job (``_results``), what is known of one next hop
(``_destination``), where mail goes (``_routing``), and everything that waits.

How it works
============

**Facts in, orders out, in batches.** Whoever drives the machine hands it all facts that have come, with the time, and
gets one batch of orders. The durable ones are committed in one transaction; only then are the effects performed.
Facts that come meanwhile form the next batch. If the commit fails no effect is performed, and the only way on is a new
machine over the same spool: what was committed is what happened.

**Start is load.** A new machine knows nothing and asks the spool which domains have due jobs. It holds only what fits
its window; the rest of the queue costs disk. It keeps no list of what lies ahead but one number: when to look again.

**An attempt is claimed before the wire is touched.** A claim counts the attempt and hides the job from loading for the
life of this machine's owner. After a crash the next owner finds the job due at once. So nothing that was accepted is
lost, and a duplicate is possible only where a peer had accepted a mail and the commit had not happened.

**A destination fails as a whole, or it does not.** A session that dies before its first mail was begun says nothing of
that mail. If other sessions with the host live, it is asked for fewer. If none does, the host rests, and all that waits
for it in memory is put off together, each by its own schedule, so that mail for a dead host is not tried again and
again, and still expires by age.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from smtpcore._errors import ConnectionLost, LocalProtocolError, SmtpError
from smtpcore._events import Outcome, Report, Stage, Verdict
from smtpcore.relay._destination import Destination, Session
from smtpcore.relay._facts import (
    Claim,
    CloseSession,
    Commanded,
    Continue,
    Delivery,
    DomainsLoaded,
    Durable,
    Effect,
    Fact,
    Host,
    Job,
    JobsLoaded,
    Load,
    LoadDomains,
    MailAccepted,
    NextHop,
    OpenSession,
    Operate,
    Orders,
    Reported,
    Save,
    SessionEnded,
    ShutDown,
    SpoolChanged,
    StoredMail,
)
from smtpcore.relay._results import given_back, results_of
from smtpcore.relay._routing import Route, SmartHost
from smtpcore.relay._settings import RelaySettings

__all__ = ["Relay"]

#: Domains asked for at a time, and jobs of one domain.
_DOMAINS = 1000
_JOBS = 100
#: Deliveries that a session makes before it must make room for a destination that has none.
_TURN = 20


class Relay:
    """The machine. ``handle`` takes facts and answers with orders; ``wake_at`` says when to call it without any."""

    def __init__(self, settings: RelaySettings, route: Route) -> None:
        self._settings = settings
        self._route = route
        #: Mails of the jobs in memory, with the number of those jobs.
        self._mails: dict[int, tuple[StoredMail, int]] = {}
        #: Jobs in memory, waiting or claimed.
        self._jobs: dict[int, Job] = {}
        self._destinations: dict[NextHop, Destination] = {}
        self._sessions: dict[int, Session] = {}
        self._sessions_opened = 0
        self._deliveries_made = 0
        #: Domains with due jobs that are not all in memory.
        self._due_domains: dict[str, NextHop] = {}
        #: Domains whose jobs are on their way into memory, and how many at most.
        self._loading: dict[str, int] = {}
        self._looking = False
        #: When to ask for due domains; ``None`` when nothing is known to fall due.
        self._look_at: float | None = 0.0
        self._stopping = False
        self._durable: list[Durable] = []
        self._effects: list[Effect] = []

    # --- the face ---------------------------------------------------------------------------------------------------

    def handle(self, facts: Iterable[Fact], now: float) -> Orders:
        """Take in all facts that have come, and decide."""
        for fact in facts:
            self._take_in(fact, now)
        self._mind_the_clock(now)
        if not self._stopping:
            self._assign(now)
            self._load(now)
            self._look(now)
        self._close_idle(now)
        orders = Orders(tuple(self._durable), tuple(self._effects))
        self._durable = []
        self._effects = []
        return orders

    @property
    def wake_at(self) -> float | None:
        """When to call ``handle`` though nothing happened; ``None`` for never."""
        times = [self._look_at] if self._may_look else []
        times += [destination.resting_until for destination in self._destinations.values()]
        times += [
            session.idle_since + self._settings.idle_seconds
            for session in self._sessions.values()
            if session.delivery is None and not session.closing
        ]
        return min((time for time in times if time is not None), default=None)

    def drained(self, now: float) -> bool:
        """Whether nothing that is due is left to do: no session at work, nothing waiting, nothing to ask for."""
        busy = self._looking or self._loading or self._jobs or any(s.delivery for s in self._sessions.values())
        reachable = any(self._destinations[hop].resting_until is None for hop in self._due_domains.values())
        return not busy and not reachable and (self._look_at is None or self._look_at > now)

    @property
    def idle(self) -> bool:
        """Whether all sessions have ended."""
        return not self._sessions

    @property
    def destinations(self) -> tuple[tuple[NextHop, int, int, float | None], ...]:
        """For a live view: ``(next hop, jobs waiting in memory, sessions, resting until)`` of each destination."""
        return tuple(
            (next_hop, destination.waiting_jobs, len(destination.sessions), destination.resting_until)
            for next_hop, destination in self._destinations.items()
        )

    @property
    def jobs_in_memory(self) -> int:
        """How many jobs wait or are being delivered."""
        return len(self._jobs)

    # --- facts ------------------------------------------------------------------------------------------------------

    def _take_in(self, fact: Fact, now: float) -> None:
        if isinstance(fact, MailAccepted):
            self._accepted(fact, now)
        elif isinstance(fact, SpoolChanged):
            self._look_at = now
        elif isinstance(fact, DomainsLoaded):
            self._domains_loaded(fact, now)
        elif isinstance(fact, JobsLoaded):
            self._jobs_loaded(fact, now)
        elif isinstance(fact, Reported):
            self._reported(fact, now)
        elif isinstance(fact, SessionEnded):
            self._session_ended(fact, now)
        elif isinstance(fact, Commanded):
            self._durable.append(Operate(fact.action, fact.mail_ids))
        elif isinstance(fact, ShutDown):
            self._shut_down()

    def _accepted(self, fact: MailAccepted, now: float) -> None:
        for job in fact.jobs:
            if self._stopping or self._hold(fact.mail, job):
                continue
            if job.due_at <= now:
                self._due_domains[job.domain] = self._destination(job.domain).next_hop
            else:
                self._look_again(job.due_at, now)

    def _hold(self, mail: StoredMail, job: Job, *, beyond_window: bool = False) -> bool:
        """Take a job into memory, if its destination is in service and there is room."""
        if job.job_id in self._jobs:
            return True
        destination = self._destination(job.domain)
        full = destination.room <= 0 or len(self._jobs) >= self._settings.window
        if destination.resting_until is not None or (full and not beyond_window):
            return False
        self._mails[mail.mail_id] = (mail, self._mails.get(mail.mail_id, (mail, 0))[1] + 1)
        self._jobs[job.job_id] = job
        destination.add(job)
        return True

    def _next_hop(self, domain: str) -> NextHop:
        way = self._route.way(domain)
        if not isinstance(way, SmartHost):
            raise LocalProtocolError("this way is not open yet", way)
        return NextHop(way.host, way.port)

    def _destination(self, domain: str) -> Destination:
        next_hop = self._next_hop(domain)
        destination = self._destinations.get(next_hop)
        if destination is None:
            destination = self._destinations[next_hop] = Destination(next_hop, self._settings)
        return destination

    def _look_again(self, due_at: float, now: float) -> None:
        due_at = min(max(due_at, now), now + self._settings.schedule.longest_delay)
        self._look_at = due_at if self._look_at is None else min(self._look_at, due_at)

    def _domains_loaded(self, fact: DomainsLoaded, now: float) -> None:
        self._looking = False
        if self._stopping:
            return
        for domain in fact.domains:
            self._due_domains[domain] = self._destination(domain).next_hop
        if fact.next_due is not None:
            self._look_again(fact.next_due, now)
        if not fact.complete:
            self._look_at = now

    def _jobs_loaded(self, fact: JobsLoaded, now: float) -> None:
        asked_for = self._loading.pop(fact.domain, None) is not None
        if self._stopping or not asked_for:
            return
        if fact.complete:
            self._due_domains.pop(fact.domain, None)
        mails = {mail.mail_id: mail for mail in fact.mails}
        next_hop = self._next_hop(fact.domain)
        for job in fact.jobs:
            # A sibling for another next hop will be asked for in its own turn.
            if self._next_hop(job.domain) != next_hop:
                continue
            held = self._hold(mails[job.mail_id], job, beyond_window=True)
            if not held and job.domain == fact.domain:
                self._look_again(job.due_at, now)

    def _reported(self, fact: Reported, now: float) -> None:
        session = self._sessions.get(fact.session_id)
        if session is None or session.delivery is None or session.delivery.delivery_id != fact.delivery_id:
            return
        delivery, session.delivery = session.delivery, None
        session.idle_since = now
        if fact.report.stage is Stage.NOT_STARTED and not self._refused_here(fact.report):
            error = next((outcome.error for outcome in fact.report.outcomes if outcome.error is not None), None)
            self._not_started(session, delivery, error, now)
            return
        session.completed += 1
        session.destination.succeeded()
        self._apply(delivery, fact.report.outcomes, now)

    @staticmethod
    def _refused_here(report: Report) -> bool:
        """Whether the client itself found that the mail cannot be sent to this peer: a verdict without an attempt."""
        return all(outcome.verdict is Verdict.NEVER for outcome in report.outcomes)

    def _session_ended(self, fact: SessionEnded, now: float) -> None:
        session = self._sessions.pop(fact.session_id, None)
        if session is None:
            return
        del session.destination.sessions[fact.session_id]
        if session.delivery is not None:
            delivery, session.delivery = session.delivery, None
            self._not_started(session, delivery, fact.error, now)

    def _shut_down(self) -> None:
        self._stopping = True
        self._due_domains.clear()
        for destination in self._destinations.values():
            for jobs in destination.take_all():
                self._drop(jobs)
        for session in self._sessions.values():
            self._close(session)

    # --- what a delivery left ---------------------------------------------------------------------------------------

    def _apply(self, delivery: Delivery, outcomes: Iterable[Outcome], now: float) -> None:
        results = results_of(delivery, tuple(outcomes), now, self._settings.schedule)
        self._durable += results.durable
        self._effects += results.effects
        if results.due_at is not None:
            self._look_again(results.due_at, now)
        self._drop(delivery.jobs)

    def _drop(self, jobs: Iterable[Job]) -> None:
        """Let jobs go from memory; the spool has them, or they are done."""
        for job in jobs:
            del self._jobs[job.job_id]
            mail, count = self._mails.pop(job.mail_id)
            if count > 1:
                self._mails[job.mail_id] = (mail, count - 1)

    def _not_started(self, session: Session, delivery: Delivery, error: SmtpError | None, now: float) -> None:
        """A delivery that never got onto the wire: its own fate is open, and what it says is about the host."""
        destination = session.destination
        self._close(session)
        if self._stopping or session.completed or destination.alive:
            if not session.completed and not self._stopping:
                destination.overrun()
            self._give_back(destination, delivery)
            return
        destination.failed(now)
        cause = error or ConnectionLost("the session ended before the mail was begun")
        self._put_off(delivery, cause, now)
        for jobs in destination.take_all():
            mail, _ = self._mails[jobs[0].mail_id]
            claimed = [replace(job, attempts=job.attempts + 1) for job in jobs]
            self._put_off(destination.delivery(0, mail, claimed), cause, now)

    def _put_off(self, delivery: Delivery, error: SmtpError, now: float) -> None:
        recipients = delivery.envelope.recipients
        self._apply(delivery, [Outcome(to, Verdict.LATER, None, error) for to in recipients], now)

    def _give_back(self, destination: Destination, delivery: Delivery) -> None:
        """Undo the claim: the attempt did not happen, and the jobs are the next to go."""
        jobs = given_back(delivery)
        self._durable += [Save(job) for job in jobs]
        if self._stopping:
            self._drop(jobs)
            return
        for job in reversed(jobs):
            self._jobs[job.job_id] = job
            destination.add(job, first=True)

    # --- what comes next --------------------------------------------------------------------------------------------

    def _mind_the_clock(self, now: float) -> None:
        """End rests that are over, and mend times that a clock which was set back has put out of reach."""
        for destination in self._destinations.values():
            until = destination.resting_until
            if until is not None and not now < until <= now + self._settings.longest_rest:
                destination.resting_until = None
                self._look_at = now
        if self._look_at is not None and self._look_at > now + self._settings.schedule.longest_delay:
            self._look_at = now
        for session in self._sessions.values():
            session.idle_since = min(session.idle_since, now)

    def _assign(self, now: float) -> None:
        """Give what waits to sessions: to those that are free, and to new ones while the limits allow."""
        for destination in list(self._destinations.values()):
            while destination.waiting and destination.resting_until is None:
                session = self._free_session(destination) or self._new_session(destination)
                if session is None:
                    break
                self._make_delivery(session)
            in_use = destination.waiting or destination.sessions or destination.failures
            if not in_use and not self._due_domains:
                del self._destinations[destination.next_hop]

    def _free_session(self, destination: Destination) -> Session | None:
        for session in list(destination.sessions.values()):
            if session.delivery is not None or session.closing:
                continue
            used_up = session.completed >= self._settings.mails_per_session
            if used_up or self._must_make_room(session):
                self._close(session)
                continue
            return session
        return None

    def _must_make_room(self, session: Session) -> bool:
        """Whether other destinations wait for the place that a session takes."""
        if len(self._sessions) < self._settings.sessions:
            return False
        if len(session.destination.sessions) == 1 and session.completed % _TURN:
            return False
        waiting = sum(1 for d in self._destinations.values() if d.waiting and not d.sessions and d.may_open)
        leaving = sum(1 for other in self._sessions.values() if other.closing)
        return waiting > leaving

    def _new_session(self, destination: Destination) -> Session | None:
        if not destination.may_open:
            return None
        if len(self._sessions) >= self._settings.sessions:
            self._close_one_idle()
            return None
        self._sessions_opened += 1
        session = Session(self._sessions_opened, destination, None)
        self._sessions[session.session_id] = destination.sessions[session.session_id] = session
        # Whoever has been served stands last in the next round.
        self._destinations[destination.next_hop] = self._destinations.pop(destination.next_hop)
        return session

    def _close_one_idle(self) -> None:
        if any(session.closing for session in self._sessions.values()):
            return
        idle = [s for s in self._sessions.values() if s.delivery is None and not s.destination.waiting]
        if idle:
            self._close(min(idle, key=lambda session: session.idle_since))

    def _make_delivery(self, session: Session) -> None:
        """Claim the jobs of the mail that waits longest, and hand them to a session."""
        destination = session.destination
        jobs = [replace(job, attempts=job.attempts + 1) for job in destination.take()]
        for job in jobs:
            self._jobs[job.job_id] = job
        self._deliveries_made += 1
        mail, _ = self._mails[jobs[0].mail_id]
        delivery = session.delivery = destination.delivery(self._deliveries_made, mail, jobs)
        self._durable += [Claim(job) for job in jobs]
        hop = destination.next_hop
        if session.completed:
            self._effects.append(Continue(session.session_id, delivery))
        else:
            self._effects.append(OpenSession(session.session_id, delivery, Host(hop.host, None, hop.port)))

    def _load(self, now: float) -> None:
        """Ask for jobs of domains that have due ones, as far as there is room for them."""
        promised: dict[NextHop, int] = {}
        for domain, limit in self._loading.items():
            next_hop = self._next_hop(domain)
            promised[next_hop] = promised.get(next_hop, 0) + limit
        for domain, next_hop in self._due_domains.items():
            destination = self._destinations[next_hop]
            expected = destination.waiting_jobs + promised.get(next_hop, 0)
            room = self._settings.window_per_next_hop - expected
            limit = min(_JOBS, room, self._settings.window - len(self._jobs) - sum(promised.values()))
            half_full = expected * 2 > self._settings.window_per_next_hop
            if limit <= 0 or half_full or domain in self._loading or destination.resting_until is not None:
                continue
            # Jobs that wait here are not claimed, so they will be among the answer.
            here = sum(job.domain == domain for jobs in destination.waiting.values() for job in jobs)
            self._loading[domain] = limit
            promised[next_hop] = promised.get(next_hop, 0) + limit
            self._effects.append(Load(domain, now, self._horizon(now), limit + here))

    @property
    def _may_look(self) -> bool:
        """Whether there is room for what a look at the spool may bring."""
        if self._looking or self._stopping or len(self._jobs) >= self._settings.window:
            return False
        reachable = sum(self._destinations[hop].resting_until is None for hop in self._due_domains.values())
        return reachable < _DOMAINS

    def _look(self, now: float) -> None:
        """Ask for domains that have due jobs."""
        if self._look_at is None or self._look_at > now or not self._may_look:
            return
        self._looking = True
        self._look_at = None
        # Domains whose due jobs all wait in memory will be among the answer.
        here = len({job.domain for job in self._jobs.values()})
        known = tuple(self._due_domains)
        self._effects.append(LoadDomains(now, self._horizon(now), _DOMAINS + here, known))

    def _horizon(self, now: float) -> float:
        return now + self._settings.schedule.longest_delay + 1.0

    def _close_idle(self, now: float) -> None:
        for session in self._sessions.values():
            if session.delivery is None and now - session.idle_since >= self._settings.idle_seconds:
                self._close(session)

    def _close(self, session: Session) -> None:
        if not session.closing and session.session_id in self._sessions:
            session.closing = True
            self._effects.append(CloseSession(session.session_id))
