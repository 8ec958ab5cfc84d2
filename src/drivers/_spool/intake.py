"""Taking in a body once and for all: canonical line ends, its measures, memory or file.

What lives here: the way of a body from whoever hands it in to octets that only need to be stored. What does not: the
database.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from smtpcore import LineNormaliser
from smtpcore.drivers._session.bodies import utf8_in_header

__all__ = ["INLINE_OCTETS", "Intake", "IntakeFailed", "sync_folder"]

#: Bodies up to this size are kept in the database, larger ones in files.
INLINE_OCTETS = 65_536


class IntakeFailed(Exception):
    """The body could not be stored; its cause is the ``OSError``. What the source of a body raises passes as it is."""


class Intake:
    """One body on its way into the spool.

    Small ones are gathered in memory. A larger one goes to a file in ``bodies``, under a temporary name until it is
    complete and safe on disk. A ``binary`` one is taken as it comes, for what are lines to others may be none in it.
    The file stays locked until :meth:`close`, so that whoever sweeps orphans can tell a body
    that is being taken in from one that was left behind.
    """

    def __init__(self, bodies: Path, *, binary: bool = False) -> None:
        self._bodies = bodies
        self._normaliser = None if binary else LineNormaliser()
        self._pieces: list[bytes] = []
        self._file = -1
        self._line = 0
        self.size = 0
        self.eight_bit = False
        #: Whether the beginning of the body, as much as is gathered in memory, has UTF-8 in its header.
        self.utf8_found = False
        self.leading_dots = False
        #: Octets of the longest line, without its CRLF.
        self.longest_line = 0
        #: The name of the body's file, once it is complete; ``None`` for a body in memory.
        self.file_name: str | None = None
        self._temporary: Path | None = None

    def read(self, chunks: Iterable[bytes]) -> Self:
        """Take in everything; on any error nothing is left behind.

        Raises :class:`IntakeFailed`, and what ``chunks`` raises.
        """
        try:
            for chunk in chunks:
                self._add(chunk if self._normaliser is None else self._normaliser.feed(chunk))
            if self._normaliser is not None:
                self._add(self._normaliser.end())
            self._finish()
        except BaseException:
            self.discard()
            raise
        return self

    @property
    def octets(self) -> bytes | None:
        """The body, if it is in memory."""
        return None if self.file_name else b"".join(self._pieces)

    def _add(self, octets: bytes) -> None:
        if not octets:
            return
        self._measure(octets)
        self._pieces.append(octets)
        try:
            if self._file < 0 and self.size > INLINE_OCTETS:
                self._look_at_header()
                self._open_file()
            if self._file >= 0:
                self._write(b"".join(self._pieces))
                self._pieces.clear()
        except OSError as error:
            raise IntakeFailed(str(error)) from error

    def _measure(self, octets: bytes) -> None:
        at_line_start = self._line == 0
        self.size += len(octets)
        self.eight_bit = self.eight_bit or not octets.isascii()
        self.leading_dots = self.leading_dots or b"\r\n." in octets or (at_line_start and octets[:1] == b".")
        first, *others = octets.split(b"\r\n")
        lengths = [self._line + len(first), *map(len, others)]
        self.longest_line = max(self.longest_line, *lengths)
        self._line = lengths[-1]

    def _look_at_header(self) -> None:
        """See what is in the header, or in as much of it as is in memory."""
        self.utf8_found = self.eight_bit and utf8_in_header(b"".join(self._pieces))

    def _open_file(self) -> None:
        self._temporary = self._bodies / f"{secrets.token_hex(16)}.tmp"
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def _write(self, octets: bytes) -> None:
        view = memoryview(octets)
        while view:
            view = view[os.write(self._file, view) :]

    def _finish(self) -> None:
        if self._file < 0:
            self._look_at_header()
        else:
            try:
                self._finish_file()
            except OSError as error:
                raise IntakeFailed(str(error)) from error

    def _finish_file(self) -> None:
        assert self._temporary is not None
        os.fsync(self._file)
        final = self._temporary.with_suffix(".eml")
        self._temporary.rename(final)
        self._temporary = final
        sync_folder(self._bodies)
        self.file_name = final.name

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file, once the database knows of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
