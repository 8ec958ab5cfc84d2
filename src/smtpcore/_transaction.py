"""One mail on its way: its transactions, and the outcome of each recipient.

What lives here: what a reply to MAIL, RCPT, DATA or the end of data means for the recipients of one mail, and the
report at the end. What does not: when a command is said (:mod:`smtpcore._turn`), and whether it may be
(:mod:`smtpcore._connection`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from smtpcore._errors import BodyNotRepeatable, RemoteProtocolError, SmtpError
from smtpcore._events import (
    BodyFacts,
    Command,
    FileRange,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    Reply,
    Report,
    Stage,
    Transcript,
    Verb,
    Verdict,
)
from smtpcore._limits import Limits
from smtpcore._peer_limits import PeerLimits

__all__ = ["Transaction"]


_DATA: Final = Command(Verb.DATA, b"DATA")

#: Lines that are kept of a reply which is for one recipient: there may be thousands of them in one mail.
_KEPT_LINES: Final = 16


def _kept(reply: Reply) -> Reply:
    """A reply for one of many recipients, as much of it as is kept for its outcome."""
    return reply if len(reply.lines) <= _KEPT_LINES else Reply(reply.code, (*reply.lines[:_KEPT_LINES], "..."))


def _host_fault(reply: Reply) -> bool:
    """Whether a refusal of MAIL is about this client and not about the mail: 530 and 53x (RFC 4954 §6)."""
    return 530 <= reply.code <= 539


def _too_many(reply: Reply) -> bool:
    """Whether a refusal of RCPT may mean "no more in this transaction" (RFC 5321 §4.5.3.1.10)."""
    return reply.code in {452, 552}


class Transaction:
    """The current mail transaction of one mail, and what earlier transactions of the same mail brought.

    A mail needs a further transaction when the peer took some recipients and put the rest off as too many at once, and
    when it announced that it takes fewer at a time than there are.
    """

    __slots__ = (
        "_accepted",
        "_answered",
        "_barred",
        "_body_begun",
        "_body_error",
        "_chunk_refusal",
        "_chunks",
        "_chunks_unanswered",
        "_commands",
        "_complete",
        "_ended",
        "_opening",
        "_outcomes",
        "_peer_limits",
        "_put_off",
        "_rcpt_commands",
        "_recipients",
        "_reply",
        "_said",
        "_stage",
        "_verdicts",
        "_waiting",
        "body",
        "body_offset",
        "chunked",
        "mail",
        "number",
        "one_by_one",
        "over",
        "refused",
    )

    def __init__(self, mail: Mail, rcpt_commands: Sequence[Command], body: BodyFacts | None = None) -> None:
        self.mail = mail
        #: What is known of the body that is sent, which may be another than the one that was asked for.
        self.body = mail.envelope.body if body is None else body
        #: Its place among the mails of the session.
        self.number = 0
        #: Whether the body goes in chunks, and whether there is a verdict for each recipient (LMTP).
        self.chunked = False
        self.one_by_one = False
        #: MAIL, and what comes before it.
        self._opening: Sequence[Command] = ()
        self._rcpt_commands = rcpt_commands
        self._outcomes: list[Outcome | None] = [None] * len(rcpt_commands)
        self._reply: Reply | None = None
        self._stage = Stage.NOT_STARTED
        #: Whether every recipient has its outcome.
        self.over = False
        #: The recipients of this transaction, and those that are left for further ones, where the peer has limits.
        self._recipients: Sequence[int] = range(len(rcpt_commands))
        self._waiting: Sequence[int] = ()
        #: Those of this transaction whom the session takes no more.
        self._barred: Sequence[int] = ()
        self._peer_limits: PeerLimits | None = None
        self._begin()

    def _begin(self) -> None:
        self._commands: list[Command] = []
        #: How many of the commands are said, and how many of the recipients are answered.
        self._said = 0
        self._answered = 0
        self._accepted: list[int] = []
        #: How many of those have their verdict, where there is one for each.
        self._verdicts = 0
        self._put_off: list[tuple[int, Reply]] = []
        #: Octets of the body handed in so far, in this transaction.
        self.body_offset = 0
        self._body_begun = False
        self._ended = False
        #: Chunks that are handed in and not said; whether there are no more; and why the body cannot be had.
        self._chunks: deque[bytes | FileRange] = deque()
        self._complete = False
        self._body_error: SmtpError | None = None
        self._chunk_refusal: Reply | None = None
        self._chunks_unanswered = 0
        #: Whether MAIL was refused: nothing more is said, and what is in flight answers itself.
        self.refused = False

    def bound(self, peer_limits: PeerLimits) -> None:
        """Say no more, in this transaction and in all further ones, than the peer announced that it takes."""
        self._peer_limits = peer_limits
        self._choose(self._recipients, peer_limits)

    def _choose(self, candidates: Sequence[int], peer_limits: PeerLimits) -> None:
        self._recipients, self._waiting, self._barred = peer_limits.choose(candidates, self.mail.envelope.recipients)
        if self._barred:
            self._later(self._barred, peer_limits.reached())

    def _later(self, recipients: Sequence[int], error: SmtpError) -> None:
        for index in recipients:
            self._outcomes[index] = Outcome(self.mail.envelope.recipients[index], Verdict.LATER, None, error)

    def begin(self, opening: Sequence[Command], *, chunked: bool) -> None:
        """Make ready to speak, once it is known what the peer offers; ``chunked`` says that the body goes in chunks.

        ``opening`` is MAIL, behind what is said of the mail before it.
        """
        self._opening = opening
        self.chunked = chunked
        self._commands = [*opening, *(self._rcpt_commands[index] for index in self._recipients)]
        if not chunked:
            self._commands.append(_DATA)

    # --- what comes next -------------------------------------------------------------------------------------------

    def say_commands(self, try_send: Callable[[Command, object], bool]) -> bool:
        """Say what comes before the body, as much of it as may be said; returns whether anything was."""
        commands = self._commands
        before = said = self._said
        if said == len(commands):
            return False
        while said < len(commands) and not self.refused and try_send(commands[said], self):
            said += 1
        self._said = said
        if not self._stage and said >= len(self._opening):
            self._stage = Stage.STARTED
        return said > before

    @property
    def accepted(self) -> bool:
        """Whether a recipient of this transaction was accepted, so that its body is worth sending."""
        return bool(self._accepted)

    # --- a body in chunks ------------------------------------------------------------------------------------------

    @property
    def takes_end(self) -> bool:
        """Whether the end of the body may be handed in: behind its octets at any time."""
        return self._body_begun and not self._complete and self._goes_on

    def wants_chunk(self, limits: Limits) -> bool:
        """Whether the next chunk is to be handed in.

        A body of one piece does not wait for the replies to RCPT; of a larger one no octet is said in vain.
        """
        if self._body_begun:
            return self.takes_end and len(self._chunks) < 2 and self._chunks_unanswered < limits.chunks_in_flight
        if self._said < len(self._commands) or self._complete or not self._goes_on:
            return False
        if self._answered < len(self._recipients):
            size = self.body.size
            return size is not None and size <= limits.body_chunk
        return bool(self._accepted)

    @property
    def _goes_on(self) -> bool:
        if self.refused or self._chunk_refusal is not None or self._body_error is not None:
            return False
        return self._answered < len(self._recipients) or bool(self._accepted)

    def add_chunk(self, data: bytes | FileRange) -> None:
        """Take the next octets of the body; one chunk waits for the next, for the last one is said to be the last."""
        self._body_begun = True
        if data:
            self._chunks.append(data)

    def end_chunks(self, data: bytes) -> None:
        """Note that nothing more is handed in; ``data`` completes the last line."""
        self._body_begun = self._complete = True
        if data:
            # A line that is not complete is in a chunk that waits; ranges of files are complete as they are.
            incomplete = self._chunks.pop()
            assert isinstance(incomplete, bytes)
            self._chunks.append(incomplete + data)

    @property
    def next_chunk(self) -> tuple[bytes | FileRange, bool] | None:
        """The chunk that comes next and whether it is the last one, or ``None`` if none can be said."""
        if self._ended or not (self._chunks or self._complete) or not self._goes_on:
            return None
        if len(self._chunks) > 1:
            return self._chunks[0], False
        if self._complete:
            return (self._chunks[0] if self._chunks else b""), True
        return None

    def said_chunk(self, *, last: bool) -> None:
        """Note that the next chunk is said."""
        self._body_begun = True
        self._chunks_unanswered += 1
        if self._chunks:
            self._chunks.popleft()
        self._ended = last
        self._stage = Stage.BODY_ENDED if last else max(self._stage, Stage.BODY_BEGUN)

    def chunk_reply(self, reply: Reply) -> None:
        """The reply to a chunk that is not the last."""
        self._chunks_unanswered -= 1
        if not reply.positive and self._chunk_refusal is None:
            self._chunk_refusal = reply

    def break_body_off(self, error: SmtpError) -> None:
        """The body cannot be had: what was said of it is to be forgotten by the peer."""
        self._body_error = error

    # ---------------------------------------------------------------------------------------------------------------

    def begin_body(self) -> None:
        self._body_begun = True
        self._stage = max(self._stage, Stage.BODY_BEGUN)

    def end_body(self) -> None:
        self._ended = True
        self._stage = Stage.BODY_ENDED

    @property
    def leaves_attributes(self) -> bool:
        """Whether what was said before MAIL may still stand for the next mail: none was begun that would end it."""
        return self.refused and len(self._opening) > 1

    @property
    def may_be_left(self) -> bool:
        """Whether only the verdict on the message is open, and no further transaction can follow."""
        return self._ended and not (self._put_off or self._waiting)

    def begin_again(self) -> bool:
        """Begin a further transaction for the recipients that are left; false if there are none.

        For those that were put off, only after a transaction that brought its body over: each further transaction then
        settles at least one recipient. A body that was begun must be one that can be read again.
        """
        recipients = self._left() if self._put_off or self._waiting else ()
        self._close()
        if not recipients:
            return False
        if self._peer_limits is None:
            self._recipients = recipients
        else:
            self._choose(recipients, self._peer_limits)
        self._begin()
        self.begin(self._opening, chunked=self.chunked)
        return True

    def _left(self) -> Sequence[int]:
        """Whom a further transaction is for; of those that none can be for it is decided here."""
        waiting, self._waiting = self._waiting, ()
        if self._body_error is not None:
            return ()
        if self._peer_limits is not None and self._peer_limits.used_up:
            self._later(waiting, self._peer_limits.reached())
            return ()
        repeatable = self.body.repeatable
        if self._body_begun and not repeatable:
            self._later(
                waiting, BodyNotRepeatable("left out: the peer takes fewer recipients at a time than there are")
            )
            return ()
        if repeatable and self._delivered():
            return [*(index for index, _ in self._put_off), *waiting]
        self._put_off_later()
        return waiting

    def _close(self) -> None:
        """Decide for those whose message was broken off in the middle, by the peer or by its source."""
        self._decide_by_chunk()
        if self._body_error is not None:
            self.break_off(self._body_error, None)

    def _decide_by_chunk(self) -> None:
        """A refused chunk refuses the message, once it is known that the peer did not take it nevertheless."""
        if self._chunk_refusal is not None:
            self._decide([index for index in self._accepted if self._outcomes[index] is None], self._chunk_refusal)

    def _delivered(self) -> bool:
        return any((o := self._outcomes[i]) is not None and o.verdict is Verdict.DELIVERED for i in self._accepted)

    # --- what replies mean -----------------------------------------------------------------------------------------

    def mail_reply(self, reply: Reply) -> None:
        if not reply.positive:
            self.refused = True
            self._decide([*self._recipients, *self._waiting, *self._barred], reply, may_be_never=not _host_fault(reply))
            self._waiting = ()

    def rcpt_reply(self, reply: Reply) -> None:
        """The reply to the next RCPT that has none."""
        index = self._recipients[self._answered]
        self._answered += 1
        if self.refused:
            return
        if reply.code < 400:
            self._accepted.append(index)
        elif self._accepted and _too_many(reply):
            self._put_off.append((index, _kept(reply)))
        else:
            self._decide([index], _kept(reply))

    def data_refused(self, reply: Reply) -> None:
        """The reply to DATA, where it is a refusal."""
        if not self.refused:
            self._decide(self._accepted, reply)

    def verdict(self, reply: Reply) -> None:
        """The verdict on the message, for all who were accepted or, one by one, for the next of them."""
        if self.refused or self._chunk_refusal is not None:
            return
        accepted: Sequence[int] = self._accepted
        if self.one_by_one:
            accepted = accepted[self._verdicts : self._verdicts + 1]
            self._verdicts += 1
            reply = _kept(reply)
        self._decide(accepted, reply)
        if reply.positive and accepted:
            self._reply = reply

    def _decide(self, recipients: Sequence[int], reply: Reply, may_be_never: bool = True) -> None:
        if reply.positive:
            verdict = Verdict.DELIVERED
        else:
            verdict = Verdict.NEVER if reply.permanent and may_be_never else Verdict.LATER
        for index in recipients:
            self._outcomes[index] = Outcome(self.mail.envelope.recipients[index], verdict, reply)

    # --- the end ---------------------------------------------------------------------------------------------------

    def break_off(self, error: SmtpError, reply: Reply | None, in_doubt: bool = False) -> None:
        """The transaction cannot go on: whoever has no outcome is to be tried later.

        ``in_doubt`` says that the end of the message was said and not answered: who was not refused may have the mail.
        """
        self.over = True
        # Chunks may leave ahead of the replies to RCPT: who was not answered may have been accepted.
        doubtful = {*self._accepted, *self._recipients[self._answered :]} if in_doubt else set[int]()
        self._put_off_later()
        if not isinstance(error, RemoteProtocolError):
            # Behind a refused chunk only a peer that breaks the protocol takes the message.
            self._decide_by_chunk()
        for index, outcome in enumerate(self._outcomes):
            if outcome is None:
                recipient = self.mail.envelope.recipients[index]
                maybe = index in doubtful
                self._outcomes[index] = Outcome(recipient, Verdict.LATER, None if maybe else reply, error, maybe)

    def lose_step(self, error: SmtpError) -> None:
        """What was heard since the last reply that cannot be mistaken may have been meant for other commands.

        The 354 to DATA is such a reply: of a message that was begun by it only the verdict is open.
        """
        if not self._said:
            return
        open_for = self._accepted if self._body_begun and not self.chunked else self._recipients
        doubtful = open_for if self._ended else ()
        for index in open_for:
            recipient = self.mail.envelope.recipients[index]
            self._outcomes[index] = Outcome(recipient, Verdict.LATER, None, error, index in doubtful)
        # What an earlier transaction of the same mail brought is certain.
        delivered = (o for o in reversed(self._outcomes) if o is not None and o.verdict is Verdict.DELIVERED)
        self._reply = next((outcome.reply for outcome in delivered), None)

    def refuse(self, error: SmtpError) -> None:
        """The mail cannot be said to this peer at all."""
        self.over = True
        recipients = self.mail.envelope.recipients
        self._outcomes = [Outcome(recipient, Verdict.NEVER, None, error) for recipient in recipients]

    def spoil(self, error: SmtpError) -> None:
        """The body could not even be prepared: an attempt is spent, though nothing was said."""
        self._stage = Stage.STARTED
        self.break_off(error, None)

    def _put_off_later(self) -> None:
        for index, reply in self._put_off:
            if self._outcomes[index] is None:
                self._outcomes[index] = Outcome(self.mail.envelope.recipients[index], Verdict.LATER, reply)

    def report(self, transcript: Transcript) -> Report:
        """The answer to ``send``, once every recipient has an outcome."""
        if self._put_off:
            self._put_off_later()
        outcomes = tuple(outcome for outcome in self._outcomes if outcome is not None)
        if self._reply is not None:
            return MailSent(self.mail, outcomes, self._reply, self._stage, transcript)
        return MailRefused(self.mail, outcomes, self._stage, transcript)
