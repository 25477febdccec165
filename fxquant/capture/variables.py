"""Variables outside a model that its forward can change: globals of its files, attributes of its classes, defaults."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

_LIBRARIES = frozenset(("torch", "builtins", "typing", "abc", "collections", "enum"))
# Neither changes what a model computes.
_DEFINITIONS = (type, ModuleType, property, classmethod, staticmethod, logging.Logger, logging.LoggerAdapter)
_MUTABLE = (list, dict, set)
_KEPT = (int, float, list, dict, set, Tensor)  # what a function keeps between calls, in a variable around it


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        owner: the module or class it is an attribute of; the function, for mutable defaults of its parameters.
        name: its name there.
        shown: its name for people.
    """

    owner: Any
    name: str
    shown: str

    def get(self) -> Any:
        """Its present value, ``MISSING`` when it is gone."""
        return (
            getattr(self.owner, self.name) if self.name == "__defaults__" else vars(self.owner).get(self.name, MISSING)
        )


class _Missing:
    """Stands for the value of a variable that is not there."""


MISSING = _Missing()


def variables_of(model: nn.Module) -> list[Variable]:
    """The variables that the functions in the model's files refer to."""
    kinds = dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__)
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES]
    spaces = dict.fromkeys(sys.modules[kind.__module__] for kind in own if kind.__module__ in sys.modules)
    found = [variable for kind in own for variable in _variables_in(kind, f"{kind.__name__}.")]
    for space in spaces:
        used = _names_used(space)
        found += [item for item in _variables_in(space, "") if item.name in used or item.name == "__defaults__"]
    return found


def _variables_in(owner: Any, prefix: str) -> Iterator[Variable]:
    for name, value in list(vars(owner).items()):
        if isinstance(value, FunctionType):
            if any(isinstance(item, _MUTABLE) for item in value.__defaults__ or ()):
                yield Variable(value, "__defaults__", f"default of {prefix}{name}")
            kept = (isinstance(_content(cell), _KEPT) for cell in value.__closure__ or ())
            if any(kept) and value.__module__.partition(".")[0] not in _LIBRARIES:
                yield Variable(owner, name, f"{prefix}{name}")
        elif not name.startswith("__") and _is_data(value):
            yield Variable(owner, name, f"{prefix}{name}")


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _is_data(value: Any) -> bool:
    return not isinstance(value, _DEFINITIONS) and (not callable(value) or isinstance(value, Tensor))


def _names_used(space: ModuleType) -> set[str]:
    """Names that functions and methods defined in a file read or write."""
    found: set[str] = set()
    waiting: list[Any] = [value for value in vars(space).values() if getattr(value, "__module__", "") == space.__name__]
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
