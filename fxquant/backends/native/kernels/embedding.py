"""Rows of integer tables, looked up and summed in float."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import Kernel, direct


class Embedding(Kernel):
    """Looks rows of a table up.

    Args:
        weight: uint8 [rows, columns]; in 0..15 for 4 bits.
        scale, zero_point: float32 [rows].
        bits: 8 or 4.
        padding_index: of embedding bags: the row that is left out, None for none.
        mean: of embedding bags: whether sums are divided by the number of rows in them.
        include_last_offset: of embedding bags: whether the last offset is the end of the last bag.

    The table is stored as the kernels read it: each row's integers, two to a byte for 4 bits, then its scale and the
    value of integer 0, in float32 or, for 4 bits, float16.
    Source: ``qembeddingbag_byte_prepack_out`` and ``_qembeddingbag_nbit_prepack_helper`` in
    ATen/native/quantized/cpu/qembeddingbag_prepack.cpp.
    """

    weight: Tensor

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bits: int,
        padding_index: int | None = None,
        mean: bool = False,
        include_last_offset: bool = False,
    ) -> None:
        super().__init__()
        self.rows, self.columns, self.bits = weight.shape[0], weight.shape[1], bits
        self.padding_index, self.mean, self.include_last_offset = padding_index, mean, include_last_offset
        self.register_buffer("weight", _as_rows(weight, scale, -zero_point * scale, bits))
        self.pack()

    def pack(self) -> None:
        """Look the function up."""
        name = "embedding_bag_byte_rowwise_offsets" if self.bits == 8 else "embedding_bag_4bit_rowwise_offsets"
        self.packed_function = direct(getattr(torch.ops.quantized, name).default)

    def forward(self, input: Tensor) -> Tensor:
        """Rows by index, int [...]: float32 [..., columns]."""
        indices = input.reshape(-1)
        starts = torch.arange(indices.numel(), dtype=indices.dtype)
        return self._sum(indices, starts, None, False).reshape(*input.shape, self.columns)

    def _sum(self, indices: Tensor, offsets: Tensor, factors: Tensor | None, include_last: bool) -> Tensor:
        if indices.numel() == 0:
            return torch.zeros(offsets.numel() - include_last, self.columns)
        given = indices.contiguous(), offsets.contiguous()
        factors = None if factors is None else factors.contiguous()
        found: Tensor = self.packed_function(self.weight, *given, False, 0, False, factors, None, include_last)
        return found[:, : self.columns]

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{self.rows}, {self.columns}, bits={self.bits}"


class EmbeddingBag(Embedding):
    """Looks rows up and sums, or averages, them bag by bag."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sum rows: float32 [bags, columns].

        Args:
            input: int [bags, size], or [indices] with ``offsets``.
            offsets: int [bags], where each bag starts.
            per_sample_weights: float32, of the shape of ``input``: what to multiply each row by.
        """
        if input.dim() == 2:
            offsets = torch.arange(0, input.numel(), max(1, input.shape[1]), dtype=input.dtype)[: input.shape[0]]
            if input.shape[1] == 0:
                return torch.zeros(input.shape[0], self.columns)
        assert offsets is not None
        indices, include_last = input.reshape(-1), self.include_last_offset and input.dim() == 1
        offsets = offsets.to(indices.dtype)
        factors = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        counted = None
        if self.padding_index is not None:
            counted = (indices != self.padding_index).to(torch.float32)
            factors = counted if factors is None else factors * counted
        total = self._sum(indices, offsets, factors, include_last)
        return total / self._sizes(indices, offsets, counted, len(total)) if self.mean else total

    def _sizes(self, indices: Tensor, offsets: Tensor, counted: Tensor | None, bags: int) -> Tensor:
        """How many rows each bag holds, at least 1: float32 [bags, 1]."""
        positions = torch.arange(indices.numel(), dtype=offsets.dtype)
        bag_of = torch.searchsorted(offsets[:bags].contiguous(), positions, right=True) - 1
        counted = torch.ones(indices.numel()) if counted is None else counted
        return torch.zeros(bags).index_add_(0, bag_of, counted).clamp_(min=1).unsqueeze(1)


def _as_rows(integers: Tensor, scale: Tensor, smallest: Tensor, bits: int) -> Tensor:
    """The rows as the kernels read them: uint8 [rows, bytes]."""
    parameters = torch.stack((scale, smallest), 1)
    if bits == 4:
        even = torch.nn.functional.pad(integers, (0, integers.shape[1] % 2))
        integers = even[:, ::2] | (even[:, 1::2] << 4)
        parameters = parameters.to(torch.float16)
    return torch.cat((integers, parameters.contiguous().view(torch.uint8)), 1)
