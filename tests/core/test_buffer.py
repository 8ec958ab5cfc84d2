"""The line buffer against an oracle that splits the whole stream at once.

What lives here: cutting octets into lines, exactly and within bounds, however they arrive. What does not: what a line
says.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import RemoteProtocolError
from smtpcore._buffer import LineBuffer

LIMIT = 6

Lines = tuple[list[bytes], str]


def oracle(octets: bytes) -> Lines:
    """The lines, and how it ends: octet by octet, with all of them at hand."""
    lines: list[bytes] = []
    line = b""
    for octet in octets:
        line += bytes([octet])
        if octet != 0x0A:
            if len(line) >= LIMIT:
                return lines, "too long"
        elif len(line) > LIMIT:
            return lines, "too long"
        elif line[-2:-1] != b"\r":
            return lines, "bare LF"
        else:
            lines.append(line[:-2])
            line = b""
    return lines, f"{len(line)} left"


def cut(pieces: list[bytes]) -> Lines:
    buffer = LineBuffer(LIMIT)
    lines: list[bytes] = []
    for piece in pieces:
        buffer.append(piece)
        try:
            while (line := buffer.next_line()) is not None:
                lines.append(line)
        except RemoteProtocolError as error:
            return lines, "bare LF" if "bare LF" in str(error) else "too long"
        assert len(buffer) < LIMIT
    return lines, f"{len(buffer)} left"


def test_every_small_stream_in_every_division_into_two() -> None:
    for length in range(8):
        for octets in map(bytes, itertools.product(b"\r\na", repeat=length)):
            expected = oracle(octets)
            for border in range(length + 1):
                assert cut([octets[:border], octets[border:]]) == expected, (octets, border)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"abc\r\n", b"abcd\r\n", b"x", b"\0", b"\xff", b""]), max_size=20)
)
def test_any_stream_in_any_division(pieces: list[bytes]) -> None:
    octets = b"".join(pieces)
    expected = oracle(octets)
    assert cut(pieces) == cut([octets]) == cut([bytes([octet]) for octet in octets]) == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_octets_are_taken_in_any_form_and_kept(kind: type[bytes] | type[bytearray] | type[memoryview]) -> None:
    source = bytearray(b"ab\r\nc")
    buffer = LineBuffer(LIMIT)
    buffer.append(kind(source))
    source[:] = b"XXXXX"
    assert buffer.next_line() == b"ab"
    assert (len(buffer), buffer.peek(10), buffer.peek(0)) == (1, b"c", b"")
    assert buffer.next_line() is None
    buffer.append(b"\r\n")
    line = buffer.next_line()
    assert line == b"c"
    assert type(line) is bytes


def test_a_cleared_buffer_is_a_new_one() -> None:
    buffer = LineBuffer(LIMIT)
    buffer.append(b"ab\r\nabc")
    assert buffer.next_line() == b"ab"
    assert buffer.next_line() is None
    buffer.clear()
    assert (len(buffer), buffer.peek(3), buffer.next_line()) == (0, b"", None)
    buffer.append(b"\r\n")
    assert buffer.next_line() == b""
