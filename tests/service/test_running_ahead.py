"""A relay whose sessions run ahead of the replies: round trips, and what a session that breaks leaves behind.

What lives here: pipelining across mails, asked for by the options of the sessions. What does not: the dialogue itself
(``tests/core/test_across.py``).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from smtpcore import Pipelining
from smtpcore.drivers.memory import HostMemory
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Attempted, Fate, FateKind

from .relays import PATIENCE, Kind, wait_until

MAILS = 30
TAKEN = b"250 2.0.0 taken\r\n"


class HangUp(Exception):
    """The server closes the connection."""


class Pipelining2920:
    """A server that offers PIPELINING and answers once nothing more lies before it (RFC 2920 §3.2); inside ``with``.

    ``flights`` counts how often it had to wait for the client before it could go on, from the first MAIL on.
    """

    def __init__(self, verdict: Callable[[int], bytes] = lambda number: TAKEN) -> None:
        self._verdict = verdict
        #: Waits until the mail with this number may be answered.
        self.gate: Callable[[int], None] = lambda number: None
        self.flights = 0
        self.connections = 0
        #: Bodies that came to their end, whatever was said to them, and those that were taken.
        self.ended: list[bytes] = []
        self.taken: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pipelining2920:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(30)
                try:
                    self._talk(connection)
                except (HangUp, OSError):
                    continue

    def _talk(self, connection: socket.socket) -> None:
        """One session after the other: a relay is given one at a time here."""
        came, replies, mails, body = b"", b"220 here\r\n", False, False
        while True:
            end = came.find(b"\r\n.\r\n") if body else came.find(b"\r\n")
            if end < 0:
                connection.sendall(replies)
                more = connection.recv(1 << 20)
                if not more:
                    return
                came, replies = came + more, b""
                self.flights += mails
                continue
            if body:
                text, came, body = came[:end], came[end + 5 :], False
                self.ended.append(text)
                self.gate(len(self.ended))
                reply = self._verdict(len(self.ended))
                replies += reply
                if reply.startswith(TAKEN):
                    self.taken.append(text)
                continue
            line, came = came[:end].upper(), came[end + 2 :]
            if line.startswith(b"MAIL"):
                # The flight that brings the first one counts.
                self.flights += not mails
                mails = True
            body = line == b"DATA"
            replies += _answer(line)
            if line == b"QUIT":
                connection.sendall(replies)
                return


def _answer(line: bytes) -> bytes:
    if line.startswith(b"EHLO"):
        return b"250-server.example\r\n250 PIPELINING\r\n"
    return {b"DATA": b"354 go on\r\n", b"HELP": b"214 no help\r\n", b"QUIT": b"221 bye\r\n"}.get(line, b"250 OK\r\n")


def prepared(
    kind: Kind, spool: Spool, server: Pipelining2920, level: Pipelining, notes: list[Fate | Attempted], **settings: Any
) -> Any:
    """A relay with ``MAILS`` mails ahead of it; each body is its number. Its session always has some in store."""

    def gate(number: int) -> None:
        # A session that has not proved itself has nothing in store; what comes after a loss is not counted.
        if number > 1 and server.connections == 1:
            wait_until(lambda: on_their_way(relay) >= min(8, MAILS - number))

    options = {"pipelining": level, "lost_steps": HostMemory()}
    settings = {"sessions_per_next_hop": 1, "rest": 0.1, "options": options, **settings}
    relay = kind.make(spool, server.port, notes=notes, **settings)
    for number in range(MAILS):
        relay.submit(b"Subject: %d" % number, sender="", recipients="r@there.example")
    server.gate = gate
    return relay


def everything() -> list[bytes]:
    return sorted(b"Subject: %d" % number for number in range(MAILS))


def until_empty(relay: Any, spool: Spool) -> None:
    background = relay.start()
    wait_until(lambda: not len(spool))
    relay.stop()
    assert background.ended() is None


def attempts(notes: list[Fate | Attempted]) -> list[Attempted]:
    return [note for note in notes if isinstance(note, Attempted)]


def on_their_way(relay: Any) -> int:
    return sum(destination.on_their_way for destination in relay.destinations)


def flights(kind: Kind, spool: Spool, level: Pipelining) -> int:
    """Round trips for all mails."""
    with Pipelining2920() as server:
        notes: list[Fate | Attempted] = []
        until_empty(prepared(kind, spool, server, level, notes), spool)
        assert sorted(server.taken) == everything()
        assert [note.kind if isinstance(note, Fate) else note for note in notes] == [FateKind.DELIVERED] * MAILS
        assert server.connections == 1
    return server.flights


def test_across_mails_a_mail_costs_one_round_trip(kind: Kind, spool: Spool) -> None:
    # Some more for QUIT, and where the session comes to rest: before it has proved itself, and at the end.
    assert MAILS <= flights(kind, spool, Pipelining.ACROSS) <= MAILS + 10


def test_within_mails_a_mail_costs_two_round_trips(kind: Kind, spool: Spool) -> None:
    assert 2 * MAILS <= flights(kind, spool, Pipelining.WITHIN) <= 2 * MAILS + 1


def test_what_a_lost_session_leaves_is_recorded_mail_by_mail(kind: Kind, spool: Spool) -> None:
    """The mail that was complete is in doubt, the one behind it was tried, and what was not begun costs no attempt."""

    def verdict(number: int) -> bytes:
        if number == 5:
            raise HangUp
        return TAKEN

    notes: list[Fate | Attempted] = []
    with Pipelining2920(verdict) as server:
        until_empty(prepared(kind, spool, server, Pipelining.ACROSS, notes), spool)
    assert sorted(server.taken) == everything()
    doubtful, *others = attempts(notes)
    assert doubtful.in_doubt
    assert doubtful.attempts == 1
    assert [note.in_doubt for note in others] == [False] * len(others)
    assert len(others) <= 1
    assert [note.kind for note in notes if isinstance(note, Fate)] == [FateKind.DELIVERED] * MAILS
    assert server.connections == 2


def test_mails_whose_verdicts_lost_step_are_each_in_doubt(kind: Kind, spool: Spool) -> None:
    """A stray reply shifts the verdicts: what it may have shifted is not believed, and the peer is spoken to within."""
    notes: list[Fate | Attempted] = []
    with Pipelining2920(lambda number: TAKEN * 2 if number == 5 else TAKEN) as server:
        until_empty(prepared(kind, spool, server, Pipelining.ACROSS, notes), spool)
    doubtful = [note for note in attempts(notes) if note.in_doubt]
    assert doubtful
    assert len({note.mail_id for note in doubtful}) == len(doubtful)
    # Whatever the peer took twice was in doubt, and nothing was lost.
    assert set(server.ended) == set(everything())
    assert len(server.ended) == MAILS + len(doubtful)
    assert [note.kind for note in notes if isinstance(note, Fate)] == [FateKind.DELIVERED] * MAILS


@pytest.mark.parametrize("grace", [0.0, 0.1])
def test_stopping_answers_for_all_that_is_under_way(kind: Kind, spool: Spool, grace: float) -> None:
    holding, release = threading.Event(), threading.Event()

    def verdict(number: int) -> bytes:
        if number == 5:
            holding.set()
            release.wait(PATIENCE)
            raise HangUp
        return TAKEN

    notes: list[Fate | Attempted] = []
    with Pipelining2920(verdict) as server:
        relay = prepared(kind, spool, server, Pipelining.ACROSS, notes, grace=grace)
        background = relay.start()
        assert holding.wait(PATIENCE)
        relay.stop()
        assert background.ended() is None
        release.set()
        (doubtful,) = [note for note in attempts(notes) if note.in_doubt]
        known = {note.mail_id for note in notes if isinstance(note, Fate)}
        left = {entry.mail.mail_id: entry for entry in spool.list()}
        assert doubtful.mail_id in left
        assert known | set(left) == set(range(1, MAILS + 1))
        assert not known & set(left)
        tried = {note.mail_id for note in attempts(notes)}
        assert {mail_id: entry.job.attempts for mail_id, entry in left.items()} == {
            mail_id: int(mail_id in tried) for mail_id in left
        }
        assert not any(entry.active for entry in left.values())
