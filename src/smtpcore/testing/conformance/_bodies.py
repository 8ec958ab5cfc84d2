"""Cases: what a peer may do while a body flows, and sources of bodies that break or never end.

What lives here: early replies, slow readers and resets, without TLS. What does not: bodies that arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from smtpcore.testing.conformance._scripts import (
    BEGINS_TO_READ,
    IN_PIECES,
    LARGE,
    REFUSED,
    SENT,
    SILENT,
    broken_off,
    drip,
    refused_early,
    say_421,
    says,
    sends,
    serves,
)
from smtpcore.testing.conformance._stage import SOON, Cases, Stage
from smtpcore.testing.peer import Line, Peer, demand, steps

CASES: Final = Cases()


def read_slowly(line: Line) -> None:
    line.read_slowly(b"\r\n.\r\n", 0.015)


WORDY: Final = ("5.3.4 " + "x" * 3990,) * 500

for _how, _message in (("in memory", LARGE), ("in pieces", IN_PIECES)):
    for _name, _script, _story, _within in (
        (
            "552 in a body {}, then the peer reads no more",
            steps(BEGINS_TO_READ, says("552 5.3.4 too big"), Line.stall),
            refused_early("5.3.4 too big"),
            {},
        ),
        (
            "552 in a body {}, then a reset",
            steps(BEGINS_TO_READ, says("552 5.3.4 too big"), Line.reset),
            refused_early("5.3.4 too big"),
            {},
        ),
        (
            # Both sides write, and neither can go on unless ours reads.
            "552 of two megabytes in a body {}, to a driver that must read while it writes",
            steps(
                serves("BODY"),
                says(*(f"552-{text}" for text in WORDY), "552 5.3.4 too big"),
                Line.stall,
            ),
            refused_early(" / ".join((*WORDY, "5.3.4 too big"))),
            {},
        ),
        (
            "421 in a body {}",
            steps(BEGINS_TO_READ, say_421, Line.close),
            broken_off(REFUSED, "refused", said="421 4.3.2 going down"),
            {},
        ),
        (
            "250 in a body {}",
            steps(BEGINS_TO_READ, says("250 thanks"), Line.stall),
            broken_off("RemoteProtocolError: 250 is no answer to end of data: 250 thanks", "protocol"),
            {},
        ),
        (
            "a peer that reads no more of a body {}",
            steps(BEGINS_TO_READ, Line.stall),
            broken_off(SILENT, "timeout"),
            {"data_block": SOON},
        ),
        (
            # What drips is a reply in the making; nobody may buy time with it.
            "a peer that reads no more of a body {}, and drips",
            steps(BEGINS_TO_READ, drip(b"552-" + b"x" * 200)),
            broken_off(SILENT, "timeout"),
            {"data_block": SOON},
        ),
        (
            "a reset in a body {}",
            steps(BEGINS_TO_READ, Line.reset),
            broken_off("ConnectionLost", "lost"),
            {"last_words": SOON},
        ),
        (
            # Every block is in time, all of them together are beyond the deadline of one.
            "a slow reader of a body {} is waited for",
            steps(
                serves("BODY"),
                read_slowly,
                says("250 accepted 1"),
                serves(greet=False),
            ),
            SENT,
            {"data_block": 0.9},
        ),
    ):
        CASES.add(_name.format(_how), _script, sends(_message), _story, deadlines=_within)


def breaks() -> Iterator[bytes]:
    yield from IN_PIECES[:4]
    raise LookupError("no more")


async def out_of_a_source_that_breaks(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session, breaks())
    stage.tell_end(session)


def no_final_dot(peer: Peer) -> None:
    heard = peer.lines[0].heard
    demand(b"QUIT" not in heard, "QUIT after half a message")
    demand(b"\r\n.\r\n" not in heard, "half a message was ended as if it were whole")


CASES.add(
    "a source of a body that breaks",
    Line.serve,
    out_of_a_source_that_breaks,
    broken_off(
        "SessionAborted: the body could not be read: no more",
        "body",
        said="BodyError: the body could not be read: no more",
    ),
    check=no_final_dot,
)


async def without_end(stage: Stage) -> None:
    """What is read of a source is bounded by what the peer reads."""
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        while read < 1000:
            read += 1
            yield LARGE[:100_000]

    session = await stage.open()
    await stage.deliver(session, pieces())
    stage.note("read to the end" if read >= 1000 else "read in part")
    stage.tell_end(session)


CASES.add(
    "a body without end to a peer that reads no more",
    steps(BEGINS_TO_READ, Line.stall),
    without_end,
    broken_off(SILENT, "timeout").replace("\nend", "\nread in part\nend"),
    deadlines={"data_block": SOON},
)
