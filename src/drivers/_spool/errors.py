"""What can be wrong with a spool.

What lives here: the errors, and SQLite's words as an operator's. What does not: deciding that something is wrong.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from smtpcore import SmtpError

__all__ = ["Damaged", "SpoolError", "SpoolFull", "SpoolLocked", "SpoolUnusable", "is_full", "problem_of"]


class SpoolError(SmtpError):
    """Something is wrong with a spool; ``directory`` says with which."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"spool {directory}: {problem}")
        self.directory = directory
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.directory, self.problem)


class SpoolLocked(SpoolError):
    """Another relay works on this spool."""


class SpoolUnusable(SpoolError):
    """The spool cannot be opened, read or written: missing, read-only, full, corrupt, or of a later version."""


class SpoolFull(SpoolUnusable):
    """There is no room: nothing was accepted, and later there may be."""


class Damaged(Exception):
    """A row does not hold what a spool writes; the text says what is wrong with it."""


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or what this user may have of it, is used up."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL")
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return error.__cause__ is not None and is_full(error.__cause__)


def problem_of(error: sqlite3.Error) -> str:
    """What SQLite met, for an operator."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"the database is damaged ({error})"
    if name.startswith("SQLITE_FULL"):
        return "the disk is full"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return f"the database cannot be written ({error})"
    return str(error)
