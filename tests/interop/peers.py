"""The servers of the matrix behind one face: where they listen, what arrived, and the rules by which they change mail.

What lives here: the servers' own ways, each with its reason. What does not: how they are started, and what is sent.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import re
import smtplib
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from smtpcore import Pipelining, Protocol, TlsPolicy
from smtpcore.sasl import CramMd5, Login, Mechanism, Plain, Scram, ScramSha1, ScramSha256

from .arrivals import Maildirs
from .dovecot import Dovecot, DovecotLmtp
from .exim import Exim, exim_asks_dovecot
from .opensmtpd import OpenSmtpd
from .postfix import (
    BROKEN,
    DOMAIN,
    DOMAINS,
    HOST,
    PASSWORD,
    USER,
    Postfix,
    Sink,
    free_ports,
    postfix_missing,
    program,
    sink_missing,
)
from .unpacked import unpacked_missing

#: Local parts with a mailbox; every other one is refused.
MAILBOXES = ("alice", "bob", "carol")
#: One that only servers with SMTPUTF8 have.
UTF8_MAILBOX = "jörg"


class Door(enum.Enum):
    """What a port asks for before it takes mail."""

    CLEAR = "nothing"
    STARTTLS = "nothing, and it offers STARTTLS"
    AUTH = "STARTTLS, and then AUTH"
    #: At a unix socket.
    UNIX = "nothing, on this machine"


_TCP = (Door.CLEAR, Door.STARTTLS, Door.AUTH)

#: What each server offers in clear, of what is known here.
OFFERS = {
    "Postfix": {"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING"},
    "Exim": {"PIPELINING", "SIZE", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"},
    "OpenSMTPD": {"SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN"},
    "aiosmtpd": {"SIZE", "8BITMIME", "SMTPUTF8"},
    "smtp-sink": {"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN"},
    "Dovecot (LMTP)": {"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING"},
}


ByPassword = Plain | Login | CramMd5 | Scram


class Way(enum.Enum):
    """How a session is held: through which door, with which mechanism, and whether pipelining goes across mails.

    Messages go in chunks where the server takes them, but for the ways that say otherwise.
    """

    CLEAR = "in clear", Door.CLEAR, None, False
    DATA = "in clear, by DATA", Door.CLEAR, None, False
    STARTTLS = "STARTTLS", Door.STARTTLS, None, False
    AUTH_PLAIN = "STARTTLS, AUTH PLAIN", Door.AUTH, Plain, False
    AUTH_LOGIN = "STARTTLS, AUTH LOGIN", Door.AUTH, Login, False
    AUTH_CRAM_MD5 = "STARTTLS, AUTH CRAM-MD5", Door.AUTH, CramMd5, False
    AUTH_SCRAM_SHA_1 = "STARTTLS, AUTH SCRAM-SHA-1", Door.AUTH, ScramSha1, False
    AUTH_SCRAM_SHA_256 = "STARTTLS, AUTH SCRAM-SHA-256", Door.AUTH, ScramSha256, False
    ACROSS = "in clear, across mails", Door.CLEAR, None, True
    ACROSS_DATA = "in clear, across mails, by DATA", Door.CLEAR, None, True
    ACROSS_STARTTLS = "STARTTLS, across mails", Door.STARTTLS, None, True
    UNIX = "at a unix socket", Door.UNIX, None, False
    UNIX_DATA = "at a unix socket, by DATA", Door.UNIX, None, False

    def __init__(self, words: str, door: Door, mechanism: type[ByPassword] | None, across: bool) -> None:
        self.words = words
        self.door = door
        self.mechanism = mechanism
        self.across = across

    def options(self, trusting: ssl.SSLContext) -> dict[str, Any]:
        """The options of a session held this way."""
        options: dict[str, Any] = {"pipelining": Pipelining.ACROSS} if self.across else {}
        if self.words.endswith("DATA"):
            options["chunking"] = False
        if self.door in {Door.CLEAR, Door.UNIX}:
            options["tls"] = TlsPolicy.NEVER
        else:
            options.update(tls=TlsPolicy.REQUIRED, tls_context=trusting)
        if self.mechanism is not None:
            options["credentials"] = [self.mechanism(USER, PASSWORD)]
        return options


@dataclass(frozen=True)
class Rule:
    """What a server makes of a shape by a rule of its own, and why."""

    why: str
    #: What was added to a mail as it arrived: it matches once, and without it nothing is different.
    added: re.Pattern[bytes] | None = None
    #: The code and the enhanced code with which it is refused.
    refusal: tuple[int, str] | None = None


@dataclass(frozen=True)
class Peer:
    """A running server."""

    name: str
    version: str
    #: Its TCP ports, and the path of its unix socket.
    ends: Mapping[Door, int | Path]
    #: The trace fields and the rest of each mail from a reverse-path.
    mails: Callable[[str], list[tuple[bytes, bytes]]]
    #: How it ends lines where it keeps mail.
    line_end: bytes = b"\n"
    rules: Mapping[str, Rule] = field(default_factory=dict)
    #: Doors that it does not have, and mechanisms that it does not know, and why.
    cannot: Mapping[Door | type[Mechanism], str] = field(default_factory=dict)
    protocol: Protocol = Protocol.SMTP
    #: What it was told not to offer.
    withheld: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def clear(self) -> int | Path:
        """Where it is spoken to in clear."""
        return self.ends[Door.CLEAR]

    def excuse(self, way: Way) -> str | None:
        """Why it cannot be talked to in this way, or ``None``."""
        reasons = [self.cannot[part] for part in (way.door, way.mechanism) if part is not None and part in self.cannot]
        if way.door not in self.ends:
            reasons.append("it is asked over TCP only")
        return reasons[0] if reasons else None

    @property
    def in_clear(self) -> dict[str, Any]:
        """The options of a session in clear."""
        return {"tls": TlsPolicy.NEVER, "protocol": self.protocol}

    @property
    def offers(self) -> set[str]:
        """What it offers in clear, of what is known here."""
        return OFFERS[self.name] - self.withheld


@dataclass(frozen=True)
class Certificate:
    """For ``localhost``, in PEM; RSA, which the oldest server takes."""

    chain: bytes
    key: bytes

    @classmethod
    def issue(cls, authority: trustme.CA) -> Certificate:
        issued = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
        return cls(b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes())

    @property
    def both(self) -> bytes:
        """The key, then the chain, for servers that want one file."""
        return self.key + self.chain


_HEADLESS = Rule(
    "The first line is no header field: an empty line is put above it, below the trace fields.", re.compile(rb"\A\n")
)
_BODILESS = Rule("The header is all there is: the empty line that ends a header is put below it.", re.compile(rb"\n\Z"))
_DATELESS = Rule(
    "There is neither Date nor Message-ID: both are put at the end of the header.",
    re.compile(rb"^Date: [^\n]*\nMessage-ID: [^\n]*\n", re.MULTILINE | re.IGNORECASE),
)
_POSTFIX_RULES = {"demo: only a dot": _HEADLESS}
_EXIM_RULES = {
    "header only": _BODILESS,
    "header only, no final line end": _BODILESS,
    "demo: empty": _BODILESS,
    "demo: only a dot": _HEADLESS,
}
_OPENSMTPD_RULES = {
    "header only, no final line end": _DATELESS,
    "no header": _DATELESS,
    "demo: empty": _DATELESS,
    "demo: only line ends": _DATELESS,
    "demo: only a dot": Rule("The first line is no header field: not RFC 2822 compliant.", refusal=(550, "5.7.1")),
}


_SCRAM: tuple[type[Mechanism], ...] = (ScramSha1, ScramSha256)


def _only_plain_and_login(server: str) -> dict[Door | type[Mechanism], str]:
    return dict.fromkeys((CramMd5, *_SCRAM), f"{server} knows AUTH PLAIN and LOGIN only")


# --- the servers ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_postfix(certificate: Certificate, folder: Path, withheld: frozenset[str] = frozenset()) -> Iterator[Peer]:
    chain = folder / "chain.pem"
    chain.write_bytes(certificate.both)
    with contextlib.ExitStack() as servers:
        no_dovecot = unpacked_missing("dovecot")
        sasl = {}
        if no_dovecot is None:
            dovecot = servers.enter_context(Dovecot())
            sasl = {
                "smtpd_tls_security_level": "encrypt",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": str(dovecot.socket),
                "smtpd_relay_restrictions": "permit_sasl_authenticated,reject",
            }
        settings = {
            "smtpd_tls_chain_files": str(chain),
            "smtpd_tls_received_header": "yes",
            "virtual_alias_maps": f"inline:{{ {{ {BROKEN}@{DOMAIN} = no-longer-there@{DOMAIN} }} }}",
            "smtpd_discard_ehlo_keywords": ", ".join(sorted(withheld)),
        }
        listeners: tuple[dict[str, str], ...] = ({}, {"smtpd_tls_security_level": "may"}, sasl)
        mailboxes = (*MAILBOXES, UTF8_MAILBOX)
        server = servers.enter_context(Postfix(settings, mailboxes=mailboxes, domains=DOMAINS, listeners=listeners))
        yield Peer(
            "Postfix",
            version_of_postfix(),
            dict(zip(_TCP, server.ports, strict=True)),
            Maildirs(server.maildirs).mails,
            rules=_POSTFIX_RULES,
            cannot={} if no_dovecot is None else {Door.AUTH: no_dovecot},
            withheld=withheld,
        )


@contextlib.contextmanager
def start_exim(certificate: Certificate, folder: Path, withheld: frozenset[str] = frozenset()) -> Iterator[Peer]:
    why = unpacked_missing("dovecot")
    if why is None and not exim_asks_dovecot():
        why = "Exim knows SCRAM by asking Dovecot; exim4-daemon-light was built without that"
    with contextlib.ExitStack() as servers:
        socket = servers.enter_context(Dovecot()).socket if why is None else None
        settings = {"dsn_advertise_hosts": "*", "accept_8bitmime": "false" if "8BITMIME" in withheld else "true"}
        mailboxes = (*MAILBOXES, UTF8_MAILBOX)
        server = servers.enter_context(Exim(certificate.both, mailboxes=mailboxes, settings=settings, dovecot=socket))
        yield Peer(
            "Exim",
            server.version,
            {Door.CLEAR: server.clear, Door.STARTTLS: server.starttls, Door.AUTH: server.auth},
            Maildirs(server.maildirs).mails,
            rules=_EXIM_RULES,
            cannot={} if why is None else dict.fromkeys(_SCRAM, why),
            withheld=withheld,
        )


@contextlib.contextmanager
def start_opensmtpd(certificate: Certificate, folder: Path) -> Iterator[Peer]:
    with OpenSmtpd(certificate.chain, certificate.key, mailboxes=MAILBOXES) as server:
        ports = {Door.CLEAR: server.clear, Door.STARTTLS: server.starttls, Door.AUTH: server.auth}
        broken = handshake_failure(server.starttls)
        cannot = _only_plain_and_login("OpenSMTPD")
        if broken is not None:
            why = f"its TLS handshake fails: {broken} (6.8 with OpenSSL 3, OpenSMTPD issue 1171)"
            cannot |= {Door.STARTTLS: why, Door.AUTH: f"{why}, and it offers AUTH under TLS only"}
        mails = Maildirs(server.maildirs).mails
        yield Peer("OpenSMTPD", server.version, ports, mails, rules=_OPENSMTPD_RULES, cannot=cannot)


class _Handler:
    """Keeps mail in memory."""

    def __init__(self, withheld: frozenset[str]) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self._withheld = withheld

    async def handle_EHLO(  # noqa: N802  # aiosmtpd calls it by this name
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [line for line in responses if line[4:].partition(" ")[0] not in self._withheld]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd calls it by this name
        self.taken.append((envelope.mail_from.strip("<>"), envelope.content))
        return "250 2.0.0 taken"

    def mails(self, sender: str) -> list[tuple[bytes, bytes]]:
        return [(b"", content) for return_path, content in self.taken if return_path == sender]


def _authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=known, handled=known)


@contextlib.contextmanager
def start_aiosmtpd(certificate: Certificate, folder: Path, withheld: frozenset[str] = frozenset()) -> Iterator[Peer]:
    chain = folder / "chain.pem"
    chain.write_bytes(certificate.both)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    handler = _Handler(withheld)
    ports = dict(zip(_TCP, free_ports(len(_TCP)), strict=True))
    kinds: dict[Door, dict[str, Any]] = {
        Door.CLEAR: {},
        Door.STARTTLS: {"tls_context": context},
        Door.AUTH: {"tls_context": context, "auth_required": True, "authenticator": _authenticate},
    }
    with contextlib.ExitStack() as running:
        for door, port in ports.items():
            controller = Controller(handler, hostname=HOST, port=port, server_hostname="mx", **kinds[door])
            controller.start()
            running.callback(controller.stop)
        yield Peer(
            "aiosmtpd",
            version("aiosmtpd"),
            ports,
            handler.mails,
            line_end=b"\r\n",
            cannot=_only_plain_and_login("aiosmtpd"),
            withheld=withheld,
        )


class _Dumps:
    """The mails that `smtp-sink` has written to files, by reverse-path."""

    _HEAD = re.compile(
        rb"(?:X-(?:Client-\w+|Helo-Args): [^\n]*\n)+X-Mail-Args: <([^>\n]*)>[^\n]*\n(?:X-Rcpt-Args: [^\n]*\n)+"
        rb"(Received: [^\n]*\n(?:[ \t][^\n]*\n)*)"
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._senders: dict[Path, bytes] = {}

    def mails(self, sender: str) -> list[tuple[bytes, bytes]]:
        found = []
        for path in self._folder.iterdir():
            if self._senders.get(path, sender.encode()) != sender.encode():
                continue
            octets = path.read_bytes()
            head = self._HEAD.match(octets)
            if head is None:
                continue
            self._senders[path] = head[1]
            if head[1] == sender.encode():
                # A dump ends with an empty line of its own.
                assert octets.endswith(b"\n")
                found.append((head[2], octets[head.end() : -1]))
        return found


@contextlib.contextmanager
def start_sink(certificate: Certificate, folder: Path, withheld: frozenset[str] = frozenset()) -> Iterator[Peer]:
    no = "smtp-sink knows no TLS"
    # It writes as `nobody`, who gets into the folders of no test.
    with tempfile.TemporaryDirectory(prefix="smtpcore-sink-") as dumps:
        Path(dumps).chmod(0o777)
        options = ["-8"] * ("8BITMIME" in withheld)
        with Sink(options=[*options, "-d", f"{dumps}/mail."]) as server:
            yield Peer(
                "smtp-sink",
                version_of_postfix(),
                {Door.CLEAR: server.port},
                _Dumps(Path(dumps)).mails,
                cannot={Door.STARTTLS: no, Door.AUTH: no},
                withheld=withheld,
            )


@contextlib.contextmanager
def start_dovecot(certificate: Certificate, folder: Path) -> Iterator[Peer]:
    with DovecotLmtp(certificate.both, mailboxes=MAILBOXES) as server:
        yield Peer(
            "Dovecot (LMTP)",
            server.version,
            {Door.CLEAR: server.port, Door.STARTTLS: server.port, Door.UNIX: server.socket},
            Maildirs(server.maildirs).mails,
            cannot={Door.AUTH: "its LMTP server offers no AUTH"},
            protocol=Protocol.LMTP,
        )


def version_of_postfix() -> str:
    path = program("postconf")
    if path is None:
        return "?"
    command = [path, "-h", "mail_version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def handshake_failure(port: int) -> str | None:
    """Why TLS does not come about after STARTTLS on ``port``, asked with the standard library, or ``None``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.closing(smtplib.SMTP(HOST, port)) as session:
        session.ehlo("localhost")
        try:
            session.starttls(context=context)
        except ssl.SSLError as error:
            return error.reason
    return None


#: What starts each server, and what says what is missing for it.
Start = Callable[[Certificate, Path], contextlib.AbstractContextManager[Peer]]
SERVERS: dict[str, tuple[Start, Callable[[], str | None]]] = {
    "Postfix": (start_postfix, postfix_missing),
    "Exim": (start_exim, lambda: unpacked_missing("exim")),
    "OpenSMTPD": (start_opensmtpd, lambda: unpacked_missing("opensmtpd")),
    "aiosmtpd": (start_aiosmtpd, lambda: None),
    "smtp-sink": (start_sink, sink_missing),
    "Dovecot (LMTP)": (start_dovecot, lambda: unpacked_missing("dovecot")),
}
#: Servers that offer no 8BITMIME when they are told so; the others always do.
_NO_8BITMIME = frozenset({"8BITMIME"})
SEVEN_BIT_SERVERS: dict[str, tuple[Start, Callable[[], str | None]]] = {
    "Postfix": (functools.partial(start_postfix, withheld=_NO_8BITMIME), postfix_missing),
    "Exim": (functools.partial(start_exim, withheld=_NO_8BITMIME), lambda: unpacked_missing("exim")),
    "aiosmtpd": (functools.partial(start_aiosmtpd, withheld=_NO_8BITMIME), lambda: None),
    "smtp-sink": (functools.partial(start_sink, withheld=_NO_8BITMIME), sink_missing),
}
