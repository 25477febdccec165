"""Tensors that are given another form in place, and views that are written into through another one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)


class Unsqueezed(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        first = y[0]
        y.unsqueeze_(0)
        first.add_(1)
        return y


class Turned(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        first = y[0]
        y.t_()
        first.add_(1)
        return y


class Detached(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        part = y[:, :4]
        part.add_(1)
        part.detach().mul_(0.5)
        return y


class DetachedAndRead(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y: Tensor = self.linear(x)
        part = y[:, :4]
        part.add_(1)
        other = part.detach()
        other.mul_(0.5)
        return part + 1, y


class OnlyTheForm(Layer):
    """Nothing looks into it from before."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        y.unsqueeze_(0)
        return y * 2


@pytest.mark.parametrize("rows", [3, 8])
@pytest.mark.parametrize("kind", [Unsqueezed, Turned, Detached, DetachedAndRead, OnlyTheForm])
@torch.no_grad()
def test_the_graph_computes_what_eager_does(kind: type[nn.Module], rows: int) -> None:
    model, x = kind().eval(), torch.randn(rows, 8)
    captured = pipeline.capture(model, (x,))
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,))
    observed(x)
    for given in (x, torch.randn(rows + 1, 8)):
        torch.testing.assert_close(captured(given), model(given))
        torch.testing.assert_close(observed(given), model(given))
    torch.testing.assert_close(fxquant.convert_fx(observed)(x), model(x), atol=0.1, rtol=0.1)
