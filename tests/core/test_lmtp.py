"""LMTP (RFC 2033): its greeting, and a verdict on the message for each recipient.

What lives here: what is different from SMTP, with DATA and with chunks, within a mail and across mails. What does not:
all else, which is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from smtpcore import (
    BodyFacts,
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    Idle,
    Limits,
    MailRefused,
    MailSent,
    Pipelining,
    Protocol,
    ServiceRefused,
    Timeout,
    TlsInfo,
    TlsPolicy,
    Verb,
    Verdict,
)
from smtpcore.testing import PureDriver

D, L, N = Verdict.DELIVERED, Verdict.LATER, Verdict.NEVER
A, B, C = "a@b.example", "b@b.example", "c@b.example"
CODES = {D: "250 taken", L: "452 quota", N: "550 no such"}


def mail(*recipients: str, number: int = 1, **facts: Any) -> tuple[Envelope, bytes]:
    known = {"size": 7, "repeatable": True} | facts
    return Envelope(f"s{number}@a.example", recipients, body=BodyFacts(**known)), b"hello\r\n"


class Greeted(PureDriver):
    """A driver whose session is open, and what its client said to the EHLO reply."""

    said: bytes = b""


def ready(*mails: tuple[Envelope, bytes], offered: str = "PIPELINING", **options: Any) -> Greeted:
    options = {"tls": TlsPolicy.SECURED, **options}
    driver = Greeted(Client("client.example", protocol=Protocol.LMTP, **options), mails)
    driver.run()
    assert driver.hear(b"220 hi\r\n") == b"LHLO client.example\r\n"
    *others, last = ["mx", *offered.split()]
    driver.said = driver.hear("".join(f"250-{line}\r\n" for line in others).encode() + f"250 {last}\r\n".encode())
    return driver


def hear(driver: PureDriver, *replies: str) -> bytes:
    return driver.hear("".join(f"{reply}\r\n" for reply in replies).encode())


def verdicts(driver: PureDriver) -> list[list[Verdict]]:
    return [[outcome.verdict for outcome in report.outcomes] for report in driver.reports]


# --- the greeting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", ["500 what", "450 not now"])
def test_who_does_not_speak_lmtp_is_not_spoken_to_in_another_way(reply: str) -> None:
    driver = PureDriver(Client("client.example", protocol=Protocol.LMTP, tls=TlsPolicy.SECURED), [mail(A)])
    driver.run()
    hear(driver, "220 hi")
    assert hear(driver, reply) == b"QUIT\r\n"
    hear(driver, "221 bye")
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, ServiceRefused)


def test_the_greeting_is_the_same_behind_tls() -> None:
    driver = ready(offered="STARTTLS", tls=TlsPolicy.REQUIRED)
    assert driver.said == b"STARTTLS\r\n"
    hear(driver, "220 go")
    driver.client.tls_started(TlsInfo("TLSv1.3", "X", verified=True))
    assert driver.run() == b"LHLO client.example\r\n"
    assert driver.last == Timeout(Verb.LHLO, 300.0)


# --- a verdict for each ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", ["PIPELINING", "PIPELINING CHUNKING", "HELP", "CHUNKING"])
@pytest.mark.parametrize("said", list(product([D, L, N], repeat=2)))
def test_each_recipient_that_was_accepted_has_its_verdict(said: tuple[Verdict, ...], offered: str) -> None:
    driver = ready(mail(A, B, C), offered=offered)
    answer_until_the_end(driver, iter(["250 ok", "250 ok", "550 no b", "250 ok"]))
    assert driver.last == Timeout(Verb.BDAT_LAST if "CHUNKING" in offered else Verb.END_OF_DATA, 600.0)
    assert hear(driver, CODES[said[0]]) == b""
    # Not before the last one.
    assert not driver.reports
    hear(driver, CODES[said[1]])
    assert verdicts(driver) == [[said[0], N, said[1]]]
    (report,) = driver.reports
    assert isinstance(report, MailSent if D in said else MailRefused)
    assert [outcome.text for outcome in report.outcomes][::2] == [CODES[verdict][4:] for verdict in said]
    assert isinstance(driver.last, Idle)


def answer_until_the_end(driver: PureDriver, replies: Iterator[str]) -> None:
    """Say the replies to MAIL and RCPT, and 354 to DATA."""
    for reply in replies:
        hear(driver, reply)
    if isinstance(driver.last, Timeout) and driver.last.waiting_for is Verb.DATA:
        hear(driver, "354 go")


def test_one_recipient_has_one_verdict() -> None:
    driver = ready(mail(A), mail(A, number=2))
    hear(driver, "250 ok", "250 ok", "354 go")
    assert hear(driver, "250 taken").startswith(b"MAIL FROM:<s2@")
    assert verdicts(driver) == [[D]]


@pytest.mark.parametrize("chunking", [False, True])
def test_without_a_recipient_there_is_one_reply(chunking: bool) -> None:
    driver = ready(mail(A, B), mail(A, number=2), offered=_offer(chunking))
    said = hear(driver, "250 ok", "550 no", "550 no", "503 nobody")
    assert verdicts(driver) == [[N, N]]
    assert said.startswith(b"RSET\r\nMAIL FROM:<s2@")


def _offer(chunking: bool) -> str:
    return "PIPELINING CHUNKING" if chunking else "PIPELINING"


def test_data_that_is_refused_is_refused_for_all() -> None:
    driver = ready(mail(A, B), mail(A, number=2))
    hear(driver, "250 ok", "250 ok", "250 ok", "451 disk")
    assert verdicts(driver) == [[L, L]]
    # The recipients of one mail are not counted with those of the next.
    hear(driver, "250 reset", "250 ok", "250 ok", "354 go")
    hear(driver, "250 taken")
    assert verdicts(driver) == [[L, L], [D]]


def test_a_connection_lost_among_the_verdicts_leaves_the_others_in_doubt() -> None:
    driver = ready(mail(A, B, C))
    hear(driver, "250 ok", "250 ok", "250 ok", "250 ok", "354 go")
    hear(driver, "250 taken")
    driver.client.receive_eof()
    driver.run()
    (report,) = driver.reports
    assert [(o.verdict, o.in_doubt) for o in report.outcomes] == [(D, False), (L, True), (L, True)]
    assert isinstance(report, MailSent)


def test_a_421_among_the_verdicts_ends_the_session() -> None:
    driver = ready(mail(A, B, C))
    hear(driver, "250 ok", "250 ok", "250 ok", "250 ok", "354 go")
    hear(driver, "250 taken", "421 bye")
    (report,) = driver.reports
    assert [(o.verdict, o.in_doubt, o.code) for o in report.outcomes] == [
        (D, False, 250),
        (L, False, 421),
        (L, False, 421),
    ]
    assert isinstance(driver.last, Disconnect)
    assert driver.last.reason is DisconnectReason.REFUSED


def test_a_refusal_before_the_end_is_one_for_all() -> None:
    client = Client("client.example", protocol=Protocol.LMTP, tls=TlsPolicy.SECURED)
    driver = PureDriver(client)
    driver.run()
    hear(driver, "220 hi")
    driver.hear(b"250-mx\r\n250 PIPELINING\r\n")
    driver.give(mail(A, B)[0], None)
    driver.run()
    hear(driver, "250 ok", "250 ok", "250 ok", "354 go")
    client.send_body(b"half")
    driver.run()
    hear(driver, "552 too large")
    (report,) = driver.reports
    assert [o.verdict for o in report.outcomes] == [N, N]
    assert isinstance(driver.last, Disconnect)


def test_a_refused_chunk_is_one_for_all() -> None:
    driver = ready(mail(A, B, size=None), offered="CHUNKING", pipelining=Pipelining.NONE)
    driver._piece = 3
    for reply in ("250 ok", "250 ok", "250 ok"):
        said = hear(driver, reply)
    assert said.startswith(b"BDAT 3\r\n")
    assert hear(driver, "452 full") == b""
    assert verdicts(driver) == [[L, L]]


def test_recipients_put_off_have_their_verdict_in_a_further_transaction() -> None:
    driver = ready(mail(A, B, C))
    hear(driver, "250 ok", "250 ok", "250 ok", "452 later", "354 go")
    hear(driver, "250 taken", "550 no")
    hear(driver, "250 ok", "250 ok", "354 go")
    assert not driver.reports
    hear(driver, "250 taken too")
    assert verdicts(driver) == [[D, N, D]]


@pytest.mark.parametrize("chunking", [False, True])
def test_mails_run_ahead_of_all_their_verdicts(chunking: bool) -> None:
    driver = ready(
        mail(A, B), mail(A, B, number=2), offered=_offer(chunking), pipelining=Pipelining.ACROSS, chunking=chunking
    )
    begun = ["250 ok", "250 ok", "250 ok", *([] if chunking else ["354 go"])]
    hear(driver, *begun)
    hear(driver, "250 taken", "550 no", *(["250 reset"] if chunking else []), *begun)
    assert verdicts(driver) == ([] if chunking else [[D, N]])
    hear(driver, "452 later", "250 taken", *(["250 reset", "214 help"] if chunking else []))
    assert verdicts(driver) == [[D, N], [L, D]]
    assert isinstance(driver.last, Idle)


def test_a_window_is_full_until_the_last_verdict() -> None:
    limits = Limits(commands_in_flight=1)
    driver = ready(mail(A, B), mail(A, number=2), pipelining=Pipelining.ACROSS, limits=limits)
    for reply in ("250 ok", "250 ok", "250 ok", "354 go"):
        hear(driver, reply)
    assert hear(driver, "250 taken") == b""
    assert hear(driver, "550 no").startswith(b"MAIL FROM:<s2@")


def test_the_account_of_replies_holds() -> None:
    driver = ready(mail(A, B, C))
    for reply in ("250 ok", "250 ok", "250 ok", "250 ok", "354 go", "250 1", "250 2", "250 3"):
        hear(driver, reply)
        account = driver.client.snapshot().connection
        assert account.said == account.replied + len(account.in_flight)
    assert verdicts(driver) == [[D, D, D]]
