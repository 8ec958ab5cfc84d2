"""The mails of a session that were begun and are not yet reported, and what proves that their verdicts are theirs.

What lives here: the law of answers, and the marks across mails. What does not: what replies mean for the recipients of
one mail (:mod:`smtpcore._transaction`), and mails that wait for their turn (:mod:`smtpcore._waiting`).

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

from collections import deque
from collections.abc import Iterable
from typing import Final

from smtpcore._connection import Connection
from smtpcore._errors import LostStep, SessionError
from smtpcore._events import Command, CommandAnswered, Reply, Report, Verb
from smtpcore._transaction import Transaction

__all__ = ["RSET", "Ledger"]

RSET: Final = Command(Verb.RSET, b"RSET")
_HELP: Final = Command(Verb.HELP, b"HELP")


class Ledger:
    """Mails from their beginning to their report; at most ``kept_back`` of them at a time."""

    __slots__ = ("_begun", "_connection", "_kept_back", "_marked", "_number", "_proved", "ran_ahead", "reports")

    def __init__(self, connection: Connection, kept_back: int) -> None:
        self._connection = connection
        self._kept_back = kept_back
        #: How many mails were begun; the number of the last one that is proved by a mark, and by one that is said.
        self._number = self._proved = self._marked = 0
        #: The mails begun and not yet reported, oldest first; the current one is the last of them.
        self._begun: deque[Transaction] = deque()
        #: Whether anything was said behind a message without a verdict, and nothing unmistakable was heard since.
        self.ran_ahead = False
        #: What is to be told to the driver.
        self.reports: deque[Report | CommandAnswered] = deque()

    def __len__(self) -> int:
        return len(self._begun)

    @property
    def full(self) -> bool:
        """Whether as many mails are begun and not reported as may be."""
        return len(self._begun) >= self._kept_back

    # --- mails -----------------------------------------------------------------------------------------------------

    def begin(self, transaction: Transaction) -> None:
        """Take a mail in, before anything is said of it."""
        self._count(transaction, others=len(self._begun))
        self._begun.append(transaction)
        self.report()

    def begin_again(self, transaction: Transaction) -> None:
        """A mail that was taken in before begins a further transaction."""
        self._count(transaction, others=len(self._begun) - 1)

    def _count(self, transaction: Transaction, others: int) -> None:
        self._number += 1
        transaction.number = self._number
        # With no other mail begun nothing runs ahead of a verdict.
        if others and not transaction.over and self._connection.in_flight:
            self.ran_ahead = True

    def close(self, transaction: Transaction) -> None:
        """Every recipient of the mail has an outcome."""
        transaction.over = True
        self.report()

    def report(self) -> None:
        """Report what is over and in no doubt, in the order of the mails."""
        begun = self._begun
        transcript = None
        while begun and begun[0].over and (not self.ran_ahead or begun[0].number <= self._proved):
            transcript = transcript or self._connection.transcript
            self.reports.append(begun.popleft().report(transcript))

    def break_off(self, error: SessionError, reply: Reply | None, waiting: Iterable[Transaction]) -> None:
        """Answer every mail: those that are over as they are, unless the dialogue lost step behind them.

        ``waiting`` are the mails that were never begun.
        """
        # A peer that says 421 does nothing of what it was sent behind the command that it answers so.
        going = reply is not None and reply.code == 421
        doubtful = set[int]() if going else {id(transaction) for transaction in self._connection.in_doubt}
        lost_step = isinstance(error, LostStep)
        self.ran_ahead = False
        self._begun.extend(waiting)
        for transaction in self._begun:
            if lost_step:
                transaction.lose_step(error)
            if not transaction.over:
                transaction.break_off(error, reply, id(transaction) in doubtful)
        self.report()

    # --- marks -----------------------------------------------------------------------------------------------------

    def wants_mark(self, at_rest: bool) -> bool:
        """Whether a mark is to be said among mails in chunks, which go on and on; ``at_rest``: there are no more.

        Half of what may be kept back is asked for while the other half is on its way.
        """
        return (self._number - self._marked) * 2 >= (1 if at_rest else self._kept_back)

    def say_mark(self) -> bool:
        """Ask what no reply to another command answers: HELP, behind an RSET whose 250 would be out of place."""
        said = self._connection.try_send(RSET)
        if said and self._connection.try_send(_HELP, self._number):
            self._marked = self._number
        return said

    def hear_mark(self, reply: Reply, number: object) -> bool:
        """The reply to such a HELP; returns whether it is one that cannot be mistaken."""
        if reply.code not in {211, 214} and not reply.permanent:
            return False
        if not self._connection.in_flight:
            self.in_step()
        else:
            assert isinstance(number, int)
            self._proved = number
            self.report()
        return True

    def in_step(self) -> None:
        """A reply that cannot be mistaken has come in its place: what was heard before is true."""
        self.ran_ahead = False
        self.report()
