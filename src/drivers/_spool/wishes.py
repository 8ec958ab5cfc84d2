"""Options of mails and of recipients as JSON, for the columns of a spool.

What lives here: from values to JSON and back, everything checked on the way back. What does not: columns and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeVar

from smtpcore import (
    DeliverBy,
    LocalProtocolError,
    MailOptions,
    MailSource,
    Notify,
    RecipientOptions,
    Return,
    Unavailable,
    XForward,
)
from smtpcore.drivers._spool.errors import Damaged

__all__ = ["mail_options_as_json", "mail_options_of", "recipient_options_as_json", "recipient_options_of"]

_T = TypeVar("_T")


def _of(kind: type[_T]) -> Callable[[Any], _T]:
    def read(value: Any) -> _T:
        if type(value) is not kind:
            raise TypeError(value)
        return value

    return read


def _deliver_by_of(value: Any) -> DeliverBy:
    seconds, notify_only, trace = value
    flag = _of(bool)
    return DeliverBy(seconds=_of(int)(seconds), notify_only=flag(notify_only), trace=flag(trace))


_TEXT: Final = _of(str)
_NUMBER: Final = _of(int)
#: What stands for something other than itself in an attribute of XFORWARD; no text may be one of these.
_UNAVAILABLE: Final = frozenset(each.value for each in Unavailable)


def _forwarded_as_json(value: XForward) -> dict[str, object]:
    said = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: each.value if isinstance(each, Enum) else each for name, each in said.items() if each is not None}


def _forwarded_of(value: Any) -> XForward:
    said = {name: Unavailable(each) if each in _UNAVAILABLE else each for name, each in value.items()}
    if isinstance(source := said.get("source"), str):
        said["source"] = MailSource(source)
    return XForward(**said)


#: For every option of a mail how it is written and how it is read.
_OF_MAILS: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "returned": (lambda value: value.value, Return),
    "envelope_id": (str, _TEXT),
    "require_tls": (bool, _of(bool)),
    "deliver_by": (lambda value: [value.seconds, value.notify_only, value.trace], _deliver_by_of),
    "priority": (int, _NUMBER),
    "hold_for": (int, _NUMBER),
    "hold_until": (datetime.isoformat, lambda value: datetime.fromisoformat(_TEXT(value))),
    "submitter": (str, _TEXT),
    "forwarded": (_forwarded_as_json, _forwarded_of),
}
#: The same for a recipient.
_OF_RECIPIENTS: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "notify": (lambda value: [kind.value for kind in value], lambda value: [Notify(kind) for kind in value]),
    "original_recipient": (str, _TEXT),
    "address_type": (str, _TEXT),
}


def mail_options_as_json(options: MailOptions) -> dict[str, object]:
    """What is asked for a mail; nothing is empty."""
    return _as_json(options, MailOptions(), _OF_MAILS)


def recipient_options_as_json(options: RecipientOptions) -> dict[str, object]:
    """What is asked for a recipient."""
    return _as_json(options, RecipientOptions(), _OF_RECIPIENTS)


def mail_options_of(found: object) -> MailOptions:
    """What :func:`mail_options_as_json` wrote; raises :class:`Damaged` for anything else."""
    return _read(MailOptions, found, _OF_MAILS)


def recipient_options_of(found: object) -> RecipientOptions:
    """What :func:`recipient_options_as_json` wrote; raises :class:`Damaged` for anything else."""
    return _read(RecipientOptions, found, _OF_RECIPIENTS)


def _as_json(options: object, nothing: object, rows: Mapping[str, tuple[Callable[[Any], Any], Any]]) -> dict[str, Any]:
    return {
        name: write(getattr(options, name))
        for name, (write, _) in rows.items()
        if getattr(options, name) != getattr(nothing, name)
    }


def _read(kind: type[_T], found: Any, rows: Mapping[str, tuple[Any, Callable[[Any], Any]]]) -> _T:
    try:
        return kind(**{name: rows[name][1](value) for name, value in found.items()})
    except (AttributeError, KeyError, TypeError, ValueError, LocalProtocolError):
        raise Damaged(f"its options are {found!r}") from None
