"""Bodies made fit for a peer: looked at, or converted, as the client asks.

What lives here: what a driver does with a body for ``NeedFacts`` and ``NeedConversion``. What does not: whether that is
due, which is the core's; how a message is converted, which is :mod:`smtpcore.mime`'s.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from smtpcore import BodyFacts, BodyMeasure, ConversionFailed, LineEnds, LineNormaliser, NeedConversion, NeedFacts
from smtpcore.drivers._session.bodies import AsyncBody, Body, BodyReadAhead, MemoryBody, facts_of
from smtpcore.mime import convert

__all__ = ["Fitting", "fit_async_body", "fit_body"]


@dataclass(frozen=True, slots=True)
class Fitting:
    """How the bodies of a session are converted; ``most`` is how many octets a message may have for that."""

    most: int
    piece: int
    line_ends: LineEnds
    break_signatures: bool


class _Reader(Protocol):
    """What is done with a body that is read; both functions take their time."""

    def take(self, piece: bytes) -> bool:
        """Take the next octets; returns whether more are wanted. May raise ``ConversionFailed``."""
        ...

    def made(self, complete: bool) -> tuple[MemoryBody | None, BodyFacts]:
        """What is in memory of the body now, if it is, and what is known of it; ``complete`` says that all was read."""
        ...


class _Measuring:
    """A body that will be read once more."""

    def __init__(self, need: NeedFacts) -> None:
        self._known = need.mail.envelope.body
        self._measure = BodyMeasure()

    def take(self, piece: bytes) -> bool:
        self._measure.feed(piece)
        return True

    def made(self, complete: bool) -> tuple[None, BodyFacts]:
        return None, self._measure.facts(self._known)


class _Keeping:
    """A body that can be read only once: it is kept, as far as there may be so much in memory."""

    def __init__(self, need: NeedFacts, fitting: Fitting) -> None:
        self._known = need.mail.envelope.body
        self._fitting = fitting
        self._measure = BodyMeasure()
        self._kept = io.BytesIO()

    def take(self, piece: bytes) -> bool:
        self._measure.feed(piece)
        self._kept.write(piece)
        return self._kept.tell() <= self._fitting.most

    def made(self, complete: bool) -> tuple[MemoryBody, BodyFacts]:
        octets = self._kept.getvalue()
        body = MemoryBody(octets, self._fitting.piece)
        if complete:
            return body, _facts(octets, self._measure, self._known)
        so_far = self._measure.facts(self._known)
        return body, replace(
            self._known,
            eight_bit=so_far.eight_bit or self._known.eight_bit,
            long_lines=so_far.long_lines or self._known.long_lines,
            repeatable=False,
        )


class _Converting:
    """A body that is converted."""

    def __init__(self, need: NeedConversion, fitting: Fitting) -> None:
        self._known = need.mail.envelope.body
        self._form = need.form
        self._fitting = fitting
        self._lines = None if self._known.binary else LineNormaliser(fitting.line_ends)
        self._octets = 0
        self._kept = io.BytesIO()

    def take(self, piece: bytes) -> bool:
        self._octets += len(piece)
        if self._octets > self._fitting.most:
            raise ConversionFailed("", f"it has more than {self._fitting.most} octets (Limits.converted_message)")
        self._kept.write(piece if self._lines is None else self._lines.feed(piece))
        return True

    def made(self, complete: bool) -> tuple[MemoryBody, BodyFacts]:
        if self._lines is not None:
            self._kept.write(self._lines.end())
        octets = convert(self._kept.getvalue(), self._form, break_signatures=self._fitting.break_signatures)
        measure = BodyMeasure()
        measure.feed(octets)
        return MemoryBody(octets, self._fitting.piece), _facts(octets, measure, self._known)


def _facts(octets: bytes, measure: BodyMeasure, known: BodyFacts) -> BodyFacts:
    """What octets in memory say, and ``known`` of the header."""
    return replace(measure.facts(facts_of(octets)), utf8_header=known.utf8_header)


def _reader_for(need: NeedFacts | NeedConversion, may_be_looked_at: bool, fitting: Fitting) -> _Reader:
    if isinstance(need, NeedConversion):
        return _Converting(need, fitting)
    return _Measuring(need) if may_be_looked_at else _Keeping(need, fitting)


def fit_body(need: NeedFacts | NeedConversion, body: Body, fitting: Fitting) -> tuple[Body, BodyFacts]:
    """The body to send, and the facts that answer ``need``. Raises ``ConversionFailed``, and what reading raises."""
    reader = _reader_for(need, body.may_be_looked_at, fitting)
    complete = _read(body, reader.take)
    made, facts = reader.made(complete)
    if made is None:
        return body, facts
    if not complete:
        return BodyReadAhead(made, body), facts
    body.close()
    return made, facts


def _read(body: Body, take: Callable[[bytes], bool]) -> bool:
    """Read a body as far as it is wanted; returns whether that was all of it."""
    offset = 0
    while piece := body.read(offset):
        offset += len(piece)
        if not take(piece):
            return False
    return True


async def fit_async_body(
    need: NeedFacts | NeedConversion, body: AsyncBody, fitting: Fitting
) -> tuple[AsyncBody, BodyFacts]:
    """As :func:`fit_body`; what takes long is done in a worker thread."""
    reader = _reader_for(need, body.may_be_looked_at, fitting)
    complete = await _read_async(body, reader.take)
    made, facts = await body.in_thread(lambda _: reader.made(complete), 0)
    if made is None:
        return body, facts
    if not complete:
        body.put_back(made)
        return body, facts
    await body.close()
    return AsyncBody(made, body.in_thread), facts


async def _read_async(body: AsyncBody, take: Callable[[bytes], bool]) -> bool:
    offset = 0
    while True:
        octets, wanted = await body.hand_to(take, offset)
        if not (octets and wanted):
            return not octets
        offset += octets
