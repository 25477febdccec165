"""The state of a model around a trace: what forward changes is found, and put back."""

from __future__ import annotations

import array
import copy
import functools
import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fxquant.capture.structures import has_parts
from fxquant.ir.copy_on_write import is_copied_on_write
from fxquant.ir.own_functions import LITERALS, parts_of_partial
from fxquant.ir.walk_modules import Inventory

_FLAT = (np.ndarray, array.array, bytearray)  # their elements are numbers
_CONTAINERS = (list, dict, set, *_FLAT)
_MAY_BE_EMPTY = frozenset((OrderedDict, dict, set, list))
_DEPTH = 4
_LARGEST = 2**20  # numbers in a tensor that is kept twice


@dataclass(frozen=True)
class Change:
    """An attribute that forward changed.

    Attributes:
        module_path: of the module that has it, name: of the attribute.
        tensor: whether it is a parameter or buffer, whose values changed.
    """

    module_path: str
    name: str
    tensor: bool = False


def by_name(changes: Iterable[Change]) -> list[list[Change]]:
    """Changes of attributes that are called the same, together."""
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.name, []).append(change)
    return list(found.values())


def spaces_of(model: nn.Module, changes: Iterable[Change]) -> dict[Change, dict[str, Any]]:
    """The attributes of the module of a model that each change is of."""
    return {change: vars(model.get_submodule(change.module_path)) for change in changes}


class _Noted(NamedTuple):
    """A parameter or buffer as it was.

    Attributes:
        memory: what it is set to, None for what does not lie in memory.
        is_shared: whether torch copies it when something writes into it.
    """

    path: str
    tensor: Tensor
    version: int
    is_parameter: bool
    memory: Tensor | None
    is_shared: bool

    @staticmethod
    def of(path: str, tensor: Tensor) -> _Noted:
        """As it is now."""
        memory = tensor.detach() if tensor.layout is torch.strided and not tensor.is_meta else None
        is_shared = memory is not None and is_copied_on_write(tensor)
        return _Noted(path, tensor, tensor._version, isinstance(tensor, nn.Parameter), memory, is_shared)

    def is_untouched(self) -> bool:
        """Whether nothing wrote into it, or gave it other memory, for certain."""
        return self.is_shared and is_copied_on_write(self.tensor) and self.is_in_place()

    def is_in_place(self) -> bool:
        """Whether it is in the memory where it was."""
        now, memory = self.tensor, self.memory
        return memory is None or (now.dtype is memory.dtype and now.is_set_to(memory))

    def put_in_place(self) -> bool:
        """Give it the memory where it was; returns whether it was there."""
        if self.memory is None or self.is_in_place():
            return True
        self.tensor.data = self.memory
        return False


@dataclass
class _Loose:
    """A tensor in a list, dictionary or object.

    Attributes:
        tensor: it.
        before: its values. version: of it.
        at: the attribute that holds it.
    """

    tensor: Tensor
    before: Tensor
    version: int
    at: Change


def version_of(tensor: Tensor) -> int:
    """How often something wrote into a tensor; -1 for those of inference mode, which do not count that."""
    return -1 if tensor.is_inference() else tensor._version


class ModelState:
    """What a model holds now.

    Args:
        held: the model, a copy; its tensors are not copied once more, their versions are noted.
        original: what it is a copy of: its tensors tell what changed without a new version, and are what is put back.

    Attributes:
        parameters_hold: whether the parameters were found to be as they were; false again once the model is called.
        writes_parameters: whether some were found not to be.
    """

    def __init__(self, held: Inventory, original: Inventory) -> None:
        plain = ((path, item) for path, item in held.modules if not isinstance(item, torch.jit.ScriptModule))
        self._modules = {path: (module, dict(vars(module))) for path, module in plain}
        self._kinds = {path: type(module) for path, (module, _) in self._modules.items()}
        self._tensors = [_Noted.of(path, tensor) for path, tensor in _named_tensors(held)]
        self._originals = dict(_named_tensors(original))
        self.parameters_hold = self.writes_parameters = False
        self._named = {id(item.tensor) for item in self._tensors}
        self._loose: dict[int, _Loose] = {}
        self._contents: dict[int, tuple[Any, Any]] = {}
        self._empty: dict[int, Any] = {}
        empty = self._empty
        for path, (_, parts) in self._modules.items():
            for name, item in parts.items():
                kind = type(item)
                if kind in _MAY_BE_EMPTY and not item:  # a module has a dozen
                    empty[id(item)] = item
                elif kind not in LITERALS:
                    self._at = path, name
                    self._note(item, _DEPTH - 1)

    def _note(self, structure: Any, depth: int) -> None:
        """Remember the contents of containers and objects."""
        kind = type(structure)
        if kind in _MAY_BE_EMPTY and not structure:
            self._empty[id(structure)] = structure
            return
        if kind in LITERALS or depth == 0 or id(structure) in self._contents:
            return
        if isinstance(structure, Tensor):
            self._note_tensor(structure)
            return
        if isinstance(structure, nn.Module):
            return
        if isinstance(structure, _CONTAINERS):
            self._contents[id(structure)] = structure, copy.copy(structure)
            items = _items(structure)
        elif isinstance(structure, (tuple, MethodType, functools.partial)):
            items = _given(structure)
            self._contents[id(structure)] = items, items  # what it holds may change
        elif has_parts(structure):
            self._contents[id(structure)] = vars(structure), dict(vars(structure))
            items = vars(structure).values()
        else:
            return
        for item in list(items):
            self._note(item, depth - 1)

    def _note_tensor(self, tensor: Tensor) -> None:
        """Remember the values of a tensor in a list or an object, which has no path."""
        if id(tensor) not in self._named and tensor.numel() <= _LARGEST and tensor.layout is torch.strided:
            self._loose.setdefault(
                id(tensor), _Loose(tensor, tensor.detach().clone(), version_of(tensor), Change(*self._at))
            )

    def loose_tensors(self) -> list[Tensor]:
        """Those in lists, dictionaries and objects."""
        return [loose.tensor for loose in self._loose.values()]

    def changes(self) -> list[Change]:
        """What is not as it was."""
        found: list[Change] = []
        changed = self._changed_contents()
        for path, (module, parts) in self._modules.items():
            now = vars(module)
            if type(module) is not self._kinds[path]:
                found.append(Change(path, "__class__"))
            if not changed and _is_same(now, parts):
                continue
            for name in {**parts, **now}:
                if name in ("_modules", "_parameters", "_buffers"):
                    found += [Change(path, key) for key in self._changed_entries(parts[name])]
                elif now.get(name, self) is not parts.get(name, self) or self._differs(now[name], changed, _DEPTH):
                    found.append(Change(path, name))
        written = (loose.at for loose in self._loose.values() if version_of(loose.tensor) != loose.version)
        found += [change for change in dict.fromkeys(written) if change not in found]
        self.writes_parameters = False
        for item in self._tensors:
            original = self._originals.get(item.path) if item.is_parameter and not item.is_untouched() else None
            if item.tensor._version != item.version or (original is not None and not holds(item.tensor, original)):
                owner, _, name = item.path.rpartition(".")
                found.append(Change(owner, name, True))
                self.writes_parameters |= item.is_parameter
        self.parameters_hold = not any(change.tensor for change in found)
        return found

    def _changed_contents(self) -> set[int]:
        """Ids of the containers and objects whose own contents are not as they were."""
        filled = {key for key, item in self._empty.items() if item} if any(self._empty.values()) else set()
        return filled | {key for key, (live, before) in self._contents.items() if _has_changed(live, before)}

    def _changed_entries(self, entries: dict[str, Any]) -> list[str]:
        _, before = self._contents.get(id(entries), (entries, {}))
        return [key for key in {**before, **entries} if entries.get(key, self) is not before.get(key, self)]

    def _differs(self, structure: Any, changed: set[int], depth: int) -> bool:
        """Whether a container, or one that it holds, changed."""
        key = id(structure)
        if depth == 0 or not changed or isinstance(structure, (Tensor, nn.Module)):
            return False
        if key in changed or key not in self._contents:
            return key in changed
        live = self._contents[key][0]
        return any(self._differs(item, changed, depth - 1) for item in _items(live))

    def restore(self) -> None:
        """Put everything back."""
        for path, (module, parts) in self._modules.items():
            if type(module) is not self._kinds[path]:
                module.__class__ = self._kinds[path]
            if not _is_same(vars(module), parts):
                vars(module).clear()
                vars(module).update(parts)
        for key in self._changed_contents():
            if key in self._empty:
                self._empty[key].clear()
            else:
                _put_contents_back(*self._contents[key])
        for item in self._tensors:
            stayed = item.put_in_place()  # what is put back into its memory may have been written into before
            holds_still = stayed and item.is_parameter and (self.parameters_hold or item.is_untouched())
            if item.path in self._originals and not holds_still:
                put_back(item.tensor, self._originals[item.path])
            if item.is_parameter:
                item.tensor.grad = None
        for loose in self._loose.values():
            put_back(loose.tensor, loose.before)
            loose.version = version_of(loose.tensor)


def _is_same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a dictionary has the same objects in the same order."""
    return list(now) == list(before) and all(map(operator.is_, now.values(), before.values()))


def _has_changed(live: Any, before: Any) -> bool:
    """Whether a container has other contents than before; what those contain is not looked at."""
    if isinstance(live, dict):
        return not _is_same(live, before)
    if isinstance(live, tuple):
        return False
    if isinstance(live, list):
        return len(live) != len(before) or not all(map(operator.is_, live, before))
    return bool(live != before) if isinstance(live, set) else bool(_bits(live) != _bits(before))


def _put_contents_back(live: Any, before: Any) -> None:
    if isinstance(live, np.ndarray):
        live[...] = before
    elif isinstance(live, (list, array.array, bytearray)):
        live[:] = before
    else:
        live.clear()
        live.update(before)


def _given(structure: tuple[Any, ...] | MethodType | functools.partial[Any]) -> tuple[Any, ...]:
    """What a tuple holds, what a method is of, or what a partial call is given."""
    if isinstance(structure, functools.partial):
        return tuple(parts_of_partial(structure))
    return (structure.__self__,) if isinstance(structure, MethodType) else structure


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, _FLAT):
        return ()
    return container.values() if isinstance(container, dict) else container


def _bits(numbers: Any) -> Any:
    if not isinstance(numbers, np.ndarray):
        return bytes(numbers)
    return numbers.shape, numbers.dtype, numbers.tolist() if numbers.dtype.hasobject else numbers.tobytes()


def put_back(tensor: Tensor, original: Tensor) -> None:
    """Give a tensor the values of another; ``tensor.data`` and batch norms change them without a new version."""
    if holds(tensor, original):
        return
    value = original.detach()
    with torch.no_grad():
        if tensor.shape == value.shape:
            tensor.copy_(value)
        else:
            tensor.data = value.clone()


def holds(tensor: Tensor, original: Tensor) -> bool:
    """Whether a tensor holds the numbers of another, NaN included."""
    if tensor.shape != original.shape or tensor.is_meta or tensor.layout is not torch.strided:
        return tensor.shape == original.shape
    if tensor.dtype is original.dtype and torch.equal(tensor, original):
        return True
    tensor, other = tensor.detach(), original.detach().to(tensor.dtype)
    return bool(((tensor == other) | ((tensor != tensor) & (other != other))).all())


def _named_tensors(held: Inventory) -> list[tuple[str, Tensor]]:
    return [*held.tensors, *held.plain_tensors]


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Leave the random state of torch, Python and NumPy as it is."""
    numpy_random: Any = sys.modules.get("numpy.random")
    python, numpy_state = random.getstate(), numpy_random.get_state() if numpy_random else None
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy_random:
                numpy_random.set_state(numpy_state)
