"""Numbers that an operator writes between those of its input: padding, item assignment, fills."""

from __future__ import annotations

import math

from torch import fx

from fxquant.backends.native.convention import UnitView
from fxquant.ir.meta import info
from fxquant.plan.backend import Call

# A range that holds a larger number leaves too few steps for the others: -1e4 and -1e9 are common in masks.
_LARGEST = 1000.0


def refuse_fill(call: Call) -> str:
    """The range has to contain the number, so it must be known and of a reasonable size."""
    value = call.bound[call.row.fills]
    if isinstance(value, fx.Node):
        return "" if info(value).is_float_tensor else f"its {call.row.fills} is computed"
    if isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
        what = f"{value:g}" if math.isfinite(value) else str(value)
        return f"its range would have to hold {what}, which leaves no precision for other numbers"
    return ""


def integer_of(value: float, view: UnitView) -> int:
    """The integer that stands for ``value`` in the output.

    Args:
        value: a number.
        view: the unit that writes it.
    """
    level = round(float(value * (1.0 / view.scale)))
    return min(max(level + int(view.zero_point), 0), 255)
