"""Errors: what each says of itself, and whose fault it is.

What lives here: the texts and the facts that errors carry. What does not: their tree and their journeys
(``test_parts.py``), and when they are due.
"""

from __future__ import annotations

import pytest

import smtpcore
from smtpcore import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    DeliveryFailed,
    EhloRequired,
    Envelope,
    ExtensionRequired,
    LocalProtocolError,
    Mail,
    MailRefused,
    Outcome,
    Reply,
    SessionError,
    SmtpError,
    Stage,
    TlsRequired,
    Transcript,
    Verdict,
)

ERRORS = [kind for name in smtpcore.__all__ if isinstance(kind := getattr(smtpcore, name), type)]
ERRORS = [kind for kind in ERRORS if issubclass(kind, BaseException)]
SESSION = [kind for kind in ERRORS if issubclass(kind, SessionError)]


def test_nothing_that_is_ours_is_anything_else() -> None:
    assert len(SESSION) > 10
    for kind in ERRORS:
        assert [base for base in kind.__mro__ if base.__module__ == "builtins"] == [Exception, BaseException, object]
        assert issubclass(kind, SmtpError)
    # Whoever catches the one never catches the other.
    assert not issubclass(LocalProtocolError, SessionError)
    assert not issubclass(SessionError, LocalProtocolError)


@pytest.mark.parametrize("kind", SESSION)
def test_a_session_error_carries_the_dialogue(kind: type[SessionError]) -> None:
    error = kind("gone")
    assert (str(error), error.reply, error.transcript) == ("gone", None, None)
    reply, transcript = Reply(554, ("no",)), Transcript()
    error = kind("gone", reply=reply, transcript=transcript)
    assert (str(error), error.reply, error.transcript) == ("gone", reply, transcript)
    assert "554" not in str(error)


HOPELESS = {AuthDeclined, AuthExchangeFailed, AuthRequired, EhloRequired, TlsRequired}


@pytest.mark.parametrize("kind", SESSION)
def test_what_does_not_pass_by_waiting(kind: type[SessionError]) -> None:
    """Unless the peer said that it is for now."""
    assert kind("gone").retryable == (kind not in HOPELESS)
    assert kind("gone", reply=Reply(535, ("no",))).retryable == (kind not in HOPELESS)
    assert kind("gone", reply=Reply(334, ("what",))).retryable == (kind not in HOPELESS)
    assert kind("gone", reply=Reply(454, ("later",))).retryable


@pytest.mark.parametrize(
    ("value", "text"), [(None, "a rule"), ("a@b\r\n", r"'a@b\r\n': a rule"), ("", "'': a rule"), (0, "0: a rule")]
)
def test_a_refused_value_is_named_and_quoted(value: object, text: str) -> None:
    error = LocalProtocolError("a rule", value)
    assert (str(error), error.rule, error.value) == (text, "a rule", value)


def test_what_an_extension_is_missed_for_has_a_code() -> None:
    error = ExtensionRequired("needs 8BITMIME", "5.6.3")
    assert (str(error), error.enhanced) == ("needs 8BITMIME", "5.6.3")


def test_a_failed_delivery_names_every_recipient() -> None:
    outcomes = (
        Outcome("a@b.example", Verdict.NEVER, Reply(550, ("5.1.1 no",))),
        Outcome("c@d.example", Verdict.LATER, None, SmtpError("gone")),
    )
    mail = Mail(Envelope("", ("a@b.example", "c@d.example")))
    report = MailRefused(mail, outcomes, Stage.STARTED, Transcript())
    error = DeliveryFailed(report)
    assert str(error) == "a@b.example never: 550 5.1.1 no; c@d.example later: gone"
    assert error.report is report
