"""Functions of torch that take the arguments of a functional in another order, or under other names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

ENGINES = [
    name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in torch.backends.quantized.supported_engines
]


class Net(nn.Module):
    """A call between convolutions, with the tensors of a norm."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.call = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), call
        self.weight, self.bias = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4) * 0.3)
        self.register_buffer("mean", torch.randn(4) * 0.3)
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.call(self, self.first(x)))
        return result


def _check(call: Callable[[Any, Tensor], Tensor], op: str, outcomes: set[str], engine: str = "x86") -> None:
    torch.manual_seed(0)
    model, x = Net(call).eval(), torch.randn(2, 3, 6, 4)
    with torch.no_grad():
        observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,), backend_config=engine)
        assert sqnr_db(model(x), observed(x)) > 110
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        assert {row.outcome for row in fxquant.explain(quantized).rows if row.op == op} == outcomes
        assert not check_agreement(reference, quantized, x).violations
        assert sqnr_db(model(x), quantized(x)) > 25


@pytest.mark.parametrize(
    ("op", "call", "outcome"),
    [
        ("batch_norm", lambda m, x: torch.batch_norm(
            x.abs(), m.weight, m.bias, m.mean, m.variance, False, 0.1, 1e-3, False).relu(), "int8"),
        ("layer_norm", lambda m, x: torch.layer_norm(x, (4,), m.weight, m.bias, 1e-3), "step"),
        ("group_norm", lambda m, x: torch.group_norm(x, 2, m.weight, m.bias), "step"),
        ("instance_norm", lambda m, x: torch.instance_norm(
            x, m.weight, m.bias, None, None, True, 0.1, 1e-5, False), "step"),
        ("pow", lambda m, x: torch.pow(self=2.0, exponent=x), "int8"),
        ("dropout", lambda m, x: torch.dropout(x, 0.3, False), "free"),
        ("dropout", lambda m, x: torch.dropout(x, p=0.3, train=m.training), "free"),
        ("dropout", lambda m, x: torch.alpha_dropout(x, 0.3, False), "free"),
        ("dropout", lambda m, x: F.alpha_dropout(x), "free"),
        ("vector_norm", lambda m, x: x / (1 + torch.linalg.norm(x, dim=1, keepdim=True)), "int8"),
        ("vector_norm", lambda m, x: x / (1 + torch.linalg.norm(x, 1, (-1,), True)), "int8"),
        ("vector_norm", lambda m, x: x / torch.linalg.norm(x), "int8"),
        ("matmul", lambda m, x: torch.bmm(mat2=x[:, 1].mT, input=x[:, 0]).unsqueeze(1).expand(-1, 4, -1, -1), "int8"),
        ("matmul", lambda m, x: x.__rmatmul__(x.mT), "int8"),
        ("matmul", lambda m, x: torch.linalg.matmul(x, x.mT), "int8"),
    ],
)  # fmt: skip
def test_arguments_are_read_in_the_order_of_the_function(
    op: str, call: Callable[[Any, Tensor], Tensor], outcome: str
) -> None:
    _check(call, op, {outcome})


def test_a_matrix_norm_is_none_of_vectors() -> None:
    _check(lambda m, x: x / (1 + torch.linalg.norm(x, 1, (2, 3), True)), "vector_norm", set())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "norm",
    [
        lambda m, x: F.batch_norm(x, m.mean, m.variance),
        lambda m, x: F.batch_norm(x, m.mean, m.variance, weight=m.weight),
        lambda m, x: F.batch_norm(x, m.mean, m.variance, bias=m.bias),
    ],
)
@pytest.mark.parametrize("then", [F.relu, F.relu6, F.hardswish])
def test_norms_without_weight_or_bias_that_clip(
    norm: Callable[[Any, Tensor], Tensor], then: Callable[[Tensor], Tensor], engine: str
) -> None:
    """torch's kernel that normalises and clips wants both."""
    _check(lambda m, x: then(norm(m, F.max_pool2d(x, 2))), "batch_norm", {"int8"}, engine)


def test_weights_that_are_vectors() -> None:
    """``F.linear`` takes a vector for one feature whose dimension is left out."""
    _check(lambda m, x: x * F.linear(x, m.weight).unsqueeze(-1), "linear", {"step"})
