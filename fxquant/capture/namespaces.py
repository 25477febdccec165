"""The global names of the user's modules, and what stands for some of them while a model is traced.

Python looks ``int`` and ``isinstance`` up in a function's module before it looks among the builtins, and names imported
with ``from torch import zeros`` nowhere else. So that is where the stand-ins go, and where they are taken away again.
"""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

from fxquant.capture.source import is_user_file, position
from fxquant.ir.codes import arguments_of, codes_in

Undo = Callable[[], None]
# Libraries that do not compute with tensors of torch.
_APART = frozenset(("sympy", "mpmath", "scipy", "PIL", "matplotlib", "pandas", "sklearn", "IPython", "pytest",
                    "_pytest", "hypothesis", "jinja2", "yaml", "rich", "tqdm", "tabulate", "mypy", "pip",
                    "setuptools", "pygments", "pluggy", "typing_extensions", "sortedcontainers", "torchgen", "anyio",
                    "execnet", "xdist", "packaging", "iniconfig", "fsspec", "networkx"))  # fmt: skip
# Builtins that are classes: as the value of ``dtype=int`` no stand-in will do.
_CLASSES = ("int", "float", "complex", "range")
_cached_functions = type(functools.lru_cache(lambda: None))
_EMPTY = CellType()
_modules_known: dict[str, tuple[int, bool]] = {}  # by name: which object it was, and whether it is the user's
_values_known: dict[str, tuple[int, frozenset[str]]] = {}


def user_namespaces(kinds: Iterable[type]) -> list[dict[str, Any]]:
    """Globals of the files that may run when a model is called, torch's and Python's own excepted.

    Args:
        kinds: the classes of its modules, and those that these are made of.
    """
    found: dict[int, dict[str, Any]] = {}
    for name, module in list(sys.modules.items()):
        known = _modules_known.get(name)
        if known is None or known[0] != id(module):
            known = _modules_known[name] = id(module), _is_of_user(name, module)
        if known[1]:
            found[id(vars(module))] = vars(module)
    for kind in kinds:
        forward = vars(kind).get("forward")
        space = getattr(forward, "__globals__", None)
        if space is not None and is_user_file(getattr(forward, "__code__").co_filename):  # noqa: B009
            found[id(space)] = space
    return list(found.values())


def _is_of_user(name: str, module: Any) -> bool:
    file = getattr(module, "__file__", None)
    inside = name == "__main__" if file is None else is_user_file(file)
    return inside and name.partition(".")[0] not in _APART


def replace_names(spaces: list[dict[str, Any]], builtin: Mapping[str, Any], others: Mapping[int, Any]) -> list[Undo]:
    """Put stand-ins into namespaces; returns what takes them away.

    Args:
        spaces: globals of modules.
        builtin: stand-ins of builtins, by name.
        others: stand-ins of other objects, by the object's id.
    """
    undo: list[Undo] = []
    for space in spaces:
        kept = _used_as_values(space)
        replaced = {name: value for name, value in space.items() if id(value) in others and not name.startswith("__")}
        added = {name: stand_in for name, stand_in in builtin.items() if name not in space and name not in kept}
        space.update(added)
        space.update({name: others[id(value)] for name, value in replaced.items()})
        undo.append(functools.partial(_put_back, space, list(added), replaced))
    return undo


def _put_back(space: dict[str, Any], added: list[str], replaced: dict[str, Any]) -> None:
    space.update(replaced)
    for name in added:
        space.pop(name, None)


def cached_functions(spaces: list[dict[str, Any]], kinds: Iterable[type]) -> Iterator[tuple[Any, str, Any]]:
    """(where, name, function) of each function with ``functools.lru_cache`` in namespaces and in classes of a model."""
    for space in spaces:
        for name, value in list(space.items()):
            if type(value) is _cached_functions:
                yield space, name, value
            elif type(value) is FunctionType and value.__closure__:
                yield from _cached_inside(value)
    for kind in kinds:
        for name, value in list(vars(kind).items()):
            function = getattr(value, "__func__", value)
            if type(function) is _cached_functions:
                yield kind, name, value
            yield from _cached_inside(function)


def _cached_inside(function: Any) -> Iterator[tuple[Any, str, Any]]:
    """Cached functions that a decorator put into the closure of another."""
    for cell in getattr(function, "__closure__", None) or ():
        if cell != _EMPTY and type(cell.cell_contents) is _cached_functions:
            yield cell, "cell_contents", cell.cell_contents


def _used_as_values(space: dict[str, Any]) -> frozenset[str]:
    """Builtin classes that some function of a namespace uses as a value: ``x.to(int)``."""
    title = str(space.get("__name__"))
    size, found = _values_known.get(title, (-1, frozenset()))
    if size != len(space):
        names = {name for code in _codes(space) for name in _CLASSES if name in code.co_names and _as_value(code, name)}
        found |= names  # what is cut out of a function is not found in it any more
        _values_known[title] = len(space), found
    return found


def _codes(space: dict[str, Any]) -> Iterator[CodeType]:
    title = space.get("__name__")
    for value in list(space.values()):
        if isinstance(value, type) and value.__module__ == title:
            for inner in list(vars(value).values()):
                function = inner.__func__ if isinstance(inner, (staticmethod, classmethod)) else inner
                if isinstance(function, FunctionType):
                    yield from codes_in(function.__code__)
        elif isinstance(value, FunctionType) and value.__globals__ is space:
            yield from codes_in(value.__code__)


def _as_value(code: CodeType, name: str) -> bool:
    """Whether code loads a global otherwise than to call it at once, which the low bit of the argument tells."""
    loads = 2 * code.co_names.index(name)
    wheres = (position(code, offset) for offset, _ in arguments_of(code, "LOAD_GLOBAL", loads))
    lines = (linecache.getline(code.co_filename, where[0]) for where in wheres if where is not None)
    return not all(map(_asks_for_class, lines))


def _asks_for_class(line: str) -> bool:
    return "isinstance(" in line or "map(" in line
