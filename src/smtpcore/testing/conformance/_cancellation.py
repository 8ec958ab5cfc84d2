"""Cases: a caller that is cancelled, at every stage.

What lives here: what must be left of its session. What does not: how a loop cancels, which is the adapter's.
"""

from __future__ import annotations

from typing import Final

from smtpcore.testing.conformance._adapter import Need
from smtpcore.testing.conformance._scripts import ABORTED, BEGINS_TO_READ, IN_PIECES, broken_off, told, up_to
from smtpcore.testing.conformance._stage import Cases, Stage
from smtpcore.testing.peer import Line, Peer, demand, steps

CASES: Final = Cases()


async def cancelled(stage: Stage) -> None:
    """A caller that is cancelled, and looks at what is left of its session."""
    session = await stage.open()
    try:
        await stage.deliver(session, IN_PIECES)
    finally:
        if session.last_report is not None:
            stage.tell(session.last_report)
        stage.tell_end(session)


def now_cancel(line: Line) -> None:
    line.done.set()
    line.until_closed()


def closed(peer: Peer) -> None:
    demand(peer.lines[0].saw_close, "the connection was left open")


for _stage, _story in (
    ("CONNECT", ""),
    ("EHLO", ""),
    ("MAIL", told("MAIL", ABORTED, "aborted")),
    ("RCPT", told("RCPT", ABORTED, "aborted")),
    ("DATA", told("DATA", ABORTED, "aborted")),
    ("DOT", told("DOT", ABORTED, "aborted")),
):
    CASES.add(
        f"cancelled at {_stage}",
        steps(up_to(_stage), now_cancel),
        cancelled,
        _story,
        needs=(Need.CANCELLATION,),
        check=closed,
    )


def cancel_unread(line: Line) -> None:
    line.done.set()
    line.stall()


CASES.add(
    "cancelled while writing a body",
    steps(BEGINS_TO_READ, cancel_unread),
    cancelled,
    broken_off(ABORTED, "aborted"),
    needs=(Need.CANCELLATION,),
)
