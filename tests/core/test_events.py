"""What crosses the borders: how it shows itself, what it hides, and what cannot be made.

What lives here: masks of any credentials, texts of any peer, envelopes, facts of a body. What does not: any order of
events.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import (
    BodyFacts,
    Command,
    ConnectionLost,
    Envelope,
    ExtensionRequired,
    Limits,
    LocalProtocolError,
    Mail,
    MailRefused,
    MailSent,
    Outcome,
    Reply,
    SendLine,
    Stage,
    Transcript,
    Verb,
    Verdict,
)


def test_any_credentials_are_masked() -> None:
    # A secret base64 word of four characters may by chance read AUTH.
    for secret in (b"AUTH", b"auth", b"Auth", b"AUTHAUTH", b"c2VjcmV0", b"="):
        assert repr(Command(Verb.AUTH_ANSWER, secret, secret=True)) == "Command(AUTH_ANSWER, b'********')"
        assert repr(SendLine(secret + b"\r\n", True, 1.0)) == "SendLine('********', seconds=1.0)"
        line = b"AUTH X-Y " + secret
        assert repr(Command(Verb.AUTH, line, secret=True)) == "Command(AUTH, b'AUTH X-Y ********')"
        assert SendLine(line + b"\r\n", True, 1.0).shown == "AUTH X-Y ********"
        assert SendLine(line.replace(b"AUTH X", b"auth X") + b" more\r\n", True, 1.0).shown == "auth X-Y ********"


@given(st.binary(min_size=1))
def test_no_secret_is_in_a_repr(octets: bytes) -> None:
    secret = base64.b64encode(octets)
    for line in (secret, b"AUTH PLAIN " + secret):
        hidden = Command(Verb.AUTH, line, secret=True)
        same = Command(Verb.AUTH, line.replace(secret, b"x"), secret=True)
        assert repr(hidden) == repr(same)
        assert repr(SendLine(line + b"\r\n", True, 1.0)) == repr(SendLine(same.line + b"\r\n", True, 1.0))


def test_what_is_no_secret_is_shown_whole() -> None:
    assert repr(Command(Verb.AUTH, b"AUTH PLAIN")) == "Command(AUTH, b'AUTH PLAIN')"
    assert repr(Command(Verb.AUTH_ANSWER, b"*")) == "Command(AUTH_ANSWER, b'*')"
    assert SendLine(b"VRFY \xff\r\n", False, 1.0).shown == "VRFY \\xff"


def test_a_transcript_can_be_printed_whatever_was_said_and_heard() -> None:
    entries = ((True, bytes(range(256))), (False, bytes(range(256))), (True, "\u202e\x9b".encode()))
    lines = Transcript(entries).lines
    assert len(lines) == len(entries)
    assert all(line.replace("\t", "").isprintable() for line in lines)
    assert [line[:4] for line in lines] == [">>> ", "<<< ", ">>> "]
    assert lines[2] == ">>> \\u202e\\x9b"


@given(st.integers(200, 599), st.lists(st.text(max_size=10), min_size=1, max_size=4))
def test_a_reply_is_read_by_its_first_digit(code: int, lines: list[str]) -> None:
    reply = Reply(code, tuple(lines))
    assert (reply.positive, reply.permanent) == (code // 100 in {2, 3}, code // 100 == 5)
    assert reply.text.split("\n") == "\n".join(lines).split("\n")
    assert str(reply).startswith(str(code))
    assert len(Transcript(((False, reply),)).lines) == len(lines)


def test_a_transcript_marks_the_last_line_of_a_reply() -> None:
    transcript = Transcript(((False, Reply(250, ("a", "b", ""))), (False, Reply(421, ("",)))))
    assert transcript.lines == ("<<< 250-a", "<<< 250-b", "<<< 250 ", "<<< 421 ")
    assert Transcript().lines == ()
    assert str(Transcript()) == ""


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Outcome("a@b", Verdict.DELIVERED, Reply(250, ("2.1.5 ok", "queued"))), "a@b delivered: 250 2.1.5 ok / queued"),
        (Outcome("a@b", Verdict.LATER, None, ConnectionLost("gone")), "a@b later: gone"),
        (Outcome("a@b", Verdict.LATER, None, ConnectionLost("gone"), True), "a@b later (in doubt): gone"),
        (Outcome("a@b", Verdict.LATER, Reply(421, ("bye",)), ConnectionLost("gone")), "a@b later: 421 bye"),
        (Outcome("a@b", Verdict.NEVER, None, ExtensionRequired("needs x", "5.6.3")), "a@b never: needs x"),
    ],
)
def test_an_outcome_shows_who_decided(outcome: Outcome, shown: str) -> None:
    assert str(outcome) == shown
    assert outcome.text in shown.replace(" / ", "\n")


def test_the_reply_has_the_enhanced_code_if_there_is_one() -> None:
    required = ExtensionRequired("x", "5.6.3")
    assert Outcome("a", Verdict.NEVER, Reply(550, ("5.1.1 x",)), required).enhanced == "5.1.1"
    assert Outcome("a", Verdict.NEVER, Reply(550, ("x",)), required).enhanced is None
    assert Outcome("a", Verdict.LATER, None, ConnectionLost("x")).enhanced is None


def test_reports_do_not_spill_the_dialogue() -> None:
    mail = Mail(Envelope("", ("a@b.example",)))
    dialogue = Transcript(((True, b"RCPT TO:<a@b.example>"),))
    for report in (
        MailSent(mail, (), Reply(250, ("ok",)), Stage.BODY_ENDED, dialogue),
        MailRefused(mail, (), Stage.STARTED, dialogue),
    ):
        assert "RCPT" not in repr(report)
        assert report.transcript is dialogue


def test_two_mails_with_one_envelope_are_two_mails() -> None:
    envelope = Envelope("", ("a@b.example",))
    assert Mail(envelope) != Mail(envelope)
    assert envelope == Envelope("", ("a@b.example",))


def test_an_envelope_keeps_what_it_was_made_of() -> None:
    recipients = ["a@b.example", "Postmaster", "a@b.example"]
    envelope = Envelope("", recipients)  # type: ignore[arg-type]  # a wrong kind, on purpose
    recipients.clear()
    assert envelope.recipients == ("a@b.example", "Postmaster", "a@b.example")
    with pytest.raises(dataclasses.FrozenInstanceError):
        envelope.reverse_path = "x"  # type: ignore[misc]  # what must not be possible
    with pytest.raises(LocalProtocolError):
        dataclasses.replace(envelope, reverse_path="a b")


@pytest.mark.parametrize("size", [0, 1, 10**20 - 1, None])
def test_a_body_may_be_empty_or_unknown_and_as_large_as_size_can_say(size: int | None) -> None:
    assert BodyFacts(size=size).size == size


def test_a_path_is_as_long_as_the_limit_and_no_longer() -> None:
    path = "x" * 10 + "@b.example"
    limits = Limits(path=len(path) + 2)
    Envelope(path, (path,)).check_limits(limits)
    for sender, recipient in ((path, "y" + path), ("y" + path, path)):
        with pytest.raises(LocalProtocolError) as caught:
            Envelope(sender, (recipient,)).check_limits(limits)
        assert caught.value.value == "y" + path
    # An over-long path is found wherever it stands.
    with pytest.raises(LocalProtocolError, match="a path has at most"):
        Envelope("", (path, "a@b.example", "y" + path)).check_limits(limits)


def test_stages_are_in_order() -> None:
    assert list(Stage) == sorted(Stage)
    assert Stage.NOT_STARTED < Stage.STARTED < Stage.BODY_BEGUN < Stage.BODY_ENDED


@pytest.mark.parametrize(
    ("sender", "recipients", "named"),
    [
        ("a@b.example", (), "at least one"),
        ("a@b.example", "c@d.example", "'c@d.example': recipients must be a sequence of mailboxes"),
        ("a@b.example", b"c@d.example", "b'c@d.example': recipients must be a sequence of mailboxes"),
        ("a b", ("c@d.example",), "a b"),
        ("", ("c@d.example", "bad"), "bad"),
        ("", ("",), "local-part@domain"),
        ("", 5, "^5: recipients must be a sequence of mailboxes, each a str"),
        ("", None, "recipients must be a sequence of mailboxes"),
    ],
)
def test_an_envelope_that_may_not_be_sent_cannot_be_made(sender: str, recipients: Any, named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        Envelope(sender, recipients)


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


def test_an_envelope_is_held_to_limits() -> None:
    Envelope("", ("a@b.example",) * 2).check_limits(Limits(recipients=2))
    with pytest.raises(LocalProtocolError, match=r"Limits\.recipients"):
        Envelope("", ("a@b.example",) * 3).check_limits(Limits(recipients=2))
    with pytest.raises(LocalProtocolError, match=r"^'5': size must be a whole number or None"):
        BodyFacts(size="5")  # type: ignore[arg-type]  # a wrong kind, on purpose


@pytest.mark.parametrize("size", [-1, 10**20])
def test_a_size_is_a_number_that_can_be_said(size: int) -> None:
    with pytest.raises(LocalProtocolError, match="0 octets or more, in 20 digits at most"):
        BodyFacts(size=size)


def test_an_outcome_says_what_it_can() -> None:
    told = Outcome("a@b.example", Verdict.NEVER, Reply(550, ("5.1.1 no",)))
    assert (told.code, told.enhanced, told.text) == (550, "5.1.1", "5.1.1 no")
    guessed = Outcome("a@b.example", Verdict.LATER, None, ConnectionLost("lost"), True)
    assert (guessed.code, guessed.enhanced, guessed.text) == (None, None, "lost")
    assert Outcome("a@b.example", Verdict.LATER).text == ""
