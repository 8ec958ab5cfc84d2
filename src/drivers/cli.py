"""The command line: ``smtpcore send``, ``smtpcore queue``, ``smtpcore relay``, ``smtpcore config``.

What lives here: the entry. What does not: the commands, and what they need to be installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from smtpcore.drivers._cli.exit_status import ExitStatus

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
        # The package is installed without the libraries of its extras, and its command all the same.
        from smtpcore.drivers._cli.commands import run_command
    except ModuleNotFoundError as error:
        print(f"smtpcore: {error.name} is missing; the command line needs pip install 'smtpcore[cli]'", file=sys.stderr)
        return ExitStatus.CONFIG
    return run_command(arguments)
