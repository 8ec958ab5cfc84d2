"""Bodies handed in as ranges of files, which the machine passes on and never sees.

What lives here: where they are taken, how they are said with BDAT and with DATA, what is known of them when the session
is lost. What does not: sending them, which is the drivers'.
"""

from __future__ import annotations

from typing import Any

import pytest

from smtpcore import (
    BodyFacts,
    Client,
    Envelope,
    FileRange,
    LocalProtocolError,
    MailSent,
    NeedBody,
    Pipelining,
    SendFile,
    TlsInfo,
    TlsPolicy,
    Verdict,
)
from smtpcore.testing import PureDriver

CHUNKING = "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
PLAIN = "250-mx\r\n250 PIPELINING\r\n"
TRANSACTION = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n"
FILE = object()


def due(offered: str = CHUNKING, *, facts: BodyFacts | None = None, **options: Any) -> PureDriver:
    """A driver that is asked for a body."""
    facts = facts or BodyFacts(size=300, repeatable=True, canonical=True)
    mail = (Envelope("a@a.example", ("b@b.example",), body=facts), None)
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, **options), [mail])
    driver.run()
    driver.hear(b"220 hi\r\n")
    said = driver.hear(offered.encode())
    assert said == TRANSACTION + (b"" if "CHUNKING" in offered else b"DATA\r\n")
    if "CHUNKING" not in offered:
        driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert isinstance(driver.last, NeedBody)
    return driver


def files(driver: PureDriver) -> list[FileRange]:
    return [event.data for event in driver.events if isinstance(event, SendFile)]


def test_the_parts_of_a_range() -> None:
    whole = FileRange(FILE, 10, 100)
    assert len(whole) == 100
    assert whole.first(30) == FileRange(FILE, 10, 30)
    assert whole.first(1000) == whole
    assert whole.behind(30) == FileRange(FILE, 40, 70)
    assert not whole.behind(100)


def test_a_chunk_is_the_very_range_that_was_handed_in() -> None:
    driver = due()
    assert driver.client.takes_file_ranges
    whole = FileRange(FILE, 7, 300)
    driver.client.send_body(whole)
    driver.client.send_body(b"")
    assert driver.run() == b"BDAT 300 LAST\r\n"
    (sent,) = (event for event in driver.events if isinstance(event, SendFile))
    assert sent.data is whole
    assert sent.seconds == 180.0
    driver.hear(b"250 ok\r\n250 ok\r\n250 taken\r\n")
    (report,) = driver.reports
    assert isinstance(report, MailSent)
    assert "(300 octets of message)" in str(report.transcript)


def test_ranges_and_octets_make_one_message() -> None:
    driver = due()
    for piece in (b"Subject: x\r\n\r\n", FileRange(FILE, 0, 100), FileRange(FILE, 100, 184), b"x\r\n"):
        driver.client.send_body(piece)
        driver.run()
    driver.client.send_body(b"")
    assert driver.run() == b"BDAT 3 LAST\r\nx\r\n"
    assert files(driver) == [FileRange(FILE, 0, 100), FileRange(FILE, 100, 184)]
    driver.hear(b"250 ok\r\n" * 6)
    assert isinstance(driver.reports[0], MailSent)


def test_the_next_octets_are_asked_for_behind_the_range() -> None:
    driver = due()
    driver.client.send_body(FileRange(FILE, 5, 100))
    driver.run()
    assert isinstance(driver.last, NeedBody)
    assert driver.last.offset == 100


def test_data_carries_them_too() -> None:
    driver = due(PLAIN)
    driver.client.send_body(FileRange(FILE, 0, 200))
    assert driver.run() == b""
    driver.client.send_body(FileRange(FILE, 200, 100))
    driver.client.send_body(b"")
    assert driver.run() == b".\r\n"
    assert files(driver) == [FileRange(FILE, 0, 200), FileRange(FILE, 200, 100)]
    driver.hear(b"250 taken\r\n")
    assert "(300 octets of message)" in str(driver.reports[0].transcript)


@pytest.mark.parametrize("offered", [PLAIN, CHUNKING], ids=["DATA", "BDAT"])
def test_a_range_of_nothing_is_no_end_of_a_body(offered: str) -> None:
    driver = due(offered)
    before = driver.client.snapshot()
    with pytest.raises(LocalProtocolError, match="empty"):
        driver.client.send_body(FileRange(FILE, 0, 0))
    assert driver.client.snapshot() == before


@pytest.mark.parametrize(("offset", "octets"), [(-1, 1), (0, -1)])
def test_a_range_lies_within_its_file(offset: int, octets: int) -> None:
    with pytest.raises(LocalProtocolError, match="begins at 0"):
        FileRange(FILE, offset, octets)


def test_a_body_that_needs_its_lines_looked_at_takes_none() -> None:
    driver = due(facts=BodyFacts(size=300, repeatable=True))
    assert not driver.client.takes_file_ranges
    with pytest.raises(LocalProtocolError, match="canonical"):
        driver.client.send_body(FileRange(FILE, 0, 10))


def test_where_tls_must_encrypt_none_is_taken() -> None:
    facts = BodyFacts(size=300, repeatable=True, canonical=True)
    mail = (Envelope("a@a.example", ("b@b.example",), body=facts), None)
    driver = PureDriver(Client("client.example", tls=TlsPolicy.IMPLICIT), [mail])
    driver.run()
    driver.client.tls_started(TlsInfo(version="TLSv1.3", cipher="x", verified=True))
    driver.hear(b"220 hi\r\n")
    driver.hear(CHUNKING.encode())
    assert isinstance(driver.last, NeedBody)
    assert not driver.client.takes_file_ranges
    with pytest.raises(LocalProtocolError, match="nothing encrypts"):
        driver.client.send_body(FileRange(FILE, 0, 10))


def test_when_no_body_is_due_none_is_taken() -> None:
    client = Client("client.example")
    assert not client.takes_file_ranges
    with pytest.raises(LocalProtocolError, match="no body is due"):
        client.send_body(FileRange(FILE, 0, 10))


@pytest.mark.parametrize("last", [False, True], ids=["not the last", "the last"])
def test_a_lost_session_leaves_the_mail_in_doubt_once_the_last_range_is_said(last: bool) -> None:
    driver = due()
    driver.client.send_body(FileRange(FILE, 0, 300))
    if last:
        driver.client.send_body(b"")
    driver.run()
    driver.client.receive_eof()
    driver.run()
    (outcome,) = driver.reports[0].outcomes
    assert (outcome.verdict, outcome.in_doubt) == (Verdict.LATER, last)


def test_across_mails_they_leave_together() -> None:
    facts = BodyFacts(size=300, repeatable=True, canonical=True)
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, pipelining=Pipelining.ACROSS))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(CHUNKING.encode())
    written = b""
    for number in range(2):
        driver.give(Envelope("a@a.example", ("b@b.example",), body=facts), None)
        written += driver.run()
        driver.client.send_body(FileRange(FILE, number, 300))
        driver.client.send_body(b"")
        written += driver.run()
    mail = TRANSACTION + b"BDAT 300 LAST\r\n"
    assert written.startswith(mail + b"RSET\r\n" + mail)
    assert files(driver) == [FileRange(FILE, 0, 300), FileRange(FILE, 1, 300)]
