"""BackendConfig: its dictionaries, its mistakes, those that are generated and those of torch.ao."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backend_patterns import NONE, OWN, SHARE, Net, X, config_of, pattern_config, plan_of
from torch import nn

import fxquant
from fxquant import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    FxquantError,
    get_default_qconfig_mapping,
)
from fxquant.ops import catalogue
from fxquant.ops.opened_modules import row_of_module


class Mine(nn.Module):
    """A class of the user's."""


def mine(*_: Any) -> Any:
    """A function of the user's."""


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (lambda: pattern_config(Mine), r"pattern Mine is a class of your own(.|\n)*set_float_to_observed_mapping"),
        (lambda: pattern_config(mine), r"pattern mine is not in fxquant's catalogue(.|\n)*leave it out"),
        (lambda: pattern_config("no_such_method"), "'no_such_method' is not in fxquant's catalogue"),
        (lambda: pattern_config(nn.CTCLoss), "CTCLoss is not in fxquant's catalogue"),
        (lambda: pattern_config((nn.ReLU, (nn.Conv2d, nn.ReLU))), "is nested(.|\n)*execution order"),
        (lambda: pattern_config((nn.Conv2d, nn.ReLU)).set_fuser_method(mine), "has a fuser_method of your own, mine"),
        (lambda: pattern_config((nn.Conv2d, nn.ReLU)).set_fused_module(Mine), "has a fused_module of your own, Mine"),
        (lambda: pattern_config(nn.Conv2d).set_root_module(Mine), "has a root_module of your own"),
        (
            lambda: pattern_config(nn.Conv2d).set_reference_quantized_module(Mine),
            "reference_quantized_module of your own",
        ),
        (lambda: pattern_config(nn.Conv2d).set_qat_module(Mine), "has a qat_module of your own"),
        (lambda: pattern_config(nn.Conv2d)._set_root_node_getter(mine), "has a root_node_getter of your own"),
        (lambda: pattern_config(nn.Conv2d)._set_extra_inputs_getter(mine), "has a extra_inputs_getter of your own"),
        (lambda: pattern_config(F.linear)._set_input_type_to_index({"weight": 2}), "puts weight at 2, and it is at 1"),
        (
            lambda: pattern_config(
                nn.Conv2d, OWN, DTypeConfig(DTypeWithConstraints(torch.quint8, scale_max_upper_bound=1.0))
            ),
            r"bounds the scale of its input from above(.|\n)*scale_max_upper_bound",
        ),
    ],
)
def test_what_cannot_be_honoured_is_an_error(pattern: Callable[[], BackendPatternConfig], message: str) -> None:
    with pytest.raises(FxquantError, match=message):
        plan_of(config_of(pattern()))


def test_mistakes_in_the_config() -> None:
    with pytest.raises(FxquantError, match="has no pattern"):
        BackendConfig("x").set_backend_pattern_config(BackendPatternConfig())
    with pytest.raises(FxquantError, match="has one pattern"):
        BackendPatternConfig(nn.ReLU)._set_pattern_complex_format((nn.ReLU, nn.Conv2d))
    with pytest.raises(FxquantError, match="'same' is no observation type"):
        BackendPatternConfig(nn.ReLU).set_observation_type("same")
    with pytest.raises(FxquantError, match="a dtype of a DTypeConfig is a str"):
        DTypeConfig("quint8")
    with pytest.raises(FxquantError, match="dictionary of a BackendPatternConfig has no key 'patern'"):
        BackendConfig.from_dict({"name": "x", "configs": [{"patern": nn.ReLU}]})
    with pytest.raises(FxquantError, match="backend_config is a float"):
        plan_of(1.5)


def test_a_later_entry_replaces_an_earlier_one_of_the_same_pattern() -> None:
    config = config_of(pattern_config(nn.Conv2d, NONE), pattern_config(nn.Conv2d))
    assert len(config.configs) == 1 and plan_of(config).unit_of("other").outcome == "int8"


def test_dictionary_round_trip() -> None:
    constrained = DTypeConfig(DTypeWithConstraints(torch.quint8, 0, 127), torch.quint8, torch.qint8, torch.float, False)
    entry = pattern_config((nn.Conv2d, nn.ReLU), SHARE, constrained).set_root_module(nn.Conv2d).set_fuser_method(mine)
    entry._set_num_tensor_args_to_observation_type({1: SHARE}).set_every_spelling()
    config = config_of(entry, pattern_config("add")).set_every_group()
    twin = BackendConfig.from_dict(config.to_dict())
    assert twin.to_dict() == config.to_dict() and twin.name == "mine" and twin.every_group
    assert twin.configs[0].dtype_configs == [constrained]
    assert DTypeConfig.from_dict(constrained.to_dict()) == constrained


def test_the_name_of_an_engine_chooses_it() -> None:
    config = config_of(pattern_config(nn.Conv2d))
    assert plan_of(config).engine == "x86"
    assert plan_of(config.set_name("onednn")).engine == "onednn"


def test_convert_wants_the_backend_that_was_planned_for() -> None:
    config = config_of(pattern_config(nn.Conv2d))
    observed = fxquant.prepare_fx(Net().eval(), get_default_qconfig_mapping(), (X,), backend_config=config)
    observed(X)
    assert fxquant.convert_fx(observed, backend_config=config)(X).shape == (4, 16, 5, 5)
    assert fxquant.convert_fx(observed, backend_config="x86")(X).shape == (4, 16, 5, 5)
    for other in ("onednn", BackendConfig("other")):
        with pytest.raises(FxquantError, match=r"prepared for backend_config 'mine', and convert asks for"):
            fxquant.convert_fx(observed, backend_config=other)


@pytest.mark.parametrize("name", ["native", "x86", "fbgemm", "onednn", "qnnpack"])
def test_generated_configs_change_nothing(name: str) -> None:
    if name != "native" and name not in torch.backends.quantized.supported_engines:
        pytest.skip(f"{name} is not in this build of torch")
    config = getattr(fxquant, f"get_{name}_backend_config")()
    engine = "x86" if name == "native" else name
    net, mapping = Net(), get_default_qconfig_mapping(engine)
    plan, free = plan_of(config, mapping, net), plan_of(None, mapping, net)
    assert plan.engine == engine and plan.units == free.units and plan.classes == free.classes
    assert plan.fusions == free.fusions
    twin = BackendConfig.from_dict(config.to_dict())
    assert plan_of(twin, get_default_qconfig_mapping(engine)).units == free.units


def test_generated_configs_list_what_has_a_kernel() -> None:
    config = fxquant.get_native_backend_config()
    listed = {entry.pattern for entry in config.configs}
    for row in catalogue.all_rows():
        if "native" in row.kernels:
            assert row.target in listed, row.name
    linear = next(entry for entry in config.configs if entry.pattern is F.linear)
    assert linear.dtype_configs[0] == DTypeConfig(torch.uint8, torch.uint8, torch.int8, torch.float32)
    assert [dtypes.is_dynamic for dtypes in linear.dtype_configs] == [None, True, True]
    assert next(entry for entry in config.configs if entry.pattern is torch.cat).observation_type is SHARE


def _torch_ao_configs() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch.ao.quantization.backend_config.utils")
        from torch.ao.quantization import backend_config as ao
        from torch.ao.quantization.backend_config.x86 import get_x86_backend_config

        names = ("native", "fbgemm", "onednn", "qnnpack", "tensorrt", "executorch")
        return [*(getattr(ao, f"get_{name}_backend_config")() for name in names), get_x86_backend_config()]


def test_torch_ao_configs_and_their_dictionaries_are_accepted() -> None:
    for config in _torch_ao_configs():
        plan = plan_of(config)
        assert plan.backend_config == config.name
        assert plan_of(config.to_dict()).units == plan.units
        if config.name in ("native", "fbgemm", "onednn", "qnnpack", "x86"):
            assert plan.unit_of("conv").nodes == ("conv", "norm", "relu"), config.name
            assert plan.unit_of("conv").outcome == plan.unit_of("conv2d").outcome == "int8"
            assert plan.unit_of("add").output == plan.unit_of("max_pool2d").output  # one tensor: shares
        elif config.name == "tensorrt":  # int8 activations, which no qconfig here makes
            assert "asks for inputs of int8" in plan.unit_of("other").reason


def test_modules_are_known_by_the_row_they_compute() -> None:
    """The name rule of ``row_of_module``, checked against what capture records."""
    cases: dict[type[nn.Module], tuple[tuple[Any, ...], tuple[int, ...]]] = {
        nn.Conv1d: ((4, 4, 1), (2, 4, 8)), nn.Conv3d: ((4, 4, 1), (2, 4, 4, 4, 4)), nn.Linear: ((8, 3), (2, 8)),
        nn.ConvTranspose2d: ((4, 4, 2), (2, 4, 5, 5)), nn.ReLU: ((), (2, 4)), nn.ReLU6: ((), (2, 4)),
        nn.LeakyReLU: ((), (2, 4)), nn.PReLU: ((), (2, 4)), nn.ELU: ((), (2, 4)), nn.Hardswish: ((), (2, 4)),
        nn.Hardsigmoid: ((), (2, 4)), nn.Sigmoid: ((), (2, 4)), nn.Tanh: ((), (2, 4)), nn.Softmax: ((-1,), (2, 4)),
        nn.GELU: ((), (2, 4)), nn.SiLU: ((), (2, 4)), nn.LogSigmoid: ((), (2, 4)), nn.Hardtanh: ((), (2, 4)),
        nn.MaxPool2d: ((2,), (2, 4, 6, 6)), nn.AvgPool1d: ((2,), (2, 4, 6)), nn.AdaptiveAvgPool2d: ((2,), (2, 4, 6, 6)),
        nn.AdaptiveMaxPool2d: ((2,), (2, 4, 6, 6)), nn.Flatten: ((), (2, 4, 3)), nn.PixelShuffle: ((2,), (2, 4, 3, 3)),
        nn.LayerNorm: ((4,), (2, 4)), nn.GroupNorm: ((2, 4), (2, 4, 3)), nn.InstanceNorm2d: ((4,), (2, 4, 3, 3)),
        nn.BatchNorm2d: ((4,), (2, 4, 3, 3)), nn.Dropout: ((), (2, 4)), nn.ZeroPad2d: ((1,), (2, 4, 3, 3)),
        nn.ReflectionPad1d: ((1,), (2, 4, 3)), nn.Upsample: ((4,), (2, 4, 3)),
    }  # fmt: skip
    for kind, (arguments, shape) in cases.items():
        row = row_of_module(kind)
        assert row is not None, kind
        plan = plan_of(None, net=nn.Sequential(kind(*arguments)), x=torch.randn(shape))
        assert row.name in {unit.op for unit in plan.units}, kind
    assert row_of_module(nn.Unfold) is None and row_of_module(Mine) is None
