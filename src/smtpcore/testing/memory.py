"""A transport in memory: two ends, joined, with the manners of a TCP connection and none of its clocks.

What lives here: :func:`pair`, whose ends have bounded buffers, half-close and reset, and :class:`Attendant`, which puts
a scripted server at one of them. What does not: waiting: whoever writes a driver lets its loop do that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smtpcore.testing._machines import ScriptedServer

__all__ = ["Attendant", "End", "pair"]

_CAPACITY: Final = 65_536


class End:
    """One end, with the face of a non-blocking socket. Made by :func:`pair`.

    What cannot be done now raises ``BlockingIOError``. What arrived before a reset can still be read; then it is
    ``ConnectionResetError``, once, and the end of the stream. Closing with octets unread is a reset, as with TCP.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._arrived = bytearray()
        self._other: End = self
        self._no_more_comes = False
        self._no_more_goes = False
        self._reset = False
        self._closed = False
        #: Called whenever something changed that this end may have waited for.
        self.on_change: Callable[[], object] | None = None

    @classmethod
    def joined(cls, capacity: int) -> tuple[End, End]:
        """What :func:`pair` makes."""
        one, other = cls(capacity), cls(capacity)
        one._other, other._other = other, one
        return one, other

    @property
    def readable(self) -> bool:
        """Whether :meth:`recv` would not block."""
        return bool(self._arrived) or self._no_more_comes

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would not block."""
        return self._reset or self._no_more_goes or self._room > 0

    @property
    def closed(self) -> bool:
        """Whether this end was closed here."""
        return self._closed

    @property
    def _room(self) -> int:
        return self._capacity - len(self._other._arrived)

    def recv(self, count: int) -> bytes:
        """Up to ``count`` octets; none at the end of the stream."""
        self._check_open()
        if self._arrived:
            octets = bytes(self._arrived[:count])
            del self._arrived[:count]
            self._other._changed()
            return octets
        if self._reset:
            self._reset = False
            raise ConnectionResetError(104, "Connection reset by peer")
        if self._no_more_comes:
            return b""
        raise BlockingIOError(11, "nothing has arrived")

    def send(self, octets: bytes) -> int:
        """Write what fits, and return how much that was."""
        self._check_open()
        if not octets:
            return 0
        if self._reset:
            self._reset = False
            self._no_more_goes = True
            raise ConnectionResetError(104, "Connection reset by peer")
        if self._no_more_goes:
            raise BrokenPipeError(32, "Broken pipe")
        if self._other._closed:
            # As TCP does: nobody is there to read it, and the answer to it is a reset.
            self._hear_reset()
            return len(octets)
        taken = octets[: max(0, self._room)]
        if not taken:
            raise BlockingIOError(11, "the other end does not read")
        self._other._arrived += taken
        self._other._changed()
        return len(taken)

    def finish_writing(self) -> None:
        """Half-close: the other end reads the end of the stream, and may go on writing."""
        self._check_open()
        self._no_more_goes = True
        self._other._no_more_comes = True
        self._other._changed()

    def close(self) -> None:
        """Close; a second time is nothing."""
        if self._closed:
            return
        unread = bool(self._arrived)
        self._closed = True
        if unread:
            self._other._hear_reset()
        else:
            self._other._no_more_comes = True
            self._other._changed()

    def reset(self) -> None:
        """Close without a goodbye; what is on its way to this end is lost."""
        if not self._closed:
            self._closed = True
            self._other._hear_reset()

    def _hear_reset(self) -> None:
        self._reset = True
        self._no_more_comes = True
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(9, "Bad file descriptor")


def pair(capacity: int = _CAPACITY) -> tuple[End, End]:
    """Two joined ends; each takes up to ``capacity`` octets that it has not read yet."""
    return End.joined(capacity)


class Attendant:
    """A scripted server at one end: call :meth:`turn` until nothing more happens."""

    def __init__(self, server: ScriptedServer, end: End) -> None:
        self.server = server
        self.end = end
        self._to_write = server.connected()

    def turn(self) -> bool:
        """Write and read what can be now; returns whether anything was done.

        A server that is done closes its end, once all that it said is written; so it does when the client is gone.
        """
        try:
            return self._write() if self._to_write else self._read()
        except BlockingIOError:
            return False
        except OSError:
            return self._close()

    def _write(self) -> bool:
        self._to_write = self._to_write[self.end.send(self._to_write) :]
        return True

    def _read(self) -> bool:
        if self.server.closed:
            return self._close()
        octets = self.end.recv(_CAPACITY)
        if not octets:
            return self._close()
        self._to_write = self.server.receive_data(octets)
        return True

    def _close(self) -> bool:
        was_open = not self.end.closed
        self.end.close()
        return was_open
