"""Variables outside a model that its forward can change: globals of its files, attributes of its classes, defaults."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from fxquant.capture.generic_functions import is_generic
from fxquant.capture.source import is_user_file
from fxquant.ir.codes import arguments_of, codes_in
from fxquant.ir.own_functions import cell_content

_LIBRARIES = frozenset(("torch", "builtins", "typing", "abc", "collections", "enum"))
# Neither changes what a model computes.
_DEFINITIONS = (type, ModuleType, property, classmethod, staticmethod, logging.Logger, logging.LoggerAdapter)
_INSTALLED = ("site-packages", "dist-packages")
_MUTABLE = (list, dict, set)
_KEPT = (int, float, list, dict, set, Tensor)  # what a function keeps between calls, in a variable around it


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        owner: the globals or the class that it is in; the function, for mutable defaults of its parameters.
        name: its name there.
        shown: its name for people.
    """

    owner: Any
    name: str
    shown: str

    def get(self) -> Any:
        """Its present value, ``MISSING`` when it is gone."""
        if self.name in _OF_FUNCTIONS:
            return getattr(self.owner, self.name, MISSING)
        return (self.owner if isinstance(self.owner, dict) else vars(self.owner)).get(self.name, MISSING)

    def put(self, value: Any) -> None:
        """Set it to another object, or remove it."""
        if isinstance(self.owner, dict):
            self.owner.pop(self.name, None)
            self.owner.update({} if value is MISSING else {self.name: value})
        elif value is MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, value)


_ENVIRONMENT = Variable({"environ": os.environ}, "environ", "os.environ")
_DEFAULTS = ("__defaults__", "__kwdefaults__")
_OF_FUNCTIONS = (*_DEFAULTS, "__dict__")


class _Missing:
    """Stands for the value of a variable that is not there."""


MISSING = _Missing()


def variables_of(kinds: Collection[type]) -> list[Variable]:
    """The variables that the functions in a model's files refer to.

    Args:
        kinds: the classes of its modules, and those that these are made of.
    """
    known = set(map(id, kinds))  # their own ways to compare may fail
    own = _of_models(kinds)
    found = [variable for kind in own for variable in _variables_in(kind, f"{kind.__name__}.")]
    found += [variable for kind in own for variable in _set_on_class(kind)]
    for space in _spaces(own):
        used = _names_used(space)
        found += [item for item in _variables_in(space, "") if item.name in used or item.name in _DEFAULTS]
        found += [_ENVIRONMENT] if "environ" in used and _ENVIRONMENT not in found else []
        for name, value in list(space.items()):
            if name in used and isinstance(value, (FunctionType, type)) and value.__module__ == space.get("__name__"):
                found += [] if id(value) in known else _attributes_of(name, value)
    return found


def own_files(kinds: Collection[type]) -> list[str]:
    """The user's own files that the code of a model is in, and those that these import functions from.

    Args:
        kinds: as for ``variables_of``.
    """
    spaces = _spaces(_of_models(kinds), _is_users)
    return list(dict.fromkeys(str(space["__file__"]) for space in spaces if space.get("__file__")))


def names_reached(kinds: Collection[type]) -> set[str]:
    """Names that the methods of a model's own classes mention, and the functions of that name, and so on; and theirs.

    Args:
        kinds: as for ``variables_of``.
    """
    own = _of_models(kinds)
    spaces = _spaces(own)
    found = {name for kind in own for name in vars(kind)}
    waiting: list[Any] = [item for kind in own for item in vars(kind).values()]
    while waiting:
        value = waiting.pop()
        value = getattr(value, "__func__", getattr(value, "fget", value))
        code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
        new = {name for part in codes_in(code) for name in part.co_names} - found if code is not None else set()
        found |= new
        waiting += [space[name] for space in spaces for name in new if name in space]
    return found


def values_around(kinds: Collection[type]) -> Iterator[tuple[str, Any]]:
    """(name for people, value) of what the functions of a model's own classes may look into: the user's files only.

    Args:
        kinds: as for ``variables_of``.
    """
    own = _of_models(kinds)
    for kind in own:
        for name, value in vars(kind).items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            if isinstance(function, FunctionType):
                kept = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
                yield from ((f"{variable} in {kind.__name__}.{name}", cell_content(cell)) for variable, cell in kept)
            elif not name.startswith("__"):
                yield f"{kind.__name__}.{name}", value
    for space in _spaces(own, _is_users):
        used = _names_used(space)
        yield from ((name, value) for name, value in list(space.items()) if name in used)


def _attributes_of(name: str, value: Any) -> list[Variable]:
    """Attributes of a function, or of a class that is none of a module of the model."""
    if isinstance(value, FunctionType):
        if is_generic(value):  # what it remembers of classes changes nothing
            return []
        keys = [key for key in vars(value) if not key.startswith("__")]
        return [Variable(vars(value), key, f"{name}.{key}") for key in keys] or [Variable(value, "__dict__", name)]
    return list(_variables_in(value, f"{name}."))


def _set_on_class(kind: type) -> Iterator[Variable]:
    """Attributes that are none of a class's own, and that its functions set on something: on the class, perhaps.

    So do the functions of the classes that it is made from.
    """
    functions = [
        getattr(value, "__func__", value) for base in _of_models(kind.__mro__) for value in vars(base).values()
    ]
    codes = (getattr(inspect.unwrap(value), "__code__", None) for value in functions if isinstance(value, FunctionType))
    names = frozenset[str]().union(*(_names_set(code) for code in codes if code is not None))
    return (Variable(kind, name, f"{kind.__name__}.{name}") for name in sorted(names) if name not in vars(kind))


@cache
def _names_set(code: CodeType) -> frozenset[str]:
    """Names of the attributes that a piece of code sets on something."""
    every = codes_in(code)
    return frozenset(part.co_names[index] for part in every for _, index in arguments_of(part, "STORE_ATTR"))


def _of_models(kinds: Collection[type]) -> list[type]:
    """Those of some classes that are neither torch's nor Python's."""
    return [kind for kind in kinds if not _is_librarys(kind)]


def _is_librarys(value: Any) -> bool:
    return value.__module__.partition(".")[0] in _LIBRARIES


def _spaces(own: Collection[type], wanted: Callable[[dict[str, Any]], bool] = bool) -> list[dict[str, Any]]:
    """The globals of the files that some classes are written in, and of the user's files that these import.

    Args:
        own: the classes.
        wanted: which of their files; all, if not given.
    """
    spaces = {id(space): space for kind in own for space in _globals_of(kind) if wanted(space)}
    spaces |= {id(found): found for space in list(spaces.values()) for found in _helpers_of(space)}
    return list(spaces.values())


def _is_users(space: dict[str, Any]) -> bool:
    return _is_own(space.get("__file__", "__main__") or "")


def _globals_of(kind: type) -> Iterator[dict[str, Any]]:
    """The globals of the file that a class is written in."""
    if kind.__module__ in sys.modules:
        yield vars(sys.modules[kind.__module__])
    for value in vars(kind).values():
        if isinstance(value, FunctionType) and value.__module__ == kind.__module__:
            yield value.__globals__


def _helpers_of(space: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The globals of the user's other files that a file imports."""
    for value in space.values():
        if isinstance(value, FunctionType) and _is_own(value.__code__.co_filename):
            yield value.__globals__
        elif isinstance(value, ModuleType) and _is_own(getattr(value, "__file__", None) or ""):
            yield vars(value)


def _is_own(file: str) -> bool:
    return bool(file) and is_user_file(file) and not any(part in file for part in _INSTALLED)


def _variables_in(owner: Any, prefix: str) -> Iterator[Variable]:
    for name, value in list((owner if isinstance(owner, dict) else vars(owner)).items()):
        if isinstance(value, FunctionType):
            for key, defaults in zip(
                _DEFAULTS, (value.__defaults__, (value.__kwdefaults__ or {}).values()), strict=True
            ):
                if any(isinstance(item, _MUTABLE) for item in defaults or ()):
                    yield Variable(value, key, f"default of {prefix}{name}")
            kept = (isinstance(cell_content(cell), _KEPT) for cell in value.__closure__ or ())
            if any(kept) and not _is_librarys(value):
                yield Variable(owner, name, f"{prefix}{name}")
        elif not name.startswith("__") and _is_data(value):
            yield Variable(owner, name, f"{prefix}{name}")


def _is_data(value: Any) -> bool:
    if isinstance(value, nn.Module):  # of torch's own only the buffers may change
        return type(value).__module__.startswith("torch.nn.")
    return not isinstance(value, _DEFINITIONS) and (not callable(value) or isinstance(value, Tensor))


def _names_used(space: dict[str, Any]) -> set[str]:
    """Names that functions and methods defined in a file read or write."""
    found, title = set[str](), space.get("__name__")
    waiting: list[Any] = [value for value in space.values() if getattr(value, "__module__", "") == title]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type):
            waiting += [item for item in vars(value).values() if isinstance(item, (FunctionType, *_DEFINITIONS))]
        elif isinstance(value, (classmethod, staticmethod)):
            waiting.append(value.__func__)
        elif isinstance(value, property):
            waiting += [value.fget, value.fset]
        elif isinstance(value, FunctionType):
            waiting.append(value.__code__)
        elif isinstance(value, CodeType):
            found.update(value.co_names)
            waiting += value.co_consts
    return found
