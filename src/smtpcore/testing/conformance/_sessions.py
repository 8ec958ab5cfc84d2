"""Cases: what sessions can do beside one mail at a time.

What lives here: many mails asked for one after the other, with pipelining across them, and commands that a caller asks
for. What does not: single mails.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from smtpcore import Pipelining, SessionError, SmtpError
from smtpcore.testing.conformance._adapter import Need, call
from smtpcore.testing.conformance._scripts import bodies, say_421, serves, taken
from smtpcore.testing.conformance._stage import SOON, Act, Cases, Stage, named
from smtpcore.testing.peer import Line, Script, steps

CASES: Final = Cases()

# --- many mails ------------------------------------------------------------------------------------------------------


def many_mails(count: int) -> Act:
    """A caller whose mails are asked for; what ends the session early is raised behind the reports, or not at all."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        with contextlib.suppress(SessionError):
            await stage.send_many(session, *(b".mail %d" % number for number in range(count)))
        if session.end is None:
            await stage.quit(session)
        else:
            stage.tell_end(session)

    return act


def first_then_next(*verdict: str, then: Script) -> Script:
    """Give a verdict on the first message only when the next mail is begun."""

    def step(line: Line) -> None:
        line.serve("DOT")
        line.expect("MAIL")
        line.say(*verdict, "250 ok")
        then(line)

    return step


def goes_on(line: Line) -> None:
    line.expect("RCPT")
    line.expect("DATA")
    line.say("250 ok", "354 go on")
    line.message()
    line.expect("MAIL")
    line.say("250 accepted 2", "250 ok")
    line.serve(greet=False)


MAILS: Final = bodies(*(b"..mail %d\r\n" % number for number in range(3)))


def across_case(name: str, script: Script, act: Act, story: str, **rest: Any) -> None:
    CASES.add(name, script, act, story, options={"pipelining": Pipelining.ACROSS}, needs=(Need.ACROSS,), **rest)


across_case("many mails across", Line.serve, many_mails(3), taken(3), check=MAILS)
across_case(
    "a mail is begun before the verdict on the last one",
    first_then_next("250 accepted 1", then=goes_on),
    many_mails(3),
    taken(3),
    check=MAILS,
)


def unheard(line: Line) -> None:
    line.expect("RCPT")
    line.expect("DATA")


def forgets_a_verdict(line: Line) -> None:
    """Every answer now stands for the one before."""
    unheard(line)
    line.say("250 ok", "354 go on")


LOST_STEP: Final = "LostStep: the dialogue has lost step: 354 is no answer to RCPT: 354 go on"

across_case(
    "a peer that loses step across mails",
    first_then_next(then=forgets_a_verdict),
    many_mails(2),
    f"""
        open
        refused BODY_ENDED
          b@there.example later (in doubt): {LOST_STEP}
        refused STARTED
          b@there.example later: {LOST_STEP}
        end protocol {LOST_STEP}
    """,
)
across_case(
    "a close at the mail behind a message",
    first_then_next("250 accepted 1", then=steps(unheard, Line.close)),
    many_mails(2),
    """
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        refused STARTED
          b@there.example later: ConnectionLost
        end lost ConnectionLost
    """,
)


# --- commands that a caller asks for -------------------------------------------------------------------------------


def commands(*lines: str) -> Act:
    """A caller who asks for commands behind a mail, and sends another one."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        await stage.deliver(session)
        for line in lines:
            try:
                stage.note(f"{line}: {await call(session.command, line)}")
            except SmtpError as error:
                stage.note(f"{line}: {named(error)}")
        if session.end is None:
            await stage.deliver(session)
            await stage.quit(session)
        else:
            stage.tell_end(session)

    return act


def serves_commands(line: Line) -> None:
    line.serve(replies={"VRFY": "252-perhaps\n252 who knows", "X-WISH": "502 5.5.1 what"})


CASES.add(
    "commands between mails",
    serves_commands,
    commands("vrfy anna", "X-WISH come true", "QUIT", "NOOP"),
    """
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
        vrfy anna: 252 perhaps / who knows
        X-WISH come true: 502 5.5.1 what
        QUIT: LocalProtocolError: 'QUIT': QUIT cannot be asked for: the session says it itself
        NOOP: 250 ok
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 2
        end quit clean
    """,
    needs=(Need.COMMANDS,),
)
for _name, _then, _error, _reason, _within in (
    ("421 at a command", say_421, "ServiceRefused: the peer refuses service: 421 4.3.2 going down", "refused", {}),
    ("a close at a command", Line.close, "ConnectionLost", "lost", {}),
    (
        "silence at a command",
        Line.until_closed,
        "PeerTimeout: the peer was silent beyond the deadline for NOOP",
        "timeout",
        {"other": SOON},
    ),
):
    CASES.add(
        _name,
        steps(serves("NOOP"), _then),
        commands("NOOP"),
        f"""
            open
            sent BODY_ENDED
              b@there.example delivered: 250 accepted 1
            NOOP: {_error}
            end {_reason} {_error}
        """,
        needs=(Need.COMMANDS,),
        deadlines=_within,
    )
