"""Positions, lengths and ranks stay float; activations beside them do not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant


class PaddedToStride(nn.Module):
    """Pads by a length that is computed in tensors, as audio codecs do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 5, stride=3)
        self.register_buffer("stride", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        frames = (x.shape[-1] - 5) / self.stride + 1
        length = (torch.ceil(frames).to(torch.int64) - 1) * self.stride + 5
        y: Tensor = self.conv(F.pad(x, (0, int(length) - x.shape[-1])))
        return y


class Detector(nn.Module):
    """Boxes around anchors, the best of them kept."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scores, self.deltas = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("anchors", torch.arange(36.0).view(36, 1) * torch.tensor([20.0, 20.0, 21.0, 21.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.body(x) + 0.1)
        scores = torch.sigmoid(self.scores(x).flatten(1))
        deltas = self.deltas(x).flatten(2).transpose(1, 2)
        best, which = scores.topk(5)
        boxes = self.anchors + 0.1 * deltas
        return best, torch.stack([item[index] for item, index in zip(boxes, which, strict=True)]) * 0.5


class Sampled(nn.Module):
    """A grid in pixels, sampled at, with weights afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.register_buffer("grid", torch.stack(torch.meshgrid([torch.linspace(-1, 1, 8)] * 2, indexing="xy"), -1))

    def forward(self, x: Tensor) -> Tensor:
        places = self.grid + 0.01 * self.shift(x).permute(0, 2, 3, 1)
        y: Tensor = self.head(F.relu(F.grid_sample(x, places, align_corners=True) + x))
        return y


def prepared(model: nn.Module, *inputs: Tensor) -> fxquant.ObservedModel:
    observed = fxquant.prepare_fx(model.eval(), fxquant.get_default_qconfig_mapping(), inputs)
    observed(*inputs)
    return observed


def test_a_length_is_the_same_after_conversion() -> None:
    torch.manual_seed(0)
    observed = prepared(PaddedToStride(), torch.randn(2, 1, 326))
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    model = PaddedToStride()
    for length in (326, 327, 328, 646, 1001):
        x = torch.randn(2, 1, length)
        assert reference(x).shape == quantized(x).shape == model(x).shape


def outcomes(observed: fxquant.ObservedModel) -> dict[str, str]:
    """By node."""
    return {node: unit.outcome for unit in observed.plan.units for node in unit.nodes}


def of_kind(observed: fxquant.ObservedModel, *names: str) -> list[str]:
    """Outcomes of the nodes with these names, numbered or not."""
    return [outcome for node, outcome in outcomes(observed).items() if node.rstrip("_0123456789") in names]


def test_boxes_stay_float_and_what_comes_before_them_does_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = Detector()
    observed = prepared(model, x)
    assert of_kind(observed, "body", "scores", "deltas") == ["int8"] * 3
    assert outcomes(observed)["add"] == "int8" and outcomes(observed)["add_1"] != "int8"
    assert "int8" not in of_kind(observed, "mul", "stack", "sigmoid", "topk")
    (topk,) = (unit for unit in observed.plan.units if unit.op == "topk")
    assert topk.outcome != "int8" and "ranked or selected" in topk.reason
    boxes = fxquant.convert_fx(observed)(x)[1].detach()
    distance = (boxes[:, :, None] - model(x)[1][:, None]).abs().amax(-1).amin(-1)
    assert float(distance.detach().median()) < 0.05  # boxes go to 400: a quantum would be 1.6


def test_the_places_that_a_grid_is_sampled_at_stay_float() -> None:
    torch.manual_seed(0)
    observed = prepared(Sampled(), torch.randn(2, 3, 8, 8))
    (place,) = (unit for unit in observed.plan.units if unit.op == "add" and "whole number" in unit.reason)
    assert place.outcome != "int8" and of_kind(observed, "shift", "head") == ["int8", "int8"]
    assert outcomes(observed)["add_1"] == "int8"


@pytest.mark.parametrize("function", [torch.floor, torch.round])
def test_a_rounded_activation_is_one(function: object) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(function(F.relu(self.first(x) * 8 + 1)))  # type: ignore[operator, no-any-return]

    assert set(outcomes(prepared(Rounded(), torch.randn(4, 8))).values()) == {"int8"}
