"""From email objects to envelopes and octets.

What lives here: which addresses a header means, and that nothing else of a message changes on its way. What does not:
sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes, message_from_string, policy
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest

from smtpcore import LocalProtocolError
from smtpcore.mime import flatten, mailbox_of, recipients_of, sender_of, without_blind_copies

POLICIES = [policy.compat32, policy.default, policy.SMTP, policy.SMTPUTF8]


@pytest.fixture(params=POLICIES, ids=["compat32", "default", "SMTP", "SMTPUTF8"])
def parse(request: pytest.FixtureRequest) -> Callable[..., Message[Any, Any]]:
    """Makes a message out of header lines, under each policy."""

    def make(*lines: str | bytes, body: bytes = b"") -> Message[Any, Any]:
        header = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in lines)
        return message_from_bytes(header + b"\r\n" + body, policy=request.param)

    return make


Parse = Callable[..., Any]


# --- addresses as people write them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("a@x.example", "a@x.example"),
        ("<a@x.example>", "a@x.example"),
        ("Anna <a@x.example>", "a@x.example"),
        ("Grüße <a@x.example>", "a@x.example"),
        ('"Doe, Jane" <jane@x.example>', "jane@x.example"),
        ("=?utf-8?q?=2C_b=40x?= <a@x.example>", "a@x.example"),
        ("a@x.example (Anna)", "a@x.example"),
        ('"a b"@x.example', '"a b"@x.example'),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("<@r.example,@s.example:a@x.example>", "a@x.example"),
        (Address("Anna", "anna", "x.example"), "anna@x.example"),
        (Address("The desk", 'front "desk"', "x.example"), r'"front \"desk\""@x.example'),
        (Address(addr_spec='"a b"@x.example'), '"a b"@x.example'),
    ],
)
def test_the_mailbox_of_an_address(address: str | Address, mailbox: str) -> None:
    assert mailbox_of(address) == mailbox


@pytest.mark.parametrize(
    "address",
    [
        "",
        "<>",
        "root",
        "Anna",
        "a@x.example, b@x.example",
        "friends: a@x.example;",
        "Anna <a@x.example> b",
        "alice@example.org)bob@x.example",
        "a@x.example\r\nRSET",
        "a@x.example>\r\nRCPT TO:<evil@x.example",
        "a@x.example\0",
        "a@bücher.example",
        b"a@x.example",
        None,
        Address(),
        Address("Anna", "anna"),
        Address("Anna", "jürgen", "x.example"),
    ],
)
def test_what_is_not_one_address(address: Any) -> None:
    with pytest.raises(LocalProtocolError):
        mailbox_of(address)


# --- the sender ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "sender"),
    [
        (["From: a@x.example"], "a@x.example"),
        (["From: Someone <a@x.example>"], "a@x.example"),
        (["From: a@x.example, A <a@x.example>"], "a@x.example"),
        (["From: a@x.example, b@x.example", "Sender: b@x.example"], "b@x.example"),
        (["FROM: a@x.example", "sender: Secretary <c@x.example>"], "c@x.example"),
        (['From: "a b"@x.example'], '"a b"@x.example'),
        (["From: a@[192.0.2.1]"], "a@[192.0.2.1]"),
        (["From: a@x.example", "Resent-From: r@x.example", "Resent-To: s@x.example"], "r@x.example"),
        (["From: a@x.example", "Resent-From: r@x.example", "Resent-Sender: q@x.example"], "q@x.example"),
    ],
)
def test_the_sender(parse: Parse, lines: list[str], sender: str) -> None:
    assert sender_of(parse(*lines)) == sender


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "the message has no From or Sender; give the sender"),
        (["To: a@x.example"], "the message has no From or Sender"),
        (["From: nobody"], "From "),
        (["From: undisclosed:;"], "the message has no From or Sender"),
        (["From: a@x.example", "Resent-To: b@x.example"], "the message has no Resent-From or Resent-Sender"),
        (["From: ä@x.example"], "From "),
        (["From: a@x.example, b@x.example"], "From has several addresses, and there is no Sender"),
        (["From: a@x.example", "From: b@x.example"], "RFC 5322 §3.6.2"),
        (
            ["From: a@x.example", "Sender: a@x.example", "Resent-From: r@x.example, s@x.example"],
            "there is no Resent-Sender",
        ),
    ],
)
def test_no_sender(parse: Parse, lines: list[str], words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        sender_of(parse(*lines))


# --- the recipients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "recipients"),
    [
        (["To: a@x.example"], ["a"]),
        (["To: a@x.example", "Cc: b@x.example", "Bcc: c@x.example"], ["a", "b", "c"]),
        (["Bcc: c@x.example", "To: a@x.example"], ["a", "c"]),
        # S6: several fields of a name, all of them.
        (["Cc: a@x.example", "Cc: b@x.example, c@x.example"], ["a", "b", "c"]),
        (["To: a@x.example", "Cc: a@x.example, b@x.example, b@x.example"], ["a", "b"]),
        (["To: a@x.example,", " b@x.example"], ["a", "b"]),
        (['To: "Doe, Jane" <a@x.example>, b@x.example (Bob, the other)'], ["a", "b"]),
        (["To: Friends: a@x.example, B <b@x.example>;, c@x.example"], ["a", "b", "c"]),
        (["To: undisclosed-recipients:;", "Bcc: a@x.example"], ["a"]),
        (["To: a@x.example, , b@x.example,"], ["a", "b"]),
        (["To: a@x.example", "Bcc:"], ["a"]),
        (["To: John Q. Public <a@x.example>"], ["a"]),
        # An encoded name is a name, whatever it says.
        (["To: =?utf-8?q?evil=40x=2Eexample=2C?= <a@x.example>"], ["a"]),
        (['To: "=?utf-8?q?M=C3=BCller?=" <a@x.example>'], ["a"]),
        (["To: =?utf-8?q?M=C3=BCller?=<a@x.example>"], ["a"]),
        (["To: Müller <a@x.example>".encode()], ["a"]),
        (["To: Müller <a@x.example>".encode("latin-1")], ["a"]),
        (["To: <@relay.example:a@x.example>"], ["a"]),
        # A message that was resent goes where its Resent- fields say, and nowhere else (RFC 5322 §3.6.6).
        (["To: a@x.example", "Resent-To: b@x.example", "Resent-Cc: c@x.example", "Resent-Bcc: d@x.example"], "bcd"),
        (["Resent-Date: Thu, 1 Jan 1970 00:00:00 +0000", "Resent-To: b@x.example", "To: a@x.example"], ["b"]),
    ],
)
def test_the_recipients(parse: Parse, lines: list[str], recipients: list[str]) -> None:
    assert recipients_of(parse(*lines)) == tuple(f"{name}@x.example" for name in recipients)


@pytest.mark.parametrize(
    "field",
    [
        "nobody",
        "b@x.example c@x.example",
        "b@x.example; c@x.example",
        "b@x.example)c@x.example",
        # CVE-2023-27043: which of the two is it?
        "b@x.example <c@x.example>",
        "b@y.example <c@x.example>, d@x.example",
        "Smith@Home <c@x.example>",
        "B <b@x.example> C",
        "B <b@x.example",
        "a..b@x.example",
        "b@",
        "@x.example",
        "<>",
        "ä@x.example",
        "b@ä.example",
        '"unclosed <b@x.example>',
    ],
)
def test_addresses_that_cannot_be_used(parse: Parse, field: str) -> None:
    """Nothing is guessed and nobody is left out: the field and its words are named."""
    with pytest.raises(LocalProtocolError) as caught:
        recipients_of(parse("To: a@x.example", f"Cc: {field}"))
    assert "Cc " in str(caught.value)
    assert caught.value.value is not None
    with pytest.raises(LocalProtocolError):
        recipients_of(parse("To: a@x.example", f"Resent-To: {field}"))


@pytest.mark.parametrize("address", ["Ä <a@ä.example>", "ä@x.example"])
def test_an_address_beyond_ascii_is_said_to_be_one(parse: Parse, address: str) -> None:
    with pytest.raises(LocalProtocolError, match="beyond ASCII"):
        sender_of(parse(f"From: {address}"))


@pytest.mark.parametrize("lines", [[], ["From: a@x.example"], ["To: undisclosed-recipients:;"], ["To:"]])
def test_no_recipients(parse: Parse, lines: list[str]) -> None:
    with pytest.raises(LocalProtocolError, match="the message has no To, Cc or Bcc; give the recipients"):
        recipients_of(parse(*lines))


def test_resent_more_than_once(parse: Parse) -> None:
    date = "Resent-Date: Thu, 1 Jan 1970 00:00:00 +0000"
    message = parse(date, "Resent-To: b@x.example", "Resent-From: b@x.example", date, "Resent-To: c@x.example")
    for ask in (sender_of, recipients_of):
        with pytest.raises(LocalProtocolError, match="more than once"):
            ask(message)


def test_a_header_that_was_put_together() -> None:
    """What stands in the message counts, not what it says once decoded."""
    name = Header("victim@x.example, Müller", "utf-8")
    name.append("<a@x.example>", "ascii")
    message: Any = MIMEText("x")
    message["To"] = name
    assert recipients_of(message) == ("a@x.example",)


def test_an_email_message_by_hand() -> None:
    message = EmailMessage()
    message["From"] = "Müller <a@x.example>"
    message["To"] = "B <b@x.example>, c@x.example"
    assert sender_of(message) == "a@x.example"
    assert recipients_of(message) == ("b@x.example", "c@x.example")


# --- the octets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (message_from_string("Subject: x\n\nh\u00e4\n"), "UnicodeEncodeError"),
        (message_from_string("To: a@x.example\n\n"), "HeaderParseError"),
    ],
)
def test_what_cannot_be_written_is_told(message: Message[Any, Any], kind: str) -> None:
    if kind == "HeaderParseError":
        message["X-Note"] = "one\nBcc: b@x.example"
    with pytest.raises(LocalProtocolError, match=f"the email object cannot be written: {kind}: "):
        flatten(message)


def test_blind_copies_are_left_out(parse: Parse) -> None:
    message = parse("To: a@x.example", "Bcc: b@x.example", "bcc: c@x.example", "Resent-Bcc: d@x.example", "X-Bcc: kept")
    assert flatten(message) == b"To: a@x.example\r\nX-Bcc: kept\r\n\r\n"
    # The caller's message is as it was.
    assert message.get_all("Bcc") is not None
    assert len(message.keys()) == 5


def test_a_message_without_blind_copies_is_not_copied(parse: Parse) -> None:
    message = parse("To: a@x.example")
    assert without_blind_copies(message) is message


def test_line_ends_and_lines_that_look_like_something_else(parse: Parse) -> None:
    body = b"From here\r\n.dot\r\n>From there\r\n\r\nend"
    message = parse("Subject: x", body=body)
    assert flatten(message) == b"Subject: x\r\n\r\n" + body
    assert flatten(message_from_bytes(b"Subject: x\n\n" + body.replace(b"\r\n", b"\n"), policy=message.policy)) == (
        b"Subject: x\r\n\r\n" + body
    )


SIGNED = b"""\
DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=mail; h=from:to:subject:date:message-id:content-type:mime-version;
\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUxxxxxxxxxxxxxxxxx=;
  b=x
Message-ID: <a-very-long-message-id-without-any-place-to-fold.0123456789.0123456789.0123456789.0123456789@x.example>
References: <one@x.example>
\t<two@x.example>   <three@x.example>
Subject: odd   spaces   and a line that goes on for far longer than anybody would fold it by hand, as some do
From: a@x.example
MIME-Version: 1.0
Content-Type: multipart/signed; protocol="application/pgp-signature"; micalg=pgp-sha256; boundary="=-=-="

This is the preamble, kept as well.
--=-=-=
Content-Type: text/plain; charset=utf-8;   format=flowed
Content-Transfer-Encoding: 8bit
X-Long: 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789

From the heart: \xc3\xa4 \x20
-- \x20

--=-=-=
Content-Type: application/pgp-signature

-----BEGIN PGP SIGNATURE-----
xxxx
-----END PGP SIGNATURE-----

--=-=-=--
""".replace(b"\n", b"\r\n")


def test_a_signed_message_is_not_altered(parse: Parse) -> None:
    """Neither spaces nor folds: a signature covers them."""
    head, _, body = SIGNED.partition(b"\r\n\r\n")
    assert flatten(parse(*head.split(b"\r\n"), body=body)) == SIGNED


def test_lines_that_are_too_long_are_folded() -> None:
    """No line of a message may have more than 998 octets (RFC 5322 §2.1.1), however it was made."""
    for message in (MIMEText("x"), EmailMessage()):
        message["To"] = ", ".join(f"recipient-{number}@x.example" for number in range(200))
        octets = flatten(message)
        assert max(map(len, octets.split(b"\r\n"))) <= 998
        assert recipients_of(message_from_bytes(octets)) == recipients_of(message)
        assert len(recipients_of(message)) == 200


@pytest.mark.parametrize("message_policy", [policy.default, policy.SMTP, policy.SMTPUTF8])
def test_header_fields_are_ascii(message_policy: Any) -> None:
    """Anything else would need SMTPUTF8, which is not asked of the peer."""
    message = EmailMessage(policy=message_policy)
    message["Subject"] = "Grüße"
    message["To"] = "Müller <a@x.example>"
    message.set_content("Grüße\n", cte="8bit")
    header, _, body = flatten(message).partition(b"\r\n\r\n")
    assert header.isascii()
    assert b"=?utf-8?" in header
    assert body == "Grüße\r\n".encode()


def test_old_ways_to_make_a_message() -> None:
    message = MIMEMultipart()
    message["Subject"] = "x"
    message["Bcc"] = "b@x.example"
    message.attach(MIMEText("From here\nGrüße\n", _charset="utf-8"))
    message.attach(MIMEText("plain\n"))
    octets = flatten(message)
    assert b"b@x.example" not in octets
    assert octets.count(b"\r\n") == octets.count(b"\n")
    assert message["Bcc"] == "b@x.example"
