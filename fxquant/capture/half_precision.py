"""Models in float16 and bfloat16: float32 inside, their own dtype at their inputs and outputs."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from fxquant.ir.meta import NodeInfo, info, set_info, update_info

_HALF = (torch.float16, torch.bfloat16)


def half_dtype(model: nn.Module) -> torch.dtype | None:
    """The dtype of a model in half precision, else None."""
    return next((parameter.dtype for parameter in model.parameters() if parameter.dtype in _HALF), None)


def to_float32(tensor: Tensor) -> Tensor:
    """A tensor in half precision as float32; others as they are."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def convert_borders(graph: fx.Graph, dtype: torch.dtype) -> None:
    """float32 inside, ``dtype`` outside: convert floating inputs on entry and floating outputs on exit."""
    for node in _given(graph):
        known = info(node).tensor
        if known is not None and known.is_float and node.users:
            _insert_conversion(graph, node, torch.float32)
            update_info(node, value=replace(known, dtype=dtype))
    output = next(node for node in graph.nodes if node.op == "output")

    def convert(node: fx.Node) -> fx.Node:
        known = info(node).tensor
        if known is None or not known.is_float:
            return node
        with graph.inserting_before(output):
            new = graph.call_method("to", (node, dtype))
        made = replace(known, dtype=dtype)
        set_info(new, NodeInfo(value=made, origin=info(node).origin, origins=(new.name,)))
        return new

    output.args = (fx.node.map_arg(output.args[0], convert),)


def _given(graph: fx.Graph) -> list[fx.Node]:
    """Inputs, and what is taken out of inputs that are containers."""
    given: list[fx.Node] = []
    for node in graph.nodes:
        taken = node.target in (operator.getitem, getattr) and node.args[0] in given
        if node.op == "placeholder" or (taken and info(node.args[0]).tensor is None):
            given.append(node)
    return given


def _insert_conversion(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    users = list(node.users)
    with graph.inserting_after(node):
        new = graph.call_method("to", (node, dtype))
    set_info(new, NodeInfo(value=info(node).value, origin=info(node).origin, origins=(new.name,)))
    for user in users:
        user.replace_input_with(node, new)
