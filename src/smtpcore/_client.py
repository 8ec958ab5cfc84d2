"""Policy: what a client says next, and what the replies meant.

What lives here: opening a session (greeting, EHLO, STARTTLS, AUTH), taking mails one after the other, ending it, and
the law of answers. What does not: what may be said (:mod:`smtpcore._connection`), and what replies mean for the
recipients of a mail (:mod:`smtpcore._transaction`).

How it works
============

``next_event()`` turns one wheel: hand out what is ready; else hear what the connection has heard; else say what may be
said next; else tell the driver what to wait for. Hearing comes before saying, so that a 421 which arrived while a
session was parked is heard before MAIL is said. Where the session stands while it opens is not stored: it follows from
the state of the connection and from what is known (capabilities, TLS, authentication).

**The law of answers:** every ``send`` is answered by exactly one report, with exactly one outcome per recipient, before
:class:`Disconnect`, whatever happens.

**Across mails**, commands of the next mail are said before the verdict on the last one has come. A peer that says one
reply too many would then give a mail the verdict of its neighbour. So what was heard while more was in flight is kept
back until a reply that cannot be mistaken stands in its place: the 354 to the next DATA, or, where none is to follow,
the reply to a HELP behind an RSET (211, 214 or 5yz, never 250). Where messages go in chunks no 354 comes, and such a
HELP is said among the mails, so that nothing stands still for it. If instead the peer breaks the protocol, the dialogue
has lost step: whatever is kept back is in doubt. Any other end of the session contradicts nothing, and what was kept
back is reported as it was heard.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from smtpcore._authentication import Authentication, check_mechanisms
from smtpcore._body import DataEncoder, LineEnds, LineNormaliser
from smtpcore._commands import checked_command
from smtpcore._connection import Connection, ConnectionSnapshot, Replied
from smtpcore._errors import (
    AuthExchangeFailed,
    AuthRequired,
    BodyError,
    ConnectionLost,
    ConversionFailed,
    EhloRequired,
    ExtensionRequired,
    LocalProtocolError,
    LostStep,
    PeerTimeout,
    RemoteProtocolError,
    ServiceRefused,
    SessionAborted,
    SessionError,
    TlsFailed,
    TlsRequired,
    XclientRequired,
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
    Report,
    Timeout,
    TlsInfo,
    Transcript,
    Verb,
)
from smtpcore._extensions import Capabilities
from smtpcore._grammar import check_host_name
from smtpcore._kinds import check_kind
from smtpcore._limits import DEFAULT_LIMITS, Limits
from smtpcore._peer_limits import PeerLimits
from smtpcore._planner import NO_OFFER, Conversion, Offer, attribute_commands, fit, in_a_labels, plan, rehearse
from smtpcore._state import State
from smtpcore._transaction import Transaction
from smtpcore._xclient import XClient
from smtpcore.sasl import Mechanism

__all__ = ["Client", "ClientSnapshot", "Conversion", "Pipelining", "Protocol", "TlsPolicy"]


class TlsPolicy(enum.Enum):
    """Whether and how a session is encrypted."""

    #: Never; STARTTLS is not said.
    NEVER = "never"
    #: STARTTLS when offered (RFC 7435).
    OPPORTUNISTIC = "opportunistic"
    #: STARTTLS, or no mail (RFC 3207 §4.1).
    REQUIRED = "required"
    #: TLS before the greeting (RFC 8314 §3.3).
    IMPLICIT = "implicit"
    #: The transport is secure already, by means that the core does not see.
    SECURED = "secured"


class Protocol(enum.Enum):
    """What is spoken."""

    SMTP = "smtp"
    #: The same with LHLO, and with a verdict on the message for each recipient (RFC 2033).
    LMTP = "lmtp"


class Pipelining(enum.Enum):
    """How far commands run ahead of their replies (RFC 2920)."""

    #: One command at a time, whatever the peer offers.
    NONE = "none"
    #: Within one mail, when the peer offers it.
    WITHIN = "within"
    #: Across mails: the commands of the next mail follow the end of data at once, so that a mail costs one round trip.
    ACROSS = "across"


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


_IN_TRANSACTION: Final = frozenset({State.MAIL, State.RCPT, State.CHUNK, State.FAILED})
_IDLE: Final = Idle()
_NEED_MAIL: Final = NeedMail()
_BEGIN_TLS: Final = BeginTls()
# Looking up a member of an enumeration by name costs a call; these are needed at every turn.
_MAIL: Final = Verb.MAIL
_RCPT: Final = Verb.RCPT
_VERDICTS: Final = frozenset({Verb.END_OF_DATA, Verb.BDAT_LAST})
_BDAT: Final = Verb.BDAT
_RSET: Final = Command(Verb.RSET, b"RSET")
_HELP: Final = Command(Verb.HELP, b"HELP")


def _introductions(xclient: XClient | None, limits: Limits) -> deque[Command]:
    """XCLIENT with all its attributes, in one command or several."""
    if xclient is None:
        return deque()
    check_kind("xclient", xclient, XClient)
    return deque(attribute_commands(Verb.XCLIENT, xclient.attributes, limits))


def _check_policies(
    protocol: Protocol,
    tls: TlsPolicy,
    pipelining: Pipelining,
    line_ends: LineEnds,
    eight_bit: Conversion | None,
    long_lines: Conversion,
) -> None:
    check_kind("protocol", protocol, Protocol)
    check_kind("tls", tls, TlsPolicy)
    check_kind("pipelining", pipelining, Pipelining)
    check_kind("line_ends", line_ends, LineEnds)
    check_kind("eight_bit", Conversion.REFUSE if eight_bit is None else eight_bit, Conversion)
    check_kind("long_lines", long_lines, Conversion)


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
        check_host_name(helo_name)
        # Text in place of a policy would be none of them, and credentials would go out in clear.
        _check_policies(protocol, tls, pipelining, line_ends, eight_bit, long_lines)
        check_kind("limits", limits, Limits)
        check_mechanisms(credentials)
        if credentials and tls is TlsPolicy.NEVER:
            raise LocalProtocolError("credentials are never said without TLS; choose another TlsPolicy", tls)
        self._helo_name = helo_name
        self._tls_policy = TlsPolicy.REQUIRED if credentials and tls is TlsPolicy.OPPORTUNISTIC else tls
        self._needs_auth = bool(credentials)
        self._pipelining = pipelining
        self._chunking = chunking
        self._to_a_labels = to_a_labels
        self._line_ends = line_ends
        self._eight_bit = eight_bit
        self._long_lines = long_lines
        self._limits = limits
        self._lmtp = protocol is Protocol.LMTP
        self._connection = Connection(limits, implicit_tls=tls is TlsPolicy.IMPLICIT, lmtp=self._lmtp)
        self._orders = self._connection.orders

        self._offer = NO_OFFER
        self._peer_limits: PeerLimits | None = None
        self._hello = Verb.LHLO if self._lmtp else Verb.EHLO
        self._tls: TlsInfo | None = None
        self._tls_given_up = tls in {TlsPolicy.NEVER, TlsPolicy.SECURED}
        self._authentication = Authentication(credentials, limits, nonce)
        #: The challenge that waits for its answer.
        self._challenge: Reply | None = None
        self._xclient = xclient
        self._introductions = _introductions(xclient, limits)
        self._open = False

        #: Mails that wait for their turn, with their envelopes and their RCPT commands as they are said.
        self._queue: deque[tuple[Mail, Envelope, list[Command]]] = deque()
        #: What must be known or done before the first of them can be begun, and the mail of which no more can be known.
        self._need: NeedFacts | NeedConversion | None = None
        self._examined: Mail | None = None
        self._transaction: Transaction | None = None
        self._across = False
        self._chunked = False
        #: Mails that need a further transaction for recipients who were put off behind their backs.
        self._again: deque[Transaction] = deque()
        #: How many mails were begun; the number of the last one that is proved by a mark, and by one that is said.
        self._number = self._proved = self._marked = 0
        #: The mails begun and not yet reported, oldest first; the current one is the last of them.
        self._begun: deque[Transaction] = deque()
        #: Whether anything was said behind a message without a verdict, and nothing unmistakable was heard since.
        self._ran_ahead = False
        self._encoder = DataEncoder(line_ends)
        self._line_normaliser = LineNormaliser(line_ends)
        self._reports: deque[Report | CommandAnswered] = deque()
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
        return self._offer.capabilities

    @property
    def tls(self) -> TlsInfo | None:
        """What the TLS handshake agreed on, or ``None`` in clear."""
        return self._tls

    @property
    def authenticated(self) -> bool:
        """Whether the peer accepted the credentials."""
        return self._authentication.succeeded

    @property
    def takes_mail_ahead(self) -> bool:
        """Whether a mail that is asked for now, while the peer is waited for, would leave as soon as it may.

        With pipelining across mails that saves the time of asking between a reply and the next command.
        """
        wanted = self._across and not (self._no_mail or self._quitting or self._queue or self._again)
        return wanted and self._ending is None and self._over is None

    @property
    def takes_file_ranges(self) -> bool:
        """Whether the body that is due may be handed in as :class:`FileRange`: it is canonical, and there is no TLS."""
        transaction = self._transaction
        return transaction is not None and self._tls is None and transaction.body.canonical

    @property
    def transcript(self) -> Transcript:
        """The last lines of the dialogue, secrets masked."""
        return self._connection.transcript

    def snapshot(self) -> ClientSnapshot:
        """The whole state, comparable."""
        return ClientSnapshot(
            connection=self._connection.snapshot(),
            capabilities=self.capabilities,
            tls=self._tls,
            authenticated=self._authentication.succeeded,
            introductions=len(self._introductions),
            queued=len(self._queue),
            asked=len(self._asked),
            current=None if self._transaction is None else self._transaction.mail,
            need=self._need,
            begun=len(self._begun),
            ran_ahead=self._ran_ahead,
            reports=len(self._reports),
            open=self._open,
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
        envelope.check_limits(self._limits)
        said = in_a_labels(envelope, self._to_a_labels) if envelope.extended else envelope
        commands = rehearse(said, self._limits)
        mail = Mail(envelope)
        self._queue.append((mail, said, commands))
        self._no_mail = False
        return mail

    def command(self, line: str) -> Command:
        """Ask for a command to be said, such as ``NOOP``, ``VRFY anna``, ``ETRN example.org`` or a private one.

        It is said once the session is open, between transactions, alone, and ahead of the mails that wait. Exactly one
        :class:`CommandAnswered` answers it. Raises ``LocalProtocolError`` for what is no single line, for commands that
        the session says itself, and after ``quit()`` or the end of the session.
        """
        if self._quitting or self._ending is not None or self._over is not None:
            raise LocalProtocolError("the session is over, or about to be: it takes no more commands")
        command = checked_command(line, self._limits)
        self._asked.append(command)
        return command

    def no_mail(self) -> None:
        """Answer :class:`NeedMail`: there is none at present."""
        self._no_mail = True

    def send_body(self, chunk: bytes | bytearray | memoryview | FileRange) -> None:
        """Answer :class:`NeedBody` with the next octets of the body, or with none at its end.

        Raises ``LocalProtocolError`` when no body is due, for bare CR or LF under ``LineEnds.REFUSE``, and for a range
        of a file that has no octets, or where ``takes_file_ranges`` says no.
        """
        data = chunk if isinstance(chunk, FileRange) else bytes(chunk)
        transaction = self._body_due(at_end=not data)
        if isinstance(data, FileRange):
            self._take_range(transaction, data)
            return
        canonical = transaction.body.canonical
        if transaction.chunked:
            self._take_chunk(transaction, data, canonical)
            return
        if not data:
            self._connection.end_data(b".\r\n" if canonical else self._encoder.end())
            transaction.end_body()
            return
        encoded = data if canonical else self._encoder.feed(data)
        transaction.body_offset += len(data)
        if encoded:
            self._connection.send_data(encoded)

    def _take_range(self, transaction: Transaction, data: FileRange) -> None:
        if not self.takes_file_ranges:
            raise LocalProtocolError("a range of a file stands for a canonical body, where nothing encrypts it", data)
        if not data:
            raise LocalProtocolError("the range of a file is empty: the end of a body is said without one", data)
        if transaction.chunked:
            transaction.add_chunk(data)
        else:
            self._connection.send_data(data)
        transaction.body_offset += data.octets

    def body_facts(self, facts: BodyFacts) -> None:
        """Answer :class:`NeedFacts` or :class:`NeedConversion`: this is what is known of the body now.

        Raises ``LocalProtocolError`` when nothing was asked, and for the facts of a body that is not in the form that
        was asked for.
        """
        need = self._need
        if need is None:
            raise LocalProtocolError("no facts are due")
        if isinstance(need, NeedConversion):
            too_long = facts.long_lines is not False and not need.form.long_lines
            if facts.binary or too_long or (facts.eight_bit is not False and not need.form.eight_bit):
                raise LocalProtocolError("the body is not in the form that was asked for", facts)
        mail, said, commands = self._queue.popleft()
        self._queue.appendleft((mail, replace(said, body=facts), commands))
        self._examined = mail
        self._need = None

    def _take_chunk(self, transaction: Transaction, data: bytes, canonical: bool) -> None:
        if not transaction.body_offset:
            self._line_normaliser = LineNormaliser(self._line_ends)
        if data:
            transaction.add_chunk(data if canonical else self._line_normaliser.feed(data))
            transaction.body_offset += len(data)
        else:
            transaction.end_chunks(b"" if canonical else self._line_normaliser.end())

    def _body_due(self, *, at_end: bool = False) -> Transaction:
        transaction = self._transaction
        if transaction is not None and self._write_failed is None:
            ends = at_end and transaction.chunked and transaction.takes_end
            if ends or self._wants_body(transaction):
                return transaction
        raise LocalProtocolError("no body is due")

    def _wants_body(self, transaction: Transaction) -> bool:
        if transaction.chunked:
            return transaction.wants_chunk(self._limits) and self._connection.can_send(_BDAT)
        return self._connection.body_open

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
        self._connection.drop_orders()

    def body_failed(self, error: Exception | str = "") -> None:
        """The source of the body that is due broke, or what was asked about a body cannot be answered.

        A body that goes in chunks is taken back; otherwise the connection is closed, for the body cannot be ended. Of a
        mail that was only asked about nothing has been said, and the session goes on.
        """
        broken = BodyError(f"the body could not be read: {error}")
        broken.__cause__ = error if isinstance(error, Exception) else None
        if self._need is not None:
            self._pass_over(error if isinstance(error, ConversionFailed) else broken)
            return
        transaction = self._body_due()
        if transaction.chunked:
            transaction.break_body_off(broken)
            return
        transaction.break_off(broken, None)
        self._fail(DisconnectReason.BODY, SessionAborted(str(broken)))

    def tls_started(self, info: TlsInfo) -> None:
        """The handshake that :class:`BeginTls` asked for succeeded. All that was known is forgotten (RFC 3207 §4.2)."""
        try:
            self._connection.tls_started()
        except RemoteProtocolError as violation:
            self._fail(DisconnectReason.PROTOCOL, violation)
            return
        self._tls = info
        self._forget_offer()

    def _forget_offer(self) -> None:
        """What the peer offers is to be asked for anew."""
        self._offer = NO_OFFER
        self._peer_limits = None
        self._hello = Verb.LHLO if self._lmtp else Verb.EHLO

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
            try:
                heard = self._connection.next_event()
            except RemoteProtocolError as violation:
                self._violated(violation)
                continue
            if heard is None:
                if not self._speak():
                    return self._wait()
            elif isinstance(heard, Replied):
                if isinstance(heard.about, Transaction) and self._ending is None:
                    self._hear_transaction(heard.about, heard)
                else:
                    self._hear(heard)
            else:
                # The orders are taken above, so this is the end of the stream.
                self._closed_by_peer()

    def _wait(self) -> Event:
        if self._write_failed is not None:
            if self._last_words is None:
                timeout = self._connection.timeout
                verb = None if timeout is None else timeout.waiting_for
                self._last_words = Timeout(verb, self._limits.deadlines.last_words)
            return self._last_words
        if self._need is not None:
            return self._need
        transaction = self._transaction
        if transaction is not None and self._wants_body(transaction):
            return NeedBody(transaction.mail, transaction.body_offset)
        if self._connection.state is State.TLS:
            return _BEGIN_TLS
        timeout = self._connection.timeout
        if timeout is not None:
            return _NEED_MAIL if self._may_run_ahead else timeout
        return _IDLE if self._no_mail else _NEED_MAIL

    @property
    def _may_run_ahead(self) -> bool:
        """Whether another mail could be begun behind a message that has no verdict yet."""
        if not self._across or self._no_mail or self._quitting or self._transaction is not None:
            return False
        if self._queue or self._again:
            return False
        return not self._many_kept_back and (self._connection.can_send(_MAIL) or self._chunk_is_last)

    @property
    def _chunk_is_last(self) -> bool:
        """Whether a last chunk is the last that was said: only RSET may follow it, and MAIL behind that."""
        return self._chunked and bool(self._connection.in_flight) and self._connection.can_send(Verb.RSET)

    @property
    def _many_kept_back(self) -> bool:
        return len(self._begun) >= self._limits.mails_kept_back

    # --- hearing ---------------------------------------------------------------------------------------------------

    def _hear(self, heard: Replied) -> None:
        reply = heard.reply
        verb = None if heard.command is None else heard.command.verb
        if self._ending is not None:
            self._over = replace(self._ending, clean=True)
        elif reply.code == 421:
            self._refused(reply, polite=False)
        elif isinstance(heard.about, Command):
            self._reports.append(CommandAnswered(self._asked.popleft(), reply, None))
        elif verb is Verb.EHLO or verb is Verb.LHLO:
            self._hear_ehlo(reply)
        elif verb is Verb.STARTTLS:
            self._hear_starttls(reply)
        elif verb in {Verb.AUTH, Verb.AUTH_ANSWER}:
            self._hear_auth(reply)
        elif verb is Verb.XCLIENT:
            self._hear_xclient(reply)
        elif verb is Verb.HELP:
            self._hear_mark(reply, heard.about)
        elif reply.positive:
            return
        elif verb is Verb.RSET and self._ran_ahead:
            self._lost_step(reply, verb)
        else:
            # The greeting, HELO or RSET: without it nothing can go on.
            self._refused(reply)

    def _hear_mark(self, reply: Reply, about: object) -> None:
        """The reply to the HELP that asks whether the dialogue is in step."""
        if reply.code not in {211, 214} and not reply.permanent:
            self._lost_step(reply, Verb.HELP)
        elif not self._connection.in_flight:
            self._in_step()
        else:
            assert isinstance(about, int)
            self._proved = about
            self._report()

    def _lost_step(self, reply: Reply, verb: Verb) -> None:
        error = RemoteProtocolError(f"{reply.code} is no answer to {verb.value}: {reply}", reply=reply)
        self._violated(error)

    def _violated(self, violation: RemoteProtocolError) -> None:
        if self._ran_ahead:
            transcript = violation.transcript
            violation = LostStep(
                f"the dialogue has lost step: {violation}", reply=violation.reply, transcript=transcript
            )
        self._fail(DisconnectReason.PROTOCOL, violation)

    def _in_step(self) -> None:
        """A reply that cannot be mistaken has come in its place: what was heard before is true."""
        self._ran_ahead = False
        self._report()

    def _hear_ehlo(self, reply: Reply) -> None:
        if reply.positive:
            capabilities = Capabilities.from_reply(reply)
            offered = "PIPELINING" in capabilities
            self._connection.allow_pipelining(offered and self._pipelining is not Pipelining.NONE)
            self._across = offered and self._pipelining is Pipelining.ACROSS
            self._chunked = self._chunking and "CHUNKING" in capabilities
            self._peer_limits = PeerLimits.announced(capabilities)
            verified = self._tls is not None and self._tls.verified
            self._offer = Offer(capabilities=capabilities, chunking=self._chunked, tls_verified=verified)
        elif not reply.permanent or self._lmtp:
            self._refused(reply)
        elif self._needs_ehlo:
            self._fail(
                DisconnectReason.REFUSED,
                EhloRequired(f"TLS, AUTH or XCLIENT needs EHLO, and the peer refused it: {reply}", reply=reply),
                polite=True,
            )
        else:
            self._hello = Verb.HELO

    @property
    def _needs_ehlo(self) -> bool:
        return self._tls_policy is TlsPolicy.REQUIRED or self._needs_auth or self._xclient is not None

    def _hear_starttls(self, reply: Reply) -> None:
        if reply.positive:
            return
        if self._tls_policy is TlsPolicy.REQUIRED:
            self._fail(
                DisconnectReason.TLS,
                TlsRequired(f"TLS is required, and the peer refused STARTTLS: {reply}", reply=reply),
                polite=True,
            )
        self._tls_given_up = True

    def _hear_xclient(self, reply: Reply) -> None:
        if reply.positive:
            self._introductions.popleft()
            self._connection.allow_pipelining(False)
            self._forget_offer()
        else:
            error = XclientRequired(f"the peer refused XCLIENT: {reply}", reply=reply)
            self._fail(DisconnectReason.REFUSED, error, polite=True)

    def _refused(self, reply: Reply, *, polite: bool = True) -> None:
        error = ServiceRefused(f"the peer refuses service: {reply}", reply=reply)
        self._fail(DisconnectReason.REFUSED, error, polite=polite)

    def _closed_by_peer(self) -> None:
        if self._ending is not None:
            self._over = replace(self._ending, clean=True)
        else:
            self._lost()

    def _lost(self) -> None:
        self._fail(DisconnectReason.LOST, ConnectionLost(self._write_failed or "the peer closed the connection"))

    # --- authentication (RFC 4954) ---------------------------------------------------------------------------------

    def _hear_auth(self, reply: Reply) -> None:
        if self._connection.state is State.AUTH:
            self._challenge = reply
        elif (error := self._authentication.conclude(reply)) is not None:
            self._fail(DisconnectReason.AUTH, error, polite=True)

    def _say_answer(self, challenge: Reply) -> bool:
        """Answer a challenge, once nothing more has come behind it."""
        if not self._connection.can_send(Verb.AUTH_ANSWER):
            return False
        self._challenge = None
        try:
            self._connection.send(self._authentication.answer(challenge))
        except AuthExchangeFailed as error:
            self._fail(DisconnectReason.AUTH, error)
        return True

    def _say_auth(self) -> None:
        try:
            end_point = None if self._tls is None else self._tls.server_end_point
            self._connection.send(self._authentication.begin(self.capabilities.auth_mechanisms, end_point))
        except (AuthRequired, AuthExchangeFailed) as error:
            self._fail(DisconnectReason.AUTH, error, polite=True)

    # --- speaking --------------------------------------------------------------------------------------------------

    def _speak(self) -> bool:
        """Say the next thing, if there is one and it may be said."""
        if self._ending is not None or self._write_failed is not None:
            return False
        if self._challenge is not None:
            return self._say_answer(self._challenge)
        if self._transaction is not None:
            return self._say_of(self._transaction)
        if self._open:
            return self._begin_mail()
        if self._quitting and not (self._queue or self._asked):
            return self._say_quit()
        return self._say_opening()

    def _say_opening(self) -> bool:
        """One step from the greeting to the first mail."""
        if self._connection.can_send(self._hello) and self._connection.state is State.GREETED:
            self._connection.send(Command(self._hello, f"{self._hello.value} {self._helo_name}".encode("ascii")))
        elif not self._connection.can_send(Verb.MAIL):
            return False
        elif self._tls is None and not self._tls_given_up:
            self._say_starttls()
        elif self._introductions:
            self._say_xclient()
        elif self._needs_auth and not self._authentication.succeeded:
            self._say_auth()
        else:
            self._open = True
        return True

    def _say_starttls(self) -> None:
        if "STARTTLS" in self.capabilities:
            self._connection.send(Command(Verb.STARTTLS, b"STARTTLS"))
        elif self._tls_policy is TlsPolicy.REQUIRED:
            error = TlsRequired("TLS is required, and the peer does not offer STARTTLS")
            self._fail(DisconnectReason.TLS, error, polite=True)
        else:
            self._tls_given_up = True

    def _say_xclient(self) -> None:
        """Say for whom the session is held, whole or not at all: what were left out would be this client's own."""
        assert self._xclient is not None
        taken = {keyword.upper() for keyword in self.capabilities.extensions.get("XCLIENT", ())}
        missing = [keyword for keyword, _ in self._xclient.attributes if keyword not in taken]
        if missing:
            error = XclientRequired(f"the peer does not offer XCLIENT with {' '.join(missing)}")
            self._fail(DisconnectReason.REFUSED, error, polite=True)
        else:
            self._connection.send(self._introductions[0])

    def _say_quit(self) -> bool:
        if self._connection.in_flight or not self._connection.can_send(Verb.QUIT):
            return False
        self._connection.send(Command(Verb.QUIT, b"QUIT"))
        self._ending = Disconnect(DisconnectReason.QUIT, None, clean=False)
        return True

    def _begin_mail(self) -> bool:
        if self._ran_ahead and self._mark_is_due:
            return self._say_mark()
        if self._asked:
            return self._say_asked()
        if self._peer_limits is not None and self._at_limit(self._peer_limits):
            return self._end_at_limit(self._peer_limits)
        if not (self._queue or self._again):
            return self._quitting and self._say_quit()
        if not self._connection.can_send(_MAIL):
            # What a failed transaction left behind is reset; the next MAIL may follow in the same group.
            left_behind = self._chunk_is_last or self._connection.anticipated in _IN_TRANSACTION
            return left_behind and self._connection.try_send(_RSET)
        if self._again:
            self._transaction = self._again.popleft()
            self._number += 1
            self._transaction.number = self._number
            # Behind an RSET, with no other mail begun, nothing runs ahead of a verdict.
            self._ran_ahead = self._ran_ahead or bool(self._connection.in_flight and len(self._begun) > 1)
            return True
        if self._many_kept_back and self._connection.in_flight:
            return False
        return self._need is None and self._plan_mail()

    def _plan_mail(self) -> bool:
        """Begin the mail whose turn it is, or pass it over; false if something must be known or done before."""
        mail, said, commands = self._queue[0]
        body = fit(said.body, self._offer, self._eight_bit, self._long_lines, asked=self._examined is mail)
        if isinstance(body, ExtensionRequired):
            self._pass_over(body)
            return True
        if isinstance(body, BodyFacts):
            need, planned_with = None, body
        else:
            need = NeedFacts(mail) if body is None else NeedConversion(mail, body)
            # What refuses the mail whatever becomes of its body does so before anybody takes pains with that.
            planned_with = BodyFacts(eight_bit=False, utf8_header=said.body.utf8_header)
        if planned_with is not said.body:
            said = replace(said, body=planned_with)
        planned = plan(said, commands, self._offer, self._limits)
        if isinstance(planned, ExtensionRequired):
            self._pass_over(planned)
            return True
        if need is not None:
            self._need = need
            return False
        self._queue.popleft()
        self._number += 1
        opening, commands = planned
        transaction = Transaction(mail, commands, self._number, planned_with)
        transaction.one_by_one = self._lmtp
        if self._peer_limits is not None:
            transaction.bound(self._peer_limits)
        transaction.begin(opening, chunked=self._chunked)
        self._transaction = transaction
        self._ran_ahead = self._ran_ahead or bool(self._connection.in_flight and self._begun)
        self._begun.append(transaction)
        self._report()
        return True

    def _pass_over(self, error: ExtensionRequired | BodyError) -> None:
        """The mail whose turn it is cannot be said to this peer, or not now: nothing is said of it."""
        mail, _, commands = self._queue.popleft()
        self._number += 1
        self._need = None
        transaction = Transaction(mail, commands, self._number)
        if isinstance(error, ExtensionRequired):
            transaction.refuse(error)
        else:
            transaction.spoil(error)
        self._begun.append(transaction)
        self._report()

    def _say_asked(self) -> bool:
        """Say the next command that was asked for, with nothing in flight and no transaction left behind."""
        if self._connection.in_flight:
            return False
        if self._connection.anticipated in _IN_TRANSACTION:
            return self._connection.try_send(_RSET)
        command = self._asked[0]
        return self._connection.try_send(command, command)

    def _at_limit(self, limits: PeerLimits) -> bool:
        """Whether the peer takes no further mail, or not the one that is next."""
        if self._again:
            return False
        return limits.used_up or (bool(self._queue) and not limits.takes_one_of(self._queue[0][0].envelope.recipients))

    def _end_at_limit(self, limits: PeerLimits) -> bool:
        """End the session once all is heard; its owner is asked for a mail before, for he may have another wish."""
        if self._connection.in_flight or not (self._queue or self._no_mail or self._quitting):
            return False
        if self._quitting and not self._queue:
            return self._say_quit()
        self._fail(DisconnectReason.LIMIT, limits.reached(), polite=True)
        return True

    @property
    def _mark_is_due(self) -> bool:
        """Whether no next mail, or one too many, is there to prove what was heard of those before."""
        at_rest = not (self._queue or self._again) and (self._no_mail or self._quitting)
        if not self._connection.in_flight:
            at_limit = self._peer_limits is not None and self._at_limit(self._peer_limits)
            return at_rest or at_limit or self._many_kept_back or bool(self._asked)
        # Chunks go on and on: half of what may be kept back is asked for while the other half is on its way.
        unmarked = self._number - self._marked
        return self._chunked and unmarked * 2 >= (1 if at_rest else self._limits.mails_kept_back)

    def _say_mark(self) -> bool:
        """Ask what no reply to another command answers: HELP, behind an RSET whose 250 would be out of place."""
        said = self._connection.try_send(_RSET)
        if said and self._connection.try_send(_HELP, self._number):
            self._marked = self._number
        return said

    def _say_of(self, transaction: Transaction) -> bool:
        said = False
        while (command := transaction.next_command) is not None and self._connection.try_send(command, transaction):
            transaction.said()
            said = True
        while (chunk := transaction.next_chunk) is not None:
            data, last = chunk
            if not self._connection.try_send_chunk(data, last=last, about=transaction):
                break
            transaction.said_chunk(last=last)
            said = True
        if said:
            return True
        if self._across and transaction.may_be_left:
            self._transaction = None
            return True
        if not self._connection.quiet or self._wants_body(transaction):
            # A line that has begun to arrive may become a 421: nothing is over before it is heard.
            return False
        self._transaction_over(transaction)
        return True

    # --- transactions ----------------------------------------------------------------------------------------------

    def _hear_transaction(self, transaction: Transaction, heard: Replied) -> None:
        verb = None if heard.command is None else heard.command.verb
        reply = heard.reply
        if verb in _VERDICTS:
            self._hear_verdict(transaction, heard)
        elif verb is _BDAT:
            transaction.chunk_reply(reply)
            if reply.code == 421:
                self._refused(reply, polite=False)
        elif reply.code == 421:
            self._refused(reply, polite=False)
        elif verb is _RCPT:
            transaction.rcpt_reply(reply)
        elif verb is _MAIL:
            transaction.mail_reply(reply)
        elif reply.code == 354:
            self._begin_body(transaction)
        elif verb is Verb.DATA:
            transaction.data_refused(reply)
        # What is left answers XFORWARD, and changes nothing for the mail.

    def _begin_body(self, transaction: Transaction) -> None:
        self._in_step()
        transaction.begin_body()
        self._encoder = DataEncoder(self._line_ends)
        if not transaction.accepted and self._write_failed is None:
            # RFC 2920 §3.1: DATA was said ahead, nobody was accepted, and 354 came nevertheless.
            self._connection.end_data(b".\r\n")

    def _hear_verdict(self, transaction: Transaction, heard: Replied) -> None:
        if heard.early:
            transaction.data_refused(heard.reply)
        else:
            transaction.verdict(heard.reply)
        if transaction is not self._transaction and not heard.more:
            if transaction.begin_again():
                self._again.append(transaction)
            else:
                transaction.over = True
                self._report()
        if heard.reply.code == 421:
            self._refused(heard.reply, polite=False)
        elif heard.early:
            error = ServiceRefused(f"the peer refused the message before its end: {heard.reply}", reply=heard.reply)
            self._fail(DisconnectReason.BODY, error)

    def _transaction_over(self, transaction: Transaction) -> None:
        if not transaction.begin_again():
            if transaction.leaves_attributes:
                self._connection.try_send(_RSET)
            transaction.over = True
            self._transaction = None
            self._report()
        elif self._connection.anticipated in _IN_TRANSACTION:
            # What is left behind is reset first.
            self._again.append(transaction)
            self._transaction = None

    def _report(self) -> None:
        """Report what is over and in no doubt, in the order of the mails."""
        while self._begun and self._begun[0].over and (not self._ran_ahead or self._begun[0].number <= self._proved):
            self._reports.append(self._begun.popleft().report(self._connection.transcript))

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
        self._break_off(error, reply)
        end = Disconnect(reason, error, clean=False)
        self._connection.drop_orders()
        if polite and self._write_failed is None and self._say_quit():
            self._ending = end
        else:
            self._over = end

    def _break_off(self, error: SessionError, reply: Reply | None) -> None:
        """Answer every mail: those that are over as they are, unless the dialogue lost step behind them."""
        # A peer that says 421 does nothing of what it was sent behind the command that it answers so.
        going = reply is not None and reply.code == 421
        doubtful = set[int]() if going else {id(transaction) for transaction in self._connection.in_doubt}
        lost_step = isinstance(error, LostStep)
        self._transaction = self._need = None
        self._ran_ahead = False
        self._begun.extend(Transaction(mail, commands) for mail, _, commands in self._queue)
        self._queue.clear()
        self._again.clear()
        for transaction in self._begun:
            if lost_step:
                transaction.lose_step(error)
            if not transaction.over:
                transaction.break_off(error, reply, id(transaction) in doubtful)
        self._report()
        self._reports.extend(CommandAnswered(command, None, error) for command in self._asked)
        self._asked.clear()
