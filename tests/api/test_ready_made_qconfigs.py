"""Ready-made QConfigs: the observers torch.ao's build, what planning makes of them, and mappings as dictionaries."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError, QConfig, QConfigMapping, get_default_qconfig, qconfig_equals
from fxquant.observers import FixedQParamsObserver, HistogramObserver, MinMaxObserver
from fxquant.qconfig import defaults

NAMES = [name for name in vars(defaults) if name.endswith(("_qconfig", "_qconfig_4bit"))]
EAGER_ONLY = ("default_weight_only_qconfig", "default_activation_only_qconfig")
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _torch_ao(module: str = "") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"torch.ao.quantization{module}")


class Net(nn.Module):
    """A convolution, an activation and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x + x.sigmoid())


def _observed(qconfig: Any, net: nn.Module | None = None) -> Any:
    return fxquant.prepare_fx(net or Net().eval(), QConfigMapping().set_global(qconfig), (X,))


def _facts(observer: Any) -> list[tuple[str, Any]]:
    plain = {"torch.quint8": torch.uint8, "torch.qint8": torch.int8, "torch.quint4x2": torch.uint8}
    names = ("qscheme", "quant_min", "quant_max", "is_dynamic", "reduce_range", "ch_axis", "averaging_constant")
    facts = [(name, getattr(observer, name)) for name in names if hasattr(observer, name)]
    eps = getattr(observer, "eps", None)
    return [
        ("type", type(observer).__name__),
        ("dtype", plain.get(str(observer.dtype), observer.dtype)),
        ("eps", None if eps is None else float(eps)),
        *facts,
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in EAGER_ONLY])
def test_observers_are_those_of_torch_ao(name: str) -> None:
    theirs, ours = getattr(_torch_ao(".qconfig"), name), getattr(defaults, name)
    for slot in ("activation", "weight"):
        their_facts, our_facts = (dict(_facts(getattr(qconfig, slot)())) for qconfig in (theirs, ours))
        common = their_facts.keys() & our_facts.keys()
        assert {key: our_facts[key] for key in common} == {key: their_facts[key] for key in common}
    assert pickle.loads(pickle.dumps(ours)) == ours and getattr(fxquant, name) is ours


REFUSED = {
    "default_weight_only_qconfig": "uint8 activations, not torch.float32",
    "default_activation_only_qconfig": "weights of torch.float32",
    "default_reuse_input_qconfig": "weights of torch.float16",
    "default_symmetric_qnnpack_qconfig": "uint8 activations, not torch.int8",
    "default_per_channel_symmetric_qnnpack_qconfig": "uint8 activations, not torch.int8",
    "default_quint8_weight_qconfig": "weights of torch.uint8",
    "float16_dynamic_qconfig": "weights in float16",
    "float_qparams_weight_only_qconfig": "integer weights alone",
    "float_qparams_weight_only_qconfig_4bit": "integer weights alone",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_no_kernel_runs_stays_float_with_the_reason(name: str) -> None:
    observed = _observed(getattr(defaults, name))
    unit = observed.plan.unit_of("first")
    if name not in REFUSED:
        assert unit.outcome == "int8"
        return
    assert unit.outcome in ("float", "step") and REFUSED[name] in unit.reason
    observed(X)
    assert REFUSED[name] in str(fxquant.explain(fxquant.convert_fx(observed)))


def test_activations_only_keeps_weights_and_sums_between_them_float() -> None:
    observed = _observed(fxquant.default_activation_only_qconfig)
    found = {unit.anchor: unit for unit in observed.plan.units}
    assert found["first"].outcome == found["second"].outcome == "float"
    assert found["add"].reason == "only operators that compute in float read its result"


def test_embedding_entries_are_accepted() -> None:
    mapping = fxquant.get_default_qconfig_mapping()
    mapping.set_object_type(nn.Embedding, fxquant.float_qparams_weight_only_qconfig)
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3)).eval()
    observed = fxquant.prepare_fx(net, mapping, (torch.arange(10),))
    assert observed.plan.unit_of("_1").outcome == "int8"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["default_dynamic_qconfig", "per_channel_dynamic_qconfig"])
def test_dynamic_qconfigs_of_torch_ao_are_taken(name: str) -> None:
    net = nn.Sequential(nn.Linear(8, 4)).eval()
    assert _observed(getattr(_torch_ao(".qconfig"), name), net).plan.unit_of("_0").mode == "dynamic"


@pytest.mark.filterwarnings("ignore")
def test_failures_of_torch_ao_observers_are_fxquant_errors() -> None:
    observed = _observed(_torch_ao(".qconfig").default_debug_qconfig)
    observed(X)
    with pytest.raises(FxquantError, match=r"RecordingObserver\.calculate_qparams failed(.|\n)*remedy"):
        fxquant.convert_fx(observed)


def test_a_qconfig_builds_observers() -> None:
    with pytest.raises(FxquantError, match=r"weight is a MinMaxObserver(.|\n)*with_args"):
        QConfig(activation=MinMaxObserver, weight=MinMaxObserver())
    assert QConfig(weight=1, activation=2) == (2, 1)


@pytest.mark.filterwarnings("ignore")
def test_qconfigs_are_equal_when_they_build_the_same() -> None:
    theirs = _torch_ao()
    for observers in (fxquant.observers, theirs.observer):
        make = observers.MinMaxObserver.with_args
        first = QConfig(make(quant_max=9), observers.MinMaxObserver)
        assert qconfig_equals(first, QConfig(make(quant_max=9), observers.MinMaxObserver))
        assert not qconfig_equals(first, QConfig(make(quant_max=8), observers.MinMaxObserver))
        assert not qconfig_equals(first, QConfig(make(quant_max=9, quant_min=0), observers.MinMaxObserver))
        assert not qconfig_equals(first, QConfig(make(quant_max=9), observers.HistogramObserver))
        assert not qconfig_equals(first, None)
    assert qconfig_equals(None, None)
    assert qconfig_equals(theirs.get_default_qconfig("x86"), theirs.get_default_qconfig("x86"))
    assert not qconfig_equals(get_default_qconfig(), theirs.get_default_qconfig("x86"))


def _full_mapping() -> QConfigMapping:
    on = get_default_qconfig()
    mapping = QConfigMapping().set_global(on).set_object_type(nn.Conv2d, None).set_object_type(torch.add, on)
    mapping.set_module_name_regex("fir.*", fxquant.default_qconfig).set_module_name("second", on)
    return mapping.set_module_name_object_type_order("", torch.sigmoid, 0, None)


def test_mappings_become_dictionaries_and_back() -> None:
    mapping = _full_mapping()
    given = mapping.to_dict()
    assert list(given) == ["", "object_type", "module_name_regex", "module_name", "module_name_object_type_order"]
    assert given["module_name_object_type_order"] == [("", torch.sigmoid, 0, None)]
    assert QConfigMapping.from_dict(given).__dict__ == mapping.__dict__
    assert QConfigMapping.from_dict({}).__dict__ == QConfigMapping().__dict__
    named = fxquant.get_default_qconfig_dict("qnnpack")
    assert QConfigMapping.from_dict(named).backend == named["backend"] == "qnnpack"


def test_prepare_and_convert_take_dictionaries() -> None:
    outcomes = []
    for mapping in (_full_mapping(), _full_mapping().to_dict()):
        torch.manual_seed(0)
        observed = fxquant.prepare_fx(Net().eval(), mapping, (X,))
        observed(X)
        outcomes.append({unit.anchor: (unit.outcome, unit.config) for unit in observed.plan.units})
        quantized = fxquant.convert_fx(observed, qconfig_mapping={"module_name": [("second", None)]})
        assert quantized.plan.unit_of("second").outcome == "float"
    assert outcomes[0] == outcomes[1] and outcomes[0]["second"][0] == "int8"


@pytest.mark.filterwarnings("ignore")
def test_dictionaries_have_the_keys_of_torch_ao() -> None:
    theirs = _torch_ao()
    mapping = theirs.QConfigMapping().set_module_name_object_type_order("a", nn.Linear, 1, None).set_global(None)
    mapping.set_object_type("add", theirs.default_qconfig).set_module_name("b", None)
    assert QConfigMapping.from_dict(mapping.to_dict()).to_dict() == mapping.to_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"object_typ": []}, r"no key 'object_typ'(.|\n)*'object_type'"),
        ({"module_name": [("a",)]}, r"'module_name'(.|\n)*tuples of 2"),
        ({"module_name_object_type_order": [("a", nn.Linear, None)]}, "tuples of 4"),
        ({"module_name": {"a": None}}, "tuples of 2"),
        ({"backend": "tpu"}, "unknown backend"),
    ],
)
def test_dictionaries_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(FxquantError, match=message):
        fxquant.prepare_fx(Net().eval(), given, (X,))


class Reshaped(nn.Module):
    """The first operator moves values, and the second is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(4, 3, 8, 8))


class Squashed(Reshaped):
    """The first operator has a known range, and its input another."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.sigmoid(x))


class Joined(Reshaped):
    """Values of a known range are joined with others."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.cat((torch.mul(x, 0.1), x)).neg()


def _sqnr(net: nn.Module, mapping: Any) -> float:
    observed = fxquant.prepare_fx(net, mapping, (X,))
    observed(X)
    quantized = fxquant.convert_fx(observed)
    with torch.no_grad():
        expected = net(X)
        error = quantized(X) - expected
    return float(10 * torch.log10(expected.square().mean() / error.square().mean()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Reshaped, Squashed])
def test_known_ranges_of_torch_ao_mappings_are_not_given_to_other_values(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = kind().eval()
    assert _sqnr(net, _torch_ao().get_default_qconfig_mapping("x86")) > 30


FIXED = QConfig(FixedQParamsObserver.with_args(scale=1 / 256, zero_point=0), MinMaxObserver)


def test_a_known_range_is_not_given_to_what_it_is_joined_with() -> None:
    torch.manual_seed(0)
    mapping = fxquant.get_default_qconfig_mapping().set_object_type(torch.mul, FIXED)
    assert _sqnr(Joined().eval(), mapping) > 30


def test_a_range_that_nothing_measures_is_an_error() -> None:
    mapping = QConfigMapping().set_object_type(torch.sigmoid, FIXED)
    with pytest.raises(FxquantError, match=r"measures no range(.|\n)*set_global"):
        fxquant.prepare_fx(Squashed().eval(), mapping, (X,))
    mapping.set_global(QConfig(HistogramObserver, fxquant.default_per_channel_weight_observer))
    assert _sqnr(Squashed().eval(), mapping) > 30
