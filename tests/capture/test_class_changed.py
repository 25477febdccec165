"""Forward that sets the class of a module: the next call is another one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline


class Layer(nn.Module):
    factor = 1

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.factor


class Later(Layer):
    factor = 3


class First(Layer):
    factor = 2

    def forward(self, x: Tensor) -> Any:
        x = super().forward(x)
        self.__class__ = Later
        return x


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.linear = First(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.first(x))


class FromAround(nn.Module):
    """Sets the class of its child."""

    def __init__(self) -> None:
        super().__init__()
        self.child: Any = Layer()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.linear(self.child(x))
        self.child.__class__ = Later
        return x


class ForOneCall(FromAround):
    """Sets it back."""

    def forward(self, x: Tensor) -> Any:
        self.child.__class__ = Later
        x = self.linear(self.child(x))
        self.child.__class__ = Layer
        return x


@pytest.mark.parametrize("make", [First, Inside, FromAround, ForOneCall])
def test_calls_in_a_row_are_those_of_eager(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), torch.randn(4, 4)
    kinds = [type(module) for module in model.modules()]
    assert fxquant.check_traceable(model, (x,)).ok
    captured = pipeline.capture(model, (x,))
    assert [type(module) for module in model.modules()] == kinds
    eager = copy.deepcopy(model)
    with torch.no_grad():
        for given in (x, x * 2, -x):
            torch.testing.assert_close(captured(given), eager(given))


def test_only_the_module_that_changes_is_kept_whole() -> None:
    captured = pipeline.capture(Inside().eval(), (torch.randn(4, 4),))
    assert captured.state.capture_notes[0].startswith("module 'first' runs as Python")
