"""What a client asks about bodies that may not fit its peer, and what becomes of the mail.

What lives here: every wish and every fact against peers that take octets above 127 and peers that do not; the answers
of a driver, right and wrong. What does not: how a message is converted (``test_conversion.py``).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from smtpcore import (
    BodyError,
    BodyFacts,
    BodyForm,
    Client,
    Conversion,
    ConversionFailed,
    Disconnect,
    Envelope,
    ExtensionRequired,
    LocalProtocolError,
    MailRefused,
    MailSent,
    NeedConversion,
    NeedFacts,
    Pipelining,
    ServiceRefused,
    Stage,
    TlsPolicy,
    Verdict,
)
from smtpcore.testing import PureDriver

A, B, C = "alice@a.example", "bob@b.example", "cid@c.example"
CONVERT, REFUSE, AS_IS = Conversion.CONVERT, Conversion.REFUSE, Conversion.AS_IS
SEVEN_BIT = BodyFacts(size=30, eight_bit=False, long_lines=False, repeatable=True)


def mail(*recipients: str, **facts: Any) -> Envelope:
    return Envelope(A, recipients or (B,), body=BodyFacts(**facts))


def opened(*extensions: str, **options: Any) -> PureDriver:
    """An open session with a peer that offers ``extensions``."""
    driver = PureDriver(Client("client.example", tls=TlsPolicy.SECURED, **options))
    driver.run()
    driver.hear(b"220 hi\r\n")
    lines = ["mx.example", *extensions]
    driver.hear("".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode())
    return driver


def refusal(driver: PureDriver) -> MailRefused:
    (report,) = driver.reports
    assert isinstance(report, MailRefused)
    return report


# --- what is asked ----------------------------------------------------------------------------------------------------


def expected(takes: bool, eight_bit: Any, wish: Any, long: Any, long_wish: Conversion) -> str | BodyForm:
    """What a client does with a body, in words: the rules once more, one after the other."""
    form = BodyForm(eight_bit=takes or wish is not CONVERT, long_lines=long_wish is not CONVERT)
    too_much = not takes and wish is not None
    if (too_much and wish is CONVERT and eight_bit) or (long_wish is CONVERT and long):
        return form
    if (too_much and wish is not AS_IS and eight_bit is None) or (long_wish is not AS_IS and long is None):
        return "asks"
    if long_wish is REFUSE and long:
        return "5.6.0"
    if eight_bit and not takes and wish is not AS_IS:
        return "5.6.3"
    return "says BODY=8BITMIME" if takes and eight_bit is not False else "says"


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("wish", [None, CONVERT, REFUSE, AS_IS])
@pytest.mark.parametrize("long_wish", [CONVERT, REFUSE, AS_IS])
def test_every_wish_and_every_fact(takes: bool, wish: Conversion | None, long_wish: Conversion) -> None:
    for eight_bit, long in itertools.product((None, True, False), repeat=2):
        driver = opened(*["8BITMIME"] * takes, eight_bit=wish, long_lines=long_wish)
        driver.give(mail(eight_bit=eight_bit, long_lines=long), None)
        line = driver.run().decode()
        found: object
        if line:
            found = "says" + line.removeprefix("MAIL FROM:<alice@a.example>").rstrip()
        elif isinstance(driver.last, NeedFacts):
            found = "asks"
        elif isinstance(driver.last, NeedConversion):
            found = driver.last.form
        else:
            outcome = refusal(driver).outcomes[0]
            assert isinstance(outcome.error, ExtensionRequired)
            assert outcome.verdict is Verdict.NEVER
            found = outcome.error.enhanced
        assert found == expected(takes, eight_bit, wish, long, long_wish), (eight_bit, long)


@pytest.mark.parametrize("wish", [None, CONVERT, REFUSE, AS_IS])
@pytest.mark.parametrize(
    ("offer", "chunking", "form"),
    [
        (("CHUNKING", "BINARYMIME", "8BITMIME"), True, None),
        (("CHUNKING", "BINARYMIME"), False, BodyForm(long_lines=True)),
        (("CHUNKING", "8BITMIME"), True, BodyForm(eight_bit=True, long_lines=True)),
        ((), True, BodyForm(long_lines=True)),
    ],
)
@pytest.mark.parametrize("known", [None, False])
def test_binary_bodies(
    offer: tuple[str, ...], chunking: bool, form: BodyForm | None, wish: Conversion | None, known: bool | None
) -> None:
    driver = opened(*offer, eight_bit=wish, chunking=chunking)
    driver.give(mail(binary=True, eight_bit=known), None)
    line = driver.run()
    if form is None:
        assert line == b"MAIL FROM:<alice@a.example> BODY=BINARYMIME\r\n"
    elif wish is CONVERT:
        assert isinstance(driver.last, NeedConversion)
        assert driver.last.form == form
    else:
        assert refusal(driver).outcomes[0].enhanced == "5.6.3"


def test_a_binary_body_with_lines_that_are_to_be_short() -> None:
    driver = opened("8BITMIME", eight_bit=CONVERT, long_lines=CONVERT)
    driver.give(mail(binary=True), None)
    driver.run()
    assert isinstance(driver.last, NeedConversion)
    assert driver.last.form == BodyForm(eight_bit=True)


@pytest.mark.parametrize("eight_bit", [None, True])
def test_what_refuses_the_mail_anyway_does_so_before_anything_is_asked(eight_bit: bool | None) -> None:
    driver = opened(eight_bit=CONVERT)
    driver.give(mail(eight_bit=eight_bit, utf8_header=True), None)
    driver.run()
    assert refusal(driver).outcomes[0].enhanced == "5.6.7"


# --- what is answered -------------------------------------------------------------------------------------------------


def test_what_stays_unknown_is_not_asked_again() -> None:
    driver = opened("SIZE", eight_bit=CONVERT, long_lines=CONVERT)
    given = driver.give(mail(), None)
    driver.run()
    assert driver.last == NeedFacts(given)
    driver.client.body_facts(given.envelope.body)
    assert driver.run() == b"MAIL FROM:<alice@a.example>\r\n"


@pytest.mark.parametrize(
    ("wishes", "what", "enhanced"),
    [
        ({"eight_bit": REFUSE}, "octets above 127", "5.6.3"),
        ({"eight_bit": REFUSE, "long_lines": REFUSE}, "octets above 127", "5.6.3"),
        ({"eight_bit": CONVERT, "long_lines": REFUSE}, "lines of more than 998 octets", "5.6.0"),
        ({"long_lines": REFUSE}, "lines of more than 998 octets", "5.6.0"),
    ],
)
def test_what_stays_unknown_is_refused_if_it_is_to_be(wishes: dict[str, Any], what: str, enhanced: str) -> None:
    driver = opened(**wishes)
    given = driver.give(mail(), None)
    driver.run()
    assert driver.last == NeedFacts(given)
    driver.client.body_facts(given.envelope.body)
    driver.run()
    (outcome,) = refusal(driver).outcomes
    assert (outcome.text, outcome.enhanced) == (f"the message may have {what}: it is not known", enhanced)


def test_facts_that_tell_lead_to_a_conversion_and_the_new_size_is_said() -> None:
    driver = opened("SIZE 100", "PIPELINING", eight_bit=CONVERT)
    given = driver.give(mail(B, C, size=20), None)
    driver.run()
    driver.client.body_facts(BodyFacts(size=20, eight_bit=True, repeatable=True))
    assert driver.run() == b""
    assert driver.last == NeedConversion(given, BodyForm(long_lines=True))
    assert driver.client.snapshot().need == driver.last
    driver.client.body_facts(SEVEN_BIT)
    assert driver.run().startswith(b"MAIL FROM:<alice@a.example> SIZE=30\r\nRCPT ")
    assert driver.client.snapshot().need is None
    # The converted body is the one that is read again, though the one that was asked for could not be.
    driver.hear(b"250 ok\r\n250 ok\r\n452 one at a time\r\n354 go\r\n")
    driver.client.send_body(b"Hi\r\n")
    driver.client.send_body(b"")
    driver.run()
    said = driver.hear(b"250 taken\r\n")
    assert said == b"MAIL FROM:<alice@a.example> SIZE=30\r\nRCPT TO:<cid@c.example>\r\nDATA\r\n"
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.client.send_body(b"Hi\r\n")
    driver.client.send_body(b"")
    driver.run()
    driver.hear(b"250 taken\r\n")
    (report,) = driver.reports
    assert isinstance(report, MailSent)
    assert report.mail is given
    assert given.envelope.body == BodyFacts(size=20)


def test_what_became_too_large_is_refused() -> None:
    driver = opened("SIZE 29", eight_bit=CONVERT)
    driver.give(mail(size=20, eight_bit=True), None)
    driver.run()
    driver.client.body_facts(SEVEN_BIT)
    driver.run()
    assert refusal(driver).outcomes[0].enhanced == "5.3.4"


@pytest.mark.parametrize(
    ("wishes", "facts"),
    [
        ({"eight_bit": CONVERT}, BodyFacts(eight_bit=True, long_lines=False)),
        ({"eight_bit": CONVERT}, BodyFacts(long_lines=False)),
        ({"eight_bit": CONVERT}, BodyFacts(binary=True, eight_bit=False, long_lines=False)),
        ({"long_lines": CONVERT}, BodyFacts(eight_bit=False, long_lines=True)),
        ({"long_lines": CONVERT}, BodyFacts(eight_bit=False)),
    ],
)
def test_a_body_that_is_not_in_the_form_is_an_error_and_changes_nothing(
    wishes: dict[str, Any], facts: BodyFacts
) -> None:
    driver = opened(**wishes)
    driver.give(mail(eight_bit=True, long_lines=True), None)
    driver.run()
    before = driver.client.snapshot()
    with pytest.raises(LocalProtocolError, match="not in the form"):
        driver.client.body_facts(facts)
    assert driver.client.snapshot() == before
    driver.client.body_facts(BodyFacts(eight_bit="long_lines" in wishes, long_lines="eight_bit" in wishes))
    assert driver.client.snapshot().need is None


def test_facts_that_are_none_are_an_error() -> None:
    driver = opened(eight_bit=CONVERT)
    driver.give(mail(), None)
    driver.run()
    with pytest.raises(LocalProtocolError, match="must be a BodyFacts"):
        driver.client.body_facts(None)  # type: ignore[arg-type]  # a wrong kind, on purpose


def test_facts_that_nobody_asked_for_are_an_error() -> None:
    driver = opened(eight_bit=CONVERT)
    with pytest.raises(LocalProtocolError, match="no facts are due"):
        driver.client.body_facts(SEVEN_BIT)
    with pytest.raises(LocalProtocolError, match="no body is due"):
        driver.client.body_failed("broken")


def test_a_body_that_cannot_be_converted_is_refused_and_the_session_goes_on() -> None:
    driver = opened(eight_bit=CONVERT)
    driver.give(mail(B, C, eight_bit=True), None)
    driver.run()
    driver.client.body_failed(ConversionFailed("1.2", "it is signed", "5.6.2"))
    driver.run()
    report = refusal(driver)
    assert report.stage is Stage.NOT_STARTED
    assert [(o.recipient, o.verdict, o.enhanced) for o in report.outcomes] == [
        (B, Verdict.NEVER, "5.6.2"),
        (C, Verdict.NEVER, "5.6.2"),
    ]
    driver.give(mail(eight_bit=False), None)
    assert driver.run() == b"MAIL FROM:<alice@a.example>\r\n"


def test_a_body_that_breaks_before_it_is_sent_is_for_another_attempt() -> None:
    driver = opened(eight_bit=CONVERT)
    driver.give(mail(), None)
    driver.run()
    driver.client.body_failed(OSError("the disk is gone"))
    driver.run()
    report = refusal(driver)
    # An attempt is spent, or whoever tries again would do so at once and for ever.
    assert report.stage is Stage.STARTED
    (outcome,) = report.outcomes
    assert outcome.verdict is Verdict.LATER
    assert not outcome.in_doubt
    assert isinstance(outcome.error, BodyError)
    assert isinstance(outcome.error.__cause__, OSError)
    driver.give(mail(eight_bit=False), None)
    assert driver.run() == b"MAIL FROM:<alice@a.example>\r\n"


def test_a_peer_that_leaves_while_a_body_is_asked_about() -> None:
    driver = opened(eight_bit=CONVERT)
    driver.give(mail(), None)
    driver.run()
    assert isinstance(driver.last, NeedFacts)
    driver.hear(b"421 closing\r\n")
    assert isinstance(driver.last, Disconnect)
    report = refusal(driver)
    assert report.stage is Stage.NOT_STARTED
    assert isinstance(report.outcomes[0].error, ServiceRefused)
    with pytest.raises(LocalProtocolError, match="no facts are due"):
        driver.client.body_facts(SEVEN_BIT)


def test_a_mail_before_it_is_finished_while_a_body_is_asked_about() -> None:
    """Across mails the next mail is asked about while the verdict on the last one is on its way."""
    driver = opened("PIPELINING", eight_bit=CONVERT, pipelining=Pipelining.ACROSS)
    first = driver.give(mail(eight_bit=False), b"Hi\r\n")
    second = driver.give(mail(C, eight_bit=True), b"Ho\r\n")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert driver.last == NeedConversion(second, BodyForm(long_lines=True))
    assert driver.hear(b"250 taken\r\n") == b""
    driver.client.body_facts(SEVEN_BIT)
    assert driver.run() == b"MAIL FROM:<alice@a.example>\r\nRCPT TO:<cid@c.example>\r\nDATA\r\n"
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.hear(b"250 taken\r\n")
    driver.hear(b"250 reset\r\n214 help\r\n")
    assert [report.mail for report in driver.reports] == [first, second]
    assert all(isinstance(report, MailSent) for report in driver.reports)
