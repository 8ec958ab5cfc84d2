"""What the holder of a session may choose: what is spoken, how it is encrypted, how far commands run ahead.

What lives here: the choices, and the check that they are such. What does not: what follows from them
(:mod:`smtpcore._opening`, :mod:`smtpcore._client`).
"""

from __future__ import annotations

import enum

from smtpcore._body import LineEnds
from smtpcore._kinds import check_kind
from smtpcore._planner import Conversion

__all__ = ["Pipelining", "Protocol", "TlsPolicy", "check_policies"]


class TlsPolicy(enum.Enum):
    """Whether and how a session is encrypted."""

    #: Never; STARTTLS is not said.
    NEVER = "never"
    #: STARTTLS when offered (RFC 7435).
    OPPORTUNISTIC = "opportunistic"
    #: STARTTLS, or no mail (RFC 3207 §4.1).
    REQUIRED = "required"
    #: TLS before the greeting (RFC 8314 §3.3).
    IMPLICIT = "implicit"
    #: The transport is secure already, by means that the core does not see.
    SECURED = "secured"


class Protocol(enum.Enum):
    """What is spoken."""

    SMTP = "smtp"
    #: The same with LHLO, and with a verdict on the message for each recipient (RFC 2033).
    LMTP = "lmtp"


class Pipelining(enum.Enum):
    """How far commands run ahead of their replies (RFC 2920)."""

    #: One command at a time, whatever the peer offers.
    NONE = "none"
    #: Within one mail, when the peer offers it.
    WITHIN = "within"
    #: Across mails: the commands of the next mail follow the end of data at once, so that a mail costs one round trip.
    ACROSS = "across"


def check_policies(
    protocol: Protocol,
    tls: TlsPolicy,
    pipelining: Pipelining,
    line_ends: LineEnds,
    eight_bit: Conversion | None,
    long_lines: Conversion,
) -> None:
    """Raise ``LocalProtocolError`` for what is no policy.

    Text in place of one would be none of them, and credentials would go out in clear.
    """
    check_kind("protocol", protocol, Protocol)
    check_kind("tls", tls, TlsPolicy)
    check_kind("pipelining", pipelining, Pipelining)
    check_kind("line_ends", line_ends, LineEnds)
    check_kind("eight_bit", Conversion.REFUSE if eight_bit is None else eight_bit, Conversion)
    check_kind("long_lines", long_lines, Conversion)
