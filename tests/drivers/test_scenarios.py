"""Plays the table of scenarios with each wire driver.

What lives here: the play, and that nothing is left open after it. What does not: the scenarios.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from .scenarios import DRIVERS, TABLE, Driver, Scenario


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """What was there before the plays need not be searched after each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


PLAYS = [(scenario, driver) for scenario in TABLE for driver in DRIVERS if driver.module_name in scenario.drivers]


@pytest.mark.parametrize(("scenario", "driver"), PLAYS, ids=lambda value: value.name)
def test_scenario(scenario: Scenario, driver: Driver) -> None:
    story = scenario.play(driver)
    assert story == list(scenario.story)
    # A socket that nobody closed warns when it is collected, and a warning is an error here.
    gc.collect()


def test_names_are_unique() -> None:
    names = [scenario.name for scenario in TABLE]
    assert len(set(names)) == len(names)
