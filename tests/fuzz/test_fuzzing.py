"""Every fuzz target over its seeds and some octets of chance, by the command that contributors run.

What lives here: that the targets run and hold. What does not: looking for more, which is what ``make fuzz`` is for.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


@pytest.mark.parametrize("target", ["client", "replies", "bodies", "messages", "tls"])
def test_a_target_holds_for_its_seeds_and_a_little_more(target: str) -> None:
    seeds = len(list((FUZZ / "corpus" / target).iterdir()))
    command = [sys.executable, "-m", "fuzz.run", target, "--plain", "--executions", str(seeds + 50), "--seed", "1"]
    done = subprocess.run(command, cwd=FUZZ.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{target}: {seeds + 50} executions" in done.stdout
