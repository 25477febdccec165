"""Parameters of a tensor that is quantized when it arrives."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SCALE = 6.1e-5
"""Kernels replace smaller scales by it. Source: ``SMALL_SCALE_THRESHOLD`` in ATen/native/quantized/cpu/QuantUtils.h."""

_NO_SCALE = 0.1


def choose_dynamic_qparams(x: Tensor, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point over the whole of a tensor, as the dynamic kernels choose them.

    The range is the smallest to the largest value and contains 0; scale in float64, rounded once; the zero point is
    computed from the end that is rounded less. Scales below ``SMALLEST_SCALE`` are replaced by it.

    Args:
        x: float, any shape and device; finite.
        quant_min, quant_max: the integers.

    Returns:
        ``(scale float32 [], zero_point int64 [])``.

    Source: ``ChooseQuantizationParams`` in ATen/native/quantized/cpu/QuantUtils.h.
    """
    if x.numel() == 0:
        return x.new_full((), _NO_SCALE, dtype=torch.float32), x.new_zeros((), dtype=torch.int64)
    smallest, largest = torch.aminmax(x.detach().to(torch.float32))
    low, high = smallest.clamp(max=0.0).to(torch.float64), largest.clamp(min=0.0).to(torch.float64)
    scale = (high - low) / (quant_max - quant_min)
    narrow = scale.to(torch.float32)
    scale = torch.where((narrow == 0) | torch.isinf(1.0 / narrow), _NO_SCALE, scale)
    stretch = torch.clamp(SMALLEST_SCALE / scale, min=1.0)
    low, high, scale = low * stretch, high * stretch, torch.clamp(scale, min=SMALLEST_SCALE)
    from_low, from_high = quant_min - low / scale, quant_max - high / scale
    low_error = abs(quant_min) + (low / scale).abs()
    high_error = abs(quant_max) + (high / scale).abs()
    zero_point = torch.where(low_error < high_error, from_low, from_high)
    return scale.to(torch.float32), torch.clamp(torch.round(zero_point), quant_min, quant_max).to(torch.int64)
