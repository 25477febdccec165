"""What is looked up by the identity of the model's own modules and tensors: in a copy of the model it is not found.

``SCALES[id(self.first)]``, ``self is LAST``, a ``WeakKeyDictionary`` of modules: what is captured, and what it is
compared with, are copies, in which each of these goes the other way. Where something outside of the model knows one of
its objects, the model itself is called once, and put back.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn

from fxquant.capture.against_eager import Eager, same_results
from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import BoundInputs, bind_inputs
from fxquant.capture.keep_state import ModelState
from fxquant.capture.outer_state import OuterState
from fxquant.capture.structures import has_parts
from fxquant.capture.variables import values_around
from fxquant.errors import CaptureError
from fxquant.ir.walk_modules import OF_EVERY_MODULE, Inventory

_CONTAINERS = (list, tuple, set, frozenset, deque, weakref.WeakSet)
_MAPPINGS = (dict, weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
_WEAK = (weakref.WeakSet, weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.ref)
_DEPTH = 3
_LARGEST_CONTAINER = 2000


def require_no_identity(held: Inventory, example_inputs: Any) -> None:
    """Raise where a model computes something else than its copies do, since something knows its objects.

    Args:
        held: the model; not changed.
        example_inputs: of the capture.

    Raises:
        CaptureError: names what knows them.
    """
    title = _what_knows_objects_of(held)
    if not title:
        return
    inputs = bind_inputs(held.model, example_inputs)
    try:
        expected = _result_of(held, inputs)
    except Exception:  # that of a copy says more
        return
    if not _is_result_of_copy(held.model, inputs, expected):
        raise CaptureError(
            f"{type(held.model).__name__} computes something else than a copy of it: `{title}` knows its modules or "
            "tensors by their identity, and does not know those of a copy, which every quantized model is",
            remedy="let forward tell modules apart by a name or a number that each has as an attribute",
        )


def _what_knows_objects_of(held: Inventory) -> str:
    """The name of the first variable that knows an object of a model by its identity; "" where none does."""
    tensors = (item for _, item in (*held.tensors, *held.plain_tensors))
    own = {id(item) for item in (*(module for _, module in held.modules), *tensors)}
    outside = (name for name, value in values_around(held.classes) if _knows(value, own, _DEPTH, False))
    inside = (
        f"{path}.{name}".lstrip(".") for path, name, value in _attributes(held) if _knows(value, own, _DEPTH, True)
    )
    return next(outside, "") or next(inside, "")


def _attributes(held: Inventory) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of the attributes that modules have besides those of every module, each value once."""
    seen = set[int]()
    for path, _, attributes in held.attributes:
        for name, value in attributes:
            if name not in OF_EVERY_MODULE and id(value) not in seen:
                seen.add(id(value))
                yield path, name, value


def _knows(value: Any, own: Collection[int], depth: int, is_copied: bool) -> bool:
    """Whether a value is, or holds, one of some objects or its id.

    Args:
        value: anything.
        own: ids of the objects.
        depth: of containers and objects in one another.
        is_copied: whether the value is copied with the objects: then only ids and weak references stay what they are.
    """
    if type(value) is int:
        return value in own
    if id(value) in own:
        return not is_copied
    if isinstance(value, weakref.ref):
        return id(value()) in own
    if isinstance(value, MethodType):
        return not is_copied and id(value.__self__) in own
    if not depth or isinstance(value, (nn.Module, type)):
        return False
    is_copied = is_copied and not isinstance(value, _WEAK)
    return any(_knows(item, own, depth - 1, is_copied) for item in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, _MAPPINGS):
        if len(value) <= _LARGEST_CONTAINER:
            yield from list(value.keys())
            yield from list(value.values())
    elif isinstance(value, _CONTAINERS):
        if len(value) <= _LARGEST_CONTAINER:
            yield from list(value)
    elif has_parts(value):
        yield from list(vars(value).values())


def _is_result_of_copy(model: nn.Module, inputs: BoundInputs, expected: Any) -> bool:
    copied = copy_module(model)
    outer = OuterState(Inventory(copied))
    try:
        return same_results(expected, Eager(model, copied=copied).call(inputs))
    except Exception:  # what it looks for is not there
        return False
    finally:
        outer.restore()


def _result_of(held: Inventory, inputs: BoundInputs) -> Any:
    """What the model itself computes; it is as it was afterwards.

    Raises:
        Exception: whatever the model raises.
    """
    with _put_back(held):
        return Eager(held.model, copied=held.model).call(inputs)


@contextmanager
def _put_back(held: Inventory) -> Iterator[None]:
    """Inside, the model may be called; it, and what is outside of it, is put back."""
    state, outer = ModelState(held, Inventory(copy_module(held.model))), OuterState(held)
    gradients = [(item, item.grad) for item in held.parameters]
    try:
        yield
    finally:
        state.restore()
        outer.restore()
        for item, gradient in gradients:
            item.grad = gradient
