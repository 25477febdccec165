"""Rounding to what integers represent, with a gradient: ``clamp(round_half_even(x * (1/scale)) + zero_point)``.

torch has an operator for it, which takes several times as long on CPUs as the few vectorized operations it stands for.
Both give the same numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EDGE = 0.5 - 2.0**-12
"""Where gradients stop, in steps beyond the last integer: half a step, less what float32 may err by there."""

_EXACT = 1024
"""Largest integer whose edge float32 tells from a tie."""


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
        rounded = _round_on_cpu(work, scale, zero_point.item(), quant_min, quant_max)
    return rounded if rounded.dtype == x.dtype else rounded.to(x.dtype)


def gradient_edges(step: float, zero_point: float, quant_min: int, quant_max: int) -> tuple[float, float]:
    """Where gradients stop: half a step beyond the smallest and the largest integer."""
    return (quant_min - zero_point - _EDGE) * step, (quant_max - zero_point + _EDGE) * step


def _round_on_cpu(x: Tensor, scale: Tensor, zero_point: float, quant_min: int, quant_max: int) -> Tensor:
    """One scale for a tensor on the CPU.

    ``hardtanh`` clips, and gives the gradient: it passes where ``x`` is inside, and stops beyond. What it made is then
    rounded in place without autograd, so that the backward of a rounding is one operator of torch.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3 (straight-through estimator).
    """
    low, high, step = quant_min - zero_point, quant_max - zero_point, scale.item()
    scale = scale if x.dim() else scale.reshape(())
    result = F.hardtanh(x, *gradient_edges(step, zero_point, quant_min, quant_max))
    with torch.no_grad():
        result.mul_(scale.reciprocal()).round_()
        if low < -_EXACT or high > _EXACT:
            result.clamp_(low, high)
        return result.mul_(scale)
