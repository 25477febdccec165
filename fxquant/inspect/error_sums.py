"""Running sums of one value's errors: a few numbers per value, however many batches are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Values of a batch that enter the histogram, at most; saturation is counted on all.
_SAMPLE = 1 << 15
# Bins of the histogram: the 256 levels of uint8, and half as many on either side for what is clipped.
BINS = 512
FIRST_LEVEL = -128
# Share of the values that a range has to serve; the rest are outliers.
_CENTRAL = 0.999


@dataclass(frozen=True)
class Grid:
    """The integers of a value.

    Attributes:
        scale, zero_point: of the levels.
        low, high: the smallest and largest level.
    """

    scale: float
    zero_point: int
    low: int = 0
    high: int = 255

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number it can hold."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    def rounded(self, x: Tensor) -> Tensor:
        """``x`` (float32, any shape) as the integers hold it, in float."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.low, self.high)


@dataclass
class ErrorSums:
    """Sums over all batches, in float64.

    Attributes:
        signal: squares of the exact values, test: of the values as they run.
        local, weight, activation, cumulative: squares of the errors.
        channels: [2, C]: squares of the exact values and of the local errors, by channel; None before data.
        count: values seen.
        below, above: how many lie outside the grid.
        levels: [512] float64, a sample of the exact values by level, see ``BINS``.
    """

    signal: float = 0.0
    test: float = 0.0
    local: float = 0.0
    weight: float = 0.0
    activation: float = 0.0
    cumulative: float = 0.0
    count: int = 0
    below: int = 0
    above: int = 0
    channels: Tensor | None = None
    levels: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, exact: Tensor, actual: Tensor) -> None:
        """Add a value as it runs; both float, of one shape."""
        self.count += exact.numel()
        self.signal += _squares(exact)
        self.test += _squares(actual)
        self.cumulative += _squares(actual - exact)

    def add_local(self, exact: Tensor, weighted: Tensor | None, rounded: Tensor) -> None:
        """Add the errors that an operator makes itself.

        Args:
            exact: what the float model computes.
            weighted: the same with quantized weights, None for operators without.
            rounded: the same as the integers of its output hold it.
        """
        noise = rounded - exact
        local = _squares(noise)
        self.local += local
        self.weight += 0.0 if weighted is None else _squares(weighted - exact)
        self.activation += local if weighted is None else _squares(rounded - weighted)
        sums = torch.stack([_by_channel(exact.square()), _by_channel(noise.square_())])
        fits = self.channels is not None and self.channels.shape == sums.shape
        self.channels = self.channels + sums if self.channels is not None and fits else sums

    def add_levels(self, exact: Tensor, grid: Grid) -> None:
        """Count what lies outside the grid, and where a sample of the values lies on it."""
        low, high = grid.range
        smallest, largest = (float(item) for item in torch.aminmax(exact))
        half = grid.scale / 2
        if smallest < low - half:
            self.below += int(torch.count_nonzero(exact < low - half))
        if largest > high + half:
            self.above += int(torch.count_nonzero(exact > high + half))
        flat = exact.reshape(-1)
        sample = flat[:: (flat.numel() // _SAMPLE) | 1]
        level = torch.round(sample / grid.scale).add_(grid.zero_point - FIRST_LEVEL).clamp_(0, BINS - 1)
        self.levels += torch.bincount(level.nan_to_num_(0.0).to(torch.int64), minlength=BINS)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between exact values and values as they run; 1 when both are zero."""
        norms = math.sqrt(self.signal * self.test)
        return (self.signal + self.test - self.cumulative) / (2 * norms) if norms else float(self.cumulative == 0.0)

    @property
    def median_channel_db(self) -> float:
        """SQNR of the median channel; ``inf`` without local errors.

        One channel with huge values makes the SQNR of the whole look fine while all others are rounded away.
        """
        if self.channels is None or self.local == 0.0:
            return math.inf
        signal, noise = self.channels
        alive = signal > 0
        ratio = float((noise[alive] / signal[alive]).median()) if bool(alive.any()) else 0.0
        return ratio_db(1.0, ratio)

    def used_share(self, grid: Grid) -> float:
        """Share of the levels that the central 99.9 % of the values use, 0..1."""
        inside = self.levels[grid.low - FIRST_LEVEL : grid.high - FIRST_LEVEL + 1]
        total = float(inside.sum())
        if total == 0.0:
            return 0.0
        cumulated = inside.cumsum(0) / total
        tail = (1 - _CENTRAL) / 2
        first, last = int((cumulated <= tail).sum()), int((cumulated < 1 - tail).sum())
        return (last - first + 1) / len(inside)


def ratio_db(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``: ``inf`` without noise, ``-inf`` with noise alone, ``nan`` where one is NaN."""
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _squares(x: Tensor) -> float:
    flat = x.reshape(-1)
    return float(torch.dot(flat, flat))


def _by_channel(x: Tensor) -> Tensor:
    """Sums over all but the channels, float64 [C]: axis 1 of maps, the last axis of everything else."""
    if x.dim() == 0:
        return x.reshape(1).to(torch.float64)
    axis = 1 if x.dim() >= 4 else x.dim() - 1
    others = [dim for dim in range(x.dim()) if dim != axis]
    return (x.sum(others) if others else x).to(torch.float64)
