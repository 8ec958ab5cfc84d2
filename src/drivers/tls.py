"""TLS as a floor of its own, between a client and the driver that carries its octets.

What lives here: ``ssl.SSLObject`` over two memory buffers, behind the same face as the client's. No socket, no clock:
certificates that do not fit, handshakes that hang and octets in clear where TLS should be are all tested in memory.
What does not: whether TLS is wanted, which is the client's policy.

How it works
============

The floor is in one of three states. *Clear*: orders and octets pass through untouched, until the client says
:class:`smtpcore.BeginTls`. *Shaking hands*: octets from the peer go to the TLS object, and what it wants to say goes
out, until both sides agree; the wait has one deadline however many messages it takes. *Secure*: what the client says
is gathered and encrypted in records of up to 16 KiB, and **no event of another kind passes before the octets that were
said ahead of it**: an application that is told of a wait must be able to trust that the peer has been asked.

Ciphertext leaves as :class:`smtpcore.SendBody`: octets to be written which no log should show.
"""

from __future__ import annotations

import enum
import ssl
import threading
from typing import Final

from smtpcore import (
    DEFAULT_LIMITS,
    BeginTls,
    Client,
    Disconnect,
    Event,
    Limits,
    MailRefused,
    MailSent,
    SendBody,
    SendLine,
    Timeout,
    TlsFailed,
    TlsInfo,
    Verb,
)
from smtpcore.drivers._session.end_point import server_end_point
from smtpcore.drivers._session.floor import Wire

__all__ = ["TlsAtOnce", "TlsFloor", "client_context", "default_context", "server_end_point"]

_PIECE: Final = 65_536
#: How an alert or a handshake message begins (RFC 8446 §5.1); no reply line does.
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
#: OpenSSL's names for octets that are no TLS.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG")
#: What OpenSSL says, and what it means here.
_REASONS: Final = {
    **dict.fromkeys(_NO_TLS, "the peer does not speak TLS here"),
    "UNSUPPORTED_PROTOCOL": "the peer speaks no version of TLS that is allowed here",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer allows no version of TLS that we speak",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer found no cipher in common, or wants a client certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a client certificate: give a tls_context that has one",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust the issuer of our certificate",
    "TLSV1_UNRECOGNIZED_NAME": "the peer does not know itself by the name that it was asked for",
}


def client_context(*, verify: bool) -> ssl.SSLContext:
    """A new context with the standard library's defaults, to be changed at will (a client certificate, an authority).

    Without ``verify`` no certificate is judged (RFC 7435).
    """
    if verify:
        return ssl.create_default_context()
    # Not the default context with its judgement taken away: it would load every authority of the system first.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_default_contexts: Final[dict[bool, ssl.SSLContext]] = {}
_making: Final = threading.Lock()


def default_context(*, verify: bool) -> ssl.SSLContext:
    """The context of sessions that were given none; one for the process, for loading the authorities takes its time.

    Do not change it: :func:`client_context` makes one of your own.
    """
    with _making:
        context = _default_contexts.get(verify)
        if context is None:
            context = _default_contexts[verify] = client_context(verify=verify)
        return context


class TlsAtOnce(TlsFailed):
    """The peer speaks TLS where it should greet in clear: the port is one for implicit TLS (RFC 8314 §3.3)."""


class _State(enum.Enum):
    CLEAR = "clear"
    SHAKING_HANDS = "shaking hands"
    SECURE = "secure"


class TlsFloor:
    """A client's wire with TLS on it from the moment the client asks for it.

    ``wire`` is the client, or a floor upon it; ``server_name`` is what the certificate must be for, and what SNI says.
    ``binds`` says that authentication may be bound to the channel: then the client is told the binding
    ``tls-server-end-point``, if the package ``cryptography`` is there.
    """

    def __init__(
        self,
        client: Client,
        wire: Wire,
        context: ssl.SSLContext,
        server_name: str | None,
        limits: Limits = DEFAULT_LIMITS,
        *,
        binds: bool = False,
    ) -> None:
        self._client = client
        self._binds = binds
        self._wire = wire
        self._context = context
        self._server_name = server_name
        self._deadlines = limits.deadlines
        self._state = _State.CLEAR
        self._heard_in_clear = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._plain: list[bytes] = []
        self._plain_octets = 0
        self._seconds = 0.0
        #: A report that waits until the octets said before it are out.
        self._held: Event | None = None
        self._timeout = Timeout(Verb.STARTTLS, limits.deadlines.starttls)
        self._closing = False

    # --- facts -----------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        if self._state is _State.CLEAR:
            if data.startswith(_TLS_RECORDS):
                self._client.tls_failed(TlsAtOnce("the peer speaks TLS from the first octet: use TlsPolicy.IMPLICIT"))
            else:
                self._heard_in_clear = True
                self._wire.receive_data(data)
            return
        for start in range(0, len(data), _PIECE):
            self._incoming.write(data[start : start + _PIECE])
            if self._state is _State.SECURE:
                self._decrypt()

    def receive_eof(self) -> None:
        self._incoming.write_eof()
        if self._state is _State.SHAKING_HANDS:
            self._client.tls_failed(TlsFailed("the peer closed the connection during the TLS handshake"))
        else:
            # SMTP knows its own ends, so a missing close_notify is no news: a lost reply is lost either way.
            self._wire.receive_eof()

    def receive_timeout(self) -> None:
        if self._state is _State.SHAKING_HANDS:
            self._client.tls_failed(TlsFailed("the TLS handshake was not done within its deadline"))
        else:
            self._wire.receive_timeout()

    def send_failed(self, error: Exception | str = "") -> None:
        self._plain.clear()
        self._plain_octets = 0
        self._outgoing.read()
        if self._state is _State.SHAKING_HANDS:
            self._client.tls_failed(TlsFailed(f"the connection failed during the TLS handshake: {error}"))
        else:
            self._wire.send_failed(error)

    # --- orders ----------------------------------------------------------------------------------------------------

    def next_event(self) -> Event:
        if self._state is _State.CLEAR and not isinstance(event := self._wire.next_event(), BeginTls):
            return event
        while True:
            if self._outgoing.pending:
                return SendBody(self._outgoing.read(), self._seconds)
            if self._held is not None:
                event, self._held = self._held, None
                return event
            below = self._next_event_below()
            if below is not None:
                return below

    def _next_event_below(self) -> Event | None:
        """An event that may pass at once, or ``None``: something was held, encrypted or agreed on."""
        event = self._wire.next_event()
        if isinstance(event, BeginTls):
            return self._shake_hands()
        if isinstance(event, (SendLine, SendBody)) and self._state is _State.SECURE:
            self._plain.append(event.data)
            self._plain_octets += len(event.data)
            self._seconds = event.seconds
            if self._plain_octets >= _PIECE:
                self._encrypt()
            return None
        if self._plain:
            self._encrypt()
            if isinstance(event, (MailSent, MailRefused)):
                self._held = event
            # All else is asked for again: what the peer says while the octets go out may change it.
            return None
        if isinstance(event, Disconnect) and event.clean and not self._closing:
            self._say_goodbye()
            return None
        return event

    def _shake_hands(self) -> Event | None:
        try:
            if self._tls is None:
                self._state = _State.SHAKING_HANDS
                self._seconds = self._deadlines.starttls
                self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._server_name)
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return None if self._outgoing.pending else self._timeout
        except (ssl.SSLError, ValueError) as error:
            mistaken = not self._heard_in_clear and getattr(error, "reason", None) in _NO_TLS
            hint = "; is this a port for STARTTLS?" if mistaken else ""
            self._client.tls_failed(TlsFailed(f"the TLS handshake failed: {_reason(error)}{hint}"))
            return None
        self._state = _State.SECURE
        cipher = self._tls.cipher()
        self._client.tls_started(
            TlsInfo(
                version=self._tls.version() or "unknown",
                cipher=cipher[0] if cipher else "unknown",
                verified=self._context.verify_mode is ssl.CERT_REQUIRED and self._context.check_hostname,
                server_end_point=self._server_end_point(),
            )
        )
        self._decrypt()
        return None

    def _server_end_point(self) -> bytes | None:
        assert self._tls is not None
        certificate = self._tls.getpeercert(binary_form=True) if self._binds else None
        return None if certificate is None else server_end_point(certificate)

    # --- octets ----------------------------------------------------------------------------------------------------

    def _encrypt(self) -> None:
        assert self._tls is not None
        plain = b"".join(self._plain)
        self._plain.clear()
        self._plain_octets = 0
        try:
            for start in range(0, len(plain), _PIECE):
                self._tls.write(plain[start : start + _PIECE])
        except ssl.SSLError as error:
            self._wire.send_failed(f"TLS: {_reason(error)}")

    def _decrypt(self) -> None:
        assert self._tls is not None
        try:
            while data := self._tls.read(_PIECE):
                self._wire.receive_data(data)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            self._client.tls_failed(TlsFailed(f"the TLS stream broke: {_reason(error)}"))
            return
        self._wire.receive_eof()

    def _say_goodbye(self) -> None:
        """Put close_notify before the end (RFC 8446 §6.1); the peer's is not waited for."""
        self._closing = True
        if self._tls is None or self._state is not _State.SECURE:
            return
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message}"
    code = error.reason if isinstance(error, ssl.SSLError) else None
    return f"{_REASONS[code]} ({code})" if code in _REASONS else str(error)
