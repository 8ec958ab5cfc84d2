"""A client is a function of the facts that it was given: the same facts, given to a fresh one, bring the same events.

What lives here: whole lives, written down and lived again. What does not: what is true of a life (``test_lives.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpcore import Client, Event, LocalProtocolError, Mail, Report, Timeout

from .examples import examples
from .invariants import live

#: Everything that a client can be told or asked, and that may change it.
CALLS = frozenset(
    name
    for name, member in vars(Client).items()
    if callable(member) and not name.startswith("_") and name not in {"snapshot"}
)


@dataclass(frozen=True)
class Call:
    """One call of a client: what was asked, and what came of it."""

    name: str
    arguments: tuple[Any, ...]
    result: object


class Protocol:
    """A client that writes down how it was made and everything that it is told."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.made = (arguments, options)
        self.calls: list[Call] = []
        self._client = Client(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        return member if name not in CALLS else self._noted(name, member)

    def _noted(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: Any) -> object:
            result = made(method, arguments)
            self.calls.append(Call(name, arguments, result))
            if isinstance(result, LocalProtocolError):
                raise result
            return result

        return call


def made(method: Callable[..., object], arguments: tuple[Any, ...]) -> object:
    try:
        return method(*arguments)
    except LocalProtocolError as error:
        return error


def shown(event: object) -> str:
    """All that an event says, its errors and the dialogue among them, whoever it belongs to."""
    error = getattr(event, "error", None)
    words = [repr(event), repr(error), str(getattr(error, "transcript", ""))]
    return "\n".join(words + ([str(event.transcript)] if isinstance(event, Report) else []))


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=120))
@example(bytes(16) + bytes(30))
def test_the_same_facts_bring_the_same_events(plan: bytes) -> None:
    protocol: list[Protocol] = []

    def make(*arguments: Any, **options: Any) -> Any:
        protocol.append(Protocol(*arguments, **options))
        return protocol[0]

    live(plan, make)
    arguments, options = protocol[0].made
    again = Client(*arguments, **options)
    mails: dict[Mail, Mail] = {}
    before: tuple[object, object] = None, None
    for call in protocol[0].calls:
        result = made(getattr(again, call.name), call.arguments)
        assert type(result) is type(call.result)
        assert shown(result) == shown(call.result)
        if isinstance(call.result, Mail):
            assert isinstance(result, Mail)
            mails[call.result] = result
        if isinstance(call.result, Event):
            mail = getattr(call.result, "mail", None)
            assert getattr(result, "mail", None) is (None if mail is None else mails[mail])
            if isinstance(call.result, Timeout):
                # Whether a deadline goes on or begins anew is said by the object.
                assert (result is before[0]) is (call.result is before[1])
            before = result, call.result
    assert again.transcript == protocol[0].transcript
    assert repr(again.snapshot()) == repr(protocol[0].snapshot())
