"""Dovecot's submission service: who authenticates there, and how, and that the mail goes on its way.

What lives here: AUTH with the only server here that checks SCRAM itself. What does not: mechanisms with other servers
(`test_matrix.py`, `test_postfix_moods.py`).
"""

from __future__ import annotations

import functools
import itertools
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpcore import AuthDeclined, TlsPolicy
from smtpcore.sasl import CramMd5, Login, Mechanism, Plain, ScramSha1, ScramSha256, mechanisms_for

from .arrivals import Maildirs
from .conftest import Driver
from .corpus import MESSAGES, canonical
from .dovecot import DovecotSubmission, submission_missing
from .peers import Certificate
from .postfix import DOMAIN, PASSWORD, USER, Postfix, postfix_missing, wait_until
from .results import Results

pytestmark = pytest.mark.interop

NAME = "Dovecot (submission)"
BY_PASSWORD: tuple[type[Any], ...] = (Plain, Login, CramMd5, ScramSha1, ScramSha256)
Mails = Callable[[str], list[tuple[bytes, bytes]]]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def behind() -> Iterator[Postfix]:
    """Where Dovecot passes mail on to."""
    missing = postfix_missing()
    if missing is not None:
        pytest.skip(missing)
    with Postfix({"smtpd_error_sleep_time": "0"}, mailboxes=["bob"]) as server:
        yield server


@pytest.fixture(scope="module")
def submission(behind: Postfix, certificate: Certificate, results: Results) -> Iterator[DovecotSubmission]:
    missing = submission_missing()
    if missing is not None:
        results.left_out[NAME] = missing
        pytest.skip(missing)
    with DovecotSubmission(certificate.both, backend=behind.port) as server:
        yield server


@pytest.fixture(scope="module")
def mails(behind: Postfix) -> Mails:
    return Maildirs(behind.maildirs).mails


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"submitted-{next(_numbers)}@elsewhere.example"


def submit(
    server: DovecotSubmission,
    driver: Driver,
    trusting: ssl.SSLContext,
    credentials: tuple[Mechanism, ...],
    sender: str,
    shape: str = "UTF-8",
) -> list[str]:
    """Submit one message; what was said and heard."""
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        await session.send(MESSAGES[shape], sender=sender, recipients=f"bob@{DOMAIN}")

    options: dict[str, Any] = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting, "trace": dialogue.append}
    driver.run(story, server.port, credentials=credentials, **options)
    assert PASSWORD not in "".join(dialogue)
    return dialogue


@pytest.mark.parametrize("kind", BY_PASSWORD, ids=lambda kind: kind.name.lower())
def test_each_mechanism(
    submission: DovecotSubmission,
    driver: Driver,
    trusting: ssl.SSLContext,
    mails: Mails,
    sender: str,
    kind: type[Any],
    results: Results,
) -> None:
    dialogue = submit(submission, driver, trusting, (kind(USER, PASSWORD),), sender)
    assert [line.split()[2] for line in dialogue if line.startswith(">>> AUTH")] == [kind.name]
    assert any(line.startswith("<<< 235 ") for line in dialogue)
    wait_until(lambda: mails(sender), "the mail")
    assert [mail for _, mail in mails(sender)] == [canonical(MESSAGES["UTF-8"]).replace(b"\r\n", b"\n")]
    with pytest.raises(AuthDeclined) as declined:
        submit(submission, driver, trusting, (kind(USER, "not " + PASSWORD),), sender)
    assert declined.value.reply is not None
    assert (declined.value.reply.code, declined.value.reply.enhanced) == (535, "5.7.8")
    what = f"{kind.name} under STARTTLS, and 535 5.7.8 to a wrong password"
    results.checked("AUTH", f"{NAME} {submission.version}", what, driver.name)


def test_the_strongest_mechanism_that_it_offers(
    submission: DovecotSubmission,
    driver: Driver,
    trusting: ssl.SSLContext,
    mails: Mails,
    sender: str,
    results: Results,
) -> None:
    dialogue = submit(submission, driver, trusting, mechanisms_for(USER, PASSWORD), sender)
    offered = [line.split()[1:] for line in dialogue if line.startswith("<<< 250-AUTH ")][-1]
    assert [line.split()[2] for line in dialogue if line.startswith(">>> AUTH")] == ["SCRAM-SHA-256"]
    assert not [name for name in offered if name.endswith("-PLUS")]
    wait_until(lambda: mails(sender), "the mail")
    what = "of a user's mechanisms SCRAM-SHA-256 is taken; no mechanism with channel binding (-PLUS) is offered"
    results.checked("AUTH", f"{NAME} {submission.version}", what, driver.name)


def test_messages_in_chunks_and_by_data(
    submission: DovecotSubmission,
    driver: Driver,
    trusting: ssl.SSLContext,
    mails: Mails,
    sender: str,
    results: Results,
) -> None:
    """It takes them apart and passes them on, in chunks or not."""
    options: dict[str, Any] = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting}
    # What Postfix puts on top of what has no header is not of interest here.
    messages = {shape: octets for shape, octets in MESSAGES.items() if shape != "demo: only a dot"}
    for chunking in (True, False):
        senders = {shape: f"{number}.{chunking}.{sender}".lower() for number, shape in enumerate(messages)}

        async def story(session: Any, senders: dict[str, str] = senders) -> None:
            for shape, octets in messages.items():
                await session.send(octets, sender=senders[shape], recipients=f"bob@{DOMAIN}")

        credentials = (ScramSha256(USER, PASSWORD),)
        driver.run(story, submission.port, credentials=credentials, chunking=chunking, **options)
        for shape, path in senders.items():
            wait_until(functools.partial(mails, path), f"{shape!r}")
            assert [mail for _, mail in mails(path)] == [canonical(messages[shape]).replace(b"\r\n", b"\n")], shape
        what = f"every message by {'BDAT' if chunking else 'DATA'}, passed on to Postfix, octet for octet"
        results.checked("submission", f"{NAME} {submission.version}", what, driver.name)
