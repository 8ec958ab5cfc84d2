"""What MAIL and RCPT say of a mail, and which mails a peer cannot be given.

What lives here: every option and every kind of mail against every peer, and the whole way through a client. What does
not: when the lines are said.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import (
    BodyFacts,
    Client,
    DeliverBy,
    Envelope,
    ExtensionRequired,
    Limits,
    LocalProtocolError,
    MailOptions,
    MailRefused,
    MailSent,
    NeedBody,
    Notify,
    RecipientOptions,
    Return,
    SessionAborted,
    Stage,
    TlsInfo,
    TlsPolicy,
    Verdict,
    decode_xtext,
)
from smtpcore.testing import PureDriver

A, B, C = "alice@a.example", "bob@b.example", "cid@c.example"
NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
PLAIN = "MAIL FROM:<alice@a.example>"


def mail(*recipients: str, sender: str = A, recipient_options: Any = (), **wishes: Any) -> Envelope:
    """An envelope of facts of the body and options of the mail, by their names."""
    facts = {name: wishes.pop(name) for name in BodyFacts.__slots__ if name in wishes}
    facts.setdefault("eight_bit", False)
    return Envelope(
        sender,
        recipients or (B,),
        body=BodyFacts(**facts),
        options=MailOptions(**wishes),
        recipient_options=dict(recipient_options),
    )


def opened(*extensions: str, verified: bool | None = None, **options: Any) -> PureDriver:
    """An open session with a peer that offers ``extensions``; ``verified`` says what TLS found, if it was there."""
    policy = TlsPolicy.SECURED if verified is None else TlsPolicy.IMPLICIT
    driver = PureDriver(Client("client.example", tls=policy, **options))
    driver.run()
    if verified is not None:
        driver.client.tls_started(TlsInfo("TLSv1.3", "TLS_TEST", verified))
        driver.run()
    driver.hear(b"220 hi\r\n")
    lines = ["mx.example", *extensions]
    driver.hear("".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode())
    return driver


def said(envelope: Envelope, *extensions: str, **options: Any) -> list[str] | ExtensionRequired:
    """The lines before the body, or why there are none."""
    driver = opened("PIPELINING", *extensions, **options)
    driver.give(envelope, None)
    lines = driver.run().decode().splitlines()
    if lines:
        return [line for line in lines if line != "DATA"]
    (report,) = driver.reports
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    assert [outcome.recipient for outcome in report.outcomes] == list(envelope.recipients)
    assert all(outcome.verdict is Verdict.NEVER for outcome in report.outcomes)
    error = report.outcomes[0].error
    assert isinstance(error, ExtensionRequired)
    assert report.outcomes[0].enhanced == error.enhanced
    return error


def mail_line(envelope: Envelope, *extensions: str, **options: Any) -> str:
    lines = said(envelope, *extensions, **options)
    assert isinstance(lines, list)
    assert lines[0].startswith("MAIL ")
    assert all(line.startswith("RCPT ") for line in lines[1:])
    return lines[0]


def refused(envelope: Envelope, *extensions: str, **options: Any) -> str:
    error = said(envelope, *extensions, **options)
    assert isinstance(error, ExtensionRequired)
    return f"{error.enhanced} {error}"


# --- a mail as every mail is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eight_bit", [True, False, None])
@pytest.mark.parametrize("size", [None, 0, 10, 11])
def test_size_and_octets_above_127_against_every_peer(size: int | None, eight_bit: bool | None) -> None:
    envelope = mail(size=size, eight_bit=eight_bit)
    for size_line, eight in itertools.product((None, "SIZE", "size 0", "SIZE 10"), (False, True)):
        offers = [*([size_line] if size_line else []), *(["8bitmime"] if eight else [])]
        if size == 11 and size_line == "SIZE 10":
            assert refused(envelope, *offers).startswith("5.3.4 ")
        elif eight_bit and not eight:
            assert refused(envelope, *offers).startswith("5.6.3 ")
        else:
            words = mail_line(envelope, *offers).removeprefix(PLAIN).split()
            assert ("BODY=8BITMIME" in words) == (eight and eight_bit is not False)
            assert (f"SIZE={size}" in words) == (size is not None and size_line is not None)
            assert len(words) == ("BODY=8BITMIME" in words) + any(word.startswith("SIZE=") for word in words)


def test_a_peer_that_speaks_helo_only_offers_nothing() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.NEVER))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"500 what\r\n")
    driver.hear(b"250 hello\r\n")
    driver.give(mail(size=5, eight_bit=None, returned=Return.FULL), None)
    assert driver.run() == PLAIN.encode() + b"\r\n"
    assert driver.hear(b"250 ok\r\n") == b"RCPT TO:<bob@b.example>\r\n"
    assert driver.hear(b"250 ok\r\n") == b"DATA\r\n"


def test_the_null_reverse_path_and_postmaster_are_said_as_they_are() -> None:
    assert said(mail("Postmaster", '"a> b"@x.example', sender="")) == [
        "MAIL FROM:<>",
        "RCPT TO:<Postmaster>",
        'RCPT TO:<"a> b"@x.example>',
    ]


def test_a_mail_whose_longest_line_would_be_too_long_is_refused_when_it_is_asked_for() -> None:
    wishes: list[tuple[Envelope, str]] = [
        (mail(size=5, eight_bit=None), f"{PLAIN} SIZE=5 BODY=8BITMIME"),
        (mail(size=10**20 - 1, eight_bit=None), f"{PLAIN} SIZE={10**20 - 1} BODY=8BITMIME"),
        (mail(binary=True), f"{PLAIN} BODY=BINARYMIME"),
        (mail(require_tls=True), f"{PLAIN} REQUIRETLS"),
        (mail(returned=Return.FULL, envelope_id="x" * 90), f"{PLAIN} RET=FULL ENVID={'x' * 90}"),
        (mail("b" * 100 + "@b.example"), f"RCPT TO:<{'b' * 100}@b.example>"),
        (
            mail(recipient_options={B: RecipientOptions(original_recipient="x" * 100)}),
            f"RCPT TO:<{B}> ORCPT=rfc822;{'x' * 100}",
        ),
        (mail("ü" * 100 + "@b.example"), f"RCPT TO:<{'ü' * 100}@b.example>"),
    ]
    for envelope, longest in wishes:
        octets = len(longest.encode()) + 2
        Client("x.example", limits=Limits(command_line=octets)).send(envelope)
        client = Client("x.example", limits=Limits(command_line=octets - 1))
        before = client.snapshot()
        with pytest.raises(LocalProtocolError, match=r"Limits\.command_line"):
            client.send(envelope)
        assert client.snapshot() == before


# --- options of a mail ------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    # What is asked, what offers it, what is said.
    ({"returned": Return.FULL}, "DSN", "RET=FULL"),
    ({"returned": Return.HEADERS}, "DSN", "RET=HDRS"),
    ({"envelope_id": "a b+c=d"}, "DSN", "ENVID=a+20b+2Bc+3Dd"),
    ({"priority": 0}, "MT-PRIORITY", "MT-PRIORITY=0"),
    ({"priority": -9}, "MT-PRIORITY MIXER", "MT-PRIORITY=-9"),
    ({"submitter": ""}, "AUTH PLAIN", "AUTH=<>"),
    ({"submitter": "e+mc2@x.example"}, "AUTH PLAIN", "AUTH=e+2Bmc2@x.example"),
    ({"deliver_by": DeliverBy(seconds=-5, notify_only=True)}, "DELIVERBY 240", "BY=-5;N"),
    ({"deliver_by": DeliverBy(seconds=120, notify_only=True, trace=True)}, "DELIVERBY", "BY=120;NT"),
]

DEMANDS: list[tuple[dict[str, Any], str, str, str]] = [
    # What is asked, what offers it, what is said, with which status it is refused where it is not offered.
    ({"deliver_by": DeliverBy(seconds=240)}, "DELIVERBY 240", "BY=240;R", "5.3.3"),
    ({"deliver_by": DeliverBy(seconds=1, trace=True)}, "DELIVERBY", "BY=1;RT", "5.3.3"),
    ({"deliver_by": DeliverBy(seconds=1)}, "DELIVERBY ,later,240", "BY=1;R", "5.3.3"),
    ({"hold_for": 60}, "FUTURERELEASE 60 2030-01-01T00:00:00Z", "HOLDFOR=60", "5.3.3"),
    ({"hold_until": NOON}, "FUTURERELEASE 60 2030-01-31T12:00:00Z", "HOLDUNTIL=2030-01-31T12:00:00Z", "5.3.3"),
    ({"hold_until": NOON}, "FUTURERELEASE", "HOLDUNTIL=2030-01-31T12:00:00Z", "5.3.3"),
    ({"hold_until": NOON}, "FUTURERELEASE 60 whenever", "HOLDUNTIL=2030-01-31T12:00:00Z", "5.3.3"),
    # Moments of another shape or another zone are not compared.
    ({"hold_until": NOON}, "FUTURERELEASE 60 2030-01-31T11Z", "HOLDUNTIL=2030-01-31T12:00:00Z", "5.3.3"),
    ({"hold_until": NOON}, "FUTURERELEASE 60 2030-01-31T11:00:00A", "HOLDUNTIL=2030-01-31T12:00:00Z", "5.3.3"),
    ({"utf8_header": True}, "SMTPUTF8", "SMTPUTF8", "5.6.7"),
]


@pytest.mark.parametrize(("wish", "offer", "text"), OPTIONS)
def test_a_wish_is_said_where_it_is_offered_and_left_out_elsewhere(wish: dict[str, Any], offer: str, text: str) -> None:
    assert mail_line(mail(**wish), offer) == f"{PLAIN} {text}"
    assert mail_line(mail(**wish), offer.lower(), "SIZE") == f"{PLAIN} {text}"
    assert mail_line(mail(**wish)) == PLAIN


@pytest.mark.parametrize(("wish", "offer", "text", "status"), DEMANDS)
def test_a_demand_is_said_where_it_is_offered_and_the_mail_refused_elsewhere(
    wish: dict[str, Any], offer: str, text: str, status: str
) -> None:
    assert mail_line(mail(**wish), offer) == f"{PLAIN} {text}"
    assert refused(mail(**wish), "DSN").startswith(f"{status} ")
    assert refused(mail(**wish)).endswith(f"the peer does not offer {offer.split(maxsplit=1)[0]}")


@pytest.mark.parametrize(
    ("wish", "offer", "message"),
    [
        ({"deliver_by": DeliverBy(seconds=239)}, "DELIVERBY 240", "5.4.7 delivery within 239 seconds"),
        ({"deliver_by": DeliverBy(seconds=239)}, "DELIVERBY 240,later", "5.4.7 delivery within 239 seconds"),
        ({"hold_for": 61}, "FUTURERELEASE 60 2030-01-01T00:00:00Z", "5.5.4 a mail held for 61 seconds"),
        (
            {"hold_until": NOON + timedelta(seconds=1)},
            "FUTURERELEASE 60 2030-01-31T12:00:00Z",
            "5.5.4 a mail held until 2030-01-31T12:00:01Z",
        ),
    ],
)
def test_what_is_beyond_the_limits_of_the_peer_is_refused_here(wish: dict[str, Any], offer: str, message: str) -> None:
    assert refused(mail(**wish), offer).startswith(message)


def test_a_moment_is_said_in_utc_without_parts_of_a_second() -> None:
    summer = datetime(2030, 6, 1, 1, 30, 15, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert mail_line(mail(hold_until=summer), "FUTURERELEASE 1 2030-05-31T23:30:15Z").endswith("=2030-05-31T23:30:15Z")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59Z"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=1))), "9999-12-31T22:59:59Z"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=-1))), "0001-01-01T01:00:00Z"),
        # A zone may be off by parts of a second.
        (datetime(2030, 1, 1, tzinfo=timezone(timedelta(microseconds=1))), "2029-12-31T23:59:59Z"),
    ],
)
def test_a_moment_may_be_the_last_of_the_calendar(moment: datetime, text: str) -> None:
    assert MailOptions(hold_until=moment).held_until == text


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_a_moment_beyond_the_calendar_is_none(moment: datetime) -> None:
    with pytest.raises(LocalProtocolError, match="in no year of four digits"):
        MailOptions(hold_until=moment)


def test_all_together() -> None:
    envelope = mail(size=7, eight_bit=True, returned=Return.FULL, envelope_id="id", priority=3, submitter="")
    line = mail_line(envelope, "AUTH PLAIN", "MT-PRIORITY", "DSN", "8BITMIME", "SIZE 7")
    assert line == f"{PLAIN} SIZE=7 BODY=8BITMIME RET=FULL ENVID=id MT-PRIORITY=3 AUTH=<>"


def test_tls_all_the_way_needs_tls_here_and_a_peer_that_sees_to_the_rest() -> None:
    envelope = mail(require_tls=True)
    assert mail_line(envelope, "REQUIRETLS", verified=True) == f"{PLAIN} REQUIRETLS"
    assert refused(envelope, verified=True).startswith("5.7.30 ")
    assert refused(envelope, "REQUIRETLS", verified=False).startswith("5.7.10 ")
    assert refused(envelope, "REQUIRETLS", verified=None).startswith("5.7.10 ")


def test_a_report_asks_for_tls_and_is_not_lost_for_it() -> None:
    report = Envelope("", ("you@far.example",), options=MailOptions(require_tls=True))
    assert mail_line(report, "REQUIRETLS", verified=True) == "MAIL FROM:<> REQUIRETLS"
    assert mail_line(report, verified=True) == "MAIL FROM:<>"
    assert mail_line(report) == "MAIL FROM:<>"
    assert mail_line(report, "REQUIRETLS", verified=False) == "MAIL FROM:<>"
    assert mail_line(report, "REQUIRETLS", verified=None) == "MAIL FROM:<>"


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"envelope_id": ""}, "envelope identifier"),
        ({"envelope_id": "a\r\nRSET"}, "envelope identifier"),
        ({"envelope_id": "ä"}, "envelope identifier"),
        ({"envelope_id": "x" * 101}, "at most 100 octets"),
        ({"envelope_id": "=" * 34}, "at most 100 octets"),
        ({"priority": 10}, "-9 to 9"),
        ({"priority": -10}, "-9 to 9"),
        ({"priority": True}, "-9 to 9"),
        ({"priority": "1"}, "-9 to 9"),
        ({"hold_for": 0}, "1 to 999999999"),
        ({"hold_for": 10**9}, "1 to 999999999"),
        ({"hold_for": 1.5}, "1 to 999999999"),
        ({"hold_until": datetime(2030, 1, 1)}, "time zone"),
        ({"hold_for": 1, "hold_until": NOON}, "not both"),
        ({"returned": "HDRS"}, "returned must be a Return"),
        ({"envelope_id": 4711}, "envelope_id must be a str"),
        ({"require_tls": "no"}, "require_tls must be a bool"),
        ({"deliver_by": 60}, "deliver_by must be a DeliverBy"),
        ({"hold_until": "2030-01-31T12:00:00Z"}, "hold_until must be a datetime"),
        ({"submitter": 0}, "submitter must be a str"),
        ({"submitter": "nobody"}, "local-part@domain"),
        ({"submitter": "ä@x.example"}, "ASCII mailbox"),
        ({"submitter": "+" * 200 + "@x.example"}, "500 octets"),
    ],
)
def test_options_that_may_not_be_asked_cannot_be_made(wish: dict[str, Any], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        MailOptions(**wish)


@pytest.mark.parametrize(
    "wish", [{"seconds": 0}, {"seconds": -1}, {"seconds": 10**9}, {"seconds": -(10**9), "notify_only": True}]
)
def test_a_time_to_deliver_by_has_bounds(wish: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match="RFC 2852"):
        DeliverBy(**wish)


# --- options of a recipient -------------------------------------------------------------------------------------------


def test_each_recipient_has_its_own_options() -> None:
    envelope = mail(
        A,
        B,
        C,
        recipient_options={
            C: RecipientOptions(notify=[Notify.DELAY, Notify.SUCCESS]),
            A: RecipientOptions(notify={Notify.NEVER}, original_recipient="old+a@a.example"),
        },
    )
    assert said(envelope, "DSN") == [
        PLAIN,
        f"RCPT TO:<{A}> NOTIFY=NEVER ORCPT=rfc822;old+2Ba@a.example",
        f"RCPT TO:<{B}>",
        f"RCPT TO:<{C}> NOTIFY=SUCCESS,DELAY",
    ]
    assert said(envelope) == [PLAIN, f"RCPT TO:<{A}>", f"RCPT TO:<{B}>", f"RCPT TO:<{C}>"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"original_recipient": "ä+@x.example"}, "utf-8;\\x{E4}\\x{2B}@x.example"),
        ({"original_recipient": "a+@x.example", "address_type": "UTF-8"}, "utf-8;a\\x{2B}@x.example"),
        ({"original_recipient": "C=de;S=x", "address_type": "x400"}, "x400;C+3Dde;S+3Dx"),
    ],
)
def test_original_recipients_are_written_as_their_type_has_it(options: dict[str, Any], text: str) -> None:
    envelope = mail(recipient_options={B: RecipientOptions(**options)})
    assert said(envelope, "DSN") == [PLAIN, f"RCPT TO:<{B}> ORCPT={text}"]


def test_an_original_recipient_stays_in_utf8_where_the_mail_goes_with_smtputf8() -> None:
    """RFC 6533 §3: in UTF-8 to a peer that takes SMTPUTF8, in seven bits to all others."""
    recipient, original = "jörg@b.example", "ä+ \\日=@x.example"
    wish = RecipientOptions(original_recipient=original)
    in_utf8 = mail(recipient, recipient_options={recipient: wish})
    lines = said(in_utf8, "DSN", "SMTPUTF8")
    assert lines[1:] == [f"RCPT TO:<{recipient}> ORCPT=utf-8;ä\\x{{2B}}\\x{{20}}\\x{{5C}}日\\x{{3D}}@x.example"]  # type: ignore[index]  # None would fail the test
    plain = mail(recipient_options={B: wish})
    in_seven_bits = "ORCPT=utf-8;\\x{E4}\\x{2B}\\x{20}\\x{5C}\\x{65E5}\\x{3D}@x.example"
    # A peer that offers it, and a mail that does not need it: MAIL says nothing of SMTPUTF8, and so RCPT has no UTF-8.
    for extensions in (["DSN"], ["DSN", "SMTPUTF8"]):
        assert said(plain, *extensions) == [PLAIN, f"RCPT TO:<{B}> {in_seven_bits}"]


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"notify": [Notify.NEVER, Notify.DELAY]}, "NEVER stands alone"),
        ({"notify": ["FAILURE"]}, "each of notify must be a Notify"),
        ({"notify": "FAILURE"}, r"^'FAILURE': notify must be a list of Notify, such as"),
        ({"notify": Notify.FAILURE}, "notify must be a list of Notify"),
        ({"notify": 5}, "notify must be a list of Notify"),
        ({"original_recipient": 5}, "original_recipient must be a str"),
        ({"address_type": 5}, "address_type must be a str"),
        ({"original_recipient": ""}, "printable"),
        ({"original_recipient": "a\r\nRSET"}, "printable"),
        ({"original_recipient": "x" * 494}, "500 octets"),
        ({"original_recipient": "a", "address_type": "rfc 822"}, "address type"),
        ({"original_recipient": "a", "address_type": ""}, "address type"),
    ],
)
def test_recipient_options_that_may_not_be_asked_cannot_be_made(wish: dict[str, Any], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        RecipientOptions(**wish)


def test_options_are_for_recipients_of_the_mail() -> None:
    with pytest.raises(LocalProtocolError, match="no recipient"):
        mail(B, recipient_options={C: RecipientOptions()})


@pytest.mark.parametrize(
    ("wish", "named"),
    [([B], "must be a Mapping"), ({B: [Notify.NEVER]}, "each of recipient_options must be a RecipientOptions")],
)
def test_options_of_recipients_are_no_other_things(wish: Any, named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        Envelope(A, (B,), recipient_options=wish)


@pytest.mark.parametrize("wish", [{"returned": Return.FULL}, None])
def test_options_of_a_mail_are_no_other_things(wish: Any) -> None:
    with pytest.raises(LocalProtocolError, match="MailOptions"):
        Envelope(A, (B,), options=wish)


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=33))
def test_whatever_an_identifier_holds_the_line_has_one_word_more(text: str) -> None:
    line = mail_line(mail(envelope_id=text), "DSN")
    word = line.removeprefix(f"{PLAIN} ")
    assert decode_xtext(word.removeprefix("ENVID=")) == text


@settings(deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_whatever_an_original_recipient_is_the_line_is_one_line_of_ascii(text: str) -> None:
    try:
        options = RecipientOptions(original_recipient=text)
    except LocalProtocolError:
        return
    lines = said(mail(recipient_options={B: options}), "DSN")
    assert isinstance(lines, list)
    assert len(lines) == 2
    assert len(lines[1].split(" ")) == 3
    assert lines[1].isascii()


# --- binary bodies ----------------------------------------------------------------------------------------------------


def test_a_binary_body_goes_in_chunks_and_untouched() -> None:
    octets = b"\r.\n\0no line end\r"
    driver = opened("PIPELINING", "CHUNKING", "BINARYMIME", "8BITMIME")
    driver.give(mail(binary=True, eight_bit=None, size=len(octets)), octets)
    assert driver.run() == b"%s BODY=BINARYMIME\r\nRCPT TO:<%s>\r\nBDAT %d LAST\r\n%s" % (
        PLAIN.encode(),
        B.encode(),
        len(octets),
        octets,
    )


@pytest.mark.parametrize("eight_bit", [True, False, None])
def test_a_binary_body_is_refused_where_it_would_be_changed(eight_bit: bool | None) -> None:
    envelope = mail(binary=True, eight_bit=eight_bit)
    assert refused(envelope, "CHUNKING", "8BITMIME").endswith("does not offer BINARYMIME")
    assert refused(envelope, "BINARYMIME", "8BITMIME").startswith("5.6.3 ")
    assert refused(envelope, "BINARYMIME", "CHUNKING", chunking=False).endswith("does not send in chunks")


# --- beyond ASCII -----------------------------------------------------------------------------------------------------


def to_a_labels(domain: str) -> str:
    return domain.encode("idna").decode("ascii")


def test_addresses_beyond_ascii_go_where_they_are_understood() -> None:
    envelope = mail("jörg@bücher.example", B, sender="ä@x.example")
    lines = ["MAIL FROM:<ä@x.example> SMTPUTF8", "RCPT TO:<jörg@bücher.example>", f"RCPT TO:<{B}>"]
    assert said(envelope, "SMTPUTF8") == lines
    assert said(envelope, "SMTPUTF8", to_a_labels=to_a_labels) == lines
    assert refused(envelope, "8BITMIME").startswith("5.6.7 ")
    assert refused(envelope, to_a_labels=to_a_labels).endswith("does not offer SMTPUTF8")


def test_domains_alone_are_said_in_a_labels_if_somebody_can_write_them() -> None:
    recipient = "jorg@bücher.example"
    envelope = mail(
        recipient,
        "Postmaster",
        sender="a@ä.example",
        recipient_options={recipient: RecipientOptions(notify=[Notify.NEVER])},
    )
    lines = [
        "MAIL FROM:<a@xn--4ca.example>",
        "RCPT TO:<jorg@xn--bcher-kva.example> NOTIFY=NEVER",
        "RCPT TO:<Postmaster>",
    ]
    assert said(envelope, "DSN", to_a_labels=to_a_labels) == lines
    assert said(envelope, "DSN", "SMTPUTF8", to_a_labels=to_a_labels) == lines
    assert refused(envelope, "DSN").startswith("5.6.7 ")
    in_utf8 = said(envelope, "DSN", "SMTPUTF8")
    assert isinstance(in_utf8, list)
    assert in_utf8[0] == "MAIL FROM:<a@ä.example> SMTPUTF8"
    # A header beyond ASCII needs the extension in any case, and the addresses stay as they are.
    in_utf8 = said(mail(recipient, utf8_header=True), "SMTPUTF8", to_a_labels=to_a_labels)
    assert in_utf8 == [f"{PLAIN} SMTPUTF8", f"RCPT TO:<{recipient}>"]
    assert refused(mail(recipient, utf8_header=True), to_a_labels=to_a_labels).startswith("5.6.7 ")


def test_recipients_who_become_one_address_keep_their_options() -> None:
    beyond, ascii_only = "jorg@bücher.example", "jorg@xn--bcher-kva.example"
    options = {
        beyond: RecipientOptions(notify=[Notify.NEVER]),
        ascii_only: RecipientOptions(notify=[Notify.SUCCESS], original_recipient="list@b.example"),
    }
    of_ascii_only = f"RCPT TO:<{ascii_only}> NOTIFY=SUCCESS ORCPT=rfc822;list@b.example"
    envelope = mail(beyond, ascii_only, recipient_options=options)
    assert said(envelope, "DSN", to_a_labels=to_a_labels) == [
        PLAIN,
        f"RCPT TO:<{ascii_only}> NOTIFY=NEVER",
        of_ascii_only,
    ]
    envelope = mail(ascii_only, beyond, recipient_options={ascii_only: options[ascii_only]})
    assert said(envelope, "DSN", to_a_labels=to_a_labels) == [PLAIN, of_ascii_only, f"RCPT TO:<{ascii_only}>"]


def test_options_make_a_line_too_long_for_a_recipient_in_a_labels_too() -> None:
    beyond = "jorg@bücher.example"
    wish = RecipientOptions(original_recipient="x" * 400)
    client = Client("x.example", to_a_labels=to_a_labels, limits=Limits(command_line=400))
    with pytest.raises(LocalProtocolError, match="at most 400 octets"):
        client.send(mail(beyond, recipient_options={beyond: wish}))


def test_a_header_in_which_utf8_was_found_goes_everywhere() -> None:
    found = mail(utf8_found=True, eight_bit=True, size=9)
    assert mail_line(found, "8BITMIME", "SMTPUTF8") == f"{PLAIN} BODY=8BITMIME SMTPUTF8"
    assert mail_line(found, "8BITMIME", "SIZE") == f"{PLAIN} SIZE=9 BODY=8BITMIME"
    # What was declared is a demand, whatever was found; and nothing is said twice.
    declared = mail("jörg@b.example", utf8_found=True, utf8_header=True)
    assert refused(declared, "8BITMIME").startswith("5.6.7 ")
    assert mail_line(declared, "SMTPUTF8") == f"{PLAIN} SMTPUTF8"
    # Domains go in A-labels nevertheless: nobody on the way need know more than this peer.
    lines = said(mail("jorg@bücher.example", utf8_found=True), "SMTPUTF8", to_a_labels=to_a_labels)
    assert lines == [f"{PLAIN} SMTPUTF8", "RCPT TO:<jorg@xn--bcher-kva.example>"]


def test_the_outcomes_name_the_recipients_as_they_were_given() -> None:
    driver = opened("PIPELINING", to_a_labels=to_a_labels)
    driver.give(mail("jorg@bücher.example"), b"x\r\n")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.hear(b"250 taken\r\n")
    (report,) = driver.reports
    assert isinstance(report, MailSent)
    assert report.outcomes[0].recipient == "jorg@bücher.example"
    assert report.mail.envelope.recipients == ("jorg@bücher.example",)


@pytest.mark.parametrize("answer", ["", "a b", "xn--\r\nRSET", None])
def test_a_domain_that_has_no_a_labels_is_refused_when_the_mail_is_asked_for(answer: str | None) -> None:
    def write(domain: str) -> str:
        if answer is None:
            raise UnicodeError("label too long")
        return answer

    client = Client("x.example", to_a_labels=write)
    before = client.snapshot()
    with pytest.raises(LocalProtocolError, match="cannot be written in A-labels") as caught:
        client.send(mail("jorg@bücher.example"))
    assert caught.value.value == "jorg@bücher.example"
    assert client.snapshot() == before
    client.send(mail(B))


def test_a_path_is_as_long_as_its_octets() -> None:
    mail("ü" * 121 + "@b.example").check_limits(Limits())
    with pytest.raises(LocalProtocolError, match="256 octets"):
        mail("ü" * 123 + "@b.example").check_limits(Limits())


# --- on the way -------------------------------------------------------------------------------------------------------


def test_a_mail_that_cannot_be_given_does_not_keep_the_next_from_going() -> None:
    driver = opened("PIPELINING")
    driver.give(mail(require_tls=True), None)
    driver.give(mail(C), None)
    assert driver.run().decode().splitlines() == [PLAIN, f"RCPT TO:<{C}>", "DATA"]
    assert isinstance(driver.reports[0], MailRefused)


def test_a_further_transaction_says_the_same() -> None:
    options = {C: RecipientOptions(notify=[Notify.NEVER])}
    driver = opened("PIPELINING", "DSN")
    driver.give(mail(B, C, repeatable=True, returned=Return.HEADERS, recipient_options=options), b"x\r\n")
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n452 too many\r\n354 go\r\n")
    again = driver.hear(b"250 taken\r\n").decode().splitlines()
    assert again == [f"{PLAIN} RET=HDRS", f"RCPT TO:<{C}> NOTIFY=NEVER", "DATA"]


def test_a_session_that_ends_answers_mails_with_options_too() -> None:
    driver = opened()
    driver.give(mail(B, C, returned=Return.FULL), None)
    driver.client.abort()
    driver.run()
    (report,) = driver.reports
    assert [type(outcome.error) for outcome in report.outcomes] == [SessionAborted, SessionAborted]


def test_tls_forgets_what_was_offered_before() -> None:
    driver = PureDriver(Client("client.example", tls=TlsPolicy.REQUIRED))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250-STARTTLS\r\n250 DSN\r\n")
    driver.hear(b"220 go\r\n")
    driver.client.tls_started(TlsInfo("TLSv1.3", "TLS_TEST", verified=True))
    assert not driver.client.capabilities.extensions
    driver.run()
    driver.hear(b"250-mx\r\n250 REQUIRETLS\r\n")
    driver.give(mail(returned=Return.FULL, require_tls=True), None)
    assert driver.run().decode() == f"{PLAIN} REQUIRETLS\r\n"


@pytest.mark.parametrize("travel", [lambda envelope: pickle.loads(pickle.dumps(envelope)), copy.copy, copy.deepcopy])
def test_an_envelope_with_options_can_be_copied_and_compared(travel: Any) -> None:
    envelope = mail(hold_until=NOON, binary=True, recipient_options={B: RecipientOptions(notify=[Notify.DELAY])})
    assert travel(envelope) == envelope
    assert hash(travel(envelope)) == hash(envelope)
    assert envelope != mail(hold_until=NOON, binary=True)
    assert travel(envelope).extended
    assert not travel(mail(size=5, eight_bit=True)).extended


def test_options_are_a_copy() -> None:
    options = {B: RecipientOptions(notify=[Notify.NEVER])}
    envelope = mail(recipient_options=options)
    options.clear()
    assert B in envelope.recipient_options


def test_a_body_that_is_asked_for_is_the_one_of_the_mail() -> None:
    driver = opened("PIPELINING", "DSN")
    given = driver.give(mail(returned=Return.FULL), None)
    driver.run()
    driver.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert driver.last == NeedBody(given, 0)
