"""Signal to quantization noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sqnr_db(reference: Tensor, test: Tensor) -> float:
    """Signal to quantization noise ratio, ``10 * log10(sum(ref^2) / sum((ref - test)^2))``, in float64.

    Args:
        reference: the exact values, any shape.
        test: the values to judge, of ``reference``'s shape.

    Returns:
        Decibels; ``inf`` when both are equal, ``-inf`` when only the reference is all zeros, and ``nan`` when
        either holds NaN.
    """
    exact = reference.detach().to(torch.float64)
    noise = float((exact - test.detach().to(device=exact.device, dtype=torch.float64)).square().sum())
    signal = float(exact.square().sum())
    if math.isnan(noise) or math.isnan(signal):
        return math.nan
    if noise == 0.0:
        return math.inf
    if signal == 0.0:
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))
