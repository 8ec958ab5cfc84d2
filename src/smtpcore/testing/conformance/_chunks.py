"""Cases: messages in chunks (RFC 3030), and files that go as they are.

What lives here: chunks that are taken, refused, and interrupted. What does not: how a message is divided, which is the
driver's.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from smtpcore import BodyFacts, Envelope, TlsPolicy
from smtpcore.testing.conformance._adapter import Need, call
from smtpcore.testing.conformance._scripts import (
    BEGINS_TO_READ,
    IN_PIECES,
    LARGE,
    ONE_MAIL,
    SENT,
    SILENT,
    bodies,
    broken_off,
    refused_early,
    says,
    sends,
    taken,
    within_tls,
)
from smtpcore.testing.conformance._stage import SOON, Act, Cases, Stage
from smtpcore.testing.peer import EXTENSIONS, Line, Script, demand, steps

CASES: Final = Cases()

#: There is no dot behind chunks.
chunks: Final = functools.partial(bodies, dot=b"")

OFFERS_CHUNKS: Final = (*EXTENSIONS, "CHUNKING")

#: Enough to be divided by any driver, and little enough to arrive soon.
MANY_CHUNKS: Final = LARGE[-1_000_000:]


def cut(octets: bytes) -> tuple[bytes, ...]:
    """Octets in pieces of no particular size."""
    return tuple(octets[start : start + 30_001] for start in range(0, len(octets), 30_001))


# --- what peers do -------------------------------------------------------------------------------------------------


def to_chunk(line: Line) -> None:
    """Serve up to the first chunk, whose octets are left to be read."""
    said = line.serve("BDAT", extensions=OFFERS_CHUNKS)
    demand(said.startswith(b"BDAT"), "the message came in no chunks")


def octets_of(line: Line) -> bytes:
    """The octets of the chunk whose line was the last to come."""
    return line.exactly(int(line.commands[-1].split()[1]))


def takes_chunks(*, greet: bool = True, extensions: Iterable[str] = OFFERS_CHUNKS) -> Script:
    """Serve to the end of the session; the chunks of a message are one body."""

    def step(line: Line) -> None:
        said = line.serve("BDAT", greet=greet, extensions=extensions)
        body = b""
        while said.startswith(b"BDAT"):
            if not line.commands[-2].startswith(b"BDAT"):
                # The first of a message; what came of another one before it was taken back.
                body = b""
            body += octets_of(line)
            if said.endswith(b" LAST"):
                line.bodies.append(body)
                line.say(f"250 accepted {len(line.bodies)}")
            else:
                line.say("250 more")
            said = line.serve("BDAT", greet=False)

    return step


def to_last_chunk(line: Line) -> None:
    """Take a message, and leave its last chunk unanswered."""
    to_chunk(line)
    octets_of(line)
    while not line.commands[-1].endswith(b" LAST"):
        line.say("250 more")
        line.expect("BDAT")
        octets_of(line)


def refuses_a_chunk(line: Line) -> None:
    """Refuse a chunk before its octets are read, and then take them (RFC 3030 §2)."""
    try:
        to_chunk(line)
        line.say("552 5.3.4 too big")
        demand(not line.gone(SOON), "the client did not bring the chunk to its end")
        octets_of(line)
    finally:
        line.done.set()
    while line.line().startswith(b"BDAT"):
        octets_of(line)
        line.say("503 5.5.1 the message is refused")
    demand(line.commands[-1] == b"RSET", f"no RSET, but {line.commands[-1]!r}")
    line.say("250 reset")


# --- messages in memory and in pieces --------------------------------------------------------------------------------


def chunk_case(name: str, script: Script, act: Act, story: str, *needs: Need, **rest: Any) -> None:
    CASES.add(name, script, act, story, needs=(Need.CHUNKING, *needs), **rest)


chunk_case("a good mail in chunks", takes_chunks(), ONE_MAIL, SENT, check=chunks(b"Hello.\r\n"))
chunk_case(
    "many mails in chunks",
    takes_chunks(),
    sends(b".dot", [b"pieces\r", b"", b"\n.", b"\nlast"], [], b""),
    taken(4),
    check=chunks(b".dot\r\n", b"pieces\r\n.\r\nlast\r\n", b"", b""),
)
for _how, _extensions in (("", OFFERS_CHUNKS), (" without PIPELINING", ("CHUNKING",))):
    chunk_case(
        f"large bodies in chunks{_how}",
        takes_chunks(extensions=_extensions),
        sends(MANY_CHUNKS, cut(MANY_CHUNKS)),
        taken(2),
        check=chunks(MANY_CHUNKS, MANY_CHUNKS),
    )
chunk_case(
    "large bodies in chunks within TLS",
    steps(within_tls, takes_chunks(greet=False)),
    sends(MANY_CHUNKS, cut(MANY_CHUNKS)),
    taken(2),
    Need.TLS,
    tls=TlsPolicy.REQUIRED,
    host="localhost",
    check=chunks(MANY_CHUNKS, MANY_CHUNKS),
)


async def refused(stage: Stage, session: Any, message: Any, **facts: Any) -> None:
    """Send a mail of which a chunk is refused; whether it was the last one depends on how the driver divides it."""
    envelope = Envelope("a@here.example", ("b@there.example",), body=BodyFacts(**facts))
    stage.tell(await call(session.deliver, envelope, message), how_far=False)


async def then_sent(stage: Stage, session: Any) -> None:
    """Begin a second mail when the peer has the rest of the chunk that it refused."""
    demand(await call(stage.adapter.wait, stage.peer.done), "a refused chunk was not brought to its end")
    await stage.deliver(session, b"second")
    await stage.quit(session)


def refused_then_sent(message: Any) -> Act:
    async def act(stage: Stage) -> None:
        session = await stage.open()
        await refused(stage, session, message)
        await then_sent(stage, session)

    return act


REFUSED_THEN_SENT: Final = """
    open
    refused
      b@there.example never: 552 5.3.4 too big
    sent BODY_ENDED
      b@there.example delivered: 250 accepted 1
    end quit clean
"""

for _how, _message in (("in memory", LARGE), ("in pieces", IN_PIECES), ("in one piece", [LARGE])):
    chunk_case(
        f"a chunk of a body {_how} that is refused",
        steps(refuses_a_chunk, takes_chunks(greet=False)),
        refused_then_sent(_message),
        REFUSED_THEN_SENT,
        check=chunks(b"second\r\n"),
    )


async def one_large_piece(stage: Stage) -> None:
    session = await stage.open()
    await refused(stage, session, [LARGE])
    stage.tell_end(session)


for _name, _script, _end, _within in (
    (
        "a refused chunk of which the peer reads no more",
        steps(to_chunk, says("552 5.3.4 too big"), Line.stall),
        "timeout PeerTimeout: the peer was silent beyond the deadline for writing",
        {"data_block": SOON},
    ),
    (
        "a reset in a body behind a refused chunk",
        steps(to_chunk, says("552 5.3.4 too big"), Line.reset),
        "lost ConnectionLost",
        {"last_words": SOON},
    ),
):
    chunk_case(
        _name,
        _script,
        one_large_piece,
        f"""
            open
            refused
              b@there.example never: 552 5.3.4 too big
            end {_end}
        """,
        deadlines=_within,
    )


def breaks() -> Iterator[bytes]:
    yield from IN_PIECES[:4]
    raise LookupError("no more")


IN_TWO: Final = sends([b"Hel", b"lo.\r\n"])


async def out_of_a_source_that_breaks(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session, breaks())
    await stage.deliver(session, b"second")
    await stage.quit(session)


chunk_case(
    # No end was said of it, and RSET takes back what was.
    "a source of a body in chunks that breaks",
    takes_chunks(),
    out_of_a_source_that_breaks,
    """
        open
        refused BODY_BEGUN
          b@there.example later: BodyError: the body could not be read: no more
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        end quit clean
    """,
    check=chunks(b"second\r\n"),
)
for _name, _then, _said, _end, _within in (
    (
        "silence at the last chunk",
        Line.until_closed,
        "PeerTimeout: the peer was silent beyond the deadline for BDAT LAST",
        "timeout",
        {"data_termination": SOON},
    ),
    ("a close at the last chunk", Line.close, "ConnectionLost", "lost", {}),
):
    chunk_case(
        _name,
        steps(to_last_chunk, _then),
        IN_TWO,
        f"""
            open
            refused BODY_ENDED
              b@there.example later (in doubt): {_said}
            end {_end} {_said}
        """,
        deadlines=_within,
    )


# --- files that are declared to be fit for the wire ------------------------------------------------------------------


#: More than the buffers between the two hold, and yet no more than drivers hand in at once.
ONE_RANGE: Final = LARGE[-7 * 2**20 :]


@contextlib.contextmanager
def canonical_file(octets: bytes) -> Generator[tuple[Path, dict[str, Any]]]:
    """A file, and what is known of it: that nothing in it need be changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message"
        path.write_bytes(octets)
        yield path, {"size": len(octets), "eight_bit": False, "repeatable": True, "canonical": True}


async def a_file(stage: Stage) -> None:
    session = await stage.open()
    with canonical_file(LARGE) as (path, facts):
        await stage.deliver(session, path, **facts)
    if session.end is None:
        await stage.quit(session)
    else:
        stage.tell_end(session)


async def a_file_refused_then_sent(stage: Stage) -> None:
    session = await stage.open()
    with canonical_file(ONE_RANGE) as (path, facts):
        await refused(stage, session, path, **facts)
    await then_sent(stage, session)


def file_case(name: str, script: Script, act: Act, story: str, *needs: Need, **rest: Any) -> None:
    CASES.add(name, script, act, story, needs=(Need.FILES, *needs), **rest)


file_case("a canonical file", Line.serve, a_file, SENT, check=bodies(LARGE))
file_case("a canonical file in chunks", takes_chunks(), a_file, SENT, Need.CHUNKING, check=chunks(LARGE))
file_case(
    "a canonical file within TLS",
    steps(within_tls, takes_chunks(greet=False)),
    a_file,
    SENT,
    Need.CHUNKING,
    Need.TLS,
    tls=TlsPolicy.REQUIRED,
    host="localhost",
    check=chunks(LARGE),
)
file_case(
    "a chunk of a canonical file that is refused",
    steps(refuses_a_chunk, takes_chunks(greet=False)),
    a_file_refused_then_sent,
    REFUSED_THEN_SENT,
    Need.CHUNKING,
    check=chunks(b"second\r\n"),
)
for _name, _script, _story, _within in (
    (
        "552 in a canonical file, then the peer reads no more",
        steps(BEGINS_TO_READ, says("552 5.3.4 too big"), Line.stall),
        refused_early("5.3.4 too big"),
        {},
    ),
    (
        "a peer that reads no more of a canonical file",
        steps(BEGINS_TO_READ, Line.stall),
        broken_off(SILENT, "timeout"),
        {"data_block": SOON},
    ),
):
    file_case(_name, _script, a_file, _story, deadlines=_within)
