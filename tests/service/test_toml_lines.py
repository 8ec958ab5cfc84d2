"""The lines of keys in TOML texts, against the standard library's reader.

What lives here: texts made at random in which every value is the number of its own line, so that the reader of values
is the judge of the lines. What does not: settings.
"""

from __future__ import annotations

import random
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from smtpcore.drivers._configuration.toml_lines import KeyPath, lines_of

NAMES = ("a", "b-1", "2", "C_d", "key with blanks", "dot.ted", 'quo"te', "it's", "é\n", "", "#no", "[x]", "=")


class Writer:
    """Writes a random text; every value in it begins with the number of the line that it stands on."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.text = ""
        self.used: set[KeyPath] = set()

    def say(self, *pieces: str) -> None:
        self.text += self.dice.choice(pieces)

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def blank(self) -> None:
        self.say("", " ", "\t", "  ")

    def between(self) -> None:
        self.say("", "", " ", "\n", "\r\n", " # a ] comment }\n", '\n\n# \'"""\n', "\t")

    def key(self, path: KeyPath) -> str:
        part = str(path[-1])
        forms = [self.quoted(part)]
        if part and all(c.isascii() and (c.isalnum() or c in "-_") for c in part):
            forms += [part] * 3
        if "'" not in part and "\n" not in part:
            forms.append(f"'{part}'")
        return self.dice.choice(forms)

    def quoted(self, part: str) -> str:
        escaped = part.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("é", "\\u00e9")
        return f'"{escaped}"'

    def fresh(self, table: KeyPath) -> KeyPath | None:
        """A path in a table that nothing has yet."""
        free = [name for name in NAMES if (*table, name) not in self.used]
        if not free:
            return None
        path = (*table, self.dice.choice(free))
        self.used.add(path)
        return path

    def value(self, depth: int) -> None:
        line = self.line
        kinds = ["scalar"] * 4 + (["array", "table"] if depth else [])
        kind = self.dice.choice(kinds)
        if kind == "scalar":
            self.say(
                str(line),
                f"{line}.5",
                f'"{line} \\" ] # }}"',
                f"'{line} \\'",
                f'"""{line} \n "" \\""" ]\n# no\r\n"""',
                f'"""{line} ""\\\n   """""',
                f"'''{line} '' \n [x]\n a = 1'''",
                f"'''{line} '''''",
            )
        elif kind == "array":
            self.text += "["
            for _ in range(self.dice.randrange(4)):
                self.between()
                self.value(depth - 1)
                self.between()
                self.text += ","
            self.between()
            self.text += "]"
        else:
            self.text += "{"
            names = self.dice.sample(NAMES, self.dice.randrange(3))
            for number, name in enumerate(names):
                self.text += "," * bool(number)
                self.blank()
                self.text += self.key((name,))
                self.blank()
                self.text += "="
                self.blank()
                self.value(depth - 1)
            self.blank()
            self.text += "}"

    def pairs(self, table: KeyPath) -> None:
        for _ in range(self.dice.randrange(4)):
            path = self.fresh(table)
            if path is None:
                return
            self.blank()
            self.text += self.key(path)
            for _ in range(self.dice.choice((0, 0, 1, 2))):
                inner = self.fresh(path)
                assert inner is not None
                path = inner
                self.blank()
                self.text += "."
                self.blank()
                self.text += self.key(path)
            self.blank()
            self.text += "="
            self.blank()
            self.value(2)
            self.say("\n", "\r\n", " # the end\n", "\n\n")

    def headers(self, table: KeyPath, spelled: str, depth: int) -> None:
        for _ in range(self.dice.randrange(3)):
            path = self.fresh(table)
            if path is None:
                return
            for number in range(self.dice.choice((1, 1, 2, 3))):
                name = f"{spelled}.{self.key(path)}" if spelled else self.key(path)
                self.blank()
                many = number > 0 or self.dice.random() < 0.5
                if number == 0:
                    single = not many
                if single and number:
                    break
                self.text += f"[{name}]" if single else f"[[{name}]]"
                self.say("\n", " # [y]\n", "\r\n")
                inside = path if single else (*path, number)
                self.pairs(inside)
                if depth:
                    self.headers(inside, name, depth - 1)


def values(data: Any, path: KeyPath = ()) -> dict[KeyPath, Any]:
    """Everything below the top, containers with the others, by path."""
    found: dict[KeyPath, Any] = {} if path == () else {path: data}
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for part, inner in items:
        found |= values(inner, (*path, part))
    return found


@given(st.randoms(use_true_random=False))
def test_each_value_is_found_on_its_line(dice: random.Random) -> None:
    writer = Writer(dice)
    writer.pairs(())
    writer.headers((), "", 2)
    lines = lines_of(writer.text)
    found = values(tomllib.loads(writer.text))
    assert lines.keys() == found.keys()
    said = {
        path: int(float(str(value).split(maxsplit=1)[0]))
        for path, value in found.items()
        if not isinstance(value, (dict, list))
    }
    assert {path: lines[path] for path in said} == said


def test_containers_stand_where_they_are_first_named() -> None:
    text = "\n[a.b]\nx = [\n 1,\n]\n[a]\ny.z = 1\n[[c]]\n[c.d]\n[[c]]\n\n[c.d]\nk = 2\n"
    assert lines_of(text) == {
        ("a",): 2,
        ("a", "b"): 2,
        ("a", "b", "x"): 3,
        ("a", "b", "x", 0): 4,
        ("a", "y"): 7,
        ("a", "y", "z"): 7,
        ("c",): 8,
        ("c", 0): 8,
        ("c", 0, "d"): 9,
        ("c", 1): 10,
        ("c", 1, "d"): 12,
        ("c", 1, "d", "k"): 13,
    }
