"""What the relay services write to the logging of the standard library about every attempt and every fate.

What lives here: the lines, with every service. What does not: how the command line formats records.
"""

from __future__ import annotations

import logging
import re
import socket
from typing import Any

import pytest

from smtpcore.drivers.spool import Spool

from .relays import PATIENCE, Kind
from .servers import Server, raw_server


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "smtpcore.relay")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "smtpcore.relay"]


def relayed(kind: Kind, spool: Spool, port: int, *recipients: str, sender: str = "") -> None:
    with kind.make(spool, port) as relay:
        relay.submit(b"Subject: private\n\nprivate\n", sender=sender, recipients=recipients).fates(PATIENCE)


def test_a_fate_says_all_in_one_line(kind: Kind, server: Server, spool: Spool, log: pytest.LogCaptureFixture) -> None:
    relayed(kind, spool, server.port, "u@a.example")
    (line,) = lines(log)
    assert re.fullmatch(
        r"fate queue_id=1 recipient=u@a\.example kind=delivered next_hop=\S+ "
        rf"host=127\.0\.0\.1:{server.port} session=1 attempt=1 code=250 enhanced=2\.0\.0 delay=\d+\.\d{{3}} "
        r'words="250 2\.0\.0 taken"',
        line,
    ), line


def test_an_attempt_that_settles_nothing_has_a_line_of_its_own(
    kind: Kind, server: Server, spool: Spool, log: pytest.LogCaptureFixture
) -> None:
    relayed(kind, spool, server.port, "later@a.example", "nobody@a.example")
    attempt, refusal, fate = sorted(lines(log), key=lambda line: ("attempt=2" in line, line))
    assert re.match(
        r"attempt queue_id=1 recipient=later@a\.example verdict=later in_doubt=false attempt=1 next_in=0\.\d+ next_",
        attempt,
    ), attempt
    assert re.search(r' code=450 enhanced=4\.7\.1 delay=\S+ words="450 4\.7\.1 come back later"$', attempt), attempt
    assert re.search(r"recipient=nobody@a\.example kind=discarded .* attempt=1 code=550 enhanced=5\.1\.1 ", refusal)
    assert re.search(r"recipient=later@a\.example kind=delivered .* attempt=2 code=250 ", fate), fate


def test_records_have_the_fields_too(kind: Kind, server: Server, spool: Spool, log: pytest.LogCaptureFixture) -> None:
    relayed(kind, spool, server.port, "u@a.example")
    record: Any
    (record,) = [record for record in log.records if record.name == "smtpcore.relay"]
    assert (record.queue_id, record.recipient, record.kind, record.code) == (1, "u@a.example", "delivered", 250)


def test_a_host_that_is_down_is_told_for_each_mail(kind: Kind, spool: Spool, log: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    relay = kind.make(spool, port)
    for number in range(3):
        relay.submit(b"hi\n", sender="", recipients=f"u{number}@a.example")
    relay.run(once=True)
    assert len(lines(log)) == 3
    assert all(re.search(r'verdict=later .* words="cannot connect to 127\.0\.0\.1:', line) for line in lines(log))


def test_a_peer_cannot_forge_a_line(kind: Kind, spool: Spool, log: pytest.LogCaptureFixture) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b'554 5.0.0 no\rfate queue_id=7 "\x1b[2J\x00\r\n')

    with raw_server(talk) as port:
        relay = kind.make(spool, port)
        relay.submit(b"hi\n", sender="", recipients="u@a.example")
        relay.run(once=True)
    (line,) = lines(log)
    assert line.isprintable()
    assert line.count("queue_id=") == 2
    assert line.index('words="') < line.index("queue_id=7")
    assert line.endswith('"')


def test_bodies_and_secrets_are_not_logged(
    kind: Kind, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    relayed(kind, spool, server.port, "u@a.example", "nobody@a.example", sender="me@home.example")
    assert server.taken
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("smtpcore")]
    assert ours
    assert not any("private" in line for line in ours)


def test_nothing_is_written_when_nobody_listens(
    kind: Kind, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "smtpcore.relay")
    relayed(kind, spool, server.port, "u@a.example", "later@a.example")
    assert lines(caplog) == []
