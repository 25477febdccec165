"""How far a kernel may be from the reference: one quantum, at no more than twice its kind's usual rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fxquant.ir.quant_plan import QuantPlan, Unit

# Exact, unless they have to bring their inputs into one range.
_JOINS = frozenset(("cat", "stack", "joined", "pad_constant"))
# qnnpack's addition truncates differently at ties.
_QNNPACK_ADD_RATE = 0.25


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

# Kernels with floats on both sides sum in another order: a result on the edge of a step, or an input or a state that
# rounds the other way, moves by one.
DYNAMIC = Limit(1, 0.001)


def limit_of(unit: Unit | None, plan: QuantPlan) -> Limit:
    """The limit of one unit.

    Args:
        unit: the unit, None for a float value quantized at a border.
        plan: the plan it belongs to.
    """
    if unit is None:
        return _BORDER
    if unit.kernel is None:
        return EXACT
    if unit.kernel.convention in _JOINS and all(edge.range_class == unit.output for edge in unit.inputs):
        return EXACT
    if unit.op in ("add", "sub") and torch.backends.quantized.engine == "qnnpack":
        return Limit(1, _QNNPACK_ADD_RATE)
    return Limit(1, unit.kernel.rate) if unit.kernel.rate else EXACT
