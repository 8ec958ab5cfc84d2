"""What became of a mail's recipients, for the program that handed the mail in.

What lives here: collecting the fates of one mail while somebody wants to know them. What does not: waiting, which each
service does in its own way; the log.

Only mails that somebody holds on to are watched: when a program lets a submission go, nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from smtpcore import SmtpError
from smtpcore.relay import Fate

__all__ = ["RelayStopped", "Tally", "Watched"]


class RelayStopped(SmtpError):
    """The relay was stopped before this was known or done. What it had accepted waits in the spool."""


class Tally:
    """The fates of one mail, as they become known."""

    def __init__(self, queue_id: int, recipients: Sequence[str]) -> None:
        self.queue_id = queue_id
        self.recipients = tuple(recipients)
        self._known: list[Fate] = []
        self._failure: Exception | None = None

    @property
    def known(self) -> tuple[Fate, ...]:
        """The fates known so far, in the order in which they became known."""
        return tuple(self._known)

    def note(self, fate: Fate) -> None:
        """One more fate is known."""
        self._known.append(fate)

    def end(self, failure: Exception | None) -> None:
        """The relay stopped: no more will be known. ``failure`` is what stopped it, if anything did."""
        self._failure = failure or RelayStopped(f"the relay was stopped; mail {self.queue_id} waits in the spool")

    def _at(self, index: int) -> Fate | None:
        """The fate with this number, or ``None`` while it is not known; raises what keeps it from becoming known."""
        if index < len(self._known):
            return self._known[index]
        if self._failure is not None:
            raise self._failure
        return None


_T_co = TypeVar("_T_co", bound=Tally, covariant=True)


class Watched(Generic[_T_co]):
    """The submissions that somebody still holds on to. Used from several threads, each call as a whole."""

    def __init__(self, make: Callable[[int, Sequence[str]], _T_co]) -> None:
        self._make = make
        self._held: WeakValueDictionary[int, _T_co] = WeakValueDictionary()

    def watch(self, queue_id: int, recipients: Sequence[str]) -> _T_co:
        """Begin to watch a mail, before anything can become known of it."""
        submission = self._held[queue_id] = self._make(queue_id, recipients)
        return submission

    def note(self, fate: Fate) -> None:
        """Tell whoever wants to know."""
        if (submission := self._held.get(fate.mail_id)) is not None:
            submission.note(fate)

    def end(self, failure: Exception | None) -> None:
        """Tell all that no more will be known."""
        for submission in list(self._held.values()):
            submission.end(failure)
