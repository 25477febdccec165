"""Quantized tensors that come from outside: a quantized input, or the result of a custom module."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel
from fxquant.errors import FxquantError

# A scale that went through float32, or through a file, is the same scale.
_SAME = 1e-6


class Take(RequantizingKernel):
    """Takes a quint8 tensor as it is when its parameters are the calibrated ones, else requantizes it and says so once.

    Args:
        scale, zero_point: what later kernels read it with.
        name: of the value, for messages.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, name: str) -> None:
        super().__init__(scale, zero_point)
        self.name, self.warned = name, False
        self.pack()

    def forward(self, x: Tensor) -> Tensor:
        """Take ``x``, quint8 per tensor, of any shape.

        Raises:
            FxquantError: ``x`` is no such tensor.
        """
        if not isinstance(x, Tensor) or x.dtype != torch.quint8 or x.qscheme() != torch.per_tensor_affine:
            raise FxquantError(
                f"{self.name!r} is to be a quint8 tensor and is {getattr(x, 'dtype', type(x).__name__)}",
                remedy="quantize it first: torch.quantize_per_tensor(x, "
                f"{self.packed_scale:.8g}, {self.packed_zero_point}, torch.quint8)",
            )
        scale, zero_point = x.q_scale(), x.q_zero_point()
        if zero_point == self.packed_zero_point and math.isclose(scale, self.packed_scale, rel_tol=_SAME):
            return x
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.name!r} arrives with scale {scale:.8g} and zero point {zero_point}, and was calibrated with "
                f"{self.packed_scale:.8g} and {self.packed_zero_point}: it is requantized at every call",
                stacklevel=2,
            )
        return torch.quantize_per_tensor(x.dequantize(), self.packed_scale, self.packed_zero_point, torch.quint8)
