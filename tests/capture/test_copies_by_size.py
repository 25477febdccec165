"""Operations that copy for some sizes and look into the same memory for others, where that memory is written into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.errors import FxquantError


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)


class Contiguous(Layer):
    def forward(self, x: Tensor) -> Any:
        h = self.linear(x)
        y = h.transpose(1, 2).contiguous()
        y.mul_(2.0)
        return y.sum(), h


class SourceWritten(Layer):
    def forward(self, x: Tensor) -> Any:
        h = self.linear(x)
        y = h.transpose(1, 2).reshape(x.shape[0], -1)
        h.mul_(2.0)
        return y, h


class Flattened(Layer):
    def forward(self, x: Tensor) -> Any:
        h = self.linear(x)
        y = h[:, :, :4].flatten(1)
        y += 1
        return y, h


@pytest.mark.parametrize("kind", [Contiguous, SourceWritten, Flattened])
def test_rows_of_one(kind: type[Layer]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    captured = pipeline.capture(model, (torch.randn(2, 5, 8),))
    for shape in ((2, 5, 8), (2, 1, 8), (1, 5, 8), (1, 1, 8)):
        x = torch.randn(shape)
        for found, expected in zip(captured(x), model(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


class BothAsserted(Layer):
    def forward(self, x: Tensor) -> Any:
        assert x.shape[0] % 2 == 0 and x.shape[1] == 8, "even batches"
        return self.linear(x)


class EitherRaises(Layer):
    def forward(self, x: Tensor) -> Any:
        if x.shape[0] > 6 or x.dim() != 2:
            raise ValueError("at most six")
        return self.linear(x)


class RangeRaises(Layer):
    def forward(self, x: Tensor) -> Any:
        if not (2 <= x.shape[0] <= 6 or x.shape[1] == 9):
            raise ValueError("two to six")
        return self.linear(x)


@pytest.mark.parametrize("kind", [BothAsserted, EitherRaises, RangeRaises])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 8])
def test_several_sizes_in_one_check(kind: type[Layer], rows: int) -> None:
    model, x = kind().eval(), torch.randn(rows, 8)
    captured = pipeline.capture(model, (torch.randn(4, 8),))
    try:
        expected = model(x)
    except (AssertionError, ValueError):
        with pytest.raises((FxquantError, ValueError, AssertionError)):
            captured(x)
    else:
        assert torch.equal(captured(x), expected)
