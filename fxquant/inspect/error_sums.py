"""Running sums of one value's errors: a few numbers per value, however many batches are seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Values of a batch that enter the histogram, at most; saturation is counted on all.
_SAMPLE = 1 << 14
# Numbers that are worked on at once: 256 KiB, a few of which a core's own cache holds.
_PIECE = 1 << 16
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
        """``x`` (float32, any shape) as the integers hold it, in float, in memory of its own."""
        levels = x.mul(1.0 / self.scale).round_()
        low, high = self.low - self.zero_point, self.high - self.zero_point
        return levels.clamp_(low, high).mul_(self.scale)


@dataclass
class ErrorSums:
    """Sums over all batches, in float64.

    Attributes:
        signal: squares of the exact values, test: of the values as they run, near: of the exact values whose local
            errors were added.
        local, weight, activation, cumulative: squares of the errors.
        channels: [2, C]: squares of the exact values and of the local errors, by channel; None before data.
        count: values seen.
        below, above: how many lie outside the grid.
        levels: [512] float64, a sample of the exact values by level, see ``BINS``.
    """

    signal: float = 0.0
    test: float = 0.0
    near: float = 0.0
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
        """Add a value as it runs; both float, of one shape.

        Args:
            exact: what the float model computes, actual: what the other one does.
        """
        self.count += exact.numel()
        for one, other in zip(_pieces(exact), _pieces(actual), strict=True):
            self.signal += _squares(one)
            self.test += _squares(other)
            self.cumulative += _squares(other - one)

    def add_local(self, exact: Tensor, weighted: Tensor | None, grid: Grid) -> None:
        """Add the errors that an operator makes itself.

        Args:
            exact: what the float model computes.
            weighted: the same with quantized weights, None for operators without.
            grid: the integers that hold it.
        """
        by_rows = exact.dim() >= 4  # channels of maps are rows, of everything else columns
        sums: list[Tensor] = []
        bases = _pieces(exact) if weighted is None else _pieces(weighted)
        for one, base in zip(_pieces(exact), bases, strict=True):
            rounded = grid.rounded(base)
            if weighted is not None:
                self.weight += _squares(base - one)
                self.activation += _squares(base.sub(rounded))
            noise = rounded.sub_(one)
            sums.append(torch.stack([_by_channel(one, by_rows), _by_channel(noise, by_rows)]))
        local = self._add_channels(sums, exact, by_rows)
        self.activation += local if weighted is None else 0.0

    def add_kernel(self, exact: Tensor, made: Tensor) -> None:
        """Add the errors that a kernel with floats on both sides makes itself.

        Args:
            exact: what the float model computes, made: what the kernel does on exact inputs; of one shape.
        """
        by_rows = exact.dim() >= 4
        sums = [
            torch.stack([_by_channel(one, by_rows), _by_channel(other - one, by_rows)])
            for one, other in zip(_pieces(exact), _pieces(made), strict=True)
        ]
        self._add_channels(sums, exact, by_rows)

    def _add_channels(self, sums: list[Tensor], exact: Tensor, by_rows: bool) -> float:
        """Add squares of exact values and errors, [2, rows or C] for each piece; the sum of the errors'."""
        both = torch.cat(sums, 1) if by_rows else torch.stack(sums).sum(0)
        if by_rows:
            both = both.view(2, -1, exact.shape[1]).sum(1)
        near, local = both.sum(1).tolist()
        self.near += near
        self.local += local
        fits = self.channels is not None and self.channels.shape == both.shape
        self.channels = self.channels + both if self.channels is not None and fits else both
        return float(local)

    def add_levels(self, exact: Tensor, grid: Grid) -> None:
        """Count what lies outside the grid, and where a sample of the values lies on it."""
        low, high = grid.range
        half = grid.scale / 2
        for piece in _pieces(exact):
            smallest, largest = (float(item) for item in torch.aminmax(piece))
            if smallest < low - half:
                self.below += int(torch.count_nonzero(piece < low - half))
            if largest > high + half:
                self.above += int(torch.count_nonzero(piece > high + half))
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


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """Parts of ``x`` as matrices that stay in the cache while they are worked on.

    Rows are the channels of maps [N, C, ...]; of everything else the last axis is kept.
    """
    if x.dim() < 2:
        yield x.reshape(1, -1)
        return
    matrix = x.reshape(x.shape[0] * x.shape[1], -1) if x.dim() >= 4 else x.reshape(-1, x.shape[-1])
    yield from torch.split(matrix, max(1, _PIECE // max(1, matrix.shape[1])))


def _squares(x: Tensor) -> float:
    flat = x.reshape(-1)
    return float(torch.dot(flat, flat))


def _by_channel(x: Tensor, by_rows: bool) -> Tensor:
    """Sums of the squares of each row or column of [rows, columns], float64."""
    sums = torch.linalg.vecdot(x, x, dim=1) if by_rows else x.square().sum(0)
    return sums.to(torch.float64)
