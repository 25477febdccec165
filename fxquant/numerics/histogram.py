"""A histogram over a growing range, and the range that quantizes it with the least error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 24
"""``torch.histc`` counts in float32, which stops counting at 2**24."""

_UNIFORM, _GEOMETRIC, _FINE, _REFINEMENTS = 20, 14, 13, 2


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
    below = _Moments.of(counts, 0.0).mass(position)
    return (below[1:] - below[:-1]).clamp_(min=0).to(counts.dtype)


def search_range(counts: Tensor, lo: float, hi: float, levels: int, *, symmetric: bool = False) -> tuple[float, float]:
    """The range whose quantization to ``levels`` values has the least expected squared error.

    The error is ``_Objective``'s. The range always contains 0, which one-sided data make one of its ends.
    Costs come in closed form from prefix sums of count, count*x and count*x^2, on a grid of (lo', hi') that
    is refined twice around its best point; the full range is on the grid, so the result is never worse.

    Args:
        counts: [bins] float, not negative; all zeros when nothing was counted.
        lo: left edge of the first bin.
        hi: right edge of the last bin; equal to ``lo`` when all of the mass is at one value.
        levels: number of integers, at least 2.
        symmetric: search only ranges with ``lo' == -hi'``.

    Returns:
        ``(lo', hi')`` with ``lo' <= 0 <= hi'``.
    """
    histogram = counts.detach().to(device="cpu", dtype=torch.float64)
    if lo > hi or not bool(histogram.any()):
        return 0.0, 0.0
    if lo == hi:
        reach = abs(lo)
        return (-reach, reach) if symmetric else (min(lo, 0.0), max(hi, 0.0))
    width = (hi - lo) / histogram.numel()
    objective = _Objective.of(histogram, zero=-lo / width, levels=levels)
    if symmetric:
        reach = _search_symmetric(objective) * width
        reach = min(reach, max(-lo, hi))
        return -reach, reach
    left, right = _search(objective)
    # Ends that the search left alone keep their exact values.
    new_lo = min(lo, 0.0) if left <= min(0.0, objective.zero) else (left - objective.zero) * width
    new_hi = max(hi, 0.0) if right >= max(objective.bins, objective.zero) else (right - objective.zero) * width
    return min(new_lo, 0.0), max(new_hi, 0.0)


@dataclass(frozen=True)
class _Moments:
    """Prefix sums of count, count*x, count*x^2: float64 [bins + 1]; x is in bins from ``origin``."""

    counts: Tensor
    origin: float
    zeroth: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, counts: Tensor, origin: float) -> _Moments:
        centre = torch.arange(counts.numel(), dtype=torch.float64, device=counts.device) + (0.5 - origin)
        sums = torch.zeros(3, counts.numel() + 1, dtype=torch.float64, device=counts.device)
        # A uniform density on a bin has the second moment centre**2 + 1/12.
        stacked = torch.stack((counts.to(torch.float64), counts * centre, counts * (centre * centre + 1 / 12)))
        torch.cumsum(stacked, dim=1, out=sums[:, 1:])
        return cls(counts, origin, sums[0], sums[1], sums[2])

    def mass(self, at: Tensor) -> Tensor:
        """Mass to the left of each position; any shape."""
        whole, part, height = self._split(at)
        return self.zeroth[whole] + part * height

    def mass_and_square(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mass to the left of each position, and its squared distance to ``origin``; any shape."""
        whole, part, height = self._split(at)
        edge = whole - self.origin
        square = height * part * (edge * (edge + part) + part * part / 3)
        return self.zeroth[whole] + part * height, self.second[whole] + square

    def clipped(self, at: Tensor) -> Tensor:
        """Squared distance to each position, summed over the mass to the left of it; any shape."""
        whole, part, height = self._split(at)
        x = at - self.origin
        cost = x * (x * self.zeroth[whole] - 2 * self.first[whole]) + self.second[whole]
        return (cost + height * part**3 / 3).clamp_(min=0)

    def _split(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole bins to the left of a position, the part of the bin it is in, and that bin's count."""
        inside = at.clamp(0, self.counts.numel())
        whole = inside.to(torch.int64)
        return whole, inside - whole, self.counts[whole.clamp(max=self.counts.numel() - 1)]


@dataclass(frozen=True)
class _Objective:
    """Expected squared error of a range, in units of bins; ``zero`` is the position of 0.0.

    Density is uniform within a bin, ``step = (right - left) / (levels - 1)``, and a value costs

    - outside the range, where it maps to the range's end: the squared distance to that end;
    - within half a step of 0, which is always one of the levels: its own square, so that the zeros of a relu
      and the bulk beside an outlier are not charged for a rounding that does not happen;
    - elsewhere: ``step**2 / 12``.

    Source: ``HistogramObserver`` in torch.ao.quantization, which follows
    caffe2/quantization/server/norm_minimization.cc and charges ``step**2 / 12`` around 0 too.
    """

    below: _Moments
    above: _Moments
    bins: int
    zero: float
    levels: int

    @classmethod
    def of(cls, counts: Tensor, zero: float, levels: int) -> _Objective:
        bins = counts.numel()
        return cls(_Moments.of(counts, zero), _Moments.of(counts.flip(0), bins - zero), bins, zero, levels)

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """Errors for ends that broadcast together, ``left <= zero <= right``."""
        step = (right - left) / (self.levels - 1)
        reach = step / 2
        around_zero = torch.stack((torch.maximum(left, self.zero - reach), torch.minimum(right, self.zero + reach)))
        mass, square = self.below.mass_and_square(around_zero)
        rounded = self.below.mass(right) - self.below.mass(left) - (mass[1] - mass[0])
        inside = rounded * step * step / 12 + (square[1] - square[0])
        return inside + self.below.clipped(left) + self.above.clipped(self.bins - right)


def _search(objective: _Objective) -> tuple[float, float]:
    """Ends with the least error. An end on a side of 0.0 without data is 0.0 and is not searched."""
    zero, bins = objective.zero, objective.bins
    origin = torch.tensor([zero], dtype=torch.float64)
    left = origin if zero <= 0 else _candidates(min(zero, bins), 0.0)
    right = origin if zero >= bins else _candidates(max(zero, 0.0), float(bins))
    for _ in range(_REFINEMENTS):
        row, column = _best(objective, left, right)
        left, right = _around(left, row), _around(right, column)
    row, column = _best(objective, left, right)
    return float(left[row]), float(right[column])


def _search_symmetric(objective: _Objective) -> float:
    """Half the width, in bins, of the range around 0.0 with the least error."""
    reach = _candidates(0.0, max(objective.zero, objective.bins - objective.zero))
    best = 0
    for refinement in range(_REFINEMENTS + 1):
        best = int(objective(objective.zero - reach, objective.zero + reach).argmin())
        if refinement < _REFINEMENTS:
            reach = _around(reach, best)
    return float(reach[best])


def _best(objective: _Objective, left: Tensor, right: Tensor) -> tuple[int, int]:
    """Row and column of the least error among [L] left ends and [R] right ends."""
    flat = int(objective(left[:, None], right[None, :]).argmin())
    return divmod(flat, right.numel())


def _candidates(inner: float, outer: float) -> Tensor:
    """Positions from ``inner`` to ``outer``, both included: evenly spaced, and denser towards ``inner``.

    The latter find the bulk of a histogram that one outlier has stretched a thousandfold.
    """
    even = torch.linspace(0, 1, _UNIFORM, dtype=torch.float64)
    halving = torch.logspace(-_octaves(abs(outer - inner)), 0, _GEOMETRIC, base=2, dtype=torch.float64)
    fractions: Tensor = torch.unique(torch.cat((even, halving)))
    positions = inner + (outer - inner) * fractions
    positions[-1] = outer
    return positions


def _octaves(span: float) -> float:
    """How often a span of bins can be halved before it is half a bin."""
    return max(math.log2(span) + 1, 1.0) if span > 0 else 1.0


def _around(candidates: Tensor, best: int) -> Tensor:
    """[13] positions between the neighbours of the best one, itself among them; one candidate stays alone."""
    if candidates.numel() == 1:
        return candidates
    before = candidates[max(best - 1, 0)]
    after = candidates[min(best + 1, candidates.numel() - 1)]
    here = candidates[best]
    steps = torch.linspace(0, 1, _FINE // 2 + 1, dtype=torch.float64)
    return torch.cat((before + (here - before) * steps[:-1], here + (after - here) * steps))
