"""The tables of the law against a second copy of them, written as the RFCs write it.

What lives here: every state, verb and code. What does not: a connection that keeps to them (``test_connection.py``).
"""

from __future__ import annotations

import itertools

import pytest

from smtpcore import LEADS, LEGAL, State, Verb
from smtpcore._state import ENDS_GROUP, anticipated, leads

#: Success and refusal of each verb: RFC 5321 §4.3.2; STARTTLS: RFC 3207 §4; AUTH: RFC 4954 §4 and §6.
#: ``=`` stays where it is. A code that fits no pattern is no answer.
TABLE = """
    connect     220: greeted    4xx 5xx: =
    EHLO        2xx: ready      4xx 5xx: =
    HELO        2xx: ready      4xx 5xx: =
    LHLO        2xx: ready      4xx 5xx: =
    STARTTLS    220: tls        4xx 5xx: =
    AUTH        235: ready      334: auth   4xx 5xx: ready
    AUTH_answer 235: ready      334: auth   4xx 5xx: ready
    XCLIENT     220: greeted    4xx 5xx: =
    XFORWARD    2xx: ready      4xx 5xx: =
    MAIL        2xx: mail       4xx 5xx: =
    RCPT        2xx: rcpt       4xx 5xx: =
    DATA        354: data       4xx 5xx: =
    end_of_data 2xx: ready      4xx 5xx: ready
    BDAT        2xx: chunk      4xx 5xx: failed
    BDAT_LAST   2xx: ready      4xx 5xx: failed
    RSET        2xx: ready      4xx 5xx: =
    NOOP        2xx: =          4xx 5xx: =
    VRFY        2xx: =          4xx 5xx: =
    EXPN        2xx: =          4xx 5xx: =
    HELP        2xx: =          4xx 5xx: =
    another_command 2xx: =      4xx 5xx: =
    QUIT        2xx: closed     4xx 5xx: closed
"""


def rows() -> dict[Verb, dict[str, str]]:
    table: dict[Verb, dict[str, str]] = {}
    for line in TABLE.strip().splitlines():
        verb, *words = line.split()
        row = table[Verb(verb.replace("_", " "))] = {}
        patterns: list[str] = []
        for word in words:
            patterns.append(word.rstrip(":").replace("xx", ""))
            if word[0] not in "2345":
                *codes, target = patterns
                row.update(dict.fromkeys(codes, target))
                patterns = []
    return table


ROWS = rows()


def test_the_second_copy_is_whole() -> None:
    assert set(ROWS) == set(Verb)
    assert ROWS[Verb.AUTH] == {"235": "ready", "334": "auth", "4": "ready", "5": "ready"}


@pytest.mark.parametrize("verb", Verb)
def test_every_code_leads_where_the_rfc_says(verb: Verb) -> None:
    for state, code in itertools.product(State, range(200, 600)):
        targets = [target for pattern, target in ROWS[verb].items() if str(code).startswith(pattern)]
        expected = None if not targets else state if targets[0] == "=" else State(targets[0])
        if state is State.FAILED and code < 400 and verb in {Verb.BDAT, Verb.BDAT_LAST}:
            # Behind a refused chunk all others are refused.
            expected = None
        assert leads(state, verb, code) is expected, (state, code)


@pytest.mark.parametrize("verb", Verb)
def test_the_first_row_of_a_verb_is_its_success(verb: Verb) -> None:
    first, *others = LEADS[verb]
    assert str(first)[0] in "23"
    # Beside success there is only a challenge and refusal.
    assert all(row == 334 or str(row)[0] in "45" for row in others)


def test_what_is_anticipated_is_the_fold_over_every_queue_of_four() -> None:
    def success(state: State, verb: Verb) -> State:
        target = next(iter(ROWS[verb].values()))
        return state if target == "=" else State(target)

    def compare(start: State, state: State, newest_first: tuple[Verb, ...]) -> None:
        assert anticipated(start, newest_first) is state
        if len(newest_first) < (4 if start is State.READY else 2):
            for verb in Verb:
                compare(start, success(state, verb), (verb, *newest_first))

    for start in State:
        compare(start, start, ())


def test_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        LEGAL[State.CLOSED] = frozenset(Verb)  # type: ignore[index]  # what must not be possible
    with pytest.raises(TypeError):
        LEADS[Verb.MAIL][3] = State.MAIL  # type: ignore[index]  # what must not be possible


#: RFC 5321 §4.1.4, RFC 3207 §4.2, RFC 4954 §4 and Postfix on XCLIENT and XFORWARD, state by state.
MAY_SAY = {
    State.CONNECTED: "QUIT",
    State.GREETED: "EHLO HELO LHLO NOOP VRFY EXPN HELP QUIT",
    State.READY: "EHLO HELO LHLO STARTTLS AUTH XCLIENT XFORWARD MAIL RSET NOOP VRFY EXPN HELP another_command QUIT",
    State.TLS: "",
    State.AUTH: "AUTH_answer",
    State.MAIL: "EHLO HELO LHLO RCPT RSET NOOP VRFY EXPN HELP QUIT",
    State.RCPT: "EHLO HELO LHLO RCPT DATA BDAT BDAT_LAST RSET NOOP VRFY EXPN HELP QUIT",
    State.DATA: "",
    State.CHUNK: "BDAT BDAT_LAST RSET QUIT",
    State.FAILED: "RSET QUIT",
    State.CLOSED: "",
}


@pytest.mark.parametrize("state", State)
def test_what_may_be_said(state: State) -> None:
    assert {verb.value.replace(" ", "_") for verb in LEGAL[state]} == set(MAY_SAY[state].split())


def test_only_these_may_stand_within_a_group() -> None:
    # RFC 2920 §3.1; the end of data is no command, and another mail may follow it.
    within = {Verb.XFORWARD, Verb.MAIL, Verb.RCPT, Verb.RSET, Verb.HELP, Verb.BDAT, Verb.BDAT_LAST, Verb.END_OF_DATA}
    assert set(Verb) - ENDS_GROUP == within


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.CONNECTED, State.CLOSED}
    while True:
        more = {
            after
            for state, verb, code in itertools.product(reached, Verb, (220, 235, 250, 334, 354, 550))
            if (verb in LEGAL[state] or (state, verb) == (State.CONNECTED, Verb.CONNECT))
            and (after := leads(state, verb, code))
        }
        if more <= reached:
            break
        reached |= more
    assert reached == set(State)
