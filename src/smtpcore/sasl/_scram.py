"""SCRAM (RFC 5802, RFC 7677): the password is never said, and the server proves that it knows it as well.

What lives here: the exchange over SHA-1, SHA-256 and SHA-512, bound to the TLS channel (-PLUS) or not. What does not:
chance, and the hash of a certificate: both come with the :class:`smtpcore.sasl.Circumstances`.

How it works
============

Three messages make the *auth message*: the client's first without its header, the server's first, the client's last
without its proof. Each side signs it with a key made out of the password, so that neither a listener nor an impostor
learns the password, and a server that never knew it cannot sign: **a success without its signature is none**.

The header says whether the exchange is bound to the TLS channel: ``p`` it is; ``y`` it would be, but the server seems
not to offer it (the server knows better if someone took the offer out of its list, and refuses); ``n`` we cannot.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

from smtpcore._errors import AuthExchangeFailed, LocalProtocolError
from smtpcore.sasl._mechanism import Circumstances, Mechanism, check_words
from smtpcore.sasl._saslprep import saslprep

__all__ = [
    "Scram",
    "ScramSha1",
    "ScramSha1Plus",
    "ScramSha256",
    "ScramSha256Plus",
    "ScramSha512",
    "ScramSha512Plus",
]

#: RFC 5802 §7: ``printable``, which has no comma.
_NONCE: Final = re.compile(r"[!-+\--~]+")
_SERVER_FIRST: Final = re.compile(
    rf"r=({_NONCE.pattern}),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{{0,11}})(?:,[A-Za-ln-z]=[^,\0]+)*"
)
_SERVER_FINAL: Final = re.compile(r"([ve])=([^,\0]+)(?:,[A-Za-ln-z]=[^,\0]+)*")
#: The words of RFC 5802 §7; any other may be an echo of what was said, and means ``other-error``.
_ERRORS: Final = frozenset(
    {
        "invalid-encoding",
        "extensions-not-supported",
        "invalid-proof",
        "channel-bindings-dont-match",
        "server-does-support-channel-binding",
        "channel-binding-not-supported",
        "unsupported-channel-binding-type",
        "unknown-user",
        "invalid-username-encoding",
        "no-resources",
    }
)


class _Stage(enum.Enum):
    NOT_STARTED = "not started"
    FIRST_SAID = "our first message is said"
    PROVED = "our proof is said"
    VERIFIED = "the server proved itself"
    REFUSED = "the server said why it refuses"


def _prepared(mechanism: str, what: str, text: str) -> str:
    prepared = saslprep(text)
    if prepared is None or (text and not prepared):
        raise LocalProtocolError(f"the {what} of {mechanism} has characters that SASLprep does not allow (RFC 4013)")
    return prepared


def _quoted(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


class Scram(Mechanism):
    """What the mechanisms of the family have in common; use one of them.

    ``authorization`` is empty unless one acts for another. A server that asks for fewer iterations than
    ``fewest_iterations`` would have the password proved too cheaply (RFC 7677 §4 asks for 4,096); one that asks for
    more than ``most_iterations`` would keep this machine busy: either cancels the exchange. A million takes about a
    second, during which an event loop stands still.

    The exchange needs a source of chance (:attr:`Circumstances.nonce`); where there is none, the mechanism is not used.
    The only channel binding is ``tls-server-end-point``: the standard library has no exporter, which ``tls-exporter``
    (RFC 9266) needs, and its ``tls-unique`` is not defined for TLS 1.3.

    Raises ``LocalProtocolError`` for credentials that cannot be said, or that SASLprep does not allow.
    """

    __slots__ = (
        "_auth_message",
        "_authorization",
        "_circumstances",
        "_error",
        "_first",
        "_header",
        "_iterations",
        "_password",
        "_signature",
        "_stage",
        "_user",
    )

    #: The name of the hash for the standard library.
    _hash = ""
    #: Whether the exchange is bound to the TLS channel.
    _bound = False

    def __init__(
        self,
        user: str,
        password: str,
        authorization: str = "",
        *,
        fewest_iterations: int = 4096,
        most_iterations: int = 1_000_000,
    ) -> None:
        check_words(self.name, user=user, password=password, authorization=authorization)
        if not 1 <= fewest_iterations <= most_iterations:
            raise LocalProtocolError("fewest_iterations is at least 1 and at most most_iterations", fewest_iterations)
        self._user = _prepared(self.name, "user", user)
        self._password = _prepared(self.name, "password", password).encode()
        self._authorization = _prepared(self.name, "authorization", authorization)
        self._iterations = range(fewest_iterations, most_iterations + 1)
        self._circumstances = Circumstances()
        self._stage = _Stage.NOT_STARTED
        self._header = self._first = self._auth_message = ""
        self._signature = b""
        self._error = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def prepare(self, circumstances: Circumstances) -> bool:
        self._circumstances = circumstances
        if circumstances.nonce is None:
            return False
        binding_known = circumstances.server_end_point is not None
        if self._bound:
            return binding_known
        # RFC 5802 §6: who can bind must, where the server can.
        return not (binding_known and f"{self.name}-PLUS" in circumstances.offered)

    # --- the exchange ----------------------------------------------------------------------------------------------

    def start(self) -> bytes | None:
        make_nonce = self._circumstances.nonce
        nonce = "" if make_nonce is None else make_nonce()
        if not _NONCE.fullmatch(nonce):
            raise AuthExchangeFailed(f"{self.name} needs a nonce of printable ASCII without a comma")
        authorization = f"a={_quoted(self._authorization)}" if self._authorization else ""
        self._header = f"{self._binding_flag()},{authorization},"
        self._first = f"n={_quoted(self._user)},r={nonce}"
        self._auth_message, self._signature, self._error = "", b"", ""
        self._stage = _Stage.FIRST_SAID
        return (self._header + self._first).encode()

    def _binding_flag(self) -> str:
        if self._bound:
            return "p=tls-server-end-point"
        offered = any(name.startswith("SCRAM-") and name.endswith("-PLUS") for name in self._circumstances.offered)
        return "n" if offered or self._circumstances.server_end_point is None else "y"

    def answer(self, challenge: bytes) -> bytes:
        if self._stage is _Stage.FIRST_SAID and not challenge:
            # A peer that ignored the initial response asks for it with an empty challenge (RFC 4954 §4).
            return (self._header + self._first).encode()
        text = self._text_of(challenge)
        if self._stage in {_Stage.FIRST_SAID, _Stage.PROVED} and text.startswith("e="):
            self._hear_final(text)
            return b""
        if self._stage is _Stage.FIRST_SAID:
            return self._prove(text)
        if self._stage is _Stage.PROVED:
            self._hear_final(text)
            return b""
        raise AuthExchangeFailed(f"{self.name} has no answer to a challenge behind the end of the exchange")

    def _text_of(self, challenge: bytes) -> str:
        try:
            return challenge.decode()
        except UnicodeDecodeError:
            raise AuthExchangeFailed(f"a message of {self.name} that is not UTF-8") from None

    def _prove(self, text: str) -> bytes:
        """The client's last message, in answer to the server's first."""
        parts = _SERVER_FIRST.fullmatch(text)
        if parts is None:
            raise AuthExchangeFailed(f"the first message of the server is none of {self.name} (RFC 5802 §7)")
        nonce, salt, iterations = parts[1], _octets(self.name, parts[2]), int(parts[3])
        ours = self._first.rpartition(",r=")[2]
        if not nonce.startswith(ours) or nonce == ours:
            raise AuthExchangeFailed("the nonce of the server does not extend ours: this is no answer to us")
        if iterations not in self._iterations:
            least, most = self._iterations[0], self._iterations[-1]
            raise AuthExchangeFailed(f"the server asks for {iterations} iterations; allowed are {least} to {most}")
        bound = self._circumstances.server_end_point if self._bound else None
        binding = base64.b64encode(self._header.encode() + (bound or b"")).decode("ascii")
        last = f"c={binding},r={nonce}"
        self._auth_message = f"{self._first},{text},{last}"
        proof = self._sign(salt, iterations)
        self._stage = _Stage.PROVED
        return f"{last},p={base64.b64encode(proof).decode('ascii')}".encode()

    def _sign(self, salt: bytes, iterations: int) -> bytes:
        """Our proof; the signature that the server must show is kept (RFC 5802 §3)."""
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, iterations)
        client_key = self._hmac(salted, b"Client Key")
        stored_key = hashlib.new(self._hash, client_key).digest()
        message = self._auth_message.encode()
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), message)
        signature = self._hmac(stored_key, message)
        return bytes(key ^ sign for key, sign in zip(client_key, signature, strict=True))

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._hash)

    # --- how it ends -----------------------------------------------------------------------------------------------

    def _hear_final(self, text: str) -> None:
        parts = _SERVER_FINAL.fullmatch(text)
        if parts is None:
            raise AuthExchangeFailed(f"the last message of the server is none of {self.name} (RFC 5802 §7)")
        if parts[1] == "e":
            self._error = parts[2] if parts[2] in _ERRORS else "other-error"
            self._stage = _Stage.REFUSED
        elif hmac.compare_digest(_octets(self.name, parts[2]), self._signature):
            self._stage = _Stage.VERIFIED
        else:
            raise AuthExchangeFailed("the signature of the server is wrong: it does not know the password")

    def conclude(self, additional: bytes) -> None:
        if self._stage is _Stage.PROVED and additional.startswith((b"v=", b"e=")):
            # RFC 4954 §4 has no place for it; some servers put their last message behind the 235.
            self._hear_final(self._text_of(additional))
        if self._stage is not _Stage.VERIFIED:
            raise AuthExchangeFailed("the server says that it succeeded, and did not prove that it knows the password")

    def explanation(self) -> Mapping[str, str]:
        return {"error": self._error} if self._error else {}


def _octets(mechanism: str, text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise AuthExchangeFailed(f"a message of {mechanism} with a value that is not base64") from None


class ScramSha1(Scram):
    """SCRAM-SHA-1 (RFC 5802)."""

    __slots__ = ()
    name = "SCRAM-SHA-1"
    _hash = "sha1"


class ScramSha1Plus(ScramSha1):
    """SCRAM-SHA-1-PLUS (RFC 5802), bound to the certificate of the server."""

    __slots__ = ()
    name = "SCRAM-SHA-1-PLUS"
    _bound = True


class ScramSha256(Scram):
    """SCRAM-SHA-256 (RFC 7677)."""

    __slots__ = ()
    name = "SCRAM-SHA-256"
    _hash = "sha256"


class ScramSha256Plus(ScramSha256):
    """SCRAM-SHA-256-PLUS (RFC 7677), bound to the certificate of the server."""

    __slots__ = ()
    name = "SCRAM-SHA-256-PLUS"
    _bound = True


class ScramSha512(Scram):
    """SCRAM-SHA-512 (draft-melnikov-scram-sha-512)."""

    __slots__ = ()
    name = "SCRAM-SHA-512"
    _hash = "sha512"


class ScramSha512Plus(ScramSha512):
    """SCRAM-SHA-512-PLUS (draft-melnikov-scram-sha-512), bound to the certificate of the server."""

    __slots__ = ()
    name = "SCRAM-SHA-512-PLUS"
    _bound = True
