"""Service extensions: what an EHLO reply offers.

What lives here: the capabilities of a peer. What does not: what MAIL and RCPT carry because of them
(:mod:`smtpcore._planner`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from smtpcore._events import Reply

__all__ = ["NO_CAPABILITIES", "Capabilities", "number_in"]

#: A limit has six digits at most and is not 0 (RFC 9422).
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,5}")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a peer offers: its own name, and extension keywords in upper case with their parameters (RFC 5321 §4.1.1.1).

    ``"size" in capabilities`` and ``capabilities["SIZE"]`` take keywords in any case.
    """

    name: str = ""
    extensions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, keyword: str) -> bool:
        return keyword.upper() in self.extensions

    def __getitem__(self, keyword: str) -> tuple[str, ...]:
        """The parameters of an extension that is offered; ``KeyError`` otherwise."""
        return self.extensions[keyword.upper()]

    @property
    def size_limit(self) -> int | None:
        """The largest message the peer takes, in octets; ``None`` if unknown or without limit (RFC 1870 §4)."""
        parameters = self.extensions.get("SIZE", ())
        return number_in(parameters[0]) or None if parameters else None

    @property
    def mail_limit(self) -> int | None:
        """How many transactions the peer takes in one session: MAILMAX (RFC 9422); ``None`` if it does not say."""
        return self._limit("MAILMAX")

    @property
    def recipient_limit(self) -> int | None:
        """How many recipients the peer takes in one transaction: RCPTMAX (RFC 9422); ``None`` if it does not say."""
        return self._limit("RCPTMAX")

    @property
    def domain_limit(self) -> int | None:
        """Of how many domains the recipients of one session may be: RCPTDOMAINMAX (RFC 9422); ``None`` if unsaid."""
        return self._limit("RCPTDOMAINMAX")

    def _limit(self, name: str) -> int | None:
        """A parameter of LIMITS, the lowest of them if it is named again; what is no number is passed over."""
        named = (parameter.upper().partition("=") for parameter in self.extensions.get("LIMITS", ()))
        numbers = (int(value) for keyword, _, value in named if keyword == name and _LIMIT.fullmatch(value))
        return min(numbers, default=None)

    @property
    def auth_mechanisms(self) -> tuple[str, ...]:
        """The names of the SASL mechanisms offered, in upper case and in the order of the peer (RFC 4954 §3)."""
        return tuple(name.upper() for name in self.extensions.get("AUTH", ()))

    @classmethod
    def from_reply(cls, reply: Reply) -> Capabilities:
        """Read an EHLO reply.

        The first line holds the name of the peer and never an extension. Lines that are no extension (some servers end
        with an empty one) are passed over; a keyword named twice gathers its parameters. ``AUTH=``, from before the
        standard, means ``AUTH``.
        """
        # Parameters as keys: a peer may name a great many, and each is looked for among those before it.
        extensions: dict[str, dict[str, None]] = {}
        for line in reply.lines[1:]:
            keyword, *parameters = line.split() or [""]
            keyword, equals, value = keyword.partition("=")
            if equals:
                if keyword.upper() != "AUTH":
                    continue
                parameters = [value, *parameters] if value else parameters
            if _KEYWORD.fullmatch(keyword):
                extensions.setdefault(keyword.upper(), {}).update(dict.fromkeys(parameters))
        offered = {keyword: tuple(parameters) for keyword, parameters in extensions.items()}
        return cls(reply.lines[0].partition(" ")[0], MappingProxyType(offered))


NO_CAPABILITIES: Final = Capabilities()


def number_in(parameter: str) -> int | None:
    """The number that a parameter is, if it is one and not absurdly long."""
    return int(parameter) if parameter.isascii() and parameter.isdigit() and len(parameter) <= 20 else None
