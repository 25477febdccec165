"""The product of two matrices, or batches of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel, direct
from fxquant.backends.native.kernels.constant import Constant


class Matmul(RequantizingKernel):
    """Matrix product of two uint8 tensors, or of one and a constant.

    Args:
        scale, zero_point: of the output.
        constant: the constant operand, None for two activations.
        constant_first: whether the constant is the left operand.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, constant: Constant | None, constant_first: bool) -> None:
        super().__init__(scale, zero_point)
        self.constant_first = constant_first
        Constant.register(self, constant)
        self.pack()

    def pack(self) -> None:
        """Wrap the constant; look the function up."""
        super().pack()
        self.packed_other = Constant.packed(self)
        self.packed_function = direct(torch.ops.quantized.matmul.default)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Multiply ``x`` [..., m, k] by ``y`` [..., k, n], or by the constant."""
        if y is None:
            assert self.packed_other is not None
            x, y = (self.packed_other, x) if self.constant_first else (x, self.packed_other)
        while x.dim() < y.dim():  # the kernel wants equal ranks
            x = x.unsqueeze(0)
        while y.dim() < x.dim():
            y = y.unsqueeze(0)
        return self.packed_function(x, y, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]
