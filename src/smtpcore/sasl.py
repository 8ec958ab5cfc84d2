"""SASL mechanisms as small objects (RFC 4422): a name, a first response, answers to challenges.

What lives here: the interface and the mechanisms built in. What does not: base64, AUTH lines and the choice of a
mechanism. A mechanism that needs chance or a token is given it by whoever makes it.
"""

from __future__ import annotations

from typing import Protocol

from smtpcore._errors import AuthExchangeFailed, LocalProtocolError

__all__ = ["Mechanism", "Plain"]


class Mechanism(Protocol):
    """One mechanism with its credentials.

    One object serves any number of exchanges, one after the other: ``start`` begins a new one.
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


class Plain:
    """PLAIN (RFC 4616): ``authorization`` is empty unless one acts for another."""

    __slots__ = ("_message",)

    name = "PLAIN"

    def __init__(self, user: str, password: str, authorization: str = "") -> None:
        for what, value in (("user", user), ("password", password), ("authorization", authorization)):
            if "\0" in value:
                raise LocalProtocolError(f"the {what} of PLAIN may not hold NUL (RFC 4616 §2)")
        if not user:
            raise LocalProtocolError("PLAIN needs a user (RFC 4616 §2)")
        if not password:
            raise LocalProtocolError("PLAIN needs a password (RFC 4616 §2)")
        try:
            self._message = "\0".join((authorization, user, password)).encode()
        except UnicodeEncodeError:
            raise LocalProtocolError("PLAIN takes what UTF-8 can hold, and no lone surrogates (RFC 4616 §2)") from None

    def start(self) -> bytes | None:
        return self._message

    def answer(self, challenge: bytes) -> bytes:
        # A peer that ignored the initial response asks for it with an empty challenge (RFC 4954 §4).
        if challenge:
            raise AuthExchangeFailed("PLAIN has no answer to a challenge that is not empty")
        return self._message

    def __repr__(self) -> str:
        return "Plain(...)"
