"""What several commands of the command line share: the way to stop, session flags, messages and envelopes.

What lives here: helpers that print nothing. What does not: any one command.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import default as modern_policy
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from smtpcore import BodyFacts, Envelope, LocalProtocolError
from smtpcore.drivers._cli.exit_status import ExitStatus
from smtpcore.drivers._configuration.sessions import os_reason
from smtpcore.drivers._session.bodies import utf8_in_header
from smtpcore.drivers.configuration import ConfigurationError, Problem
from smtpcore.mime import sender_of

__all__ = ["SPOOL", "SPOOL_VARIABLE", "Stop", "flags_of", "make_envelope", "open_message", "session_flags", "stop_for"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Stop(Exception):
    """The command cannot go on: what to say, and the exit status."""

    def __init__(self, status: ExitStatus, error: Exception | str) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


#: Where the spool directory may be named as well.
SPOOL_VARIABLE = "SMTPCORE_SPOOL"

SPOOL = click.option(
    "--spool", "directory", metavar="DIR", required=True, envvar=SPOOL_VARIABLE, show_envvar=True,
    help="The spool directory.",
)  # fmt: skip

#: As much of a message is read to find what is in its header.
_BEGINNING = 65_536

#: Flags that are settings as well: the name of the parameter, the setting, the flag.
_SETTINGS = {
    "directory": ("spool", "--spool"),
    "smarthost": ("routing.default", "--smarthost"),
    "backend": ("backend", "--backend"),
    "tls": ("tls.policy", "--tls"),
    "ca": ("tls.ca_file", "--ca"),
    "user": ("credentials.user", "--user"),
    "password_file": ("credentials.password_file", "--password-file"),
    "helo": ("identity.helo_name", "--helo"),
    "timeout_scale": ("deadlines.scale", "--timeout-scale"),
    "eight_bit": ("session.eight_bit", "--eight-bit"),
    "long_lines": ("session.long_lines", "--long-lines"),
    "break_signatures": ("session.break_signatures", "--break-signatures"),
}


def session_flags(command: _Command) -> _Command:
    """The flags that say how a session is held."""
    for option in reversed(
        (
            click.option(
                "--tls",
                type=click.Choice(["never", "opportunistic", "required", "implicit"]),
                help="Encryption. Default: opportunistic, and required with --user.",
            ),
            click.option("--ca", metavar="FILE", help="Trust the certificates in FILE (PEM) instead of the system's."),
            click.option("--user", help="Authenticate as this user."),
            click.option("--password-file", metavar="FILE", help="The password is the first line of FILE."),
            click.option("--helo", metavar="NAME", help="The name to greet with."),
            click.option("--timeout-scale", type=float, metavar="X", help="Multiply all deadlines by X."),
        )
    ):
        command = option(command)
    return command


def flags_of(typed: dict[str, Any]) -> dict[str, tuple[str, object]]:
    """What was typed, by the key of the setting that it stands for."""
    return {
        _SETTINGS[parameter][0]: (_SETTINGS[parameter][1], value)
        for parameter, value in typed.items()
        if value is not None
    }


def stop_for(error: ConfigurationError) -> Exception:
    """The end of a command that was asked for what makes no sense: bad usage if flags did, else the configuration."""
    in_file = [problem for problem in error.problems if problem.origin.in_file]
    typed = [problem for problem in error.problems if not problem.origin.in_file]
    if in_file:
        return Stop(ExitStatus.CONFIG, _listed(error.problems))
    if all(problem.unreadable for problem in typed):
        return Stop(ExitStatus.NO_INPUT, _listed(error.problems))
    return click.UsageError(_listed(error.problems))


def _listed(problems: Sequence[Problem]) -> str:
    return "\n".join(str(problem) for problem in problems)


def open_message(path: str) -> BinaryIO:
    """A message from a file, or from standard input, which is kept so that it can be read twice."""
    try:
        if path != "-":
            return Path(path).open("rb")
        kept = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
        shutil.copyfileobj(sys.stdin.buffer, kept)
    except OSError as error:
        raise Stop(ExitStatus.NO_INPUT, f"{path}: {os_reason(error)}") from None
    kept.seek(0)
    return kept


def _sender_in(header: Message[Any, Any]) -> str:
    try:
        return sender_of(header)
    except LocalProtocolError as error:
        raise LocalProtocolError(f"{error.rule} (with --from)", error.value) from None


def make_envelope(sender: str | None, recipients: Sequence[str], message: BinaryIO) -> Envelope:
    """The envelope as typed; without a sender, as the header of the message says. Raises ``LocalProtocolError``."""
    try:
        if sender is None:
            sender = _sender_in(BytesHeaderParser(policy=modern_policy).parse(message))
            message.seek(0)
        found = utf8_in_header(message.read(_BEGINNING))
        message.seek(0)
    except OSError as error:
        raise Stop(ExitStatus.NO_INPUT, os_reason(error)) from None
    return Envelope(sender, tuple(recipients), body=BodyFacts(repeatable=True, utf8_found=found))
