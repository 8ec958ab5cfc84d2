"""The race of addresses: which is tried when, and what becomes of it.

What lives here: the order and the schedule, with a clock that the test sets. What does not: waiting, which is each
driver's.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import ConnectFailed, LocalProtocolError
from smtpcore.drivers._connecting.race import Address, Dialling, Way, check_socket, in_order, prepare, source_addresses

from .peers import silent_port

STREAM = (socket.SOCK_STREAM, socket.IPPROTO_TCP)
WAY = Way("many.example", 25)


def found(*addresses: str) -> list[tuple[Any, ...]]:
    """What ``getaddrinfo`` says of these addresses."""
    return [
        (socket.AF_INET6, *STREAM, "", (address, 25, 0, 0))
        if ":" in address
        else (socket.AF_INET, *STREAM, "", (address, 25))
        for address in addresses
    ]


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        ([], []),
        (["192.0.2.1"], ["192.0.2.1"]),
        (["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"], "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"], "192.0.2.1 2001:db8::1 192.0.2.2 192.0.2.3"),
        (["192.0.2.1", "192.0.2.1", "2001:db8::1", "192.0.2.1"], "192.0.2.1 2001:db8::1"),
    ],
)
def test_the_order_of_addresses(addresses: list[str], order: list[str] | str) -> None:
    expected = order.split() if isinstance(order, str) else order
    assert [str(address) for address in in_order(found(*addresses))] == expected


@given(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"])))
def test_no_address_is_lost_or_comes_twice(addresses: list[str]) -> None:
    order = [str(address) for address in in_order(found(*addresses))]
    assert sorted(order) == sorted(set(addresses))
    assert order[:1] == addresses[:1]
    # Within a family the system's order stands, and no family waits for more than one of the other.
    for version_6 in (True, False):
        assert [a for a in order if (":" in a) is version_6] == list(
            dict.fromkeys(a for a in addresses if (":" in a) is version_6)
        )
    if len({":" in address for address in order}) == 2:
        assert (":" in order[0]) != (":" in order[1])


# --- the schedule --------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[Address]:
    with silent_port() as port:
        yield Address(socket.AF_INET, *STREAM, ("127.0.0.1", port))


@pytest.fixture
def closed() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return Address(socket.AF_INET, *STREAM, probe.getsockname())


@pytest.fixture
def listening() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(socket.AF_INET, *STREAM, listener.getsockname())


def settle(dialling: Dialling, now: float) -> socket.socket | None:
    """Ask until what the system can decide by itself is decided."""
    for _ in range(100):
        if (sock := dialling.next(now)) is not None:
            return sock
    return None


def test_attempts_begin_a_quarter_of_a_second_apart(silent: Address) -> None:
    with contextlib.closing(Dialling(WAY, [silent] * 3, 30.0, 100.0)) as dialling:
        assert dialling.next(100.0) is None
        assert len(dialling.pending) == 1
        assert dialling.wake_at == 100.25
        assert dialling.next(100.2) is None
        assert len(dialling.pending) == 1
        assert dialling.next(100.25) is None
        assert len(dialling.pending) == 2
        assert dialling.wake_at == 100.5
        dialling.next(100.5)
        assert len(dialling.pending) == 3
        # None waits any more: the next thing to happen is that the first has had its time.
        assert dialling.wake_at == 130.0


def test_a_failure_lets_the_next_one_begin_at_once(closed: Address, silent: Address, listening: Address) -> None:
    dialling = Dialling(WAY, [closed, silent, listening], 30.0, 100.0)
    assert settle(dialling, 100.0) is None
    assert len(dialling.pending) == 1
    loser = dialling.pending[0]
    won = settle(dialling, 100.25)
    assert won is not None
    with won:
        assert won.getpeername() == listening.address
    assert loser.fileno() == -1
    assert dialling.pending == []


def test_every_address_has_its_time(silent: Address) -> None:
    dialling = Dialling(WAY, [silent, silent], 30.0, 0.0)
    dialling.next(0.0)
    dialling.next(0.25)
    assert dialling.wake_at == 30.0
    assert dialling.next(30.0) is None
    assert len(dialling.pending) == 1
    assert dialling.wake_at == 30.25
    with pytest.raises(ConnectFailed) as caught:
        dialling.next(30.25)
    assert str(caught.value) == "cannot connect to many.example:25: 127.0.0.1: timed out; 127.0.0.1: timed out"
    assert dialling.pending == []


def fail_all(addresses: list[Address], seconds: float) -> tuple[float, str]:
    """When a host was given up, and with what words."""
    dialling = Dialling(WAY, addresses, seconds, 0.0)
    now = 0.0
    while True:
        try:
            assert dialling.next(now) is None
        except ConnectFailed as failed:
            return now, str(failed)
        assert dialling.wake_at > now
        now = dialling.wake_at


def test_many_dead_addresses_have_a_bound(silent: Address) -> None:
    """Twenty of them cost one deadline and the delays between, and no number of them more than two deadlines."""
    seconds, words = fail_all([silent] * 20, 30.0)
    assert seconds == 19 * 0.25 + 30.0
    assert words.count("127.0.0.1: timed out") == 20
    seconds, words = fail_all([silent] * 30, 3.0)
    assert seconds == 6.0
    assert words.count("127.0.0.1: timed out") == 24
    assert words.count("127.0.0.1: not tried, for the time was up") == 6


def test_given_up(silent: Address) -> None:
    dialling = Dialling(WAY, [silent, silent], 30.0, 0.0)
    dialling.next(0.0)
    dialling.next(0.25)
    socks = dialling.pending
    dialling.close()
    assert [sock.fileno() for sock in socks] == [-1, -1]


def test_no_address() -> None:
    with pytest.raises(ConnectFailed, match=r"many\.example:25: the name has no address"):
        Dialling(WAY, [], 30.0, 0.0).next(0.0)


# --- from where ----------------------------------------------------------------------------------------------------


def test_the_source_address(listening: Address) -> None:
    sock = settle(Dialling(WAY, [listening], 30.0, 0.0, ["127.0.0.3", "::1"]), 0.0)
    assert sock is not None
    with sock:
        assert sock.getsockname()[0] == "127.0.0.3"


def test_a_source_address_of_the_other_family(listening: Address) -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1: no source address of its family was given"):
        settle(Dialling(WAY, [listening], 30.0, 0.0, ["::1"]), 0.0)


def test_a_source_address_that_is_not_ours(listening: Address) -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1: Cannot assign requested address"):
        settle(Dialling(WAY, [listening], 30.0, 0.0, ["192.0.2.1"]), 0.0)


def test_source_addresses() -> None:
    assert source_addresses("127.0.0.1") == ("127.0.0.1",)
    assert source_addresses(["127.0.0.1", "::1"]) == ("127.0.0.1", "::1")
    for wrong, words in (
        ("localhost", "must be an IP address"),
        (["127.0.0.1", "127.0.0.2"], "at most one source address of each family"),
        ("fe80::1%eth0", "zone"),
    ):
        with pytest.raises(LocalProtocolError, match=words):
            source_addresses(wrong)


# --- sockets that others made --------------------------------------------------------------------------------------


def test_what_is_no_socket() -> None:
    for wrong in (None, "socket", object()):
        with pytest.raises(LocalProtocolError, match="gave no connected socket"):
            check_socket(wrong)


def test_what_a_connection_is_called() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as sock:
            ends = prepare(sock, "peer.example")
            assert ends.local_address == "127.0.0.1"
            assert ends.peer == f"peer.example (127.0.0.1 port {port})"
            assert prepare(sock, None).peer == f"127.0.0.1 port {port}"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    one, other = socket.socketpair()
    with one, other:
        assert prepare(one, None).peer == "a socket"
        assert prepare(one, "peer.example").peer == "peer.example"
        assert prepare(one, None).local_address is None
    with socket.socket() as unconnected:
        assert prepare(unconnected, "peer.example").peer == "peer.example"


def test_the_words_for_a_way() -> None:
    assert str(Way("mx.example", 25)) == "mx.example:25"
    assert str(Way("2001:db8::1", 25)) == "[2001:db8::1]:25"
    assert str(Way(None, path=b"/run/smtp")) == "/run/smtp"
    assert re.fullmatch(r"/run/x", str(Address.of_path("/run/x")))
