"""What a peer offers.

What lives here: capabilities against an independent reader of EHLO replies. What does not: what follows from them.
"""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import Capabilities, Client, Reply
from smtpcore._extensions import NO_CAPABILITIES

WORD = string.ascii_letters + string.digits + "-"


def read(*lines: str) -> Capabilities:
    return Capabilities.from_reply(Reply(250, ("mx.example at your service", *lines)))


KEYWORD = st.sampled_from(["SIZE", "AUTH", "DSN", "8BITMIME", "X-Y", "PIPELINING"])
PARAMETERS = st.lists(st.text(string.ascii_letters + string.digits + "=+.", min_size=1, max_size=6), max_size=3)


@given(st.lists(st.tuples(KEYWORD, PARAMETERS, st.booleans(), st.sampled_from([" ", "  ", "\t"])), max_size=6))
def test_a_reply_is_read_whatever_its_case_and_spacing(offers: list[tuple[str, list[str], bool, str]]) -> None:
    lines = []
    expected: dict[str, list[str]] = {}
    for keyword, parameters, small, space in offers:
        lines.append(space.join([keyword.lower() if small else keyword, *parameters]) + (space if small else ""))
        known = expected.setdefault(keyword, [])
        for parameter in parameters:
            if parameter not in known:
                known.append(parameter)
    capabilities = read(*lines)
    assert {keyword: list(parameters) for keyword, parameters in capabilities.extensions.items()} == expected
    for keyword in expected:
        assert keyword.lower() in capabilities
        assert capabilities[keyword.capitalize()] == capabilities[keyword]


@given(st.text(WORD + " =", max_size=20))
def test_the_first_line_offers_nothing(line: str) -> None:
    capabilities = Capabilities.from_reply(Reply(250, (line,)))
    assert not capabilities.extensions
    assert capabilities.name == line.split(" ", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        (["AUTH"], ()),
        (["AUTH PLAIN LOGIN"], ("PLAIN", "LOGIN")),
        (["auth plain login"], ("PLAIN", "LOGIN")),
        (["AUTH=PLAIN LOGIN"], ("PLAIN", "LOGIN")),
        (["auth=plain"], ("PLAIN",)),
        (["AUTH= PLAIN"], ("PLAIN",)),
        (["AUTH="], ()),
        (["AUTH PLAIN", "AUTH=PLAIN LOGIN"], ("PLAIN", "LOGIN")),
        (["AUTH=LOGIN", "AUTH PLAIN"], ("LOGIN", "PLAIN")),
        (["XAUTH PLAIN", "AUTHX=PLAIN"], ()),
    ],
)
def test_mechanisms_in_the_order_of_the_peer(lines: list[str], mechanisms: tuple[str, ...]) -> None:
    assert read(*lines).auth_mechanisms == mechanisms


@pytest.mark.parametrize(
    "line", ["", " ", "\t", "-X", "_X", "=", "=PLAIN", "X=Y", "SIZE=100", "STARTTLS.", "ÄUTH x", "*"]
)
def test_what_is_no_extension_is_passed_over(line: str) -> None:
    assert list(read(line, "DSN").extensions) == ["DSN"]


@pytest.mark.parametrize(
    ("lines", "limit"),
    [
        (["SIZE 1"], 1),
        (["SIZE 0"], None),
        (["SIZE 000"], None),
        (["SIZE 0100"], 100),
        (["SIZE"], None),
        (["SIZE 1e3"], None),
        (["SIZE 1_000"], None),
        (["SIZE +5"], None),
        (["SIZE ５"], None),
        (["SIZE ²"], None),
        (["SIZE " + "9" * 20], 10**20 - 1),
        (["SIZE " + "9" * 21], None),
        (["SIZE " + "9" * 5000], None),
        (["SIZE 10 20"], 10),
        ([], None),
    ],
)
def test_size_limits(lines: list[str], limit: int | None) -> None:
    assert read(*lines).size_limit == limit


def test_what_is_not_offered_is_not_there() -> None:
    capabilities = read("STARTTLS")
    assert "DSN" not in capabilities
    with pytest.raises(KeyError):
        _ = capabilities["dsn"]


def test_capabilities_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        read("DSN").extensions["DSN"] = ()  # type: ignore[index]  # what must not be possible
    with pytest.raises(TypeError):
        NO_CAPABILITIES.extensions["DSN"] = ()  # type: ignore[index]  # what must not be possible
    assert Client("x.example").capabilities == NO_CAPABILITIES


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_no_ehlo_reply_is_too_strange(lines: list[str]) -> None:
    offered = Capabilities.from_reply(Reply(250, tuple(lines)))
    assert all(keyword == keyword.upper() for keyword in offered.extensions)


def test_an_ehlo_reply_costs_time_in_proportion_to_its_length() -> None:
    """With every parameter compared with every other, this would take minutes."""
    names = [f"{number:x}" for number in range(200_000)]
    lines = [f"AUTH {' '.join(names[start : start + 1000])}" for start in range(0, len(names), 1000)]
    capabilities = Capabilities.from_reply(Reply(250, ("mx", *lines, *lines)))
    assert capabilities["AUTH"] == tuple(names)
