"""OAUTHBEARER (RFC 7628) and XOAUTH2 on their own: messages, refusals, and tokens that never show.

What lives here: the two mechanisms. What does not: AUTH lines, and when a token is asked for anew.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import AuthExchangeFailed, LocalProtocolError
from smtpcore.sasl import Circumstances, OAuthBearer, TokenRequest, XOAuth2

TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
REFUSAL = {
    "status": "invalid_token",
    "scope": "example_scope",
    "openid-configuration": "https://example.com/.well-known/openid-configuration",
}


class Tokens:
    """Gives tokens one after the other, and keeps what it was asked."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.requests: list[TokenRequest] = []

    def __call__(self, request: TokenRequest) -> str:
        self.requests.append(request)
        return self.tokens.pop(0)


@pytest.mark.parametrize(
    ("mechanism", "name", "message"),
    [
        (
            # RFC 7628 §4.1, as for SMTP.
            OAuthBearer("user@example.com", Tokens(TOKEN), "server.example.com", 587),
            "OAUTHBEARER",
            b"n,a=user@example.com,\1host=server.example.com\1port=587\1auth=Bearer " + TOKEN.encode() + b"\1\1",
        ),
        (OAuthBearer("a=b,c", Tokens("t")), "OAUTHBEARER", b"n,a=a=3Db=2Cc,\1auth=Bearer t\1\1"),
        (
            XOAuth2("someuser@example.com", Tokens("ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")),
            "XOAUTH2",
            # https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
            b"user=someuser@example.com\1auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\1\1",
        ),
    ],
)
def test_the_message(mechanism: OAuthBearer | XOAuth2, name: str, message: bytes) -> None:
    assert mechanism.name == name
    assert mechanism.prepare(Circumstances())
    # A peer that did not hear it with AUTH asks for it.
    assert [mechanism.start(), mechanism.answer(b"")] == [message] * 2
    mechanism.conclude(b"Accepted")
    assert not mechanism.explanation()


def test_the_example_of_the_rfc_in_base64() -> None:
    encoded = (
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9NTg3AWF1dGg9QmVhcmVyIHZGOWRmd"
        "DRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
    start = OAuthBearer("user@example.com", lambda request: token, "server.example.com", 587).start()
    assert base64.b64encode(start or b"").decode() == encoded


@pytest.mark.parametrize(("kind", "resignation"), [(OAuthBearer, b"\1"), (XOAuth2, b"")])
def test_a_refusal_is_answered_and_kept(kind: type[OAuthBearer] | type[XOAuth2], resignation: bytes) -> None:
    tokens = Tokens("one", "two")
    mechanism = kind("anna", tokens, "mail.example")
    mechanism.start()
    assert mechanism.answer(json.dumps(REFUSAL).encode()) == resignation
    assert mechanism.explanation() == REFUSAL
    with pytest.raises(AuthExchangeFailed, match="behind saying why"):
        mechanism.conclude(b"")
    with pytest.raises(AuthExchangeFailed, match="behind the refusal"):
        mechanism.answer(b"")
    assert mechanism.refused()
    assert b"Bearer two\1" in (mechanism.start() or b"")
    assert tokens.requests == [
        TokenRequest("anna", "mail.example"),
        TokenRequest("anna", "mail.example", refused=True, explanation=REFUSAL),
    ]
    assert not mechanism.explanation()


def test_a_token_that_was_refused_is_not_said_again() -> None:
    mechanism = XOAuth2("anna", Tokens("one", "one"))
    mechanism.start()
    assert not mechanism.refused()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"", {}),
        (b"\xff", {}),
        (b"no JSON", {}),
        (b"[" * 100_000, {}),
        (b'["status"]', {}),
        (b"400", {}),
        (b'{"status": 400, "schemes": "bearer mac", "more": {"deep": 1}, "none": null}', "numbers"),
        (b'{"status": "\\u001b[2J"}', {"status": "\\x1b[2J"}),
        (json.dumps({str(n): n for n in range(100)}).encode(), {str(n): str(n) for n in range(16)}),
        (json.dumps({"status": "x" * 10_000}).encode(), {"status": "x" * 512}),
    ],
)
def test_what_a_refusal_may_hold(said: bytes, kept: dict[str, str] | str) -> None:
    mechanism = XOAuth2("anna", Tokens("one"))
    message = mechanism.start()
    if kept == "numbers":
        kept = {"status": "400", "schemes": "bearer mac"}
    assert mechanism.answer(said) == (b"" if said else message)
    assert mechanism.explanation() == kept


@pytest.mark.parametrize("echo", ["secret-token-1", "x secret-token-1 y", "secret-token", "BASE64"])
def test_an_echo_of_the_token_is_not_shown(echo: str) -> None:
    mechanism = XOAuth2("anna", Tokens("secret-token-1"))
    echo = echo.replace("BASE64", base64.b64encode(mechanism.start() or b"").decode())
    mechanism.answer(json.dumps({"status": echo, echo: "400"}).encode())
    assert mechanism.explanation() == {"status": "********", "********": "400"}


@pytest.mark.parametrize("token", ["", "a\1b", "a b", "\u00e4", "a\n"])
def test_a_token_that_is_none(token: str) -> None:
    mechanism = XOAuth2("anna", Tokens(token))
    with pytest.raises(AuthExchangeFailed, match="token") as caught:
        mechanism.start()
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: XOAuth2("", Tokens()),
        lambda: XOAuth2("a\1auth=Bearer x", Tokens()),
        lambda: XOAuth2("a\0", Tokens()),
        lambda: OAuthBearer("a\n", Tokens()),
        lambda: OAuthBearer("a", Tokens(), "mail example"),
        lambda: OAuthBearer("a", Tokens(), "mail\1port=1"),
        lambda: OAuthBearer("a", Tokens(), "mail.example", 0),
        lambda: OAuthBearer("a", Tokens(), "mail.example", 65_536),
    ],
)
def test_what_cannot_be_said(make: Callable[[], object]) -> None:
    with pytest.raises(LocalProtocolError):
        make()


@given(st.binary(max_size=60))
def test_whatever_is_said_is_answered_once(challenge: bytes) -> None:
    mechanism = OAuthBearer("anna", Tokens("secret-token-1"))
    message = mechanism.start()
    assert mechanism.answer(challenge) == (b"\1" if challenge else message)


def test_a_mechanism_shows_nothing_and_can_be_copied() -> None:
    mechanism = OAuthBearer("anna", lambda request: "secret-token-1", "mail.example")
    for same in (mechanism, copy.copy(mechanism)):
        assert b"secret-token-1" in (same.start() or b"")
        assert repr(same) == str(same) == "OAuthBearer(...)"
        assert not hasattr(same, "__dict__")
