"""Quantize and dequantize against exact rational arithmetic and against the kernels' rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.numerics import dequantize, fake_quantize, quantize

ZERO = torch.tensor(0)


def round_half_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


def expected_integer(x: float, scale: float, zero_point: int, low: int, high: int) -> int:
    product = np.float32(x) * (np.float32(1.0) / np.float32(scale))
    return max(low, min(high, round_half_even(Fraction(float(product))) + zero_point))


@settings(deadline=None, max_examples=200)
@given(
    x=st.floats(-1e4, 1e4, width=32),
    scale=st.floats(2**-20, 2**10, width=32),
    zero_point=st.integers(0, 255),
)
def test_quantize_follows_the_kernels_formula_exactly(x: float, scale: float, zero_point: int) -> None:
    got = quantize(torch.tensor([x]), torch.tensor([scale]), torch.tensor([zero_point]), 0, 255, torch.uint8)
    assert int(got) == expected_integer(x, scale, zero_point, 0, 255)


def test_ties_round_to_even_before_the_zero_point_is_added() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    got = quantize(x, torch.tensor(1.0), torch.tensor(1), -128, 127, torch.int8)
    assert got.tolist() == [1, 3, 3, 1, -1]


def test_the_reciprocal_is_multiplied_not_divided_by() -> None:
    scales = torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 0.1 + 1e-3
    ties = scales * 10.5
    by_product = torch.round(ties * (1.0 / scales))
    assert (by_product != torch.round(ties / scales)).any()  # the two differ somewhere on these data
    got = quantize(ties, scales, torch.zeros(4000, dtype=torch.int64), 0, 255, torch.uint8, axis=0)
    assert torch.equal(got.float(), by_product)


def test_per_channel_runs_along_the_given_axis() -> None:
    x = torch.ones(2, 3, 4)
    scale, zero_point = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([0, 10, 20])
    got = quantize(x, scale, zero_point, 0, 255, torch.uint8, axis=1)
    assert got[0, :, 0].tolist() == [1, 12, 24]
    assert torch.equal(got, quantize(x, scale, zero_point, 0, 255, torch.uint8, axis=-2))
    assert torch.equal(dequantize(got, scale, zero_point, axis=1), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fake_quantize_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 2, 9, dtype=dtype).reshape(3, 3)
    got = fake_quantize(x, torch.tensor([0.5]), torch.tensor([3]), 0, 7, torch.uint8)
    assert got.dtype == dtype and got.shape == x.shape
    assert torch.equal(got, x.clamp(-1.5, 2.0))


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**20), zero_point=st.integers(-128, 127))
def test_integers_survive_a_round_trip(seed: int, zero_point: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(-128, 128, (64,), generator=generator, dtype=torch.int8)
    scale, offset = torch.rand(1, generator=generator) + 1e-3, torch.tensor([zero_point])
    assert torch.equal(quantize(dequantize(q, scale, offset), scale, offset, -128, 127, torch.int8), q)


def test_a_zero_dimensional_input_stays_zero_dimensional() -> None:
    got = quantize(torch.tensor(2.0), torch.tensor([1.0]), torch.tensor([0]), 0, 255, torch.uint8)
    assert got.shape == ()


def test_int32_saturates_at_its_ends() -> None:
    x = torch.tensor([1e12, -1e12, 7.0])
    got = quantize(x, torch.tensor(1.0), ZERO, -(2**31), 2**31 - 1, torch.int32)
    assert got.tolist() == [2**31 - 1, -(2**31), 7]
    large = torch.tensor([2**24 + 1], dtype=torch.int32)
    assert dequantize(large, torch.tensor(1.0), ZERO, dtype=torch.float64).item() == 2**24 + 1


def test_infinities_saturate() -> None:
    x = torch.tensor([float("inf"), float("-inf")])
    assert quantize(x, torch.tensor(0.1), ZERO, -128, 127, torch.int8).tolist() == [127, -128]


def test_a_float_zero_point_is_added_before_rounding() -> None:
    got = quantize(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0.7]), 0, 15, torch.uint8)
    assert got.tolist() == [2]
    assert dequantize(got, torch.tensor([1.0]), torch.tensor([0.7])).item() == pytest.approx(1.3)
