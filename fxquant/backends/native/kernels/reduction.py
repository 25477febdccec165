"""Sums and what is made of them: added up exactly in integers, scaled, and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel, from_integers, integers_of

# Sums of so many bytes are exact in float32, which torch adds fastest.
_EXACT_IN_FLOAT32 = 2**24 // 255


@dataclass(frozen=True)
class Summary:
    """What is computed of an input.

    Attributes:
        name: ``sum``, ``mean``, ``var``, ``std``, ``norm`` or ``cumsum``.
        dims: what is summed over; empty for everything.
        keepdim: whether those dimensions stay, with size 1.
        correction: subtracted from the count by ``var`` and ``std``.
        order: of the norm, 1 or 2.
    """

    name: str
    dims: tuple[int, ...] = ()
    keepdim: bool = False
    correction: float = 1.0
    order: int = 2


@dataclass(frozen=True)
class _Input:
    """uint8 integers of any shape, what they stand for, and sums over them, exact in float64."""

    integers: Tensor
    scale: float
    zero_point: int
    summary: Summary

    @property
    def count(self) -> int:
        """How many numbers make one result."""
        shape, dims = self.integers.shape, self.summary.dims
        return math.prod(shape[dim] for dim in dims) if dims else self.integers.numel()

    @property
    def total(self) -> Tensor:
        """The sums of the integers."""
        return self.over(self.integers, torch.float32 if self.count <= _EXACT_IN_FLOAT32 else torch.int64)

    @property
    def squares(self) -> Tensor:
        """The sums of their squares."""
        return self.over(self.integers.to(torch.float32).square_(), torch.float64)

    def over(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """The sums of ``values``, added up in ``dtype``."""
        dims = list(self.summary.dims) or list(range(values.dim()))
        return values.sum(dims, keepdim=self.summary.keepdim, dtype=dtype).to(torch.float64)


def _sum(given: _Input) -> Tensor:
    return (given.total - given.count * given.zero_point) * given.scale


def _mean(given: _Input) -> Tensor:
    return (given.total / given.count - given.zero_point) * given.scale


def _var(given: _Input) -> Tensor:
    """Source: the variance is the mean of the squares less the square of the mean."""
    spread = (given.squares - given.total.square() / given.count).clamp(min=0.0)
    return spread / max(given.count - given.summary.correction, 0.0) * given.scale**2


def _std(given: _Input) -> Tensor:
    return _var(given).sqrt()


def _norm(given: _Input) -> Tensor:
    zero_point = given.zero_point
    if given.summary.order == 1:
        return given.over((given.integers.to(torch.int16) - zero_point).abs_(), torch.int64) * given.scale
    squares = given.squares - 2 * zero_point * given.total + given.count * zero_point**2
    return squares.sqrt() * given.scale


def _cumsum(given: _Input) -> Tensor:
    (dim,) = given.summary.dims
    centred = given.integers.to(torch.int32) - given.zero_point
    return centred.cumsum(dim, dtype=torch.int64).to(torch.float64) * given.scale


_FORMULAS: dict[str, Callable[[_Input], Tensor]] = {
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "std": _std,
    "norm": _norm,
    "cumsum": _cumsum,
}


class Reduction(RequantizingKernel):
    """Sums, means, variances and norms over dimensions, and running sums along one.

    Args:
        summary: what is computed.
        scale, zero_point: of the output.
    """

    def __init__(self, summary: Summary, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__(scale, zero_point)
        self.summary = summary
        self.pack()

    def pack(self) -> None:
        """The reciprocal by which numbers become levels, in float32 as everywhere."""
        super().pack()
        self.packed_inverse = float(1.0 / self.scale.to(torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Summarise ``x``, uint8 of any shape."""
        given = _Input(integers_of(x), x.q_scale(), x.q_zero_point(), self.summary)
        levels = torch.round(_FORMULAS[self.summary.name](given) * self.packed_inverse) + self.packed_zero_point
        return from_integers(levels.clamp(0, 255).to(torch.uint8), self.packed_scale, self.packed_zero_point)

    def extra_repr(self) -> str:
        """What is computed and the output parameters."""
        return f"{self.summary}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"
