"""What the suite asks of a driver, and what it says of one that is wrong.

What lives here: the adapter and its parts. What does not: any play.
"""

from __future__ import annotations

import enum
import inspect
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from smtpcore import Disconnect, Envelope, Report
from smtpcore.testing.peer import PATIENCE


class Session(Protocol):
    """What the suite asks of a session; in a driver for an async loop ``deliver`` and ``quit`` give awaitables."""

    @property
    def end(self) -> Disconnect | None:
        """Why and how the session ended; ``None`` while it is open."""

    @property
    def last_report(self) -> Report | None:
        """The answer to the latest mail, also when the call that sent it was interrupted."""

    def deliver(self, envelope: Envelope, message: Any, /) -> Any:
        """Send one mail and return its :class:`~smtpcore.Report`; ``message`` is bytes, or an iterable of bytes."""

    def quit(self) -> Any:
        """End the session with QUIT and close the connection."""

    def close(self) -> None:
        """Close the connection at once, without QUIT."""


def run_blocking(play: Coroutine[Any, Any, None]) -> None:
    """Run a play with a driver that awaits nothing."""
    try:
        play.send(None)
    except StopIteration:
        return
    play.close()
    raise TypeError("the driver awaited something: give the adapter a function that runs coroutines")


def _wait_blocking(event: threading.Event) -> bool:
    return event.wait(PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A driver, as the suite sees it.

    ``connect(host, port, *, limits)`` opens a session, or gives an awaitable of one; where ``tls``, it is also called
    with ``tls`` (a :class:`~smtpcore.TlsPolicy`) and ``tls_context``, and with what other fields below name, by the
    names that :class:`~smtpcore.Client` has for it. It raises the ``SessionError`` that kept the session from opening.
    """

    connect: Callable[..., Any]
    #: Runs a coroutine to its end in the driver's loop.
    run: Callable[[Coroutine[Any, Any, None]], object] = run_blocking
    #: Runs a coroutine in the driver's loop, and cancels it, as the loop cancels what it runs, once the event is set by
    #: another thread; ends when the coroutine has ended, and swallows the cancellation.
    run_cancelled: Callable[[Coroutine[Any, Any, None], threading.Event], object] | None = None
    #: Waits some seconds for an event that another thread sets, without blocking the loop, and says whether it was.
    wait: Callable[[threading.Event], Any] = _wait_blocking
    #: Whether the driver speaks TLS.
    tls: bool = True
    #: Whether it takes a ``pathlib.Path`` for a message, as one that uses ``sendfile`` does.
    files: bool = False
    #: Whether messages go in chunks where the peer offers it, as they do unless the core is told otherwise.
    chunking: bool = True
    #: Whether ``connect`` takes ``protocol`` (a :class:`~smtpcore.Protocol`), and so speaks LMTP.
    lmtp: bool = False
    #: Whether it takes ``credentials``, mechanisms of :mod:`smtpcore.sasl`, and gives the core the chance they need.
    credentials: bool = False
    #: Whether it takes ``xclient`` (a :class:`~smtpcore.XClient`).
    xclient: bool = False
    #: Whether it takes ``eight_bit`` and ``long_lines`` (:class:`~smtpcore.Conversion`), and so the driver answers
    #: ``NeedFacts`` and ``NeedConversion``.
    conversion: bool = False
    #: Whether it takes ``pipelining`` (a :class:`~smtpcore.Pipelining`), and sessions have ``send_many(mails)``: of an
    #: iterable of pairs as ``deliver`` takes them it gives the reports in turn, as an iterator or an async one.
    across: bool = False
    #: Whether sessions have ``command(line)``, which gives the :class:`~smtpcore.Reply`, or raises the ``SessionError``
    #: that ended the session.
    commands: bool = False

    def has(self, need: Need) -> bool:
        """Whether the driver can do what a case needs."""
        can = {
            Need.TLS: self.tls,
            Need.FILES: self.files,
            Need.CANCELLATION: self.run_cancelled is not None,
            Need.CHUNKING: self.chunking,
            Need.LMTP: self.lmtp,
            Need.CREDENTIALS: self.credentials,
            Need.XCLIENT: self.xclient,
            Need.CONVERSION: self.conversion,
            Need.ACROSS: self.across,
            Need.COMMANDS: self.commands,
        }
        return can[need]


class Need(enum.Enum):
    """What a case needs beyond what every driver can do."""

    TLS = "tls"
    FILES = "files"
    CANCELLATION = "cancellation"
    CHUNKING = "chunking"
    LMTP = "lmtp"
    CREDENTIALS = "credentials"
    XCLIENT = "xclient"
    CONVERSION = "conversion"
    ACROSS = "across"
    COMMANDS = "commands"


class Nonconformant(AssertionError):
    """The driver did not do what the case asks for; the message says what it did."""


async def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of a driver, and await what it gives if the driver is an async one."""
    result = function(*args, **options)
    return await result if inspect.isawaitable(result) else result
