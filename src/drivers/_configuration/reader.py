"""Reading settings out of TOML and flags, with everything that is wrong with them and where.

What lives here: where values come from, problems, one reader of one table of settings. What does not: which settings
there are, and what is made of them.

Nothing stops at the first problem: all are collected, each with the file and line that it is about, or with the flag.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from smtpcore import LocalProtocolError, SmtpError
from smtpcore.drivers._configuration.kinds import BadElement, is_list, is_table
from smtpcore.drivers._configuration.settings import Setting
from smtpcore.drivers._configuration.toml_lines import KeyPath, lines_of

__all__ = ["ConfigurationError", "Document", "Given", "Origin", "Problem", "Reader", "read_file"]

_Built = TypeVar("_Built")

#: What ``tomllib`` says in words that help few, whether a letter stands there, and what it means then.
_HINTS: Final = {
    ("Invalid value", True): "text stands in quotes",
    ("Cannot overwrite a value", False): "it is given twice",
}


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


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it stands; ``elements`` says so of each element of a list."""

    value: Any
    origin: Origin
    elements: tuple[Origin, ...] = ()


class Reader:
    """The settings of one table as they were given, with everything that is wrong with them.

    ``problems`` is a list to share with another reader.
    """

    def __init__(self, settings: Iterable[Setting], problems: list[Problem] | None = None) -> None:
        self.settings = {setting.key: setting for setting in settings}
        self.given: dict[str, Given] = {}
        self.problems: list[Problem] = [] if problems is None else problems
        #: Settings that were given something that they cannot be.
        self.refused: set[str] = set()
        #: What a setting that is missing is blamed on.
        self.origin = Origin("the command line")

    def __getitem__(self, key: str) -> Any:
        given = self.given.get(key)
        return self.settings[key].default if given is None else given.value

    def has(self, key: str) -> bool:
        """Whether something was given for ``key``, be it good or bad."""
        return key in self.given or key in self.refused

    def take(self, key: str, value: object, origin: Origin, elements: Sequence[Origin] = ()) -> None:
        """Read one value; ``elements`` says where the elements of a list stand."""
        try:
            self.given[key] = Given(self.settings[key].kind.read(value), origin, tuple(elements))
        except ValueError as error:
            self.refused.add(key)
            where = elements[error.number] if elements and isinstance(error, BadElement) else origin
            named = f"{key}: " if origin.in_file else ""
            self.problems.append(Problem(where, f"{named}{error}"))

    def take_flags(self, flags: Mapping[str, tuple[str, object]]) -> None:
        for key, (name, value) in flags.items():
            if value is not None:
                self.take(key, value, Origin(name))

    def where(self, key: str, element: int | None = None) -> Origin:
        """Where a value stands, or an element of it; what was not given is looked for in the whole."""
        given = self.given.get(key)
        if given is None:
            return self.origin
        return given.origin if element is None or not given.elements else given.elements[element]

    def wrong(self, key: str, words: str, *, element: int | None = None, unreadable: bool = False) -> None:
        """Note a problem with what was given for ``key``."""
        origin = self.where(key, element)
        named = f"{key}: " if key not in self.given or origin.in_file else ""
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


def read_file(path: Path, reader: Reader, rows: str, row_settings: Sequence[Setting]) -> list[Reader]:
    """Take everything out of a file, and return a reader for each table of the array ``rows``.

    Raises ``OSError``, and :class:`ConfigurationError` for what is not TOML.
    """
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
    lines = lines_of(text)
    readers = list(_read_rows(name, lines, reader, rows, row_settings, data.pop(rows, [])))
    Document(name, lines, reader).table((), data)
    return readers


def _read_rows(
    name: str, lines: Mapping[KeyPath, int], reader: Reader, rows: str, settings: Sequence[Setting], data: object
) -> Iterator[Reader]:
    if not is_list(data):
        origin = Origin(name, lines.get((rows,)), in_file=True)
        reader.problems.append(Problem(origin, f"{rows} is written [[{rows}]], once for each"))
        return
    for number, row in enumerate(data):
        document = Document(name, lines, Reader(settings, reader.problems), (rows, number))
        document.reader.origin = document.origin(())
        if is_table(row):
            document.table((), row)
            yield document.reader
        else:
            document.note((), f"{rows} is a list of tables")


def _syntax(name: str, text: str, words: str) -> Problem:
    """What ``tomllib`` said, with the line out of its words."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", words, re.DOTALL)
    reason, line, column = found.groups() if found else (words, None, None)
    number = int(line) if line else text.count("\n") + 1
    letter = column is not None and text.split("\n")[number - 1][int(column) - 1 : int(column)].isalpha()
    hint = _HINTS.get((reason, letter))
    return Problem(Origin(name, number, in_file=True), f"not TOML: {reason}{f' ({hint})' if hint else ''}")


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read: hands what is in it below ``base`` to a reader, setting by setting."""

    name: str
    lines: Mapping[KeyPath, int]
    reader: Reader
    base: KeyPath = ()

    def origin(self, path: KeyPath) -> Origin:
        return Origin(self.name, self.lines.get((*self.base, *path)), in_file=True)

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
                self.note(inner, f"{'.'.join(inner)} is a section, not a setting")

    def _unknown(self, path: tuple[str, ...], known: Collection[tuple[str, ...]]) -> None:
        """A key that nothing has: perhaps another was meant, of this table or of another."""
        name, table = path[-1], path[:-1]
        beside = {other[len(table)] for other in known if other[: len(table)] == table}
        alike = [".".join((*table, close)) for close in difflib.get_close_matches(name, beside, 1)]
        meant = alike or sorted(full for other in known if f".{(full := '.'.join(other))}".endswith(f".{name}"))
        where = ", before all sections" if (name,) in known else ""
        self.note(path, f"there is no {'.'.join(path)}" + (f"; did you mean {meant[0]}{where}?" if meant else ""))

    def note(self, path: KeyPath, words: str) -> None:
        self.reader.problems.append(Problem(self.origin(path), words))
