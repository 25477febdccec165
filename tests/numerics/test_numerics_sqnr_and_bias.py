"""SQNR on known values; bias correction against the measured shift of a layer's mean."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fxquant.errors import ConfigError
from fxquant.numerics import sqnr_db, weight_error_bias


def test_sqnr_of_known_values() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(reference, reference * 1.1) == pytest.approx(20.0, abs=1e-5)
    assert sqnr_db(reference, torch.zeros(2)) == pytest.approx(0.0)
    assert sqnr_db(torch.zeros(2), reference) == -math.inf
    assert math.isnan(sqnr_db(reference, torch.tensor([math.nan, 1.0])))


def test_sqnr_sums_in_float64() -> None:
    reference = torch.full((4,), 1e25)
    assert sqnr_db(reference, reference * 1.01) == pytest.approx(40.0, abs=1e-3)


LAYERS: list[tuple[nn.Module, tuple[int, ...], dict[str, Any]]] = [
    (nn.Linear(6, 4), (64, 6), {}),
    (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (4, 6, 8, 8), {}),
    (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular", groups=2), (4, 6, 8, 8), {"groups": 2}),
    (nn.ConvTranspose2d(6, 4, 1), (4, 6, 8, 8), {"transposed": True}),
    (nn.ConvTranspose2d(6, 4, 1, groups=2), (4, 6, 8, 8), {"transposed": True, "groups": 2}),
    (
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
        (4, 6, 8, 8),
        {"transposed": True, "groups": 2, "stride_product": 4},
    ),
]


@pytest.mark.parametrize(("layer", "shape", "arguments"), LAYERS)
def test_the_shift_of_the_mean_is_predicted(
    layer: nn.Module, shape: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    layer.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + torch.arange(6.0).reshape(
        -1, *[1] * (len(shape) - 2)
    )
    rest = [0, *range(2, len(shape))]
    weight = layer.weight.detach().clone()
    before = layer(x).mean(rest)
    layer.weight.data.mul_(16).round_().div_(16)
    after = layer(x).mean(rest)
    shift = weight_error_bias(weight, layer.weight, x.mean(rest), **arguments)
    assert shift.abs().max() > 1e-3
    torch.testing.assert_close(shift, after - before, rtol=1e-10, atol=1e-10)


def test_means_of_other_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 input channels"):
        weight_error_bias(torch.ones(4, 3), torch.ones(4, 3), torch.ones(3), groups=2)
