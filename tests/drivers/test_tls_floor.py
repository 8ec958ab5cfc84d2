"""The TLS floor in memory: a client above, a TLS object of the standard library as the peer, no socket and no clock.

What lives here: what crosses the floor, in which order, and how a handshake fails. What does not: sockets.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from smtpcore import (
    BeginTls,
    Client,
    Disconnect,
    DisconnectReason,
    Envelope,
    Event,
    Idle,
    Limits,
    MailRefused,
    MailSent,
    NeedBody,
    NeedMail,
    RemoteProtocolError,
    SendBody,
    SendLine,
    Stage,
    Timeout,
    TlsFailed,
    TlsPolicy,
    Verb,
)
from smtpcore.drivers.tls import TlsFloor, client_context

from .peers import authority, server_context, trusting_context

ENVELOPE = Envelope("a@here.example", ("b@there.example",))


class Peer:
    """A server's TLS over memory buffers."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.heard = b""
        #: Whether close_notify came, which alone says that nothing was cut off.
        self.saw_goodbye = False

    def receive(self, octets: bytes) -> bytes:
        """Take octets in, and give what is to be said to them."""
        self._incoming.write(octets)
        try:
            self.tls.do_handshake()
            while octets := self.tls.read(65_536):
                self.heard += octets
            self.saw_goodbye = True
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def say(self, *lines: str) -> bytes:
        self.tls.write("".join(f"{line}\r\n" for line in lines).encode())
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()


class Talk:
    """A client with the floor upon it, and its peer."""

    def __init__(
        self,
        policy: TlsPolicy = TlsPolicy.REQUIRED,
        *,
        kind: str = "good",
        name: str | None = "localhost",
        context: ssl.SSLContext | None = None,
        server: ssl.SSLContext | None = None,
        size: int = 1_000_000,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self.client = Client("here.example", tls=policy, limits=limits)
        self.floor = TlsFloor(self.client, self.client, context or trusting_context(), name, limits)
        self.peer = Peer(server or server_context(kind))
        self._size = size
        #: Kinds of all events, in order.
        self.events: list[str] = []
        self.octets = b""

    def receive(self, octets: bytes) -> None:
        """Hand octets in, in pieces of the size of this talk; a handshake goes on between them."""
        for start in range(0, len(octets), self._size):
            self.floor.receive_data(octets[start : start + self._size])

    def turn(self) -> Event:
        """The next event that is not about writing; the octets before it are kept."""
        while True:
            event = self.floor.next_event()
            self.events.append(type(event).__name__)
            if not isinstance(event, (SendLine, SendBody)):
                return event
            self.octets += event.data

    def to_peer(self) -> bytes:
        octets, self.octets = self.octets, b""
        return octets

    def up_to_handshake(self) -> Event:
        self.receive(b"220 hello\r\n")
        self.turn()
        self.receive(b"250-peer.example\r\n250 STARTTLS\r\n")
        self.turn()
        assert self.to_peer() == b"EHLO here.example\r\nSTARTTLS\r\n"
        self.receive(b"220 go on\r\n")
        return self.turn()

    def shake_hands(self) -> Event:
        """Exchange until nothing moves; the event after which it does not."""
        event = self.turn()
        for _ in range(50):
            if not self.octets:
                return event
            try:
                answer = self.peer.receive(self.to_peer())
            except ssl.SSLError:
                return event
            self.receive(answer)
            event = self.turn()
        raise AssertionError("the handshake does not end")

    def open(self) -> Event:
        """All the way to the first mail."""
        event = self.up_to_handshake()
        assert isinstance(event, Timeout)
        self.shake_hands()
        assert self.peer.heard == b"EHLO here.example\r\n"
        self.receive(self.peer.say("250-peer.example", "250 PIPELINING"))
        event = self.turn()
        assert isinstance(event, NeedMail)
        return event

    def up_to_body(self) -> NeedBody:
        self.open()
        self.client.send(ENVELOPE)
        self.turn()
        self.peer.receive(self.to_peer())
        self.receive(self.peer.say("250 ok", "250 ok", "354 go on"))
        event = self.turn()
        assert isinstance(event, NeedBody)
        return event


@pytest.fixture(params=[1, 7, 1000, 1_000_000])
def size(request: pytest.FixtureRequest) -> int:
    """In pieces of how many octets all arrives."""
    found: int = request.param
    return found


def test_a_whole_mail_in_any_division(size: int) -> None:
    talk = Talk(size=size)
    talk.up_to_body()
    info = talk.client.tls
    assert info is not None
    assert info.verified
    assert info.version == "TLSv1.3"
    talk.client.send_body(b".Hello.\n")
    assert isinstance(talk.turn(), NeedBody)
    talk.client.send_body(b"")
    assert talk.turn() == Timeout(Verb.END_OF_DATA, 600.0)
    talk.peer.receive(talk.to_peer())
    assert talk.peer.heard.endswith(b"DATA\r\n..Hello.\r\n.\r\n")
    talk.receive(talk.peer.say("250 accepted"))
    assert isinstance(talk.turn(), MailSent)
    talk.client.quit()
    assert isinstance(talk.turn(), NeedMail | Idle | Timeout)
    talk.peer.receive(talk.to_peer())
    talk.receive(talk.peer.say("221 bye"))
    end = talk.turn()
    assert end == Disconnect(DisconnectReason.QUIT, None, clean=True)
    early = talk.peer.saw_goodbye
    assert not early
    talk.peer.receive(talk.to_peer())
    assert talk.peer.saw_goodbye
    assert [talk.turn() for _ in range(3)] == [end] * 3
    assert not talk.octets


def test_tls_before_the_greeting() -> None:
    talk = Talk(TlsPolicy.IMPLICIT)
    assert isinstance(talk.turn(), Timeout)
    assert talk.octets[:1] == b"\x16"
    talk.shake_hands()
    talk.receive(talk.peer.say("220 hello"))
    talk.turn()
    talk.peer.receive(talk.to_peer())
    assert talk.peer.heard == b"EHLO here.example\r\n"


def test_nothing_is_said_in_clear_after_starttls() -> None:
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    talk.turn()
    assert b"MAIL" not in talk.octets
    talk.peer.receive(talk.to_peer())
    assert b"MAIL" in talk.peer.heard


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unknown issuer", "unable to get local issuer certificate"),
        ("wrong host", "Hostname mismatch"),
        ("expired", "certificate has expired"),
    ],
)
def test_certificates_that_do_not_fit(kind: str, words: str) -> None:
    talk = Talk(kind=kind)
    talk.client.send(ENVELOPE)
    assert isinstance(talk.up_to_handshake(), Timeout)
    report = talk.shake_hands()
    assert isinstance(report, MailRefused)
    assert report.stage is Stage.NOT_STARTED
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert end.reason is DisconnectReason.TLS
    assert isinstance(end.error, TlsFailed)
    assert f"the certificate was not accepted: {words}" in str(end.error)


def test_a_certificate_that_nobody_judges() -> None:
    talk = Talk(TlsPolicy.OPPORTUNISTIC, kind="unknown issuer", context=client_context(verify=False))
    talk.open()
    assert talk.client.tls is not None
    assert not talk.client.tls.verified


def test_verified_means_the_name_too() -> None:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    context.check_hostname = False
    talk = Talk(kind="wrong host", context=context)
    talk.open()
    assert talk.client.tls is not None
    assert not talk.client.tls.verified


def test_versions_without_overlap() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(server)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    talk = Talk(context=context, server=server)
    talk.up_to_handshake()
    with pytest.raises(ssl.SSLError):
        talk.peer.receive(talk.to_peer())
    talk.receive(talk.peer._outgoing.read())
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert "the TLS handshake failed" in str(end.error)


@pytest.mark.parametrize("together", [True, False])
def test_plaintext_behind_the_reply_to_starttls(together: bool) -> None:
    """CVE-2011-0411 and its kin: what was said before TLS must not count within it."""
    talk = Talk()
    talk.receive(b"220 hello\r\n")
    talk.turn()
    talk.receive(b"250-peer.example\r\n250 STARTTLS\r\n")
    talk.turn()
    injected = b"250-evil.example\r\n250 AUTH PLAIN\r\n"
    if together:
        talk.receive(b"220 go on\r\n" + injected)
    else:
        talk.receive(b"220 go on\r\n")
        talk.turn()
        talk.receive(injected)
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert isinstance(end.error, RemoteProtocolError if together else TlsFailed)
    assert not talk.client.capabilities.extensions or "AUTH" not in talk.client.capabilities


def test_garbage_instead_of_a_handshake(size: int) -> None:
    talk = Talk(size=size)
    talk.up_to_handshake()
    talk.receive(b"HTTP/1.1 400 Bad Request\r\n")
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert "the peer does not speak TLS here" in str(end.error)


def alert(code: int) -> bytes:
    """A fatal alert (RFC 8446 §6)."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes([code])


OLD_HELLO = b"\x03\x01" + bytes(32) + b"\x00" + b"\x00\x2f" + b"\x00"


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"\x16\x03\x01\xff\xff" + bytes(1000), "the peer does not speak TLS here"),
        (alert(40), "the peer found no cipher in common, or wants a client certificate"),
        (alert(48), "the peer does not trust the issuer of our certificate"),
        (alert(70), "the peer allows no version of TLS that we speak"),
        (alert(112), "the peer does not know itself by the name that it was asked for"),
        (alert(116), "the peer wants a client certificate: give a tls_context that has one"),
        # What has no words here has those of OpenSSL.
        (alert(80), "internal error"),
        (
            b"\x16\x03\x01\x00\x2a\x02\x00\x00\x26" + OLD_HELLO,
            "the peer speaks no version of TLS that is allowed here",
        ),
    ],
)
def test_the_words_for_a_handshake_that_fails(octets: bytes, words: str) -> None:
    talk = Talk()
    talk.up_to_handshake()
    talk.receive(octets)
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert isinstance(end.error, TlsFailed)
    assert words in str(end.error)


def test_a_handshake_has_one_deadline() -> None:
    talk = Talk(limits=Limits().scaled(2))
    first = talk.up_to_handshake()
    assert first == Timeout(Verb.STARTTLS, 240.0)
    answer = talk.peer.receive(talk.to_peer())
    for octet in answer[:200]:
        talk.receive(bytes([octet]))
        assert talk.turn() is first
    talk.floor.receive_timeout()
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert end.reason is DisconnectReason.TLS
    assert str(end.error) == "the TLS handshake was not done within its deadline"


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (lambda floor: floor.receive_eof(), "the peer closed the connection during the TLS handshake"),
        (lambda floor: floor.send_failed("reset"), "the connection failed during the TLS handshake: reset"),
    ],
)
def test_a_connection_that_ends_in_the_handshake(fact: object, words: str) -> None:
    talk = Talk()
    talk.up_to_handshake()
    fact(talk.floor)  # type: ignore[operator]  # out of a table
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert isinstance(end.error, TlsFailed)
    assert str(end.error) == words


def test_a_name_that_cannot_be_one() -> None:
    talk = Talk(name=".bad")
    end = talk.up_to_handshake()
    assert isinstance(end, Disconnect)
    assert isinstance(end.error, TlsFailed)


def test_deadlines_pass_through_as_they_are() -> None:
    """The same object is the same running deadline, through TLS as without."""
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    first = talk.turn()
    assert isinstance(first, Timeout)
    assert talk.turn() is first
    reply = talk.peer.receive(talk.to_peer()) + talk.peer.say("250 ok")
    for octet in reply[:-1]:
        talk.receive(bytes([octet]))
        assert talk.turn() is first
    talk.receive(reply[-1:])
    assert talk.turn() is not first


def test_no_event_passes_before_the_octets_said_ahead_of_it() -> None:
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    talk.events.clear()
    talk.turn()
    assert talk.events == ["SendBody", "Timeout"]
    talk.peer.receive(talk.to_peer())
    assert talk.peer.heard.endswith(b"DATA\r\n")


def test_a_wait_that_is_over_before_it_begins() -> None:
    """What came while the octets went out is heard; nobody waits for it a second time."""
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    event = talk.floor.next_event()
    assert isinstance(event, SendBody)
    talk.peer.receive(event.data)
    talk.receive(talk.peer.say("250 ok", "250 ok", "354 go on"))
    assert isinstance(talk.floor.next_event(), NeedBody)


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (lambda talk: talk.floor.receive_timeout(), DisconnectReason.TIMEOUT),
        (lambda talk: talk.receive(talk.peer.say("552 no")), DisconnectReason.BODY),
        (lambda talk: talk.receive(talk.peer.say("421 no")), DisconnectReason.REFUSED),
        (lambda talk: talk.floor.receive_eof(), None),
    ],
)
def test_no_body_is_asked_for_after_the_end(fact: object, reason: DisconnectReason | None) -> None:
    """Between a piece of a body and the question for the next, the session may come to its end."""
    talk = Talk()
    talk.up_to_body()
    talk.client.send_body(b"x" * 1_000)
    event = talk.floor.next_event()
    assert isinstance(event, SendBody)
    fact(talk)  # type: ignore[operator]  # out of a table
    event = talk.turn()
    if reason is None:
        # The peer closed, and everything may be said as long as it is not heard.
        assert isinstance(event, MailRefused | NeedBody)
        return
    assert isinstance(event, MailRefused)
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert end.reason is reason


def test_last_words_after_a_failed_write() -> None:
    talk = Talk()
    talk.up_to_body()
    talk.client.send_body(b"x" * 200_000)
    assert isinstance(talk.floor.next_event(), SendBody)
    talk.floor.send_failed("broken pipe")
    talk.octets = b""
    assert talk.turn() == Timeout(Verb.END_OF_DATA, 5.0)
    assert not talk.octets
    talk.receive(talk.peer.say("552 5.3.4 too big"))
    report = talk.turn()
    assert isinstance(report, MailRefused)
    assert report.outcomes[0].code == 552


@pytest.mark.parametrize("octets", [1_000, 65_536, 65_500, 1_000_000])
def test_bodies_of_any_size(octets: int) -> None:
    talk = Talk()
    talk.up_to_body()
    before = len(talk.peer.heard)
    talk.client.send_body(b"x" * octets)
    talk.turn()
    for start in range(0, len(talk.octets), 10_000):
        talk.peer.receive(talk.octets[start : start + 10_000])
    assert talk.peer.heard[before:].replace(b"x", b"").strip(b"\r\nDATA") == b""
    assert talk.peer.heard.count(b"x") >= octets


def test_the_peer_says_goodbye() -> None:
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    talk.turn()
    talk.receive(talk.peer.say("250 ok") + talk.peer.goodbye())
    assert isinstance(talk.turn(), MailRefused)
    assert isinstance(end := talk.turn(), Disconnect)
    assert end.reason is DisconnectReason.LOST
    # What comes behind the goodbye is not read.
    talk.receive(b"more")
    talk.floor.receive_eof()
    assert talk.turn() is end


def test_an_end_without_goodbye() -> None:
    """SMTP knows its own ends, so this is a lost connection like any other, and no news when QUIT was answered."""
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    talk.turn()
    talk.floor.receive_eof()
    assert isinstance(talk.turn(), MailRefused)
    assert isinstance(end := talk.turn(), Disconnect)
    assert end.reason is DisconnectReason.LOST


def test_a_stream_that_breaks() -> None:
    talk = Talk()
    talk.open()
    talk.client.send(ENVELOPE)
    talk.turn()
    talk.peer.receive(talk.to_peer())
    whole = bytearray(talk.peer.say("250 ok"))
    whole[-1] ^= 1
    talk.receive(bytes(whole))
    assert isinstance(talk.turn(), MailRefused)
    assert isinstance(end := talk.turn(), Disconnect)
    assert "the TLS stream broke" in str(end.error)


def test_a_client_certificate_that_is_missed() -> None:
    """Within TLS 1.3 the refusal comes after the handshake."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(server)
    authority().configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    talk = Talk(server=server)
    talk.up_to_handshake()
    talk.receive(talk.peer.receive(talk.to_peer()))
    talk.turn()
    with pytest.raises(ssl.SSLError):
        talk.peer.receive(talk.to_peer())
    talk.receive(talk.peer._outgoing.read())
    end = talk.turn()
    assert isinstance(end, Disconnect)
    assert isinstance(end.error, TlsFailed)


def test_the_client_never_sees_begin_tls_pass() -> None:
    talk = Talk()
    talk.open()
    assert BeginTls.__name__ not in talk.events


def divisions(octets: bytes) -> Iterator[tuple[bytes, bytes]]:
    for at in range(1, len(octets)):
        yield octets[:at], octets[at:]


def test_a_reply_in_every_division() -> None:
    for at in range(1, 40):
        talk = Talk()
        talk.open()
        talk.client.send(ENVELOPE)
        wait = talk.turn()
        talk.peer.receive(talk.to_peer())
        pieces = list(divisions(talk.peer.say("550 no")))
        if at > len(pieces):
            break
        first, second = pieces[at - 1]
        talk.receive(first)
        assert talk.turn() is wait
        talk.receive(second)
        assert talk.turn() is not wait
