"""Lookups against a real name server: dnsmasq, from the system's packages.

What lives here: the kinds of answers that matter for mail, as another's software gives them. What does not: faults,
which a real server does not have on request (``drivers/test_resolver.py``).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from smtpcore.drivers.resolver import AsyncResolver, Resolver, ResolverSettings
from smtpcore.relay import AddressAnswer, AnswerKind, DomainResolved, MxRecord

pytestmark = pytest.mark.interop

PROGRAM = shutil.which("dnsmasq", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))

CONFIGURATION = """
local=/example/
mx-host=a.example,mx1.a.example,10
mx-host=a.example,mx2.a.example,20
host-record=mx1.a.example,127.0.0.2,::2
host-record=mx2.a.example,127.0.0.3
host-record=hostonly.example,127.0.0.5
cname=alias.example,hostonly.example
""" + "".join(f"host-record=big.example,127.1.{number // 250}.{number % 250 + 1}\n" for number in range(300))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResolverSettings]:
    if PROGRAM is None:
        pytest.skip("dnsmasq is missing (package dnsmasq-base)")
    configuration = tmp_path_factory.mktemp("dnsmasq") / "dnsmasq.conf"
    configuration.write_text(CONFIGURATION)
    port = _free_port()
    running = _start(configuration, port)
    try:
        _await_port(running, port)
        yield ResolverSettings(name_servers=["127.0.0.1"], port=port)
    finally:
        running.terminate()
        running.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _start(configuration: Path, port: int) -> subprocess.Popen[bytes]:
    assert PROGRAM is not None
    return subprocess.Popen(
        [
            PROGRAM, "--keep-in-foreground", "--no-daemon", "--pid-file", "--no-resolv", "--no-hosts",
            "--bind-interfaces", "--listen-address=127.0.0.1", f"--port={port}", f"--conf-file={configuration}",
            "--local-ttl=300",
        ]
    )  # fmt: skip


def _await_port(running: subprocess.Popen[bytes], port: int) -> None:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        assert running.poll() is None, "dnsmasq ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("dnsmasq does not listen")


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def resolve(request: pytest.FixtureRequest, settings: ResolverSettings) -> Callable[[str], DomainResolved]:
    if request.param == "blocking":
        return Resolver(settings).resolve
    return lambda domain: anyio.run(AsyncResolver(settings).resolve, domain, backend=request.param)


def test_mx_hosts_and_addresses(resolve: Callable[[str], DomainResolved]) -> None:
    resolved = resolve("a.example")
    assert set(resolved.mx.records) == {MxRecord(10, "mx1.a.example"), MxRecord(20, "mx2.a.example")}
    assert set(dict(resolved.addresses)["mx1.a.example"].addresses) == {"127.0.0.2", "::2"}
    assert dict(resolved.addresses)["mx2.a.example"].addresses == ("127.0.0.3",)
    assert resolved.seconds == pytest.approx(300, abs=20)


def test_no_mx(resolve: Callable[[str], DomainResolved]) -> None:
    resolved = resolve("hostonly.example")
    assert resolved.mx.kind is AnswerKind.NO_DATA
    assert resolved.addresses == (("hostonly.example", AddressAnswer(AnswerKind.RECORDS, ("127.0.0.5",))),)


def test_an_alias(resolve: Callable[[str], DomainResolved]) -> None:
    assert dict(resolve("alias.example").addresses)["alias.example"].addresses == ("127.0.0.5",)


def test_no_such_name(resolve: Callable[[str], DomainResolved]) -> None:
    assert resolve("nowhere.example").mx.kind is AnswerKind.NO_NAME


def test_an_answer_too_large_for_a_datagram(resolve: Callable[[str], DomainResolved]) -> None:
    assert len(dict(resolve("big.example").addresses)["big.example"].addresses) == 300


def test_what_the_server_may_not_answer(resolve: Callable[[str], DomainResolved]) -> None:
    resolved = resolve("elsewhere.test")
    assert resolved.mx.kind is AnswerKind.FAILURE
    assert "REFUSED" in resolved.mx.problem
