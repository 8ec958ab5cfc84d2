"""The face that floors between a client and a driver share.

What lives here: one protocol class. A floor takes facts about the wire and hands out orders; wishes (``send``,
``quit``, ...) go to the client itself, for they do not touch the wire.
"""

from __future__ import annotations

from typing import Protocol

from smtpcore import Event

__all__ = ["Wire"]


class Wire(Protocol):
    """What a driver's pump talks to: a :class:`smtpcore.Client`, or a floor upon one."""

    def next_event(self) -> Event: ...

    def receive_data(self, data: bytes) -> None: ...

    def receive_eof(self) -> None: ...

    def receive_timeout(self) -> None: ...

    def send_failed(self, error: Exception | str = "") -> None: ...
