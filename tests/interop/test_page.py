"""The page that shows what real servers made of our mail: it is of these servers and of these ways.

What lives here: that the page was written again when the matrix grew. What does not: what it says of each, which the
run itself has found.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .peers import SERVERS, Way

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interop.md"


@pytest.mark.parametrize("server", SERVERS)
def test_the_page_has_every_way_to_every_server(server: str) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text("utf-8").splitlines()]
    found = {row[1] for row in rows if len(row) == 5 and row[0].startswith(f"{server} ") and all(row[2:])}
    left_out = {row[0].removeprefix(f"{server}: ") for row in rows if len(row) == 2 and row[0].startswith(server)}
    assert found | left_out >= {way.words for way in Way}, "run: make interop-page"
