"""Which functions run some code."""

from __future__ import annotations

import functools
import gc
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


def functions_with(code: CodeType) -> list[FunctionType]:
    """The functions that exist now and have this code.

    The one that a module or a class has under the name in the code is the only one, as a rule; all objects are searched
    where it is not there, or where a function makes it anew in each of its calls.
    """
    named = None if "<locals>" in code.co_qualname else _named(code)
    if named is not None:
        return [named]
    return [item for item in gc.get_referrers(code) if type(item) is FunctionType and item.__code__ is code]


def _named(code: CodeType) -> FunctionType | None:
    for space in _spaces_of(code.co_filename):
        found = _at(space, code.co_qualname.split("."))
        for function in _inside(found):
            if function.__code__ is code:
                return function
    return None


def _spaces_of(file: str) -> list[dict[str, Any]]:
    """Globals of the modules that were read from a file."""
    modules = list(sys.modules.values())
    return [vars(module) for module in modules if getattr(module, "__file__", None) == file]


def _at(space: dict[str, Any], names: list[str]) -> Any:
    """What a qualified name means in a module, None for nothing."""
    found = space.get(names[0])
    for name in names[1:]:
        found = vars(found).get(name) if isinstance(found, type) else None
    return found


def _inside(value: Any) -> Iterator[FunctionType]:
    """The functions in a function, method or property, decorators taken off."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
    for part in parts:
        if isinstance(part, functools.cached_property):
            part = part.func
        if callable(part) and isinstance(part := inspect.unwrap(part), FunctionType):
            yield part
