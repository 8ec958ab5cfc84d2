"""Bodies made fit for a peer: looked at, or converted, as the client asks.

What lives here: what a driver does with a body for ``NeedFacts`` and ``NeedConversion``. What does not: whether that is
due, which is the core's; how a message is converted, which is :mod:`smtpcore.mime`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from smtpcore import BodyFacts, BodyMeasure, ConversionFailed, LineEnds, LineNormaliser, NeedConversion, NeedFacts
from smtpcore.drivers._session.bodies import AsyncBody, Body, MemoryBody, facts_of
from smtpcore.mime import convert

__all__ = ["Fitting", "fit_async_body", "fit_body"]


@dataclass(frozen=True, slots=True)
class Fitting:
    """How the bodies of a session are converted; ``most`` is how many octets a message may have for that."""

    most: int
    piece: int
    line_ends: LineEnds
    break_signatures: bool

    def check(self, octets: int) -> None:
        """Raise ``ConversionFailed`` for a message that is too large."""
        if octets > self.most:
            raise ConversionFailed("", f"it has more than {self.most} octets (Limits.converted_message)")

    def convert(self, need: NeedConversion, octets: bytes) -> bytes:
        """A whole message in the form that is needed; takes its time. Raises ``ConversionFailed``."""
        if not need.mail.envelope.body.binary:
            normaliser = LineNormaliser(self.line_ends)
            octets = normaliser.feed(octets) + normaliser.end()
        return convert(octets, need.form, break_signatures=self.break_signatures)

    def body(self, need: NeedConversion, octets: bytes) -> tuple[MemoryBody, BodyFacts]:
        """A converted message as a body, and what is known of it."""
        measure = BodyMeasure()
        measure.feed(octets)
        known = need.mail.envelope.body
        facts = measure.facts(facts_of(octets))
        facts = replace(facts, utf8_header=known.utf8_header, utf8_found=known.utf8_found)
        return MemoryBody(octets, self.piece), facts


def fit_body(need: NeedFacts | NeedConversion, body: Body, fitting: Fitting) -> tuple[Body, BodyFacts]:
    """The body to send, and the facts that answer ``need``. Raises ``ConversionFailed``, and what reading raises."""
    if isinstance(need, NeedFacts):
        return body, _measured(need, body)
    pieces: list[bytes] = []
    offset = 0
    while piece := body.read(offset):
        pieces.append(piece)
        offset += len(piece)
        fitting.check(offset)
    converted = fitting.convert(need, b"".join(pieces))
    body.close()
    return fitting.body(need, converted)


def _measured(need: NeedFacts, body: Body) -> BodyFacts:
    if not body.may_be_looked_at:
        return need.mail.envelope.body
    measure = BodyMeasure()
    offset = 0
    while piece := body.read(offset):
        measure.feed(piece)
        offset += len(piece)
    return measure.facts(need.mail.envelope.body)


async def fit_async_body(
    need: NeedFacts | NeedConversion, body: AsyncBody, fitting: Fitting
) -> tuple[AsyncBody, BodyFacts]:
    """As :func:`fit_body`; what takes long is done in a worker thread."""
    if isinstance(need, NeedFacts):
        return body, await _measured_async(need, body)
    pieces: list[bytes] = []
    offset = 0
    while piece := await body.read(offset):
        pieces.append(piece)
        offset += len(piece)
        fitting.check(offset)
    converted = await body.in_thread(lambda _: fitting.convert(need, b"".join(pieces)), 0)
    await body.close()
    made, facts = fitting.body(need, converted)
    return AsyncBody(made, body.in_thread), facts


async def _measured_async(need: NeedFacts, body: AsyncBody) -> BodyFacts:
    if not body.may_be_looked_at:
        return need.mail.envelope.body
    measure = BodyMeasure()
    offset = 0
    while piece := await body.read(offset):
        measure.feed(piece)
        offset += len(piece)
    return measure.facts(need.mail.envelope.body)
