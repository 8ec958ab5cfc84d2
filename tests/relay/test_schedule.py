"""The schedule of attempts: its numbers, its spread, and what it refuses."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import LocalProtocolError
from smtpcore.relay import RelaySettings, Schedule

jobs = st.integers(1, 2**53)
attempts = st.integers(1, 10_000)


@given(jobs, attempts)
def test_a_delay_stays_within_the_spread_of_its_row(job_id: int, attempt: int) -> None:
    schedule = Schedule()
    row = schedule.delays[min(attempt, len(schedule.delays)) - 1]
    delay = schedule.delay(job_id, attempt)
    assert row * 0.9 <= delay <= row * 1.1
    assert delay <= schedule.longest_delay


@given(jobs, attempts)
def test_a_delay_is_no_matter_of_chance(job_id: int, attempt: int) -> None:
    assert Schedule().delay(job_id, attempt) == Schedule().delay(job_id, attempt)


def test_retries_of_many_jobs_are_kept_apart() -> None:
    schedule = Schedule(delays=(1000.0,))
    delays = sorted(schedule.delay(job_id, 1) for job_id in range(1000))
    assert len(set(delays)) > 990
    tenth = len(delays) // 10
    # Even enough that no tenth of the spread takes a third of the jobs.
    assert all(sum(900 + 20 * n <= delay < 920 + 20 * n for delay in delays) < 3 * tenth for n in range(10))


def test_without_spread_the_rows_are_exact_and_the_last_repeats() -> None:
    schedule = Schedule(delays=(60.0, 120.0), spread=0.0)
    assert [schedule.delay(7, attempt) for attempt in (1, 2, 3, 100)] == [60.0, 120.0, 120.0, 120.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delays", ()),
        ("delays", (0.0,)),
        ("delays", (float("nan"),)),
        ("delays", (600.0, float("inf"))),
        ("delays", (600.0, 300.0)),
        ("give_up_after", 0.0),
        ("give_up_after", float("nan")),
        ("warn_after", -1.0),
        ("spread", 1.0),
        ("spread", -0.1),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    with pytest.raises(LocalProtocolError) as refused:
        Schedule(**{name: value})  # type: ignore[arg-type]  # arguments by name
    # Of delays the one that makes no sense is named, or all of them.
    parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
    assert any(refused.value.value is named for named in (value, *parts))
    assert refused.value.rule


@pytest.mark.parametrize(
    "changes",
    [
        {"sessions": 0},
        {"sessions_per_next_hop": -1},
        {"idle_seconds": 0.0},
        {"window": 0},
        {"rest": 60.0, "longest_rest": 30.0},
        {"reporting_mta": "not a host"},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        RelaySettings(**{"reporting_mta": "relay.example", **changes})  # type: ignore[arg-type]  # arguments by name


def test_rests_grow_and_are_bounded() -> None:
    settings = RelaySettings(reporting_mta="relay.example", rest=10.0, longest_rest=35.0)
    assert [settings.rest_after(failures) for failures in (1, 2, 3, 1_000_000)] == [10.0, 20.0, 35.0, 35.0]
