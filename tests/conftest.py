"""What holds for every test.

What lives here: that no test learns from another. What does not: anything that only some tests need.
"""

from collections.abc import Iterator

import pytest

from smtpcore.drivers.memory import KNOWN_LOST_STEPS, KNOWN_TLS_FAILURES


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests() -> Iterator[None]:
    """Ports come back, and what was at them before must not matter."""
    for memory in (KNOWN_TLS_FAILURES, KNOWN_LOST_STEPS):
        memory.clear()
    yield
    for memory in (KNOWN_TLS_FAILURES, KNOWN_LOST_STEPS):
        memory.clear()
