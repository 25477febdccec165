"""Many values searched in one step are found to be as large as each is by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.ir.meta import largest_magnitude, largest_magnitudes

COUNTS = [1, 3, 4, 9]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 3, 4), (0,), (2, 0)])
def test_each_is_found_as_by_itself(shape: tuple[int, ...], count: int) -> None:
    values = [torch.randn(shape) * (index + 1) for index in range(count)]
    assert largest_magnitudes(values) == [largest_magnitude(value) for value in values]


@pytest.mark.parametrize("count", COUNTS)
def test_nan_and_infinity(count: int) -> None:
    found = largest_magnitudes([torch.tensor(math.nan), *(torch.tensor(-math.inf) for _ in range(count))])
    assert math.isnan(found[0])
    assert found[1:] == [math.inf] * count


class Scales(nn.Module):
    """Multiplies by many numbers that are tensors, as the heads of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.strides = [torch.tensor(float(index + 1)) for index in range(6)]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        for stride in self.strides:
            y = y * stride
        return y


def test_a_model_with_many_scalars_is_quantized() -> None:
    torch.manual_seed(0)
    model, x = Scales().eval(), torch.randn(8, 4)
    prepared = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    found, expected = fxquant.convert_fx(prepared)(x), model(x)
    assert (found - expected).norm() < 0.03 * expected.norm()
