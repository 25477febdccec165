"""Sums, means, variances and norms: exact sums of integers, then one rounding to a range of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.reduction import Reduction, Summary
from fxquant.ops.opdef import Bound
from fxquant.plan.backend import Call

# Sums are exact; the reference adds up floats, and rounding a tie may go the other way.
_RATE = 1e-5
_ORDERS = {2: 2, 1: 1, "fro": 2, None: 2}


def _refuse(call: Call) -> str:
    for name, value in call.bound.items():
        items = value if isinstance(value, (tuple, list)) else (value,)
        if name not in call.row.activations and any(isinstance(item, fx.Node) for item in items):
            return f"its {name} is computed while the model runs"
    if call.bound.get("dtype") not in (None, torch.float32):
        return "its dtype is converted"
    if _order(call.bound) not in _ORDERS:
        return f"a norm of order {_order(call.bound)} is no sum"
    return ""


def _order(bound: Bound) -> Any:
    return bound.get("p", bound.get("ord"))


def _make(view: UnitView, relu: bool) -> Made:
    bound, name = view.bound, view.row.name
    dim = bound["dim"]
    summary = Summary(
        name="norm" if name == "vector_norm" else name,
        dims=() if dim is None else tuple(dim) if isinstance(dim, (tuple, list)) else (dim,),
        keepdim=bool(bound.get("keepdim", False)),
        correction=_correction(bound),
        order=_ORDERS[_order(bound)],
    )
    return Made((view.input,), module=Reduction(summary, view.scale, view.zero_point))


def _correction(bound: Bound) -> float:
    if bound.get("correction") is not None:
        return float(bound["correction"])
    return 0.0 if bound.get("unbiased") is False else 1.0


CONVENTIONS = {"sums": Convention(_make, _refuse, rate=_RATE)}
