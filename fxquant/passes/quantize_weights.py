"""Final integer weights of a unit: batch norm folded, pairs limited for the kernel, bias corrected.

Before: ``conv1.weight float32``, ``bn1.*``. After: ``conv1.weight int8 [C_out, ...]``, one scale per channel, a float
bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import ConvertError
from fxquant.fusion.rule import CONVOLUTIONS
from fxquant.ir.edit import evaluate_constant
from fxquant.ir.quant_plan import Unit
from fxquant.numerics.affine import dequantize, quantize
from fxquant.numerics.batch_norm import fold_batch_norm
from fxquant.numerics.bias import weight_error_bias
from fxquant.numerics.pair_limit import limit_pairs
from fxquant.observers.attached import InputStatistics
from fxquant.ops import catalogue
from fxquant.ops.opdef import Bound

# A bias must stay representable as int32 in units of (input scale x weight scale); qnnpack stores it so.
_LARGEST_BIAS = 2.0**22
_HALF = 63


@dataclass(frozen=True)
class QuantizedWeight:
    """What a kernel gets.

    Attributes:
        weight: int8 [C_out, C_in/groups, *kernel] or [out, in].
        scale: float32 [C_out], or [] per tensor. zero_point: int64 of the same shape, zeros.
        axis: 0 per channel, None per tensor.
        bias: float32 [C_out], or None.
        origins: the user's parameter and buffer names it was made from.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    axis: int | None
    bias: Tensor | None
    origins: tuple[str, ...]


@dataclass(frozen=True)
class FloatWeight:
    """Weight and bias in float with the batch norm folded, and the names they came from."""

    weight: Tensor
    bias: Tensor | None
    origins: tuple[str, ...]


def fold_unit(unit: Unit, nodes: dict[str, fx.Node], root: nn.Module) -> FloatWeight:
    """Evaluate weight and bias of a unit and fold its batch norm into them.

    Args:
        unit: a planned convolution or linear.
        nodes: nodes of the captured graph by name.
        root: the model the graph refers to.
    """
    bound = _arguments(nodes[unit.anchor])
    weight = evaluate_constant(bound["weight"], root)
    bias = None if bound["bias"] is None else evaluate_constant(bound["bias"], root)
    origins = [*_origins(bound["weight"]), *(_origins(bound["bias"]) if bound["bias"] is not None else ())]
    norm = unit.role("batch_norm")
    if norm is not None:
        terms, names = _batch_norm_terms(nodes[norm], root)
        origins += names
        weight, bias = fold_batch_norm(weight, bias, **terms)
    return FloatWeight(weight.detach(), None if bias is None else bias.detach(), tuple(origins))


def quantize_unit(
    unit: Unit, folded: FloatWeight, observer: Any, input_scale: Tensor, statistics: InputStatistics, groups: int
) -> QuantizedWeight:
    """Quantize one unit's weight within the limits of its kernel.

    Args:
        unit: the unit; its kernel states the limit.
        folded: its float weight and bias.
        observer: a fresh weight observer.
        input_scale: float32 [], scale of the activation it reads.
        statistics: mean and variance of that activation per channel.
        groups: groups of the convolution, 1 for linear.

    Raises:
        ConvertError: the weight observer is not symmetric int8.
    """
    weight = folded.weight.to(torch.float32)
    observer(weight)
    scale, zero_point = observer.calculate_qparams()
    if bool(torch.as_tensor(zero_point).any()) or "int8" not in str(observer.dtype) or "uint8" in str(observer.dtype):
        raise ConvertError(
            f"{unit.name}: weights must be symmetric int8, its observer gives {observer.dtype}",
            op=unit.op,
            remedy="use PerChannelMinMaxObserver.with_args(dtype=torch.int8, qscheme=torch.per_channel_symmetric)",
        )
    scale = torch.as_tensor(scale, dtype=torch.float32).cpu().reshape(-1)
    axis = 0 if scale.numel() > 1 or _is_per_channel(observer) else None
    low, high = _integer_range(observer)
    scale = _floor_scale(scale, folded.bias, input_scale)
    input_mean, variance = _per_channel(statistics, weight.shape[1] * groups)
    importance = variance if groups == 1 else None
    scale, integers = _limited(weight, scale, low, high, axis, unit, importance)
    scale = scale if axis == 0 else scale.reshape(())
    zeros = torch.zeros_like(scale, dtype=torch.int64)
    bias = folded.bias
    if input_mean is not None:
        error = weight_error_bias(weight, dequantize(integers, scale, zeros, axis), input_mean, groups)
        bias = (0.0 if bias is None else bias) - error
    if bias is not None and unit.kernel is not None and unit.kernel.engine == "qnnpack":
        bias = _as_int32(bias, input_scale * scale)
    return QuantizedWeight(integers, scale, zeros, axis, bias, folded.origins)


def _as_int32(bias: Tensor, step: Tensor) -> Tensor:
    """The bias as qnnpack stores it: int32 in steps of (input scale x weight scale)."""
    return torch.round(bias.to(torch.float32) / step) * step


def _per_channel(statistics: InputStatistics, channels: int) -> tuple[Tensor | None, Tensor | None]:
    """Mean and variance per input channel, None when they were not taken over that many channels."""
    mean, variance = statistics.mean, statistics.variance
    if mean is None or variance is None or mean.numel() != channels:
        return None, None
    return mean.cpu(), variance.cpu()


def _limited(
    weight: Tensor, scale: Tensor, low: int, high: int, axis: int | None, unit: Unit, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    limit = unit.kernel.weight_limit if unit.kernel is not None else "none"
    if limit in ("channels", "taps_then_channels"):
        return limit_pairs(weight, scale, low, high, limit, importance)  # type: ignore[arg-type]
    if limit == "half":
        scale, low, high = scale * (max(-low, high) / _HALF), max(low, -_HALF), min(high, _HALF)
    zeros = torch.zeros_like(scale, dtype=torch.int64)
    return scale, quantize(weight, scale, zeros, low, high, torch.int8, axis)


def _floor_scale(scale: Tensor, bias: Tensor | None, input_scale: Tensor) -> Tensor:
    """Keep ``bias / (input scale x weight scale)`` an int32 for layers of near-zero weights."""
    if bias is None:
        return scale
    floor = bias.detach().abs().to(torch.float32) / (input_scale * _LARGEST_BIAS)
    return torch.maximum(scale, floor if scale.numel() > 1 else floor.max())


def _integer_range(observer: Any) -> tuple[int, int]:
    low, high = getattr(observer, "quant_min", None), getattr(observer, "quant_max", None)
    return max(-127, -128 if low is None else int(low)), min(127, 127 if high is None else int(high))


def _is_per_channel(observer: Any) -> bool:
    return "per_channel" in str(getattr(observer, "qscheme", ""))


def _arguments(node: fx.Node) -> Bound:
    return catalogue.arguments(node, catalogue.row_of(node))


def _origins(node: fx.Node) -> tuple[str, ...]:
    """Names of the parameters and buffers a constant is computed from."""
    if node.op == "get_attr":
        return (str(node.target),)
    return tuple(name for source in node.all_input_nodes for name in _origins(source))


def _batch_norm_terms(node: fx.Node, root: nn.Module) -> tuple[dict[str, Any], list[str]]:
    if node.op == "call_module":
        module, path = root.get_submodule(str(node.target)), str(node.target)
        tensors = {key: getattr(module, key) for key in ("running_mean", "running_var", "weight", "bias")}
        names = [f"{path}.{key}" for key, value in tensors.items() if value is not None]
        eps = module.eps
    else:
        bound = _arguments(node)
        given = {key: bound[key] for key in ("running_mean", "running_var", "weight", "bias")}
        tensors = {key: None if value is None else evaluate_constant(value, root) for key, value in given.items()}
        names = [name for value in given.values() if value is not None for name in _origins(value)]
        eps = bound["eps"]
    gamma, beta = tensors.pop("weight"), tensors.pop("bias")
    return {**tensors, "gamma": gamma, "beta": beta, "eps": eps}, names


def groups_of(unit: Unit, nodes: dict[str, fx.Node]) -> int:
    """Groups of a unit's convolution, 1 for linear."""
    return int(_arguments(nodes[unit.anchor])["groups"]) if unit.op in CONVOLUTIONS else 1
