"""Average pooling, and operators that weigh numbers against each other, computed in float32.

torch's int8 pooling picks its algorithm by ``torch.backends.quantized.engine``, a global setting; these do not.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel
from fxquant.backends.native.kernels.movement import target_of, through_float
from fxquant.numerics.conv_geometry import as_tuple


def average_pool(
    x: Tensor,
    rank: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling with torch's int8 kernels: integer sums, one rounding, the input's range.

    torch takes qnnpack's kernel, which rounds otherwise, when that is the current engine and ``ceil_mode`` is False.
    So it is always called with True, and windows that only this adds are cut off.

    Args:
        x: uint8 quantized tensor [N, C, *spatial] or [C, *spatial].
        rank: spatial dimensions, 1, 2 or 3; the rest as for ``F.avg_pool2d``.
    """
    kernel, pads = as_tuple(kernel_size, rank), as_tuple(padding, rank)
    steps = kernel if stride in (None, (), []) else as_tuple(stride, rank)
    batched = x if x.dim() == rank + 2 else x.unsqueeze(0)
    if prod(batched.shape[2:]) == 1:  # torch's kernels take single pixels in another layout than they lie in
        settings = (kernel, steps, pads, ceil_mode, count_include_pad)
        averages: Tensor = through_float(f"avg_pool{rank}d", x, *settings, *(() if rank == 1 else (divisor_override,)))
        return averages
    if rank == 3:
        pooled = F.avg_pool3d(batched, kernel, steps, pads, ceil_mode, count_include_pad, divisor_override)
        return pooled if batched is x else pooled.squeeze(0)
    if rank == 1:
        batched, kernel, steps, pads = batched.unsqueeze(2), (1, *kernel), (1, *steps), (0, *pads)
    image = batched.contiguous(memory_format=torch.channels_last)
    pooled = F.avg_pool2d(image, kernel, steps, pads, True, count_include_pad, divisor_override)
    if not ceil_mode:
        pooled = _without_partial_windows(pooled, image, kernel, steps, pads)
    pooled = pooled.squeeze(2) if rank == 1 else pooled
    return pooled if x.dim() == rank + 2 else pooled.squeeze(0)


def _without_partial_windows(
    pooled: Tensor, image: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    for dim, taps, step, pad in zip((2, 3), kernel, stride, padding, strict=True):
        whole = (image.shape[dim] + 2 * pad - taps) // step + 1
        if pooled.shape[dim] != whole:
            pooled = pooled.narrow(dim, 0, whole)
    return pooled


def adaptive_average(name: str, x: Tensor, output_size: Any) -> Tensor:
    """Adaptive average pooling in the input's range: equal windows with ``average_pool``, others in float32.

    Args:
        name: catalogue name.
        x: uint8 quantized tensor [N, C, *spatial] or [C, *spatial].
        output_size: sizes, None for the input's.
    """
    rank = int(name[-2])
    sizes = x.shape[-rank:]
    wanted = [size if want is None else want for size, want in zip(sizes, as_tuple(output_size, rank), strict=True)]
    if all(size % want == 0 for size, want in zip(sizes, wanted, strict=True)):
        return average_pool(x, rank, tuple(size // want for size, want in zip(sizes, wanted, strict=True)))
    made: Tensor = through_float(name, x, output_size)
    return made


class InFloat(RequantizingKernel):
    """An operator computed in float32 on the numbers that the integers stand for, and rounded once.

    Args:
        scale, zero_point: of the output, a range of its own.
        name: catalogue name of the operator.
        contiguous: whether torch's operator is right for contiguous tensors only.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, name: str, contiguous: bool = False) -> None:
        super().__init__(scale, zero_point)
        self.name, self.contiguous = name, contiguous
        self.pack()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the operator on ``x``, uint8, with its other arguments."""
        numbers = x.dequantize().contiguous() if self.contiguous else x.dequantize()
        made = target_of(self.name)(numbers, *args, **kwargs)
        return torch.quantize_per_tensor(made, self.packed_scale, self.packed_zero_point, torch.quint8)

    def extra_repr(self) -> str:
        """The operator."""
        return self.name
