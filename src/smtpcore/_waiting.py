"""The mails of a session that wait for their turn, and what must be known or done before the first can be begun.

What lives here: their order, questions about their bodies, and the plan of the next one. What does not: rows of
parameters (:mod:`smtpcore._planner`), and mails that were begun (:mod:`smtpcore._ledger`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from smtpcore._errors import BodyError, ConversionFailed, ExtensionRequired, LocalProtocolError
from smtpcore._events import BodyFacts, Command, Envelope, Mail, NeedConversion, NeedFacts
from smtpcore._kinds import check_kind
from smtpcore._limits import Limits
from smtpcore._peer_limits import PeerLimits
from smtpcore._planner import Conversion, Offer, fit, in_a_labels, plan, rehearse
from smtpcore._transaction import Transaction

__all__ = ["Waiting"]


class Waiting:
    """Mails in their order; before them come those of which a further transaction is due.

    ``eight_bit``, ``long_lines`` and ``to_a_labels`` are as :class:`smtpcore.Client` has them; ``one_by_one`` says that
    the peer gives a verdict for each recipient.
    """

    __slots__ = (
        "_eight_bit",
        "_examined",
        "_limits",
        "_long_lines",
        "_mails",
        "_one_by_one",
        "_to_a_labels",
        "again",
        "need",
    )

    def __init__(
        self,
        limits: Limits,
        *,
        one_by_one: bool,
        eight_bit: Conversion | None,
        long_lines: Conversion,
        to_a_labels: Callable[[str], str] | None,
    ) -> None:
        self._limits = limits
        self._one_by_one = one_by_one
        self._eight_bit = eight_bit
        self._long_lines = long_lines
        self._to_a_labels = to_a_labels
        #: With their envelopes and their RCPT commands as they are said.
        self._mails: deque[tuple[Mail, Envelope, list[Command]]] = deque()
        #: Mails that need a further transaction for recipients who were put off behind their backs.
        self.again: deque[Transaction] = deque()
        #: What must be known or done before the first can be begun, and the mail of which no more can be known.
        self.need: NeedFacts | NeedConversion | None = None
        self._examined: Mail | None = None

    def __bool__(self) -> bool:
        return bool(self._mails or self.again)

    def __len__(self) -> int:
        """How many have not begun."""
        return len(self._mails)

    def add(self, envelope: Envelope) -> Mail:
        """Raises ``LocalProtocolError`` for an envelope beyond the limits, and for a domain that has no A-labels."""
        # What may be a whole message is not shown.
        if not isinstance(envelope, Envelope):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise LocalProtocolError(f"an Envelope says where a mail goes, not a {type(envelope).__name__}")
        envelope.check_limits(self._limits)
        said = in_a_labels(envelope, self._to_a_labels) if envelope.extended else envelope
        commands = rehearse(said, envelope, self._limits)
        mail = Mail(envelope)
        self._mails.append((mail, said, commands))
        return mail

    def are_barred(self, peer_limits: PeerLimits) -> bool:
        """Whether the peer takes no further mail, or not the first recipient of the one that is next.

        Others of that mail may fit; but whoever comes first is never left out for them, however often they are tried.
        """
        if self.again:
            return False
        if peer_limits.used_up:
            return True
        return bool(self._mails) and not peer_limits.takes(self._mails[0][0].envelope.recipients[0])

    # --- the next one ----------------------------------------------------------------------------------------------

    def begin(self, offer: Offer, peer_limits: PeerLimits | None) -> Transaction | None:
        """Begin the mail whose turn it is; ``None`` if something must be known or done before.

        The transaction is over if the mail cannot be said to this peer.
        """
        mail, said, commands = self._mails[0]
        body = fit(said.body, offer, self._eight_bit, self._long_lines, asked=self._examined is mail)
        if isinstance(body, ExtensionRequired):
            return self._refuse(body)
        if isinstance(body, BodyFacts):
            need, planned_with = None, body
        else:
            need = NeedFacts(mail) if body is None else NeedConversion(mail, body)
            # What refuses the mail whatever becomes of its body does so before anybody takes pains with that.
            planned_with = BodyFacts(eight_bit=False, utf8_header=said.body.utf8_header)
        if planned_with is not said.body:
            said = replace(said, body=planned_with)
        planned = plan(said, mail.envelope, commands, offer, self._limits)
        if isinstance(planned, ExtensionRequired):
            return self._refuse(planned)
        if need is not None:
            self.need = need
            return None
        self._mails.popleft()
        opening, commands = planned
        transaction = Transaction(mail, commands, planned_with)
        transaction.one_by_one = self._one_by_one
        if peer_limits is not None:
            transaction.bound(peer_limits)
        transaction.begin(opening, chunked=offer.chunking)
        return transaction

    def _refuse(self, error: ExtensionRequired) -> Transaction:
        transaction = self._first()
        transaction.refuse(error)
        return transaction

    def _first(self) -> Transaction:
        mail, _, commands = self._mails.popleft()
        self.need = None
        return Transaction(mail, commands)

    def know(self, facts: BodyFacts) -> None:
        """Take in what is known of a body now; raises ``LocalProtocolError`` as :meth:`smtpcore.Client.body_facts`."""
        need = self.need
        if need is None:
            raise LocalProtocolError("no facts are due")
        check_kind("what is known of a body", facts, BodyFacts)
        if isinstance(need, NeedConversion):
            too_long = facts.long_lines is not False and not need.form.long_lines
            if facts.binary or too_long or (facts.eight_bit is not False and not need.form.eight_bit):
                raise LocalProtocolError("the body is not in the form that was asked for", facts)
        mail, said, commands = self._mails[0]
        self._mails[0] = (mail, replace(said, body=facts), commands)
        self._examined = mail
        self.need = None

    def spoil(self, error: BodyError | ConversionFailed) -> Transaction:
        """What is needed cannot be had: the mail is over, and an attempt is spent unless it can never be sent."""
        if isinstance(error, ConversionFailed):
            return self._refuse(error)
        transaction = self._first()
        transaction.spoil(error)
        return transaction

    def leave(self) -> Iterator[Transaction]:
        """All that have not begun; none will."""
        self.need = None
        self.again.clear()
        while self._mails:
            yield self._first()
