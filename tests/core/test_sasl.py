"""SASL mechanisms on their own: messages as the RFCs write them, and credentials that never show.

What lives here: PLAIN (RFC 4616). What does not: base64, AUTH lines, the choice of a mechanism.
"""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import AuthExchangeFailed, LocalProtocolError
from smtpcore.sasl import Mechanism, Plain

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
