"""The README's comparison of the two styles: a test behind each cell, named by row and column."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.errors import FxquantError
from fxquant.ir.stages import QuantizedModel
from fxquant.numerics.sqnr import sqnr_db

QCONFIG = fxquant.get_default_qconfig("x86")


class Plain(nn.Module):
    """Convolution, batch norm, relu, a residual addition and a functional, with no thought of quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.hardswish(x + self.relu(self.bn(self.conv(x))))


class Placed(Plain):
    """The same with stubs, a FloatFunctional, and the functional as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = eager.QuantStub(), eager.DeQuantStub()
        self.add, self.hardswish = eager.FloatFunctional(), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        return self.dequant(self.hardswish(self.add.add(x, self.relu(self.bn(self.conv(x))))))


class Branching(nn.Module):
    """Its path depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = eager.QuantWrapper(nn.Linear(8, 8)), eager.QuantWrapper(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.mean() > 0 else self.second(x)


class Turned(nn.Module):
    """A branch in the middle of a model that has no stubs."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def by_hand(model: nn.Module, *batches: Tensor) -> Any:
    model.qconfig = QCONFIG
    prepared = eager.prepare(model)
    for batch in batches:
        prepared(batch)
    return eager.convert(prepared)


def by_graph(model: nn.Module, config: Any = QCONFIG, x: Any = X, **arguments: Any) -> QuantizedModel:
    observed = fxquant.prepare_fx(model, config, (x,), **arguments)
    observed(x)
    return fxquant.convert_fx(observed)


def outcomes(quantized: QuantizedModel) -> dict[str, str]:
    return {unit.op: unit.outcome for unit in quantized.plan.units}


def test_fusion_eager_is_manual() -> None:
    model = Placed().eval()
    assert type(by_hand(model, X).bn).__name__ == "BatchNormLayer"
    fused = eager.fuse_modules(Placed().eval(), ["conv", "bn", "relu"])
    assert isinstance(by_hand(fused, X).bn, nn.Identity)


def test_fusion_fx_is_automatic() -> None:
    (conv,) = [unit for unit in by_graph(Plain().eval()).plan.units if unit.op == "conv2d"]
    assert [role for role, _ in conv.roles] == ["batch_norm", "clip"]


def test_placement_eager_is_manual() -> None:
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    with pytest.raises(FxquantError, match="QuantStub"):
        by_hand(model, torch.randn(2, 8))(torch.randn(2, 8))
    x = torch.randn(2, 8)
    assert sqnr_db(model(x), by_hand(eager.QuantWrapper(nn.Sequential(model[0])).eval(), x)(x)) > 30


def test_placement_fx_is_automatic() -> None:
    assert outcomes(by_graph(Plain().eval())) == {"conv2d": "int8", "add": "int8", "hardswish": "int8"}


def test_modules_both() -> None:
    model = Placed().eval()
    assert type(by_hand(model, X).hardswish) is not nn.Hardswish
    assert outcomes(by_graph(model))["hardswish"] == "int8"


def test_functionals_eager_are_manual() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant, self.conv = eager.QuantStub(), eager.DeQuantStub(), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.quant(x)
            return self.dequant(x + self.conv(x))

    with pytest.raises(NotImplementedError, match="aten::add"):
        by_hand(Written().eval(), X)(X)
    model = Placed().eval()
    assert sqnr_db(model(X), by_hand(model, X)(X)) > 30


def test_functionals_fx_are_automatic() -> None:
    found = outcomes(by_graph(Plain().eval()))
    assert (found["add"], found["hardswish"]) == ("int8", "int8")


def test_customisation_eager_is_by_module() -> None:
    model = nn.Sequential(eager.QuantWrapper(nn.Linear(8, 8)), eager.QuantWrapper(nn.Linear(8, 8))).eval()
    model[0].qconfig, x = None, torch.randn(2, 8)
    model[0].quant.qconfig = model[0].dequant.qconfig = None
    quantized = by_hand(model, x)
    assert [type(wrapped.module) is nn.Linear for wrapped in quantized] == [True, False]
    assert sqnr_db(model(x), quantized(x)) > 30


def test_customisation_fx_is_by_name_type_pattern_order_and_backend() -> None:
    mapping = fxquant.get_default_qconfig_mapping("x86")
    assert outcomes(by_graph(Plain().eval(), mapping.set_object_type(torch.add, None)))["add"] == "float"
    mapping = fxquant.get_default_qconfig_mapping("x86").set_module_name("conv", None)
    assert outcomes(by_graph(Plain().eval(), mapping))["conv2d"] == "float"
    mapping = fxquant.get_default_qconfig_mapping("x86").set_module_name_regex("con.*", None)
    assert outcomes(by_graph(Plain().eval(), mapping))["conv2d"] == "float"
    mapping = fxquant.get_default_qconfig_mapping("x86")
    mapping.set_module_name_object_type_order("", nn.Conv2d, 0, None)
    assert outcomes(by_graph(Plain().eval(), mapping))["conv2d"] == "float"
    quantized = by_graph(Plain().eval(), backend_config="qnnpack")
    assert {unit.kernel.engine for unit in quantized.plan.units if unit.op == "conv2d"} == {"qnnpack"}


def test_modes_eager_are_static_dynamic_and_weight_only() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(2, 8)
    assert sqnr_db(model(x), by_hand(eager.QuantWrapper(model), x)(x)) > 30
    assert sqnr_db(model(x), eager.quantize_dynamic(model)(x)) > 30
    table, rows = nn.Embedding(9, 16), torch.arange(9)
    assert sqnr_db(table(rows), eager.quantize_dynamic(table, dtype=torch.quint8)(rows)) > 30


def test_modes_fx_are_static_dynamic_and_weight_only() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(2, 8)
    table, rows = nn.Sequential(nn.Embedding(9, 16)).eval(), torch.arange(9)
    cases = ((model, QCONFIG, x, ""), (model, fxquant.default_dynamic_qconfig, x, "dynamic"),
             (table, fxquant.float_qparams_weight_only_qconfig, rows, "weights"))  # fmt: skip
    for given, qconfig, inputs, mode in cases:
        quantized = by_graph(given, qconfig, inputs)
        assert [(unit.outcome, unit.mode) for unit in quantized.plan.units] == [("int8", mode)]
        assert sqnr_db(given(inputs), quantized(inputs)) > 30


def test_models_eager_are_any_module() -> None:
    model, x = Branching().eval(), torch.rand(2, 8)
    quantized = by_hand(model, x, -x)
    assert sqnr_db(model(x), quantized(x)) > 30
    assert sqnr_db(model(-x), quantized(-x)) > 30


def test_models_fx_are_any_module_in_int8_where_captured() -> None:
    model, x = nn.Sequential(Plain(), nn.Flatten(), nn.Linear(256, 8), Turned()).eval(), X
    quantized = by_graph(model, x=x)
    rows = fxquant.explain(quantized).rows
    assert {row.op: row.outcome for row in rows}["linear"] == "int8"
    assert ["x.sum() > 0" in row.reason for row in rows if "runs as Python" in row.reason] == [True]
    assert sqnr_db(model(x), quantized(x)) > 25
    whole = by_graph(Branching().eval(), x=torch.rand(2, 8))
    assert {unit.outcome for unit in whole.plan.units} == {"float", "free"}  # the part, and a check of what it gives
