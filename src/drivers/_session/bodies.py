"""Message bodies as the drivers read them: one face for bytes, files, paths, iterables and email objects.

What lives here: reading a source piece by piece, again from its beginning when asked, and what is known of it before.
What does not: line ends and dots, which are the core's.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, TypeVar, cast

from smtpcore import BodyFacts, FileRange, LocalProtocolError
from smtpcore.drivers._session.outgoing import Block, can_send_files
from smtpcore.mime import flatten

__all__ = [
    "AsyncBody",
    "AsyncSource",
    "Body",
    "BodyReadAhead",
    "MemoryBody",
    "Rewindable",
    "Source",
    "check_message",
    "facts_of",
    "make_async_body",
    "make_body",
    "octets_of",
    "utf8_in_header",
]

#: What the blocking driver takes as a message.
Source: TypeAlias = "bytes | bytearray | memoryview | Path | BinaryIO | Iterable[bytes] | Message[Any, Any]"
#: What the async drivers take.
AsyncSource: TypeAlias = "Source | AsyncIterable[bytes]"

#: Octets of a file that are handed in at once where they are not read here; as many may be said in vain.
_RANGE: Final = 8 * 2**20


#: The empty line behind a header, with the end of the line before it; an empty header ends at once.
_HEADER_END: Final = re.compile(rb"(?>^|\r\n|\r|\n)(?=[\r\n])")

_LINE_END: Final = b"\r\n"

#: What can be read, besides files; an email object is none of the others.
_READABLE: Final = (bytes, bytearray, memoryview, Message, Iterable, AsyncIterable)

_T = TypeVar("_T")


class InThread(Protocol):
    """How a reading function of an offset is run in a worker thread."""

    def __call__(self, read: Callable[[int], _T], offset: int, /) -> Awaitable[_T]: ...


class Rewindable:
    """Pieces that are certain to be the same whenever they are read; other iterables may only seem so."""


class Body(Protocol):
    """A body that can be read: ``read(offset)`` is the next piece, empty at the end; ``offset`` 0 begins anew.

    ``read_range(offset, binary=...)`` does the same, but a file gives ranges of itself, if the system can send them and
    it ends with a line end, which it need not where it is ``binary``.
    """

    @property
    def facts(self) -> BodyFacts: ...

    @property
    def may_be_looked_at(self) -> bool:
        """Whether it is certain that what is read ahead will be read again."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether reading can neither block nor fail."""
        ...

    def read(self, offset: int) -> bytes: ...

    def read_range(self, offset: int, *, binary: bool) -> Block: ...

    def ends_at(self, offset: int) -> bool:
        """Whether it is known that nothing more comes after so many octets."""
        ...

    def close(self) -> None: ...


class MemoryBody:
    """Octets that are there already; they are counted when somebody wants to know, for that takes time."""

    in_memory = may_be_looked_at = True

    def __init__(self, octets: bytes, piece: int) -> None:
        self._octets = octets
        self._piece = piece
        self._facts: BodyFacts | None = None

    @property
    def facts(self) -> BodyFacts:
        if self._facts is None:
            self._facts = facts_of(self._octets)
        return self._facts

    def read(self, offset: int) -> bytes:
        if not offset and len(self._octets) <= self._piece:
            return self._octets
        return self._octets[offset : offset + self._piece]

    def read_range(self, offset: int, *, binary: bool) -> Block:
        return self.read(offset)

    def ends_at(self, offset: int) -> bool:
        return offset >= len(self._octets)

    def close(self) -> None:
        return


def facts_of(octets: bytes) -> BodyFacts:
    """What octets say of themselves; their size is that with CRLF at every line's end (RFC 1870 §3)."""
    pairs = octets.count(b"\r\n")
    bare = octets.count(b"\r") + octets.count(b"\n") - 2 * pairs
    unfinished = bool(octets) and octets[-1] not in b"\r\n"
    return BodyFacts(
        size=len(octets) + bare + 2 * unfinished,
        eight_bit=not octets.isascii(),
        utf8_found=utf8_in_header(octets),
        repeatable=True,
        canonical=not (bare or unfinished) and octets[:1] != b"." and b"\n." not in octets,
    )


def utf8_in_header(octets: bytes) -> bool:
    """Whether a message, or its beginning, has a header beyond ASCII that is UTF-8 (RFC 6532)."""
    if octets.isascii():
        return False
    end = _HEADER_END.search(octets)
    header = octets if end is None else octets[: end.start()]
    if header.isascii():
        return False
    with contextlib.suppress(UnicodeDecodeError):
        header.decode("utf-8")
        return True
    return False


class FileBody:
    """A binary file, from where it stands, or a path, opened when the first octet is needed."""

    in_memory = False

    def __init__(self, source: Path | BinaryIO, piece: int) -> None:
        self._path = source if isinstance(source, Path) else None
        self._file = None if isinstance(source, Path) else source
        self._piece = piece
        self._start = 0
        #: How many octets there are from there on, once ranges of them are given.
        self._size: int | None = None
        self._begun = False
        seekable = self._file is None or self._file.seekable()
        if self._file is not None and seekable:
            self._start = self._file.tell()
        self.facts = BodyFacts(repeatable=seekable)
        self.may_be_looked_at = seekable

    def read(self, offset: int) -> bytes:
        return self._octets_of(self._opened(offset))

    def _octets_of(self, file: BinaryIO) -> bytes:
        octets = file.read(self._piece)
        if not isinstance(octets, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]  # sources are anybody's
            raise LocalProtocolError("reading the file gave no bytes; open it in binary mode", type(octets).__name__)
        return octets

    def read_range(self, offset: int, *, binary: bool) -> Block:
        file = self._opened(offset)
        if not offset:
            self._size = _octets_behind(self._start, file, binary=binary) if can_send_files else None
        if self._size is None:
            return self._octets_of(file)
        return FileRange(file, self._start + offset, min(self._size - offset, _RANGE))

    def _opened(self, offset: int) -> BinaryIO:
        """The file where the octets at ``offset`` are the next to be read."""
        if self._file is None:
            assert self._path is not None
            self._file = self._path.open("rb")
        elif not offset and self.facts.repeatable:
            self._file.seek(self._start)
        elif not offset:
            _check_once(self._begun)
        self._begun = True
        if not offset:
            self._size = None
        return self._file

    def ends_at(self, offset: int) -> bool:
        return self._size is not None and offset >= self._size

    def close(self) -> None:
        """Close a file that was opened here; the caller's own stays open."""
        if self._path is not None and self._file is not None:
            self._file.close()


def _octets_behind(start: int, file: BinaryIO, *, binary: bool) -> int | None:
    """How many octets of ``file`` lie behind ``start``, if they may go as ranges.

    ``None`` if what it reads need not be what lies on the disk, and if that has no line end at its end and should.
    """
    # A wrapper, as of a compressed file, has the descriptor of what it wraps.
    raw: object = getattr(file, "raw", None) if type(file) is io.BufferedReader else file
    if type(raw) is not io.FileIO:
        return None
    descriptor = raw.fileno()
    status = os.fstat(descriptor)
    octets = status.st_size - start if stat.S_ISREG(status.st_mode) else 0
    if octets < len(_LINE_END):
        return None
    # Ranges are not looked at by the core, which minds the end of what it sees.
    if not binary and os.pread(descriptor, len(_LINE_END), status.st_size - len(_LINE_END)) != _LINE_END:
        return None
    return octets


class IterableBody:
    """Pieces of octets; repeatable unless it is an iterator, which gives its pieces once."""

    in_memory = False

    def __init__(self, source: Iterable[bytes]) -> None:
        self._source = source
        self._pieces: Iterator[bytes] = iter(())
        self._begun = False
        self.facts = BodyFacts(repeatable=not isinstance(source, Iterator))
        self.may_be_looked_at = isinstance(source, (Sequence, Rewindable))

    def read(self, offset: int) -> bytes:
        if not offset:
            _check_once(self._begun and not self.facts.repeatable)
            self._begun = True
            self._pieces = iter(self._source)
        return next((piece for piece in map(octets_of, self._pieces) if piece), b"")

    def read_range(self, offset: int, *, binary: bool) -> Block:
        return self.read(offset)

    def ends_at(self, offset: int) -> bool:
        return False

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


class BodyReadAhead:
    """A body of which the beginning was read and is in memory; it can be read only once."""

    in_memory = may_be_looked_at = False

    def __init__(self, beginning: MemoryBody, body: Body) -> None:
        self._beginning = beginning
        self._body = body
        self.facts = BodyFacts()

    def read(self, offset: int) -> bytes:
        return (self._body if self._beginning.ends_at(offset) else self._beginning).read(offset)

    def read_range(self, offset: int, *, binary: bool) -> Block:
        return self.read(offset)

    def ends_at(self, offset: int) -> bool:
        return False

    def close(self) -> None:
        self._body.close()


def _check_once(begun: bool) -> None:
    if begun:
        raise LocalProtocolError("the message can be read only once, and its envelope says that it is repeatable")


def octets_of(piece: object) -> bytes:
    """A piece as it was given, for ``bytes(5)`` would be five NULs; raises ``LocalProtocolError`` for what is none."""
    _check_piece(piece)
    return bytes(cast("bytes", piece))


def _check_piece(piece: object) -> None:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise LocalProtocolError("the pieces of a message must be bytes", piece)


def make_body(source: object, piece: int) -> Body:
    """A body out of whatever the caller has; ``piece`` is how many octets are read at a time.

    Raises ``LocalProtocolError`` for what is no message.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return MemoryBody(bytes(cast("bytes", source)), piece)
    if isinstance(source, Message):
        return MemoryBody(flatten(source), piece)  # pyright: ignore[reportUnknownArgumentType]  # of whatever parameters its type has
    check_message(source)
    if isinstance(source, Path):
        return FileBody(source, piece)
    if hasattr(source, "read"):
        return _body_of_file(cast("BinaryIO", source), piece)
    if isinstance(source, Iterable):
        return IterableBody(cast("Iterable[bytes]", source))
    raise _not_a_message(source)


def _body_of_file(file: BinaryIO, piece: int) -> FileBody:
    try:
        return FileBody(file, piece)
    except Exception as error:
        # Closed, or none of which all is there: files may be anybody's.
        raise LocalProtocolError(f"the file cannot be read: {type(error).__name__}: {error}") from error


def check_message(source: object) -> None:
    """Raise ``LocalProtocolError`` for what is no message, as far as it shows before anything is read."""
    if isinstance(source, Path):
        _check_path(source)
    elif isinstance(source, io.TextIOBase):
        raise LocalProtocolError("the file was opened as text; open it in binary mode")
    elif isinstance(source, str):
        raise LocalProtocolError("a str may be text or the name of a file; give bytes or a pathlib.Path", source)
    elif isinstance(source, (list, tuple)):
        for given in cast("Sequence[object]", source):
            _check_piece(given)
    elif isinstance(source, Mapping) or not (hasattr(source, "read") or isinstance(source, _READABLE)):
        raise _not_a_message(source)  # pyright: ignore[reportUnknownArgumentType]  # of whatever keys and values


def _check_path(path: Path) -> None:
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise LocalProtocolError(f"the message cannot be read: {words}", str(path)) from error
    if is_directory:
        raise LocalProtocolError("a directory is no message", str(path))


def _not_a_message(source: object) -> LocalProtocolError:
    return LocalProtocolError(
        "not a message: give bytes, a pathlib.Path, a binary file, an iterable of bytes, or an email object", source
    )


class AsyncBody:
    """A body for an async driver: what may block is read in a worker thread."""

    def __init__(self, body: Body | AsyncIterable[bytes], in_thread: InThread) -> None:
        self._body = body if not isinstance(body, AsyncIterable) else None
        self._source = body if isinstance(body, AsyncIterable) else None
        self._pieces: AsyncIterator[bytes] | None = None
        self.in_thread = in_thread
        #: What was read ahead and comes once more.
        self._beginning: MemoryBody | None = None
        self._in_use = threading.Lock()
        self._closed = False
        self.in_memory = self._body is not None and self._body.in_memory
        self.may_be_looked_at = self._body is not None and self._body.may_be_looked_at

    @property
    def facts(self) -> BodyFacts:
        if self._body is None:
            return BodyFacts(repeatable=not isinstance(self._source, AsyncIterator))
        return self._body.facts

    def put_back(self, beginning: MemoryBody) -> None:
        """Let the beginning, which was read, be read once more; behind it reading goes on where it stopped."""
        self._beginning = beginning

    async def hand_to(self, take: Callable[[bytes], bool], offset: int) -> tuple[int, bool]:
        """Read a piece and let ``take`` have it in a worker thread; returns how long it is, and what ``take`` does."""
        if self._body is not None and self._beginning is None:
            return await self.in_thread(lambda offset: _handed(self._read(offset), take), offset)
        piece = await self.read(offset)
        return await self.in_thread(lambda _: _handed(piece, take), offset)

    async def read(self, offset: int) -> bytes:
        if self._beginning is not None and not self._beginning.ends_at(offset):
            return self._beginning.read(offset)
        if self._body is not None:
            return self._body.read(offset) if self.in_memory else await self.in_thread(self._read, offset)
        assert self._source is not None
        if not offset:
            _check_once(self._pieces is not None and not self.facts.repeatable)
            self._pieces = aiter(self._source)
        assert self._pieces is not None
        async for piece in self._pieces:
            if octets := octets_of(piece):
                return octets
        return b""

    async def read_range(self, offset: int, *, binary: bool) -> Block:
        if self._body is None or self._beginning is not None:
            return await self.read(offset)
        return await self.in_thread(partial(self._read_range, binary), offset)

    def ends_at(self, offset: int) -> bool:
        return self._body is not None and self._body.ends_at(offset)

    def _read(self, offset: int) -> bytes:
        """Read in a worker thread, which may outlive the task that wanted the octets."""
        assert self._body is not None
        return self._in_turn(self._body.read, offset)

    def _read_range(self, binary: bool, offset: int) -> Block:
        assert self._body is not None
        return self._in_turn(partial(self._body.read_range, binary=binary), offset)

    def _in_turn(self, read: Callable[[int], _T], offset: int) -> _T | bytes:
        try:
            with self._in_use:
                return b"" if self._closed else read(offset)
        finally:
            if self._closed:
                self._close_body()

    def _close_body(self) -> None:
        """Close the body, unless a thread is reading it: that one closes it when it is done."""
        if self._body is not None and self._in_use.acquire(blocking=False):
            try:
                self._body.close()
            finally:
                self._in_use.release()

    async def close(self) -> None:
        self._closed = True
        self._close_body()
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()


def _handed(piece: bytes, take: Callable[[bytes], bool]) -> tuple[int, bool]:
    return len(piece), bool(piece) and take(piece)


def make_async_body(source: AsyncSource, piece: int, in_thread: InThread) -> AsyncBody:
    """As :func:`make_body`, with async iterables; ``in_thread`` runs a function in a worker thread."""
    return AsyncBody(source if isinstance(source, AsyncIterable) else make_body(source, piece), in_thread)
