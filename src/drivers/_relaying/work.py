"""What both services do alike with one mail: taking it in, finding its host, the report on what failed here.

What lives here: small helpers without a state. What does not: anything that waits for a peer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import BinaryIO, TypeAlias, cast

from smtpcore import (
    DEFAULT_LIMITS,
    CredentialsUnavailable,
    Envelope,
    LocalProtocolError,
    Mail,
    MailRefused,
    Outcome,
    Protocol,
    Report,
    SessionAborted,
    SessionError,
    SmtpError,
    Stage,
    TlsPolicy,
    Transcript,
    Verdict,
)
from smtpcore.drivers._connecting.race import Way
from smtpcore.drivers._session.bodies import Body, Source, make_body
from smtpcore.drivers._session.options import Options, make_envelope, rehearse_options
from smtpcore.drivers._spool.seconds import check_seconds
from smtpcore.drivers.spool import Prepared, Spool
from smtpcore.relay import AnswerKind, Delivery, DomainResolved, Host, MxAnswer, RelaySettings

__all__ = [
    "OptionsFor",
    "Work",
    "broken_off",
    "check_service",
    "checked_options",
    "close_body",
    "log_cause",
    "lookup_failed",
    "prepare",
    "prepare_with",
    "refused",
    "shutting_down",
    "unforeseen",
    "way_to",
]

_log = logging.getLogger(__name__)

#: Options of sessions that lead through a network.
_OF_A_NETWORK = frozenset({"tls_context", "tls_server_name", "credentials", "source_address", "connect"})

#: A delivery and its octets.
Work: TypeAlias = tuple[Delivery, bytes | BinaryIO]
#: How sessions with a host are to be held.
OptionsFor: TypeAlias = Callable[[Host], Options]


_ANY_HOST = Way("localhost", 25)
#: Seconds before a resolver that failed is asked again.
_FAILED_LOOKUP_SECONDS = 60.0


def prepare(spool: Spool, message: Source, sender: str | None, recipients: Sequence[str] | str | None) -> Prepared:
    """Read a message, so that it needs only to be committed; nothing is accepted yet.

    Raises ``LocalProtocolError``, :class:`smtpcore.drivers.spool.SpoolError`, and what the message raises.
    """
    body = make_body(message, DEFAULT_LIMITS.body_chunk)
    envelope = make_envelope(message, sender, recipients, body.facts)
    return spool.prepare(envelope, _chunks(body))


def prepare_with(spool: Spool, envelope: Envelope, message: Source) -> Prepared:
    """As :func:`prepare`, with an envelope that is made already; of its body the spool finds out what it must know."""
    return spool.prepare(envelope, _chunks(make_body(message, DEFAULT_LIMITS.body_chunk)))


def _chunks(body: Body) -> Iterable[bytes]:
    offset = 0
    with contextlib.closing(body):
        while chunk := body.read(offset):
            offset += len(chunk)
            yield chunk


def check_service(
    spool: object, route: object, settings: object, notice: object, grace: object, resolver: object
) -> None:
    """Raise ``LocalProtocolError`` for what a service cannot work with: its mistake would show when mail comes."""
    if not isinstance(spool, Spool):
        raise LocalProtocolError("the spool must be a Spool", spool)
    if isinstance(route, type) or not callable(getattr(route, "way", None)):
        raise LocalProtocolError("the route must be a way, a RoutingTable, or have a method way(domain)", route)
    if not isinstance(settings, RelaySettings):
        raise LocalProtocolError("the settings must be RelaySettings", settings)
    if notice is not None and not callable(notice):
        raise LocalProtocolError("notice must be a function", notice)
    check_seconds("grace", grace, least=0, endless=True)
    if resolver is not None and not callable(getattr(resolver, "resolve", None)):
        raise LocalProtocolError("the resolver must have a method resolve(domain)", resolver)


def checked_options(how: Options | OptionsFor | None) -> Options | OptionsFor:
    """The options of all sessions, or the function that gives them.

    Raises ``LocalProtocolError`` for options with which no session could be held, so that no mail waits for them.
    """
    if how is not None and not callable(how):
        rehearse_options(how, _ANY_HOST)
    return {} if how is None else how


def way_to(host: Host, how: Options | OptionsFor) -> tuple[str, Options]:
    """What to connect to, and how: the certificate is to be for the host's name, wherever it was found.

    A unix socket, whose path it is then, leads nowhere but to this machine: nobody listens, so no more is to be proved.
    """
    options = (how(host) if callable(how) else how).copy()
    if host.lmtp:
        options["protocol"] = Protocol.LMTP
    if host.path:
        local = {name: value for name, value in options.items() if name not in _OF_A_NETWORK}
        return host.path, cast("Options", {**local, "tls": TlsPolicy.NEVER})
    if host.address is None:
        return host.name, options
    return host.address, {"tls_server_name": host.name, **options}


def close_body(body: bytes | BinaryIO) -> None:
    """Close what a delivery was to be read from."""
    if not isinstance(body, bytes):
        body.close()


def refused(envelope: Envelope, error: SmtpError) -> MailRefused:
    """The report on a mail that failed here: for good if it may not go out, else to be tried again."""
    may_not_go_out = isinstance(error, LocalProtocolError)
    verdict = Verdict.NEVER if may_not_go_out else Verdict.LATER
    outcomes = tuple(Outcome(recipient, verdict, None, error) for recipient in envelope.recipients)
    return MailRefused(Mail(envelope), outcomes, Stage.NOT_STARTED if may_not_go_out else Stage.STARTED, Transcript())


def unforeseen(what: str, error: Exception) -> str:
    """Log an error that is a mistake of somebody's, with its trace; returns it in words.

    They go into the spool and to the sender: what an application's own code raised is only named.
    """
    _log.error("%s failed in an unforeseen way", what, exc_info=error)
    return f"unforeseen: {type(error).__name__}{f': {error}' if isinstance(error, SmtpError) else ''}"


def log_cause(what: str, error: SessionError) -> None:
    """Log what a function for credentials raised, which the error only names."""
    if isinstance(error, CredentialsUnavailable):
        _log.error("%s: %s", what, error, exc_info=error)


def lookup_failed(domain: str, error: Exception) -> DomainResolved:
    """What stands for an answer when the resolver itself failed: to be tried again."""
    answer = MxAnswer(AnswerKind.FAILURE, problem=unforeseen(f"looking up {domain}", error))
    return DomainResolved(domain, answer, (), _FAILED_LOOKUP_SECONDS)


def shutting_down() -> SessionAborted:
    """What ends a session that is broken off."""
    return SessionAborted("the relay is shutting down")


def broken_off(report: Report) -> Report:
    """The report of a session that was broken off: what lacks a reply lacks it for that reason."""
    return replace(report, outcomes=tuple(_broken_off(outcome) for outcome in report.outcomes))


def _broken_off(outcome: Outcome) -> Outcome:
    settled = outcome.verdict is not Verdict.LATER or outcome.reply is not None
    return outcome if settled else replace(outcome, error=shutting_down())
