"""What senders ask of the relay: who is told of what, mail that is to be delivered by a moment, and times that run.

What lives here: the machine's answers, one by one. What does not: how reports look, and whole lives (``simulation``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from smtpcore import (
    ConnectFailed,
    DeliverBy,
    ExtensionRequired,
    Mail,
    MailOptions,
    MailRefused,
    Notify,
    Outcome,
    RecipientOptions,
    Reply,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.relay import (
    Bounce,
    CloseSession,
    Confirmation,
    Continue,
    DelayWarning,
    Fate,
    FateKind,
    FixedHosts,
    Job,
    Lmtp,
    MailAccepted,
    OpenSession,
    Reported,
    Save,
    SessionEnded,
    ShutDown,
    SmartHost,
)

from .relay_bench import BUSY, HOUR, START, TAKEN, UNKNOWN, Bench, reported

STORE = Lmtp(path="/run/lmtp")
ANNA, BORIS = "anna@far.example", "boris@far.example"


def asking(fact: MailAccepted, *notify: Notify, options: MailOptions | None = None) -> MailAccepted:
    """The same mail, with what is asked for all its recipients."""
    wish = RecipientOptions(notify=notify, original_recipient="list@home.example")
    jobs = tuple(
        replace(job, recipients=tuple(replace(each, options=wish) for each in job.recipients)) for job in fact.jobs
    )
    return MailAccepted(replace(fact.mail, options=options or MailOptions()), jobs)


def by(seconds: int, **how: bool) -> MailOptions:
    return MailOptions(deliver_by=DeliverBy(seconds=seconds, **how))


# --- reports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notify", "kind"),
    [
        ((), FateKind.BOUNCED),
        ((Notify.FAILURE,), FateKind.BOUNCED),
        ((Notify.NEVER,), FateKind.DISCARDED),
        ((Notify.SUCCESS, Notify.DELAY), FateKind.DISCARDED),
    ],
)
def test_a_failure_is_told_to_those_who_want_to_hear_of_it(notify: tuple[Notify, ...], kind: FateKind) -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA), *notify))
    bench.tell(reported(bench.effect(OpenSession), UNKNOWN))
    assert bench.effect(Fate).kind is kind
    bounces = bench.durable(Bounce)
    assert len(bounces) == (kind is FateKind.BOUNCED)
    for order in bounces:
        assert order.failures[0].options == RecipientOptions(notify=notify, original_recipient="list@home.example")


@pytest.mark.parametrize("notify", [(), (Notify.DELAY,), (Notify.FAILURE,), (Notify.NEVER,)])
def test_a_delay_is_told_to_those_who_want_to_hear_of_it(notify: tuple[Notify, ...]) -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=5 * HOUR), *notify))
    bench.tell(reported(bench.effect(OpenSession), BUSY))
    wanted = notify in ((), (Notify.DELAY,))
    assert len(bench.durable(DelayWarning)) == wanted
    assert bench.order(Save).job.recipients[0].warned is wanted


def test_a_success_is_told_where_the_host_does_not_tell_it() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, BORIS), Notify.SUCCESS))
    bench.tell(reported(bench.effect(OpenSession), TAKEN, UNKNOWN))
    (success,) = bench.order(Confirmation).successes
    assert (success.recipient, success.relayed, success.status, success.diagnostic, success.remote_host) == (
        ANNA,
        True,
        "2.0.0",
        "250 2.0.0 taken",
        "smart.example",
    )
    assert success.options is not None
    assert success.options.original_recipient == "list@home.example"
    # The report comes before its mail is forgotten.
    assert isinstance(bench.orders.durable[0], Confirmation)


def test_a_host_that_offers_dsn_tells_it_itself() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA), Notify.SUCCESS))
    bench.tell(replace(reported(bench.effect(OpenSession), TAKEN), dsn=True))
    assert not bench.durable(Confirmation)


def test_what_a_store_of_mailboxes_took_is_delivered() -> None:
    bench = Bench(STORE)
    bench.tell(asking(bench.mail(ANNA), Notify.SUCCESS))
    bench.tell(reported(bench.effect(OpenSession), Reply(250, ("ok",))))
    (success,) = bench.order(Confirmation).successes
    assert (success.relayed, success.status, success.remote_host) == (False, "2.0.0", "")


@pytest.mark.parametrize("notify", [(), (Notify.NEVER,), (Notify.FAILURE, Notify.DELAY)])
def test_nobody_else_is_told_of_a_success(notify: tuple[Notify, ...]) -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA), *notify))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert not bench.durable(Confirmation)


def test_a_mail_with_the_null_reverse_path_is_reported_to_nobody() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, sender=""), Notify.SUCCESS, options=by(600, trace=True)))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert not bench.durable(Confirmation)


@pytest.mark.parametrize(
    ("route", "notify", "told"),
    [
        (SmartHost("smart.example"), (), True),
        (SmartHost("smart.example"), (Notify.FAILURE,), True),
        (SmartHost("smart.example"), (Notify.NEVER,), False),
        (STORE, (), False),
    ],
)
def test_a_sender_who_traces_hears_from_every_relay(
    route: SmartHost | Lmtp, notify: tuple[Notify, ...], told: bool
) -> None:
    bench = Bench(route)
    bench.tell(asking(bench.mail(ANNA), *notify, options=by(600, trace=True)))
    bench.tell(replace(reported(bench.effect(OpenSession), TAKEN), dsn=True))
    assert bool(bench.durable(Confirmation)) is told


# --- delivery by a moment ---------------------------------------------------------------------------------------------


def test_the_next_host_is_told_how_much_time_is_left() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=100.7), options=by(600, trace=True)))
    asked = bench.effect(OpenSession).delivery.envelope.options.deliver_by
    assert asked == DeliverBy(seconds=500, trace=True)
    # The mail itself still says what its sender said.
    assert bench.effect(OpenSession).delivery.mail.options == by(600, trace=True)


def test_a_session_that_is_open_is_told_so_too() -> None:
    bench = Bench()
    bench.accept(ANNA)
    first = bench.effect(OpenSession)
    bench.tell(reported(first, TAKEN))
    bench.tell(asking(bench.mail(ANNA, age=100), options=by(90, notify_only=True)))
    assert bench.effect(Continue).delivery.envelope.options.deliver_by == DeliverBy(seconds=-10, notify_only=True)


def test_a_time_that_is_long_over_is_no_more_over_than_can_be_said() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=100), options=by(-999_999_950, notify_only=True)))
    (work,) = bench.effects(OpenSession)
    assert work.delivery.envelope.options.deliver_by == DeliverBy(seconds=-999_999_999, notify_only=True)


def test_the_host_that_is_tried_next_is_told_what_is_left_then() -> None:
    bench = Bench(FixedHosts((SmartHost("a.example"), SmartHost("b.example"))))
    bench.tell(asking(bench.mail(ANNA), options=by(600)))
    opened = bench.effect(OpenSession)
    for seconds, left in ((30.0, 570), (900.0, 1)):
        bench.now = START + seconds
        bench.tell(SessionEnded(opened.session_id, ConnectFailed("no")))
        if not (again := bench.effects(OpenSession)):
            break
        (opened,) = again
        asked = opened.delivery.envelope.options.deliver_by
        assert asked is not None
        assert asked.seconds == left
    # Both have failed, behind the time: it is given back.
    (failure,) = bench.order(Bounce).failures
    assert failure.status == "5.4.7"


def test_what_is_late_before_it_is_begun_is_given_back() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, BORIS, age=600), options=by(600)), bench.mail("clara@far.example"))
    (failure, _) = bench.order(Bounce).failures
    assert (failure.status, failure.reason, failure.remote_host) == (
        "5.4.7",
        "the time by which it was to be delivered is over",
        "",
    )
    assert [fate.kind for fate in bench.effects(Fate)] == [FateKind.EXPIRED] * 2
    # What waited behind it goes its way.
    assert bench.effect(OpenSession).delivery.envelope.recipients == ("clara@far.example",)


def test_where_nothing_is_left_to_deliver_no_session_is_opened() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=700), options=by(600)))
    assert bench.durable(Bounce)
    assert not bench.work
    assert bench.relay.jobs_in_memory == 0
    assert not bench.relay.destinations


def test_mail_that_waits_for_a_session_is_late_when_its_time_is_over() -> None:
    bench = Bench(sessions=1, sessions_per_next_hop=1)
    bench.accept(ANNA)
    work = bench.effect(OpenSession)
    bench.tell(asking(bench.mail(BORIS), options=by(60)))
    bench.now += 61.0
    bench.tell(reported(work, TAKEN))
    assert bench.order(Bounce).failures[0].status == "5.4.7"
    assert not bench.work


def test_a_mail_is_looked_at_again_when_its_time_is_over() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA), options=by(200)))
    bench.tell(reported(bench.effect(OpenSession), BUSY))
    left: Job = bench.order(Save).job
    assert left.due_at == START + 200
    assert not bench.durable(DelayWarning)


def test_a_mail_whose_time_is_over_on_its_way_is_given_back_if_it_was_not_taken() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA), options=by(200)))
    work = bench.effect(OpenSession)
    bench.now += 201.0
    bench.tell(reported(work, BUSY))
    assert bench.effect(Fate).kind is FateKind.EXPIRED
    assert bench.order(Bounce).failures[0].status == "5.4.7"


def test_a_delay_is_told_at_the_moment_that_was_given_and_the_mail_goes_on() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA), options=by(200, notify_only=True)))
    work = bench.effect(OpenSession)
    bench.now += 201.0
    bench.tell(reported(work, BUSY))
    assert bench.order(DelayWarning).retry_until == START + bench.relay._settings.schedule.give_up_after
    left = bench.order(Save).job
    assert left.recipients[0].warned
    assert left.due_at == bench.now + 300.0


def test_a_warning_promises_no_attempt_behind_the_moment() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=5 * HOUR), options=by(int(6 * HOUR))))
    bench.tell(reported(bench.effect(OpenSession), BUSY))
    assert bench.order(DelayWarning).retry_until == START + HOUR


def test_what_is_put_into_a_mailbox_is_delivered_and_needs_no_moment() -> None:
    bench = Bench(STORE)
    bench.tell(asking(bench.mail(ANNA), options=replace(by(600), priority=2)))
    assert bench.effect(OpenSession).delivery.envelope.options == MailOptions(priority=2)
    bench.tell(asking(bench.mail(BORIS, age=700), options=by(600)))
    assert bench.order(Bounce).failures[0].status == "5.4.7"


# --- mail that is held ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (MailOptions(hold_for=600), MailOptions(hold_for=500)),
        (MailOptions(hold_for=100), MailOptions()),
        (MailOptions(hold_until=datetime.fromtimestamp(START + 1, UTC)),) * 2,
        (MailOptions(hold_until=datetime.fromtimestamp(START, UTC)), MailOptions()),
        (MailOptions(priority=3),) * 2,
    ],
)
def test_a_time_that_is_over_is_not_asked_for(asked: MailOptions, said: MailOptions) -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=100), options=asked))
    assert bench.effect(OpenSession).delivery.envelope.options == said


class SetBack(tzinfo):
    """A zone in the hour that it has twice."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=2 if moment is None or not moment.fold else 1)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, _: datetime | None) -> str:
        return "set back"


def test_the_second_of_two_equal_hours_is_not_the_first() -> None:
    # Half an hour ahead, by the clock that was set back.
    until = (datetime.fromtimestamp(START, UTC) + timedelta(hours=1.5)).replace(tzinfo=SetBack(), fold=1)
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=100), options=MailOptions(hold_until=until)))
    assert bench.effect(OpenSession).delivery.envelope.options.hold_until is until


def test_a_clock_that_was_set_back_gives_nobody_more_time() -> None:
    bench = Bench()
    bench.tell(asking(bench.mail(ANNA, age=-500), options=by(600)))
    assert bench.effect(OpenSession).delivery.envelope.options == by(600)


# --- what a host does not offer, as TLS all the way ------------------------------------------------------------------

TWO = FixedHosts((SmartHost("a.example"), SmartHost("b.example")))
TLS_ONLY = MailOptions(require_tls=True)


def unable(work: OpenSession | Continue, status: str = "5.7.30") -> Reported:
    """The client found that the host does not offer what the mail needs."""
    error = ExtensionRequired("the peer does not offer it", status)
    outcomes = tuple(Outcome(to, Verdict.NEVER, None, error) for to in work.delivery.envelope.recipients)
    refused = MailRefused(Mail(work.delivery.envelope), outcomes, Stage.NOT_STARTED, Transcript())
    return Reported(work.session_id, work.delivery.delivery_id, refused)


def test_a_mail_that_requires_tls_is_offered_to_every_host() -> None:
    bench = Bench(TWO)
    bench.tell(asking(bench.mail(ANNA, BORIS), options=TLS_ONLY))
    first = bench.effect(OpenSession)
    bench.tell(unable(first))
    # The host that cannot do it is left first: so no limit is exceeded.
    assert bench.effects(CloseSession) == [CloseSession(first.session_id)]
    assert not bench.orders.durable
    assert not bench.work
    bench.tell(SessionEnded(first.session_id, None))
    second = bench.effect(OpenSession)
    assert (second.host.name, second.delivery.envelope.recipients) == ("b.example", (ANNA, BORIS))
    bench.tell(reported(second, TAKEN))
    assert [fate.kind for fate in bench.effects(Fate)] == [FateKind.DELIVERED] * 2


def test_a_mail_that_requires_tls_and_finds_no_host_comes_back() -> None:
    bench = Bench(TWO)
    bench.tell(asking(bench.mail(ANNA), options=TLS_ONLY))
    first = bench.effect(OpenSession)
    bench.tell(unable(first))
    bench.tell(SessionEnded(first.session_id, None))
    second = bench.effect(OpenSession)
    bench.tell(unable(second))
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, failure.remote_host) == ("5.7.30", "b.example")
    assert bench.relay.jobs_in_memory == 0


def test_other_mail_of_that_session_goes_on() -> None:
    bench = Bench(TWO, sessions_per_next_hop=1, deliveries_ahead=5)
    bench.accept("clara@far.example")
    work = bench.effect(OpenSession)
    bench.tell(reported(work, TAKEN))
    bench.tell(asking(bench.mail(ANNA), options=TLS_ONLY), bench.mail(BORIS), bench.mail("dora@far.example"))
    strict, other, _ = bench.effects(Continue)
    bench.tell(unable(strict), reported(other, TAKEN))
    assert bench.effect(Fate).recipient == BORIS
    bench.tell(SessionEnded(work.session_id, None))
    # What was not begun is given back, and waits for a place: there is one session, with the host that is tried next.
    assert bench.effect(OpenSession).host.name == "b.example"
    assert [save.job.attempts for save in bench.durable(Save)] == [0]
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert bench.effect(Continue).delivery.envelope.recipients == ("dora@far.example",)


def test_a_next_host_that_failed_meanwhile_is_none() -> None:
    bench = Bench(TWO)
    bench.tell(asking(bench.mail(ANNA), options=TLS_ONLY), bench.mail(BORIS))
    first, other = bench.effects(OpenSession)
    bench.tell(unable(first))
    bench.tell(SessionEnded(other.session_id, ConnectFailed("no")))
    beside = bench.effect(OpenSession)
    assert beside.host.name == "b.example"
    bench.tell(SessionEnded(beside.session_id, ConnectFailed("no")))
    bench.tell(SessionEnded(first.session_id, None))
    assert bench.order(Bounce).failures[0].status == "5.7.30"


def test_a_relay_that_stops_leaves_it_to_the_next() -> None:
    bench = Bench(TWO)
    bench.tell(asking(bench.mail(ANNA), options=TLS_ONLY))
    first = bench.effect(OpenSession)
    bench.tell(unable(first), ShutDown())
    bench.tell(SessionEnded(first.session_id, None))
    assert bench.order(Save).job.attempts == 0
    assert not bench.work
    assert bench.relay.jobs_in_memory == 0


@pytest.mark.parametrize("status", ["5.3.3", "5.3.4", "5.4.7", "5.5.4", "5.6.2", "5.6.3", "5.6.7", "5.6.9", "5.7.10"])
def test_whatever_a_host_does_not_offer_another_may(status: str) -> None:
    """SIZE, 8BITMIME, SMTPUTF8, DELIVERBY and others: also for reports, which have no sender."""
    bench = Bench(TWO)
    bench.tell(bench.mail(ANNA, sender=""))
    first = bench.effect(OpenSession)
    bench.tell(unable(first, status))
    assert not bench.effects(Fate)
    bench.tell(SessionEnded(first.session_id, None))
    bench.tell(reported(bench.effect(OpenSession), TAKEN))
    assert bench.effect(Fate).kind is FateKind.DELIVERED


def test_what_every_host_would_be_refused_comes_back_at_once() -> None:
    """Long lines, where the settings refuse them."""
    bench = Bench(TWO)
    bench.accept(ANNA)
    bench.tell(unable(bench.effect(OpenSession), "5.6.0"))
    assert bench.order(Bounce).failures[0].status == "5.6.0"


def test_where_no_other_host_can_be_reached_the_refusal_stands_and_the_destination_is_alive() -> None:
    hosts = FixedHosts((SmartHost("a.example"), SmartHost("b.example"), SmartHost("c.example")))
    bench = Bench(hosts)
    bench.accept(ANNA)
    first = bench.effect(OpenSession)
    bench.tell(unable(first, "5.3.4"))
    bench.tell(SessionEnded(first.session_id, None))
    for name in ("b.example", "c.example"):
        work = bench.effect(OpenSession)
        assert work.host.name == name
        bench.tell(SessionEnded(work.session_id, ConnectFailed("no")))
    (failure,) = bench.order(Bounce).failures
    assert (failure.status, failure.remote_host) == ("5.3.4", "a.example")
    assert bench.relay.jobs_in_memory == 0
    bench.accept(BORIS)
    assert bench.effect(OpenSession).host.name == "a.example"


def test_a_host_that_refuses_such_a_mail_itself_has_the_last_word() -> None:
    bench = Bench(TWO)
    bench.tell(asking(bench.mail(ANNA), options=TLS_ONLY))
    bench.tell(reported(bench.effect(OpenSession), UNKNOWN))
    assert bench.effect(Fate).kind is FateKind.BOUNCED
