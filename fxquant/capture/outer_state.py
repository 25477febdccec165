"""What forward may change that no tensor, attribute or container of the model holds, and how to put it back.

Globals of the user's files, attributes of classes, mutable defaults; and, on modules, random generators, iterators,
queues and what functions and hooks keep.
"""

from __future__ import annotations

import array
import collections
import copy
import os
import random
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxquant.capture.fingerprint import content_of, fingerprint, slot_names, slots_of
from fxquant.capture.function_variables import FunctionVariables, may_keep_functions
from fxquant.capture.variables import MISSING, Variable, variables_of
from fxquant.ir.own_functions import CACHED, parts_of_partial
from fxquant.ir.walk_modules import Inventory

_DEPTH = 4  # of containers and objects in one another
_LARGEST_CONTAINER = 2000
_LARGEST_TENSOR = 2**20  # larger globals are constants: they are not copied
_ENTRIES = frozenset(("_parameters", "_buffers", "_modules"))
_MAY_BE_EMPTY = frozenset((collections.OrderedDict, dict, set, list, tuple))  # a module has a dozen
Undo = Callable[[], None]


@dataclass(frozen=True)
class Held:
    """One thing that may change.

    Attributes:
        module_path: of the module that holds it, "" for globals.
        name: of the attribute or variable, for people.
        attribute: whether a module holds it.
        get, put: read it, and set it to another object.
        place: where on the module the function is that it is a variable of, "" for others.
    """

    module_path: str
    name: str
    attribute: bool
    get: Callable[[], Any]
    put: Callable[[Any], None]
    place: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What is the same for this thing of a model and of its copy."""
        return self.module_path, self.name, self.place


class OuterState:
    """What is held now.

    Args:
        inside: the model whose modules and files are read.
    """

    def __init__(self, inside: Inventory) -> None:
        variables = variables_of(inside.classes)
        self.held = [*map(_of_variable, variables), *_of_modules(inside, _functions_in(variables))]
        self._before = [fingerprint(item.get()) for item in self.held]
        self._put: dict[int, Any] = {}
        self._undo = [_undo(item, self._put) for item in self.held]

    def changed(self) -> list[Held]:
        """What is not as it was."""
        pairs = zip(self.held, self._before, strict=True)
        return [item for item, before in pairs if fingerprint(item.get()) != before]

    def restore(self) -> None:
        """Put back what is not as it was."""
        self._put.clear()
        for item, before, undo in zip(self.held, self._before, self._undo, strict=True):
            if fingerprint(item.get()) != before:
                for step in undo:
                    step()


def is_drawn_from(value: Any) -> bool:
    """Whether a value changes when it is asked for the next number or element, and not otherwise."""
    return _draws(type(value))


def _draws(kind: type) -> bool:
    generator = issubclass(kind, (random.Random, torch.Generator)) or kind.__module__.startswith("numpy.random")
    return generator or hasattr(kind, "__next__")


def is_random(value: Any) -> bool:
    """Whether a value is a generator of random numbers."""
    return is_drawn_from(value) and not hasattr(value, "__next__")


def _of_variable(variable: Variable) -> Held:
    return Held("", variable.shown, False, variable.get, variable.put)


def _functions_in(variables: Collection[Variable]) -> set[int]:
    """Ids of the functions, and of the dictionaries of functions, that variables belong to or are."""
    return {id(item.owner) for item in variables} | {id(item.get()) for item in variables}


def _of_modules(inside: Inventory, known: Collection[int]) -> Iterator[Held]:
    opaque: dict[type, bool] = {}
    keeping: dict[type, bool] = {}
    functions = FunctionVariables(known)
    for path, module, attributes in inside.attributes:
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, value in attributes:
            kind = type(value)
            if kind not in opaque:
                opaque[kind] = issubclass(kind, collections.deque) or _draws(kind) or bool(slot_names(kind))
                keeping[kind] = may_keep_functions(value)
            if opaque[kind]:
                yield _of_attribute(path, module, name)
            if keeping[kind] and name not in _ENTRIES and (kind not in _MAY_BE_EMPTY or value):
                for at, item in enumerate(functions.of(value)):
                    yield Held(path, item.name, True, item.get, item.put, f"{name}:{at}")


def _of_attribute(path: str, module: nn.Module, name: str) -> Held:
    space = vars(module)
    return Held(path, name, True, lambda: space.get(name, MISSING), lambda value: space.__setitem__(name, value))


def _undo(item: Held, put: dict[int, Any]) -> list[Undo]:
    """Steps that give a variable its present object, and the object its present content.

    Args:
        item: the variable.
        put: gets the copies that take the place of iterators, by the id of these: who shares one shares its copy.
    """
    value = item.get()
    if item.name.startswith("default of "):
        defaults = value.values() if isinstance(value, dict) else value
        return [step for default in defaults for step in _undo_content(default)]
    if hasattr(value, "__next__"):
        saved = _copied(value)

        def put_copy() -> None:
            if id(value) not in put:
                put[id(value)] = _copied(saved)
            item.put(put[id(value)])

        return [put_copy]

    def put_back() -> None:
        if item.get() is not value:
            item.put(value)

    return [put_back, *_undo_content(value)]


def _undo_content(value: Any, depth: int = _DEPTH) -> Iterator[Undo]:
    if value is os.environ:
        yield _undo_container(value, dict(value))
    elif isinstance(value, (list, dict, set, collections.deque)):
        yield _undo_container(value, copy.copy(value))
        yield from _undo_items(list(value.values() if isinstance(value, dict) else value), depth)
    elif isinstance(value, np.ndarray):
        if value.flags.writeable:
            yield partial(np.copyto, value, value.copy())
    elif isinstance(value, (array.array, bytearray)):
        yield partial(value.__setitem__, slice(None), copy.copy(value))
    elif isinstance(value, nn.Module):  # a global one; what it holds besides is its own
        for buffer in value.buffers():
            yield from _undo_content(buffer)
    elif isinstance(value, Tensor):
        if value.numel() <= _LARGEST_TENSOR:
            yield _undo_tensor(value, value.detach().clone())
    elif isinstance(value, ContextVar):
        kept = content_of(value)
        if kept is not MISSING:
            yield lambda: value.set(kept) and None
    elif isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        state = value.getstate()
        yield lambda: value.setstate(state)
    elif isinstance(value, torch.Generator):
        torch_state = value.get_state()
        yield partial(_set_generator, value, torch_state)
    elif type(value).__module__.startswith("numpy.random"):
        bits = getattr(value, "bit_generator", value)
        numpy_state = copy.deepcopy(bits.get_state() if hasattr(bits, "get_state") else bits.state)
        yield lambda: bits.set_state(numpy_state) if hasattr(bits, "set_state") else setattr(bits, "state", numpy_state)
    elif isinstance(value, partial):
        yield from _undo_items(parts_of_partial(value), depth)
    elif isinstance(value, MethodType):
        yield from _undo_items([value.__self__], depth)
    elif isinstance(value, CACHED):
        if not value.cache_info().currsize:
            yield value.cache_clear
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            if cell != type(cell)():
                yield partial(setattr, cell, "cell_contents", cell.cell_contents)
                if isinstance(cell.cell_contents, (list, dict, set, collections.deque)):
                    yield from _undo_content(cell.cell_contents)
    elif slots_of(value):
        for name, item in slots_of(value).items():
            yield partial(setattr, value, name, item)
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, (type, nn.Module)):
        yield _undo_container(vars(value), dict(vars(value)))
        yield from _undo_items(list(vars(value).values()), depth)


def _undo_items(items: list[Any], depth: int) -> Iterator[Undo]:
    if depth and len(items) <= _LARGEST_CONTAINER:
        for item in items:
            yield from () if isinstance(item, nn.Module) else _undo_content(item, depth - 1)


def _set_generator(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _undo_container(value: Any, saved: Any) -> Undo:
    def restore() -> None:
        value.clear()
        value.extend(saved) if hasattr(value, "extend") else value.update(saved)

    return restore


def _undo_tensor(value: Tensor, saved: Tensor) -> Undo:
    def restore() -> None:
        with torch.no_grad():
            value.copy_(saved)

    return restore


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except TypeError:  # a generator: what it gave is gone
        return value
