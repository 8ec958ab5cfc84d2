"""What holds for every test.

What lives here: that no test learns from another, nor from whoever started them all, nor waits for what
others left. What does not: anything that only some tests need.
"""

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from smtpcore.drivers.memory import KNOWN_LOST_STEPS, KNOWN_TLS_FAILURES

# Timing is measured in benchmarks; on a busy machine an example may take any time.
settings.register_profile("house", deadline=None)
# For a night: pytest --hypothesis-profile=long
settings.register_profile("long", deadline=None, max_examples=2000)
# Alike each time, and over at the first failure.
settings.register_profile(
    "mutation",
    deadline=None,
    max_examples=15,
    derandomize=True,
    database=None,
    print_blob=False,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell starts its background jobs deaf to SIGINT, and their children inherit that; tests send it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def _old_objects_rest() -> Iterator[None]:
    """Many tests collect what they left; what those before them hold need not be looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests() -> Iterator[None]:
    """Ports come back, and what was at them before must not matter."""
    for memory in (KNOWN_TLS_FAILURES, KNOWN_LOST_STEPS):
        memory.clear()
    yield
    for memory in (KNOWN_TLS_FAILURES, KNOWN_LOST_STEPS):
        memory.clear()
