"""The ranges that quantize histograms with the least error, found for many histograms at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_UNIFORM, _GEOMETRIC, _FINE, _REFINEMENTS = 20, 14, 13, 2

_CLIPPING = 3.0
"""What a squared error of clipping costs beside one of rounding: it does not average out in the sums that read it, and
data not seen reaches further than data seen. Source: measurements, ``benchmarks/accuracy.py`` and ``zoo.py``."""

_TOGETHER = 24
"""Histograms searched at once: enough to make a call's overhead small, few enough for the CPU's caches."""


def search_range(counts: Tensor, lo: float, hi: float, levels: int, *, symmetric: bool = False) -> tuple[float, float]:
    """``search_ranges`` of one histogram.

    Args:
        counts: [bins] float, not negative; all zeros when nothing was counted.
        lo: left edge of the first bin.
        hi: right edge of the last bin; equal to ``lo`` when all of the mass is at one value.
        levels: number of integers, at least 2.
        symmetric: search only ranges with ``lo' == -hi'``.

    Returns:
        ``(lo', hi')`` with ``lo' <= 0 <= hi'``.
    """
    ends = torch.tensor([[lo], [hi]], dtype=torch.float64)
    left, right = search_ranges(counts[None], ends[0], ends[1], levels, symmetric=symmetric)
    return float(left), float(right)


def search_ranges(
    counts: Tensor, lo: Tensor, hi: Tensor, levels: int, *, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """The ranges whose quantization to ``levels`` values has the least expected squared error.

    The error is ``_Objective``'s. A range always contains 0, which one-sided data make one of its ends.
    Costs come in closed form from prefix sums of count, count*x and count*x^2, on a grid of (lo', hi') that
    is refined twice around its best point; the full range is on the grid, so the result is never worse.
    A range depends on its own histogram only, whatever others are searched beside it.

    Args:
        counts: [N, bins] float, not negative; a row of zeros where nothing was counted.
        lo: [N] float, left edge of the first bin; above ``hi`` where nothing was counted.
        hi: [N] float, right edge of the last bin; equal to ``lo`` where all of the mass is at one value.
        levels: number of integers, at least 2.
        symmetric: search only ranges with ``lo' == -hi'``.

    Returns:
        ``(lo', hi')``, float64 [N] on the CPU, with ``lo' <= 0 <= hi'``.
    """
    counts, lo, hi = (given.detach().to(device="cpu", dtype=torch.float64) for given in (counts, lo, hi))
    counted = counts.any(1) & (lo <= hi)
    lo, hi = (torch.where(counted, end, 0.0)[:, None] for end in (lo, hi))
    left, right = lo.clamp(max=0), hi.clamp(min=0)
    if symmetric:
        right = torch.maximum(-left, right)
        left = -right
    search = _search_symmetric if symmetric else _search
    spread = (lo < hi)[:, 0].nonzero()[:, 0]
    for rows in torch.split(spread, _TOGETHER) if spread.numel() else ():
        left[rows], right[rows] = search(counts[rows], lo[rows], hi[rows], levels)
    return left[:, 0], right[:, 0]


@dataclass(frozen=True)
class _Moments:
    """Prefix sums of count, count*x, count*x^2: float64 [N, bins + 1]; x is in bins from ``origin``, [N, 1].

    ``counts`` has a last column of zeros, so that the right edge of the last bin has a bin to its right.
    Positions are [N, M], in bins.
    """

    counts: Tensor
    origin: Tensor
    zeroth: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, counts: Tensor, origin: Tensor) -> _Moments:
        rows, bins = counts.shape
        sums = torch.zeros(3, rows, bins + 1, dtype=torch.float64)
        centre = torch.arange(bins, dtype=torch.float64) + (0.5 - origin)
        torch.cumsum(counts, dim=1, out=sums[0, :, 1:])
        torch.cumsum(counts * centre, dim=1, out=sums[1, :, 1:])
        # A uniform density on a bin has the second moment centre**2 + 1/12.
        torch.cumsum(centre.square_().add_(1 / 12).mul_(counts), dim=1, out=sums[2, :, 1:])
        return cls(torch.nn.functional.pad(counts, (0, 1)), origin, *sums)

    def rows(self, stop: int) -> _Moments:
        """The first rows alone."""
        return _Moments(*(table[:stop] for table in (self.counts, self.origin, self.zeroth, self.first, self.second)))

    def mass(self, at: Tensor) -> Tensor:
        """Mass to the left of each position."""
        _, part, index = self._split(at)
        return self.zeroth.gather(1, index) + part * self.counts.gather(1, index)

    def mass_and_square(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mass to the left of each position, and its squared distance to ``origin``."""
        edge, part, index = self._split(at)
        partial = self.counts.gather(1, index) * part
        x = edge - self.origin
        square = partial * (x * (x + part) + part * part / 3)
        return self.zeroth.gather(1, index) + partial, self.second.gather(1, index) + square

    def clipped(self, at: Tensor) -> Tensor:
        """Squared distance to each position, summed over the mass to the left of it."""
        _, part, index = self._split(at)
        x = at - self.origin
        cost = x * (x * self.zeroth.gather(1, index) - 2 * self.first.gather(1, index)) + self.second.gather(1, index)
        return (cost + self.counts.gather(1, index) * part**3 / 3).clamp_(min=0)

    def _split(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Left edge of the bin a position is in, the part of the bin to the left of it, and the bin's index."""
        inside = at.clamp(0, self.counts.shape[1] - 1)
        edge = inside.floor()
        return edge, inside - edge, edge.to(torch.int64)


@dataclass(frozen=True)
class _Objective:
    """Expected squared error of ranges, in units of bins; ``zero`` [N, 1] is the position of 0.0.

    Density is uniform within a bin, ``step = (right - left) / (levels - 1)``, and a value costs

    - outside the range, where it maps to the range's end: ``_CLIPPING`` times the squared distance to that end;
    - within half a step of 0, which is always one of the levels: its own square, so that the zeros of a relu
      and the bulk beside an outlier are not charged for a rounding that does not happen;
    - elsewhere: ``step**2 / 12``.

    ``both`` holds the histograms and, below them, their mirror images, which see the right ends as left ones.

    Source: ``HistogramObserver`` in torch.ao.quantization, which follows
    caffe2/quantization/server/norm_minimization.cc and charges ``step**2 / 12`` around 0 too.
    """

    both: _Moments
    below: _Moments
    bins: int
    zero: Tensor
    levels: int

    @classmethod
    def of(cls, counts: Tensor, zero: Tensor, levels: int) -> _Objective:
        rows, bins = counts.shape
        both = _Moments.of(torch.cat((counts, counts.flip(1))), torch.cat((zero, bins - zero)))
        return cls(both, both.rows(rows), bins, zero, levels)

    def best(self, left: Tensor, right: Tensor) -> Tensor:
        """[N] index of the least error, into [L, R] flattened.

        Args:
            left: [N, K, 1] ends, ``left <= zero``.
            right: [N, 1, K] or [N, K, 1] ends, ``zero <= right``.
        """
        lefts, rights = left.flatten(1), right.flatten(1)
        left_clip, right_clip = self.both.clipped(torch.cat((lefts, self.bins - rights))).chunk(2)
        left_mass, right_mass = self.below.mass(torch.cat((lefts, rights), 1)).chunk(2, 1)
        step = (right - left) / (self.levels - 1)
        reach, zero = step / 2, self.zero[:, None]
        near = torch.cat(
            (torch.maximum(left, zero - reach).flatten(1), torch.minimum(right, zero + reach).flatten(1)), 1
        )
        mass, square = (moment.view(-1, 2, *step.shape[1:]) for moment in self.below.mass_and_square(near))
        rounded = right_mass.view(right.shape) - left_mass.view(left.shape) - (mass[:, 1] - mass[:, 0])
        inside = rounded * step * step / 12 + (square[:, 1] - square[:, 0])
        error = inside + _CLIPPING * (left_clip.view(left.shape) + right_clip.view(right.shape))
        return error.flatten(1).argmin(1)


def _search(counts: Tensor, lo: Tensor, hi: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Ends [N, 1] with the least error. An end on a side of 0.0 without data is 0.0 and is not searched."""
    bins = counts.shape[1]
    width = (hi - lo) / bins
    zero = -lo / width
    objective = _Objective.of(counts, zero, levels)
    left = torch.where(zero <= 0, zero, _candidates(zero.clamp(max=bins), torch.zeros_like(zero)))
    right = torch.where(zero >= bins, zero, _candidates(zero.clamp(min=0), torch.full_like(zero, bins)))
    for refinement in range(_REFINEMENTS + 1):
        best = objective.best(left[:, :, None], right[:, None, :])[:, None]
        row, column = best // right.shape[1], best % right.shape[1]
        if refinement < _REFINEMENTS:
            left, right = _around(left, row), _around(right, column)
    left, right = left.gather(1, row), right.gather(1, column)
    # Ends that the search left alone keep their exact values.
    new_lo = torch.where(left <= zero.clamp(max=0), lo, (left - zero) * width)
    new_hi = torch.where(right >= zero.clamp(min=bins), hi, (right - zero) * width)
    return new_lo.clamp(max=0), new_hi.clamp(min=0)


def _search_symmetric(counts: Tensor, lo: Tensor, hi: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Ends [N, 1] around 0.0 with the least error."""
    bins = counts.shape[1]
    width = (hi - lo) / bins
    zero = -lo / width
    objective = _Objective.of(counts, zero, levels)
    reach = _candidates(torch.zeros_like(zero), torch.maximum(zero, bins - zero))
    for refinement in range(_REFINEMENTS + 1):
        best = objective.best((zero - reach)[:, :, None], (zero + reach)[:, :, None])[:, None]
        if refinement < _REFINEMENTS:
            reach = _around(reach, best)
    end = torch.minimum(reach.gather(1, best) * width, torch.maximum(-lo, hi))
    return -end, end


def _candidates(inner: Tensor, outer: Tensor) -> Tensor:
    """[N, 33] positions from ``inner`` [N, 1] to ``outer``, both included: evenly spaced, and denser near ``inner``.

    The latter find the bulk of a histogram that one outlier has stretched a thousandfold.
    """
    span = outer - inner
    even = torch.linspace(0, 1, _UNIFORM, dtype=torch.float64)[:-1]
    # One by one: torch's exponentials of a vector can differ in the last bit from those of its elements.
    halving = torch.stack([_halvings(abs(width)) for width in span[:, 0].tolist()])
    fractions = torch.cat((even.expand(len(span), -1), halving), 1).sort(1).values
    return torch.cat(((inner + span * fractions)[:, :-1], outer), 1)


def _halvings(span: float) -> Tensor:
    """[14] fractions of a span of bins, evenly spaced in logarithm, from that of half a bin to 1."""
    octaves = max(math.log2(span) + 1, 1.0) if span > 0 else 1.0
    return torch.logspace(-octaves, 0, _GEOMETRIC, base=2, dtype=torch.float64)


def _around(candidates: Tensor, best: Tensor) -> Tensor:
    """[N, 13] positions between the neighbours of the best one of [N, K], itself among them; ``best`` is [N, 1]."""
    near = (best + torch.arange(-1, 2)).clamp_(0, candidates.shape[1] - 1)
    before, here, after = candidates.gather(1, near).chunk(3, 1)
    steps = torch.linspace(0, 1, _FINE // 2 + 1, dtype=torch.float64)
    return torch.cat((before + (here - before) * steps[:-1], here + (after - here) * steps), 1)
