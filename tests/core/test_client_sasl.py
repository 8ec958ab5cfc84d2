"""The client with mechanisms that may object, ask anew, or explain: SCRAM and tokens over the wire, and libraries.

What lives here: what a session makes of them, and that nothing secret shows. What does not: the mechanisms on their own
(``test_sasl*``), and AUTH lines as such (``test_client_opening``).
"""

from __future__ import annotations

import base64
import json
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    BeginTls,
    Client,
    Disconnect,
    Envelope,
    Idle,
    MailRefused,
    SendLine,
    Stage,
    TlsInfo,
    TlsPolicy,
)
from smtpcore.sasl import Mechanism, OAuthBearer, Plain, ScramSha256, ScramSha256Plus, TokenRequest, XOAuth2
from smtpcore.sasl import mechanisms_for as for_user
from smtpcore.testing import PureDriver

from .ntlm_server import ntlm_challenge
from .scram_server import ScramServer

PASSWORD = "pencil-pencil"
END_POINT = bytes(range(32))
REFUSAL = {"status": "invalid_token", "scope": "https://mail.example.com/"}


def encoded(octets: bytes) -> bytes:
    return base64.b64encode(octets) + b"\r\n"


def decoded(line: bytes) -> bytes:
    return base64.b64decode(line.split()[-1]) if line.strip() else b""


def before_auth(
    *mechanisms: Mechanism, offered: str, nonce: Callable[[], str] | None = lambda: "our-nonce", **options: Any
) -> tuple[PureDriver, bytes]:
    """A driver that heard the EHLO reply, and what its client said to it."""
    wishes: dict[str, Any] = {"tls": TlsPolicy.SECURED, "credentials": mechanisms, "nonce": nonce} | options
    driver = PureDriver(Client("client.example", **wishes))
    driver.run()
    driver.hear(b"220 hi\r\n")
    return driver, driver.hear(f"250-mx\r\n250 AUTH {offered}\r\n".encode())


def error_of(driver: PureDriver) -> Exception:
    driver.hear(b"221 bye\r\n")
    assert isinstance(driver.last, Disconnect)
    assert driver.last.error is not None
    return driver.last.error


def shown(driver: PureDriver, error: Exception) -> str:
    """All that anyone may come to see of it."""
    words = "".join(traceback.format_exception(error)) + repr(vars(error)) + str(getattr(error, "transcript", ""))
    return words + str(driver.client.transcript) + repr(driver.client.snapshot()) + repr(driver.last)


# --- SCRAM ----------------------------------------------------------------------------------------------------------


def at_proof(server: ScramServer) -> tuple[PureDriver, bytes]:
    """A driver whose client said its proof, and what the server says to it."""
    driver, said = before_auth(*for_user("user", PASSWORD), offered="PLAIN SCRAM-SHA-1 SCRAM-SHA-256")
    assert said.startswith(b"AUTH SCRAM-SHA-256 ")
    proof = driver.hear(b"334 " + encoded(server.first(decoded(said))))
    return driver, server.final(decoded(proof))


@pytest.mark.parametrize("where", ["334", "235", "235 2.7.0"])
def test_the_proof_of_the_server_may_stand_in_either_place(where: str) -> None:
    driver, final = at_proof(ScramServer("sha256", PASSWORD.encode()))
    if where == "334":
        assert driver.hear(b"334 " + encoded(final)) == b"\r\n"
        driver.hear(b"235 welcome\r\n")
    else:
        driver.hear(where.encode() + b" " + encoded(final))
    assert isinstance(driver.last, Idle)
    assert driver.client.authenticated


@pytest.mark.parametrize(
    "success", ["235 2.7.0 Accepted", "235", "235 2.7.0", "235 dj1BQUFB", "235 ZT1vdGhlci1lcnJvcg=="]
)
def test_a_success_without_proof_is_none(success: str) -> None:
    driver, _ = at_proof(ScramServer("sha256", PASSWORD.encode()))
    driver.give(Envelope("a@a.example", ("b@b.example",)), b"")
    assert driver.hear(f"{success}\r\n".encode()) == b"QUIT\r\n"
    error = error_of(driver)
    assert isinstance(error, AuthExchangeFailed)
    assert not driver.client.authenticated
    (report,) = driver.reports
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    assert PASSWORD not in shown(driver, error)


def test_a_false_proof_cancels_the_exchange() -> None:
    driver, _ = at_proof(ScramServer("sha256", PASSWORD.encode()))
    assert driver.hear(b"334 " + encoded(b"v=AAAA")) == b"*\r\n"
    assert driver.hear(b"501 cancelled\r\n") == b"QUIT\r\n"
    error = error_of(driver)
    assert isinstance(error, AuthExchangeFailed)
    assert "does not know the password" in str(error)
    assert error.reply is not None
    assert (error.reply.code, error.reply.lines) == (334, ("********",))


def test_an_error_in_words_is_in_the_refusal() -> None:
    driver, final = at_proof(ScramServer("sha256", b"another"))
    assert final == b"e=invalid-proof"
    assert driver.hear(b"334 " + encoded(final)) == b"\r\n"
    assert driver.hear(b"535 5.7.8 no\r\n") == b"QUIT\r\n"
    error = error_of(driver)
    assert isinstance(error, AuthDeclined)
    assert str(error) == "the peer refused the credentials: 535 5.7.8 no; error: invalid-proof"
    assert error.explanation == pickle.loads(pickle.dumps(error)).explanation == {"error": "invalid-proof"}


def test_what_a_password_could_be_tried_out_with_is_not_shown() -> None:
    server = ScramServer("sha256", PASSWORD.encode(), nonce="the-nonce-of-the-server")
    driver, final = at_proof(server)
    driver.hear(b"334 " + encoded(final))
    echo = encoded(server.final(b"c=biws,r=x,p=")).decode().strip()
    driver.hear(f"535 no {echo}\r\n".encode())
    error = error_of(driver)
    words = shown(driver, error)
    for secret in (final, b"our-nonce", server.salt, b"the-nonce-of-the-server", PASSWORD.encode()):
        assert secret.decode() not in words
        assert base64.b64encode(secret).decode()[:-4] not in words
    assert "334 ********" in words


@pytest.mark.parametrize(
    ("end_point", "offered", "said"),
    [
        (END_POINT, "PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS", b"p=tls-server-end-point,,n=user,"),
        (END_POINT, "PLAIN SCRAM-SHA-256", b"y,,n=user,"),
        (None, "PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", b"n,,n=user,"),
    ],
)
def test_the_binding_comes_from_the_handshake(end_point: bytes | None, offered: str, said: bytes) -> None:
    driver = PureDriver(
        Client("c.example", tls=TlsPolicy.IMPLICIT, credentials=for_user("user", PASSWORD), nonce=lambda: "x")
    )
    assert isinstance(driver.client.next_event(), BeginTls)
    driver.client.tls_started(TlsInfo("TLSv1.3", "TLS_TEST", True, end_point))
    driver.hear(b"220 hi\r\n")
    line = driver.hear(f"250-mx\r\n250 AUTH {offered}\r\n".encode())
    assert decoded(line).startswith(said)
    assert "\\x" not in repr(driver.client.tls)


def test_mechanisms_that_cannot_be_used_are_passed_over() -> None:
    plus = ScramSha256Plus("user", PASSWORD)
    _, said = before_auth(
        plus, ScramSha256("user", PASSWORD), Plain("user", PASSWORD), offered="SCRAM-SHA-256-PLUS PLAIN"
    )
    assert said.startswith(b"AUTH PLAIN ")
    _, said = before_auth(*for_user("user", PASSWORD), offered="SCRAM-SHA-256 PLAIN", nonce=None)
    assert said.startswith(b"AUTH PLAIN ")
    driver, said = before_auth(plus, offered="SCRAM-SHA-256-PLUS")
    assert said == b"QUIT\r\n"
    assert isinstance(error_of(driver), AuthRequired)


def test_sessions_share_a_mechanism_at_the_same_time() -> None:
    shared = [ScramSha256("user", PASSWORD)]
    servers = [ScramServer("sha256", PASSWORD.encode()) for _ in range(2)]
    pairs = [before_auth(*shared, offered="SCRAM-SHA-256", nonce=nonce) for nonce in (lambda: "one", lambda: "two")]
    firsts = [server.first(decoded(said)) for server, (_, said) in zip(servers, pairs, strict=True)]
    proofs = [driver.hear(b"334 " + encoded(first)) for (driver, _), first in zip(pairs, firsts, strict=True)]
    for server, (driver, _), proof in zip(servers, pairs, proofs, strict=True):
        driver.hear(b"334 " + encoded(server.final(decoded(proof))))
        driver.hear(b"235 ok\r\n")
        assert driver.client.authenticated


# --- tokens ---------------------------------------------------------------------------------------------------------


class Tokens:
    def __init__(self, *tokens: str | Exception) -> None:
        self.tokens = list(tokens)
        self.requests: list[TokenRequest] = []

    def __call__(self, request: TokenRequest) -> str:
        self.requests.append(request)
        token = self.tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        return token


def refuse(driver: PureDriver, resignation: bytes) -> bytes:
    assert driver.hear(b"334 " + encoded(json.dumps(REFUSAL).encode())) == resignation
    return driver.hear(b"535-5.7.1 Username and Password not accepted. Learn more at\r\n535 5.7.1 http://x.example\r\n")


@pytest.mark.parametrize(("kind", "resignation"), [(OAuthBearer, b"AQ==\r\n"), (XOAuth2, b"\r\n")])
def test_a_refused_token_is_asked_for_anew_once(kind: type[OAuthBearer] | type[XOAuth2], resignation: bytes) -> None:
    tokens = Tokens("token-one-1", "token-two-2", "token-three-3")
    driver, said = before_auth(kind("anna", tokens), Plain("anna", PASSWORD), offered="PLAIN XOAUTH2 OAUTHBEARER")
    assert b"Bearer token-one-1\1" in decoded(said)
    again = refuse(driver, resignation)
    assert again.startswith(f"AUTH {kind.name} ".encode())
    assert b"Bearer token-two-2\1" in decoded(again)
    assert [(request.refused, request.explanation) for request in tokens.requests] == [(False, {}), (True, REFUSAL)]
    assert refuse(driver, resignation) == b"QUIT\r\n"
    error = error_of(driver)
    assert isinstance(error, AuthDeclined)
    assert error.explanation == REFUSAL
    assert "; status: invalid_token; scope: https://mail.example.com/" in str(error)
    assert len(tokens.requests) == 2
    assert "token-" not in shown(driver, error)


def test_the_second_token_opens_the_session() -> None:
    driver, _ = before_auth(XOAuth2("anna", Tokens("token-one-1", "token-two-2")), offered="XOAUTH2")
    # Some refuse without a word about why.
    assert b"Bearer token-two-2\1" in decoded(driver.hear(b"535 5.7.3 no\r\n"))
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated


def test_the_same_token_is_not_said_twice() -> None:
    driver, _ = before_auth(XOAuth2("anna", Tokens("token-one-1", "token-one-1")), offered="XOAUTH2")
    assert driver.hear(b"535 5.7.3 no\r\n") == b"QUIT\r\n"
    assert isinstance(error_of(driver), AuthDeclined)


def test_a_token_that_cannot_be_had_anew_leaves_the_refusal() -> None:
    driver, _ = before_auth(XOAuth2("anna", Tokens("token-one-1", OSError("offline"))), offered="XOAUTH2")
    assert driver.hear(b"535 5.7.3 no\r\n") == b"QUIT\r\n"
    error = error_of(driver)
    assert isinstance(error, AuthDeclined)
    assert isinstance(error.__cause__, AuthExchangeFailed)
    assert isinstance(error.__cause__.__cause__, OSError)


def test_a_fresh_token_does_not_help_where_the_peer_is_not_ready() -> None:
    tokens = Tokens("token-one-1", "token-two-2")
    driver, _ = before_auth(XOAuth2("anna", tokens), offered="XOAUTH2")
    assert driver.hear(b"454 4.7.0 later\r\n") == b"QUIT\r\n"
    assert len(tokens.requests) == 1


def test_a_success_behind_a_refusal_is_none() -> None:
    driver, _ = before_auth(OAuthBearer("anna", Tokens("token-one-1")), offered="OAUTHBEARER")
    driver.hear(b"334 " + encoded(json.dumps(REFUSAL).encode()))
    assert driver.hear(b"235 ok\r\n") == b"QUIT\r\n"
    assert isinstance(error_of(driver), AuthExchangeFailed)


@pytest.mark.parametrize(
    ("mechanism", "offered", "secret"),
    [
        (XOAuth2("anna", lambda request: "token-one-1"), "XOAUTH2", "token-one-1"),
        (OAuthBearer("anna", lambda request: "token-one-1"), "OAUTHBEARER", "token-one-1"),
        (Plain("anna", PASSWORD), "PLAIN", PASSWORD),
        (Plain("anna", "p\u00e4ss-w\u00f6rd"), "PLAIN", "p\u00e4ss-w\u00f6rd"),
    ],
)
def test_a_peer_that_quotes_what_it_decoded(mechanism: Mechanism, offered: str, secret: str) -> None:
    driver, _ = before_auth(mechanism, offered=offered)
    driver.hear(f"535 5.7.8 what is {secret}, of anna?\r\n".encode())
    error = error_of(driver)
    assert secret not in shown(driver, error)
    assert "what is ********, of anna?" in str(error)


def test_a_secret_too_short_to_tell_from_words_spoils_no_sentence() -> None:
    driver, _ = before_auth(Plain("anna", "no"), offered="PLAIN")
    driver.hear(b"535 5.7.8 no, not now\r\n")
    assert "no, not now" in str(error_of(driver))


# --- mechanisms of libraries ----------------------------------------------------------------------------------------


class Context:
    """A library's context of several rounds, as those of GSSAPI and NTLM are."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._round = 0
        self.complete = False

    def step(self, token: bytes | None) -> bytes:
        self._round += 1
        expected = [None, b"TOKEN-B for you", b"TOKEN-B done"][self._round - 1]
        if token != expected:
            raise RuntimeError(f"unexpected token, {self._password}")
        self.complete = self._round == 3
        return [b"TOKEN-B hello", b"TOKEN-B proof", b""][self._round - 1]


class Library(Mechanism):
    """How a library is plugged in: a context for each exchange, stepped with each challenge."""

    name = "LIBRARY"

    def __init__(self, password: str) -> None:
        self._password = password
        self._context = Context("")

    def start(self) -> bytes | None:
        self._context = Context(self._password)
        return self._context.step(None)

    def answer(self, challenge: bytes) -> bytes:
        return self._context.step(challenge)

    def conclude(self, additional: bytes) -> None:
        if not self._context.complete:
            raise AuthExchangeFailed("the peer ended the exchange before it was complete")


def test_a_library_of_several_rounds() -> None:
    driver, said = before_auth(Library(PASSWORD), offered="LIBRARY PLAIN")
    assert decoded(said) == b"TOKEN-B hello"
    # What both sides say may begin alike: a challenge is never taken for an echo.
    assert decoded(driver.hear(b"334 " + encoded(b"TOKEN-B for you"))) == b"TOKEN-B proof"
    assert driver.hear(b"334 " + encoded(b"TOKEN-B done")) == b"\r\n"
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated


def test_a_library_that_has_not_seen_the_end() -> None:
    driver, _ = before_auth(Library(PASSWORD), offered="LIBRARY")
    assert driver.hear(b"235 ok\r\n") == b"QUIT\r\n"
    assert isinstance(error_of(driver), AuthExchangeFailed)


def test_what_a_library_raises_is_the_cause() -> None:
    driver, _ = before_auth(Library(PASSWORD), offered="LIBRARY")
    assert driver.hear(b"334 " + encoded(b"nonsense")) == b"*\r\n"
    driver.hear(b"501 ok\r\n")
    error = error_of(driver)
    assert str(error) == "the mechanism LIBRARY failed: RuntimeError"
    assert isinstance(error.__cause__, RuntimeError)


class Explaining(Library):
    def explanation(self) -> Mapping[str, str]:
        raise RuntimeError(PASSWORD)


def test_an_explanation_that_breaks_hides_no_refusal() -> None:
    driver, _ = before_auth(Explaining(PASSWORD), offered="LIBRARY")
    driver.hear(b"535 no\r\n")
    error = error_of(driver)
    assert isinstance(error, AuthDeclined)
    assert str(error) == "the peer refused the credentials: 535 no"


def test_ntlm_by_a_library() -> None:
    spnego = pytest.importorskip("spnego")

    class Ntlm(Mechanism):
        name = "NTLM"

        def __init__(self, user: str, password: str) -> None:
            self._user, self._password = user, password

        def _new_context(self) -> Any:
            return spnego.client(self._user, self._password, hostname="localhost", service="smtp", protocol="ntlm")

        def start(self) -> bytes | None:
            self._context = self._new_context()
            token: bytes | None = self._context.step()
            return token

        def answer(self, challenge: bytes) -> bytes:
            return self._context.step(challenge) or b""

        def conclude(self, additional: bytes) -> None:
            if not self._context.complete:
                raise AuthExchangeFailed("the peer ended the exchange before it was complete")

    driver, said = before_auth(Ntlm("HOUSE\\anna", PASSWORD), offered="NTLM")
    assert decoded(said).startswith(b"NTLMSSP\0\1\0\0\0")
    answer = decoded(driver.hear(b"334 " + encoded(ntlm_challenge())))
    assert answer.startswith(b"NTLMSSP\0\3\0\0\0")
    assert "anna".encode("utf-16-le") in answer
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated
    assert PASSWORD not in str(driver.client.transcript)


def test_every_line_with_a_secret_says_so() -> None:
    server = ScramServer("sha256", PASSWORD.encode())
    client = Client(
        "c.example", tls=TlsPolicy.SECURED, credentials=[ScramSha256("user", PASSWORD)], nonce=lambda: "our-nonce"
    )
    lines: list[SendLine] = []

    def hear(octets: bytes) -> None:
        client.receive_data(octets)
        while isinstance(event := client.next_event(), SendLine):
            lines.append(event)

    hear(b"220 hi\r\n")
    hear(b"250-mx\r\n250 AUTH SCRAM-SHA-256\r\n")
    hear(b"334 " + encoded(server.first(decoded(lines[-1].data))))
    hear(b"334 " + encoded(server.final(decoded(lines[-1].data))))
    assert [(line.secret, bool(line.echoes)) for line in lines] == [(False, False), *[(True, True)] * 2, (False, False)]
    assert "our-nonce" not in repr(lines)
