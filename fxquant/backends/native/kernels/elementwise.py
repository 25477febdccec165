"""Addition, multiplication, activations with a range of their own, cat, and clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import Kernel, RequantizingKernel, direct, from_integers, integers_of


class Constant:
    """The other operand of a binary kernel when it is a constant of the model."""

    def __init__(self, integers: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        self.integers, self.scale, self.zero_point = integers, scale, zero_point


class Binary(RequantizingKernel):
    """add, sub or mul of two uint8 tensors, or of one and a constant.

    Args:
        name: ``add``, ``sub`` or ``mul``.
        scale, zero_point: of the output.
        relu: whether to clip at 0.
        constant: the constant operand, None for two activations.
        constant_first: whether the constant is the left operand.
    """

    other: Tensor | None

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
        self.register_buffer("other", None if constant is None else constant.integers)
        self.register_buffer("other_scale", None if constant is None else constant.scale)
        self.register_buffer("other_zero_point", None if constant is None else constant.zero_point)
        self.pack()

    def pack(self) -> None:
        """Wrap the constant; choose the function."""
        super().pack()
        kind = "mul" if self.name == "mul" else "add"
        packet = getattr(torch.ops.quantized, f"{kind}_relu" if self.relu else kind)
        self.packed_function = direct(packet.default)
        self.packed_other = None
        if self.other is not None:
            self.packed_other = from_integers(self.other, float(self.other_scale), int(self.other_zero_point))  # type: ignore[arg-type]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Combine ``x`` and ``y`` (or the constant), uint8 of broadcastable shapes."""
        if y is None:
            assert self.packed_other is not None
            y = self.packed_other
            if self.constant_first:
                x, y = y, x
        if self.name == "sub":
            y = negate(y)
        if x.shape != y.shape:
            x, y = _largest_first(x, y)
        return self.packed_function(x, y, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]


def negate(x: Tensor) -> Tensor:
    """The exact negative of a uint8 tensor: integers and zero point mirrored."""
    return from_integers(255 - integers_of(x), x.q_scale(), 255 - x.q_zero_point())


def _largest_first(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels shape their output like their first operand; addition and multiplication commute."""
    shape = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    if x.shape == shape:
        return x, y
    if y.shape == shape:
        return y, x
    return from_integers(integers_of(x).expand(shape).contiguous(), x.q_scale(), x.q_zero_point()), y


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
