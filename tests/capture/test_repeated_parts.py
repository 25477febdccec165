"""Layers that repeat and have parts that run as Python: each layer has its own, and what differs in them is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture import record_again, repeated_layers
from fxquant.ir.float_part import FloatPart
from fxquant.ir.stages import CapturedModel

LAYERS, ODD = 12, 9
NEVER = 10**9


class Pads(nn.Module):
    """Pads what is of an odd length, by what an attribute says, and crops it again."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index, self.mode = index, "constant"
        self.linear = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.rand(4) + 1)

    def padded(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            x = F.pad(x, (0, 0, 0, 1), self.mode)
        return x

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + F.relu(self.linear(self.padded(x)))[:, : x.shape[1]]
        return y


class PadsByIndex(Pads):
    """One layer does something else, at other lengths only."""

    def padded(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            x = F.pad(x - 1 if self.index == ODD else x, (0, 0, 0, 1))
        return x


class Gains(Pads):
    """A weight of the layer is used at some lengths only."""

    def padded(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            x = x * self.gain
        return x


class Repeats(Pads):
    """One layer gives another number to the code around the part."""

    def padded(self, x: Tensor) -> Tensor:
        times = 1
        if x.shape[1] % 2 == 0:
            times = 3 if self.index == ODD else 2
        return x * times


class Writes(Pads):
    """What a part gives is what it is given, or something new; it is written into."""

    def padded(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        z = y
        if x.shape[1] % 2 == 0:
            z = y if self.index == ODD else y + 0
        z += 1
        return z + y


class Chooses(Pads):
    """What a part gives is a function, and that of one layer is another one."""

    def padded(self, x: Tensor) -> Tensor:
        change = F.relu
        if x.shape[1] % 2 == 0:
            change = F.silu if self.index == ODD else F.relu6
        return change(x)


KINDS: list[Callable[[int], Pads]] = [Pads, PadsByIndex, Gains, Repeats, Writes, Chooses]


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of layers that are recorded from others."""
    found: list[str] = []
    run = record_again.RecordAgain.run

    def noted(self: record_again.RecordAgain) -> object:
        result = run(self)
        found.append(self._place.path)
        return result

    monkeypatch.setattr(record_again.RecordAgain, "run", noted)
    return found


def stack(kind: Callable[[int], Pads]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*map(kind, range(LAYERS))).eval()


def parts_of(captured: CapturedModel) -> dict[str, FloatPart]:
    return {name: part for name, part in captured.named_modules() if isinstance(part, FloatPart)}


def told(captured: CapturedModel) -> list[object]:
    parts = [
        (name, part.title, part.child_paths, part.module_path, part.why, part.reads, part.learns, repr(part.arguments))
        for name, part in parts_of(captured).items()
    ]
    return [[node.format_node() for node in captured.graph.nodes], parts]


@pytest.mark.parametrize("kind", KINDS)
def test_graph_is_that_of_each_layer_traced_and_right_at_other_lengths(
    kind: Callable[[int], Pads], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = stack(kind), torch.randn(2, 6, 4)
    captured = pipeline.capture(model, (x,))
    monkeypatch.setattr(repeated_layers, "_ALIKE", NEVER)
    each = pipeline.capture(model, (x,))
    assert told(captured) == told(each)
    for length in (6, 7, 1, 4):
        other = torch.randn(3, length, 4)
        assert torch.equal(captured(other), model(other)), length


@pytest.mark.parametrize("kind", [Pads, PadsByIndex, Gains])
def test_layers_with_parts_are_recorded_from_others(kind: Callable[[int], Pads], again: list[str]) -> None:
    captured = pipeline.capture(stack(kind), (torch.randn(2, 6, 4),))
    assert len(parts_of(captured)) == LAYERS
    assert str(LAYERS - 1) in again


def test_parts_have_the_weights_of_their_layers(again: list[str]) -> None:
    model = stack(Gains)
    captured = pipeline.capture(model, (torch.randn(2, 6, 4),))
    assert again
    for part in parts_of(captured).values():
        (name, path), *_ = part.child_paths.items()
        assert torch.equal(part.get_parameter(f"{name}.gain"), model.get_parameter(f"{path}.gain"))
