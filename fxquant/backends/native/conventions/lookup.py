"""Functions of one number: a table of 256 entries, computed by the operator itself."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.lookup import Lookup
from fxquant.ir.qdq import dequantize as dequantize_op
from fxquant.numerics.affine import dequantize, quantize
from fxquant.plan.backend import Call

# The table is computed in float64; an operator that torch has for float32 only may round a tie the other way.
RATE = 1e-5


def refuse_tensors(call: Call) -> str:
    """A table needs numbers for everything but its one input."""
    nodes = [name for name, value in call.bound.items() if isinstance(value, fx.Node)]
    return "" if len(nodes) == 1 else f"{' and '.join(nodes)} are tensors"


def make_lookup(view: UnitView, relu: bool) -> Made:
    """Run the operator in float on the 256 numbers its input can hold; ``relu`` clips the results at 0."""
    source = next(node for node in view.anchor.all_input_nodes if node.target is dequantize_op)
    table = table_of(view, source)
    if relu:
        table = table.clamp(min=int(view.zero_point))
    return Made((view.lowered(source),), module=Lookup(table, view.scale, view.zero_point, view.row.name))


def table_of(view: UnitView, source: fx.Node) -> Tensor:
    """uint8 [256]: quantize(operator(dequantize(0..255)))."""
    integers = torch.arange(256, dtype=torch.uint8)
    numbers = dequantize(integers, *view.input_qparams(), dtype=torch.float64)
    args, kwargs = fx.node.map_arg((view.anchor.args, dict(view.anchor.kwargs)), lambda node: numbers)
    target = getattr(Tensor, view.anchor.target) if isinstance(view.anchor.target, str) else view.anchor.target
    return quantize(target(*args, **kwargs), view.scale, view.zero_point, 0, 255, torch.uint8)


CONVENTIONS = {"lookup": Convention(make_lookup, refuse_tensors, clips_at_zero=True, rate=RATE)}
