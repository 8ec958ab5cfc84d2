"""What is remembered of hosts from one session to the next.

What lives here: one memory with an end, for hosts that must be spoken to with less than was wished for. What does not:
what it means for a session (``_options``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["KNOWN_LOST_STEPS", "KNOWN_TLS_FAILURES", "HostMemory"]


class HostMemory:
    """Hosts of which something is known that need not be found out by each session.

    ``seconds`` is how long it is remembered, ``most`` how many hosts are: the oldest goes first. ``clock`` gives
    seconds from any point in time on. Threads may share it.
    """

    def __init__(
        self, *, seconds: float = 3600.0, most: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._known: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, where: str) -> None:
        """Remember a host; ``where`` is its name and port, or whatever else it is known by."""
        with self._lock:
            self._known.pop(where, None)
            self._known[where] = self._clock() + self._seconds
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()

    def __contains__(self, where: str) -> bool:
        with self._lock:
            until = self._known.get(where)
            if until is not None and until <= self._clock():
                del self._known[where]
                return False
            return until is not None


#: Where TLS failed, for sessions that merely wish for it and were given no memory of their own.
KNOWN_TLS_FAILURES: Final = HostMemory()

#: Who lost step with pipelining across mails, for sessions that were given no memory of their own.
KNOWN_LOST_STEPS: Final = HostMemory(seconds=86_400.0)
