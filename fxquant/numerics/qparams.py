"""From an observed range to a scale and a zero point."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT32_EPS: float = torch.finfo(torch.float32).eps
"""Smallest scale by default, 2**-23. Source: default ``eps`` of the observers in torch.ao.quantization."""

NO_RANGE = 1.2e-7
"""Scales up to this mean that nothing but zeros was seen where no scale is smaller: 2**-23 and its rounding.
Any scale stores zeros; 1.0 keeps rounding noise of a float computation from looking like signal."""

SMALLEST_SCALE = 2.0**-60
"""Lower bound for observers that may see very small activations: products of two such scales are float32 still."""


def choose_qparams(
    min_val: Tensor,
    max_val: Tensor,
    quant_min: int,
    quant_max: int,
    *,
    symmetric: bool,
    eps: float = FLOAT32_EPS,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point whose integers cover a range. The range is first extended to contain 0.

    Affine: ``scale = (max - min) / (quant_max - quant_min)``, and 0.0 is an integer exactly. Symmetric:
    ``scale = max(|min|, |max|) / ((quant_max - quant_min) / 2)``; int8 divides by 127.5 and clips half a step
    at the positive end. The zero point is 0 for signed integers, the middle, rounded up, for unsigned ones.

    Args:
        min_val: finite, any shape (one element per tensor, [C] per channel).
        max_val: finite, of ``min_val``'s shape, nowhere below it.
        quant_min: smallest integer.
        quant_max: largest integer.
        symmetric: whether 0.0 must sit in the middle of the integers.
        eps: lower bound of the scale; a range of only zeros gets it.

    Returns:
        ``(scale float32, zero_point int64)``, both of ``min_val``'s shape.

    Source: ``MinMaxObserver`` in https://docs.pytorch.org/docs/stable/quantization-support.html; Jacob et al.
    2018, https://arxiv.org/abs/1712.05877, section 3.
    """
    low = torch.clamp(min_val.to(torch.float32), max=0.0)
    high = torch.clamp(max_val.to(torch.float32), min=0.0)
    if symmetric:
        reach = torch.maximum(-low, high)
        scale = torch.clamp(reach / ((quant_max - quant_min) / 2), min=eps)
        middle = 0 if quant_min < 0 else (quant_min + quant_max + 1) // 2
        return scale, torch.full_like(scale, middle, dtype=torch.int64)
    scale = torch.clamp((high - low) / float(quant_max - quant_min), min=eps)
    zero_point = quant_min - torch.round(low / scale)
    return scale, torch.clamp(zero_point, quant_min, quant_max).to(torch.int64)


def choose_float_qparams(
    min_val: Tensor, max_val: Tensor, quant_min: int, quant_max: int, *, eps: float = FLOAT32_EPS
) -> tuple[Tensor, Tensor]:
    """Scale and float zero point of an embedding table's rows: the range need not contain 0.

    ``scale = (max - min) / (quant_max - quant_min)``, 1.0 where that is below ``eps``, and
    ``zero_point = -min / scale``.

    Args:
        min_val: finite, any shape (usually [rows]).
        max_val: finite, of ``min_val``'s shape, nowhere below it.
        quant_min: smallest integer.
        quant_max: largest integer.
        eps: scales up to this are replaced by 1.0.

    Returns:
        ``(scale float32, zero_point float32)``, both of ``min_val``'s shape.

    Source: ``torch.per_channel_affine_float_qparams`` in torch.ao.quantization's observers.
    """
    low, high = min_val.to(torch.float32), max_val.to(torch.float32)
    scale = (high - low) / float(quant_max - quant_min)
    scale = torch.where(scale > eps, scale, torch.ones_like(scale))
    return scale, -low / scale
