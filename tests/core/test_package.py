"""The package as a whole: what it needs, what it loads, and which names it shows.

What lives here: purity and the public names. What does not: which floor may import which, which import-linter checks.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

import smtpcore


def test_all_names_are_there() -> None:
    assert len(set(smtpcore.__all__)) == len(smtpcore.__all__)
    assert all(hasattr(smtpcore, name) for name in smtpcore.__all__)


PROBE = """
import sys
sys.path.insert(0, {root!r})
before = set(sys.modules)
import {module}
impure = {{"socket", "ssl", "select", "random", "logging", "threading", "asyncio", "email", "sqlite3", "anyio"}}
print(sorted(impure & (set(sys.modules) - before)))
"""


@pytest.mark.parametrize("module", ["smtpcore", "smtpcore.relay", "smtpcore.sasl"])
def test_the_core_is_pure(module: str) -> None:
    # Isolated, and without the site's packages: nothing else can have been imported before, and nothing else be found.
    root = str(pathlib.Path(smtpcore.__file__).parents[1])
    probe = PROBE.format(module=module, root=root)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_depends_on_nothing() -> None:
    requires = importlib.metadata.requires("smtpcore") or []
    assert all("extra ==" in requirement for requirement in requires)
