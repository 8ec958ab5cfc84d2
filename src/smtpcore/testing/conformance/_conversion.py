"""Cases: what the core asks about bodies, and messages that are converted on their way.

What lives here: answers to ``NeedFacts`` and ``NeedConversion``. What does not: how a message is converted, which is
:mod:`smtpcore.mime`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from smtpcore import Conversion
from smtpcore.testing.conformance._adapter import Need
from smtpcore.testing.conformance._scripts import SENT, bodies, say_421, sends, serves, taken
from smtpcore.testing.conformance._stage import Act, Cases, Stage
from smtpcore.testing.peer import PATIENCE, Line, Peer, Script, demand

CASES: Final = Cases()

_HEADER: Final = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
EIGHT_BIT: Final = _HEADER + b"8bit\r\n\r\nZwei Caf\xc3\xa9s, bitte.\r\n"
#: The same for peers that know seven bits only.
QUOTED: Final = _HEADER + b"quoted-printable\r\n\r\nZwei Caf=C3=A9s, bitte.\r\n"
SEVEN_BIT: Final = _HEADER + b"7bit\r\n\r\nTwo coffees, please.\r\n"
LONG: Final = _HEADER + b"7bit\r\n\r\n" + b"x" * 999 + b"\r\n"
LONG_IN_LINES: Final = _HEADER + b"quoted-printable\r\n\r\n" + b"x" * 75 + b"=\r\n"
SIGNED: Final = b"DKIM-Signature: v=1\r\n" + EIGHT_BIT

SEVEN_BITS_ONLY: Final = serves(extensions=("PIPELINING",))


def cut(octets: bytes) -> tuple[bytes, ...]:
    return tuple(octets[start : start + 10] for start in range(0, len(octets), 10))


def sends_once(octets: bytes, **facts: Any) -> Act:
    """A caller whose message can be read only once."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        await stage.deliver(session, iter(cut(octets)), **facts)
        await stage.quit(session)

    return act


def sends_known(octets: bytes, *recipients: str, **facts: Any) -> Act:
    """A caller who says what there is in a message."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        await stage.deliver(session, octets, *recipients, **facts)
        await stage.quit(session)

    return act


def conversion_case(name: str, script: Script, act: Act, story: str, **rest: Any) -> None:
    chosen = {"eight_bit": Conversion.CONVERT, "long_lines": Conversion.CONVERT, **rest.pop("choose", {})}
    CASES.add(name, script, act, story, options=chosen, needs=(Need.CONVERSION,), **rest)


for _how, _act in (
    ("in memory", sends(EIGHT_BIT)),
    ("in pieces", sends(cut(EIGHT_BIT))),
    ("that can be read only once", sends_once(EIGHT_BIT)),
    ("of which all is known", sends_known(EIGHT_BIT, eight_bit=True, long_lines=False)),
):
    conversion_case(f"a message {_how} is converted", SEVEN_BITS_ONLY, _act, SENT, check=bodies(QUOTED))
conversion_case(
    "messages that fit are not converted",
    SEVEN_BITS_ONLY,
    sends(SEVEN_BIT, cut(SEVEN_BIT)),
    taken(2),
    check=bodies(SEVEN_BIT, SEVEN_BIT),
)
conversion_case(
    "a message that fits and can be read only once arrives whole",
    SEVEN_BITS_ONLY,
    sends_once(SEVEN_BIT),
    SENT,
    check=bodies(SEVEN_BIT),
)
conversion_case(
    "a message is not converted for a peer that takes it",
    serves(extensions=("PIPELINING", "8BITMIME")),
    sends(EIGHT_BIT),
    SENT,
    check=bodies(EIGHT_BIT),
)


def in_short_lines(peer: Peer) -> None:
    (body,) = peer.lines[0].bodies
    demand(body.startswith(LONG_IN_LINES), f"the peer read other octets: {body[:200]!r}")


conversion_case("long lines are converted", Line.serve, sends(LONG), SENT, check=in_short_lines)


def one_recipient_at_a_time(line: Line) -> None:
    line.serve("RCPT TO:<C", extensions=("PIPELINING",))
    line.say("452 4.5.3 too many")
    line.serve(greet=False)


conversion_case(
    "a converted message is read again for the recipients that were put off",
    one_recipient_at_a_time,
    sends_known(EIGHT_BIT, "b@there.example", "c@there.example", repeatable=True),
    """
        open
        sent BODY_ENDED
          b@there.example delivered: 250 accepted 1
          c@there.example delivered: 250 accepted 2
        end quit clean
    """,
    check=bodies(QUOTED, QUOTED),
)


# --- what cannot go --------------------------------------------------------------------------------------------------


def breaks() -> Iterator[bytes]:
    yield EIGHT_BIT[:50]
    raise LookupError("no more")


def then_another(message: Any, **facts: Any) -> Act:
    """A caller who sends a mail of which nothing is said, and another one in the same session."""

    async def act(stage: Stage) -> None:
        session = await stage.open()
        await stage.deliver(session, message() if callable(message) else message, **facts)
        await stage.deliver(session, SEVEN_BIT)
        await stage.quit(session)

    return act


def none_of_the_first(peer: Peer) -> None:
    said = [line.partition(b" ")[0] for line in peer.lines[0].commands]
    demand(said.count(b"MAIL") == 1, f"MAIL was to be said for the second mail only: {said}")


AS_BROKEN: Final = "later: BodyError: the body could not be read: no more"
TO_BE_REFUSED: Final = {"choose": {"eight_bit": Conversion.REFUSE}}

for _name, _act, _said, _rest in (
    (
        "octets above 127 are refused where they are to be",
        then_another(EIGHT_BIT),
        "never: ExtensionRequired: the message has octets above 127 and the peer does not offer 8BITMIME",
        TO_BE_REFUSED,
    ),
    (
        "a message that is signed is not converted",
        then_another(SIGNED),
        "never: ConversionFailed: the message cannot be converted: it is signed (dkim-signature), "
        "and would not be as it was signed",
        {},
    ),
    ("a source breaks while it is looked at", then_another(breaks), AS_BROKEN, {}),
    ("a source breaks while it is converted", then_another(breaks, eight_bit=True), AS_BROKEN, {}),
):
    conversion_case(
        _name,
        SEVEN_BITS_ONLY,
        _act,
        f"""
            open
            refused {"NOT_STARTED" if "never" in _said else "STARTED"}
              b@there.example {_said}
            sent BODY_ENDED
              b@there.example delivered: 250 accepted 1
            end quit clean
        """,
        check=none_of_the_first,
        **_rest,
    )


def has_enough_meanwhile(line: Line) -> None:
    line.say("220 peer.example ready")
    line.expect("EHLO")
    line.say("250 peer.example")
    demand(line.go.wait(PATIENCE), "nobody looked at the message")
    say_421(line)
    line.close()
    line.done.set()


async def slow_to_read(stage: Stage) -> None:
    """A source that takes until the peer has left."""

    def source() -> Iterator[bytes]:
        stage.peer.go.set()
        demand(stage.peer.done.wait(PATIENCE), "the peer did not do its part")
        yield EIGHT_BIT

    session = await stage.open()
    await stage.deliver(session, source())
    stage.tell_end(session)


conversion_case(
    "421 and a close while a message is looked at",
    has_enough_meanwhile,
    slow_to_read,
    """
        open
        refused NOT_STARTED
          b@there.example later: 421 4.3.2 going down
        end refused ServiceRefused: the peer refuses service: 421 4.3.2 going down
    """,
)
