"""What a mechanism is: the interface, what it is told before it is chosen, and what no credential may hold.

What lives here: nothing of any one mechanism. What does not: base64, AUTH lines and the choice among mechanisms.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from smtpcore._errors import LocalProtocolError

__all__ = ["Circumstances", "Mechanism", "check_words"]

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a mechanism may build upon: the session as it is when AUTH is due."""

    #: The names of the mechanisms that the peer offers, in upper case.
    offered: tuple[str, ...] = ()
    #: Makes a new nonce with every call: printable ASCII without a comma; ``None`` where there is no source of chance.
    nonce: Callable[[], str] | None = field(default=None, repr=False)
    #: The channel binding ``tls-server-end-point`` (RFC 5929 §4): a hash of the server's certificate, if it is known.
    server_end_point: bytes | None = None


class Mechanism(Protocol):
    """One mechanism with its credentials (RFC 4422). To write your own, derive from this class.

    It may take any number of rounds, so that what a library does (GSSAPI, NTLM) fits in: ``start`` begins the library's
    context, ``answer`` steps it. Every session makes a copy of its own (``copy.copy``) and asks that: one object may
    serve many sessions at once. A copy serves any number of exchanges, one after the other; ``start`` begins a new one.

    What a method raises ends the exchange and comes out as the cause of ``AuthExchangeFailed``, whose own words are
    shown: they may not hold a secret. Of any other exception nothing is shown but its type.
    """

    __slots__ = ()

    #: The registered name, in upper case.
    name: str

    def prepare(self, circumstances: Circumstances) -> bool:
        """Whether the mechanism can be used under these circumstances; asked before it is chosen."""
        return True

    @abstractmethod
    def start(self) -> bytes | None:
        """Begin an exchange: the initial response, or ``None`` if the peer speaks first."""

    @abstractmethod
    def answer(self, challenge: bytes) -> bytes:
        """The response to a challenge; raises ``AuthExchangeFailed`` if there is none, which cancels the exchange."""

    def conclude(self, additional: bytes) -> None:
        """The peer says that the exchange succeeded (235). Raises ``AuthExchangeFailed`` if it cannot have.

        Then the session is not used. ``additional`` is what the first word behind the code holds if it is base64, where
        some servers put what they have left to prove; it may as well be a word of a sentence.
        """
        return

    def refused(self) -> bool:
        """The peer refused the credentials (535). Whether there are others by now: if so, the exchange begins anew.

        Asked once in a session; credentials that were refused must not be said again.
        """
        return False

    def explanation(self) -> Mapping[str, str]:
        """What the peer said within the exchange about why it refuses, without anything secret."""
        return _NOTHING


def check_words(mechanism: str, **words: str) -> None:
    """Raise ``LocalProtocolError`` for credentials that no peer could be told; the error shows none of them.

    All but ``authorization`` must be given.
    """
    for what, value in words.items():
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise LocalProtocolError(f"the {what} of {mechanism} must be a str; UTF-8 is what the peer is told")
        if "\0" in value:
            raise LocalProtocolError(f"the {what} of {mechanism} may not hold NUL")
        if not value and what != "authorization":
            raise LocalProtocolError(f"{mechanism} needs a {what}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise LocalProtocolError(f"the {what} of {mechanism} is what UTF-8 can hold, without lone surrogates")
