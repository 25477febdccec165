"""A histogram over a growing range."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 24
"""``torch.histc`` counts in float32, which stops counting at 2**24."""


def add_to_histogram(
    counts: Tensor, lo: float, hi: float, x_min: float, x_max: float, x: Tensor
) -> tuple[Tensor, float, float]:
    """Adds values to a histogram, widening its range where they exceed it.

    Old counts are laid onto the wider range by interpolating their cumulative sum, which assumes a uniform
    density within each bin and keeps the total. When ``lo == hi`` all of the mass is at that one value,
    and is kept in bin 0.

    Args:
        counts: [bins] float64, not negative.
        lo: left edge of the first bin; above ``hi`` (for instance inf) as long as the histogram is empty.
        hi: right edge of the last bin.
        x_min: the minimum of ``x``, finite.
        x_max: the maximum of ``x``, finite.
        x: float values of any shape, on any device.

    Returns:
        ``(counts, lo, hi)`` with the values added; ``counts`` is a new tensor on the old one's device.
    """
    new_lo, new_hi = min(lo, x_min), max(hi, x_max)
    bins = counts.numel()
    old = counts if lo > hi or (lo, hi) == (new_lo, new_hi) else _widen(counts, lo, hi, new_lo, new_hi)
    added = old.clone()
    if new_lo == new_hi:
        added[0] += x.numel()
        return added, new_lo, new_hi
    for chunk in torch.split(x.flatten(), _CHUNK):
        added += torch.histc(chunk, bins, min=new_lo, max=new_hi).to(device=counts.device, dtype=counts.dtype)
    return added, new_lo, new_hi


def _widen(counts: Tensor, lo: float, hi: float, new_lo: float, new_hi: float) -> Tensor:
    """Lays [bins] counts over lo..hi onto the wider new_lo..new_hi; the total stays."""
    bins = counts.numel()
    if lo == hi:
        widened = torch.zeros_like(counts)
        widened[min(int((lo - new_lo) / (new_hi - new_lo) * bins), bins - 1)] = counts.sum()
        return widened
    edges = torch.linspace(new_lo, new_hi, bins + 1, dtype=torch.float64, device=counts.device)
    position = ((edges - lo) * (bins / (hi - lo))).clamp_(0, bins)
    position[0], position[-1] = 0, bins
    cumulative = torch.nn.functional.pad(counts.to(torch.float64).cumsum(0), (1, 0))
    whole = position.to(torch.int64)
    below = cumulative[whole] + (position - whole) * counts[whole.clamp(max=bins - 1)]
    return (below[1:] - below[:-1]).clamp_(min=0).to(counts.dtype)
