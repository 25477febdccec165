"""``flag is True``: Python asks no value which one it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.ir.float_part import FloatPart


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class InTheCondition(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if (y.sum() > 0).item() is True:
            y = -y
        return y


class OfAVariable(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        positive, gain = (y.sum() > 0).item(), 3
        return y * gain if positive is not False else y + 1


def is_positive(y: Tensor) -> Any:
    found = (y.sum() > 0).item()
    return found


class OfAFunction(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        positive = is_positive(y)
        if True is positive:
            y = -y
        return y


class OfASize(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        is_long = x.shape[1] > 6
        if is_long is True:
            y = y * 2
        return y


def doubled(y: Tensor, is_long: Any) -> Tensor:
    return y * 2 if is_long is True else y


class GivenToAFunction(Layer):
    def forward(self, x: Tensor) -> Any:
        return doubled(self.linear(x), x.shape[1] > 6)


class GivenToAMethod(Layer):
    def changed(self, y: Tensor, *, positive: Any = None) -> Tensor:
        if positive is not False:
            y = y + 1
        return y

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        positive = (y.sum() > 0).item()
        return self.changed(y, positive=positive)


class OfAFlag(Layer):
    """No part is needed: what is asked for is no value of the graph."""

    causal: Any = None

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if self.causal is True or self.training is True:
            y = y + 1
        is_long = x.shape[1] > 0
        if not is_long:
            raise ValueError("empty")
        return y


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (InTheCondition, 1),
        (OfAVariable, 1),
        (OfAFunction, 1),
        (OfASize, 1),
        (GivenToAFunction, 1),
        (GivenToAMethod, 1),
        (OfAFlag, 0),
    ],
)
def test_the_statement_runs_as_python(kind: type[Layer], parts: int) -> None:
    model, x = kind().eval(), torch.randn(2, 6, 4)
    captured = pipeline.capture(model, (x,))
    assert sum(isinstance(part, FloatPart) for part in captured.modules()) == parts
    for other in (x, -x, x + 3, x - 3, torch.randn(2, 7, 4), torch.randn(3, 8, 4)):
        assert torch.equal(captured(other), model(other))
