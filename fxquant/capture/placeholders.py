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
from fxquant.ir.checks import require_equal

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


# What is built in and can be compared with what is given later.
_COMPARED = (
    bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format,
    torch.Size, slice, range,
)  # fmt: skip
_COMPARED_AS_TEXT = (Enum, np.generic)


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
        if not isinstance(leaf, (Tensor, np.ndarray)):
            return _constant_input(tracer, proxy, name, leaf, path)
        given = _follow(tracer, proxy, path)
        if isinstance(leaf, Tensor):
            tracer.ranks.inputs.add(given.node)
        return given

    def at_container(container: Any, path: tuple[Any, ...]) -> Any:
        whole = (name, *path) in tracer.varying
        given = _follow(tracer, proxy, path)
        if whole:
            given.from_part = True
            tracer.ranks.inputs.add(given.node)
            return given
        title = f"len({name}{''.join(map(_step_text, path))})"
        tracer.record(FactKind.LENGTH, f"{title}={len(container)}", CHECKED)
        counted = tracer.create_proxy("call_function", len, (given,), {})
        tracer.create_proxy("call_function", require_equal, (counted, len(container), title), {})
        return None

    return map_leaves(value, at_leaf, at_container=at_container)


def _step_text(step: Any) -> str:
    return f".{step[1]}" if _is_attribute(step) else f"[{step!r}]"


def _is_attribute(step: Any) -> bool:
    return isinstance(step, tuple) and step[0] == "attr"


def _constant_input(tracer: ValueTracer, proxy: ValueProxy, name: str, leaf: Any, path: tuple[Any, ...]) -> Any:
    """A flag, number or None given as input is built in, recorded, and checked at run time."""
    as_text = isinstance(leaf, _COMPARED_AS_TEXT)
    compared = as_text or isinstance(leaf, _COMPARED)
    tracer.record(FactKind.FLAG, f"{name}={leaf!r}" if compared else name, CHECKED if compared else "")
    if compared:
        given, expected = _follow(tracer, proxy, path), leaf
        if as_text:
            given, expected = tracer.create_proxy("call_function", repr, (given,), {}), repr(leaf)
        tracer.create_proxy("call_function", require_equal, (given, expected, name), {})
    return leaf


def _follow(tracer: ValueTracer, proxy: ValueProxy, path: tuple[Any, ...]) -> Any:
    """Record the steps from a container to one of its leaves."""
    for step in path:
        function, key = (getattr, step[1]) if _is_attribute(step) else (operator.getitem, step)
        proxy = tracer.create_proxy("call_function", function, (proxy, key), {})
    return proxy
