"""Transposed convolutions on packed int8 weights: torch's kernels for them, and ordinary convolutions instead."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.kernels.base import from_integers, integers_of
from fxquant.backends.native.kernels.traced import in_float, loads_anywhere
from fxquant.backends.native.kernels.weighted import WeightedKernel
from fxquant.numerics.conv_geometry import as_tuple, grow_kernel
from fxquant.numerics.subpixel import TransposedGeometry, subpixel


class Transposed(WeightedKernel):
    """Base of both ways to run a transposed convolution.

    Args:
        tensors: as for ``WeightedKernel``, with ``weight`` [C_in, C_out/groups, *kernel].
        scale, zero_point: of the output.
        engine: engine to pack for.
        relu: whether the kernel clips at 0 before requantizing.
        geometry: kernel, stride, padding, output padding, dilation and groups.
    """

    is_packed_for_qnnpack = False  # they run there in models for other engines, too

    def __init__(
        self,
        tensors: dict[str, Tensor | None],
        scale: Tensor,
        zero_point: Tensor,
        engine: str,
        relu: bool,
        geometry: TransposedGeometry,
    ) -> None:
        super().__init__(tensors, scale, zero_point, engine, relu)
        self.geometry, self.rank = geometry, len(geometry.kernel)
        self.pack()

    def forward(self, x: Tensor, output_padding: int | tuple[int, ...] | None = None) -> Tensor:
        """Convolve ``x``, uint8 [N, C_in, *spatial], or [C_in, *spatial] as eager allows.

        ``output_padding`` is given where it depends on the input; the geometry's is then the largest there can be.
        """
        extra = None if output_padding is None else as_tuple(output_padding, self.rank)
        if x.dim() == self.rank + 1:
            return self._convolve(x.unsqueeze(0), extra).squeeze(0)
        return self._convolve(x, extra)

    def _convolve(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        raise NotImplementedError


class ConvTranspose(Transposed):
    """torch's own kernels, which have no relu; onednn's has no output padding, so its kernel grows by zeros instead."""

    def _grown(self) -> Tensor:
        return grow_kernel(self.weight, self._growth())

    def _growth(self) -> tuple[tuple[int, int], ...]:
        g = self.geometry
        if self.engine != "onednn":
            return ((0, 0),) * self.rank
        return tuple((0, extra // step) for extra, step in zip(g.output_padding, g.dilation, strict=True))

    def _axis(self) -> int:
        return 1

    def _prepack(self, weight: Tensor) -> Any:
        g, grown = self.geometry, any(after for _, after in self._growth())
        extra = [0] * self.rank if grown else list(g.output_padding)
        prepack = getattr(torch.ops.quantized, f"conv_transpose{self.rank}d_prepack")
        return prepack(weight, self.bias, list(g.stride), list(g.padding), extra, list(g.dilation), g.groups)

    def _function(self) -> Any:
        return getattr(torch.ops.quantized, f"conv_transpose{self.rank}d").default

    def _loads_anywhere(self) -> bool:
        return False  # fbgemm's kernel is wrong for some shapes, and takes other scales

    def _convolve(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        if self._is_traced():
            return self._traced(x)
        return self.packed_function(x, self.packed_params, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]

    def _traced(self, x: Tensor) -> Tensor:
        g, along = self.geometry, (-1, *[1] * self.rank)
        bias = None if self.bias is None else self.bias.reshape(along)

        def compute(levels: Tensor, weight: Tensor) -> Tensor:
            convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.rank - 1]
            arguments = (list(g.stride), list(g.padding), list(g.output_padding), g.groups, list(g.dilation))
            return convolve(levels, weight, None, *arguments)  # type: ignore[no-any-return]

        scales = self.weight_scale if self.weight_scale.dim() == 0 else self.weight_scale.reshape(along)
        return self._rounded(in_float(compute, x, self.weight, scales, bias, self.relu))


class SubpixelConv(Transposed):
    """An ordinary convolution with an output channel for each phase of the stride, and its results interleaved."""

    def _grown(self) -> Tensor:
        return self.packed_layout.weight(self.weight)

    def _scales(self) -> Tensor:
        return self.packed_layout.per_channel(self.weight_scale)

    def pack(self) -> None:
        """Arrange and pack weight and bias for this kernel's engine on this CPU."""
        self.packed_layout = subpixel(self.geometry)
        super().pack()

    def _loads_anywhere(self) -> bool:
        return loads_anywhere(self._grown(), self.geometry.groups)

    def _traced(self, x: Tensor) -> Tensor:
        layout, along = self.packed_layout, (-1, *[1] * self.rank)
        bias = None if self.bias is None else layout.per_channel(self.bias).reshape(along)

        def compute(levels: Tensor, weight: Tensor) -> Tensor:
            convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[self.rank - 1]
            arguments = ([1] * self.rank, list(layout.padding), list(layout.dilation), self.geometry.groups)
            return convolve(levels, weight, None, *arguments)  # type: ignore[no-any-return]

        scales = self._scales().reshape(along) if self.weight_scale.dim() else self.weight_scale
        return self._rounded(in_float(compute, x, self._grown(), scales, bias, self.relu))

    def _prepack(self, weight: Tensor) -> Any:
        layout, one = self.packed_layout, [1] * self.rank
        bias = None if self.bias is None else layout.per_channel(self.bias)
        prepack = getattr(torch.ops.quantized, f"conv{self.rank}d_prepack")
        return prepack(weight, bias, one, list(layout.padding), list(layout.dilation), self.geometry.groups)

    def _function(self) -> Any:
        packet = getattr(torch.ops.quantized, f"conv{self.rank}d_relu" if self.relu else f"conv{self.rank}d")
        return packet.new if "new" in packet.overloads() else packet.default

    def _convolve(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        if self._is_traced():
            phases = self._traced(x)
        else:
            phases = self.packed_function(x, self.packed_params, self.packed_scale, self.packed_zero_point)
        size = self.geometry.output_size(x.shape[2:], output_padding)
        whole = self.packed_layout.interleave(integers_of(phases), size)
        return from_integers(whole, self.packed_scale, self.packed_zero_point)
