"""Sessions with a real Postfix by every wire driver: TLS, refusals, a server that hangs up.

What lives here: what only a foreign server can prove. What does not: the many shapes of mail (`test_matrix.py`), and
the dialogue in all its turns, which the tests of core and drivers play with scripted peers.
"""

from __future__ import annotations

import itertools
import ssl
from typing import Any

import pytest

from smtpcore import DeliveryFailed, DisconnectReason, Pipelining, Stage, TlsFailed, TlsPolicy, Verdict

from .arrivals import split_trace
from .conftest import Driver
from .corpus import canonical
from .postfix import DOMAIN, Postfix, wait_until

pytestmark = pytest.mark.interop

SENDER = "sender@elsewhere.example"
_numbers = itertools.count(1)


def header(name: str) -> tuple[bytes, bytes]:
    """A mark that finds one mail again among all that arrived, and a header that holds it."""
    mark = b"<%d.%s@elsewhere.example>" % (next(_numbers), name.encode("ascii"))
    return mark, b"Message-ID: %s\r\nSubject: interoperability\r\n\r\n" % mark


def arrived(postfix: Postfix, mailbox: str, mark: bytes) -> bytes:
    """The mail with ``mark``, as soon as it is in the maildir."""

    def found() -> list[bytes]:
        return [mail for mail in postfix.delivered(mailbox) if mark in mail]

    wait_until(found, f"{mark!r} in the maildir of {mailbox}")
    (mail,) = found()
    return mail


def stored(mail: bytes) -> bytes:
    """``mail`` as a maildir holds it."""
    return canonical(mail).replace(b"\r\n", b"\n")


def required(trusting: ssl.SSLContext) -> dict[str, Any]:
    return {"tls": TlsPolicy.REQUIRED, "tls_context": trusting}


def test_tls_before_the_greeting(postfix: Postfix, trusting: ssl.SSLContext, driver: Driver) -> None:
    mark, top = header("implicit")

    async def story(session: Any) -> None:
        assert session.tls.verified
        await session.send(top + b"body\r\n", sender=SENDER, recipients=f"alice@{DOMAIN}")

    driver.run(story, postfix.ports[1], tls=TlsPolicy.IMPLICIT, tls_context=trusting)
    trace, _ = split_trace(arrived(postfix, "alice", mark))
    assert b"with ESMTPS " in trace


def test_in_clear_when_tls_is_forbidden(postfix: Postfix, driver: Driver) -> None:
    mark, top = header("clear")

    async def story(session: Any) -> None:
        assert session.tls is None
        await session.send(top + b"body\r\n", sender=SENDER, recipients=f"alice@{DOMAIN}")

    driver.run(story, postfix.port, tls=TlsPolicy.NEVER)
    trace, _ = split_trace(arrived(postfix, "alice", mark))
    assert b"with ESMTP " in trace


def test_tls_without_verification_when_it_is_a_wish(postfix: Postfix, driver: Driver) -> None:
    mark, top = header("opportunistic")

    async def story(session: Any) -> None:
        assert session.tls is not None
        assert not session.tls.verified
        await session.send(top + b"body\r\n", sender=SENDER, recipients=f"alice@{DOMAIN}")

    driver.run(story, postfix.port)
    trace, _ = split_trace(arrived(postfix, "alice", mark))
    assert b"with ESMTPS " in trace


def test_a_certificate_of_a_stranger_is_refused(postfix: Postfix, driver: Driver) -> None:
    async def story(session: Any) -> None:
        raise AssertionError("the session opened")

    with pytest.raises(TlsFailed, match="certificate"):
        driver.run(story, postfix.port, tls=TlsPolicy.REQUIRED)


def said_at_once(report: Any) -> list[str]:
    """The verbs of the last group that was said before its first reply, out of a report's transcript."""
    lines = report.transcript.lines
    start = max(number for number, line in enumerate(lines) if line.startswith(">>> MAIL"))
    group = itertools.takewhile(lambda line: line.startswith(">>> "), lines[start:])
    return [line.split()[1] for line in group if not line.startswith(">>> (")]


@pytest.mark.parametrize(
    ("pipelining", "group"),
    [(Pipelining.WITHIN, ["MAIL", "RCPT", "RCPT", "RCPT", "BDAT"]), (Pipelining.NONE, ["MAIL"])],
    ids=lambda value: value.value if isinstance(value, Pipelining) else "",
)
def test_a_refused_recipient_among_good_ones(
    postfix: Postfix, trusting: ssl.SSLContext, driver: Driver, pipelining: Pipelining, group: list[str]
) -> None:
    mark, top = header("refused")

    async def story(session: Any) -> Any:
        assert "PIPELINING" in session.capabilities
        recipients = [f"{name}@{DOMAIN}" for name in ("bob", "no-such-user", "carol")]
        return await session.send(top + b"body\r\n", sender=SENDER, recipients=recipients)

    report = driver.run(story, postfix.port, pipelining=pipelining, **required(trusting))
    assert said_at_once(report) == group
    bob, nobody, carol = report.outcomes
    assert (bob.verdict, carol.verdict) == (Verdict.DELIVERED, Verdict.DELIVERED)
    assert (nobody.verdict, nobody.code, nobody.enhanced) == (Verdict.NEVER, 550, "5.1.1")
    for mailbox in ("bob", "carol"):
        assert split_trace(arrived(postfix, mailbox, mark))[1] == stored(top + b"body\r\n")


def test_a_session_goes_on_after_a_mail_that_nobody_accepted(
    postfix: Postfix, trusting: ssl.SSLContext, driver: Driver
) -> None:
    mark, top = header("after")

    async def story(session: Any) -> None:
        with pytest.raises(DeliveryFailed) as failed:
            await session.send(top, sender=SENDER, recipients=[f"{name}@{DOMAIN}" for name in ("nobody", "none")])
        assert [outcome.code for outcome in failed.value.report.outcomes] == [550, 550]
        await session.send(top + b"body\r\n", sender=SENDER, recipients=f"bob@{DOMAIN}")

    driver.run(story, postfix.port, **required(trusting))
    assert split_trace(arrived(postfix, "bob", mark))[1] == stored(top + b"body\r\n")


def test_too_many_errors_end_the_session_and_every_recipient_has_an_outcome(
    postfix: Postfix, trusting: ssl.SSLContext, driver: Driver
) -> None:
    """Postfix says 421 at the twentieth error and hangs up, in the middle of a pipelined group."""
    recipients = [f"alice@{DOMAIN}", *(f"nobody-{number}@{DOMAIN}" for number in range(30))]

    async def story(session: Any) -> None:
        with pytest.raises(DeliveryFailed) as failed:
            await session.send(header("errors")[1], sender=SENDER, recipients=recipients)
        outcomes = failed.value.report.outcomes
        assert [outcome.recipient for outcome in outcomes] == recipients
        verdicts = [outcome.verdict for outcome in outcomes]
        refused = verdicts.count(Verdict.NEVER)
        assert refused in {19, 20}
        assert verdicts == [Verdict.LATER, *[Verdict.NEVER] * refused, *[Verdict.LATER] * (30 - refused)]
        assert not any(outcome.in_doubt for outcome in outcomes)
        assert session.end.reason is DisconnectReason.REFUSED

    driver.run(story, postfix.port, **required(trusting))


def test_a_421_that_came_while_the_session_was_parked(
    postfix: Postfix, trusting: ssl.SSLContext, driver: Driver
) -> None:
    async def story(session: Any) -> None:
        await session.send(header("parked")[1], sender=SENDER, recipients=f"alice@{DOMAIN}")
        before = len(postfix.log)

        def hung_up() -> bool:
            # It notes its loss of patience before it says 421, and the end of the session behind that.
            return "disconnect from" in postfix.log[before:].partition("timeout after ")[2]

        wait_until(hung_up, "Postfix to lose patience")
        with pytest.raises(DeliveryFailed) as failed:
            await session.send(header("parked")[1], sender=SENDER, recipients=f"alice@{DOMAIN}")
        (outcome,) = failed.value.report.outcomes
        assert (outcome.verdict, outcome.code, outcome.in_doubt) == (Verdict.LATER, 421, False)
        assert failed.value.report.stage is Stage.NOT_STARTED

    driver.run(story, postfix.ports[2], **required(trusting))
