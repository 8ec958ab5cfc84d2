"""Hours of a pool's life with a host of moods: whatever happens, every mail is answered once and the limits hold.

What lives here: a pretend host and pretend callers, and what must be true of every life. What does not: single rules
(``test_pool.py``).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    ConnectFailed,
    ConnectionLost,
    Envelope,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    RemoteProtocolError,
    Reply,
    Report,
    ServiceRefused,
    SessionAborted,
    SmtpError,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.pool import (
    Answer,
    CloseSession,
    DropSession,
    Fact,
    GiveMail,
    MailAsked,
    MailWithdrawn,
    OpenSession,
    Order,
    PoolMachine,
    PoolSettings,
    Reported,
    Retries,
    SessionEnded,
    SessionOpened,
    ShutDown,
    TimePassed,
)

OK, NOT_NOW, NO = Reply(250, ("taken",)), Reply(451, ("later",)), Reply(550, ("nobody",))
GOODBYE = ServiceRefused("421 bye", reply=Reply(421, ("bye",)))


@dataclass
class Moods:
    """How likely each trouble is."""

    refuses: float = 0.0
    goodbye_when_parked: float = 0.0
    lost_before_mail: float = 0.0
    lost_in_mail: float = 0.0
    doubt: float = 0.0
    not_now: float = 0.0
    never: float = 0.0
    withdrawn: float = 0.0
    declines_after: float = float("inf")
    most_sessions: int = 1_000


@dataclass
class Connection:
    """A session as the pretend driver knows it."""

    session_id: int
    open: bool = False
    #: What it was given and has not reported; the first of them is being sent.
    hand: list[GiveMail] = field(default_factory=list)
    mails: int = 0
    opened_at: float = 0.0
    dropped: bool = False
    #: Grows with each thing that happens to it, so that what was planned for it before is void.
    turn: int = 0


@dataclass
class Account:
    """What is known of one mail."""

    envelope: Envelope
    asked_at: float
    attempts: int = 0
    delivered: Counter[int] = field(default_factory=Counter)
    final: set[int] = field(default_factory=set)
    in_doubt: set[int] = field(default_factory=set)
    withdrawn: bool = False
    answer: Report | None = None


class World:
    """Time, one host, callers, and the machine, with everything checked as it happens."""

    def __init__(self, seed: int, moods: Moods, settings: PoolSettings) -> None:
        self.chance = random.Random(seed)
        self.moods = moods
        self.settings = settings
        self.machine = PoolMachine(settings, seed)
        self.now = 1000.0
        self.mails: dict[int, Account] = {}
        self.connections: dict[int, Connection] = {}
        self.given_at: list[float] = []
        self.declined = 0
        self._events: list[tuple[float, int, Callable[[], list[Fact]]]] = []
        self._numbers = itertools.count()
        self._facts: deque[list[Fact]] = deque()
        self.shut = False

    # --- time ------------------------------------------------------------------------------------------------------

    def later(self, seconds: float, event: Callable[[], list[Fact]]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def run(self, *, steps: int = 200_000) -> None:
        """Until nothing is to happen any more."""
        for _ in range(steps):
            wake_at = self.machine.wake_at
            next_at = self._events[0][0] if self._events else None
            if wake_at is None and next_at is None:
                return
            if next_at is None or (wake_at is not None and wake_at <= next_at):
                assert wake_at is not None
                self.now = max(self.now, wake_at)
                self.tell([TimePassed()])
            else:
                self.now, _, event = heapq.heappop(self._events)
                self.tell(event())
        raise AssertionError("it does not come to an end")

    def tell(self, facts: list[Fact]) -> None:
        if facts:
            for order in self.machine.handle(facts, self.now):
                self.perform(order)
            self.check()

    # --- callers ---------------------------------------------------------------------------------------------------

    def ask(self, mail_id: int, recipients: int, repeatable: bool) -> list[Fact]:
        to = tuple(f"user{number}@there.example" for number in range(recipients))
        envelope = Envelope("a@here.example", to)
        self.mails[mail_id] = Account(envelope, self.now)
        if self.chance.random() < self.moods.withdrawn:
            self.later(self.chance.expovariate(0.2), lambda: self.withdraw(mail_id))
        return [MailAsked(mail_id, envelope, repeatable)]

    def withdraw(self, mail_id: int) -> list[Fact]:
        account = self.mails[mail_id]
        if account.answer is None:
            account.withdrawn = True
        return [MailWithdrawn(mail_id)]

    # --- the driver ------------------------------------------------------------------------------------------------

    def perform(self, order: Order) -> None:
        if isinstance(order, Answer):
            self.answered(order)
            return
        if isinstance(order, OpenSession):
            self.connections[order.session_id] = Connection(order.session_id)
            self.plan(order.session_id, self.chance.uniform(0.0, 0.5), self.opened)
            return
        connection = self.connections.get(order.session_id)
        if connection is None:
            return
        if isinstance(order, GiveMail):
            self.given(connection, order)
        elif isinstance(order, CloseSession):
            assert not connection.hand, "closed though it has a mail in hand"
            self.plan(order.session_id, self.chance.uniform(0.0, 0.2), lambda c: self.gone(c, None))
        elif isinstance(order, DropSession):
            self.plan(order.session_id, 0.0, self.dropped)

    def plan(self, session_id: int, seconds: float, event: Callable[[Connection], list[Fact]]) -> None:
        connection = self.connections[session_id]
        connection.turn += 1
        turn = connection.turn

        def happen() -> list[Fact]:
            return event(connection) if connection.turn == turn else []

        self.later(seconds, happen)

    def opened(self, connection: Connection) -> list[Fact]:
        open_now = sum(other.open for other in self.connections.values())
        if self.now >= self.moods.declines_after:
            self.declined += 1
            return self.gone(connection, AuthDeclined("no", reply=Reply(535, ("no",))))
        if self.chance.random() < self.moods.refuses or open_now >= self.moods.most_sessions:
            return self.gone(connection, ConnectFailed("refused"))
        connection.open = True
        connection.opened_at = self.now
        return [SessionOpened(connection.session_id)]

    def given(self, connection: Connection, order: GiveMail) -> None:
        account = self.mails[order.mail_id]
        assert connection.open, "a mail for a session that is not open"
        assert len(connection.hand) < self.settings.mails_at_once, "too many mails at once"
        assert not account.withdrawn, "a mail that nobody wants any more"
        assert account.answer is None, "a mail that is answered"
        pending = [int(to[4 : to.index("@")]) for to in order.envelope.recipients]
        assert not account.final.intersection(pending), "tried again after a final verdict"
        if not self.settings.retries.in_doubt:
            assert not account.in_doubt.intersection(pending), "a doubt was risked"
        connection.hand.append(order)
        connection.mails += 1
        assert connection.mails <= self.settings.mails_per_session
        assert self.now < connection.opened_at + self.settings.session_seconds
        self.given_at.append(self.now)
        if len(connection.hand) == 1:
            self.begin(connection)

    def begin(self, connection: Connection) -> None:
        """What becomes of the first mail in hand."""
        self.plan(connection.session_id, self.chance.uniform(0.01, 2.0), self.reported)
        if self.chance.random() < (self.moods.goodbye_when_parked if connection.mails > 1 else 0.0):
            self.plan(connection.session_id, 0.0, lambda c: self.broken(c, Stage.NOT_STARTED, GOODBYE))
        elif self.chance.random() < self.moods.lost_before_mail:
            self.plan(connection.session_id, 0.0, lambda c: self.broken(c, Stage.NOT_STARTED, ConnectionLost("lost")))

    def broken(self, connection: Connection, stage: Stage, error: SmtpError) -> list[Fact]:
        """The first mail got so far; those behind it may be complete, begun, not begun, or not even mentioned."""
        facts: list[Fact] = []
        for index, order in enumerate(connection.hand):
            behind = self.chance.choice(list(Stage))
            reached = stage if index == 0 or stage is Stage.NOT_STARTED else behind
            account = self.mails[order.mail_id]
            account.attempts += reached is not Stage.NOT_STARTED
            outcomes = []
            for one in order.envelope.recipients:
                doubt = index > 0 and reached is Stage.BODY_ENDED
                if doubt:
                    number = int(one[4 : one.index("@")])
                    account.in_doubt.add(number)
                    account.delivered[number] += self.chance.random() < 0.5
                outcomes.append(Outcome(one, Verdict.LATER, getattr(error, "reply", None), error, in_doubt=doubt))
            report = MailRefused(Mail(order.envelope), tuple(outcomes), reached, Transcript())
            if reached is not Stage.NOT_STARTED or self.chance.random() < 0.5:
                facts.append(Reported(connection.session_id, order.mail_id, report))
        return facts + self.gone(connection, error)

    def reported(self, connection: Connection) -> list[Fact]:
        order = connection.hand[0]
        account = self.mails[order.mail_id]
        if self.chance.random() < self.moods.lost_in_mail:
            stage = self.chance.choice((Stage.STARTED, Stage.BODY_BEGUN))
            error = RemoteProtocolError("?") if self.chance.random() < 0.1 else ConnectionLost("lost")
            return self.broken(connection, stage, error)
        account.attempts += 1
        end: SmtpError | None = None
        doubt = self.chance.random() < self.moods.doubt
        outcomes = []
        for one in order.envelope.recipients:
            number, dice = int(one[4 : one.index("@")]), self.chance.random()
            if dice < self.moods.never:
                outcomes.append(Outcome(one, Verdict.NEVER, NO))
                account.final.add(number)
            elif dice < self.moods.never + self.moods.not_now:
                outcomes.append(Outcome(one, Verdict.LATER, NOT_NOW))
            elif doubt:
                end = ConnectionLost("lost")
                outcomes.append(Outcome(one, Verdict.LATER, None, end, in_doubt=True))
                account.in_doubt.add(number)
                account.delivered[number] += self.chance.random() < 0.5
            else:
                outcomes.append(Outcome(one, Verdict.DELIVERED, OK))
                account.final.add(number)
                account.delivered[number] += 1
        connection.hand.pop(0)
        facts: list[Fact] = [Reported(connection.session_id, order.mail_id, _report(order.envelope, outcomes))]
        if end is not None:
            return facts + self.broken(connection, Stage.NOT_STARTED, end)
        if connection.hand:
            self.begin(connection)
        return facts

    def dropped(self, connection: Connection) -> list[Fact]:
        return self.broken(connection, Stage.STARTED, SessionAborted("dropped"))

    def gone(self, connection: Connection, error: SmtpError | None) -> list[Fact]:
        del self.connections[connection.session_id]
        connection.turn += 1
        return [SessionEnded(connection.session_id, error)]

    # --- what must be true -----------------------------------------------------------------------------------------

    def answered(self, order: Answer) -> None:
        account = self.mails[order.mail_id]
        assert account.answer is None, "answered twice"
        assert not account.withdrawn, "an answer that nobody waits for"
        account.answer = order.report
        assert order.report.mail.envelope is account.envelope
        assert [outcome.recipient for outcome in order.report.outcomes] == list(account.envelope.recipients)
        assert isinstance(order.report, MailSent) == any(
            outcome.verdict is Verdict.DELIVERED for outcome in order.report.outcomes
        )
        for number, outcome in enumerate(order.report.outcomes):
            assert (outcome.verdict is not Verdict.LATER) == (number in account.final)
            if outcome.verdict is Verdict.LATER:
                assert outcome.in_doubt == (number in account.in_doubt)
                assert outcome.reply is not None or outcome.error is not None

    def check(self) -> None:
        status = self.machine.status
        assert (
            status.opening + status.at_work + status.parked + status.closing
            == len(self.connections)
            <= self.settings.sessions
        )
        opening = sum(not connection.open for connection in self.connections.values())
        assert opening <= self.settings.openings
        for account in self.mails.values():
            assert account.attempts <= 1 + self.settings.retries.most

    def check_end(self) -> None:
        assert not self.connections
        assert self.machine.idle
        for account in self.mails.values():
            assert account.withdrawn or account.answer is not None
            if not self.settings.retries.in_doubt:
                assert not any(count > 1 for count in account.delivered.values()), "a duplicate"
        rate = self.settings.mails_per_second
        for earlier, later in itertools.pairwise(self.given_at):
            assert later - earlier >= 1 / rate - 1e-9


def _report(envelope: Envelope, outcomes: list[Outcome]) -> Report:
    mail = Mail(envelope)
    if any(outcome.verdict is Verdict.DELIVERED for outcome in outcomes):
        return MailSent(mail, tuple(outcomes), OK, Stage.BODY_ENDED, Transcript())
    return MailRefused(mail, tuple(outcomes), Stage.BODY_ENDED, Transcript())


def traffic(world: World, mails: int, seconds: float) -> None:
    chance = world.chance
    for mail_id in range(1, mails + 1):
        recipients, repeatable = chance.randint(1, 4), chance.random() < 0.8

        def ask(mail_id: int = mail_id, recipients: int = recipients, repeatable: bool = repeatable) -> list[Fact]:
            return world.ask(mail_id, recipients, repeatable)

        world.later(chance.uniform(0, seconds), ask)


def moody(chance: random.Random) -> Moods:
    def perhaps(most: float) -> float:
        return chance.choice((0.0, 0.0, chance.uniform(0.0, most)))

    return Moods(
        refuses=perhaps(1.0),
        goodbye_when_parked=perhaps(0.5),
        lost_before_mail=perhaps(0.5),
        lost_in_mail=perhaps(0.7),
        doubt=perhaps(0.3),
        not_now=perhaps(0.4),
        never=perhaps(0.2),
        withdrawn=perhaps(0.5),
        declines_after=chance.choice((float("inf"), float("inf"), chance.uniform(1000, 1100))),
        most_sessions=chance.choice((1000, 1000, 1, 2)),
    )


def some_settings(chance: random.Random) -> PoolSettings:
    return PoolSettings(
        sessions=chance.randint(1, 5),
        openings=chance.randint(1, 5),
        mails_at_once=chance.choice((1, 1, 2, 7)),
        mails_per_session=chance.choice((1, 3, 1000)),
        session_seconds=chance.choice((5.0, 1000.0)),
        idle_seconds=chance.choice((0.5, 30.0)),
        mails_per_second=chance.choice((float("inf"), 1.0)),
        retries=Retries(most=chance.randint(0, 5), in_doubt=chance.random() < 0.3),
    )


@pytest.mark.parametrize("seed", range(300))
def test_every_mail_is_answered_once_and_the_limits_hold(seed: int) -> None:
    chance = random.Random(seed)
    world = World(seed, moody(chance), some_settings(chance))
    traffic(world, 60, 120.0)
    world.run()
    world.check_end()
    # Credentials are offered once more for each session that was on its way when the first was refused.
    assert world.declined <= world.settings.openings


@pytest.mark.parametrize("seed", range(100))
def test_shut_down_at_any_moment(seed: int) -> None:
    chance = random.Random(seed)
    world = World(seed, moody(chance), some_settings(chance))
    traffic(world, 60, 60.0)
    world.later(chance.uniform(0, 80.0), lambda: [ShutDown()])
    world.run()
    world.check_end()


@pytest.mark.parametrize("seed", range(20))
def test_a_host_in_good_health_takes_everything_at_once(seed: int) -> None:
    world = World(seed, Moods(), PoolSettings(sessions=3, mails_per_session=10))
    traffic(world, 100, 1.0)
    world.run()
    world.check_end()
    assert all(isinstance(account.answer, MailSent) and account.attempts == 1 for account in world.mails.values())


def test_nobody_starves() -> None:
    """A mail that keeps being put off does not hold up the others, and gets its turns beside them."""
    world = World(1, Moods(not_now=0.3), PoolSettings(sessions=1))
    noted: list[int] = []
    answered: Any = world.answered

    def note(order: Answer) -> None:
        noted.append(order.mail_id)
        answered(order)

    world.answered = note  # type: ignore[method-assign]  # replaced for this test
    traffic(world, 200, 300.0)
    world.run()
    world.check_end()
    asked = sorted(world.mails, key=lambda mail_id: world.mails[mail_id].asked_at)
    # Five delays and as many turns in a queue that one session works off: nobody is overtaken by more than that.
    assert max(abs(noted.index(mail_id) - asked.index(mail_id)) for mail_id in asked) < 60


def test_the_worlds_have_troubles() -> None:
    verdicts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for seed in range(30):
        chance = random.Random(seed)
        world = World(seed, moody(chance), some_settings(chance))
        traffic(world, 60, 120.0)
        world.run()
        for account in world.mails.values():
            for outcome in account.answer.outcomes if account.answer is not None else ():
                verdicts["in doubt" if outcome.in_doubt else outcome.verdict.value] += 1
                errors[type(outcome.error).__name__] += 1
    assert min(verdicts[word] for word in ("delivered", "never", "later", "in doubt")) > 20
    assert min(errors[word] for word in ("ConnectFailed", "ConnectionLost", "AuthDeclined", "BodyNotRepeatable")) > 20
