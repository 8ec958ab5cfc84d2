"""What a command's end tells the shell: the exit statuses of the command line, and which errors lead to which.

What lives here: the numbers (after BSD's sysexits) and their order of precedence. What does not: printing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from smtpcore import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    BodyError,
    CredentialsUnavailable,
    EhloRequired,
    ExtensionRequired,
    LocalProtocolError,
    Outcome,
    RemoteProtocolError,
    SmtpError,
    TlsFailed,
    TlsRequired,
    Verdict,
)

__all__ = ["ExitStatus", "exit_status"]


class ExitStatus(enum.IntEnum):
    """In order of precedence: of two that apply, the one that stands first."""

    #: The output cannot be written, whatever was done.
    OUTPUT = 74
    #: Bad usage.
    USAGE = 64
    #: A file cannot be read.
    NO_INPUT = 66
    #: An address or the message was refused here; nothing was sent.
    DATA = 65
    #: TLS or authentication could not be had as asked, or the credentials were refused.
    CONFIG = 78
    #: The peer broke the protocol.
    PROTOCOL = 76
    #: Something was refused for good.
    UNAVAILABLE = 69
    #: Something is to be tried again.
    TEMPORARY = 75
    #: All delivered.
    OK = 0


_OF_ERROR: tuple[tuple[type[SmtpError], ExitStatus], ...] = (
    (BodyError, ExitStatus.NO_INPUT),
    (LocalProtocolError, ExitStatus.DATA),
    (ExtensionRequired, ExitStatus.DATA),
    (TlsRequired, ExitStatus.CONFIG),
    (TlsFailed, ExitStatus.CONFIG),
    (EhloRequired, ExitStatus.CONFIG),
    (AuthRequired, ExitStatus.CONFIG),
    (AuthDeclined, ExitStatus.CONFIG),
    (AuthExchangeFailed, ExitStatus.CONFIG),
    (CredentialsUnavailable, ExitStatus.CONFIG),
    (RemoteProtocolError, ExitStatus.PROTOCOL),
)

_OF_VERDICT = {
    Verdict.NEVER: ExitStatus.UNAVAILABLE,
    Verdict.LATER: ExitStatus.TEMPORARY,
    Verdict.DELIVERED: ExitStatus.OK,
}


def exit_status(outcomes: Iterable[Outcome], error: SmtpError | None) -> ExitStatus:
    """The exit status for what happened to each recipient, and for what ended the session early."""
    found = {_of_error(error)}
    for outcome in outcomes:
        found |= {_OF_VERDICT[outcome.verdict], _of_error(outcome.error)}
    return next(status for status in ExitStatus if status in found)


def _of_error(error: SmtpError | None) -> ExitStatus:
    for kind, status in _OF_ERROR:
        if isinstance(error, kind):
            return status
    return ExitStatus.OK if error is None else ExitStatus.TEMPORARY
