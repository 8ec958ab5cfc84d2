"""What arrived: reading maildirs, and telling a mail from the trace fields that its receiver put on top.

What lives here: looking at mail. What does not: what ought to be there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

_TRACE = re.compile(
    rb"(?:(?:Return-Path|X-Original-To|Delivered-To|Received):[^\n]*\n(?:[ \t][^\n]*\n)*)*", re.IGNORECASE
)
_RETURN_PATH = re.compile(rb"^Return-Path: <([^>\n]*)>", re.IGNORECASE | re.MULTILINE)


def split_trace(mail: bytes) -> tuple[bytes, bytes]:
    """The trace fields that a receiving host puts on top (RFC 5321 §4.4), and the mail below them."""
    trace = _TRACE.match(mail)
    assert trace is not None
    return trace[0], mail[trace.end() :]


class Maildirs:
    """All mails in the maildirs below ``folder``, by reverse-path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[Path] = set()
        self._mails: defaultdict[str, list[tuple[bytes, bytes]]] = defaultdict(list)

    def mails(self, sender: str) -> list[tuple[bytes, bytes]]:
        """Trace fields and the rest of each mail from ``sender`` that has arrived so far."""
        # A file stands in `new` once it is whole, and is not touched again.
        for path in set(self._folder.glob("*/new/*")) - self._seen:
            self._seen.add(path)
            trace, mail = split_trace(path.read_bytes())
            return_path = _RETURN_PATH.search(trace)
            # OpenSMTPD puts none on top of its own reports.
            self._mails[return_path[1].decode() if return_path is not None else ""].append((trace, mail))
        return self._mails[sender]
