"""Cases: LMTP, where each recipient has a verdict of its own behind the message (RFC 2033 §4.2).

What lives here: verdicts that come together, one after the other, or not all of them. What does not: what SMTP has as
well.
"""

from __future__ import annotations

from typing import Final

from smtpcore import Protocol
from smtpcore.testing.conformance._adapter import Need
from smtpcore.testing.conformance._scripts import bodies, says
from smtpcore.testing.conformance._stage import SOON, Cases, Stage
from smtpcore.testing.peer import Line, Script, demand, steps

CASES: Final = Cases()

MAILBOXES: Final = ("anna@there.example", "boris@there.example", "nobody@there.example", "clara@there.example")


def store(*verdicts: Script) -> Script:
    """A store of mailboxes that knows nobody of one name; ``verdicts`` are said once it has the message."""

    def serve(line: Line, until: str | None = None, *, greet: bool = True) -> bytes:
        replies = {"LHLO": "250-store.example\n250 PIPELINING", "RCPT TO:<NOBODY": "550 5.1.1 no such mailbox"}
        return line.serve(until, greet=greet, replies=replies)

    def step(line: Line) -> None:
        demand(bool(serve(line, "DOT")), "the message did not come")
        steps(*verdicts)(line)
        serve(line, greet=False)

    return step


async def one_mail(stage: Stage) -> None:
    session = await stage.open()
    await stage.deliver(session, b"Hello.\r\n", *MAILBOXES)
    if session.end is None:
        await stage.quit(session)
    else:
        stage.tell_end(session)


VERDICTS: Final = ("250 2.1.5 anna has it", "452 4.2.2 boris is over quota", "250 2.1.5 clara has it")


#: Each verdict has so many seconds, and all of them together take more.
FOR_EACH: Final = 0.8


def one_by_one(line: Line) -> None:
    for verdict in VERDICTS:
        demand(not line.gone(FOR_EACH / 2), "the client did not wait for all verdicts")
        line.say(verdict)


ALL_TOLD: Final = """
    open
    sent BODY_ENDED
      anna@there.example delivered: 250 2.1.5 anna has it
      boris@there.example later: 452 4.2.2 boris is over quota
      nobody@there.example never: 550 5.1.1 no such mailbox
      clara@there.example delivered: 250 2.1.5 clara has it
    end quit clean
"""


def half_told(error: str, reason: str) -> str:
    """The story of a session that fails with ``error`` behind the first verdict."""
    return f"""
        open
        sent BODY_ENDED
          anna@there.example delivered: 250 2.1.5 anna has it
          boris@there.example later (in doubt): {error}
          nobody@there.example never: 550 5.1.1 no such mailbox
          clara@there.example later (in doubt): {error}
        end {reason} {error}
    """


LATE: Final = "PeerTimeout: the peer was silent beyond the deadline for end of data"

for _name, _verdicts, _story, _within in (
    ("verdicts of LMTP that come together", (says(*VERDICTS),), ALL_TOLD, {}),
    ("verdicts of LMTP that come one by one", (one_by_one,), ALL_TOLD, {"data_termination": FOR_EACH}),
    (
        "a close at the second verdict of LMTP",
        (says(VERDICTS[0]), Line.close),
        half_told("ConnectionLost", "lost"),
        {},
    ),
    (
        "silence at the second verdict of LMTP",
        (says(VERDICTS[0]), Line.until_closed),
        half_told(LATE, "timeout"),
        {"data_termination": SOON},
    ),
):
    CASES.add(
        _name,
        store(*_verdicts),
        one_mail,
        _story,
        deadlines=_within,
        options={"protocol": Protocol.LMTP},
        needs=(Need.LMTP,),
        check=bodies(b"Hello.\r\n"),
    )
