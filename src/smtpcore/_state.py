"""The law of an SMTP session as two tables, and the theory behind them.

What lives here: the states of a session, which command is legal in which, and where a reply leads. What does not: the
queue of commands in flight to which the tables are applied (:mod:`smtpcore._connection`), and every opinion about what
*should* be said (:mod:`smtpcore._client`).

Theory of operation
===================

A session is a conversation of commands and replies, and both ends keep a picture of it. There is **one** stored state.
It says where the conversation stands as far as *replies* are known; commands that were said and not yet answered stand
in a first-in-first-out queue beside it. Three rules make everything else follow:

1. **Only a reply moves the state.** A reply belongs to the oldest command in flight. :data:`LEADS` says, for that
   command and that reply code, what the next state is. The most specific row wins: the exact code, then its first
   digit. A code of 4yz or 5yz without a row leaves the state as it was; any other code without a row is a violation:
   a peer that answers MAIL with 354, or DATA with 250, has lost step, and what it says next cannot be trusted.

2. **The connection itself is a command.** The queue begins with ``CONNECT``, and the greeting is its reply. So the
   greeting needs no special case, and neither does waiting for it.

3. **What may be said now depends on the state as it will be once everything in flight has succeeded.** With
   pipelining (RFC 2920) RCPT is said before the reply to MAIL is known. That anticipated state is not stored; it is a
   fold of :data:`LEADS` over the queue (:func:`anticipated`). Hence a refusal needs no rollback: the reply moves the
   one stored state, or does not, and the fold over what is still in flight comes out differently by itself.

A client that knows nothing of pipelining is the special case in which the queue never holds more than one command.

Commands in :data:`ENDS_GROUP` may be said only as the last of a pipelined group (RFC 2920 §3.1; STARTTLS: RFC 3207
§4; AUTH: RFC 4954 §4): while one of them is in flight nothing else may follow. The end of data and the last chunk are
not among them. They *may* be followed at once by the next MAIL; whether that is wise is a matter of policy.

Two traps for the reader
========================

* ``DATA`` leads to the state ``DATA`` already by the *reply*, and in that very moment ``END_OF_DATA`` joins the queue,
  though the dot is yet to be written. A peer may refuse a message in the middle of its body, and such an early verdict
  must find the command that it answers.
* ``421`` is in no row. It ends the session whatever it answers, and may come when nothing was asked (RFC 5321 §3.8).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from smtpcore._events import Verb

__all__ = ["ENDS_GROUP", "LEADS", "LEGAL", "MAY_FOLLOW", "SUCCESS", "State", "anticipated", "leads"]


class State(enum.Enum):
    """Where a session stands, as far as replies are known."""

    #: The greeting has not come.
    CONNECTED = "connected"
    #: Greeted; neither EHLO nor HELO accepted.
    GREETED = "greeted"
    #: Between mail transactions.
    READY = "ready"
    #: STARTTLS accepted; the next octets are TLS.
    TLS = "tls"
    #: Inside an authentication exchange: a challenge waits for its answer.
    AUTH = "auth"
    #: A mail transaction with a reverse-path and no accepted recipient.
    MAIL = "mail"
    #: A mail transaction with at least one accepted recipient.
    RCPT = "rcpt"
    #: The octets of a message flow.
    DATA = "data"
    #: A chunk of a message was taken, and it was not the last.
    CHUNK = "chunk"
    #: A chunk was refused: what the peer makes of the transaction is known again after RSET (RFC 3030 §2).
    FAILED = "failed"
    #: QUIT was answered, or the connection is gone.
    CLOSED = "closed"

    # As Verb's.
    __hash__ = object.__hash__


_HELLO: Final = frozenset({Verb.EHLO, Verb.HELO, Verb.LHLO})
_ANY_TIME: Final = frozenset({Verb.NOOP, Verb.VRFY, Verb.EXPN, Verb.HELP, Verb.RSET, Verb.QUIT})

#: What may be said in a state (RFC 5321 §4.1.4). VRFY, EXPN, HELP, NOOP and QUIT are legal before EHLO as well; so
#: would RSET be, but there is nothing to reset, and its row would lead past EHLO. A refused greeting leaves QUIT
#: (§4.1.1.10).
LEGAL: Final[Mapping[State, frozenset[Verb]]] = MappingProxyType(
    {
        # After a greeting that refuses service, a client may still say goodbye (§3.1).
        State.CONNECTED: frozenset({Verb.QUIT}),
        State.GREETED: (_ANY_TIME - {Verb.RSET}) | _HELLO,
        State.READY: _ANY_TIME
        | _HELLO
        | {Verb.STARTTLS, Verb.AUTH, Verb.XCLIENT, Verb.XFORWARD, Verb.MAIL, Verb.OTHER},
        State.TLS: frozenset(),
        State.AUTH: frozenset({Verb.AUTH_ANSWER}),
        State.MAIL: _ANY_TIME | _HELLO | {Verb.RCPT},
        State.RCPT: _ANY_TIME | _HELLO | {Verb.RCPT, Verb.DATA, Verb.BDAT, Verb.BDAT_LAST},
        State.DATA: frozenset(),
        # Whatever is not about the chunks may end the transaction in some servers.
        State.CHUNK: frozenset({Verb.BDAT, Verb.BDAT_LAST, Verb.RSET, Verb.QUIT}),
        State.FAILED: frozenset({Verb.RSET, Verb.QUIT}),
        State.CLOSED: frozenset(),
    }
)

#: Where a reply to a command leads: by its exact code, or by its first digit. ``None`` stays where it is.
LEADS: Final[Mapping[Verb, Mapping[int, State | None]]] = MappingProxyType(
    {
        Verb.CONNECT: MappingProxyType({220: State.GREETED}),
        Verb.EHLO: MappingProxyType({2: State.READY}),
        Verb.HELO: MappingProxyType({2: State.READY}),
        Verb.LHLO: MappingProxyType({2: State.READY}),
        Verb.STARTTLS: MappingProxyType({220: State.TLS}),
        Verb.AUTH: MappingProxyType({235: State.READY, 334: State.AUTH, 4: State.READY, 5: State.READY}),
        Verb.AUTH_ANSWER: MappingProxyType({235: State.READY, 334: State.AUTH, 4: State.READY, 5: State.READY}),
        Verb.XCLIENT: MappingProxyType({220: State.GREETED}),
        Verb.XFORWARD: MappingProxyType({2: State.READY}),
        Verb.MAIL: MappingProxyType({2: State.MAIL}),
        Verb.RCPT: MappingProxyType({2: State.RCPT}),
        Verb.DATA: MappingProxyType({354: State.DATA}),
        Verb.END_OF_DATA: MappingProxyType({2: State.READY, 4: State.READY, 5: State.READY}),
        Verb.BDAT: MappingProxyType({2: State.CHUNK, 4: State.FAILED, 5: State.FAILED}),
        Verb.BDAT_LAST: MappingProxyType({2: State.READY, 4: State.FAILED, 5: State.FAILED}),
        Verb.RSET: MappingProxyType({2: State.READY}),
        Verb.NOOP: MappingProxyType({2: None}),
        Verb.VRFY: MappingProxyType({2: None}),
        Verb.EXPN: MappingProxyType({2: None}),
        Verb.HELP: MappingProxyType({2: None}),
        Verb.OTHER: MappingProxyType({2: None}),
        Verb.QUIT: MappingProxyType({2: State.CLOSED, 4: State.CLOSED, 5: State.CLOSED}),
    }
)

#: Commands that must be the last of a pipelined group.
ENDS_GROUP: Final = frozenset(
    {
        Verb.CONNECT,
        Verb.EHLO,
        Verb.HELO,
        Verb.LHLO,
        Verb.STARTTLS,
        Verb.AUTH,
        Verb.AUTH_ANSWER,
        Verb.XCLIENT,
        Verb.DATA,
        Verb.NOOP,
        Verb.VRFY,
        Verb.EXPN,
        Verb.OTHER,
        Verb.QUIT,
    }
)

#: Chunks that follow a refused one in the pipeline are refused as well: a peer that takes the last of them has a
#: message with a hole.
_CHUNKS: Final = frozenset({Verb.BDAT, Verb.BDAT_LAST})


def _success(rows: Mapping[int, State | None]) -> State | None:
    """The state behind the first row: success comes first in :data:`LEADS`."""
    return next(iter(rows.values()))


#: Where the success of a command leads, whatever was before; ``None`` for a neutral one.
SUCCESS: Final = {verb: _success(rows) for verb, rows in LEADS.items()}


#: What may be said behind a command in the same pipelined group: what is legal where its success leads. Of the neutral
#: commands only HELP may be followed, by what may follow those before it; the others end a group.
MAY_FOLLOW: Final[Mapping[Verb, frozenset[Verb]]] = {
    **{
        verb: LEGAL[success] if verb not in ENDS_GROUP and success is not None else frozenset[Verb]()
        for verb, success in SUCCESS.items()
    },
    # A refusal leaves the peer in a state that nobody knows, perhaps still in the transaction: RSET must come before
    # the next MAIL (RFC 3030 §2), or one mail would go to another one's recipients.
    Verb.BDAT_LAST: frozenset({Verb.RSET}),
}


@functools.lru_cache(maxsize=1024)
def leads(state: State, verb: Verb, code: int) -> State | None:
    """The state after ``code`` has answered ``verb`` in ``state``; ``None`` if no row allows that answer."""
    rows = LEADS[verb]
    if state is State.FAILED and code < 400 and verb in _CHUNKS:
        return None
    key = code if code in rows else code // 100
    if key in rows:
        return rows[key] or state
    return state if code >= 400 else None


def anticipated(state: State, in_flight: Iterable[Verb]) -> State:
    """The state once everything in flight, given newest first, has succeeded.

    Each success but a neutral one (NOOP and its like) leads to a state that does not depend on what was before, so the
    fold needs only the newest command that is not neutral.
    """
    for verb in in_flight:
        success = SUCCESS[verb]
        if success is not None:
            return success
    return state
