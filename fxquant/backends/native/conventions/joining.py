"""Operators that put several tensors, or a tensor and numbers, into one."""

from __future__ import annotations

from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.conventions.filling import integer_of, refuse_fill
from fxquant.backends.native.kernels.joining import Joined
from fxquant.plan.backend import Call

# Operands of another range are requantized, where float32 may round a tie the other way.
JOIN_RATE = 1e-5


def _refuse(call: Call) -> str:
    if call.bound.get("reduce") is not None or call.bound.get("accumulate"):
        return "numbers that meet are added or multiplied, so there is no int8 kernel"
    return refuse_fill(call) if call.row.fills else ""


def _joined(view: UnitView, relu: bool) -> Made:
    bound = view.bound
    number = bound.get(view.row.fills)
    if isinstance(number, (int, float)):
        bound[view.row.fills] = integer_of(number, view)
    args, kwargs = fx.node.map_arg(view.row.unbind(bound), view.lowered)
    return Made(args, kwargs, module=Joined(view.scale, view.zero_point, view.row.name))


CONVENTIONS = {"joined": Convention(_joined, _refuse, rate=JOIN_RATE)}
