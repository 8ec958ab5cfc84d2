"""Reports to senders: what a parser that knows nothing of us finds in them."""

from __future__ import annotations

import email
import email.policy
import math
from dataclasses import replace
from email.message import EmailMessage, MIMEPart
from email.utils import parsedate_to_datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import DeliverBy, MailOptions, RecipientOptions, Return
from smtpcore.relay import (
    Bounce,
    Confirmation,
    DelayWarning,
    Failure,
    RelaySettings,
    StoredMail,
    Success,
    compose_bounce,
    compose_confirmation,
    compose_delay_warning,
)

SETTINGS = RelaySettings(reporting_mta="relay.example", whole_message_in_reports=1000)
ACCEPTED, NOW, UNTIL = 1_800_000_000.0, 1_800_010_000.0, 1_800_400_000.0
ORIGINAL = b"From: me@home.example\r\nSubject: hello\r\n\r\nThe text.\r\n"

#: What a peer may have said, as replies hold it: any text in lines that were joined, and long words.
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t-= "), max_size=300)
originals = st.binary(max_size=300) | st.text("ab: \n-.=", max_size=200).map(
    lambda text: text.replace("\n", "\r\n").encode()
)


def mail(size: int = len(ORIGINAL)) -> StoredMail:
    return StoredMail(
        mail_id=7, reverse_path="me@home.example", size=size, eight_bit=False, leading_dots=False, accepted_at=ACCEPTED
    )


def failure(recipient: str = "you@far.example", diagnostic: str | None = "550 5.1.1 no such user") -> Failure:
    return Failure(
        recipient=recipient,
        status="5.1.1",
        diagnostic=diagnostic,
        reason=diagnostic or "the connection was lost",
        remote_host="mx.far.example",
    )


def bounce(*failures: Failure, original: bytes = ORIGINAL, size: int | None = None) -> bytes:
    return compose_bounce(Bounce(mail(len(original) if size is None else size), failures), original, SETTINGS, NOW)


def parsed(report: bytes) -> EmailMessage:
    message = email.message_from_bytes(report, policy=email.policy.SMTP)
    assert isinstance(message, EmailMessage)
    return message


def parts(report: bytes) -> list[MIMEPart]:
    return list(parsed(report).iter_parts())


def fields(report: bytes) -> list[MIMEPart]:
    """The blocks of fields of the delivery status."""
    return cast("list[MIMEPart]", parts(report)[1].get_payload())


def test_the_frame_is_that_of_rfc_6522() -> None:
    message = parsed(bounce(failure()))
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == "delivery-status"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "message/rfc822",
    ]
    assert not [defect for part in message.walk() for defect in part.defects]


def test_the_header_says_who_to_whom_and_that_a_machine_wrote_it() -> None:
    message = parsed(bounce(failure()))
    assert message["From"].addresses[0].addr_spec == "MAILER-DAEMON@relay.example"
    assert message["To"].addresses[0].addr_spec == "me@home.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"
    assert parsedate_to_datetime(message["Date"]).timestamp() == NOW
    assert message["Message-ID"].endswith("@relay.example>")


def test_the_same_report_twice_is_the_same_octets_and_another_moment_is_another_message() -> None:
    order = Bounce(mail(), (failure(),))
    assert compose_bounce(order, ORIGINAL, SETTINGS, NOW) == compose_bounce(order, ORIGINAL, SETTINGS, NOW)
    other = parsed(compose_bounce(order, ORIGINAL, SETTINGS, NOW + 1))
    assert other["Message-ID"] != parsed(bounce(failure()))["Message-ID"]


def test_every_failed_recipient_has_its_block_of_fields() -> None:
    about, *blocks = fields(bounce(failure(), failure("other@far.example", "552 5.2.2 full")))
    assert about["Reporting-MTA"] == "dns; relay.example"
    assert parsedate_to_datetime(about["Arrival-Date"]).timestamp() == ACCEPTED
    assert [block["Final-Recipient"] for block in blocks] == [
        "rfc822; you@far.example",
        "rfc822; other@far.example",
    ]
    assert {block["Action"] for block in blocks} == {"failed"}
    assert {block["Status"] for block in blocks} == {"5.1.1"}
    assert {block["Remote-MTA"] for block in blocks} == {"dns; mx.far.example"}
    assert blocks[1]["Diagnostic-Code"] == "smtp; 552 5.2.2 full"
    assert parsedate_to_datetime(blocks[0]["Last-Attempt-Date"]).timestamp() == NOW
    assert "Will-Retry-Until" not in blocks[0]


def test_a_report_says_by_when_a_mail_was_wanted() -> None:
    wanted = replace(mail(), options=MailOptions(deliver_by=DeliverBy(seconds=90)))
    about = fields(compose_bounce(Bounce(wanted, (failure(),)), ORIGINAL, SETTINGS, NOW))[0]
    assert parsedate_to_datetime(about["Deliver-By-Date"]).timestamp() == ACCEPTED + 90
    assert "Deliver-By-Date" not in fields(bounce(failure()))[0]


def test_a_peer_that_said_nothing_has_no_diagnostic_code() -> None:
    report = bounce(failure(diagnostic=None))
    assert "Diagnostic-Code" not in fields(report)[1]
    assert "the connection was lost" in parts(report)[0].get_content()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("mx.far.example", "dns; mx.far.example"),
        ("192.0.2.7", "dns; [192.0.2.7]"),
        ("2001:db8::7", "dns; [IPv6:2001:db8::7]"),
        ("", None),
    ],
)
def test_the_peer_is_named_or_stands_in_brackets_or_was_not_reached(host: str, shown: str | None) -> None:
    block = fields(bounce(replace(failure(), remote_host=host)))[1]
    assert block["Remote-MTA"] == shown


def test_a_delay_says_until_when() -> None:
    report = compose_delay_warning(DelayWarning(mail(), (failure(),), UNTIL), ORIGINAL, SETTINGS, NOW)
    block = fields(report)[1]
    assert block["Action"] == "delayed"
    assert parsedate_to_datetime(block["Will-Retry-Until"]).timestamp() == UNTIL
    assert [part.get_content_type() for part in parts(report)][1] == "message/delivery-status"


@pytest.mark.parametrize("moment", [math.inf, 1e300, -1e300])
def test_a_time_beyond_all_dates_is_no_reason_to_send_no_report(moment: float) -> None:
    old = replace(mail(), accepted_at=moment)
    about, block = fields(compose_delay_warning(DelayWarning(old, (failure(),), moment), ORIGINAL, SETTINGS, NOW))
    expected = 9999 if moment > 0 else 1970
    assert parsedate_to_datetime(about["Arrival-Date"]).year == expected
    assert parsedate_to_datetime(block["Will-Retry-Until"]).year == expected


def test_people_read_the_recipient_and_the_peers_own_words() -> None:
    text = parts(bounce(failure(diagnostic="550 Zürich kennt dich nicht")))[0].get_content()
    assert "<you@far.example>: 550 Zürich kennt dich nicht" in text


def test_a_small_original_is_shown_whole() -> None:
    assert ORIGINAL in bounce(failure())


def test_of_a_large_original_the_header_is_shown() -> None:
    original = b"Subject: large\r\nX-Last: yes\r\n\r\n" + b"x" * 2000
    shown = parts(bounce(failure(), original=original[:1000], size=len(original)))[2]
    assert shown.get_content_type() == "text/rfc822-headers"
    assert shown.get_payload() == "Subject: large\r\nX-Last: yes\r\n"


def test_of_a_header_that_is_cut_off_only_whole_lines_are_shown() -> None:
    original = b"Subject: large\r\n" + b"X-Filler: " + b"y" * 2000
    shown = parts(bounce(failure(), original=original[:1000], size=5000))[2]
    assert shown.get_payload() == "Subject: large\r\n"


MIME = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
GREETINGS = MIME + "8bit\r\n\r\ngrüße\r\n".encode()
SIGNED = b"DKIM-Signature: v=1\r\n"


@pytest.mark.parametrize("signature", [b"", SIGNED])
def test_originals_are_given_back_in_seven_bits(signature: bytes) -> None:
    """A server without 8BITMIME could refuse a report that has more, and then the sender would never learn."""
    report = bounce(failure(), original=signature + GREETINGS)
    assert report.isascii()
    assert parts(report)[2].get_content_type() == "message/rfc822"
    assert report.partition(b"message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n")[2].startswith(
        signature + MIME + b"quoted-printable\r\n\r\ngr=C3=BC=C3=9Fe\r\n\r\n--"
    )


@pytest.mark.parametrize(
    "original",
    [
        "Subject: no MIME\r\n\r\ngrüße\r\n".encode(),
        "Subject: grüße\r\n".encode() + GREETINGS,
        b"Subject: " + b"x" * 900 + b"y" * 99 + b"\r\n\r\nplain\r\n",
        SIGNED + b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed\r\n\r\n\xff\r\n",
    ],
)
@pytest.mark.parametrize("wide", [False, True])
def test_of_originals_that_cannot_be_converted_the_header_is_given_back(original: bytes, wide: bool) -> None:
    about = replace(mail(len(original)), utf8_header=wide)
    settings = replace(SETTINGS, whole_message_in_reports=2000)
    report = compose_bounce(Bounce(about, (failure(),)), original, settings, NOW)
    assert all(len(line) <= 998 for line in report.split(b"\r\n"))
    shown = parts(report)[2]
    if wide:
        assert shown.get_content_type() in ("message/global", "message/global-headers")
        return
    assert report.isascii()
    assert shown.get_content_type() == "text/rfc822-headers"
    header = original.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert cast("bytes", shown.get_payload(decode=True)) == header


def test_what_people_read_has_seven_bits_too() -> None:
    report = bounce(failure(diagnostic="550 Zürich kennt dich nicht"))
    assert report.isascii()
    assert parsed(report)["Content-Transfer-Encoding"] == "7bit"


def test_an_original_that_holds_our_own_boundary_changes_it() -> None:
    first = bounce(failure())
    boundary = parsed(first).get_boundary()
    assert boundary is not None
    original = b"Subject: x\r\n\r\n--" + boundary.encode() + b"--\r\n"
    second = bounce(failure(), original=original)
    assert parsed(second).get_boundary() != boundary
    assert len(parts(second)) == 3
    assert original in second


@given(st.lists(words, min_size=1, max_size=3), originals, st.booleans())
def test_nothing_that_was_said_or_sent_breaks_the_structure(said: list[str], original: bytes, late: bool) -> None:
    failures = tuple(failure(f"user{number}@far.example", text) for number, text in enumerate(said))
    if late:
        report = compose_delay_warning(DelayWarning(mail(len(original)), failures, UNTIL), original, SETTINGS, NOW)
    else:
        report = bounce(*failures, original=original)
    message = parsed(report)
    assert not message.defects
    assert len(parts(report)) == 3
    blocks = fields(report)
    assert len(blocks) == 1 + len(said)
    for number, block in enumerate(blocks[1:]):
        assert block["Final-Recipient"] == f"rfc822; user{number}@far.example"
        assert block["Status"] == "5.1.1"
        assert block["Action"] == ("delayed" if late else "failed")
    assert parts(report)[2].get_content_type() in ("text/rfc822-headers", "message/rfc822")
    assert report.isascii()
    assert all(len(line) <= 998 for line in report.split(b"\r\n"))
    assert not set(report.replace(b"\r\n", b"")) & {0x0D, 0x0A, 0x00}


@pytest.mark.parametrize("evil", ["\0", "\r\n\r\nSubject: x", "\x1b[2J", "\x7f", "\x85"])
def test_control_characters_are_shown_and_not_sent(evil: str) -> None:
    report = bounce(failure(diagnostic=f"550 a{evil}b"))
    ours = report.partition(b"Content-Type: message/rfc822")[0]
    assert not [octet for octet in ours.replace(b"\r\n", b"") if octet < 32 or octet == 127]
    assert "\\" in parts(report)[0].get_content()
    assert not parsed(report).defects


# --- what was asked ---------------------------------------------------------------------------------------------------


def bounce_of(asked: StoredMail, *failures: Failure, original: bytes = ORIGINAL) -> bytes:
    return compose_bounce(Bounce(asked, failures or (failure(),)), original, SETTINGS, NOW)


def third(report: bytes) -> tuple[str, str]:
    part = parts(report)[2]
    return part.get_content_type(), part.as_string()


@pytest.mark.parametrize(
    ("asked", "whole"),
    [
        (mail(), True),
        (replace(mail(), options=MailOptions(returned=Return.FULL)), True),
        (replace(mail(), options=MailOptions(returned=Return.HEADERS)), False),
        (replace(mail(), options=MailOptions(returned=Return.FULL, require_tls=True)), False),
        (replace(mail(), options=MailOptions(returned=Return.FULL), size=5000), False),
        (replace(mail(), options=MailOptions(returned=Return.FULL), binary=True), False),
    ],
    ids=["nothing", "full", "headers", "TLS", "full but large", "binary"],
)
def test_as_much_of_the_original_comes_back_as_was_asked_and_may(asked: StoredMail, whole: bool) -> None:
    kind, shown = third(bounce_of(asked))
    assert kind == ("message/rfc822" if whole else "text/rfc822-headers")
    assert "Subject: hello" in shown
    assert ("The text." in shown) is whole


def test_a_delay_shows_the_header_only() -> None:
    order = DelayWarning(replace(mail(), options=MailOptions(returned=Return.FULL)), (failure(),), UNTIL)
    kind, shown = third(compose_delay_warning(order, ORIGINAL, SETTINGS, NOW))
    assert kind == "text/rfc822-headers"
    assert "The text." not in shown


def test_what_the_sender_called_mail_and_recipients_stands_in_the_report() -> None:
    asked = replace(mail(), options=MailOptions(envelope_id="QQ 314+159"))
    wish = RecipientOptions(original_recipient="List+x=y Name", address_type="x-Local")
    about, known, other = fields(bounce_of(asked, replace(failure(), options=wish), failure("b@far.example")))
    assert about["Original-Envelope-Id"] == "QQ 314+159"
    assert known["Original-Recipient"] == "x-Local; List+x=y Name"
    assert other["Original-Recipient"] is None
    assert fields(bounce(replace(failure(), options=RecipientOptions())))[0]["Original-Envelope-Id"] is None


@pytest.mark.parametrize("relayed", [True, False])
def test_a_success_says_how_far_the_mail_came(relayed: bool) -> None:
    wish = RecipientOptions(original_recipient="list@home.example")
    success = Success("you@far.example", relayed, "2.1.5", "250 2.1.5 taken", "mx.far.example", wish)
    other = Success("b@far.example", relayed, "2.0.0", "250 ok", "")
    report = compose_confirmation(Confirmation(mail(), (success, other)), ORIGINAL, SETTINGS, NOW)
    message = parsed(report)
    assert message["Subject"] == ("Your mail has been passed on" if relayed else "Your mail has been delivered")
    _, block, _ = fields(report)
    assert (block["Action"], block["Status"]) == ("relayed" if relayed else "delivered", "2.1.5")
    assert block["Original-Recipient"] == "rfc822; list@home.example"
    assert block["Remote-MTA"] == "dns; mx.far.example"
    assert block["Diagnostic-Code"] == "smtp; 250 2.1.5 taken"
    text = parts(report)[0].get_content()
    assert ("<you@far.example>: passed on to mx.far.example" in text) is relayed
    assert ("<you@far.example>: delivered to the mailbox" in text) is not relayed
    assert third(report)[0] == "text/rfc822-headers"
    assert not message.defects


def test_two_reports_of_one_moment_have_names_of_their_own() -> None:
    success = Success("you@far.example", True, "2.0.0", "250 ok", "")
    reports = [
        compose_confirmation(Confirmation(mail(), (success,)), ORIGINAL, SETTINGS, NOW),
        compose_confirmation(Confirmation(mail(), (replace(success, relayed=False),)), ORIGINAL, SETTINGS, NOW),
        compose_delay_warning(DelayWarning(mail(), (failure(),), UNTIL), ORIGINAL, SETTINGS, NOW),
        bounce(failure()),
    ]
    assert len({parsed(report)["Message-ID"] for report in reports}) == 4


# --- beyond ASCII -----------------------------------------------------------------------------------------------------

BEYOND = replace(mail(), reverse_path="größe@home.example", utf8_header=True)
UTF8_ORIGINAL = "Subject: grüße\r\n\r\nDer Text.\r\n".encode()


def test_a_sender_beyond_ascii_is_answered_in_the_forms_of_rfc_6533() -> None:
    wish = RecipientOptions(original_recipient="büro liste@far.example")
    told = replace(failure("jörg@far.example", "550 5.1.1 kein Jörg"), options=wish)
    report = bounce_of(replace(BEYOND, size=len(UTF8_ORIGINAL)), told, original=UTF8_ORIGINAL)
    assert "To: <größe@home.example>\r\n".encode() in report
    assert "Original-Recipient: utf-8; büro liste@far.example\r\n".encode() in report
    assert "Final-Recipient: utf-8; jörg@far.example\r\n".encode() in report
    assert "Diagnostic-Code: smtp; 550 5.1.1 kein Jörg\r\n".encode() in report
    kinds = [part.get_content_type() for part in parts(report)]
    assert kinds == ["text/plain", "message/global-delivery-status", "message/global"]
    assert b"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + UTF8_ORIGINAL in report
    header_only = replace(BEYOND, options=MailOptions(returned=Return.HEADERS))
    assert third(bounce_of(header_only, told, original=UTF8_ORIGINAL))[0] == "message/global-headers"


def test_a_mail_with_a_header_beyond_ascii_is_answered_so_too() -> None:
    report = bounce_of(replace(BEYOND, reverse_path="me@home.example"), failure("jörg@far.example"))
    assert "Final-Recipient: utf-8; jörg@far.example\r\n".encode() in report
    assert parts(report)[1].get_content_type() == "message/global-delivery-status"


def test_what_is_ascii_all_through_needs_no_new_forms() -> None:
    report = bounce_of(replace(BEYOND, utf8_header=False))
    kinds = [part.get_content_type() for part in parts(report)]
    assert kinds == ["text/plain", "message/delivery-status", "message/rfc822"]


def test_a_sender_within_ascii_reads_addresses_beyond_it_encoded() -> None:
    wish = RecipientOptions(original_recipient="büro@far.example")
    told = replace(failure("jörg@far.example", "550 kein Jörg"), options=wish)
    report = bounce(told)
    block = fields(report)[1]
    assert block["Original-Recipient"] == r"utf-8; b\x{FC}ro@far.example"
    assert block["Final-Recipient"] == r"utf-8; j\x{F6}rg@far.example"
    assert block["Diagnostic-Code"] == r"smtp; 550 kein J\xf6rg"
    header, _, status = report.partition(b"message/delivery-status")
    assert header.partition(b"\r\n\r\n")[0].isascii()
    assert status.partition(b"--report")[0].isascii()
