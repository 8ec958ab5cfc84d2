"""The server's side of SCRAM, written from RFC 5802 alone: what the client's is checked against.

What lives here: verifying a client, and proving the server. What does not: anything of smtpcore. It computes the salted
password by hand, and keeps what a server keeps: StoredKey and ServerKey, never the password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


class ScramServer:
    """Verifies one client at a time; attributes may be set to misbehave."""

    def __init__(
        self,
        hash_name: str,
        password: bytes,
        *,
        salt: bytes = b"a grain of salt",
        iterations: int = 4096,
        nonce: str = "server-nonce",
        binding: bytes | None = None,
    ) -> None:
        self.hash_name = hash_name
        self.salt = salt
        self.iterations = iterations
        self.nonce = nonce
        self.binding = binding
        salted = self._salted(password)
        self.stored_key = hashlib.new(hash_name, self._hmac(salted, b"Client Key")).digest()
        self.server_key = self._hmac(salted, b"Server Key")
        self.user = self.authorization = self.flag = ""
        self._first_bare = self._server_first = self._whole_nonce = ""
        self._header = b""

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self.hash_name).digest()

    def _salted(self, password: bytes) -> bytes:
        """Hi() of §2.2, one step after the other."""
        step = self._hmac(password, self.salt + b"\0\0\0\1")
        sum_of_all = int.from_bytes(step, "big")
        for _ in range(self.iterations - 1):
            step = self._hmac(password, step)
            sum_of_all ^= int.from_bytes(step, "big")
        return sum_of_all.to_bytes(len(step), "big")

    def first(self, message: bytes) -> bytes:
        self.flag, authorization, bare = message.decode().split(",", 2)
        self._header = f"{self.flag},{authorization},".encode()
        self.authorization = _unquoted(authorization.removeprefix("a="))
        user, nonce = bare.split(",")
        assert user.startswith("n=")
        assert nonce.startswith("r=")
        self.user = _unquoted(user[2:])
        self._whole_nonce = nonce[2:] + self.nonce
        self._first_bare = bare
        self._server_first = f"r={self._whole_nonce},s={_base64(self.salt)},i={self.iterations}"
        return self._server_first.encode()

    def final(self, message: bytes) -> bytes:
        without_proof, _, proof = message.decode().rpartition(",p=")
        binding, nonce = without_proof.split(",")
        if nonce != f"r={self._whole_nonce}":
            return b"e=other-error"
        bound = self._header + (self.binding or b"") if self.flag.startswith("p=") else self._header
        if binding != f"c={_base64(bound)}":
            return b"e=channel-bindings-dont-match"
        auth_message = f"{self._first_bare},{self._server_first},{without_proof}".encode()
        signature = self._hmac(self.stored_key, auth_message)
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if hashlib.new(self.hash_name, key).digest() != self.stored_key:
            return b"e=invalid-proof"
        return b"v=" + _base64(self._hmac(self.server_key, auth_message)).encode()


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _unquoted(name: str) -> str:
    assert "=" not in name.replace("=2C", "").replace("=3D", "")
    return name.replace("=2C", ",").replace("=3D", "=")
