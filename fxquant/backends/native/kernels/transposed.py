"""Transposed convolutions on packed int8 weights: torch's kernels for them, and ordinary convolutions instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.kernels.base import from_integers, integers_of
from fxquant.backends.native.kernels.weighted import RECORDED, WeightedKernel, fits_fbgemm, is_set, not_recorded
from fxquant.numerics.conv_geometry import as_tuple, grow_kernel
from fxquant.numerics.subpixel import TransposedGeometry, subpixel

_FLOAT: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Transposed(WeightedKernel):
    """Base of both ways to run a transposed convolution.

    Args:
        tensors: as for ``WeightedKernel``, with ``weight`` [C_in, C_out/groups, *kernel].
        scale, zero_point: of the output.
        engine: engine to pack for.
        relu: whether the kernel clips at 0 before requantizing.
        geometry: kernel, stride, padding, output padding, dilation and groups.
    """

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
        if torch.jit.is_tracing() and not self.is_portable:  # type: ignore[attr-defined,no-untyped-call]
            warnings.warn(RECORDED, stacklevel=2)
            return self._in_float(x, extra)
        if x.dim() == self.rank + 1:
            return self._convolve(x.unsqueeze(0), extra).squeeze(0)
        return self._convolve(x, extra)

    @property
    def is_portable(self) -> bool:
        """Whether the weight may be packed for fbgemm as well, which files of TorchScript are where they are loaded."""
        with not_recorded():
            return self.engine == "fbgemm" or is_set(self.engine) or self._fits_fbgemm()

    def _fits_fbgemm(self) -> bool:
        raise NotImplementedError

    def _in_float(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        """The same in float32, for files of TorchScript."""
        g, (given, made) = self.geometry, self.weight.shape[:2]
        scales = self.weight_scale.expand(g.groups * made).reshape(g.groups, 1, made)
        scales = scales.expand(-1, given // g.groups, -1).reshape(given, made, *[1] * self.rank)
        extra = g.output_padding if output_padding is None else output_padding
        arguments = (g.stride, g.padding, extra, g.groups, g.dilation)
        result = _FLOAT[self.rank](x.dequantize(), self.weight.to(torch.float32) * scales, self.bias, *arguments)
        result = result.relu() if self.relu else result
        return torch.quantize_per_tensor(result, self.packed_scale, self.packed_zero_point, torch.quint8)

    def _convolve(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        raise NotImplementedError


class ConvTranspose(Transposed):
    """torch's own kernels, which have no relu; onednn's has no output padding, so its kernel grows by zeros instead."""

    def _grown(self) -> Tensor:
        return grow_kernel(self.weight, self._growth())

    def _fits_fbgemm(self) -> bool:
        """fbgemm's kernels of two taps are wrong, the others right. Source: measured on CPUs without VNNI."""
        return 2 not in self.geometry.kernel

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

    def _convolve(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        return self.packed_function(x, self.packed_params, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]


class SubpixelConv(Transposed):
    """An ordinary convolution with an output channel for each phase of the stride, and its results interleaved."""

    def _grown(self) -> Tensor:
        return self.packed_layout.weight(self.weight)

    def _fits_fbgemm(self) -> bool:
        return fits_fbgemm(self._grown(), self.geometry.groups)

    def _scales(self) -> Tensor:
        return self.packed_layout.per_channel(self.weight_scale)

    def pack(self) -> None:
        """Arrange and pack weight and bias for this kernel's engine on this CPU."""
        self.packed_layout = subpixel(self.geometry)
        super().pack()

    def _prepack(self, weight: Tensor) -> Any:
        layout, one = self.packed_layout, [1] * self.rank
        bias = None if self.bias is None else layout.per_channel(self.bias)
        prepack = getattr(torch.ops.quantized, f"conv{self.rank}d_prepack")
        return prepack(weight, bias, one, list(layout.padding), list(layout.dilation), self.geometry.groups)

    def _function(self) -> Any:
        packet = getattr(torch.ops.quantized, f"conv{self.rank}d_relu" if self.relu else f"conv{self.rank}d")
        return packet.new if "new" in packet.overloads() else packet.default

    def _convolve(self, x: Tensor, output_padding: tuple[int, ...] | None) -> Tensor:
        phases = self.packed_function(x, self.packed_params, self.packed_scale, self.packed_zero_point)
        size = self.geometry.output_size(x.shape[2:], output_padding)
        whole = self.packed_layout.interleave(integers_of(phases), size)
        return from_integers(whole, self.packed_scale, self.packed_zero_point)
