"""The suite passes a driver for another loop, and fails every broken one by the cases that are meant to catch it.

What lives here: the driver of ``docs/custom-driver.md``, its text, broken drivers, and the suite's own words. What does
not: this project's drivers (``tests/drivers/test_conformance.py``).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpcore.testing import conformance, peer
from smtpcore.testing.conformance import CASES, Adapter, Case, Need, Nonconformant, cases_for, run_blocking

from . import blocking_adapter
from .gevent_adapter import DOCS, TEXT, adapter_for

ADAPTER = adapter_for(TEXT)


@pytest.mark.parametrize("case", cases_for(ADAPTER), ids=str)
def test_the_driver_of_the_docs(case: Case) -> None:
    case(ADAPTER)


def test_the_docs_show_the_driver_that_is_tested() -> None:
    walk = (DOCS / "custom-driver.md").read_text(encoding="utf-8")
    parts = re.findall(r"<!-- driver -->\n```python\n(.*?)```", walk, re.DOTALL)
    shown = [line for part in parts for line in part.splitlines() if line]
    assert shown == [line for line in TEXT.splitlines() if line]
    assert len(shown) < 155


# --- broken drivers ------------------------------------------------------------------------------------------------

#: What is broken: (what the text says, what it says instead, the cases that are meant to catch it).
MUTANTS = {
    "its deadline begins again with every octet": (
        "if timeout is not self._timeout:",
        "if True:",
        ["a drip at MAIL"],
    ),
    "it does not read while it writes": (
        "return self.socket.recv(BLOCK)",
        "if not writes:\n                    return self.socket.recv(BLOCK)",
        ["552 in a body in memory, then the peer reads no more"],
    ),
    "it forgets what was said while nobody looked": (
        'self._exchange(b"", 0.0, on_timeout=lambda: None)',
        "pass",
        ["421 while idle", "a stray reply while idle"],
    ),
    "it leaves the connection open when it is cancelled": (
        "            self.close()\n            raise",
        "            raise",
        ["cancelled at DOT", "cancelled while writing a body"],
    ),
    "it reports the first mail again and again": (
        "            self.last_report = event",
        "            self.last_report = self.last_report or event",
        ["many mails in one session"],
    ),
    "it judges no certificate": (
        "tls_context or client_context(verify=True)",
        "client_context(verify=False)",
        ["STARTTLS, wrong host", "TLS before the greeting, expired"],
    ),
    "it loses octets in clear behind STARTTLS": (
        "self._wire.receive_data(received)",
        'self._wire.receive_data(received.partition(b"250-peer")[0] or received)',
        ["plaintext behind the 220 of STARTTLS"],
    ),
    "it reads the whole source before it writes": (
        "        self._body = iter(message)\n",
        "        self._body = iter(list(message))\n",
        ["a body without end to a peer that reads no more"],
    ),
    "it hands over a body in one block": (
        "[message[start : start + BLOCK] for start in range(0, len(message), BLOCK)]",
        "[message]",
        ["a slow reader of a body in memory is waited for"],
    ),
    "it waits for ever when it writes": (
        "self._write_deadline = time.monotonic() + self._write_seconds",
        "self._write_deadline = time.monotonic() + 1000.0",
        ["a peer that reads no more of a body in pieces"],
    ),
    "it takes a source that breaks for the end of the message": (
        "self._client.body_failed(error)",
        'self._client.send_body(b"")',
        ["a source of a body that breaks"],
    ),
    "it takes an empty piece for the end of the message": (
        'next((piece for piece in self._body if piece), b"")',
        'next(self._body, b"")',
        ["a message out of pieces"],
    ),
    "it takes the end of the stream for silence": (
        "self._wire.receive_eof()",
        "self._wire.receive_timeout()",
        [
            "a close at CONNECT",
            "a half-close at DOT",
            "a close at the last chunk",
            "a close at the second verdict of LMTP",
            "a close at a step of AUTH",
        ],
    ),
    "it leaves the connection open after QUIT": (
        "            self._stream.socket.close()",
        "            KEPT.append(self._stream.socket)",
        ["a peer that is silent at QUIT"],
    ),
    "it rests while a chunk is due": (
        "case smtpcore.Idle() if self._flush():",
        "case smtpcore.Idle():",
        ["a chunk of a body in one piece that is refused"],
    ),
    "it rests though a refused chunk is not taken": (
        "case smtpcore.Idle() if self._flush():",
        "case smtpcore.Idle() if self._flush() or True:",
        ["a refused chunk of which the peer reads no more"],
    ),
    "it raises what the socket says": (
        "            self._wire.send_failed(error)",
        "            raise",
        ["a reset at DOT", "a reset in a body behind a refused chunk"],
    ),
    "it gives up where a chunk could be taken back": (
        "self._client.body_failed(error)",
        "self.close()",
        ["a source of a body in chunks that breaks"],
    ),
    "it divides no message into chunks": (
        "nonce=secrets.token_urlsafe, ",
        "nonce=secrets.token_urlsafe, chunking=False, ",
        [
            "a good mail in chunks",
            "many mails in chunks",
            "large bodies in chunks",
            "large bodies in chunks without PIPELINING",
            "large bodies in chunks within TLS",
            "a chunk of a body in memory that is refused",
            "a chunk of a body in pieces that is refused",
        ],
    ),
    "it has no nonces": (
        "nonce=secrets.token_urlsafe, ",
        "",
        ["AUTH with a nonce, which both sides prove"],
    ),
    "it keeps its options to itself": (
        "nonce=secrets.token_urlsafe, **options)",
        "nonce=secrets.token_urlsafe)",
        [
            "verdicts of LMTP that come together",
            "AUTH in two steps",
            "AUTH refused behind its last step",
            "XCLIENT",
            "XCLIENT not offered",
            "XCLIENT refused",
            "421 instead of the greeting behind XCLIENT",
        ],
    ),
    "its second wait for the same thing is the first one": (
        "if timeout is not self._timeout:",
        "if self._timeout is None or timeout.waiting_for is not self._timeout.waiting_for:",
        ["verdicts of LMTP that come one by one"],
    ),
    "it takes a mail on before it looks at its message": (
        "        self._body = iter(message)\n        self._client.send(envelope)\n",
        "        self._client.send(envelope)\n        self._body = iter(message)\n",
        ["a message that cannot be read"],
    ),
    "it waits for ever": (
        "time.monotonic() + timeout.seconds",
        "time.monotonic() + 1000.0",
        [
            "silence at the last chunk",
            "silence at the second verdict of LMTP",
            "silence within AUTH",
            "silence instead of the greeting behind XCLIENT",
        ],
    ),
    "it raises what is no error of a session": (
        "raise session.end.error or",
        "raise LookupError or",
        ["a greeting that is garbage"],
    ),
}
#: The same of the blocking driver, for what the driver of the docs does without.
BLOCKING_MUTANTS = {
    "it sends a file but for its last octet": (
        "self._add_file(event)",
        "self._add_file(replace(event, data=event.data.first(event.data.octets - 1)))",
        ["a canonical file", "a canonical file in chunks"],
    ),
    "it sends files past TLS": (
        "ranges = not body.in_memory and self._client.takes_file_ranges",
        "ranges = not body.in_memory",
        ["a canonical file within TLS"],
    ),
    "it drops what is left of a refused file": (
        "elif isinstance(event, Idle) and (self._gathered or self._stream.unsent):",
        "elif isinstance(event, Idle) and self._gathered.clear():",
        ["a chunk of a canonical file that is refused"],
    ),
    "it does not read while it writes": (
        "self._either.register(sock, select.POLLIN | select.POLLOUT)",
        "self._either.register(sock, select.POLLOUT)",
        ["552 in a canonical file, then the peer reads no more"],
    ),
    "it waits for ever when it writes": (
        "self._write_deadline = self._stream.now() + self._write_seconds",
        "self._write_deadline = self._stream.now() + 1000.0",
        ["a peer that reads no more of a canonical file"],
    ),
    "it sends what it converted as it was": (
        "self._bodies[need.mail] = body\n",
        "pass\n",
        [
            "a message in memory is converted",
            "a message in pieces is converted",
            "a message that can be read only once is converted",
            "a message of which all is known is converted",
            "a message that fits and can be read only once arrives whole",
            "long lines are converted",
        ],
    ),
    "it says that everything has seven bits": (
        "self._client.body_facts(facts)",
        "self._client.body_facts(BodyFacts(eight_bit=False, long_lines=False))",
        [
            "a message in memory is converted",
            "long lines are converted",
            "octets above 127 are refused where they are to be",
            "a message that is signed is not converted",
        ],
    ),
    "it says that nothing has seven bits": (
        "self._client.body_facts(facts)",
        "self._client.body_facts(BodyFacts(eight_bit=True, long_lines=True))",
        ["messages that fit are not converted"],
    ),
    "it says that everything is to be converted": (
        "body, facts = fit_body(need, ",
        "body, facts = fit_body(NeedConversion(need.mail, BodyForm()), ",
        ["a message is not converted for a peer that takes it"],
    ),
    "it reads what it converted only once": (
        "self._client.body_facts(facts)",
        "self._client.body_facts(replace(facts, repeatable=False))",
        ["a converted message is read again for the recipients that were put off"],
    ),
    "it gives the session up for a message that it cannot convert": (
        "                self._client.body_failed(error)\n        if self._end is None:\n            # So",
        "                self._client.abort()\n        if self._end is None:\n            # So",
        [
            "a message that is signed is not converted",
            "a source breaks while it is looked at",
            "a source breaks while it is converted",
        ],
    ),
    "it does not hear what came while it read": (
        "is heard before MAIL is said.\n            self._hear_what_came()",
        "is not heard.\n            pass",
        ["421 and a close while a message is looked at"],
    ),
    "it waits for every verdict": (
        "return _connect(Way(host, port), options)",
        "return _connect(Way(host, port), {**options, 'pipelining': Pipelining.WITHIN})",
        [
            "a mail is begun before the verdict on the last one",
            "a peer that loses step across mails",
            "a close at the mail behind a message",
        ],
    ),
    "it reports the first of many mails again and again": (
        "                    yield event\n",
        "                    self.__dict__.setdefault('first', event)\n                    yield self.first\n",
        ["many mails across"],
    ),
    "it returns nothing where a command was not answered": (
        "if answer.reply is None:",
        "if False:",
        ["421 at a command", "a close at a command", "silence at a command"],
    ),
    "it returns good replies only": (
        "        return answer.reply\n",
        "        return answer.reply if answer.reply.positive else None\n",
        ["commands between mails"],
    ),
}
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers give a broken driver up sooner."""
    monkeypatch.setattr(peer, "PATIENCE", 1.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_driver_fails(name: str) -> None:
    before, after, caught_by = MUTANTS[name]
    assert TEXT.count(before) == 1
    kept: list[Any] = []
    adapter = adapter_for(TEXT.replace(before, after), KEPT=kept)
    for case in caught_by:
        with pytest.raises(Nonconformant, match=re.escape(case)):
            BY_NAME[case](adapter)
    for sock in kept:
        sock.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", BLOCKING_MUTANTS)
def test_a_broken_blocking_driver_fails(name: str) -> None:
    before, after, caught_by = BLOCKING_MUTANTS[name]
    assert blocking_adapter.TEXT.count(before) == 1
    adapter = blocking_adapter.adapter_for(blocking_adapter.TEXT.replace(before, after))
    for case in caught_by:
        with pytest.raises(Nonconformant, match=re.escape(case)):
            BY_NAME[case](adapter)
    BY_NAME["a good mail"](adapter)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", [name for name in MUTANTS if "open after QUIT" not in name])
def test_a_broken_driver_fails_nothing_else(name: str) -> None:
    before, after, _ = MUTANTS[name]
    adapter = adapter_for(TEXT.replace(before, after))
    for case in ("a good mail", "421 and a close at MAIL", "STARTTLS"):
        BY_NAME[case](adapter)


# --- the suite's own words -----------------------------------------------------------------------------------------


def test_what_a_failure_says() -> None:
    adapter = adapter_for(TEXT.replace("            self.last_report = event", "            pass"))
    with pytest.raises(Nonconformant) as caught:
        BY_NAME["a good mail"](adapter)
    assert str(caught.value).startswith("a good mail: AttributeError: ")
    assert "expected:\n    open\n    sent BODY_ENDED\n" in str(caught.value)
    assert str(caught.value).endswith("got:\n    open")


@pytest.mark.parametrize("options", [[], ["-O"]])
def test_what_the_peer_heard_is_judged_also_where_python_leaves_out_assertions(options: list[str]) -> None:
    program = """
from types import SimpleNamespace
from smtpcore.testing.conformance import CASES
half = SimpleNamespace(bodies=[], heard=b"Hello.\\r\\n.\\r\\nQUIT", saw_close=False)
for name in ("a good mail", "a source of a body that breaks", "cancelled at DOT"):
    (case,) = (case for case in CASES if case.name == name)
    try:
        case.check(SimpleNamespace(lines=[half]))
    except AssertionError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        "the peer read other octets: [] of them",
        "QUIT after half a message",
        "the connection was left open",
    ]


def test_the_suite_demands_and_asserts_nothing() -> None:
    rooms = Path(conformance.__file__).parent.glob("*.py")
    nodes = {room.name: ast.walk(ast.parse(room.read_text(encoding="utf-8"))) for room in rooms}
    assert len(nodes) > 10
    assert [name for name, found in nodes.items() if any(isinstance(node, ast.Assert) for node in found)] == []


def test_an_async_driver_needs_something_to_run_it() -> None:
    class Nothing:
        def __await__(self) -> Iterator[None]:
            yield

    with pytest.raises(Nonconformant, match="give the adapter a function that runs coroutines"):
        BY_NAME["a good mail"](Adapter(connect=lambda *_, **__: Nothing()))


def test_what_a_driver_cannot_do_is_left_out() -> None:
    plain = Adapter(connect=lambda: None, tls=False, chunking=False)
    needs = {need for case in CASES if case not in cases_for(plain) for need in case.needs}
    assert needs == set(Need)
    assert all(not case.needs for case in cases_for(plain))
    assert len({str(case) for case in CASES}) == len(CASES)
    assert run_blocking is plain.run
