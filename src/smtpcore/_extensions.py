"""Service extensions: what an EHLO reply offers, and what MAIL and RCPT may or must carry because of it.

What lives here: the capabilities of a peer, and the lines of MAIL and RCPT. What does not: when they are said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from smtpcore._errors import ExtensionRequired, LocalProtocolError
from smtpcore._events import Command, Envelope, Reply, Verb
from smtpcore._limits import Limits

__all__ = ["NO_CAPABILITIES", "Capabilities", "check_mail_line", "mail_command", "missing_extension", "rcpt_command"]

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
        return int(parameters[0]) or None if parameters and _is_number(parameters[0]) else None

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
_EVERYTHING: Final = Capabilities("", {"SIZE": (), "8BITMIME": ()})
#: What a MAIL line holds at most beside the reverse-path, CRLF included.
_MAIL_PARAMETERS: Final = len("MAIL FROM:<> SIZE= BODY=8BITMIME\r\n") + 20


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def missing_extension(envelope: Envelope, capabilities: Capabilities) -> ExtensionRequired | None:
    """Why this peer cannot be given this mail, or ``None``.

    A body with octets above 127 may not be sent without 8BITMIME (RFC 6152 §3), nor one that is larger than the peer
    takes (RFC 1870 §6.1).
    """
    body = envelope.body
    if body.eight_bit and "8BITMIME" not in capabilities:
        return ExtensionRequired("the message has octets above 127 and the peer does not offer 8BITMIME", "5.6.3")
    limit = capabilities.size_limit
    if body.size is not None and limit is not None and body.size > limit:
        return ExtensionRequired(f"a message of {body.size} octets; the peer takes at most {limit}", "5.3.4")
    return None


def mail_command(envelope: Envelope, capabilities: Capabilities, limits: Limits) -> Command:
    """MAIL with the parameters that ``capabilities`` allow (RFC 5321 §4.1.1.2).

    A size that is known is declared (RFC 1870 §6). A body that holds octets above 127, or may hold some, is declared
    ``BODY=8BITMIME`` (RFC 6152 §3). Raises ``LocalProtocolError`` when the line would exceed its limit.
    """
    line = f"MAIL FROM:<{envelope.reverse_path}>"
    if envelope.body.size is not None and "SIZE" in capabilities:
        line += f" SIZE={envelope.body.size}"
    if envelope.body.eight_bit is not False and "8BITMIME" in capabilities:
        line += " BODY=8BITMIME"
    return _bounded(Command(Verb.MAIL, line.encode("ascii")), limits)


def check_mail_line(envelope: Envelope, limits: Limits) -> None:
    """Raise ``LocalProtocolError`` if MAIL could exceed its limit with everything that a peer may offer."""
    if len(envelope.reverse_path) + _MAIL_PARAMETERS > limits.command_line:
        mail_command(envelope, _EVERYTHING, limits)


def rcpt_command(recipient: str, limits: Limits) -> Command:
    """RCPT for one recipient (RFC 5321 §4.1.1.3); raises as :func:`mail_command`."""
    return _bounded(Command(Verb.RCPT, f"RCPT TO:<{recipient}>".encode("ascii")), limits)


def _bounded(command: Command, limits: Limits) -> Command:
    if len(command.line) + 2 > limits.command_line:
        raise LocalProtocolError(
            f"a command line has at most {limits.command_line} octets (Limits.command_line)", command.line
        )
    return command
