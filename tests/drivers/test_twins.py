"""The pumps of the three wire drivers are one text.

What lives here: the comparison, with every difference that is allowed written down. What does not: what the pump does.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from collections.abc import Sequence

import pytest

from smtpcore.drivers._session.conversation import Conversation

#: What is alike under another name, and the few words in which the docstrings differ.
WORDS = [
    ("super().__init__(stream, machine, _make_body, piece)", "super().__init__(stream, machine, make_body, piece)"),
    ("fit_async_body", "fit_body"),
    ("AsyncBody", "Body"),
    ("AsyncSource", "Source"),
    ("AsyncIterator", "Iterator"),
    ("AsyncExitStack", "ExitStack"),
    ("push_async_callback", "callback"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("as an async context manager", "as a context manager"),
]

#: What must be alike: the session, and the ways to one. The stream and the connecting are each driver's own.
ALIKE = ["Session", "connect", "connect_unix", "_connect", "open_session", "send"]


class _Synchronous(ast.NodeTransformer):
    """Drops ``async`` and ``await``."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        return ast.FunctionDef(**{name: getattr(node, name) for name in node._fields}, lineno=0)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        return ast.With(items=node.items, body=node.body, lineno=0)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self.generic_visit(node)
        return ast.For(target=node.target, iter=node.iter, body=node.body, orelse=node.orelse, lineno=0)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        value: ast.AST = self.visit(node.value)
        return value


def pump(source: str, alike: Sequence[str] = ALIKE) -> dict[str, list[str]]:
    """The parts that must be alike, as normal text, by name."""
    tree = _Synchronous().visit(ast.parse(source))
    parts = {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    texts = {}
    for name in alike:
        text = ast.unparse(parts[name])
        for ours, theirs in WORDS:
            text = text.replace(ours, theirs)
        texts[name] = [" ".join(line.split()) for line in text.splitlines()]
    return texts


def source_of(name: str) -> str:
    return inspect.getsource(importlib.import_module(f"smtpcore.drivers.{name}"))


@pytest.mark.parametrize("part", ALIKE)
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_the_pump_is_the_same(name: str, part: str) -> None:
    # Docstrings wrap elsewhere when a word is longer, so text is compared as words.
    blocking = " ".join(pump(source_of("blocking"))[part])
    other = " ".join(pump(source_of(name))[part])
    difference = difflib.unified_diff(blocking.split(" "), other.split(" "), "blocking", name, lineterm="")
    assert blocking == other, "\n".join(difference)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_connecting_is_the_same(name: str) -> None:
    """But for looking names up and for waiting."""
    assert pump(source_of("_connecting.dial_blocking"), ["dial"]) == pump(
        source_of(f"_connecting.dial_{name}"), ["dial"]
    )


def test_the_async_drivers_are_the_same_but_for_their_streams() -> None:
    """Between the two even the docstrings and the line breaks of the session agree."""
    texts = {}
    for name in ("asyncio", "trio"):
        source = source_of(name)
        texts[name] = source[source.index("class Session(") :]
    assert texts["asyncio"] == texts["trio"]


def waiting_for_nothing(source: str, name: str) -> set[str]:
    """The functions of a class of an async driver that never wait."""
    parts = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    return {node.name for node in parts[name].body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_what_waits_for_nothing_is_said_once(name: str) -> None:
    """It stands in the one class that the sessions of all drivers are made from."""
    assert waiting_for_nothing(source_of(name), "Session") == {"__init__"}
    shared = waiting_for_nothing(source_of("_session.conversation"), "Conversation")
    assert {"close", "_take_on", "_note", "_abandon"} <= shared
    for driver in ("blocking", name):
        session = importlib.import_module(f"smtpcore.drivers.{driver}").Session
        assert Conversation in session.__mro__
        assert vars(session).keys() & shared == {"__init__"}


def test_a_difference_is_found() -> None:
    source = source_of("asyncio")
    changed = source.replace("self._wire.receive_eof()", "self._wire.receive_timeout()", 1)
    assert changed != source
    assert pump(changed) != pump(source)
