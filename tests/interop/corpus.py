"""Awkward messages: the shapes in which a client or a server could lose, add or change an octet.

What lives here: the messages, and what must arrive of each. What does not: sending them, and what single servers make
of some (:mod:`peers`).
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from smtpcore import DEFAULT_LIMITS

_DEMO = Path(__file__).resolve().parents[2] / "demo" / "corpus.py"
# What some servers would add is there.
_FIELDS = b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <awkward@elsewhere.example>\r\nSubject: awkward\r\n"
_HEADER = _FIELDS + b"\r\n"
_LONG = b"0123456789" * 99 + b"01234567"
_EIGHT_BIT = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")


def canonical(octets: bytes) -> bytes:
    """What must arrive of ``octets``: every line end, bare ones too, as CRLF, and the last line ended."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    return lines if lines.endswith(b"\r\n") or not lines else lines + b"\r\n"


def _dots_at_borders() -> bytes:
    """Lines that begin with a dot, lone ones among them, on and around each border between two pieces of the body."""
    piece = DEFAULT_LIMITS.body_chunk
    octets = bytearray(_HEADER)
    starts = [number * piece + distance for number, distance in enumerate(range(-4, 4), 1)]
    for number, start in enumerate(starts):
        lines, rest = divmod(start - len(octets), 78)
        octets += (b"x" * 76 + b"\r\n") * (lines - 1) + b"x" * (76 + rest) + b"\r\n"
        octets += b"..dots\r\n" if number % 2 else b".\r\n"
    assert all(octets[start - 2 : start + 1] == b"\r\n." for start in starts)
    return bytes(octets)


def _demo() -> Iterator[tuple[str, bytes]]:
    """The first message of every shape of the demo."""
    spec = importlib.util.spec_from_file_location("demo_corpus", _DEMO)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    shapes: dict[str, bytes] = {}
    for letter in module.letters():
        shapes.setdefault(letter.shape, letter.octets)
    return ((f"demo: {shape}", octets) for shape, octets in shapes.items())


#: Bodies, each below the same header.
BODIES = {
    "one line": b"Hello.\r\n",
    "empty body": b"",
    "leading dots": b".\r\n..\r\n...\r\n.a\r\n..b\r\n\r\n.\r\n",
    "only dots": b".\r\n" * 500,
    "the end of data inside": b"before\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n.\r\nafter\r\n",
    "every octet but line ends and NUL": _EIGHT_BIT + b"\r\n" + _EIGHT_BIT[::-1] + b"\r\n",
    "UTF-8": "Grüße aus Köln, 東京 und Αθήνα\r\n".encode(),
    "lines of 998 octets": (_LONG + b"\r\n") * 3 + b"." + _LONG[1:] + b"\r\n" + b"\xe4" * 998 + b"\r\n",
    "no final line end": b"the last line\r\nhas no end",
    "a last line that is a dot": b"the last line is\r\n.",
    "bare LF": b"one\ntwo\n\n.three\nfour\n",
    "bare LF without a final one": b"one\n.",
    "bare CR": b"one\rtwo\r.three\r\r\nfour\r",
    "mixed line ends": b"one\r\ntwo\nthree\r.four\n.five\r\n\n\r\r\n.\n",
    "white space at line ends": b"one \r\n\t\r\n two\t\r\n",
    "From at line starts": b"From here\r\n>From there\r\n",
    "only empty lines": b"\r\n" * 1000,
    "very many short lines": b"a\r\n\r\n.\r\n" * 20_000,
    "300 KiB": b"".join(b"%s%d: %s\r\n" % (b"." * (n % 3), n, b"x" * (n % 71)) for n in range(7000)),
    "5 MB": b"".join(b"%07d %s\r\n" % (n, b"x" * 67) for n in range(65_000)),
}
assert max(len(line) for body in BODIES.values() for line in re.split(rb"[\r\n]+", body)) == 998

#: Every message by the name of its shape.
MESSAGES: dict[str, bytes] = {
    **{shape: _HEADER + body for shape, body in BODIES.items()},
    "header only": _FIELDS,
    "header only, no final line end": b"Subject: the header is all",
    "a dot as the first octet": b".first: a field whose name begins with a dot\r\n" + _HEADER + b"body\r\n",
    "no header": b"\r\nThis is a body, and nothing stands above it.\r\n",
    "dots at the borders of pieces": _dots_at_borders(),
    **dict(_demo()),
}


def in_pieces(octets: bytes) -> Iterator[bytes]:
    """``octets`` in pieces of changing, awkward sizes."""
    start = 0
    for size in itertools.cycle((1, 2, 1, 3, 5, 1, 8, 997, 4096, 65_535)):
        if start >= len(octets):
            return
        yield octets[start : start + size]
        start += size
