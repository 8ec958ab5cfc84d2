"""``smtpcore send``: one message, now, and what happened to each recipient.

What lives here: its arguments, and what it prints. What does not: the sending.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from typing import Any, Final

import click

from smtpcore import Conversion, LocalProtocolError, Outcome, Protocol
from smtpcore.drivers._cli.exit_status import ExitStatus, exit_status
from smtpcore.drivers._cli.sending import DRIVERS, Server, deliver
from smtpcore.drivers._cli.shared import Stop, flags_of, make_envelope, open_message, session_flags, stop_for
from smtpcore.drivers._session.options import is_host
from smtpcore.drivers.configuration import ConfigurationError, read_session

__all__ = ["send"]

CONVERSIONS: Final = [conversion.value for conversion in Conversion]
_SMTP_PORT: Final = 25
#: As the settings of the relay have it.
_LMTP_PORT: Final = 24


def _host(_context: click.Context, _parameter: click.Parameter, host: str | None) -> str | None:
    if host is not None and not is_host(host):
        raise click.BadParameter(f"{host!r} is not a host; the port is given with --port")
    return host


def _server(host: str | None, port: int | None, socket: str | None, *, lmtp: bool, verified: bool) -> Server:
    if host is None and socket is None:
        raise click.UsageError("the server is to be named: --host, or --socket")
    if socket is not None and port is not None:
        raise click.UsageError("a unix socket has no port")
    if host is None and verified:
        raise click.UsageError("a certificate is to be verified: --host says whose it must be")
    return Server(host, port or (_LMTP_PORT if lmtp else _SMTP_PORT), socket)


def _driver(_context: click.Context, _parameter: click.Parameter, driver: str) -> str:
    if driver == "trio" and importlib.util.find_spec("trio") is None:
        raise click.BadParameter("trio is not installed: pip install 'smtpcore[trio]'")
    return driver


@click.command(short_help="Send one message and say what happened to each recipient.")
@click.option("--host", callback=_host, help="The server's name or address.")
@click.option("--port", type=click.IntRange(1, 65_535), help="The server's port. Default: 25, and 24 with --lmtp.")
@click.option(
    "--socket", metavar="PATH", help="The unix socket at which the server listens; --host then names its certificate."
)
@click.option("--lmtp", is_flag=True, help="The server is a store of mailboxes and speaks LMTP (RFC 2033).")
@session_flags
@click.option("--from", "sender", metavar="ADDR", help="The reverse-path; '' is the null one. Default: as From says.")
@click.option("--to", "recipients", metavar="ADDR", multiple=True, required=True, help="A recipient; may be repeated.")
@click.option(
    "--driver", type=click.Choice(list(DRIVERS)), default="blocking", show_default=True, callback=_driver,
    help="What sends it; the outcome is the same.",
)  # fmt: skip
@click.option(
    "--eight-bit", type=click.Choice(CONVERSIONS),
    help="What to do with octets above 127 where the server does not take them. Default: convert.",
)  # fmt: skip
@click.option(
    "--long-lines", type=click.Choice(CONVERSIONS),
    help="What to do with lines of more than 998 octets. Default: as-is.",
)  # fmt: skip
@click.option("--break-signatures", is_flag=True, default=None, help="Convert what is signed, too.")
@click.option("--trace", is_flag=True, help="Show the dialogue, secrets masked.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("file", metavar="FILE|-")
def send(
    host: str | None,
    port: int | None,
    socket: str | None,
    lmtp: bool,
    sender: str | None,
    recipients: tuple[str, ...],
    driver: str,
    trace: bool,
    as_json: bool,
    file: str,
    **session: Any,
) -> int:
    """Send one message and say for each recipient what happened.

    Exit status: 0 all delivered, 75 something is to be tried again, 69 something was refused for good, 76 the server
    broke the protocol, 78 TLS or authentication could not be had, 65 an address or the message was refused here,
    66 a file cannot be read, 64 bad usage, 74 the output cannot be written.
    """
    verified = session["user"] is not None or session["tls"] in {"required", "implicit"}
    server = _server(host, port, socket, lmtp=lmtp, verified=verified)
    try:
        options = read_session(flags_of(session))
    except ConfigurationError as error:
        raise stop_for(error) from None
    if lmtp:
        options["protocol"] = Protocol.LMTP
    if trace:
        options["trace"] = lambda line: click.echo(line, err=True)
    try:
        with open_message(file) as message:
            envelope = make_envelope(sender, recipients, message)
            sent = deliver(driver, server, options, envelope, message)
    except Stop as stop:
        return _end((), stop.error, stop.status, as_json)
    except LocalProtocolError as error:
        return _end((), error, ExitStatus.DATA, as_json)
    return _end(sent.outcomes, sent.error, exit_status(sent.outcomes, sent.error), as_json)


def _end(outcomes: Sequence[Outcome], error: Exception | str | None, status: ExitStatus, as_json: bool) -> int:
    """Show what happened, for a person or for a script."""
    if as_json:
        kind = "Error" if isinstance(error, str) else type(error).__name__
        shown = None if error is None else {"type": kind, "message": str(error)}
        click.echo(json.dumps({"outcomes": [_as_json(outcome) for outcome in outcomes], "error": shown}))
        return status
    for outcome in outcomes:
        doubt = ", in doubt" if outcome.in_doubt else ""
        said = outcome.reply if outcome.reply is not None else outcome.error
        click.echo(f"{outcome.recipient}: {outcome.verdict.value}{doubt}: {said}")
    if error is not None and not any(outcome.error is error and outcome.reply is None for outcome in outcomes):
        click.echo(f"smtpcore: {error}", err=True)
    return status


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "recipient": outcome.recipient,
        "verdict": outcome.verdict.value,
        "in_doubt": outcome.in_doubt,
        "code": outcome.code,
        "enhanced": outcome.enhanced,
        "text": outcome.text,
    }
