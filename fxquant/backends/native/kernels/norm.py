"""Batch normalisation: integers in and out, float statistics and weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel, direct


class BatchNorm(RequantizingKernel):
    """Batch normalisation by running statistics.

    Args:
        scale, zero_point: of the output.
        relu: whether to clip at 0.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, relu: bool) -> None:
        super().__init__(scale, zero_point)
        self.relu = relu
        self.pack()

    def pack(self) -> None:
        """Choose the functions by the input's number of dimensions."""
        super().pack()
        ending = "_relu" if self.relu else ""
        packets = {
            rank: getattr(torch.ops.quantized, f"batch_norm{max(rank - 2, 1)}d{ending}") for rank in (2, 3, 4, 5)
        }
        self.packed_functions = {rank: direct(packet.default) for rank, packet in packets.items()}

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        """Normalise ``x``, uint8 [N, C, ...]; the other tensors are float32 [C]. Torch's kernel demands all of them."""
        function = self.packed_functions[x.dim()]
        weight = torch.ones_like(mean) if weight is None else weight
        bias = torch.zeros_like(mean) if bias is None else bias
        return function(x, weight, bias, mean, variance, eps, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]
