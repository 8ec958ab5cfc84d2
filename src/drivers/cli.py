"""The command line: ``smtpcore send``, ``smtpcore queue``, ``smtpcore relay``, ``smtpcore config``.

What lives here: the entry, and how every command ends. What does not: the commands, which have a file each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from smtpcore.drivers._cli.exit_status import ExitStatus
from smtpcore.drivers._cli.queue import queue
from smtpcore.drivers._cli.relay import config, relay
from smtpcore.drivers._cli.send import send
from smtpcore.drivers._cli.shared import Stop

__all__ = ["main", "run"]


def main() -> NoReturn:
    """The entry point: never a traceback, always a status of :class:`ExitStatus`."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; what is left must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        # Not through click's own entry, which has its own mind about pipes that break.
        with _commands.make_context("smtpcore", list(arguments)) as context:
            return int(_commands.invoke(context) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        error.show()
        return ExitStatus.USAGE
    except Stop as stop:
        for line in str(stop).splitlines():
            click.echo(f"smtpcore: {line}", err=True)
        return stop.status
    except (click.Abort, KeyboardInterrupt):
        click.echo("smtpcore: interrupted", err=True)
        return 130
    except BrokenPipeError:
        return ExitStatus.OK


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="smtpcore")
def _commands() -> None:
    """Send mail over SMTP, and relay it from a durable queue."""


for _command in (send, queue, relay, config):
    _commands.add_command(_command)
