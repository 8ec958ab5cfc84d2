"""SASL mechanisms on their own: messages as the RFCs write them, and credentials that never show.

What lives here: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), EXTERNAL (RFC 4422), ANONYMOUS (RFC 4505), and the order
of strength. What does not: SCRAM and tokens, which have files of their own; base64, AUTH lines, choosing among them.
"""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import AuthExchangeFailed, LocalProtocolError
from smtpcore.sasl import Anonymous, Circumstances, CramMd5, External, Login, Mechanism, Plain, mechanisms_for

WORD = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        # RFC 4616 §4.
        (("tim", "tanstaaftanstaaf"), b"\0tim\0tanstaaftanstaaf"),
        (("Kurt", "xipj3plmq", "Ursel"), b"Ursel\0Kurt\0xipj3plmq"),
        (("jürgen", "päss wörd"), "\0jürgen\0päss wörd".encode()),
    ],
)
def test_the_messages_of_the_rfc(credentials: tuple[str, ...], message: bytes) -> None:
    mechanism: Mechanism = Plain(*credentials)
    assert mechanism.name == "PLAIN"
    # One object serves any number of exchanges, and answers where its first word was not heard.
    assert [mechanism.start(), mechanism.answer(b""), mechanism.start()] == [message] * 3


@given(WORD.filter(bool), WORD.filter(bool), WORD)
def test_a_server_reads_what_was_given(user: str, password: str, authorization: str) -> None:
    message = Plain(user, password, authorization).start()
    assert message is not None
    assert message.decode().split("\0") == [authorization, user, password]


@given(WORD, WORD, st.integers(0, 2))
def test_no_word_can_pass_for_two(before: str, behind: str, which: int) -> None:
    words = ["user", "password", "authorization"]
    words[which] = f"{before}\0{behind}"
    with pytest.raises(LocalProtocolError, match=["user", "password", "authorization"][which]):
        Plain(*words)


@pytest.mark.parametrize("words", [("hunter2", ""), ("", "hunter2"), ("hunter2\0", "x"), ("x", "hunter2\udc80")])
def test_a_refusal_keeps_the_credentials_to_itself(words: tuple[str, str]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Plain(*words)
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(vars(caught.value))
    assert "hunter2" not in shown
    assert caught.value.value is None


@pytest.mark.parametrize("challenge", [b" ", b"\0", b"Password:", b"\xff"])
def test_plain_answers_no_question(challenge: bytes) -> None:
    with pytest.raises(AuthExchangeFailed) as caught:
        Plain("tim", "hunter2").answer(challenge)
    assert "hunter2" not in repr(caught.value)


def test_a_mechanism_shows_nothing_and_can_be_copied() -> None:
    plain = Plain("tim", "hunter2")
    for same in (plain, copy.copy(plain), pickle.loads(pickle.dumps(plain))):
        assert repr(same) == str(same) == f"{same}" == "Plain(...)"
        assert same.start() == b"\0tim\0hunter2"
    assert not hasattr(plain, "__dict__")


def test_login_says_the_user_then_the_password_whatever_it_is_asked() -> None:
    login = Login("jürgen", "päss wörd")
    for prompts in ([b"Username:", b"Password:"], [b"", b""], [b"Benutzer", b"Benutzer"]):
        # One object serves any number of exchanges, also after one that broke off.
        login.start()
        login.answer(b"User")
        assert login.start() is None
        assert [login.answer(prompt) for prompt in prompts] == ["jürgen".encode(), "päss wörd".encode()]
        with pytest.raises(AuthExchangeFailed, match="third"):
            login.answer(b"Password:")


def test_cram_md5_as_in_the_rfc() -> None:
    # RFC 2195 §2.
    mechanism = CramMd5("tim", "tanstaaftanstaaf")
    for _ in range(2):
        assert mechanism.start() is None
        answer = mechanism.answer(b"<1896.697170952@postoffice.reston.mci.net>")
        assert answer == b"tim b913a602c7eda7a495b4e6e7334d3890"
        with pytest.raises(AuthExchangeFailed):
            mechanism.answer(b"<another@challenge>")


def test_cram_md5_answers_no_empty_challenge() -> None:
    mechanism = CramMd5("tim", "hunter2")
    mechanism.start()
    with pytest.raises(AuthExchangeFailed):
        mechanism.answer(b"")


@pytest.mark.parametrize("make", [Login, CramMd5])
@pytest.mark.parametrize("words", [("hunter2", ""), ("", "hunter2"), ("hunter2\0", "x"), ("x", "hunter2\udc80")])
def test_credentials_that_cannot_be_said(make: type[Login] | type[CramMd5], words: tuple[str, str]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        make(*words)
    assert "hunter2" not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize("make", [Plain, Login, CramMd5])
@pytest.mark.parametrize("words", [(b"user", "hunter2"), ("user", b"hunter2"), ("user", None)])
def test_credentials_that_are_no_text(make: Callable[..., Mechanism], words: tuple[object, object]) -> None:
    with pytest.raises(LocalProtocolError, match="must be a str") as caught:
        make(*words)
    assert "hunter2" not in str(caught.value) + repr(vars(caught.value))


def test_what_a_user_with_a_password_can_do() -> None:
    mechanisms = mechanisms_for("tim", "hunter2")
    assert [mechanism.name for mechanism in mechanisms] == [
        "SCRAM-SHA-512-PLUS",
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-512",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "CRAM-MD5",
        "PLAIN",
        "LOGIN",
    ]
    assert "hunter2" not in repr(mechanisms)
    for mechanism in mechanisms:
        assert copy.copy(mechanism).name == pickle.loads(pickle.dumps(mechanism)).name == mechanism.name


def test_a_password_that_cannot_be_prepared_leaves_the_older_mechanisms() -> None:
    names = [mechanism.name for mechanism in mechanisms_for("tim", "bell\a rings")]
    assert names == ["CRAM-MD5", "PLAIN", "LOGIN"]
    with pytest.raises(LocalProtocolError):
        mechanisms_for("tim", "")


# --- EXTERNAL and ANONYMOUS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "name", "message"),
    [
        (External(), "EXTERNAL", b""),
        (External("fred@example.com"), "EXTERNAL", b"fred@example.com"),
        (Anonymous(), "ANONYMOUS", b""),
        # RFC 4505 §4.
        (Anonymous("sirhc"), "ANONYMOUS", b"sirhc"),
        (Anonymous("jürgen@example.com"), "ANONYMOUS", "jürgen@example.com".encode()),
    ],
)
def test_mechanisms_of_one_message(mechanism: Mechanism, name: str, message: bytes) -> None:
    assert mechanism.name == name
    assert mechanism.prepare(Circumstances())
    assert [mechanism.start(), mechanism.answer(b"")] == [message] * 2
    with pytest.raises(AuthExchangeFailed):
        mechanism.answer(b"who?")
    mechanism.conclude(b"")
    assert not mechanism.refused()
    assert not mechanism.explanation()
    assert repr(mechanism) == f"{type(mechanism).__name__}(...)"


@pytest.mark.parametrize("trace", ["x" * 256, "a\0b", "bell\a", "\ue000", "\udc80", "left \u05d0", "\u05d0 1"])
def test_a_trace_that_is_none(trace: str) -> None:
    with pytest.raises(LocalProtocolError):
        Anonymous(trace)


@pytest.mark.parametrize("trace", ["x" * 255, "\u05d0 1 \u05d0", "\u2ff0"])
def test_a_trace_that_is_one(trace: str) -> None:
    assert Anonymous(trace).start() == trace.encode()


@pytest.mark.parametrize("authorization", ["a\0b", "\udc80"])
def test_an_identity_that_cannot_be_said(authorization: str) -> None:
    with pytest.raises(LocalProtocolError):
        External(authorization)


@pytest.mark.parametrize("words", [("\ud800", "b"), ("a", "\udcff"), ("a", "b", "\ud800")])
def test_plain_takes_only_what_can_be_encoded_and_never_shows_it(words: tuple[str, ...]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Plain(*words)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
