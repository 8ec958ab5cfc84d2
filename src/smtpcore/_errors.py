"""Whose fault: every exception of smtpcore, as one tree.

What lives here: the exception types and the facts they carry. What does not: the decision when one is due.

::

    SmtpError
    ├── LocalProtocolError      the caller misused a machine, or handed in a value that may not be sent
    ├── BodyError               the source of a message body broke while it was being read
    ├── BodyNotRepeatable       a mail was due to be tried again, and its body can be read only once
    ├── ExtensionRequired       the mail needs a service extension that the peer does not offer
    │   └── ConversionFailed        ... and cannot be converted so that it does not
    ├── DeliveryFailed          a driver's ``send`` found that no recipient accepted the mail
    └── SessionError            the session with the peer failed
        ├── ConnectFailed           no connection could be made
        ├── ConnectionLost          the peer, or the network, closed the connection
        ├── PeerTimeout             the peer was silent beyond a deadline
        ├── RemoteProtocolError     the peer broke the protocol
        │   └── LostStep                ... while it was asked to answer several mails at once
        ├── ServiceRefused          the peer said that it will not serve (greeting, EHLO, RSET, 421)
        ├── LimitReached            the session has brought all that the peer takes in one
        ├── SessionAborted          the application gave the session up
        ├── EhloRequired            TLS or AUTH is wanted, and the peer speaks HELO only
        ├── TlsRequired             TLS is required, and the peer does not offer it or refused it
        ├── TlsFailed               the TLS handshake failed
        ├── XclientRequired         the session is for another client, and the peer does not take its attributes
        ├── AuthRequired            authentication is wanted, and no mechanism is common to both
        ├── CredentialsUnavailable  the function that was to give the credentials raised
        ├── AuthExchangeFailed      the peer sent a challenge that makes no sense, or failed to prove itself
        └── AuthDeclined            the peer refused the credentials
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpcore._events import MailRefused, Reply, Transcript

__all__ = [
    "AuthDeclined",
    "AuthExchangeFailed",
    "AuthRequired",
    "BodyError",
    "BodyNotRepeatable",
    "ConnectFailed",
    "ConnectionLost",
    "ConversionFailed",
    "CredentialsUnavailable",
    "DeliveryFailed",
    "EhloRequired",
    "ExtensionRequired",
    "LimitReached",
    "LocalProtocolError",
    "LostStep",
    "PeerTimeout",
    "RemoteProtocolError",
    "ServiceRefused",
    "SessionAborted",
    "SessionError",
    "SmtpError",
    "TlsFailed",
    "TlsRequired",
    "XclientRequired",
]


class SmtpError(Exception):
    """The root of everything that smtpcore raises or reports."""


class LocalProtocolError(SmtpError):
    """The caller misused a machine; nothing changed and nothing reached the wire.

    ``value`` is what was refused (``None`` when the call itself came at the wrong time), ``rule`` the rule it breaks.
    """

    def __init__(self, rule: str, value: object = None) -> None:
        shown = value.value if isinstance(value, enum.Enum) else value
        super().__init__(rule if value is None else f"{shown!r}: {rule}")
        self.rule = rule
        self.value = value


class BodyError(SmtpError):
    """The source of a message body broke while it was read; the end of data was not said."""


class BodyNotRepeatable(SmtpError):
    """A mail was due to be tried again, and its body can be read only once; the cause is what the attempt met."""


class SessionError(SmtpError):
    """The session with the peer failed.

    ``reply`` is the reply that ended it, when there was one. ``transcript`` holds the last lines of the dialogue, with
    secrets masked; it is ``None`` where no dialogue was kept. No such error says anything about a mail: what became of
    those, and which of their recipients may be tried again, say their outcomes.
    """

    _lasting = False

    def __init__(self, message: str, *, reply: Reply | None = None, transcript: Transcript | None = None) -> None:
        super().__init__(message)
        self.reply = reply
        self.transcript = transcript

    @property
    def retryable(self) -> bool:
        """Whether another session may fare better without anybody's help.

        False where credentials, or what the peer offers of TLS and AUTH, do not fit; unless the peer said that it is
        for now (a 4yz reply).
        """
        return not self._lasting or (self.reply is not None and 400 <= self.reply.code < 500)


class ConnectFailed(SessionError):
    """No connection could be made to any address of the host."""


class ConnectionLost(SessionError):
    """The connection ended before the session did."""


class PeerTimeout(SessionError):
    """The peer was silent beyond the deadline of RFC 5321 §4.5.3.2 that was running."""


class RemoteProtocolError(SessionError):
    """The peer broke the protocol; nothing it says later can be trusted."""


class LostStep(RemoteProtocolError):
    """The peer broke the protocol while commands of one mail stood behind another's message.

    Verdicts may have been given to the wrong mails, so those since the last reply that cannot be mistaken are in doubt.
    Such a host is better spoken to without pipelining across mails.
    """


class ServiceRefused(SessionError):
    """The peer will not serve this session: a refused greeting, EHLO or RSET, or 421 at any time."""


class LimitReached(SessionError):
    """The session has brought all that the peer takes in one, as it announced (RFC 9422): another session takes more.

    It ends so between mails. In an outcome: the recipient was not named in this session, and needs another one.
    """


class SessionAborted(SessionError):
    """The application gave the session up (a cancelled task, a call of ``abort()``)."""


class EhloRequired(SessionError):
    """TLS, authentication or XCLIENT is wanted, and the peer refused EHLO."""

    _lasting = True


class TlsRequired(SessionError):
    """TLS is required, and the peer does not offer STARTTLS or refused it (RFC 3207 §4.1)."""

    _lasting = True


class XclientRequired(SessionError):
    """The session is held for another client, and the peer does not offer XCLIENT with its attributes, or refused it.

    Without it, the peer would judge the session as that of this client, which may have other rights.
    """

    _lasting = True


class TlsFailed(SessionError):
    """The TLS handshake failed: a certificate, a version, an alert, or octets that are not TLS."""


class AuthRequired(SessionError):
    """Authentication is wanted, and the peer offers no mechanism that the caller has (RFC 4954 §4)."""

    _lasting = True


class CredentialsUnavailable(SessionError):
    """The function that was to give the credentials raised; its exception is the cause, and its words are not shown."""

    _lasting = True


class AuthExchangeFailed(SessionError):
    """The exchange made no sense, and was cancelled; or it is said to have succeeded, and cannot have.

    A challenge was not base64, the mechanism cannot answer it, or the peer did not prove what it has to.
    """

    _lasting = True


class AuthDeclined(SessionError):
    """The peer refused the credentials or the mechanism (RFC 4954 §6).

    ``explanation`` is what it said within the exchange about the reason, as the ``status`` and ``scope`` of a token
    (RFC 7628 §3.2.2) or the ``error`` of SCRAM (RFC 5802 §7); mostly it says nothing there.
    """

    def __init__(
        self,
        message: str,
        *,
        reply: Reply | None = None,
        transcript: Transcript | None = None,
        explanation: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reply=reply, transcript=transcript)
        self.explanation: Mapping[str, str] = explanation or {}

    _lasting = True


class DeliveryFailed(SmtpError):
    """No recipient accepted the mail; ``report`` holds one outcome per recipient."""

    def __init__(self, report: MailRefused) -> None:
        super().__init__("; ".join(str(outcome) for outcome in report.outcomes))
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.report,)


class ExtensionRequired(SmtpError):
    """The mail needs more than the peer offers; it was refused here, before MAIL.

    ``enhanced`` is the enhanced status code that says so (RFC 3463).
    """

    def __init__(self, message: str, enhanced: str) -> None:
        super().__init__(message)
        self.enhanced = enhanced

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.enhanced)


class ConversionFailed(ExtensionRequired):
    """The message cannot be made fit for the peer (RFC 6152 §3); it was refused here, before MAIL.

    ``part`` is the number of the part that prevents it, as IMAP counts parts (RFC 3501 §6.4.5), or empty for the
    message itself; ``why`` says what is wrong with it.
    """

    def __init__(self, part: str, why: str, enhanced: str = "5.6.3") -> None:
        where = f"part {part}: " if part else ""
        super().__init__(f"the message cannot be converted: {where}{why}", enhanced)
        self.part = part
        self.why = why

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.part, self.why, self.enhanced)
