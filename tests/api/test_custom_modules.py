"""Custom modules: a float class observed by one of the user's, and computed on integers by another."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import ConvertCustomConfig, FxquantError, PrepareCustomConfig, QuantType, get_default_qconfig_mapping
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db


class Gate(nn.Module):
    """A linear and an activation that no catalogue knows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return torch.fft.fft(y).real if y.dim() > 4 else y.tanh() * y


class ObservedGate(nn.Module):
    """Observes its weight; counts its calls."""

    def __init__(self, linear: nn.Linear, qconfig: Any) -> None:
        super().__init__()
        self.linear, self.qconfig, self.calls = linear, qconfig, 0
        self.weight_observer = qconfig.weight()

    @classmethod
    def from_float(cls, module: Gate) -> ObservedGate:
        assert isinstance(module, Gate) and module.linear.qconfig is module.qconfig
        return cls(module.linear, module.qconfig)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.weight_observer(self.linear.weight)
        y: Tensor = self.linear(x)
        return y.tanh() * y


class QuantizedGate(nn.Module):
    """Takes and returns quint8 tensors."""

    def __init__(self, observed: ObservedGate) -> None:
        super().__init__()
        scale, zero_point = observed.activation_post_process.calculate_qparams()
        self.linear, self.scale, self.zero_point = observed.linear, float(scale), int(zero_point)

    @classmethod
    def from_observed(cls, observed: ObservedGate) -> QuantizedGate:
        assert observed.calls and hasattr(observed, "activation_post_process")
        return cls(observed)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.quint8
        y: Tensor = self.linear(x.dequantize())
        return torch.quantize_per_tensor(y.tanh() * y, self.scale, self.zero_point, torch.quint8)


class OtherRange(QuantizedGate):
    """Returns a range of its own."""

    def __init__(self, observed: ObservedGate) -> None:
        super().__init__(observed)
        self.scale *= 1.5


class NoIntegers(QuantizedGate):
    """Returns float."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).dequantize()


class Net(nn.Module):
    """The custom module between two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gates, self.last = nn.Linear(4, 8), nn.ModuleList([Gate()]), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.gates[0](self.first(x)))
        return result


X = torch.randn(64, 4)
PREPARE = PrepareCustomConfig().set_float_to_observed_mapping(Gate, ObservedGate)
CONVERT = ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedGate, QuantizedGate)


def _net() -> Net:
    torch.manual_seed(5)
    return Net().eval()


def _observed(net: nn.Module | None = None, mapping: Any = None, config: Any = PREPARE) -> Any:
    observed = fxquant.prepare_fx(net or _net(), mapping or get_default_qconfig_mapping(), (X,), config)
    observed(X)
    return observed


def test_each_stage_has_its_class() -> None:
    net = _net()
    observed = _observed(net)
    assert type(observed.get_submodule("gates.0")) is ObservedGate and observed.get_submodule("gates.0").calls == 1
    assert type(net.gates[0]) is Gate and not hasattr(net.gates[0], "qconfig")
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed, CONVERT)
    assert type(reference.int8.gates_0) is ObservedGate
    assert type(quantized.int8.gates_0) is QuantizedGate and not quantized.int8.gates_0.training
    assert not any(hasattr(module, "qconfig") for module in quantized.modules())
    assert torch.equal(observed(X), net(X))
    expected = net(X).detach()
    assert sqnr_db(expected, reference(X)) > 30 and sqnr_db(expected, quantized(X)) > 30


def test_inputs_and_outputs_are_integers() -> None:
    quantized = fxquant.convert_fx(_observed(), CONVERT)
    assert [node.name for node in quantized.graph.nodes] == [
        *("x", "x_quantize", "first", "gates_0", "gates_0_taken", "last", "last_dequantize", "output")
    ]
    unit = quantized.plan.unit_of("gates_0")
    assert unit.outcome == "int8" and str(unit.kernel) == "Gate (custom module)"
    reference = fxquant.convert_to_reference_fx(_observed())
    assert not check_agreement(reference, quantized, X).violations
    assert "gates_0" not in {row.unit for row in check_agreement(reference, quantized, X).rows}


def test_it_is_an_anchor_for_operators_that_share_its_range() -> None:
    class Shared(Net):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(self.gates[0](self.first(x)).relu().flatten(1))
            return result

    quantized = fxquant.convert_fx(_observed(Shared().eval()), CONVERT)
    assert quantized.plan.unit_of("relu").output == quantized.plan.unit_of("gates_0").output
    assert quantized(X).shape == (64, 3)


def test_called_twice_each_call_has_its_own_range() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(self.gates[0](self.gates[0](self.first(x)) * 8))
            return result

    net = Twice().eval()
    observed = _observed(net)
    assert observed.get_submodule("gates.0").calls == 2
    quantized = fxquant.convert_fx(observed, CONVERT)
    gates = [module for module in quantized.modules() if isinstance(module, QuantizedGate)]
    assert len(gates) == 2 and gates[0].scale != gates[1].scale
    assert sqnr_db(net(X).detach(), quantized(X)) > 25


def test_without_a_qconfig_it_stays_float() -> None:
    observed = _observed(mapping=get_default_qconfig_mapping().set_object_type(Gate, None))
    assert type(observed.get_submodule("gates.0")) is Gate
    assert fxquant.convert_fx(observed).plan.unit_of("gates_0").reason == "excluded by qconfig (set_object_type(Gate))"
    excluded = get_default_qconfig_mapping().set_module_name("gates.0", None)
    quantized = fxquant.convert_fx(_observed(), qconfig_mapping=excluded)
    assert quantized.plan.unit_of("gates_0").outcome == "float"
    assert type(quantized.get_submodule("gates.0")) is ObservedGate
    assert sqnr_db(_net()(X).detach(), quantized(X)) > 30


def test_subclasses_are_not_meant() -> None:
    class Special(Gate):
        pass

    net = _net()
    net.gates[0] = Special()
    observed = _observed(net.eval())
    assert any("set_float_to_observed_mapping(Gate) matched nothing" in note for note in observed.plan.notes)
    assert observed.plan.unit_of("gates_0_linear").outcome == "int8"


def test_another_range_than_the_observed_one_is_requantized() -> None:
    convert = ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedGate, OtherRange)
    quantized = fxquant.convert_fx(_observed(), convert)
    with pytest.warns(UserWarning, match="'gates_0' arrives with scale"):
        result = quantized(X)
    assert sqnr_db(_net()(X).detach(), result) > 25


def test_float_results_are_refused() -> None:
    convert = ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedGate, NoIntegers)
    with pytest.raises(FxquantError, match=r"'gates_0' is to be a quint8 tensor and is torch\.float32"):
        fxquant.convert_fx(_observed(), convert)(X)


def test_converting_twice() -> None:
    observed = _observed()
    first, second = fxquant.convert_fx(observed, CONVERT), fxquant.convert_fx(observed, CONVERT)
    assert torch.equal(first(X), second(X))
    assert not hasattr(observed.get_submodule("gates.0"), "activation_post_process")


@pytest.mark.parametrize("stage", ["observed", "reference", "quantized"])
def test_files_and_copies(stage: str) -> None:
    observed = _observed()
    model = {
        "observed": lambda: observed,
        "reference": lambda: fxquant.convert_to_reference_fx(observed),
        "quantized": lambda: fxquant.convert_fx(observed, CONVERT),
    }[stage]()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twins = [copy.deepcopy(model), torch.load(buffer, weights_only=False)]
    expected = model(X)  # an observed model counts every call, so all are called as often
    for twin in twins:
        assert torch.equal(twin(X), expected) and twin.plan == model.plan
        if stage == "observed":
            assert torch.equal(fxquant.convert_fx(twin, CONVERT)(X), fxquant.convert_fx(observed, CONVERT)(X))


def test_explain_and_graph_diff() -> None:
    net = _net()
    quantized = fxquant.convert_fx(_observed(net), CONVERT)
    row = next(row for row in fxquant.explain(quantized).rows if row.node == "gates_0")
    assert row.outcome == "int8" and row.kernel == "Gate (custom module)" and row.module_path == "gates.0"
    assert "gates_0" in str(fxquant.graph_diff(net, quantized))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Broken(ObservedGate):
    @classmethod
    def from_float(cls, module: Gate) -> ObservedGate:
        raise ValueError("no luck")


class NoModule(ObservedGate):
    @classmethod
    def from_float(cls, module: Gate) -> Any:
        return "gate"


class BrokenQuantized(QuantizedGate):
    @classmethod
    def from_observed(cls, observed: ObservedGate) -> QuantizedGate:
        raise ValueError("no luck")


def test_what_prepare_refuses() -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.join = TwoInputs()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.join(x, x)
            return result

    two = PrepareCustomConfig().set_float_to_observed_mapping(TwoInputs, ObservedGate)
    with pytest.raises(FxquantError, match=r"join \(TwoInputs\).*does not take one float tensor"):
        _observed(Host().eval(), config=two)
    with pytest.raises(FxquantError, match=r"Broken.from_float failed for gates.0: no luck"):
        _observed(config=PrepareCustomConfig().set_float_to_observed_mapping(Gate, Broken))
    with pytest.raises(FxquantError, match=r"NoModule.from_float returned a str"):
        _observed(config=PrepareCustomConfig().set_float_to_observed_mapping(Gate, NoModule))
    with pytest.raises(FxquantError, match="Gate has no from_float"):
        PrepareCustomConfig().set_float_to_observed_mapping(Gate, Gate)
    with pytest.raises(FxquantError, match=r"takes QuantType\.STATIC only"):
        PrepareCustomConfig().set_float_to_observed_mapping(Gate, ObservedGate, QuantType.DYNAMIC)


def test_what_convert_refuses() -> None:
    with pytest.raises(FxquantError, match=r"gates_0 is a ObservedGate(.|\n)*set_observed_to_quantized_mapping"):
        fxquant.convert_fx(_observed())
    broken = ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedGate, BrokenQuantized)
    with pytest.raises(FxquantError, match=r"BrokenQuantized.from_observed failed for gates_0: no luck"):
        fxquant.convert_fx(_observed(), broken)
    with pytest.raises(FxquantError, match="ObservedGate has no from_observed"):
        ConvertCustomConfig().set_observed_to_quantized_mapping(ObservedGate, ObservedGate)


class AoObserved(nn.Module):
    """As torch.ao's documentation writes them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result

    @classmethod
    def from_float(cls, float_module: Any) -> AoObserved:
        assert hasattr(float_module, "qconfig")
        observed = cls(float_module.linear)
        observed.qconfig = float_module.qconfig
        return observed


class AoFloat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result


class AoQuantized(AoObserved):
    @classmethod
    def from_observed(cls, observed_module: Any) -> AoQuantized:
        import torch.ao.nn.quantized as nnq

        observed_module.linear.activation_post_process = observed_module.activation_post_process
        return cls(nnq.Linear.from_float(observed_module.linear))


def test_classes_written_for_torch_ao() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ao = pytest.importorskip("torch.ao.quantization")
        configs = pytest.importorskip("torch.ao.quantization.fx.custom_config")
        prepare = configs.PrepareCustomConfig().set_float_to_observed_mapping(AoFloat, AoObserved)
        convert = configs.ConvertCustomConfig().set_observed_to_quantized_mapping(AoObserved, AoQuantized)
        net = nn.Sequential(nn.Linear(4, 4), AoFloat(), nn.Linear(4, 4)).eval()
        observed = fxquant.prepare_fx(net, ao.get_default_qconfig_mapping("x86"), (X,), prepare)
        observed(X)
        quantized = fxquant.convert_fx(observed, convert)
        assert sqnr_db(net(X).detach(), quantized(X)) > 25
        assert type(quantized.get_submodule("int8._1")) is AoQuantized


def test_verified_conversion() -> None:
    quantized = fxquant.convert_fx(_observed(), CONVERT, verify=True)
    assert any(note.startswith("verified on the example inputs") for note in quantized.plan.notes)
