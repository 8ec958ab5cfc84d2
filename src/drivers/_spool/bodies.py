"""The bodies of a spool: in the database, or in files of their own.

What lives here: reading, removing and sweeping up. What does not: taking bodies in (``intake``).
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TypeGuard, cast

from smtpcore.drivers._spool.errors import SpoolError

__all__ = ["Bodies", "is_body_name"]


def is_body_name(name: object) -> TypeGuard[str]:
    """Whether a file within the folder of the bodies can have that name; a row that was damaged may hold any."""
    return isinstance(name, str) and name not in {"", ".", ".."} and "/" not in name and "\0" not in name


class Bodies:
    """The bodies of the spool in a directory; ``directory`` has those that are in files."""

    def __init__(self, spool: Path, database: sqlite3.Connection) -> None:
        self._spool = spool
        self.directory = spool / "bodies"
        self._database = database

    def read(self, mail_ids: Iterable[int]) -> dict[int, bytes | BinaryIO]:
        """The canonical octets of bodies, by mail, or files that hold them."""
        ids = list(dict.fromkeys(mail_ids))
        query = "SELECT mail_id, body, body_file FROM mail WHERE mail_id IN (SELECT value FROM json_each(?))"
        rows = self._database.execute(query, (json.dumps(ids),)).fetchall()
        if len(rows) < len(ids):
            missing = set(ids) - {row[0] for row in rows}
            raise SpoolError(self._spool, f"there is no mail {min(missing)}")
        return {mail_id: self._body(body, name) for mail_id, body, name in rows}

    def _body(self, octets: object, name: object) -> bytes | BinaryIO:
        if name is None and isinstance(octets, bytes):
            return octets
        # One mail whose body somebody removed must not keep the others: its delivery fails, and says why.
        if not is_body_name(name):
            return cast("BinaryIO", _LostBody(self._spool))
        path = self.directory / name
        try:
            return path.open("rb")
        except FileNotFoundError:
            return cast("BinaryIO", _LostBody(path))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files whose mails are forgotten, and no others, whatever rows that are damaged call theirs."""
        for name in filter(is_body_name, names):
            (self.directory / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove files that no mail refers to and that nobody is writing."""
        for path in self.directory.iterdir():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                known = self._database.execute("SELECT 1 FROM mail WHERE body_file = ?", (path.name,)).fetchone()
                if known is None:
                    path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


class _LostBody(io.RawIOBase):
    """The body of a mail whose file is gone: whoever reads it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def read(self, size: int = -1) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "the body is gone from the spool", str(self._path))
