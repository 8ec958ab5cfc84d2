"""Bodies in files, sent by each wire driver without being read where they are declared canonical.

What lives here: that the octets arrive, whatever the file, the system and the peer; that they are not read in vain.
What does not: what the machine makes of ranges of files (``core/test_file_ranges.py``).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import gzip
import io
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from smtpcore import (
    DEFAULT_LIMITS,
    BodyFacts,
    Deadlines,
    DisconnectReason,
    Envelope,
    Limits,
    MailRefused,
    MailSent,
    Report,
    TlsPolicy,
    Verdict,
)

from .peers import PATIENCE, Line, Peer, server_context, trusting_context
from .scenarios import DRIVERS, Driver, call

LINE = b"All work and no play makes Jack a dull boy.".ljust(62) + b"\r\n"
#: More than one range, and more than a socket holds; no piece of it is like another.
LARGE = b"Subject: a large one\r\n\r\n" + b"".join(b"%7d " % number + LINE for number in range(160_000))
#: One range, which goes as one chunk.
ONE_CHUNK = LARGE[: 7 * 2**20 - 2] + b"\r\n"
HEAD = b"not a part of the message\r\n"


def envelope(size: int = len(LARGE), **facts: Any) -> Envelope:
    known: dict[str, Any] = {"size": size, "eight_bit": False, "repeatable": True, "canonical": True} | facts
    return Envelope("a@a.example", ("b@b.example",), body=BodyFacts(**known))


def takes_chunks(line: Line) -> None:
    """A peer that takes chunks, and keeps what they make together."""
    serve_chunks(line)


def serve_chunks(line: Line, *, greet: bool = True) -> None:
    """Serve to the end of the session; each message in chunks is one body."""
    said = line.serve("BDAT", greet=greet, extensions=("PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME"))
    body = b""
    while said.startswith(b"BDAT"):
        _, octets, *last = said.split()
        body += line.exactly(int(octets))
        line.say("250 taken")
        if last:
            line.bodies.append(body)
            body = b""
        said = line.serve("BDAT", greet=False)


def takes_data(line: Line) -> None:
    line.serve()


def within_tls(line: Line) -> None:
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go on")
    assert line.tls(server_context())
    serve_chunks(line, greet=False)


def deliver(driver: Driver, peer: Peer, *sources: Any, facts: Envelope | None = None, **options: Any) -> list[Report]:
    async def story() -> list[Report]:
        session = await call(driver.module.connect, "127.0.0.1", peer.port, **{"tls": TlsPolicy.NEVER, **options})
        reports = [await call(session.deliver, facts or envelope(), source) for source in sources]
        await call(session.quit)
        return reports

    found: list[Report] = driver.run(story())
    return found


def error_of(driver: Driver, peer: Peer, path: Path) -> str:
    """Deliver a file that cannot be read to its end; the peer, which waits for more, has no last words."""

    async def story() -> Report:
        limits = Limits(deadlines=Deadlines(last_words=0.1))
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER, limits=limits)
        report: Report = await call(session.deliver, envelope(path.stat().st_size), path)
        return report

    report = driver.run(story())
    assert isinstance(report, MailRefused)
    (outcome,) = report.outcomes
    assert outcome.verdict is Verdict.LATER
    return str(outcome.error)


async def each(reports: Any) -> AsyncIterator[Report]:
    """What ``send_many`` of any driver gives."""
    if hasattr(reports, "__aiter__"):
        async for report in reports:
            yield report
    else:
        for report in reports:
            yield report


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def sent_by_the_system(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many octets each call of ``sendfile`` sent."""
    sent: list[int] = []
    system = os.sendfile

    def sendfile(*args: Any) -> int:
        count = system(*args)
        sent.append(count)
        return count

    monkeypatch.setattr(os, "sendfile", sendfile)
    return sent


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("script", [takes_chunks, takes_data], ids=["BDAT", "DATA"])
def test_the_system_sends_a_canonical_file(
    driver: Driver, script: Callable[[Line], None], large: Path, sent_by_the_system: list[int]
) -> None:
    with Peer(script) as peer:
        (report,) = deliver(driver, peer, large)
    assert isinstance(report, MailSent)
    (body,) = peer.lines[0].bodies
    assert body.removesuffix(b".\r\n" if script is takes_data else b"") == LARGE
    assert sum(sent_by_the_system) == len(LARGE)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_the_system_sends_a_binary_file_whatever_its_end(
    driver: Driver, large: Path, sent_by_the_system: list[int]
) -> None:
    binary = LARGE[:-1]
    large.write_bytes(binary)
    with Peer(takes_chunks) as peer:
        (report,) = deliver(driver, peer, large, facts=envelope(len(binary), binary=True))
    assert isinstance(report, MailSent)
    assert peer.lines[0].bodies == [binary]
    assert sum(sent_by_the_system) == len(binary)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_within_tls_it_is_read_and_encrypted(driver: Driver, large: Path, sent_by_the_system: list[int]) -> None:
    with Peer(within_tls) as peer:
        options: dict[str, Any] = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context()}
        (report,) = deliver(driver, peer, large, **options)
    assert isinstance(report, MailSent)
    assert peer.lines[0].bodies == [LARGE]
    assert not sent_by_the_system


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_what_is_not_declared_canonical_is_read(driver: Driver, large: Path, sent_by_the_system: list[int]) -> None:
    with Peer(takes_chunks) as peer:
        deliver(driver, peer, large, facts=envelope(canonical=False))
    assert peer.lines[0].bodies == [LARGE]
    assert not sent_by_the_system


def unread(path: Path) -> BinaryIO:
    return path.open("rb")


def unbuffered(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)


def in_the_middle(path: Path) -> BinaryIO:
    path.write_bytes(HEAD + LARGE)
    file = path.open("rb")
    assert file.read(len(HEAD)) == HEAD
    return file


def compressed(path: Path) -> gzip.GzipFile:
    path.write_bytes(gzip.compress(LARGE, 1))
    return gzip.open(path)


def wrapped(path: Path) -> BinaryIO:
    path.write_bytes(gzip.compress(LARGE, 1))
    return io.BufferedReader(gzip.GzipFile(path))


def in_memory(path: Path) -> BinaryIO:
    return io.BytesIO(LARGE)


def from_a_pipe(path: Path) -> BinaryIO:
    reading, writing = os.pipe()
    os.write(writing, LARGE[:60_000])
    os.close(writing)
    return os.fdopen(reading, "rb")


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("make", [unread, unbuffered, in_the_middle], ids=lambda make: make.__name__)
def test_an_open_file_from_where_it_stands(
    driver: Driver, make: Callable[[Path], BinaryIO], large: Path, sent_by_the_system: list[int]
) -> None:
    with make(large) as file, Peer(takes_chunks) as peer:
        deliver(driver, peer, file, file)
    # Each time from where it stood when it was handed in: the second time that is where it stood the first time.
    assert peer.lines[0].bodies == [LARGE, LARGE]
    assert sum(sent_by_the_system) == 2 * len(LARGE)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("make", [compressed, wrapped, in_memory, from_a_pipe], ids=lambda make: make.__name__)
def test_what_is_not_on_the_disk_as_it_is_read_is_read(
    driver: Driver, make: Callable[[Path], BinaryIO], large: Path, sent_by_the_system: list[int]
) -> None:
    whole = LARGE[:60_000] if make is from_a_pipe else LARGE
    with make(large) as file, Peer(takes_chunks) as peer:
        deliver(driver, peer, file, facts=envelope(len(whole), repeatable=file.seekable()))
    assert peer.lines[0].bodies == [whole]
    assert not sent_by_the_system


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_an_empty_file_is_an_empty_message(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with Peer(takes_chunks) as peer:
        (report,) = deliver(driver, peer, tmp_path / "empty", facts=envelope(0))
    assert isinstance(report, MailSent)
    assert peer.lines[0].bodies == [b""]


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_system_that_cannot_send_from_a_file_has_it_read(
    driver: Driver, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> int:
        raise OSError(errno.EINVAL, "not from here")

    monkeypatch.setattr(os, "sendfile", cannot)
    with Peer(takes_chunks) as peer:
        (report,) = deliver(driver, peer, large)
    assert isinstance(report, MailSent)
    assert peer.lines[0].bodies == [LARGE]


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("cannot", [False, True], ids=["sent by the system", "read"])
def test_a_file_that_becomes_shorter_breaks_the_session(
    driver: Driver, cannot: bool, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cuts_it_short(line: Line) -> None:
        line.serve("BDAT", extensions=("PIPELINING", "CHUNKING"))
        os.truncate(large, 5_000_000)
        line.until_closed()

    def unable(*_: Any) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    if cannot:
        monkeypatch.setattr(os, "sendfile", unable)

    with Peer(cuts_it_short) as peer:
        assert "became shorter" in error_of(driver, peer, large)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_refused_chunk_is_brought_to_its_end_and_the_session_goes_on(driver: Driver, large: Path) -> None:
    """RFC 3030 §2: who refuses a chunk takes its octets all the same."""

    def refuses_the_first(line: Line) -> None:
        said = line.serve("BDAT", extensions=("PIPELINING", "CHUNKING"))
        line.say("552 5.3.4 too large for me")
        line.exactly(int(said.split()[1]))
        while (said := line.line()).startswith(b"BDAT"):
            line.exactly(int(said.split()[1]))
            line.say("503 5.5.1 the message is refused")
        assert said == b"RSET"
        line.say("250 reset")
        serve_chunks(line, greet=False)

    with Peer(refuses_the_first) as peer:
        refused, taken = deliver(driver, peer, large, large)
    assert isinstance(refused, MailRefused)
    assert refused.outcomes[0].enhanced == "5.3.4"
    assert isinstance(taken, MailSent)
    assert peer.lines[0].bodies[-1] == LARGE


def refuses_the_only_chunk(line: Line) -> int:
    said = line.serve("BDAT", extensions=("PIPELINING", "CHUNKING"))
    assert said.endswith(b" LAST")
    line.say("552 5.3.4 too large for me")
    return int(said.split()[1])


def takes_the_rest(line: Line) -> None:
    """Two messages of the same octets, of which the first is refused."""
    line.bodies.append(line.exactly(refuses_the_only_chunk(line)))
    line.done.set()
    serve_chunks(line, greet=False)


def hangs_up(line: Line) -> None:
    refuses_the_only_chunk(line)
    line.reset()


def stalls(line: Line) -> None:
    refuses_the_only_chunk(line)
    line.stall()


def descriptors_of(path: Path) -> int:
    """How many descriptors of a file are open in this process, but for those that only garbage holds."""
    gc.collect()
    return sum(os.path.samestat(path.stat(), status) for status in open_files())


def open_files() -> Iterator[os.stat_result]:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield os.fstat(int(number))


@pytest.fixture
def one_chunk(tmp_path: Path) -> Path:
    path = tmp_path / "one chunk"
    path.write_bytes(ONE_CHUNK)
    return path


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("octets", [len(ONE_CHUNK), 250_000], ids=["many blocks", "one block"])
def test_the_rest_of_a_refused_last_chunk_is_out_before_the_session_rests(
    driver: Driver, octets: int, one_chunk: Path
) -> None:
    body = ONE_CHUNK[: octets - 2] + b"\r\n"
    one_chunk.write_bytes(body)
    facts = envelope(octets)

    async def story() -> tuple[Report, Report]:
        sock = socket.create_connection(("127.0.0.1", peer.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        session = await call(driver.module.open_session, sock, tls=TlsPolicy.NEVER)
        refused = await call(session.deliver, facts, one_chunk)
        assert peer.done.wait(PATIENCE)
        taken = await call(session.deliver, facts, one_chunk)
        assert not descriptors_of(one_chunk)
        await call(session.quit)
        return refused, taken

    with Peer(takes_the_rest, small_buffers=octets < len(ONE_CHUNK)) as peer:
        refused, taken = driver.run(story())
    assert isinstance(refused, MailRefused)
    assert refused.outcomes[0].enhanced == "5.3.4"
    assert isinstance(taken, MailSent)
    assert peer.lines[0].bodies == [body] * 2


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_file_may_be_closed_before_the_rest_of_its_refused_last_chunk_is_out(driver: Driver, one_chunk: Path) -> None:
    facts = envelope(len(ONE_CHUNK))

    async def story() -> list[Report]:
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER)
        file = one_chunk.open("rb")
        reports: list[Report] = []
        async for report in each(session.send_many([(facts, file), (facts, one_chunk)])):
            file.close()
            reports.append(report)
        assert not descriptors_of(one_chunk)
        await call(session.quit)
        return reports

    with Peer(takes_the_rest) as peer:
        refused, taken = driver.run(story())
    assert isinstance(refused, MailRefused)
    assert isinstance(taken, MailSent)
    assert peer.lines[0].bodies == [ONE_CHUNK, ONE_CHUNK]


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("script", [hangs_up, stalls], ids=["hangs up", "stalls"])
def test_a_peer_that_takes_no_more_of_a_refused_last_chunk_ends_the_session(
    driver: Driver, script: Callable[[Line], None], one_chunk: Path
) -> None:
    async def story() -> tuple[Any, Report]:
        limits = Limits(deadlines=Deadlines(data_block=0.2)) if script is stalls else DEFAULT_LIMITS
        session = await call(driver.module.connect, "127.0.0.1", peer.port, tls=TlsPolicy.NEVER, limits=limits)
        return session, await call(session.deliver, envelope(len(ONE_CHUNK)), one_chunk)

    with Peer(script) as peer:
        session, report = driver.run(story())
    assert session.end.reason is (DisconnectReason.LOST if script is hangs_up else DisconnectReason.TIMEOUT)
    assert not descriptors_of(one_chunk)
    assert isinstance(report, MailRefused)
    assert report.outcomes[0].enhanced == "5.3.4"


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("script", [takes_chunks, takes_data], ids=["BDAT", "DATA"])
def test_nothing_is_written_behind_octets_that_cannot_be_read(
    driver: Driver, script: Callable[[Line], None], one_chunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = os.sendfile

    def sendfile(sock: int, file: int, offset: int, count: int) -> int:
        if offset <= 5_000_000 < offset + count:
            raise OSError(errno.EIO, "a bad place on the disk")
        return system(sock, file, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    with Peer(script) as peer:
        assert "a bad place on the disk" in error_of(driver, peer, one_chunk)
    assert not peer.lines[0].bodies


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_file_that_cannot_be_kept_open_breaks_the_session(
    driver: Driver, one_chunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(_: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "dup", dup)
    with Peer(takes_chunks) as peer:
        assert "too many open files" in error_of(driver, peer, one_chunk)
