"""The tool for mutation tests: its mutants, and that it tells those that live from those that do not.

What lives here: a small module, and one mutant of the package. What does not: mutation tests (``make mutate``).
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

MUTATION = Path(__file__).parents[2] / "mutation"
MODULE = '''
class Colour(Enum):
    RED = 1
    GREEN = 2

LIMIT = 3

class Light:
    def next(self, colour: Colour = Colour.RED) -> Colour:
        """Words."""
        if colour is Colour.RED and not self.broken:
            self.log(b"x")
            return Colour.GREEN
        assert self.off == 1, f"{colour} is {1}"
        return self.off + LIMIT
'''
DEFINITION = "def next(self, colour: Colour = Colour.RED) -> Colour:"
CONDITION = "if colour is Colour.RED and not self.broken:"
CHANGES = {
    ("RED = 1", "1", "2"),
    ("GREEN = 2", "2", "3"),
    ("LIMIT = 3", "3", "4"),
    (DEFINITION, "Colour.RED", "Colour.GREEN"),
    (CONDITION, "Colour.RED", "Colour.GREEN"),
    (CONDITION, "colour is Colour.RED and (not self.broken)", "False"),
    (CONDITION, "colour is Colour.RED and (not self.broken)", "True"),
    (CONDITION, "colour is Colour.RED and (not self.broken)", "colour is Colour.RED or not self.broken"),
    (CONDITION, "colour is Colour.RED and (not self.broken)", "colour is Colour.RED"),
    (CONDITION, "colour is Colour.RED and (not self.broken)", "not self.broken"),
    (CONDITION, "colour is Colour.RED", "colour is not Colour.RED"),
    (CONDITION, "not self.broken", "self.broken"),
    ('self.log(b"x")', "self.log(b'x')", "pass"),
    ('self.log(b"x")', "b'x'", "b'xX'"),
    ("return Colour.GREEN", "return Colour.GREEN", "return None"),
    ("return Colour.GREEN", "Colour.GREEN", "Colour.RED"),
    ("return self.off + LIMIT", "return self.off + LIMIT", "return None"),
    ("return self.off + LIMIT", "self.off + LIMIT", "self.off - LIMIT"),
}


def test_the_mutants_of_a_module() -> None:
    mutants = runpy.run_path(str(MUTATION / "mutants.py"))["mutants_of"](MODULE, {"Colour": ["RED", "GREEN"]})
    assert sorted(mutant.change for mutant in mutants) == sorted(CHANGES)
    assert {mutant.change for mutant in mutants if mutant.function is None} == {
        ("RED = 1", "1", "2"),
        ("GREEN = 2", "2", "3"),
        ("LIMIT = 3", "3", "4"),
        (DEFINITION, "Colour.RED", "Colour.GREEN"),
    }
    assert {mutant.function for mutant in mutants} == {None, "Light.next"}


def test_what_is_explained_is_a_mutant_of_the_package() -> None:
    sources = MUTATION.parent / "src" / "smtpcore"
    mutants = runpy.run_path(str(MUTATION / "mutants.py"))
    enumerated = mutants["enumerations"](sources)
    found = {
        mutant.change for path in sources.glob("*.py") for mutant in mutants["mutants_of"](path.read_text(), enumerated)
    }
    entries = tomllib.loads((MUTATION / "explained.toml").read_text())["mutant"]
    assert [entry for entry in entries if (entry["line"], entry["before"], entry["after"]) not in found] == []


def test_each_mutant_is_the_module_with_one_change() -> None:
    mutants = runpy.run_path(str(MUTATION / "mutants.py"))["mutants_of"]("A = 1\nB = 2\n", {})
    found: list[tuple[int, int]] = []
    for mutant in mutants:
        names: dict[str, int] = {}
        exec(mutant.compiled(Path("x")), names)
        found.append((names["A"], names["B"]))
    assert found == [(2, 2), (1, 3)]


@pytest.mark.parametrize(
    ("module", "number", "test", "fate"),
    [
        # Within a function; of a default, which is there before any test; and by a test that does not concern it.
        ("_buffer", 8, "test_buffer.py", "killed"),
        ("_body", 1, "test_body.py", "killed"),
        ("_buffer", 8, "test_grammar.py", "survived"),
    ],
)
def test_what_becomes_of_a_mutant(module: str, number: int, test: str, fate: str) -> None:
    assert tried(module, number, test) == fate


def test_a_function_that_runs_at_the_import_only_is_changed_before() -> None:
    """Tests enter the functions that it made, and they stay as they are if it is changed later."""
    text = (MUTATION.parent / "src" / "smtpcore" / "_planner.py").read_text()
    mutants = runpy.run_path(str(MUTATION / "mutants.py"))["mutants_of"](text, {})
    (number,) = [each.number for each in mutants if (each.function, each.after) == ("_option", "return None")]
    assert tried("_planner", number, "test_planner.py") == "killed"


def tried(module: str, number: int, test: str) -> str:
    """What becomes of this mutant when the tests of this file are run."""
    test_path = str(MUTATION.parent / "tests" / "core" / test)
    command = [sys.executable, "-m", "mutation.run", module, "--only", str(number), "--tests", test_path]
    done = subprocess.run(command, cwd=MUTATION.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    heading, counts = (line.split() for line in done.stdout.splitlines()[-2:])
    count = dict(zip(heading[2:], map(int, counts[2:]), strict=True))
    (fate,) = [fate for fate in ("killed", "explained", "survived") if count[fate]]
    assert count == {"tried": 1, "killed": 0, "explained": 0, "survived": 0} | {fate: 1}
    return fate


def test_which_mutants_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MUTATION.parent))
    tool = runpy.run_path(str(MUTATION / "run.py"))
    monkeypatch.setitem(tool["choice"].__globals__, "RESULTS", tmp_path)
    mutants = tool["mutants_of"]("A = 1\nB = 2\nC = 3\nD = 4\n", {})

    def chosen(*, only: list[int] | None = None, **options: Any) -> list[str]:
        usual = {"again": False, "untried": False, "sample": None, "seed": 1, "only": only}
        return [mutant.source for mutant in tool["choice"](mutants, "_letters", Namespace(**usual | options))]

    everything = ["A = 1", "B = 2", "C = 3", "D = 4"]
    assert chosen() == chosen(untried=True) == chosen(sample=4) == everything
    assert chosen(only=[2]) == ["C = 3"]
    for mutant, fate in zip(mutants, tool["Fate"], strict=False):
        tool["note"]("_letters", mutant, fate, None)
    assert [chosen(again=True), chosen(untried=True)] == [["B = 2", "C = 3"], ["D = 4"]]
    assert len(chosen(again=True, sample=1)) == 1
    draws = {tuple(chosen(sample=2, seed=seed)) for seed in range(20)}
    assert len(draws) > 1
    assert all(sorted({*draw}) == list(draw) for draw in draws)
