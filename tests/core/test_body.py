"""The filters of a body: octet-exact over any division into chunks, judged by an oracle that goes octet by octet.

What lives here: line ends and dot-stuffing. What does not: the commands around a body.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import DataEncoder, LineEnds, LineNormaliser, LocalProtocolError


def canonical(octets: bytes) -> bytes:
    """Every line end CRLF, the last line ended: one octet at a time."""
    out = bytearray()
    position = 0
    while position < len(octets):
        octet = octets[position]
        if octet == 0x0D:
            out += b"\r\n"
            position += octets[position + 1 : position + 2] == b"\n"
        elif octet == 0x0A:
            out += b"\r\n"
        else:
            out.append(octet)
        position += 1
    if out and not out.endswith(b"\r\n"):
        out += b"\r\n"
    return bytes(out)


def stuffed(octets: bytes) -> bytes:
    """As DATA carries it, with the end of data."""
    lines = canonical(octets).split(b"\r\n")[:-1]
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


def encode(chunks: list[bytes], policy: LineEnds = LineEnds.NORMALISE) -> bytes:
    encoder = DataEncoder(policy)
    return b"".join(encoder.feed(chunk) for chunk in chunks) + encoder.end()


def normalise(chunks: list[bytes]) -> bytes:
    normaliser = LineNormaliser()
    return b"".join(normaliser.feed(chunk) for chunk in chunks) + normaliser.end()


SMALL = [bytes(octets) for length in range(7) for octets in itertools.product(b"\r\n.a", repeat=length)]


def test_every_small_body_in_every_division_into_two() -> None:
    for body in SMALL:
        expected, plain = stuffed(body), canonical(body)
        for cut in range(len(body) + 1):
            assert encode([body[:cut], body[cut:]]) == expected, (body, cut)
            assert normalise([body[:cut], body[cut:]]) == plain, (body, cut)


def test_every_small_body_octet_by_octet() -> None:
    for body in SMALL:
        assert encode([body[i : i + 1] for i in range(len(body))]) == stuffed(body), body


@given(st.lists(st.binary(max_size=30) | st.text("\r\n.a", max_size=20).map(str.encode), max_size=12))
def test_any_body_in_any_division(chunks: list[bytes]) -> None:
    body = b"".join(chunks)
    assert encode(chunks) == stuffed(body)
    assert normalise(chunks) == canonical(body)


def test_no_body_can_end_the_data() -> None:
    for body in SMALL:
        wire = b"\r\n" + encode([body])
        assert wire.index(b"\r\n.\r\n") == len(wire) - 5, body


def is_canonical(body: bytes) -> bool:
    return body.count(b"\r") == body.count(b"\n") == body.count(b"\r\n")


def test_refusing_is_exact_in_every_division() -> None:
    for body in SMALL:
        for cut in range(len(body) + 1):
            chunks = [body[:cut], body[cut:]]
            if is_canonical(body):
                assert encode(chunks, LineEnds.REFUSE) == stuffed(body), chunks
            else:
                with pytest.raises(LocalProtocolError, match="bare CR"):
                    encode(chunks, LineEnds.REFUSE)


def test_a_refused_chunk_changes_nothing() -> None:
    encoder = DataEncoder(LineEnds.REFUSE)
    assert encoder.feed(b"a\r") == b"a\r"
    with pytest.raises(LocalProtocolError):
        encoder.feed(b"b")
    assert encoder.feed(b"\n.b") == b"\n..b"
    assert encoder.end() == b"\r\n.\r\n"


def test_line_ends_are_made_whole_unless_refused_and_a_line_ends_once() -> None:
    encoder, lines = DataEncoder(), LineNormaliser()
    assert encoder.feed(b"a\n.b") + encoder.end() == b"a\r\n..b\r\n.\r\n"
    assert lines.feed(b"a") + lines.end() == b"a\r\n"
    assert lines.end() == b""
    assert lines.at_line_start


def test_a_large_clean_body_is_passed_on() -> None:
    body = b"x" * 70 + b"\r\n"
    assert encode([body * 1000] * 3) == body * 3000 + b".\r\n"
