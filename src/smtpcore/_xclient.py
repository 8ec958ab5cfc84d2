"""What a peer may be told of another client, on whose behalf this one speaks: XCLIENT and XFORWARD of Postfix.

What lives here: the attributes as frozen values, checked when they are made, and how they are written. What does not:
when they are said, and what a peer that does not take them means.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from smtpcore._errors import LocalProtocolError
from smtpcore._grammar import encode_xtext

__all__ = ["MailSource", "Unavailable", "XClient", "XForward"]

_LONGEST_VALUE: Final = 255
_LONGEST_PROTOCOL: Final = 64
_LARGEST_PORT: Final = 65_535
_VISIBLE: Final = re.compile(r"[!-~]+")


class Unavailable(enum.Enum):
    """What is said of an attribute that is not known."""

    FOR_GOOD = "[UNAVAILABLE]"
    #: The name of a client could not be looked up at present; for ``XClient.name`` only.
    FOR_NOW = "[TEMPUNAVAIL]"


_MEANT: Final = frozenset(each.value for each in Unavailable)


class MailSource(enum.Enum):
    """Where a mail came from, as seen by the host that forwards it."""

    LOCAL = "LOCAL"
    REMOTE = "REMOTE"


_Text: TypeAlias = str | Unavailable | None
_Port: TypeAlias = int | Unavailable | None
#: A keyword and its value as it is said.
Attribute: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class XClient:
    """The client that a session is held for (XCLIENT); ``None`` leaves an attribute unsaid.

    ``protocol`` is ``SMTP``, ``ESMTP``, or what else the server knows; ``address`` and ``destination_address`` are IP
    addresses; ``login`` is the name under which the client was authenticated. The server judges the session as that of
    this client. Raises ``LocalProtocolError`` for values that cannot be said, and if there are none.
    """

    name: _Text = None
    address: _Text = None
    port: _Port = None
    protocol: _Text = None
    helo: _Text = None
    login: _Text = None
    destination_address: _Text = None
    destination_port: _Port = None

    def __post_init__(self) -> None:
        for what, address in (("address", self.address), ("destination_address", self.destination_address)):
            if isinstance(address, str) and not _is_ip(address):
                raise LocalProtocolError(f"XCLIENT takes an IP address as {what}", address)
        _check_attributes("XCLIENT", self.attributes)
        if any(text == Unavailable.FOR_NOW.value for keyword, text in self.attributes if keyword != "NAME"):
            raise LocalProtocolError("only a name can be unavailable for now", Unavailable.FOR_NOW)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes in the order in which they are said.

        Once it knows name and address a server may take no more from this client, so they come last.
        """
        return _written(
            ("PORT", _port(self.port)),
            ("PROTO", _text(self.protocol, _LONGEST_PROTOCOL)),
            ("HELO", _text(self.helo)),
            ("LOGIN", _text(self.login)),
            ("DESTADDR", _address(self.destination_address)),
            ("DESTPORT", _port(self.destination_port)),
            ("NAME", _text(self.name)),
            ("ADDR", _address(self.address)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class XForward:
    """The client that a mail came from, for the log of the server (XFORWARD); ``None`` leaves an attribute unsaid.

    ``address`` is an IP address or, where the mail came by other ways, any other; ``protocol`` the one by which it
    came; ``ident`` the queue identifier that it had there. Raises ``LocalProtocolError`` for values that cannot be
    said, and if there are none.
    """

    name: _Text = None
    address: _Text = None
    port: _Port = None
    protocol: _Text = None
    helo: _Text = None
    ident: _Text = None
    source: MailSource | Unavailable | None = None

    def __post_init__(self) -> None:
        if self.source is not None and not isinstance(self.source, (MailSource, Unavailable)):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise LocalProtocolError("the source is a MailSource, or Unavailable", self.source)
        _check_attributes("XFORWARD", self.attributes)
        if any(text == Unavailable.FOR_NOW.value for _, text in self.attributes):
            raise LocalProtocolError("XFORWARD knows nothing that is unavailable for now", Unavailable.FOR_NOW)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes in the order in which they are said."""
        return _written(
            ("NAME", _text(self.name)),
            ("ADDR", _address(self.address)),
            ("PORT", _port(self.port)),
            ("PROTO", _text(self.protocol, _LONGEST_PROTOCOL)),
            ("HELO", _text(self.helo)),
            ("IDENT", _text(self.ident)),
            ("SOURCE", None if self.source is None else self.source.value),
        )


def _written(*attributes: tuple[str, str | None]) -> tuple[Attribute, ...]:
    return tuple((keyword, text) for keyword, text in attributes if text is not None)


def _check_attributes(command: str, attributes: Iterable[Attribute]) -> None:
    if not any(True for _ in attributes):
        raise LocalProtocolError(f"{command} needs at least one attribute")


def _text(value: _Text, longest: int = _LONGEST_VALUE) -> str | None:
    if value is None or isinstance(value, Unavailable):
        return value and value.value
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError("an attribute of XCLIENT or XFORWARD is text, or Unavailable", value)
    if not _VISIBLE.fullmatch(value):
        raise LocalProtocolError("an attribute is printable ASCII without spaces", value)
    if value.upper() in _MEANT:
        raise LocalProtocolError("what is not known is said with Unavailable", value)
    text = encode_xtext(value)
    if len(text) > longest:
        raise LocalProtocolError(f"an attribute of this kind has at most {longest} octets, encoded", value)
    return text


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return "%" not in address


def _address(value: _Text) -> str | None:
    text = _text(value)
    if isinstance(value, str) and ":" in value and _is_ip(value):
        return f"IPV6:{text}"
    return text


def _port(value: _Port) -> str | None:
    if value is None or isinstance(value, Unavailable):
        return value and value.value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST_PORT:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise LocalProtocolError(f"a port is a number from 1 to {_LARGEST_PORT}", value)
    return str(value)
