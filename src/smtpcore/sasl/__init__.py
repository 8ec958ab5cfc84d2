"""SASL mechanisms as small objects (RFC 4422): a name, a first response, answers to challenges.

What lives here: the public names, and what a user with a password can do. What does not: base64, AUTH lines and the
choice of a mechanism. A mechanism that needs chance, a token or a channel binding is given it.
"""

from __future__ import annotations

from typing import Final

from smtpcore._errors import LocalProtocolError
from smtpcore.sasl._mechanism import Circumstances, Mechanism
from smtpcore.sasl._others import Anonymous, External
from smtpcore.sasl._passwords import CramMd5, Login, Plain
from smtpcore.sasl._scram import (
    Scram,
    ScramSha1,
    ScramSha1Plus,
    ScramSha256,
    ScramSha256Plus,
    ScramSha512,
    ScramSha512Plus,
)
from smtpcore.sasl._tokens import OAuthBearer, TokenRequest, XOAuth2

__all__ = [
    "Anonymous",
    "Circumstances",
    "CramMd5",
    "External",
    "Login",
    "Mechanism",
    "OAuthBearer",
    "Plain",
    "Scram",
    "ScramSha1",
    "ScramSha1Plus",
    "ScramSha256",
    "ScramSha256Plus",
    "ScramSha512",
    "ScramSha512Plus",
    "TokenRequest",
    "XOAuth2",
    "mechanisms_for",
]

#: Strongest first: bound to the TLS channel, then by the hash.
_SCRAM: Final[tuple[type[Scram], ...]] = (
    ScramSha512Plus,
    ScramSha256Plus,
    ScramSha1Plus,
    ScramSha512,
    ScramSha256,
    ScramSha1,
)


def mechanisms_for(user: str, password: str) -> tuple[Mechanism, ...]:
    """What a user with a password can do, strongest first.

    The SCRAM family: those bound to the TLS channel (-PLUS) before the others, SHA-512 before SHA-256 before SHA-1.
    Then CRAM-MD5, which at least does not say the password; then PLAIN and LOGIN. SCRAM is left out for a user or a
    password that SASLprep does not allow (RFC 4013), and passed over where there is no source of chance; -PLUS where
    the channel binding is not known.

    Raises ``LocalProtocolError`` for what no mechanism can say.
    """
    weaker = CramMd5(user, password), Plain(user, password), Login(user, password)
    try:
        return (*(mechanism(user, password) for mechanism in _SCRAM), *weaker)
    except LocalProtocolError:
        return weaker
