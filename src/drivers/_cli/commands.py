"""All commands under one name, and how every one of them ends.

What lives here: the group, and errors turned into words and exit statuses. What does not: the commands, which have a
file each; the process.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Sequence
from types import FrameType

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
    except OSError as error:
        return _failed(error)


def _failed(error: OSError) -> ExitStatus:
    """The end of a command for a failure of the system that it does not know."""
    if _came_of_output(error):
        # Whoever closed a pipe has seen enough.
        if isinstance(error, BrokenPipeError):
            return ExitStatus.OK
        _complain(f"the output cannot be written: {error.strerror or error}")
        return ExitStatus.OUTPUT
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    _complain(f"{where}{error.strerror or str(error) or type(error).__name__}")
    return ExitStatus.TEMPORARY


def _came_of_output(error: OSError) -> bool:
    """Whether it was raised where something is written to a standard stream: the error itself does not say."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_code is click.echo.__code__ or _module_of(frame).startswith("rich.") for frame in frames)


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


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
