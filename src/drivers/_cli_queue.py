"""``smtpcore queue``: what is in a spool, for operators and scripts.

What lives here: arguments, and what is printed. What does not: the spool.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from smtpcore import LocalProtocolError
from smtpcore.drivers._cli_shared import SPOOL, Stop, make_envelope, open_message
from smtpcore.drivers._exit_status import ExitStatus
from smtpcore.drivers.configuration import os_reason
from smtpcore.drivers.spool import QueueEntry, Spool, SpoolError

__all__ = ["queue"]


@click.group()
def queue() -> None:
    """Look at a spool and put messages into it."""


@queue.command("add")
@SPOOL
@click.option("--from", "sender", metavar="ADDR", help="The reverse-path; '' is the null one. Default: as From says.")
@click.option("--to", "recipients", metavar="ADDR", multiple=True, required=True, help="A recipient; may be repeated.")
@click.argument("file", metavar="FILE|-")
def queue_add(directory: str, sender: str | None, recipients: tuple[str, ...], file: str) -> int:
    """Put one message into a spool and print its queue id: it is safe then."""
    try:
        with open_message(file) as message, Spool(directory) as spool:
            envelope = make_envelope(sender, recipients, message)
            prepared = spool.prepare(envelope, iter(lambda: message.read(65_536), b""))
            (accepted,) = spool.add([prepared], time.time())
    except LocalProtocolError as error:
        raise Stop(ExitStatus.DATA, error) from None
    except SpoolError as error:
        raise Stop(ExitStatus.TEMPORARY, error) from None
    except OSError as error:
        raise Stop(ExitStatus.NO_INPUT, f"{file}: {os_reason(error)}") from None
    click.echo(accepted.mail.mail_id)
    return ExitStatus.OK


@queue.command("list")
@SPOOL
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def queue_list(directory: str, as_json: bool) -> int:
    """Show what is queued: one line for each recipient."""
    try:
        if not (Path(directory) / "spool.db").exists():
            raise Stop(ExitStatus.NO_INPUT, f"{directory}: there is no spool")
        with Spool(directory) as spool:
            for entry in spool.list():
                _show_entry(entry, as_json)
    except SpoolError as error:
        raise Stop(ExitStatus.TEMPORARY, error) from None
    return ExitStatus.OK


def _show_entry(entry: QueueEntry, as_json: bool) -> None:
    mail, job, now = entry.mail, entry.job, time.time()
    for recipient in job.recipients:
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "queue_id": mail.mail_id,
                        "sender": mail.reverse_path,
                        "recipient": recipient.address,
                        "size": mail.size,
                        "age": round(max(0.0, now - mail.accepted_at), 3),
                        "attempts": job.attempts,
                        "due_in": round(job.due_at - now, 3),
                        "active": entry.active,
                        "last_words": recipient.last_words,
                    }
                )
            )
            continue
        due = "active" if entry.active else f"due in {max(0.0, job.due_at - now):.0f} s"
        words = f": {recipient.last_words}" if recipient.last_words else ""
        click.echo(
            f"{mail.mail_id} <{mail.reverse_path}> -> <{recipient.address}> {mail.size} octets, "
            f"{job.attempts} attempts, {due}{words}"
        )
