"""Every short sequence of replies to one mail, against an oracle that was written without looking at the client.

What lives here: all dialogues of up to six replies about a mail of one to three recipients, by DATA and by chunks, with
and without PIPELINING, in SMTP and in LMTP. What does not: opening a session, and further mails.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from smtpcore import BodyFacts, Client, Disconnect, Envelope, MailSent, Pipelining, Protocol, TlsPolicy, Verdict
from smtpcore.testing import PureDriver

KINDS = ("2yz", "3yz", "4yz", "5yz", "421", "garbage", "end of stream")
OCTETS = {
    "2yz": b"250 text\r\n",
    "3yz": b"354 text\r\n",
    "4yz": b"450 text\r\n",
    "5yz": b"550 text\r\n",
    "421": b"421 text\r\n",
    "garbage": b"whatever\r\n",
}
CUT = {"421", "garbage", "end of stream"}
REFUSED = {"4yz": Verdict.LATER, "5yz": Verdict.NEVER}
LONGEST = 6
#: Two chunks, where it goes in chunks.
BODY = b"hello\r\nworld\r\n"


class Way(enum.Enum):
    """How a mail is said: one command at a time or many, and by which commands its body goes."""

    DATA_ONE_BY_ONE = "DATA, one by one"
    DATA = "DATA, pipelined"
    CHUNKS_ONE_BY_ONE = "chunks, one by one"
    CHUNKS_BEHIND_RECIPIENTS = "chunks behind the replies to RCPT"
    CHUNKS_AT_ONCE = "chunks ahead of all replies"


ONE_BY_ONE = {Way.DATA_ONE_BY_ONE, Way.CHUNKS_ONE_BY_ONE}
BY_DATA = {Way.DATA_ONE_BY_ONE, Way.DATA}
#: In these the body is begun whether a recipient was accepted or not.
BODY_ANYWAY = {Way.DATA, Way.CHUNKS_AT_ONCE}


def expected(replies: tuple[str, ...], count: int, way: Way, protocol: Protocol) -> list[tuple[Verdict, bool]]:
    """The oracle: what becomes of each recipient, and whether that is in doubt, when the stream ends after ``replies``.

    It goes through the dialogue in the order of the commands, and knows nothing of queues and states.
    """
    words = chain(replies, repeat("end of stream"))
    outcomes: list[tuple[Verdict, bool] | None] = [None] * count
    accepted: list[int] = []
    all_left = way is Way.CHUNKS_AT_ONCE

    def hear(good: str) -> str:
        """The next reply; one that is no answer to the command is garbage."""
        word = next(words)
        return "good" if word == good else "garbage" if word in {"2yz", "3yz"} else word

    def decide(recipients: list[int], word: str) -> None:
        for recipient in recipients:
            outcomes[recipient] = (Verdict.DELIVERED if word == "good" else REFUSED[word], False)

    def cut_off(word: str) -> list[tuple[Verdict, bool]]:
        """Whoever is undecided may have the mail if all of it left, but not from a peer that said it would stop."""
        return [outcome or (Verdict.LATER, all_left and word != "421") for outcome in outcomes]

    to_mail = hear("2yz")
    if to_mail in CUT:
        return cut_off(to_mail)
    if to_mail != "good":
        decide([*range(count)], to_mail)
        if way in ONE_BY_ONE:
            return cut_off(to_mail)
    for recipient in range(count):
        to_rcpt = hear("2yz")
        if to_rcpt in CUT:
            return cut_off(to_rcpt)
        if to_mail == "good" and to_rcpt == "good":
            accepted.append(recipient)
        elif to_mail == "good":
            decide([recipient], to_rcpt)
    if not (accepted or way in BODY_ANYWAY):
        return cut_off("nobody")
    if way is Way.CHUNKS_BEHIND_RECIPIENTS:
        all_left = True
    begun = hear("3yz" if way in BY_DATA else "2yz")
    if begun in CUT:
        return cut_off(begun)
    if begun != "good":
        if way not in BY_DATA | ONE_BY_ONE:
            # The last chunk is behind the refused one. A message with a hole that is taken is none.
            all_left = True
            if hear("never") == "garbage":
                return cut_off("garbage")
        decide(accepted, begun)
        return cut_off(begun)
    all_left = True
    one_by_one = protocol is Protocol.LMTP and accepted
    for group in [[recipient] for recipient in accepted] if one_by_one else [accepted]:
        verdict = hear("2yz")
        if verdict in CUT:
            return cut_off(verdict)
        decide(group, verdict)
    return cut_off("nobody")


def play(replies: tuple[str, ...], count: int, way: Way, protocol: Protocol) -> PureDriver:
    """A driver that has heard ``replies`` to its mail."""
    client = Client(
        "client.example",
        protocol=protocol,
        tls=TlsPolicy.NEVER,
        pipelining=Pipelining.NONE if way in ONE_BY_ONE else Pipelining.WITHIN,
        chunking=way not in BY_DATA,
    )
    driver = PureDriver(client, piece=7)
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
    size = None if way is Way.CHUNKS_BEHIND_RECIPIENTS else len(BODY)
    driver.give(Envelope("", tuple(f"r{n}@b.example" for n in range(count)), body=BodyFacts(size=size)), BODY)
    driver.run()
    for reply in replies:
        hear(driver, reply)
    return driver


def hear(driver: PureDriver, reply: str) -> None:
    if reply == "end of stream":
        driver.client.receive_eof()
        driver.run()
    else:
        driver.hear(OCTETS[reply])


def dialogues(
    count: int, way: Way, protocol: Protocol, begun: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], PureDriver]]:
    """All sequences of replies that end the session, or are as long as may be; nothing follows the end of a session."""
    for kind in KINDS:
        replies = (*begun, kind)
        driver = play(replies, count, way, protocol)
        if len(replies) < LONGEST and not isinstance(driver.last, Disconnect):
            yield from dialogues(count, way, protocol, replies)
        else:
            yield replies, driver


@pytest.mark.parametrize("protocol", Protocol, ids=lambda protocol: protocol.value)
@pytest.mark.parametrize("way", Way, ids=lambda way: way.value)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_dialogue_has_the_outcomes_of_the_oracle(count: int, way: Way, protocol: Protocol) -> None:
    played = 0
    for replies, driver in dialogues(count, way, protocol):
        if not isinstance(driver.last, Disconnect):
            hear(driver, "end of stream")
        played += 1
        (report,) = driver.reports
        found = [(outcome.verdict, outcome.in_doubt) for outcome in report.outcomes]
        assert found == expected(replies, count, way, protocol), replies
        assert isinstance(report, MailSent) is any(verdict is Verdict.DELIVERED for verdict, _ in found)
        assert driver.client.next_event() is driver.last
    print(f"{played} dialogues")
    assert played > 70
