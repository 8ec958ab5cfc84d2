"""What the sender of a mail may ask of the servers on its way, beyond delivery.

What lives here: the options of a mail and of a recipient as frozen values, checked when they are made. What does not:
whether a peer can be asked, and what is said to it (:mod:`smtpcore._planner`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from smtpcore._errors import LocalProtocolError
from smtpcore._grammar import check_mailbox, encode_utf8_address, encode_utf8_original, encode_xtext
from smtpcore._kinds import check_kind
from smtpcore._xclient import XForward

__all__ = ["LONGEST_SECONDS", "NO_OPTIONS", "DeliverBy", "MailOptions", "Notify", "RecipientOptions", "Return"]

_ATOM: Final = re.compile(r"[A-Za-z0-9-]+")
#: What the RFCs allow for a value once it is encoded, in octets.
_ENVELOPE_ID_OCTETS: Final = 100
_ORIGINAL_RECIPIENT_OCTETS: Final = 500
_SUBMITTER_OCTETS: Final = 500
#: RFC 2852 §4 and RFC 4865 §4.2 give a time nine digits.
LONGEST_SECONDS: Final = 999_999_999


class Return(enum.Enum):
    """How much of a message a report of its failure gives back (RFC 3461 §4.3)."""

    FULL = "FULL"
    HEADERS = "HDRS"


class Notify(enum.Enum):
    """What the sender wants to hear of (RFC 3461 §4.1)."""

    #: Nothing at all; stands alone.
    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


def _check_number(what: str, number: object, least: int, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise LocalProtocolError(f"{what} is a whole number from {least} to {most}", number)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverBy:
    """The time within which a mail is to be delivered (RFC 2852).

    ``seconds`` runs from when MAIL is said. Afterwards the mail is given back, or, with ``notify_only``, the sender is
    told and the mail goes on its way; only then may the time be over already. ``trace`` asks for word from each server
    on the way.
    """

    seconds: int
    notify_only: bool = False
    trace: bool = False

    def __post_init__(self) -> None:
        least = -LONGEST_SECONDS if self.notify_only else 1
        _check_number("the time to deliver by (RFC 2852 §4)", self.seconds, least, LONGEST_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailOptions:
    """What is asked for a mail as a whole.

    ======================  ==============  ======================================================================
    option                  RFC             where the peer does not offer it
    ======================  ==============  ======================================================================
    ``returned``            3461 §4.3       left out
    ``envelope_id``         3461 §4.4       left out
    ``require_tls``         8689            refused, as it is without TLS and a verified certificate; with the null
                                            reverse-path left out in both cases, for a report is not to be lost
    ``deliver_by``          2852            refused; with ``notify_only`` left out
    ``priority``            6710            left out; -9 to 9
    ``hold_for``            4865            refused, as it is beyond the peer's limit; in seconds
    ``hold_until``          4865            refused, as it is beyond the peer's limit; a datetime with its zone
    ``submitter``           4954 §5         left out; a mailbox, or empty for one that is not known (``AUTH=<>``)
    ``forwarded``           (XFORWARD)      left out, as are single attributes; a refusal changes nothing for the mail
    ======================  ==============  ======================================================================

    Raises ``LocalProtocolError`` for what may not be asked.
    """

    returned: Return | None = None
    envelope_id: str | None = None
    require_tls: bool = False
    deliver_by: DeliverBy | None = None
    priority: int | None = None
    hold_for: int | None = None
    hold_until: datetime | None = None
    submitter: str | None = None
    forwarded: XForward | None = None

    def __post_init__(self) -> None:
        for option, kind in _KINDS_OF_OPTIONS.items():
            if getattr(self, option) is not None:
                check_kind(option, getattr(self, option), kind)
        if self.envelope_id is not None:
            self._check_envelope_id(self.envelope_id)
        if self.priority is not None:
            _check_number("a priority (RFC 6710 §3)", self.priority, -9, 9)
        if self.hold_for is not None:
            _check_number("the time to hold a mail for (RFC 4865 §4.2)", self.hold_for, 1, LONGEST_SECONDS)
        if self.hold_until is not None:
            self._check_hold_until(self.hold_until)
        if self.submitter:
            self._check_submitter(self.submitter)

    @staticmethod
    def _check_envelope_id(value: str) -> None:
        if not (value and value.isascii() and value.isprintable()):
            raise LocalProtocolError("an envelope identifier is printable ASCII (RFC 3461 §4.4)", value)
        if len(encode_xtext(value)) > _ENVELOPE_ID_OCTETS:
            raise LocalProtocolError("an envelope identifier has at most 100 octets, encoded (RFC 3461 §4.4)", value)

    def _check_hold_until(self, value: datetime) -> None:
        if self.hold_for is not None:
            raise LocalProtocolError("a mail is held for a time or until a moment, not both (RFC 4865 §4.2)", value)
        if value.utcoffset() is None:
            raise LocalProtocolError("the moment to hold a mail until needs its time zone", value)
        try:
            _in_utc(value)
        except OverflowError:
            raise LocalProtocolError("the moment to hold a mail until is in no year of four digits", value) from None

    @staticmethod
    def _check_submitter(value: str) -> None:
        check_mailbox(value)
        if not value.isascii() or len(encode_xtext(value)) > _SUBMITTER_OCTETS:
            raise LocalProtocolError("a submitter is an ASCII mailbox of at most 500 octets, encoded", value)

    @property
    def held_until(self) -> str | None:
        """``hold_until`` in UTC as it is said, such as ``2030-01-31T12:00:00Z``; parts of a second are cut off."""
        return None if self.hold_until is None else f"{_in_utc(self.hold_until).isoformat()}Z"


def _in_utc(moment: datetime) -> datetime:
    """A moment in UTC without its zone and parts of a second; raises ``OverflowError`` beyond the calendar's ends."""
    return (moment.replace(tzinfo=None) - (moment.utcoffset() or timedelta())).replace(microsecond=0)


_KINDS_OF_OPTIONS: Final[dict[str, type]] = {
    "returned": Return,
    "envelope_id": str,
    "require_tls": bool,
    "deliver_by": DeliverBy,
    "hold_until": datetime,
    "submitter": str,
    "forwarded": XForward,
}
NO_OPTIONS: Final = MailOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientOptions:
    """What is asked for one recipient (RFC 3461); left out where the peer does not offer DSN.

    ``notify`` says of what the sender wants to hear; empty leaves it to the servers. ``original_recipient`` is the
    address that the sender had given, of type ``address_type``: that of an address beyond ASCII is ``utf-8`` whatever
    is said here (RFC 6533 §3). Raises ``LocalProtocolError`` for what may not be asked.
    """

    notify: Collection[Notify] = ()
    original_recipient: str | None = None
    address_type: str = "rfc822"

    def __post_init__(self) -> None:
        self._check_kinds()
        object.__setattr__(self, "notify", tuple(kind for kind in Notify if kind in self.notify))
        if Notify.NEVER in self.notify and len(self.notify) > 1:
            raise LocalProtocolError("NEVER stands alone (RFC 3461 §4.1)", self.notify)
        if not _ATOM.fullmatch(self.address_type):
            raise LocalProtocolError("an address type is a word, such as rfc822 (RFC 3461 §4.2)", self.address_type)
        if self.original_recipient is not None:
            self._check_original(self.original_recipient)

    def _check_kinds(self) -> None:
        if isinstance(self.notify, (str, Notify)) or not isinstance(self.notify, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise LocalProtocolError("notify must be a list of Notify, such as [Notify.NEVER]", self.notify)
        for kind in self.notify:
            check_kind("each of notify", kind, Notify)
        check_kind("address_type", self.address_type, str)
        if self.original_recipient is not None:
            check_kind("original_recipient", self.original_recipient, str)

    def _check_original(self, value: str) -> None:
        if not value or not value.isprintable():
            raise LocalProtocolError("an original recipient is printable text (RFC 3461 §4.2)", value)
        if len(self.original or "") > _ORIGINAL_RECIPIENT_OCTETS:
            raise LocalProtocolError("an original recipient has at most 500 octets, encoded (RFC 3461 §4.2)", value)

    @property
    def original(self) -> str | None:
        """The original recipient as it is said: its type and its text, encoded."""
        return self._original(encode_utf8_address)

    @property
    def original_in_utf8(self) -> str | None:
        """The same for a mail that goes with SMTPUTF8: what is beyond ASCII stays as it is (RFC 6533 §3)."""
        return self._original(encode_utf8_original)

    def _original(self, encode_utf8: Callable[[str], str]) -> str | None:
        if self.original_recipient is None:
            return None
        if self.original_recipient.isascii() and self.address_type.lower() != "utf-8":
            return f"{self.address_type};{encode_xtext(self.original_recipient)}"
        return f"utf-8;{encode_utf8(self.original_recipient)}"
