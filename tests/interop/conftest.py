"""What the interoperability tests share: a certificate authority, the servers, and one face for all drivers.

What lives here: fixtures. What does not: how servers are started (:mod:`postfix`), and any test.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import smtpcore.drivers.asyncio
import smtpcore.drivers.blocking
import smtpcore.drivers.trio
from smtpcore.drivers.spool import Spool

from .peers import MAILBOXES, SERVERS, SEVEN_BIT_SERVERS, Certificate, Peer
from .postfix import Postfix, postfix_missing
from .relaying import SERVICES, Relayed
from .results import Results

#: Where the table of results is written.
TABLE = Path(__file__).resolve().parents[2] / "build" / "interop.md"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A context that trusts our authority and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def postfix(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    """A private Postfix: STARTTLS on its first port, implicit TLS on its second, little patience on its third."""
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    chain = tmp_path_factory.mktemp("certificate") / "chain.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(chain)
    settings = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": str(chain),
        "smtpd_tls_received_header": "yes",
        "smtpd_error_sleep_time": "0",
        "smtpd_hard_error_limit": "20",
        "smtpd_timeout": "60",
    }
    implicit = {"smtpd_tls_wrappermode": "yes"}
    impatient = {"smtpd_timeout": "2"}
    with Postfix(settings, mailboxes=MAILBOXES, listeners=({}, implicit, impatient)) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA) -> Certificate:
    return Certificate.issue(authority)


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """Collects what was found; written as a table when the run ends."""
    found = Results()
    yield found
    found.write(TABLE)


@pytest.fixture(scope="session", params=SERVERS)
def peer(
    request: pytest.FixtureRequest, certificate: Certificate, results: Results, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """Each server of the matrix in turn."""
    start, missing = SERVERS[request.param]
    why = missing()
    if why is not None:
        results.left_out[request.param] = why
        pytest.skip(why)
    with start(certificate, tmp_path_factory.mktemp(request.param.lower())) as running:
        yield running


@pytest.fixture(scope="session", params=SEVEN_BIT_SERVERS)
def seven_bit(
    request: pytest.FixtureRequest, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """Each server that can be without 8BITMIME, without it."""
    start, missing = SEVEN_BIT_SERVERS[request.param]
    why = missing()
    if why is not None:
        pytest.skip(why)
    with start(certificate, tmp_path_factory.mktemp(request.param.lower())) as running:
        yield running


@pytest.fixture
def screened() -> Iterator[Postfix]:
    """A Postfix behind postscreen(8) with all its tests, which has met nobody yet."""
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    settings = {
        "postscreen_access_list": "",
        "postscreen_dnsbl_sites": "",
        "postscreen_cache_map": "btree:$data_directory/postscreen_cache",
        "postscreen_greet_wait": "2s",
        "postscreen_greet_action": "enforce",
        **{
            f"postscreen_{test}_{what}": value
            for test in ("pipelining", "non_smtp_command", "bare_newline")
            for what, value in (("enable", "yes"), ("action", "enforce"))
        },
    }
    with Postfix(settings, mailboxes=MAILBOXES, screened=True) as server:
        yield server


# --- the relay ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    """Each service of the relay in turn, by the name of its driver."""
    name: str = request.param
    return name


@pytest.fixture
def relayed(service: str) -> Relayed:
    return SERVICES[service]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as opened:
        yield opened


# --- the drivers, behind one face -----------------------------------------------------------------------------------


class Driver:
    """``driver.run(story, end, **options)`` opens a session and plays ``await story(session)``.

    ``end`` is a port of ``localhost``, or the path of a unix socket. The session is ended with QUIT. The blocking
    driver has its methods wrapped, so that one text serves all three.
    """

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        self.name = name
        self._run = run

    def run(self, story: Callable[[Any], Awaitable[Any]], end: int | Path, **options: Any) -> Any:
        return self._run(story, end, options)


def _connect(driver: Any, end: int | Path, options: Any) -> Any:
    return driver.connect_unix(end, **options) if isinstance(end, Path) else driver.connect("localhost", end, **options)


class _Awaitable:
    """A blocking session whose methods are called from ``async`` functions that never wait."""

    def __init__(self, session: smtpcore.drivers.blocking.Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def send(self, message: Any, **envelope: Any) -> smtpcore.MailSent:
        return self._session.send(message, **envelope)

    async def deliver(self, envelope: smtpcore.Envelope, message: Any) -> smtpcore.Report:
        return self._session.deliver(envelope, message)

    async def send_many(self, mails: Any) -> AsyncIterator[smtpcore.Report]:
        for report in self._session.send_many(mails):
            yield report

    async def command(self, line: str) -> smtpcore.Reply:
        return self._session.command(line)

    async def quit(self) -> None:
        self._session.quit()


def _run_blocking(story: Callable[[Any], Any], end: int | Path, options: Any) -> Any:
    with _connect(smtpcore.drivers.blocking, end, options) as session:
        steps = story(_Awaitable(session))
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("nothing in this story may wait")


def _run_asyncio(story: Callable[[Any], Any], end: int | Path, options: Any) -> Any:
    async def main() -> Any:
        async with await _connect(smtpcore.drivers.asyncio, end, options) as session:
            return await story(session)

    return asyncio.run(main())


def _run_trio(story: Callable[[Any], Any], end: int | Path, options: Any) -> Any:
    async def main() -> Any:
        async with await _connect(smtpcore.drivers.trio, end, options) as session:
            return await story(session)

    return trio.run(main)


DRIVERS = (Driver("blocking", _run_blocking), Driver("asyncio", _run_asyncio), Driver("trio", _run_trio))


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    one: Driver = request.param
    return one
