"""Every setting of a wrong kind is named when the value is made: the mistake shows where it was made.

What lives here: one table of value objects, row by row, and the credentials of a client. What does not: ranges.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from smtpcore import Client, Deadlines, Limits, LocalProtocolError
from smtpcore.pool import PoolSettings, Retries
from smtpcore.relay import RelaySettings, Schedule
from smtpcore.sasl import Plain

VALUES: list[Any] = [Limits, Deadlines, PoolSettings, Retries, Schedule, RelaySettings]
ROWS = [(owner, row.name) for owner in VALUES for row in dataclasses.fields(owner)]


def make(owner: Any, **settings: object) -> Any:
    return owner(**{"reporting_mta": "relay.example", **settings} if owner is RelaySettings else settings)


@pytest.mark.parametrize(("owner", "name"), ROWS, ids=lambda one: getattr(one, "__name__", one))
@pytest.mark.parametrize("wrong", ["4", b"4", ["4"], object(), {}], ids=lambda one: type(one).__name__)
def test_a_value_of_a_wrong_kind_is_named(owner: Any, name: str, wrong: object) -> None:
    if name == "reporting_mta":
        wrong = 4
    with pytest.raises(LocalProtocolError, match=name) as caught:
        make(owner, **{name: wrong})
    # A list of texts is named by its first text.
    assert caught.value.value in (wrong, "4")


@pytest.mark.parametrize(("owner", "name"), ROWS, ids=lambda one: getattr(one, "__name__", one))
def test_a_flag_is_no_number_and_nothing_is_no_value(owner: Any, name: str) -> None:
    nothing: tuple[object, ...] = () if name in {"warn_after"} else (None,)
    flags: tuple[object, ...] = () if name == "in_doubt" else (True,)
    for wrong in (*nothing, *flags):
        with pytest.raises(LocalProtocolError, match=name):
            make(owner, **{name: wrong})


def test_a_number_need_not_be_a_fraction_but_a_count_is_whole() -> None:
    assert PoolSettings(idle_seconds=5).idle_seconds == 5
    assert Schedule(warn_after=None).warn_after is None
    with pytest.raises(LocalProtocolError, match="sessions must be a whole number"):
        PoolSettings(sessions=2.0)  # type: ignore[arg-type]  # a wrong kind, on purpose


@pytest.mark.parametrize("owner", [Retries, Schedule])
def test_there_are_delays_and_they_do_not_shrink(owner: Any) -> None:
    for wrong, words in (
        ((), "needs delays"),
        ((2.0, 1.0), "may not shrink"),
        ((0.0,), "more than 0"),
        ((float("inf"),), "not endless"),
        ((float("nan"),), "more than 0"),
    ):
        with pytest.raises(LocalProtocolError, match=words):
            owner(delays=wrong)
    assert owner(delays=(1, 1.0, 2)).delays == (1, 1.0, 2)


@pytest.mark.parametrize(
    "wrong", [Plain("anna", "hunter2"), ("anna", "hunter2"), "hunter2", b"hunter2", {"anna": "hunter2"}, 5, None]
)
def test_what_is_no_list_of_mechanisms_is_refused_and_not_shown(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match="SASL mechanism") as caught:
        Client("client.example", credentials=wrong)
    assert "hunter2" not in repr(caught.value)
