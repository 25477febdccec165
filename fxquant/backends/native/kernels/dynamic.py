"""Linear on packed weights, float in and float out: int8 with the input quantized when it arrives, or float16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxquant.backends.native.engine import packing_for, require_engine
from fxquant.backends.native.kernels.base import Kernel, direct


class LinearDynamic(Kernel):
    """Fully connected layer.

    Args:
        tensors: ``weight`` int8 [out, in], ``weight_scale`` float32 [out] or [], ``weight_zero_point`` int64, and
            ``bias`` float32 [out] or None.
        engine: engine to pack for.
        relu: whether the kernel clips at 0.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, tensors: dict[str, Tensor | None], engine: str, relu: bool) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.engine, self.relu = engine, relu
        self.pack()

    def pack(self) -> None:
        """Pack weight and bias for this kernel's engine on this CPU."""
        require_engine(self.engine)
        with torch.inference_mode(False), torch.no_grad(), packing_for(self.engine):
            weight = as_quantized(self.weight, self.weight_scale)
            self.packed_params = torch.ops.quantized.linear_prepack(weight, self.bias)
        name = "linear_relu_dynamic" if self.relu else "linear_dynamic"
        self.packed_function = direct(getattr(torch.ops.quantized, name).default)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, float32 [..., in]; the result is float32 [..., out]."""
        if x.numel() == 0:
            return x.new_zeros(*x.shape[:-1], self.weight.shape[0])
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        product: Tensor = self.packed_function(rows, self.packed_params)
        return product.squeeze(0) if x.dim() == 1 else product

    def extra_repr(self) -> str:
        """Shape and engine."""
        return f"{tuple(self.weight.shape)}, engine={self.engine}, relu={self.relu}"


class LinearFloat16(LinearDynamic):
    """Fully connected layer with float16 weights that computes in float32; ``weight`` is float16 [out, in].

    Args:
        tensors: ``weight`` and ``bias``, float32 [out] or None.
        engine, relu: as for ``LinearDynamic``.
    """

    def pack(self) -> None:
        """Pack weight and bias for this kernel's engine on this CPU."""
        require_engine(self.engine)
        with torch.inference_mode(False), torch.no_grad(), packing_for(self.engine):
            self.packed_params = torch.ops.quantized.linear_prepack_fp16(self.weight.float(), self.bias)
        name = "linear_relu_dynamic_fp16" if self.relu else "linear_dynamic_fp16"
        self.packed_function = direct(getattr(torch.ops.quantized, name).default)


class LinearsDynamic(LinearDynamic):
    """Several linears of the same input as one: it is quantized once.

    Args:
        parts: kernels of one engine.
    """

    def __init__(self, parts: Sequence[LinearDynamic]) -> None:
        sizes = [part.weight.shape[0] for part in parts]
        biases = [torch.zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
        tensors = {
            "weight": torch.cat([part.weight for part in parts]),
            "weight_scale": torch.cat([part.weight_scale.expand(len(part.weight)) for part in parts]),
            "weight_zero_point": torch.zeros(sum(sizes), dtype=torch.int64),
            "bias": torch.cat(biases) if any(part.bias is not None for part in parts) else None,
        }
        super().__init__(tensors, parts[0].engine, all(part.relu for part in parts))
        self.sizes = sizes
        self.clips = [part.relu and not self.relu for part in parts]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Multiply ``x``, float32 [..., in]; the results are contiguous, one for each part."""
        parts = torch.split(super().forward(x), self.sizes, -1)
        return tuple(part.relu() if clips else part.contiguous() for part, clips in zip(parts, self.clips, strict=True))


def as_quantized(weight: Tensor, scale: Tensor) -> Tensor:
    """int8 integers [out, ...] as a quantized tensor; scale float32 [out] or []."""
    if scale.dim() == 0:
        return torch._make_per_tensor_quantized_tensor(weight, float(scale), 0)
    zero_points = torch.zeros(scale.shape, dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(weight, scale.to(torch.float64), zero_points, 0)
