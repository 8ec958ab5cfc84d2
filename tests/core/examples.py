"""How many examples a property is tried with.

What lives here: one number that follows the profile which is loaded (``tests/conftest.py``). What does not: properties.
"""

from __future__ import annotations

from hypothesis import settings

#: What a profile that wants as many as the house has.
_HOUSE = 100


def examples(number: int) -> int:
    """So many in the profile of the house, and in another in proportion to its ``max_examples``."""
    return max(1, number * settings().max_examples // _HOUSE)
