"""Authentication over TLS with every wire driver, against scripted servers that verify it themselves.

What lives here: SCRAM, bound to the certificate or not, tokens, and the hash of a certificate. What does not: the
mechanisms on their own, and the older ones, which are scenarios.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import logging
import ssl
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from smtpcore import AuthDeclined, AuthExchangeFailed, Envelope, MailSent, SmtpError, TlsPolicy
from smtpcore.drivers.tls import server_end_point
from smtpcore.sasl import Mechanism, OAuthBearer, ScramSha256, TokenRequest, XOAuth2, mechanisms_for

from ..core.scram_server import ScramServer
from .peers import EXTENSIONS, Line, Peer, authority, trusting_context
from .scenarios import DRIVERS, Driver, call

PASSWORD = "hunter2-hunter2"
ENVELOPE = Envelope("a@here.example", ("b@there.example",))


def certificate() -> tuple[ssl.SSLContext, bytes]:
    """A server's context, and its certificate in DER form."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued: trustme.LeafCert = authority().issue_cert("localhost")
    issued.configure_cert(context)
    return context, ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def encrypted(line: Line, context: ssl.SSLContext, mechanisms: str) -> bytes:
    """Serve up to AUTH, and return what comes with it."""
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go on")
    assert line.tls(context)
    return line.serve("AUTH", greet=False, extensions=(*EXTENSIONS, f"AUTH {mechanisms}"))


def decoded(line: bytes) -> bytes:
    return base64.b64decode(line.rpartition(b" ")[2])


def challenge(line: Line, octets: bytes) -> bytes:
    line.say(f"334 {base64.b64encode(octets).decode()}")
    return decoded(line.line())


async def one_mail(driver: Driver, port: int, **options: Any) -> str:
    """What came of a session with one mail, in a few words."""
    options = {"tls": TlsPolicy.REQUIRED, "tls_context": trusting_context()} | options
    try:
        session = await call(driver.module.connect, "localhost", port, **options)
    except SmtpError as error:
        return _named(error)
    report = await call(session.deliver, ENVELOPE, b"Hello.\r\n")
    await call(session.quit)
    return type(report).__name__


def _named(error: SmtpError) -> str:
    assert PASSWORD not in f"{error!r} {vars(error)}"
    return type(error).__name__


def play(driver: Driver, script: Callable[[Line], object], **options: Any) -> tuple[str, list[str]]:
    """What came of it, and the dialogue as the trace shows it."""
    dialogue: list[str] = []
    with Peer(script) as peer:
        came_of_it = driver.run(one_mail(driver, peer.port, trace=dialogue.append, **options))
    return came_of_it, dialogue


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize(
    ("offered", "hash_name", "flag"),
    [
        ("PLAIN SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "sha256", "p=tls-server-end-point"),
        ("SCRAM-SHA-1-PLUS PLAIN SCRAM-SHA-1", "sha1", "p=tls-server-end-point"),
        ("PLAIN SCRAM-SHA-512 CRAM-MD5", "sha512", "y"),
    ],
)
@pytest.mark.parametrize("behind", [False, True], ids=["in a challenge", "behind the success"])
def test_scram(
    driver: Driver, offered: str, hash_name: str, flag: str, behind: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    context, der = certificate()
    server = ScramServer(hash_name, PASSWORD.encode(), binding=hashlib.sha256(der).digest())

    def script(line: Line) -> None:
        first = decoded(encrypted(line, context, offered))
        final = server.final(challenge(line, server.first(first)))
        assert final.startswith(b"v=")
        if behind:
            line.say(f"235 2.7.0 {base64.b64encode(final).decode()}")
        else:
            assert challenge(line, final) == b""
            line.say("235 2.7.0 welcome")
        line.serve(greet=False)

    came_of_it, dialogue = play(driver, script, credentials=mechanisms_for("user", PASSWORD))
    assert came_of_it == MailSent.__name__
    assert (server.flag, server.user) == (flag, "user")
    for secret in (PASSWORD, server.nonce, base64.b64encode(server.salt).decode()):
        for text in (secret, base64.b64encode(secret.encode()).decode()[:-4]):
            assert text not in "\n".join(dialogue) + caplog.text
    assert "<<< 334 ********" in dialogue


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_a_binding_to_another_certificate(driver: Driver) -> None:
    """Someone in the middle has a certificate that is trusted; the server tells by the binding."""
    context, _ = certificate()
    server = ScramServer("sha256", PASSWORD.encode(), binding=hashlib.sha256(certificate()[1]).digest())

    def script(line: Line) -> None:
        first = decoded(encrypted(line, context, "SCRAM-SHA-256 SCRAM-SHA-256-PLUS"))
        final = server.final(challenge(line, server.first(first)))
        assert final == b"e=channel-bindings-dont-match"
        assert challenge(line, final) == b""
        line.say("535 5.7.8 no")
        line.serve(greet=False)

    came_of_it, _ = play(driver, script, credentials=mechanisms_for("user", PASSWORD))
    assert came_of_it == AuthDeclined.__name__


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_an_impostor_gets_no_mail(driver: Driver) -> None:
    context, _ = certificate()

    def script(line: Line) -> None:
        encrypted(line, context, "SCRAM-SHA-256")
        line.say("235 2.7.0 welcome")
        assert line.line() == b"QUIT"
        line.say("221 bye")

    came_of_it, _ = play(driver, script, credentials=[ScramSha256("user", PASSWORD)])
    assert came_of_it == AuthExchangeFailed.__name__


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize("kind", [OAuthBearer, XOAuth2])
def test_a_fresh_token(driver: Driver, kind: type[OAuthBearer] | type[XOAuth2]) -> None:
    context, _ = certificate()
    asked: list[TokenRequest] = []

    def token(request: TokenRequest) -> str:
        asked.append(request)
        return "the-new-token" if request.refused else "the-old-token"

    def credentials(host: str | None) -> list[Mechanism]:
        return [kind("anna@here.example", token, host)]

    def script(line: Line) -> None:
        assert b"the-old-token" in decoded(encrypted(line, context, kind.name))
        challenge(line, json.dumps({"status": "invalid_token", "echo": "the-old-token"}).encode())
        line.say("535 5.7.8 the-old-token is too old")
        assert b"the-new-token" in decoded(line.expect("AUTH"))
        line.say("235 2.7.0 welcome")
        line.serve(greet=False)

    came_of_it, dialogue = play(driver, script, credentials=credentials)
    assert came_of_it == MailSent.__name__
    assert [(request.host, request.refused) for request in asked] == [("localhost", False), ("localhost", True)]
    assert asked[1].explanation == {"status": "invalid_token", "echo": "********"}
    assert "-token" not in "\n".join(dialogue)


# --- the hash of a certificate --------------------------------------------------------------------------------------


def self_signed(key: Any, algorithm: Any, **options: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, algorithm, **options).public_bytes(Encoding.DER)


RSA = rsa.generate_private_key(65_537, 2048)
PSS = padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.DIGEST_LENGTH)


@pytest.mark.parametrize(
    ("der", "name"),
    [
        (self_signed(RSA, hashes.SHA256()), "sha256"),
        (self_signed(RSA, hashes.SHA384()), "sha384"),
        (self_signed(RSA, hashes.SHA512()), "sha512"),
        (self_signed(RSA, hashes.SHA3_256()), "sha3_256"),
        (self_signed(RSA, hashes.SHA512(), rsa_padding=PSS), "sha512"),
        (self_signed(ec.generate_private_key(ec.SECP256R1()), hashes.SHA384()), "sha384"),
    ],
)
def test_the_hash_is_that_of_the_signature(der: bytes, name: str) -> None:
    assert server_end_point(der) == hashlib.new(name, der).digest()


def with_algorithm(der: bytes, old: bytes, new: bytes) -> bytes:
    assert der.count(old) == 2
    return der.replace(old, new)


#: The end of the object identifiers of sha256WithRSAEncryption and its elders (RFC 8017, appendix A.2.4).
RSA_OID = bytes.fromhex("2a864886f70d0101")


@pytest.mark.parametrize("number", [4, 5], ids=["md5", "sha1"])
def test_a_weak_hash_is_replaced(number: int) -> None:
    # Libraries sign with these no longer; the signature need not be right to be hashed.
    der = with_algorithm(self_signed(RSA, hashes.SHA256()), RSA_OID + b"\x0b", RSA_OID + bytes([number]))
    assert server_end_point(der) == hashlib.sha256(der).digest()


@pytest.mark.parametrize(
    "der",
    [
        self_signed(ed25519.Ed25519PrivateKey.generate(), None),
        with_algorithm(self_signed(RSA, hashes.SHA256()), RSA_OID + b"\x0b", RSA_OID + b"\x7f"),
        b"",
        b"no certificate",
    ],
    ids=["no hash", "an algorithm that nobody knows", "nothing", "garbage"],
)
def test_where_no_binding_is_defined(der: bytes) -> None:
    assert server_end_point(der) is None


def test_without_the_package_there_is_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    der = self_signed(RSA, hashes.SHA256())
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert server_end_point(der) is None
