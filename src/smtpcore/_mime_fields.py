"""The values of the fields of MIME headers (RFC 2045 §5.1): without comments, a media type, and its parameters.

What lives here: readers of one value each, which take no more time than its length asks for, whatever stands in it.
What does not: finding the fields (:mod:`smtpcore._conversion`), and fields of addresses.

The parser of the email package takes what it cannot read for text, and quadratic time for parameters. Here a value that
could be read in two ways is not read at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["media_type", "parameter", "without_comments"]

_OUTSIDE: Final = re.compile(rb'\(|[^("]++|"(?:[^"\\]++|\\.)*+"?+', re.DOTALL)
_COMMENT: Final = re.compile(rb"[()]|[^()\\]++|\\.?+", re.DOTALL)
_TYPE: Final = re.compile(
    rb"[ \t]*+([!#$%&'*+\-.0-9A-Z^_`a-z{|}~]++)[ \t]*+/[ \t]*+([!#$%&'*+\-.0-9A-Z^_`a-z{|}~]++)[ \t]*+(?=;|\Z)"
)
_PARAMETER: Final = re.compile(
    rb';([^;"=]*+)(?:=[ \t]*+(?:"((?:[^"\\]++|\\.)*+)"[ \t]*+|([^;"]*+)))?+(?=;|\Z)', re.DOTALL
)
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
_OCTET: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def without_comments(value: bytes) -> bytes:
    """A value on one line, a space for each comment; a comment that is not closed hides what follows."""
    kept: list[bytes] = []
    depth = at = 0
    value = value.replace(b"\r\n", b"")
    while found := (_COMMENT if depth else _OUTSIDE).match(value, at):
        at = found.end()
        if found[0] == b"(":
            depth += 1
            kept.append(b" ")
        elif depth:
            depth -= found[0] == b")"
        else:
            kept.append(found[0])
    return b"".join(kept)


def media_type(value: bytes) -> str:
    """The type that a Content-Type without comments says, in lower case. Raises ``ValueError`` where it says none."""
    found = _TYPE.match(value)
    if found is None:
        raise ValueError("not a type and a subtype")
    return b"/".join(found.groups()).decode("ascii").lower()


def parameter(value: bytes, name: bytes) -> bytes | None:
    """A parameter of a Content-Type without comments, also one in sections or in another character set (RFC 2231).

    Raises ``ValueError`` where the parameters cannot be told from each other, and where this one is said twice.
    """
    sections: dict[bytes, bytes] = {}
    at = value.find(b";")
    while 0 <= at < len(value):
        found = _PARAMETER.match(value, at)
        if found is None:
            raise ValueError("parameters that cannot be read")
        at = found.end()
        called, star, section = found[1].strip().lower().partition(b"*")
        if called == name:
            if star + section in sections:
                raise ValueError("a parameter that is there twice")
            sections[star + section] = _unquoted(found)
    return _joined(sections)


def _unquoted(found: re.Match[bytes]) -> bytes:
    if found[2] is not None:
        return _QUOTED_PAIR.sub(rb"\1", found[2])
    return (found[3] or b"").strip()


def _joined(sections: Mapping[bytes, bytes]) -> bytes | None:
    """The value out of its sections, ``*0`` first; those whose names end with ``*`` are encoded."""
    if sections.keys() <= {b""}:
        return sections.get(b"")
    if list(sections) == [b"*"]:
        sections = {b"*0*": sections[b"*"]}
    joined: list[bytes] = []
    for number in range(len(sections)):
        plain = b"*%d" % number
        if plain in sections:
            joined.append(sections[plain])
        elif plain + b"*" in sections:
            encoded = sections[plain + b"*"]
            joined.append(_decoded(encoded if number else _behind_charset(encoded)))
        else:
            raise ValueError("a parameter whose sections are not in order")
    return b"".join(joined)


def _behind_charset(encoded: bytes) -> bytes:
    _, mark, rest = encoded.partition(b"'")
    _, second, octets = rest.partition(b"'")
    if not (mark and second):
        raise ValueError("a parameter without a character set")
    return octets


def _decoded(encoded: bytes) -> bytes:
    return _OCTET.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), encoded)
