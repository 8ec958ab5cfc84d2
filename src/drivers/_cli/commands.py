"""All commands under one name, and how every one of them ends.

What lives here: the group, and errors turned into words and exit statuses. What does not: the commands, which have a
file each; the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import click

from smtpcore.drivers._cli.exit_status import ExitStatus
from smtpcore.drivers._cli.queue import queue
from smtpcore.drivers._cli.relay import config, relay
from smtpcore.drivers._cli.send import send
from smtpcore.drivers._cli.shared import Stop

__all__ = ["run_command"]


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        # Not through click's own entry, which has its own mind about pipes that break.
        with _commands.make_context("smtpcore", list(arguments)) as context:
            return int(_commands.invoke(context) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        with contextlib.suppress(OSError):
            error.show()
        return ExitStatus.USAGE
    except Stop as stop:
        for line in str(stop).splitlines():
            _complain(line)
        return stop.status
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        return ExitStatus.OK
    except OSError as error:
        # Commands know what their files may do; what is left are the standard streams.
        _complain(f"the output cannot be written: {error.strerror or error}")
        return ExitStatus.OUTPUT


def _complain(words: str) -> None:
    """Say what is wrong, if anybody can be told."""
    with contextlib.suppress(OSError):
        click.echo(f"smtpcore: {words}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="smtpcore")
def _commands() -> None:
    """Send mail over SMTP, and relay it from a durable queue."""


for _command in (send, queue, relay, config):
    _commands.add_command(_command)
