"""The mails that a session takes on one after the other.

What lives here: asking for the next one, and remembering why there is none. What does not: sending them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from smtpcore import ConnectionLost, Disconnect, Event

__all__ = ["Supply"]

T = TypeVar("T")


class Supply(Generic[T]):
    """Mails out of an iterable that is the caller's, and may fail."""

    def __init__(self, mails: Iterable[T]) -> None:
        self._mails = iter(mails)
        self._used_up = False
        self._problem: Exception | None = None

    def take(self) -> T | None:
        """The next one, or ``None`` when there are no more, for whatever reason."""
        if not self._used_up:
            try:
                return next(self._mails)
            except StopIteration:
                self._used_up = True
            except Exception as error:
                self.spoilt(error)
        return None

    def spoilt(self, error: Exception) -> None:
        """The last one could not be taken on: no more are asked for."""
        self._used_up = True
        self._problem = error

    def finish(self, event: Event) -> None:
        """Raise what went wrong with the supply, or else what ended the session before it was used up."""
        if self._problem is not None:
            raise self._problem
        if isinstance(event, Disconnect) and not self._used_up:
            raise event.error or ConnectionLost("the session ended before all mails were taken on")
