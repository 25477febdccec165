"""Averages over windows, rounded: in the input's range, or in one of their own where that would not do."""

from __future__ import annotations

from math import prod

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.conventions.movement import same_function, through
from fxquant.backends.native.kernels import averaging
from fxquant.ops.opdef import Kernel
from fxquant.plan.backend import Call

# The integer sums are exact; ties are rounded to even numbers, in the reference by the noise of float64.
_RATE = 1e-5


def _average_pool(view: UnitView, relu: bool) -> Made:
    plain = same_function(view, relu)
    image, *settings = plain.args
    return Made((image, int(view.row.name[-2]), *settings), plain.kwargs, target=averaging.average_pool)


def choose_adaptive(call: Call) -> Kernel:
    """The average of a whole map varies so little that in its input's range most bits would be wasted."""
    rank = int(call.row.name[-2])
    if call.output is not None and prod(call.output.shape[-rank:]) == 1:
        return Kernel("in_float", f"aten.{call.row.name} in float32")
    return Kernel("adaptive_windows", f"aten.{call.row.name}")


def choose_window(call: Call) -> Kernel:
    """A divisor of its own can make sums of more than the input's range holds."""
    if call.bound.get("divisor_override") is not None:
        return Kernel("in_float", f"aten.{call.row.name} in float32")
    return Kernel("average_pool", call.row.kernels["native"].function)


CONVENTIONS = {
    "average_pool": Convention(_average_pool, rate=_RATE),
    "adaptive_windows": Convention(through(averaging.adaptive_average, named=True), rate=_RATE),
}

CHOICES = {"adaptive_average": choose_adaptive, "window_average": choose_window}
