"""The command line: ``smtpcore send``, ``smtpcore queue``, ``smtpcore relay``.

What lives here: arguments, and what a person or a script reads. What does not: the work, which is the drivers' and the
relay's.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from email.parser import BytesHeaderParser
from email.policy import default as modern_policy
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import anyio
import click

from smtpcore import (
    DEFAULT_LIMITS,
    BodyFacts,
    Envelope,
    LocalProtocolError,
    Outcome,
    TlsPolicy,
    check_host_name,
)
from smtpcore.drivers._exit_status import ExitStatus, exit_status
from smtpcore.drivers._options import Options
from smtpcore.drivers._sending import DRIVERS, deliver
from smtpcore.drivers.progress import Progress
from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import QueueEntry, Spool, SpoolError
from smtpcore.mime import sender_of
from smtpcore.relay import RelaySettings, SmartHost
from smtpcore.sasl import mechanisms_for

__all__ = ["main"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Stop(Exception):
    """The command cannot go on: what to say, and the exit status."""

    def __init__(self, status: ExitStatus, error: Exception | str) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


def main() -> NoReturn:
    """The entry point: never a traceback, always a status of :class:`ExitStatus`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        return int(_commands.main(args=list(arguments), prog_name="smtpcore", standalone_mode=False) or 0)
    except click.UsageError as error:
        error.show()
        return ExitStatus.USAGE
    except _Stop as stop:
        click.echo(f"smtpcore: {stop}", err=True)
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


# --- options that commands share --------------------------------------------------------------------------------------


def _session_options(command: _Command) -> _Command:
    """The options that say how a session is held."""
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
            click.option("--timeout-scale", type=float, default=1.0, metavar="X", help="Multiply all deadlines by X."),
        )
    ):
        command = option(command)
    return command


def session_options(
    tls: str | None,
    ca: str | None,
    user: str | None,
    password_file: str | None,
    helo: str | None,
    timeout_scale: float,
) -> Options:
    """Options for a driver out of what was typed; raises ``click.UsageError`` for what contradicts itself."""
    if user and tls == "never":
        raise click.UsageError("--user: credentials are never said without TLS; choose another --tls")
    if bool(user) != bool(password_file):
        raise click.UsageError("--user and --password-file belong together")
    policy = TlsPolicy(tls or ("required" if user else "opportunistic"))
    options = Options(tls=policy)
    if ca is not None:
        if policy in {TlsPolicy.NEVER, TlsPolicy.OPPORTUNISTIC} and not user:
            raise click.UsageError("--ca: certificates are judged with --tls required or implicit only")
        options["tls_context"] = _context(ca)
    if user and password_file:
        options["credentials"] = mechanisms_for(user, _first_line(password_file))
    try:
        if helo:
            check_host_name(helo)
            options["helo_name"] = helo
        options["limits"] = DEFAULT_LIMITS.scaled(timeout_scale)
    except LocalProtocolError as error:
        raise click.UsageError(str(error)) from None
    return options


def _context(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise _Stop(ExitStatus.NO_INPUT, f"--ca {ca}: {_os_reason(error)}") from None


def _first_line(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            line = file.readline().rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise _Stop(ExitStatus.NO_INPUT, f"--password-file {path}: {_os_reason(error)}") from None
    if not line:
        raise _Stop(ExitStatus.NO_INPUT, f"--password-file {path}: the first line is empty")
    return line


def _os_reason(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else type(error).__name__


def open_message(path: str) -> BinaryIO:
    """A message from a file, or from standard input, which is kept so that it can be read twice."""
    try:
        if path != "-":
            return Path(path).open("rb")
        kept = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
        shutil.copyfileobj(sys.stdin.buffer, kept)
    except OSError as error:
        raise _Stop(ExitStatus.NO_INPUT, f"{path}: {_os_reason(error)}") from None
    kept.seek(0)
    return kept


def make_envelope(sender: str | None, recipients: Sequence[str], message: BinaryIO) -> Envelope:
    """The envelope as typed; without a sender, as the header of the message says. Raises ``LocalProtocolError``."""
    try:
        if sender is None:
            sender = sender_of(BytesHeaderParser(policy=modern_policy).parse(message))
            message.seek(0)
    except OSError as error:
        raise _Stop(ExitStatus.NO_INPUT, _os_reason(error)) from None
    return Envelope(sender, tuple(recipients), body=BodyFacts(repeatable=True))


# --- send -----------------------------------------------------------------------------------------------------------


@_commands.command()
@click.option("--host", required=True, help="The server's name or address.")
@click.option("--port", type=click.IntRange(1, 65_535), default=25, show_default=True)
@_session_options
@click.option("--from", "sender", metavar="ADDR", help="The reverse-path; '' is the null one. Default: as From says.")
@click.option("--to", "recipients", metavar="ADDR", multiple=True, required=True, help="A recipient; may be repeated.")
@click.option("--driver", type=click.Choice(list(DRIVERS)), default="blocking", show_default=True)
@click.option("--trace", is_flag=True, help="Show the dialogue, secrets masked.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("file", metavar="FILE|-")
def send(
    host: str,
    port: int,
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
    66 a file cannot be read, 64 bad usage.
    """
    options = session_options(**session)
    if trace:
        options["trace"] = lambda line: click.echo(line, err=True)
    try:
        with open_message(file) as message:
            envelope = make_envelope(sender, recipients, message)
            sent = deliver(driver, host, port, options, envelope, message)
    except _Stop as stop:
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


# --- queue ------------------------------------------------------------------------------------------------------------


@_commands.group()
def queue() -> None:
    """Look at a spool and put messages into it."""


_SPOOL = click.option("--spool", "directory", metavar="DIR", required=True, help="The spool directory.")


@queue.command("add")
@_SPOOL
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
        raise _Stop(ExitStatus.DATA, error) from None
    except SpoolError as error:
        raise _Stop(ExitStatus.TEMPORARY, error) from None
    except OSError as error:
        raise _Stop(ExitStatus.NO_INPUT, f"{file}: {_os_reason(error)}") from None
    click.echo(accepted.mail.mail_id)
    return ExitStatus.OK


@queue.command("list")
@_SPOOL
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def queue_list(directory: str, as_json: bool) -> int:
    """Show what is queued: one line for each recipient."""
    try:
        if not (Path(directory) / "spool.db").exists():
            raise _Stop(ExitStatus.NO_INPUT, f"{directory}: there is no spool")
        with Spool(directory) as spool:
            for entry in spool.list():
                _show_entry(entry, as_json)
    except SpoolError as error:
        raise _Stop(ExitStatus.TEMPORARY, error) from None
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


# --- relay ------------------------------------------------------------------------------------------------------------


class _HostAndPort(click.ParamType[SmartHost]):
    """``HOST:PORT``, or a host alone for port 25; an IPv6 address in brackets."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SmartHost:
        if isinstance(value, SmartHost):
            return value
        host, colon, port = value.rpartition(":") if value.rfind(":") > value.rfind("]") else (value, "", "25")
        if colon and not port.isdigit():
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        try:
            return SmartHost(host.strip("[]"), int(port))
        except LocalProtocolError as error:
            self.fail(str(error), param, ctx)


@_commands.command()
@_SPOOL
@click.option("--smarthost", type=_HostAndPort(), required=True, help="The host that takes all mail.")
@_session_options
@click.option("--once", is_flag=True, help="Drain what is due and exit.")
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True)
def relay(directory: str, smarthost: SmartHost, once: bool, backend: str, **session: Any) -> int:
    """Relay what is in a spool until SIGTERM, or with --once until nothing that is due is left to do."""
    options = session_options(**session)
    name = options.get("helo_name") or socket.gethostname()
    try:
        settings = RelaySettings(reporting_mta=name)
    except LocalProtocolError:
        settings = RelaySettings(reporting_mta="localhost")
    progress = Progress()
    try:
        with Spool(directory) as spool:
            service = RelayService(spool, smarthost, settings, options, notice=progress.notice)
            with progress.shown(service.relay):
                anyio.run(_run_service, service, once, backend=backend)
    except SpoolError as error:
        raise _Stop(ExitStatus.TEMPORARY, error) from None
    except BaseExceptionGroup as group:
        failures = group.subgroup(SpoolError)
        if failures is None:
            raise
        raise _Stop(ExitStatus.TEMPORARY, _first(failures)) from None
    click.echo(progress.summary, err=True)
    return ExitStatus.OK


async def _run_service(service: RelayService, once: bool) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, service)
        await service.run(once=once)
        tasks.cancel_scope.cancel()


async def _stop_on_signal(service: RelayService) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            service.stop()


def _first(group: BaseExceptionGroup[SpoolError]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
