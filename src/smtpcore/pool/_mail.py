"""One mail in a pool: what its attempts have brought so far, and whether there may be another.

What lives here: how reports are put together. What does not: when a mail is tried, and over which session.
"""

from __future__ import annotations

from dataclasses import replace

from smtpcore._errors import BodyError, BodyNotRepeatable, LimitReached, SmtpError
from smtpcore._events import (
    Envelope,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    Reply,
    Report,
    Stage,
    Transcript,
    Verdict,
)
from smtpcore.pool._settings import Retries

__all__ = ["PooledMail"]


class PooledMail:
    """A mail that has no answer yet."""

    __slots__ = (
        "_everyone",
        "_outcomes",
        "_pending",
        "_repeatable",
        "_reply",
        "_stage",
        "_transcript",
        "_turn",
        "attempts",
        "cut_short",
        "envelope",
        "mail_id",
        "session_id",
    )

    def __init__(self, mail_id: int, envelope: Envelope, repeatable: bool) -> None:
        self.mail_id = mail_id
        self.envelope = envelope
        self._repeatable = repeatable
        #: Attempts that have failed or succeeded. Where the peer takes no more than some recipients in a session, all
        #: are named in turn before anybody is tried anew: that is one attempt.
        self.attempts = 0
        #: Whether the next session is to go on with the same attempt at once.
        self.cut_short = False
        #: The session that has the mail in hand.
        self.session_id: int | None = None
        self._outcomes: list[Outcome | None] = [None] * len(envelope.recipients)
        #: Indexes of the recipients whom the next attempt is for.
        self._pending = self._everyone = list(range(len(envelope.recipients)))
        #: Those of them whom this attempt has not named yet.
        self._turn = set(self._pending)
        self._reply: Reply | None = None
        self._stage = Stage.NOT_STARTED
        self._transcript = Transcript()

    @property
    def next_envelope(self) -> Envelope:
        """The envelope of the next attempt."""
        if self._pending is self._everyone:
            return self.envelope
        recipients = tuple(self.envelope.recipients[index] for index in self._pending)
        asked = {to: wish for to, wish in self.envelope.recipient_options.items() if to in recipients}
        return replace(self.envelope, recipients=recipients, recipient_options=asked)

    def fail(self, error: SmtpError) -> None:
        """Note an attempt that did not reach MAIL."""
        reply = getattr(error, "reply", None)
        self.attempts += 1
        for index in self._pending:
            self._note(index, Outcome(self.envelope.recipients[index], Verdict.LATER, reply, error))
        self._transcript = getattr(error, "transcript", None) or self._transcript

    def report(self, report: Report) -> None:
        """Note what an attempt came to."""
        left_out = {i for i, o in zip(self._pending, report.outcomes, strict=True) if isinstance(o.error, LimitReached)}
        # Whose turn is to come is named first the next time, and who was named now is named last.
        order = sorted(self._pending, key=lambda index: (index not in left_out, index not in self._turn))
        self._turn &= left_out
        self.cut_short = bool(self._turn) and any(outcome.error is None for outcome in report.outcomes)
        if not self.cut_short:
            self.attempts += 1
        self._stage = max(self._stage, report.stage)
        self._transcript = report.transcript
        if isinstance(report, MailSent):
            self._reply = report.reply
        for index, outcome in zip(self._pending, report.outcomes, strict=True):
            if index not in left_out or self._outcomes[index] is None:
                self._note(index, outcome)
        if left_out:
            self._pending = order

    def _note(self, index: int, outcome: Outcome) -> None:
        before = self._outcomes[index]
        if before is not None and before.in_doubt and outcome.verdict is Verdict.LATER:
            # A later attempt that failed does not take back a copy that may have arrived.
            outcome = replace(outcome, in_doubt=True)
        self._outcomes[index] = outcome

    def retry(self, retries: Retries) -> bool:
        """Prepare a further attempt, for those who have no final verdict; false if there may be none."""
        if self.attempts > retries.most:
            return False
        outcomes = [(index, self._outcomes[index]) for index in self._pending]
        again = [index for index, outcome in outcomes if outcome is not None and _worth_retrying(outcome, retries)]
        if again and self._stage >= Stage.BODY_BEGUN and not self._repeatable:
            for index in again:
                self._refuse_retry(index)
            return False
        if again and again != self._pending:
            self._pending = again
        if not self._turn:
            self._turn = set(self._pending)
        return bool(again)

    def _refuse_retry(self, index: int) -> None:
        outcome = self._outcomes[index]
        assert outcome is not None
        said = outcome.reply if outcome.reply is not None else outcome.error
        error = BodyNotRepeatable(f"not tried again, for the message can be read only once: {said}")
        error.__cause__ = outcome.error
        self._outcomes[index] = replace(outcome, error=error)

    def answer(self, error: SmtpError) -> Report:
        """The answer as it stands; ``error`` is for recipients of whom no attempt has said anything."""
        outcomes = tuple(
            outcome or Outcome(self.envelope.recipients[index], Verdict.LATER, None, error)
            for index, outcome in enumerate(self._outcomes)
        )
        mail = Mail(self.envelope)
        if self._reply is not None:
            return MailSent(mail, outcomes, self._reply, self._stage, self._transcript)
        return MailRefused(mail, outcomes, self._stage, self._transcript)


def _worth_retrying(outcome: Outcome, retries: Retries) -> bool:
    if outcome.verdict is not Verdict.LATER or isinstance(outcome.error, BodyError):
        return False
    return retries.in_doubt or not outcome.in_doubt
