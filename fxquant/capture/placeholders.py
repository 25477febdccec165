"""Inputs of the graph: exactly those given, containers of tensors taken apart; lists of any length stay lists."""

from __future__ import annotations

import operator
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fxquant.capture.facts import CHECKED, FactKind
from fxquant.capture.inputs import map_leaves
from fxquant.capture.matched import type_for
from fxquant.capture.proxy import ValueProxy
from fxquant.errors import CaptureError
from fxquant.ir.checks import require_alike, require_container, require_equal, require_tensor
from fxquant.ir.likeness import likeness

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


# What is built in and can be compared with what is given later.
_COMPARED = (
    bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format,
    torch.Size, slice, range,
)  # fmt: skip
_COMPARED_AS_TEXT = (Enum, np.generic, np.dtype)


def placeholder(tracer: ValueTracer, name: str, value: Any) -> Any:
    """What the model is called with for one input.

    Args:
        tracer: records the placeholder, and what takes it apart.
        name: of the input.
        value: what was given: a tensor, a container of tensors, a flag.
    """
    node = tracer.create_node("placeholder", name, (), {})
    tracer.describe(node, value)
    proxy = type_for(value)(node, tracer, value)
    if isinstance(value, Tensor):
        tracer.ranks.inputs.add(node)
        return proxy

    def at_leaf(leaf: Any, path: tuple[Any, ...]) -> Any:
        if not isinstance(leaf, (Tensor, np.ndarray, torch.Generator)):
            return _constant_input(tracer, proxy, name, leaf, path)
        given = _follow(tracer, proxy, path)
        if isinstance(leaf, Tensor):
            tracer.ranks.inputs.add(given.node)
            if any(map(_is_attribute, path)):
                tracer.create_proxy("call_function", require_tensor, (given, _title(name, path)), {})
        return given

    def at_container(container: Any, path: tuple[Any, ...]) -> Any:
        given, title = _follow(tracer, proxy, path), _title(name, path)
        varies = (name, *path) in tracer.settings.varying
        size = None if varies else list(container) if isinstance(container, dict) else len(container)
        tracer.record(FactKind.LENGTH, f"{title}: {type(container).__name__} of {size}", CHECKED)
        kind = type(container).__name__
        tracer.create_proxy("call_function", require_container, (given, kind, size, title), {})
        if not varies:
            return None
        given.from_part = True
        tracer.ranks.lists.add(given.node)
        return given

    made = map_leaves(value, at_leaf, at_container=at_container)
    tracer.given.note(made, lambda path: _follow(tracer, proxy, path))
    return made


def _title(name: str, path: tuple[Any, ...]) -> str:
    """``batch['image'].mask``: a part of an input, for people."""
    return name + "".join(f".{step[1]}" if _is_attribute(step) else f"[{step!r}]" for step in path)


def _is_attribute(step: Any) -> bool:
    return isinstance(step, tuple) and step[0] == "attr"


def _constant_input(tracer: ValueTracer, proxy: ValueProxy, name: str, leaf: Any, path: tuple[Any, ...]) -> Any:
    """A flag, number, function or object given as input is built in, recorded, and checked at run time."""
    if hasattr(type(leaf), "__next__"):
        raise CaptureError(
            f"input {name!r} is an iterator: one call would use it up", remedy="pass a list, or a tensor, in its place"
        )
    given, check, expected = _follow(tracer, proxy, path), require_equal, leaf
    if isinstance(leaf, _COMPARED_AS_TEXT):
        given, expected = tracer.create_proxy("call_function", repr, (given,), {}), repr(leaf)
    elif not isinstance(leaf, _COMPARED):
        check, expected = require_alike, likeness(leaf)
    tracer.record(FactKind.FLAG, name if check is require_alike else f"{name}={leaf!r}", CHECKED)
    tracer.create_proxy("call_function", check, (given, expected, name), {})
    return leaf


def _follow(tracer: ValueTracer, proxy: ValueProxy, path: tuple[Any, ...]) -> Any:
    """Record the steps from a container to one of its leaves."""
    for step in path:
        function, key = (getattr, step[1]) if _is_attribute(step) else (operator.getitem, step)
        proxy = tracer.create_proxy("call_function", function, (proxy, key), {})
    return proxy
