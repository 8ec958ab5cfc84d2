"""Message sources as the drivers read them.

What lives here: what is known of a source before it is read, its pieces, reading it again, what is refused. What does
not: how its octets reach the wire (the table of scenarios).
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import pytest

from smtpcore import BodyFacts, DataEncoder, LocalProtocolError
from smtpcore.drivers._session.bodies import make_async_body, make_body

T = TypeVar("T")


def read(body: Any) -> list[bytes]:
    """All pieces, asked for as a client asks."""
    pieces: list[bytes] = []
    while piece := body.read(sum(map(len, pieces))):
        pieces.append(piece)
    return pieces


async def in_thread(read: Callable[[int], T], offset: int, /) -> T:
    return await asyncio.to_thread(read, offset)


def read_async(source: Any, times: int = 1) -> list[bytes]:
    async def play() -> list[bytes]:
        body = make_async_body(source, 4, in_thread)
        for _ in range(times):
            pieces: list[bytes] = []
            while piece := await body.read(sum(map(len, pieces))):
                pieces.append(piece)
        await body.close()
        return pieces

    return asyncio.run(play())


def test_files_that_are_closed_or_half_a_file_are_refused() -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(LocalProtocolError, match="the file cannot be read: ValueError: I/O operation on closed file"):
        make_body(closed, 4)

    class Half:
        def read(self, octets: int = -1) -> bytes:
            return b""

    with pytest.raises(LocalProtocolError, match=r"the file cannot be read: AttributeError: .*seekable"):
        make_body(Half(), 4)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, io.BytesIO])
@pytest.mark.parametrize("octets", [b"", b"1", b"1234", b"12345", b"123456789"])
def test_pieces_and_again(make: Callable[[bytes], Any], octets: bytes) -> None:
    body = make_body(make(octets), 4)
    for _ in range(2):
        pieces = read(body)
        assert b"".join(pieces) == octets
        assert all(len(piece) <= 4 for piece in pieces)
    assert body.facts.repeatable
    assert read_async(make(octets), times=2) == pieces


@pytest.mark.parametrize(
    "octets", [b"", b"a", b"a\n", b"a\r\n", b"a\r", b"\n\n", b"\r\r\n\n", b"a\nb\r\nc\rd", b".a\n.b", b"\r\n" * 3]
)
def test_the_size_that_is_declared(octets: bytes) -> None:
    """The size is that of the canonical form, before dots are doubled (RFC 1870 §3)."""
    encoder = DataEncoder()
    on_the_wire = encoder.feed(octets) + encoder.end()
    doubled = sum(line.startswith(b"..") for line in on_the_wire.split(b"\r\n"))
    assert make_body(octets, 4).facts.size == len(on_the_wire) - len(b".\r\n") - doubled


HEADER_IN_UTF8 = [
    "Subject: é\n\nbody".encode(),
    "Subject: x\r\nTo: é\r\n\r\n".encode() + b"\xff",
    "Subject: é\r\rbody\xff".encode(),
    "Subject: é".encode(),
    "\nSubject: é\n"[1:].encode() * 2000,
]
HEADER_OTHERWISE = [
    b"",
    b"Subject: x\n\n" + "é".encode(),
    b"Subject: x\r\n\r\n" + "é".encode() + b"\n\n",
    b"Subject: x\r\r" + "é".encode(),
    b"\r\n" + "é".encode(),
    b"\n" + "é\n\n".encode(),
    # Not UTF-8: that is for no extension to say.
    b"Subject: \xe9\n\nbody",
    "Subject: é\n".encode() + b"To: \xe9\r\n\r\nbody",
]


@pytest.mark.parametrize("octets", HEADER_IN_UTF8 + HEADER_OTHERWISE)
def test_utf8_in_the_header_is_found(octets: bytes) -> None:
    assert make_body(octets, 4).facts.utf8_found is (octets in HEADER_IN_UTF8)


def test_what_is_known() -> None:
    assert make_body(b"x\xff", 4).facts == BodyFacts(size=4, eight_bit=True, repeatable=True)
    assert make_body(b"x", 4).facts == BodyFacts(size=3, eight_bit=False, repeatable=True)
    assert make_body(io.BytesIO(b"x"), 4).facts == BodyFacts(repeatable=True)
    assert make_body([b"x"], 4).facts == BodyFacts(repeatable=True)
    assert make_body(iter([b"x"]), 4).facts == BodyFacts(repeatable=False)
    assert make_async_body(pieces_async(), 4, in_thread).facts == BodyFacts(repeatable=False)


def test_octets_that_change_afterwards() -> None:
    source = bytearray(b"before")
    body = make_body(source, 100)
    source[:] = b"behind"
    assert read(body) == [b"before"]


def test_a_path_is_opened_when_needed_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(b"before")
    body = make_body(path, 4)
    path.unlink()
    path.write_bytes(b"123456")
    assert read(body) == [b"1234", b"56"]
    assert read(body) == [b"1234", b"56"]
    before = len(os.listdir("/proc/self/fd"))
    body.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    make_body(path, 4).close()


def test_a_file_stays_open_and_begins_where_it_stood() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"not this but this")
        file.seek(9)
        body = make_body(file, 4)
        file.seek(0)
        assert b"".join(read(body)) == b"but this"
        assert b"".join(read(body)) == b"but this"
        body.close()
        assert not file.closed


def test_a_pipe_is_read_once() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"123456")
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        body = make_body(file, 4)
        assert not body.facts.repeatable
        assert b"".join(read(body)) == b"123456"
        with pytest.raises(LocalProtocolError, match="only once"):
            body.read(0)


def pieces() -> Iterator[Any]:
    yield b""
    yield b"one"
    yield b""
    yield bytearray(b"two")
    yield memoryview(b"three")
    yield b""


async def pieces_async() -> AsyncIterator[Any]:
    for piece in pieces():
        yield piece


def test_an_empty_piece_is_not_the_end() -> None:
    """The core takes an empty chunk for the end of the body, and an iterable may well give some."""
    assert read(make_body(list(pieces()), 4)) == [b"one", b"two", b"three"]
    assert read(make_body(pieces(), 4)) == [b"one", b"two", b"three"]
    assert read_async(pieces()) == [b"one", b"two", b"three"]
    assert read_async(pieces_async()) == [b"one", b"two", b"three"]
    assert read(make_body([], 4)) == []


def test_what_gives_its_pieces_once() -> None:
    body = make_body(pieces(), 4)
    read(body)
    with pytest.raises(LocalProtocolError, match="only once"):
        body.read(0)
    for source in (pieces(), pieces_async()):
        with pytest.raises(LocalProtocolError, match="only once"):
            read_async(source, times=2)


def test_what_gives_its_pieces_again() -> None:
    class Pieces:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return pieces_async()

    assert read_async(Pieces(), times=2) == [b"one", b"two", b"three"]
    body = make_body([b"one"], 4)
    assert read(body) == read(body)


def test_a_generator_is_closed() -> None:
    closed = []

    def generator() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append("sync")

    async def async_generator() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append("async")

    async def play() -> None:
        for source in (generator(), async_generator()):
            body = make_async_body(source, 4, in_thread)
            await body.read(0)
            await body.close()

    body = make_body(generator(), 4)
    body.read(0)
    body.close()
    asyncio.run(play())
    assert closed == ["sync", "sync", "async"]


def test_what_blocks_is_read_in_a_thread() -> None:
    threads = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            threads.append(threading.current_thread())
            return super().read(size)

    assert read_async(File(b"12345")) == [b"1234", b"5"]
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("text", "'text': a str may be text or the name of a file"),
        (None, "not a message"),
        (5, "5: not a message"),
        (io.StringIO("text"), "opened as text"),
    ],
)
def test_what_is_no_message(source: Any, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        make_body(source, 4)
    with pytest.raises(LocalProtocolError, match=words):
        make_async_body(source, 4, in_thread)


def test_a_wrapped_text_file() -> None:
    """Not every text file can be known by its type; the first reading tells."""
    with tempfile.NamedTemporaryFile("w+") as file:
        body = make_body(file, 4)
        file.write("text")
        file.seek(0)
        with pytest.raises(LocalProtocolError, match="open it in binary mode"):
            body.read(0)


@pytest.mark.parametrize("piece", ["text", 5, None, [b"x"]])
def test_pieces_that_are_no_octets(piece: Any) -> None:
    """``bytes(5)`` is five NULs, and nobody meant to send them."""

    async def one_piece() -> AsyncIterator[Any]:
        yield piece

    with pytest.raises(LocalProtocolError, match="the pieces of a message must be bytes"):
        make_body([piece], 4).read(0)
    for source in ([piece], one_piece()):
        with pytest.raises(LocalProtocolError, match="the pieces of a message must be bytes"):
            read_async(source)


def test_an_email_object() -> None:
    message = EmailMessage()
    message["Subject"] = "x"
    message.set_content("Hello.\n")
    body = make_body(message, 1000)
    (octets,) = read(body)
    assert octets.endswith(b"\r\n\r\nHello.\r\n")
    assert body.facts == BodyFacts(size=len(octets), eight_bit=False, repeatable=True, canonical=True)
