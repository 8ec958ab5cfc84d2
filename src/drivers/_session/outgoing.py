"""What a session has yet to write: octets that were gathered, and ranges of files among them.

What lives here: the order of what is to be written, in blocks, and the system calls that write a block to a socket
without blocking. What does not: waiting until the socket takes more.
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from collections import deque
from dataclasses import replace
from typing import BinaryIO, Final, TypeAlias, cast

from smtpcore import FileRange

__all__ = ["Block", "Gathered", "can_send_files", "rest_of"]

#: What is written before one deadline.
Block: TypeAlias = "bytes | FileRange"

#: Octets of a file in one block, and those that are read where the system cannot send from a file.
_BLOCK: Final = 262_144
_READ: Final = 65_536
#: What the system says where it cannot send from this file, or to this socket.
_CANNOT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

can_send_files: Final = hasattr(os, "sendfile")


class Gathered:
    """Octets and ranges of files in the order in which they are to be written."""

    __slots__ = ("_files", "_items", "octets")

    def __init__(self) -> None:
        self._items: deque[Block] = deque()
        self._files = 0
        #: How many octets there are.
        self.octets = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, data: bytes) -> None:
        self._items.append(data)
        self.octets += len(data)

    def add_file(self, data: FileRange) -> None:
        """Add octets of a file, which may be closed before they are out: a mail is answered when its peer likes.

        Raises ``OSError`` when no more files can be open.
        """
        self._items.append(replace(data, file=_Descriptor(cast("BinaryIO", data.file))))
        self._files += 1
        self.octets += len(data)

    def take(self) -> Block:
        """The next block: all octets before the next file, or so many of it; no octets where there is nothing."""
        if not self._files:
            octets = b"".join(cast("deque[bytes]", self._items))
            self._items.clear()
            self.octets = 0
            return octets
        block = self._before_a_file() or self._of_a_file()
        self.octets -= len(block)
        return block

    def _before_a_file(self) -> bytes:
        octets: list[bytes] = []
        while isinstance(self._items[0], bytes):
            octets.append(self._items[0])
            self._items.popleft()
        return b"".join(octets)

    def _of_a_file(self) -> FileRange:
        data = self._items.popleft()
        assert isinstance(data, FileRange)
        if len(data) <= _BLOCK:
            self._files -= 1
        else:
            self._items.appendleft(data.behind(_BLOCK))
        return data.first(_BLOCK)

    def clear(self) -> None:
        self._items.clear()
        self._files = self.octets = 0


class _Descriptor:
    """A file's descriptor of our own, closed when nothing more is to be sent from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)

    def fileno(self) -> int:
        return self._number


def rest_of(block: memoryview | FileRange, sock: socket.socket) -> memoryview | FileRange:
    """What is left of ``block`` once the socket has taken what it takes at once.

    Raises ``BlockingIOError`` when it takes nothing, another ``OSError`` when the connection or the file fails.
    """
    if isinstance(block, FileRange):
        return block.behind(_send_file(block, sock)) or memoryview(b"")
    return block[sock.send(block) :]


def _send_file(block: FileRange, sock: socket.socket) -> int:
    file = cast("_Descriptor", block.file).fileno()
    try:
        sent = os.sendfile(sock.fileno(), file, block.offset, block.octets)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        octets = os.pread(file, min(block.octets, _READ), block.offset)
        sent = sock.send(octets) if octets else 0
    if not sent:
        raise OSError(errno.EIO, "the file became shorter while it was sent")
    return sent
