"""The client from the greeting to the first mail: EHLO and HELO, capabilities, STARTTLS, AUTH.

What lives here: what it says while a session opens, and why it gives one up. What does not: mails and the end.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    AuthExchangeFailed,
    AuthRequired,
    BeginTls,
    Client,
    Disconnect,
    DisconnectReason,
    EhloRequired,
    Envelope,
    Idle,
    Limits,
    LocalProtocolError,
    MailRefused,
    MailSent,
    PeerTimeout,
    Pipelining,
    RemoteProtocolError,
    SendLine,
    ServiceRefused,
    Stage,
    Timeout,
    TlsFailed,
    TlsInfo,
    TlsPolicy,
    TlsRequired,
    Verb,
    Verdict,
)
from smtpcore.sasl import Mechanism, Plain, mechanisms_for
from smtpcore.testing import PureDriver, ScriptedServer, converse

INFO = TlsInfo("TLSv1.3", "TLS_TEST", True)
ENVELOPE = Envelope("alice@a.example", ("bob@b.example",))
PLAIN = base64.b64encode(b"\0user\0hunter2").decode()


def opened(**options: Any) -> PureDriver:
    """A driver whose client waits for the greeting."""
    driver = PureDriver(Client("client.example", **options))
    assert driver.run() == b""
    return driver


def ended(driver: PureDriver) -> Disconnect:
    assert isinstance(driver.last, Disconnect)
    return driver.last


# --- greeting -------------------------------------------------------------------------------------------------------


def test_nothing_is_said_before_the_greeting() -> None:
    driver = opened()
    assert driver.last == Timeout(Verb.CONNECT, 300.0)
    assert driver.hear(b"220-hello\r\n") == b""
    assert driver.hear(b"220 there\r\n") == b"EHLO client.example\r\n"


@pytest.mark.parametrize("greeting", ["554 no service", "421 later", "450 greylisted", "554-no\r\n554 service"])
def test_a_greeting_that_is_a_refusal_ends_the_session_with_the_words_of_the_peer(greeting: str) -> None:
    driver = opened()
    # RFC 5321 §3.1: the server waits for a goodbye; after 421 it does not (§3.8).
    polite = not greeting.startswith("421")
    assert driver.hear(greeting.encode() + b"\r\n") == (b"QUIT\r\n" if polite else b"")
    if polite:
        driver.hear(b"221 bye\r\n")
    end = ended(driver)
    assert end.clean is polite
    assert end.reason is DisconnectReason.REFUSED
    assert isinstance(end.error, ServiceRefused)
    assert end.error.reply is not None
    assert end.error.reply.code == int(greeting[:3])
    assert end.error.transcript is not None
    assert end.error.transcript.lines[-1] == f"<<< {greeting}".rpartition("\n")[2].replace(
        "554 service", "<<< 554 service"
    )


@pytest.mark.parametrize("greeting", ["250 hi", "354 hi", "334 hi", "221 bye"])
def test_a_greeting_with_another_good_code_is_a_violation(greeting: str) -> None:
    driver = opened()
    driver.hear(greeting.encode() + b"\r\n")
    assert ended(driver).reason is DisconnectReason.PROTOCOL


def test_a_mail_asked_for_before_a_refused_greeting_is_answered_not_started() -> None:
    driver = opened()
    driver.give(ENVELOPE, b"")
    driver.hear(b"554 no\r\n")
    (report,) = driver.reports
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    assert report.outcomes[0].verdict is Verdict.LATER
    assert report.outcomes[0].code == 554


@pytest.mark.parametrize("name", ["", "under_score", "a b", "x\r\ny", "[1.2.3]", "-a"])
def test_a_helo_name_that_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        Client(name)


@pytest.mark.parametrize("name", ["localhost", "mx.example", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
def test_a_helo_name_may_be_a_domain_or_an_address_literal(name: str) -> None:
    driver = PureDriver(Client(name))
    driver.run()
    assert driver.hear(b"220 hi\r\n") == f"EHLO {name}\r\n".encode()


# --- EHLO and HELO --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 502, 504, 550])
def test_helo_follows_a_refused_ehlo(code: int) -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    assert driver.hear(b"%d what?\r\n" % code) == b"HELO client.example\r\n"
    driver.hear(b"250 ok\r\n")
    assert isinstance(driver.last, Idle)
    assert not driver.client.capabilities.extensions


def test_a_refused_helo_ends_the_session_politely() -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"500 what?\r\n")
    assert driver.hear(b"550 go away\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert ended(driver).reason is DisconnectReason.REFUSED
    assert ended(driver).clean


def test_a_temporary_refusal_of_ehlo_is_no_reason_to_say_helo() -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    assert driver.hear(b"451 not now\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert isinstance(ended(driver).error, ServiceRefused)


@pytest.mark.parametrize(
    "options",
    [
        {"tls": TlsPolicy.REQUIRED},
        {"credentials": [Plain("user", "hunter2")]},
        {"credentials": [Plain("user", "hunter2")], "tls": TlsPolicy.SECURED},
    ],
)
def test_helo_does_not_do_when_tls_or_authentication_is_wanted(options: dict[str, Any]) -> None:
    driver = opened(**options)
    driver.hear(b"220 hi\r\n")
    assert driver.hear(b"500 what?\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert isinstance(ended(driver).error, EhloRequired)
    assert ended(driver).reason is DisconnectReason.REFUSED


def test_capabilities_are_what_the_last_ehlo_reply_says() -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx.example at your service\r\n250-size 1000\r\n250-8BITMIME\r\n250 Auth=plain LOGIN\r\n")
    capabilities = driver.client.capabilities
    assert capabilities.name == "mx.example"
    assert capabilities.size_limit == 1000
    assert "8bitmime" in capabilities
    assert capabilities.auth_mechanisms == ("PLAIN", "LOGIN")


# --- STARTTLS -------------------------------------------------------------------------------------------------------

OFFERED = b"250-mx.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
NOT_OFFERED = b"250-mx.example\r\n250 PIPELINING\r\n"


@pytest.mark.parametrize("policy", [TlsPolicy.NEVER, TlsPolicy.SECURED])
def test_starttls_is_not_said_when_forbidden_or_needless(policy: TlsPolicy) -> None:
    driver = opened(tls=policy)
    driver.hear(b"220 hi\r\n")
    assert driver.hear(OFFERED) == b""
    assert isinstance(driver.last, Idle)


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
def test_starttls_is_said_when_offered_and_everything_learned_before_is_forgotten(policy: TlsPolicy) -> None:
    driver = opened(tls=policy)
    driver.hear(b"220 hi\r\n")
    assert driver.hear(OFFERED) == b"STARTTLS\r\n"
    assert driver.last == Timeout(Verb.STARTTLS, 120.0)
    assert driver.hear(b"220 go\r\n") == b""
    assert isinstance(driver.last, BeginTls)
    driver.client.tls_started(INFO)
    assert driver.client.tls is INFO
    assert not driver.client.capabilities.extensions
    assert driver.run() == b"EHLO client.example\r\n"
    # A server that goes on offering STARTTLS is not taken up on it (RFC 3207 §4.2).
    assert driver.hear(OFFERED) == b""
    assert isinstance(driver.last, Idle)


def test_pipelining_that_was_offered_in_clear_is_forgotten_within_tls() -> None:
    driver = opened(pipelining=Pipelining.ACROSS)
    driver.hear(b"220 hi\r\n")
    driver.hear(OFFERED)
    driver.hear(b"220 go\r\n")
    driver.client.tls_started(INFO)
    driver.give(ENVELOPE, b"x")
    driver.run()
    assert driver.hear(b"502 what?\r\n") == b"HELO client.example\r\n"
    assert driver.hear(b"250 mx.example\r\n") == b"MAIL FROM:<alice@a.example>\r\n"
    assert not driver.client.takes_mail_ahead


def test_begin_tls_is_repeated_until_it_is_answered() -> None:
    driver = opened()
    for octets in (b"220 hi\r\n", OFFERED, b"220 go\r\n"):
        driver.hear(octets)
    assert isinstance(driver.client.next_event(), BeginTls)
    assert isinstance(driver.client.next_event(), BeginTls)


def test_opportunistic_tls_goes_on_in_clear_when_starttls_is_not_offered() -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    assert driver.hear(NOT_OFFERED) == b""
    assert isinstance(driver.last, Idle)
    assert driver.client.tls is None


@pytest.mark.parametrize("reply", [b"454 not now\r\n", b"502 no\r\n"])
def test_opportunistic_tls_goes_on_in_clear_when_starttls_is_refused(reply: bytes) -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    driver.hear(OFFERED)
    driver.hear(reply)
    assert isinstance(driver.last, Idle)
    driver.give(ENVELOPE, b"")
    assert driver.run().startswith(b"MAIL FROM:<alice@a.example>\r\nRCPT")


@pytest.mark.parametrize("reply", [NOT_OFFERED, OFFERED + b"454 not now\r\n", OFFERED + b"502 no\r\n"])
def test_required_tls_ends_the_session_when_it_cannot_be_had(reply: bytes) -> None:
    driver = opened(tls=TlsPolicy.REQUIRED)
    driver.give(ENVELOPE, b"")
    driver.hear(b"220 hi\r\n")
    ehlo, starttls = reply[: reply.rindex(b"250 ")], reply[reply.rindex(b"250 ") :]
    driver.hear(ehlo)
    said = b""
    for line in starttls.splitlines(keepends=True):
        said = driver.hear(line)
    assert said == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert isinstance(ended(driver).error, TlsRequired)
    assert ended(driver).reason is DisconnectReason.TLS
    assert [report.outcomes[0].verdict for report in driver.reports] == [Verdict.LATER]


def test_another_2yz_to_starttls_is_a_violation() -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    driver.hear(OFFERED)
    driver.hear(b"250 ok\r\n")
    assert ended(driver).reason is DisconnectReason.PROTOCOL


@pytest.mark.parametrize("error", ["no common cipher", ValueError("no common cipher"), TlsFailed("no common cipher")])
def test_a_failed_handshake_ends_the_session(error: str | Exception) -> None:
    driver = opened()
    driver.give(ENVELOPE, b"")
    for octets in (b"220 hi\r\n", OFFERED, b"220 go\r\n"):
        driver.hear(octets)
    driver.client.tls_failed(error)
    assert driver.run() == b""
    end = ended(driver)
    assert end.reason is DisconnectReason.TLS
    assert isinstance(end.error, TlsFailed)
    assert "no common cipher" in str(end.error)
    assert driver.reports[0].stage is Stage.NOT_STARTED
    assert (ended(driver).error is error) is isinstance(error, TlsFailed)


def test_implicit_tls_comes_before_the_greeting() -> None:
    driver = opened(tls=TlsPolicy.IMPLICIT)
    first = driver.last
    assert isinstance(first, BeginTls)
    driver.client.tls_started(INFO)
    assert driver.run() == b""
    assert driver.last == Timeout(Verb.CONNECT, 300.0)
    assert driver.hear(b"220 hi\r\n") == b"EHLO client.example\r\n"
    assert driver.hear(OFFERED) == b""
    assert isinstance(driver.last, Idle)


def test_a_greeting_in_clear_where_implicit_tls_must_begin_is_a_violation() -> None:
    driver = opened(tls=TlsPolicy.IMPLICIT)
    driver.hear(b"220 hi\r\n")
    assert ended(driver).reason is DisconnectReason.PROTOCOL


@pytest.mark.parametrize("behind", [b"2", b"250 AUTH PLAIN\r\n"])
def test_octets_behind_the_reply_to_starttls_are_a_violation(behind: bytes) -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    driver.hear(OFFERED)
    assert driver.hear(b"220 go\r\n" + behind) == b""
    assert isinstance(ended(driver).error, RemoteProtocolError)


def test_octets_in_clear_while_the_handshake_runs_are_a_violation() -> None:
    driver = opened()
    driver.hear(b"220 hi\r\n")
    driver.hear(OFFERED)
    driver.hear(b"220 go\r\n")
    driver.client.receive_data(b"250 AUTH PLAIN\r\n")
    driver.client.tls_started(INFO)
    assert driver.run() == b""
    assert ended(driver).reason is DisconnectReason.PROTOCOL


def test_tls_that_is_not_due_is_refused() -> None:
    driver = opened()
    with pytest.raises(LocalProtocolError):
        driver.client.tls_started(INFO)


def test_silence_and_the_end_of_the_stream_while_tls_is_due_end_the_session() -> None:
    silent, gone = opened(tls=TlsPolicy.IMPLICIT), opened(tls=TlsPolicy.IMPLICIT)
    silent.client.receive_timeout()
    silent.run()
    assert isinstance(ended(silent).error, PeerTimeout)
    gone.client.receive_eof()
    gone.run()
    assert ended(gone).reason is DisconnectReason.LOST


# --- AUTH -----------------------------------------------------------------------------------------------------------

AUTH_OFFERED = b"250-mx.example\r\n250 AUTH PLAIN SCRAM-SHA-256\r\n"


class Asking(Mechanism):
    """A mechanism that lets the peer speak first and answers whatever it asks with ``answers``."""

    name = "ASKING"

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.challenges: list[bytes] = []

    def start(self) -> bytes | None:
        return None

    def answer(self, challenge: bytes) -> bytes:
        self.challenges.append(challenge)
        if not self._answers:
            raise AuthExchangeFailed("nothing to say to that")
        return self._answers.pop(0)


class Eager(Mechanism):
    """A mechanism with an initial response."""

    def __init__(self, response: bytes, name: str = "EAGER") -> None:
        self.name = name
        self._response = response

    def start(self) -> bytes | None:
        return self._response

    def answer(self, challenge: bytes) -> bytes:
        raise AuthExchangeFailed("one response is all")


def before_auth(
    *mechanisms: Mechanism, offered: bytes = b"250-mx\r\n250 AUTH PLAIN ASKING EAGER\r\n", **options: Any
) -> tuple[PureDriver, bytes]:
    """A driver that heard the EHLO reply, and what its client said to it."""
    driver = opened(tls=TlsPolicy.SECURED, credentials=mechanisms, **options)
    driver.hear(b"220 hi\r\n")
    return driver, driver.hear(offered)


def test_plain_goes_with_an_initial_response_and_is_accepted_by_235() -> None:
    driver, said = before_auth(Plain("user", "hunter2"))
    assert said == f"AUTH PLAIN {PLAIN}\r\n".encode()
    assert driver.last == Timeout(Verb.AUTH, 180.0)
    driver.hear(b"235 welcome\r\n")
    assert isinstance(driver.last, Idle)
    assert driver.client.authenticated


def test_credentials_make_tls_required() -> None:
    driver = opened(credentials=[Plain("user", "hunter2")])
    driver.hear(b"220 hi\r\n")
    assert driver.hear(AUTH_OFFERED) == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert isinstance(ended(driver).error, TlsRequired)


def test_credentials_are_refused_where_tls_is_forbidden() -> None:
    with pytest.raises(LocalProtocolError):
        Client("client.example", tls=TlsPolicy.NEVER, credentials=[Plain("user", "hunter2")])


@pytest.mark.parametrize(
    "option",
    [
        {"tls": "required"},
        {"tls": None},
        {"tls": True},
        {"protocol": "lmtp"},
        {"pipelining": "none"},
        {"line_ends": "refuse"},
        {"eight_bit": "convert"},
        {"long_lines": None},
        {"limits": 100},
    ],
)
def test_a_policy_is_never_another_than_was_meant(option: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match=f"{next(iter(option))} must be a "):
        Client("client.example", **option)


def test_a_whole_conversation_with_starttls_and_authentication() -> None:
    server = ScriptedServer(extensions=["PIPELINING", "STARTTLS"], users={"user": "hunter2"})
    client = Client("client.example", credentials=[Plain("user", "hunter2")])
    events = converse(client, server, [(ENVELOPE, b"hello\n")])
    assert server.user == "user"
    assert server.commands[:4] == ["EHLO client.example", "STARTTLS", "EHLO client.example", f"AUTH PLAIN {PLAIN}"]
    assert [type(e) for e in events if isinstance(e, (MailSent, MailRefused))] == [MailSent]
    assert not server.complaints


def test_the_first_mechanism_of_ours_that_the_peer_offers_is_used() -> None:
    driver, said = before_auth(Eager(b"x", "ABSENT"), Plain("user", "hunter2"), Eager(b"x"))
    assert said.startswith(b"AUTH PLAIN ")
    assert isinstance(driver.last, Timeout)


@pytest.mark.parametrize("refusal", ["504 5.5.4 unknown", "534 5.7.9 too weak", "538 5.7.11 not like this"])
def test_another_mechanism_is_tried_where_the_first_was_refused_as_such(refusal: str) -> None:
    driver, said = before_auth(Eager(b"x"), Eager(b"y", "ABSENT"), Asking(b"two"), Plain("user", "hunter2"))
    assert said == b"AUTH EAGER eA==\r\n"
    assert driver.hear(f"{refusal}\r\n".encode()) == b"AUTH ASKING\r\n"
    assert driver.hear(b"334 \r\n") == base64.b64encode(b"two") + b"\r\n"
    assert driver.hear(f"{refusal}\r\n".encode()) == f"AUTH PLAIN {PLAIN}\r\n".encode()
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated
    assert isinstance(driver.last, Idle)


def test_the_last_refusal_of_a_mechanism_is_the_error() -> None:
    driver, _ = before_auth(Eager(b"x"), Plain("user", "hunter2"))
    driver.hear(b"504 5.5.4 not that\r\n")
    assert driver.hear(b"504 5.5.4 nor that\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    error = ended(driver).error
    assert isinstance(error, AuthDeclined)
    assert "nor that" in str(error)


@pytest.mark.parametrize("refusal", ["535 5.7.8 wrong", "454 4.7.0 later", "500 what", "502 no", "503 no", "530 no"])
def test_the_same_credentials_are_not_said_twice(refusal: str) -> None:
    driver, _ = before_auth(*mechanisms_for("user", "hunter2"), offered=b"250-mx\r\n250 AUTH LOGIN PLAIN\r\n")
    assert driver.hear(f"{refusal}\r\n".encode()) == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert isinstance(ended(driver).error, AuthDeclined)


def test_login_over_the_wire() -> None:
    driver, said = before_auth(*mechanisms_for("user", "hunter2"), offered=b"250-mx\r\n250 AUTH LOGIN\r\n")
    assert said == b"AUTH LOGIN\r\n"
    assert driver.hear(b"334 VXNlcm5hbWU6\r\n") == base64.b64encode(b"user") + b"\r\n"
    assert driver.hear(b"334 UGFzc3dvcmQ6\r\n") == base64.b64encode(b"hunter2") + b"\r\n"
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated
    shown = str(driver.client.transcript)
    assert "AUTH LOGIN" in shown
    assert base64.b64encode(b"hunter2").decode() not in shown


class Broken(Mechanism):
    """A mechanism whose token cannot be had."""

    def __init__(self, where: str) -> None:
        self.name = "BROKEN"
        self._where = where

    def start(self) -> bytes | None:
        if self._where == "start":
            raise OSError("the token hunter2 is unreadable")
        return None

    def answer(self, challenge: bytes) -> bytes:
        raise OSError("the token hunter2 is unreadable")


def test_a_mechanism_that_cannot_begin_ends_the_session_politely() -> None:
    driver, said = before_auth(Broken("start"), offered=b"250-mx\r\n250 AUTH BROKEN\r\n")
    assert said == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    error = ended(driver).error
    assert isinstance(error, AuthExchangeFailed)
    assert isinstance(error.__cause__, OSError)
    assert "hunter2" not in str(error)


def test_a_mechanism_that_cannot_be_copied_ends_the_session_politely() -> None:
    class Lonely(Eager):
        def __copy__(self) -> Lonely:
            raise TypeError("cannot copy hunter2")

    driver, said = before_auth(Lonely(b"x"))
    assert said == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    error = ended(driver).error
    assert isinstance(error, AuthExchangeFailed)
    assert "hunter2" not in str(error)


def test_a_mechanism_that_breaks_in_the_middle_cancels_the_exchange() -> None:
    driver, _ = before_auth(Broken("answer"), offered=b"250-mx\r\n250 AUTH BROKEN\r\n")
    assert driver.hear(b"334 \r\n") == b"*\r\n"
    driver.hear(b"501 cancelled\r\n")
    driver.hear(b"221 bye\r\n")
    error = ended(driver).error
    assert isinstance(error, AuthExchangeFailed)
    assert isinstance(error.__cause__, OSError)


def test_declined_credentials_end_the_session_politely() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"), Eager(b"x"))
    driver.give(ENVELOPE, b"")
    assert driver.hear(b"535 5.7.8 no\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    end = ended(driver)
    assert end.reason is DisconnectReason.AUTH
    assert isinstance(end.error, AuthDeclined)
    assert end.error.reply is not None
    assert end.error.reply.enhanced == "5.7.8"
    # A fault of the configuration is never said of a mail.
    assert [o.verdict for o in driver.reports[0].outcomes] == [Verdict.LATER]


def test_a_temporary_failure_of_authentication_says_so() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    driver.hear(b"454 4.7.0 try later\r\n")
    driver.hear(b"221 bye\r\n")
    end = ended(driver)
    assert isinstance(end.error, AuthDeclined)
    assert end.error.reply is not None
    assert not end.error.reply.permanent


def test_no_common_mechanism_names_what_either_side_has() -> None:
    driver, said = before_auth(Eager(b"x", "OURS"))
    assert said == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    end = ended(driver)
    assert isinstance(end.error, AuthRequired)
    assert "OURS" in str(end.error)
    assert "PLAIN, ASKING, EAGER" in str(end.error)


def test_no_mechanism_at_all_is_said_as_well() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"), offered=b"250 mx\r\n")
    driver.hear(b"221 bye\r\n")
    assert "none" in str(ended(driver).error)


def test_an_empty_challenge_asks_for_the_response_again() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    assert driver.hear(b"334 \r\n") == PLAIN.encode() + b"\r\n"
    assert driver.hear(b"235 ok\r\n") == b""
    assert driver.client.authenticated


def test_an_empty_initial_response_is_said_as_an_equals_sign() -> None:
    _, said = before_auth(Eager(b""))
    assert said == b"AUTH EAGER =\r\n"


def test_challenges_are_answered_in_base64_for_as_many_rounds_as_it_takes() -> None:
    mechanism = Asking(b"one", b"", b"three")
    driver, said = before_auth(mechanism)
    assert said == b"AUTH ASKING\r\n"
    assert driver.hear(b"334 " + base64.b64encode(b"first?") + b"\r\n") == b"b25l\r\n"
    assert driver.hear(b"334 " + base64.b64encode(b"second?") + b"\r\n") == b"\r\n"
    assert driver.hear(b"334\r\n") == b"dGhyZWU=\r\n"
    assert mechanism.challenges == [b"first?", b"second?", b""]
    driver.hear(b"235 ok\r\n")
    assert driver.client.authenticated


@pytest.mark.parametrize("challenge", ["????", "YQ", "é", "YQ==\x00"[:4] + "="])
def test_a_challenge_that_is_not_base64_cancels_the_exchange(challenge: str) -> None:
    driver, _ = before_auth(Asking(b"never"))
    assert driver.hear(f"334 {challenge}\r\n".encode()) == b"*\r\n"
    assert driver.hear(b"501 cancelled\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    end = ended(driver)
    assert end.reason is DisconnectReason.AUTH
    assert isinstance(end.error, AuthExchangeFailed)


def test_a_challenge_that_the_mechanism_cannot_answer_cancels_the_exchange() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    assert driver.hear(b"334 eA==\r\n") == b"*\r\n"
    driver.hear(b"501 cancelled\r\n")
    driver.hear(b"221 bye\r\n")
    assert isinstance(ended(driver).error, AuthExchangeFailed)


@pytest.mark.parametrize("answer", ["501 cancelled", "334 ", "235 never mind"])
def test_a_challenge_is_no_reply_that_decided_anything(answer: str) -> None:
    driver, _ = before_auth(Asking())
    driver.give(ENVELOPE, b"")
    driver.hear(b"334 \r\n")
    driver.hear(answer.encode() + b"\r\n")
    (outcome,) = driver.reports[0].outcomes
    assert (outcome.verdict, outcome.reply) == (Verdict.LATER, None)
    assert "nothing to say to that" in outcome.text


def test_a_challenge_to_the_cancellation_ends_the_session_at_once() -> None:
    driver, _ = before_auth(Asking())
    assert driver.hear(b"334 \r\n") == b"*\r\n"
    assert driver.hear(b"334 \r\n") == b""
    assert isinstance(ended(driver).error, AuthExchangeFailed)


def test_success_after_a_cancelled_exchange_is_not_believed() -> None:
    # What a mechanism cannot answer may be the false proof of an impostor.
    driver, _ = before_auth(Asking())
    driver.give(ENVELOPE, b"")
    assert driver.hear(b"334 \r\n") == b"*\r\n"
    assert driver.hear(b"235 never mind\r\n") == b"QUIT\r\n"
    driver.hear(b"221 bye\r\n")
    assert not driver.client.authenticated
    assert isinstance(ended(driver).error, AuthExchangeFailed)
    assert driver.reports[0].stage is Stage.NOT_STARTED


def test_an_impatient_handshake_is_not_shown_as_tls() -> None:
    driver = opened(tls=TlsPolicy.REQUIRED)
    for octets in (b"220 hi\r\n", OFFERED, b"220 go\r\n"):
        driver.hear(octets)
    driver.client.receive_data(b"x")
    driver.client.tls_started(INFO)
    assert driver.client.tls is None
    assert isinstance(driver.client.next_event(), Disconnect)


def test_challenges_have_a_limit() -> None:
    limit = 3
    driver, _ = before_auth(Asking(*[b"x"] * 100), limits=Limits(auth_steps=limit))
    said = [driver.hear(b"334 \r\n") for _ in range(limit + 1)]
    assert said == [b"eA==\r\n"] * limit + [b"*\r\n"]


def test_an_initial_response_that_is_too_long_for_the_line_waits_for_the_challenge() -> None:
    response = b"x" * 40
    limits = Limits(auth_line=len("AUTH EAGER \r\n") + 55)
    driver, said = before_auth(Eager(response), limits=limits)
    assert said == b"AUTH EAGER\r\n"
    assert driver.hear(b"334 \r\n") == base64.b64encode(response) + b"\r\n"
    fits = Limits(auth_line=len("AUTH EAGER \r\n") + 56)
    assert before_auth(Eager(response), limits=fits)[1] == b"AUTH EAGER " + base64.b64encode(response) + b"\r\n"


def test_a_response_that_is_too_long_for_any_line_cancels_the_exchange() -> None:
    driver, _ = before_auth(Asking(b"x" * 100), limits=Limits(auth_line=64))
    assert driver.hear(b"334 \r\n") == b"*\r\n"


@pytest.mark.parametrize("reply", [b"250 ok\r\n", b"220 ok\r\n", b"354 go\r\n"])
def test_another_good_code_to_auth_is_a_violation(reply: bytes) -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    driver.hear(reply)
    assert ended(driver).reason is DisconnectReason.PROTOCOL
    assert not driver.client.authenticated


@pytest.mark.parametrize("behind", [b"2", b"235 ok\r\n", b"garbage\r\n"])
def test_octets_behind_a_challenge_are_a_violation_and_no_exception(behind: bytes) -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    assert driver.hear(b"334 \r\n" + behind) == b""
    assert ended(driver).reason is DisconnectReason.PROTOCOL


@pytest.mark.parametrize("whole", [True, False])
def test_a_421_behind_a_challenge_is_heard_and_ends_the_session(whole: bool) -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    if whole:
        driver.hear(b"334 \r\n421 bye\r\n")
    else:
        assert driver.hear(b"334 \r\n42") == b""
        assert isinstance(driver.last, Timeout)
        driver.hear(b"1 bye\r\n")
    end = ended(driver)
    assert isinstance(end.error, ServiceRefused)
    assert end.reason is DisconnectReason.REFUSED


def test_the_end_of_the_stream_behind_a_challenge_ends_the_session_and_is_no_exception() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    driver.client.receive_data(b"334 \r\n")
    driver.client.receive_eof()
    assert driver.run() == b""
    assert ended(driver).reason is DisconnectReason.LOST


def test_a_failed_write_during_authentication_says_nothing_more() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    driver.client.send_failed("broken pipe")
    driver.client.receive_data(b"334 \r\n")
    assert driver.run() == b""
    assert isinstance(driver.last, Timeout)
    driver.client.receive_timeout()
    driver.run()
    assert "broken pipe" in str(ended(driver).error)


def test_a_line_of_credentials_is_marked_secret_and_others_are_not() -> None:
    driver, _ = before_auth(Plain("user", "hunter2"))
    driver.hear(b"235 ok\r\n")
    lines = {e.data.split()[0]: e.secret for e in driver.events if isinstance(e, SendLine)}
    assert lines == {b"EHLO": False, b"AUTH": True}
