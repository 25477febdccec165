"""Limited weights never overflow int16 pairs, whatever the activations, and lose little."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics import (
    PAIR_LIMIT,
    PairOrder,
    choose_qparams,
    limit_pairs,
    max_pair_sum,
    pairs_along,
    quantize,
)

ORDERS = get_args(PairOrder)
SHAPES = [(4, 6), (4, 5), (3, 4, 3, 3), (3, 3, 3, 3), (5, 1, 3, 3), (2, 3, 5), (2, 3, 2, 2, 3)]
INT16 = torch.iinfo(torch.int16)


def channel_scale(weight: Tensor, low: int = -128, high: int = 127) -> Tensor:
    rows = weight.flatten(1)
    return choose_qparams(rows.amin(1), rows.amax(1), low, high, symmetric=True)[0]


def pair_members(shape: tuple[int, ...], order: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Positions of the members of each pair of one output channel, by plain loops."""
    taps = list(itertools.product(*(range(size) for size in shape[2:])))
    if order == "channels":
        return [((channel, *tap), (channel + 1, *tap)) for tap in taps for channel in range(0, shape[1] - 1, 2)]
    flat = [(channel, *tap) for tap in taps for channel in range(shape[1])]
    return list(zip(flat[0:-1:2], flat[1::2], strict=False))


def worst_accumulations(weight_int: Tensor, order: str) -> tuple[int, int]:
    """Smallest and largest pair sum over activations of 0 or 255, which are where the extremes are."""
    sums = [
        first * int(row[a]) + second * int(row[b])
        for row in weight_int
        for a, b in pair_members(tuple(weight_int.shape), order)
        for first, second in itertools.product((0, 255), repeat=2)
    ]
    return min(sums), max(sums)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_full_range_weights_overflow_and_limited_ones_do_not(shape: tuple[int, ...], order: PairOrder) -> None:
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 1.0
    scale = channel_scale(weight)
    zero = torch.zeros_like(scale)
    if pair_members(shape, order):
        full = quantize(weight, scale, zero, -128, 127, torch.int8, axis=0)
        assert worst_accumulations(full, order)[1] > INT16.max
        _, limited = limit_pairs(-weight, scale, -128, 127, order)
        assert worst_accumulations(limited, order)[0] >= INT16.min
        _, limited = limit_pairs(weight, scale, -128, 127, order)
        assert worst_accumulations(limited, order)[1] <= INT16.max


@settings(deadline=None, max_examples=150)
@given(
    shape=st.sampled_from(SHAPES),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 2**20),
    bounds=st.sampled_from([(-128, 127), (-127, 127), (-64, 63)]),
    power=st.sampled_from([0.3, 1.0, 3.0]),
    one_scale=st.booleans(),
    shrink=st.sampled_from([1.0, 0.3]),
)
def test_no_pair_is_past_the_limit(
    shape: tuple[int, ...],
    order: PairOrder,
    seed: int,
    bounds: tuple[int, int],
    power: float,
    one_scale: bool,
    shrink: float,
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight = weight.sign() * weight.abs() ** power
    scale = channel_scale(weight, *bounds) * shrink  # a scale too small for the weight is allowed, too
    scale = scale.max().reshape(()) if one_scale else scale
    limited_scale, limited = limit_pairs(weight, scale, *bounds, order)
    assert limited.dtype == torch.int8 and limited.shape == weight.shape
    assert limited_scale.dtype == torch.float32 and limited_scale.shape == scale.shape
    assert (limited_scale >= scale).all() and (limited_scale <= 2 * scale).all()
    assert bounds[0] <= int(limited.min()) and int(limited.max()) <= bounds[1]
    assert max_pair_sum(limited, order) <= PAIR_LIMIT
    low, high = worst_accumulations(limited, order) if pair_members(shape, order) else (0, 0)
    assert INT16.min <= low and high <= INT16.max


@settings(deadline=None, max_examples=60)
@given(shape=st.sampled_from(SHAPES), order=st.sampled_from(ORDERS), seed=st.integers(0, 2**20))
def test_pairs_and_their_largest_sum_match_plain_loops(shape: tuple[int, ...], order: PairOrder, seed: int) -> None:
    weight = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    expected = 0
    for row in weight:
        members = pair_members(shape, order)
        alone = [int(v) for v in row.flatten()]
        sums = [(int(row[a]), int(row[b])) for a, b in members] + [(value, 0) for value in alone]
        for pair in sums:
            expected = max(expected, sum(v for v in pair if v > 0), -sum(v for v in pair if v < 0))
    assert max_pair_sum(weight, order) == expected
    assert pairs_along(weight, order).sum(dtype=torch.int64) == weight.sum(dtype=torch.int64)


@pytest.mark.parametrize("order", ORDERS)
def test_channels_inside_the_limit_keep_scale_and_integers(order: PairOrder) -> None:
    weight = torch.zeros(3, 4, 3, 3)
    weight[:, 0, 1, 1] = torch.tensor([1.0, 2.0, 3.0])
    weight[2, 1, 1, 1] = 3.0
    scale = channel_scale(weight)
    limited_scale, limited = limit_pairs(weight, scale, -128, 127, order)
    plain = quantize(weight, scale, torch.zeros(3), -128, 127, torch.int8, axis=0)
    assert torch.equal(limited[:2], plain[:2]) and torch.equal(limited_scale[:2], scale[:2])
    assert limited_scale[2] > scale[2]


def test_a_single_offending_pair_does_not_coarsen_its_channel() -> None:
    weight = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)) * 0.1
    weight[0, :2] = torch.tensor([1.0, 0.02])
    scale = channel_scale(weight)
    limited_scale, limited = limit_pairs(weight, scale, -128, 127, "channels")
    assert limited_scale[0] < 1.06 * scale[0]
    assert max_pair_sum(limited, "channels") <= PAIR_LIMIT


def test_the_projection_is_the_nearest_pair() -> None:
    """With all scales but the first ruled out by a heavy channel, each pair is the best integer pair."""
    generator = torch.Generator().manual_seed(3)
    levels = torch.rand(1, 40, generator=generator) * 30 + 50
    levels[0, 0] = 127.0
    weight = torch.cat((levels, torch.randn(1, 4000, generator=generator)), 1)
    limited_scale, limited = limit_pairs(weight, torch.tensor([1.0]), -128, 127, "channels")
    scaled = (weight / limited_scale)[0].reshape(-1, 2)
    grid = torch.tensor([(a, b) for a in range(128) for b in range(128) if a + b <= PAIR_LIMIT]).float()
    for index in range(20):
        best = (grid - scaled[index]).square().sum(1).min()
        got = (limited[0].reshape(-1, 2)[index].float() - scaled[index]).square().sum()
        assert float(got) == pytest.approx(float(best), abs=1e-3)


def test_error_is_smaller_than_halving_the_weights() -> None:
    weight = torch.randn(32, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = channel_scale(weight)
    limited_scale, limited = limit_pairs(weight, scale, -128, 127, "channels")
    halved = quantize(weight, 2 * scale, torch.zeros(32), -64, 63, torch.int8, axis=0)
    shape = (-1, 1, 1, 1)
    error = (limited * limited_scale.reshape(shape) - weight).square().mean()
    assert error < 0.6 * (halved * 2 * scale.reshape(shape) - weight).square().mean()


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown order"):
        pairs_along(torch.ones(2, 2), "taps")  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ORDERS)
def test_each_channel_is_limited_as_if_it_were_alone(order: PairOrder) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(150, 64, 3, 3, generator=generator), torch.rand(64, generator=generator)
    scale = channel_scale(weight)
    limited_scale, limited = limit_pairs(weight, scale, -127, 127, order, importance)
    for channel in range(0, 150, 7):
        one = slice(channel, channel + 1)
        alone = limit_pairs(weight[one], scale[one], -127, 127, order, importance)
        assert torch.equal(limited_scale[one], alone[0]) and torch.equal(limited[one], alone[1])
