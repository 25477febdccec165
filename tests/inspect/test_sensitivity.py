"""sensitivity: the planted layer first, and a recommendation that recovers what it lost."""

from __future__ import annotations

import math

import planted
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import QConfigMapping, sensitivity
from fxquant.inspect.float_mapping import leave_float
from fxquant.inspect.simulated_model import SimulatedModel
from fxquant.numerics.sqnr import sqnr_db


def level(model: nn.Module, mapping: QConfigMapping) -> float:
    lowered = fxquant.quantize(model, planted.batches(), qconfig_mapping=mapping, backend="x86", progress=False)
    x = torch.cat(planted.batches(2, seed=9))
    with torch.no_grad():
        return sqnr_db(model(x), lowered(x))


def test_simulation_is_the_reference_when_all_is_int8_and_the_float_model_when_nothing_is() -> None:
    model, x = planted.network(), planted.batches(1)[0]
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    reference = fxquant.convert_to_reference_fx(observed)
    simulated = SimulatedModel(observed, reference)
    with torch.no_grad():
        assert torch.equal(simulated(x), reference(x))
        simulated.active = frozenset()
        assert sqnr_db(model(x), simulated(x)) > 110


@pytest.mark.parametrize("factor", [100.0, 1e4])
def test_outlier_channel_comes_first_and_the_recommendation_recovers(factor: float) -> None:
    sound = level(planted.network(), fxquant.get_default_qconfig_mapping("x86"))
    model = planted.with_outlier_channel(planted.network(), factor)
    found = sensitivity(model, planted.batches(), backend="x86", progress=False)
    assert found.rows[0].module_path == planted.PLANTED
    assert planted.PLANTED in found.recommendations[0].module_paths
    broken = level(model, fxquant.get_default_qconfig_mapping("x86"))
    recovered = level(model, found.qconfig_mapping)
    assert broken < sound - 10 and recovered > sound - 2
    assert str(found.recommendations[0]).startswith(f"leaving `{planted.PLANTED}`")
    assert found.recommended_metric > found.quantized_metric + 10


def test_wrong_scale_comes_first_and_the_recommendation_recovers() -> None:
    model, mapping = planted.network(), planted.wrong_scale()
    found = sensitivity(model, planted.batches(), qconfig_mapping=mapping, backend="x86", progress=False)
    assert found.rows[0].module_path == planted.PLANTED
    assert [row.alone for row in found.rows] == sorted(row.alone for row in found.rows)
    assert level(model, found.qconfig_mapping) > level(model, mapping) + 15
    assert planted.PLANTED not in {row.module_path for row in found.rows[1:]}
    assert sum(row.macs_share for row in found.rows) == pytest.approx(1.0)


def test_a_metric_of_the_user_decides() -> None:
    model = planted.with_outlier_channel(planted.network(), 1e4)
    x = torch.cat(planted.batches(4, seed=5))
    with torch.no_grad():
        center = model(x).mean(0)
        labels = (model(x) - center).argmax(1)

    def accuracy(candidate: nn.Module) -> float:
        with torch.no_grad():
            return float(((candidate(x) - center).argmax(1) == labels).float().mean())

    found = sensitivity(model, planted.batches(), metric=accuracy, backend="x86", progress=False)
    assert (found.float_metric, found.in_db) == (1.0, False)
    assert found.rows[0].module_path == planted.PLANTED
    assert found.recommended_metric > 0.8 > 0.5 > found.quantized_metric
    assert "dB" not in str(found)


def test_a_sound_model_gets_no_recommendation_that_gains_little() -> None:
    found = sensitivity(planted.network(), planted.batches(2), backend="x86", progress=False)
    assert math.isinf(found.float_metric)
    assert all(step.after - step.before >= 1.0 for step in found.recommendations)
    assert found.rows[0].node in str(found)


def test_calls_outside_modules_are_left_float_one_by_one() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.register_parameter("weight", nn.Parameter(torch.randn(8, 8, 1, 1)))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return F.conv2d(F.conv2d(y, self.weight) + y, self.weight)

    model, x = Sums().eval(), planted.batches(1)[0]
    mapping = fxquant.get_default_qconfig_mapping("x86")
    observed = fxquant.prepare_fx(model, mapping, (x,))
    names = [unit.name for unit in observed.plan.units if unit.output]
    for name in names:
        again = fxquant.prepare_fx(model, leave_float(mapping, observed, {name}), (x,))
        assert {unit.anchor for unit in again.plan.units if not unit.output and unit.reason.startswith("excluded")} == {
            unit.anchor for unit in observed.plan.units if unit.name == name
        }
    assert not mapping.module_name_qconfigs


def test_parts_of_a_torch_module_are_left_float_one_by_one() -> None:
    layer, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), torch.randn(2, 5, 16)
    mapping = fxquant.get_default_qconfig_mapping("x86")
    for model in (layer, nn.Sequential(layer).eval()):
        observed = fxquant.prepare_fx(model, mapping, (x,))
        sums = [unit.name for unit in observed.plan.units if unit.op == "add" and unit.output]
        again = fxquant.prepare_fx(model, leave_float(mapping, observed, sums[:1]), (x,))
        assert [unit.name for unit in again.plan.units if unit.reason.startswith("excluded")] == sums[:1]


class _Heavy(nn.Module):
    """A convolution with nearly all multiply-accumulates between two small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.heavy = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 5, padding=2)
        self.last, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, 12, 12] to [N, 10]."""
        x = torch.relu(self.heavy(torch.relu(self.first(x))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


def test_most_of_the_error_is_worth_leaving_a_heavy_layer_float() -> None:
    torch.manual_seed(0)
    model = _Heavy().eval()
    mapping = fxquant.get_default_qconfig_mapping("x86")
    for name, scale in (("first", 1.0), ("heavy", 0.6)):
        observer = fxquant.FixedQParamsObserver.with_args(scale=scale, zero_point=0, quant_min=0, quant_max=255)
        broken = fxquant.QConfig(activation=observer, weight=fxquant.default_per_channel_weight_observer)
        mapping.set_module_name(name, broken)
    found = sensitivity(model, planted.batches(2), qconfig_mapping=mapping, backend="x86", progress=False)
    assert found.rows[0].module_path == "heavy" and found.rows[0].macs_share > 0.9
    assert found.recommendations and "heavy" in found.recommendations[0].module_paths
    assert found.recommended_metric > found.quantized_metric + 6
    assert sum(step.macs_share for step in found.recommendations) < 0.9995
