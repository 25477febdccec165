"""The state of a model around a trace: what forward changes is found, and put back."""

from __future__ import annotations

import array
import copy
import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxquant.capture.structures import has_parts
from fxquant.ir.own_functions import LITERALS

_FLAT = (np.ndarray, array.array, bytearray)  # their elements are numbers
_CONTAINERS = (list, dict, set, *_FLAT)
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


class ModelState:
    """What a model holds now.

    Args:
        root: the model; tensors are not copied, their versions are noted.
    """

    def __init__(self, root: nn.Module) -> None:
        plain = ((path, item) for path, item in root.named_modules() if not isinstance(item, torch.jit.ScriptModule))
        self._modules = {path: (module, dict(vars(module))) for path, module in plain}
        self._tensors = [(path, tensor, tensor._version) for path, tensor in _named_tensors(root)]
        self._named = {id(tensor) for _, tensor, _ in self._tensors}
        self._loose: dict[int, tuple[Tensor, Tensor]] = {}
        self._contents: dict[int, tuple[Any, Any]] = {}
        for _, (_, parts) in self._modules.items():
            self._note(parts, _DEPTH)

    def _note(self, structure: Any, depth: int) -> None:
        """Remember the contents of containers and objects."""
        kind = type(structure)
        if kind in LITERALS or depth == 0 or id(structure) in self._contents:
            return
        if kind is OrderedDict and not structure:  # a module has a dozen
            self._contents[id(structure)] = structure, {}
            return
        if isinstance(structure, Tensor):
            self._note_tensor(structure)
            return
        if isinstance(structure, nn.Module):
            return
        if isinstance(structure, _CONTAINERS):
            self._contents[id(structure)] = structure, copy.copy(structure)
            items = _items(structure)
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
            self._loose[id(tensor)] = tensor, tensor.detach().clone()

    def changes(self, model: nn.Module) -> list[Change]:
        """What is not as it was; ``model`` is the original, whose parameters tell what ``p.data`` changed."""
        found: list[Change] = []
        originals = dict(model.named_parameters(remove_duplicate=False))
        for path, (module, parts) in self._modules.items():
            now = vars(module)
            for name in {**parts, **now}:
                if name in ("_modules", "_parameters", "_buffers"):
                    found += [Change(path, key) for key in self._changed_entries(parts[name])]
                elif now.get(name, self) is not parts.get(name, self) or self._differs(now[name], _DEPTH):
                    found.append(Change(path, name))
        for path, tensor, version in self._tensors:
            original = originals.get(path) if isinstance(tensor, nn.Parameter) else None
            if tensor._version != version or (original is not None and not holds(tensor, original)):
                owner, _, name = path.rpartition(".")
                found.append(Change(owner, name, True))
        return found

    def _changed_entries(self, entries: dict[str, Any]) -> list[str]:
        before = self._contents[id(entries)][1]
        return [key for key in {**before, **entries} if entries.get(key, self) is not before.get(key, self)]

    def _differs(self, structure: Any, depth: int) -> bool:
        key = id(structure)
        if depth == 0 or isinstance(structure, (Tensor, nn.Module)) or key not in self._contents:
            return False
        live, before = self._contents[key]
        if isinstance(live, _FLAT):
            return bool(_bits(live) != _bits(before))
        if not live and not before:
            return False
        if len(live) != len(before):
            return True
        if isinstance(live, set):
            return bool(live != before)
        pairs = zip(live.values(), before.values()) if isinstance(live, dict) else zip(live, before)  # noqa: B905
        if any(a is not b for a, b in pairs) or (isinstance(live, dict) and list(live) != list(before)):
            return True
        return any(self._differs(item, depth - 1) for item in (live.values() if isinstance(live, dict) else live))

    def restore(self, model: nn.Module) -> None:
        """Put everything back; values of tensors come from ``model``, the original of the copy that was traced."""
        for module, parts in self._modules.values():
            vars(module).clear()
            vars(module).update(parts)
        for live, before in self._contents.values():
            if isinstance(live, np.ndarray):
                if _bits(live) != _bits(before):
                    live[...] = before
            elif not live and not before:
                continue
            elif isinstance(live, (list, array.array, bytearray)):
                live[:] = before
            else:
                live.clear()
                live.update(before)
        originals = dict(_named_tensors(model))
        for path, tensor, _ in self._tensors:
            if path in originals:
                _put_back(tensor, originals[path])
            if isinstance(tensor, nn.Parameter):
                tensor.grad = None
        for tensor, before in self._loose.values():
            _put_back(tensor, before)


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, _FLAT):
        return ()
    return container.values() if isinstance(container, dict) else container


def _bits(numbers: Any) -> Any:
    if not isinstance(numbers, np.ndarray):
        return bytes(numbers)
    return numbers.shape, numbers.dtype, numbers.tolist() if numbers.dtype.hasobject else numbers.tobytes()


def _put_back(tensor: Tensor, original: Tensor) -> None:
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
    tensor, other = tensor.detach(), original.detach().to(tensor.dtype)
    if tensor.shape != other.shape or tensor.is_meta or tensor.layout is not torch.strided:
        return tensor.shape == other.shape
    return torch.equal(tensor, other) or bool(((tensor == other) | ((tensor != tensor) & (other != other))).all())


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    plain = [
        (f"{path}.{name}".lstrip("."), value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    return [*named, *plain]


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
