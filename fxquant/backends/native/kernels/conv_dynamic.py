"""Convolution on int8 weights, float in and float out: the input is quantized when it arrives.

torch's own ``quantized.conv2d_dynamic`` rounds its result by the range of its input; this one returns the sums as they
are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.kernels.base import Kernel, direct
from fxquant.numerics.conv_geometry import grow_kernel

_FLOAT = (F.conv1d, F.conv2d, F.conv3d)


class ConvDynamic(Kernel):
    """1d, 2d and 3d convolution.

    Args:
        tensors: ``weight`` int8 [out, in/groups, *kernel], ``weight_scale`` float32 [out] or [], ``weight_zero_point``
            int64, and ``bias`` float32 [out] or None.
        relu: whether the kernel clips at 0.
        geometry: ``stride``, ``padding`` (symmetric), ``dilation`` (one number a dimension) and ``groups``.
        growth: zeros to put around the taps, for uneven padding.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        tensors: dict[str, Tensor | None],
        relu: bool,
        geometry: dict[str, Any],
        growth: tuple[tuple[int, int], ...],
    ) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.relu, self.geometry, self.growth = relu, geometry, growth
        self.pack()

    def pack(self) -> None:
        """Pack the weight for this CPU; scale and zero point of the input are given at each call."""
        g = self.geometry
        with torch.inference_mode(False), torch.no_grad():
            scales = self.weight_scale.expand(self.weight.shape[0]).contiguous()
            weight = grow_kernel(self.weight, self.growth).contiguous()
            lists = [list(g[key]) for key in ("stride", "padding", "dilation")]
            self.packed_weight = torch.ops.onednn.qconv_prepack(weight, scales, 1.0, 0, *lists, g["groups"], None)
            zeros = torch.zeros(len(scales), dtype=torch.int32)
        attribute = "relu" if self.relu and not self._clips_itself else "none"
        last = (*lists, g["groups"], 1.0, 0, torch.float32, attribute, [], "")
        self.packed_arguments = (self.packed_weight, scales, zeros, self.bias, *last)
        self.packed_function = direct(torch.ops.onednn.qconv_pointwise.default)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, float32 [N, C, *spatial] or [C, *spatial]; the result is float32."""
        rank = len(self.geometry["stride"])
        if x.dim() == rank + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.numel() == 0:
            return self._of_nothing(x)
        arrived = torch.quantize_per_tensor_dynamic(x, torch.quint8, False)
        scale, zero_point = arrived.q_scale(), arrived.q_zero_point()
        found: Tensor = self.packed_function(arrived.int_repr(), scale, zero_point, *self.packed_arguments)
        found = found.relu_() if self.relu and self._clips_itself else found
        return found.contiguous() if rank == 1 else found

    @property
    def _clips_itself(self) -> bool:
        """Whether torch's function refuses to clip: it does for three dimensions."""
        return len(self.geometry["stride"]) == 3

    def _of_nothing(self, x: Tensor) -> Tensor:
        """What an empty batch becomes."""
        return _FLOAT[x.dim() - 3](x, grow_kernel(self.weight, self.growth).float(), None, **self.geometry)

    def extra_repr(self) -> str:
        """Shape and clip."""
        return f"{tuple(self.weight.shape)}, relu={self.relu}"
