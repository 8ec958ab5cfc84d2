"""Cases: what is said between the first EHLO and the first mail, beside TLS.

What lives here: authentication in several steps (RFC 4954), and a session that is held for another client (XCLIENT).
What does not: the mechanisms, which are the core's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final

from smtpcore import TlsPolicy, XClient
from smtpcore.sasl import Login, ScramSha256
from smtpcore.testing.conformance._adapter import Need
from smtpcore.testing.conformance._scripts import ONE_MAIL, REFUSED, SENT, says, within_tls
from smtpcore.testing.conformance._stage import SOON, Cases
from smtpcore.testing.peer import EXTENSIONS, Line, Peer, Script, demand, steps

CASES: Final = Cases()

# --- authentication ------------------------------------------------------------------------------------------------

USER, PASSWORD = "anna", "open sesame"


def to_auth(mechanism: str) -> Script:
    """Serve within TLS up to AUTH, whose line is left to be decided on."""

    def step(line: Line) -> None:
        within_tls(line)
        said = line.serve("AUTH", greet=False, extensions=(*EXTENSIONS, f"AUTH {mechanism}"))
        demand(said.startswith(f"AUTH {mechanism}".encode()), f"no authentication: {said!r}")

    return step


def challenge(line: Line, octets: bytes) -> bytes:
    """Ask, and return the answer."""
    line.say(f"334 {base64.b64encode(octets).decode()}")
    return base64.b64decode(line.line())


def asks_for_name_and_password(line: Line) -> None:
    demand(challenge(line, b"Username:") == USER.encode(), "another user's name")
    demand(challenge(line, b"Password:") == PASSWORD.encode(), "another password")


def welcomes(line: Line) -> None:
    line.say("235 2.7.0 welcome")
    line.serve(greet=False)


def login(*then: Script) -> Script:
    return steps(to_auth("LOGIN"), *then)


def scram(line: Line) -> None:
    """A server that keeps no password, and proves to the client that it knows it (RFC 5802 §3)."""
    to_auth("SCRAM-SHA-256")(line)
    said = base64.b64decode(line.commands[-1].rpartition(b" ")[2]).decode()
    bare = said.split(",", 2)[2]
    name, nonce = bare.split(",")
    demand((name, nonce[:2]) == (f"n={USER}", "r="), f"no first message of SCRAM: {said}")
    first = f"{nonce}and-ours,s={base64.b64encode(b'salt').decode()},i=4096"
    final = challenge(line, first.encode()).decode()
    without_proof, _, proof = final.rpartition(",p=")
    signed = f"{bare},{first},{without_proof}".encode()
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", 4096)
    key = _signature(salted, b"Client Key")
    mask = _signature(hashlib.sha256(key).digest(), signed)
    demand(base64.b64decode(proof) == bytes(a ^ b for a, b in zip(key, mask, strict=True)), "the proof is wrong")
    demand(
        challenge(line, b"v=" + base64.b64encode(_signature(_signature(salted, b"Server Key"), signed))) == b"",
        "the last word of the server was not taken",
    )
    welcomes(line)


def _signature(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "sha256")


def auth_case(name: str, script: Script, story: str, mechanism: Callable[[str, str], Any] = Login, **rest: Any) -> None:
    CASES.add(
        name,
        script,
        ONE_MAIL,
        story,
        tls=TlsPolicy.REQUIRED,
        host="localhost",
        options={"credentials": [mechanism(USER, PASSWORD)]},
        needs=(Need.TLS, Need.CREDENTIALS),
        **rest,
    )


auth_case("AUTH in two steps", login(asks_for_name_and_password, welcomes), SENT)
auth_case("AUTH with a nonce, which both sides prove", scram, SENT, ScramSha256)
auth_case(
    "AUTH refused behind its last step",
    login(asks_for_name_and_password, says("535 5.7.8 not you"), lambda line: line.serve(greet=False)),
    "AuthDeclined: the peer refused the credentials: 535 5.7.8 not you",
)
auth_case(
    "silence within AUTH",
    login(says("334 VXNlcm5hbWU6"), Line.until_closed),
    "PeerTimeout: the peer was silent beyond the deadline for AUTH answer",
    deadlines={"auth": SOON},
)
auth_case("a close at a step of AUTH", login(says("334 VXNlcm5hbWU6"), Line.close), "ConnectionLost")


# --- for another client --------------------------------------------------------------------------------------------

OFFERS_XCLIENT: Final = (*EXTENSIONS, "XCLIENT NAME ADDR")


def to_xclient(*then: Script) -> Script:
    def step(line: Line) -> None:
        said = line.serve("XCLIENT", extensions=OFFERS_XCLIENT)
        demand(said == b"XCLIENT NAME=spike.example ADDR=192.0.2.1", f"another client: {said!r}")

    return steps(step, *then)


def greeted_twice(peer: Peer) -> None:
    said = [line.partition(b" ")[0] for line in peer.lines[0].commands]
    demand(said == [b"EHLO", b"XCLIENT", b"EHLO", b"MAIL", b"RCPT", b"DATA", b"QUIT"], f"not in this order: {said}")


def hears_of_another(line: Line) -> None:
    line.say("220 peer.example welcomes spike.example")
    line.serve(greet=False)


for _name, _script, _story, _rest in (
    ("XCLIENT", to_xclient(hears_of_another), SENT, {"check": greeted_twice}),
    (
        "XCLIENT not offered",
        Line.serve,
        "XclientRequired: the peer does not offer XCLIENT with NAME ADDR",
        {},
    ),
    (
        "XCLIENT refused",
        to_xclient(says("550 5.7.0 not from you"), lambda line: line.serve(greet=False)),
        "XclientRequired: the peer refused XCLIENT: 550 5.7.0 not from you",
        {},
    ),
    ("421 instead of the greeting behind XCLIENT", to_xclient(says("421 4.3.2 going down"), Line.close), REFUSED, {}),
    (
        "silence instead of the greeting behind XCLIENT",
        to_xclient(Line.until_closed),
        "PeerTimeout: the peer was silent beyond the deadline for XCLIENT",
        {"deadlines": {"greeting": SOON}},
    ),
):
    CASES.add(
        _name,
        _script,
        ONE_MAIL,
        _story,
        options={"xclient": XClient(name="spike.example", address="192.0.2.1")},
        needs=(Need.XCLIENT,),
        **_rest,
    )
