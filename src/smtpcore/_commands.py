"""The door for commands that a client says only because the application asks.

What lives here: which commands may go through, and what keeps the others out. What does not: when they are said
(:mod:`smtpcore._client`).
"""

from __future__ import annotations

import re
from typing import Final

from smtpcore._errors import LocalProtocolError
from smtpcore._events import Command, Verb
from smtpcore._kinds import check_kind
from smtpcore._limits import Limits

__all__ = ["checked_command"]

_KEYWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_KNOWN: Final = {verb.value: verb for verb in (Verb.NOOP, Verb.VRFY, Verb.EXPN, Verb.HELP)}
#: Commands that would change what a session knows of itself.
_KEPT_OUT: Final = {
    **dict.fromkeys(("EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "QUIT", "RSET"), "the session says it itself"),
    **dict.fromkeys(("MAIL", "RCPT", "DATA", "BDAT", "BURL"), "mails are sent with send()"),
    **dict.fromkeys(("SEND", "SOML", "SAML"), "it begins a mail (RFC 821 §3.4)"),
    **dict.fromkeys(("TURN", "ATRN"), "it makes the server a client (RFC 2645)"),
    "XCLIENT": "it begins the session anew; a session is given it when it is opened",
    "XFORWARD": "it is an option of a mail (MailOptions.forwarded)",
}


def checked_command(line: str, limits: Limits, *, secret: bool = False) -> Command:
    """A command out of its line without CRLF; raises ``LocalProtocolError`` for one that may not be asked for.

    The error names the keyword alone, for what follows it may be a secret whatever the caller says.
    """
    if not isinstance(line, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError("a command must be a str", type(line))
    check_kind("secret", secret, bool)
    if not (line.isascii() and line.isprintable()):
        raise LocalProtocolError("a command is one line of printable ASCII")
    word = line.partition(" ")[0]
    if not _KEYWORD.fullmatch(word):
        raise LocalProtocolError("a command begins with a keyword of letters, digits and hyphens")
    keyword = word.upper()
    if keyword in _KEPT_OUT:
        raise LocalProtocolError(f"{keyword} cannot be asked for: {_KEPT_OUT[keyword]}", word)
    if len(line) + 2 > limits.command_line:
        rule = f"a command line has at most {limits.command_line} octets (Limits.command_line)"
        raise LocalProtocolError(rule, word if word != line else None)
    return Command(_KNOWN.get(keyword, Verb.OTHER), line.encode("ascii"), secret)
