"""What all drivers make alike: a client with its floors out of options, addresses, and the plain sentence for failures.

What lives here: pure helpers. What does not: anything that waits.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, TypedDict

from smtpcore import (
    DEFAULT_LIMITS,
    BodyFacts,
    Client,
    ConnectFailed,
    Envelope,
    Limits,
    LineEnds,
    LocalProtocolError,
    Pipelining,
    TlsPolicy,
    check_host_name,
)
from smtpcore.drivers._bodies import AsyncSource
from smtpcore.drivers._wire import Wire
from smtpcore.drivers.tls import TlsFloor, client_context
from smtpcore.drivers.trace import Traced
from smtpcore.mime import recipients_of, sender_of
from smtpcore.sasl import Mechanism

__all__ = [
    "Machine",
    "Options",
    "connect_failed",
    "connect_seconds",
    "credentials_for",
    "fallback_in_clear",
    "make_envelope",
    "make_machine",
]


class Options(TypedDict, total=False):
    """How a session is to be held; everything has a default."""

    #: The name that EHLO gives; default: this host's name if it is fully qualified, else the address literal of the
    #: socket (RFC 5321 §4.1.4).
    helo_name: str
    #: Default: opportunistic; required when there are credentials.
    tls: TlsPolicy
    #: Default: certificates are verified against the host name where TLS is required or implicit, not judged elsewhere.
    tls_context: ssl.SSLContext
    #: The name that the certificate must be for; default: the host that was connected to.
    tls_server_name: str
    #: SASL mechanisms in order of preference, or what gives them for the host that is connected to.
    credentials: Sequence[Mechanism] | Callable[[str | None], Sequence[Mechanism]]
    pipelining: Pipelining
    line_ends: LineEnds
    limits: Limits
    #: Called with every line said and heard, secrets masked.
    trace: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Machine:
    """A client, and the wire on top of its floors."""

    client: Client
    wire: Wire


def make_machine(options: Options, host: str | None, local_address: str | None) -> Machine:
    """A client for a connection to ``host`` from ``local_address``.

    Raises ``LocalProtocolError`` for options that contradict each other.
    """
    limits = options.get("limits", DEFAULT_LIMITS)
    policy = options.get("tls", TlsPolicy.OPPORTUNISTIC)
    credentials = credentials_for(options, host)
    server_name = options.get("tls_server_name", host)
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise LocalProtocolError(f"no such option: {', '.join(sorted(unknown))}")
    client = Client(
        options.get("helo_name") or _helo_name(local_address),
        tls=policy,
        credentials=credentials,
        pipelining=options.get("pipelining", Pipelining.WITHIN),
        line_ends=options.get("line_ends", LineEnds.NORMALISE),
        limits=limits,
    )
    wire: Wire = client
    if "trace" in options:
        wire = Traced(wire, options["trace"])
    if policy not in {TlsPolicy.NEVER, TlsPolicy.SECURED}:
        verify = bool(credentials) or policy is not TlsPolicy.OPPORTUNISTIC
        context = options.get("tls_context") or client_context(verify=verify)
        if context.check_hostname and not server_name:
            raise LocalProtocolError("a certificate is to be verified, and no host is known: give tls_server_name")
        # A name in a certificate, and in SNI, stands without the dot of the root (RFC 6066 §3).
        wire = TlsFloor(client, wire, context, server_name and server_name.removesuffix("."), limits)
    return Machine(client, wire)


def credentials_for(options: Options, host: str | None) -> Sequence[Mechanism]:
    """The mechanisms to use with ``host``; what a callable raises passes as it is."""
    credentials = options.get("credentials", ())
    return credentials(host) if callable(credentials) else credentials


def _helo_name(local_address: str | None) -> str:
    name = socket.gethostname()
    if "." in name and not name.endswith(".local"):
        with contextlib.suppress(LocalProtocolError):
            check_host_name(name)
            return name
    if local_address is None:
        return "[127.0.0.1]"
    address = local_address.partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def connect_seconds(options: Options) -> float:
    """Seconds for one attempt to reach one address."""
    return options.get("limits", DEFAULT_LIMITS).deadlines.connect


def fallback_in_clear(options: Options, host: str) -> Options | None:
    """The options for a new connection in clear after a failed handshake, if TLS was a mere wish (RFC 7435 §3)."""
    if options.get("tls", TlsPolicy.OPPORTUNISTIC) is not TlsPolicy.OPPORTUNISTIC or credentials_for(options, host):
        return None
    return {**options, "tls": TlsPolicy.NEVER}


def connect_failed(host: str, port: int, failures: Sequence[tuple[str, BaseException]]) -> ConnectFailed:
    """The error for a host of which no address could be reached."""
    if not failures:
        return ConnectFailed(f"{host}:{port}: the name has no address")
    details = "; ".join(f"{address}: {_words(error)}" for address, error in failures)
    return ConnectFailed(f"cannot connect to {host}:{port}: {details}")


def _words(error: BaseException) -> str:
    """What failed in the words of the system, whichever event loop met it; a deadline that passed says nothing."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or "timed out"


def make_envelope(
    message: AsyncSource, sender: str | None, recipients: Sequence[str] | str | None, facts: BodyFacts
) -> Envelope:
    """The envelope as given, and where it is not, as the message's header says.

    Raises ``LocalProtocolError`` when neither says it.
    """
    given = (recipients,) if isinstance(recipients, str) else recipients
    if sender is None:
        sender = sender_of(_with_header(message, "sender"))
    if given is None:
        given = recipients_of(_with_header(message, "recipients"))
    return Envelope(sender, tuple(given), body=facts)


def _with_header(message: AsyncSource, missing: str) -> Message[Any, Any]:
    if isinstance(message, Message):
        return message
    raise LocalProtocolError(f"give the {missing}: only email.message objects have a header that says")
