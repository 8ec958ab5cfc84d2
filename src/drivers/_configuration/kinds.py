"""The kinds of values that a setting can have: how each is read from TOML, and how it is written.

What lives here: one value object for each kind. What does not: which settings there are.
"""

from __future__ import annotations

import enum
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from smtpcore import LocalProtocolError, check_host_name
from smtpcore.relay import Lmtp, SmartHost

__all__ = [
    "ADDRESS",
    "DIRECTORY",
    "DURATION",
    "FACTOR",
    "FILE",
    "FLAG",
    "HOST_AND_PORT",
    "HOST_NAME",
    "NEVER",
    "NUMBER",
    "OCTETS",
    "SHARE",
    "TEXT",
    "WAY",
    "BadElement",
    "Kind",
    "choice",
    "host_and_port",
    "is_list",
    "is_table",
    "list_of",
    "or_word",
]

#: What says "not at all" where a duration is expected.
NEVER: Final = "never"

_SECONDS: Final[dict[str, float]] = {
    "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0,
}  # fmt: skip
_OCTETS: Final[dict[str, int]] = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
#: What begins the place of a store of mailboxes.
_LMTP: Final = "lmtp:"
#: Beyond these a value is a slip of the pen, and beyond what clocks and counters bear.
_LONGEST: Final = 10 * 366 * _SECONDS["d"]
_GREATEST: Final = 2**53


@dataclass(frozen=True, slots=True)
class Kind:
    """``read`` turns what TOML gave into a value, or raises ``ValueError`` with what is expected; ``show`` is TOML.

    ``example`` stands in samples where there is no default.
    """

    name: str
    read: Callable[[object], Any]
    show: Callable[[Any], str]
    example: Any = None


class BadElement(ValueError):
    """One element of a list is not what it should be; ``number`` says which."""

    def __init__(self, words: str, number: int) -> None:
        super().__init__(words)
        self.number = number


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether TOML gave an array."""
    return isinstance(value, list)


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether TOML gave a table."""
    return isinstance(value, dict)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text in quotes is expected, not {_shown(value)}")
    if not value:
        raise ValueError("it may not be empty")
    return value


def _shown(value: object) -> str:
    """What was given instead, by its TOML name."""
    names: tuple[tuple[type, str], ...] = (
        (bool, "true or false"), (int, "a number"), (float, "a number"), (str, "text"), (list, "a list"),
        (dict, "a table"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "a date or time")


def _quoted(value: object) -> str:
    # What JSON writes for a text is a basic string of TOML.
    return json.dumps(str(value), ensure_ascii=False)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false is expected, not {_shown(value)}")
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number is expected, not {_shown(value)}")
    if not 0 <= value <= _GREATEST:
        raise ValueError(f"{value} is out of range")
    return value


def _factor(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a number is expected, not {_shown(value)}")
    if not 0 < value <= 1000:
        raise ValueError(f"{value} is out of range: more than 0, at most 1000")
    return float(value)


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a number is expected, not {_shown(value)}")
    if not 0 <= value < 1:
        raise ValueError(f"{value} is out of range: at least 0, less than 1")
    return float(value)


def _amount(text: str, units: Mapping[str, float] | Mapping[str, int]) -> float:
    """The sum of amounts such as ``1h 30m``."""
    found = _AMOUNT.findall(text)
    if not found or _AMOUNT.sub("", text).strip():
        raise ValueError(f"{text!r} is not a number with a unit")
    for _, unit in found:
        if unit not in units:
            raise ValueError(f"{unit!r} is not a unit; there are {', '.join(units)}")
    return sum(float(number) * units[unit] for number, unit in found)


def _duration(value: object) -> float:
    if isinstance(value, str):
        seconds = _amount(value, _SECONDS)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'seconds, or text such as "5m", are expected, not {_shown(value)}')
    else:
        seconds = value
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"{value} is out of range: more than 0, at most 10 years")
    return float(seconds)


def _show_duration(seconds: float) -> str:
    unit = next((u for u in reversed(_SECONDS) if u != "w" and seconds % _SECONDS[u] == 0), "s")
    return _quoted(f"{seconds / _SECONDS[unit]:.15g}{unit}")


def _octets(value: object) -> int:
    if isinstance(value, str):
        return _number(round(_amount(value, _OCTETS)))
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'octets, or text such as "50KiB", are expected, not {_shown(value)}')
    return _number(value)


def _show_octets(octets: int) -> str:
    unit = next(u for u in reversed(_OCTETS) if octets % _OCTETS[u] == 0)
    return str(octets) if unit == "B" else _quoted(f"{octets // _OCTETS[unit]}{unit}")


def _host_name(value: object) -> str:
    name = _text(value)
    try:
        check_host_name(name)
    except LocalProtocolError as error:
        raise ValueError(error.rule) from None
    return name


def _address(value: object) -> str:
    return str(ipaddress.ip_address(_text(value)))


def host_and_port(text: str) -> SmartHost:
    """``HOST:PORT``, or a host alone for port 25; an IPv6 address in brackets. Raises ``ValueError``."""
    host, port = _split(text)
    try:
        return SmartHost(host, 25 if port is None else port)
    except LocalProtocolError as error:
        raise ValueError(str(error)) from None


def _split(text: str) -> tuple[str, int | None]:
    """A host without brackets, and its port if one is given."""
    host, colon, port = text.rpartition(":") if text.rfind(":") > text.rfind("]") else (text, "", "")
    if colon and not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port) if colon else None


def _lmtp(text: str) -> Lmtp:
    """``HOST:PORT``, a host alone for port 24, or the path of a unix socket, which begins with a slash."""
    try:
        if text.startswith("/"):
            return Lmtp(path=text)
        host, port = _split(text)
        return Lmtp(host, 24 if port is None else port)
    except LocalProtocolError as error:
        raise ValueError(error.rule) from None


def _read_way(value: object) -> Lmtp | tuple[SmartHost, ...]:
    if isinstance(value, str) and value.startswith(_LMTP):
        return _lmtp(value.removeprefix(_LMTP))
    return _read_hosts(value)


def _show_way(value: Lmtp | tuple[SmartHost, ...]) -> str:
    if not isinstance(value, Lmtp):
        return _show_hosts(value)
    host = f"[{value.host}]" if ":" in value.host else value.host
    return _quoted(f"{_LMTP}{value.path or f'{host}:{value.port}'}")


def _read_hosts(value: object) -> tuple[SmartHost, ...]:
    if is_list(value):
        return tuple(_LIST_OF_HOSTS.read(value))
    return (_read_host_and_port(value),)


def _show_hosts(value: tuple[SmartHost, ...]) -> str:
    return _show_host_and_port(value[0]) if len(value) == 1 else str(_LIST_OF_HOSTS.show(value))


def _read_host_and_port(value: object) -> SmartHost:
    if isinstance(value, SmartHost):
        return value
    text = _text(value)
    if text.startswith(_LMTP):
        raise ValueError("a store of mailboxes is no member of a list")
    return host_and_port(text)


def _show_host_and_port(value: SmartHost) -> str:
    host = f"[{value.host}]" if ":" in value.host else value.host
    return _quoted(f"{host}:{value.port}")


def list_of(kind: Kind) -> Kind:
    """A list of at least one value; reading raises :class:`BadElement` for one that is wrong."""

    def read(value: object) -> tuple[Any, ...]:
        if not is_list(value) or not value:
            given = "an empty one" if is_list(value) else _shown(value)
            raise ValueError(f"a list is expected, not {given}")
        return tuple(_element(kind, number, element) for number, element in enumerate(value))

    def show(values: tuple[Any, ...]) -> str:
        return f"[{', '.join(kind.show(value) for value in values)}]"

    return Kind(f"list: {kind.name}", read, show, (kind.example,))


def _element(kind: Kind, number: int, element: object) -> Any:
    try:
        return kind.read(element)
    except ValueError as error:
        raise BadElement(str(error), number) from None


def choice(*members: enum.Enum | str) -> Kind:
    """One of some words, or the member of an enum whose value the word is; the first is the example."""
    words = {member if isinstance(member, str) else str(member.value): member for member in members}

    def read(value: object) -> Any:
        word = _text(value)
        if word not in words:
            raise ValueError(f"{word!r} is none of {', '.join(words)}")
        return words[word]

    def show(value: Any) -> str:
        return _quoted(next(word for word, member in words.items() if member == value))

    return Kind("one of " + ", ".join(f'"{word}"' for word in words), read, show, members[0])


def or_word(kind: Kind, word: str, meaning: Any = None) -> Kind:
    """Another kind, or one word that stands for ``meaning``."""
    return Kind(
        f'{kind.name}, or "{word}"',
        lambda value: meaning if value == word else kind.read(value),
        lambda value: _quoted(word) if value == meaning else kind.show(value),
        kind.example,
    )


TEXT: Final = Kind("text", _text, _quoted, "...")
FILE: Final = Kind("file", _text, _quoted, "/path/to/file")
DIRECTORY: Final = Kind("directory", _text, _quoted, "/path/to/directory")
FLAG: Final = Kind("true or false", _flag, lambda value: str(value).lower())
NUMBER: Final = Kind("number", _number, str)
FACTOR: Final = Kind("number", _factor, lambda value: f"{value:g}")
SHARE: Final = Kind("number from 0 to 1", _share, lambda value: f"{value:g}")
DURATION: Final = Kind("duration", _duration, _show_duration)
OCTETS: Final = Kind("octets", _octets, _show_octets)
HOST_NAME: Final = Kind("host name", _host_name, _quoted, "relay.example")
ADDRESS: Final = Kind("IP address", _address, _quoted, "192.0.2.1")
HOST_AND_PORT: Final = Kind("host:port", _read_host_and_port, _show_host_and_port, SmartHost("smtp.example", 25))
_LIST_OF_HOSTS: Final = list_of(HOST_AND_PORT)
#: One host or several, in the order in which they are tried, or a store of mailboxes.
WAY: Final = Kind(
    'host:port, or a list of them, or "lmtp:host:port", or "lmtp:/path"',
    _read_way,
    _show_way,
    (HOST_AND_PORT.example,),
)
