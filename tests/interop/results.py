"""The table of what was sent to whom and how it arrived, as Markdown.

What lives here: collecting and writing. What does not: any judgement.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Results:
    """What a run has found; rows stand in the order in which they came."""

    #: Server with version -> (way, DATA or BDAT) -> driver -> what came of it.
    matrix: defaultdict[str, defaultdict[tuple[str, str], dict[str, str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    #: (extension, server with version, what was checked) -> driver -> what came of it.
    extensions: defaultdict[tuple[str, str, str], dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    #: Server -> what it makes of which shape, and why.
    rules: dict[str, dict[str, str]] = field(default_factory=dict)
    #: What was left out, and why.
    left_out: dict[str, str] = field(default_factory=dict)
    #: Server -> what it was seen to do beside the matrix.
    behaviour: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def saw(self, server: str, what: str) -> None:
        """Note what was seen beside the matrix, once."""
        if what not in self.behaviour[server]:
            self.behaviour[server].append(what)

    def checked(self, extension: str, server: str, what: str, driver: str) -> None:
        """Note that ``what`` of an extension is so with a server, by a driver."""
        self.extensions[extension, server, what][driver] = "yes"

    def markdown(self) -> str:
        parts = [
            "# Interoperability",
            f"This page is written by `make interop-page`; this is of Python {sys.version.split()[0]}. Every message "
            "is sent to every server by every driver over one session each way, and what arrived is compared octet by "
            "octet, after the policy for line ends, below the trace fields that the server puts on top. Messages go in "
            "chunks (BDAT) to a server that takes them, but for the ways that say DATA. AUTH is over before the first "
            "message, so the ways with it share the messages among them.",
        ]
        if self.matrix:
            lines: dict[tuple[str, ...], dict[str, str]] = {
                (server, *way): cells for server, ways in self.matrix.items() for way, cells in ways.items()
            }
            parts.append(_by_driver(["server", "way", "by"], lines))
        if self.extensions:
            parts += [
                "## Extensions",
                "What is asked for beside plain mail: what was said, what arrived, and what the server made of it; or, "
                "where it does not offer the extension, that the mail was converted, or refused here with MAIL unsaid.",
                _by_driver(["extension", "server", "what"], dict(sorted(self.extensions.items()))),
            ]
        if self.rules:
            rows = [[server, shape, why] for server, rules in self.rules.items() for shape, why in rules.items()]
            parts += ["## What servers change by their own rules", _table(["server", "message", "what and why"], rows)]
        if self.left_out:
            rows = [[what, why] for what, why in self.left_out.items()]
            parts += ["## What was left out", _table(["what", "why"], rows)]
        if self.behaviour:
            rows = [[server, what] for server, found in self.behaviour.items() for what in found]
            parts += ["## What else was seen", _table(["server", "what our client does with it"], rows)]
        return "\n\n".join(parts) + "\n"

    def write(self, path: Path) -> None:
        """Write the tables, unless nothing was found."""
        if self.matrix or self.behaviour:
            path.parent.mkdir(exist_ok=True)
            path.write_text(self.markdown(), "utf-8")


def _by_driver(head: list[str], lines: Mapping[tuple[str, ...], Mapping[str, str]]) -> str:
    drivers = list(dict.fromkeys(driver for cells in lines.values() for driver in cells))
    rows = [[*line, *(cells.get(driver, "") for driver in drivers)] for line, cells in lines.items()]
    return _table([*head, *drivers], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
