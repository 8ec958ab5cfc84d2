"""``smtpcore relay`` and ``smtpcore config``: a relay at work, and what can be configured.

What lives here: arguments, the log, signals. What does not: the settings, which are declared elsewhere; the relaying.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from logging.handlers import WatchedFileHandler
from types import FrameType
from typing import Any, Protocol

import anyio
import click

from smtpcore import LocalProtocolError
from smtpcore.drivers import threads
from smtpcore.drivers._cli.exit_status import ExitStatus
from smtpcore.drivers._cli.shared import SPOOL_VARIABLE, Stop, flags_of, session_flags, stop_for
from smtpcore.drivers._configuration.kinds import host_and_port
from smtpcore.drivers._configuration.sessions import os_reason
from smtpcore.drivers._configuration.settings import BACKENDS, LEVELS
from smtpcore.drivers._configuration.texts import reference, sample
from smtpcore.drivers._relaying.log_lines import logging_to
from smtpcore.drivers.configuration import Configuration, ConfigurationError, LogSettings, load
from smtpcore.drivers.progress import Progress, Relaying
from smtpcore.drivers.resolver import AsyncResolver, Resolver
from smtpcore.drivers.service import RelayService
from smtpcore.drivers.spool import Spool, SpoolError
from smtpcore.relay import Attempted, Fate, SmartHost

__all__ = ["config", "relay"]

_log = logging.getLogger(__name__)


class _HostAndPort(click.ParamType[SmartHost]):
    """``HOST:PORT``, or a host alone for port 25; an IPv6 address in brackets."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SmartHost:
        try:
            return value if isinstance(value, SmartHost) else host_and_port(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _print_and_end(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(sample(), nl=False)
        context.exit()


@click.command(short_help="Relay what is in a spool.")
@click.option("--config", "path", metavar="FILE", help="Settings in TOML; flags override them.")
@click.option("--check", is_flag=True, help="Only say what is wrong with the configuration.")
@click.option(
    "--print-config", is_flag=True, is_eager=True, expose_value=False, callback=_print_and_end,
    help="Print a commented configuration with every setting, and exit.",
)  # fmt: skip
@click.option(
    "--spool", "directory", metavar="DIR", envvar=SPOOL_VARIABLE, show_envvar=True, help="The spool directory."
)
@click.option("--smarthost", type=_HostAndPort(), help="The host that takes all mail. Default: by MX records.")
@session_flags
@click.option("--once", is_flag=True, help="Drain what is due and exit.")
@click.option("--backend", type=click.Choice(list(BACKENDS)), help="What runs the sessions. Default: asyncio.")
@click.option("--quiet", is_flag=True, help="Show neither the live view nor counts, and log warnings only.")
def relay(path: str | None, check: bool, once: bool, quiet: bool, **typed: Any) -> int:
    """Relay what is in a spool until SIGTERM, or with --once until nothing that is due is left to do.

    Without --config and --smarthost mail goes straight to the hosts that the MX records of its domain name.

    Exit status: 0 it ended as it was told to, 64 bad usage, 66 a file cannot be read, 75 the spool cannot be used or
    another relay works on it, 78 the configuration makes no sense.
    """
    if path is None and typed["directory"] is None:
        raise click.UsageError(f"Missing option '--spool' (env var: '{SPOOL_VARIABLE}'), or '--config'.")
    try:
        configuration = load(path, flags_of(typed))
    except OSError as error:
        raise Stop(ExitStatus.NO_INPUT, f"--config {path}: {os_reason(error)}") from None
    except ConfigurationError as error:
        raise stop_for(error) from None
    if check:
        click.echo("The configuration is sound.")
        return ExitStatus.OK
    return _relay(configuration, Progress(show=not quiet), once)


def _relay(configuration: Configuration, progress: Progress, once: bool) -> int:
    try:
        with Spool(configuration.spool) as spool:
            service, run = _BACKENDS[configuration.backend](configuration, spool, progress.notice, once)
            # The view comes first: what is logged to a terminal scrolls by above it.
            with (
                progress.shown(service),
                _logging(configuration.logging, progress),
                _summaries(progress, configuration.logging.summary_every),
                _stopped_by_signals(service),
            ):
                run()
    except SpoolError as error:
        raise Stop(ExitStatus.TEMPORARY, error) from None
    except LocalProtocolError as error:
        raise Stop(ExitStatus.CONFIG, error) from None
    except BaseExceptionGroup as group:
        failures = group.subgroup(SpoolError)
        if failures is None:
            raise
        raise Stop(ExitStatus.TEMPORARY, _first(failures)) from None
    if progress.show:
        click.echo(progress.summary, err=True)
    return ExitStatus.OK


def _first(group: BaseExceptionGroup[SpoolError]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


# --- what runs it -----------------------------------------------------------------------------------------------------


class _Service(Relaying, Protocol):
    """What all services have."""

    def stop(self, grace: float | None = None) -> None: ...


_Notice = Callable[[Fate | Attempted], None]
_Made = tuple[_Service, Callable[[], None]]


def _on_anyio(configuration: Configuration, spool: Spool, notice: _Notice, once: bool) -> _Made:
    service = RelayService(
        spool,
        configuration.routing.table,
        configuration.settings,
        configuration.options_for,
        notice=notice,
        grace=configuration.grace,
        resolver=AsyncResolver(configuration.resolver) if configuration.routing.asks_the_dns else None,
    )
    return service, lambda: anyio.run(partial(service.run, once=once), backend=configuration.backend)


def _on_threads(configuration: Configuration, spool: Spool, notice: _Notice, once: bool) -> _Made:
    service = threads.RelayService(
        spool,
        configuration.routing.table,
        configuration.settings,
        configuration.options_for,
        notice=notice,
        grace=configuration.grace,
        resolver=Resolver(configuration.resolver) if configuration.routing.asks_the_dns else None,
    )
    return service, lambda: service.run(once=once)


_BACKENDS: Mapping[str, Callable[[Configuration, Spool, _Notice, bool], _Made]] = {
    "asyncio": _on_anyio,
    "trio": _on_anyio,
    "threads": _on_threads,
}


@contextmanager
def _stopped_by_signals(service: _Service) -> Generator[None]:
    """While the block runs, SIGTERM and SIGINT let the relay finish what is on its way; a second one breaks it off.

    SIGHUP does as the first: the terminal is gone, of which a shell and the system may both tell. Under ``nohup`` it
    stays what it is, nothing.
    """
    told = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if number == signal.SIGHUP and told:
            return
        told += 1
        if told == 1:
            service.stop()
        # The second may come in the midst of handling the first, which then has the last word.
        if told > 1:
            service.stop(0.0)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _summaries(progress: Progress, seconds: float | None) -> Generator[None]:
    """While the block runs, log the counts every so many seconds."""
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(seconds):
            _log.info("%s", progress.summary, extra={"event": "summary"})

    writer = threading.Thread(target=write, name="summaries", daemon=True)
    if seconds is not None:
        writer.start()
    try:
        yield
    finally:
        ended.set()
        if seconds is not None:
            writer.join()


@contextmanager
def _logging(settings: LogSettings, progress: Progress) -> Generator[None]:
    """Log to the file, or to standard error, where a live view leaves room for warnings only."""
    level = settings.level
    if settings.file is None and (progress.live or not progress.show):
        level = max(level, "warning", key=LEVELS.index)
    try:
        # Who rotates logs renames the file; the next line then begins another.
        handler = logging.StreamHandler() if settings.file is None else WatchedFileHandler(settings.file, "a", "utf-8")
    except OSError as error:
        raise Stop(ExitStatus.NO_INPUT, f"{settings.file}: {os_reason(error)}") from None
    with logging_to(handler, level, settings.format):
        yield


@click.group()
def config() -> None:
    """Show what can be configured."""


@config.command("sample", short_help="Print a configuration with every setting.")
def config_sample() -> None:
    """Print a commented configuration with every setting at its default."""
    click.echo(sample(), nl=False)


@config.command("reference")
def config_reference() -> None:
    """Print the reference of all settings, in Markdown."""
    click.echo(reference(), nl=False)
