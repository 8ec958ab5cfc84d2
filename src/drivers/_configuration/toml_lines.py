"""On which line of a TOML text each key and each element stands, which the standard library's reader does not tell.

What lives here: one scan of a text that ``tomllib`` has accepted. What does not: the values, and any check.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

__all__ = ["KeyPath", "lines_of"]

#: From the top of the document: names of keys, and indices into arrays.
KeyPath = tuple[str | int, ...]

#: What may stand between two things: blanks, line ends, comments.
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
#: One key, dotted or not: bare parts, "basic" ones, 'literal' ones.
_KEY = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]|[ \t]*\.[ \t]*)+""")
#: A long string may end in up to two quotes of its own before the three that close it.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?""""{0,2}' r"|'''.*?''''{0,2}" r'|"(?:[^"\\]|\\.)*"' r"|'[^']*'",
    re.DOTALL,
)
#: Numbers, dates and booleans: everything up to what may follow a value.
_PLAIN = re.compile(r"[^,\]}#\n]*")


def lines_of(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of each key and each array element of ``text``, by its path.

    A table that is named by several headers or keys has the line of the first.
    """
    return _Scan(text).lines


class _Scan:
    """One pass over a text; ``_at`` is the offset of what comes next."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        #: How many tables each array of tables has so far.
        self._tables: dict[KeyPath, int] = {}
        table: KeyPath = ()
        while self._next() != "":
            if self._next() == "[":
                table = self._header()
            else:
                self._pair(table)

    # --- moving on --------------------------------------------------------------------------------------------------

    def _next(self) -> str:
        """The character that comes next, behind blanks and comments; empty at the end."""
        self._pass(_BETWEEN)
        return self._text[self._at : self._at + 1]

    def _pass(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return found[0]

    def _note(self, path: KeyPath) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], self._line)

    # --- what there is ----------------------------------------------------------------------------------------------

    def _header(self) -> KeyPath:
        """``[table]`` or ``[[array of tables]]``: the path of what follows it."""
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        self._next()
        *outer, last = self._key()
        path: KeyPath = ()
        for part in outer:
            path = self._current((*path, part))
        path = (*path, last)
        if brackets == 2:
            self._tables[path] = self._tables.get(path, 0) + 1
        path = self._current(path)
        self._note(path)
        self._next()
        self._at += brackets
        return path

    def _current(self, path: KeyPath) -> KeyPath:
        """Of an array of tables the one that was opened last, which is what headers mean by its name."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        # Quotes and escapes are the reader's affair.
        table: Any = tomllib.loads(f"{self._pass(_KEY)} = 0")
        while table:
            ((part, table),) = table.items()
            parts.append(part)
        return tuple(parts)

    def _pair(self, table: KeyPath) -> None:
        path = (*table, *self._key())
        self._note(path)
        self._next()
        self._at += len("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self._next()
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._pass(_STRING if first in {'"', "'"} else _PLAIN)

    def _array(self, path: KeyPath) -> None:
        self._at += len("[")
        number = 0
        while self._next() not in {"]", ""}:
            self._note((*path, number))
            self._value((*path, number))
            number += 1
            if self._next() == ",":
                self._at += len(",")
        self._at += len("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += len("{")
        while self._next() not in {"}", ""}:
            self._pair(path)
            if self._next() == ",":
                self._at += len(",")
        self._at += len("}")
