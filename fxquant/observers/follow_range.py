"""What averaging observers do, in as few operations as it takes: it happens for every value at every training step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fxquant.numerics import choose_qparams
from fxquant.observers.base import SYMMETRIC_SCHEMES, check_finite
from fxquant.observers.moving_average import MovingAverageMinMaxObserver
from fxquant.observers.per_channel import MovingAveragePerChannelMinMaxObserver

_SCHEMES = (*SYMMETRIC_SCHEMES, torch.per_tensor_affine, torch.per_channel_affine)


def averages_plainly(observer: Any) -> tuple[bool, bool]:
    """Whether an observer is one of fxquant's averaging ones, with nothing overridden; and keeps one range for all."""
    kinds = (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver)
    plain = type(observer) in kinds and observer.qscheme in _SCHEMES
    return plain, plain and type(observer) is MovingAverageMinMaxObserver


def follow_range(observer: Any, x: Tensor, seen: bool, eps: float) -> tuple[Tensor, Tensor]:
    """Shows ``x`` to an averaging observer.

    Args:
        observer: see ``averages_plainly``.
        x: float, not empty, without gradient; per channel along the observer's axis.
        seen: whether it has seen data.
        eps: its lower bound of the scale.

    Returns:
        Scale float32 and zero point int64, [] or [C], as its ``calculate_qparams`` gives them.

    Raises:
        CalibrationError: ``x`` holds NaN or infinity; on the CPU only, elsewhere one would have to wait for the answer.
    """
    if isinstance(observer, MovingAveragePerChannelMinMaxObserver):
        rows = x.movedim(observer.ch_axis, 0).flatten(1)
        if observer.averaging_constant == 1 and observer.qscheme in SYMMETRIC_SCHEMES:
            high = rows.abs().amax(1)
            low = -high
        else:
            low, high = torch.aminmax(rows, dim=1)
    else:
        low, high = torch.aminmax(x)
    if x.device.type == "cpu" and not math.isfinite(float(high.sum() - low.sum())):
        check_finite(low, high)
    constant: float = observer.averaging_constant
    if not seen or constant == 1:
        observer.min_val, observer.max_val = low.to(torch.float32), high.to(torch.float32)
    else:
        observer.min_val = observer.min_val + constant * (low - observer.min_val)
        observer.max_val = observer.max_val + constant * (high - observer.max_val)
    symmetric = observer.qscheme in SYMMETRIC_SCHEMES
    return choose_qparams(
        observer.min_val, observer.max_val, observer.quant_min, observer.quant_max, symmetric=symmetric, eps=eps
    )


def follow_numbers(observer: Any, x: Tensor, seen: bool, eps: float) -> tuple[float, int]:
    """``follow_range`` for one range on the CPU, in Python's numbers: tensor operations take far longer than sums."""
    smallest, largest = torch.aminmax(x)
    low, high = smallest.item(), largest.item()
    if not math.isfinite(high - low):
        check_finite(smallest, largest)
    lowest, highest = observer._buffers["min_val"], observer._buffers["max_val"]
    if seen:
        constant = observer.averaging_constant
        before, after = lowest.item(), highest.item()
        low, high = before + constant * (low - before), after + constant * (high - after)
    lowest.fill_(low)
    highest.fill_(high)
    low, high = min(low, 0.0), max(high, 0.0)
    quant_min, quant_max = observer.quant_min, observer.quant_max
    if observer.qscheme in SYMMETRIC_SCHEMES:
        middle = 0 if quant_min < 0 else (quant_min + quant_max + 1) // 2
        return max(max(-low, high) / ((quant_max - quant_min) / 2), eps), middle
    scale = max((high - low) / (quant_max - quant_min), eps)
    return scale, min(max(quant_min - round(low / scale), quant_min), quant_max)
