"""Writing the parts of one operation in its place; what the decompositions share."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxquant.ir.meta import NodeInfo, TensorMeta, info, set_info, update_info
from fxquant.ops import catalogue
from fxquant.ops.opdef import Bound, OpDef

MADE_BY = "decompose_operators"


class PartsWriter:
    """Writes the parts of one operation in front of it, then turns it into the last part.

    Args:
        whole: the operation.
        constants: names of nodes that are constants of the model.

    Attributes:
        bound: arguments of the whole by name.
    """

    def __init__(self, whole: fx.Node, constants: frozenset[str]) -> None:
        self.whole, self.constants = whole, constants
        self.bound: Bound = catalogue.arguments(whole, catalogue.row_of(whole))
        self.part_of = (whole.name, info(whole).op)

    def is_constant(self, value: Any) -> bool:
        """Whether an argument is computed from parameters and buffers alone."""
        return isinstance(value, fx.Node) and value.name in self.constants

    def add(self, op: str, **given: Any) -> fx.Node:
        """Write a call of the row ``op``; arguments that are not named have their defaults."""
        row = _row(op)
        args, kwargs = row.unbind(_complete(row, given))
        with self.whole.graph.inserting_before(self.whole):
            kind = "call_method" if isinstance(row.target, str) else "call_function"
            made = self.whole.graph.create_node(kind, row.target, args, kwargs)
        set_info(made, NodeInfo(op=op, origin=info(self.whole).origin, origins=(made.name,), made_by=MADE_BY))
        update_info(made, value=_value(made), part_of=self.part_of)
        return made

    def finish(self, op: str, **given: Any) -> None:
        """Make the whole a call of the row ``op``."""
        row = _row(op)
        self.whole.op = "call_method" if isinstance(row.target, str) else "call_function"
        self.whole.target = row.target
        self.whole.args, self.whole.kwargs = row.unbind(_complete(row, given))
        update_info(self.whole, op=op, value=_value(self.whole), part_of=self.part_of)


def _row(op: str) -> OpDef:
    row = catalogue.by_name(op)
    assert row is not None, op
    return row


def _complete(row: OpDef, given: Bound) -> Bound:
    return {**{parameter.name: parameter.default for parameter in row.parameters}, **given}


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Sizes of a tensor node on the example inputs."""
    tensor = info(node).tensor
    assert tensor is not None, node.name
    return tensor.shape


def _value(node: fx.Node) -> TensorMeta:
    """Facts of a call's result, found by running it on tensors without data."""
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), _without_data)
    call = node.target if callable(node.target) else operator.methodcaller(str(node.target), *args[1:], **kwargs)
    made = TensorMeta.of(call(*args, **kwargs) if callable(node.target) else call(args[0]))
    device = next(tensor.device for item in node.all_input_nodes if (tensor := info(item).tensor))
    return TensorMeta(made.shape, made.dtype, device, made.stride)


def _without_data(node: fx.Node) -> Any:
    tensor = info(node).tensor
    if tensor is None:
        return info(node).value
    return torch.empty_strided(tensor.shape, tensor.stride, dtype=tensor.dtype, device="meta")
