"""Products of matrices become matmul and linear before planning, so that they run int8."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.numerics.sqnr import sqnr_db


class Product(nn.Module):
    """A product between two linears."""

    def __init__(self, call: Callable[[nn.Module, Tensor, Tensor], Tensor], after: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(after, 4)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))
        self.call = call

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        product = self.call(self, self.first(x), self.second(y))
        result: Tensor = self.last(product)
        return result


CASES = {
    "matmul with a parameter": (lambda m, x, y: (x + y) @ m.weight, 6, {"linear"}),
    "addmm with parameters": (lambda m, x, y: torch.addmm(m.bias, (x + y)[0], m.weight), 6, {"linear"}),
    "addmm scaled": (lambda m, x, y: torch.addmm(m.bias, x[0], m.weight, beta=0.5, alpha=2), 6, {"linear", "matmul"}),
    "addmm of activations": (lambda m, x, y: torch.addmm(x[0], x[0], y[0].t() @ y[0]), 8, {"matmul"}),
    "einsum as attention scores": (lambda m, x, y: torch.einsum("bqd,bkd->bqk", x, y), 5, {"matmul"}),
    "einsum with a permuted result": (lambda m, x, y: torch.einsum("bqd,bkd->kbq", x, y), 5, {"matmul"}),
    "einsum with spaces": (lambda m, x, y: torch.einsum("b q d, b k d -> b q k", x, y), 5, {"matmul"}),
    "einsum with a parameter": (lambda m, x, y: torch.einsum("bqd,do->bqo", x + y, m.weight), 6, {"linear"}),
    "einsum with a parameter first": (lambda m, x, y: torch.einsum("do,bqd->obq", m.weight, x), 5, {"linear"}),
    "einsum with heads": (
        lambda m, x, y: torch.einsum("bqd,dhe->bqhe", x + y, m.weight.view(8, 2, 3)).flatten(2),
        6,
        {"linear"},
    ),
    "einsum with an ellipsis": (lambda m, x, y: torch.einsum("...d,do->...o", x + y, m.weight), 6, {"linear"}),
    "outer": (lambda m, x, y: torch.outer(x[0, 0], y[0, 0]), 8, {"mul"}),
}


@pytest.mark.parametrize("title", CASES)
def test_parts_run_int8(title: str) -> None:
    """The parts are planned as integers, and the result is that of the float model within rounding."""
    call, after, ops = CASES[title]
    model, inputs = Product(call, after).eval(), (torch.randn(3, 5, 8), torch.randn(3, 5, 8))
    quantized = fxquant.quantize(model, [inputs] * 2, progress=False)
    outcomes = {row.op: row.outcome for row in fxquant.explain(quantized).rows if row.op in ops}
    assert outcomes.keys() <= ops and "int8" in outcomes.values(), outcomes
    with torch.no_grad():
        assert sqnr_db(model(*inputs), quantized(*inputs)) > 26.0


def test_an_equation_without_matmul_stays_whole() -> None:
    """Sums over several indices have no matmul form here; they are a step with its reason."""
    model = Product(lambda m, x, y: torch.einsum("bqd,bqd->qb", x, y), 3).eval()
    inputs = (torch.randn(3, 5, 8), torch.randn(3, 5, 8))
    quantized = fxquant.quantize(model, [inputs] * 2, progress=False)
    row = next(row for row in fxquant.explain(quantized).rows if row.op == "einsum")
    assert row.outcome == "step" and "sum of products" in row.reason
