"""SASLprep (RFC 4013): user names and passwords in the one form in which both sides compare and hash them.

What lives here: the profile and its tables, which the standard library has. What does not: who needs it.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

__all__ = ["TRACE_PROHIBITED", "breaks_direction", "saslprep"]

_Table = Callable[[str], bool]

#: RFC 4013 §2.3, but for the non-ASCII spaces, which are mapped before.
_PROHIBITED: Final[tuple[_Table, ...]] = (
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
#: What trace information may not hold, RFC 4505 §3: the same, but for table C.7.
TRACE_PROHIBITED: Final = tuple(table for table in _PROHIBITED if table is not stringprep.in_table_c7)


def saslprep(text: str) -> str | None:
    """``text`` prepared as a query, which may hold characters that Unicode 3.2 did not know; ``None`` if it cannot be.

    What is left of it may be empty.
    """
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    # Not today's tables: stringprep is bound to those of Unicode 3.2 (RFC 3454 §4).
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(table(character) for character in prepared for table in _PROHIBITED) or breaks_direction(prepared):
        return None
    return prepared


def breaks_direction(text: str) -> bool:
    """Whether ``text`` mixes writing from the right and from the left as RFC 3454 §6 does not allow."""
    if not any(map(stringprep.in_table_d1, text)):
        return False
    if any(map(stringprep.in_table_d2, text)):
        return True
    return not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1]))
