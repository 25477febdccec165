"""What the functions that modules keep hold between calls: variables around them, defaults, attributes of their own.

Copies of a model have these in common with it, but for what refers to the model.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from fxquant.capture.structures import has_parts
from fxquant.capture.variables import MISSING
from fxquant.ir.own_functions import CACHED, LITERALS, cell_content, parts_of_partial

_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
_CALLED = (FunctionType, functools.partial, MethodType, CACHED)
_NOT_DATA = (nn.Module, type, ModuleType, BuiltinFunctionType)  # of these, what they hold is no matter of the function
_DEPTH = 4


@dataclass(frozen=True)
class FunctionVariable:
    """One variable of a function.

    Attributes:
        name: as the function has it; the function's own for its attributes, and for what it remembers.
        get, put: read it, and set it to another object.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], None]


def may_keep_functions(value: Any) -> bool:
    """Whether an attribute of the type of this one is a function, or may hold some."""
    return isinstance(value, (*_CALLED, *_CONTAINERS)) or has_parts(value)


class FunctionVariables:
    """Finds each variable once.

    Args:
        known: ids of functions, and of their dictionaries, that are seen to.
    """

    def __init__(self, known: Collection[int]) -> None:
        self._known = known
        self._seen = set[int]()

    def of(self, value: Any, depth: int = _DEPTH) -> Iterator[FunctionVariable]:
        """The variables of the functions in an attribute."""
        if isinstance(value, FunctionType):
            if id(value) not in self._seen and not (value.__module__ or "").startswith("torch."):
                self._seen.add(id(value))
                yield from self._of_function(value)
        elif isinstance(value, functools.partial):
            for item in parts_of_partial(value):
                yield from self.of(item, depth)
        elif isinstance(value, MethodType):
            yield from self.of(value.__func__)
        elif isinstance(value, CACHED):
            yield FunctionVariable(getattr(value, "__name__", ""), lambda: value, lambda _: None)
            yield from self.of(value.__wrapped__)
        elif depth and isinstance(value, _CONTAINERS):
            for item in list(value.values() if isinstance(value, dict) else value):
                if type(item) not in LITERALS:
                    yield from self.of(item, depth - 1)
        elif depth and id(value) not in self._seen and has_parts(value):
            self._seen.add(id(value))
            yield from self.of(vars(value), depth)

    def _of_function(self, function: FunctionType) -> Iterator[FunctionVariable]:
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) not in self._seen:
                self._seen.add(id(cell))
                yield from self._of_cell(name, cell, id(function) in self._known)
        for held in (function.__defaults__ or (), (function.__kwdefaults__ or {}).values()):
            for item in held:
                yield from self.of(item)
        if id(function) not in self._known:
            yield from _of_defaults(function)
        attributes = vars(function)
        for item in attributes.values():
            yield from self.of(item)
        if id(attributes) not in self._known:
            yield FunctionVariable(code.co_name, lambda: attributes, lambda _: None)

    def _of_cell(self, name: str, cell: CellType, is_known: bool) -> Iterator[FunctionVariable]:
        kept = cell_content(cell, MISSING)
        yield from self.of(kept)
        if not is_known and not isinstance(kept, (FunctionType, CACHED, *_NOT_DATA)):
            yield FunctionVariable(name, lambda: cell_content(cell, MISSING), lambda value: _set(cell, value))


def _of_defaults(function: FunctionType) -> Iterator[FunctionVariable]:
    """Defaults of parameters that can be changed in place."""
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, value in (*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()):
        if type(value) not in LITERALS and not isinstance(value, (*_CALLED, *_NOT_DATA)):
            yield FunctionVariable(name, functools.partial(_same, value), lambda _: None)


def _same(value: Any) -> Any:
    return value


def _set(cell: CellType, value: Any) -> None:
    if value is MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = value
