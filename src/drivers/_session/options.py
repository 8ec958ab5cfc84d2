"""What all drivers make alike out of options: a client with its floors, the way back to clear, envelopes.

What lives here: pure helpers. What does not: anything that waits.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import ipaddress
import logging
import re
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final, TypedDict

from smtpcore import (
    DEFAULT_LIMITS,
    BodyError,
    BodyFacts,
    Client,
    ConnectionLost,
    Conversion,
    CredentialsUnavailable,
    Disconnect,
    Envelope,
    Limits,
    LineEnds,
    LocalProtocolError,
    LostStep,
    Mail,
    PeerTimeout,
    Pipelining,
    Protocol,
    SessionError,
    SmtpError,
    TlsFailed,
    TlsPolicy,
    XClient,
    check_host_name,
)
from smtpcore.drivers._connecting.race import Ends, Way, source_addresses
from smtpcore.drivers._session.bodies import AsyncSource
from smtpcore.drivers._session.fitting import Fitting
from smtpcore.drivers._session.floor import Wire
from smtpcore.drivers._session.journal import Journal, make_journal
from smtpcore.drivers.memory import KNOWN_LOST_STEPS, KNOWN_TLS_FAILURES, HostMemory
from smtpcore.drivers.tls import TlsAtOnce, TlsFloor, default_context
from smtpcore.drivers.trace import Traced
from smtpcore.mime import recipients_of, sender_of
from smtpcore.sasl import Mechanism

__all__ = [
    "Machine",
    "Options",
    "a_labels",
    "check_envelope",
    "check_options",
    "connect_seconds",
    "credentials_for",
    "credentials_unavailable",
    "default_to_a_labels",
    "explained",
    "fallback_in_clear",
    "is_host",
    "make_envelope",
    "make_machine",
    "rehearse_options",
    "remember_tls_failure",
    "settled",
]

#: What is in no host name: the slip would otherwise end in a name that nobody knows.
_MORE_THAN_A_HOST: Final = re.compile(r"[:/\[\]]")
#: The port for implicit TLS, RFC 8314 §7.3.
_IMPLICIT_TLS_PORT: Final = 465


class Options(TypedDict, total=False):
    """How a session is to be held; everything has a default."""

    #: The name that EHLO gives; default: this host's name if it is fully qualified, else the address literal of the
    #: socket (RFC 5321 §4.1.4).
    helo_name: str
    protocol: Protocol
    #: Default: implicit on port 465; else required when there are credentials, opportunistic when there are none.
    tls: TlsPolicy
    #: Default: certificates are verified against the host name where TLS is required or implicit, not judged elsewhere.
    tls_context: ssl.SSLContext
    #: The name that the certificate must be for; default: the host that was connected to.
    tls_server_name: str
    #: SASL mechanisms in order of preference, or what gives them for the host that is connected to; where there are
    #: any, no mail goes out without authentication. What a function raises comes out as ``CredentialsUnavailable``.
    credentials: Sequence[Mechanism] | Callable[[str | None], Sequence[Mechanism]]
    #: The client that the session is held for (XCLIENT); a server that does not take all its attributes gets no mail.
    xclient: XClient
    pipelining: Pipelining
    #: Whether messages go in chunks where the peer offers it (RFC 3030); default: they do.
    chunking: bool
    line_ends: LineEnds
    #: What to do with a message that has octets above 127, or is binary, where the peer does not take it; default: it
    #: is converted (RFC 6152 §3), in memory, up to ``Limits.converted_message``.
    eight_bit: Conversion
    #: What to do with a message that has lines of more than 998 octets; default: it goes as it is. Otherwise a message
    #: of which nothing is declared is read once more before it is sent, or, if it can be read only once, into memory.
    long_lines: Conversion
    #: Whether a message that is signed may be converted, which breaks the signature; default: it is refused.
    break_signatures: bool
    #: Writes a domain beyond ASCII in A-labels, or raises ``ValueError``; default: the idna package, if it is there.
    to_a_labels: Callable[[str], str]
    limits: Limits
    #: Called with every line said and heard, secrets masked.
    trace: Callable[[str], None]
    #: Called while a body is sent, with the mail, the octets of its source that were handed to the connection, and the
    #: size that its envelope declares; by the async drivers on their loop. Of a message that is converted, the octets
    #: are those of what it became. What it raises aborts the mail, as a source that breaks does.
    progress: Callable[[Mail, int, int | None], object]
    #: An address of this machine to connect from, or one of each family; no other family is tried then.
    source_address: str | Sequence[str]
    #: Makes the connection in place of the driver, as through a proxy: is called with host, port and the seconds that
    #: it has, and returns a connected socket, in the async drivers an awaitable of one.
    connect: Callable[[str, int, float], object]
    #: The hosts whose TLS is known to fail, for sessions that merely wish for it; default: one memory for the process.
    tls_failures: HostMemory
    #: The peers that lost step with pipelining across mails: they are spoken to within a mail only; default: as above.
    lost_steps: HostMemory


@dataclass(frozen=True, slots=True)
class Machine:
    """A client, the wire on top of its floors, and who wants to hear of its work."""

    client: Client
    wire: Wire
    journal: Journal | None
    progress: Callable[[Mail, int, int | None], object] | None
    peer: str
    lost_steps: HostMemory
    fitting: Fitting

    def remember(self, end: Disconnect) -> None:
        """Remember what other sessions with the peer need not find out again."""
        if isinstance(end.error, LostStep):
            self.lost_steps.add(self.peer)


def make_machine(options: Options, host: str | None, ends: Ends, logger: logging.Logger | None = None) -> Machine:
    """A client for a connection to ``host`` between ``ends``; the levels of ``logger`` say what it writes down.

    Raises ``LocalProtocolError`` for options that contradict each other.
    """
    _check_each(options)
    limits = options.get("limits", DEFAULT_LIMITS)
    credentials = credentials_for(options, host)
    helo_name = options["helo_name"] if "helo_name" in options else _helo_name(ends.local_address)
    client = _make_client(options, credentials, helo_name, _pipelining(options, ends.peer))
    journal = make_journal(logger, ends.peer)
    wire: Wire = client
    if journal is not None and journal.wants_lines:
        wire = Traced(wire, journal.line)
    if "trace" in options:
        wire = Traced(wire, options["trace"])
    policy = options.get("tls", TlsPolicy.OPPORTUNISTIC)
    if policy not in {TlsPolicy.NEVER, TlsPolicy.SECURED}:
        verify = bool(credentials) or policy is not TlsPolicy.OPPORTUNISTIC
        context = options.get("tls_context") or default_context(verify=verify)
        binds = any(mechanism.name.upper().endswith("-PLUS") for mechanism in credentials)
        wire = _with_tls(wire, client, context, options, host, binds=binds)
    lost_steps = options.get("lost_steps", KNOWN_LOST_STEPS)
    progress = _named(options["progress"]) if "progress" in options else None
    return Machine(client, wire, journal, progress, ends.peer, lost_steps, _fitting(options, limits))


def _named(progress: Callable[[Mail, int, int | None], object]) -> Callable[[Mail, int, int | None], object]:
    """The callback, with errors that say whose they are."""

    def call(mail: Mail, octets: int, size: int | None) -> None:
        try:
            progress(mail, octets, size)
        except Exception as error:
            raise BodyError(f"the progress function raised {type(error).__name__}") from error

    return call


def _make_client(options: Options, credentials: Sequence[Mechanism], helo_name: str, pipelining: Pipelining) -> Client:
    return Client(
        helo_name,
        protocol=options.get("protocol", Protocol.SMTP),
        tls=options.get("tls", TlsPolicy.OPPORTUNISTIC),
        credentials=credentials,
        xclient=options.get("xclient"),
        pipelining=pipelining,
        chunking=options.get("chunking", True),
        line_ends=options.get("line_ends", LineEnds.NORMALISE),
        eight_bit=options.get("eight_bit", Conversion.CONVERT),
        long_lines=options.get("long_lines", Conversion.AS_IS),
        limits=options.get("limits", DEFAULT_LIMITS),
        nonce=secrets.token_urlsafe,
        to_a_labels=options.get("to_a_labels", default_to_a_labels()),
    )


def _fitting(options: Options, limits: Limits) -> Fitting:
    return Fitting(
        most=limits.converted_message,
        piece=limits.body_chunk,
        line_ends=options.get("line_ends", LineEnds.NORMALISE),
        break_signatures=options.get("break_signatures", False),
    )


@functools.cache
def default_to_a_labels() -> Callable[[str], str] | None:
    """What writes domains in A-labels (RFC 5891), with the mapping of UTS 46; ``None`` without the idna package."""
    return None if importlib.util.find_spec("idna") is None else _to_a_labels


def _to_a_labels(domain: str) -> str:
    import idna

    return idna.encode(domain, uts46=True).decode("ascii")


def a_labels(domain: str) -> str:
    """A domain in A-labels, for the DNS and for routes: by the idna package, without it as Python knows it (IDNA 2003).

    Raises ``LocalProtocolError`` for one that has none.
    """
    try:
        return (default_to_a_labels() or _to_old_a_labels)(domain)
    except ValueError as error:
        raise LocalProtocolError(f"the domain cannot be written in A-labels: {error}", domain) from error


def _to_old_a_labels(domain: str) -> str:
    return domain.encode("idna").decode("ascii")


def _pipelining(options: Options, peer: str) -> Pipelining:
    wish = options.get("pipelining", Pipelining.WITHIN)
    if wish is Pipelining.ACROSS and peer in options.get("lost_steps", KNOWN_LOST_STEPS):
        return Pipelining.WITHIN
    return wish


def _with_tls(
    wire: Wire, client: Client, context: ssl.SSLContext, options: Options, host: str | None, *, binds: bool
) -> Wire:
    server_name = options.get("tls_server_name", host)
    if context.check_hostname and not server_name:
        raise LocalProtocolError("a certificate is to be verified, and no host is known: give tls_server_name")
    # A name in a certificate, and in SNI, stands without the dot of the root (RFC 6066 §3).
    name = server_name and server_name.removesuffix(".")
    return TlsFloor(client, wire, context, name, options.get("limits", DEFAULT_LIMITS), binds=binds)


_KINDS: Final[dict[str, Any]] = {
    "helo_name": str,
    "protocol": Protocol,
    "tls": TlsPolicy,
    "tls_context": ssl.SSLContext,
    "tls_server_name": str,
    "xclient": XClient,
    "pipelining": Pipelining,
    "chunking": bool,
    "line_ends": LineEnds,
    "eight_bit": Conversion,
    "long_lines": Conversion,
    "break_signatures": bool,
    "to_a_labels": Callable,
    "limits": Limits,
    "trace": Callable,
    "progress": Callable,
    "connect": Callable,
    "tls_failures": HostMemory,
    "lost_steps": HostMemory,
}


def _check_each(options: Options) -> None:
    if not isinstance(options, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError("options are a dict, with the names of options as keys", options)
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise LocalProtocolError(f"no such option: {', '.join(sorted(unknown))}")
    for name, given in options.items():
        kind = _KINDS.get(name, object)
        if not isinstance(given, kind):
            raise LocalProtocolError(f"the option {name} must be a {kind.__name__}", given)


def check_options(options: Options, way: Way) -> None:
    """Raise ``LocalProtocolError`` for a host or port that is none, and for options that do not exist or do not fit."""
    _check_each(options)
    _check_way(way, is_for_a_function="connect" in options)
    if "source_address" in options:
        source_addresses(options["source_address"])
        if "connect" in options or way.path is not None:
            raise LocalProtocolError("a source address is for TCP connections that the driver makes itself")
    if "connect" in options and way.path is not None:
        raise LocalProtocolError("the connect option is for hosts; open_session takes any connected socket")


def _check_way(way: Way, *, is_for_a_function: bool) -> None:
    if way.path is not None:
        return
    if not isinstance(way.host, str) or not way.host:
        raise LocalProtocolError("a host is the name or the address of one", way.host)
    if not is_for_a_function and not is_host(way.host):
        raise LocalProtocolError(
            "a host is the name or the address of one, without scheme and brackets; the port is given apart",
            way.host,
        )
    if not isinstance(way.port, int) or isinstance(way.port, bool) or not 0 < way.port < 65_536:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError("a port is a number from 1 to 65535", way.port)


def is_host(text: str) -> bool:
    """Whether it may be a host's name, or its address, with no port, scheme or brackets."""
    if not _MORE_THAN_A_HOST.search(text):
        return True
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def rehearse_options(options: Options, way: Way) -> None:
    """As :func:`check_options`, and for options with which no session could begin, for they contradict each other.

    A function for credentials is not asked.
    """
    check_options(options, way)
    credentials = options.get("credentials", ())
    _rehearse(options, () if callable(credentials) else credentials)


def _rehearse(options: Options, credentials: Sequence[Mechanism]) -> None:
    pipelining = options.get("pipelining", Pipelining.WITHIN)
    _make_client(options, credentials, options.get("helo_name", "localhost"), pipelining)


def settled(options: Options, way: Way) -> Options:
    """The options for connecting by ``way``: what depends on the host is decided here, once.

    Raises as :func:`rehearse_options`.
    """
    check_options(options, way)
    credentials = credentials_for(options, way.host)
    _rehearse(options, credentials)
    chosen: Options = {**options, "credentials": credentials}
    if "tls" not in chosen and way.port == _IMPLICIT_TLS_PORT:
        chosen["tls"] = TlsPolicy.IMPLICIT
    in_clear = fallback_in_clear(chosen, way.host)
    if in_clear is not None and str(way) in chosen.get("tls_failures", KNOWN_TLS_FAILURES):
        return in_clear
    return chosen


def credentials_for(options: Options, host: str | None) -> Sequence[Mechanism]:
    """The mechanisms to use with ``host``.

    What a callable raises comes out as ``CredentialsUnavailable``, unless it is an ``SmtpError`` already.
    """
    credentials = options.get("credentials", ())
    if not callable(credentials):
        return credentials
    try:
        return credentials(host)
    except SmtpError:
        raise
    except Exception as error:
        raise credentials_unavailable(error) from error


def credentials_unavailable(error: Exception) -> CredentialsUnavailable:
    """What is raised for an error of the function for credentials; its words may hold secrets."""
    return CredentialsUnavailable(f"the function that gives the credentials: {type(error).__name__}")


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


def fallback_in_clear(options: Options, host: str | None, error: TlsFailed | None = None) -> Options | None:
    """The options for a new connection in clear after a failed handshake, if TLS was a mere wish (RFC 7435 §3)."""
    if options.get("tls", TlsPolicy.OPPORTUNISTIC) is not TlsPolicy.OPPORTUNISTIC or credentials_for(options, host):
        return None
    # A peer that speaks nothing but TLS understands nothing in clear.
    return None if isinstance(error, TlsAtOnce) else {**options, "tls": TlsPolicy.NEVER}


def remember_tls_failure(options: Options, way: Way) -> None:
    """The handshake failed where a session in clear came about: the next session need not try it."""
    options.get("tls_failures", KNOWN_TLS_FAILURES).add(str(way))


def explained(error: SessionError, options: Options, way: Way) -> SessionError | None:
    """What a silent peer on the port for implicit TLS most likely means, or ``None``."""
    if way.port != _IMPLICIT_TLS_PORT or options.get("tls") in {TlsPolicy.IMPLICIT, TlsPolicy.SECURED}:
        return None
    heard = error.transcript is not None and any(not said for said, _ in error.transcript.entries)
    if heard or not isinstance(error, (PeerTimeout, ConnectionLost)):
        return None
    return TlsFailed(f"{error}; port 465 speaks TLS from the first octet: use TlsPolicy.IMPLICIT")


def check_envelope(envelope: object) -> None:
    """Raise ``LocalProtocolError`` for what is no envelope; it is not shown, for it may be a whole message."""
    if not isinstance(envelope, Envelope):
        raise LocalProtocolError(f"an Envelope says where a mail goes, not a {type(envelope).__name__}")


def make_envelope(
    message: AsyncSource, sender: str | None, recipients: Sequence[str] | str | None, facts: BodyFacts
) -> Envelope:
    """The envelope as given, and where it is not, as the message's header says.

    Raises ``LocalProtocolError`` when neither says it.
    """
    given = (recipients,) if isinstance(recipients, (str, bytes)) else recipients
    if sender is None:
        sender = sender_of(_with_header(message, "sender"))
    if given is None:
        given = recipients_of(_with_header(message, "recipients"))
    return Envelope(sender, tuple(given), body=facts)


def _with_header(message: AsyncSource, missing: str) -> Message[Any, Any]:
    if isinstance(message, Message):
        return message
    raise LocalProtocolError(f"give the {missing}: only email.message objects have a header that says")
