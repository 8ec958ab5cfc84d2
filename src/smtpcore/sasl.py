"""SASL mechanisms as small objects (RFC 4422): a name, a first response, answers to challenges.

What lives here: the interface and the mechanisms built in. What does not: base64, AUTH lines and the choice of a
mechanism. A mechanism that needs chance or a token is given it by whoever makes it.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from smtpcore._errors import AuthExchangeFailed, LocalProtocolError

__all__ = ["CramMd5", "Login", "Mechanism", "Plain", "mechanisms_for"]


class Mechanism(Protocol):
    """One mechanism with its credentials.

    One object serves any number of exchanges, one after the other: ``start`` begins a new one. Sessions may share it:
    each works on a shallow copy (``copy.copy``), so ``start`` makes anew whatever an exchange changes.
    """

    @property
    def name(self) -> str:
        """The registered name, in upper case."""
        ...

    def start(self) -> bytes | None:
        """Begin an exchange: the initial response, or ``None`` if the peer speaks first."""
        ...

    def answer(self, challenge: bytes) -> bytes:
        """The response to a challenge; raises ``AuthExchangeFailed`` if there is none, which cancels the exchange."""
        ...


def _checked(mechanism: str, user: str, password: str, *others: str) -> None:
    """Raise ``LocalProtocolError`` for credentials that no peer could be told; the error shows none of them."""
    for what, value in (("user", user), ("password", password), *(("authorization", other) for other in others)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocalProtocolError(f"the {what} of {mechanism} must be a str; UTF-8 is what the peer is told")
        if "\0" in value:
            raise LocalProtocolError(f"the {what} of {mechanism} may not hold NUL")
        if not value and what != "authorization":
            raise LocalProtocolError(f"{mechanism} needs a {what}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise LocalProtocolError(f"the {what} of {mechanism} is what UTF-8 can hold, without lone surrogates")


class Plain:
    """PLAIN (RFC 4616): ``authorization`` is empty unless one acts for another."""

    __slots__ = ("_message",)

    name = "PLAIN"

    def __init__(self, user: str, password: str, authorization: str = "") -> None:
        _checked(self.name, user, password, authorization)
        self._message = "\0".join((authorization, user, password)).encode()

    def start(self) -> bytes | None:
        return self._message

    def answer(self, challenge: bytes) -> bytes:
        # A peer that ignored the initial response asks for it with an empty challenge (RFC 4954 §4).
        if challenge:
            raise AuthExchangeFailed("PLAIN has no answer to a challenge that is not empty")
        return self._message

    def __repr__(self) -> str:
        return "Plain(...)"


class Login:
    """LOGIN (no RFC; draft-murchison-sasl-login): the user, then the password, whatever the two prompts say."""

    __slots__ = ("_left", "_words")

    name = "LOGIN"

    def __init__(self, user: str, password: str) -> None:
        _checked(self.name, user, password)
        self._words = (user.encode(), password.encode())
        self._left = list(self._words)

    def start(self) -> bytes | None:
        self._left = list(self._words)
        return None

    def answer(self, challenge: bytes) -> bytes:
        # Prompts are in any language; only their order counts.
        if not self._left:
            raise AuthExchangeFailed("LOGIN has no answer to a third prompt")
        return self._left.pop(0)

    def __repr__(self) -> str:
        return "Login(...)"


class CramMd5:
    """CRAM-MD5 (RFC 2195): the password proves itself by a keyed digest of the challenge, and is not said."""

    __slots__ = ("_answered", "_password", "_user")

    name = "CRAM-MD5"

    def __init__(self, user: str, password: str) -> None:
        _checked(self.name, user, password)
        self._user = user.encode()
        self._password = password.encode()
        self._answered = False

    def start(self) -> bytes | None:
        self._answered = False
        return None

    def answer(self, challenge: bytes) -> bytes:
        if self._answered or not challenge:
            raise AuthExchangeFailed("CRAM-MD5 answers one challenge, which is not empty")
        self._answered = True
        return self._user + b" " + hmac.new(self._password, challenge, "md5").hexdigest().encode("ascii")

    def __repr__(self) -> str:
        return "CramMd5(...)"


def mechanisms_for(user: str, password: str) -> tuple[Mechanism, ...]:
    """What a user with a password can do, in order of preference: CRAM-MD5, PLAIN, LOGIN."""
    return CramMd5(user, password), Plain(user, password), Login(user, password)
