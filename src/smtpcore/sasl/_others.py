"""The mechanisms without a secret of their own: EXTERNAL (RFC 4422, appendix A) and ANONYMOUS (RFC 4505).

What lives here: these two. What does not: what EXTERNAL rests on, as the certificate that TLS showed for us.
"""

from __future__ import annotations

from smtpcore._errors import AuthExchangeFailed, LocalProtocolError
from smtpcore.sasl._mechanism import Mechanism, check_words
from smtpcore.sasl._saslprep import TRACE_PROHIBITED, breaks_direction

__all__ = ["Anonymous", "External"]

_TRACE_CHARACTERS = 255


class _OneMessage(Mechanism):
    """A mechanism of one message, which is said again to a peer that did not hear it with AUTH (RFC 4954 §4)."""

    __slots__ = ("_message",)

    _message: bytes

    def start(self) -> bytes | None:
        return self._message

    def answer(self, challenge: bytes) -> bytes:
        if challenge:
            raise AuthExchangeFailed(f"{self.name} has no answer to a challenge that is not empty")
        return self._message

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class External(_OneMessage):
    """EXTERNAL: the peer knows by other means who we are, as by a client certificate in TLS.

    ``authorization`` is the identity to act as; empty, the peer derives it from what it knows.
    """

    __slots__ = ()
    name = "EXTERNAL"

    def __init__(self, authorization: str = "") -> None:
        check_words(self.name, authorization=authorization)
        self._message = authorization.encode()


class Anonymous(_OneMessage):
    """ANONYMOUS: anyone; ``trace`` is an address, or a word of at most 255 characters, for the peer's log.

    Raises ``LocalProtocolError`` for a trace with characters that are not allowed there (RFC 4505 §3).
    """

    __slots__ = ()
    name = "ANONYMOUS"

    def __init__(self, trace: str = "") -> None:
        if len(trace) > _TRACE_CHARACTERS:
            raise LocalProtocolError(f"a trace has at most {_TRACE_CHARACTERS} characters", trace)
        if any(table(character) for character in trace for table in TRACE_PROHIBITED) or breaks_direction(trace):
            raise LocalProtocolError("a trace has no controls and the like (RFC 4505 §3)", trace)
        self._message = trace.encode()
