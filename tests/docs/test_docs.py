"""The pages of the docs: built without a warning, no public name left out, drawings as the tables are.

What lives here: what Sphinx makes of ``docs``. What does not: the examples, which are run beside the README's.
"""

from __future__ import annotations

import importlib
import pkgutil
import runpy
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import smtpcore
from smtpcore import LEADS, LEGAL, State, Verb

DOCS = Path(__file__).parents[2] / "docs"


def public_names() -> set[str]:
    found = ["smtpcore", *(module.name for module in pkgutil.walk_packages(smtpcore.__path__, "smtpcore."))]
    public = [importlib.import_module(name) for name in found if "._" not in name]
    return {f"{module.__name__}.{name}" for module in public for name in getattr(module, "__all__", ())}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; ``docs`` itself is not written to."""
    folder = tmp_path_factory.mktemp("pages")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--quiet",
        "--builder",
        "html",
        str(DOCS),
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_public_name_has_its_place_in_the_reference(pages: Path) -> None:
    names = public_names()
    assert {"smtpcore.Client", "smtpcore.sasl.Plain", "smtpcore.drivers.trio.connect"} <= names
    # Four lines of plain text, then one line for each name (Sphinx's inventory, version 2).
    inventory = zlib.decompress((pages / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    assert sorted(names - {line.split(" ")[0] for line in inventory.splitlines()}) == []


def drawn() -> dict[str, str]:
    pictures: dict[str, str] = runpy.run_path(str(DOCS / "machine" / "draw.py"))["drawn"]()
    return pictures


def test_the_drawings_are_fresh() -> None:
    for name, content in drawn().items():
        assert (DOCS / "machine" / name).read_text(encoding="utf-8") == content, "run: python docs/machine/draw.py"


def test_the_drawings_show_the_tables() -> None:
    found = drawn()
    rows = found["tables.txt"].splitlines()
    for state in State:
        assert f">{state.name}</tspan>" in found["states.svg"]
        (row,) = (row for row in rows if row.startswith(f"| `{state.name}` |"))
        commands = {command.strip() for command in row.strip("| ").split("|")[1].split(",")}
        assert commands == ({verb.value for verb in LEGAL[state]} or {"nothing"})
    for verb in Verb:
        answers = [row for row in rows if row.startswith(f"| {verb.value} |") and row.count("|") == 4]
        assert len(answers) == len(LEADS[verb])


def test_the_list_of_defects_of_earlier_libraries_is_fresh_and_whole() -> None:
    module = runpy.run_path(str(DOCS / "predecessors.py"))
    written = (DOCS / "predecessors.md").read_text(encoding="utf-8")
    assert written == module["listed"](), "run: python docs/predecessors.py"
    # So many kinds were found in each.
    for library, kinds in {"t": 25, "r": 24, "p": 14, "a": 9, "s": 10}.items():
        numbers = {number for code, number, *_ in module["found"]() if code == library}
        assert numbers == set(range(1, kinds + 1)), library
