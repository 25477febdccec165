"""Inputs of the graph: exactly those given, containers of tensors taken apart."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxquant.capture.facts import FactKind
from fxquant.capture.inputs import map_leaves
from fxquant.capture.matched import type_for
from fxquant.capture.proxy import ValueProxy
from fxquant.ir.checks import require_equal

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


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
        return proxy

    def at_leaf(leaf: Any, path: tuple[Any, ...]) -> Any:
        if not isinstance(leaf, Tensor):
            return _constant_input(tracer, proxy, name, leaf, path)
        return _follow(tracer, proxy, path)

    return map_leaves(value, at_leaf)


def _constant_input(tracer: ValueTracer, proxy: ValueProxy, name: str, leaf: Any, path: tuple[Any, ...]) -> Any:
    """A flag, number or None given as input is built in, recorded, and checked at run time."""
    plain = isinstance(leaf, (bool, int, float, str, type(None)))
    tracer.record(FactKind.FLAG, f"{name}={leaf!r}" if plain else name, "checked when the graph runs" if plain else "")
    if plain:
        tracer.create_proxy("call_function", require_equal, (_follow(tracer, proxy, path), leaf, name), {})
    return leaf


def _follow(tracer: ValueTracer, proxy: ValueProxy, path: tuple[Any, ...]) -> Any:
    """Record the steps from a container to one of its leaves."""
    for step in path:
        attribute = isinstance(step, tuple) and step[0] == "attr"
        function, key = (getattr, step[1]) if attribute else (operator.getitem, step)
        proxy = tracer.create_proxy("call_function", function, (proxy, key), {})
    return proxy
