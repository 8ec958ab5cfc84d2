"""The deliveries that a session has begun and not reported.

What lives here: telling the machine what became of each, in their order, however the session fares. What does not:
sending them, which is the wire driver's; what lies ahead of the session, which each service keeps in its own way.

A session that runs ahead of the replies has several of them. When it is lost, the driver answers for each; when it is
given up at once, the answers are those that it kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from smtpcore import Capabilities, Disconnect, Envelope, Report, SmtpError
from smtpcore.drivers._relaying.work import Work, broken_off, close_body, refused, unforeseen
from smtpcore.drivers._session.cut_short import CutShort, answers_of
from smtpcore.relay import Fact, Reported

__all__ = ["UnderWay", "Wire"]


class Wire(CutShort, Protocol):
    """What a relay asks of every wire driver's session."""

    @property
    def end(self) -> Disconnect | None: ...

    @property
    def capabilities(self) -> Capabilities: ...


class UnderWay:
    """What a session makes of the deliveries that lie ahead of it; ``put`` takes the facts."""

    def __init__(self, session_id: int, wire: Wire, put: Callable[[Fact], None]) -> None:
        self._session_id = session_id
        self._wire = wire
        self._put = put
        self._dsn = "DSN" in wire.capabilities
        #: What was begun and not reported, in its order.
        self._begun: deque[tuple[Work, Envelope]] = deque()
        #: The session's last report before it began those.
        self._before = wire.last_report

    def supply(self, take: Callable[[], Work | None]) -> Iterator[tuple[Envelope, bytes | BinaryIO]]:
        """What the session is to send, one mail after the other, for as long as there are any to take."""
        while (work := take()) is not None:
            delivery, body = work
            envelope = delivery.envelope
            if not self._begun:
                self._before = self._wire.last_report
            self._begun.append((work, envelope))
            yield envelope, body

    def reported(self, report: Report) -> None:
        """The session has reported the delivery that was begun first."""
        (delivery, body), _ = self._begun.popleft()
        self._before = self._wire.last_report
        close_body(body)
        self._put(Reported(self._session_id, delivery.delivery_id, report, self._dsn))

    def failed(self, error: Exception) -> None:
        """The session stopped with an error."""
        if not isinstance(error, SmtpError):
            error = SmtpError(unforeseen(f"session {self._session_id}", error))
        if self._wire.end is not None:
            # What was not begun is not answered, and the machine learns of it from the session's end.
            self.given_up()
        elif self._begun:
            # All before it are reported, and this one may not go out.
            self.reported(refused(self._begun[0][1], error))

    def given_up(self) -> None:
        """The session was given up: tell what it knows of each delivery."""
        for report in answers_of(self._wire, [envelope for _, envelope in self._begun], self._before):
            self.reported(broken_off(report))

    def close(self) -> None:
        """Close what is left: it was not begun."""
        while self._begun:
            (_, body), _ = self._begun.popleft()
            close_body(body)
