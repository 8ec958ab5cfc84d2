"""Lists the defects of earlier libraries and the tests that would find them here: ``python docs/predecessors.py``.

What lives here: how the list is made from the names of the tests, ``test_t5_s1_cause_of_the_defect``. What does not:
the tests.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "predecessors.md"

LIBRARIES = {
    "t": "Twisted: `twisted.mail.smtp`",
    "r": "Twisted: `relaymanager`, `relay`, `bounce`",
    "p": "smtpproto",
    "a": "aiosmtplib",
    "s": "smtplib",
    "f": "slimta, lettre, mail-send, go-smtp, KumoMTA",
}
INTRODUCTION = """\
# What went wrong before

Other libraries for SMTP were run and read before this one was written. Each kind of defect that was found in one of
them has a test here that is named after its cause and fails where that is done again. The list says what was *wrong
there*, at the time; some of it has been mended since. It is made from the names of the tests by
`docs/predecessors.py`, and a test compares it.
"""
#: Words that are written in capitals.
CAPITALS = re.compile(
    r"\b(crlf|cr|lf|rset|rcpt|ehlo|auth|tls|starttls|lmtp|ascii|mx|8bitmime|xoauth2)\b", re.IGNORECASE
)
TEST = re.compile(r"^(?:async )?def (test_((?:[trpas]\d+_|f_)+)(\w+))\(", re.MULTILINE)


def found() -> list[tuple[str, int, str, str, str]]:
    """Of each defect its library, its number there, its cause, and the file and name of its test; in that order."""
    defects: list[tuple[str, int, str, str, str]] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, codes, cause in TEST.findall(path.read_text(encoding="utf-8")):
            for code in codes.split("_")[:-1]:
                words = CAPITALS.sub(lambda word: word[0].upper(), cause.replace("_", " ").capitalize())
                defects.append((code[0], int(code[1:] or 0), words, str(path.relative_to(ROOT)), name))
    return sorted(defects)


def listed() -> str:
    """The page."""
    lines = [INTRODUCTION]
    for library, title in LIBRARIES.items():
        lines += [f"## {title}", "", "| | what was wrong | test |", "|---|---|---|"]
        for code, number, cause, path, name in found():
            if code == library:
                lines.append(f"| {number or ''} | {cause} | `{path}::{name}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(listed(), encoding="utf-8")
