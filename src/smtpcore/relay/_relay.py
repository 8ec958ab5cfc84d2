"""The relay: which mail goes where and when, decided by a machine without clock, socket or dice.

What lives here: the machine, which brings its parts together. What does not: how a report changes a job (``_results``);
what is known of one next hop (``_destination``) and of all (``_destinations``); where mail goes (``_routing``, ``_mx``,
``_directory``) and to which host first (``_hosts``); who may have a session (``_sessions``); what is asked of the spool
(``_supply``); and everything that waits.

How it works
============

**Facts in, orders out, in batches.** Whoever drives the machine hands it all facts that have come, with the time, and
gets one batch of orders. The durable ones are committed in one transaction; only then are the effects performed.
Facts that come meanwhile form the next batch. What is loaded is loaded after the commit, and comes with the next batch,
of which it is taken in first: so the machine never hears of a job what is no longer true. If the commit fails no effect
is performed, and the only way on is a new machine over the same spool: what was committed is what happened.

**Start is load.** A new machine knows nothing and asks the spool which domains have due jobs. It holds only what fits
its window; the rest of the queue costs disk. It keeps no list of what lies ahead but one number: when to look again.

**A domain leads to a destination.** The route says how, and for a way by MX the DNS is asked first; no job is loaded
before that is known. Domains with the same set of hosts share a destination, its sessions and its limits. A domain that
leads nowhere has its jobs loaded only to be put off or bounced.

**An attempt is claimed before the wire is touched.** A claim counts the attempt and hides the job from loading for the
life of this machine's owner. After a crash the next owner finds the job due at once. So nothing that was accepted is
lost, and a duplicate is possible only where a peer had accepted a mail and the commit had not happened.

**A session is given deliveries ahead.** Once it has proved itself it has some in store, as many as leaves the other
sessions of its destination their share; so it never waits for the spool, and commits are grouped. What it has not begun
when it ends is given back: the claim is undone.

**A host fails, or a destination fails, or neither.** A session that dies before its first mail was begun says nothing
of that mail. Its host is set aside, unless another session with it works, and its deliveries go to the next host, in
the same attempt. When there is no further host and other sessions with the destination live, it is asked for fewer. If
none does, it rests, and all that waits for it in memory is put off together, each by its own schedule, so that mail for
a dead host is not tried again and again, and still expires by age. What is in the spool waits for the end of the rest.
But if the destination has failed for as long as the first delay of the schedule, its due jobs are loaded in bites and
put off, too: no queue is so long that warnings and bounces come late.

**No step walks through all destinations.** What happened touches some of them; only those are looked at, with those
that are next in a queue: for a session, for jobs, for the end of a rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from smtpcore._errors import ConnectionLost, ExtensionRequired, SmtpError
from smtpcore._events import Outcome, Report, Stage, Verdict
from smtpcore.relay._destination import Destination, DestinationView, Session, Unfit
from smtpcore.relay._destinations import Destinations
from smtpcore.relay._directory import Directory
from smtpcore.relay._facts import (
    Action,
    Claim,
    Commanded,
    Continue,
    Delivery,
    DomainResolved,
    DomainsLoaded,
    Durable,
    Effect,
    Fact,
    Fate,
    FateKind,
    Forget,
    Host,
    Job,
    JobsLoaded,
    JobsRemoved,
    MailAccepted,
    OpenSession,
    Operate,
    Orders,
    Reported,
    Save,
    SessionEnded,
    ShutDown,
    SpoolChanged,
    StoredMail,
    TimePassed,
)
from smtpcore.relay._hosts import HostsAside
from smtpcore.relay._memory import Memory
from smtpcore.relay._results import Undelivered, given_back, results_of
from smtpcore.relay._routing import Route, Unroutable
from smtpcore.relay._sessions import Sessions
from smtpcore.relay._settings import RelaySettings
from smtpcore.relay._supply import Place, Supply
from smtpcore.relay._wishes import deadline, options_at

__all__ = ["Relay"]

_TOO_LATE = "the time by which it was to be delivered is over"
#: Refusals by settings of one's own: lines that are too long.
_SAME_EVERYWHERE = frozenset({"5.6.0"})
#: Facts that tell what the spool held when the last batch was committed.
_OF_THE_SPOOL = (JobsLoaded, DomainsLoaded, MailAccepted)


class Relay:
    """The machine. ``handle`` takes facts and answers with orders; ``wake_at`` says when to call it without any."""

    def __init__(self, settings: RelaySettings, route: Route) -> None:
        self._settings = settings
        self._directory = Directory(settings, route)
        self._destinations = Destinations(settings)
        self._memory = Memory()
        self._supply = Supply(settings, self._memory, self._directory, self._destinations)
        self._sessions = Sessions(settings)
        self._aside = HostsAside(settings.set_aside)
        self._deliveries_made = 0
        #: Jobs that were loaded and put off in this batch: another load may have brought them as well.
        self._just_put_off: set[int] = set()
        self._now = 0.0
        #: Domains that an operator wants tried at once, as soon as it is known where they go.
        self._urgent: set[str] = set()
        self._stopping = False
        self._durable: list[Durable] = []
        self._effects: list[Effect] = []
        self._rules: dict[type[Fact], Callable[[Any, float], None]] = {
            JobsLoaded: self._jobs_loaded,
            DomainsLoaded: self._domains_loaded,
            MailAccepted: self._accepted,
            SpoolChanged: self._spool_changed,
            DomainResolved: self._resolved,
            Reported: self._reported,
            SessionEnded: self._session_ended,
            Commanded: self._commanded,
            JobsRemoved: self._removed,
            TimePassed: lambda _fact, _now: None,
            ShutDown: self._shut_down,
        }

    # --- the face ---------------------------------------------------------------------------------------------------

    def handle(self, facts: Iterable[Fact], now: float) -> Orders:
        """Take in all facts that have come, and decide."""
        for fact in sorted(facts, key=lambda fact: not isinstance(fact, _OF_THE_SPOOL)):
            self._rules[type(fact)](fact, now)
        self._mind_the_clock(now)
        if not self._stopping:
            self._assign()
            self._effects += self._supply.loads(now)
            self._effects += self._supply.looks(now)
            self._effects += self._directory.next_lookups(now)
        self._sessions.close_idle(now)
        self._destinations.tidy()
        orders = Orders(tuple(self._durable), (*self._effects, *self._sessions.closings))
        self._durable = []
        self._effects = []
        self._sessions.closings = []
        self._just_put_off.clear()
        return orders

    @property
    def wake_at(self) -> float | None:
        """When to call ``handle`` though nothing happened; ``None`` for never."""
        if self._stopping:
            return None
        times = (
            self._supply.look_at,
            self._destinations.next_end,
            self._sessions.next_idle_end,
            self._directory.next_overdue,
        )
        return min((time for time in times if time is not None), default=None)

    def drained(self, now: float) -> bool:
        """Whether nothing that is due is left to do: no session at work, nothing waiting, nothing to ask for."""
        busy = self._supply.busy or self._directory.busy or len(self._memory)
        return not busy and not self._supply.due_now(now)

    @property
    def idle(self) -> bool:
        """Whether all sessions have ended."""
        return not self._sessions.table

    @property
    def destinations(self) -> tuple[DestinationView, ...]:
        """Every destination, for a live view."""
        return tuple(destination.view for destination in self._destinations.table.values())

    @property
    def jobs_in_memory(self) -> int:
        """How many jobs wait or are being delivered."""
        return len(self._memory)

    # --- facts: what the spool holds --------------------------------------------------------------------------------

    def _accepted(self, fact: MailAccepted, now: float) -> None:
        for job in fact.jobs:
            if self._stopping or job in self._memory:
                continue
            if job.due_at > now:
                self._supply.look_again(job.due_at, now)
            elif not self._hold(fact.mail, job, self._supply.place(job.domain, now)):
                self._supply.add(job.domain, now)

    def _hold(self, mail: StoredMail, job: Job, place: Place | None) -> bool:
        """Take a job into memory, if its destination is known and in service and there is room."""
        if not isinstance(place, Destination) or place.resting_until is not None:
            return False
        if place.room <= 0 or self._supply.room <= 0:
            return False
        self._memory.hold(mail, job, place)
        self._destinations.touch(place)
        return True

    def _domains_loaded(self, fact: DomainsLoaded, now: float) -> None:
        if self._stopping:
            self._supply.stop_looking()
        else:
            self._supply.looked(fact, now)

    def _jobs_loaded(self, fact: JobsLoaded, now: float) -> None:
        place = self._supply.loaded(fact.domain)
        if self._stopping or place is None:
            return
        mails = {mail.mail_id: mail for mail in fact.mails}
        new = [job for job in fact.jobs if self._is_new(job, fact.domain, place, now)]
        problem = _problem_of(place)
        complete = fact.complete
        if problem is not None:
            self._put_off_loaded(mails, new, problem, now)
        else:
            left = [job for job in new if not self._hold(mails[job.mail_id], job, place)]
            complete = complete and not any(job.domain == fact.domain for job in left)
        self._supply.settle(fact.domain, now, complete=complete)

    def _is_new(self, job: Job, domain: str, place: Place, now: float) -> bool:
        """Whether a job that was loaded is for this place and not known; a sibling for another has its own turn."""
        if job in self._memory or job.job_id in self._just_put_off:
            return False
        return job.domain == domain or self._supply.place(job.domain, now) is place

    def _put_off_loaded(
        self, mails: Mapping[int, StoredMail], jobs: Iterable[Job], problem: Undelivered, now: float
    ) -> None:
        by_mail: dict[int, list[Job]] = {}
        for job in jobs:
            by_mail.setdefault(job.mail_id, []).append(job)
            self._just_put_off.add(job.job_id)
        for mail_id, together in by_mail.items():
            self._put_off(mails[mail_id], together, problem, now)

    def _spool_changed(self, fact: SpoolChanged, now: float) -> None:
        self._supply.look_again(now, now)

    def _resolved(self, fact: DomainResolved, now: float) -> None:
        if self._directory.resolved(fact, now):
            self._supply.resolved(fact.domain, now)
            if fact.domain in self._urgent:
                self._urgent.remove(fact.domain)
                self._try_at_once(self._supply.place(fact.domain, now))

    # --- facts: sessions --------------------------------------------------------------------------------------------

    def _reported(self, fact: Reported, now: float) -> None:
        session = self._sessions.table.get(fact.session_id)
        if session is None or fact.delivery_id not in session.deliveries:
            return
        destination = session.destination
        self._destinations.touch(destination)
        if fact.report.stage is Stage.NOT_STARTED and not _refused_here(fact.report):
            # The session is over, and its end will say what becomes of what it was given.
            errors = (outcome.error for outcome in fact.report.outcomes if outcome.error is not None)
            session.refused = session.refused or next(errors, None) or _never_begun()
            self._sessions.close(session)
            return
        delivery = session.deliveries.pop(fact.delivery_id)
        if not session.completed:
            self._aside.take_back(session.host)
        session.completed += 1
        destination.succeeded(fact.report.outcomes)
        self._end_rest(destination)
        if self._goes_elsewhere(session, fact.report):
            session.elsewhere[delivery.delivery_id] = Unfit(delivery, session.host, fact.report)
            self._sessions.close(session)
            return
        self._sessions.reported(session, now)
        self._apply(delivery.mail, delivery.jobs, fact.report.outcomes, now, host=session.host, dsn=fact.dsn)

    def _session_ended(self, fact: SessionEnded, now: float) -> None:
        session = self._sessions.ended(fact.session_id)
        if session is None:
            return
        destination = session.destination
        self._destinations.touch(destination)
        if session.elsewhere:
            self._take_elsewhere(session, now)
        if not session.deliveries:
            return
        if self._stopping or session.completed:
            self._give_back(session, now)
            return
        if not destination.works(session.host):
            self._aside.put(session.host, now)
        host = self._next_host(destination, session.tried)
        if host is not None:
            opened = self._open(destination, host, session.tried, session.deliveries.values(), now)
            opened.unfit_before = session.unfit_before
        elif session.unfit_before:
            self._give_up(session.unfit_before.values(), now)
        elif destination.alive:
            destination.overrun()
            self._give_back(session, now)
        else:
            self._fail(session, session.refused or fact.error or _never_begun(), now)

    def _goes_elsewhere(self, session: Session, report: Report) -> bool:
        """Whether a mail that needs more than this host offers is to be offered to another one.

        RFC 5321 §5.1 has all hosts tried until a delivery succeeds; RFC 6531 §3.2 and RFC 8689 §4.2.1 name their cases.
        """
        return _unfit(report) and self._next_host(session.destination, session.tried) is not None

    def _take_elsewhere(self, session: Session, now: float) -> None:
        """Offer mails to the next host, now that their session has given up its place; or give up, if there is none."""
        deliveries = {delivery_id: unfit.delivery for delivery_id, unfit in session.elsewhere.items()}
        if self._stopping:
            session.deliveries |= deliveries
            return
        host = self._next_host(session.destination, session.tried)
        if host is None:
            self._give_up(session.elsewhere.values(), now)
        else:
            opened = self._open(session.destination, host, session.tried, deliveries.values(), now)
            opened.unfit_before = session.elsewhere

    def _give_up(self, mails: Iterable[Unfit], now: float) -> None:
        """No other host can be had: what the last one lacked is why these mails come back."""
        for unfit in mails:
            self._apply(unfit.delivery.mail, unfit.delivery.jobs, unfit.report.outcomes, now, host=unfit.host)

    def _next_host(self, destination: Destination, tried: frozenset[Host]) -> Host | None:
        return self._aside.choose(
            destination.hosts, self._sessions.next_number, tried, self._settings.hosts_per_attempt
        )

    def _give_back(self, session: Session, now: float) -> None:
        """Undo the claims: the attempts did not happen, and the jobs are the next to go."""
        for delivery in reversed(session.deliveries.values()):
            wish = self._memory.wish_for(delivery.mail.mail_id)
            jobs = given_back(delivery)
            if wish is Action.REMOVE:
                self._durable += [Forget(job) for job in jobs]
                self._tell_removed(jobs)
            else:
                self._durable += [Save(job) for job in jobs]
            if wish is not None or self._stopping:
                self._memory.drop(jobs)
                continue
            self._memory.change(jobs)
            for job in reversed(jobs):
                session.destination.add(job, first=True)

    def _fail(self, session: Session, error: SmtpError, now: float) -> None:
        """A destination failed as a whole: it rests, and everything that is here for it is put off."""
        destination = session.destination
        if destination.resting_until is None:
            # Sessions that fail together are one failure.
            self._destinations.rest(destination, error, now)
            self._supply.began_to_rest(destination)
        problem = Undelivered(Verdict.LATER, error)
        for delivery in session.deliveries.values():
            outcomes = problem.outcomes(delivery.jobs)
            self._apply(delivery.mail, delivery.jobs, outcomes, now, host=session.host)
        for jobs in destination.take_all():
            mail = self._memory.mail(jobs[0].mail_id)
            self._memory.drop(jobs)
            self._put_off(mail, jobs, problem, now)

    # --- facts: operators, and the end ------------------------------------------------------------------------------

    def _commanded(self, fact: Commanded, now: float) -> None:
        self._durable.append(Operate(fact.action, fact.mail_ids))
        if fact.action in (Action.HOLD, Action.REMOVE):
            for mail_id, destinations in self._memory.places(fact.mail_ids):
                for destination in destinations:
                    self._memory.drop(destination.take_mail(mail_id))
                    self._destinations.touch(destination)
                if self._memory.wish_for(mail_id) is not Action.REMOVE:
                    self._memory.wish(mail_id, fact.action)
            return
        if fact.action is Action.RELEASE:
            for mail_id in fact.mail_ids:
                if self._memory.wish_for(mail_id) is Action.HOLD:
                    self._memory.wish(mail_id, None)
        for domain in fact.domains if fact.action is Action.RETRY else ():
            place = self._supply.place(domain, now)
            self._try_at_once(place)
            if not isinstance(place, Destination):
                # Where it goes is looked up anew, and may turn out to be a destination that rests; or it waits for one
                # since before its answer from the DNS grew old.
                self._directory.forget(domain)
                self._urgent.add(domain)
                for destination in [each for each in self._destinations.table.values() if domain in each.due]:
                    self._try_at_once(destination)
        self._supply.look_again(now, now)

    def _try_at_once(self, place: Place | None) -> None:
        """Forget what speaks against trying a destination now."""
        if isinstance(place, Destination):
            self._end_rest(place)
            for host in place.hosts.candidates(0):
                self._aside.take_back(host)

    def _removed(self, fact: JobsRemoved, now: float) -> None:
        self._tell_removed(fact.jobs)

    def _tell_removed(self, jobs: Iterable[Job]) -> None:
        self._effects += [
            Fate(job.mail_id, recipient.address, FateKind.REMOVED, "removed by an operator")
            for job in jobs
            for recipient in job.recipients
        ]

    def _shut_down(self, fact: ShutDown, now: float) -> None:
        self._stopping = True
        self._supply.stop()
        self._directory.stop()
        for destination in self._destinations.table.values():
            for jobs in destination.take_all():
                self._memory.drop(jobs)
        for session in self._sessions.table.values():
            self._sessions.close(session)

    # --- what an attempt left ---------------------------------------------------------------------------------------

    def _apply(
        self,
        mail: StoredMail,
        jobs: tuple[Job, ...],
        outcomes: Iterable[Outcome],
        now: float,
        *,
        host: Host,
        dsn: bool = False,
    ) -> None:
        """The outcomes of a delivery."""
        removed = self._memory.wish_for(mail.mail_id) is Action.REMOVE
        self._memory.drop(jobs)
        self._record(mail, jobs, tuple(outcomes), now, host=host, dsn=dsn, removed=removed)

    def _put_off(self, mail: StoredMail, jobs: Iterable[Job], problem: Undelivered, now: float) -> None:
        """Count an attempt of jobs that were not claimed, with what they would meet."""
        tried = tuple(replace(job, attempts=job.attempts + 1) for job in jobs)
        self._record(mail, tried, problem.outcomes(tried), now, status=problem.status)

    def _record(
        self,
        mail: StoredMail,
        jobs: tuple[Job, ...],
        outcomes: tuple[Outcome, ...],
        now: float,
        *,
        host: Host | None = None,
        dsn: bool = False,
        status: str | None = None,
        removed: bool = False,
    ) -> None:
        schedule = self._settings.schedule
        results = results_of(
            mail,
            jobs,
            outcomes,
            now,
            schedule,
            host=host,
            dsn=dsn,
            status=status,
            removed=removed,
            stopping=self._stopping,
        )
        self._durable += results.durable
        self._effects += results.effects
        if results.due_at is not None and not self._stopping:
            self._supply.look_again(results.due_at, now)

    # --- what comes next --------------------------------------------------------------------------------------------

    def _mind_the_clock(self, now: float) -> None:
        """End what is over, and mend times that a clock which was set back has put out of reach."""
        over = self._destinations.rests_over(now)
        if now < self._now:
            over += self._destinations.set_back(now)
            self._supply.mind_the_clock(now)
            self._sessions.set_back(now)
            self._directory.set_back(now)
            self._aside.clear()
        self._now = now
        for destination in over:
            self._end_rest(destination)
            self._supply.look_again(now, now)
        self._directory.mind_the_clock(now)
        for unanswered in self._directory.overdue(now):
            self._resolved(unanswered, now)
        self._aside.mind_the_clock(now)

    def _end_rest(self, destination: Destination) -> None:
        if destination.resting_until is not None:
            destination.resting_until = None
            self._supply.rested(destination)
            self._destinations.touch(destination)

    def _assign(self) -> None:
        """Give what waits to sessions: to those that are free, to new ones while the limits allow, and ahead."""
        for destination in self._destinations.touched:
            self._give_ahead(destination, 1)
            self._sessions.queue(destination)
        while (destination_to_open := self._sessions.next_to_open()) is not None:
            self._open_one(destination_to_open)
        for destination in self._destinations.touched:
            self._give_ahead(destination, destination.share)
            self._sessions.queue(destination)
            self._supply.review(destination)
        self._sessions.make_room()

    def _give_ahead(self, destination: Destination, most: int) -> None:
        """Give every session that has proved itself up to ``most`` deliveries, while there are any."""
        for session in list(destination.sessions.values()):
            while (
                self._has_work(destination)
                and session.completed
                and len(session.deliveries) < most
                and self._sessions.may_give(session)
            ):
                delivery = self._make_delivery(destination)
                self._give(session, delivery)
                self._effects.append(Continue(session.session_id, delivery))

    def _has_work(self, destination: Destination) -> bool:
        """Whether anything waits; what was to be delivered before now is given back first (RFC 2852 §4.1)."""
        while destination.waiting:
            mail = self._memory.mail(next(iter(destination.waiting)))
            until = deadline(mail)
            if until is None or self._now < until:
                return True
            jobs = destination.take_mail(mail.mail_id)
            self._memory.drop(jobs)
            self._put_off(mail, jobs, Undelivered(Verdict.LATER, SmtpError(_TOO_LATE)), self._now)
            self._destinations.touch(destination)
        return False

    def _open_one(self, destination: Destination) -> None:
        if not self._has_work(destination):
            return
        host = self._next_host(destination, frozenset())
        assert host is not None, "a next hop has a host"
        self._open(destination, host, frozenset(), [self._make_delivery(destination)], self._now)
        self._destinations.touch(destination)
        self._sessions.queue(destination)

    def _open(
        self,
        destination: Destination,
        host: Host,
        tried: frozenset[Host],
        deliveries: Iterable[Delivery],
        now: float,
    ) -> Session:
        session = self._sessions.open(destination, host, tried)
        first, *others = [replace(each, options=options_at(each.mail, now, each.next_hop)) for each in deliveries]
        self._effects.append(OpenSession(session.session_id, first, host))
        self._effects += [Continue(session.session_id, delivery) for delivery in others]
        for delivery in (first, *others):
            self._give(session, delivery)
        return session

    def _give(self, session: Session, delivery: Delivery) -> None:
        session.deliveries[delivery.delivery_id] = delivery
        session.given += 1
        self._sessions.at_work(session)

    def _make_delivery(self, destination: Destination) -> Delivery:
        """Claim the jobs of the mail that waits longest."""
        jobs = [replace(job, attempts=job.attempts + 1) for job in destination.take()]
        self._memory.change(jobs)
        self._deliveries_made += 1
        self._durable += [Claim(job) for job in jobs]
        mail = self._memory.mail(jobs[0].mail_id)
        options = options_at(mail, self._now, destination.next_hop)
        return Delivery(self._deliveries_made, mail, tuple(jobs), destination.next_hop, options)


def _problem_of(place: Place) -> Undelivered | None:
    """Why jobs that were loaded for a place are to be put off, if they are."""
    if isinstance(place, Unroutable):
        return Undelivered(place.verdict, SmtpError(place.words), place.status)
    if place.resting_until is not None and place.gone and place.error is not None:
        return Undelivered(Verdict.LATER, place.error)
    return None


def _refused_here(report: Report) -> bool:
    """Whether the client itself found that the mail cannot be sent to this peer: a verdict without an attempt."""
    return all(outcome.verdict is Verdict.NEVER for outcome in report.outcomes)


def _unfit(report: Report) -> bool:
    """Whether a mail was refused here for what the peer does not offer; not for what no peer could change."""
    reasons = [outcome.error for outcome in report.outcomes]
    return report.stage is Stage.NOT_STARTED and all(
        isinstance(reason, ExtensionRequired) and reason.enhanced not in _SAME_EVERYWHERE for reason in reasons
    )


def _never_begun() -> SmtpError:
    return ConnectionLost("the session ended before the mail was begun")
