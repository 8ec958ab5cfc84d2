"""The command line as a shell sees it: exit statuses, what is printed, and what never is.

What lives here: ``smtpcore send``, ``queue`` and ``relay`` against real servers. What does not: how they do it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import trustme

from smtpcore.drivers.cli import run
from smtpcore.drivers.spool import Spool
from smtpcore.testing.peer import Line, Peer

from .servers import Server, raw_server

PASSWORD = "correct horse battery"
DRIVERS = ("blocking", "asyncio", "trio")
SEND = ["send", "--host", "127.0.0.1", "--from", "me@home.example", "--helo", "client.example"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def secure_server(authority: trustme.CA) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server(tls=context, users={"me": PASSWORD}) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def message(tmp_path: Path) -> str:
    path = tmp_path / "message.eml"
    path.write_bytes(b"From: Somebody <somebody@home.example>\nSubject: hi\n\n.hello\n")
    return str(path)


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\nand more\n")
    return str(path)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> list[str]:
    return ["--driver", request.param]


def port_of_nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_all_delivered(server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SEND, *driver, "--port", str(server.port), "--to", "u@a.example", message]) == 0
    assert capsys.readouterr().out == "u@a.example: delivered: 250 2.0.0 taken\n"
    assert server.taken[-1] == (
        "me@home.example",
        ["u@a.example"],
        b"From: Somebody <somebody@home.example>\r\nSubject: hi\r\n\r\n.hello\r\n",
    )


def test_something_refused_for_good_goes_before_something_deferred(
    server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipients = ["--to", "u@a.example", "--to", "nobody@a.example", "--to", f"later-{driver[1]}@a.example"]
    assert run([*SEND, *driver, "--port", str(server.port), *recipients, message]) == 69
    assert capsys.readouterr().out.splitlines() == [
        "u@a.example: delivered: 250 2.0.0 taken",
        "nobody@a.example: never: 550 5.1.1 nobody of that name",
        f"later-{driver[1]}@a.example: later: 450 4.7.1 come back later",
    ]


def test_something_to_be_tried_again(
    server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["--to", "u@a.example", "--to", f"later2-{driver[1]}@a.example"]
    assert run([*SEND, *driver, "--port", str(server.port), *to, message]) == 75
    assert "later: 450" in capsys.readouterr().out


def test_a_host_that_is_not_there(message: str, driver: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SEND, *driver, "--port", str(port_of_nobody()), "--to", "u@a.example", message]) == 75
    assert "cannot connect to 127.0.0.1" in capsys.readouterr().out


def store_of_mailboxes(line: Line) -> None:
    line.say("220 store.example LMTP ready")
    line.expect("LHLO")
    line.say("250-store.example", "250 PIPELINING")
    line.expect("MAIL FROM:")
    line.say("250 ok")
    for _ in range(2):
        line.expect("RCPT TO:")
        line.say("250 ok")
    line.expect("DATA")
    line.say("354 go on")
    line.message()
    line.say("250 2.1.5 anna has it", "552 5.2.2 boris is over quota")
    line.expect("QUIT")
    line.say("221 bye")


@pytest.mark.parametrize("unix", [True, False], ids=["unix socket", "TCP"])
def test_a_store_of_mailboxes(
    tmp_path: Path, message: str, driver: list[str], unix: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "lmtp") if unix else None
    with Peer(store_of_mailboxes, path=path) as peer:
        at = ["--socket", path] if path else ["--host", "127.0.0.1", "--port", str(peer.port)]
        to = ["--from", "me@home.example", "--to", "anna@here.example", "--to", "boris@here.example"]
        assert run(["send", "--lmtp", *at, *to, *driver, message]) == 69
    assert capsys.readouterr().out.splitlines() == [
        "anna@here.example: delivered: 250 2.1.5 anna has it",
        "boris@here.example: never: 552 5.2.2 boris is over quota",
    ]


@pytest.mark.parametrize(("flags", "port"), [([], 25), (["--lmtp"], 24), (["--lmtp", "--port", "2424"], 2424)])
def test_the_port_where_none_is_given(
    message: str, flags: list[str], port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert run(["send", "--host", "mx.example", "--from", "", "--to", "u@a.example", *flags, message]) == 75
    assert f"cannot connect to mx.example:{port}: " in capsys.readouterr().out


def test_a_unix_socket_where_nobody_listens(
    tmp_path: Path, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    socket = str(tmp_path / "nobody")
    assert run(["send", "--socket", socket, "--from", "", "--to", "u@a.example", *driver, message]) == 75
    assert f"cannot connect to {socket}" in capsys.readouterr().out


def test_a_certificate_behind_a_unix_socket(
    tmp_path: Path,
    authority: trustme.CA,
    ca_file: str,
    message: str,
    driver: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.example").configure_cert(context)

    def script(line: Line) -> None:
        line.serve("STARTTLS", extensions=("STARTTLS",))
        line.say("220 go on")
        line.tls(context)
        line.serve(greet=False)

    to = ["--tls", "required", "--ca", ca_file, "--from", "", "--to", "u@a.example", message]
    for host, status, words in (("mx.example", 0, "250 accepted 1"), ("my.example", 78, "certificate")):
        path = str(tmp_path / host)
        with Peer(script, path=path):
            assert run(["send", "--socket", path, "--host", host, *driver, *to]) == status
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "the server is to be named"),
        (["--socket", "x", "--port", "25"], "has no port"),
        (["--socket", "x", "--tls", "required"], "--host says whose"),
        (["--socket", "x", "--tls", "implicit"], "--host says whose"),
        (["--socket", "x", "--user", "me"], "--host says whose"),
    ],
)
def test_a_server_that_is_not_named_well(
    flags: list[str], words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["send", *flags, "--to", "u@a.example", message]) == 64
    assert words in capsys.readouterr().err


def test_a_peer_that_breaks_the_protocol(message: str, driver: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with raw_server(lambda connection: connection.sendall(b"hello, who are you?\r\n")) as port:
        assert run([*SEND, *driver, "--port", str(port), "--to", "u@a.example", message]) == 76
    assert "not a reply line" in capsys.readouterr().out


def test_a_greeting_that_refuses(message: str, driver: list[str]) -> None:
    with raw_server(lambda connection: connection.sendall(b"554 5.3.2 no service\r\n")) as port:
        assert run([*SEND, *driver, "--port", str(port), "--to", "u@a.example", message]) == 75


def test_a_peer_that_says_nothing(message: str, driver: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with raw_server(lambda connection: None) as port:
        arguments = ["--port", str(port), "--timeout-scale", "0.004", "--to", "u@a.example"]
        assert run([*SEND, *driver, *arguments, message]) == 75
    assert "silent beyond the deadline" in capsys.readouterr().out


def test_tls_and_credentials(
    secure_server: Server,
    message: str,
    ca_file: str,
    password_file: str,
    driver: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--ca", ca_file, "--user", "me", "--password-file", password_file]
    to = ["--port", str(secure_server.port), "--to", "u@a.example"]
    assert run([*SEND, *driver, *options, *to, "--trace", message]) == 0
    printed = capsys.readouterr()
    assert ">>> AUTH PLAIN ********" in printed.err
    assert "--- TLS begins" in printed.err
    assert PASSWORD not in printed.out + printed.err
    assert secure_server.encrypted == {True}


def test_credentials_that_are_refused(
    secure_server: Server,
    message: str,
    ca_file: str,
    tmp_path: Path,
    driver: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "wrong").write_text("not the password")
    options = ["--ca", ca_file, "--user", "me", "--password-file", str(tmp_path / "wrong")]
    arguments = ["--port", str(secure_server.port), "--to", "u@a.example", "--trace", "--json"]
    assert run([*SEND, *driver, *options, *arguments, message]) == 78
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["type"] == "AuthDeclined"
    assert "not the password" not in printed.out + printed.err


def test_a_certificate_of_somebody_else(
    secure_server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tls", "required", "--port", str(secure_server.port), "--to", "u@a.example"]
    assert run([*SEND, *driver, *arguments, message]) == 78
    assert "certificate was not accepted" in capsys.readouterr().out


def test_tls_that_cannot_be_had(
    server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tls", "required", "--port", str(server.port), "--to", "u@a.example"]
    assert run([*SEND, *driver, *arguments, message]) == 78
    assert "does not offer STARTTLS" in capsys.readouterr().out


def test_an_address_that_may_not_be_sent(
    server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = server.connections
    arguments = ["--port", str(server.port), "--to", "u@a.example", "--to", "a b@x.example\r\nRSET", message]
    assert run([*SEND, *driver, *arguments]) == 65
    assert "control characters" in capsys.readouterr().err
    assert server.connections == before


def test_a_message_that_the_server_cannot_be_given(message: str, driver: list[str]) -> None:
    # What is refused here is refused before MAIL: a sender that nobody can parse.
    Path(message).write_bytes(b"From: not an address at all\n\nhi\n")
    assert run(["send", "--host", "127.0.0.1", *driver, "--port", "1", "--to", "u@a.example", message]) == 65


def test_a_file_that_is_not_there(driver: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SEND, *driver, "--port", "1", "--to", "u@a.example", str(tmp_path / "none")]) == 66
    assert "No such file" in capsys.readouterr().err
    assert run([*SEND, *driver, "--port", "1", "--to", "u@a.example", str(tmp_path)]) == 66


EIGHT_BIT = b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\xc3\xa9\n"
SIGNED = b"DKIM-Signature: v=1\n" + EIGHT_BIT
LONG = EIGHT_BIT.replace(b"8bit", b"7bit").replace(b"\xc3\xa9", b"x" * 999)


@pytest.mark.parametrize(
    ("flags", "octets", "arrives"),
    [
        ([], EIGHT_BIT, b"=C3=A9"),
        (["--eight-bit", "as-is"], EIGHT_BIT, b"\xc3\xa9"),
        (["--eight-bit", "refuse"], EIGHT_BIT, None),
        ([], SIGNED, None),
        (["--break-signatures"], SIGNED, b"=C3=A9"),
        ([], LONG, b"x" * 999),
        (["--long-lines", "convert"], LONG, b"x=\r\n"),
        (["--long-lines", "refuse"], LONG, None),
    ],
)
def test_what_an_old_server_is_given(
    flags: list[str], octets: bytes, arrives: bytes | None, message: str, driver: list[str]
) -> None:
    Path(message).write_bytes(octets)
    with Peer(lambda line: line.serve(extensions=("PIPELINING",))) as peer:
        arguments = ["--port", str(peer.port), "--to", "u@a.example", "--tls", "never", *flags, message]
        assert run([*SEND, *driver, *arguments]) == (65 if arrives is None else 0)
    bodies = [body for line in peer.lines for body in line.bodies]
    assert arrives is None or arrives in bodies[0]
    assert bool(bodies) == (arrives is not None)


def test_a_failure_that_no_command_names_is_not_taken_for_the_output(
    message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smtpcore.drivers._cli import send

    errors = {
        "smtpcore: Too many open files\n": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        "smtpcore: /run/x: Permission denied\n": PermissionError(errno.EACCES, "Permission denied", "/run/x"),
        # One that no terminal has to do with.
        "smtpcore: Broken pipe\n": BrokenPipeError(errno.EPIPE, "Broken pipe"),
        "smtpcore: OSError\n": OSError(),
    }
    for words, error in errors.items():
        monkeypatch.setattr(send, "deliver", Mock(side_effect=error))
        assert run([*SEND, "--port", "1", "--to", "u@a.example", message]) == 75
        assert capsys.readouterr().err == words


def test_a_message_of_several_authors_needs_a_sender(
    message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(message).write_bytes(b"From: a@x.example, b@x.example\nSubject: hi\n\nhi\n")
    add = ["queue", "add", "--spool", str(tmp_path / "spool"), "--to", "u@a.example"]
    assert run([*add, message]) == 65
    told = capsys.readouterr().err
    assert "From has several addresses, and there is no Sender (RFC 5322 §3.6.2); give the sender (with --from)" in told
    assert run([*add, "--from", "a@x.example", message]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["send"],
        [*SEND, "--to", "u@a.example", "--eight-bit", "maybe", "-"],
        ["send", "--nix"],
        ["nix"],
        [*SEND, "--to", "u@a.example"],
        [*SEND, "--port", "0", "--to", "u@a.example", "-"],
        [*SEND, "--to", "u@a.example", "--tls", "maybe", "-"],
        [*SEND, "--to", "u@a.example", "--user", "me", "-"],
        [*SEND, "--to", "u@a.example", "--tls", "never", "--user", "me", "--password-file", "x", "-"],
        [*SEND, "--to", "u@a.example", "--ca", "x", "-"],
        [*SEND, "--to", "u@a.example", "--timeout-scale", "0", "-"],
        [*SEND, "--to", "u@a.example", "--helo", "not a name", "-"],
        ["send", "--host", "localhost:2525", "--to", "u@a.example", "-"],
        ["send", "--host", "[127.0.0.1]", "--to", "u@a.example", "-"],
        ["relay"],
        ["relay", "--spool", "x", "--smarthost", "host:99999"],
        ["relay", "--spool", "x", "--smarthost", "host:port"],
        ["relay", "--spool", "x", "--smarthost", "no host"],
        ["queue", "list"],
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 64
    printed = capsys.readouterr()
    assert "Error" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("content", ["", "\nsecond line\n"])
def test_a_password_file_without_a_password(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text(content)
    options = ["--user", "me", "--password-file", str(tmp_path / "empty")]
    assert run([*SEND, *options, "--to", "u@a.example", message]) == 66
    options = ["--user", "me", "--password-file", str(tmp_path / "none")]
    assert run([*SEND, *options, "--to", "u@a.example", message]) == 66
    options = ["--tls", "required", "--ca", message]
    assert run([*SEND, *options, "--to", "u@a.example", message]) == 66
    assert "--password-file" in capsys.readouterr().err


def test_json_is_one_object_of_a_fixed_shape(
    server: Server, message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--json", "--port", str(server.port), "--to", "u@a.example", "--to", "nobody@a.example"]
    assert run([*SEND, *driver, *arguments, message]) == 69
    assert json.loads(capsys.readouterr().out) == {
        "outcomes": [
            {
                "recipient": "u@a.example",
                "verdict": "delivered",
                "in_doubt": False,
                "code": 250,
                "enhanced": "2.0.0",
                "text": "2.0.0 taken",
            },
            {
                "recipient": "nobody@a.example",
                "verdict": "never",
                "in_doubt": False,
                "code": 550,
                "enhanced": "5.1.1",
                "text": "5.1.1 nobody of that name",
            },
        ],
        "error": None,
    }
    assert run([*SEND, *driver, "--json", "--port", str(port_of_nobody()), "--to", "u@a.example", message]) == 75
    shown = json.loads(capsys.readouterr().out)
    assert shown["error"]["type"] == "ConnectFailed"
    assert shown["outcomes"][0]["verdict"] == "later"
    assert run([*SEND, *driver, "--json", "--port", "1", "--to", "nowhere", message]) == 65
    shown = json.loads(capsys.readouterr().out)
    assert shown["outcomes"] == []
    assert shown["error"]["type"] == "LocalProtocolError"


def test_standard_input_and_the_sender_of_the_header(
    server: Server, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        buffer = io.BytesIO(Path(message).read_bytes())

    monkeypatch.setattr(sys, "stdin", Input())
    arguments = ["--host", "127.0.0.1", "--port", str(server.port), "--to", "u@a.example", "-"]
    assert run(["send", *arguments]) == 0
    assert server.taken[-1][0] == "somebody@home.example"


def test_what_a_server_says_cannot_play_with_the_terminal(
    message: str, driver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with raw_server(lambda connection: connection.sendall(b"554 \x1b[2J\x1b]0;gotcha\x07 no\r\n")) as port:
        assert run([*SEND, *driver, "--port", str(port), "--trace", "--to", "u@a.example", message]) == 75
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\\x1b[2J" in printed.out
    assert "\\x1b[2J" in printed.err


def test_a_queue_is_filled_shown_and_relayed(
    server: Server, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = str(tmp_path / "spool")
    arguments = ["--from", "me@home.example", "--to", "u@a.example", "--to", "nobody@b.example"]
    assert run(["queue", "add", "--spool", spool, *arguments, message]) == 0
    assert capsys.readouterr().out == "1\n"
    assert run(["queue", "list", "--spool", spool]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(["queue", "list", "--json", "--spool", spool]) == 0
    entry = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (entry["queue_id"], entry["recipient"], entry["attempts"]) == (1, "u@a.example", 0)
    before = len(server.taken)
    assert run(["relay", "--spool", spool, "--smarthost", f"127.0.0.1:{server.port}", "--once"]) == 0
    assert "2 delivered, 1 bounced" in capsys.readouterr().err
    taken = server.taken[before:]
    assert taken[0][2] == b"From: Somebody <somebody@home.example>\r\nSubject: hi\r\n\r\n.hello\r\n"
    assert taken[1][:2] == ("", ["me@home.example"])
    assert run(["queue", "list", "--spool", spool]) == 0
    assert capsys.readouterr().out == ""


def test_queue_errors_have_their_statuses(message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool = str(tmp_path / "spool")
    assert run(["queue", "add", "--spool", spool, "--to", "bad", message]) == 65
    assert run(["queue", "add", "--spool", spool, "--to", "u@a.example", str(tmp_path / "none")]) == 66
    assert run(["queue", "list", "--spool", str(tmp_path / "no spool")]) == 66
    assert run(["queue", "add", "--spool", f"{message}/x", "--to", "u@a.example", message]) == 75
    assert run(["relay", "--spool", f"{message}/x", "--smarthost", "127.0.0.1"]) == 75
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["asyncio", "trio", "threads"])
def test_a_relay_runs_until_it_is_told_to_stop(
    backend: str, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import sys; from smtpcore.drivers.cli import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["relay", "--spool", str(tmp_path), "--smarthost", f"127.0.0.1:{server.port}"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--backend", backend], stderr=subprocess.PIPE, text=True
    ) as relay:
        try:
            lock = tmp_path / "lock"
            while not (lock.exists() and lock.read_text().strip() == str(relay.pid)):
                assert relay.poll() is None
            assert run([*arguments, "--once"]) == 75
            assert f"another relay works on it (process {relay.pid})" in capsys.readouterr().err
            before = len(server.taken)
            with Spool(tmp_path) as spool:
                from smtpcore import Envelope

                spool.add([spool.prepare(Envelope("", ("u@a.example",)), [b"hi\n"])], 1.0)
                while len(spool):
                    assert relay.poll() is None
            assert len(server.taken) == before + 1
            os.kill(relay.pid, signal.SIGTERM)
            assert relay.wait(timeout=30) == 0
            assert relay.stderr is not None
            printed = relay.stderr.read()
            (line,) = [line for line in printed.splitlines() if "logger=smtpcore.relay " in line]
            assert " event=fate queue_id=1 recipient=u@a.example kind=delivered " in line
            assert line.endswith(' words="250 2.0.0 taken"')
            # What the session would say of it again is for those who look for faults.
            assert "logger=smtpcore.drivers.asyncio" not in printed
            assert "1 delivered" in printed
        finally:
            relay.kill()


# --- what is not installed --------------------------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a library one that is not installed, for what is imported from now on."""

    def hide(library: str) -> None:
        for name in list(sys.modules):
            if name.split(".")[0] == library or name.startswith("smtpcore.drivers._cli"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, library, None)

    return hide


def test_without_the_libraries_of_the_command_line_they_are_named(
    without: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    without("click")
    assert run(["queue", "list"]) == 78
    assert capsys.readouterr().err == (
        "smtpcore: click is missing; the command line needs pip install 'smtpcore[cli]'\n"
    )


def test_trio_that_is_not_installed_is_no_driver_and_no_backend(
    without: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without("trio")
    assert run([*SEND, "--to", "u@a.example", "--driver", "trio", "-"]) == 64
    assert "trio is not installed: pip install 'smtpcore[trio]'" in capsys.readouterr().err
    assert run(["relay", "--spool", str(tmp_path / "spool"), "--smarthost", "localhost", "--backend", "trio"]) == 64
    assert "--backend: trio is not installed: pip install 'smtpcore[trio]'" in capsys.readouterr().err
