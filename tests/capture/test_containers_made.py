"""Containers that forward makes of modules of the model are looked through; others are kept as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture.facts import FactKind


class Layers(nn.Module):
    """Calls what ``make`` makes of its layers."""

    def __init__(self, make: Callable[[Layers], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.5))
        self.listed = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.nested = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4))
        self.make = make

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.make(self)(x)
        return made + x


class Doubled(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2  # type: ignore[no-any-return]


def two_slices(model: Layers) -> nn.Module:
    return nn.Sequential(*model.layers[1:], *model.listed[:1])


def of_own_class(model: Layers) -> nn.Module:
    return Doubled(model.layers[0], model.listed[1])


def named(model: Layers) -> nn.Module:
    return nn.Sequential(nn.Sequential(*model.nested)[0], *model.listed)


@pytest.mark.parametrize(
    "make", [lambda model: model.layers[1:], lambda model: model.nested[:1], two_slices, of_own_class, named]
)
def test_modules_of_the_model_stay_what_they_are(make: Callable[[Layers], nn.Module]) -> None:
    model = Layers(make).eval()
    captured = pipeline.capture(model, (torch.randn(2, 4),))
    x = torch.randn(3, 4)
    assert torch.equal(captured(x), model(x))
    assert not captured.state.capture_notes
    assert set(captured.state_dict()) <= set(model.state_dict())
    assert FactKind.MODULE_IN_FORWARD in {fact.kind for fact in captured.state.facts}
    targets = [str(node.target) for node in captured.graph.nodes if node.op in ("get_attr", "call_module")]
    assert {target.partition(".")[0] for target in targets} <= {"layers", "listed", "nested"}


def with_a_new_one(model: Layers) -> nn.Module:
    return nn.Sequential(model.layers[0], nn.Linear(4, 4))


def with_more(model: Layers) -> nn.Module:
    made = nn.Sequential(model.layers[0])
    made.register_buffer("gain", torch.ones(1))
    return made


def test_new_weights_are_new_in_every_call() -> None:
    captured = pipeline.capture(Layers(with_a_new_one).eval(), (torch.randn(2, 4),))
    assert any("module-in-forward" in note for note in captured.state.capture_notes)


def test_what_has_more_than_modules_is_registered() -> None:
    model = Layers(with_more).eval()
    captured = pipeline.capture(model, (torch.randn(2, 4),))
    x = torch.randn(3, 4)
    assert torch.equal(captured(x), model(x))


def test_a_part_of_what_is_kept_float_is_not_the_whole_of_it() -> None:
    model = Layers(lambda held: held.layers[1:]).eval()
    captured = pipeline.capture(model, (torch.randn(2, 4),), leaf_names=("layers",))
    x = torch.randn(3, 4)
    assert torch.equal(captured(x), model(x))
