"""Rounding whose errors cancel over the taps of a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.numerics.pair_limit import PAIR_LIMIT, PairOrder, pairs_along


def balance_taps(
    weight: Tensor, scale: Tensor, integers: Tensor, quant_min: int, quant_max: int, order: PairOrder | None = None
) -> Tensor:
    """Change the rounding of some weights so that the errors of each kernel sum to at most half a quantum.

    The taps of a kernel read neighbouring values of one channel, which are alike: errors that sum to zero over them
    cancel in the output. Weights whose rounding was the least decided are rounded the other way, as many as it takes.

    Args:
        weight: [C_out, C_in/groups, *k] float.
        scale: [C_out] or one element, positive.
        integers: int8 of ``weight``'s shape, its rounding to ``scale``.
        quant_min: smallest integer.
        quant_max: largest integer.
        order: of the pairs that must stay inside ``PAIR_LIMIT`` (see ``limit_pairs``), None when nothing limits them.

    Returns:
        int8 of ``weight``'s shape, each at most one quantum from ``integers``.

    Source: C. Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022,
    https://arxiv.org/abs/2202.07471 (its kernel-wise step).
    """
    if weight.numel() == 0 or weight.shape[2:].numel() < 2:
        return integers
    levels = weight.detach().to(torch.float32) / scale.reshape(-1, *(1,) * (weight.dim() - 1))
    rounded = _taps_first(integers.to(torch.float32))
    error = rounded - _taps_first(levels)
    uneven = error.sum(0).round_().nonzero()[:, 0]
    rounded[:, uneven] = _balance(rounded[:, uneven], error[:, uneven], quant_min, quant_max)
    result = rounded.t().reshape(weight.shape).to(torch.int8)
    return result if order is None else _inside_limit(result, integers, order)


def _taps_first(weight: Tensor) -> Tensor:
    """[taps, kernels], contiguous."""
    return weight.flatten(2).flatten(0, 1).t().contiguous()


def _balance(rounded: Tensor, error: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Balanced integers as float32 [taps, kernels], from rounded ones and their errors in quanta."""
    surplus = error.sum(0).round_()
    error = error.masked_fill(error.abs() > 0.5, 0)  # held back by a limit: not moved
    rounded = rounded.clone()
    kernels = torch.arange(len(surplus))
    while kernels.numel():
        sign = surplus[kernels].sign()
        largest, worst = (error[:, kernels] * sign).max(0)
        before = rounded[worst, kernels]
        after = (before - sign * (largest > 0)).clamp_(quant_min, quant_max)
        rounded[worst, kernels] = after
        error[worst, kernels] = 0
        surplus[kernels] -= before - after
        kernels = kernels[(surplus[kernels] != 0) & (largest > 0)]
    return rounded


def _inside_limit(balanced: Tensor, integers: Tensor, order: PairOrder) -> Tensor:
    """``balanced`` where its pairs keep to the limit, ``integers`` where a pair has left it."""
    position = torch.arange(balanced[0].numel()).reshape(1, *balanced.shape[1:])
    pairs, where = pairs_along(balanced.to(torch.int32), order), pairs_along(position, order)
    past = pairs.clamp(min=0).sum(-1).gt(PAIR_LIMIT) | pairs.clamp(max=0).sum(-1).lt(-PAIR_LIMIT)
    if not bool(past.any()):
        return balanced
    # A member that stands alone is beside a zero that stands for no weight, and cannot be past the limit.
    channel, pair = past.nonzero(as_tuple=True)
    flat, kept = balanced.flatten(1).clone(), integers.flatten(1)
    for member in where[0][pair].unbind(1):
        flat[channel, member] = kept[channel, member]
    return flat.reshape(balanced.shape)
