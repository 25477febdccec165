"""An operand that is a constant of the model, in integers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fxquant.backends.native.kernels.base import from_integers


@dataclass(frozen=True)
class Constant:
    """What a kernel stores of it.

    Attributes:
        integers: uint8 of any shape, scale: float32 [], zero_point: int64 [].
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    @staticmethod
    def register(kernel: nn.Module, constant: Constant | None) -> None:
        """Give ``kernel`` buffers ``other``, ``other_scale``, ``other_zero_point``; None for no constant."""
        kernel.register_buffer("other", None if constant is None else constant.integers)
        kernel.register_buffer("other_scale", None if constant is None else constant.scale)
        kernel.register_buffer("other_zero_point", None if constant is None else constant.zero_point)

    @staticmethod
    def packed(kernel: nn.Module) -> Tensor | None:
        """The quantized tensor those buffers stand for, None without a constant."""
        integers, scale, zero_point = (getattr(kernel, f"other{key}") for key in ("", "_scale", "_zero_point"))
        return None if integers is None else from_integers(integers, float(scale), int(zero_point))
