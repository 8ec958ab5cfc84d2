"""Every short sequence of replies to one mail, against an oracle that was written without looking at the client.

What lives here: all dialogues of a mail of one or two recipients, with and without PIPELINING. What does not: opening
a session, and further mails.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from smtpcore import Client, Disconnect, Envelope, MailSent, Pipelining, TlsPolicy, Verdict
from smtpcore.testing import PureDriver

KINDS = ("good", "4yz", "5yz", "421", "garbage", "end of stream")
CUT = {"421", "garbage", "end of stream"}
LONGEST = 5
REFUSED = {"4yz": Verdict.LATER, "5yz": Verdict.NEVER}


def expected(replies: tuple[str, ...], count: int, pipelined: bool) -> list[tuple[Verdict, bool]]:
    """The oracle: what becomes of each recipient, and whether that is in doubt, when the stream ends after ``replies``.

    It goes through the dialogue in the order of the commands, and knows nothing of queues and states.
    """
    words = chain(replies, repeat("end of stream"))
    outcomes: list[tuple[Verdict, bool] | None] = [None] * count
    accepted: list[int] = []

    def cut_off(in_doubt: bool = False) -> list[tuple[Verdict, bool]]:
        return [o or (Verdict.LATER, in_doubt and i in accepted) for i, o in enumerate(outcomes)]

    to_mail = next(words)
    if to_mail in CUT:
        return cut_off()
    if to_mail != "good":
        outcomes = [(REFUSED[to_mail], False)] * count
        if not pipelined:
            return cut_off()
    for recipient in range(count):
        to_rcpt = next(words)
        if to_rcpt in CUT:
            return cut_off()
        if to_mail == "good" and to_rcpt == "good":
            accepted.append(recipient)
        elif to_mail == "good":
            outcomes[recipient] = (REFUSED[to_rcpt], False)
    if not accepted and not pipelined:
        return cut_off()
    to_data = next(words)
    if to_data in CUT:
        return cut_off()
    verdict = to_data if to_data != "good" else next(words)
    if verdict in CUT:
        return cut_off(in_doubt=verdict != "421")
    for recipient in accepted:
        outcomes[recipient] = (Verdict.DELIVERED if verdict == "good" else REFUSED[verdict], False)
    return cut_off()


def play(replies: tuple[str, ...], count: int, pipelined: bool) -> tuple[PureDriver, bool]:
    """A driver that has heard ``replies``, and whether the mail was answered before the last of them was used."""
    policy = Pipelining.WITHIN if pipelined else Pipelining.NONE
    driver = PureDriver(Client("client.example", tls=TlsPolicy.NEVER, pipelining=policy))
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 PIPELINING\r\n")
    driver.give(Envelope("", [f"r{n}@b.example" for n in range(count)]), b"hello\r\n")
    commands = driver.run().split(b"\r\n")[:-1]
    for reply in replies:
        say(driver, reply, commands)
    return driver, bool(driver.reports)


def say(driver: PureDriver, reply: str, commands: list[bytes]) -> None:
    """Let ``driver`` hear one reply to the oldest of ``commands``, to which what it says is added."""
    if isinstance(driver.last, Disconnect):
        return
    if reply == "end of stream":
        driver.client.receive_eof()
        driver.run()
        return
    command = commands.pop(0) if commands else b""
    code = {"good": b"354" if command == b"DATA" else b"250", "4yz": b"450", "5yz": b"550"}.get(reply, b"421")
    said = driver.hear(b"whatever\r\n" if reply == "garbage" else code + b" text\r\n")
    if said.endswith(b".\r\n"):
        commands.append(b".")
    else:
        commands += said.split(b"\r\n")[:-1]


def sequences(count: int, pipelined: bool, begun: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All sequences that leave the mail unanswered until their last reply."""
    for kind in KINDS:
        replies = (*begun, kind)
        yield replies
        if len(replies) < LONGEST and not play(replies, count, pipelined)[1]:
            yield from sequences(count, pipelined, replies)


@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "pipelined"])
@pytest.mark.parametrize("count", [1, 2])
def test_every_dialogue_has_the_outcomes_of_the_oracle(count, pipelined):
    played = 0
    for replies in sequences(count, pipelined):
        for then in KINDS:
            driver, _ = play((*replies, then), count, pipelined)
            if not isinstance(driver.last, Disconnect):
                driver.client.receive_eof()
                driver.run()
            played += 1
            (report,) = driver.reports
            found = [(outcome.verdict, outcome.in_doubt) for outcome in report.outcomes]
            assert found == expected((*replies, then), count, pipelined), replies
            assert isinstance(report, MailSent) is any(verdict is Verdict.DELIVERED for verdict, _ in found)
            assert isinstance(driver.client.next_event(), Disconnect)
    assert played > 100
