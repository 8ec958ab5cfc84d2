"""LMTP with Dovecot: a verdict for each recipient, over TCP and at a unix socket.

What lives here: mails that some recipients get and some do not. What does not: the octets of messages
(`test_matrix.py`, where it is one of the servers).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from smtpcore import Envelope, MailRefused, Pipelining, Report, Verdict, XClient, XclientRequired

from .conftest import Driver
from .dovecot import FULL
from .peers import Door, Peer
from .postfix import DOMAIN, wait_until
from .results import Results

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("peer", ["Dovecot (LMTP)"], indirect=True)]

BODY = b"Subject: verdicts\r\n\r\nbody\r\n"
_numbers = itertools.count(1)


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"lmtp-{next(_numbers)}@elsewhere.example"


def to(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}@{DOMAIN}" for name in names)


@pytest.mark.parametrize("door", [Door.CLEAR, Door.UNIX], ids=["tcp", "unix"])
@pytest.mark.parametrize("pipelining", [Pipelining.WITHIN, Pipelining.ACROSS], ids=lambda value: value.value)
@pytest.mark.parametrize("chunking", [True, False], ids=["bdat", "data"])
def test_each_recipient_has_a_verdict(
    peer: Peer,
    driver: Driver,
    door: Door,
    pipelining: Pipelining,
    chunking: bool,
    sender: str,
    results: Results,
) -> None:
    envelopes = [
        Envelope(f"0.{sender}", to("alice", "nobody", FULL, "bob")),
        Envelope(f"1.{sender}", to(FULL)),
        Envelope(f"2.{sender}", to("nobody", "none")),
        Envelope(f"3.{sender}", to("bob", FULL, "carol")),
    ]
    dialogue: list[str] = []

    async def story(session: Any) -> list[Report]:
        return [report async for report in session.send_many((envelope, BODY) for envelope in envelopes)]

    options = {**peer.in_clear, "pipelining": pipelining, "chunking": chunking, "trace": dialogue.append}
    reports = driver.run(story, peer.ends[door], **options)
    delivered, unknown, full = (Verdict.DELIVERED, 250), (Verdict.NEVER, 550), (Verdict.NEVER, 552)
    assert [[(outcome.verdict, outcome.code) for outcome in report.outcomes] for report in reports] == [
        [delivered, unknown, full, delivered],
        [full],
        [unknown, unknown],
        [delivered, full, delivered],
    ]
    assert [isinstance(report, MailRefused) for report in reports] == [False, True, True, False]
    # Each verdict is in the words that were meant for this recipient.
    for report in reports:
        for outcome in report.outcomes:
            assert f"<{outcome.recipient}>" in outcome.text
    assert any(line.startswith(">>> BDAT") for line in dialogue) == chunking
    wait_until(lambda: len(peer.mails(f"3.{sender}")) == 2, "the last mail")
    copies = [len(peer.mails(envelope.reverse_path)) for envelope in envelopes]
    assert copies == [2, 0, 0, 2]

    where = "over TCP" if door is Door.CLEAR else "at a unix socket"
    how = "across mails" if pipelining is Pipelining.ACROSS else "within mails"
    what = f"{where}, by {'BDAT' if chunking else 'DATA'}, {how}: each of several recipients has a verdict of its own"
    results.checked("LMTP", peer.title, what, driver.name)


def test_a_session_for_another_client_is_noted_as_its(
    peer: Peer, driver: Driver, sender: str, results: Results
) -> None:
    async def story(session: Any) -> Report:
        report: Report = await session.deliver(Envelope(sender, to("alice", "nobody")), BODY)
        return report

    spike = XClient(address="2001:db8::1", port=4711, helo="spike.example", protocol="LMTP", login="a+b")
    report = driver.run(story, peer.ends[Door.CLEAR], **peer.in_clear, xclient=spike)
    assert [outcome.code for outcome in report.outcomes] == [250, 550]
    wait_until(lambda: peer.mails(sender), "the mail")
    ((trace, _),) = peer.mails(sender)
    assert b"([2001:db8::1])" in trace
    results.checked("XCLIENT", peer.title, "the session is noted as the other client's", driver.name)


def test_a_client_of_whom_the_server_takes_no_name_is_not_spoken_for_in_part(
    peer: Peer, driver: Driver, sender: str
) -> None:
    dialogue: list[str] = []

    async def story(session: Any) -> None:
        raise AssertionError("the session opened")

    spike = XClient(address="192.0.2.1", name="spike.example")
    with pytest.raises(XclientRequired, match="XCLIENT with NAME"):
        driver.run(story, peer.ends[Door.CLEAR], **peer.in_clear, xclient=spike, trace=dialogue.append)
    assert not any(line.startswith(">>> XCLIENT") for line in dialogue)
    assert ">>> QUIT" in dialogue
