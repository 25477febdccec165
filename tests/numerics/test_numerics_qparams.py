"""Scale and zero point: properties, and the same answers as torch.ao."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.numerics import FLOAT32_EPS, choose_float_qparams, choose_qparams, dequantize, fake_quantize

values = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None, max_examples=200)
@given(a=values, b=values, unsigned=st.booleans(), symmetric=st.booleans())
def test_zero_is_exact_and_the_range_is_covered(a: float, b: float, unsigned: bool, symmetric: bool) -> None:
    low, high = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    bounds, dtype = ((0, 255), torch.uint8) if unsigned else ((-128, 127), torch.int8)
    scale, zero_point = choose_qparams(low, high, *bounds, symmetric=symmetric)
    assert scale.dtype == torch.float32 and zero_point.dtype == torch.int64
    assert bounds[0] <= int(zero_point) <= bounds[1] and float(scale) >= FLOAT32_EPS
    ends = torch.stack((low, high, torch.tensor(0.0)))
    got = fake_quantize(ends, scale, zero_point, *bounds, dtype)
    assert got[2] == 0.0
    # Half a step of rounding, up to half a step of clipping at one end, and float32 rounding.
    assert ((got - ends).abs() <= scale * 1.001).all()


def test_affine_uses_every_integer() -> None:
    scale, zero_point = choose_qparams(torch.tensor(-1.0), torch.tensor(3.0), 0, 255, symmetric=False)
    ends = dequantize(torch.tensor([0, 255], dtype=torch.uint8), scale, zero_point)
    assert torch.allclose(ends, torch.tensor([-1.0, 3.0]), atol=float(scale) / 2)


def test_one_sided_ranges_are_extended_to_zero() -> None:
    scale, zero_point = choose_qparams(torch.tensor([2.0, -4.0]), torch.tensor([4.0, -2.0]), 0, 255, symmetric=False)
    assert torch.equal(scale, torch.full((2,), 4.0) / 255)
    assert zero_point.tolist() == [0, 255]


@pytest.mark.parametrize(("bounds", "middle"), [((-128, 127), 0), ((-64, 63), 0), ((0, 255), 128), ((0, 127), 64)])
def test_symmetric_ranges_centre_zero(bounds: tuple[int, int], middle: int) -> None:
    scale, zero_point = choose_qparams(torch.tensor(-1.0), torch.tensor(0.5), *bounds, symmetric=True)
    assert int(zero_point) == middle
    assert float(scale) == pytest.approx(2 / (bounds[1] - bounds[0]))


def test_all_zeros_get_the_smallest_scale() -> None:
    for symmetric in (False, True):
        scale, _ = choose_qparams(torch.zeros(3), torch.zeros(3), -128, 127, symmetric=symmetric, eps=2**-12)
        assert torch.equal(scale, torch.full((3,), 2**-12))


def test_float_zero_points_need_not_contain_zero() -> None:
    scale, zero_point = choose_float_qparams(torch.tensor([2.0, 5.0]), torch.tensor([4.0, 5.0]), 0, 255)
    assert zero_point.dtype == torch.float32
    assert torch.allclose(-zero_point * scale, torch.tensor([2.0, 5.0]))
    assert scale[1] == 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_same_as_torch_ao(dtype: str, symmetric: bool) -> None:
    observer = pytest.importorskip("torch.ao.quantization.observer")
    scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    theirs = observer.PerChannelMinMaxObserver(dtype=getattr(torch, dtype), qscheme=scheme)
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 6, 500)[:, None]
    x[:50].abs_()
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    bounds = (0, 255) if dtype == "quint8" else (-128, 127)
    got_scale, got_zero_point = choose_qparams(x.amin(1), x.amax(1), *bounds, symmetric=symmetric)
    assert torch.equal(got_scale, scale)
    assert torch.equal(got_zero_point, zero_point.to(torch.int64))
