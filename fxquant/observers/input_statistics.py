"""What a layer with a weight reads: means and variances of its input channels, and how they move together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.numerics.compensate import InputCorrelations
from fxquant.numerics.conv_geometry import as_tuple

_LARGEST_COVARIANCE = 768
"""Channels up to which a covariance is kept: 2 MiB, and a matrix product as large as that of a layer."""

_ROWS = 4096
"""Places of a batch that go into a covariance, some times as many as it has channels."""

_NEIGHBOURS = 1 << 20
"""Numbers of a batch that go into the correlation between places."""


class InputStatistics(nn.Module):
    """Statistics of an activation per input channel, for correcting biases and rounding weights.

    Args:
        channel_axis: axis of the channels, negative: ``-1`` for linear, ``-(rank + 1)`` for convolutions.
        kernel: sizes of a convolution's kernel; empty for linear, and where nothing is to be known of neighbours.
        dilation: of the kernel.
        crossed: whether to see how channels move together.

    Attributes:
        total, total_squares: float64 [C], sums over everything but channels; empty before data.
        count: int64 [], how many values each sum holds.
        products: float32 [C, C], sums of the products of two channels over sampled places, their means taken out as far
            as the first batch knows them; empty where channels are not crossed, or are too many.
        sampled: float32 [C], the sums of the channels over the same places; sampled_count: int64 [], their number.
        centre: float32 [C], the means of the first batch.
        neighbours: float64 [2, D], for each offset between two taps the sum of products of values so far apart, and
            how many there were.
    """

    total: Tensor
    total_squares: Tensor
    count: Tensor
    products: Tensor
    sampled: Tensor
    sampled_count: Tensor
    centre: Tensor
    neighbours: Tensor

    def __init__(
        self,
        channel_axis: int,
        kernel: tuple[int, ...] = (),
        dilation: tuple[int, ...] = (),
        crossed: bool = False,
    ) -> None:
        super().__init__()
        self.channel_axis, self.kernel, self.crossed = channel_axis, tuple(kernel), crossed
        self.dilation = tuple(dilation) or (1,) * len(self.kernel)
        self.offsets = _offsets(self.kernel)
        with torch.inference_mode(False):
            for name in ("total", "total_squares"):
                self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
            for name in ("products", "sampled", "centre"):
                self.register_buffer(name, torch.zeros(0))
            for name in ("count", "sampled_count"):
                self.register_buffer(name, torch.zeros((), dtype=torch.int64))
            self.register_buffer("neighbours", torch.zeros(2, len(self.offsets), dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        """Add ``x``, [..., C, ...] floating."""
        if x.numel() == 0:
            return
        with torch.inference_mode(False), torch.no_grad():
            x = x.detach()
            axis = self.channel_axis % x.dim()
            self._add_sums(x, axis)
            if self.crossed and x.shape[axis] <= _LARGEST_COVARIANCE:
                self._add_products(x.movedim(axis, -1).reshape(-1, x.shape[axis]))
            if self.offsets:
                self._add_neighbours(x, axis)

    def _add_sums(self, x: Tensor, axis: int) -> None:
        others = [dim for dim in range(x.dim()) if dim != axis]
        known = self.total.numel() > 0
        sums = [value.sum(others) if others else value for value in (x, x.square())]
        total, squares = (value.to(torch.float64) for value in sums)
        self.total = self.total + total if known else total
        self.total_squares = self.total_squares + squares if known else squares
        self.count = self.count + x.numel() // x.shape[axis]

    def _add_products(self, rows: Tensor) -> None:
        """Rows are [places, C]; every so many-th is taken."""
        taken = rows[:: max(1, -(-len(rows) // _ROWS))].to(torch.float32)
        if not self.centre.numel():
            self.centre = taken.mean(0)
            self.products, self.sampled = taken.new_zeros(2 * taken.shape[1:]), taken.new_zeros(taken.shape[1:])
        taken = taken - self.centre
        self.products = torch.addmm(self.products, taken.t(), taken)
        self.sampled = self.sampled + taken.sum(0)
        self.sampled_count = self.sampled_count + len(taken)

    def _add_neighbours(self, x: Tensor, axis: int) -> None:
        """The first image of a batch, and of it as many channels as it takes."""
        image = x[0] if axis > 0 else x
        image = image[:: max(1, image.numel() // _NEIGHBOURS)].to(torch.float32)
        places = tuple(range(1, image.dim()))
        image = image - image.mean(places, keepdim=True)
        found = torch.tensor([_product_at(image, self._distance(offset)) for offset in self.offsets])
        self.neighbours = self.neighbours + found.t().to(self.neighbours)

    def _distance(self, offset: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(step * width for step, width in zip(offset, self.dilation, strict=True))

    @property
    def mean(self) -> Tensor | None:
        """float32 [C], None before data."""
        return (self.total / self.count).to(torch.float32) if self.total.numel() else None

    @property
    def variance(self) -> Tensor | None:
        """float32 [C], None before data."""
        if not self.total.numel():
            return None
        return (self.total_squares / self.count - (self.total / self.count) ** 2).clamp(min=0).to(torch.float32)

    @property
    def correlations(self) -> InputCorrelations | None:
        """How the inputs move together; None before data, and where nothing is known of it."""
        crossed = int(self.sampled_count) > 1
        if not self.total.numel() or not (crossed or self.offsets):
            return None
        return InputCorrelations(self._covariance() if crossed else None, self._correlation_of_taps())

    def _covariance(self) -> Tensor:
        """Shrunk towards independent channels, the more the fewer places there are for each channel."""
        count, mean = int(self.sampled_count), self.sampled / self.sampled_count
        covariance = (self.products / count - torch.outer(mean, mean)).cpu()
        kept = count / (count + len(covariance))
        return kept * covariance + (1 - kept) * covariance.diagonal().diag()

    def _correlation_of_taps(self) -> Tensor:
        if not self.offsets:
            return torch.ones(1, 1)
        sums, counts = self.neighbours.cpu()
        means = sums / counts.clamp(min=1)
        near = (means / means[0].clamp(min=torch.finfo(torch.float32).tiny)).clamp(-1, 1)
        index = {offset: position for position, offset in enumerate(self.offsets)}
        taps = list(product(*(range(size) for size in self.kernel)))
        rows = [[float(near[index[_forward(_difference(a, b))]]) for b in taps] for a in taps]
        matrix = torch.tensor(rows)
        return matrix if float(means[0]) > 0 else torch.eye(len(taps))

    def _apply(self, fn: Any, recurse: bool = True) -> InputStatistics:
        device = fn(torch.zeros(1, device=self.total.device)).device
        for name in self._buffers:
            setattr(self, name, getattr(self, name).to(device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, held in self._buffers.items():
            saved = state_dict.get(f"{prefix}{name}")
            if isinstance(saved, Tensor) and isinstance(held, Tensor):
                setattr(self, name, held.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def statistics_for(rank: int, weight_shape: Sequence[int], groups: int = 1, dilation: Any = 1) -> InputStatistics:
    """What a linear or an ordinary convolution needs to know of its input.

    Args:
        rank: spatial dimensions, 0 for linear.
        weight_shape: [C_out, C_in/groups, *kernel].
        groups: of the convolution; within its groups channels are not crossed.
        dilation: of its kernel, a number or one for each dimension.
    """
    dilations = as_tuple(dilation, rank) if rank else ()
    return InputStatistics(-1 - rank, tuple(weight_shape[2:]), dilations, crossed=groups == 1)


def _offsets(kernel: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The differences between two taps, one of each pair of opposite ones; none itself is the first."""
    if prod(kernel) == 1:
        return ()
    found = product(*(range(1 - size, size) for size in kernel))
    return tuple(sorted({_forward(offset) for offset in found}, key=lambda offset: (any(offset), offset)))


def _forward(offset: tuple[int, ...]) -> tuple[int, ...]:
    """An offset or its opposite, whichever comes later in reading order: both are the same distance."""
    return max(offset, tuple(-step for step in offset))


def _difference(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(first - second for first, second in zip(a, b, strict=True))


def _product_at(image: Tensor, distance: tuple[int, ...]) -> tuple[float, float]:
    """Sum of the products of values of one channel that are so far apart, and their number; image is [C, *places]."""
    here = there = image
    for dim, step in enumerate(distance, start=1):
        length = image.shape[dim] - abs(step)
        if length <= 0:
            return 0.0, 0.0
        here = here.narrow(dim, max(step, 0), length)
        there = there.narrow(dim, max(-step, 0), length)
    return float(torch.sum(here * there)), float(here.numel())
