"""Operators that treat every number alone, and expressions of them: tables, computed by the operators themselves.

A function of one number is a table of 256 entries, with constants along an axis one such table for each of its
positions, a function of two numbers a table of all 65,536 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.backends.native.convention import Convention, Made, UnitView, always
from fxquant.backends.native.kernels.lookup import Glu, Lookup, LookupChannels, LookupPairs
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import info
from fxquant.ir.qdq import dequantize as dequantize_op
from fxquant.ir.qdq import quantize as quantize_op
from fxquant.numerics.affine import dequantize, quantize
from fxquant.ops import catalogue
from fxquant.ops.opdef import Kernel
from fxquant.ops.pointwise import axes_of
from fxquant.plan.backend import Call

LOOKUP = Kernel("lookup", "table of 256")
LOOKUP_CHANNELS = Kernel("lookup_channels", "table of 256 a channel")
LOOKUP_PAIRS = Kernel("lookup_pairs", "table of 65,536")

# The tables are computed in float64; an operator that torch has for float32 only may round a tie the other way.
RATE = 1e-5


# -- which calls are tables ---------------------------------------------------------------------------


def _operands(call: Call) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Every (node, operand) of the call, or of the expression, that comes from outside."""
    for node in call.nodes:
        for source in node.all_input_nodes:
            if source not in call.nodes:
                yield node, source


def _refuse(call: Call) -> str:
    """What rules out every table."""
    if not call.row.is_pointwise(call.bound):
        return "it draws random numbers"
    for _, source in _operands(call):
        if source.name not in call.constants and not info(source).is_float_tensor:
            return f"{source.name} is no floating-point tensor"
        if source.name in call.constants and info(source).tensor is None:
            return f"{source.name} is no tensor"
    return ""


def _activations(call: Call) -> tuple[fx.Node, ...]:
    return tuple(dict.fromkeys(source for _, source in _operands(call) if source.name not in call.constants))


def _axes(call: Call) -> set[int]:
    """The axes of the output along which its constants vary."""
    axes: set[int] = set()
    for node, source in _operands(call):
        if source.name in call.constants:
            constant, output = info(source).tensor, info(node).tensor
            assert constant is not None and output is not None
            axes |= axes_of(catalogue.row_of(node), len(output.shape), constant.shape)
    return axes


def _refuse_one(call: Call) -> str:
    """One activation, which the output has the shape of."""
    refused, activations = _refuse(call), _activations(call)
    if refused or len(activations) != 1:
        return refused or f"{' and '.join(node.name for node in activations)} are tensors"
    given = info(activations[0]).tensor
    if given is None or call.output is None or given.shape != call.output.shape:
        return "it broadcasts its input"
    return ""


def _refuse_numbers(call: Call) -> str:
    return _refuse_one(call) or ("its constants are more than single numbers" if _axes(call) else "")


def _refuse_channels(call: Call) -> str:
    refused = _refuse_one(call)
    return refused or ("" if len(_axes(call)) == 1 else "its constants vary along several axes")


def _refuse_pairs(call: Call) -> str:
    refused = _refuse(call)
    if refused:
        return refused
    operands = [call.bound[name] for name in call.row.activations if isinstance(call.bound[name], fx.Node)]
    if len(call.nodes) != 1 or set(operands) != set(call.nodes[0].all_input_nodes):
        return "a tensor that is no activation takes part"
    constants = sum(node.name in call.constants for node in operands)  # quantized for each place of its own
    tensors = len(_activations(call)) + constants
    if tensors != 2:
        return f"{tensors} tensors take part"
    if any(not math.isfinite(info(node).largest) for node in operands):
        return "a constant of the model is not finite"
    return ""


# -- the tables -----------------------------------------------------------------------------------------


def _sources(view: UnitView) -> tuple[fx.Node, ...]:
    """The dequantize nodes that the unit reads, constants of the model included."""
    found = [s for node in view.members for s in (node, *node.all_input_nodes) if s.target is dequantize_op]
    return tuple(dict.fromkeys(found))


def _numbers(view: UnitView, source: fx.Node) -> Tensor:
    """float64 [256]: what the integers of a dequantize node stand for."""
    scale, zero_point = (get_tensor(view.reference, str(node.target)) for node in source.all_input_nodes[1:3])
    return dequantize(torch.arange(256, dtype=torch.uint8), scale, zero_point, dtype=torch.float64)


def _table(view: UnitView, numbers: dict[fx.Node, Tensor]) -> Tensor:
    """The unit computed on given numbers of its sources and quantized: uint8, of their shape."""
    result = next(node for node in view.members if node.target is quantize_op).all_input_nodes[0]
    value = _evaluate(result, dict(numbers), view)
    return quantize(value, view.scale, view.zero_point, 0, 255, torch.uint8)


def _evaluate(node: fx.Node, known: dict[fx.Node, Any], view: UnitView) -> Any:
    """The value of a node of the reference graph in float64."""
    if node in known:
        return known[node]
    if node.op == "get_attr":
        tensor = get_tensor(view.reference, str(node.target))
        known[node] = tensor.to(torch.float64) if tensor.is_floating_point() else tensor
    else:
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: _evaluate(n, known, view))
        target = getattr(args[0], node.target) if isinstance(node.target, str) else node.target
        known[node] = target(*args[isinstance(node.target, str) :], **kwargs)
    return known[node]


def make_lookup(view: UnitView, relu: bool) -> Made:
    """Compute the 256 results; absorbed clips are among what is computed."""
    (source,) = _sources(view)
    table = _table(view, {source: _numbers(view, source)}).reshape(256)
    return Made((view.lowered(source),), module=Lookup(table, view.scale, view.zero_point, view.row.name))


def _make_channels(view: UnitView, relu: bool) -> Made:
    """Compute 256 results for each position of the axis along which the constants vary."""
    (source,) = _sources(view)
    shape, axis = _shape_and_axis(view)
    lead = axis == 0
    sizes = [256, *([1] * (len(shape) - 1 + lead))]
    sizes[axis + lead] = shape[axis]
    numbers = _numbers(view, source).reshape(-1, *[1] * (len(sizes) - 1)).expand(sizes)
    table = _table(view, {source: numbers}).reshape(256, shape[axis]).t().contiguous()
    kernel = LookupChannels(table, axis - len(shape), view.scale, view.zero_point, view.row.name)
    return Made((view.lowered(source),), module=kernel)


def _shape_and_axis(view: UnitView) -> tuple[tuple[int, ...], int]:
    """The output's shape, and the axis along which constants vary."""
    output = info(view.anchor).tensor
    assert output is not None
    axes: set[int] = set()
    members = [node for node in view.members if catalogue.by_name(info(node).op) is not None]
    for node in members:
        for source in node.all_input_nodes:
            if source not in members and source.target is not dequantize_op:
                constant = _evaluate(source, {}, view)
                axes |= axes_of(catalogue.row_of(node), len(output.shape), tuple(constant.shape))
    (axis,) = axes
    return output.shape, axis


def _make_pairs(view: UnitView, relu: bool) -> Made:
    """Compute the results of all pairs; operands that turn out to be one value make a function of one number."""
    if len(_sources(view)) == 1:
        return make_lookup(view, relu)
    first, second = _sources(view)
    grid = {first: _numbers(view, first).reshape(256, 1), second: _numbers(view, second).reshape(1, 256)}
    table = _table(view, grid).reshape(-1)
    constants = [view.constant(name) for name in _names(view, (first, second))]
    constant = next((item for item in constants if item is not None), None)
    args = tuple(view.lowered(s) for s, c in zip((first, second), constants, strict=True) if c is None)
    kernel = LookupPairs(table, view.scale, view.zero_point, view.row.name, constant, constants[0] is not None)
    return Made(args, module=kernel)


def _make_glu(view: UnitView, relu: bool) -> Made:
    """Compute the results of all pairs of a number and its gate."""
    (source,) = _sources(view)
    numbers = _numbers(view, source)
    halves = torch.stack(torch.meshgrid(numbers, numbers, indexing="ij"), dim=-1)
    table = quantize(F.glu(halves), view.scale, view.zero_point, 0, 255, torch.uint8).reshape(-1)
    return Made((view.lowered(source),), module=Glu(table, view.scale, view.zero_point, view.bound["dim"]))


def _names(view: UnitView, sources: tuple[fx.Node, ...]) -> list[str]:
    """The operand that each source is."""
    return [next(name for name in view.row.activations if view.bound[name] is source) for source in sources]


CONVENTIONS = {
    "lookup": Convention(make_lookup, _refuse_numbers, clips=True, own_range=always, rate=RATE),
    "lookup_channels": Convention(_make_channels, _refuse_channels, clips=True, own_range=always, rate=RATE),
    "lookup_pairs": Convention(
        _make_pairs, _refuse_pairs, clips=True, own_range=always, integer_constants=True, rate=RATE
    ),
    "glu": Convention(_make_glu, rate=RATE),
}
