"""The lock of a spool: one relay at a time, of all processes.

What lives here: taking it, giving it up, and seeing whether anybody has it. What does not: what its holder does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from smtpcore.drivers._spool.errors import SpoolLocked

__all__ = ["Lock"]

#: Seconds that a relay which starts waits for the lock: who only looks whether there is one holds it for a moment.
_PATIENCE: Final = 0.5


class Lock:
    """The file ``lock`` in a spool's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1

    @property
    def held(self) -> bool:
        """Whether it is held here."""
        return self._file >= 0

    def take(self) -> None:
        """Take it, and write down which process has it. Raises :class:`SpoolLocked` if another one does."""
        if self.held:
            raise SpoolLocked(self._directory, "another relay of this process works on it")
        lock_file = self._open()
        give_up_at = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < give_up_at:
                    time.sleep(0.02)
                    continue
                holder = os.read(lock_file, 32).decode("ascii", "replace").strip()
                os.close(lock_file)
                words = f"another relay works on it (process {holder or 'unknown'})"
                raise SpoolLocked(self._directory, words) from None
        self._file = lock_file
        os.ftruncate(lock_file, 0)
        os.pwrite(lock_file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Give it up, if it is held here."""
        if self.held:
            os.close(self._file)
            self._file = -1

    @contextlib.contextmanager
    def nobody_has_it(self) -> Generator[bool]:
        """Whether nobody has it, here or elsewhere; while the block lasts nobody can take it."""
        if self.held:
            yield False
            return
        try:
            lock_file = self._open()
        except PermissionError:
            # Whoever may not even open it cannot know.
            yield False
            return
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_file)
            yield False
            return
        try:
            yield True
        finally:
            os.close(lock_file)

    def _open(self) -> int:
        return os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
