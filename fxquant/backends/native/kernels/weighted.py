"""Convolutions and linear on packed int8 weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.engine import packing_for, require_engine
from fxquant.backends.native.kernels.base import RequantizingKernel, direct
from fxquant.numerics.conv_geometry import grow_kernel
from fxquant.numerics.pair_limit import PAIR_LIMIT, max_pair_sum

_FLOAT: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

RECORDED = (
    "files of TorchScript pack weights anew where they are loaded, for the engine that is set there: convolutions with "
    "weights that only onednn's kernels can take are recorded in float. For int8 there, prepare the model for fbgemm"
)


def is_set(engine: str) -> bool:
    """Whether torch would pack for the engine now, so that it will for files that are loaded under the same setting."""
    return bool(torch.backends.quantized.engine == engine)


def fits_fbgemm(weight: Tensor, groups: int) -> bool:
    """Whether no sum of two products in fbgemm's kernels can overflow, for int8 [out, in/groups, *kernel]."""
    if groups > 1 and weight.shape[1] == 1:
        return not weight.numel() or int(weight.to(torch.int32).abs().max()) < PAIR_LIMIT // 2
    return max_pair_sum(weight, "taps_then_channels") <= PAIR_LIMIT


@contextmanager
def not_recorded() -> Iterator[None]:
    """What ``torch.jit.trace`` is to take no notice of."""
    recording = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(recording)  # type: ignore[attr-defined]


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

    def _as_quantized(self, weight: Tensor) -> Tensor:
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
            self.packed_params = self._prepack(self._as_quantized(self._grown()))
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

    def pack(self) -> None:
        """Pack weight and bias for this kernel's engine on this CPU; with a channel of zeros too, for TorchScript."""
        super().pack()
        self.packed_wide = None
        if self.widens and not self.is_portable:
            with torch.inference_mode(False), torch.no_grad(), packing_for(self.engine):
                wide = F.pad(self._grown(), (*[0] * 2 * self.rank, 0, 1))
                self.packed_wide = self._prepack(self._as_quantized(wide))

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
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return self._recorded(x)
        return self._packed(x, self.packed_params)

    def _packed(self, x: Tensor, params: Any) -> Tensor:
        if x.dim() == self.rank + 1:
            return self._packed(x.unsqueeze(0), params).squeeze(0)
        return self.packed_function(x, params, self.packed_scale, self.packed_zero_point)  # type: ignore[no-any-return]

    def _recorded(self, x: Tensor) -> Tensor:
        """What goes into a file of TorchScript."""
        if self.is_portable:
            return self._packed(x, self.packed_params)
        if self.packed_wide is not None:
            channel = -1 - self.rank
            return self._packed(torch.cat([x, x.narrow(channel, 0, 1)], channel), self.packed_wide)
        warnings.warn(RECORDED, stacklevel=2)
        return self.in_float(x)

    @property
    def is_portable(self) -> bool:
        """Whether the weight may be packed for fbgemm as well, which files of TorchScript are where they are loaded."""
        with not_recorded():
            return self.engine != "onednn" or is_set(self.engine) or fits_fbgemm(self._grown(), self.geometry["groups"])

    @property
    def widens(self) -> bool:
        """Whether a channel of zeros beside an odd number of channels makes the weight portable."""
        weight = self.weight
        return self.engine == "onednn" and self.geometry["groups"] == 1 and weight.shape[1] % 2 == 1

    def float_weight(self) -> Tensor:
        """What the integers of the weight stand for, with the zeros around its taps: float32."""
        scales = self.weight_scale.reshape(-1, *[1] * (self.weight.dim() - 1))
        return self._grown().to(torch.float32) * scales

    def in_float(self, x: Tensor) -> Tensor:
        """The same in float32, for files of TorchScript."""
        made = _FLOAT[self.rank](x.dequantize(), self.float_weight(), self.bias, **self.geometry)
        made = made.relu() if self.relu else made
        return torch.quantize_per_tensor(made, self.packed_scale, self.packed_zero_point, torch.quint8)


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
