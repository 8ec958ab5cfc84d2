"""The ways to a peer, with each wire driver: racing addresses, source addresses, unix sockets, proxies, certificates.

What lives here: that the session at the end of each way works, and what is said when there is none. What does not: the
schedule of the race, which has tests of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
import trustme

from smtpcore import (
    ConnectFailed,
    Deadlines,
    Limits,
    LocalProtocolError,
    PeerTimeout,
    ServiceRefused,
    TlsFailed,
    TlsPolicy,
)
from smtpcore.drivers.memory import HostMemory
from smtpcore.drivers.tls import TlsAtOnce, client_context

from .peers import (
    Line,
    Peer,
    authority,
    client_certificate,
    server_context,
    silent_port,
    trusting_context,
)
from .proxies import Proxy
from .scenarios import DRIVERS, Driver, call, starttls

pytestmark = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)

STREAM = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


def speaks_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


IPV6 = pytest.mark.skipif(not speaks_ipv6(), reason="this machine has no IPv6 on loopback")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: Any) -> None:
    """Every name has these addresses."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(addresses))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def one_mail(driver: Driver, *where: Any, by: str = "connect", **options: Any) -> Any:
    session = await call(getattr(driver.module, by), *where, **options)
    report = await call(session.send, b"Hello.\r\n", sender="a@x.example", recipients="b@x.example")
    assert report.reply.code == 250
    await call(session.quit)
    return session


async def failure(driver: Driver, *where: Any, by: str = "connect", **options: Any) -> str:
    with pytest.raises(ConnectFailed) as caught:
        await call(getattr(driver.module, by), *where, **options)
    return str(caught.value)


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_host_name_beyond_ascii_is_looked_up_as_its_a_labels(driver: Driver) -> None:
    """These letters are wider than those of ASCII, and mean the same (RFC 3491)."""
    with Peer(lambda line: line.serve()) as peer:
        driver.run(one_mail(driver, "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", peer.port))


def test_a_certificate_for_a_host_name_beyond_ascii(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("xn--bcher-kva.example").configure_cert(context)
    named: list[str | None] = []
    context.sni_callback = lambda _, name, __: named.append(name)

    def script(line: Line) -> None:
        line.serve("STARTTLS", extensions=("STARTTLS",))
        line.say("220 go on")
        assert line.tls(context)
        line.serve(greet=False)

    with Peer(script) as peer:
        resolve_to(monkeypatch, (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)))
        options: dict[str, Any] = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context()}
        session = driver.run(one_mail(driver, "bücher.example", 25, **options))
    assert session.tls.verified
    assert named == ["xn--bcher-kva.example"]


# --- racing --------------------------------------------------------------------------------------------------------


@IPV6
def test_a_silent_address_does_not_keep_the_others(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline for the silent one is far beyond the patience of the peer at the other."""
    driver.run(call(int))
    before = descriptors()
    with silent_port(socket.AF_INET6) as silent, Peer(lambda line: line.serve()) as peer:
        resolve_to(
            monkeypatch,
            (socket.AF_INET6, *STREAM, ("::1", silent, 0, 0)),
            (socket.AF_INET6, *STREAM, ("::1", silent, 0, 0)),
            (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)),
        )
        driver.run(one_mail(driver, "both.example", 25))
    assert descriptors() == before


@IPV6
def test_ipv6(driver: Driver) -> None:
    with Peer(lambda line: line.serve(), family=socket.AF_INET6) as peer:
        driver.run(one_mail(driver, "::1", peer.port))
    assert peer.lines[0].commands[0].endswith(b"[IPv6:::1]") or b"." in peer.lines[0].commands[0]


def test_a_source_address(driver: Driver) -> None:
    seen: list[str] = []

    def script(line: Line) -> None:
        seen.append(line._sock.getpeername()[0])
        line.serve()

    with Peer(script) as peer:
        driver.run(one_mail(driver, "127.0.0.1", peer.port, source_address="127.0.0.2"))
    assert seen == ["127.0.0.2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source_address": "mail.example"}, "must be an IP address"),
        ({"source_address": "127.0.0.1", "connect": print}, "a source address is for TCP connections"),
    ],
)
def test_options_that_contradict_each_other(driver: Driver, options: dict[str, Any], words: str) -> None:
    async def play() -> None:
        with pytest.raises(LocalProtocolError, match=words):
            await call(driver.module.connect, "127.0.0.1", 25, **options)

    driver.run(play())


# --- unix sockets --------------------------------------------------------------------------------------------------


def test_a_unix_socket(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    with Peer(lambda line: line.serve(), path=str(path)) as peer:
        driver.run(one_mail(driver, path, by="connect_unix"))
    assert len(peer.lines[0].bodies) == 1


def test_tls_over_a_unix_socket(driver: Driver, tmp_path: Path) -> None:
    path = str(tmp_path / "smtp")
    options: Any = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context()}
    with Peer(starttls, path=path):
        session = driver.run(one_mail(driver, path, "localhost", by="connect_unix", **options))
    assert session.tls.verified


def test_a_unix_socket_that_is_none(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    for prepared, words in (
        (False, "No such file or directory"),
        (True, "Connection refused"),
    ):
        if prepared:
            path.touch()
        told = driver.run(failure(driver, path, by="connect_unix"))
        assert told == f"cannot connect to {path}: {words}"
    too_long = tmp_path / ("x" * 200)
    assert "path too long" in driver.run(failure(driver, too_long, by="connect_unix"))


def test_options_that_a_unix_socket_has_no_use_for(driver: Driver, tmp_path: Path) -> None:
    async def play() -> None:
        for options in ({"source_address": "127.0.0.1"}, {"connect": print}):
            with pytest.raises(LocalProtocolError):
                await call(driver.module.connect_unix, tmp_path / "smtp", **options)

    driver.run(play())


# --- a connection that somebody else makes -------------------------------------------------------------------------


def made(driver: Driver, make: Callable[..., Any]) -> Callable[..., Any]:
    """``make`` as the driver wants it."""

    async def make_async(*args: Any) -> Any:
        return make(*args)

    return make if driver.name == "blocking" else make_async


def test_a_connect_callable(driver: Driver) -> None:
    asked: list[tuple[str, int, float]] = []

    def make(host: str, port: int, seconds: float) -> socket.socket:
        asked.append((host, port, seconds))
        return socket.create_connection(("127.0.0.1", peer.port))

    options: Any = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context(), "connect": made(driver, make)}
    with Peer(starttls) as peer:
        session = driver.run(
            one_mail(driver, "localhost", 25, limits=Limits(deadlines=Deadlines(connect=7.0)), **options)
        )
    assert asked == [("localhost", 25, 7.0)]
    assert session.tls.verified


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(111, "Connection refused"), "Connection refused"),
        (TimeoutError(), "timed out"),
        (ValueError("the proxy says no"), "the proxy says no"),
    ],
)
def test_a_connect_callable_that_fails(driver: Driver, error: Exception, words: str) -> None:
    def make(*_: object) -> None:
        raise error

    assert driver.run(failure(driver, "x.example", 25, connect=made(driver, make))) == (
        f"cannot connect to x.example:25: {words}"
    )


@pytest.mark.parametrize("host", ["localhost:25", "smtp://localhost", "localhost/", "[::1]", "[127.0.0.1]"])
def test_what_is_more_than_a_host_is_refused_at_once(driver: Driver, host: str) -> None:
    async def connect() -> None:
        await call(driver.module.connect, host, 25)

    with pytest.raises(LocalProtocolError, match="without scheme and brackets; the port is given apart"):
        driver.run(connect())
    # Where the driver makes no connection itself, it knows nothing of what a host is called.
    refused = made(driver, lambda *_: 1 / 0)
    assert "division by zero" in driver.run(failure(driver, host, 25, connect=refused))


def test_a_connect_callable_may_say_it_in_our_words(driver: Driver) -> None:
    own = ConnectFailed("no way")

    def make(*_: object) -> None:
        raise own

    assert driver.run(failure(driver, "x.example", 25, connect=made(driver, make))) == "no way"


def test_a_connect_callable_that_makes_no_socket(driver: Driver) -> None:
    ours, theirs = socket.socketpair()
    wrapped = client_context(verify=False).wrap_socket(ours, do_handshake_on_connect=False)

    async def play() -> None:
        for nothing, words in ((None, "gave no connected socket"), (wrapped, "gave a socket inside TLS")):
            with pytest.raises(LocalProtocolError, match=words):
                await call(driver.module.connect, "x.example", 25, connect=made(driver, lambda *_, made=nothing: made))

    with theirs:
        driver.run(play())
    assert wrapped.fileno() == -1


def test_a_connect_callable_has_its_time(driver: Driver) -> None:
    """The driver waits twice as long as it says, and no longer; a blocking callable is on its honour."""
    if driver.name == "blocking":
        pytest.skip("nobody can interrupt it")

    async def make(*_: object) -> None:
        await (trio.sleep_forever() if driver.name == "trio" else asyncio.Event().wait())

    limits = Limits(deadlines=Deadlines(connect=0.05))
    assert driver.run(failure(driver, "x.example", 25, connect=make, limits=limits)).endswith("25: timed out")


# --- proxies -------------------------------------------------------------------------------------------------------


def by_socks(driver: Driver, proxy_port: int) -> Callable[[str, int, float], Any]:
    """A ``connect`` callable over python-socks."""
    name = {"blocking": "python_socks.sync"}.get(driver.name, f"python_socks.async_.{driver.module_name}")
    module: Any = importlib.import_module(name)
    url = f"socks5://127.0.0.1:{proxy_port}"
    return lambda host, port, seconds: module.Proxy.from_url(url).connect(host, port, timeout=seconds)


def by_http(driver: Driver, proxy_port: int) -> Callable[[str, int, float], Any]:
    """A ``connect`` callable over h11, for the async drivers in a thread.

    python-socks speaks CONNECT too, but drops what comes in one piece with the proxy's answer: the server's greeting.
    """

    def connect(host: str, port: int, seconds: float) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", proxy_port), seconds)
        try:
            proxy = h11.Connection(h11.CLIENT)
            request = h11.Request(method="CONNECT", target=f"{host}:{port}", headers=[("Host", f"{host}:{port}")])
            sock.sendall(proxy.send(request) + proxy.send(h11.EndOfMessage()))
            while (answer := proxy.next_event()) is h11.NEED_DATA:
                proxy.receive_data(sock.recv(1))
            assert isinstance(answer, h11.Response)
            if answer.status_code != 200:
                raise ConnectionError(f"the proxy says {answer.status_code} {answer.reason.decode()}")
        except BaseException:
            sock.close()
            raise
        return sock

    ways: dict[str, Callable[[str, int, float], Any]] = {
        "blocking": connect,
        "asyncio": lambda *address: asyncio.to_thread(connect, *address),
        "trio": lambda *address: trio.to_thread.run_sync(connect, *address),
    }
    return ways[driver.module_name]


PROXIES = {"socks5": by_socks, "http": by_http}


@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy(driver: Driver, kind: str) -> None:
    """The name is looked up behind the proxy, and TLS reaches through it to the host that was named."""
    options: Any = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context(), "tls_server_name": "localhost"}
    with Peer(starttls) as peer, Proxy(peer.port) as proxy:
        connect = PROXIES[kind](driver, proxy.port)
        session = driver.run(one_mail(driver, "mx.behind.example", 25, connect=connect, **options))
    assert session.tls.verified
    assert proxy.asked == [("mx.behind.example", 25)]
    assert len(peer.lines[0].bodies) == 1


@pytest.mark.parametrize(("kind", "words"), [("socks5", "Connection refused"), ("http", "403 Forbidden")])
def test_a_proxy_that_refuses(driver: Driver, kind: str, words: str) -> None:
    with Proxy(0, refuse=True) as proxy:
        connect = PROXIES[kind](driver, proxy.port)
        told = driver.run(failure(driver, "mx.behind.example", 25, connect=connect))
    assert told.startswith("cannot connect to mx.behind.example:25: ")
    assert words in told


# --- certificates --------------------------------------------------------------------------------------------------


def shown(certificate: trustme.LeafCert | None) -> ssl.SSLContext:
    """A context of the caller's own that verifies, and shows a certificate."""
    context = client_context(verify=True)
    authority().configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


@pytest.mark.parametrize("policy", [TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT])
def test_a_client_certificate(driver: Driver, policy: TlsPolicy) -> None:
    subjects: list[Any] = []

    def script(line: Line) -> None:
        secured(line, policy)
        subjects.append(line._sock.getpeercert()["subjectAltName"])  # type: ignore[attr-defined]  # within TLS it is such a socket
        line.serve(greet=policy is TlsPolicy.IMPLICIT)

    with Peer(script) as peer:
        driver.run(one_mail(driver, "localhost", peer.port, tls=policy, tls_context=shown(client_certificate())))
    assert subjects == [(("email", "anna@home.example"),)]


def secured(line: Line, policy: TlsPolicy) -> bool:
    if policy is not TlsPolicy.IMPLICIT:
        line.serve("STARTTLS", extensions=("STARTTLS",))
        line.say("220 go on")
    return line.tls(server_context("asks for a certificate"))


@pytest.mark.parametrize(
    ("certificate", "version", "words"),
    [
        (None, ssl.TLSVersion.TLSv1_3, "the peer wants a client certificate: give a tls_context that has one"),
        (None, ssl.TLSVersion.TLSv1_2, "the peer found no cipher in common, or wants a client certificate"),
        (client_certificate(trusted=False), ssl.TLSVersion.TLSv1_3, "does not trust the issuer of our certificate"),
    ],
)
def test_a_client_certificate_that_is_not_there(
    driver: Driver, certificate: Any, version: ssl.TLSVersion, words: str
) -> None:
    context = shown(certificate)
    context.maximum_version = version

    async def play(port: int) -> None:
        with pytest.raises(TlsFailed, match=words):
            await call(driver.module.connect, "localhost", port, tls=TlsPolicy.REQUIRED, tls_context=context)

    with Peer(lambda line: secured(line, TlsPolicy.REQUIRED)) as peer:
        driver.run(play(peer.port))


# --- TLS that fails where it is a mere wish ------------------------------------------------------------------------


def broken_tls(line: Line) -> None:
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go on")
    line.await_octet()
    line.raw(b"what is this?\r\n")
    line.until_closed()


def in_clear(line: Line) -> None:
    line.serve(extensions=("STARTTLS",))
    assert b"STARTTLS" not in line.commands


def test_a_handshake_that_failed_is_not_tried_again(driver: Driver) -> None:
    with Peer(broken_tls, in_clear, in_clear, broken_tls, in_clear, broken_tls) as peer:

        async def play() -> None:
            for _ in range(2):
                await one_mail(driver, "localhost", peer.port)
            # Another memory knows nothing of it, and where TLS is meant nothing is remembered.
            own = HostMemory()
            await one_mail(driver, "localhost", peer.port, tls_failures=own)
            assert f"localhost:{peer.port}" in own
            with pytest.raises(TlsFailed):
                await one_mail(driver, "localhost", peer.port, tls=TlsPolicy.REQUIRED)

        driver.run(play())


def test_a_failure_is_remembered_only_where_clear_text_helps(driver: Driver) -> None:
    own = HostMemory()

    async def play(port: int) -> None:
        for _ in range(2):
            with pytest.raises(ServiceRefused):
                await call(driver.module.connect, "localhost", port, tls_failures=own)

    def refuse(line: Line) -> None:
        line.say("554 no")
        line.expect("QUIT")
        line.say("221 bye")

    with Peer(broken_tls, refuse, broken_tls, refuse) as peer:
        driver.run(play(peer.port))


# --- the wrong port ------------------------------------------------------------------------------------------------


def test_port_465_means_implicit_tls(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(line: Line) -> None:
        assert line.tls(server_context())
        line.serve()

    with Peer(script) as peer:
        resolve_to(monkeypatch, (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)))
        session = driver.run(one_mail(driver, "localhost", 465, tls_context=trusting_context()))
    assert session.tls.verified


def test_a_silent_port_465(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(policy: TlsPolicy) -> None:
        with pytest.raises(TlsFailed, match=r"port 465 speaks TLS from the first octet: use TlsPolicy\.IMPLICIT") as e:
            await call(
                driver.module.connect, "x.example", 465, tls=policy, limits=Limits(deadlines=Deadlines(greeting=0.1))
            )
        assert isinstance(e.value.__cause__, PeerTimeout)

    for policy in (TlsPolicy.REQUIRED, TlsPolicy.OPPORTUNISTIC, TlsPolicy.NEVER):
        with Peer(lambda line: line.until_closed()) as peer:
            resolve_to(monkeypatch, (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)))
            driver.run(play(policy))


def test_a_port_465_that_greets_in_clear(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its later silence is a silence like any other."""

    async def play() -> None:
        limits = Limits(deadlines=Deadlines(ehlo=0.1))
        with pytest.raises(PeerTimeout):
            await call(driver.module.connect, "x.example", 465, tls=TlsPolicy.REQUIRED, limits=limits)

    def script(line: Line) -> None:
        line.say("220 peer.example ready")
        line.until_closed()

    with Peer(script) as peer:
        resolve_to(monkeypatch, (socket.AF_INET, *STREAM, ("127.0.0.1", peer.port)))
        driver.run(play())


@pytest.mark.parametrize("octets", [b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03\x03\x00\x02xx"])
def test_a_peer_that_speaks_tls_at_once(driver: Driver, octets: bytes) -> None:
    """No second connection is made in clear: it would not be understood either."""

    async def play(port: int) -> None:
        with pytest.raises(TlsAtOnce, match="the peer speaks TLS from the first octet"):
            await call(driver.module.connect, "localhost", port)

    with Peer(lambda line: line.raw(octets)) as peer:
        driver.run(play(peer.port))
