"""The drivers of this project pass the suite that everybody's drivers pass.

What lives here: the play, the words that these drivers have for what the suite leaves to each, and that nothing is left
open after it. What does not: the cases, which are public (:mod:`smtpcore.testing.conformance`), and what is peculiar to
these drivers (the table of scenarios).
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from smtpcore import ConnectionLost, SessionError, TlsFailed
from smtpcore.testing.conformance import CASES, Case, Need, Nonconformant, cases_for

from .adapters import adapter_for
from .scenarios import DRIVERS, Driver, call


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """What was there before the plays need not be searched after each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


NOT_ACCEPTED = "the TLS handshake failed: the certificate was not accepted: "
NOT_TLS = "the TLS handshake failed: the peer does not speak TLS here (WRONG_VERSION_NUMBER)"
LATE = "the TLS handshake was not done within its deadline"
RESET = "[Errno 104] Connection reset by peer"

#: Cases, and what the errors of lost connections and failed handshakes say there.
WORDS = {
    "a (half-)?close (at .*|while idle)": "the peer closed the connection",
    "a reset (at .*|in a body .*|while idle)": RESET,
    ".*, unknown issuer": f"{NOT_ACCEPTED}unable to get local issuer certificate",
    ".*, wrong host": f"{NOT_ACCEPTED}Hostname mismatch, certificate is not valid for 'localhost'.",
    ".*, expired": f"{NOT_ACCEPTED}certificate has expired",
    "garbage instead of a handshake": NOT_TLS,
    "(silence|a drip) instead of a handshake": LATE,
    "a close instead of a handshake": "the peer closed the connection during the TLS handshake",
    "a reset instead of a handshake": f"the connection failed during the TLS handshake: {RESET}",
    "TLS before the greeting, at a port in clear": f"{NOT_TLS}; is this a port for STARTTLS?",
    "TLS before the greeting, at a port that waits": LATE,
}


class Errors:
    """A driver's ``connect`` that remembers the sessions it opened, and why others did not open."""

    def __init__(self, connect: Callable[..., Any]) -> None:
        self._connect = connect
        self._sessions: list[Any] = []
        self._raised: list[SessionError] = []

    async def connect(self, *args: Any, **options: Any) -> Any:
        try:
            session = await call(self._connect, *args, **options)
        except SessionError as error:
            self._raised.append(error)
            raise
        self._sessions.append(session)
        return session

    def words(self) -> set[str]:
        """What was said of connections and handshakes: in errors that were raised, in ends, in outcomes."""
        errors = [*self._raised, *(session.end.error for session in self._sessions if session.end is not None)]
        reports = [session.last_report for session in self._sessions if session.last_report is not None]
        errors += [outcome.error for report in reports for outcome in report.outcomes]
        return {str(error) for error in errors if isinstance(error, (ConnectionLost, TlsFailed))}


PLAYS = [(driver, case) for driver in DRIVERS for case in cases_for(adapter_for(driver))]


@pytest.mark.parametrize(("driver", "case"), PLAYS, ids=lambda value: getattr(value, "name", ""))
def test_conformance(driver: Driver, case: Case) -> None:
    adapter = adapter_for(driver)
    errors = Errors(adapter.connect)
    case(replace(adapter, connect=errors.connect))
    assert errors.words() == {words for name, words in WORDS.items() if re.fullmatch(name, case.name)}
    # A socket that nobody closed warns when it is collected, and a warning is an error here.
    gc.collect()


class Forgetful:
    """A session that does not know what became of its mail."""

    last_report = None

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if adapter_for(driver).run_cancelled is not None])
def test_a_driver_that_answers_no_mail_when_it_is_cancelled(driver: Driver) -> None:
    adapter = adapter_for(driver)

    async def connect(*args: Any, **options: Any) -> Forgetful:
        return Forgetful(await call(adapter.connect, *args, **options))

    (case,) = (case for case in CASES if case.name == "cancelled at DOT")
    with pytest.raises(Nonconformant) as caught:
        case(replace(adapter, connect=connect))
    assert str(caught.value).partition("got:\n")[2].split()[:3] == ["open", "end", "aborted"]


def test_only_what_a_driver_cannot_do_is_left_out() -> None:
    blocking, asynchronous, *_ = (cases_for(adapter_for(driver)) for driver in DRIVERS)
    assert asynchronous == list(CASES)
    assert [case for case in CASES if case not in blocking] == [c for c in CASES if Need.CANCELLATION in c.needs]


def test_all_words_are_heard_somewhere() -> None:
    unheard = [name for name in WORDS if not any(re.fullmatch(name, case.name) for case in CASES)]
    assert unheard == []
