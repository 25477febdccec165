"""What classes and globals carry over from call to call is found where the example leaves it as it was."""

from __future__ import annotations

import array
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.errors import FxquantError

SEEN: dict[str, Any] = {"large": 0.0, "largest": torch.zeros(()), "last": torch.zeros(())}
TABLE: dict[int, Tensor] = {}
NUMBERS, BYTES = array.array("d", [0.0]), bytearray(1)
NESTED: dict[str, Any] = {"a": {"b": [0.0, {"c": 0.0}]}}
LARGE, PEAK, TALL, FACTOR = 0.0, 100.0, 0, 1


class Layer(nn.Module):
    """Turns its result around once it has seen large values."""

    large: Any = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def result(self, x: Tensor, large: Any) -> Tensor:
        y: Tensor = self.layer(x)
        return torch.where(torch.as_tensor(large) > 0, -y, y)


def is_large(x: Tensor) -> Tensor:
    return (x.amax() > 100) * 1.0


class OnItsClass(Layer):
    def forward(self, x: Tensor) -> Tensor:
        type(self).large = type(self).large + is_large(x)
        return self.result(x, type(self).large)


class InADictionary(Layer):
    def forward(self, x: Tensor) -> Tensor:
        SEEN["large"] = SEEN["large"] + is_large(x)
        return self.result(x, SEEN["large"])


class TheLargest(Layer):
    def forward(self, x: Tensor) -> Tensor:
        SEEN.update(largest=torch.maximum(SEEN["largest"], x.amax()))
        return self.result(x, SEEN["largest"] - 100)


class InAGlobal(Layer):
    def forward(self, x: Tensor) -> Tensor:
        global LARGE
        LARGE = LARGE + is_large(x)
        return self.result(x, LARGE)


class Unread(Layer):
    def forward(self, x: Tensor) -> Tensor:
        SEEN["last"] = x.amax()
        return self.result(x, 0)


class Table(Layer):
    def forward(self, x: Tensor) -> Tensor:
        size = int(x.shape[0])
        if size not in TABLE:
            TABLE[size] = torch.arange(4.0)
        return self.result(x, 0) + TABLE[size]


class ThePeak(Layer):
    """Leaves the global as it is, for values that are not larger."""

    def forward(self, x: Tensor) -> Tensor:
        global PEAK
        PEAK = max(PEAK, float(x.max()))
        return self.layer(x) / PEAK  # type: ignore[no-any-return]


class ThePeakOfItsClass(Layer):
    tallest = 3

    def forward(self, x: Tensor) -> Tensor:
        ThePeakOfItsClass.tallest = max(ThePeakOfItsClass.tallest, x.shape[0])
        return self.layer(x) * ThePeakOfItsClass.tallest  # type: ignore[no-any-return]


class CountsTall(Layer):
    def forward(self, x: Tensor) -> Tensor:
        global TALL
        TALL += int(x.shape[0] > 4)
        return self.layer(x) * (1 + TALL)  # type: ignore[no-any-return]


def count() -> Any:
    large = 0.0

    def is_large_so_far(x: Tensor) -> Any:
        nonlocal large
        large = large + is_large(x)
        return large

    return is_large_so_far


so_far = count()


class InAFunction(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.result(x, so_far(x))


class Configured(Layer):
    """Reads what another function sets."""

    def forward(self, x: Tensor) -> Tensor:
        return self.result(x, FACTOR - 2)


def configure(factor: int) -> None:
    global FACTOR
    FACTOR = factor


class InAnArray(Layer):
    def forward(self, x: Tensor) -> Tensor:
        NUMBERS[0] += float(is_large(x))
        BYTES[0] = (BYTES[0] + 1) % 200
        NESTED["a"]["b"][1]["c"] = is_large(x)
        return self.result(x, NUMBERS[0])


def as_before() -> None:
    NUMBERS[0], BYTES[0], NESTED["a"]["b"][1]["c"] = 0.0, 0, 0.0
    _as_before()


def _as_before() -> None:
    global LARGE, PEAK, TALL, so_far
    PEAK, TALL, so_far, ThePeakOfItsClass.tallest = 100.0, 0, count(), 3
    SEEN.update(large=0.0, largest=torch.zeros(()), last=torch.zeros(()))
    TABLE.clear()
    OnItsClass.large = LARGE = 0.0


@pytest.mark.parametrize(
    "kind",
    [OnItsClass, InADictionary, TheLargest, InAGlobal, Unread, Table, ThePeak, ThePeakOfItsClass, CountsTall,
     InAFunction, Configured, InAnArray],
)  # fmt: skip
def test_calls_in_a_row_are_those_of_eager(kind: type[Layer]) -> None:
    as_before()
    model = kind().eval()
    captured = pipeline.capture(model, (torch.rand(3, 4),))
    assert NUMBERS[0] == BYTES[0] == 0 and type(NESTED["a"]["b"][1]["c"]) is float
    assert SEEN["large"] == 0.0 and not TABLE and OnItsClass.large == LARGE == 0.0
    calls = [torch.rand(rows, 4) * factor for rows, factor in ((3, 1), (3, 1), (3, 1000), (9, 1), (3, 1))]
    expected = [model(x) for x in calls]
    as_before()
    for x, wanted in zip(calls, expected, strict=True):
        assert torch.equal(captured(x), wanted)
    as_before()
    is_whole = any("the whole model runs as Python" in note for note in captured.state.capture_notes)
    assert is_whole is (kind not in (Unread, Table, Configured))


def test_strict_capture_says_so() -> None:
    as_before()
    with pytest.raises(FxquantError, match=r"type\(self\)\.large = type\(self\)\.large"):
        pipeline.capture(OnItsClass().eval(), (torch.rand(3, 4),), strict=True)
