"""Addition, multiplication, activations with a range of their own, cat, and clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import Kernel, RequantizingKernel, direct, from_integers, integers_of
from fxquant.backends.native.kernels.constant import Constant
from fxquant.backends.native.kernels.traced import plain_shape

# Bytes of the widest vectors, and pixels from which on repeating an operand costs less than it saves.
_VECTOR, _LARGE_MAP = 64, 256


class Binary(RequantizingKernel):
    """add, sub or mul of two uint8 tensors, or of one and a constant.

    Args:
        name: ``add``, ``sub`` or ``mul``.
        scale, zero_point: of the output.
        relu: whether to clip at 0.
        constant: the constant operand, None for two activations.
        constant_first: whether the constant is the left operand.
    """

    def __init__(
        self,
        name: str,
        scale: Tensor,
        zero_point: Tensor,
        relu: bool,
        constant: Constant | None = None,
        constant_first: bool = False,
    ) -> None:
        super().__init__(scale, zero_point)
        self.name, self.relu, self.constant_first = name, relu, constant_first
        Constant.register(self, constant)
        self.pack()

    def pack(self) -> None:
        """Wrap the constant; choose the function."""
        super().pack()
        kind = "mul" if self.name == "mul" else "add"
        packet = getattr(torch.ops.quantized, f"{kind}_relu" if self.relu else kind)
        self.packed_function = direct(packet.default)
        self.packed_other = Constant.packed(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Combine ``x`` and ``y`` (or the constant), uint8 of broadcastable shapes."""
        if y is None:
            assert self.packed_other is not None
            y = self.packed_other
            if self.constant_first:
                x, y = y, x
        if self.name == "sub":
            y = negate(y)
        if plain_shape(x) != plain_shape(y):
            x, y = _largest_first(x, y)
            if _has_slow_rows(x, y):
                y = _repeated(y, x)
        return self.packed_function(x, y, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]


def negate(x: Tensor) -> Tensor:
    """The exact negative of a uint8 tensor: integers and zero point mirrored."""
    return from_integers(255 - integers_of(x), x.q_scale(), 255 - x.q_zero_point())


def _largest_first(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels shape their output like their first operand; addition and multiplication commute."""
    if _covers(x.shape, y.shape):
        return x, y
    if _covers(y.shape, x.shape):
        return y, x
    shape = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    return from_integers(integers_of(x).expand(shape).contiguous(), x.q_scale(), x.q_zero_point()), y


def _covers(shape: torch.Size, other: torch.Size) -> bool:
    """Whether ``other`` broadcasts to ``shape``."""
    extra = len(shape) - len(other)
    return extra >= 0 and all(size in (1, whole) for whole, size in zip(shape[extra:], other, strict=True))


def _has_slow_rows(x: Tensor, y: Tensor) -> bool:
    """Whether ``y`` scales or shifts the channels of large channels-last maps ``x``, as squeeze and excitation does.

    The kernels then work pixel by pixel and treat what is left of a pixel's channels after whole vectors one by one,
    up to ten times slower than with an operand of full size.
    """
    if x.dim() != 4 or y.shape[-3:] != (x.shape[1], 1, 1):
        return False
    return x.shape[1] % _VECTOR != 0 and x.shape[2] * x.shape[3] >= _LARGE_MAP and not x.is_contiguous()


def _repeated(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the shape and memory layout of ``x``, to which it broadcasts."""
    integers = torch.empty_like(integers_of(x)).copy_(integers_of(y))
    return from_integers(integers, y.q_scale(), y.q_zero_point())


class Cat(RequantizingKernel):
    """cat, and stack as cat of unsqueezed tensors; inputs of other ranges are requantized.

    Args:
        dim: dimension, stack: whether it is a new one.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, dim: int, stack: bool) -> None:
        super().__init__(scale, zero_point)
        self.dim, self.stack = dim, stack
        self.pack()

    def forward(self, *tensors: Tensor) -> Tensor:
        """Join ``tensors``, uint8."""
        parts: list[Any] = list(tensors)
        dim = self.dim
        if self.stack:
            dim = dim % (parts[0].dim() + 1)
            parts = [part.unsqueeze(dim) for part in parts]
        return torch.ops.quantized.cat(parts, dim, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]


class Clip(Kernel):
    """Clip to integer bounds, exactly, without reading torch's engine setting.

    Args:
        scale, zero_point: of input and output.
        low, high: bounds of the clip as numbers, None for none.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, low: float | None, high: float | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.low, self.high = low, high
        self.pack()

    def pack(self) -> None:
        """Bounds in integers."""
        self.packed_bounds = (self._integer(self.low, 0), self._integer(self.high, 255))

    def _integer(self, bound: float | None, default: int) -> int:
        if bound is None:
            return default
        inverse = 1.0 / self.scale
        return int(torch.clamp(torch.round(bound * inverse) + self.zero_point, 0, 255))

    def forward(self, x: Tensor) -> Tensor:
        """Clip ``x``, uint8 of any shape."""
        low, high = self.packed_bounds
        return from_integers(integers_of(x).clamp(low, high), x.q_scale(), x.q_zero_point())
