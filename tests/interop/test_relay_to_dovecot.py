"""The relay with Dovecot's LMTP at the end of its route, in each of its three services: into mailboxes, or back.

What lives here: spool to mailbox over TCP, under TLS and through a unix socket. What does not: LMTP by the wire drivers
(`test_lmtp.py`), and routes with a scripted store (``service``).
"""

from __future__ import annotations

import email
import email.policy
import functools
import itertools
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpcore import Envelope, TlsPolicy
from smtpcore.drivers.spool import Spool
from smtpcore.relay import Fate, FateKind, Lmtp

from .corpus import MESSAGES, canonical
from .dovecot import FULL
from .peers import MAILBOXES, Certificate, Door, Peer, start_dovecot
from .postfix import DOMAIN, wait_until
from .relaying import Relayed
from .results import Results
from .unpacked import unpacked_missing

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("door", [Door.CLEAR, Door.STARTTLS, Door.UNIX], ids=["tcp", "starttls", "unix"]),
]

TO_ALL = tuple(f"{name}@{DOMAIN}" for name in MAILBOXES)
WORDS = {Door.CLEAR: "over TCP", Door.STARTTLS: "over TCP, STARTTLS", Door.UNIX: "at a unix socket"}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def store(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    missing = unpacked_missing("dovecot")
    if missing is not None:
        pytest.skip(missing)
    with start_dovecot(certificate, tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def sender() -> str:
    """A reverse-path that no other test uses."""
    return f"stored-{next(_numbers)}@elsewhere.example"


def route_to(store: Peer, door: Door) -> Lmtp:
    end = store.ends[door]
    return Lmtp(path=str(end)) if isinstance(end, Path) else Lmtp("localhost", end)


def options_for(door: Door, trusting: ssl.SSLContext) -> dict[str, Any]:
    if door is Door.STARTTLS:
        return {"tls": TlsPolicy.REQUIRED, "tls_context": trusting}
    return {"tls": TlsPolicy.NEVER}


def test_every_message_reaches_every_mailbox(
    relayed: Relayed,
    service: str,
    spool: Spool,
    store: Peer,
    door: Door,
    sender: str,
    trusting: ssl.SSLContext,
    results: Results,
) -> None:
    senders = {shape: f"{number}.{sender}" for number, shape in enumerate(MESSAGES)}
    mails = [(Envelope(senders[shape], TO_ALL), octets) for shape, octets in MESSAGES.items()]
    notes = relayed(spool, route_to(store, door), mails, options_for(door, trusting))
    fates = [note for note in notes if isinstance(note, Fate)]
    assert [fate.kind for fate in fates] == [FateKind.DELIVERED] * len(TO_ALL) * len(mails)
    # Each fate has the words that were meant for this recipient.
    assert all(f"<{fate.recipient}>" in fate.words for fate in fates)

    def everywhere(path: str) -> bool:
        return len(store.mails(path)) >= len(TO_ALL)

    for shape, path in senders.items():
        wait_until(functools.partial(everywhere, path), f"{shape!r} in all mailboxes")
        # Where a mail has several recipients it says of none to whom a copy went.
        bodies = [mail for _, mail in store.mails(path)]
        assert bodies == [canonical(MESSAGES[shape]).replace(b"\r\n", store.line_end)] * len(TO_ALL), shape
    what = f"the relay's route, {WORDS[door]}: every message in every mailbox once, octet for octet"
    results.checked("LMTP", store.title, what, service)


def test_each_mailbox_has_its_fate_and_the_sender_his_report(
    relayed: Relayed,
    service: str,
    spool: Spool,
    store: Peer,
    door: Door,
    sender: str,
    trusting: ssl.SSLContext,
    results: Results,
) -> None:
    body = b"Subject: to some\r\nMessage-ID: <%s>\r\n\r\nbody\r\n" % sender.encode()
    envelope = Envelope(f"carol@{DOMAIN}", tuple(f"{name}@{DOMAIN}" for name in ("alice", "nobody", FULL, "bob")))
    notes = relayed(spool, route_to(store, door), [(envelope, body)], options_for(door, trusting))
    fates = {note.recipient.partition("@")[0]: note.kind for note in notes if isinstance(note, Fate)}
    assert fates == {
        **dict.fromkeys(("alice", "bob"), FateKind.DELIVERED),
        **dict.fromkeys(("nobody", FULL), FateKind.BOUNCED),
        # She has the report.
        "carol": FateKind.DELIVERED,
    }

    def reports() -> list[bytes]:
        return [mail for _, mail in store.mails("") if sender.encode() in mail]

    wait_until(reports, "the report in its sender's mailbox")
    failures: dict[str, str] = {}
    for octets in reports():
        report = email.message_from_bytes(octets, policy=email.policy.default)
        status: Any = list(report.iter_parts())[1].get_payload()
        for fields in status[1:]:
            assert fields["Action"] == "failed"
            failures[fields["Final-Recipient"].partition("@")[0]] = fields["Status"]
    assert failures == {"rfc822; nobody": "5.1.1", f"rfc822; {FULL}": "5.2.2"}
    what = f"the relay's route, {WORDS[door]}: a fate for each mailbox; who is unknown or has no room is reported"
    results.checked("LMTP", store.title, what, service)
