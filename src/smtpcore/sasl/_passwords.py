"""The mechanisms that send a password, or a plain digest of one: PLAIN, LOGIN, CRAM-MD5.

What lives here: these three. What does not: those of the SCRAM family (:mod:`smtpcore.sasl._scram`).
"""

from __future__ import annotations

import hmac

from smtpcore._errors import AuthExchangeFailed
from smtpcore.sasl._mechanism import Mechanism, check_words

__all__ = ["CramMd5", "Login", "Plain"]


class Plain(Mechanism):
    """PLAIN (RFC 4616): ``authorization`` is empty unless one acts for another."""

    __slots__ = ("_message",)

    name = "PLAIN"

    def __init__(self, user: str, password: str, authorization: str = "") -> None:
        check_words(self.name, user=user, password=password, authorization=authorization)
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


class Login(Mechanism):
    """LOGIN (no RFC; draft-murchison-sasl-login): the user, then the password, whatever the two prompts say."""

    __slots__ = ("_left", "_words")

    name = "LOGIN"

    def __init__(self, user: str, password: str) -> None:
        check_words(self.name, user=user, password=password)
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


class CramMd5(Mechanism):
    """CRAM-MD5 (RFC 2195): the password proves itself by a keyed digest of the challenge, and is not said."""

    __slots__ = ("_answered", "_password", "_user")

    name = "CRAM-MD5"

    def __init__(self, user: str, password: str) -> None:
        check_words(self.name, user=user, password=password)
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
