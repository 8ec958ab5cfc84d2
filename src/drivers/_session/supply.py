"""The mails that a session takes on one after the other.

What lives here: asking for the next one, remembering why there is none, and the words for what are no mails. What does
not: sending them.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, cast

from smtpcore import ConnectionLost, Disconnect, Envelope, Event, LocalProtocolError

__all__ = ["Supply", "check_pair", "iterator_of"]

T = TypeVar("T")


def iterator_of(mails: Iterable[T]) -> Iterator[T]:
    """The mails one by one; raises ``LocalProtocolError`` for what is none."""
    try:
        return iter(mails)
    except TypeError as error:
        kind = type(cast("object", mails)).__name__
        hint = "; an async one is for a pool on an event loop" if isinstance(mails, AsyncIterable) else ""
        raise LocalProtocolError(f"the mails come from an iterable of pairs, not a {kind}{hint}") from error


def check_pair(given: object) -> None:
    """Raise ``LocalProtocolError`` for what is no envelope with its message; neither is shown."""
    pair = tuple(cast("Sequence[object]", given)) if isinstance(given, (tuple, list)) else (given,)
    if len(pair) != 2 or not isinstance(pair[0], Envelope):
        kinds = ", ".join(type(part).__name__ for part in pair)
        raise LocalProtocolError(f"each of the mails is a pair of an Envelope and its message, not: {kinds}")


class Supply(Generic[T]):
    """Mails out of an iterable that is the caller's, and may fail."""

    def __init__(self, mails: Iterable[T]) -> None:
        self._mails = iterator_of(mails)
        self._used_up = False
        self._problem: Exception | None = None

    def take(self) -> T | None:
        """The next one, or ``None`` when there are no more, for whatever reason."""
        if not self._used_up:
            try:
                pair = next(self._mails)
                check_pair(pair)
            except StopIteration:
                self._used_up = True
            except Exception as error:
                self.spoilt(error)
            else:
                return pair
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
