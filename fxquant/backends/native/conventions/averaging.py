"""Averages over windows: the input's range is kept, results are rounded."""

from __future__ import annotations

from math import prod

from fxquant.backends.native.convention import Convention
from fxquant.backends.native.conventions.movement import same_function
from fxquant.ir.meta import info
from fxquant.plan.backend import Call


def _refuse_average(call: Call) -> str:
    """Averaging whole maps narrows the range so much that sharing the input's would waste bits."""
    if call.bound.get("dtype") is not None:
        return "its dtype is converted"
    pooled = info(call.bound["input"]).tensor
    if pooled is None or prod(pooled.shape[2:]) == 1:
        return "torch's int8 average of single pixels is wrong"
    if call.row.name == "mean" or (call.output is not None and prod(call.output.shape[2:]) == 1):
        return "its range is much narrower than its input's, which an int8 average would have to share"
    return ""


CONVENTIONS = {"average": Convention(same_function, _refuse_average, rate=0.12)}
