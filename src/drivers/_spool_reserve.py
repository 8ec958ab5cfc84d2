"""Room on the disk that is kept for what must be recorded.

What lives here: one file of a fixed size in the spool's directory, given up when the disk is full, so that the results
of deliveries can still be written down, and made again before anything new is accepted. What does not: deciding what is
written.
"""

from __future__ import annotations

import contextlib
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
        # Under a name of its own, so that two processes never hold each other's half-made file for the reserve.
        temporary = self._path.with_name(f"reserve.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, OCTETS)
            temporary.rename(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
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
