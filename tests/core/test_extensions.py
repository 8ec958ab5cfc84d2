"""What a peer offers, and what MAIL and RCPT say because of it.

What lives here: capabilities against an independent reader of EHLO replies, and the lines of a mail for every
combination of what is offered and what is known. What does not: when they are said.
"""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import BodyFacts, Capabilities, Client, Envelope, Limits, LocalProtocolError, Reply, Verb
from smtpcore._extensions import NO_CAPABILITIES, mail_command, missing_extension, rcpt_command

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
        read("DSN").extensions["DSN"] = ()  # type: ignore[index]
    with pytest.raises(TypeError):
        NO_CAPABILITIES.extensions["DSN"] = ()  # type: ignore[index]
    assert Client("x.example").capabilities == NO_CAPABILITIES


@pytest.mark.parametrize("eight_bit", [True, False, None])
@pytest.mark.parametrize("size", [None, 0, 10, 11])
def test_every_mail_against_every_peer(size: int | None, eight_bit: bool | None) -> None:
    envelope = Envelope("a@b.example", ("c@d.example",), body=BodyFacts(size=size, eight_bit=eight_bit))
    for size_line, eight in itertools.product((None, "SIZE", "size 0", "SIZE 10"), (False, True)):
        offers = read(*([size_line] if size_line else []), *(["8bitmime"] if eight else []))
        missing = missing_extension(envelope, offers)
        if eight_bit and not eight:
            assert missing is not None
            assert missing.enhanced == "5.6.3"
        elif size == 11 and size_line == "SIZE 10":
            assert missing is not None
            assert missing.enhanced == "5.3.4"
        else:
            assert missing is None
        command = mail_command(envelope, offers, Limits())
        words = command.line.split(b" ")
        assert command.verb is Verb.MAIL
        assert words[:2] == [b"MAIL", b"FROM:<a@b.example>"]
        assert (b"BODY=8BITMIME" in words) == (eight and eight_bit is not False)
        assert (f"SIZE={size}".encode() in words) == (size is not None and size_line is not None)
        assert len(words) == 2 + (b"BODY=8BITMIME" in words) + any(word.startswith(b"SIZE=") for word in words)


def test_the_null_reverse_path_and_postmaster_are_said_as_they_are() -> None:
    assert mail_command(Envelope("", ("a@b.example",)), NO_CAPABILITIES, Limits()).line == b"MAIL FROM:<>"
    assert rcpt_command("Postmaster", Limits()).line == b"RCPT TO:<Postmaster>"
    assert rcpt_command('"a> b"@x.example', Limits()).line == b'RCPT TO:<"a> b"@x.example>'


def test_a_line_is_as_long_as_the_limit_and_no_longer() -> None:
    line = rcpt_command("a@b.example", Limits()).line
    assert rcpt_command("a@b.example", Limits(command_line=len(line) + 2)).line == line
    with pytest.raises(LocalProtocolError):
        rcpt_command("a@b.example", Limits(command_line=len(line) + 1))
    envelope = Envelope("a@b.example", ("c@d.example",), body=BodyFacts(size=5))
    line = mail_command(envelope, read("SIZE"), Limits()).line
    assert mail_command(envelope, read("SIZE"), Limits(command_line=len(line) + 2)).line == line
    with pytest.raises(LocalProtocolError):
        mail_command(envelope, read("SIZE"), Limits(command_line=len(line) + 1))


def test_a_mail_whose_longest_line_would_be_too_long_is_refused_when_it_is_asked_for() -> None:
    envelope = Envelope("a@b.example", ("c@d.example",), body=BodyFacts(size=5))
    longest = len(mail_command(envelope, read("SIZE", "8BITMIME"), Limits()).line)
    Client("x.example", limits=Limits(command_line=longest + 2)).send(envelope)
    client = Client("x.example", limits=Limits(command_line=longest + 1))
    before = client.snapshot()
    with pytest.raises(LocalProtocolError, match=r"Limits\.command_line"):
        client.send(envelope)
    assert client.snapshot() == before


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
