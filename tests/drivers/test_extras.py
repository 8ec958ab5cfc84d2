"""What is told to programs that import a driver without the libraries it needs.

What lives here: the words of the error. What does not: the command line, which has its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("trio", "trio", "trio"),
        ("pool", "anyio", "pool"),
        ("service", "anyio", "relay"),
        ("resolver", "dns", "relay"),
    ],
)
def test_the_error_names_the_extra(module: str, missing: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"try:\n    import smtpcore.drivers.{module}\n"
        "except ModuleNotFoundError as error:\n    print(error.name, error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(missing)
    assert f"needs the extra smtpcore[{extra}]" in ran.stdout
