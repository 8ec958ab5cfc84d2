"""What a session is in every driver: its client, the mails on their way, what is to be written, and how it ended.

What lives here: all of a session that waits for nothing, and so reads the same in a blocking driver and in an async
one. What does not: the pump, which waits for the peer in each driver's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from smtpcore import (
    Capabilities,
    ConnectionLost,
    Disconnect,
    Envelope,
    Event,
    LocalProtocolError,
    Mail,
    MailRefused,
    MailSent,
    Report,
    SendFile,
    Timeout,
    TlsInfo,
)
from smtpcore.drivers._session.options import Machine
from smtpcore.drivers._session.outgoing import Gathered
from smtpcore.drivers._session.supply import Supply

__all__ = ["Conversation"]


class _Stream(Protocol):
    """A driver's connection, as far as it does not wait."""

    def close(self) -> None: ...


_StreamT = TypeVar("_StreamT", bound=_Stream)
_BodyT = TypeVar("_BodyT")
_SourceT = TypeVar("_SourceT")


class Conversation(Generic[_StreamT, _BodyT, _SourceT]):
    """An open session, but for waiting; ``make_body`` reads a message in pieces of ``piece`` octets."""

    def __init__(
        self, stream: _StreamT, machine: Machine, make_body: Callable[[_SourceT, int], _BodyT], piece: int
    ) -> None:
        self._stream = stream
        self._machine = machine
        self._client = machine.client
        self._wire = machine.wire
        self._journal = machine.journal
        self._progress = machine.progress
        self._make_body = make_body
        self._piece = piece
        self._gathered = Gathered()
        self._write_seconds = 0.0
        self._write_deadline = 0.0
        self._timeout: Timeout | None = None
        self._deadline = 0.0
        #: The bodies of the mails on their way.
        self._bodies: dict[Mail, _BodyT] = {}
        self._busy = False
        #: The mails that are sent one after the other, while they are.
        self._supply: Supply[tuple[Envelope, _SourceT]] | None = None
        self._end: Disconnect | None = None
        #: The answer to the latest mail, also when the call that sent it was interrupted.
        self.last_report: Report | None = None
        #: The answers to the mails that were on their way when the session was given up, in the order of the mails.
        self.broken_off: tuple[Report, ...] = ()

    # --- what users call -------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What the peer offers."""
        return self._client.capabilities

    @property
    def tls(self) -> TlsInfo | None:
        """What the TLS handshake agreed on, or ``None`` in clear."""
        return self._client.tls

    @property
    def end(self) -> Disconnect | None:
        """Why and how the session ended; ``None`` while it is open."""
        return self._end

    def close(self) -> None:
        """Close the connection at once, without QUIT."""
        self._abandon()

    # --- for the pump ----------------------------------------------------------------------------------------------

    def _check_not_busy(self) -> None:
        if self._busy:
            raise LocalProtocolError("the session is sending another mail: one session serves one caller at a time")

    def _take_on(self, envelope: Envelope, body: _BodyT) -> None:
        """Take a mail on; an envelope that is refused leaves the session as it was."""
        if self._end is not None:
            raise self._end.error or ConnectionLost("the session has ended")
        self._bodies[self._client.send(envelope)] = body
        self.last_report = None

    def _take_next(self, supply: Supply[tuple[Envelope, _SourceT]]) -> None:
        """Take the next mail on, or tell the client that there is none."""
        pair = supply.take()
        if pair is None:
            self._client.no_mail()
            return
        try:
            self._take_on(pair[0], self._make_body(pair[1], self._piece))
        except Exception as error:
            supply.spoilt(error)
            self._client.no_mail()

    def _add_file(self, order: SendFile) -> None:
        try:
            self._gathered.add_file(order.data)
            self._write_seconds = order.seconds
        except OSError as error:
            self._broken(error)

    def _broken(self, error: OSError) -> None:
        """Write no more: behind octets that are missing a message would come to an end without them."""
        self._gathered.clear()
        self._wire.send_failed(error)

    def _note(self, event: Event) -> Event:
        if self._journal is not None:
            self._journal.note(event)
        if isinstance(event, (MailSent, MailRefused)):
            self.last_report = event
        elif isinstance(event, Disconnect):
            self._end = event
            self._gathered.clear()
            self._machine.remember(event)
            self._stream.close()
        return event

    def _abandon(self) -> None:
        """Answer every mail without another word, and close the connection."""
        if self._end is None:
            self._client.abort()
            reports: list[Report] = []
            while not isinstance(event := self._note(self._client.next_event()), Disconnect):
                if isinstance(event, (MailSent, MailRefused)):
                    reports.append(event)
            self.broken_off = tuple(reports)
