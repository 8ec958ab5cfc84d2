"""Mail to a real Postfix with every wire driver, compared octet by octet with what its maildirs hold.

What lives here: what only a foreign server can prove. What does not: the dialogue in all its turns, which the tests of
core and drivers play with scripted peers.
"""

from __future__ import annotations

import itertools
import re
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from smtpcore import DeliveryFailed, DisconnectReason, Pipelining, Stage, TlsFailed, TlsPolicy, Verdict

from .conftest import Driver
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


def split_trace(mail: bytes) -> tuple[bytes, bytes]:
    """The trace fields that a receiving host puts on top (RFC 5321 §4.4), and the mail below them."""
    trace = re.match(rb"(?:(?:Return-Path|X-Original-To|Delivered-To|Received):[^\n]*\n(?:[ \t][^\n]*\n)*)*", mail)
    assert trace is not None
    return trace[0], mail[trace.end() :]


def stored(body: bytes) -> bytes:
    """``body`` as a maildir holds it: any line end as LF, the last line ended."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return lines if lines.endswith(b"\n") else lines + b"\n"


_LONG = b"0123456789" * 99 + b"01234567"
_EIGHT_BIT = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")

BODIES = {
    "plain": b"Hello.\r\n",
    "empty": b"",
    "leading dots": b".\r\n..\r\n...\r\n.a\r\n..b\r\n\r\n.\r\n",
    "the end of data inside": b"before\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n.\r\nafter\r\n",
    "every octet but line ends and NUL": _EIGHT_BIT + b"\r\n" + _EIGHT_BIT[::-1] + b"\r\n",
    "UTF-8": "Grüße aus Köln, 東京 und Αθήνα\r\n".encode(),
    "lines of 998 octets": (_LONG + b"\r\n") * 3 + b"." + _LONG[1:] + b"\r\n" + b"\xe4" * 998 + b"\r\n",
    "no final line end": b"the last line\r\nhas no end",
    "a last line that is a dot": b"the last line is\r\n.",
    "bare LF": b"one\ntwo\n\n.three\nfour\n",
    "bare LF without a final one": b"one\n.",
    "bare CR": b"one\rtwo\r.three\r\r\nfour\r",
    "mixed line ends": b"one\r\ntwo\nthree\r.four\n.five\r\n\n\r\r\n.\n",
    "white space at line ends": b"one \r\n\t\r\n two\t\r\n",
    "From at line starts": b"From here\r\n>From there\r\n",
    "300 KiB": b"".join(b"%s%d: %s\r\n" % (b"." * (n % 3), n, b"x" * (n % 71)) for n in range(7000)),
}
assert max(len(line) for body in BODIES.values() for line in re.split(rb"[\r\n]+", body)) == 998


def in_pieces(body: bytes) -> Iterator[bytes]:
    """``body`` in pieces of changing, awkward sizes."""
    start = 0
    for size in itertools.cycle((1, 2, 1, 3, 5, 1, 8, 997, 4096)):
        if start >= len(body):
            return
        yield body[start : start + size]
        start += size


def required(trusting: ssl.SSLContext) -> dict[str, Any]:
    return {"tls": TlsPolicy.REQUIRED, "tls_context": trusting}


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in-pieces"])
def test_awkward_bodies_over_starttls(postfix: Postfix, trusting: ssl.SSLContext, driver: Driver, pieces: bool) -> None:
    marks: dict[str, bytes] = {}

    async def story(session: Any) -> None:
        assert session.tls.verified
        for name, body in BODIES.items():
            marks[name], top = header("body")
            mail = top + body
            report = await session.send(
                in_pieces(mail) if pieces else mail, sender=SENDER, recipients=[f"alice@{DOMAIN}"]
            )
            assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED], name

    driver.run(story, postfix.port, **required(trusting))
    for name, body in BODIES.items():
        trace, mail = split_trace(arrived(postfix, "alice", marks[name]))
        assert b"with ESMTPS " in trace, name
        assert b"Return-Path: <%s>\n" % SENDER.encode("ascii") in trace, name
        assert mail == stored(b"Message-ID: %s\r\nSubject: interoperability\r\n\r\n" % marks[name] + body), name


def test_a_dot_as_the_first_octet(postfix: Postfix, trusting: ssl.SSLContext, driver: Driver) -> None:
    mark, top = header("dot")
    mail = b".first: a field whose name begins with a dot\r\n" + top + b"body\r\n"

    async def story(session: Any) -> None:
        await session.send(mail, sender=SENDER, recipients=f"alice@{DOMAIN}")

    driver.run(story, postfix.port, **required(trusting))
    assert split_trace(arrived(postfix, "alice", mark))[1] == stored(mail)


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
    return [line.split()[1] for line in group]


@pytest.mark.parametrize(
    ("pipelining", "group"),
    [(Pipelining.WITHIN, ["MAIL", "RCPT", "RCPT", "RCPT", "DATA"]), (Pipelining.NONE, ["MAIL"])],
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
        before = postfix.log.count("timeout after ")
        wait_until(lambda: postfix.log.count("timeout after ") > before, "Postfix to lose patience")
        with pytest.raises(DeliveryFailed) as failed:
            await session.send(header("parked")[1], sender=SENDER, recipients=f"alice@{DOMAIN}")
        (outcome,) = failed.value.report.outcomes
        assert (outcome.verdict, outcome.code, outcome.in_doubt) == (Verdict.LATER, 421, False)
        assert failed.value.report.stage is Stage.NOT_STARTED

    driver.run(story, postfix.ports[2], **required(trusting))
