"""What a peer takes in one session and in one transaction, as it announced by LIMITS (RFC 9422).

What lives here: counting what was said against that, and choosing the recipients of the next transaction. What does
not: the bounds that this side sets itself (:mod:`smtpcore._limits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from smtpcore._errors import LimitReached
from smtpcore._extensions import Capabilities
from smtpcore._grammar import domain_of

__all__ = ["Chosen", "PeerLimits"]


class Chosen(NamedTuple):
    """Recipients by their indexes: those of the next transaction, those of later ones, those of another session."""

    now: Sequence[int]
    later: Sequence[int]
    barred: Sequence[int]


class PeerLimits:
    """The limits of a peer, and what of them a session has used."""

    __slots__ = ("_domains", "_mails", "_named", "_recipients", "_said")

    def __init__(self, mails: int | None, recipients: int | None, domains: int | None) -> None:
        self._mails = mails
        self._recipients = recipients
        self._domains = domains
        #: MAIL commands said in this session, and the domains that its RCPT commands named.
        self._said = 0
        self._named: set[str] = set()

    @classmethod
    def announced(cls, capabilities: Capabilities) -> PeerLimits | None:
        """The limits that an EHLO reply announces; ``None`` if there are none."""
        found = capabilities.mail_limit, capabilities.recipient_limit, capabilities.domain_limit
        return None if found == (None, None, None) else cls(*found)

    @property
    def used_up(self) -> bool:
        """Whether the session takes no further MAIL."""
        return self._mails is not None and self._said >= self._mails

    def takes(self, recipient: str) -> bool:
        """Whether the session takes a recipient in a further transaction."""
        return self._fits(domain_of(recipient))

    def choose(self, candidates: Iterable[int], recipients: Sequence[str]) -> Chosen:
        """Recipients for a transaction that is begun now, out of ``candidates``, in their order.

        The first of those left for later fits into the next transaction, if no other comes between.
        """
        now, later, barred = list[int](), list[int](), list[int]()
        for index in candidates:
            domain = domain_of(recipients[index])
            if not self._fits(domain):
                barred.append(index)
            elif self._recipients is not None and len(now) >= self._recipients:
                later.append(index)
            else:
                now.append(index)
                if domain:
                    # Postmaster without a domain is of none.
                    self._named.add(domain)
        self._said += bool(now)
        return Chosen(now, later, barred)

    def _fits(self, domain: str) -> bool:
        return self._domains is None or not domain or domain in self._named or len(self._named) < self._domains

    def reached(self) -> LimitReached:
        """The error for whom this session cannot serve any more."""
        if self.used_up:
            return LimitReached(f"the peer takes no more than {self._mails} transactions in a session (MAILMAX)")
        return LimitReached(
            f"the peer takes recipients of no more than {self._domains} domains in a session (RCPTDOMAINMAX)"
        )
