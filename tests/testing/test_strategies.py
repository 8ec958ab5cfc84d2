"""The strategies give what they promise: legal replies are read, illegal ones refused, adversaries change no law.

What lives here: :mod:`smtpcore.testing.strategies`, judged by the core. What does not: the core's own property tests.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from smtpcore import Client, Disconnect, Envelope, RemoteProtocolError, Reply
from smtpcore.testing import PureDriver
from smtpcore.testing.strategies import (
    adversarial_octets,
    divided,
    illegal_replies,
    legal_replies,
    reply_codes,
    reply_texts,
)

ENVELOPE = Envelope("a@a.example", ("b@b.example", "c@b.example"))


def a_client() -> PureDriver:
    driver = PureDriver(Client("client.example"), [(ENVELOPE, b"hello")])
    driver.run()
    return driver


def words_of(driver: PureDriver) -> list[str]:
    return [str(outcome) for report in driver.reports for outcome in report.outcomes]


@given(legal_replies(st.just(554), lines=9), st.data())
def test_a_legal_reply_is_read_however_it_is_divided(reply: bytes, data: st.DataObject) -> None:
    whole, parts = a_client(), a_client()
    whole.hear(reply)
    for piece in data.draw(divided(reply)):
        parts.hear(piece)
    (first, _) = (driver.client.transcript.entries[0] for driver in (whole, parts))
    assert str(whole.client.transcript) == str(parts.client.transcript)
    assert isinstance(first[1], Reply)
    assert first[1].code == 554


@given(legal_replies())
def test_a_legal_reply_breaks_no_rule_of_form(reply: bytes) -> None:
    driver = a_client()
    driver.hear(reply)
    error = driver.last.error if isinstance(driver.last, Disconnect) else None
    assert not isinstance(error, RemoteProtocolError) or "is no answer to" in str(error)


@given(illegal_replies())
def test_an_illegal_reply_is_refused(reply: bytes) -> None:
    driver = a_client()
    driver.hear(reply)
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, RemoteProtocolError)


@given(divided(adversarial_octets(5)))
def test_an_adversary_changes_no_law(pieces: list[bytes]) -> None:
    driver = a_client()
    for piece in pieces:
        driver.hear(piece)
    driver.client.abort()
    driver.run()
    assert [report.mail for report in driver.reports] == driver.mails
    for report in driver.reports:
        assert [outcome.recipient for outcome in report.outcomes] == list(report.mail.envelope.recipients)


@given(divided(st.binary(max_size=50), pieces=4))
def test_a_division_is_of_pieces_that_are_something(pieces: list[bytes]) -> None:
    assert all(pieces)
    assert len(pieces) <= 4


@given(st.data(), st.binary(min_size=1))
def test_a_division_loses_nothing(data: st.DataObject, octets: bytes) -> None:
    assert b"".join(data.draw(divided(octets))) == octets


@given(reply_codes([5, 4]))
def test_codes_begin_as_asked(code: int) -> None:
    assert code // 100 in {4, 5}


@given(reply_texts(40))
def test_texts_are_of_one_line(text: str) -> None:
    assert len(text.encode()) <= 40
    assert not re.search(r"[\r\n\0]", text)


@pytest.mark.parametrize(
    "wanted",
    [rb"\d\d\d\r\n", rb"(\d\d\d)-.*\r\n\1", rb".*[\x80-\xff]", rb"(?!250|5|4)\d\d\d", rb"\d\d\d [245]\.\d\.\d"],
)
def test_legal_replies_are_of_every_kind(wanted: bytes) -> None:
    assert find(legal_replies(), lambda reply: re.match(wanted, reply) is not None)


def test_nothing_of_it_is_loaded_by_others() -> None:
    program = """
import sys
import smtpcore
assert not any(name.startswith("smtpcore.testing") for name in sys.modules)
import smtpcore.testing
import smtpcore.testing.memory
assert not {"hypothesis", "trustme", "socket", "ssl", "asyncio", "threading"} & set(sys.modules), sys.modules.keys()
import smtpcore.testing.conformance
assert "hypothesis" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
