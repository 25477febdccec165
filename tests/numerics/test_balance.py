"""Rounding that cancels over the taps of a kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.numerics import PAIR_LIMIT, PairOrder, limit_pairs, max_pair_sum
from fxquant.numerics.balance import balance_taps


def _case(seed: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    scale = weight.flatten(1).abs().amax(1) / 127
    return weight, scale, (weight / scale.reshape(-1, *(1,) * (len(shape) - 1))).round().to(torch.int8)


def _sums(weight: torch.Tensor, scale: torch.Tensor, integers: torch.Tensor) -> torch.Tensor:
    levels = weight / scale.reshape(-1, *(1,) * (weight.dim() - 1))
    return (integers - levels).flatten(2).sum(2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(2, 7)),
)
def test_errors_of_a_kernel_sum_to_half_a_quantum(seed: int, shape: tuple[int, ...]) -> None:
    weight, scale, integers = _case(seed, shape)
    balanced = balance_taps(weight, scale, integers, -127, 127)
    assert balanced.dtype == torch.int8 and balanced.abs().max() <= 127
    assert (balanced.int() - integers.int()).abs().max() <= 1
    # Where the largest weight of a channel is at 127 it cannot move up, which may leave one quantum.
    free = (integers.abs() < 127).flatten(2).all(2)
    assert (_sums(weight, scale, balanced).abs()[free] <= 0.5 + 1e-3).all()


@pytest.mark.parametrize("order", ["channels", "taps_then_channels"])
@pytest.mark.parametrize("channels", [3, 4])
def test_pairs_stay_inside_their_limit(order: PairOrder, channels: int) -> None:
    weight = torch.rand(8, channels, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.2
    scale, integers = limit_pairs(weight, weight.flatten(1).amax(1) / 127, -127, 127, order)
    balanced = balance_taps(weight, scale, integers, -127, 127, order)
    assert max_pair_sum(balanced, order) <= PAIR_LIMIT
    before, after = (_sums(weight, scale, item).square().mean() for item in (integers, balanced))
    assert after < before


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 1, 1), (0, 3, 3, 3)])
def test_weights_without_taps_stay_as_they_are(shape: tuple[int, ...]) -> None:
    integers = torch.zeros(shape, dtype=torch.int8)
    assert balance_taps(torch.rand(shape) * 0.3, torch.ones(shape[0]), integers, -127, 127) is integers


def test_alike_inputs_lose_less() -> None:
    """On a smooth image the output of a balanced kernel is closer to float."""
    weight, scale, integers = _case(3, (16, 8, 5, 5))
    smooth = torch.nn.functional.avg_pool2d(torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(1)), 9, 1)
    exact = torch.nn.functional.conv2d(smooth, weight)

    def error(item: torch.Tensor) -> float:
        return float((torch.nn.functional.conv2d(smooth, item * scale.reshape(-1, 1, 1, 1)) - exact).square().mean())

    assert error(balance_taps(weight, scale, integers, -127, 127)) < 0.5 * error(integers)
