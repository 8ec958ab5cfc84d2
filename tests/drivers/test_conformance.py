"""The drivers of this project pass the suite that everybody's drivers pass.

What lives here: the play, and that nothing is left open after it. What does not: the cases, which are public
(:mod:`smtpcore.testing.conformance`), and what is peculiar to these drivers (the table of scenarios).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from smtpcore.testing.conformance import CASES, Case, Need, cases_for

from .adapters import adapter_for
from .scenarios import DRIVERS, Driver


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """What was there before the plays need not be searched after each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


PLAYS = [(driver, case) for driver in DRIVERS for case in cases_for(adapter_for(driver))]


@pytest.mark.parametrize(("driver", "case"), PLAYS, ids=lambda value: getattr(value, "name", ""))
def test_conformance(driver: Driver, case: Case) -> None:
    case(adapter_for(driver))
    # A socket that nobody closed warns when it is collected, and a warning is an error here.
    gc.collect()


def test_only_what_a_driver_cannot_do_is_left_out() -> None:
    blocking, asynchronous, *_ = (cases_for(adapter_for(driver)) for driver in DRIVERS)
    assert asynchronous == list(CASES)
    assert [case for case in CASES if case not in blocking] == [c for c in CASES if Need.CANCELLATION in c.needs]
