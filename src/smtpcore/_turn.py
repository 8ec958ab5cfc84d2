"""The mail whose turn it is: its commands, the octets of its body, and what the replies meant.

What lives here: the dialogue of one mail at a time. What does not: which mail comes next (:mod:`smtpcore._waiting`),
when its verdict is told (:mod:`smtpcore._ledger`), and what replies mean for its recipients
(:mod:`smtpcore._transaction`). A 421 and whatever else ends the session is for the client to act upon.
"""

from __future__ import annotations

from typing import Final

from smtpcore._body import DataEncoder, LineEnds, LineNormaliser
from smtpcore._connection import Connection, Replied
from smtpcore._errors import BodyError, LocalProtocolError
from smtpcore._events import FileRange, Verb
from smtpcore._ledger import RSET, Ledger
from smtpcore._limits import Limits
from smtpcore._state import State
from smtpcore._transaction import Transaction
from smtpcore._waiting import Waiting

__all__ = ["IN_TRANSACTION", "Turn"]

IN_TRANSACTION: Final = frozenset({State.MAIL, State.RCPT, State.CHUNK, State.FAILED})

# Looking up a member of an enumeration by name costs a call; these are needed at every turn.
_MAIL: Final = Verb.MAIL
_RCPT: Final = Verb.RCPT
_DATA: Final = Verb.DATA
_BDAT: Final = Verb.BDAT
_VERDICTS: Final = frozenset({Verb.END_OF_DATA, Verb.BDAT_LAST})


class Turn:
    """One mail after the other; across mails a turn ends before the verdict has come."""

    __slots__ = (
        "_connection",
        "_encoder",
        "_ledger",
        "_limits",
        "_line_ends",
        "_line_normaliser",
        "_tail",
        "_waiting",
        "mute",
        "transaction",
    )

    def __init__(
        self, connection: Connection, waiting: Waiting, ledger: Ledger, line_ends: LineEnds, limits: Limits
    ) -> None:
        self._connection = connection
        self._waiting = waiting
        self._ledger = ledger
        self._line_ends = line_ends
        self._limits = limits
        #: The mail whose turn it is.
        self.transaction: Transaction | None = None
        #: Whether nothing can be written any more, and only replies are read.
        self.mute = False
        self._encoder = DataEncoder(line_ends)
        self._line_normaliser = LineNormaliser(line_ends)
        #: The last two octets of a body that is declared canonical; of a range of a file only its owner knows them.
        self._tail = b""

    # --- speaking --------------------------------------------------------------------------------------------------

    def speak(self, transaction: Transaction, *, across: bool) -> bool:
        """Say what may be said of the mail, or end its turn; ``across`` lets that happen before the verdict."""
        said = transaction.say_commands(self._connection.try_send)
        while (chunk := transaction.next_chunk) is not None:
            data, last = chunk
            if not self._connection.try_send_chunk(data, last=last, about=transaction):
                break
            transaction.said_chunk(last=last)
            said = True
        # Of a transaction whose verdict is heard already, the end is here.
        if across and transaction.may_be_left and self._connection.in_flight:
            self.transaction = None
            return True
        if said:
            return True
        if not self._connection.quiet or self._wants_body(transaction):
            # A line that has begun to arrive may become a 421: nothing is over before it is heard.
            return False
        self._end(transaction)
        return True

    def _end(self, transaction: Transaction) -> None:
        if not transaction.begin_again():
            if transaction.leaves_attributes:
                self._connection.try_send(RSET)
            self.transaction = None
            self._ledger.close(transaction)
        elif self._connection.anticipated in IN_TRANSACTION:
            # What is left behind is reset first.
            self._waiting.again.append(transaction)
            self.transaction = None

    # --- the body --------------------------------------------------------------------------------------------------

    @property
    def wants_body(self) -> bool:
        """Whether octets of a body, or its end, are to be handed in."""
        return self.transaction is not None and not self.mute and self._wants_body(self.transaction)

    def _wants_body(self, transaction: Transaction) -> bool:
        if transaction.chunked:
            return transaction.wants_chunk(self._limits) and self._connection.can_send(_BDAT)
        return self._connection.body_open

    def _body_due(self, *, at_end: bool = False) -> Transaction:
        transaction = self.transaction
        if transaction is not None and not self.mute:
            ends = at_end and transaction.chunked and transaction.takes_end
            if ends or self._wants_body(transaction):
                return transaction
        raise LocalProtocolError("no body is due")

    def take(self, data: bytes) -> None:
        """Take the next octets of the body, or none at its end; raises as :meth:`smtpcore.Client.send_body`."""
        transaction = self._body_due(at_end=not data)
        canonical = transaction.body.canonical
        if canonical:
            self._mind_the_end(transaction, data)
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

    def _mind_the_end(self, transaction: Transaction, data: bytes) -> None:
        """See that what is declared canonical ends with a line end: the peer would wait for the dot that it has heard.

        What is binary need not have lines, and goes in chunks only.
        """
        if data:
            # A copy: a view would keep its owner from reusing what it shows.
            tail = bytes(data[-2:])
            self._tail = tail if len(tail) > 1 or not transaction.body_offset else self._tail[-1:] + tail
        elif transaction.body_offset and self._tail != b"\r\n" and not transaction.body.binary:
            raise LocalProtocolError("a body that is declared canonical ends with CRLF", self._tail)

    def _take_chunk(self, transaction: Transaction, data: bytes, canonical: bool) -> None:
        if not transaction.body_offset:
            self._line_normaliser = LineNormaliser(self._line_ends)
        if data:
            transaction.add_chunk(data if canonical else self._line_normaliser.feed(data))
            transaction.body_offset += len(data)
        else:
            transaction.end_chunks(b"" if canonical else self._line_normaliser.end())

    def take_range(self, data: FileRange, *, in_clear: bool) -> None:
        """Take a range of a file; raises as :meth:`smtpcore.Client.send_body`."""
        transaction = self._body_due()
        if not (in_clear and transaction.body.canonical):
            raise LocalProtocolError("a range of a file stands for a canonical body, where nothing encrypts it", data)
        if not data:
            raise LocalProtocolError("the range of a file is empty: the end of a body is said without one", data)
        if transaction.chunked:
            transaction.add_chunk(data)
        else:
            self._connection.send_data(data)
        self._tail = b"\r\n"
        transaction.body_offset += data.octets

    def break_body_off(self, error: BodyError) -> bool:
        """The body cannot be had; returns whether the session can go on, for chunks can be taken back."""
        transaction = self._body_due()
        if transaction.chunked:
            transaction.break_body_off(error)
            return True
        transaction.break_off(error, None)
        return False

    # --- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, transaction: Transaction, heard: Replied) -> None:
        """The reply to a command of the mail, be it this turn's or an earlier one's."""
        verb = None if heard.command is None else heard.command.verb
        reply = heard.reply
        if verb in _VERDICTS:
            self._hear_verdict(transaction, heard)
        elif verb is _BDAT:
            transaction.chunk_reply(reply)
        elif reply.code == 421:
            return
        elif verb is _RCPT:
            transaction.rcpt_reply(reply)
        elif verb is _MAIL:
            transaction.mail_reply(reply)
        elif reply.code == 354:
            self._begin_body(transaction)
        elif verb is _DATA:
            transaction.data_refused(reply)
        # What is left answers XFORWARD, and changes nothing for the mail.

    def _begin_body(self, transaction: Transaction) -> None:
        self._ledger.in_step()
        transaction.begin_body()
        self._encoder = DataEncoder(self._line_ends)
        if not transaction.accepted and not self.mute:
            # RFC 2920 §3.1: DATA was said ahead, nobody was accepted, and 354 came nevertheless.
            self._connection.end_data(b".\r\n")

    def _hear_verdict(self, transaction: Transaction, heard: Replied) -> None:
        if heard.early:
            transaction.data_refused(heard.reply)
        else:
            transaction.verdict(heard.reply)
        if transaction is not self.transaction and not heard.more:
            if transaction.begin_again():
                self._waiting.again.append(transaction)
            else:
                self._ledger.close(transaction)
