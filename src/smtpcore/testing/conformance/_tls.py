"""Cases: TLS, its handshake, certificates, and bodies within it.

What lives here: all that needs a driver that speaks TLS. What does not: the certificates themselves.
"""

from __future__ import annotations

from typing import Any, Final

from smtpcore import TlsPolicy
from smtpcore.testing.certificates import server_context
from smtpcore.testing.conformance._adapter import Need
from smtpcore.testing.conformance._scripts import (
    IN_PIECES,
    LARGE,
    ONE_MAIL,
    SENT,
    SILENT,
    a_file,
    bodies,
    broken_off,
    drip,
    raw,
    read_a_little,
    refused_early,
    says,
    sends,
    taken,
)
from smtpcore.testing.conformance._stage import SOON, Act, Cases
from smtpcore.testing.peer import EXTENSIONS, Line, Script, steps

CASES: Final = Cases()

OFFERS_TLS: Final = (*EXTENSIONS, "STARTTLS")


def starttls(kind: str = "good", injected: bytes = b"", until: str | None = None) -> Script:
    """Serve with STARTTLS, up to a point."""

    def step(line: Line) -> None:
        line.serve("STARTTLS", extensions=OFFERS_TLS)
        line.raw(b"220 go on\r\n" + injected)
        if line.tls(server_context(kind)):
            line.serve(until, greet=False)

    return step


def refuses_tls(line: Line) -> None:
    line.serve(extensions=OFFERS_TLS, replies={"STARTTLS": "454 not now"})


def implicit(kind: str = "good") -> Script:
    def step(line: Line) -> None:
        if line.tls(server_context(kind)):
            line.serve()

    return step


def tls_case(name: str, script: Script, act: Act, story: str, **rest: Any) -> None:
    CASES.add(
        name, script, act, story, **{"tls": TlsPolicy.REQUIRED, "host": "localhost", "needs": (Need.TLS,), **rest}
    )


tls_case("STARTTLS", starttls(), ONE_MAIL, SENT, check=bodies(b"Hello.\r\n"))
tls_case("TLS before the greeting", implicit(), ONE_MAIL, SENT, tls=TlsPolicy.IMPLICIT)
tls_case("large bodies within TLS", starttls(), sends(LARGE, IN_PIECES), taken(2), check=bodies(LARGE, LARGE))
tls_case("a large file within TLS", starttls(), a_file, SENT, check=bodies(LARGE), needs=(Need.FILES, Need.TLS))
for _kind in ("unknown issuer", "wrong host", "expired"):
    tls_case(f"STARTTLS, {_kind}", starttls(_kind), ONE_MAIL, "TlsFailed")
    tls_case(f"TLS before the greeting, {_kind}", implicit(_kind), ONE_MAIL, "TlsFailed", tls=TlsPolicy.IMPLICIT)
tls_case(
    "STARTTLS refused",
    refuses_tls,
    ONE_MAIL,
    "TlsRequired: TLS is required, and the peer refused STARTTLS: 454 not now",
)
tls_case(
    "STARTTLS not offered",
    Line.serve,
    ONE_MAIL,
    "TlsRequired: TLS is required, and the peer does not offer STARTTLS",
)
tls_case(
    "plaintext behind the 220 of STARTTLS",
    starttls(injected=b"250-peer.example\r\n250 AUTH PLAIN\r\n"),
    ONE_MAIL,
    "RemoteProtocolError: octets in clear behind the reply to STARTTLS (RFC 3207 §4.2)",
)
tls_case(
    "552 in a body within TLS, then the peer reads no more",
    steps(starttls(until="BODY"), read_a_little, says("552 5.3.4 too big"), Line.stall),
    sends(LARGE),
    refused_early("5.3.4 too big"),
)
for _how, _message in (("in memory", LARGE), ("in pieces", IN_PIECES)):
    tls_case(
        f"a peer that reads no more of a body {_how} within TLS",
        steps(starttls(until="BODY"), read_a_little, Line.stall),
        sends(_message),
        broken_off(SILENT, "timeout"),
        deadlines={"data_block": SOON},
    )
    tls_case(
        f"a reset in a body {_how} within TLS",
        steps(starttls(until="BODY"), read_a_little, Line.reset),
        sends(_message),
        broken_off("ConnectionLost", "lost"),
        deadlines={"last_words": SOON},
    )


def no_handshake(line: Line) -> None:
    line.serve("STARTTLS", extensions=OFFERS_TLS)
    line.say("220 go on")
    line.octets(1)


for _name, _then, _within in (
    ("garbage", raw(b"what is this?\r\n"), {}),
    ("silence", Line.until_closed, {"starttls": SOON}),
    # The beginning of a TLS record that never ends.
    ("a drip", drip(b"\x16\x03\x03\x40\x00" + bytes(200)), {"starttls": SOON}),
    ("a close", Line.close, {}),
    ("a reset", Line.reset, {}),
):
    tls_case(f"{_name} instead of a handshake", steps(no_handshake, _then), ONE_MAIL, "TlsFailed", deadlines=_within)
tls_case(
    "TLS before the greeting, at a port in clear",
    says("220 peer.example ready"),
    ONE_MAIL,
    "TlsFailed",
    tls=TlsPolicy.IMPLICIT,
)
tls_case(
    "TLS before the greeting, at a port that waits",
    Line.stall,
    ONE_MAIL,
    "TlsFailed",
    tls=TlsPolicy.IMPLICIT,
    deadlines={"starttls": SOON},
)
