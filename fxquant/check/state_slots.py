"""Everything that a forward can change and that a graph does not: attributes, buffers, hooks, globals, random states.

Each is a slot with a fingerprint that is cheap to take and that changes when the content does.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.check.finding import FindingKind

_DEPTH = 4
_LARGEST_CONTAINER = 2000
_OF_MODULES = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))


@dataclass(frozen=True)
class Slot:
    """One thing that may change.

    Attributes:
        kind: the finding that a change is.
        owner: path of the module it belongs to, "" for the root and for what belongs to no module.
        name: attribute, buffer or variable.
        read: its present fingerprint.
    """

    kind: FindingKind
    owner: str
    name: str
    read: Callable[[], Any]


def slots_of(model: nn.Module) -> list[Slot]:
    """The slots of a model, of the files its classes are in, and of Python's and numpy's random states."""
    slots: list[Slot] = []
    for path, module in model.named_modules():
        if not type(module).__module__.startswith("torch."):
            slots += _slots_of_module(path, module)
    slots += _slots_of_globals(model)
    slots.append(Slot(FindingKind.PYTHON_RANDOM, "", "random", random.getstate))
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        slots.append(Slot(FindingKind.PYTHON_RANDOM, "", "numpy.random", lambda: fingerprint(numpy_random.get_state())))
    return slots


def _slots_of_module(path: str, module: nn.Module) -> Iterator[Slot]:
    def of(names: Callable[[], dict[str, Any]], key: str) -> Callable[[], Any]:
        return lambda: fingerprint(names().get(key, _ABSENT))

    for key in vars(module):
        if key not in _OF_MODULES:
            yield Slot(_kind_of_attribute(vars(module)[key]), path, key, of(lambda: vars(module), key))
    for key, tensor in [*module._buffers.items(), *module._parameters.items()]:
        if tensor is not None:
            yield Slot(FindingKind.BUFFER_UPDATE, path, key, of(lambda: _tensors_of(module), key))

    def names() -> Any:
        return frozenset((*vars(module), *module._modules, *_tensors_of(module)))

    yield Slot(FindingKind.ATTRIBUTE_UPDATE, path, "", names)


def _kind_of_attribute(value: Any) -> FindingKind:
    plain = (bool, int, float, complex, str, bytes, type(None), Tensor, torch.dtype, torch.device)
    return FindingKind.ATTRIBUTE_UPDATE if isinstance(value, plain) else FindingKind.CONTAINER_UPDATE


def _tensors_of(module: nn.Module) -> dict[str, Any]:
    return {**module._buffers, **module._parameters}


def _slots_of_globals(model: nn.Module) -> Iterator[Slot]:
    """Variables of the files that the model's classes are in, attributes of the classes, defaults of their methods."""
    seen: set[Any] = set()
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__module__.partition(".")[0] in ("torch", "builtins", "typing", "abc") or kind in seen:
                continue
            seen.add(kind)
            yield from _slots_of_namespace(vars(kind), f"{kind.__name__}.")
            space = sys.modules.get(kind.__module__)
            if space is not None and space not in seen:
                seen.add(space)
                yield from _slots_of_namespace(vars(space), "")


def _slots_of_namespace(space: Any, prefix: str) -> Iterator[Slot]:
    for key, value in list(space.items()):
        if key.startswith("__") or isinstance(value, (type, ModuleType, property, classmethod, staticmethod)):
            continue
        if isinstance(value, FunctionType):
            if value.__defaults__ and any(isinstance(item, (list, dict, set)) for item in value.__defaults__):
                read = _reader(lambda value=value: value.__defaults__)
                yield Slot(FindingKind.GLOBAL_UPDATE, "", f"{prefix}{key}", read)
        elif not callable(value) or isinstance(value, Tensor):
            missing = _reader(lambda key=key: space.get(key, _ABSENT))
            yield Slot(FindingKind.GLOBAL_UPDATE, "", f"{prefix}{key}", missing)


def _reader(get: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: fingerprint(get())


# -- fingerprints -----------------------------------------------------------------------------------


class _Absent:
    """Stands for a variable that is not there."""


_ABSENT = _Absent()


def fingerprint(value: Any, depth: int = _DEPTH) -> Any:
    """Something that is equal for equal contents and differs for others, as far as it can be told cheaply."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return type(value).__name__, value if value == value else "nan"
    if isinstance(value, Tensor):
        return _fingerprint_of_tensor(value)
    if isinstance(value, nn.Module) and depth > 0:  # one that is kept in a plain container
        own = {} if type(value).__module__.startswith("torch.") else value.__dict__
        return id(value), fingerprint({key: item for key, item in own.items() if key not in _OF_MODULES}, depth - 1)[1:]
    if depth == 0 or isinstance(value, (type, ModuleType, torch.dtype, torch.device)):
        return id(value)
    if isinstance(value, dict):
        items = list(value.items())[-_LARGEST_CONTAINER:]
        return id(value), len(value), [(fingerprint(k, 1), fingerprint(v, depth - 1)) for k, v in items]
    if isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)[-_LARGEST_CONTAINER:]
        return type(value).__name__, len(value), [fingerprint(item, depth - 1) for item in items]
    if type(value).__module__ == "numpy":
        return value.tobytes() if hasattr(value, "tobytes") else repr(value)
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return id(value), [fingerprint(_content(cell), depth - 1) for cell in cells]
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        return id(value), repr(value) if type(value).__module__ in ("collections", "itertools") else ""
    return id(value), fingerprint(dict(attributes), depth - 1)[1:]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT


def _fingerprint_of_tensor(tensor: Tensor) -> Any:
    version = 0 if tensor.is_inference() else tensor._version
    if tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0 or tensor.is_complex():
        return id(tensor), version, tuple(tensor.shape)
    with torch.no_grad():
        total = tensor.detach().double().sum().item()
    return version, tuple(tensor.shape), tensor.dtype, total if total == total else "nan", tensor.data_ptr()
