"""The relay's values: schedule, settings, routes, the division of recipients into jobs.

What lives here: what they compute and what they refuse. What does not: the machine that uses them.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine import stored

from smtpcore import LocalProtocolError
from smtpcore.relay import NextHop, RelaySettings, Schedule, SmartHost, recipients_by_domain


@given(st.integers(1, 10**9), st.integers(1, 200))
def test_a_delay_is_spread_around_its_row_and_never_changes(job_id: int, attempts: int) -> None:
    schedule = Schedule()
    row = schedule.delays[min(attempts, len(schedule.delays)) - 1]
    delay = schedule.delay(job_id, attempts)
    assert 0.9 * row <= delay <= 1.1 * row
    assert delay == Schedule().delay(job_id, attempts)
    assert delay <= schedule.longest_delay


def test_jobs_of_one_moment_are_spread() -> None:
    delays = {Schedule().delay(job_id, 1) for job_id in range(100)}
    assert len(delays) > 90
    assert max(delays) - min(delays) > 30


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"delays": ()}, "delays"),
        ({"delays": (0.0,)}, "delays"),
        ({"delays": (60.0, 30.0)}, "shrink"),
        ({"give_up_after": 0}, "give_up_after"),
        ({"warn_after": -1.0}, "warn_after"),
        ({"spread": 1.0}, "spread"),
        ({"delays": (float("nan"),)}, "delays"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        Schedule(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sessions": 0}, "sessions"),
        ({"rest": 0.0}, "rest"),
        ({"longest_rest": 1.0}, "longest_rest"),
        ({"reporting_mta": "not a name"}, "not a name"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        RelaySettings(**{"reporting_mta": "relay.example", **changes})  # type: ignore[arg-type]


def test_rests_double_up_to_the_longest() -> None:
    settings = RelaySettings(reporting_mta="relay.example", rest=10.0, longest_rest=60.0)
    assert [settings.rest_after(n) for n in (1, 2, 3, 4, 5000)] == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_all_domains_go_to_the_smart_host() -> None:
    route = SmartHost("hub.example", 587)
    assert route.next_hop("a.example") == route.next_hop("b.example") == NextHop("hub.example", 587)
    assert str(route.next_hop("a.example")) == "hub.example:587"
    assert SmartHost("::1").next_hop("x").host == "::1"


@pytest.mark.parametrize(("host", "port"), [("hub.example", 0), ("hub.example", 65_536), ("no host", 25), ("", 25)])
def test_a_smart_host_that_is_none_is_refused(host: str, port: int) -> None:
    with pytest.raises(LocalProtocolError):
        SmartHost(host, port)


def test_recipients_become_jobs_by_domain_without_regard_to_case() -> None:
    recipients = ["a@X.example", "b@y.example", "c@x.EXAMPLE", "Postmaster"]
    assert list(recipients_by_domain(recipients)) == [
        ("x.example", ("a@X.example", "c@x.EXAMPLE")),
        ("y.example", ("b@y.example",)),
        ("", ("Postmaster",)),
    ]


def test_a_job_has_only_so_many_recipients() -> None:
    jobs = list(recipients_by_domain([f"u{n}@a.example" for n in range(5)], most=2))
    assert [len(members) for _, members in jobs] == [2, 2, 1]


@pytest.mark.parametrize("dots", [True, False])
def test_a_stored_mail_passes_through_only_without_leading_dots(dots: bool) -> None:
    facts = stored(leading_dots=dots, eight_bit=True, size=5).body_facts
    assert (facts.canonical, facts.eight_bit, facts.size, facts.repeatable) == (not dots, True, 5, True)
