"""Scripted peers do what a script says, and fail where the client does not do its part.

What lives here: :mod:`smtpcore.testing.peer` with plain sockets for clients. What does not: what is tested with it.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from smtpcore.testing.certificates import client_certificate, server_context
from smtpcore.testing.peer import Line, Peer


def test_a_line_one_thing_at_a_time() -> None:
    def script(line: Line) -> None:
        line.lag = 0.001
        line.say("220 hello", "and more")
        line.await_octet()
        assert line.octets(3) == b"one"
        line.done.set()
        assert line.line() == b"two"
        line.expect("THREE")

    with Peer(script) as peer, socket.create_connection(("127.0.0.1", peer.port)) as client:
        assert client.recv(19, socket.MSG_WAITALL) == b"220 hello\r\nand more"
        client.sendall(b"one")
        assert peer.done.wait(10)
        client.sendall(b"two\r\nthree\r\n")
    assert peer.lines[0].commands == [b"two", b"three"]
    assert peer.lines[0].saw_close


def test_a_client_that_says_something_else() -> None:
    with pytest.raises(AssertionError, match="expected 'QUIT', got b'NOOP'"):  # noqa: PT012, SIM117  # the block as a whole raises
        with Peer(lambda line: line.expect("QUIT")) as peer:
            with socket.create_connection(("127.0.0.1", peer.port)) as client:
                client.sendall(b"NOOP\r\n")


def test_a_client_that_fails_when_the_peer_has_left_it() -> None:
    with pytest.raises(ConnectionError) as caught:  # noqa: PT012, SIM117  # the block as a whole raises
        with Peer(lambda line: line.expect("QUIT")) as peer:
            with socket.create_connection(("127.0.0.1", peer.port)) as client:
                client.sendall(b"NOOP\r\n")
                assert client.recv(1) == b""
                raise ConnectionError("the peer has gone")
    (note,) = caught.value.__notes__
    assert note == "The peer ended before, for its script expected something else: expected 'QUIT', got b'NOOP'"


def test_a_client_that_resets() -> None:
    with Peer(Line.until_closed) as peer:
        client = Line(socket.create_connection(("127.0.0.1", peer.port)))
        client.reset()
    assert peer.lines[0].saw_close


@pytest.mark.parametrize("closes", [False, True])
def test_whether_a_client_closes_in_time(closes: bool) -> None:
    seen: list[bool] = []

    def script(line: Line) -> None:
        seen.append(line.closes_within(10 if closes else 0.01))
        line.done.set()

    with Peer(script) as peer:
        client = socket.create_connection(("127.0.0.1", peer.port))
        if closes:
            client.close()
        assert peer.done.wait(20)
        client.close()
    assert seen == [closes]


def test_on_a_unix_socket_with_two_scripts(tmp_path: Path) -> None:
    with Peer(Line.await_octet, Line.until_closed, small_buffers=True, path=str(tmp_path / "socket")) as peer:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "socket"))
                client.sendall(b"x")
    assert len(peer.lines) == 2
    assert peer.port == 0


def test_a_line_without_a_peer() -> None:
    ours, theirs = socket.socketpair()
    line = Line(ours)
    theirs.close()
    line.until_closed()
    assert line.saw_close
    assert not line.gone()
    line.close()


def test_a_test_that_fails_first_does_not_wait_for_the_peer() -> None:
    with pytest.raises(ZeroDivisionError), Peer(Line.until_closed):
        raise ZeroDivisionError


def test_certificates_of_and_for_clients() -> None:
    assert server_context("asks for a certificate").verify_mode.name == "CERT_REQUIRED"
    ours, strangers = client_certificate(), client_certificate(trusted=False)
    assert ours.cert_chain_pems[0].bytes() != strangers.cert_chain_pems[0].bytes()
