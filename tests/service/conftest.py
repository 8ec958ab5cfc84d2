"""The fixtures that several tests of the service share.

What lives here: fixtures. What does not: the helpers behind them (``relays``, ``servers``).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpcore.drivers.spool import Spool

from .relays import KINDS, Kind
from .servers import Server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Each of the relay services in turn; none may leave a thread behind."""
    with Kind(request.param) as made:
        yield made
        assert made.new_threads() == []


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as opened:
        yield opened
