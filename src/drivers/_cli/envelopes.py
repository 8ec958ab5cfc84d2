"""What is asked for a mail and its recipients, on the command line: the flags, and how it is shown.

What lives here: from flags to the options of an envelope, and from options to words. What does not: commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from smtpcore import DeliverBy, Envelope, LocalProtocolError, MailOptions, Notify, RecipientOptions, Return
from smtpcore.drivers._configuration.kinds import DURATION
from smtpcore.relay import PendingRecipient, StoredMail

__all__ = ["Duration", "shown_options", "wishes", "with_wishes"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """Seconds, or text such as ``2h``."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else float(DURATION.read(float(value) if _bare(value) else value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _bare(value: str) -> bool:
    return value.isascii() and value.replace(".", "", 1).isdigit()


class _NotifyList(click.ParamType[tuple[Notify, ...]]):
    """Words with commas between them."""

    name = "WHEN[,WHEN]..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Notify, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            kinds = tuple(Notify(word.strip().upper()) for word in value.split(","))
            RecipientOptions(notify=kinds)
        except LocalProtocolError as error:
            self.fail(error.rule, param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not never, or some of success, failure and delay", param, ctx)
        return kinds


_RETURNS = {"full": Return.FULL, "hdrs": Return.HEADERS}


def wishes(command: _Command) -> _Command:
    """The flags that say what is asked for a mail."""
    for option in reversed(
        (
            click.option(
                "--notify",
                type=_NotifyList(),
                help="What the sender is told of (RFC 3461): never, or some of success, failure, delay.",
            ),
            click.option(
                "--ret", "returned", type=click.Choice(list(_RETURNS)), help="What a report of failure gives back."
            ),
            click.option("--envid", "envelope_id", metavar="TEXT", help="What reports call this mail (RFC 3461)."),
            click.option(
                "--require-tls", is_flag=True, help="Verified TLS all the way, or the mail is returned (RFC 8689)."
            ),
            click.option("--deliver-by", type=Duration(), help="Deliver within this time, such as 2h (RFC 2852)."),
            click.option(
                "--if-late",
                type=click.Choice(["return", "notify"]),
                help="With --deliver-by: give the mail back (the default), or tell the sender and go on.",
            ),
            click.option("--priority", type=int, metavar="-9...9", help="Its priority (RFC 6710)."),
            click.option("--smtputf8", is_flag=True, help="Its header has characters beyond ASCII (RFC 6531)."),
            click.option("--binary", is_flag=True, help="It has no lines to be minded (BINARYMIME, RFC 3030)."),
        )
    ):
        command = option(command)
    return command


def with_wishes(
    envelope: Envelope,
    *,
    notify: tuple[Notify, ...] | None,
    returned: str | None,
    envelope_id: str | None,
    require_tls: bool,
    deliver_by: float | None,
    if_late: str | None,
    priority: int | None,
    smtputf8: bool,
    binary: bool,
) -> Envelope:
    """The envelope with what was typed. Raises ``LocalProtocolError`` for what may not be asked."""
    if if_late is not None and deliver_by is None:
        raise click.UsageError("--if-late needs --deliver-by")
    options = MailOptions(
        returned=None if returned is None else _RETURNS[returned],
        envelope_id=envelope_id,
        require_tls=require_tls,
        deliver_by=None if deliver_by is None else _deliver_by(deliver_by, if_late),
        priority=priority,
    )
    said = {} if notify is None else dict.fromkeys(envelope.recipients, RecipientOptions(notify=notify))
    body = replace(envelope.body, utf8_header=smtputf8, binary=binary)
    return replace(envelope, body=body, options=options, recipient_options=said)


def _deliver_by(seconds: float, if_late: str | None) -> DeliverBy:
    # More than can be said is refused, be it without end.
    return DeliverBy(seconds=max(1, round(min(seconds, 1e9))), notify_only=if_late == "notify")


def shown_options(of: StoredMail | PendingRecipient) -> dict[str, object]:
    """What is asked, by the names of the parameters that say it; what is not asked is not there."""
    rows = _of_mail(of) if isinstance(of, StoredMail) else _of_recipient(of.options or RecipientOptions())
    return {name: value for name, value in rows.items() if value is not None and value is not False}


def _of_mail(mail: StoredMail) -> dict[str, object]:
    options = mail.options
    late = options.deliver_by
    return {
        "body": "BINARYMIME" if mail.binary else None,
        "smtputf8": mail.utf8_header,
        "ret": options.returned and options.returned.value,
        "envid": options.envelope_id,
        "requiretls": options.require_tls,
        "by": late and f"{late.seconds}s, then {'notify' if late.notify_only else 'return'}",
        "priority": options.priority,
        "hold-for": options.hold_for,
        "hold-until": options.held_until,
        "auth": options.submitter,
        "xforward": options.forwarded and " ".join("=".join(each) for each in options.forwarded.attributes),
    }


def _of_recipient(options: RecipientOptions) -> dict[str, object]:
    return {
        "notify": ",".join(kind.value for kind in options.notify) or None,
        "orcpt": options.original,
    }
