"""Numbers of seconds: moments that a spool keeps, and spans of time that a service is given.

What lives here: which values are such numbers, and the words for those that are none. What does not: reading a clock.
"""

from __future__ import annotations

import math
import sys
from typing import TypeGuard

from smtpcore import LocalProtocolError

__all__ = ["are_seconds", "check_seconds"]


def are_seconds(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number of seconds; what Python could not turn into a float is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_seconds(what: str, given: object, *, least: float | None = None, endless: bool = False) -> None:
    """Raise ``LocalProtocolError`` unless ``given`` is a number of seconds, ``least`` or more.

    With ``endless`` infinitely many are allowed too.
    """
    if endless and given == math.inf:
        return
    if not are_seconds(given) or (least is not None and given < least):
        number = "a number" if endless else "a finite number"
        bound = "" if least is None else f", {least} or more"
        raise LocalProtocolError(f"{what} must be {number} of seconds{bound}", given)
