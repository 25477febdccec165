"""Models in float16 and bfloat16, in part or as a whole: what they return keeps its dtypes, whatever they convert."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.errors import CaptureError
from fxquant.numerics.sqnr import sqnr_db

Pair = namedtuple("Pair", "first second")


@dataclass
class Result:
    """What transformers return."""

    logits: Tensor
    hidden: Tensor
    count: int = 3


class Net(nn.Module):
    """Two linears with ``between`` between them and ``after`` behind."""

    def __init__(self, between: Callable[[Any], Any], after: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.between, self.after = between, after

    def forward(self, x: Tensor) -> Any:
        hidden = self.between(F.gelu(self.first(x)))
        return self.after(self.second(hidden), hidden)


BETWEEN: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda h: h,
    "softmax in float32": lambda h: torch.softmax(h.to(torch.float32), -1).to(torch.bfloat16),
    "softmax with a dtype": lambda h: torch.softmax(h, -1, dtype=torch.float32).type_as(h),
    "method": lambda h: h.float().bfloat16(),
    "constant": lambda h: h + torch.zeros(8, dtype=torch.bfloat16) + torch.ones(8).to(torch.bfloat16),
    "constant matrix": lambda h: h @ torch.eye(8, dtype=torch.bfloat16),
}
AFTER: dict[str, Callable[[Any, Any], Any]] = {
    "one": lambda y, h: y,
    "float32": lambda y, h: y.float(),
    "both": lambda y, h: (y.float(), h, {"again": y}),
    "dataclass": lambda y, h: Result(y, h.float()),
    "named tuple": lambda y, h: Pair(y, h),
    "ordered": lambda y, h: OrderedDict(a=y, b=[h, h.float()]),
    "indices": lambda y, h: (y, y.argmax(-1)),
    "two of one": lambda y, h: y.max(-1),
    "chunks": lambda y, h: [*h.chunk(2, -1), y.double()],
    "masked": lambda y, h: y.masked_fill(y < -1e3, torch.finfo(y.dtype).min),
}


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Result):
        return [value.logits, value.hidden]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in _tensors(item)]


def _stages(model: nn.Module, x: Tensor) -> list[nn.Module]:
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    return [observed, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)]


@pytest.mark.parametrize(
    ("between", "after"),
    [
        *((name, "one") for name in BETWEEN),
        *(("as it is", name) for name in AFTER if name not in ("one", "two of one")),
    ],
)
def test_every_stage_returns_what_the_model_returns(between: str, after: str) -> None:
    torch.manual_seed(0)
    model, x = Net(BETWEEN[between], AFTER[after]).bfloat16().eval(), torch.randn(16, 4, dtype=torch.bfloat16)
    expected = model(x)
    for stage in _stages(model, x):
        found = stage(x)
        assert type(found) is type(expected)
        for mine, theirs in zip(_tensors(found), _tensors(expected), strict=True):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            if theirs.is_floating_point():
                assert sqnr_db(theirs.detach().float(), mine.detach().float()) > 30


def test_a_named_result_of_torch_stays_one() -> None:
    """``max`` with a dimension; its values stay float32, which is what the graph computes in."""
    model, x = Net(BETWEEN["as it is"], AFTER["two of one"]).bfloat16().eval(), torch.randn(16, 4, dtype=torch.bfloat16)
    for stage in _stages(model, x):
        assert stage(x).values.shape == (16,)


def test_limits_are_those_of_the_model() -> None:
    """A mask made with float32's limit would be infinite in the model's dtype."""
    model = Net(BETWEEN["as it is"], lambda y, h: y.masked_fill(y < 100, torch.finfo(y.dtype).min)).half().eval()
    x = torch.randn(4, 4, dtype=torch.float16)
    for stage in _stages(model, x):
        assert torch.equal(stage(x), model(x))


def test_half_in_part() -> None:
    """One layer in half precision, given and followed by float32."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3).half(), nn.Linear(4 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.conv(x.half()).float().flatten(1))
            return result

    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(8, 3, 8, 8)
    for stage in _stages(model, x):
        assert stage(x).dtype == torch.float32
        assert sqnr_db(model(x).detach(), stage(x).detach()) > 30


class AsksForDtype(nn.Module):
    """Doubles what it computes in half precision, or widens it for a softmax."""

    def __init__(self, doubles: bool) -> None:
        super().__init__()
        self.linear, self.doubles = nn.Linear(8, 8), doubles

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if y.dtype == torch.float16:
            y = y * 2 if self.doubles else y.float()
        return torch.softmax(y, -1) if not self.doubles else y


def test_code_that_asks_for_dtypes() -> None:
    x = torch.randn(2, 8)
    model = AsksForDtype(False).half().eval()
    assert torch.allclose(model(x.half()).float(), pipeline.capture(model, (x.half(),))(x.half()), atol=1e-3)
    model = AsksForDtype(True).half().eval()
    with pytest.raises(CaptureError, match=r"asks for dtypes(.|\n)*y.dtype == torch.float16"):
        pipeline.capture(model, (x.half(),))
    report = fxquant.check_traceable(model, (x.half(),))
    assert "model.float()" in str(report) and not report.ok
    for fits in (model.float(), AsksForDtype(True).bfloat16().eval()):
        given = x.to(fits.linear.weight.dtype)
        assert torch.allclose(fits(given).float(), pipeline.capture(fits, (given,))(given).float(), atol=2e-2)
