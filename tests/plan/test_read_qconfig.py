"""What a QConfig asks for is read off its observers once for a model."""

from __future__ import annotations

import torch
from torch import nn

import fxquant
from fxquant.observers.histogram import HistogramObserver
from fxquant.plan.read_qconfig import QConfigReader, mode_of

BUILT: list[str] = []


class CountedObserver(HistogramObserver):
    """Counts its instances."""

    def __init__(self, **keywords: object) -> None:
        super().__init__(**keywords)  # type: ignore[arg-type]
        BUILT.append("observer")


def built_for(layers: int) -> int:
    """How many observers are built to prepare a model of some layers."""
    qconfig = fxquant.QConfig(CountedObserver.with_args(reduce_range=True), fxquant.default_per_channel_weight_observer)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(layers))).eval()
    BUILT.clear()
    fxquant.prepare_fx(model, fxquant.QConfigMapping().set_global(qconfig), (torch.ones(2, 4),))
    return len(BUILT)


def test_a_layer_more_is_an_observer_more() -> None:
    assert [built_for(layers + 1) - built_for(layers) for layers in (3, 9)] == [1, 1]


def test_each_qconfig_is_read_for_itself() -> None:
    read, wanted = QConfigReader(), {"dynamic": fxquant.default_dynamic_qconfig, "": fxquant.default_qconfig}
    for _ in range(2):
        assert {read(mode_of, qconfig) for qconfig in wanted.values()} == set(wanted)
    assert read(mode_of, wanted["dynamic"]) == "dynamic"
