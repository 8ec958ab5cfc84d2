"""The configuration of a relay: every setting declared once, read from TOML and from flags, checked as a whole.

What lives here: the table of settings, and the objects that are built out of what was given. What does not: the kinds
of values, the finding of lines, the texts that document the table, and the command line.

How it works
============

A *setting* has a key such as ``schedule.give_up_after``, a kind, a meaning and a default; most are a field of one of
the value objects of the core, and have its default. What was given is read setting by setting; then each object is
built out of its fields. Nothing stops at the first problem: all are collected, each with the file and line that it is
about, or with the flag.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import socket
import ssl
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from smtpcore import (
    Deadlines,
    Limits,
    LocalProtocolError,
    Pipelining,
    SmtpError,
    TlsPolicy,
    check_host_name,
)
from smtpcore.drivers._options import Options
from smtpcore.drivers._setting_kinds import (
    ADDRESS,
    DURATION,
    FACTOR,
    FILE,
    HOST_AND_PORT,
    HOST_NAME,
    NEVER,
    NUMBER,
    OCTETS,
    SHARE,
    TEXT,
    BadElement,
    Kind,
    choice,
    is_list,
    is_table,
    list_of,
    or_word,
)
from smtpcore.drivers._toml_lines import KeyPath, lines_of
from smtpcore.drivers.tls import client_context
from smtpcore.relay import RelaySettings, Route, Schedule
from smtpcore.sasl import mechanisms_for

__all__ = [
    "LEVELS",
    "SECTIONS",
    "SETTINGS",
    "Configuration",
    "ConfigurationError",
    "LogSettings",
    "Origin",
    "Problem",
    "Setting",
    "load",
    "read_session",
]

_Built = TypeVar("_Built")


# --- what is declared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``default`` is ``None`` for what is not set unless given; ``field`` is where its value goes."""

    key: str
    kind: Kind
    meaning: str
    default: Any = None
    field: tuple[type, str] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The key as a path from the top of the document."""
        return tuple(self.key.split("."))

    @property
    def section(self) -> str:
        """The table that the setting belongs to; empty at the top."""
        return self.key.rpartition(".")[0]


def _of(owner: type, key: str, kind: Kind, meaning: str, name: str | None = None) -> Setting:
    """A setting that is a field of ``owner``, named as the last part of its key unless ``name`` says otherwise."""
    name = name or key.rpartition(".")[2]
    found = next(one for one in dataclasses.fields(owner) if one.name == name)
    missing = found.default is dataclasses.MISSING
    return Setting(key, kind, meaning, None if missing else found.default, (owner, name))


#: What a log is written from, the talkative first.
LEVELS: Final = ("debug", "info", "warning", "error")

#: What each section is about, in the order in which they are shown; the first is the top of the document.
SECTIONS: Final[Mapping[str, str]] = {
    "": "Where the mail is, and what runs the relay.",
    "identity": "What the relay calls itself.",
    "routing": "Where mail goes.",
    "tls": "How sessions are encrypted, unless a route says otherwise.",
    "credentials": "Who the relay is to its next hops, unless a route says otherwise.",
    "session": "How a session is held.",
    "schedule": "When a mail is tried again, and when it is given up (RFC 5321, 4.5.4.1).",
    "concurrency": "How much is done at once.",
    "reports": "What senders are told of mail that could not be delivered.",
    "limits": "Bounds on what either side of a session may send.",
    "deadlines": "How long to wait for a peer (RFC 5321, 4.5.3.2).",
    "logging": "What is written of each attempt and fate.",
}

_SESSION: Final = (
    Setting(
        "tls.policy",
        choice(TlsPolicy.OPPORTUNISTIC, TlsPolicy.NEVER, TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT),
        "Whether sessions are encrypted: opportunistic encrypts when the peer offers it and judges no certificate;"
        " required and implicit verify it. Default: implicit on port 465, required with credentials, else"
        " opportunistic.",
    ),
    Setting("tls.ca_file", FILE, "Trust the certificates in this file (PEM) instead of the system's."),
    Setting("tls.certificate_file", FILE, "The certificate that this relay shows when it is asked for one (PEM)."),
    Setting("tls.key_file", FILE, "The key of that certificate, unencrypted, if it is not in the same file."),
    Setting("tls.server_name", HOST_NAME, "The name that certificates must be for, instead of the host's."),
    Setting("credentials.user", TEXT, "Authenticate as this user; the password comes from one of the next two."),
    Setting("credentials.password_file", FILE, "The password is the first line of this file."),
    Setting("credentials.password_variable", TEXT, "The password is in this environment variable."),
)

#: Every setting, in the order in which they are shown.
SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("spool", FILE, "The spool directory; it is made if it does not exist. Required."),
    Setting("backend", choice("asyncio", "trio"), "What runs the sessions.", "asyncio"),
    Setting("identity.helo_name", HOST_NAME, "The name to greet with. Default: the host's name, or its address."),
    _of(
        RelaySettings,
        "identity.reporting_mta",
        HOST_NAME,
        "The name of this relay in its reports to senders. Default: helo_name, or the host's name.",
    ),
    Setting("routing.default", HOST_AND_PORT, "The host that takes all mail. Required."),
    *_SESSION,
    Setting(
        "session.pipelining",
        choice(*Pipelining),
        "How far commands run ahead of their replies, where the peer allows it (RFC 2920).",
        Pipelining.WITHIN,
    ),
    Setting(
        "session.source_addresses",
        list_of(ADDRESS),
        "The addresses of this machine to connect from, one of each family; no other family is tried then.",
    ),
    _of(Schedule, "schedule.delays", list_of(DURATION), "The delay after each failed attempt; the last one repeats."),
    _of(
        Schedule,
        "schedule.warn_after",
        or_word(DURATION, NEVER),
        "The age at which the sender is told of the delay.",
    ),
    _of(Schedule, "schedule.give_up_after", DURATION, "The age from which a failed attempt is the last."),
    _of(Schedule, "schedule.spread", SHARE, "How far a delay is stretched or shortened, as a share of it."),
    _of(
        RelaySettings,
        "schedule.rest",
        DURATION,
        "How long a next hop rests after it failed as a whole; doubled at each failure.",
    ),
    _of(RelaySettings, "schedule.longest_rest", DURATION, "The longest rest of a next hop."),
    _of(RelaySettings, "concurrency.sessions", NUMBER, "Sessions at once, in total."),
    _of(RelaySettings, "concurrency.sessions_per_next_hop", NUMBER, "Sessions at once with one next hop."),
    _of(RelaySettings, "concurrency.mails_per_session", NUMBER, "Mails over one session."),
    _of(
        RelaySettings,
        "concurrency.idle",
        DURATION,
        "How long a session without work stays open.",
        "idle_seconds",
    ),
    _of(RelaySettings, "concurrency.window", NUMBER, "Jobs held in memory, in total."),
    _of(RelaySettings, "concurrency.window_per_next_hop", NUMBER, "Jobs held in memory for one next hop."),
    _of(RelaySettings, "concurrency.recipients_per_delivery", NUMBER, "Recipients of one delivery."),
    _of(
        RelaySettings,
        "reports.whole_message_up_to",
        OCTETS,
        "The size up to which a report carries the whole message, and not only its header.",
        "whole_message_in_reports",
    ),
    _of(Limits, "limits.command_line", OCTETS, "One command line."),
    _of(Limits, "limits.auth_line", OCTETS, "One line of an authentication exchange."),
    _of(Limits, "limits.reply_line", OCTETS, "One line of a reply."),
    _of(Limits, "limits.reply_lines", NUMBER, "Lines of one reply."),
    _of(Limits, "limits.auth_steps", NUMBER, "Challenges answered in one authentication exchange."),
    _of(Limits, "limits.path", OCTETS, "One address with its angle brackets."),
    _of(Limits, "limits.recipients", NUMBER, "Recipients of one mail."),
    _of(Limits, "limits.commands_in_flight", NUMBER, "Commands said and not yet answered."),
    _of(
        Limits,
        "limits.mails_kept_back",
        NUMBER,
        "With pipelining across mails: mails whose verdict waits for a reply that cannot be mistaken.",
    ),
    _of(Limits, "limits.body_chunk", OCTETS, "What is read from a message at a time."),
    _of(Limits, "limits.transcript_lines", NUMBER, "Lines kept of the dialogue for error reports; 0 keeps none."),
    _of(Deadlines, "deadlines.connect", DURATION, "One attempt to reach one address."),
    _of(Deadlines, "deadlines.greeting", DURATION, "The greeting."),
    _of(Deadlines, "deadlines.ehlo", DURATION, "The reply to EHLO or HELO."),
    _of(Deadlines, "deadlines.starttls", DURATION, "The reply to STARTTLS, and the handshake."),
    _of(Deadlines, "deadlines.auth", DURATION, "Each step of an authentication exchange."),
    _of(Deadlines, "deadlines.mail", DURATION, "The reply to MAIL."),
    _of(Deadlines, "deadlines.rcpt", DURATION, "The reply to RCPT."),
    _of(Deadlines, "deadlines.data_initiation", DURATION, "The reply to DATA."),
    _of(Deadlines, "deadlines.data_block", DURATION, "Handing one block of the message to the network."),
    _of(Deadlines, "deadlines.data_termination", DURATION, "The verdict on the message."),
    _of(Deadlines, "deadlines.other", DURATION, "The reply to RSET and everything that has no row."),
    _of(Deadlines, "deadlines.quit", DURATION, "The reply to QUIT."),
    _of(Deadlines, "deadlines.last_words", DURATION, "Reading on after a failed write."),
    Setting("deadlines.scale", FACTOR, "Multiply all deadlines by this.", 1.0),
    Setting("logging.level", choice(*LEVELS), "The least that is written.", "info"),
    Setting("logging.file", FILE, "Append to this file. Default: standard error."),
    Setting("logging.format", choice("text", "json"), "text is key=value, json is one object a line.", "text"),
    Setting(
        "logging.summary_every",
        or_word(DURATION, NEVER),
        "How often the counts so far are written where no live view is shown.",
        60.0,
    ),
)


# --- what is wrong ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given: a file, and a line in it where there is one to name; or a flag."""

    name: str
    line: int | None = None
    in_file: bool = False

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``unreadable`` says that it is about a file that a value names."""

    origin: Origin
    words: str
    unreadable: bool = False

    def __str__(self) -> str:
        return f"{self.origin}: {self.words}"


class ConfigurationError(SmtpError):
    """A configuration makes no sense; ``problems`` holds everything that is wrong with it, in order of lines."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


# --- what comes of it -------------------------------------------------------------------------------------------------


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
    settings: RelaySettings
    route: Route
    #: How sessions are held; it holds secrets, and so it is not shown.
    options: Options = field(repr=False)
    logging: LogSettings


def load(path: Path | str | None, flags: Mapping[str, tuple[str, object]] | None = None) -> Configuration:
    """Read a configuration from the TOML file ``path``, from ``flags``, or from both; flags override.

    ``flags`` gives for the key of a setting the name of the flag and its value. Raises ``OSError`` if the file cannot
    be read, and :class:`ConfigurationError` with all that is wrong.
    """
    reader = _Reader(SETTINGS)
    if path is not None:
        _read_file(Path(path), reader)
    reader.take_flags(flags or {})
    configuration = _build(reader)
    reader.check()
    return configuration


def read_session(flags: Mapping[str, tuple[str, object]]) -> Options:
    """How a session is to be held, out of flags alone. Raises :class:`ConfigurationError`."""
    reader = _Reader(SETTINGS)
    reader.take_flags(flags)
    options = _session(reader)
    reader.check()
    return options


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    origin: Origin


class _Reader:
    """The settings of one table as they were given, with everything that is wrong with them."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = {setting.key: setting for setting in settings}
        self.given: dict[str, _Given] = {}
        self.problems: list[Problem] = []
        #: Settings that were given something that they cannot be.
        self.refused: set[str] = set()
        #: What a setting that is missing is blamed on.
        self.origin = Origin("the command line")

    def __getitem__(self, key: str) -> Any:
        given = self.given.get(key)
        return self.settings[key].default if given is None else given.value

    def take(self, key: str, value: object, origin: Origin, elements: Sequence[Origin] = ()) -> None:
        """Read one value; ``elements`` says where the elements of a list stand."""
        try:
            self.given[key] = _Given(self.settings[key].kind.read(value), origin)
        except ValueError as error:
            self.refused.add(key)
            where = elements[error.number] if elements and isinstance(error, BadElement) else origin
            named = f"{key}: " if origin.in_file else ""
            self.problems.append(Problem(where, f"{named}{error}"))

    def take_flags(self, flags: Mapping[str, tuple[str, object]]) -> None:
        for key, (name, value) in flags.items():
            if value is not None:
                self.take(key, value, Origin(name))

    def wrong(self, key: str, words: str, *, unreadable: bool = False) -> None:
        """Note a problem with what was given for ``key``; a key that was not given is blamed on the whole."""
        given = self.given.get(key)
        origin = self.origin if given is None else given.origin
        named = f"{key}: " if given is None or origin.in_file else ""
        self.problems.append(Problem(origin, f"{named}{words}", unreadable))

    def check(self) -> None:
        """Raise for all problems that were found."""
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: problem.origin.line or 0)
            raise ConfigurationError(list(dict.fromkeys(ordered)))

    def build(self, owner: type[_Built], **fixed: Any) -> _Built:
        """An object out of the settings that are fields of ``owner``, or its defaults if those make no sense."""
        keys = {s.field[1]: s.key for s in self.settings.values() if s.field and s.field[0] is owner}
        values = {name: self.given[key].value for name, key in keys.items() if key in self.given}
        try:
            return owner(**{**fixed, **values})
        except LocalProtocolError as error:
            for name, rule in _guilty(owner, values, fixed, error):
                self.wrong(keys[name], rule)
            return owner(**fixed)


def _guilty(
    owner: type[object], values: Mapping[str, Any], fixed: Mapping[str, Any], error: LocalProtocolError
) -> Iterator[tuple[str, str]]:
    """Which values an object cannot be built of, and why: the one without which it can, or each that fails alone."""
    for name in values:
        others = {other: value for other, value in values.items() if other != name}
        if _refusal(owner, {**fixed, **others}) is None:
            yield name, error.rule
            return
    for name, value in values.items():
        alone = _refusal(owner, {**fixed, name: value})
        if alone is not None:
            yield name, alone.rule


def _refusal(owner: type[object], values: Mapping[str, Any]) -> LocalProtocolError | None:
    try:
        owner(**values)
    except LocalProtocolError as error:
        return error
    return None


def _read_file(path: Path, reader: _Reader) -> None:
    """Take everything out of a file; raises :class:`ConfigurationError` for one that is not TOML."""
    name = str(path)
    reader.origin = Origin(name, in_file=True)
    octets = path.read_bytes()
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigurationError([Problem(Origin(name, line, in_file=True), "this is not UTF-8")]) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([_syntax(name, text, str(error))]) from None
    except RecursionError:
        raise ConfigurationError([Problem(reader.origin, "brackets are nested too deeply")]) from None
    _Document(name, lines_of(text), reader).table((), data)


def _syntax(name: str, text: str, words: str) -> Problem:
    """What ``tomllib`` said, with the line out of its words."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", words, re.DOTALL)
    reason, line = (found[1], found[2]) if found else (words, None)
    number = int(line) if line else text.count("\n") + 1
    return Problem(Origin(name, number, in_file=True), f"not TOML: {reason}")


@dataclass(frozen=True, slots=True)
class _Document:
    """A file that was read: hands what is in it to a reader, setting by setting."""

    name: str
    lines: Mapping[KeyPath, int]
    reader: _Reader

    def origin(self, path: KeyPath) -> Origin:
        return Origin(self.name, self.lines.get(path), in_file=True)

    def table(self, path: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """Take everything in the table at ``path``."""
        known = {setting.path: setting for setting in self.reader.settings.values()}
        for part, value in data.items():
            inner = (*path, part)
            if inner in known:
                elements = [self.origin((*inner, n)) for n in range(len(value) if is_list(value) else 0)]
                self.reader.take(known[inner].key, value, self.origin(inner), elements)
            elif not any(other[: len(inner)] == inner for other in known):
                self._unknown(inner, known)
            elif is_table(value):
                self.table(inner, value)
            else:
                self._note(inner, f"{'.'.join(inner)} is a section, not a setting")

    def _unknown(self, path: tuple[str, ...], known: Collection[tuple[str, ...]]) -> None:
        """A key that nothing has: perhaps another was meant, of this table or of another."""
        beside = {".".join(other[: len(path)]) for other in known if other[: len(path) - 1] == path[:-1]}
        elsewhere = {".".join(other) for other in known if f".{'.'.join(other)}".endswith(f".{path[-1]}")}
        meant = difflib.get_close_matches(".".join(path), beside, 1, 0.7) or sorted(elsewhere)[:1]
        self._note(path, f"there is no {'.'.join(path)}" + (f"; did you mean {meant[0]}?" if meant else ""))

    def _note(self, path: KeyPath, words: str) -> None:
        self.reader.problems.append(Problem(self.origin(path), words))


# --- building ---------------------------------------------------------------------------------------------------------


def _build(reader: _Reader) -> Configuration:
    for key, flag in (("spool", "--spool"), ("routing.default", "--smarthost")):
        if reader[key] is None and key not in reader.refused:
            reader.wrong(key, f"this must be given, or {flag}")
    options = _session(reader)
    schedule = reader.build(Schedule)
    name = options.get("helo_name") or _host_name()
    settings = reader.build(RelaySettings, schedule=schedule, reporting_mta=name)
    log_file = reader["logging.file"]
    if log_file is not None and not Path(log_file).absolute().parent.is_dir():
        reader.wrong("logging.file", f"{log_file}: there is no such directory", unreadable=True)
    return Configuration(
        spool=Path(reader["spool"] or ""),
        backend=reader["backend"],
        settings=settings,
        route=reader["routing.default"],
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


def _session(reader: _Reader) -> Options:
    """How sessions are held; contradictions are noted."""
    limits = reader.build(Limits, deadlines=reader.build(Deadlines))
    options = Options(limits=limits.scaled(reader["deadlines.scale"]), pipelining=reader["session.pipelining"])
    if reader["identity.helo_name"] is not None:
        options["helo_name"] = reader["identity.helo_name"]
    if reader["session.source_addresses"] is not None:
        options["source_address"] = reader["session.source_addresses"]
    if reader["tls.server_name"] is not None:
        options["tls_server_name"] = reader["tls.server_name"]
    policy = reader["tls.policy"]
    if policy is not None:
        options["tls"] = policy
    user = reader["credentials.user"]
    if user is not None and policy is TlsPolicy.NEVER:
        reader.wrong("credentials.user", "credentials are never said without TLS; choose another TLS policy")
    password = _password(reader)
    if user is not None and password is not None:
        try:
            options["credentials"] = mechanisms_for(user, password)
        except LocalProtocolError as error:
            reader.wrong("credentials.user", error.rule)
    context = _context(reader, policy, verify=user is not None or policy in {TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT})
    if context is not None:
        options["tls_context"] = context
    return options


def _password(reader: _Reader) -> str | None:
    """The password, from where it is said to be; it is in no message."""
    sources = [key for key in ("credentials.password_file", "credentials.password_variable") if key in reader.given]
    if "credentials.user" not in reader.given:
        for key in sources:
            reader.wrong(key, "a password needs a user")
        return None
    if len(sources) != 1:
        many = "a password file and a variable exclude each other" if sources else "a user needs a password file"
        reader.wrong(sources[1] if sources else "credentials.user", many)
        return None
    return _PASSWORD_FROM[sources[0]](reader, sources[0])


def _password_of_file(reader: _Reader, key: str) -> str | None:
    path = reader[key]
    try:
        with Path(path).open(encoding="utf-8") as file:
            line = file.readline().rstrip("\r\n")
    except (OSError, ValueError) as error:
        reader.wrong(key, f"{path}: {os_reason(error)}", unreadable=True)
        return None
    if not line:
        reader.wrong(key, f"{path}: the first line is empty", unreadable=True)
    return line or None


def _password_of_variable(reader: _Reader, key: str) -> str | None:
    name = reader[key]
    password = os.environ.get(name)
    if not password:
        reader.wrong(key, f"there is no environment variable {name}, or it is empty", unreadable=True)
    return password


_PASSWORD_FROM: Final = {
    "credentials.password_file": _password_of_file,
    "credentials.password_variable": _password_of_variable,
}


def _context(reader: _Reader, policy: TlsPolicy | None, *, verify: bool) -> ssl.SSLContext | None:
    """A context of one's own, if a file for it was given."""
    ca_file, certificate, key = (reader[f"tls.{name}"] for name in ("ca_file", "certificate_file", "key_file"))
    if ca_file is not None and not verify:
        reader.wrong("tls.ca_file", "certificates are judged with the TLS policies required and implicit only")
        return None
    if key is not None and certificate is None:
        reader.wrong("tls.key_file", "a key needs a certificate_file")
    if certificate is not None and not verify and policy is not TlsPolicy.OPPORTUNISTIC:
        words = "the TLS policy is never" if policy else "a certificate needs a TLS policy"
        reader.wrong("tls.certificate_file", words)
        return None
    if ca_file is None and certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file) if verify else client_context(verify=False)
    except (OSError, ValueError) as error:
        reader.wrong("tls.ca_file", f"{ca_file}: {os_reason(error)}", unreadable=True)
        return None
    if certificate is not None:
        _show_certificate(reader, context, certificate, key)
    return context


def _show_certificate(reader: _Reader, context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    for name, path in (("tls.certificate_file", certificate), ("tls.key_file", key)):
        if path is not None and not os.access(path, os.R_OK):
            reader.wrong(name, f"{path}: {_why_not_readable(path)}", unreadable=True)
            return
    try:
        # Without a password given, an encrypted key would be asked for on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        words = f"{certificate}: this is not a certificate with its key ({os_reason(error)})"
        reader.wrong("tls.certificate_file", words, unreadable=True)


def _why_not_readable(path: str) -> str:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        return os_reason(error)
    return "it cannot be read"


def os_reason(error: Exception) -> str:
    """Why a file could not be used, in the words of the system."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM form").lower().replace("_", " ")
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__


def settings_by_section() -> Iterator[tuple[str, str, tuple[Setting, ...]]]:
    """``(section, what it is about, its settings)``, in the order in which they are shown."""
    for section, about in SECTIONS.items():
        yield section, about, tuple(setting for setting in SETTINGS if setting.section == section)
