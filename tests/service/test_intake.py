"""Taking in a body: whatever octets come in whatever chunks, what is kept is canonical, measured, and whole or absent.

What lives here: one body on its way to memory or to a file. What does not: mails and their transaction
(``test_spool``).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import random
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpcore.drivers._spool.intake import INLINE_OCTETS, Intake, IntakeFailed, sync_folder

LARGE = b"x" * (2 * INLINE_OCTETS)


class Expected(NamedTuple):
    octets: bytes
    size: int
    eight_bit: bool
    leading_dots: bool
    longest_line: int


def oracle(body: bytes) -> Expected:
    """What is to become of a body, one octet after the other."""
    out = bytearray()
    line = longest = 0
    dots = eight_bit = after_cr = False
    for octet in body:
        if octet == 0x0A and after_cr:
            after_cr = False
            continue
        after_cr = octet == 0x0D
        if octet in {0x0D, 0x0A}:
            out += b"\r\n"
            line = 0
            continue
        dots |= line == 0 and octet == 0x2E
        eight_bit |= octet > 0x7F
        out.append(octet)
        line += 1
        longest = max(longest, line)
    if line:
        out += b"\r\n"
    return Expected(bytes(out), len(out), eight_bit, dots, longest)


def found(intake: Intake, folder: Path) -> Expected:
    octets = intake.octets
    if octets is None:
        assert intake.file_name is not None
        octets = (folder / intake.file_name).read_bytes()
    return Expected(octets, intake.size, intake.eight_bit, intake.leading_dots, intake.longest_line)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


# --- octets and measures ----------------------------------------------------------------------------------------------

PIECES = st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"..", b"\x00", b"\x80", b"\xff", b"word", b""])


@given(chunks=st.lists(st.lists(PIECES, max_size=4).map(b"".join), max_size=12), inline=st.integers(0, 24))
@example(chunks=[], inline=0)
@example(chunks=[b"\r", b"\n"], inline=0)
@example(chunks=[b"\r", b"", b"\n."], inline=2)
@example(chunks=[b"a\r", b"\n.", b"b"], inline=3)
@example(chunks=[b"\n\r", b"\r\n\n"], inline=24)
def test_any_octets_in_any_chunks_become_what_the_oracle_says(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], inline: int
) -> None:
    folder = tmp_path_factory.mktemp("bodies")
    expected = oracle(b"".join(chunks))
    with mock.patch("smtpcore.drivers._spool.intake.INLINE_OCTETS", inline):
        intake = Intake(folder).read(chunks)
    try:
        assert found(intake, folder) == expected
        assert (intake.file_name is not None) == (expected.size > inline)
        assert names(folder) == ([intake.file_name] if intake.file_name else [])
    finally:
        intake.close()


@given(body=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_where_a_body_is_cut_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, cuts: list[int]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    edges = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(edges)]
    assert found(Intake(folder).read(chunks), folder) == oracle(body)


@pytest.mark.parametrize("seed", range(6))
def test_a_body_far_beyond_memory_is_canonical_in_its_file(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    chunks: list[bytes] = []
    while sum(map(len, chunks)) < 3 * INLINE_OCTETS:
        size = chance.choice((0, 1, 2, 3, 100, 5000, 40_000))
        weights = (1, 1, 1, 1, chance.choice((1, 30, 3000)))
        chunks.append(bytes(chance.choices(b"\r\n.\xe9a", weights, k=size)))
    intake = Intake(tmp_path).read(chunks)
    intake.close()
    assert intake.file_name is not None
    assert found(intake, tmp_path) == oracle(b"".join(chunks))


# --- memory or file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "in_file"),
    [
        (b"", False),
        (b"x" * (INLINE_OCTETS - 2) + b"\r\n", False),
        # The line end that is added counts, and so do those that become two octets.
        (b"x" * (INLINE_OCTETS - 2), False),
        (b"x" * (INLINE_OCTETS - 1), True),
        (b"x" * (INLINE_OCTETS - 1) + b"\r\n", True),
        (b"\n" * (INLINE_OCTETS // 2), False),
        (b"\n" * (INLINE_OCTETS // 2 + 1), True),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 4096])
def test_what_counts_is_the_size_of_the_canonical_body(tmp_path: Path, body: bytes, in_file: bool, chunk: int) -> None:
    intake = Intake(tmp_path).read(body[at : at + chunk] for at in range(0, len(body), chunk))
    intake.close()
    assert (intake.octets is None) == (intake.file_name is not None) == bool(names(tmp_path)) == in_file
    assert found(intake, tmp_path).octets == oracle(body).octets


def test_a_file_has_its_name_when_it_is_whole_and_its_lock_until_it_is_let_go(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def chunks() -> Iterator[bytes]:
        yield LARGE
        seen.extend((name, is_locked(tmp_path / name)) for name in names(tmp_path))
        yield LARGE

    intake = Intake(tmp_path).read(chunks())
    ((name, locked),) = seen
    assert name.endswith(".tmp")
    assert locked
    assert names(tmp_path) == [intake.file_name]
    assert intake.file_name == name.removesuffix(".tmp") + ".eml"
    path = tmp_path / intake.file_name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_locked(path)
    intake.close()
    assert not is_locked(path)
    assert path.read_bytes() == LARGE + LARGE + b"\r\n"


def test_a_file_is_safe_before_it_has_its_name_and_its_name_is_safe_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append((kind, [Path(name).suffix for name in names(tmp_path)]))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    Intake(tmp_path).read([LARGE]).close()
    assert steps == [("file", [".tmp"]), ("folder", [".eml"])]


def test_a_file_that_takes_little_at_a_time_is_whole_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, octets: write(descriptor, octets[:1000]))
    body = random.Random(1).randbytes(2 * INLINE_OCTETS)
    intake = Intake(tmp_path).read([body])
    intake.close()
    assert found(intake, tmp_path) == oracle(body)


# --- nothing is left --------------------------------------------------------------------------------------------------


def breaking(error: BaseException, chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from chunks
    raise error


@pytest.mark.parametrize("before", [[], [b"x"], [LARGE], [LARGE, LARGE]])
@pytest.mark.parametrize("error", [ConnectionResetError("gone"), ValueError("odd"), KeyboardInterrupt()])
def test_what_a_source_raises_passes_as_it_is_and_no_file_stays(
    tmp_path: Path, before: list[bytes], error: BaseException
) -> None:
    with pytest.raises(type(error)) as raised:
        Intake(tmp_path).read(breaking(error, before))
    assert raised.value is error
    assert not names(tmp_path)


@pytest.mark.parametrize("failing", ["write", "fsync", "open"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_disk_that_fails_at_any_step_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, call: int
) -> None:
    real, calls = getattr(os, failing), []

    def fails(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fails)
        with pytest.raises(IntakeFailed, match="No space left") as failed:
            Intake(tmp_path).read([LARGE, LARGE])
    assert len(calls) == call
    assert isinstance(failed.value.__cause__, OSError)
    assert failed.value.__cause__.errno == errno.ENOSPC
    assert not names(tmp_path)


def test_a_body_in_memory_needs_no_folder_and_one_in_a_file_says_that_there_is_none(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert Intake(nowhere).read([b"small"]).octets == b"small\r\n"
    with pytest.raises(IntakeFailed, match="No such file"):
        Intake(nowhere).read([LARGE])
    with pytest.raises(FileNotFoundError):
        sync_folder(nowhere)


def test_a_body_can_be_given_up_when_it_is_whole_and_more_than_once(tmp_path: Path) -> None:
    kept, given_up = Intake(tmp_path).read([LARGE]), Intake(tmp_path).read([LARGE])
    given_up.discard()
    assert names(tmp_path) == [kept.file_name]
    given_up.discard()
    given_up.close()
    kept.close()
    kept.close()
    assert names(tmp_path) == [kept.file_name]
