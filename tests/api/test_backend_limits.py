"""What a BackendConfig allows is what the plan does: operators, groups, ranges, dtypes."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from backend_patterns import INT8, NONE, OWN, SHARE, Net, X, config_of, pattern_config, plan_of
from torch import Tensor, nn

import fxquant
from fxquant import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    FxquantError,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
    get_default_qconfig_mapping,
)
from fxquant.numerics.sqnr import sqnr_db


def test_what_is_not_listed_stays_float_with_a_reason() -> None:
    plan = plan_of(config_of(pattern_config(nn.Conv2d)))
    assert plan.unit_of("conv").outcome == plan.unit_of("other").outcome == "int8"
    for name in ("conv2d", "cat", "max_pool2d", "leaky_relu", "add"):
        assert plan.unit_of(name).outcome == "float"
        assert plan.unit_of(name).reason == "not in backend_config 'mine'"
    assert plan.backend_config == "mine"
    assert "planned for backend_config 'mine': what it does not list stays float" in plan.notes


def test_functions_stand_for_every_spelling_outside_modules() -> None:
    plan = plan_of(config_of(pattern_config(torch.conv2d), pattern_config("add"), pattern_config(operator.mul)))
    assert plan.unit_of("conv2d").outcome == "int8"
    assert plan.unit_of("add").reason == "only operators that compute in float read its result"  # it is listed
    assert plan.unit_of("conv").outcome == "float"
    plan = plan_of(config_of(pattern_config(torch.conv2d).set_every_spelling()))
    assert plan.unit_of("conv").outcome == plan.unit_of("conv2d").outcome == "int8"


def test_an_empty_config_allows_nothing() -> None:
    plan = plan_of(BackendConfig("none"))
    assert "int8" not in {unit.outcome for unit in plan.units}
    assert not plan.classes


def test_groups_run_as_one_only_when_listed() -> None:
    singles = [
        pattern_config(nn.Conv2d),
        pattern_config(nn.ReLU, SHARE),
        pattern_config(F.relu, SHARE),
        pattern_config(torch.conv2d),
    ]
    plan = plan_of(config_of(*singles))
    assert plan.unit_of("conv").nodes == ("conv",) and plan.unit_of("conv2d").nodes == ("conv2d",)
    refused = {record.reason for record in plan.fusions}
    assert "backend_config 'mine' has no pattern (conv2d, relu)" in refused
    assert any("has no pattern (Conv2d, BatchNorm2d" in reason for reason in refused)
    plan = plan_of(
        config_of(
            *singles, pattern_config((nn.Conv2d, nn.BatchNorm2d, nn.ReLU)), pattern_config((torch.conv2d, F.relu))
        )
    )
    assert plan.unit_of("conv").nodes == ("conv", "norm", "relu")
    assert plan.unit_of("conv2d").nodes == ("conv2d", "relu_1")
    plan = plan_of(config_of(*singles, pattern_config((nn.Conv2d, nn.BatchNorm2d))))
    assert plan.unit_of("conv").nodes == ("conv", "norm")


def test_complex_patterns_are_read_in_execution_order() -> None:
    nested = BackendPatternConfig()._set_pattern_complex_format((nn.ReLU, (nn.BatchNorm2d, nn.Conv2d)))
    plan = plan_of(config_of(nested.add_dtype_config(INT8)))
    assert plan.unit_of("conv").nodes == ("conv", "norm", "relu") and plan.unit_of("conv").outcome == "int8"


def test_fuse_fx_fuses_listed_groups_only() -> None:
    net = Net().eval()
    fused = fxquant.fuse_fx(
        net, backend_config=config_of(pattern_config((nn.Conv2d, nn.BatchNorm2d))), example_inputs=(X,)
    )
    assert [node for node in fused.graph.nodes if node.target == "norm"] == []
    alone = fxquant.fuse_fx(net, backend_config=config_of(pattern_config(nn.Conv2d)), example_inputs=(X,))
    assert any("norm" in str(node.target) for node in alone.graph.nodes)


def test_an_output_may_have_to_share_the_input_s_range() -> None:
    listed = [
        pattern_config(nn.Conv2d),
        pattern_config(torch.conv2d),
        pattern_config(torch.cat, SHARE),
        pattern_config(F.max_pool2d, SHARE),
    ]
    own = plan_of(config_of(*listed, pattern_config("add"), pattern_config(F.leaky_relu)))
    assert own.unit_of("leaky_relu").output != own.unit_of("add").output != own.unit_of("max_pool2d").output
    shared = plan_of(config_of(*listed, pattern_config("add", SHARE), pattern_config(F.leaky_relu, SHARE)))
    assert shared.unit_of("leaky_relu").output == shared.unit_of("add").output == shared.unit_of("max_pool2d").output
    assert {"add", "leaky_relu"} <= set(shared.range_class(shared.unit_of("add").output).sources)
    net = Net().eval()
    config = config_of(*listed, pattern_config("add", SHARE), pattern_config(F.leaky_relu, SHARE))
    observed = fxquant.prepare_fx(net, get_default_qconfig_mapping(), (X,), backend_config=config)
    observed(X)
    assert sqnr_db(net(X).detach(), fxquant.convert_fx(observed)(X)) > 20


def test_by_number_of_tensors() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return (y + x) + 2.0

    add = pattern_config(torch.add)._set_num_tensor_args_to_observation_type({0: OWN, 1: SHARE, 2: OWN})
    plan = plan_of(config_of(pattern_config(nn.Conv2d), add), net=Sums())
    assert plan.unit_of("add_1").output == plan.unit_of("add").output != plan.unit_of("conv").output


def test_an_operator_that_shares_may_get_a_range_of_its_own() -> None:
    listed = [pattern_config(nn.Conv2d), pattern_config(torch.conv2d)]
    plan = plan_of(config_of(*listed, pattern_config(torch.cat), pattern_config(F.max_pool2d)))
    assert plan.unit_of("cat").outcome == "int8"
    assert plan.unit_of("cat").output not in {edge.range_class for edge in plan.unit_of("cat").inputs}
    assert "backend_config asks for one of its own" in plan.unit_of("max_pool2d").reason
    assert plan.unit_of("max_pool2d").outcome == "float"


def test_an_operator_of_fixed_range_cannot_share() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh()).eval()
    with pytest.raises(FxquantError, match=r"lets tanh share its input's range(.|\n)*OUTPUT_USE_DIFFERENT"):
        plan_of(config_of(pattern_config(nn.Conv2d), pattern_config(nn.Tanh, SHARE)), net=net)


def test_operators_that_are_not_observed() -> None:
    plan = plan_of(config_of(pattern_config(nn.Conv2d), pattern_config(torch.cat, NONE)))
    assert plan.unit_of("cat").reason == "backend_config 'mine' does not observe it"


def _qconfig(quant_max: int = 255, eps: float = 1e-7, weight_min: int = -127) -> QConfigMapping:
    activation = MinMaxObserver.with_args(quant_min=0, quant_max=quant_max, eps=eps)
    weight = PerChannelMinMaxObserver.with_args(
        dtype=torch.int8, qscheme=torch.per_channel_symmetric, quant_min=weight_min, quant_max=127, eps=eps
    )
    return QConfigMapping().set_global(QConfig(activation, weight))


@pytest.mark.parametrize(
    ("mapping", "dtypes", "reason"),
    [
        (_qconfig(), INT8, ""),
        (_qconfig(), DTypeConfig(torch.uint8, torch.uint8, torch.int8), ""),
        (_qconfig(), DTypeConfig(), ""),
        (_qconfig(), DTypeConfig(torch.qint8, torch.qint8, torch.qint8), "inputs of int8, and they are uint8 here"),
        (_qconfig(), DTypeConfig(torch.quint8, torch.float32, torch.qint8), "outputs of float32"),
        (_qconfig(), DTypeConfig(torch.quint8, torch.quint8, torch.float32), "weights of float32, and they are int8"),
        (_qconfig(), DTypeConfig(torch.quint8, torch.quint8, torch.qint8, torch.qint32), "biases of int32"),
        (_qconfig(), DTypeConfig(torch.quint8, torch.float, torch.qint8, is_dynamic=True), "ranges taken at run time"),
        (
            _qconfig(),
            DTypeConfig(DTypeWithConstraints(torch.quint8, 0, 127), torch.quint8, torch.qint8),
            "integers of inputs up to 127, and they go up to 255 here",
        ),
        (_qconfig(127), DTypeConfig(DTypeWithConstraints(torch.quint8, 0, 127), torch.quint8, torch.qint8), ""),
        (
            _qconfig(),
            DTypeConfig(torch.quint8, torch.quint8, DTypeWithConstraints(torch.qint8, -63, 63)),
            "integers of weights from -63, and they start at -127 here",
        ),
        (
            _qconfig(weight_min=-128),
            DTypeConfig(torch.quint8, torch.quint8, DTypeWithConstraints(torch.qint8, -127, 127)),
            "integers of weights from -127, and they start at -128 here",
        ),
        (
            _qconfig(),
            DTypeConfig(torch.quint8, DTypeWithConstraints(torch.quint8, scale_min_lower_bound=2**-12), torch.qint8),
            "scales of outputs of at least 0.000244",
        ),
        (
            _qconfig(eps=2**-12),
            DTypeConfig(torch.quint8, DTypeWithConstraints(torch.quint8, scale_min_lower_bound=2**-12), torch.qint8),
            "",
        ),
    ],
)
def test_dtypes_and_constraints(mapping: QConfigMapping, dtypes: DTypeConfig, reason: str) -> None:
    unit = plan_of(config_of(pattern_config(nn.Conv2d, OWN, dtypes)), mapping).unit_of("other")
    assert unit.outcome == ("float" if reason else "int8")
    assert reason in unit.reason and ("backend_config 'mine' asks for" in unit.reason) is bool(reason)


def test_one_of_several_dtype_configs_is_enough() -> None:
    dynamic = DTypeConfig(torch.quint8, torch.float, torch.qint8, is_dynamic=True)
    both = BackendPatternConfig(nn.Conv2d).set_dtype_configs([dynamic, INT8])
    assert plan_of(config_of(both)).unit_of("other").outcome == "int8"
    neither = BackendPatternConfig(nn.Conv2d).set_dtype_configs([dynamic, DTypeConfig(torch.qint8)])
    assert "ranges taken at run time; or inputs of int8" in plan_of(config_of(neither)).unit_of("other").reason
    assert "asks for no dtypes" in plan_of(config_of(BackendPatternConfig(nn.Conv2d))).unit_of("other").reason


@pytest.mark.parametrize(("scale", "outcome"), [(1 / 256, "int8"), (1 / 128, "float")])
def test_exact_parameters_are_those_of_the_operator(scale: float, outcome: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1)).eval()
    exactly = DTypeWithConstraints(torch.quint8, scale_exact_match=scale, zero_point_exact_match=0)
    plan = plan_of(
        config_of(pattern_config(nn.Conv2d), pattern_config(nn.Sigmoid, OWN, DTypeConfig(exactly, exactly))), net=net
    )
    assert plan.unit_of("_1").outcome == outcome
    assert ("exactly scale" in plan.unit_of("_1").reason) is (outcome == "float")
