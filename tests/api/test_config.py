"""QConfigMapping: precedence, errors on names that match nothing, and torch.ao's objects."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError, QConfig, QConfigMapping, get_default_qconfig


class Net(nn.Module):
    """Two blocks of module and functional operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Hardswish())
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = F.conv2d(x, self.weight)
        return F.conv2d(x, self.weight) + 1


X = torch.randn(2, 3, 9, 9)
ON = get_default_qconfig("x86")


def _outcomes(mapping: QConfigMapping) -> dict[str, str]:
    observed = fxquant.prepare_fx(Net().eval(), mapping, (X,))
    return {unit.anchor: unit.outcome for unit in observed.plan.units}


def _mapping() -> QConfigMapping:
    return QConfigMapping().set_global(ON)


def test_global_none_keeps_everything_float() -> None:
    assert set(_outcomes(QConfigMapping())) and "int8" not in _outcomes(QConfigMapping()).values()


def test_object_type_of_module_matches_modules_only() -> None:
    found = _outcomes(_mapping().set_object_type(nn.Conv2d, None))
    assert found["first_0"] == found["second_0"] == "float"
    assert found["conv2d"] == found["conv2d_1"] == "int8"


def test_object_type_of_function_matches_every_spelling_outside_modules() -> None:
    found = _outcomes(_mapping().set_object_type(torch.conv2d, None).set_object_type(torch.add, None))
    assert found["first_0"] == "int8"
    assert found["conv2d"] == found["conv2d_1"] == found["add"] == "float"


def test_regex_beats_object_type_and_first_match_wins() -> None:
    mapping = _mapping().set_object_type(nn.Conv2d, None)
    mapping.set_module_name_regex("first.*", ON).set_module_name_regex("first", None)
    found = _outcomes(mapping)
    assert found["first_0"] == "int8" and found["second_0"] == "float"


def test_module_name_beats_regex_and_inner_beats_outer() -> None:
    mapping = (
        _mapping().set_module_name_regex(".*", None).set_module_name("second", ON).set_module_name("second.1", None)
    )
    found = _outcomes(mapping)
    assert found["first_0"] == "float" and found["second_0"] == "int8" and found["second_1"] != "int8"


def test_order_beats_everything() -> None:
    mapping = _mapping().set_module_name("", None).set_module_name_object_type_order("", torch.conv2d, 1, ON)
    found = _outcomes(mapping)
    assert found["conv2d"] == "float" and found["conv2d_1"] == "int8"


@pytest.mark.parametrize(
    "mapping",
    [
        _mapping().set_module_name("secnd", None),
        _mapping().set_module_name_regex("secnd.*", None),
        _mapping().set_module_name_object_type_order("secnd", torch.conv2d, 0, None),
    ],
)
def test_names_that_match_nothing_raise_with_the_closest(mapping: QConfigMapping) -> None:
    with pytest.raises(FxquantError, match=r"secnd.*matches no module(.|\n)*second"):
        _outcomes(mapping)


def test_unmatched_object_types_are_listed() -> None:
    observed = fxquant.prepare_fx(Net().eval(), _mapping().set_object_type(nn.LSTM, None), (X,))
    assert any("LSTM" in note for note in observed.plan.notes)
    with pytest.raises(FxquantError, match="LSTM"):
        fxquant.quantize(Net().eval(), [X], qconfig_mapping=_mapping().set_object_type(nn.LSTM, None), progress=False)


def test_excluding_at_convert() -> None:
    observed = fxquant.prepare_fx(Net().eval(), _mapping(), (X,))
    observed(X)
    quantized = fxquant.convert_fx(observed, qconfig_mapping=_mapping().set_module_name("second", None))
    assert quantized.plan.unit_of("second_0").outcome == "float"
    assert quantized.plan.unit_of("conv2d").outcome == "int8"
    assert quantized(X).shape == (2, 4, 5, 5)
    with pytest.raises(FxquantError):
        fxquant.convert_fx(observed, qconfig_mapping=_mapping().set_module_name("nowhere", None))


def test_preserved_attributes_and_float_leaves() -> None:
    net = Net().eval()
    net.classes = ["a", "b"]  # type: ignore[assignment]
    config = fxquant.PrepareCustomConfig().set_preserved_attributes(["classes"])
    config.set_non_traceable_module_names(["second"])
    observed = fxquant.prepare_fx(net, _mapping(), (X,), prepare_custom_config=config)
    observed(X)
    quantized = fxquant.convert_fx(observed)
    assert observed.classes == quantized.classes == ["a", "b"]
    assert "not in the catalogue" in quantized.plan.unit_of("second").reason
    assert quantized.plan.unit_of("conv2d").outcome == "int8"


def _torch_ao() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch.ao.quantization")


def test_torch_ao_mappings_and_observers_are_accepted() -> None:
    ao = _torch_ao()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = ao.get_default_qconfig_mapping("x86")
        observed = fxquant.prepare_fx(Net().eval(), mapping, (X,))
        observed(X)
        quantized = fxquant.convert_fx(observed)
    assert quantized.plan.unit_of("first_0").outcome == "int8"
    own = QConfig(ao.MinMaxObserver.with_args(dtype=torch.quint8), ao.default_per_channel_weight_observer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = fxquant.prepare_fx(Net().eval(), QConfigMapping().set_global(own), (X,))
        observed(X)
        assert fxquant.convert_fx(observed)(X).shape == (2, 4, 5, 5)


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(FxquantError, match="unknown backend"):
        fxquant.get_default_qconfig_mapping("tpu")
