"""The mutants of a module: each is the module with one small thing wrong.

What lives here: the changes, and where they can be made. What does not: running tests against them (``run.py``).
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Final

__all__ = ["Mutant", "enumerations", "mutants_of"]

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
#: What is not code that runs, or only words for people.
_PASSED_OVER: Final = frozenset({"annotation", "returns", "decorator_list", "type_comment", "exc", "cause", "msg"})


@dataclass(frozen=True)
class Mutant:
    """One change of a module; ``function`` is the qualified name of the function whose body it is in, if any."""

    number: int
    line: int
    #: What stands in that line.
    source: str
    function: str | None
    before: str
    after: str
    _tree: ast.Module
    _put: Callable[[bool], None]

    def __str__(self) -> str:
        return f"#{self.number} line {self.line}, {self.function or 'the module'}: {self.before}  ->  {self.after}"

    @property
    def change(self) -> tuple[str, str, str]:
        """What says which mutant this is while lines come and go: the line, what is changed, and what comes of it."""
        return self.source, self.before, self.after

    def compiled(self, path: Path) -> CodeType:
        """The module with this change."""
        self._put(True)
        try:
            return compile(ast.fix_missing_locations(self._tree), path, "exec")
        finally:
            self._put(False)


def enumerations(folder: Path) -> dict[str, list[str]]:
    """The members of all enumerations of the modules in ``folder``, by their names."""
    found: dict[str, list[str]] = {}
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
                targets = [line.targets[0] for line in node.body if isinstance(line, ast.Assign)]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                found[node.name] = [name for name in names if not name.startswith("_")]
    return found


def mutants_of(text: str, enumerated: Mapping[str, list[str]]) -> list[Mutant]:
    """All mutants of a module, numbered."""
    tree, lines = ast.parse(text), text.splitlines()
    mutants: list[Mutant] = []
    for place in _places(tree, None, ()):
        for after in _changed(place, enumerated):
            ast.copy_location(after, place.node)
            before_text, after_text = _shown(place.node), _shown(after)
            line = getattr(place.node, "lineno", getattr(place.parent, "lineno", 0))
            put = place.putter(after)
            source = lines[line - 1].strip()
            mutants.append(Mutant(len(mutants), line, source, place.function, before_text, after_text, tree, put))
    return mutants


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:160]


@dataclass(frozen=True)
class _Place:
    """Where a node stands."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    function: str | None

    def putter(self, after: ast.AST) -> Callable[[bool], None]:
        def put(changed: bool) -> None:
            node = after if changed else self.node
            if self.index is None:
                setattr(self.parent, self.field, node)
            else:
                getattr(self.parent, self.field)[self.index] = node

        return put


def _places(parent: ast.AST, function: str | None, scope: tuple[str, ...]) -> Iterator[_Place]:
    for field, value in ast.iter_fields(parent):
        if field in _PASSED_OVER:
            continue
        inside, names = function, scope
        if isinstance(parent, (ast.FunctionDef, ast.ClassDef)) and field == "body":
            names = (*scope, parent.name)
            if isinstance(parent, ast.FunctionDef):
                inside = function or ".".join(names)
        nodes: Iterable[tuple[int | None, object]] = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, node in nodes:
            # Words of messages, and what is true by proof.
            if isinstance(node, ast.AST) and not isinstance(node, (ast.JoinedStr, ast.Assert)):
                yield _Place(node, parent, field, index, inside)
                yield from _places(node, inside, names)


def _changed(place: _Place, enumerated: Mapping[str, list[str]]) -> Iterator[ast.AST]:
    """What could stand there instead."""
    node, in_function = place.node, place.function is not None
    if _is_condition(place):
        yield ast.Constant(False)
        if not isinstance(place.parent, ast.While):
            yield ast.Constant(True)
    match node:
        case ast.Compare():
            for number, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[number] = _COMPARED[type(operator)]()
                yield changed
        case ast.BoolOp():
            yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
            for number in range(len(node.values)):
                rest = [value for other, value in enumerate(node.values) if other != number]
                yield copy.deepcopy(rest[0]) if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.UnaryOp(op=ast.Not()):
            yield copy.deepcopy(node.operand)
        case ast.BinOp() if type(node.op) in _COMPUTED:
            yield ast.BinOp(node.left, _COMPUTED[type(node.op)](), node.right)
        case ast.AugAssign():
            yield ast.AugAssign(node.target, _COMPUTED[type(node.op)](), node.value)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=bytes(value)):
            yield ast.Constant(value + b"X")
        case ast.Attribute(value=ast.Name(id=name), ctx=ast.Load()) if node.attr in enumerated.get(name, ()):
            members = enumerated[name]
            yield ast.Attribute(node.value, members[(members.index(node.attr) + 1) % len(members)], ast.Load())
        case ast.Expr(value=ast.Call()) | ast.Assign() if in_function:
            yield ast.Pass()
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))


def _is_condition(place: _Place) -> bool:
    constant = isinstance(place.node, ast.Constant)
    types_only = isinstance(place.node, ast.Name) and place.node.id == "TYPE_CHECKING"
    return place.field in {"test", "ifs"} and not constant and not types_only
