"""Lives of a client, read out of arbitrary octets: whatever befalls it, and whenever, the invariants hold.

What lives here: the choice of the octets. What does not: the lives and what must be true of them (``invariants``),
which fuzzers share.
"""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpcore import CommandAnswered, Disconnect, DisconnectReason, Report, Verdict

from .examples import examples
from .invariants import live


@settings(max_examples=examples(1000), deadline=None)
@given(st.binary(max_size=120))
@example(bytes(16) + bytes(30))
def test_whatever_befalls_a_client_the_invariants_hold(plan: bytes) -> None:
    live(plan)


def test_thousands_of_lives_lead_everywhere() -> None:
    """The invariants would hold of lives in which nothing happens as well."""
    chance = random.Random(7)
    ends: Counter[DisconnectReason] = Counter()
    outcomes: Counter[tuple[Verdict, bool]] = Counter()
    answers: Counter[bool] = Counter()
    for _ in range(2500):
        life = live(chance.randbytes(chance.randint(20, 150)))
        for event in life.events:
            if isinstance(event, Disconnect):
                ends[event.reason] += 1
            elif isinstance(event, CommandAnswered):
                answers[event.reply is not None] += 1
            elif isinstance(event, Report):
                outcomes.update((outcome.verdict, outcome.in_doubt) for outcome in event.outcomes)
    assert set(ends) == set(DisconnectReason)
    assert min(answers[True], answers[False]) > 20
    assert outcomes[Verdict.LATER, True] > 10
    assert all(outcomes[verdict, False] > 100 for verdict in Verdict)
