"""Rounding that makes up for the error of one weight in the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.numerics import PAIR_LIMIT, PairOrder, limit_pairs, max_pair_sum
from fxquant.numerics.compensate import InputCorrelations, round_compensating


def _case(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    scale = weight.flatten(1).abs().amax(1) / 127
    return weight, scale, (weight / scale.reshape(-1, *(1,) * (len(shape) - 1))).round().to(torch.int8)


def _correlated(seed: int, size: int) -> Tensor:
    """A covariance whose channels share most of what they do."""
    mixing = torch.randn(size, 2, generator=torch.Generator().manual_seed(seed))
    return mixing @ mixing.t() + 0.1 * torch.eye(size)


def _neighbours(taps: int) -> Tensor:
    position = torch.arange(float(taps))
    return 0.9 ** (position[:, None] - position).abs()


def _cost(weight: Tensor, scale: Tensor, integers: Tensor, inputs: InputCorrelations) -> Tensor:
    """Each output channel's expected squared error in quanta, from the whole covariance."""
    error = integers.float() - weight / scale.reshape(-1, *(1,) * (weight.dim() - 1))
    flat = error.flatten(2).transpose(1, 2).flatten(1).double() if error.dim() > 2 else error.double()
    channels = torch.eye(weight.shape[1]) if inputs.channels is None else inputs.channels
    return torch.einsum("oi,ij,oj->o", flat, torch.kron(inputs.taps, channels).double(), flat)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
    crossed=st.booleans(),
)
def test_never_worse_than_nearest(seed: int, shape: tuple[int, ...], crossed: bool) -> None:
    weight, scale, nearest = _case(seed, shape)
    inputs = InputCorrelations(_correlated(seed, shape[1]) if crossed else None, _neighbours(shape[2] * shape[3]))
    made = round_compensating(weight, scale, nearest, -127, 127, inputs)
    assert made.dtype == torch.int8 and made.shape == weight.shape and made.abs().max() <= 127
    before, after = (_cost(weight, scale, item, inputs) for item in (nearest, made))
    assert (after <= before * (1 + 1e-4) + 1e-4).all()


def test_one_input_that_all_share_is_exact_to_half_a_quantum() -> None:
    """Where all inputs are the same number, only the sum of a row counts."""
    weight, scale, nearest = _case(0, (16, 64))
    inputs = InputCorrelations(torch.ones(64, 64), torch.ones(1, 1))
    made = round_compensating(weight, scale, nearest, -127, 127, inputs)
    sums = (made - weight / scale[:, None]).sum(1)
    assert sums.abs().max() < 0.75 < (nearest - weight / scale[:, None]).sum(1).abs().max()


@pytest.mark.parametrize("order", ["channels", "taps_then_channels"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("crossed", [True, False])
def test_pairs_stay_inside_their_limit(order: PairOrder, channels: int, crossed: bool) -> None:
    weight = torch.rand(8, channels, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.2
    scale, integers = limit_pairs(weight, weight.flatten(1).amax(1) / 127, -127, 127, order)
    inputs = InputCorrelations(_correlated(1, channels) if crossed else None, _neighbours(9))
    made = round_compensating(weight, scale, integers, -127, 127, inputs, order)
    assert max_pair_sum(made, order) <= PAIR_LIMIT
    before, after = (_cost(weight, scale, item, inputs).mean() for item in (integers, made))
    assert after < before


def test_the_blocks_of_many_channels_are_one_walk() -> None:
    """Against the algorithm written down as it is: one column after the other, all that follow moved at once."""
    weight, scale, _ = _case(2, (5, 150))
    covariance = _correlated(3, 150)
    damped = covariance.double() + 0.003 * covariance.diagonal().mean().double() * torch.eye(150, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    levels = (weight / scale[:, None]).double()
    expected = torch.zeros_like(levels)
    for column in range(150):
        expected[:, column] = levels[:, column].round().clamp(-127, 127)
        error = (levels[:, column] - expected[:, column]) / upper[column, column]
        levels[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    far = torch.full_like(weight, 127).to(torch.int8)  # worse in every row
    made = round_compensating(weight, scale, far, -127, 127, InputCorrelations(covariance, torch.ones(1, 1)))
    assert (made != expected).float().mean() < 0.02  # ties that float32 decides otherwise, and what follows from them


def test_correlations_that_are_no_covariance_are_damped() -> None:
    weight, scale, nearest = _case(4, (4, 3, 3, 3))
    taps = torch.eye(9)
    taps[0, 1] = taps[1, 0] = -1.05
    made = round_compensating(weight, scale, nearest, -127, 127, InputCorrelations(None, taps))
    assert (made - nearest).abs().max() <= 2
    nothing = InputCorrelations(torch.zeros(3, 3), torch.zeros(9, 9))  # an input that never changes
    assert torch.equal(round_compensating(weight, scale, nearest, -127, 127, nothing), nearest)


def test_no_weights() -> None:
    nearest = torch.zeros(0, 3, 3, 3, dtype=torch.int8)
    inputs = InputCorrelations(None, torch.eye(9))
    assert round_compensating(torch.zeros(0, 3, 3, 3), torch.zeros(0), nearest, -127, 127, inputs) is nearest


def test_smooth_images_lose_less() -> None:
    weight, scale, nearest = _case(3, (16, 8, 5, 5))
    noise = torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    smooth = F.avg_pool2d(noise, 9, 1)
    exact = F.conv2d(smooth, weight)

    def error(item: Tensor) -> float:
        return float((F.conv2d(smooth, item * scale.reshape(-1, 1, 1, 1)) - exact).square().mean())

    position = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
    taps = (1 - torch.cdist(position, position, p=1) / 9).clamp(min=0)
    made = round_compensating(weight, scale, nearest, -127, 127, InputCorrelations(None, taps))
    assert error(made) < 0.25 * error(nearest)
