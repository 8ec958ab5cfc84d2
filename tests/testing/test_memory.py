"""The transport in memory has the manners of a TCP connection, and carries sessions.

What lives here: :mod:`smtpcore.testing.memory`. What does not: what is tested with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from smtpcore import Client, Envelope, MailSent, NeedBody
from smtpcore.testing import PureDriver, ReceivedMail, ScriptedServer
from smtpcore.testing.memory import Attendant, End, pair


def test_octets_go_both_ways_in_any_pieces() -> None:
    one, other = pair()
    assert one.send(b"hello") == 5
    assert other.send(b"there") == 5
    assert other.recv(2) == b"he"
    assert other.recv(100) == b"llo"
    assert one.recv(100) == b"there"
    with pytest.raises(BlockingIOError):
        one.recv(1)
    assert not one.readable


def test_who_does_not_read_is_not_written_to() -> None:
    one, other = pair(4)
    assert one.writable
    assert one.send(b"hello") == 4
    full = not one.writable
    assert full
    with pytest.raises(BlockingIOError):
        one.send(b"o")
    assert one.send(b"") == 0
    assert other.recv(1) == b"h"
    assert one.writable
    assert one.send(b"o there") == 1
    assert other.recv(100) == b"ello"


def test_each_end_is_told_of_what_it_waits_for() -> None:
    one, other = pair(1)
    told: list[str] = []
    one.on_change, other.on_change = lambda: told.append("one"), lambda: told.append("other")
    one.send(b"x")
    other.recv(1)
    other.finish_writing()
    one.close()
    assert told == ["other", "one", "one", "other"]


def test_half_closed() -> None:
    one, other = pair()
    one.send(b"last")
    one.finish_writing()
    with pytest.raises(BrokenPipeError):
        one.send(b"more")
    assert one.writable
    other.send(b"still here")
    assert one.recv(100) == b"still here"
    assert other.readable
    assert other.recv(100) == b"last"
    assert other.recv(100) == b""
    assert other.recv(100) == b""


def test_closed() -> None:
    one, other = pair()
    one.send(b"bye")
    one.close()
    one.close()
    assert one.closed
    assert not other.closed
    assert other.recv(100) == b"bye"
    assert other.recv(100) == b""
    for use in (lambda: one.recv(1), lambda: one.send(b"x"), one.finish_writing):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()


def test_writing_to_who_has_closed_is_answered_by_a_reset() -> None:
    one, other = pair()
    one.close()
    assert other.send(b"anybody there?") == 14
    with pytest.raises(ConnectionResetError):
        other.send(b"hello?")
    with pytest.raises(BrokenPipeError):
        other.send(b"hello?")


@pytest.mark.parametrize("unread", [False, True])
def test_what_came_before_a_reset_is_read(unread: bool) -> None:
    one, other = pair(10)
    one.send(b"552 no")
    other.send(b"0123456789")
    full = not other.writable
    assert full
    if unread:
        one.close()
    else:
        one.reset()
        one.reset()
    assert one.closed
    assert other.writable
    assert other.recv(100) == b"552 no"
    with pytest.raises(ConnectionResetError):
        other.recv(100)
    assert other.recv(100) == b""


def exchange(driver: PureDriver, end: End, attendant: Attendant) -> None:
    """Drive a client at one end until nothing happens any more."""
    to_write = driver.run()
    while attendant.turn() or to_write or end.readable:
        with contextlib.suppress(BlockingIOError):
            to_write = to_write[end.send(to_write) :]
        with contextlib.suppress(BlockingIOError):
            octets = end.recv(3)
            if not octets:
                driver.client.receive_eof()
                break
            to_write += driver.hear(octets)
    driver.run()


@pytest.mark.parametrize("capacity", [1, 7, 65_536])
def test_a_session_with_a_scripted_server(capacity: int) -> None:
    ours, theirs = pair(capacity)
    server = ScriptedServer()
    client = Client("client.example")
    driver = PureDriver(client, [(Envelope("a@a.example", ("b@b.example",)), b"x" * 1000)], piece=100)
    attendant = Attendant(server, theirs)
    exchange(driver, ours, attendant)
    client.quit()
    exchange(driver, ours, attendant)
    assert [type(report) for report in driver.reports] == [MailSent]
    assert server.mails == [ReceivedMail("a@a.example", ("b@b.example",), b"x" * 1000 + b"\r\n")]
    assert theirs.closed
    assert not attendant.turn()


@pytest.mark.parametrize("leave", [End.close, End.reset])
def test_a_server_whose_client_is_gone_closes(leave: Callable[[End], None]) -> None:
    ours, theirs = pair()
    attendant = Attendant(ScriptedServer(), theirs)
    assert attendant.turn()
    assert not attendant.turn()
    ours.recv(100)
    leave(ours)
    assert attendant.turn()
    assert theirs.closed
    assert not attendant.turn()


def test_a_driver_that_stops_at_the_body_reads_no_more() -> None:
    """Back-pressure from end to end: a client that is given no body asks for one and says nothing."""
    ours, theirs = pair()
    driver = PureDriver(Client("client.example"), [(Envelope("a@a.example", ("b@b.example",)), None)])
    exchange(driver, ours, Attendant(ScriptedServer(), theirs))
    assert isinstance(driver.last, NeedBody)
