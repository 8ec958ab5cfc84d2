"""The page that shows what real servers made of our mail: it is of these servers, these ways and these extensions.

What lives here: that the page was written again when the matrix grew. What does not: what it says of each, which the
run itself has found.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .peers import OFFERS, SERVERS, Way

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
#: What every server was asked for, whether it offers it or not.
ASKED_OF_ALL = {"SMTPUTF8", "DSN", "BINARYMIME", "REQUIRETLS", "DELIVERBY", "FUTURERELEASE", "LIMITS"}
ASKED_OF_SOME = {
    "Postfix": {"AUTH", "8BITMIME", "XCLIENT", "XFORWARD", "command()"},
    "Exim": {"AUTH", "8BITMIME"},
    "aiosmtpd": {"8BITMIME"},
    "smtp-sink": {"8BITMIME"},
    "Dovecot (LMTP)": {"LMTP", "XCLIENT"},
    "Dovecot (submission)": {"AUTH", "submission"},
}


def rows(cells: int) -> list[list[str]]:
    """The rows of tables with so many cells."""
    lines = PAGE.read_text("utf-8").splitlines()
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    return [row for row in found if len(row) == cells and all(row)]


@pytest.mark.parametrize("server", SERVERS)
def test_the_page_has_every_way_to_every_server(server: str) -> None:
    found = {row[1] for row in rows(6) if row[0].startswith(f"{server} ")}
    left_out = {row[0].removeprefix(f"{server}: ") for row in rows(2) if row[0].startswith(f"{server}: ")}
    assert found | left_out >= {way.words for way in Way}, "run: make interop-page"


@pytest.mark.parametrize("server", SERVERS)
def test_the_page_has_messages_in_chunks_and_by_data(server: str) -> None:
    found = {row[2] for row in rows(6) if row[0].startswith(f"{server} ")}
    assert found == ({"BDAT", "DATA"} if "CHUNKING" in OFFERS[server] else {"DATA"}), "run: make interop-page"


@pytest.mark.parametrize("server", [*SERVERS, "Dovecot (submission)"])
def test_the_page_has_every_extension_with_every_server(server: str) -> None:
    found = {row[0] for row in rows(6) if row[1].startswith(f"{server} ")}
    asked = ASKED_OF_ALL if server in SERVERS else set[str]()
    assert found >= asked | ASKED_OF_SOME.get(server, set()), "run: make interop-page"


@pytest.mark.parametrize("server", SERVERS)
def test_the_page_has_what_else_was_seen_of_every_server(server: str) -> None:
    """A page of a part of the run would lack it."""
    assert any(row[0] == server and row[1].startswith("offers ") for row in rows(2)), "run: make interop-page"
