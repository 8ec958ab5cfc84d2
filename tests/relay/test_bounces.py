"""Reports to senders: read back by the standard library's email package, whatever is in them.

What lives here: the composers of bounces and delay warnings. What does not: when they are due.
"""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine import START, settings, stored

from smtpcore import printable
from smtpcore.relay import Bounce, DelayWarning, Failure, compose_bounce, compose_delay_warning

ORIGINAL = b"From: me@home.example\r\nSubject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nHello.\r\n.\r\n"


def failure(recipient: str = "u@a.example", **changes: object) -> Failure:
    values: dict[str, object] = {
        "status": "5.1.1",
        "diagnostic": "550 5.1.1 no such user",
        "reason": "550 5.1.1 no such user",
        "remote_host": "mx.a.example",
        **changes,
    }
    return Failure(recipient=recipient, **values)  # type: ignore[arg-type]


def read(octets: bytes) -> EmailMessage:
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert part.defects == []
    return message


def test_a_bounce_has_the_three_parts_and_all_the_fields() -> None:
    order = Bounce(stored(size=len(ORIGINAL)), (failure(), failure("v@a.example", diagnostic=None, status="4.4.7")))
    octets = compose_bounce(order, ORIGINAL, settings(), START + 60)
    message = read(octets)
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@relay.example>"
    assert message["To"] == "me@home.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Date"] == "Fri, 15 Jan 2027 08:01:00 +0000"
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == "delivery-status"
    text, status, original = message.iter_parts()
    assert "<u@a.example>: 550 5.1.1 no such user" in text.get_content()
    whole, first, second = status.get_payload()
    assert whole["Reporting-MTA"] == "dns; relay.example"
    assert whole["Arrival-Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert dict(first.items()) == {
        "Final-Recipient": "rfc822; u@a.example",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.a.example",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Fri, 15 Jan 2027 08:01:00 +0000",
    }
    assert "Diagnostic-Code" not in second
    assert second["Status"] == "4.4.7"
    assert original.get_content_type() == "message/rfc822"
    assert ORIGINAL in octets


def test_a_delay_warning_says_until_when() -> None:
    order = DelayWarning(stored(size=len(ORIGINAL)), (failure(status="4.0.0"),), START + 3600)
    message = read(compose_delay_warning(order, ORIGINAL, settings(), START + 60))
    _, status, _ = message.iter_parts()
    assert status.get_payload()[1]["Action"] == "delayed"
    assert status.get_payload()[1]["Will-Retry-Until"] == "Fri, 15 Jan 2027 09:00:00 +0000"


@pytest.mark.parametrize("header", [b"Subject: big\r\nX-A: b\r\n", b"X-Long: " + b"y" * 70_000 + b"\r\n"])
def test_of_a_large_original_only_the_header_is_shown(header: bytes) -> None:
    original = header + b"\r\n" + b"secret body\r\n" * 10_000
    order = Bounce(stored(size=len(original)), (failure(),))
    octets = compose_bounce(order, original[:51_200], settings(), START)
    *_, part = read(octets).iter_parts()
    assert part.get_content_type() == "text/rfc822-headers"
    assert b"secret body" not in octets
    assert (b"Subject: big" in octets) == (b"Subject" in header)


def test_two_reports_on_one_mail_have_different_ids() -> None:
    first = compose_bounce(Bounce(stored(), (failure("a@a.example"),)), b"", settings(), START)
    second = compose_bounce(Bounce(stored(), (failure("b@a.example"),)), b"", settings(), START)
    assert read(first)["Message-ID"] != read(second)["Message-ID"]


replies = st.text(st.characters(codec="utf-8"), max_size=600).map(printable)


@given(replies, st.binary(max_size=400), st.sampled_from([b"", b"--report.1.", b"\r\n--report.1.00000000.0--\r\n"]))
def test_nothing_that_a_peer_says_can_break_the_structure(reply: str, body: bytes, lookalike: bytes) -> None:
    body = body.replace(b"\r", b"").replace(b"\n", b"\r\n") + lookalike
    original = b"Subject: x\r\n\r\n" + body
    order = Bounce(stored(size=len(original)), (failure(diagnostic=f"550 {reply}", reason=f"550 {reply}"),))
    octets = compose_bounce(order, original, settings(), START)
    head, _, rest = octets.partition(b"\r\n\r\n")
    boundary = head.partition(b'boundary="')[2].partition(b'"')[0]
    assert rest.count(b"--" + boundary) == 4
    assert original in rest
    message = email.message_from_bytes(octets, policy=email.policy.default)
    text, status, _ = message.iter_parts()
    assert len(status.get_payload()) == 2
    assert status.get_payload()[1]["Status"] == "5.1.1"
    assert all(len(line) <= 998 for line in octets.partition(original)[0].split(b"\r\n"))
    assert "u@a.example" in text.get_content()
