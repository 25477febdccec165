"""Arithmetic of two operands, activations, clips, cat."""

from __future__ import annotations

import math

from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.elementwise import Binary, Cat, Clip
from fxquant.ir.meta import info
from fxquant.plan.backend import Call

# Source: measured on identical integers; DESIGN.md, "The reference's arithmetic".
_BINARY_RATE, _CAT_RATE = 0.01, 0.03


def _refuse_binary(call: Call) -> str:
    if call.bound.get("alpha", 1) != 1:
        return "alpha scales one operand"
    for name in call.row.activations:
        value = call.bound[name]
        if not isinstance(value, fx.Node):
            return f"{name} is a {type(value).__name__}"
        if not info(value).is_float_tensor:
            return f"{name} is no floating-point tensor"
        if not math.isfinite(info(value).largest):
            return f"{name} holds values that are not finite"
    return ""


def _refuse_clip(call: Call) -> str:
    assert call.row.clip is not None
    if any(isinstance(value, fx.Node) for name, value in call.bound.items() if name != "input"):
        return "its bounds are tensors"
    low, high = call.row.clip(call.bound)
    return "zero lies outside its bounds" if (low or 0) > 0 or (high or 0) < 0 else ""


def _binary(view: UnitView, relu: bool) -> Made:
    operands = [view.bound["input"], view.bound["other"]]
    constants = [view.constant(name) for name in ("input", "other")]
    constant = next((item for item in constants if item is not None), None)
    args = tuple(view.lowered(o) for o, c in zip(operands, constants, strict=True) if c is None)
    kernel = Binary(view.row.name, view.scale, view.zero_point, relu, constant, constants[0] is not None)
    return Made(args, module=kernel)


def _cat(view: UnitView, relu: bool) -> Made:
    kernel = Cat(view.scale, view.zero_point, view.bound["dim"], stack=view.row.name == "stack")
    return Made(tuple(view.lowered(item) for item in view.bound["tensors"]), module=kernel)


def _clip(view: UnitView, relu: bool) -> Made:
    assert view.row.clip is not None
    low, high = view.row.clip(view.bound)
    return Made((view.input,), module=Clip(view.scale, view.zero_point, low, high))


CONVENTIONS = {
    "binary": Convention(_binary, _refuse_binary, clips_at_zero=True, integer_constants=True, rate=_BINARY_RATE),
    "cat": Convention(_cat, rate=_CAT_RATE),
    "stack": Convention(_cat, rate=_CAT_RATE),
    "clip": Convention(_clip, _refuse_clip),
}
