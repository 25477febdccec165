"""Choosing among numbers: ``where``, ``masked_fill``, the larger or smaller of two."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.choice import Choose, Operand
from fxquant.backends.native.kernels.lookup import Lookup
from fxquant.ir.edit import evaluate_constant
from fxquant.ir.meta import info
from fxquant.ir.qdq import dequantize as dequantize_op
from fxquant.numerics.affine import dequantize, quantize
from fxquant.ops.opdef import Bound, Kernel
from fxquant.plan.backend import Call

_CONDITIONS = ("condition", "mask")


def _values(bound: Bound) -> tuple[Any, Any]:
    """What is chosen where the condition holds, and elsewhere."""
    return (bound["value"], bound["input"]) if "mask" in bound else (bound["input"], bound["other"])


def _refuse(call: Call) -> str:
    activations = 0
    for value in _values(call.bound):
        if isinstance(value, fx.Node):
            if not info(value).is_float_tensor:
                return f"{value.name} is no floating-point tensor"
            if not call.is_constant(value):
                activations += 1
        elif not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"it fills with {value}"
    conditional = any(name in call.bound for name in _CONDITIONS)
    return "" if activations == 2 or (conditional and activations) else "one operand is a constant"


def _own_range(call: Call) -> bool:
    """Constants other than zero need not lie in the range of what they are chosen instead of."""
    return any(call.is_constant(value) and value != 0 for value in _values(call.bound))


def _make(view: UnitView, relu: bool) -> Made:
    given = [view.bound[name] for name in _CONDITIONS if name in view.bound]
    operands = []
    for value in _values(view.bound):
        operands.append(_operand(value, view))
        given += [value] if operands[-1].integers is None else []
    kernel = Choose(view.row.name, view.scale, view.zero_point, *operands)
    return Made(tuple(view.lowered(value) for value in given), module=kernel)


def _operand(value: Any, view: UnitView) -> Operand:
    """An activation with the table that brings it to the output's range, or a constant in that range."""
    output = (view.scale, view.zero_point, 0, 255, torch.uint8)
    if not isinstance(value, fx.Node):
        return Operand(integers=quantize(torch.tensor(value, dtype=torch.float64), *output))
    if value.target is not dequantize_op:
        return Operand(integers=quantize(evaluate_constant(value, view.reference).to(torch.float64), *output))
    scale, zero_point = (_parameter(view, node) for node in value.all_input_nodes[1:3])
    if scale == view.scale and zero_point == view.zero_point:
        return Operand()
    numbers = dequantize(torch.arange(256, dtype=torch.uint8), scale, zero_point, dtype=torch.float64)
    return Operand(Lookup(quantize(numbers, *output), view.scale, view.zero_point, "requantize"))


def _parameter(view: UnitView, node: fx.Node) -> Tensor:
    return evaluate_constant(node, view.reference)


def _mask(bound: Bound) -> tuple[fx.Node, fx.Node] | None:
    """The tensor and the mask of truth values that it is multiplied by, None for other products."""
    pair = (bound["input"], bound["other"])
    for values, mask in (pair, pair[::-1]):
        if isinstance(values, fx.Node) and isinstance(mask, fx.Node) and info(values).is_float_tensor:
            known = info(mask).tensor
            if known is not None and known.dtype == torch.bool:
                return values, mask
    return None


def _choose_product(call: Call) -> Kernel:
    """A product with truth values is a choice between a number and zero."""
    is_product = call.row.name == "mul" and _mask(call.bound) is not None
    return Kernel("mask", "choice on integers") if is_product else call.row.kernels["native"]


def _refuse_mask(call: Call) -> str:
    found = _mask(call.bound)
    return "" if found is not None and not call.is_constant(found[0]) else "its numbers are a constant"


def _make_mask(view: UnitView, relu: bool) -> Made:
    values, mask = view.bound["input"], view.bound["other"]
    if values.target is not dequantize_op:
        values, mask = mask, values
    zero = Operand(integers=view.zero_point.to(torch.uint8))
    kernel = Choose("where", view.scale, view.zero_point, _operand(values, view), zero)
    return Made((view.lowered(mask), view.lowered(values)), module=kernel)


CHOICES = {"binary": _choose_product}

CONVENTIONS = {
    "mask": Convention(_make_mask, _refuse_mask),
    "choice": Convention(_make, _refuse, own_range=_own_range),
}
