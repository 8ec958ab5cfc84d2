"""What senders ask of a relay, as it stands at a moment: who is told of what, until when a mail is to be delivered.

What lives here: pure answers about the options of stored mails and recipients. What does not: what follows from them
(``_results``, ``_bounces``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from smtpcore._options import LONGEST_SECONDS, DeliverBy, MailOptions, Notify
from smtpcore.relay._facts import NextHop, PendingRecipient, StoredMail

__all__ = ["asks_for_trace", "deadline", "due_time", "options_at", "wants"]

#: What is told of a recipient for whom nothing was asked (RFC 3461 §4.1).
_BY_DEFAULT = (Notify.FAILURE, Notify.DELAY)


def wants(recipient: PendingRecipient, kind: Notify) -> bool:
    """Whether the sender wants to hear this of a recipient (RFC 3461 §5.2)."""
    asked = recipient.options.notify if recipient.options is not None else ()
    return kind in (asked or _BY_DEFAULT)


def asks_for_trace(mail: StoredMail, recipient: PendingRecipient) -> bool:
    """Whether each server on the way is to report that it passed the mail on (RFC 2852 §4)."""
    wish = mail.options.deliver_by
    return wish is not None and wish.trace and not wants(recipient, Notify.NEVER)


def due_time(mail: StoredMail) -> float | None:
    """The moment by which the mail is to be delivered (RFC 2852), if one was asked for."""
    wish = mail.options.deliver_by
    return None if wish is None else mail.accepted_at + wish.seconds


def deadline(mail: StoredMail) -> float | None:
    """The moment at which the mail is given back though it could be tried longer, if there is one."""
    wish = mail.options.deliver_by
    return None if wish is None or wish.notify_only else mail.accepted_at + wish.seconds


def options_at(mail: StoredMail, now: float, next_hop: NextHop) -> MailOptions:
    """What is asked of the next hop now: times that run are shortened by the age of the mail, or over.

    A store of mailboxes is asked for no delivery by a moment: what it takes is delivered.
    """
    options = mail.options
    if options.deliver_by is None and options.hold_for is None and options.hold_until is None:
        return options
    # A clock that was set back makes no mail younger than it was.
    age = max(0, int(now - mail.accepted_at))
    left = None if options.hold_for is None else options.hold_for - age
    # In UTC: where a clock is set back, the same zone has an hour twice, and compares it as if it had it once.
    over = options.hold_until is not None and options.hold_until <= datetime.fromtimestamp(now, UTC)
    return replace(
        options,
        deliver_by=None if options.deliver_by is None or next_hop.lmtp else _left_of(options.deliver_by, age),
        hold_for=left if left is not None and left > 0 else None,
        hold_until=None if over else options.hold_until,
    )


def _left_of(wish: DeliverBy, age: int) -> DeliverBy:
    seconds = wish.seconds - age
    # What is late is not passed on to be given back; this is for what became late while it was on its way.
    return replace(wish, seconds=max(-LONGEST_SECONDS if wish.notify_only else 1, seconds))
