"""Pools of sessions to real servers: every mail has one result, and arrives once, whatever the server's limits are.

What lives here: what only a foreign server can prove. What does not: the pool's own rules (``pool``).
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import pytest

import smtpcore.drivers.blocking_pool
import smtpcore.drivers.pool
from smtpcore import Envelope, Report, TlsPolicy, Verdict
from smtpcore.pool import Retries

from .arrivals import Maildirs
from .exim import Exim
from .peers import MAILBOXES, Certificate
from .postfix import DOMAIN, HOST, Postfix, postfix_missing, wait_until
from .results import Results
from .unpacked import unpacked_missing

pytestmark = pytest.mark.interop

Mails = Sequence[tuple[Envelope, bytes]]
#: Sends mails to a port of the loopback address over a pool; the reports are in the mails' order.
Pooled = Callable[[int, Mails], list[Report]]
OPTIONS: Any = {"tls": TlsPolicy.NEVER}
SETTINGS: dict[str, Any] = {"sessions": 4, "retries": Retries(most=50, delays=(0.05,))}
_numbers = itertools.count(1)


def _blocking(port: int, mails: Mails) -> list[Report]:
    with smtpcore.drivers.blocking_pool.Pool(HOST, port, OPTIONS, **SETTINGS) as pool:
        return list(pool.send_many(mails))


def _on_a_loop(backend: str, port: int, mails: Mails) -> list[Report]:
    async def main() -> list[Report]:
        async with smtpcore.drivers.pool.Pool(HOST, port, OPTIONS, **SETTINGS) as pool:
            return [report async for report in pool.send_many(mails)]

    return anyio.run(main, backend=backend)


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def pooled(request: pytest.FixtureRequest) -> Pooled:
    return _blocking if request.param == "blocking" else functools.partial(_on_a_loop, request.param)


@pytest.fixture
def mails() -> Mails:
    """Mails that no other test sends, all different."""
    sender = f"pooled-{next(_numbers)}@elsewhere.example"
    to = (f"alice@{DOMAIN}",)
    header = b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <%d@elsewhere.example>\r\n\r\n"
    return [(Envelope(sender, to), header % number + b".%s\r\n" % (b"x" * number)) for number in range(100)]


def check(reports: list[Report], mails: Mails, arrived: Callable[[str], list[tuple[bytes, bytes]]]) -> None:
    assert [report.mail.envelope for report in reports] == [envelope for envelope, _ in mails]
    assert [report.outcomes[0].verdict for report in reports] == [Verdict.DELIVERED] * len(mails)
    sender = mails[0][0].reverse_path
    wait_until(lambda: len(arrived(sender)) >= len(mails), "all mails")
    assert Counter(mail for _, mail in arrived(sender)) == {octets.replace(b"\r\n", b"\n"): 1 for _, octets in mails}


@pytest.fixture(scope="module")
def narrow() -> Iterator[Postfix]:
    """A Postfix that serves two sessions of one client at a time, and greets the others with 421."""
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    settings = {"smtpd_client_connection_count_limit": "2", "smtpd_client_event_limit_exceptions": ""}
    with Postfix(settings, mailboxes=MAILBOXES) as server:
        yield server


def test_a_postfix_that_serves_two_sessions(narrow: Postfix, pooled: Pooled, mails: Mails, results: Results) -> None:
    check(pooled(narrow.port, mails), mails, Maildirs(narrow.maildirs).mails)
    assert "Connection concurrency limit exceeded" in narrow.log
    results.saw("Postfix", "two sessions at a time (421 to the others): a pool of four delivers every mail once")


@pytest.fixture(scope="module")
def weary(certificate: Certificate) -> Iterator[Exim]:
    """An Exim that ends each session after seven mails, with 421 to the next."""
    missing = unpacked_missing("exim")
    if missing is not None:
        pytest.skip(missing)
    with Exim(certificate.both, mailboxes=MAILBOXES, settings={"smtp_accept_max_per_connection": "7"}) as server:
        yield server


def test_an_exim_that_ends_sessions(weary: Exim, pooled: Pooled, mails: Mails, results: Results) -> None:
    check(pooled(weary.clear, mails), mails, Maildirs(weary.maildirs).mails)
    results.saw("Exim", "seven mails a session (421 to the next): a pool of four delivers every mail once")
