"""Convolutions and linear on packed int8 weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.engine import packing_for, require_engine
from fxquant.backends.native.kernels.base import RequantizingKernel, direct, from_integers, integers_of
from fxquant.backends.native.kernels.traced import in_float, loads_anywhere, nothing_recorded, pointwise, warn_of_engine
from fxquant.backends.native.onednn_convolutions import onednn_is_right
from fxquant.numerics.conv_geometry import grow_kernel


class WeightedKernel(RequantizingKernel):
    """Weight, its scales and bias as buffers; the packed object is derived.

    Args:
        tensors: ``weight`` int8, ``weight_scale`` float32 [C_out] or [], ``weight_zero_point`` int64, and
            ``bias`` float32 [C_out] or None.
        scale, zero_point: of the output.
        engine: engine to pack for.
        relu: whether the kernel clips at 0 before requantizing.

    Attributes:
        is_packed_for_qnnpack: whether traced models for qnnpack hold it packed. Their devices have no other engine.
    """

    is_packed_for_qnnpack: ClassVar[bool] = True
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

    def _engine_here(self) -> str:
        """The engine to pack for on this CPU, which may be another one than the model was converted on."""
        return self.engine

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
        self.packed_engine = self._engine_here()
        require_engine(self.packed_engine)
        with torch.inference_mode(False), torch.no_grad(), packing_for(self.packed_engine):
            self.packed_params = self._prepack(self._quantized_weight())
        self.packed_function = direct(self._function())
        self.packed_loads_anywhere: bool | None = None

    def _is_traced(self) -> bool:
        """Whether ``torch.jit.trace`` is recording, and must not record the packed weight; see ``traced``."""
        if not torch._C._is_tracing():
            return False
        if self.packed_loads_anywhere is None:
            with nothing_recorded():
                self.packed_loads_anywhere = self._loads_anywhere()
        if self.engine == "qnnpack" and self.is_packed_for_qnnpack and not self.packed_loads_anywhere:
            warn_of_engine(self.engine)
            return False
        return not self.packed_loads_anywhere

    def _loads_anywhere(self) -> bool:
        return loads_anywhere(self._grown(), 1)

    def _rounded(self, made: Tensor) -> Tensor:
        return torch.quantize_per_tensor(made, self.packed_scale, self.packed_zero_point, torch.quint8)

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

    def _engine_here(self) -> str:
        """fbgemm where onednn's kernel is wrong here."""
        right = onednn_is_right(self._grown().shape, self.geometry["dilation"], self.geometry["groups"])
        return self.engine if right or self.engine != "onednn" else "fbgemm"

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
        if self._is_traced():
            return self._traced(x.unsqueeze(0)).squeeze(0) if x.dim() == self.rank + 1 else self._traced(x)
        if x.dim() == self.rank + 1:
            batched = self.packed_function(
                x.unsqueeze(0), self.packed_params, self.packed_scale, self.packed_zero_point
            )
            return batched.squeeze(0)  # type: ignore[no-any-return]
        return self.packed_function(  # type: ignore[no-any-return]
            x, self.packed_params, self.packed_scale, self.packed_zero_point
        )

    def _loads_anywhere(self) -> bool:
        return loads_anywhere(self._grown(), self.geometry["groups"])

    def _traced(self, x: Tensor) -> Tensor:
        """In int8 where packing at every call pays: not for the few products of a grouped convolution."""
        weight, groups = self._grown(), self.geometry["groups"]
        stride, padding, dilation = (list(self.geometry[key]) for key in ("stride", "padding", "dilation"))
        scales = self._scales().reshape(-1).expand(weight.shape[0]).contiguous()
        if self.rank == 2 and groups == 1 and self.packed_engine == "onednn":
            given = (x.q_scale(), x.q_zero_point(), weight, scales, self.bias, stride, padding, dilation, groups)
            made = pointwise()[0](
                integers_of(x), *given, self.packed_scale, self.packed_zero_point, "relu" if self.relu else "none"
            )
            return from_integers(made, self.packed_scale, self.packed_zero_point)
        along = (-1, *[1] * self.rank)
        bias = None if self.bias is None else self.bias.reshape(along)

        def compute(levels: Tensor, weight: Tensor) -> Tensor:
            convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[self.rank - 1]
            return convolve(levels, weight, None, stride, padding, dilation, groups)  # type: ignore[no-any-return]

        return self._rounded(in_float(compute, x, weight, scales.reshape(along), bias, self.relu))


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

    def _multiply(self, rows: Tensor) -> Tensor:
        """The kernel; fbgemm's is refused under ``torch.use_deterministic_algorithms``, its float results are not."""
        if self.engine == "fbgemm" and torch.are_deterministic_algorithms_enabled():
            given = torch.ops.quantized
            clipped = given.linear_with_input_q_dq_qweight_dq_relu_output_fp32
            compute = clipped if self.relu else given.linear_with_input_q_dq_qweight_dq_output_fp32
            return self._rounded(compute(rows.dequantize(), rows.q_scale(), rows.q_zero_point(), self.packed_params))
        return self.packed_function(  # type: ignore[no-any-return]
            rows, self.packed_params, self.packed_scale, self.packed_zero_point
        )

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, uint8 [..., in_features]."""
        if self._is_traced():
            return self._rounded(in_float(F.linear, x, self.weight, self.weight_scale, self.bias, self.relu))
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        product = self._multiply(rows)
        if x.dim() == 1:
            return product.squeeze(0)
        if x.dim() > 2 and x.numel() == 0:  # the kernels flatten empty batches
            return product.reshape(*x.shape[:-1], product.shape[-1])
        return product
