"""The driver for trio: a client's session over a socket.

What lives here: sockets, trio's clock, and the pump that binds them to the core. What does not: any decision
about SMTP. The text of the pump is the same in all three drivers, but for ``await``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

try:
    import trio
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the driver for trio needs the extra smtpcore[trio]: {error}", name=error.name
    ) from error

from smtpcore import (
    DEFAULT_LIMITS,
    CommandAnswered,
    ConnectionLost,
    DeliveryFailed,
    Disconnect,
    Envelope,
    Event,
    FileRange,
    Idle,
    MailRefused,
    MailSent,
    NeedBody,
    NeedConversion,
    NeedFacts,
    NeedMail,
    Reply,
    Report,
    SendBody,
    SendFile,
    SendLine,
    SessionError,
    Timeout,
    TlsFailed,
)
from smtpcore.drivers._connecting.dial_trio import dial
from smtpcore.drivers._connecting.race import Way, check_socket, prepare
from smtpcore.drivers._session.bodies import AsyncBody, AsyncSource, check_message, make_async_body
from smtpcore.drivers._session.conversation import Conversation
from smtpcore.drivers._session.fitting import fit_async_body
from smtpcore.drivers._session.options import (
    Machine,
    Options,
    explained,
    fallback_in_clear,
    make_envelope,
    make_machine,
    remember_tls_failure,
    settled,
)
from smtpcore.drivers._session.outgoing import Block, rest_of
from smtpcore.drivers._session.supply import Supply

__all__ = ["Session", "connect", "connect_unix", "open_session", "send"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_GATHERED = 65_536
_RECEIVED = 65_536


class _Stream:
    """A non-blocking socket with one verb for talking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._unsent: memoryview | FileRange = memoryview(b"")

    async def exchange(self, block: Block, deadline: float) -> bytes | None:
        """Write ``block``, or what an earlier call left unsent, or with nothing to write wait for the peer.

        Returns ``None`` once all is written; or, whichever comes first, octets from the peer, empty when it closed.
        Raises ``TimeoutError`` at ``deadline`` on the clock of ``now()``, ``OSError`` when the connection fails.
        """
        if block:
            self._unsent = block if isinstance(block, FileRange) else memoryview(block)
        if not self._unsent:
            while True:
                with contextlib.suppress(BlockingIOError):
                    return self._socket.recv(_RECEIVED)
                await self._wait(trio.lowlevel.wait_readable, deadline)
        try:
            while self._write():
                await self._wait(_wait_either, deadline)
                with contextlib.suppress(BlockingIOError):
                    return self._socket.recv(_RECEIVED)
        except OSError as error:
            if not isinstance(error, TimeoutError):
                self._unsent = memoryview(b"")
            raise
        if len(block) >= _GATHERED:
            # A fast peer must not keep the other tasks waiting.
            await trio.lowlevel.checkpoint()
        return None

    @property
    def unsent(self) -> bool:
        """Whether an earlier exchange left something to write."""
        return bool(self._unsent)

    def _write(self) -> bool:
        """Write what fits; returns whether there is more."""
        with contextlib.suppress(BlockingIOError):
            self._unsent = rest_of(self._unsent, self._socket)
        return bool(self._unsent)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]], deadline: float) -> None:
        with trio.CancelScope(deadline=deadline) as scope, contextlib.suppress(trio.ClosedResourceError):
            await wait(self._socket)
        if scope.cancelled_caught:
            raise TimeoutError("the deadline passed")

    def now(self) -> float:
        return trio.current_time()

    def close(self) -> None:
        """Close the socket; an exchange that another task waits in ends at once."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._unsent = memoryview(b"")


async def _wait_either(sock: socket.socket) -> None:
    """Wait until a socket is readable or writable."""
    async with trio.open_nursery() as nursery:

        async def wait(ready: Callable[[socket.socket], Awaitable[None]]) -> None:
            with contextlib.suppress(trio.ClosedResourceError):
                await ready(sock)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, trio.lowlevel.wait_readable)
        nursery.start_soon(wait, trio.lowlevel.wait_writable)


async def _in_thread(read: Callable[[int], _T], offset: int) -> _T:
    return await trio.to_thread.run_sync(read, offset, abandon_on_cancel=True)


_make_body = functools.partial(make_async_body, in_thread=_in_thread)


class Session(Conversation[_Stream, AsyncBody, AsyncSource]):
    """An open session: any number of mails, one after the other.

    Made by :func:`connect` or :func:`open_session`; as an async context manager it ends with QUIT, or, when the block
    ends with an exception, by closing the connection.
    """

    def __init__(self, stream: _Stream, machine: Machine, piece: int) -> None:
        super().__init__(stream, machine, _make_body, piece)

    # --- what users call -------------------------------------------------------------------------------------------

    async def send(
        self, message: AsyncSource, *, sender: str | None = None, recipients: Sequence[str] | str | None = None
    ) -> MailSent:
        """Send one message; sender and recipients default to what an email object's header says.

        Returns the report when at least one recipient accepted it; its outcomes say what happened to each. Raises
        ``DeliveryFailed``, which carries the report, when none did, ``LocalProtocolError`` for what may not go out.
        """
        body = self._make_body(message, self._piece)
        report = await self._deliver(make_envelope(message, sender, recipients, body.facts), body)
        if isinstance(report, MailRefused):
            raise DeliveryFailed(report)
        return report

    async def deliver(self, envelope: Envelope, message: AsyncSource) -> Report:
        """Send one mail and return its report, whatever it says; the envelope declares what is known of the body."""
        return await self._deliver(envelope, self._make_body(message, self._piece))

    async def send_many(self, mails: Iterable[tuple[Envelope, AsyncSource]]) -> AsyncIterator[Report]:
        """Send mails one after the other and yield the report on each, in their order.

        ``mails`` is asked for the next pair, which must not take long, whenever another mail can be begun: with
        ``Pipelining.ACROSS`` that is while an earlier one is on its way. Should it raise, or give what may not
        go out, the mails before are finished and reported, and then the error is raised; so is the one that ended the
        session before ``mails`` was used up. Whoever stops iterating before the end closes the connection.
        """
        self._check_not_busy()
        supply = self._supply = Supply(mails)
        self._busy = True
        try:
            await self._hear_what_came()
            event: Event = NeedMail()
            while not isinstance(event, (Idle, Disconnect)):
                if isinstance(event, NeedMail):
                    self._take_next(supply)
                elif isinstance(event, (MailSent, MailRefused)):
                    await self._bodies.pop(event.mail).close()
                    yield event
                event = await self._run()
        except BaseException:
            self._abandon()
            raise
        finally:
            await self._let_go()
        supply.finish(event)

    async def command(self, line: str, *, secret: bool = False) -> Reply:
        """Say a command, such as ``NOOP``, ``VRFY anna`` or a private one, and return its reply, whatever it says.

        Of a ``secret`` line transcripts, traces and logs show the keyword only, and not what the reply echoes of it.
        Raises ``LocalProtocolError`` for what is no single line and for commands that the session says itself, and the
        ``SessionError`` that ended the session before the reply came.
        """
        self._check_not_busy()
        if self._end is not None:
            raise self._end.error or ConnectionLost("the session has ended")
        self._client.command(line, secret=secret)
        self._busy = True
        answer: CommandAnswered | None = None
        try:
            self._client.no_mail()
            await self._hear_what_came()
            while not isinstance(event := await self._run(), (Idle, Disconnect)):
                answer = event if isinstance(event, CommandAnswered) else answer
        except BaseException:
            self._abandon()
            raise
        finally:
            await self._let_go()
        assert answer is not None
        if answer.reply is None:
            raise answer.error or ConnectionLost("the session has ended")
        return answer.reply

    async def quit(self) -> None:
        """End the session with QUIT and close the connection."""
        self._check_not_busy()
        if self._end is None:
            try:
                self._client.quit()
                while not isinstance(await self._run(), Disconnect):
                    pass
            except BaseException:
                self._abandon()
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.quit()
        else:
            self._abandon()

    # --- the pump --------------------------------------------------------------------------------------------------

    async def _deliver(self, envelope: Envelope, body: AsyncBody) -> Report:
        self._check_not_busy()
        self._take_on(envelope, body)
        self._busy = True
        try:
            self._client.no_mail()
            await self._hear_what_came()
            while not isinstance(await self._run(), (Idle, Disconnect)):
                pass
        except BaseException:
            self._abandon()
            raise
        finally:
            await self._let_go()
        assert self.last_report is not None
        return self.last_report

    async def open(self) -> Self:
        """Exchange until mail can be sent; raises the ``SessionError`` that prevents it."""
        try:
            while not isinstance(event := await self._run(), (NeedMail, Idle, Disconnect)):
                pass
            self._client.no_mail()
        except BaseException:
            self._abandon()
            raise
        if isinstance(event, Disconnect):
            raise event.error or SessionError("the session ended before it was open")
        if self._journal is not None:
            self._journal.opened(self._client)
        return self

    async def _run(self) -> Event:
        """Exchange until the machine has something that is not about the wire."""
        while True:
            event = self._wire.next_event()
            if isinstance(event, (SendLine, SendBody)):
                self._gathered.add(event.data)
                self._write_seconds = event.seconds
                if self._gathered.octets >= _GATHERED:
                    await self._flush()
            elif isinstance(event, Timeout):
                await self._wait(event)
            elif isinstance(event, NeedBody):
                await self._feed(event)
            elif isinstance(event, SendFile):
                self._add_file(event)
            elif isinstance(event, (NeedFacts, NeedConversion)):
                await self._fit(event)
            elif isinstance(event, Idle) and (self._gathered or self._stream.unsent):
                # The rest of a chunk that was refused before all of it was out: the peer waits for it.
                await self._flush()
            else:
                if isinstance(event, Disconnect) and event.clean and self._gathered:
                    await self._flush()
                return self._note(event)

    async def _let_go(self) -> None:
        """Close the bodies of mails that are answered, or never will be; all of them, whatever one of them raises."""
        self._busy = False
        self._supply = None
        async with contextlib.AsyncExitStack() as bodies:
            while self._bodies:
                bodies.push_async_callback(self._bodies.popitem()[1].close)

    async def _flush(self) -> bool:
        """Write what is gathered and what was left unsent, unless the peer speaks first; returns whether all is out."""
        while True:
            block: Block = b"" if self._stream.unsent else self._gathered.take()
            if block:
                self._write_deadline = self._stream.now() + self._write_seconds
            if not await self._exchange(block, self._write_deadline):
                return False
            if not self._gathered:
                return True

    async def _wait(self, timeout: Timeout) -> None:
        """Hear the peer; the deadline runs from when the machine first spoke of it."""
        if self._gathered and not await self._flush():
            return
        if self._supply is not None and self._client.takes_mail_ahead:
            self._take_next(self._supply)
            return
        if timeout is not self._timeout:
            self._timeout = timeout
            self._deadline = self._stream.now() + timeout.seconds
        await self._exchange(b"", self._deadline)

    async def _exchange(self, block: Block, deadline: float) -> bool:
        """Write or hear, and tell the wire what came; returns whether nothing did and all is written."""
        try:
            received = await self._stream.exchange(block, deadline)
        except TimeoutError:
            self._wire.receive_timeout()
        except OSError as error:
            self._broken(error)
        else:
            if received is None:
                return True
            if received:
                self._wire.receive_data(received)
            else:
                self._wire.receive_eof()
        return False

    async def _feed(self, need: NeedBody) -> None:
        """Hand the next piece of the body to the client."""
        body = self._bodies[need.mail]
        if self._stream.unsent or (self._gathered and not body.in_memory):
            # A peer that speaks while it does not read must neither win time with it nor fill our memory.
            await self._flush()
            return
        try:
            if self._progress is not None and need.offset:
                self._progress(need.mail, need.offset, need.mail.envelope.body.size)
            ranges = not body.in_memory and self._client.takes_file_ranges
            binary = need.mail.envelope.body.binary
            octets = await body.read_range(need.offset, binary=binary) if ranges else await body.read(need.offset)
            if self._end is None:
                self._client.send_body(octets)
                if octets and body.ends_at(need.offset + len(octets)):
                    if self._progress is not None:
                        self._progress(need.mail, need.offset + len(octets), need.mail.envelope.body.size)
                    self._client.send_body(b"")
        except Exception as error:
            if self._end is None:
                self._client.body_failed(error)

    async def _fit(self, need: NeedFacts | NeedConversion) -> None:
        """Look at a body, or convert it, as the client asks."""
        if self._stream.unsent or self._gathered:
            # It may take long, and a mail before this one must not wait for its end.
            await self._flush()
            return
        if self._journal is not None:
            self._journal.note(need)
        try:
            body, facts = await fit_async_body(need, self._bodies[need.mail], self._machine.fitting)
            if self._end is None:
                self._bodies[need.mail] = body
                self._client.body_facts(facts)
        except Exception as error:
            if self._end is None:
                self._client.body_failed(error)
        if self._end is None:
            # So a peer that has left meanwhile is heard before MAIL is said.
            await self._hear_what_came()

    async def _hear_what_came(self) -> None:
        """Read what arrived while nobody listened, so that an idle 421 is heard before MAIL is said."""
        try:
            received = await self._stream.exchange(b"", 0.0)
        except TimeoutError:
            return
        except OSError as error:
            self._wire.send_failed(error)
            return
        if received:
            self._wire.receive_data(received)
        elif received is not None:
            self._wire.receive_eof()


# --- connecting ----------------------------------------------------------------------------------------------------


async def connect(host: str, port: int = 25, **options: Unpack[Options]) -> Session:
    """Connect to a host and open a session, ready for mail.

    The addresses of the host race (RFC 8305). When TLS is a mere wish and the handshake fails, a new connection is made
    in clear. Raises ``ConnectFailed``, or the ``SessionError`` that kept the session from opening.
    """
    return await _connect(Way(host, port), options)


async def connect_unix(path: str | os.PathLike[str], host: str | None = None, **options: Unpack[Options]) -> Session:
    """Connect to a unix socket and open a session, ready for mail; ``host`` is whose name TLS verifies.

    Raises as :func:`connect`.
    """
    return await _connect(Way(host, path=os.fspath(path)), options)


async def _connect(way: Way, options: Options) -> Session:
    options = settled(options, way)
    try:
        return await open_session(await dial(way, options), way.host, **options)
    except TlsFailed as error:
        in_clear = fallback_in_clear(options, way.host, error)
        if in_clear is None:
            raise
        _log.info("%s: TLS is not to be had, going on in clear: %s", way, error)
    except SessionError as error:
        explanation = explained(error, options, way)
        if explanation is None:
            raise
        raise explanation from error
    session = await open_session(await dial(way, options), way.host, **in_clear)
    remember_tls_failure(options, way)
    return session


async def open_session(sock: socket.socket, host: str | None = None, **options: Unpack[Options]) -> Session:
    """Open a session over a connected socket, which the session owns from now on; ``host`` is whose name TLS verifies.

    Raises the ``SessionError`` that kept the session from opening, and ``LocalProtocolError`` for what is no connected
    socket, or one inside TLS, which is closed.
    """
    sock = check_socket(sock, "open_session was given")
    try:
        machine = make_machine(options, host, prepare(sock, host), _log)
        stream = _Stream(sock)
    except BaseException:
        sock.close()
        raise
    return await Session(stream, machine, options.get("limits", DEFAULT_LIMITS).body_chunk).open()


async def send(
    message: AsyncSource,
    *,
    host: str,
    port: int = 25,
    sender: str | None = None,
    recipients: Sequence[str] | str | None = None,
    **options: Unpack[Options],
) -> MailSent:
    """Connect, send one message, end the session: :func:`connect` and :meth:`Session.send` in one line."""
    check_message(message)
    async with await connect(host, port, **options) as session:
        return await session.send(message, sender=sender, recipients=recipients)
