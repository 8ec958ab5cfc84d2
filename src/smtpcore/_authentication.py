"""One session's way through AUTH (RFC 4954): which mechanism, which response, and what the replies meant.

What lives here: the choice among mechanisms, base64 and its limits, the verdict. What does not: when AUTH is said
(:mod:`smtpcore._opening`), whether it may be (:mod:`smtpcore._connection`), and the mechanisms (:mod:`smtpcore.sasl`).

A second mechanism is tried only where the first was refused as such. Credentials that were refused are not said again:
many servers lock an account after a few wrong passwords. Only a mechanism that has others by now, as a fresh token, may
try once more. And a success counts only if the mechanism agrees: a server may have had something to prove.
"""

from __future__ import annotations

import base64
import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from smtpcore._errors import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    LocalProtocolError,
    RemoteProtocolError,
    SessionError,
)
from smtpcore._events import Command, Reply, Verb, shown_challenge
from smtpcore._grammar import decode_base64
from smtpcore._limits import Limits
from smtpcore.sasl import Circumstances, Mechanism

__all__ = ["Authentication", "check_mechanisms"]

_T = TypeVar("_T")

#: Refusals of a mechanism, whatever the credentials: unknown (504), too weak (534), not without encryption (538).
_MECHANISM_REFUSED: Final = frozenset({504, 534, 538})


def check_mechanisms(credentials: object) -> None:
    """Raise ``LocalProtocolError`` unless ``credentials`` are a list of mechanisms; the error shows nothing of them."""
    if not isinstance(credentials, Sequence) or isinstance(credentials, (str, bytes)):
        raise LocalProtocolError(f"credentials are a list of SASL mechanisms, not a {type(credentials).__name__}")
    for mechanism in cast("Sequence[object]", credentials):
        if not (hasattr(mechanism, "name") and hasattr(mechanism, "start") and hasattr(mechanism, "answer")):
            raise LocalProtocolError(f"each of the credentials is a SASL mechanism, not a {type(mechanism).__name__}")


class Authentication:
    """The exchanges of one session, one after the other; ``nonce`` makes what mechanisms need of chance."""

    __slots__ = (
        "_error",
        "_initial_response",
        "_limits",
        "_mechanism",
        "_mechanisms",
        "_nonce",
        "_repeated",
        "_steps",
        "_untried",
        "succeeded",
    )

    def __init__(self, mechanisms: Sequence[Mechanism], limits: Limits, nonce: Callable[[], str] | None) -> None:
        self._limits = limits
        self._nonce = nonce
        self._mechanisms = tuple(mechanisms)
        #: Those that can be used with this peer, once it is known.
        self._untried: list[Mechanism] | None = None
        self._mechanism: Mechanism | None = None
        #: Whether refused credentials were asked for anew.
        self._repeated = False
        #: What did not fit into the AUTH line and waits for an empty challenge.
        self._initial_response: bytes | None = None
        self._steps = 0
        #: Why the exchange was cancelled.
        self._error: AuthExchangeFailed | None = None
        #: Whether the peer accepted the credentials.
        self.succeeded = False

    def begin(self, offered: tuple[str, ...], server_end_point: bytes | None) -> Command:
        """AUTH with the first of our mechanisms that the peer offers, names in upper case.

        Raises ``AuthRequired`` if there is none, ``AuthExchangeFailed`` if the mechanism cannot begin.
        """
        if self._untried is None:
            self._untried = self._usable(Circumstances(offered, self._nonce, server_end_point))
        if not self._untried:
            ours = ", ".join(mechanism.name for mechanism in self._mechanisms)
            raise AuthRequired(f"no common mechanism: we have {ours}; the peer offers {', '.join(offered) or 'none'}")
        mechanism = self._mechanism = self._untried[0]
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

    def _usable(self, circumstances: Circumstances) -> list[Mechanism]:
        usable: list[Mechanism] = []
        for mechanism in self._mechanisms:
            if mechanism.name.upper() in circumstances.offered:
                own = self._mechanism = self._own(mechanism)
                if self._asked(own.prepare, circumstances):
                    usable.append(own)
        return usable

    def _own(self, mechanism: Mechanism) -> Mechanism:
        """A copy: sessions share the caller's objects, and their exchanges may run at the same time."""
        self._mechanism = mechanism
        return self._asked(lambda: copy.copy(mechanism))

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
            self._error = AuthExchangeFailed(str(error), reply=shown_challenge(reply))
            self._error.__cause__ = error.__cause__
            return Command(Verb.AUTH_ANSWER, b"*")

    def _response(self, reply: Reply) -> Command:
        if self._steps > self._limits.auth_steps:
            raise AuthExchangeFailed(f"more than {self._limits.auth_steps} challenges")
        challenge = decode_base64("".join(reply.lines))
        if self._initial_response is not None and not challenge:
            response, self._initial_response = self._initial_response, None
        else:
            assert self._mechanism is not None
            response = self._asked(self._mechanism.answer, challenge)
        line = base64.b64encode(response)
        if len(line) + 2 > self._limits.auth_line:
            raise AuthExchangeFailed(f"a response of more than {self._limits.auth_line} octets")
        return Command(Verb.AUTH_ANSWER, line, secret=bool(line))

    def _asked(self, question: Callable[..., _T], *arguments: object) -> _T:
        """What the mechanism says; whatever goes wrong within it ends the exchange, and shows no secret."""
        try:
            return question(*arguments)
        except AuthExchangeFailed:
            raise
        except Exception as error:
            assert self._mechanism is not None
            raise AuthExchangeFailed(f"the mechanism {self._mechanism.name} failed: {type(error).__name__}") from error

    # --- how it ends -----------------------------------------------------------------------------------------------

    def conclude(self, reply: Reply) -> SessionError | None:
        """Take in the reply that ended an exchange; returns the error that ends the session, if one does."""
        if self._error is not None:
            # After a cancelled exchange a 235 proves nothing: the challenge may have been an impostor's.
            return self._error
        if reply.code == 235:
            return self._succeed(reply)
        if reply.code == 535 and not self._repeated:
            return self._repeat(reply)
        if reply.code not in _MECHANISM_REFUSED or not self._untried:
            return self._declined(reply)
        return None

    def _succeed(self, reply: Reply) -> SessionError | None:
        assert self._mechanism is not None
        try:
            self._asked(self._mechanism.conclude, _additional(reply))
        except AuthExchangeFailed as error:
            error.reply = reply
            return error
        self.succeeded = True
        return None

    def _repeat(self, reply: Reply) -> SessionError | None:
        """The credentials were refused: the mechanism may have others by now, and is asked once."""
        assert self._mechanism is not None
        assert self._untried is not None
        self._repeated = True
        declined = self._declined(reply)
        try:
            if not self._asked(self._mechanism.refused):
                return declined
        except AuthExchangeFailed as error:
            declined.__cause__ = error
            return declined
        self._untried.insert(0, self._mechanism)
        return None

    def _declined(self, reply: Reply) -> AuthDeclined:
        assert self._mechanism is not None
        explanation: dict[str, str] = {}
        with contextlib.suppress(AuthExchangeFailed):
            explanation.update(self._asked(self._mechanism.explanation))
        words = "".join(f"; {key}: {value}" for key, value in explanation.items())
        return AuthDeclined(f"the peer refused the credentials: {reply}{words}", reply=reply, explanation=explanation)


def _additional(reply: Reply) -> bytes:
    """What the first word behind the code and the enhanced code holds, if it is base64."""
    words = reply.lines[0].removeprefix(reply.enhanced or "").split()
    with contextlib.suppress(RemoteProtocolError):
        return decode_base64(words[0] if words else "")
    return b""
