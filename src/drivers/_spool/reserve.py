"""Room on the disk that is kept for what must be recorded.

What lives here: one file of a fixed size in the spool's directory, given up when the disk is full, so that the results
of deliveries can still be written down, and made again before anything new is accepted. What does not: deciding what is
written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

__all__ = ["Reserve"]

#: Octets: room for the results of some ten thousand deliveries.
OCTETS: Final = 4 * 2**20


class Reserve:
    """The file ``reserve`` in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"

    def keep(self) -> None:
        """See that the reserve is there; raises ``OSError`` when there is no room for it."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size >= OCTETS:
                return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Whoever else makes it is waited for; one that they could not finish is shorter.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size < OCTETS:
                os.posix_fallocate(descriptor, 0, OCTETS)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def give_up(self) -> bool:
        """Make room; returns whether there was any to make."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
