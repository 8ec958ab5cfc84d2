"""SCRAM (RFC 5802, RFC 7677) on its own: the examples of the RFCs, a server written apart, and servers that cheat.

What lives here: the mechanisms and SASLprep (RFC 4013). What does not: AUTH lines, and what a session makes of it.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpcore import AuthExchangeFailed, LocalProtocolError
from smtpcore.sasl import (
    Circumstances,
    Scram,
    ScramSha1,
    ScramSha1Plus,
    ScramSha256,
    ScramSha256Plus,
    ScramSha512,
    ScramSha512Plus,
)

from .examples import examples
from .scram_server import ScramServer

BARE = [(ScramSha1, "sha1"), (ScramSha256, "sha256"), (ScramSha512, "sha512")]
PLUS = [(ScramSha1Plus, "sha1"), (ScramSha256Plus, "sha256"), (ScramSha512Plus, "sha512")]
END_POINT = bytes(range(32))
WORD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)


def nonces(*values: str) -> Callable[[], str]:
    return iter(values).__next__


def begun(mechanism: Scram, nonce: str = "our-nonce", **circumstances: Any) -> bytes:
    """The first message of the client."""
    assert mechanism.prepare(Circumstances(nonce=lambda: nonce, **circumstances))
    first = mechanism.start()
    assert first is not None
    return first


def exchange(mechanism: Scram, server: ScramServer, **circumstances: Any) -> bytes:
    """Play the whole exchange; returns what the server said last, which the client has heard and answered."""
    final = server.final(mechanism.answer(server.first(begun(mechanism, **circumstances))))
    assert mechanism.answer(final) == b""
    return final


# --- the RFCs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "nonce", "dialogue"),
    [
        (
            ScramSha1,  # RFC 5802 §5
            "fyko+d2lbbFgONRv9qkxdawL",
            [
                "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
                "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            ],
        ),
        (
            ScramSha256,  # RFC 7677 §3
            "rOprNGfwEbeRWgbNEkqO",
            [
                "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ],
        ),
    ],
)
def test_the_examples_of_the_rfcs(kind: type[Scram], nonce: str, dialogue: list[str]) -> None:
    mechanism = kind("user", "pencil")
    # One object serves any number of exchanges, also after one that broke off.
    assert begun(mechanism, nonce) == dialogue[0].encode()
    assert begun(mechanism, nonce) == dialogue[0].encode()
    # A peer that did not hear the first message asks for it.
    assert mechanism.answer(b"") == dialogue[0].encode()
    assert mechanism.answer(dialogue[1].encode()) == dialogue[2].encode()
    assert mechanism.answer(dialogue[3].encode()) == b""
    mechanism.conclude(b"")
    assert not mechanism.explanation()


# --- against a server of its own ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "hash_name"), BARE)
@settings(max_examples=examples(20), deadline=None)
@given(user=WORD, password=WORD, authorization=WORD, salt=st.binary(min_size=1, max_size=30), n=st.integers(1, 40))
def test_both_sides_agree_about_the_password(
    kind: type[ScramSha1] | type[ScramSha256] | type[ScramSha512],
    hash_name: str,
    user: str,
    password: str,
    authorization: str,
    salt: bytes,
    n: int,
) -> None:
    server = ScramServer(hash_name, password.encode(), salt=salt, iterations=n)
    mechanism = kind(user, password, authorization, fewest_iterations=1)
    assert exchange(mechanism, server).startswith(b"v=")
    mechanism.conclude(b"")
    assert (server.user, server.authorization, server.flag) == (user, authorization, "n")


@pytest.mark.parametrize(("kind", "hash_name"), BARE + PLUS)
def test_the_last_message_may_stand_behind_the_success(kind: type[Scram], hash_name: str) -> None:
    server = ScramServer(hash_name, b"pencil", binding=END_POINT)
    mechanism = kind("user", "pencil")
    proof = mechanism.answer(server.first(begun(mechanism, server_end_point=END_POINT)))
    mechanism.conclude(server.final(proof))
    with pytest.raises(AuthExchangeFailed, match="behind the end"):
        mechanism.answer(b"v=AAAA")


@pytest.mark.parametrize(("kind", "hash_name"), BARE)
def test_a_wrong_password_is_refused_in_words(kind: type[Scram], hash_name: str) -> None:
    mechanism = kind("user", "pen")
    assert exchange(mechanism, ScramServer(hash_name, b"pencil")) == b"e=invalid-proof"
    assert mechanism.explanation() == {"error": "invalid-proof"}
    assert not mechanism.refused()
    with pytest.raises(AuthExchangeFailed, match="did not prove"):
        mechanism.conclude(b"")
    with pytest.raises(AuthExchangeFailed, match="behind the end"):
        mechanism.answer(b"e=invalid-proof")
    # Nothing of that is left in the next exchange.
    begun(mechanism)
    assert not mechanism.explanation()


# --- the channel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "hash_name"), PLUS)
@pytest.mark.parametrize("binding", [END_POINT, b"another certificate"])
def test_an_exchange_bound_to_the_channel(kind: type[Scram], hash_name: str, binding: bytes) -> None:
    server = ScramServer(hash_name, b"pencil", binding=binding)
    final = exchange(kind("user", "pencil"), server, server_end_point=END_POINT)
    assert server.flag == "p=tls-server-end-point"
    assert final.startswith(b"v=") is (binding == END_POINT)


@pytest.mark.parametrize(
    ("end_point", "offered", "flag"),
    [
        (None, ("SCRAM-SHA-256",), "n"),
        (None, ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"), "n"),
        (END_POINT, ("SCRAM-SHA-256", "PLAIN"), "y"),
        # We could bind, though not with this hash: ``y`` would say that the server cannot.
        (END_POINT, ("SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"), "n"),
        (END_POINT, ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"), None),
    ],
)
def test_the_header_says_who_could_bind(end_point: bytes | None, offered: tuple[str, ...], flag: str | None) -> None:
    circumstances = Circumstances(offered, lambda: "x", end_point)
    mechanism = ScramSha256("user", "pencil")
    assert mechanism.prepare(circumstances) is (flag is not None)
    if flag is not None:
        assert mechanism.start() == f"{flag},,n=user,r=x".encode()
    assert ScramSha256Plus("user", "pencil").prepare(circumstances) is (end_point is not None)


def test_without_chance_there_is_no_exchange() -> None:
    mechanism = ScramSha256("user", "pencil")
    assert not mechanism.prepare(Circumstances(("SCRAM-SHA-256",)))
    with pytest.raises(AuthExchangeFailed, match="nonce"):
        mechanism.start()


@pytest.mark.parametrize("nonce", ["", "a,b", "a b", "ä", "a\n"])
def test_a_nonce_that_is_none(nonce: str) -> None:
    mechanism = ScramSha256("user", "pencil")
    mechanism.prepare(Circumstances(nonce=lambda: nonce))
    with pytest.raises(AuthExchangeFailed, match="nonce"):
        mechanism.start()


def test_every_exchange_has_a_nonce_of_its_own() -> None:
    mechanism = ScramSha256("user", "pencil")
    mechanism.prepare(Circumstances(nonce=nonces("one", "two")))
    assert [mechanism.start(), mechanism.start()] == [b"n,,n=user,r=one", b"n,,n=user,r=two"]


# --- servers that cheat ---------------------------------------------------------------------------------------------

SALT = base64.b64encode(b"salt").decode()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (f"r=other-nonce,s={SALT},i=4096", "nonce"),
        (f"r=our-nonc,s={SALT},i=4096", "nonce"),
        (f"r=our-nonce,s={SALT},i=4096", "nonce"),
        (f"r=xour-nonce1,s={SALT},i=4096", "nonce"),
        (f"r=our-nonce1,s={SALT},i=0", "first message"),
        (f"r=our-nonce1,s={SALT},i=1", "4096 to 1000000"),
        (f"r=our-nonce1,s={SALT},i=4095", "4096 to 1000000"),
        (f"r=our-nonce1,s={SALT},i=1000001", "4096 to 1000000"),
        (f"r=our-nonce1,s={SALT},i={2**31}", "4096 to 1000000"),
        (f"r=our-nonce1,s={SALT},i=1{'0' * 5000}", "first message"),
        (f"r=our-nonce1,s={SALT},i=-4096", "first message"),
        (f"r=our-nonce1,s={SALT},i=0x1000", "first message"),
        (f"r=our-nonce1,s={SALT},i=٤٠٩٦", "first message"),
        (f"r=our-nonce1,s={SALT}", "first message"),
        ("r=our-nonce1,i=4096", "first message"),
        (f"s={SALT},r=our-nonce1,i=4096", "first message"),
        ("r=our-nonce1,s=,i=4096", "first message"),
        ("r=our-nonce1,s=AAA,i=4096", "base64"),
        ("r=our-nonce1,s=A=AA,i=4096", "base64"),
        ("r=our-nonce1,s=????,i=4096", "first message"),
        (f"m=mandatory,r=our-nonce1,s={SALT},i=4096", "first message"),
        (f"r=our-nonce1,s={SALT},i=4096,m=late", "first message"),
        (f"r=our-nonce1,s={SALT},i=4096,x", "first message"),
        ("what is this?", "first message"),
        ("v=AAAA", "first message"),
    ],
)
def test_a_first_message_that_is_none(message: str, words: str) -> None:
    mechanism = ScramSha256("user", "pencil")
    begun(mechanism)
    with pytest.raises(AuthExchangeFailed, match=words) as caught:
        mechanism.answer(message.encode())
    assert "our-nonce" not in str(caught.value)
    with pytest.raises(AuthExchangeFailed, match="did not prove"):
        mechanism.conclude(b"")


def test_octets_that_are_no_text() -> None:
    mechanism = ScramSha256("user", "pencil")
    begun(mechanism)
    with pytest.raises(AuthExchangeFailed, match="UTF-8"):
        mechanism.answer(b"r=\xff")


def test_extensions_that_are_not_known_are_passed_over() -> None:
    mechanism = ScramSha256("user", "pencil")
    begun(mechanism)
    answer = mechanism.answer(f"r=our-nonce1,s={SALT},i=4096,t=x,u=y=z".encode())
    assert answer.startswith(b"c=biws,r=our-nonce1,p=")


def test_the_bounds_of_iterations_are_options() -> None:
    first = f"r=our-nonce1,s={SALT},i=%d".__mod__
    bounded = ScramSha256("user", "pencil", fewest_iterations=10, most_iterations=20)
    for n in (10, 20):
        begun(bounded)
        bounded.answer(first(n).encode())
    for n in (9, 21):
        begun(bounded)
        with pytest.raises(AuthExchangeFailed, match="10 to 20"):
            bounded.answer(first(n).encode())
    for bounds in ((0, 5), (6, 5)):
        with pytest.raises(LocalProtocolError):
            ScramSha256("user", "pencil", fewest_iterations=bounds[0], most_iterations=bounds[1])


@pytest.mark.parametrize(
    ("final", "words"),
    [
        (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "signature"),
        (b"v=AAAA", "signature"),
        (b"v=AAA", "base64"),
        (b"v=\xc3\xa4", "base64"),
        (b"v=", "last message"),
        (b"", "last message"),
        (b"welcome", "last message"),
        (b"x=1,v=AAAA", "last message"),
        (b"v=AAAA,m=1", "last message"),
        (b"v=\xff", "UTF-8"),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_a_server_that_does_not_know_the_password(final: bytes, words: str, behind: bool) -> None:
    mechanism = ScramSha256("user", "pencil")
    mechanism.answer(ScramServer("sha256", b"pencil").first(begun(mechanism)))
    if behind:
        with pytest.raises(AuthExchangeFailed):
            mechanism.conclude(final)
    else:
        with pytest.raises(AuthExchangeFailed, match=words):
            mechanism.answer(final)
    with pytest.raises(AuthExchangeFailed, match="did not prove"):
        mechanism.conclude(b"")


@pytest.mark.parametrize("additional", [b"", b"Accepted", b"v=", b"e=other-error"])
def test_a_success_too_early(additional: bytes) -> None:
    mechanism = ScramSha256("user", "pencil")
    first = begun(mechanism)
    with pytest.raises(AuthExchangeFailed, match="did not prove"):
        mechanism.conclude(additional)
    mechanism.answer(ScramServer("sha256", b"pencil").first(first))
    with pytest.raises(AuthExchangeFailed):
        mechanism.conclude(additional)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"e=unknown-user", "unknown-user"),
        (b"e=channel-bindings-dont-match,x=y", "channel-bindings-dont-match"),
        # What is not known may be an echo.
        (b"e=pencil", "other-error"),
    ],
)
def test_errors_in_place_of_the_first_message(said: bytes, error: str) -> None:
    mechanism = ScramSha256("user", "pencil")
    begun(mechanism)
    assert mechanism.answer(said) == b""
    assert mechanism.explanation() == {"error": error}


@settings(max_examples=examples(200), deadline=None)
@given(messages=st.lists(st.one_of(st.binary(max_size=40), st.from_regex(rb"r=our-nonce1?,s=[A-Z]{4},i=[0-9]{1,4}"))))
def test_whatever_a_server_says_it_is_not_believed(messages: list[bytes]) -> None:
    mechanism = ScramSha256("user", "pencil", fewest_iterations=1, most_iterations=10_000)
    begun(mechanism)
    for message in messages:
        with contextlib.suppress(AuthExchangeFailed):
            mechanism.answer(message)
    with pytest.raises(AuthExchangeFailed):
        mechanism.conclude(messages[-1] if messages else b"")


# --- credentials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        # RFC 4013 §3, and a character that Unicode 3.2 did not know.
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("a\u1680b", "a b"),
        ("\u05d0 1 \u05d0", "\u05d0 1 \u05d0"),
        ("p\u00e4ss \U0001f600", "p\u00e4ss \U0001f600"),
    ],
)
def test_saslprep(given: str, prepared: str) -> None:
    server = ScramServer("sha256", prepared.encode())
    mechanism = ScramSha256(given, given, given)
    assert exchange(mechanism, server).startswith(b"v=")
    assert (server.user, server.authorization) == (prepared, prepared)


@pytest.mark.parametrize(
    "word",
    ["\u0007", "\u0627\u0031", "x\u05d0", "\u00ad", "\ue000", "\ufdd0", "\ufffd", "\u2ff0", "\u202a", "\U000e0001"],
)
@pytest.mark.parametrize("which", ["user", "password", "authorization"])
def test_words_that_saslprep_does_not_allow(word: str, which: str) -> None:
    words: dict[str, Any] = {"user": "hunter2", "password": "hunter2", which: word}
    with pytest.raises(LocalProtocolError, match=f"{which} of SCRAM-SHA-256 has") as caught:
        ScramSha256(**words)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("words", [("hunter2", ""), ("", "hunter2"), ("hunter2\0", "x"), ("x", "hunter2\udc80")])
def test_credentials_that_cannot_be_said(words: tuple[str, str]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        ScramSha1(*words)
    assert "hunter2" not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize(("kind", "hash_name"), BARE + PLUS)
def test_a_mechanism_shows_nothing_and_can_be_copied(kind: type[Scram], hash_name: str) -> None:
    mechanism = kind("user", "hunter2")
    server = ScramServer(hash_name, b"hunter2", binding=END_POINT)
    for same in (mechanism, copy.copy(mechanism), pickle.loads(pickle.dumps(mechanism))):
        assert exchange(same, server, server_end_point=END_POINT).startswith(b"v=")
        assert repr(same) == str(same) == f"{kind.__name__}(...)"
        assert not hasattr(same, "__dict__")
