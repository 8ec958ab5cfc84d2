"""Thousands of mails over one session, counted by the one who took them: Postfix's `smtp-sink`.

What lives here: that nothing is lost or said twice when a session is long. What does not: how fast it goes, which the
benchmarks measure.
"""

from __future__ import annotations

from typing import Any

import pytest

from smtpcore import Pipelining, Verdict

from .conftest import Driver
from .postfix import Counts, Sink, sink_missing, wait_until

pytestmark = pytest.mark.interop

MESSAGES = 5_000
BODY = b"Subject: one of many\r\n\r\n" + b"A line of no importance at all\r\n" * 30


@pytest.mark.parametrize("pipelining", list(Pipelining), ids=lambda pipelining: pipelining.value)
def test_one_long_session(driver: Driver, pipelining: Pipelining) -> None:
    missing = sink_missing()
    if missing is not None:
        pytest.skip(missing)

    async def story(session: Any) -> int:
        delivered = 0
        for number in range(MESSAGES):
            report = await session.send(BODY, sender="a@elsewhere.example", recipients=f"b{number}@interop.example")
            delivered += [outcome.verdict for outcome in report.outcomes] == [Verdict.DELIVERED]
        return delivered

    with Sink(counting=True) as sink:
        assert driver.run(story, sink.port, pipelining=pipelining) == MESSAGES
        everything = Counts(sessions=1, quits=1, messages=MESSAGES)
        wait_until(lambda: sink.counts() == everything, f"the sink to have counted {everything}")
