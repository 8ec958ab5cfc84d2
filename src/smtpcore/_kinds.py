"""Checks of kinds: callers without a type checker make mistakes, which are named when a value is made, not later.

What lives here: the checks. What does not: ranges, and what values mean, which are the values' own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Final, cast

from smtpcore._errors import LocalProtocolError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_delays", "check_fields", "check_kind"]

#: How a field is declared, and what it is called in an error; a whole number passes for a number, a flag for neither.
_PLAIN: Final[dict[object, tuple[type | tuple[type, ...], str]]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, type(None)), "a number or None"),
    "bool": (bool, "True or False"),
    "str": (str, "a str"),
}


def check_kind(what: str, given: object, kind: type) -> None:
    """Raise ``LocalProtocolError`` unless ``given`` is a ``kind``."""
    if not isinstance(given, kind):
        raise LocalProtocolError(f"{what} must be a {kind.__name__}", given)


def check_fields(value: DataclassInstance, **others: type) -> None:
    """Raise ``LocalProtocolError`` that names the first field of ``value`` which holds something else than it declares.

    Plain fields are checked by their annotation, which must be text; ``others`` are those of a further kind.
    """
    for field in fields(value):
        given = getattr(value, field.name)
        if field.type in _PLAIN:
            kind, words = _PLAIN[field.type]
            if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool):
                raise LocalProtocolError(f"{field.name} must be {words}", given)
        elif field.name in others:
            check_kind(field.name, given, others[field.name])


def check_delays(what: str, delays: object) -> None:
    """Raise ``LocalProtocolError`` unless ``delays`` are seconds, each more than 0 and finite, none below the last."""
    if not isinstance(delays, (tuple, list)):
        raise LocalProtocolError(f"the delays of {what} must be a tuple of numbers", delays)
    given = cast("Sequence[object]", delays)
    last = 0.0
    for delay in given:
        if not isinstance(delay, (int, float)) or not 0 < delay < math.inf:
            raise LocalProtocolError(
                f"each of the delays of {what} must be more than 0 seconds, and not endless", delay
            )
        if delay < last:
            raise LocalProtocolError(f"the delays of {what} may not shrink", given)
        last = delay
    if not given:
        raise LocalProtocolError(f"{what} needs delays, at least one", given)
