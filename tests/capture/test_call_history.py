"""What a model keeps from its first call, or from the longest so far: a graph that computes it anew would be wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline


class Layer(nn.Module):
    table: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table, self.length, self.kept = nn.Linear(8, 8), None, 0, dict[str, int]()


class FromTheFirst(Layer):
    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if self.table is None:
            self.table = torch.arange(40.0) / n
        return self.linear(x) + self.table[:n, None]  # type: ignore[no-any-return]


class FromTheLongest(Layer):
    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if n > self.length:
            self.length = n
            self.table = torch.linspace(0, 1, n)
        return self.linear(x) + self.table[:n, None]  # type: ignore[index, no-any-return]


class Rows(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.kept.setdefault("rows", x.shape[0])  # type: ignore[no-any-return]


class Attribute(Layer):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "width"):
            self.width = x.shape[1]
        return self.linear(x) / self.width  # type: ignore[no-any-return]


class Grows(Layer):
    """The same rows, however long the table is."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if self.table is None or n > self.table.shape[0]:
            self.table = torch.arange(float(n))
        return self.linear(x) + self.table[:n, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [FromTheFirst, FromTheLongest, Rows, Attribute, Grows])
def test_calls_of_several_sizes(kind: type[Layer]) -> None:
    model, example = kind().eval(), torch.randn(2, 5, 8)
    captured = pipeline.capture(model, (example,))
    assert bool(captured.state.capture_notes) is (kind is not Grows)
    assert model.table is None and not model.kept and not hasattr(model, "width")
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (example,))
    shapes = [(2, 5, 8), (2, 3, 8), (3, 5, 8), (2, 9, 8), (2, 5, 8)]
    for given in map(torch.randn, shapes):
        expected = model(given)
        assert torch.equal(captured(given), expected)
        assert torch.allclose(observed(given), expected, atol=1e-6)
