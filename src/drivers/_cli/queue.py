"""``smtpcore queue``: what is in a spool, for operators and scripts.

What lives here: arguments, and what is printed. What does not: the spool, and which jobs a selection means.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click

from smtpcore import LocalProtocolError, printable
from smtpcore.drivers._cli.envelopes import Duration, shown_options, wishes, with_wishes
from smtpcore.drivers._cli.exit_status import ExitStatus
from smtpcore.drivers._cli.selection import JobState, Selection, state_of
from smtpcore.drivers._cli.shared import SPOOL, Stop, make_envelope, open_message
from smtpcore.drivers._configuration.sessions import os_reason
from smtpcore.drivers.spool import QueueEntry, Spool, SpoolError, SpoolUnusable
from smtpcore.relay import Action, PendingRecipient

__all__ = ["queue"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: What is read of a body to find its header.
_HEADER_OCTETS = 65_536


_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def _selection_flags(command: _Command) -> _Command:
    """The flags and arguments that say which jobs are meant."""
    for option in reversed(
        (
            click.option("--sender", metavar="PATTERN", help="Mail from this sender; '*@a.example' works."),
            click.option("--recipient", metavar="PATTERN", help="Mail to this recipient."),
            click.option("--domain", metavar="PATTERN", help="Mail to this recipient domain."),
            click.option(
                "--state",
                "states",
                type=click.Choice([state.value for state in JobState]),
                multiple=True,
                help="Mail in this state; may be repeated.",
            ),
            click.option("--older-than", type=Duration(), help="Mail accepted longer ago than this, such as 2h."),
            click.argument("queue_ids", metavar="[QUEUE_ID]...", type=int, nargs=-1),
        )
    ):
        command = option(command)
    return command


def _selection(states: Sequence[str], queue_ids: Sequence[int], **patterns: Any) -> Selection:
    return Selection(states=tuple(JobState(state) for state in states), queue_ids=tuple(queue_ids), **patterns)


@contextmanager
def _open(directory: str) -> Generator[Spool]:
    """A spool that exists; its errors end the command."""
    try:
        there = (Path(directory) / "spool.db").exists()
    except OSError as error:
        raise Stop(ExitStatus.NO_INPUT, f"{directory}: {os_reason(error)}") from None
    if not there:
        raise Stop(ExitStatus.NO_INPUT, f"{directory}: there is no spool")
    try:
        with Spool(directory) as spool:
            yield spool
    except SpoolError as error:
        raise Stop(ExitStatus.TEMPORARY, error) from None


def _selected(spool: Spool, selection: Selection, now: float) -> list[QueueEntry]:
    """The jobs that are meant; a queue id that nothing has ends the command."""
    entries = [entry for entry in spool.list() if not selection.queue_ids or entry.mail.mail_id in selection.queue_ids]
    missing = set(selection.queue_ids) - {entry.mail.mail_id for entry in entries}
    if missing:
        raise Stop(ExitStatus.NO_INPUT, f"there is no mail {min(missing)} in the queue")
    return [entry for entry in entries if selection.matches(entry, now)]


@click.group()
def queue() -> None:
    """Look at what is in a spool, and say what is to become of it."""


def _say_if_none(found: object) -> None:
    """For people: silence could mean anything. What scripts read is standard output."""
    if not found:
        click.echo("no mail in the queue fits", err=True)


@queue.command("add", short_help="Put one message into a spool and print its queue id.")
@SPOOL
@click.option("--from", "sender", metavar="ADDR", help="The reverse-path; '' is the null one. Default: as From says.")
@click.option("--to", "recipients", metavar="ADDR", multiple=True, required=True, help="A recipient; may be repeated.")
@wishes
@click.argument("file", metavar="FILE|-")
def queue_add(directory: str, sender: str | None, recipients: tuple[str, ...], file: str, **wished: Any) -> int:
    """Put one message into a spool and print its queue id: it is safe then."""
    try:
        with open_message(file) as message, Spool(directory) as spool:
            envelope = with_wishes(make_envelope(sender, recipients, message), **wished)
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
@_JSON
@_selection_flags
def queue_list(directory: str, as_json: bool, **selected: Any) -> int:
    """Show what is queued: one line for each recipient."""
    now = time.time()
    with _open(directory) as spool:
        entries = _selected(spool, _selection(**selected), now)
        _say_if_none(entries)
        for entry in entries:
            for shown in _list_json(entry, now) if as_json else _list_text(entry, now):
                click.echo(shown)
    return ExitStatus.OK


def _list_text(entry: QueueEntry, now: float) -> Iterable[str]:
    mail, job = entry.mail, entry.job
    state = state_of(entry)
    due = _due(job.due_at - now) if state.dispatched else state.value
    for recipient in job.recipients or (PendingRecipient("?"),):
        words = "".join(f": {words}" for words in (entry.problem, recipient.last_words) if words)
        yield (
            f"{mail.mail_id} <{mail.reverse_path}> -> <{recipient.address}> {mail.size} octets, "
            f"{_attempts(job.attempts)}, {due}{words}"
        )


def _list_json(entry: QueueEntry, now: float) -> Iterable[str]:
    for recipient in entry.job.recipients or (PendingRecipient(""),):
        yield json.dumps(
            {
                "queue_id": entry.mail.mail_id,
                "sender": entry.mail.reverse_path,
                "recipient": recipient.address,
                "size": entry.mail.size,
                "age": round(max(0.0, now - entry.mail.accepted_at), 3),
                **_job_json(entry, now),
                "last_words": recipient.last_words,
            }
        )


def _job_json(entry: QueueEntry, now: float) -> dict[str, object]:
    return {
        "domain": entry.job.domain,
        "state": state_of(entry).value,
        "attempts": entry.job.attempts,
        "due_in": round(entry.job.due_at - now, 3),
        "held": entry.held,
        "problem": entry.problem,
    }


@queue.command("show", short_help="Show mails whole: envelope, attempts, last words, header.")
@SPOOL
@_JSON
@_selection_flags
def queue_show(directory: str, as_json: bool, **selected: Any) -> int:
    """Show mails whole: envelope, jobs with their attempts and last words, and the header of the message."""
    selection = _selection(**selected)
    if selection.everything:
        raise click.UsageError("say which mails: give queue ids or a filter")
    now = time.time()
    with _open(directory) as spool:
        found = _selected(spool, selection, now)
        _say_if_none(found)
        for mail_id, entries in groupby(found, key=lambda entry: entry.mail.mail_id):
            header = _header(spool, mail_id)
            if header is not None:
                click.echo((_show_json if as_json else _show_text)(list(entries), header, now))
    return ExitStatus.OK


def _header(spool: Spool, mail_id: int) -> list[str] | None:
    """The lines of a message's header, safe for a terminal; ``None`` if the mail has left the queue meanwhile."""
    try:
        body = spool.open_body(mail_id)
    except SpoolUnusable:
        raise
    except SpoolError:
        return None
    if isinstance(body, bytes):
        octets = body[:_HEADER_OCTETS]
    else:
        with body:
            try:
                octets = body.read(_HEADER_OCTETS)
            except OSError as error:
                return [f"({os_reason(error)})"]
    # A body that begins with an empty line has no header.
    header = (b"\r\n" + octets).partition(b"\r\n\r\n")[0].decode("utf-8", "backslashreplace")
    return [printable(line) for line in header.split("\r\n") if line]


def _show_text(entries: Sequence[QueueEntry], header: Sequence[str], now: float) -> str:
    mail = entries[0].mail
    lines = [
        f"mail {mail.mail_id} from <{mail.reverse_path}>, {mail.size} octets",
        f"  accepted {_moment(mail.accepted_at)}, {_duration(now - mail.accepted_at)} ago",
        *(f"  {name}: {value}" for name, value in shown_options(mail).items()),
    ]
    for entry in entries:
        job, state = entry.job, state_of(entry)
        lines.append(f"  to {job.domain or 'this host'}: {state.value}, {_attempts(job.attempts)}")
        if entry.problem is not None:
            lines.append(f"    {entry.problem}")
        if state.dispatched:
            lines.append(f"    {_due(job.due_at - now)}, {_moment(job.due_at)}")
        for recipient in job.recipients:
            warned = " (the sender was told of the delay)" if recipient.warned else ""
            lines.append(f"    <{recipient.address}>: {recipient.last_words or 'not tried yet'}{warned}")
            lines += [f"      {name}: {value}" for name, value in shown_options(recipient).items()]
    return "\n".join((*lines, "  header:", *(f"    {line}" for line in header)))


def _show_json(entries: Sequence[QueueEntry], header: Sequence[str], now: float) -> str:
    mail = entries[0].mail
    return json.dumps(
        {
            "queue_id": mail.mail_id,
            "sender": mail.reverse_path,
            "size": mail.size,
            "accepted": _moment(mail.accepted_at),
            "options": shown_options(mail),
            "jobs": [
                {
                    **_job_json(entry, now),
                    "due": _moment(entry.job.due_at),
                    "recipients": [
                        {
                            "recipient": one.address,
                            "last_words": one.last_words,
                            "warned": one.warned,
                            "options": shown_options(one),
                        }
                        for one in entry.job.recipients
                    ],
                }
                for entry in entries
            ],
            "header": header,
        }
    )


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def _due(seconds: float) -> str:
    return f"due in {_duration(seconds)}" if seconds >= 0.5 else "due now"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        # The time of a mail that is damaged.
        return "at no time"


def _duration(seconds: float) -> str:
    """The greatest units that say it well enough."""
    left = max(0, round(seconds))
    for unit, name, lesser, lesser_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if left >= unit:
            return f"{left // unit}{name} {left % unit // lesser}{lesser_name}"
    return f"{left}s"


# --- what is to become of it ------------------------------------------------------------------------------------------

#: What an operator may wish: the command, what it does, and what it says when it is done.
_ACTIONS: dict[Action, tuple[str, str]] = {
    Action.HOLD: ("Deliver mails no more until they are released; what is on its way is finished first.", "held"),
    Action.RELEASE: ("Let mails that are held be delivered again.", "released"),
    Action.RETRY: ("Try mails now, and their destinations too where they rest.", "to be tried now"),
    Action.REMOVE: ("Forget mails without a word to their senders; what is on its way is finished first.", "removed"),
}


def _add_action(action: Action, about: str, done: str) -> None:
    @queue.command(
        action.value,
        short_help=about.partition(";")[0].rstrip(".") + ".",
        help=f"{about}\n\nA mail is meant as a whole, also where only some of its recipients fit. A relay that works on"
        " the spool takes the wish in at once; else the next one does.",
    )
    @SPOOL
    @_JSON
    @click.option("--all", "everything", is_flag=True, help="All mails in the queue.")
    @_selection_flags
    def run(directory: str, as_json: bool, everything: bool, **selected: Any) -> int:
        selection = _selection(**selected)
        if selection.everything != everything:
            raise click.UsageError("say which mails: queue ids or a filter, or --all")
        with _open(directory) as spool:
            entries = _selected(spool, selection, time.time())
            _say_if_none(entries)
            queue_ids = list(dict.fromkeys(entry.mail.mail_id for entry in entries))
            spool.command(action, queue_ids)
        for queue_id in queue_ids:
            click.echo(json.dumps({"queue_id": queue_id, "action": action.value}) if as_json else f"{queue_id} {done}")
        return ExitStatus.OK


for _action, (_about, _done) in _ACTIONS.items():
    _add_action(_action, _about, _done)
