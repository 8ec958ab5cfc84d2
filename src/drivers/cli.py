"""The command line: ``smtpcore send``, ``smtpcore queue``, ``smtpcore relay``, ``smtpcore config``.

What lives here: the entry. What does not: the commands, and what they need to be installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO, cast

from smtpcore.drivers._cli.exit_status import ExitStatus

__all__ = ["main", "run"]


def main() -> NoReturn:
    """The entry point: never a traceback, always a status of :class:`ExitStatus`."""
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        # Without standard streams there are none here, either.
        if cast("object", stream) is not None:
            status = _close(stream, status)
    sys.exit(status)


def _close(stream: TextIO, status: int) -> int:
    """Write what is left in a standard stream; returns the exit status, which is another where that fails."""
    try:
        stream.flush()
    except OSError as error:
        # What is left must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        # Whoever closed a pipe has seen enough.
        return status if isinstance(error, BrokenPipeError) else ExitStatus.OUTPUT
    return status


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        # The package is installed without the libraries of its extras, and its command all the same.
        from smtpcore.drivers._cli.commands import run_command
    except ModuleNotFoundError as error:
        print(f"smtpcore: {error.name} is missing; the command line needs pip install 'smtpcore[cli]'", file=sys.stderr)
        return ExitStatus.CONFIG
    return run_command(arguments)
