"""OAuth 2.0 tokens: OAUTHBEARER (RFC 7628) and XOAUTH2 (as Google and Microsoft document it).

What lives here: the two mechanisms, and asking for a token. What does not: where tokens come from.
"""

from __future__ import annotations

import base64
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from smtpcore._errors import AuthExchangeFailed, LocalProtocolError
from smtpcore._grammar import printable
from smtpcore.sasl._mechanism import Mechanism, check_words

__all__ = ["OAuthBearer", "TokenRequest", "XOAuth2"]

#: RFC 6750 §2.1: ``b64token``; those of the field hold no more than other printable characters of ASCII.
_TOKEN: Final = re.compile(r"[!-~]+")
_MASKED: Final = "********"
#: Of what a peer says in JSON, this much is kept.
_MEMBERS: Final = 16
_CHARACTERS: Final = 512
#: As many characters of a secret, from its beginning, are taken for an echo of it.
_ECHO: Final = 8


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """For whom, for which host, and why a token is asked for."""

    user: str
    #: The host that is connected to, if the mechanism was told.
    host: str | None = None
    #: Whether the peer refused the last token: one out of a cache will not do.
    refused: bool = False
    #: What the peer said about the token that it refused: ``status``, ``scope`` and the like (RFC 7628 §3.2.2).
    explanation: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class _Bearer(Mechanism):
    """What both have in common: one message with a token, and perhaps a challenge that says why it is refused."""

    __slots__ = ("_explanation", "_host", "_last", "_message", "_renewed", "_token", "_user")

    #: The answer to a challenge that says why the token is refused.
    _resignation = b""

    def __init__(self, user: str, token: Callable[[TokenRequest], str], host: str | None) -> None:
        check_words(self.name, user=user)
        if re.search(r"[\x01-\x1f\x7f]", user):
            raise LocalProtocolError(f"the user of {self.name} may not hold control characters")
        self._user = user
        self._token = token
        self._host = host
        #: The token that was said last.
        self._last = ""
        #: One that was asked for since.
        self._renewed: str | None = None
        self._message = b""
        self._explanation: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def start(self) -> bytes | None:
        token = self._ask(TokenRequest(self._user, self._host)) if self._renewed is None else self._renewed
        self._last, self._renewed, self._explanation = token, None, None
        self._message = self._with_token(token)
        return self._message

    def _ask(self, request: TokenRequest) -> str:
        token = self._token(request)
        if not _TOKEN.fullmatch(token):
            raise AuthExchangeFailed(f"the token for {self.name} is not of printable ASCII characters")
        return token

    @abstractmethod
    def _with_token(self, token: str) -> bytes:
        """The message that says the token."""

    def answer(self, challenge: bytes) -> bytes:
        if self._explanation is not None:
            raise AuthExchangeFailed(f"{self.name} has no answer to a challenge behind the refusal of the token")
        if not challenge:
            # A peer that ignored the initial response asks for it with an empty challenge (RFC 4954 §4).
            return self._message
        self._explanation = self._read(challenge)
        return self._resignation

    def _read(self, challenge: bytes) -> Mapping[str, str]:
        """What the JSON says, in words that may be shown; members that are no plain values are passed over."""
        try:
            said: Any = json.loads(challenge)
        except (ValueError, RecursionError):
            return {}
        members = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
        plain = [(key, value) for key, value in members.items() if isinstance(value, (str, int, float))]
        return {self._shown(key): self._shown(str(value)) for key, value in plain[:_MEMBERS]}

    def _shown(self, text: str) -> str:
        """``text``, unless it echoes what was said."""
        secrets = self._last, base64.b64encode(self._message).decode("ascii")
        if any(secret[:_ECHO] in text for secret in secrets):
            return _MASKED
        return printable(text[:_CHARACTERS])

    def conclude(self, additional: bytes) -> None:
        if self._explanation is not None:
            raise AuthExchangeFailed("the server says that it succeeded, behind saying why it refuses the token")

    def refused(self) -> bool:
        renewed = self._ask(TokenRequest(self._user, self._host, refused=True, explanation=self.explanation()))
        self._renewed = None if renewed == self._last else renewed
        return self._renewed is not None

    def explanation(self) -> Mapping[str, str]:
        return self._explanation or {}


class XOAuth2(_Bearer):
    """XOAUTH2: ``token`` is a function that is given a :class:`TokenRequest` and returns an access token.

    It is called when a session opens, by the async drivers on their loop: fetch the token before, or be quick. When the
    peer refuses the token, the function is asked once more, with ``refused``, and what it gives is tried if it is
    another one; never a third. ``host`` is handed on to it. Raises ``LocalProtocolError`` for a user that cannot be
    said.
    """

    __slots__ = ()
    name = "XOAUTH2"

    def __init__(self, user: str, token: Callable[[TokenRequest], str], host: str | None = None) -> None:
        super().__init__(user, token, host)

    def _with_token(self, token: str) -> bytes:
        return f"user={self._user}\1auth=Bearer {token}\1\1".encode()


class OAuthBearer(_Bearer):
    """OAUTHBEARER (RFC 7628): ``token`` as for :class:`XOAuth2`; ``user`` is the identity to act as.

    ``host`` and ``port`` are what was connected to; they are said if they are given. Raises ``LocalProtocolError`` for
    a user, host or port that cannot be said.
    """

    __slots__ = ("_port",)
    name = "OAUTHBEARER"
    _resignation = b"\1"

    def __init__(
        self, user: str, token: Callable[[TokenRequest], str], host: str | None = None, port: int | None = None
    ) -> None:
        super().__init__(user, token, host)
        if host is not None and not _TOKEN.fullmatch(host):
            raise LocalProtocolError("a host is of printable ASCII characters", host)
        if port is not None and not 0 < port < 65_536:
            raise LocalProtocolError("a port is 1 to 65535", port)
        self._port = port

    def _with_token(self, token: str) -> bytes:
        quoted = self._user.replace("=", "=3D").replace(",", "=2C")
        host = "" if self._host is None else f"host={self._host}\1"
        port = "" if self._port is None else f"port={self._port}\1"
        return f"n,a={quoted},\1{host}{port}auth=Bearer {token}\1\1".encode()
