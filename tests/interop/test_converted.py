"""Messages that a server could not take as they are: what arrives of them, decoded, is what was there.

What lives here: bodies that need 8BITMIME or BINARYMIME, with real servers that do not offer it. What does not: how a
message is converted (`core`), and the extensions that nothing can stand in for (`test_extensions.py`).
"""

from __future__ import annotations

import itertools
import re
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest

from smtpcore import BodyFacts, Conversion, Envelope, ExtensionRequired, Report, Stage, Verdict

from .conftest import Driver
from .peers import Peer
from .postfix import DOMAIN, wait_until
from .results import Results

pytestmark = pytest.mark.interop

TO_ALICE = (f"alice@{DOMAIN}",)
GRUESSE = "Grüße aus Köln = 東京,\r\n.\r\n.mit Punkt \r\nFrom here\r\n".encode()
PLAIN = b"Nothing to do here: =3D\r\n.\r\n"
#: Every octet, line ends of all kinds, and nothing at the end.
OCTETS = bytes(range(256)) * 9 + b"\r\r\n\n.\r\n..\n\0"
AFTER = b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <after@elsewhere.example>\r\n\r\nplain\r\n"
BOUNDARY = b"\r\n--=_border of parts\r\n"
_numbers = itertools.count(1)


def message(*, binary: bool) -> bytes:
    """Text beyond ASCII, text within it and, where it may be ``binary``, what is no text at all."""
    parts = [
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + GRUESSE,
        b"Content-Type: text/plain; charset=us-ascii\r\n\r\n" + PLAIN,
    ]
    if binary:
        parts.append(b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n" + OCTETS)
    header = (
        b"Date: Sat, 21 Nov 2026 00:00:00 +0000\r\nMessage-ID: <converted@elsewhere.example>\r\n"
        b"subject:  as   it came\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: %b\r\n"
        b'Content-Type: multipart/mixed;\r\n\tboundary="=_border of parts"\r\n\r\nA preamble.'
    )
    return (
        header % (b"binary" if binary else b"8bit") + b"".join(map(BOUNDARY.__add__, parts)) + BOUNDARY[:-2] + b"--\r\n"
    )


#: What a message needs, and what the library is told of it.
FACTS = {"8BITMIME": BodyFacts(), "BINARYMIME": BodyFacts(binary=True)}


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"converted-{next(_numbers)}@elsewhere.example"


def deliver(peer: Peer, driver: Driver, sender: str, extension: str, **options: Any) -> tuple[Report, list[str]]:
    """Deliver what needs ``extension``, and a plain mail behind it; the report on the first and what MAIL said."""
    dialogue: list[str] = []
    octets = message(binary=extension == "BINARYMIME")

    async def story(session: Any) -> Report:
        report: Report = await session.deliver(Envelope(sender, TO_ALICE, body=FACTS[extension]), octets)
        await session.send(AFTER, sender=f"plain.{sender}", recipients=TO_ALICE)
        return report

    report = driver.run(story, peer.clear, trace=dialogue.append, **peer.in_clear, **options)
    return report, [line.partition("> ")[2] for line in dialogue if line.startswith(f">>> MAIL FROM:<{sender}>")]


def arrived(peer: Peer, sender: str) -> bytes:
    wait_until(lambda: peer.mails(sender), "the mail")
    ((_, octets),) = peer.mails(sender)
    return octets


def decoded(part: Message) -> bytes:
    """The content of a part as it was before any encoding for transport."""
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    # Where mail is kept with other line ends, text of whatever encoding has them; what is in base64 is as it was.
    return octets if part["Content-Transfer-Encoding"] == "base64" else re.sub(rb"\r?\n", b"\r\n", octets)


def check(octets: bytes, encodings: list[str | None]) -> None:
    """The parts are in these encodings, decoded they are what they were, and beside that nothing has changed."""
    whole = message_from_bytes(octets)
    parts: Any = whole.get_payload()
    assert [part["Content-Transfer-Encoding"] for part in parts] == encodings
    contents = [GRUESSE, PLAIN, OCTETS][: len(parts)]
    assert [decoded(part) for part in parts] == contents
    lines = octets.replace(b"\r\n", b"\n").split(b"\n")
    assert max(map(len, lines)) <= 78
    top = octets.replace(b"\r\n", b"\n").partition(BOUNDARY.replace(b"\r\n", b"\n"))[0]
    original = message(binary=len(parts) == 3).replace(b"\r\n", b"\n").partition(BOUNDARY.replace(b"\r\n", b"\n"))[0]
    of_whole = re.compile(rb"^Content-Transfer-Encoding: \w+\n", re.MULTILINE)
    assert of_whole.sub(b"", top) == of_whole.sub(b"", original)


def test_text_is_converted_where_8bitmime_is_not_offered(
    seven_bit: Peer, driver: Driver, sender: str, results: Results
) -> None:
    report, said = deliver(seven_bit, driver, sender, "8BITMIME")
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED]
    assert len(said) == 1
    assert "BODY=" not in said[0]
    octets = arrived(seven_bit, sender)
    assert octets.isascii()
    check(octets, ["quoted-printable", None])
    what = "withheld from us: text goes as quoted-printable, other parts as they are, and decoded all is what it was"
    results.checked("8BITMIME", seven_bit.title, what, driver.name)


def test_all_is_converted_where_neither_is_offered(
    seven_bit: Peer, driver: Driver, sender: str, results: Results
) -> None:
    report, said = deliver(seven_bit, driver, sender, "BINARYMIME")
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED]
    assert "BODY=" not in said[0]
    octets = arrived(seven_bit, sender)
    assert octets.isascii()
    check(octets, ["quoted-printable", None, "base64"])
    what = "neither it nor 8BITMIME: text as quoted-printable, the rest as base64, and decoded all is what it was"
    results.checked("BINARYMIME", seven_bit.title, what, driver.name)


def test_what_is_binary_is_converted_where_binarymime_is_not_offered(
    peer: Peer, driver: Driver, sender: str, results: Results
) -> None:
    assert "8BITMIME" in peer.offers
    report, said = deliver(peer, driver, sender, "BINARYMIME")
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED]
    assert said[0].endswith(" BODY=8BITMIME")
    check(arrived(peer, sender), ["8bit", None, "base64"])
    what = "not offered: the binary part goes as base64, text as it is, and decoded all is what it was"
    results.checked("BINARYMIME", peer.title, what, driver.name)


def test_text_is_refused_here_where_that_is_wanted(
    seven_bit: Peer, driver: Driver, sender: str, results: Results
) -> None:
    report, said = deliver(seven_bit, driver, sender, "8BITMIME", eight_bit=Conversion.REFUSE)
    (outcome,) = report.outcomes
    assert (outcome.verdict, outcome.code, outcome.enhanced) == (Verdict.NEVER, None, "5.6.3")
    assert isinstance(outcome.error, ExtensionRequired)
    assert (report.stage, said) == (Stage.NOT_STARTED, [])
    # The plain mail behind it came through.
    arrived(seven_bit, f"plain.{sender}")
    assert seven_bit.mails(sender) == []
    what = "withheld from us, conversion not wanted: refused here (5.6.3), MAIL is not said"
    results.checked("8BITMIME", seven_bit.title, what, driver.name)


def test_text_goes_as_it_is_where_that_is_wanted(
    seven_bit: Peer, driver: Driver, sender: str, results: Results
) -> None:
    """Servers that are called 7-bit seldom are."""
    report, said = deliver(seven_bit, driver, sender, "8BITMIME", eight_bit=Conversion.AS_IS)
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED]
    assert "BODY=" not in said[0]
    octets = arrived(seven_bit, sender)
    assert octets == message(binary=False).replace(b"\r\n", seven_bit.line_end)
    what = "withheld from us, sent as it is by wish: arrives octet for octet"
    results.checked("8BITMIME", seven_bit.title, what, driver.name)
