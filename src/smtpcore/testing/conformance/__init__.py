"""The suite that a driver passes: named cases, each a peer that does something and the story that must come of it.

What lives here: the door. The rooms behind it hold what the suite asks of a driver (:class:`Adapter`), the stage on
which cases are played, against a scripted peer on a real socket of this machine, and the cases (:data:`CASES`). What
does not: anything peculiar to one driver, its ways of naming hosts or reading messages among them.

With pytest, and likewise with any other runner::

    ADAPTER = Adapter(connect)


    @pytest.mark.parametrize("case", cases_for(ADAPTER), ids=str)
    def test_conformance(case):
        case(ADAPTER)

A story is a list of lines that the caller's side writes down while it plays: reports, errors, how the session ended.
The words of errors are part of it where they are the core's; what a broken connection or a TLS library says is not.
A driver that waits where it should not is left by its peer after some seconds, and so fails instead of hanging.
"""

from __future__ import annotations

from typing import Final

from smtpcore.testing.conformance import (
    _bodies,
    _cancellation,
    _chunks,
    _conversion,
    _lmtp,
    _mails,
    _openings,
    _replies,
    _sessions,
    _tls,
)
from smtpcore.testing.conformance._adapter import Adapter, Need, Nonconformant, Session, run_blocking
from smtpcore.testing.conformance._stage import Case, Stage

__all__ = ["CASES", "Adapter", "Case", "Need", "Nonconformant", "Session", "Stage", "cases_for", "run_blocking"]

#: Every case.
CASES: Final = (
    *_mails.CASES,
    *_replies.CASES,
    *_bodies.CASES,
    *_chunks.CASES,
    *_cancellation.CASES,
    *_tls.CASES,
    *_openings.CASES,
    *_lmtp.CASES,
    *_conversion.CASES,
    *_sessions.CASES,
)


def cases_for(adapter: Adapter) -> list[Case]:
    """The cases for what the driver can do."""
    return [case for case in CASES if all(adapter.has(need) for need in case.needs)]
