"""Arithmetic of two operands, activations, clips, cat."""

from __future__ import annotations

from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.conventions.lookup import make_lookup
from fxquant.backends.native.kernels.elementwise import Binary, Cat, Clip, Constant
from fxquant.ir.meta import info
from fxquant.plan.backend import Call

# Source: measured on identical integers; DESIGN.md, "The reference's arithmetic".
_BINARY_RATE, _CAT_RATE = 0.01, 0.03


def _refuse_binary(call: Call) -> str:
    if call.bound.get("alpha", 1) != 1:
        return "alpha scales one operand"
    for name in call.row.activations:
        value = call.bound[name]
        if isinstance(value, fx.Node):
            if not info(value).is_float_tensor:
                return f"{name} is no floating-point tensor"
        elif not isinstance(value, (int, float)):
            return f"{name} is a {type(value).__name__}"
    return ""


def _refuse_clip(call: Call) -> str:
    bounds = [value for name, value in call.bound.items() if name != "input"]
    return "its bounds are tensors" if any(isinstance(value, fx.Node) for value in bounds) else ""


def _binary(view: UnitView, relu: bool) -> Made:
    bound = view.bound
    if not all(isinstance(bound[name], fx.Node) for name in view.row.activations):
        return make_lookup(view, relu)
    operands = [bound["input"], bound["other"]]
    constants = [_constant(view, name) for name in ("input", "other")]
    constant = next((item for item in constants if item is not None), None)
    args = tuple(view.lowered(o) for o, c in zip(operands, constants, strict=True) if c is None)
    kernel = Binary(view.row.name, view.scale, view.zero_point, relu, constant, constants[0] is not None)
    return Made(args, module=kernel)


def _constant(view: UnitView, operand: str) -> Constant | None:
    integers, scale, zero_point = (view.tensor(f"{operand}{key}") for key in ("", "_scale", "_zero_point"))
    if integers is None or scale is None or zero_point is None:
        return None
    return Constant(integers, scale, zero_point)


def _cat(view: UnitView, relu: bool) -> Made:
    kernel = Cat(view.scale, view.zero_point, view.bound["dim"], stack=view.row.name == "stack")
    return Made(tuple(view.lowered(item) for item in view.bound["tensors"]), module=kernel)


def _clip(view: UnitView, relu: bool) -> Made:
    assert view.row.clip is not None
    low, high = view.row.clip(view.bound)
    return Made((view.input,), module=Clip(view.scale, view.zero_point, low, high))


CONVENTIONS = {
    "binary": Convention(_binary, _refuse_binary, clips_at_zero=True, rate=_BINARY_RATE),
    "cat": Convention(_cat, rate=_CAT_RATE),
    "stack": Convention(_cat, rate=_CAT_RATE),
    "clip": Convention(_clip, _refuse_clip),
}
