"""Weights whose neighbouring pairs cannot overflow an int16 accumulator.

CPUs without VNNI multiply uint8 by int8 and add two neighbouring products in int16, which saturates at 32767
(``vpmaddubsw``). Activations reach 255, so the products of a pair stay inside when the positive weights of
the pair sum to at most 128 and the negative ones to at least -128: ``255 * 128 = 32640``.

Source: https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html, ``_mm256_maddubs_epi16``.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import ConfigError

PairOrder: TypeAlias = Literal["channels", "taps_then_channels"]

PAIR_LIMIT = 128
"""Largest sum of the same-signed weights of a pair: ``floor(32767 / 255)``."""

_JUST_INSIDE = PAIR_LIMIT - 2.0**-14
"""Two members that sum to this cannot both be rounded up to more than the limit, whatever float32 errs by."""

# Channels that never vary still get this share of the mean importance: calibration data is not all there is.
_LEAST_IMPORTANCE = 0.01

_STRETCHES = tuple(1.0 + step / 7 for step in range(8))

_TOGETHER = 1 << 18
"""Elements worked on at once: enough to make a call's overhead small, few enough for the CPU's caches."""


def pairs_along(weight: Tensor, order: PairOrder) -> Tensor:
    """Arranges a weight as the pairs that a kernel adds in int16.

    Args:
        weight: [C_out, C_in/groups, *k], any dtype.
        order: ``"channels"`` pairs input channels 2k and 2k+1 of one kernel tap, and an odd last channel
            stands alone; ``"taps_then_channels"`` pairs along the flat list (taps, channels), where an odd
            number of channels lets a pair straddle two taps.

    Returns:
        [C_out, pairs, 2], a copy or a view; members that stand alone have a zero beside them.

    Raises:
        ConfigError: ``order`` is neither of the two.
    """
    rows = weight.movedim(1, -1)
    if order == "taps_then_channels":
        rows = rows.reshape(weight.shape[0], -1)
    elif order != "channels":
        raise ConfigError(f"unknown order of pairs {order!r}", remedy="use 'channels' or 'taps_then_channels'")
    if rows.shape[-1] % 2:
        rows = F.pad(rows, (0, 1))
    return rows.reshape(weight.shape[0], -1, 2)


def max_pair_sum(weight_int: Tensor, order: PairOrder) -> int:
    """Largest sum of same-signed members of a pair, as an absolute value; safe up to ``PAIR_LIMIT``.

    Args:
        weight_int: [C_out, C_in/groups, *k] int8.
        order: as in ``pairs_along``.
    """
    if weight_int.numel() == 0:
        return 0
    pairs = pairs_along(weight_int.to(torch.int32), order)
    positive = pairs.clamp(min=0).sum(-1).max()
    negative = pairs.clamp(max=0).sum(-1).min()
    return max(int(positive), -int(negative))


def limit_pairs(
    weight: Tensor,
    scale: Tensor,
    quant_min: int,
    quant_max: int,
    order: PairOrder,
    importance: Tensor | None = None,
    stretch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantizes a weight symmetrically so that no pair sums past ``PAIR_LIMIT``, at the least error found.

    A channel none of whose pairs is past the limit keeps its scale and its integers. For the others, 8
    scales from 1x to 2x of the given one are tried (at 2x no pair of a weight that the given scale covers is
    past the limit); the pairs that are past it are moved to the nearest integers on it, so that a few of them
    need not coarsen a whole channel; the scale with the smallest squared error wins.

    Args:
        weight: [C_out, C_in/groups, *k] float.
        scale: [C_out] or one element, positive; the scale without a limit. The zero point is 0.
        quant_min: smallest integer, at least -128.
        quant_max: largest integer, at most 127.
        order: as in ``pairs_along``.
        importance: [C_in/groups] float, what a squared error of a weight of each input channel costs: the variance
            of that channel, so that the error of the output is what becomes small. Default: all the same.
        stretch: of ``scale``'s shape, factors to use instead of trying some; see ``choose_stretch``.

    Returns:
        ``(scale, weight_int)``: float32 of ``scale``'s shape and nowhere below it, and int8 of ``weight``'s
        shape in quant_min..quant_max.
    """
    pairs = pairs_along(weight.detach().to(torch.float32), order)
    base = scale.detach().to(torch.float32).reshape(-1)
    costs = _costs_along(weight, importance, order)
    factors = _stretch(pairs, base, costs, quant_min, quant_max) if stretch is None else stretch.reshape(-1)
    base = base * factors
    levels, integers = _round(pairs, base, quant_min, quant_max)
    _project(levels, integers, costs, quant_min, quant_max)
    return base.reshape(scale.shape), _from_pairs(integers.to(torch.int8), weight.shape, order)


def limit_levels(levels: Tensor, order: PairOrder) -> Tensor:
    """Takes what is past the limit from both members of a pair alike, so that rounding does what ``limit_pairs`` does.

    For training, in few operations: rounding differs from ``limit_pairs`` by one integer where members lie within
    2^-13 of a tie, and is inside the limit all the same.

    Args:
        levels: float32 [C_out, C_in/groups, *k], a weight in steps of its scale, stretched already, all inside
            -127.5..127.5; may be changed.
        order: as in ``pairs_along``.

    Returns:
        ``levels``, or a tensor of its shape.
    """
    if levels.shape[1] == 1 and order == "channels":
        return levels
    even = levels.shape[1] % 2 == 0 and levels.is_contiguous()
    pairs = levels.view(len(levels), levels.shape[1] // 2, 2, -1) if even else pairs_along(levels, order)
    first, second = pairs.unbind(2 if even else -1)
    excess = F.softshrink(first + second, _JUST_INSIDE)
    first.sub_(excess, alpha=0.5)
    second.sub_(excess, alpha=0.5)
    return levels if even else _from_pairs(pairs, levels.shape, order)


def choose_stretch(weight: Tensor, scale: Tensor, quant_min: int, quant_max: int, order: PairOrder) -> Tensor:
    """Factors that ``limit_pairs`` would multiply ``scale`` with, of its shape, for weights that all cost the same.

    Arguments are those of ``limit_pairs``.
    """
    pairs = pairs_along(weight.detach().to(torch.float32), order)
    base = scale.detach().to(torch.float32).reshape(-1)
    return _stretch(pairs, base, _costs_along(weight, None, order), quant_min, quant_max).reshape(scale.shape)


def _stretch(pairs: Tensor, base: Tensor, costs: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """One factor per scale: 1 where no pair is past the limit, else the best one tried."""
    _, integers = _round(pairs, base, quant_min, quant_max)
    offending = _past_limit(integers).any(1)
    factors = torch.ones_like(base)
    if bool(offending.any()):
        chosen = offending if base.numel() > 1 else slice(None)
        factors[chosen] = _best_stretch(pairs[chosen], base[chosen], costs, quant_min, quant_max)
    return factors


def _costs_along(weight: Tensor, importance: Tensor | None, order: PairOrder) -> Tensor:
    """What a squared error costs, arranged like the pairs: [1, P, 2], or [1, 1, 2] when all cost the same."""
    if importance is None:
        return torch.ones(1, 1, 2, device=weight.device)
    smallest = importance.mean() * _LEAST_IMPORTANCE + torch.finfo(torch.float32).tiny
    costs = importance.to(torch.float32).clamp(min=float(smallest))
    return pairs_along(costs.reshape(1, -1, *(1,) * (weight.dim() - 2)).expand(1, *weight.shape[1:]), order) + smallest


def _best_stretch(pairs: Tensor, base: Tensor, costs: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Factor with the smallest squared error: [C] for pairs [C, P, 2] and base [C], [1] for a base of [1]."""
    factors = torch.tensor(_STRETCHES, dtype=torch.float32, device=base.device)
    scales = (factors[:, None] * base).expand(-1, len(pairs))
    channels = max(1, _TOGETHER // (len(factors) * pairs[0].numel()))
    errors = []
    for some, scale in zip(torch.split(pairs, channels), torch.split(scales, channels, 1), strict=True):
        levels, integers = _round(some, scale, quant_min, quant_max)
        _project(levels, integers, costs, quant_min, quant_max)
        error = integers.mul_(scale[..., None, None]).sub_(some).square_().mul_(costs)
        errors.append(error.flatten(2).sum(2))
    error = torch.cat(errors, 1)
    return factors[(error if base.numel() > 1 else error.sum(1, keepdim=True)).argmin(0)]


def _round(pairs: Tensor, scale: Tensor, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    """``(pairs / scale, the same as integers in range)`` for scales [..., C]: both float32 [..., C, P, 2]."""
    levels = pairs * (1.0 / scale)[..., None, None]
    return levels, levels.round().clamp_(quant_min, quant_max)


def _past_limit(integers: Tensor) -> Tensor:
    """[..., P] bool. No member is past ±128, so members of opposite signs are inside, and so is their sum."""
    return (integers[..., 0] + integers[..., 1]).abs_() > PAIR_LIMIT


def _project(levels: Tensor, integers: Tensor, costs: Tensor, quant_min: int, quant_max: int) -> None:
    """Moves, in place, the pairs past the limit to the integers on it whose error costs least.

    On the line ``a + b = 128`` the cost ``m·(a-u)² + n·(b-v)²`` is least where the excess ``u + v - 128`` is taken
    from the members in proportion to the other's cost: ``a = u - (u + v - 128)·n/(m + n)``.
    """
    offending = _past_limit(integers)
    if costs.numel() == 2 and quant_min == -quant_max and levels.is_contiguous() and integers.is_contiguous():
        _project_evenly(levels.view(-1, 2), integers.view(-1, 2), offending.view(-1), quant_max)
        return
    past = offending.nonzero(as_tuple=True)
    if past[0].numel() == 0:
        return
    sign = integers[..., 0][past].sign()
    first, second = (levels[past] * sign[:, None]).unbind(1)
    reach = torch.where(sign > 0, quant_max, -quant_min)
    first_cost, second_cost = costs.expand(1, levels.shape[-2], 2)[0, past[-1]].unbind(1)
    moved = (first - (first + second - PAIR_LIMIT) * (second_cost / (first_cost + second_cost))).round()
    moved = torch.minimum(torch.maximum(moved, PAIR_LIMIT - reach), reach)
    integers[past] = torch.stack((moved, PAIR_LIMIT - moved), 1) * sign[:, None]


def _project_evenly(levels: Tensor, integers: Tensor, past: Tensor, reach: int) -> None:
    """The same for flat pairs, [N, 2], whose members cost the same, and integers in -reach..reach."""
    index = past.nonzero().view(-1)
    if index.numel() == 0:
        return
    sign = integers.index_select(0, index).narrow(1, 0, 1).sign()
    given = levels.index_select(0, index) * sign
    excess = given.sum(1) - PAIR_LIMIT
    moved = given.select(1, 0).sub_(excess, alpha=0.5).round_().clamp_(PAIR_LIMIT - reach, reach)
    integers.index_copy_(0, index, torch.stack((moved, PAIR_LIMIT - moved), 1) * sign)


def _from_pairs(pairs: Tensor, shape: torch.Size, order: PairOrder) -> Tensor:
    """Undoes ``pairs_along``: [C_out, pairs, 2] to ``shape``."""
    channels, taps = shape[1], shape[2:]
    if order == "channels":
        rows = pairs.reshape(shape[0], *taps, channels + channels % 2)[..., :channels]
    else:
        rows = pairs.reshape(shape[0], -1)[:, : channels * taps.numel()].reshape(shape[0], *taps, channels)
    return rows.movedim(-1, 1).contiguous()
