"""The database of a spool: its tables, its versions, opening it.

What lives here: what must be true of the file before a row is read or written. What does not: rows.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Final

from smtpcore.drivers._spool.errors import SpoolUnusable
from smtpcore.drivers._spool.intake import sync_folder

__all__ = ["DATABASE", "HELD", "NOBODY", "REMOVED", "SET_ASIDE", "open_database", "transaction"]

DATABASE: Final = "spool.db"

#: In place of the number of a relay, ``job.owner`` says why no relay may have it.
HELD: Final = -1
SET_ASIDE: Final = -2
#: An operator removed it while it was on its way; whoever had it in hand, or the next relay, forgets it.
REMOVED: Final = -4
#: The owner of no job.
NOBODY: Final = -3

_APPLICATION: Final = 0x534D5443
_VERSION: Final = 3

_TABLES: Final = """
CREATE TABLE incarnation (number INTEGER NOT NULL);
INSERT INTO incarnation VALUES (0);
CREATE TABLE mail (
    mail_id INTEGER PRIMARY KEY AUTOINCREMENT,
    reverse_path TEXT NOT NULL,
    size INTEGER NOT NULL,
    eight_bit INTEGER NOT NULL,
    leading_dots INTEGER NOT NULL,
    longest_line INTEGER NOT NULL,
    accepted_at REAL NOT NULL,
    body_file TEXT,
    body BLOB
);
CREATE TABLE job (
    job_id INTEGER PRIMARY KEY AUTOINCREMENT,
    mail_id INTEGER NOT NULL REFERENCES mail,
    domain TEXT NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    recipients TEXT NOT NULL
);
CREATE INDEX job_by_domain ON job (domain, due_at, job_id, owner);
CREATE INDEX job_by_time ON job (due_at, owner);
CREATE INDEX job_by_mail ON job (mail_id);
CREATE INDEX mail_by_file ON mail (body_file) WHERE body_file IS NOT NULL;
"""

#: What each version added to the one before. The indexes hold only what may be relayed, so that what is held or set
#: aside is no burden.
_STEPS: Final = {
    1: _TABLES,
    2: """
ALTER TABLE mail ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mail ADD COLUMN problem TEXT;
CREATE TABLE command (command_id INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL, mail_ids TEXT NOT NULL);
DROP INDEX job_by_domain;
DROP INDEX job_by_time;
CREATE INDEX job_by_domain ON job (domain, due_at, job_id, owner) WHERE owner >= 0;
CREATE INDEX job_by_time ON job (due_at, owner) WHERE owner >= 0;
""",
    3: """
ALTER TABLE mail ADD COLUMN binary INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mail ADD COLUMN utf8_header INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mail ADD COLUMN options TEXT;
""",
}

#: Held while a database is opened: between making its file and closing it no other thread may come to lock it.
_opening: Final = threading.Lock()


def open_database(directory: Path) -> sqlite3.Connection:
    """Open the database of a spool, and make it if there is none; one of an earlier version is brought up to date.

    Raises :class:`SpoolUnusable` for the database of something else or of a later version, ``sqlite3.Error`` and
    ``OSError`` for all else.
    """
    path = directory / DATABASE
    with _opening:
        # SQLite gives its other files the mode of this one. One that exists must not be opened here: closing it would
        # drop all locks of this process on it (POSIX), those of SQLite too, and with them the journal that another
        # spool object of this process is writing.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        database.text_factory = _text
        try:
            _check_owner(database, directory)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            _bring_up_to_date(database, directory)
        except BaseException:
            database.close()
            raise
    return database


def _text(octets: bytes) -> str | bytes:
    """A text of a row; octets that are none stay such, or one damaged row would hide all that are read with it."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets


def _check_owner(database: sqlite3.Connection, directory: Path) -> None:
    """Refuse a database that is not a spool's, or of a later version, before anything of it is changed."""
    application = database.execute("PRAGMA application_id").fetchone()[0]
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != _APPLICATION and (application or tables):
        raise SpoolUnusable(directory, f"{DATABASE} is the database of something else")
    version = _version(database)
    if version > _VERSION:
        raise SpoolUnusable(directory, f"its version is {version}; this program knows version {_VERSION}")


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _bring_up_to_date(database: sqlite3.Connection, directory: Path) -> None:
    if _version(database) == _VERSION:
        return
    with transaction(database):
        # Another process may have been faster.
        for version in range(_version(database) + 1, _VERSION + 1):
            for statement in _STEPS[version].split(";"):
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {_VERSION}")
    sync_folder(directory)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Generator[None]:
    """All of it, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
