"""The channel binding ``tls-server-end-point`` (RFC 5929 §4): a hash of the server's certificate.

What lives here: which hash. What does not: the certificate, which TLS has, and who binds to it
(:mod:`smtpcore.sasl`). Which algorithm signed a certificate is read by the package ``cryptography``, if it is there.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["server_end_point"]

#: Hashes that are too weak to stand for a certificate, RFC 5929 §4.1.
_REPLACED: Final = {"md5": "sha256", "sha1": "sha256"}


def server_end_point(certificate: bytes) -> bytes | None:
    """The binding to a server with this certificate, in DER form.

    ``None`` where ``cryptography`` (the extra ``channel-binding``) is missing, the certificate cannot be read, or the
    algorithm that signed it has no hash of its own (Ed25519): the binding is not defined then.
    """
    try:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
    except ImportError:
        return None
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    name = algorithm.name.replace("-", "_")
    return hashlib.new(_REPLACED.get(name, name), certificate).digest()
