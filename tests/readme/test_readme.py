"""Every example of the README and of the docs is run as a reader would run it, against a real server.

What lives here: finding the examples, and running each in a process of its own. What does not: the examples.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Session
from aiosmtpd.smtp import Envelope as SmtpEnvelope

from ..core.ntlm_server import ntlm_challenge
from ..drivers.peers import Line, Peer, authority, client_certificate, server_context
from ..drivers.proxies import Proxy

ROOT = Path(__file__).parents[2]
PAGES = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]}
README = PAGES[ROOT / "README.md"]
WALK = ROOT / "docs" / "custom-driver.md"
SERVICE = PAGES[ROOT / "docs" / "howto" / "service.md"]
QUEUE = PAGES[ROOT / "docs" / "howto" / "queue.md"]
FOUND = re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)
EXAMPLES = dict(FOUND)

#: What each example must print, as a pattern.
PRINTS = {
    "tutorial_first": r"250 2\.0\.0 Taken\n",
    "tutorial_outcomes": r"boris@\S+ DELIVERED 250 2\.0\.0 Taken\nnobody@\S+ NEVER 550 5\.1\.1 There is nobody of ",
    "tutorial_errors": r"refused: nobody@north\.example never: 550 5\.1\.1 .*\nConnectFailed retryable: True\n",
    "tutorial_session": r"boris@.* delivered: 250.*\nchen@.* delivered: 250.*\ndora@.* delivered: 250",
    "tutorial_relay": r"on disk as 1\nboris@north\.example delivered\n",
    "blocking_session": r"(250 2\.0\.0 Taken\n){3}",
    "lines": r"boris@north\.example delivered\n",
    "conversion": r"250 2\.0\.0 Taken\n",
    "bulk": r"(boris@north\.example delivered\n){3}",
    "background": r"safe on disk as 1\nboris@north\.example delivered 250 2\.0\.0 Taken\n",
    "scripted": r"one dialogue of 6 commands\n",
    "fuzzing": r"no answer confused it\n",
    "peer": r"boris@north\.example later True the peer closed the connection\n",
    "blocking": r"boris@north\.example delivered 250 .*\nchen@south\.example delivered 250 ",
    "addresses": r"bounces@home\.example \('\"front desk\"@north\.example',\) 250 ",
    "asyncio": r"(250 2\.0\.0 Taken\n){3}",
    "trio": r"nobody@north\.example never 5\.1\.1 550 5\.1\.1 There is nobody of that name here",
    "across": r"(\('boris@north\.example',\) delivered\n){3}",
    "another": r"boris@north\.example delivered: 250 .*\n.* does not offer XCLIENT with NAME ADDR\n",
    "command": r"250 OK\nFalse 500\n",
    "tls": r"does not offer STARTTLS\n.*credentials are never said without TLS",
    "options": r"boris@north\.example delivered: 250 .*\nboris@north\.example never: .* does not offer REQUIRETLS",
    "proxy": r"250 2\.0\.0 Taken",
    "tunnel": r"250 2\.0\.0 Taken",
    "token": r"refused: {'status': 'invalid_token'}\nauthenticated: True",
    "ntlm": r"authenticated: True",
    "mailboxes": r"boris@north\.example delivered: 250 2\.1\.5 .*\nchen@north\.example later: 452 4\.2\.2 ",
    "certificate": r"TlsInfo\(version='TLSv1\.3', .* verified=True\)",
    "watch": r"boris@north\.example: 65536 of 165\d{3} octets.*mail from <anna@home\.example> sent: 1 delivered; ",
    "embed": r"boris@north\.example.*DELIVERED",
    "canonical": r"boris@north\.example delivered: 250 2\.0\.0 Taken\n",
    "pool": r"250 2\.0\.0 Taken\nuser0@north\.example delivered\nuser1@.*\nuser2@north\.example delivered\n",
    "blocking_pool": r"nobody@north\.example never: 550 5\.1\.1",
    "lmtp": r"Attempted\(.*anna@home\.example.*lmtp\.socket: No such file or directory",
    "wishes": r"(?=.*boris@north\.example delivered )(?=.*nobody@north\.example discarded 550 5\.1\.1 )",
    "world": r"Fate\(.*boris@\[127\.0\.0\.1\].*DELIVERED.*",
    "embedded": r"(?=.*boris@north\.example delivered 250 2\.0\.0 Taken\n)(?=.*nobody@\S+ discarded 550 5\.1\.1 )",
    "threads": r"boris@north\.example delivered 250 2\.0\.0 Taken\n",
    "intake": r"safe on disk as 1\n$",
    "relay": r"safe on disk as 1\nFate\(.*DELIVERED",
}


class Receiver:
    def __init__(self) -> None:
        self.contents: list[bytes] = []

    async def handle_RCPT(  # noqa: N802  # aiosmtpd calls it by this name
        self, server: SMTP, session: Session, envelope: SmtpEnvelope, address: str, rcpt_options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 There is nobody of that name here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: SmtpEnvelope) -> str:  # noqa: N802  # aiosmtpd calls it by this name
        assert isinstance(envelope.content, bytes)
        self.contents.append(envelope.content)
        return "250 2.0.0 Taken"


@pytest.fixture
def server() -> Iterator[tuple[Receiver, int]]:
    receiver = Receiver()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(receiver, hostname="127.0.0.1", port=port)
    controller.start()
    yield receiver, port
    controller.stop()


def demanding(line: Line) -> None:
    """A server that wants to see a certificate."""
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go on")
    assert line.tls(server_context("asks for a certificate"))
    line.serve(greet=False)


def encrypted(line: Line, mechanism: str) -> bytes:
    """A server that wants authentication within TLS; returns the first message of the client."""
    line.serve("STARTTLS", extensions=("STARTTLS",))
    line.say("220 go on")
    assert line.tls(server_context())
    return base64.b64decode(line.serve("AUTH", greet=False, extensions=(f"AUTH {mechanism}",)).split()[-1])


def answer_to(line: Line, challenge: bytes) -> bytes:
    line.say(f"334 {base64.b64encode(challenge).decode()}")
    return base64.b64decode(line.line())


def tired_of_a_token(line: Line) -> None:
    assert b"Bearer old.token\1" in encrypted(line, "OAUTHBEARER")
    assert answer_to(line, b'{"status": "invalid_token"}') == b"\1"
    line.say("535 5.7.8 no")
    assert b"Bearer new.token\1" in base64.b64decode(line.expect("AUTH").split()[-1])
    line.say("235 2.7.0 welcome")
    line.serve(greet=False)


def of_the_house(line: Line) -> None:
    assert encrypted(line, "NTLM").startswith(b"NTLMSSP\0\1")
    proof = answer_to(line, ntlm_challenge())
    assert proof.startswith(b"NTLMSSP\0\3")
    assert "anna".encode("utf-16-le") in proof
    line.say("235 2.7.0 welcome")
    line.serve(greet=False)


def store_of_mailboxes(line: Line) -> None:
    line.say("220 store.example LMTP ready")
    line.serve("DATA", greet=False)
    line.say("354 go on")
    line.message()
    line.say("250 2.1.5 Taken", "452 4.2.2 The mailbox is full")
    line.serve(greet=False)


SERVERS = {"certificate": demanding, "token": tired_of_a_token, "ntlm": of_the_house}


@contextlib.contextmanager
def surroundings(name: str, port: int, folder: Path) -> Iterator[dict[str, int]]:
    """What an example finds: files in its folder, and servers at these ports."""
    if name in {"proxy", "tunnel"}:
        with Proxy(port) as proxy:
            yield {"1080": proxy.port, "3128": proxy.port}
        assert proxy.asked == [("mail.north.example", 25)]
    elif name in SERVERS:
        authority().cert_pem.write_to_path(folder / "authority.pem")
        client_certificate().private_key_and_cert_chain_pem.write_to_path(folder / "anna.pem")
        with Peer(SERVERS[name]) as peer:
            yield {"8026": peer.port}
    elif name == "mailboxes":
        with Peer(store_of_mailboxes, path=str(folder / "lmtp.socket")):
            yield {}
    else:
        yield {"8025": port}


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


#: Examples that send nothing to the receiver.
SEND_NOTHING = {
    "command",
    "trio",
    "tls",
    "tutorial_errors",
    "blocking_pool",
    "intake",
    "lmtp",
    "mailboxes",
    "scripted",
    "fuzzing",
    "peer",
    *SERVERS,
}


def test_every_python_example_is_run() -> None:
    # The page on drivers of one's own is shown in parts; the whole is tested with the conformance suite.
    elsewhere = PAGES[WALK].count("<!-- driver -->") + PAGES[WALK].count("<!-- suite -->")
    assert sum(page.count("```python") for page in PAGES.values()) == len(FOUND) + elsewhere
    assert sorted(name for name, _ in FOUND) == sorted(PRINTS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, server: tuple[Receiver, int], tmp_path: Path) -> None:
    receiver, port = server
    with surroundings(name, port, tmp_path) as ports:
        text = EXAMPLES[name]
        for there, here in ports.items():
            text = text.replace(there, str(here))
        (tmp_path / "example.py").write_text(text, encoding="utf-8")
        printed = run([sys.executable, "-W", "error", "example.py"], tmp_path)
    assert re.search(PRINTS[name], printed, re.DOTALL), printed
    assert bool(receiver.contents) == (name not in SEND_NOTHING)


def test_every_python_example_is_typed(tmp_path: Path) -> None:
    """A reader's own type checker finds nothing to complain of, at its strictest."""
    for name, text in EXAMPLES.items():
        (tmp_path / f"example_{name}.py").write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", *sorted(map(str, tmp_path.glob("*.py")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"no issues found in {len(EXAMPLES)} source files" in checked.stdout


def test_the_suite_is_run_as_the_page_says(tmp_path: Path) -> None:
    shutil.copy(WALK.parent / "examples" / "gevent_driver.py", tmp_path)
    (suite,) = re.findall(r"<!-- suite -->\n```python\n(.*?)```", PAGES[WALK], re.DOTALL)
    (tmp_path / "test_driver.py").write_text(suite, encoding="utf-8")
    printed = run([sys.executable, "-m", "pytest", "-q", "-k", "idle or cancelled", "test_driver.py"], tmp_path)
    assert re.search(r"\b[1-9]\d* passed", printed), printed


def test_the_custom_driver_is_as_short_as_promised() -> None:
    body = EXAMPLES["embed"].partition("def deliver")[2].partition("envelope =")[0]
    assert len(body.strip().splitlines()) < 50


def shell_lines(text: str) -> list[str]:
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("smtpcore ")
    ]


def test_the_shell_examples(server: tuple[Receiver, int], tmp_path: Path) -> None:
    receiver, port = server
    (tmp_path / "message.eml").write_bytes(b"Subject: hi\n\nhi\n")
    lines = shell_lines(README)
    assert len(lines) == 4
    printed = [run(shlex.split(line.replace("8025", str(port))), tmp_path) for line in lines]
    assert ">>> MAIL FROM:<anna@home.example>" in printed[0]
    assert printed[1].strip() == "1"
    assert "<boris@north.example>" in printed[2]
    assert "1 delivered" in printed[3]
    assert receiver.contents == [b"Subject: hi\r\n\r\nhi\r\n"] * 2


def test_the_examples_for_operators(tmp_path: Path) -> None:
    (configuration,) = re.findall(r"```toml\n(.*?)```", SERVICE, re.DOTALL)
    (tmp_path / "relay.toml").write_text(configuration, encoding="utf-8")
    (tmp_path / "partner.password").write_text("correct horse\n")
    (tmp_path / "message.eml").write_bytes(b"Subject: hi\n\nhi\n")
    add = next(line for line in shell_lines(README) if "queue add" in line)
    run(shlex.split(add), tmp_path)
    check, listed, shown, *changed = (run(shlex.split(line), tmp_path) for line in shell_lines(SERVICE + QUEUE))
    assert check == "The configuration is sound.\n"
    assert json.loads(listed)["recipient"] == "boris@north.example"
    assert "    Subject: hi\n" in shown
    assert changed == ["1 held\n", "1 released\n", "no mail in the queue fits\n", "1 removed\n"]
