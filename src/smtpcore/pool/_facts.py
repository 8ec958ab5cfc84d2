"""What crosses the border of a pool: facts that come in, orders that go out.

What lives here: frozen values. What does not: any decision. Times are seconds on a clock that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from smtpcore._errors import SmtpError
from smtpcore._events import Envelope, Report

__all__ = [
    "Answer",
    "CloseSession",
    "DropSession",
    "Fact",
    "GiveMail",
    "MailAsked",
    "MailWithdrawn",
    "OpenSession",
    "Order",
    "PoolStatus",
    "Reported",
    "SessionEnded",
    "SessionOpened",
    "ShutDown",
    "TimePassed",
]


# --- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MailAsked:
    """A mail is to be sent. ``mail_id`` is new; ``repeatable`` says whether its body can be read for each attempt."""

    mail_id: int
    envelope: Envelope
    repeatable: bool


@dataclass(frozen=True, slots=True)
class MailWithdrawn:
    """Nobody waits for the answer to a mail any more; a session that has it in hand is dropped."""

    mail_id: int


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session that was ordered is ready for mail."""

    session_id: int


@dataclass(frozen=True, slots=True)
class Reported:
    """A client's report of one attempt, unchanged."""

    session_id: int
    mail_id: int
    report: Report


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is gone, or could not be opened. Mails in its hand that were not reported were not begun either.

    In one batch with the reports of the mails that were its last, so that it is given no other.
    """

    session_id: int
    error: SmtpError | None


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but time."""


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Begin no more attempts, answer what waits, and close all sessions once the mails in their hands are answered."""


Fact: TypeAlias = MailAsked | MailWithdrawn | SessionOpened | Reported | SessionEnded | TimePassed | ShutDown


# --- orders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Connect, and say :class:`SessionOpened` or :class:`SessionEnded`.

    ``ahead`` says that the session may be given further mails before it has reported the first.
    """

    session_id: int
    ahead: bool


@dataclass(frozen=True, slots=True)
class GiveMail:
    """Send a mail over an open session, after those that it has in hand.

    ``envelope`` names the recipients who have no final verdict.
    """

    session_id: int
    mail_id: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End a free session with QUIT."""

    session_id: int


@dataclass(frozen=True, slots=True)
class DropSession:
    """Close a session's connection at once, whatever it is doing; what it had begun is reported as it then stands."""

    session_id: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a mail: its only answer, with one outcome for each recipient of its envelope."""

    mail_id: int
    report: Report


Order: TypeAlias = OpenSession | GiveMail | CloseSession | DropSession | Answer


# --- what can be seen -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """What a pool is doing at one moment."""

    #: Sessions that are being opened, that have a mail in hand, that are free, and that are being closed.
    opening: int
    at_work: int
    parked: int
    closing: int
    #: Mails that wait for a session or for their next attempt.
    waiting: int
    #: Until when no session is opened, for the host has failed; ``None`` while it is in service.
    resting_until: float | None
