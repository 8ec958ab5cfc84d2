"""The relay's values: routes, stored mails, the division of recipients into jobs.

What lives here: what they compute and what they refuse. What does not: the machine that uses them.
"""

from __future__ import annotations

import pytest

from smtpcore import LocalProtocolError, MailOptions, Notify, RecipientOptions
from smtpcore.relay import (
    Delivery,
    Job,
    NextHop,
    PendingRecipient,
    SmartHost,
    StoredMail,
    recipients_by_domain,
)


def test_all_domains_go_to_the_smart_host() -> None:
    route = SmartHost("hub.example", 587)
    assert route.way("a.example") == route.way("b.example") == route
    assert SmartHost("::1").host == "::1"


@pytest.mark.parametrize(("host", "port"), [("hub.example", 0), ("hub.example", 65_536), ("no host", 25), ("", 25)])
def test_a_smart_host_that_is_none_is_refused(host: str, port: int) -> None:
    with pytest.raises(LocalProtocolError):
        SmartHost(host, port)


def test_recipients_become_jobs_by_domain_without_regard_to_case() -> None:
    recipients = ["a@X.example", "b@y.example", "c@x.EXAMPLE", "Postmaster"]
    assert list(recipients_by_domain(recipients)) == [
        ("x.example", ("a@X.example", "c@x.EXAMPLE")),
        ("y.example", ("b@y.example",)),
        ("", ("Postmaster",)),
    ]


def test_a_job_has_only_so_many_recipients() -> None:
    jobs = list(recipients_by_domain([f"u{n}@a.example" for n in range(5)], most=2))
    assert [len(members) for _, members in jobs] == [2, 2, 1]


@pytest.mark.parametrize("dots", [True, False])
def test_a_stored_mail_passes_through_only_without_leading_dots(dots: bool) -> None:
    mail = StoredMail(mail_id=1, reverse_path="", size=5, eight_bit=True, leading_dots=dots, accepted_at=0.0)
    facts = mail.body_facts
    assert (facts.canonical, facts.eight_bit, facts.size, facts.repeatable) == (not dots, True, 5, True)


@pytest.mark.parametrize(("longest_line", "long_lines"), [(None, None), (0, False), (998, False), (999, True)])
def test_a_stored_mail_tells_whether_it_has_long_lines(longest_line: int | None, long_lines: bool | None) -> None:
    mail = StoredMail(
        mail_id=1,
        reverse_path="",
        size=5,
        eight_bit=True,
        leading_dots=False,
        accepted_at=0.0,
        longest_line=longest_line,
    )
    assert mail.body_facts.long_lines is long_lines


def test_domains_beyond_ascii_are_written_as_the_caller_says() -> None:
    recipients = ["a@BÜRO.example", "b@x.example", "ö@X.example", "c@büro.example"]
    jobs = recipients_by_domain(recipients, to_a_labels=lambda domain: domain.replace("ü", "-U-"))
    assert list(jobs) == [
        ("b-u-ro.example", ("a@BÜRO.example", "c@büro.example")),
        ("x.example", ("b@x.example", "ö@X.example")),
    ]


def test_a_delivery_says_all_that_was_asked() -> None:
    options, wish = MailOptions(priority=3), RecipientOptions(notify=[Notify.NEVER])
    mail = StoredMail(
        mail_id=1,
        reverse_path="größe@home.example",
        size=5,
        eight_bit=True,
        leading_dots=True,
        accepted_at=0.0,
        binary=True,
        utf8_header=True,
        options=options,
    )
    recipients = (PendingRecipient("a@x.example"), PendingRecipient("b@x.example", options=wish))
    job = Job(job_id=1, mail_id=1, domain="x.example", due_at=0.0, attempts=1, recipients=recipients)
    envelope = Delivery(1, mail, (job,), NextHop("hub.example", 25)).envelope
    assert (envelope.options, envelope.recipient_options) == (options, {"b@x.example": wish})
    assert (envelope.body.binary, envelope.body.canonical, envelope.body.utf8_header) == (True, True, True)
