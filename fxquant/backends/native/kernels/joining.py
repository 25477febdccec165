"""Several tensors put into one, and numbers written into a tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxquant.backends.native.kernels.base import RequantizingKernel, from_integers, integers_of
from fxquant.backends.native.kernels.movement import target_of


class Joined(RequantizingKernel):
    """An operator that puts the numbers of its operands into one tensor, on integers.

    Operands of another range than the output's are requantized.

    Args:
        scale, zero_point: of the output.
        name: catalogue name of the operator.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, name: str) -> None:
        super().__init__(scale, zero_point)
        self.name = name
        self.pack()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Call the operator; quantized tensors among its arguments are passed as integers."""
        given = fx.node.map_aggregate((args, kwargs), self._integers)
        made = target_of(self.name)(*given[0], **given[1])
        return from_integers(made, self.packed_scale, self.packed_zero_point)

    def _integers(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_quantized:
            return value
        if value.q_scale() != self.packed_scale or value.q_zero_point() != self.packed_zero_point:
            value = torch.quantize_per_tensor(
                value.dequantize(), self.packed_scale, self.packed_zero_point, torch.quint8
            )
        return integers_of(value)

    def extra_repr(self) -> str:
        """The operator."""
        return self.name
