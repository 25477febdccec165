"""Models written for the eager style, through ``prepare_fx``: their stubs mark where integers begin and end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hand_written import mobilenet
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.numerics.sqnr import sqnr_db


class Bordered(nn.Module):
    """Linears outside, between and outside of stubs."""

    def __init__(self, style: Any) -> None:
        super().__init__()
        self.before, self.inside, self.after = (nn.Linear(8, 8) for _ in range(3))
        self.quant, self.dequant = style.QuantStub(), style.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.inside(self.quant(self.before(x))))
        return torch.softmax(self.after(self.dequant(y)), -1)


class Unbordered(Bordered):
    """The same without a QuantStub."""

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu(self.inside(self.before(x))))


def styles() -> list[Any]:
    """Our stubs and, where it exists, torch.ao's."""
    found: list[Any] = [eager]
    try:
        from torch.ao.nn.quantized import FloatFunctional
        from torch.ao.quantization import DeQuantStub, QuantStub
    except ImportError:
        return found
    return [*found, SimpleNamespace(QuantStub=QuantStub, DeQuantStub=DeQuantStub, FloatFunctional=FloatFunctional)]


def through_graph(model: nn.Module, x: Tensor) -> Any:
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    return fxquant.convert_fx(observed)


@pytest.mark.parametrize("style", styles())
def test_only_what_lies_between_stubs_is_quantized(style: Any) -> None:
    model, x = Bordered(style).eval(), torch.randn(5, 8)
    quantized = through_graph(model, x)
    outcome = {unit.name: unit.outcome for unit in quantized.plan.units}
    assert (outcome["before"], outcome["relu"], outcome["after"]) == ("float", "int8", "float")
    reasons = [unit.reason for unit in quantized.plan.units if unit.outcome == "float"]
    assert reasons == ["it lies outside the model's quantization stubs"] * 3
    assert sqnr_db(model(x), quantized(x)) > 30


@pytest.mark.parametrize("style", styles())
def test_models_without_a_stub_have_no_borders(style: Any) -> None:
    quantized = through_graph(Unbordered(style).eval(), torch.randn(5, 8))
    assert {unit.outcome for unit in quantized.plan.units if unit.op == "linear"} == {"int8"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("style", styles())
def test_stubs_and_functionals_leave_no_trace_in_the_graph(style: Any) -> None:
    x = torch.randn(2, 3, 16, 16)
    ours, plain = through_graph(mobilenet(style), x), through_graph(mobilenet(_Identities), x)
    assert [unit.name for unit in ours.plan.units] == [unit.name for unit in plain.plan.units]
    assert torch.equal(ours(x), plain(x))


class _Identities:
    """Stubs that mean nothing, and the addition as a plain function."""

    QuantStub = DeQuantStub = nn.Identity
    FloatFunctional = eager.FloatFunctional
