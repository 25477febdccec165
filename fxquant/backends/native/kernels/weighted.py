"""Convolutions and linear on packed int8 weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.backends.native.engine import packing_for, require_engine
from fxquant.backends.native.kernels.base import RequantizingKernel, direct
from fxquant.numerics.conv_geometry import grow_kernel


class WeightedKernel(RequantizingKernel):
    """Weight, its scales and bias as buffers; the packed object is derived.

    Args:
        tensors: ``weight`` int8, ``weight_scale`` float32 [C_out] or [], ``weight_zero_point`` int64, and
            ``bias`` float32 [C_out] or None.
        scale, zero_point: of the output.
        engine: engine to pack for.
        relu: whether the kernel clips at 0 before requantizing.
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias: Tensor | None

    def __init__(
        self, tensors: dict[str, Tensor | None], scale: Tensor, zero_point: Tensor, engine: str, relu: bool
    ) -> None:
        super().__init__(scale, zero_point)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.engine = engine
        self.relu = relu

    def _quantized_weight(self) -> Tensor:
        weight = self._grown()
        if self.weight_scale.dim() == 0:
            return torch._make_per_tensor_quantized_tensor(weight, float(self.weight_scale), 0)
        scales = self._scales().to(torch.float64)
        zero_points = torch.zeros(scales.shape, dtype=torch.int64)
        return torch._make_per_channel_quantized_tensor(weight, scales, zero_points, self._axis())

    def _grown(self) -> Tensor:
        """The weight as it is packed."""
        return self.weight

    def _scales(self) -> Tensor:
        """One scale per output channel of the weight as it is packed."""
        return self.weight_scale

    def _axis(self) -> int:
        """The axis of the output channels."""
        return 0

    def _prepack(self, weight: Tensor) -> Any:
        raise NotImplementedError

    def pack(self) -> None:
        """Pack weight and bias for this kernel's engine on this CPU."""
        super().pack()
        require_engine(self.engine)
        with torch.inference_mode(False), torch.no_grad(), packing_for(self.engine):
            self.packed_params = self._prepack(self._quantized_weight())
        self.packed_function = direct(self._function())

    def _function(self) -> Any:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shape, engine and output parameters."""
        return (
            f"{tuple(self.weight.shape)}, engine={self.engine}, relu={self.relu}, "
            f"scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"
        )


class Conv(WeightedKernel):
    """1d, 2d and 3d convolution.

    Args:
        rank: spatial dimensions.
        geometry: ``stride``, ``padding`` (symmetric), ``dilation`` (tuples of ``rank``) and ``groups``.
        growth: zeros to put around the taps, for uneven padding.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor | None],
        scale: Tensor,
        zero_point: Tensor,
        engine: str,
        relu: bool,
        rank: int,
        geometry: dict[str, Any],
        growth: tuple[tuple[int, int], ...],
    ) -> None:
        super().__init__(tensors, scale, zero_point, engine, relu)
        self.rank, self.geometry, self.growth = rank, geometry, growth
        self.pack()

    def _grown(self) -> Tensor:
        return grow_kernel(self.weight, self.growth)

    def _prepack(self, weight: Tensor) -> Any:
        g = self.geometry
        prepack = getattr(torch.ops.quantized, f"conv{self.rank}d_prepack")
        return prepack(weight, self.bias, list(g["stride"]), list(g["padding"]), list(g["dilation"]), g["groups"])

    def _function(self) -> Any:
        name = f"conv{self.rank}d_relu" if self.relu else f"conv{self.rank}d"
        packet = getattr(torch.ops.quantized, name)
        return packet.new if "new" in packet.overloads() else packet.default

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, uint8 [N, C, *spatial], or [C, *spatial] as eager allows."""
        if x.dim() == self.rank + 1:
            batched = self.packed_function(
                x.unsqueeze(0), self.packed_params, self.packed_scale, self.packed_zero_point
            )
            return batched.squeeze(0)  # type: ignore[no-any-return]
        return self.packed_function(  # type: ignore[no-any-return]
            x, self.packed_params, self.packed_scale, self.packed_zero_point
        )


class Linear(WeightedKernel):
    """Fully connected layer over the last dimension."""

    def __init__(
        self, tensors: dict[str, Tensor | None], scale: Tensor, zero_point: Tensor, engine: str, relu: bool
    ) -> None:
        super().__init__(tensors, scale, zero_point, engine, relu)
        self.pack()

    def _prepack(self, weight: Tensor) -> Any:
        return torch.ops.quantized.linear_prepack(weight, self.bias)

    def _function(self) -> Any:
        packet = torch.ops.quantized.linear_relu if self.relu else torch.ops.quantized.linear
        return packet.default

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, uint8 [..., in_features]."""
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        product: Tensor = self.packed_function(rows, self.packed_params, self.packed_scale, self.packed_zero_point)
        if x.dim() == 1:
            return product.squeeze(0)
        if x.dim() > 2 and x.numel() == 0:  # the kernels flatten empty batches
            return product.reshape(*x.shape[:-1], product.shape[-1])
        return product
