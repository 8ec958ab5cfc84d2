"""Every awkward message to every server, by every driver, each way, compared octet by octet with what arrived.

What lives here: the matrix. What does not: the servers and their rules (:mod:`peers`), the messages (:mod:`corpus`),
and what single servers do beside taking mail.
"""

from __future__ import annotations

import functools
import io
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from smtpcore import Envelope, Report, Verdict

from .conftest import Driver
from .corpus import MESSAGES, canonical, in_pieces
from .peers import Door, Peer, Way
from .postfix import DOMAIN, wait_until
from .results import Results

pytestmark = pytest.mark.interop

#: In which forms a message is handed in, so that each driver goes all of its ways.
_FORMS: tuple[Callable[[bytes], Any], ...] = (lambda octets: octets, io.BytesIO, in_pieces)


@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.name.lower().replace("_", "-"))
def test_every_message_arrives(
    peer: Peer, driver: Driver, way: Way, trusting: ssl.SSLContext, results: Results
) -> None:
    excuse = peer.excuse(way)
    if excuse is not None:
        results.left_out[f"{peer.name}: {way.words}"] = excuse
        pytest.skip(excuse)
    messages = messages_for(way)
    senders = {shape: f"m{n}.{driver.name}.{way.name}@elsewhere.example" for n, shape in enumerate(messages)}
    form = _FORMS[list(Way).index(way) % len(_FORMS)]
    pairs = [(Envelope(senders[shape], (f"alice@{DOMAIN}",)), form(octets)) for shape, octets in messages.items()]
    reports: list[Report] = []
    dialogue: list[str] = []

    async def story(session: Any) -> bool:
        assert (session.tls is None) == (way.door in {Door.CLEAR, Door.UNIX})
        if way.across:
            reports.extend([report async for report in session.send_many(pairs)])
        else:
            for pair in pairs:
                reports.append(await session.deliver(*pair))
        return "PIPELINING" in session.capabilities

    options = {"protocol": peer.protocol, "trace": dialogue.append, **way.options(trusting)}
    pipelining = driver.run(story, peer.ends[way.door], **options)
    assert _said_ahead(dialogue) == (way.across and pipelining)
    chunked = any(line.startswith(">>> BDAT") for line in dialogue)
    assert chunked == ("CHUNKING" in peer.offers and not way.words.endswith("DATA"))
    outcomes = {shape: report.outcomes[0] for shape, report in zip(messages, reports, strict=True)}
    refused = {
        shape: (outcome.code, outcome.enhanced)
        for shape, outcome in outcomes.items()
        if outcome.verdict is not Verdict.DELIVERED
    }
    rules = {shape: rule for shape, rule in peer.rules.items() if shape in messages}
    assert refused == {shape: rule.refusal for shape, rule in rules.items() if rule.refusal}
    accepted = {shape: sender for shape, sender in senders.items() if shape not in refused}
    for shape, sender in accepted.items():
        wait_until(functools.partial(peer.mails, sender), f"{shape!r} at {peer.name}")
    wrong = {shape: found for shape, sender in accepted.items() if (found := _difference(peer, shape, sender))}
    assert not wrong

    exact = f"{len(messages) - len(rules)} exact"
    exact += f", {len(rules)} by the server's rules" if rules else ""
    results.matrix[peer.title][way.words, "BDAT" if chunked else "DATA"][driver.name] = exact
    if peer.rules:
        results.rules[peer.name] = {
            shape: f"Refused ({rule.refusal[0]}): {rule.why}" if rule.refusal else f"Added to: {rule.why}"
            for shape, rule in peer.rules.items()
        }


def messages_for(way: Way) -> dict[str, bytes]:
    """All messages; but AUTH is over before the first one, so that the ways with it share them among themselves."""
    sharing = [way for way in Way if way.mechanism is not None]
    if way not in sharing:
        return MESSAGES
    return {shape: MESSAGES[shape] for shape in list(MESSAGES)[sharing.index(way) :: len(sharing)]}


def _said_ahead(dialogue: list[str]) -> bool:
    """Whether a mail was begun before the verdict on the last one had come."""
    commands = [line for line in dialogue if line != ">>> RSET" and not line.startswith(">>> (")]
    ended = [line == ">>> ." or line.endswith(" LAST") for line in commands]
    return any(end and then.startswith(">>> MAIL") for end, then in zip(ended, commands[1:], strict=False))


def _difference(peer: Peer, shape: str, sender: str) -> str | None:
    """Where what arrived is not what should have, or ``None``."""
    expected = canonical(MESSAGES[shape]).replace(b"\r\n", peer.line_end)
    mails = [mail for _, mail in peer.mails(sender)]
    if len(mails) != 1:
        return f"{len(mails)} copies"
    (mail,) = mails
    if shape in peer.rules:
        added = peer.rules[shape].added
        assert added is not None
        mail, times = added.subn(b"", mail)
        if times != 1:
            return f"{peer.rules[shape].why} But that was seen {times} times."
    if mail == expected:
        return None
    at = next((n for n, (ours, theirs) in enumerate(zip(expected, mail, strict=False)) if ours != theirs), None)
    at = min(len(expected), len(mail)) if at is None else at
    window = slice(max(0, at - 20), at + 40)
    return f"{len(expected)} octets became {len(mail)}; at {at}: {expected[window]!r} became {mail[window]!r}"
