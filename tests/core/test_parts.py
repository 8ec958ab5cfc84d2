"""Small parts of the core: limits, errors, what events show of themselves, the line buffer, capabilities, PLAIN.

What lives here: parts that need no dialogue. What does not: the law (``test_law.py``) and the client.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smtpcore
from smtpcore import (
    BodyFacts,
    Capabilities,
    Command,
    Deadlines,
    DeliveryFailed,
    Envelope,
    ExtensionRequired,
    Limits,
    LocalProtocolError,
    Mail,
    MailRefused,
    Outcome,
    RemoteProtocolError,
    Reply,
    SendLine,
    SessionError,
    SmtpError,
    Stage,
    Transcript,
    Verb,
    Verdict,
    _errors,
)
from smtpcore._buffer import LineBuffer
from smtpcore._errors import AuthExchangeFailed
from smtpcore._extensions import NO_CAPABILITIES, mail_command, missing_extension, rcpt_command
from smtpcore.sasl import Plain


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert _errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[str] = []
    for indent, name in re.findall(r"^    ([ │├└─]*)(\w+)", _errors.__doc__.partition("::")[2], re.MULTILINE):
        depth = len(indent) // 4
        path[depth:] = [name]
        if depth:
            drawn[name] = path[depth - 1]
    classes = [getattr(_errors, name) for name in _errors.__all__ if name != "SmtpError"]
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in classes}


def test_every_error_is_public() -> None:
    for name in _errors.__all__:
        assert getattr(smtpcore, name) is getattr(_errors, name)
        assert issubclass(getattr(smtpcore, name), SmtpError)


def test_all_names_are_there() -> None:
    assert len(set(smtpcore.__all__)) == len(smtpcore.__all__)
    assert all(hasattr(smtpcore, name) for name in smtpcore.__all__)


@pytest.mark.parametrize("changes", [{"reply_line": 0}, {"commands_in_flight": 0}, {"transcript_lines": -1}])
def test_limits_that_make_no_sense_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(LocalProtocolError, match=next(iter(changes))):
        Limits(**changes)  # type: ignore[arg-type]


def test_deadlines_scale_together() -> None:
    scaled = Limits().scaled(0.5).deadlines
    assert (scaled.mail, scaled.data_termination, scaled.quit) == (150.0, 300.0, 2.5)
    for factor in (0, -1, float("nan")):
        with pytest.raises(LocalProtocolError):
            Limits().scaled(factor)
    with pytest.raises(LocalProtocolError, match="mail"):
        Deadlines(mail=0)
    assert Limits(transcript_lines=0).transcript_lines == 0


def test_deadlines_are_those_of_the_rfc() -> None:
    rows = Deadlines()
    minutes = (rows.greeting, rows.mail, rows.rcpt, rows.data_initiation, rows.data_block, rows.data_termination)
    assert minutes == (300, 300, 300, 120, 180, 600)


@pytest.mark.parametrize(
    ("sender", "recipients", "named"),
    [
        ("a@b.example", (), "at least one"),
        ("a@b.example", "c@d.example", "'c@d.example': recipients must be a sequence of mailboxes"),
        ("a@b.example", b"c@d.example", "b'c@d.example': recipients must be a sequence of mailboxes"),
        ("a b", ("c@d.example",), "a b"),
        ("", ("c@d.example", "bad"), "bad"),
        ("", ("",), "local-part@domain"),
    ],
)
def test_an_envelope_that_may_not_be_sent_cannot_be_made(sender: str, recipients: tuple[str, ...], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        Envelope(sender, recipients)


def test_an_envelope_is_held_to_limits() -> None:
    Envelope("", ("a@b.example",) * 2).check_limits(Limits(recipients=2))
    with pytest.raises(LocalProtocolError, match=r"Limits\.recipients"):
        Envelope("", ("a@b.example",) * 3).check_limits(Limits(recipients=2))
    long = "x" * 250 + "@b.example"
    with pytest.raises(LocalProtocolError, match="256 octets"):
        Envelope("", (long,)).check_limits(Limits())
    with pytest.raises(LocalProtocolError, match="0 octets"):
        BodyFacts(size=-1)


def test_no_secret_shows() -> None:
    line = b"AUTH PLAIN c2VjcmV0"
    for shown in (
        repr(Command(Verb.AUTH, line, True)),
        repr(SendLine(line + b"\r\n", True, 1.0)),
        repr(Plain("u", "p")),
    ):
        assert "c2VjcmV0" not in shown
    assert SendLine(line + b"\r\n", True, 1.0).shown == "AUTH PLAIN ********"
    assert SendLine(b"c2VjcmV0\r\n", True, 1.0).shown == "********"
    assert SendLine(b"NOOP\r\n", False, 1.0).shown == "NOOP"


def test_replies_show_themselves() -> None:
    reply = Reply(550, ("5.1.1 no", "such user"))
    assert str(reply) == "550 5.1.1 no / such user"
    assert (reply.text, reply.enhanced, reply.positive, reply.permanent) == (
        "5.1.1 no\nsuch user",
        "5.1.1",
        False,
        True,
    )
    assert str(Reply(250, ("",))) == "250"


def test_outcomes_show_themselves() -> None:
    told = Outcome("a@b.example", Verdict.NEVER, Reply(550, ("5.1.1 no",)))
    assert str(told) == "a@b.example never: 550 5.1.1 no"
    assert (told.code, told.enhanced, told.text) == (550, "5.1.1", "5.1.1 no")
    guessed = Outcome("a@b.example", Verdict.LATER, None, SmtpError("lost"), True)
    assert str(guessed) == "a@b.example later (in doubt): lost"
    assert (guessed.code, guessed.enhanced, guessed.text) == (None, None, "lost")
    assert Outcome("a@b.example", Verdict.NEVER, None, ExtensionRequired("x", "5.6.3")).enhanced == "5.6.3"
    assert Outcome("a@b.example", Verdict.LATER).text == ""


def test_a_transcript_reads_like_the_dialogue() -> None:
    transcript = Transcript(((True, b"EHLO x"), (False, Reply(250, ("a", "b"))), (False, b"\xff?")))
    assert str(transcript) == ">>> EHLO x\n<<< 250-a\n<<< 250 b\n<<< \\xff?"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_in_any_division(octets: bytes, cuts: list[int]) -> None:
    def lines(pieces: list[bytes]) -> tuple[list[bytes], bool]:
        buffer = LineBuffer(100)
        found: list[bytes] = []
        for piece in pieces:
            buffer.append(piece)
            try:
                while (line := buffer.next_line()) is not None:
                    found.append(line)
            except RemoteProtocolError:
                return found, True
        return found, False

    borders = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    pieces = [octets[start:end] for start, end in itertools.pairwise(borders)]
    assert lines(pieces) == lines([octets])


def test_a_line_is_bounded_complete_or_not() -> None:
    buffer = LineBuffer(10)
    buffer.append(b"12345678\r\n")
    assert buffer.next_line() == b"12345678"
    for octets in (b"1234567890", b"123456789\r\n", b"1234567890123\r\n"):
        buffer = LineBuffer(10)
        buffer.append(octets)
        with pytest.raises(RemoteProtocolError, match="10 octets"):
            buffer.next_line()


def test_a_bare_line_feed_is_no_line_end() -> None:
    buffer = LineBuffer(100)
    buffer.append(b"250 ok\n")
    with pytest.raises(RemoteProtocolError, match="bare LF"):
        buffer.next_line()
    buffer.clear()
    assert len(buffer) == 0
    buffer.append(b"\n")
    with pytest.raises(RemoteProtocolError):
        buffer.next_line()


def test_capabilities_are_read_without_regard_to_case_or_quirks() -> None:
    lines = (
        "STARTTLS hello",
        "pipelining",
        "Size 1000",
        "auth plain LOGIN",
        "AUTH=plain cram-md5",
        "",
        "8BITMIME",
        "X=1",
    )
    offered = Capabilities.from_reply(Reply(250, lines))
    assert offered.name == "STARTTLS"
    assert "starttls" not in offered
    assert "PIPELINING" in offered
    assert offered["size"] == ("1000",)
    assert offered.size_limit == 1000
    assert offered.auth_mechanisms == ("PLAIN", "LOGIN", "CRAM-MD5")
    assert "X" not in offered
    with pytest.raises(KeyError):
        _ = offered["dsn"]


@pytest.mark.parametrize("line", ["SIZE", "SIZE 0", "SIZE x", "SIZE -1", "SIZE " + "9" * 30, "HELP"])
def test_a_size_without_a_limit(line: str) -> None:
    assert Capabilities.from_reply(Reply(250, ("x", line))).size_limit is None


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_no_ehlo_reply_is_too_strange(lines: list[str]) -> None:
    offered = Capabilities.from_reply(Reply(250, tuple(lines)))
    assert all(keyword == keyword.upper() for keyword in offered.extensions)


@pytest.mark.parametrize(
    ("facts", "offers", "line"),
    [
        (BodyFacts(), ("SIZE", "8BITMIME"), b"MAIL FROM:<a@b.example> BODY=8BITMIME"),
        (BodyFacts(size=5), ("SIZE", "8BITMIME"), b"MAIL FROM:<a@b.example> SIZE=5 BODY=8BITMIME"),
        (BodyFacts(size=5, eight_bit=False), ("SIZE", "8BITMIME"), b"MAIL FROM:<a@b.example> SIZE=5"),
        (BodyFacts(size=5, eight_bit=True), (), b"MAIL FROM:<a@b.example>"),
    ],
)
def test_mail_says_what_the_peer_understands(facts: BodyFacts, offers: tuple[str, ...], line: bytes) -> None:
    offered = Capabilities.from_reply(Reply(250, ("x", *offers)))
    envelope = Envelope("a@b.example", ("c@d.example",), body=facts)
    assert mail_command(envelope, offered, Limits()).line == line


def test_a_command_line_is_bounded() -> None:
    with pytest.raises(LocalProtocolError, match=r"Limits\.command_line"):
        rcpt_command("a@b.example", Limits(command_line=20))


def test_what_a_peer_cannot_take_is_refused_here() -> None:
    envelope = Envelope("", ("c@d.example",), body=BodyFacts(size=11, eight_bit=True))
    missing = missing_extension(envelope, NO_CAPABILITIES)
    assert missing is not None
    assert missing.enhanced == "5.6.3"
    offered = Capabilities.from_reply(Reply(250, ("x", "8BITMIME", "SIZE 10")))
    too_large = missing_extension(envelope, offered)
    assert too_large is not None
    assert too_large.enhanced == "5.3.4"
    assert missing_extension(Envelope("", ("c@d.example",)), NO_CAPABILITIES) is None


def test_plain() -> None:
    assert Plain("tim", "tänz").start() == b"\0tim\0t\xc3\xa4nz"
    assert Plain("tim", "x", "boss").answer(b"") == b"boss\0tim\0x"
    with pytest.raises(AuthExchangeFailed):
        Plain("tim", "x").answer(b"what?")
    for broken in (("", "x"), ("tim", ""), ("t\0m", "x"), ("tim", "x\0")):
        with pytest.raises(LocalProtocolError):
            Plain(*broken)
    with pytest.raises(LocalProtocolError, match="authorization"):
        Plain("tim", "x", "a\0b")


def test_a_transcript_sends_nothing_to_the_terminal() -> None:
    transcript = Transcript(((False, b"\x1b]0;pwned\x07\r\xc2\x9b\xff"), (True, b"EHLO x")))
    assert str(transcript).isascii()
    assert all(line.isprintable() for line in transcript.lines)


def test_an_ehlo_reply_costs_time_in_proportion_to_its_length() -> None:
    """With every parameter compared with every other, this would take minutes."""
    names = [f"{number:x}" for number in range(200_000)]
    lines = [f"AUTH {' '.join(names[start : start + 1000])}" for start in range(0, len(names), 1000)]
    capabilities = Capabilities.from_reply(Reply(250, ("mx", *lines, *lines)))
    assert capabilities["AUTH"] == tuple(names)


@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_survive_a_journey(travel: Callable[[Exception], Exception]) -> None:
    """As they make it between processes, and as ``concurrent.futures`` raises them again."""
    mail = Mail(Envelope("", ["a@b.example"]))
    reply = Reply(550, ("no",))
    refused = MailRefused(mail, (Outcome("a@b.example", Verdict.NEVER, reply),), Stage.STARTED, Transcript())
    known: dict[type[SmtpError], SmtpError] = {
        LocalProtocolError: LocalProtocolError("a rule", "a value"),
        ExtensionRequired: ExtensionRequired("needs 8BITMIME", "5.6.3"),
        DeliveryFailed: DeliveryFailed(refused),
    }
    for name in _errors.__all__:
        kind = getattr(_errors, name)
        if issubclass(kind, SessionError):
            error = kind("gone", reply=reply, transcript=Transcript(((False, reply),)))
        else:
            error = known.get(kind) or kind("gone")
        arrived = travel(error)
        assert type(arrived) is kind
        assert str(arrived) == str(error)
        assert {key: str(value) for key, value in vars(arrived).items()} == {
            key: str(value) for key, value in vars(error).items()
        }


@pytest.mark.parametrize("words", [("\ud800", "b"), ("a", "\udcff"), ("a", "b", "\ud800")])
def test_plain_takes_only_what_can_be_encoded_and_never_shows_it(words: tuple[str, ...]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Plain(*words)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
