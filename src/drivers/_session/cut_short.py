"""What became of the mails that a session had on their way when it was given up.

What lives here: matching the answers that a session kept with the mails that it had begun. What does not: giving a
session up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from smtpcore import Envelope, Mail, MailRefused, Outcome, Report, SessionAborted, Stage, Transcript, Verdict

__all__ = ["CutShort", "answers_of", "in_doubt"]


class CutShort(Protocol):
    """What a session that was given up can say of the mails that were on their way."""

    last_report: Report | None
    broken_off: tuple[Report, ...]


def answers_of(session: CutShort | None, begun: Sequence[Envelope], before: Report | None) -> Sequence[Report]:
    """The answers to the mails that a session had begun when it was given up; none if they were not begun either.

    ``before`` is what its last report was before it began them.
    """
    if session is None or not begun:
        return ()
    if len(session.broken_off) == len(begun):
        return session.broken_off
    last = session.last_report
    if len(begun) == 1 and last is not None and last is not before:
        return (last,)
    # Some were lost on their way here, and nobody can say which.
    words = "the session was dropped while the mail was on its way"
    return tuple(in_doubt(envelope, words) for envelope in begun) if session.broken_off else ()


def in_doubt(envelope: Envelope, words: str) -> Report:
    """The report of a mail of which nobody can say whether it arrived."""
    error = SessionAborted(words)
    outcomes = tuple(Outcome(recipient, Verdict.LATER, None, error, True) for recipient in envelope.recipients)
    return MailRefused(Mail(envelope), outcomes, Stage.STARTED, Transcript())
