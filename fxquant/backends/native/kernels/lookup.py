"""Any function of one number, as a table: 256 inputs, 256 outputs, exactly the reference's."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel, from_integers, integers_of


class Lookup(RequantizingKernel):
    """Replace every integer by the one the table holds for it.

    Two neighbouring bytes are looked up at once, in a table of all 65,536 pairs that is built when packing: that is
    two to ten times faster than dequantizing, computing and quantizing.

    Args:
        table: uint8 [256], the output's integer for each input's.
        scale, zero_point: of the output.
        name: of the function, for printing.
    """

    table: Tensor

    def __init__(self, table: Tensor, scale: Tensor, zero_point: Tensor, name: str) -> None:
        super().__init__(scale, zero_point)
        self.register_buffer("table", table)
        self.name = name
        self.pack()

    def pack(self) -> None:
        """Build the table of pairs; int16 because that is what index_select takes."""
        super().pack()
        low = self.table.repeat(256)
        high = self.table.repeat_interleave(256)
        self.packed_pairs = torch.stack((low, high), dim=1).view(torch.int16).reshape(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``, uint8 of any shape; the memory layout is kept."""
        integers = integers_of(x)
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            found = self.table.index_select(0, integers.reshape(-1).to(torch.int32)).view_as(integers)
        else:
            found = self._pairs(integers if _is_dense(integers) else integers.contiguous())
        return from_integers(found, self.packed_scale, self.packed_zero_point)

    def _pairs(self, dense: Tensor) -> Tensor:
        """Look up [n] bytes two by two, in the order of memory."""
        count = dense.numel()
        flat = dense.as_strided((count,), (1,))
        if count % 2:
            flat = torch.cat((flat, flat[-1:]))
        found = self.packed_pairs.index_select(0, flat.view(torch.uint16).to(torch.int32)).view(torch.uint8)
        return found.as_strided(dense.shape, dense.stride())

    def extra_repr(self) -> str:
        """The function and the output parameters."""
        return f"{self.name}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


def _is_dense(integers: Tensor) -> bool:
    """Whether every byte from the first element to the last belongs to exactly one element."""
    return integers.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(integers)
