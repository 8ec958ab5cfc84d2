"""Errors: what each says of itself, and whose fault it is.

What lives here: their tree, the texts and the facts that they carry, and their journeys between processes. What does
not: when they are due.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable

import pytest

import smtpcore
from smtpcore import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    ConversionFailed,
    CredentialsUnavailable,
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
    XclientRequired,
    _errors,
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


HOPELESS = {
    XclientRequired,
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    CredentialsUnavailable,
    EhloRequired,
    TlsRequired,
}


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


@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_survive_a_journey(travel: Callable[[Exception], Exception]) -> None:
    """As they make it between processes, and as ``concurrent.futures`` raises them again."""
    mail = Mail(Envelope("", ("a@b.example",)))
    reply = Reply(550, ("no",))
    refused = MailRefused(mail, (Outcome("a@b.example", Verdict.NEVER, reply),), Stage.STARTED, Transcript())
    known: dict[type[SmtpError], SmtpError] = {
        LocalProtocolError: LocalProtocolError("a rule", "a value"),
        ExtensionRequired: ExtensionRequired("needs 8BITMIME", "5.6.3"),
        ConversionFailed: ConversionFailed("1.2", "it is signed", "5.6.2"),
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
