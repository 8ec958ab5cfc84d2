"""A floor that shows the dialogue while it happens, secrets masked and bodies counted.

What lives here: one pass-through between a client and whatever carries its octets. What does not: where the lines go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smtpcore import BeginTls, Event, SendBody, SendFile, SendLine, printable
from smtpcore.drivers._session.floor import Wire

__all__ = ["Traced"]

_CHALLENGE: Final = b"334"
_MASKED: Final = "********"


class Traced:
    """``client`` with every line said and heard handed to ``show``, marked ``>>>`` and ``<<<``."""

    def __init__(self, client: Wire, show: Callable[[str], None]) -> None:
        self._client = client
        self._show = show
        self._heard = b""
        self._secrets: list[str] = []
        self._tls = False

    def next_event(self) -> Event:
        event = self._client.next_event()
        if isinstance(event, SendLine):
            # The longest first, for one may be part of another.
            self._secrets = sorted({*self._secrets, *event.echoes}, key=len, reverse=True)
            # The line of the final dot may begin with the line end of the last line before it.
            self._show(f">>> {event.shown.lstrip()}")
        elif isinstance(event, (SendBody, SendFile)):
            self._show(f">>> ({len(event.data)} octets of message)")
        elif isinstance(event, BeginTls) and not self._tls:
            # It is said again until the handshake is done.
            self._tls = True
            self._show("--- TLS begins")
        return event

    def receive_data(self, data: bytes) -> None:
        *lines, self._heard = (self._heard + data).split(b"\r\n")
        for line in lines:
            shown = printable(line.decode("utf-8", "backslashreplace"))
            if line[:3] == _CHALLENGE:
                # With what a challenge holds and a listener lacks, passwords could be tried out.
                shown = shown[:4] + (_MASKED if shown[4:] else "")
            for secret in self._secrets:
                # A peer may echo what it was sent.
                shown = shown.replace(secret, _MASKED)
            self._show(f"<<< {shown}")
        self._heard = self._heard[-8192:]
        self._client.receive_data(data)

    def receive_eof(self) -> None:
        self._show("--- the peer closed")
        self._client.receive_eof()

    def receive_timeout(self) -> None:
        self._show("--- the deadline passed")
        self._client.receive_timeout()

    def send_failed(self, error: Exception | str = "") -> None:
        self._show(f"--- the connection failed: {error}")
        self._client.send_failed(error)
