"""How far a kernel may be from the reference, by kind of operator.

Source: measured rates of 1-quantum differences on identical inputs, DESIGN.md, "The reference's arithmetic".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ops import catalogue
from fxquant.ops.opdef import Averages, Moves, Selects

_WEIGHTED = frozenset(("conv1d", "conv2d", "conv3d", "linear"))
_JOINS = frozenset(("cat", "stack"))
_WEIGHTED_RATE, _JOIN_RATE, _AVERAGE_RATE, _QNNPACK_ADD_RATE = 0.001, 0.03, 0.12, 0.25
_OTHER_RATE = 0.01
_RATES = {"leaky_relu": 0.04, "interpolate": 0.08}


@dataclass(frozen=True)
class Limit:
    """What the arithmetic allows.

    Attributes:
        quanta: largest difference of one element.
        expected_rate: share of elements that differ by a quantum in this kind of kernel, 0 for exact ones.
    """

    quanta: int
    expected_rate: float

    def allowed(self, count: int) -> int:
        """How many of ``count`` elements may differ: twice the rate, or four standard deviations if more.

        Args:
            count: number of elements.
        """
        if self.expected_rate == 0.0:
            return 0
        mean = self.expected_rate * count
        return math.floor(max(1.0, 2 * mean, mean + 4 * math.sqrt(mean)))


EXACT = Limit(0, 0.0)
# torch adds the zero point in float32 before it rounds, the reference after: that moves ties, and nothing else.
_BORDER = Limit(1, 0.0)


def limit_of(unit: Unit | None, plan: QuantPlan) -> Limit:
    """The limit of one unit.

    Args:
        unit: the unit, None for a float value quantized at a border.
        plan: the plan it belongs to.
    """
    if unit is None:
        return _BORDER
    row = catalogue.by_name(unit.op)
    if row is None or isinstance(row.output, Moves):
        return EXACT
    if unit.op in _JOINS:
        equal = all(edge.range_class == unit.output for edge in unit.inputs)
        return EXACT if equal else Limit(1, _JOIN_RATE)
    if unit.op in _RATES and not (isinstance(row.output, Selects) and _is_exact_kernel(unit)):
        return Limit(1, _RATES[unit.op])
    if isinstance(row.output, Selects):
        return EXACT
    if isinstance(row.output, Averages):
        return Limit(1, _AVERAGE_RATE)
    if unit.op in ("add", "sub") and torch.backends.quantized.engine == "qnnpack":
        return Limit(1, _QNNPACK_ADD_RATE)
    return Limit(1, _WEIGHTED_RATE if unit.op in _WEIGHTED else _OTHER_RATE)


def _is_exact_kernel(unit: Unit) -> bool:
    return unit.kernel is not None and "nearest" in unit.kernel.function
