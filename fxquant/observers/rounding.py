"""Rounding to what integers represent, with a gradient: ``clamp(round_half_even(x * (1/scale)) + zero_point)``.

torch has an operator for it, which takes several times as long on CPUs as the few vectorized operations it stands for.
Both give the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fake_quantize_tensor(
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int | None = None
) -> Tensor:
    """Rounds ``x`` to what integers represent; gradients pass inside the range.

    Args:
        x: any shape; half precision is computed in float32.
        scale: float32 [1] or [C]; zero_point: int32 or float32 of the same shape.
        quant_min, quant_max: smallest and largest integer.
        axis: the dimension of ``x`` that ``scale`` runs along; None for one scale.
    """
    work = x if x.dtype == torch.float32 else x.to(torch.float32)
    if axis is not None:
        along = axis % x.dim()
        rounded = torch.fake_quantize_per_channel_affine(work, scale, zero_point, along, quant_min, quant_max)
    elif work.device.type != "cpu":
        rounded = torch.fake_quantize_per_tensor_affine(work, scale, zero_point, quant_min, quant_max)
    else:
        rounded = RoundedTensor.apply(  # type: ignore[no-untyped-call]
            work, scale.item(), scale.reciprocal().item(), zero_point.item(), quant_min, quant_max
        )
    return rounded if rounded.dtype == x.dtype else rounded.to(x.dtype)


class RoundedTensor(torch.autograd.Function):
    """One scale for a tensor on the CPU; gradients stop where ``x`` is beyond the largest or smallest integer.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3 (straight-through estimator).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: float, inverse: float, zero_point: float, quant_min: int, quant_max: int
    ) -> Tensor:
        """Round ``x``, float32; ``scale`` and ``inverse``, its reciprocal, are float32 numbers."""
        low, high = quant_min - zero_point, quant_max - zero_point
        ctx.save_for_backward(x)
        ctx.reach = (low - 0.5) * scale, (high + 0.5) * scale
        return (x * inverse).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """The gradient of ``x``."""
        (x,) = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.reach)
        return passed, None, None, None, None, None
