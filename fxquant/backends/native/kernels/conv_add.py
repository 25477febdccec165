"""A convolution that another value is added to before the result is rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.backends.native.engine import require_engine
from fxquant.backends.native.kernels.base import RequantizingKernel, direct, from_integers, integers_of
from fxquant.backends.native.kernels.traced import pointwise
from fxquant.backends.native.onednn_convolutions import WRONG_HERE, onednn_is_right
from fxquant.errors import BackendError
from fxquant.numerics.conv_geometry import grow_kernel


class ConvAdd(RequantizingKernel):
    """``conv2d(x) + other``, rounded once.

    onednn adds in place: ``other`` is overwritten. The plan joins the two only where nobody reads it any more.
    A model traced by ``torch.jit`` packs the weight at every call, since TorchScript cannot store it packed.

    Args:
        tensors: as for ``WeightedKernel``.
        scale, zero_point: of the output.
        input_qparams: scale float32 [] and zero point int64 [] of the input.
        geometry: ``stride``, ``padding``, ``dilation`` (pairs) and ``groups``.
        growth: zeros to put around the taps, for uneven padding.

    Source: ``qconv2d_pointwise.binary`` in aten/src/ATen/native/quantized/cpu/qconv.cpp; unlike
    ``quantized.conv2d_add`` it does not depend on torch's current engine.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(
        self,
        tensors: dict[str, Tensor | None],
        scale: Tensor,
        zero_point: Tensor,
        input_qparams: tuple[Tensor, Tensor],
        geometry: dict[str, Any],
        growth: tuple[tuple[int, int], ...],
    ) -> None:
        super().__init__(scale, zero_point)
        inputs = dict(zip(("input_scale", "input_zero_point"), input_qparams, strict=True))
        for name, tensor in {**tensors, **inputs}.items():
            self.register_buffer(name, tensor)
        self.geometry, self.growth = geometry, growth
        self.pack()

    def pack(self) -> None:
        """Prepare for this CPU; the weight is packed when the first image arrives, whose size its layout is for."""
        super().pack()
        require_engine("onednn")
        grown = grow_kernel(self.weight, self.growth)
        if not onednn_is_right(grown.shape, self.geometry["dilation"], int(self.geometry["groups"])):
            raise BackendError(WRONG_HERE, remedy="convert the prepared model again on this machine")
        self.packed_input = float(self.input_scale), int(self.input_zero_point)
        stride, padding, dilation = (list(self.geometry[key]) for key in ("stride", "padding", "dilation"))
        self.packed_geometry = (stride, padding, dilation, int(self.geometry["groups"]))
        with torch.inference_mode(False), torch.no_grad():
            self.packed_scales = self.weight_scale.reshape(-1).contiguous()
            self.packed_zero_points = torch.zeros(self.packed_scales.shape, dtype=torch.int32)
        self.packed_weight: tuple[tuple[int, ...], Tensor | None] = (), None
        self.packed_function = direct(torch.ops.onednn.qconv2d_pointwise.binary)

    def _weight_for(self, shape: torch.Size) -> Tensor:
        """The weight in the layout for inputs [N, C, H, W]; onednn would bring it there anew at every call."""
        size, weight = self.packed_weight  # read at once: another thread may replace them
        if weight is None or size != tuple(shape[2:]):
            with torch.inference_mode(False), torch.no_grad():
                grown = grow_kernel(self.weight, self.growth)
                weight = torch.ops.onednn.qconv_prepack(
                    grown, self.packed_scales, *self.packed_input, *self.packed_geometry, list(shape)
                )
            self.packed_weight = tuple(shape[2:]), weight
        return weight

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Convolve ``x``, uint8 [N, C, H, W] or [C, H, W], and add ``other`` of the result's shape."""
        if x.dim() == other.dim() == 3:
            return self(x.unsqueeze(0), other.unsqueeze(0)).squeeze(0)  # type: ignore[no-any-return]
        integers, added = (item.unsqueeze(0) if item.dim() == 3 else item for item in map(integers_of, (x, other)))
        if integers.shape[0] != added.shape[0]:
            integers, added = _same_batch(integers, added)
        if not added.numel():
            return from_integers(added, self.packed_scale, self.packed_zero_point)
        if torch._C._is_tracing():
            return from_integers(self._traced(integers, added, other), self.packed_scale, self.packed_zero_point)
        weight = self._weight_for(integers.shape)
        added = added.contiguous(memory_format=torch.channels_last)  # onednn takes no other order
        made = self.packed_function(
            integers, *self.packed_input, weight, self.packed_scales, self.packed_zero_points, added,
            self.bias, *self.packed_geometry, self.packed_scale, self.packed_zero_point, torch.uint8,
            other.q_scale(), other.q_zero_point(), "sum", 1.0, None, [], None,
        )  # fmt: skip
        return from_integers(made, self.packed_scale, self.packed_zero_point)

    def _traced(self, integers: Tensor, added: Tensor, other: Tensor) -> Tensor:
        weight = grow_kernel(self.weight, self.growth)
        return pointwise()[1](  # type: ignore[no-any-return]
            integers, *self.packed_input, weight, self.packed_scales, self.bias, *self.packed_geometry,
            self.packed_scale, self.packed_zero_point, added, other.q_scale(), other.q_zero_point(),
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Shape and output parameters."""
        return f"{tuple(self.weight.shape)}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


def _same_batch(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """A batch of one is repeated for every element of the other's."""
    count = other.shape[0] if x.shape[0] == 1 else x.shape[0]
    first, second = (item.expand(count, -1, -1, -1) for item in (x, other))
    return first, second.contiguous(memory_format=torch.channels_last)
