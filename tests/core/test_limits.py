"""Every number has a bound of its own, and all deadlines scale together.

What lives here: what a ``Limits`` and a ``Deadlines`` may hold, row by row. What does not: what the numbers bound.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import DEFAULT_LIMITS, Deadlines, Limits, LocalProtocolError

ROWS = [row.name for row in dataclasses.fields(Deadlines)]
BOUNDS = [row.name for row in dataclasses.fields(Limits) if row.name != "deadlines"]


@pytest.mark.parametrize("row", ROWS)
def test_every_deadline_is_more_than_nothing(row: str) -> None:
    for seconds in (0, -1, -0.0, math.nan, -math.inf):
        with pytest.raises(LocalProtocolError, match=repr(row)) as caught:
            Deadlines(**{row: seconds})
        assert caught.value.value is seconds
    assert getattr(Deadlines(**{row: 0.001}), row) == 0.001


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_bound_leaves_room_for_something(bound: str) -> None:
    least = 0 if bound == "transcript_lines" else 1
    with pytest.raises(LocalProtocolError, match=repr(bound)):
        Limits(**{bound: least - 1})  # type: ignore[arg-type]  # arguments by name
    assert getattr(Limits(**{bound: least}), bound) == least  # type: ignore[arg-type]  # arguments by name


@given(st.floats(0.01, 100))
def test_a_factor_moves_every_deadline_and_nothing_else(factor: float) -> None:
    scaled = DEFAULT_LIMITS.scaled(factor)
    for row in ROWS:
        assert getattr(scaled.deadlines, row) == getattr(DEFAULT_LIMITS.deadlines, row) * factor
    assert dataclasses.replace(scaled, deadlines=DEFAULT_LIMITS.deadlines) == DEFAULT_LIMITS
    assert scaled.deadlines == DEFAULT_LIMITS.deadlines.scaled(factor)


def test_limits_are_values() -> None:
    assert Limits() == DEFAULT_LIMITS
    assert hash(Limits()) == hash(DEFAULT_LIMITS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_LIMITS.path = 1  # type: ignore[misc]  # what must not be possible
    with pytest.raises(TypeError):
        Limits(512)  # type: ignore[call-arg]  # a wrong kind, on purpose


def test_no_default_is_narrower_than_the_rfc() -> None:
    # RFC 5321 §4.5.3.1.3, .4, .5, .8; RFC 4954 §4.
    least = {"path": 256, "command_line": 512, "reply_line": 512, "recipients": 100, "auth_line": 12_288}
    assert all(getattr(DEFAULT_LIMITS, bound) >= number for bound, number in least.items())


def test_deadlines_are_those_of_the_rfc() -> None:
    rows = Deadlines()
    minutes = (rows.greeting, rows.mail, rows.rcpt, rows.data_initiation, rows.data_block, rows.data_termination)
    assert minutes == (300, 300, 300, 120, 180, 600)


@pytest.mark.parametrize("factor", [0, -1, math.nan])
def test_no_deadline_is_scaled_away(factor: float) -> None:
    with pytest.raises(LocalProtocolError):
        Limits().scaled(factor)
