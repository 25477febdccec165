"""Telling whether the content of something changed: a value that is cheap to take and that changes with the content."""

from __future__ import annotations

import array
import collections
import functools
import random
import sys
import warnings
from contextvars import ContextVar
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.variables import MISSING
from fxquant.ir.own_functions import CACHED, cell_content, parts_of_partial

_DEPTH = 4
_LARGEST_CONTAINER = 2000
_MOST_PARTS = 20_000
_LARGEST_TENSOR = 2**18  # larger ones are sampled; writes are told by their version anyway
_WITHOUT_STATE = sys.stdlib_module_names | {"torch", "numpy"}  # packages whose objects do not change by themselves
_OF_MODULES = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))


def fingerprint(value: Any, identity: bool = True, made: MadeTensors | None = None) -> Any:
    """Something that is equal for equal contents and differs for others, as far as it can be told cheaply.

    Args:
        value: anything.
        identity: tell equal objects apart, and tensors that were written without a change of their values.
        made: tensors that need not be read again.
    """
    return _Reader(identity, made).read(value, _DEPTH)


class MadeTensors:
    """Tensors that are met while a model runs. What it makes and keeps is read again only in another version."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, int, Any]] = {}

    def are_older(self) -> None:
        """Those met so far were there before: they may be written without a new version, and are read every time."""
        self._known = {key: (tensor, -1, None) for key, (tensor, _, _) in self._known.items()}

    def fingerprint(self, tensor: Tensor) -> Any:
        """The fingerprint of a tensor."""
        version = 0 if tensor.is_inference() else tensor._version
        _, known, found = self._known.get(id(tensor), (tensor, None, None))
        if known == version:
            return found
        found = _fingerprint_of_tensor(tensor, True)
        if known != -1:
            self._known[id(tensor)] = tensor, version, found
        return found


class _Reader:
    """Reads contents down to a depth, and no more than so many parts in all."""

    def __init__(self, identity: bool, made: MadeTensors | None) -> None:
        self.identity = identity
        self.made = made
        self.left = _MOST_PARTS

    def read(self, value: Any, depth: int) -> Any:
        """The fingerprint of a value."""
        self.left -= 1
        if isinstance(value, (bool, int, float, complex, str, bytes, range, slice, type(None))):
            return type(value).__name__, value if value == value else "nan"
        if isinstance(value, Tensor):
            return _fingerprint_of_tensor(value, self.identity) if self.made is None else self.made.fingerprint(value)
        copied = isinstance(value, (list, tuple, set, frozenset)) or type(value).__module__ == "numpy"
        name = id(value) if self.identity and not copied else type(value).__qualname__
        parts = _parts(value) if depth > 0 and self.left > 0 else None
        if parts is None:
            return name
        return name, len(parts), [self.read(part, depth - 1) for part in parts[-_LARGEST_CONTAINER:]]


def _parts(value: Any) -> list[Any] | None:
    """What a container or an object is made of, None when it is not to be looked into."""
    if isinstance(value, (type, ModuleType, torch.dtype, torch.device, fx.Proxy, fx.Node)):
        return None
    if isinstance(value, torch.Generator):
        return [bytes(value.get_state().tolist())]
    if isinstance(value, random.SystemRandom):
        return []  # it has no state
    if isinstance(value, random.Random):
        return [hash(value.getstate())]
    if isinstance(value, ContextVar):
        return [content_of(value)]
    if type(value).__module__.startswith("numpy.random"):
        return [str(value.get_state(legacy=False) if hasattr(value, "get_state") else value.bit_generator.state)]
    if isinstance(value, dict):
        return [part for item in list(value.items()) for part in item]  # another thread may add to it
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value)
    if type(value).__module__ == "numpy":
        return [value.tobytes() if hasattr(value, "tobytes") else repr(value)]
    if isinstance(value, (array.array, bytearray)):
        return [bytes(value)]
    if isinstance(value, FunctionType):
        kept = [cell_content(cell, MISSING) for cell in value.__closure__ or ()]
        kept += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values()]
        return [type(item).__qualname__ if isinstance(item, nn.Module) else item for item in kept]
    if isinstance(value, MethodType):
        return [type(value.__self__).__qualname__ if isinstance(value.__self__, nn.Module) else value.__self__]
    if isinstance(value, functools.partial):
        return parts_of_partial(value)
    if isinstance(value, CACHED):  # what it is asked again does not change it
        return [value.cache_info().misses, value.cache_info().currsize]
    if hasattr(type(value), "__next__"):
        return _position(value)
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, nn.Module):  # a global, or one that is kept in a plain container
        own = {} if type(value).__module__.startswith("torch.") else value.__dict__
        attributes = {key: item for key, item in own.items() if key not in _OF_MODULES}
        attributes["buffers"] = [(id(item), item._version) for item in value.buffers() if not item.is_inference()]
    attributes = slots_of(value) or None if attributes is None else attributes
    if attributes is None:
        return None
    return [part for item in attributes.items() for part in item]


def content_of(variable: ContextVar[Any]) -> Any:
    """What a context variable gives, its default included; ``MISSING`` for nothing."""
    try:
        return variable.get()
    except LookupError:
        return MISSING


def slots_of(value: Any) -> dict[str, Any]:
    """Attributes of an object of a class of the user's with ``__slots__``, by name."""
    names = slot_names(type(value))
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def slot_names(kind: type) -> list[str]:
    """Names in the ``__slots__`` of a class of the user's."""
    if kind.__module__.partition(".")[0] in _WITHOUT_STATE:
        return []
    names = [name for base in kind.__mro__ for name in _names(vars(base).get("__slots__", ()))]
    return [name for name in names if not name.startswith("__")]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _position(iterator: Any) -> list[Any] | None:
    """What an iterator gives next, as far as it tells."""
    if isinstance(iterator, GeneratorType):
        return [iterator.gi_frame.f_lasti if iterator.gi_frame is not None else -1]
    try:
        with warnings.catch_warnings(action="ignore"):  # iterators are not pickled in later versions of Python
            reduced = iterator.__reduce__()
    except TypeError:
        return None
    return list(reduced[1:]) if isinstance(reduced, tuple) else [repr(iterator)]


def _fingerprint_of_tensor(tensor: Tensor, identity: bool) -> Any:
    seen: tuple[Any, ...] = (tuple(tensor.shape), tensor.dtype)
    if identity:
        seen += (0 if tensor.is_inference() else tensor._version, id(tensor))
    if tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0 or tensor.is_complex():
        return seen
    with torch.no_grad():
        step = 1 + tensor.numel() // _LARGEST_TENSOR
        numbers = (
            tensor.detach().flatten()[::step].double() if step == 1 or tensor.is_contiguous() else tensor[:1].double()
        )
        total, size = numbers.sum().item(), numbers.abs().sum().item()
    return (*seen, total if total == total else "nan", size if size == size else "nan")
