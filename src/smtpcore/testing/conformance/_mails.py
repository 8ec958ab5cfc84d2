"""Cases: what goes well, and what happens between mails.

What lives here: whole mails, one after the other, and a peer that speaks or leaves while nobody asked it anything. What
does not: failures within a mail.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from smtpcore import Envelope
from smtpcore.testing.conformance._adapter import Need, call
from smtpcore.testing.conformance._scripts import (
    IN_PIECES,
    LARGE,
    ONE_MAIL,
    REFUSED,
    SENT,
    a_file,
    bodies,
    say_421,
    says,
    sends,
    serves,
    taken,
)
from smtpcore.testing.conformance._stage import SOON, Cases, Stage
from smtpcore.testing.peer import PATIENCE, Line, Peer, Script, demand, steps

CASES: Final = Cases()

# --- what goes well ------------------------------------------------------------------------------------------------


def octet_by_octet(line: Line) -> None:
    """Say everything in segments of one octet."""
    whole = line.raw

    def raw(octets: bytes) -> None:
        for octet in octets:
            whole(bytes([octet]))

    line.raw = raw  # type: ignore[method-assign]  # all that is said goes this way
    line.serve()


CASES.add("a good mail", Line.serve, ONE_MAIL, SENT, check=bodies(b"Hello.\r\n"))
CASES.add("a good mail without PIPELINING", serves(extensions=()), ONE_MAIL, SENT)
CASES.add("a peer that writes octet by octet", octet_by_octet, ONE_MAIL, SENT)
CASES.add(
    "many mails in one session",
    Line.serve,
    sends(*(b".mail %d" % n for n in range(5))),
    taken(5),
    check=bodies(*(b"..mail %d\r\n" % n for n in range(5))),
)


class Unreadable:
    """A source of a body that gives not even an iterator."""

    def __iter__(self) -> Iterator[bytes]:
        raise LookupError("there is nothing to be read")


async def unreadable_then_another(stage: Stage) -> None:
    """A message that cannot be read, and one for somebody else, where the driver goes on."""
    session = await stage.open()
    for recipient, message in (("first@there.example", Unreadable()), ("second@there.example", b"for the second")):
        with contextlib.suppress(Exception):
            await call(session.deliver, Envelope("a@here.example", (recipient,)), message)
    session.close()


def none_for_another(peer: Peer) -> None:
    (line,) = peer.lines
    bodies = iter(line.bodies)
    recipients: list[bytes] = []
    for command in line.commands:
        if command.startswith(b"MAIL"):
            recipients = []
        elif command.startswith(b"RCPT"):
            recipients.append(command)
        elif command.startswith(b"DATA") and b"for the second" in next(bodies, b""):
            demand(recipients == [b"RCPT TO:<second@there.example>"], f"a message went to others: {recipients}")


CASES.add("a message that cannot be read", Line.serve, unreadable_then_another, "open", check=none_for_another)
CASES.add(
    "a message out of pieces",
    Line.serve,
    sends([b"Subject: x\r\n\r", b"", b"\n.dot\r", b"\nlast"], [], b""),
    taken(3),
    check=bodies(b"Subject: x\r\n\r\n..dot\r\nlast\r\n", b"", b""),
)
CASES.add(
    "large bodies",
    Line.serve,
    sends(LARGE, IN_PIECES),
    taken(2),
    check=bodies(LARGE, LARGE),
)
CASES.add("a large file", Line.serve, a_file, SENT, check=bodies(LARGE), needs=(Need.FILES,))
CASES.add("a peer that closes at QUIT", steps(serves("QUIT"), Line.close), ONE_MAIL, SENT)
CASES.add(
    "a peer that is silent at QUIT",
    steps(serves("QUIT"), Line.until_closed),
    ONE_MAIL,
    SENT.replace("end quit clean", "end quit"),
    deadlines={"quit": SOON},
)


# --- between mails ---------------------------------------------------------------------------------------------------


async def parked(stage: Stage) -> None:
    """Send a second mail once the peer has done something in between."""
    session = await stage.open()
    await stage.deliver(session)
    stage.peer.go.set()
    demand(await call(stage.adapter.wait, stage.peer.done), "the peer did not do its part")
    await stage.deliver(session, b"second")
    await stage.quit(session)


def done(line: Line) -> None:
    line.done.set()


def meanwhile(*then: Script) -> Script:
    """Take a mail, and do something when the caller has its report."""

    def step(line: Line) -> None:
        line.serve("DOT")
        line.say("250 accepted 1")
        demand(line.go.wait(PATIENCE), "the caller did not get its report")

    return steps(step, *then, done)


STRAY: Final = "RemoteProtocolError: octets that nobody asked for: b'250 what else\\r\\n'"

for _name, _script, _said, _end in (
    ("421", meanwhile(say_421), "421 4.3.2 going down", f"refused {REFUSED}"),
    ("421 and a close", meanwhile(say_421, Line.close), "421 4.3.2 going down", f"refused {REFUSED}"),
    ("421 and a reset", meanwhile(say_421, Line.reset), "421 4.3.2 going down", f"refused {REFUSED}"),
    ("a close", meanwhile(Line.close), "ConnectionLost", "lost ConnectionLost"),
    ("a reset", meanwhile(Line.reset), "ConnectionLost", "lost ConnectionLost"),
    ("a stray reply", meanwhile(says("250 what else")), STRAY, f"protocol {STRAY}"),
):
    CASES.add(
        f"{_name} while idle",
        _script,
        parked,
        f"""
            open
            sent BODY_ENDED
              b@there.example delivered: 250 accepted 1
            refused NOT_STARTED
              b@there.example later: {_said}
            end {_end}
        """,
    )
