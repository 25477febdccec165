"""What objects outside of a model hold, read as a whole: what cannot be read to the end is refused.

``fingerprint`` tells whether something changed as far as it can be told cheaply. Here two contents are equal only if
nothing that code could read is different.
"""

from __future__ import annotations

import abc
import enum
import os
import sys
from collections import OrderedDict
from collections.abc import Hashable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from fxquant.capture.plain_code import NotPlainError, has_attributes_only, is_literal, is_torchs
from fxquant.capture.source import is_own_file, is_torch_file, is_user_file
from fxquant.capture.variables import MISSING
from fxquant.ir.codes import codes_in
from fxquant.ir.own_functions import cell_content

_MOST_PARTS = 2000
_DEPTH = 8
_VALUES = frozenset(
    (torch.dtype, torch.device, torch.layout, torch.memory_format, type(...), type(NotImplemented), range, complex)
)
_SEQUENCES = (tuple, list, torch.Size)
_MAPPINGS = (dict, OrderedDict)
_METACLASSES = (type, abc.ABCMeta, enum.EnumMeta)


class Contents:
    """Reads contents.

    Args:
        gathers: whether the attributes are wanted, too.

    Attributes:
        codes: of the functions that were met, and of those in them.
        classes: that were met, torch's and Python's own left out.
        modules: of the user's that were met.
    """

    def __init__(self, gathers: bool = True) -> None:
        self._gathers = gathers
        self.codes: set[CodeType] = set()
        self.classes: dict[type, None] = {}
        self.modules: list[ModuleType] = []
        self._seen: dict[int, int] = {}

    def of(self, value: Any, depth: int = _DEPTH) -> Hashable:
        """The content of a value; equal for equal ones. The value must be held by something else meanwhile.

        Raises:
            NotPlainError: it holds what cannot be read, or too much.
        """
        kind = type(value)
        if is_literal(value) or kind in _VALUES or value is MISSING:
            return repr(value)
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        if depth == 0 or len(self._seen) > _MOST_PARTS:
            raise NotPlainError
        if isinstance(value, type):
            return self._class(value)
        if kind in _SEQUENCES:
            return kind, tuple([self.of(item, depth - 1) for item in value])
        if kind in _MAPPINGS:
            return kind, tuple([(self.of(key, depth - 1), self.of(item, depth - 1)) for key, item in value.items()])
        if kind in (set, frozenset) and all(map(is_literal, value)):
            return kind, frozenset(map(repr, value))
        if isinstance(value, ModuleType):
            return self._module(value)
        return self._behind(value, depth) or self._object(value, depth)

    def _behind(self, value: Any, depth: int) -> Hashable | None:
        """The content of functions and of what classes hold; None for other objects."""
        if isinstance(value, FunctionType):
            return self._function(value, depth)
        if isinstance(value, BuiltinFunctionType):
            if is_torchs(value) or value.__module__ == "math":
                return id(value)
            raise NotPlainError
        if type(value) in (staticmethod, classmethod):
            return type(value), self.of(value.__func__, depth - 1)
        if type(value) is MethodType:
            return MethodType, self.of(value.__func__, depth - 1), self.of(value.__self__, depth - 1)
        if type(value) is property:
            return property, tuple([self.of(item, depth - 1) for item in (value.fget, value.fset, value.fdel)])
        return None

    def _class(self, kind: type) -> Hashable:
        if type(kind) not in _METACLASSES:
            raise NotPlainError
        if is_users_class(kind):
            self.classes[kind] = None
        return id(kind)

    def _module(self, module: ModuleType) -> Hashable:
        if is_user_file(getattr(module, "__file__", None) or ""):
            self.modules.append(module)
        elif not is_torchs(module):
            raise NotPlainError
        return id(module)

    def _function(self, function: FunctionType, depth: int) -> Hashable:
        if self._gathers:
            self.codes.update(codes_in(function.__code__))
        if is_torch_file(function.__code__.co_filename) or is_own_file(function.__code__.co_filename):
            wrapped = vars(function).get("__wrapped__")  # in whose place another stands during a trace
            return id(function), self.of(wrapped, depth - 1) if isinstance(wrapped, FunctionType) else None
        parts = (function.__defaults__, function.__kwdefaults__, vars(function))
        given = tuple([self.of(part, depth - 1) if part else None for part in parts])
        around = tuple([self.of(cell_content(cell, MISSING), depth - 1) for cell in function.__closure__ or ()])
        return id(function), id(function.__code__), id(function.__globals__), given, around

    def _object(self, value: Any, depth: int) -> Hashable:
        """What an object holds that is its attributes, and code written in Python."""
        kind = type(value)
        if isinstance(value, enum.Enum):
            return self._class(kind), id(value)
        if not _is_its_attributes(kind):
            raise NotPlainError
        held = tuple([(name, self.of(item, depth - 1)) for name, item in vars(value).items()])
        return self._class(kind), id(value), held


def _is_its_attributes(kind: type) -> bool:
    """Whether objects of a class hold their attributes and nothing else."""
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return has_attributes_only(kind) and not slots and not is_torchs(kind)


def is_users_class(kind: type) -> bool:
    """Whether a class is neither torch's nor Python's own."""
    owner = str(kind.__module__).partition(".")[0]
    return not is_torchs(kind) and (owner not in sys.stdlib_module_names or owner == "__main__")


def environment() -> Hashable:
    """The variables of the environment; asked for as the user does it, they would leave facts."""
    return tuple(vars(os.environ)["_data"].items())
