"""Containers that a part changes and that other code holds: the graph is right, or refuses the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.errors import FxquantError

SIZES = [1]
COUNT = 0


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.kept, self.rows = [1], [[1], [1]]
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh())


class TwoNames(Layer):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [1]
        others = sizes
        if x.shape[0] < 5:
            sizes[0] = 3
        return self.layer(x) * others[0]  # type: ignore[no-any-return]


class BothRead(Layer):
    def forward(self, x: Tensor) -> Tensor:
        sizes = others = [1]
        if x.shape[0] < 5:
            sizes[0] = 3
        return self.layer(x) * others[0] + sizes[0]  # type: ignore[no-any-return]


class InATuple(Layer):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [1]
        both = (sizes, 5)
        if x.shape[0] < 5:
            sizes.append(3)
        return self.layer(x) * len(both[0])  # type: ignore[no-any-return]


class TwiceInOne(Layer):
    def forward(self, x: Tensor) -> Tensor:
        rows = [[1]] * 2
        if x.shape[0] < 5:
            rows[0][0] = 3
        return self.layer(x) * rows[1][0]  # type: ignore[no-any-return]


class AddsInPlace(Layer):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [1]
        others = sizes
        if x.shape[0] < 5:
            sizes += [3]
        return self.layer(x) * len(others)  # type: ignore[no-any-return]


def _cut(sizes: list[int], rows: int) -> None:
    if rows < 5:
        sizes[0] = 3


class OfACaller(Layer):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [1]
        _cut(sizes, x.shape[0])
        return self.layer(x) * sizes[0]  # type: ignore[no-any-return]


class OfTheModel(Layer):
    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept
        if x.shape[0] < 5:
            kept[0] += 1
        return self.layer(x) * kept[0]  # type: ignore[no-any-return]


class InALoop(Layer):
    def forward(self, x: Tensor) -> Tensor:
        for row in self.rows:
            if x.max() > 100:
                row[0] += 1
        return self.layer(x) * self.rows[1][0]  # type: ignore[no-any-return]


class OfTheFile(Layer):
    def forward(self, x: Tensor) -> Tensor:
        sizes = SIZES
        if x.max() > 100:
            sizes[0] += 1
        return self.layer(x) * sizes[0]  # type: ignore[no-any-return]


class Default(Layer):
    def forward(self, x: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006
        if x.max() > 100:
            seen.append(1)
        return self.layer(x) + len(seen)  # type: ignore[no-any-return]


class CountsInTheFile(Layer):
    def forward(self, x: Tensor) -> Tensor:
        global COUNT
        if x.max() > 100:
            COUNT += 1
        return self.layer(x) * (1 + COUNT)  # type: ignore[no-any-return]


class ViewAddedTo(Layer):
    def forward(self, x: Tensor) -> Tensor:
        made = torch.zeros(x.shape[0], 4)
        view = made[:2]
        if x.shape[0] < 5:
            view += 1
        return self.layer(x) + made  # type: ignore[no-any-return]


class ActivationAddedTo(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        view = y[:2]
        if x.shape[0] < 5:
            view += 1
        return y


class Grows(Layer):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 100:
            self.layers.append(self.layer)
        return self.layers(x)  # type: ignore[no-any-return]


class GrowsAlways(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.layers.append(nn.ReLU())
        return self.layers(x) + len(self.layers)  # type: ignore[no-any-return]


CASES = [
    TwoNames, BothRead, InATuple, TwiceInOne, AddsInPlace, OfACaller, OfTheModel, InALoop, OfTheFile, Default,
    CountsInTheFile, ViewAddedTo, ActivationAddedTo, Grows, GrowsAlways,
]  # fmt: skip
SMALL, TALL, LARGE = torch.rand(3, 4), torch.rand(9, 4), torch.full((3, 4), 500.0)


def _fresh(kind: type[Layer]) -> Any:
    global COUNT
    torch.manual_seed(0)
    SIZES[:] = [1]
    COUNT = 0
    if kind is Default:
        Default.forward.__defaults__[0].clear()  # type: ignore[index]
    return kind().eval()


@pytest.mark.parametrize("example", [SMALL, TALL, LARGE], ids=["small", "tall", "large"])
@pytest.mark.parametrize("kind", CASES)
def test_no_call_is_silently_wrong(kind: type[Layer], example: Tensor) -> None:
    model, calls = _fresh(kind), [TALL, SMALL, LARGE, SMALL, TALL]
    expected = [model(x) for x in calls]
    captured = pipeline.capture(_fresh(kind), (example,))
    assert SIZES == [1] and COUNT == 0
    right = 0
    for x, wanted in zip(calls, expected, strict=True):
        try:
            found = captured(x)
        except FxquantError as error:
            assert "when the model was captured" in str(error) or "was captured and is" in str(error)
            continue
        torch.testing.assert_close(found, wanted)
        right += 1
    assert right >= 1


def test_what_nobody_else_holds_may_change() -> None:
    class Swaps(Layer):
        def forward(self, x: Tensor) -> Tensor:
            sizes = self.kept.copy()
            if x.shape[0] < 5:
                sizes[0] = 3
            return self.layer(x) * sizes[0]  # type: ignore[no-any-return]

    model = Swaps().eval()
    captured = pipeline.capture(model, (TALL,))
    for x in (SMALL, TALL):
        assert torch.equal(captured(x), model(x))
