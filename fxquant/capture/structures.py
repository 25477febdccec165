"""Containers and objects that hold proxies or tensors: looking into them, and making them again with other contents."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute

from fxquant.capture.proxy import ValueProxy
from fxquant.ir.write_back import attributes_of

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.layout, type(...))
_WHOLE = (
    nn.Module, Tensor, type, FunctionType, MethodType, ModuleType, fx.Proxy, fx.Node, fx.Graph, Enum, torch.Size,
    torch.Generator, range,
)  # fmt: skip
_DEPTH = 6
_SEQUENCES = (tuple, list, set, frozenset, deque)


# How to look into a thing, by its type: not at all; not, but it may be changed; an attribute of a proxy; ...
_LITERAL, _WHOLE_THING, _ATTRIBUTE, _SEQUENCE, _SLICE, _MAPPING, _OTHER = range(1, 8)
_CLOSED = (_LITERAL, _WHOLE_THING)

# Types that are met most. What is known of others is kept as long as they are there; some of torch take long to ask.
_COMMON: dict[type, int] = {
    **dict.fromkeys(_PLAIN, _LITERAL),
    **dict.fromkeys((Tensor, nn.Parameter, ValueProxy, fx.Node, torch.Size), _WHOLE_THING),
    **dict.fromkeys(_SEQUENCES, _SEQUENCE),
    slice: _SLICE,
    dict: _MAPPING,
}
_KINDS: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()
_TESTS = (
    (_PLAIN, _LITERAL),
    (Attribute, _ATTRIBUTE),
    (_WHOLE, _WHOLE_THING),
    (_SEQUENCES, _SEQUENCE),
    (slice, _SLICE),
    (dict, _MAPPING),
)


def _kind_of(thing: Any) -> int:
    found = _COMMON.get(type(thing)) or _KINDS.get(type(thing))
    if found is None:
        found = next((kind for types, kind in _TESTS if isinstance(thing, types)), _OTHER)
        _KINDS[type(thing)] = found
    return found


def has_parts(thing: Any) -> bool:
    """Whether ``thing`` is an object of a class of Python's, with attributes of its own that may hold tensors."""
    return _kind_of(thing) == _OTHER and isinstance(getattr(thing, "__dict__", None), dict)


def has_attributes(thing: Any) -> bool:
    """Whether ``thing`` is an object or a container that may get other attributes."""
    if _kind_of(thing) not in (_SEQUENCE, _MAPPING, _OTHER):
        return False
    return isinstance(getattr(thing, "__dict__", None), dict) or bool(attributes_of(thing))


def leaves(structure: Any, depth: int = _DEPTH) -> list[Any]:
    """What nested containers and objects hold, containers and objects that hold nothing included."""
    found: list[Any] = []
    _gather(structure, depth, found)
    return found


def _gather(structure: Any, depth: int, found: list[Any]) -> None:
    kind = _kind_of(structure)
    if kind in _CLOSED or depth == 0:
        found.append(structure)
    elif kind == _SEQUENCE:
        for item in structure:
            _gather(item, depth - 1, found)
    elif kind == _MAPPING:
        for item in structure.values():
            _gather(item, depth - 1, found)
    elif kind == _SLICE:
        found += (structure.start, structure.stop, structure.step)
    elif kind == _ATTRIBUTE:
        found.append(structure.root)
    elif has_parts(structure):
        for item in vars(structure).values():
            _gather(item, depth - 1, found)
    else:
        found.append(structure)


def holds_proxy(structure: Any) -> bool:
    """Whether there is a proxy anywhere in ``structure``."""
    return any(isinstance(leaf, ValueProxy) for leaf in leaves(structure))


def holds_tensor(structure: Any) -> bool:
    """Whether there is a proxy or a tensor anywhere in ``structure``."""
    return any(isinstance(leaf, (ValueProxy, Tensor)) for leaf in leaves(structure))


def unwrap(structure: Any) -> Any:
    """Replace every proxy in nested containers and objects by its value.

    What holds no proxy is returned as it is, so identity is kept where it can be.
    """
    return rebuild(structure, _value_of)


def _value_of(leaf: Any) -> Any:
    if isinstance(leaf, ValueProxy):
        return leaf.value
    return getattr(unwrap(leaf.root), leaf.attr) if isinstance(leaf, Attribute) else leaf


def rebuild(structure: Any, change: Callable[[Any], Any], depth: int = _DEPTH) -> Any:
    """The same containers and objects with every leaf changed; those in which nothing changes are the same ones.

    Args:
        structure: not changed.
        change: called with each leaf; returns it, or what takes its place.
    """
    kind = _kind_of(structure)
    if kind == _LITERAL or depth == 0:
        return structure
    if kind in (_WHOLE_THING, _ATTRIBUTE):
        return change(structure)
    if kind == _SEQUENCE:
        items = [rebuild(item, change, depth - 1) for item in structure]
        if _same(items, structure):
            return structure
        made = make_sequence(type(structure), items)
        return deque(made, structure.maxlen) if type(structure) is deque else made
    if kind == _SLICE:
        parts = [change(part) for part in (structure.start, structure.stop, structure.step)]
        return slice(*parts)
    if kind == _MAPPING:
        entries = {key: rebuild(item, change, depth - 1) for key, item in structure.items()}
        return structure if _same(entries.values(), structure.values()) else refill(structure, entries)
    if has_parts(structure):
        parts_before = vars(structure)
        parts_after = {key: rebuild(item, change, depth - 1) for key, item in parts_before.items()}
        return structure if _same(parts_after.values(), parts_before.values()) else remake(structure, parts_after)
    return change(structure)


def make_sequence(kind: type, items: list[Any]) -> Any:
    """A list, tuple, set, deque or named tuple of ``items``."""
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def refill(mapping: dict[Any, Any], entries: dict[Any, Any]) -> Any:
    """A copy of ``mapping``, of its class, with other entries."""
    if type(mapping) is dict:
        return entries
    made = copy.copy(mapping)
    for key, item in entries.items():
        made[key] = item
    return made


def remake(thing: Any, parts: dict[str, Any]) -> Any:
    """A copy of an object, of its class, with other attributes."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type) and not hasattr(thing, "__dict__"):
        return dataclasses.replace(thing, **parts)
    made = copy.copy(thing)
    vars(made).update(parts)
    return made


def _same(new: Any, old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))
