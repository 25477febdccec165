"""What each dynamic layer does to the output, and the float weights behind it."""

from __future__ import annotations

import torch
from linears import modes
from torch import Tensor, nn

import fxquant
from fxquant.inspect.simulated_model import SimulatedModel
from fxquant.numerics.sqnr import sqnr_db


class _All(nn.Module):
    """A table, a recurrent layer, linears of one input, a convolution, and a static linear."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(30, 8), nn.GRU(8, 8, batch_first=True)
        self.one, self.other, self.conv = nn.Linear(8, 8), nn.Linear(8, 8), nn.Conv1d(8, 6, 3)
        self.narrow, self.static = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.table(x))[0]
        y = torch.relu(self.conv((torch.tanh(self.one(y)) * self.other(y)).transpose(1, 2))).transpose(1, 2)
        result: Tensor = self.static(self.narrow(y))
        return result


def _mapping() -> fxquant.QConfigMapping:
    mapping = fxquant.QConfigMapping().set_global(fxquant.per_channel_dynamic_qconfig)
    mapping.set_module_name("table", fxquant.float_qparams_weight_only_qconfig)
    mapping.set_module_name("narrow", fxquant.float16_dynamic_qconfig)
    return mapping.set_module_name("static", fxquant.get_default_qconfig())


X = torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_units_can_be_switched() -> None:
    model = _All().eval()
    observed = fxquant.prepare_fx(model, _mapping(), (X,))
    observed(X)
    reference = fxquant.convert_to_reference_fx(observed)
    simulated = SimulatedModel(observed, reference)
    assert set(modes(reference)) == {"table", "layer", "one", "other", "conv", "narrow"}
    assert torch.equal(simulated(X), reference(X))
    simulated.active = frozenset()
    assert sqnr_db(model(X), simulated(X)) > 120
    for unit in reference.plan.units:
        if unit.mode:
            simulated.active = {unit.name}
            assert 20 < sqnr_db(model(X), simulated(X)) < 120


def test_rows_and_recommendations() -> None:
    model = _All().eval()
    with torch.no_grad():
        model.one.weight[0, 0] = 60.0  # one scale for all of its rows would be far off
    mapping = _mapping().set_module_name("one", fxquant.default_dynamic_qconfig)
    found = fxquant.sensitivity(model, [X], qconfig_mapping=mapping, backend="x86")
    assert {row.node for row in found.rows} >= {"table", "layer", "one", "other", "conv", "narrow", "static"}
    assert found.rows[0].node == "one"
    assert found.recommended_metric > found.quantized_metric + 3
    assert found.qconfig_mapping.module_name_qconfigs["one"] is None


def test_original_weights() -> None:
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    observed = fxquant.prepare_fx(model, fxquant.per_channel_dynamic_qconfig, (torch.randn(2, 8),))
    kept = fxquant.convert_fx(observed, keep_original_weights=True).original_weights_lookup
    assert torch.equal(kept["_0"][0], model[0].weight) and torch.equal(kept["_0"][1], model[0].bias)  # type: ignore[arg-type]
