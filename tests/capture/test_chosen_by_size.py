"""Functions, methods and memory that a size chooses: right at every length, or refused where other code is chosen."""

from __future__ import annotations

import functools
from enum import Enum
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.errors import FxquantError
from fxquant.ir.stages import CapturedModel


class Mode(Enum):
    ODD, EVEN = 1, 2


class Layer(nn.Module):
    """The example has an even length."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4)


class Function(Layer):
    def forward(self, x: Tensor) -> Any:
        act = F.relu if x.shape[1] % 2 else F.silu
        return act(self.linear(x))


class BuiltIn(Layer):
    def forward(self, x: Tensor) -> Any:
        act: Any = torch.relu
        if x.shape[1] % 2 == 0:
            act = F.silu
        return act(self.linear(x))


class Partial(Layer):
    def forward(self, x: Tensor) -> Any:
        act = functools.partial(F.leaky_relu, negative_slope=0.5)
        if x.shape[1] % 2 == 0:
            act = functools.partial(F.leaky_relu, negative_slope=0.1)
        return act(self.linear(x))


class FunctionAndNumber(Layer):
    def forward(self, x: Tensor) -> Any:
        act, gain = F.relu, 1.0
        if x.shape[1] % 2 == 0:
            act, gain = F.silu, 2.0
        return act(self.linear(x)) * gain


class MethodOfTensor(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        act = y.sigmoid
        if x.shape[1] % 2 == 0:
            act = y.relu
        return act()


class CopiedOrNot(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        z = y * 1 if x.shape[1] % 2 == 0 else y
        z += 1
        return z + y


class PartOrCopy(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        z = y[:, :1]
        if x.shape[1] % 2 == 0:
            z = z.clone()
        F.relu_(z)
        return y


class Own(Layer):
    def forward(self, x: Tensor) -> Any:
        def double(t: Tensor) -> Tensor:
            return t * 2

        def halve(t: Tensor) -> Tensor:
            return t / 2

        act = double if x.shape[1] % 2 else halve
        return act(self.linear(x))


class Module(Layer):
    def forward(self, x: Tensor) -> Any:
        layer = self.linear if x.shape[1] % 2 else self.other
        return layer(x)


class OfEnum(Layer):
    def forward(self, x: Tensor) -> Any:
        mode = Mode.ODD
        if x.shape[1] % 2 == 0:
            mode = Mode.EVEN
        return self.linear(x) if mode is Mode.EVEN else self.other(x)


def captured(kind: type[Layer]) -> tuple[nn.Module, CapturedModel]:
    model = kind().eval()
    return model, pipeline.capture(model, (torch.randn(2, 6, 4),))


@pytest.mark.parametrize(
    "kind", [Function, BuiltIn, Partial, FunctionAndNumber, MethodOfTensor, CopiedOrNot, PartOrCopy]
)
def test_a_choice_of_torchs_functions_or_of_memory_is_made_anew(kind: type[Layer]) -> None:
    model, graph = captured(kind)
    for length in (6, 7, 1, 8):
        x = 3 * torch.randn(3, length, 4)
        assert torch.equal(graph(x.clone()), model(x.clone())), length


@pytest.mark.parametrize("kind", [Own, Module, OfEnum])
def test_other_code_than_on_the_example_is_refused(kind: type[Layer]) -> None:
    model, graph = captured(kind)
    x = torch.randn(3, 8, 4)
    assert torch.equal(graph(x), model(x))
    with pytest.raises(FxquantError):
        graph(torch.randn(3, 7, 4))
