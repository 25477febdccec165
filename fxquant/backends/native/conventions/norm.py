"""Batch normalisation by running statistics: float weights, integers in and out."""

from __future__ import annotations

from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.norm import BatchNorm
from fxquant.plan.backend import Call

# Source: measured on identical integers; ties only.
_RATE = 1e-5

_ARGUMENTS = ("weight", "bias", "running_mean", "running_var", "eps")


def _refuse_batch_norm(call: Call) -> str:
    if call.module is not None:
        by_batch = call.module.training or getattr(call.module, "running_mean", None) is None
    else:
        by_batch = bool(call.bound["training"]) or call.bound["running_mean"] is None
    if by_batch:
        return "it normalises by the batch at hand, not by running statistics"
    for name in call.row.weights:
        value = call.bound.get(name)
        if value is not None and not call.is_constant(value):
            return f"its {name} is computed from activations"
    return "its eps depends on the input" if isinstance(call.bound.get("eps"), fx.Node) else ""


def _batch_norm(view: UnitView, relu: bool) -> Made:
    values = [view.bound[name] for name in _ARGUMENTS]
    arguments = [view.lowered(value) if isinstance(value, fx.Node) else value for value in values]
    return Made((view.input, *arguments), module=BatchNorm(view.scale, view.zero_point, relu))


CONVENTIONS = {"batch_norm": Convention(_batch_norm, _refuse_batch_norm, clips_at_zero=True, rate=_RATE)}
