"""Final integer weights of a unit: limited for the kernel, of the granularity it takes, with a corrected bias.

Before: ``conv1.weight float32``, batch norms folded. After: ``conv1.weight int8 [C_out, ...]``, one scale per output
channel or one for all, a float bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fxquant.errors import ConvertError
from fxquant.ir.quant_plan import Unit
from fxquant.numerics.affine import dequantize, quantize
from fxquant.numerics.bias import weight_error_bias
from fxquant.numerics.compensate import InputCorrelations, round_compensating
from fxquant.numerics.pair_limit import PAIR_LIMIT, PairOrder, limit_pairs
from fxquant.observers.fake_quantize import FakeQuantize
from fxquant.observers.input_statistics import InputStatistics
from fxquant.passes.fold_weights import FloatWeight

# A bias must stay representable as int32 in units of (input scale x weight scale); qnnpack stores it so.
_LARGEST_BIAS = 2.0**22
_HALF = 63
_PAIR_ORDERS: dict[str, PairOrder] = {"channels": "channels", "taps_then_channels": "taps_then_channels"}

Stretch: TypeAlias = Callable[[Tensor, Tensor, int, int, str], Tensor]
"""From weight, scale, smallest and largest integer and the order of pairs to factors of ``scale``'s shape."""


@dataclass(frozen=True)
class QuantizedWeight:
    """What a kernel gets.

    Attributes:
        weight: int8 [C_out, C_in/groups, *kernel], [C_in, C_out/groups, *kernel] (transposed) or [out, in].
        scale: float32 [C_out], or [] per tensor. zero_point: int64 of the same shape, zeros.
        axis: of the output channels: 0, or 1 for transposed convolutions; None per tensor.
        bias: float32 [C_out], or None.
        origins: the user's parameter and buffer names it was made from.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    axis: int | None
    bias: Tensor | None
    origins: tuple[str, ...]


def quantize_unit(
    unit: Unit,
    folded: FloatWeight,
    observer: Any,
    input_scale: Tensor | None = None,
    statistics: InputStatistics | None = None,
    stretch: Stretch | None = None,
) -> QuantizedWeight:
    """Quantize one unit's weight as its kernel demands.

    Args:
        unit: the unit; its kernel states the limit and the granularity.
        folded: its float weight and bias.
        observer: a fresh weight observer.
        input_scale: float32 [], scale of the activation it reads; None when that is quantized as it arrives.
        statistics: mean and variance of that activation per channel, where calibration took them.
        stretch: chooses how much kernels that limit pairs stretch the scales; the default tries some.

    Raises:
        ConvertError: the weight observer is not symmetric int8.
    """
    rows = folded.rows.to(torch.float32)
    input_mean, variance = _per_channel(statistics, rows.shape[1] * folded.groups)
    importance = variance if folded.groups == 1 else None
    inputs = None if input_mean is None or statistics is None else statistics.correlations
    integers, scale = round_rows(unit, rows, folded.bias, observer, input_scale, importance, stretch, inputs)
    per_channel = scale.dim() == 1
    axis = 0 if per_channel else None
    zeros = torch.zeros_like(scale, dtype=torch.int64)
    bias = folded.bias
    if input_mean is not None:
        rounded = dequantize(integers, scale, zeros, axis)
        error = weight_error_bias(rows, rounded, input_mean, folded.groups, stride_product=folded.stride_product)
        bias = (0.0 if bias is None else bias) - error
    in_integers = unit.kernel is not None and unit.kernel.engine == "qnnpack"
    if bias is not None and input_scale is not None and in_integers:
        bias = as_int32(bias, input_scale * scale)
    axis = 1 if per_channel and folded.transposed else axis
    return QuantizedWeight(folded.as_called(integers), scale, zeros, axis, bias, folded.origins)


def round_rows(
    unit: Unit,
    rows: Tensor,
    bias: Tensor | None,
    observer: Any,
    input_scale: Tensor | None = None,
    importance: Tensor | None = None,
    stretch: Stretch | None = None,
    inputs: InputCorrelations | None = None,
) -> tuple[Tensor, Tensor]:
    """Integers of a weight, and their scale.

    Args:
        unit, observer, input_scale, stretch: see ``quantize_unit``.
        rows: float32, one row per output channel.
        bias: [C_out] or None.
        importance: float32 [C_in] or None, see ``limit_pairs``.
        inputs: how the inputs move together, see ``round_compensating``; None rounds every weight by itself.

    Returns:
        int8 of ``rows``'s shape, and float32 [C_out], or [] when there is one scale.

    Raises:
        ConvertError: the weight observer is not symmetric int8.
    """
    scale, per_channel = _scales(unit, rows, observer)
    low, high = integer_range(observer)
    scale = scale if input_scale is None else floor_scale(scale, bias, input_scale)
    axis = 0 if per_channel else None
    scale, integers = _rounded(rows, scale, low, high, axis, unit, importance, stretch, inputs)
    return integers, scale if per_channel else scale.reshape(())


def _scales(unit: Unit, rows: Tensor, observer: Any) -> tuple[Tensor, bool]:
    """Scales of a weight, and whether there is one per output channel: float32 [C_out] or [1].

    The observer sees one row per output channel, so that is the axis of its channels, whatever it was made for. A
    kernel that takes one scale gets the widest channel's.
    """
    if isinstance(observer, FakeQuantize):
        scale, zero_point = observer.weight_qparams(rows)
    else:
        if hasattr(observer, "ch_axis"):
            observer.ch_axis = 0
        observer(rows)
        scale, zero_point = observer.calculate_qparams()
    if bool(torch.as_tensor(zero_point).any()) or "int8" not in str(observer.dtype) or "uint8" in str(observer.dtype):
        raise ConvertError(
            f"{unit.name}: weights must be symmetric int8, its observer gives {observer.dtype}",
            op=unit.op,
            remedy="use PerChannelMinMaxObserver.with_args(dtype=torch.int8, qscheme=torch.per_channel_symmetric)",
        )
    scale = torch.as_tensor(scale, dtype=torch.float32).to(rows.device).reshape(-1)
    if unit.kernel is not None and unit.kernel.weight_granularity == "tensor":
        return scale.max().reshape(1), False
    return scale, scale.numel() > 1 or _is_per_channel(observer)


def as_int32(bias: Tensor, step: Tensor) -> Tensor:
    """The bias as qnnpack stores it: int32 in steps of (input scale x weight scale)."""
    return torch.round(bias.to(torch.float32) / step) * step


def _per_channel(statistics: InputStatistics | None, channels: int) -> tuple[Tensor | None, Tensor | None]:
    """Mean and variance per input channel, None when they were not taken over that many channels."""
    mean, variance = (None, None) if statistics is None else (statistics.mean, statistics.variance)
    if mean is None or variance is None or mean.numel() != channels:
        return None, None
    return mean.cpu(), variance.cpu()


def _rounded(
    weight: Tensor,
    scale: Tensor,
    low: int,
    high: int,
    axis: int | None,
    unit: Unit,
    importance: Tensor | None,
    stretch: Stretch | None,
    inputs: InputCorrelations | None,
) -> tuple[Tensor, Tensor]:
    """Scale and integers inside the limit of the unit's kernel."""
    order = _PAIR_ORDERS.get(limit_of(unit, low, high))
    if order is not None:
        factors = None if stretch is None else stretch(weight, scale, low, high, order)
        scale, integers = limit_pairs(weight, scale, low, high, order, importance, factors)
    else:
        if unit.kernel is not None and unit.kernel.weight_limit == "half":
            scale, low, high = scale * (max(-low, high) / _HALF), max(low, -_HALF), min(high, _HALF)
        integers = quantize(weight, scale, torch.zeros_like(scale, dtype=torch.int64), low, high, torch.int8, axis)
    if inputs is not None:
        integers = round_compensating(weight, scale, integers, low, high, inputs, order)
    return scale, integers


def limit_of(unit: Unit, low: int, high: int) -> str:
    """The order of the pairs that a unit's kernel limits; "" for none, or where low..high are inside anyway."""
    limit = unit.kernel.weight_limit if unit.kernel is not None else "none"
    return limit if limit in ("channels", "taps_then_channels") and max(-low, high) * 2 > PAIR_LIMIT else ""


def floor_scale(scale: Tensor, bias: Tensor | None, input_scale: Tensor) -> Tensor:
    """Keep ``bias / (input scale x weight scale)`` an int32 for layers of near-zero weights."""
    if bias is None:
        return scale
    floor = bias.detach().abs().to(torch.float32) / (input_scale * _LARGEST_BIAS)
    return torch.maximum(scale, floor if scale.numel() > 1 else floor.max())


def integer_range(observer: Any) -> tuple[int, int]:
    """Smallest and largest integer of an observer's weights, within -127..127."""
    low, high = getattr(observer, "quant_min", None), getattr(observer, "quant_max", None)
    return max(-127, -128 if low is None else int(low)), min(127, 127 if high is None else int(high))


def _is_per_channel(observer: Any) -> bool:
    return "per_channel" in str(getattr(observer, "qscheme", ""))
