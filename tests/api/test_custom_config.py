"""Custom configs: dictionaries, torch.ao's objects, preserved attributes."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import (
    ConvertCustomConfig,
    FuseCustomConfig,
    FxquantError,
    PrepareCustomConfig,
    QuantType,
    get_default_qconfig,
    get_default_qconfig_mapping,
)


class Observed(nn.Module):
    """Stands for an observed class."""

    @classmethod
    def from_float(cls, module: nn.Module) -> Observed:
        return cls()

    @classmethod
    def from_observed(cls, module: nn.Module) -> Observed:
        return cls()


def _prepare_config() -> PrepareCustomConfig:
    inner = PrepareCustomConfig().set_output_quantized_indexes([0])
    return (
        PrepareCustomConfig()
        .set_standalone_module_name("block", get_default_qconfig_mapping(), (torch.ones(1),), inner, "x86")
        .set_standalone_module_class(nn.ReLU)
        .set_float_to_observed_mapping(nn.Bilinear, Observed)
        .set_non_traceable_module_names(["head"])
        .set_non_traceable_module_classes([nn.LSTM])
        .set_input_quantized_indexes([0])
        .set_output_quantized_indexes([1])
        .set_preserved_attributes(["classes"])
    )


def test_prepare_config_round_trip() -> None:
    given = _prepare_config().to_dict()
    assert given["float_to_observed_custom_module_class"] == {"static": {nn.Bilinear: Observed}}
    assert given["input_quantized_idxs"] == [0] and given["preserved_attributes"] == ["classes"]
    twin = PrepareCustomConfig.from_dict(given)
    entry = twin.standalone_module_names["block"]
    assert entry.prepare_custom_config is not None and entry.prepare_custom_config.output_quantized_indexes == [0]
    assert entry.qconfig_mapping is not None and entry.qconfig_mapping.global_qconfig == get_default_qconfig("x86")
    assert twin.float_to_observed_mapping == {QuantType.STATIC: {nn.Bilinear: Observed}}
    assert str(twin.to_dict()) == str(given)
    assert PrepareCustomConfig().to_dict() == {}


def test_convert_and_fuse_config_round_trip() -> None:
    config = ConvertCustomConfig().set_observed_to_quantized_mapping(Observed, Observed).set_preserved_attributes(["a"])
    twin = ConvertCustomConfig.from_dict(config.to_dict())
    assert twin.to_dict() == config.to_dict() and twin.quantized_classes == {Observed: Observed}
    fuse = FuseCustomConfig().set_preserved_attributes(["a"])
    assert FuseCustomConfig.from_dict(fuse.to_dict()).preserved_attributes == ["a"]


@pytest.mark.parametrize("kind", [PrepareCustomConfig, ConvertCustomConfig, FuseCustomConfig])
def test_unknown_keys_and_types_are_refused(kind: Any) -> None:
    with pytest.raises(FxquantError, match=r"has no key 'standalone'(.|\n)*preserved_attributes"):
        kind.from_dict({"standalone": []})
    with pytest.raises(FxquantError, match=f"expected a {kind.__name__}, got int"):
        kind.of(3)
    assert kind.of(None).preserved_attributes == []


def test_dictionaries_and_torch_ao_objects_are_accepted() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        configs = pytest.importorskip("torch.ao.quantization.fx.custom_config")
        theirs = configs.PrepareCustomConfig().set_input_quantized_indexes([0])
        theirs.set_standalone_module_name("0", None, (), None, None)
        for given in (theirs, theirs.to_dict(), PrepareCustomConfig.of(theirs).to_dict()):
            observed = fxquant.prepare_fx(net, get_default_qconfig_mapping(), (x,), given)
            assert len(observed.plan.quantized_inputs) == 1
            assert type(observed.get_submodule("0")).__mro__[1].__name__ == "ObservedModel"
        converting = configs.ConvertCustomConfig().set_observed_to_quantized_mapping(Observed, Observed)
        assert ConvertCustomConfig.of(converting).quantized_classes == {Observed: Observed}


class Net(nn.Module):
    """A convolution with notes for the user."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classes, self.unused = nn.Conv2d(3, 4, 3), ["cat", "dog"], nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


X = torch.randn(2, 3, 8, 8)


def _observed(names: list[str]) -> Any:
    config = PrepareCustomConfig().set_preserved_attributes(names)
    observed = fxquant.prepare_fx(Net().eval(), get_default_qconfig_mapping(), (X,), config)
    observed(X)
    return observed


def test_attributes_named_at_prepare_reach_every_stage() -> None:
    observed = _observed(["classes", "unused"])
    for model in (observed, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)):
        assert model.classes == ["cat", "dog"] and isinstance(model.unused, nn.Linear)


def test_attributes_named_at_convert_reach_the_result() -> None:
    observed = _observed([])
    assert not hasattr(fxquant.convert_fx(observed), "classes")
    observed.thresholds = {"low": 0.25}
    config = ConvertCustomConfig().set_preserved_attributes(["thresholds"])
    for make in (fxquant.convert_fx, fxquant.convert_to_reference_fx):
        model = make(observed, config)
        assert model.thresholds == {"low": 0.25} and model.thresholds is not observed.thresholds
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
            assert twin.thresholds == {"low": 0.25}
    assert not hasattr(fxquant.convert_fx(observed), "thresholds")


def test_attributes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(FxquantError, match="set_preserved_attributes names clases, which Net does not have"):
        _observed(["clases"])
    with pytest.raises(FxquantError, match="names clases"):
        fxquant.convert_fx(_observed([]), ConvertCustomConfig().set_preserved_attributes(["clases"]))
    with pytest.raises(FxquantError, match="names clases"):
        fxquant.fuse_fx(Net().eval(), FuseCustomConfig().set_preserved_attributes(["clases"]))


def test_original_weights_are_kept_on_request() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
            self.head, self.weight = nn.Linear(4, 3), nn.Parameter(torch.randn(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x)).mean((2, 3))
            return nn.functional.linear(self.head(y), self.weight)

    net = Folded().train()
    with torch.no_grad():
        net(X)
    net.eval()
    mapping = get_default_qconfig_mapping().set_module_name("head", None)
    observed = fxquant.prepare_fx(net, mapping, (X,))
    observed(X)
    assert not hasattr(fxquant.convert_fx(observed), "original_weights_lookup")
    quantized = fxquant.convert_fx(observed, keep_original_weights=True)
    kept = quantized.original_weights_lookup
    assert set(kept) == {"norm", "linear"}  # by unit; the head is float
    weight, bias = kept["linear"]
    assert weight is not None and torch.equal(weight, net.weight) and weight is not net.weight and bias is None
    weight, bias = kept["norm"]
    factor = net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)  # type: ignore[operator, arg-type]
    assert weight is not None and torch.allclose(weight, net.conv.weight * factor.reshape(-1, 1, 1, 1), atol=1e-6)
    assert bias is not None and bias.shape == (4,)
    kernel: Any = quantized.int8.norm
    stored = kernel.weight.float() * kernel.weight_scale.reshape(-1, 1, 1, 1)
    assert torch.equal(torch.round(weight / kernel.weight_scale.reshape(-1, 1, 1, 1)).abs() <= 127, stored == stored)
    assert float((stored - weight).abs().max() / kernel.weight_scale.max()) < 1.5  # limited pairs move by a step or so
    buffer = io.BytesIO()
    torch.save(quantized, buffer)
    buffer.seek(0)
    assert set(torch.load(buffer, weights_only=False).original_weights_lookup) == set(kept)
    assert set(copy.deepcopy(quantized).original_weights_lookup) == set(kept)
    assert not any("original" in key for key in quantized.state_dict())


def test_original_weights_of_standalone_modules() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3))).eval()
    config = PrepareCustomConfig().set_standalone_module_name("1")
    observed = fxquant.prepare_fx(net, get_default_qconfig_mapping(), (X,), config)
    observed(X)
    kept = fxquant.convert_fx(observed, keep_original_weights=True).original_weights_lookup
    assert set(kept) == {"_0", "1._0"}
