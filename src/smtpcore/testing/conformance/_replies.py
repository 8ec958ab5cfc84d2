"""Cases: the greeting, and every stage of a mail with what a peer may say there, or not say.

What lives here: the table of stages and all that can happen at each. What does not: what happens while a body flows.
"""

from __future__ import annotations

from typing import Final

from smtpcore.testing.conformance._scripts import ONE_MAIL, REFUSED, drip, raw, say_421, says, told, up_to
from smtpcore.testing.conformance._stage import SOON, Cases
from smtpcore.testing.peer import Line, Script, steps

CASES: Final = Cases()

# --- the opening ---------------------------------------------------------------------------------------------------


def flood(octets: bytes) -> Script:
    def script(line: Line) -> None:
        while True:
            line.raw(octets * 1000)

    return script


for _name, _script, _story in (
    (
        "a greeting that refuses",
        steps(says("554 no service"), Line.until_closed),
        "ServiceRefused: the peer refuses service: 554 no service",
    ),
    (
        "a greeting that is garbage",
        raw(b"SSH-2.0-OpenSSH\r\n"),
        "RemoteProtocolError: not a reply line: b'SSH-2.0-OpenSSH'",
    ),
    (
        "a greeting that never ends",
        flood(b"220-hello\r\n"),
        "RemoteProtocolError: a reply of more than 512 lines",
    ),
    (
        "a line that never ends",
        flood(b"220 hello"),
        "RemoteProtocolError: a reply line of more than 4096 octets",
    ),
):
    CASES.add(_name, _script, ONE_MAIL, _story, deadlines={"quit": SOON})


# --- every stage, and what a peer can do there -----------------------------------------------------------------------

STAGES: Final = {
    # stage: (which deadline runs there, how messages call it)
    "CONNECT": ("greeting", "connect"),
    "EHLO": ("ehlo", "EHLO"),
    "MAIL": ("mail", "MAIL"),
    "RCPT": ("rcpt", "RCPT"),
    "DATA": ("data_initiation", "DATA"),
    "DOT": ("data_termination", "end of data"),
}


for _stage, (_row, _called) in STAGES.items():
    _late = told(_stage, f"PeerTimeout: the peer was silent beyond the deadline for {_called}", "timeout")
    for _name, _then, _story, _within in (
        ("silence", Line.until_closed, _late, {_row: SOON}),
        ("a drip", drip(b"250-" + b"x" * 200), _late, {_row: SOON}),
        ("a close", Line.close, told(_stage, "ConnectionLost", "lost"), {}),
        (
            "a half-close",
            steps(Line.finish_writing, Line.until_closed),
            told(_stage, "ConnectionLost", "lost"),
            {},
        ),
        ("421 and a close", steps(say_421, Line.close), told(_stage, REFUSED, "refused"), {}),
        (
            "garbage",
            says("2xx what?"),
            told(_stage, "RemoteProtocolError: not a reply line: b'2xx what?'", "protocol"),
            {},
        ),
    ):
        CASES.add(f"{_name} at {_stage}", steps(up_to(_stage), _then), ONE_MAIL, _story, deadlines=_within)
    if _stage != "CONNECT":
        # There a reset may overtake the connection itself.
        CASES.add(
            f"a reset at {_stage}",
            steps(up_to(_stage), Line.reset),
            ONE_MAIL,
            told(_stage, "ConnectionLost", "lost"),
            deadlines={"last_words": SOON},
        )
        CASES.add(
            f"421 and a reset at {_stage}",
            steps(up_to(_stage), say_421, Line.reset),
            ONE_MAIL,
            told(_stage, REFUSED, "refused"),
        )
