"""The configuration of a relay: read from TOML and from flags, checked as a whole.

What lives here: what comes of all settings together. What does not: which settings there are, how they are read and
where they stand, and the texts that document them.
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smtpcore import LocalProtocolError, check_host_name
from smtpcore.drivers._configuration.reader import ConfigurationError, Origin, Problem, Reader, read_file
from smtpcore.drivers._configuration.routes import Routing, read_routing
from smtpcore.drivers._configuration.sessions import security_options, session_options
from smtpcore.drivers._configuration.settings import ROUTE_SETTINGS, SETTINGS
from smtpcore.drivers._session.options import Options
from smtpcore.drivers.resolver import ResolverSettings
from smtpcore.relay import Host, RelaySettings, Schedule

__all__ = ["Configuration", "ConfigurationError", "LogSettings", "Origin", "Problem", "load", "read_session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a relay writes its log. ``summary_every`` is in seconds, ``None`` for never."""

    level: str
    file: Path | None
    format: str
    summary_every: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that a relay needs to know, checked."""

    spool: Path
    backend: str
    #: Seconds that what is on its way may take when the relay is told to stop.
    grace: float
    settings: RelaySettings
    routing: Routing
    resolver: ResolverSettings
    #: How all sessions are held, but for what the routing says of hosts.
    options: Options
    logging: LogSettings

    def options_for(self, host: Host) -> Options:
        """How sessions with a host are held; it holds secrets."""
        security = self.routing.security.get((host.name.lower(), host.port), self.routing.others)
        return {**self.options, **security}


def load(path: Path | str | None, flags: Mapping[str, tuple[str, object]] | None = None) -> Configuration:
    """Read a configuration from the TOML file ``path``, from ``flags``, or from both; flags override.

    ``flags`` gives for the key of a setting the name of the flag and its value. Raises ``OSError`` if the file cannot
    be read, and :class:`ConfigurationError` with all that is wrong.
    """
    reader = Reader(SETTINGS)
    routes = [] if path is None else read_file(Path(path), reader, "route", ROUTE_SETTINGS)
    reader.take_flags(flags or {})
    configuration = _build(reader, routes)
    reader.check()
    return configuration


def read_session(flags: Mapping[str, tuple[str, object]]) -> Options:
    """How a session is to be held, out of flags alone. Raises :class:`ConfigurationError`."""
    reader = Reader(SETTINGS)
    reader.take_flags(flags)
    options: Options = {**session_options(reader), **security_options(reader)}
    reader.check()
    return options


def _build(reader: Reader, routes: Sequence[Reader]) -> Configuration:
    if not reader.has("spool"):
        reader.wrong("spool", "this must be given, or --spool")
    if reader["backend"] == "trio" and importlib.util.find_spec("trio") is None:
        reader.wrong("backend", "trio is not installed: pip install 'smtpcore[trio]'")
    options = session_options(reader)
    schedule = reader.build(Schedule)
    name = options.get("helo_name") or _host_name()
    settings = reader.build(RelaySettings, schedule=schedule, reporting_mta=name)
    log_file = reader["logging.file"]
    if log_file is not None and not Path(log_file).absolute().parent.is_dir():
        reader.wrong("logging.file", f"{log_file}: there is no such directory", unreadable=True)
    return Configuration(
        spool=Path(reader["spool"] or ""),
        backend=reader["backend"],
        grace=reader["grace"],
        settings=settings,
        routing=read_routing(reader, routes),
        resolver=reader.build(ResolverSettings),
        options=options,
        logging=LogSettings(
            level=reader["logging.level"],
            file=None if log_file is None else Path(log_file),
            format=reader["logging.format"],
            summary_every=reader["logging.summary_every"],
        ),
    )


def _host_name() -> str:
    name = socket.gethostname()
    try:
        check_host_name(name)
    except LocalProtocolError:
        return "localhost"
    return name
