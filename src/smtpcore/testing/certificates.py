"""Certificates for tests of TLS: an authority that nobody else trusts, good certificates, and bad ones of each kind.

What lives here: contexts for servers and clients of a test, made anew in each process by trustme (of the extra
``smtpcore[testing]``). What does not: any key that outlives the process.
"""

# trustme's contexts may be pyOpenSSL's as well, which are not there to be known.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime, timedelta

import trustme

__all__ = ["authority", "client_certificate", "server_context", "trusting_context"]


@functools.cache
def authority() -> trustme.CA:
    """The authority of this process."""
    return trustme.CA()


@functools.cache
def server_context(kind: str = "good") -> ssl.SSLContext:
    """A server's context for ``localhost`` and 127.0.0.1; ``kind`` says what is wrong with its certificate.

    But for ``"good"`` it is ``"unknown issuer"``, ``"wrong host"``, ``"expired"``, or ``"asks for a certificate"``: a
    good one of a server that wants one of the client as well.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "asks for a certificate":
        context.verify_mode = ssl.CERT_REQUIRED
        authority().configure_trust(context)
    if kind == "unknown issuer":
        certificate = trustme.CA().issue_cert("localhost")
    elif kind == "wrong host":
        certificate = authority().issue_cert("elsewhere.example")
    elif kind == "expired":
        long_ago = datetime.now(UTC) - timedelta(days=30)
        certificate = authority().issue_cert("localhost", not_before=long_ago, not_after=long_ago + timedelta(days=1))
    else:
        certificate = authority().issue_cert("localhost", "127.0.0.1")
    certificate.configure_cert(context)
    return context


def client_certificate(*, trusted: bool = True) -> trustme.LeafCert:
    """A certificate to show to a server that asks for one."""
    return (authority() if trusted else trustme.CA()).issue_cert("anna@home.example")


@functools.cache
def trusting_context() -> ssl.SSLContext:
    """A client's context that verifies, and trusts the authority here."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context
