"""Policy: what a client says next, and what the replies meant.

What lives here: the wheel, what comes next, and the end of a session. What does not: the opening
(:mod:`smtpcore._opening`); mails that wait (:mod:`smtpcore._waiting`), the one whose turn it is
(:mod:`smtpcore._turn`), those that are not yet reported (:mod:`smtpcore._ledger`); what may be said
(:mod:`smtpcore._connection`), and what replies mean for the recipients of a mail (:mod:`smtpcore._transaction`).

``next_event()`` turns one wheel: hand out what is ready; else hear what the connection has heard; else say what may be
said next; else tell the driver what to wait for. Hearing comes before saying, so that a 421 which arrived while a
session was parked is heard before MAIL is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from smtpcore._body import LineEnds
from smtpcore._commands import checked_command
from smtpcore._connection import Connection, ConnectionSnapshot, Replied
from smtpcore._errors import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    BodyError,
    ConnectionLost,
    ConversionFailed,
    LocalProtocolError,
    LostStep,
    PeerTimeout,
    RemoteProtocolError,
    ServiceRefused,
    SessionAborted,
    SessionError,
    TlsFailed,
    TlsRequired,
)
from smtpcore._events import (
    BeginTls,
    BodyFacts,
    Command,
    CommandAnswered,
    Disconnect,
    DisconnectReason,
    Envelope,
    Event,
    FileRange,
    Idle,
    Mail,
    NeedBody,
    NeedConversion,
    NeedFacts,
    NeedMail,
    Reply,
    Timeout,
    TlsInfo,
    Transcript,
    Verb,
)
from smtpcore._extensions import Capabilities
from smtpcore._kinds import check_kind
from smtpcore._ledger import RSET, Ledger
from smtpcore._limits import DEFAULT_LIMITS, Limits
from smtpcore._opening import Opening, refusal
from smtpcore._peer_limits import PeerLimits
from smtpcore._planner import Conversion
from smtpcore._policy import Pipelining, Protocol, TlsPolicy, check_policies
from smtpcore._state import State
from smtpcore._transaction import Transaction
from smtpcore._turn import IN_TRANSACTION, Turn
from smtpcore._waiting import Waiting
from smtpcore._xclient import XClient
from smtpcore.sasl import Mechanism

__all__ = ["Client", "ClientSnapshot"]


@dataclass(frozen=True, slots=True)
class ClientSnapshot:
    """The state of a :class:`Client`, for comparison."""

    connection: ConnectionSnapshot
    capabilities: Capabilities
    tls: TlsInfo | None
    authenticated: bool
    #: XCLIENT commands yet to be accepted.
    introductions: int
    #: Mails that wait for their turn.
    queued: int
    #: Commands asked for and not yet answered.
    asked: int
    current: Mail | None
    #: What the driver is asked of the mail whose turn it is.
    need: NeedFacts | NeedConversion | None
    #: Mails begun and not yet reported, the current one among them.
    begun: int
    ran_ahead: bool
    reports: int
    open: bool
    quitting: bool
    ending: Disconnect | None
    over: Disconnect | None


_IDLE: Final = Idle()
_NEED_MAIL: Final = NeedMail()
_BEGIN_TLS: Final = BeginTls()
# Looking up a member of an enumeration by name costs a call; these are needed at every turn.
_MAIL: Final = Verb.MAIL
_RSET: Final = Verb.RSET
_BDAT_LAST: Final = Verb.BDAT_LAST

#: Why a session ends that cannot be opened; for other errors the peer refused.
_REASONS: Final[dict[type[SessionError], DisconnectReason]] = {
    TlsRequired: DisconnectReason.TLS,
    AuthRequired: DisconnectReason.AUTH,
    AuthExchangeFailed: DisconnectReason.AUTH,
    AuthDeclined: DisconnectReason.AUTH,
}


class Client:
    """A client's session: facts in, orders and reports out.

    ``helo_name`` is the name that EHLO gives: a domain or an address literal (RFC 5321 §4.1.1.1). ``credentials`` are
    mechanisms in order of preference; they make authentication required, and TLS too, for they are never said in clear.
    ``nonce`` makes the chance that some need (SCRAM), a new one with every call, as ``secrets.token_urlsafe`` does:
    printable ASCII without a comma. Without it they are passed over.
    ``xclient`` is the client that the session is held for; a peer that does not take all its attributes is given no
    mail. It is said within TLS where there is TLS, and before AUTH.
    ``chunking`` lets messages go in chunks where the peer offers it (RFC 3030), which saves a round trip.
    ``to_a_labels`` writes a domain beyond ASCII in A-labels, as ``idna.encode`` does, and raises ``ValueError`` where
    that cannot be: mails of which only domains are beyond ASCII then go to any peer, others need SMTPUTF8 (RFC 6531).
    ``eight_bit`` says what to do with a body that has octets above 127, or is binary, where the peer does not take it
    (RFC 6152, RFC 3030), ``long_lines`` with one that has lines of more than 998 octets. Only a driver that answers
    :class:`NeedFacts` and :class:`NeedConversion` may set them. Without them nothing is asked: long lines go as they
    are, and so does a body of which nothing is known; one that is known not to be taken is refused.

    Raises ``LocalProtocolError`` for a name, a policy or a mechanism that is none, and for credentials where TLS is
    forbidden.
    """

    def __init__(
        self,
        helo_name: str,
        *,
        protocol: Protocol = Protocol.SMTP,
        tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC,
        credentials: Sequence[Mechanism] = (),
        xclient: XClient | None = None,
        pipelining: Pipelining = Pipelining.WITHIN,
        chunking: bool = True,
        line_ends: LineEnds = LineEnds.NORMALISE,
        eight_bit: Conversion | None = None,
        long_lines: Conversion = Conversion.AS_IS,
        limits: Limits = DEFAULT_LIMITS,
        nonce: Callable[[], str] | None = None,
        to_a_labels: Callable[[str], str] | None = None,
    ) -> None:
        check_policies(protocol, tls, pipelining, line_ends, eight_bit, long_lines)
        check_kind("limits", limits, Limits)
        lmtp = protocol is Protocol.LMTP
        self._limits = limits
        self._connection = Connection(limits, implicit_tls=tls is TlsPolicy.IMPLICIT, lmtp=lmtp)
        self._orders = self._connection.orders
        self._opening = Opening(
            self._connection,
            helo_name,
            lmtp=lmtp,
            tls=tls,
            credentials=credentials,
            xclient=xclient,
            pipelining=pipelining,
            chunking=chunking,
            limits=limits,
            nonce=nonce,
        )
        self._waiting = Waiting(
            limits, one_by_one=lmtp, eight_bit=eight_bit, long_lines=long_lines, to_a_labels=to_a_labels
        )
        self._ledger = Ledger(self._connection, limits.mails_kept_back)
        self._reports = self._ledger.reports
        self._turn = Turn(self._connection, self._waiting, self._ledger, line_ends, limits)
        #: Commands that the application asked for; once said, the first of them waits for its reply.
        self._asked: deque[Command] = deque()
        self._no_mail = self._quitting = False
        self._write_failed: str | None = None
        self._last_words: Timeout | None = None
        #: What the end will be once QUIT is answered.
        self._ending: Disconnect | None = None
        self._over: Disconnect | None = None

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What the peer offers, as its last EHLO reply said; empty before, and after HELO."""
        return self._opening.offer.capabilities

    @property
    def tls(self) -> TlsInfo | None:
        """What the TLS handshake agreed on, or ``None`` in clear."""
        return self._opening.tls

    @property
    def authenticated(self) -> bool:
        """Whether the peer accepted the credentials."""
        return self._opening.authenticated

    @property
    def takes_mail_ahead(self) -> bool:
        """Whether a mail that is asked for now, while the peer is waited for, would leave as soon as it may.

        With pipelining across mails that saves the time of asking between a reply and the next command.
        """
        wanted = self._opening.across and not (self._no_mail or self._quitting or self._waiting)
        return wanted and self._ending is None and self._over is None

    @property
    def takes_file_ranges(self) -> bool:
        """Whether the body that is due may be handed in as :class:`FileRange`: it is canonical, and there is no TLS."""
        transaction = self._turn.transaction
        return transaction is not None and self._opening.tls is None and transaction.body.canonical

    @property
    def transcript(self) -> Transcript:
        """The last lines of the dialogue, secrets masked."""
        return self._connection.transcript

    def snapshot(self) -> ClientSnapshot:
        """The whole state, comparable."""
        return ClientSnapshot(
            connection=self._connection.snapshot(),
            capabilities=self.capabilities,
            tls=self._opening.tls,
            authenticated=self._opening.authenticated,
            introductions=self._opening.introductions,
            queued=len(self._waiting),
            asked=len(self._asked),
            current=None if self._turn.transaction is None else self._turn.transaction.mail,
            need=self._waiting.need,
            begun=len(self._ledger),
            ran_ahead=self._ledger.ran_ahead,
            reports=len(self._reports),
            open=self._opening.done,
            quitting=self._quitting,
            ending=self._ending,
            over=self._over,
        )

    # --- wishes ----------------------------------------------------------------------------------------------------

    def send(self, envelope: Envelope) -> Mail:
        """Ask for a mail to be sent; the handle comes back in :class:`NeedBody` and in the report.

        Raises ``LocalProtocolError`` for an envelope beyond the limits, for a domain that has no A-labels, and after
        ``quit()`` or the end of the session.
        """
        if self._quitting or self._ending is not None or self._over is not None:
            raise LocalProtocolError("the session is over, or about to be: it takes no more mail")
        mail = self._waiting.add(envelope)
        self._no_mail = False
        return mail

    def command(self, line: str, *, secret: bool = False) -> Command:
        """Ask for a command to be said, such as ``NOOP``, ``VRFY anna``, ``ETRN example.org`` or a private one.

        It is said once the session is open, between transactions, alone, and ahead of the mails that wait. Exactly one
        :class:`CommandAnswered` answers it. ``secret`` says that it holds credentials: transcripts and every ``repr``
        then show its keyword only, and not what replies echo of it. Raises ``LocalProtocolError`` for what is no single
        line, for commands that the session says itself, and after ``quit()`` or the end of the session.
        """
        if self._quitting or self._ending is not None or self._over is not None:
            raise LocalProtocolError("the session is over, or about to be: it takes no more commands")
        command = checked_command(line, self._limits, secret=secret)
        self._asked.append(command)
        return command

    def no_mail(self) -> None:
        """Answer :class:`NeedMail`: there is none at present."""
        self._no_mail = True

    def send_body(self, chunk: bytes | bytearray | memoryview | FileRange) -> None:
        """Answer :class:`NeedBody` with the next octets of the body, or with none at its end.

        Raises ``LocalProtocolError`` when no body is due, for bare CR or LF under ``LineEnds.REFUSE``, for the end of
        one that is declared canonical and does not end with CRLF, and for a range of a file that has no octets, or
        where ``takes_file_ranges`` says no.
        """
        if isinstance(chunk, FileRange):
            self._turn.take_range(chunk, in_clear=self._opening.tls is None)
        else:
            self._turn.take(bytes(chunk))

    def body_facts(self, facts: BodyFacts) -> None:
        """Answer :class:`NeedFacts` or :class:`NeedConversion`: this is what is known of the body now.

        Raises ``LocalProtocolError`` when nothing was asked, and for the facts of a body that is not in the form that
        was asked for.
        """
        self._waiting.know(facts)

    def quit(self) -> None:
        """End the session once the mails asked for are answered."""
        self._quitting = True

    def abort(self) -> None:
        """Give the session up at once; what is unanswered is answered without any further word to the peer."""
        self._fail(DisconnectReason.ABORTED, SessionAborted("the application gave the session up"))

    # --- facts -----------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Octets from the peer, in any division."""
        if self._over is None:
            self._connection.receive_data(data)

    def receive_eof(self) -> None:
        """The peer closed its side."""
        self._connection.receive_eof()

    def receive_timeout(self) -> None:
        """The deadline of the last :class:`Timeout`, or of a write, expired."""
        if self._write_failed is not None:
            self._lost()
            return
        timeout = self._connection.timeout
        what = "writing" if timeout is None or timeout.waiting_for is None else timeout.waiting_for.value
        self._fail(DisconnectReason.TIMEOUT, PeerTimeout(f"the peer was silent beyond the deadline for {what}"))

    def send_failed(self, error: Exception | str = "") -> None:
        """A write or a read failed. What the peer said before is read on briefly: its last words are the outcome.

        A second failure ends the session.
        """
        if self._write_failed is not None or self._ending is not None:
            self._lost()
            return
        self._write_failed = str(error) or "a write failed"
        self._turn.mute = True
        self._connection.drop_orders()

    def body_failed(self, error: Exception | str = "") -> None:
        """The source of the body that is due broke, or what was asked about a body cannot be answered.

        A ``BodyError`` is told as it is, another error as the cause of one. A body that goes in chunks is taken back;
        otherwise the connection is closed, for the body cannot be ended. Of a mail that was only asked about nothing
        has been said, and the session goes on.
        """
        broken = _broken_body(error)
        if self._waiting.need is not None:
            spoilt = error if isinstance(error, ConversionFailed) else broken
            self._ledger.begin(self._waiting.spoil(spoilt))
            return
        if not self._turn.break_body_off(broken):
            self._fail(DisconnectReason.BODY, SessionAborted(str(broken)))

    def tls_started(self, info: TlsInfo) -> None:
        """The handshake that :class:`BeginTls` asked for succeeded. All that was known is forgotten (RFC 3207 §4.2)."""
        try:
            self._connection.tls_started()
        except RemoteProtocolError as violation:
            self._fail(DisconnectReason.PROTOCOL, violation)
            return
        self._opening.tls_started(info)

    def tls_failed(self, error: Exception | str) -> None:
        """The handshake failed: the session is over."""
        failed = error if isinstance(error, TlsFailed) else TlsFailed(str(error))
        self._fail(DisconnectReason.TLS, failed)

    # --- the wheel -------------------------------------------------------------------------------------------------

    def next_event(self) -> Event:
        """What the driver is to do next, or what became of a mail. Never raises for anything that the peer does."""
        while True:
            if self._reports:
                return self._reports.popleft()
            if self._over is not None:
                return self._over
            if self._orders:
                return self._orders.popleft()
            if (self._connection.silent or not self._hear_next()) and not self._speak():
                return self._wait()

    def _hear_next(self) -> bool:
        """Hear the next of what the connection has heard, if there is any."""
        try:
            heard = self._connection.next_event()
        except RemoteProtocolError as violation:
            self._violated(violation)
            return True
        if heard is None:
            return False  # The connection is silent from here on.
        if not isinstance(heard, Replied):
            # The orders were taken before, so this is the end of the stream.
            self._closed_by_peer()
        elif isinstance(heard.about, Transaction) and self._ending is None:
            self._turn.hear(heard.about, heard)
            if heard.early or heard.reply.code == 421:
                self._broken_off(heard)
        else:
            self._hear(heard)
        return True

    def _wait(self) -> Event:
        if self._write_failed is not None:
            if self._last_words is None:
                timeout = self._connection.timeout
                verb = None if timeout is None else timeout.waiting_for
                self._last_words = Timeout(verb, self._limits.deadlines.last_words)
            return self._last_words
        if self._waiting.need is not None:
            return self._waiting.need
        transaction = self._turn.transaction
        if transaction is not None and self._turn.wants_body:
            return NeedBody(transaction.mail, transaction.body_offset)
        if self._connection.state is State.TLS:
            return _BEGIN_TLS
        if self._may_run_ahead:
            return _NEED_MAIL
        return self._connection.timeout or (_IDLE if self._no_mail else _NEED_MAIL)

    @property
    def _may_run_ahead(self) -> bool:
        """Whether another mail could be begun behind a message that has no verdict yet."""
        if not self._opening.across or self._no_mail or self._quitting or self._turn.transaction is not None:
            return False
        if self._waiting:
            return False
        # Behind a last chunk only RSET may follow, and MAIL behind that.
        next_verb = _RSET if self._connection.newest is _BDAT_LAST else _MAIL
        return not self._ledger.full and self._connection.can_send(next_verb)

    # --- hearing ---------------------------------------------------------------------------------------------------

    def _broken_off(self, heard: Replied) -> None:
        """The peer went, or refused a message before its end."""
        reply = heard.reply
        if reply.code == 421:
            self._refused(reply, polite=False)
        else:
            error = ServiceRefused(f"the peer refused the message before its end: {reply}", reply=reply)
            self._fail(DisconnectReason.BODY, error)

    def _hear(self, heard: Replied) -> None:
        reply = heard.reply
        verb = None if heard.command is None else heard.command.verb
        if self._ending is not None:
            self._over = replace(self._ending, clean=True)
        elif reply.code == 421:
            self._refused(reply, polite=False)
        elif isinstance(heard.about, Command):
            self._reports.append(CommandAnswered(self._asked.popleft(), reply, None))
        elif verb is Verb.HELP:
            if not self._ledger.hear_mark(reply, heard.about):
                self._lost_step(reply, verb)
        elif verb is not Verb.RSET:
            self._hear_opening(verb, reply)
        elif not reply.positive and self._ledger.ran_ahead:
            self._lost_step(reply, verb)
        elif not reply.positive:
            # Without it nothing can go on.
            self._refused(reply)

    def _hear_opening(self, verb: Verb | None, reply: Reply) -> None:
        try:
            self._opening.hear(verb, reply)
        except SessionError as error:
            self._unopened(error)

    def _unopened(self, error: SessionError) -> None:
        self._fail(_REASONS.get(type(error), DisconnectReason.REFUSED), error, polite=True)

    def _lost_step(self, reply: Reply, verb: Verb) -> None:
        error = RemoteProtocolError(f"{reply.code} is no answer to {verb.value}: {reply}", reply=reply)
        self._violated(error)

    def _violated(self, violation: RemoteProtocolError) -> None:
        if self._ledger.ran_ahead:
            transcript = violation.transcript
            violation = LostStep(
                f"the dialogue has lost step: {violation}", reply=violation.reply, transcript=transcript
            )
        self._fail(DisconnectReason.PROTOCOL, violation)

    def _refused(self, reply: Reply, *, polite: bool = True) -> None:
        self._fail(DisconnectReason.REFUSED, refusal(reply), polite=polite)

    def _closed_by_peer(self) -> None:
        if self._ending is not None:
            self._over = replace(self._ending, clean=True)
        else:
            self._lost()

    def _lost(self) -> None:
        self._fail(DisconnectReason.LOST, ConnectionLost(self._write_failed or "the peer closed the connection"))

    # --- speaking --------------------------------------------------------------------------------------------------

    def _speak(self) -> bool:
        """Say the next thing, if there is one and it may be said."""
        if self._ending is not None or self._write_failed is not None:
            return False
        if self._turn.transaction is not None:
            return self._turn.speak(self._turn.transaction, across=self._opening.across)
        if self._opening.done:
            return self._begin_mail()
        if self._quitting and not (self._waiting or self._asked) and self._say_quit():
            return True
        try:
            return self._opening.speak()
        except SessionError as error:
            self._unopened(error)
            return True

    def _say_quit(self) -> bool:
        if self._connection.in_flight or not self._connection.can_send(Verb.QUIT):
            return False
        self._connection.send(Command(Verb.QUIT, b"QUIT"))
        self._ending = Disconnect(DisconnectReason.QUIT, None, clean=False)
        return True

    def _begin_mail(self) -> bool:
        peer_limits = self._opening.peer_limits
        barred = peer_limits is not None and self._waiting.are_barred(peer_limits)
        if self._ledger.ran_ahead and self._mark_is_due(barred):
            return self._ledger.say_mark()
        if self._asked:
            return self._say_asked()
        if peer_limits is not None and barred:
            return self._end_at_limit(peer_limits)
        if not self._waiting:
            return self._quitting and self._say_quit()
        behind_chunks = self._connection.newest is _BDAT_LAST
        if behind_chunks or not self._connection.can_send(_MAIL):
            # What a failed transaction left behind is reset; the next MAIL may follow in the same group.
            left_behind = behind_chunks or self._connection.anticipated in IN_TRANSACTION
            if not (left_behind and self._connection.try_send(RSET)):
                return False
            if not self._connection.can_send(_MAIL):
                return True
        if self._waiting.again:
            self._turn.transaction = self._waiting.again.popleft()
            self._ledger.begin_again(self._turn.transaction)
            return True
        if self._ledger.full and self._connection.in_flight:
            return False
        return self._waiting.need is None and self._begin_next(peer_limits)

    def _begin_next(self, peer_limits: PeerLimits | None) -> bool:
        """Begin the mail whose turn it is, or answer it; false if something must be known or done before."""
        transaction = self._waiting.begin(self._opening.offer, peer_limits)
        if transaction is None:
            return False
        self._ledger.begin(transaction)
        if not transaction.over:
            self._turn.transaction = transaction
            self._turn.speak(transaction, across=self._opening.across)
        return True

    def _mark_is_due(self, barred: bool) -> bool:
        """Whether no next mail, or one too many, is there to prove what was heard of those before."""
        at_rest = (self._no_mail or self._quitting) and not self._waiting
        if not self._connection.in_flight:
            return at_rest or barred or bool(self._asked) or self._ledger.full
        return self._opening.offer.chunking and self._ledger.wants_mark(at_rest)

    def _say_asked(self) -> bool:
        """Say the next command that was asked for, with nothing in flight and no transaction left behind."""
        if self._connection.in_flight:
            return False
        if self._connection.anticipated in IN_TRANSACTION:
            return self._connection.try_send(RSET)
        command = self._asked[0]
        return self._connection.try_send(command, command)

    def _end_at_limit(self, limits: PeerLimits) -> bool:
        """End the session once all is heard; its owner is asked for a mail before, for he may have another wish."""
        if self._connection.in_flight or not (self._waiting or self._no_mail or self._quitting):
            return False
        if self._quitting and not self._waiting:
            return self._say_quit()
        self._fail(DisconnectReason.LIMIT, limits.reached(), polite=True)
        return True

    # --- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, reason: DisconnectReason, error: SessionError, *, polite: bool = False) -> None:
        """The session cannot go on: answer every mail, then end it; ``polite`` says QUIT first, if it may be said."""
        if self._over is not None:
            return
        if self._ending is not None:
            # All mails are answered and QUIT is said; its fate changes nothing.
            self._over = self._ending
            return
        error.transcript = error.transcript or self._connection.transcript
        # A challenge refuses nothing, a reply that broke the protocol decides nothing, and one to a body is about that
        # body only.
        reply = error.reply
        about_all = reason is not DisconnectReason.BODY and not isinstance(error, RemoteProtocolError)
        if reply is not None and (reply.positive or not about_all):
            reply = None
        self._turn.transaction = None
        self._ledger.break_off(error, reply, self._waiting.leave())
        self._reports.extend(CommandAnswered(command, None, error) for command in self._asked)
        self._asked.clear()
        end = Disconnect(reason, error, clean=False)
        self._connection.drop_orders()
        if polite and self._write_failed is None and self._say_quit():
            self._ending = end
        else:
            self._over = end


def _broken_body(error: Exception | str) -> BodyError:
    if isinstance(error, BodyError):
        return error
    broken = BodyError(f"the body could not be read: {error}")
    broken.__cause__ = error if isinstance(error, Exception) else None
    return broken
