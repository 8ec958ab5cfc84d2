"""One session's way through AUTH (RFC 4954): which mechanism, which response, and what the replies meant.

What lives here: the choice among mechanisms, base64 and its limits, the verdict. What does not: when AUTH is said
(:mod:`smtpcore._client`), whether it may be (:mod:`smtpcore._connection`), and the mechanisms (:mod:`smtpcore.sasl`).

A second mechanism is tried only where the first was refused as such. Credentials that were refused are not said again:
many servers lock an account after a few wrong passwords.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from smtpcore._errors import AuthDeclined, AuthExchangeFailed, AuthRequired, RemoteProtocolError, SessionError
from smtpcore._events import Command, Reply, Verb
from smtpcore._grammar import decode_base64
from smtpcore._limits import Limits
from smtpcore.sasl import Mechanism

__all__ = ["Authentication"]

_T = TypeVar("_T")

#: Refusals of a mechanism, whatever the credentials: unknown (504), too weak (534), not without encryption (538).
_MECHANISM_REFUSED: Final = frozenset({504, 534, 538})


class Authentication:
    """The exchanges of one session, one after the other."""

    __slots__ = ("_error", "_initial_response", "_limits", "_mechanism", "_offered", "_steps", "_untried", "succeeded")

    def __init__(self, mechanisms: Sequence[Mechanism], limits: Limits) -> None:
        self._limits = limits
        self._untried = list(mechanisms)
        self._offered: tuple[str, ...] = ()
        self._mechanism: Mechanism | None = None
        #: What did not fit into the AUTH line and waits for an empty challenge.
        self._initial_response: bytes | None = None
        self._steps = 0
        #: Why the exchange was cancelled.
        self._error: AuthExchangeFailed | None = None
        #: Whether the peer accepted the credentials.
        self.succeeded = False

    def begin(self, offered: tuple[str, ...]) -> Command:
        """AUTH with the first of our mechanisms that the peer offers, names in upper case.

        Raises ``AuthRequired`` if there is none, ``AuthExchangeFailed`` if the mechanism cannot begin.
        """
        self._offered = offered
        chosen = self._next()
        if chosen is None:
            ours = ", ".join(mechanism.name for mechanism in self._untried)
            raise AuthRequired(f"no common mechanism: we have {ours}; the peer offers {', '.join(offered) or 'none'}")
        self._mechanism = chosen
        # Sessions share the caller's object, and their exchanges may run at the same time.
        mechanism = self._mechanism = self._asked(lambda: copy.copy(chosen))
        name = mechanism.name.upper()
        self._untried = [other for other in self._untried if other.name.upper() != name]
        self._steps = 0
        self._initial_response = None
        initial = self._asked(mechanism.start)
        line = f"AUTH {mechanism.name}".encode("ascii")
        if initial is None:
            return Command(Verb.AUTH, line)
        whole = line + b" " + (base64.b64encode(initial) or b"=")
        if len(whole) + 2 > self._limits.auth_line:
            # RFC 4954 §4: too long for the line, so it waits for an empty challenge.
            self._initial_response = initial
            return Command(Verb.AUTH, line)
        return Command(Verb.AUTH, whole, secret=bool(initial))

    def _next(self) -> Mechanism | None:
        return next((mechanism for mechanism in self._untried if mechanism.name.upper() in self._offered), None)

    def answer(self, reply: Reply) -> Command:
        """The response to a challenge, or ``*``, which cancels the exchange.

        Raises the ``AuthExchangeFailed`` that cancelled it if the peer goes on nevertheless.
        """
        if self._error is not None:
            raise self._error
        self._steps += 1
        try:
            return self._response(reply)
        except (AuthExchangeFailed, RemoteProtocolError) as error:
            self._error = AuthExchangeFailed(str(error), reply=reply)
            self._error.__cause__ = error.__cause__
            return Command(Verb.AUTH_ANSWER, b"*")

    def _response(self, reply: Reply) -> Command:
        if self._steps > self._limits.auth_steps:
            raise AuthExchangeFailed(f"more than {self._limits.auth_steps} challenges")
        challenge = decode_base64("".join(reply.lines))
        if self._initial_response is not None and not challenge:
            response, self._initial_response = self._initial_response, None
        else:
            mechanism = self._mechanism
            assert mechanism is not None
            response = self._asked(lambda: mechanism.answer(challenge))
        line = base64.b64encode(response)
        if len(line) + 2 > self._limits.auth_line:
            raise AuthExchangeFailed(f"a response of more than {self._limits.auth_line} octets")
        return Command(Verb.AUTH_ANSWER, line, secret=bool(line))

    def _asked(self, question: Callable[[], _T]) -> _T:
        """What the mechanism says; whatever goes wrong within it ends the exchange, and shows no secret."""
        try:
            return question()
        except AuthExchangeFailed:
            raise
        except Exception as error:
            name = "" if self._mechanism is None else self._mechanism.name
            raise AuthExchangeFailed(f"the mechanism {name} failed: {type(error).__name__}") from error

    def conclude(self, reply: Reply) -> SessionError | None:
        """Take in the reply that ended an exchange; returns the error that ends the session, if one does."""
        if self._error is not None:
            # After a cancelled exchange a 235 proves nothing: the challenge may have been an impostor's.
            return self._error
        if reply.code == 235:
            self.succeeded = True
        elif reply.code not in _MECHANISM_REFUSED or self._next() is None:
            return AuthDeclined(f"the peer refused the credentials: {reply}", reply=reply)
        return None
