"""Sizes asked for in statements that multiply by weights: right at every length, the weights outside of the part."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import convert_fx, get_default_qconfig_mapping, pipeline, prepare_fx
from fxquant.errors import FxquantError
from fxquant.ir.float_part import FloatPart

TABLE = {"6": 2.0, "7": 3.0}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4)


class PadsInTheCall(Layer):
    def forward(self, x: Tensor) -> Any:
        y = F.relu(x)
        return self.linear(F.pad(y, (0, 0, 0, 1)) if y.shape[1] % 2 else y)


class Factor(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * (2 if x.shape[1] in (6, 8) else 3)


class TwoInALine(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * (2 if x.shape[1] > 6 else 3) + self.other(x) * (4 if x.shape[1] in (1, 7) else 5)


class LooksUpAText(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * TABLE.get(str(x.shape[1]), 1.0)


class Lists(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x)[:, [index for index in range(x.shape[1]) if index % 3 != 1]]


class IntoAnItem(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        y[:, : (3 if x.shape[1] > 6 else 1)] += self.other(x)[:, : (3 if x.shape[1] > 6 else 1)]
        return y


class ActivationChosen(Layer):
    def forward(self, x: Tensor) -> Any:
        return (F.relu if x.shape[1] > 6 else F.silu)(self.linear(x))


class InAFunction(Layer):
    def padded(self, x: Tensor) -> Tensor:
        return self.other(F.pad(x, (0, 0, 0, 1)) if x.shape[1] % 2 else x)

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.padded(x))


KINDS = [PadsInTheCall, Factor, TwoInALine, LooksUpAText, Lists, IntoAnItem, ActivationChosen, InAFunction]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("example", [6, 7])
def test_right_at_every_length_with_the_weights_outside(kind: type[Layer], example: int) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (torch.randn(2, example, 4),))
    for length in (6, 7, 1, 4, 8):
        x = torch.randn(3, length, 4)
        assert torch.equal(captured(x.clone()), model(x)), length
    parts = [part for part in captured.modules() if isinstance(part, FloatPart)]
    assert parts and not any(True for part in parts for _ in part.parameters())


def test_the_weights_are_int8() -> None:
    model = PadsInTheCall().eval()
    prepared = prepare_fx(model, get_default_qconfig_mapping(), (torch.randn(2, 6, 4),))
    for length in (6, 7):
        prepared(torch.randn(4, length, 4))
    converted = convert_fx(prepared)
    assert any(
        "Quantized" in type(part).__name__ or "Linear" in type(part).__name__ for part in converted.int8.modules()
    )
    for length in (6, 7):
        x = torch.randn(2, length, 4)
        error = (converted(x) - model(x)).abs().max()
        assert error < 0.1


class WeightsOnBothSides(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) if x.shape[1] > 6 else self.other(x)


class Caught(Layer):
    """What the expression raises, the code around it catches."""

    def forward(self, x: Tensor) -> Any:
        try:
            return self.linear(x) * TABLE["6" if x.shape[1] % 2 == 0 else "other"]
        except KeyError:
            return x


class Loops(Layer):
    def forward(self, x: Tensor) -> Any:
        for _ in range(x.shape[1]):
            x = self.linear(x)
        return x


@pytest.mark.parametrize("kind", [WeightsOnBothSides, Caught, Loops])
def test_what_decides_which_weights_are_used_is_built_in(kind: type[Layer]) -> None:
    model, x = kind().eval(), torch.randn(2, 6, 4)
    captured = pipeline.capture(model, (x,))
    assert torch.equal(captured(x), model(x))
    assert not any(isinstance(part, FloatPart) for part in captured.modules())
    with pytest.raises(FxquantError, match="asks for what was"):
        captured(torch.randn(2, 7, 4))


class Multiplies(Layer):
    """A matrix product is done in int8: it is not made a part for the sake of a size."""

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) + torch.matmul(x, x.transpose(1, 2) if x.shape[1] > 6 else x.transpose(1, 2) * 2) @ x


def test_products_stay_outside() -> None:
    model = Multiplies().eval()
    captured = pipeline.capture(model, (torch.randn(2, 6, 4),))
    assert sum(node.target is torch.matmul for node in captured.graph.nodes) == 2
    for length in (6, 7):
        x = torch.randn(2, length, 4)
        assert torch.equal(captured(x), model(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(functools.reduce(lambda made, _: [*made, Factor()], range(10), list[nn.Module]()))

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x) * 0.3
        return x


def test_a_stack_of_them() -> None:
    model = Stack().eval()
    captured = pipeline.capture(model, (torch.randn(2, 6, 4),))
    for length in (6, 7):
        x = torch.randn(2, length, 4)
        assert torch.equal(captured(x), model(x))
