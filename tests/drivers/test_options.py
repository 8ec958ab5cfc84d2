"""What the drivers make of options: the name for EHLO, the machine, the envelope.

What lives here: the pure helpers of all drivers. What does not: anything with a socket.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from typing import Any

import pytest

from smtpcore import (
    AuthDeclined,
    BodyFacts,
    Client,
    CredentialsUnavailable,
    Disconnect,
    DisconnectReason,
    Envelope,
    LocalProtocolError,
    LostStep,
    NeedBody,
    NeedMail,
    Pipelining,
    RemoteProtocolError,
    SendLine,
    Timeout,
    TlsPolicy,
)
from smtpcore.drivers import tls
from smtpcore.drivers._connecting.race import Ends, Way
from smtpcore.drivers._session.options import (
    Machine,
    Options,
    check_options,
    default_to_a_labels,
    fallback_in_clear,
    make_envelope,
    make_machine,
    settled,
)
from smtpcore.drivers._session.supply import iterator_of
from smtpcore.drivers.memory import HostMemory
from smtpcore.drivers.tls import client_context, default_context
from smtpcore.sasl import Plain

NOWHERE = Ends(None, "a socket")
CREDENTIALS = [Plain("user", "password")]


def helo(local_address: str | None = "192.0.2.1", **options: Any) -> bytes:
    """The line with which a machine introduces itself."""
    wire = make_machine({"tls": TlsPolicy.NEVER, **options}, "peer.example", Ends(local_address, "peer.example")).wire  # type: ignore[typeddict-item]  # arguments by name
    wire.receive_data(b"220 hello\r\n")
    event = wire.next_event()
    assert isinstance(event, SendLine)
    return event.data


@pytest.mark.parametrize(
    ("host", "address", "line"),
    [
        ("mail.example.org", "192.0.2.1", b"EHLO mail.example.org\r\n"),
        ("laptop", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
        ("laptop", "2001:db8::1", b"EHLO [IPv6:2001:db8::1]\r\n"),
        ("laptop", "fe80::1%eth0", b"EHLO [IPv6:fe80::1]\r\n"),
        ("laptop", None, b"EHLO [127.0.0.1]\r\n"),
        ("laptop.local", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
        ("under_score.example", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
        # What a machine may be called and what a domain may be called are not the same.
        ("mail.example.org.", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
        ("mail..org", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
        ("-mail.example", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
        ("bücher.example", "192.0.2.1", b"EHLO [192.0.2.1]\r\n"),
    ],
)
def test_the_name_for_ehlo(monkeypatch: pytest.MonkeyPatch, host: str, address: str | None, line: bytes) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert helo(address) == line


def test_the_name_that_was_given() -> None:
    assert helo(helo_name="given.example") == b"EHLO given.example\r\n"
    with pytest.raises(LocalProtocolError, match="helo me"):
        helo(helo_name="helo me")


def test_options_of_the_machine() -> None:
    """Each option reaches the machine that it is for."""
    wire = make_machine({"pipelining": Pipelining.NONE, "tls": TlsPolicy.NEVER}, None, NOWHERE).wire
    assert isinstance(wire.next_event(), Timeout)
    shown: list[str] = []
    wire = make_machine({"trace": shown.append}, "peer.example", NOWHERE).wire
    wire.receive_data(b"220 hello\r\n")
    wire.next_event()
    assert shown == ["<<< 220 hello", f">>> {helo(None).decode().strip()}"]


def test_contradictions() -> None:
    with pytest.raises(LocalProtocolError, match="never said without TLS"):
        make_machine({"credentials": CREDENTIALS, "tls": TlsPolicy.NEVER}, "peer.example", NOWHERE)
    with pytest.raises(LocalProtocolError, match="no such option: timeout, user"):
        make_machine({"user": "x", "timeout": 5}, "peer.example", NOWHERE)  # type: ignore[typeddict-unknown-key]  # a wrong kind, on purpose
    for policy in (TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT):
        with pytest.raises(LocalProtocolError, match="give tls_server_name"):
            make_machine({"tls": policy}, None, NOWHERE)
    make_machine({"tls": TlsPolicy.REQUIRED, "tls_server_name": "peer.example"}, None, NOWHERE)


@pytest.mark.parametrize(
    "options",
    [
        {"tls": "required"},
        {"tls": None},
        {"pipelining": "across"},
        {"protocol": "lmtp"},
        {"line_ends": 1},
        {"limits": 1},
    ],
)
def test_a_policy_that_is_none_is_refused_before_anything_is_connected(options: Any) -> None:
    (name,) = options
    with pytest.raises(LocalProtocolError, match=f"the option {name} must be a "):
        check_options(options, Way("peer.example", 25))


def test_certificates_are_judged_where_tls_is_meant() -> None:
    strict = client_context(verify=True)
    assert strict.check_hostname
    assert strict.verify_mode is ssl.CERT_REQUIRED
    lenient = client_context(verify=False)
    assert not lenient.check_hostname
    assert lenient.verify_mode is ssl.CERT_NONE
    assert (lenient.minimum_version, lenient.options) == (strict.minimum_version, strict.options)
    # Every authority of the system loaded for nothing costs more than the mail.
    assert lenient.cert_store_stats() == {"x509": 0, "crl": 0, "x509_ca": 0}


def in_clear(options: Options) -> Options | None:
    return fallback_in_clear(options, "peer.example")


def test_the_default_contexts_are_made_once() -> None:
    assert default_context(verify=True).verify_mode is ssl.CERT_REQUIRED
    assert default_context(verify=False).verify_mode is ssl.CERT_NONE
    assert default_context(verify=True) is default_context(verify=True)
    assert client_context(verify=True) is not default_context(verify=True)


def test_threads_wait_for_the_one_that_makes_a_default_context(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    at_once: list[int] = []

    def make(*, verify: bool) -> ssl.SSLContext:
        with contextlib.suppress(threading.BrokenBarrierError):
            at_once.append(together.wait(0.3))
        return client_context(verify=verify)

    monkeypatch.setattr(tls, "_default_contexts", {})
    monkeypatch.setattr(tls, "client_context", make)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: default_context(verify=False), range(2))
    assert not at_once
    assert one is other


def test_failures_of_tls_are_forgotten_in_time() -> None:
    now = 100.0
    failures = HostMemory(seconds=60.0, most=2, clock=lambda: now)
    assert "a.example:25" not in failures
    failures.add("a.example:25")
    now = 159.9
    assert "a.example:25" in failures
    assert "a.example:587" not in failures
    failures.add("b.example:25")
    now = 160.0
    assert "a.example:25" not in failures
    assert "b.example:25" in failures
    for host in ("c", "b", "d"):
        failures.add(f"{host}.example:25")
    # The oldest is the one that has not failed for the longest time.
    assert [host for host in "abcd" if f"{host}.example:25" in failures] == ["b", "d"]
    failures.clear()
    assert "d.example:25" not in failures


WAY = Way("peer.example", 25)


def test_what_is_settled_before_connecting() -> None:
    assert settled({"helo_name": "x.example"}, WAY) == {"helo_name": "x.example", "credentials": ()}
    assert settled({}, Way("peer.example", 465)) == {"credentials": (), "tls": TlsPolicy.IMPLICIT}
    given: Options = {"tls": TlsPolicy.REQUIRED}
    assert settled(given, Way("peer.example", 465)) == {"credentials": (), "tls": TlsPolicy.REQUIRED}
    failures = HostMemory()
    failures.add("peer.example:25")
    wish: Options = {"tls_failures": failures}
    assert settled(wish, WAY).get("tls") is TlsPolicy.NEVER
    assert "tls" not in settled(wish, Way("peer.example", 587))
    # Where TLS is meant, what is known of it changes nothing.
    assert "tls" not in settled({**wish, "credentials": CREDENTIALS}, WAY)
    assert settled({**wish, "tls": TlsPolicy.REQUIRED}, WAY).get("tls") is TlsPolicy.REQUIRED


def test_the_way_back_to_clear() -> None:
    assert in_clear({"helo_name": "x.example"}) == {"helo_name": "x.example", "tls": TlsPolicy.NEVER}
    assert in_clear({"tls": TlsPolicy.OPPORTUNISTIC}) == {"tls": TlsPolicy.NEVER}
    assert in_clear({"credentials": CREDENTIALS}) is None
    for policy in (TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT):
        assert in_clear({"tls": policy}) is None
    # Credentials that depend on the host.
    some = {"peer.example": CREDENTIALS}
    assert in_clear({"credentials": lambda host: some.get(host or "", ())}) is None
    assert in_clear({"credentials": lambda host: ()}) is not None


def test_credentials_for_the_host_that_is_connected_to() -> None:
    asked: list[str | None] = []

    def credentials(host: str | None) -> list[Plain]:
        asked.append(host)
        return CREDENTIALS if host == "peer.example" else []

    assert make_machine({"credentials": credentials}, "peer.example", NOWHERE).client.snapshot().authenticated is False
    # Only with credentials is TLS a condition: the greeting leads to a certificate that is judged.
    with pytest.raises(LocalProtocolError, match="never said without TLS"):
        make_machine({"credentials": credentials, "tls": TlsPolicy.NEVER}, "peer.example", NOWHERE)
    make_machine({"credentials": credentials, "tls": TlsPolicy.NEVER}, "other.example", NOWHERE)
    assert asked == ["peer.example", "peer.example", "other.example"]


def test_what_a_function_for_credentials_raises_is_named_and_not_quoted() -> None:
    def locked(host: str | None) -> list[Plain]:
        raise KeyError("open sesame")

    calls: list[Callable[[], object]] = [
        lambda: settled({"credentials": locked}, WAY),
        lambda: make_machine({"credentials": locked}, "peer.example", NOWHERE),
    ]
    for call in calls:
        with pytest.raises(CredentialsUnavailable, match="the function that gives the credentials: KeyError") as caught:
            call()
        assert isinstance(caught.value.__cause__, KeyError)
        assert "sesame" not in str(caught.value)
        assert not caught.value.retryable


def test_an_error_of_a_session_comes_out_of_a_function_for_credentials_as_it_is() -> None:
    refused = AuthDeclined("refused an hour ago")

    def known(host: str | None) -> list[Plain]:
        raise refused

    with pytest.raises(AuthDeclined) as caught:
        settled({"credentials": known}, WAY)
    assert caught.value is refused


FACTS = BodyFacts(size=5)


def email() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "from@x.example"
    message["To"] = "to@x.example"
    return message


def test_the_envelope_as_given() -> None:
    envelope = make_envelope(b"x", "a@x.example", "b@x.example", FACTS)
    assert (envelope.reverse_path, envelope.recipients, envelope.body) == ("a@x.example", ("b@x.example",), FACTS)
    assert make_envelope(b"x", "", (r for r in ["b@x.example"]), FACTS).reverse_path == ""  # type: ignore[arg-type]  # a wrong kind, on purpose
    given = make_envelope(email(), "a@x.example", ["b@x.example"], FACTS)
    assert (given.reverse_path, given.recipients) == ("a@x.example", ("b@x.example",))


def test_the_envelope_as_the_header_says() -> None:
    envelope = make_envelope(email(), None, None, FACTS)
    assert (envelope.reverse_path, envelope.recipients) == ("from@x.example", ("to@x.example",))
    assert make_envelope(email(), "", None, FACTS).reverse_path == ""


@pytest.mark.parametrize(
    ("sender", "recipients", "words"),
    [
        (None, "b@x.example", "give the sender"),
        ("a@x.example", None, "give the recipients"),
        ("a@x.example", [], "at least one recipient"),
        (b"a@x.example", "b@x.example", "b'a@x.example'.*must be a str"),
        ("a@x.example", b"b@x.example", "b'b@x.example'.*must be a str"),
        ("a@x.example", [b"b@x.example"], "must be a str"),
        ("a@x.example", "b@x.example, c@x.example", "b@x.example, c@x.example"),
    ],
)
def test_envelopes_that_are_none(sender: Any, recipients: Any, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        make_envelope(b"x", sender, recipients, FACTS)


PEER = "peer.example (192.0.2.1 port 25)"


def across(steps: HostMemory) -> Machine:
    options: Options = {"pipelining": Pipelining.ACROSS, "tls": TlsPolicy.NEVER, "lost_steps": steps}
    return make_machine(options, "peer.example", Ends(None, PEER))


def runs_ahead(client: Client) -> bool:
    """Whether another mail is asked for before the verdict on the first has come."""
    client.send(Envelope("", ("a@b.example",), body=BodyFacts(eight_bit=False)))
    asked = False
    for heard in (b"220 hi\r\n", b"250-peer.example\r\n250 PIPELINING\r\n", b"250 ok\r\n250 ok\r\n354 go\r\n", b""):
        while not isinstance(event := client.next_event(), Timeout):
            if isinstance(event, NeedBody):
                client.send_body(b"")
            elif isinstance(event, NeedMail):
                asked = True
                client.no_mail()
        client.receive_data(heard)
    return asked


def test_a_peer_that_lost_step_is_spoken_to_within_a_mail() -> None:
    steps = HostMemory()
    machine = across(steps)
    assert runs_ahead(machine.client)
    # What says nothing of several mails at once is no reason.
    machine.remember(Disconnect(DisconnectReason.PROTOCOL, RemoteProtocolError("what?"), clean=False))
    assert runs_ahead(across(steps).client)
    machine.remember(Disconnect(DisconnectReason.PROTOCOL, LostStep("one reply too many"), clean=False))
    assert PEER in steps
    assert not runs_ahead(across(steps).client)
    steps.clear()
    assert runs_ahead(across(steps).client)


def test_domains_beyond_ascii_are_written_by_the_idna_package_or_by_the_callers_own_function() -> None:
    envelope = Envelope("", ("c@faß.example",))
    asked: list[str] = []

    def own(domain: str) -> str:
        asked.append(domain)
        return "own.example"

    def client(**options: Any) -> Client:
        return make_machine({"tls": TlsPolicy.NEVER, **options}, None, Ends(None, "peer.example")).client  # type: ignore[typeddict-item]  # arguments by name

    client(to_a_labels=own).send(envelope)
    assert asked == ["faß.example"]
    client().send(envelope)
    with pytest.raises(LocalProtocolError, match="cannot be written in A-labels"):
        client().send(Envelope("", ("c@\N{COMBINING ACUTE ACCENT}a.example",)))


def test_without_the_idna_package_such_domains_need_smtputf8(monkeypatch: pytest.MonkeyPatch) -> None:
    default_to_a_labels.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        assert default_to_a_labels() is None
    finally:
        default_to_a_labels.cache_clear()


def test_an_async_iterable_is_for_pools_on_event_loops() -> None:
    async def mails() -> AsyncIterator[Any]:
        yield Envelope("", ("a@b.example",)), b"Hello."

    with pytest.raises(
        LocalProtocolError, match="pairs, not a async_generator; an async one is for a pool on an event"
    ):
        iterator_of(mails())  # type: ignore[arg-type]  # a wrong kind, on purpose
