"""The words that cases are written in: steps of peers, what callers do, and stories.

What lives here: what several rooms of cases use. What does not: any case.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from smtpcore.testing.certificates import server_context
from smtpcore.testing.conformance._stage import SOON, Act, Stage
from smtpcore.testing.peer import EXTENSIONS, Line, Peer, Script, demand, steps

# --- what peers do -------------------------------------------------------------------------------------------------


def says(*lines: str) -> Script:
    return lambda line: line.say(*lines)


def raw(octets: bytes) -> Script:
    return lambda line: line.raw(octets)


def serves(until: str | None = None, *, greet: bool = True, extensions: Iterable[str] = EXTENSIONS) -> Script:
    return lambda line: line.serve(until, greet=greet, extensions=extensions)


def up_to(stage: str) -> Script:
    """Serve up to a stage, one command at a time."""

    def step(line: Line) -> None:
        if stage != "CONNECT":
            line.serve(stage, extensions=())

    return step


def drip(octets: bytes) -> Script:
    """Each octet comes well within the deadline, and yet all of them together are too late."""
    return lambda line: line.drip(octets, SOON / 5)


def say_421(line: Line) -> None:
    line.say("421 4.3.2 going down")


def read_a_little(line: Line) -> None:
    line.octets(10_000)


BEGINS_TO_READ: Final = steps(serves("BODY"), read_a_little)


# --- what callers do -------------------------------------------------------------------------------------------------


#: 8 MiB, more than any buffer between the two.
LARGE: Final = b"0123456789abcdef" * 64 * 1024 * 8 + b"\r\n"
IN_PIECES: Final = tuple(LARGE[start : start + 50_000] for start in range(0, len(LARGE), 50_000))


def sends(*messages: Any) -> Act:
    """A caller who sends messages, one after the other."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        for message in messages:
            await stage.deliver(session, message)
        await stage.quit(session)

    return act


ONE_MAIL: Final = sends(b"Hello.\r\n")


async def a_file(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message"
        path.write_bytes(LARGE)
        session = await stage.open()
        await stage.deliver(session, path)
    await stage.quit(session)


# --- what comes of it ------------------------------------------------------------------------------------------------


SENT: Final = """
    open
    sent BODY_ENDED
      b@there.example delivered: 250 accepted 1
    end quit clean
"""


def taken(count: int) -> str:
    told = (f"sent BODY_ENDED\n  b@there.example delivered: 250 accepted {n}\n" for n in range(1, count + 1))
    return f"open\n{''.join(told)}end quit clean"


REFUSED: Final = "ServiceRefused: the peer refuses service: 421 4.3.2 going down"


ABORTED: Final = "SessionAborted: the application gave the session up"


SILENT: Final = "PeerTimeout: the peer was silent beyond the deadline for end of data"


def told(stage: str, error: str, reason: str) -> str:
    """The story of a session that fails with ``error`` at ``stage``."""
    if stage in {"CONNECT", "EHLO"}:
        return error
    reached = "BODY_ENDED" if stage == "DOT" else "STARTED"
    doubt = " (in doubt)" if stage == "DOT" and "421" not in error else ""
    said = "421 4.3.2 going down" if "421" in error else error
    return f"open\nrefused {reached}\n  b@there.example later{doubt}: {said}\nend {reason} {error}"


def broken_off(error: str, reason: str, verdict: str = "later", said: str = "") -> str:
    return f"open\nrefused BODY_BEGUN\n  b@there.example {verdict}: {said or error}\nend {reason} {error}"


def refused_early(text: str) -> str:
    error = f"ServiceRefused: the peer refused the message before its end: 552 {text}"
    return broken_off(error, "body", "never", f"552 {text}")


def within_tls(line: Line) -> None:
    """Serve up to a handshake that succeeds."""
    line.serve("STARTTLS", extensions=(*EXTENSIONS, "STARTTLS"))
    line.say("220 go on")
    demand(line.tls(server_context()), "the client shook no hands")


def bodies(*expected: bytes, dot: bytes = b".\r\n") -> Callable[[Peer], None]:
    """The peer read these messages, as they stand on the wire, without their final dots; in chunks there is none."""

    def check(peer: Peer) -> None:
        bodies = [body for line in peer.lines for body in line.bodies]
        # Not shown: nobody wants to see megabytes in a message.
        same = bodies == [body + dot for body in expected]
        demand(same, f"the peer read other octets: {[len(body) for body in bodies]} of them")

    return check
