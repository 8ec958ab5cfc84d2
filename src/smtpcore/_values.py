"""Frozen values that are quick to make.

What lives here: a dataclass decorator for what is made several times a mail. What does not: any value.

The ``__init__`` of a frozen dataclass looks ``object.__setattr__`` up for each field; one that is given the setters of
the slots takes half the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

__all__ = ["value"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """As ``dataclass(frozen=True, slots=True)``, for classes whose fields are plain: no ``kw_only``, no factories."""
    made: Any = dataclass(frozen=True, slots=True)(cls)
    names = [each.name for each in fields(made)]
    scope: dict[str, Any] = {f"set_{name}": getattr(made, name).__set__ for name in names}
    lines = "".join(f"\n    set_{name}(self, {name})" for name in names)
    exec(f"def __init__(self, {', '.join(names)}):{lines}", scope)  # noqa: S102  # as dataclasses do
    init, plain = scope["__init__"], made.__init__
    init.__defaults__ = plain.__defaults__
    init.__annotations__ = plain.__annotations__
    init.__qualname__ = plain.__qualname__
    init.__module__ = plain.__module__
    made.__init__ = init
    return made  # type: ignore[no-any-return]  # what exec made has no type
