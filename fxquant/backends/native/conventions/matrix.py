"""Products of two activations."""

from __future__ import annotations

from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.matrix import Matmul
from fxquant.ir.meta import info
from fxquant.plan.backend import Call

# Source: DESIGN.md's kernel facts: 0.3% of the results differ by a quantum.
_RATE = 0.003


def _refuse_matmul(call: Call) -> str:
    for name in call.row.activations:
        value = call.bound[name]
        meta = info(value).tensor if isinstance(value, fx.Node) else None
        if meta is None or not meta.is_float:
            return f"{name} is no floating-point tensor"
        if len(meta.shape) < 2:
            return "it multiplies a vector"
    return ""


def _matmul(view: UnitView, relu: bool) -> Made:
    operands = [view.bound[name] for name in ("input", "other")]
    constants = [view.constant(name) for name in ("input", "other")]
    constant = next((item for item in constants if item is not None), None)
    kernel = Matmul(view.scale, view.zero_point, constant, constant_first=constants[0] is not None)
    return Made(tuple(view.lowered(o) for o, c in zip(operands, constants, strict=True) if c is None), module=kernel)


CONVENTIONS = {"matmul": Convention(_matmul, _refuse_matmul, integer_constants=True, rate=_RATE)}
