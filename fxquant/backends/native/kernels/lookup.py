"""Any function of one or two numbers as a table of its results, exactly the reference's."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel, from_integers, integers_of
from fxquant.backends.native.kernels.constant import Constant

# Pairs are looked up in 128 KiB, which other kernels will have driven out of the nearer caches: below this many bytes
# fetching them again takes longer than looking up every byte. Source: measured with twenty tables in turn.
_PAIRS_FROM = 1 << 18


class Lookup(RequantizingKernel):
    """Replace every integer by the one the table holds for it.

    In large tensors two neighbouring bytes are looked up at once, in a table of all 65,536 pairs that is built when it
    is first needed.

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
        """Forget the pairs of another table."""
        super().pack()
        self.packed_pairs: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``, uint8 of any shape; the memory layout is kept."""
        integers = integers_of(x)
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            found = self.table.index_select(0, integers.reshape(-1).to(torch.int32)).view_as(integers)
            return from_integers(found, self.packed_scale, self.packed_zero_point)
        dense = integers if _is_dense(integers) else integers.contiguous()
        flat = dense.as_strided((dense.numel(),), (1,))
        in_pairs = flat.numel() >= _PAIRS_FROM and flat.numel() % 2 == 0 and flat.storage_offset() % 2 == 0
        found = self._pairs(flat) if in_pairs else self.table.index_select(0, flat.to(torch.int32))
        shaped = found.as_strided(dense.shape, dense.stride())
        return from_integers(shaped, self.packed_scale, self.packed_zero_point)

    def _pairs(self, flat: Tensor) -> Tensor:
        """Look up [n] bytes two by two; int16 because index_select does not take uint16."""
        if self.packed_pairs is None:
            low, high = self.table.repeat(256), self.table.repeat_interleave(256)
            self.packed_pairs = torch.stack((low, high), dim=1).view(torch.int16).reshape(-1)
        return self.packed_pairs.index_select(0, flat.view(torch.uint16).to(torch.int32)).view(torch.uint8)

    def extra_repr(self) -> str:
        """The function and the output parameters."""
        return f"{self.name}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


class LookupChannels(RequantizingKernel):
    """Replace every integer by the one that its channel's table holds for it.

    Args:
        table: uint8 [C, 256], the output's integer for each channel and input.
        axis: of the channels, negative.
        scale, zero_point: of the output.
        name: of the function, for printing.
    """

    table: Tensor

    def __init__(self, table: Tensor, axis: int, scale: Tensor, zero_point: Tensor, name: str) -> None:
        super().__init__(scale, zero_point)
        self.register_buffer("table", table)
        self.axis, self.name = axis, name
        self.pack()

    def pack(self) -> None:
        """Where each channel's table starts, in the shape that broadcasts over the axes behind the channels."""
        super().pack()
        starts = torch.arange(self.table.shape[0], dtype=torch.int32) * 256
        self.packed_starts = starts.reshape(-1, *[1] * (-1 - self.axis))
        self.packed_table = self.table.reshape(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``, uint8 with C channels at the axis."""
        found = _looked_up(self.packed_table, self.packed_starts + integers_of(x))
        return from_integers(found, self.packed_scale, self.packed_zero_point)

    def extra_repr(self) -> str:
        """The function, the axis and the output parameters."""
        return f"{self.name}, axis={self.axis}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


class LookupPairs(RequantizingKernel):
    """Replace every pair of integers by the one that the table holds for it.

    Args:
        table: uint8 [65536], the output's integer at 256 x the first + the second.
        scale, zero_point: of the output.
        name: of the function, for printing.
        constant: the constant operand, None for two activations.
        constant_first: whether it is the first.
    """

    table: Tensor

    def __init__(
        self,
        table: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        name: str,
        constant: Constant | None = None,
        constant_first: bool = False,
    ) -> None:
        super().__init__(scale, zero_point)
        self.register_buffer("table", table)
        self.name, self.constant_first = name, constant_first
        Constant.register(self, constant)
        self.pack()

    def pack(self) -> None:
        """Wrap the constant."""
        super().pack()
        self.packed_other = Constant.packed(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Combine ``x`` and ``y`` (or the constant), uint8 of broadcastable shapes."""
        if y is None:
            assert self.packed_other is not None
            y = self.packed_other
            if self.constant_first:
                x, y = y, x
        first, second = integers_of(x), integers_of(y).to(torch.int32)
        if second.dim() == 0:  # a single number would not make the sum int32
            first = first.to(torch.int32)
        places = torch.add(second, first, alpha=256)
        return from_integers(_looked_up(self.table, places), self.packed_scale, self.packed_zero_point)

    def extra_repr(self) -> str:
        """The function and the output parameters."""
        return f"{self.name}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


class Glu(LookupPairs):
    """Gated linear unit: the pairs are the numbers of the input's two halves.

    Args:
        table, scale, zero_point: as for all pairs.
        dim: the dimension that is halved.
    """

    def __init__(self, table: Tensor, scale: Tensor, zero_point: Tensor, dim: int) -> None:
        super().__init__(table, scale, zero_point, "glu")
        self.dim = dim

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Apply to ``x``, uint8 with an even size at the dimension."""
        first, second = x.chunk(2, self.dim)
        return super().forward(first, second)


def _looked_up(table: Tensor, places: Tensor) -> Tensor:
    """Entries of ``table`` [n] uint8 at ``places``, dense int32 of any shape, in the same memory layout."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return table.index_select(0, places.reshape(-1)).view_as(places)
    flat = places.as_strided((places.numel(),), (1,))
    return table.index_select(0, flat).as_strided(places.shape, places.stride())


def _is_dense(integers: Tensor) -> bool:
    """Whether every byte from the first element to the last belongs to exactly one element."""
    return integers.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(integers)
