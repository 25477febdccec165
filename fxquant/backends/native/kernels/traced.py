"""Convolutions and linears as ``torch.jit.trace`` records them where the packed weight cannot be stored as it is.

``torch.jit.load`` packs weights anew for torch's current engine, whatever engine they were limited for: fbgemm would
let products overflow that onednn adds without loss. What such a model records instead stands on plain tensors.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.numerics.pair_limit import PAIR_LIMIT, max_pair_sum


def loads_anywhere(weight: Tensor, groups: int) -> bool:
    """Whether no x86 engine's kernel can overflow on a weight.

    Args:
        weight: int8 [C_out, C_in/groups, *kernel].
        groups: of the convolution.
    """
    if groups > 1 and weight.shape[1] == 1:  # fbgemm's depthwise kernels pair any two taps
        return not weight.numel() or int(weight.to(torch.int32).abs().max()) <= PAIR_LIMIT // 2
    return max(max_pair_sum(weight, "channels"), max_pair_sum(weight, "taps_then_channels")) <= PAIR_LIMIT


@contextmanager
def nothing_recorded() -> Iterator[None]:
    """``torch.jit.trace`` looks away."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def plain_shape(x: Tensor) -> tuple[int, ...]:
    """The shape of ``x`` as numbers, for decisions: ``torch.jit.trace`` makes tensors of it, and warns."""
    if not torch._C._is_tracing():
        return x.shape
    with nothing_recorded():
        return tuple(x.shape)


def warn_of_engine(engine: str) -> None:
    """Say what a traced model needs whose weights only one engine takes as they are."""
    warnings.warn(
        f"torch.jit.load packs the weights of a traced model for torch's current engine, and these are {engine}'s: "
        f"set torch.backends.quantized.engine = '{engine}' before loading it",
        stacklevel=3,
    )


def in_float(compute: Any, x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """The exact sums of integers, as floats, scaled: what kernels round.

    Args:
        compute: the convolution, of input and weight.
        x: uint8 quantized [N, C, ...].
        weight: int8, scales: float32 per output channel, in the result's shape; bias: likewise, or None.
        relu: whether to clip at 0.
    """
    levels = x.int_repr().to(torch.float32) - float(x.q_zero_point())
    made: Tensor = compute(levels, weight.to(torch.float32)) * (scales * x.q_scale())
    made = made if bias is None else made + bias
    return F.relu(made) if relu else made


@functools.cache
def pointwise() -> tuple[Any, Any]:
    """onednn's convolution on plain tensors, and that with a sum; a weight is packed at every call.

    ``torch.jit.trace`` refuses one of their arguments, an empty list of numbers; TorchScript takes it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return torch.jit.script(_convolve), torch.jit.script(_convolve_and_add)


def _convolve(
    x: Tensor,
    input_scale: float,
    input_zero_point: int,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    scale: float,
    zero_point: int,
    post_op: str,
) -> Tensor:
    zeros = torch.zeros([scales.size(0)], dtype=torch.int32)
    packed = torch.ops.onednn.qconv_prepack(
        weight, scales, input_scale, input_zero_point, stride, padding, dilation, groups, x.size()
    )
    return torch.ops.onednn.qconv2d_pointwise(  # type: ignore[no-any-return]
        x, input_scale, input_zero_point, packed, scales, zeros, bias, stride, padding, dilation, groups,
        scale, zero_point, torch.uint8, post_op, [], None,
    )  # fmt: skip


def _convolve_and_add(
    x: Tensor,
    input_scale: float,
    input_zero_point: int,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    scale: float,
    zero_point: int,
    other: Tensor,
    other_scale: float,
    other_zero_point: int,
) -> Tensor:
    zeros = torch.zeros([scales.size(0)], dtype=torch.int32)
    packed = torch.ops.onednn.qconv_prepack(
        weight, scales, input_scale, input_zero_point, stride, padding, dilation, groups, x.size()
    )
    return torch.ops.onednn.qconv2d_pointwise(  # type: ignore[no-any-return]
        x, input_scale, input_zero_point, packed, scales, zeros, other, bias, stride, padding, dilation, groups,
        scale, zero_point, torch.uint8, other_scale, other_zero_point, "sum", 1.0, None, [], None,
    )  # fmt: skip
