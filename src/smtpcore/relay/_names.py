"""Answers of the DNS on where mail for a domain goes, as raw records.

What lives here: frozen values. What does not: looking them up, which is a driver's; and what follows from them
(``_mx``). Names are A-labels in lower case without the final dot; the root is a dot alone. A resolver follows CNAMEs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["AddressAnswer", "AnswerKind", "MxAnswer", "MxRecord"]


class AnswerKind(enum.Enum):
    """What a lookup came to."""

    RECORDS = "records"
    #: The name does not exist (NXDOMAIN).
    NO_NAME = "no name"
    #: The name exists and has no record of the type that was asked for.
    NO_DATA = "no data"
    #: There is no answer: SERVFAIL, a timeout, garbage, a loop of CNAMEs or too long a chain of them.
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class MxRecord:
    """One MX record (RFC 5321 §5.1). A null MX (RFC 7505) is the one record whose host is the root, ``"."``."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class MxAnswer:
    """The MX records of a domain. ``problem`` says in words why there are none, where there is more to say."""

    kind: AnswerKind
    records: tuple[MxRecord, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """The IPv6 and IPv4 addresses of a host, as texts, in the order in which the DNS gave them."""

    kind: AnswerKind
    addresses: tuple[str, ...] = ()
    problem: str = ""
