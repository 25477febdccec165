"""Functions marked with ``torch.fx.wrap`` are captured from the inside, or whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace

from fxquant import pipeline
from fxquant.ir.stages import CapturedModel


def project(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[-1] != weight.shape[1]:
        raise ValueError("sizes differ")
    y = F.linear(x, weight)
    return y, y.relu()


def unchanged(x: Tensor, drop: bool) -> Tensor:
    return x * 2 if drop else x


def by_value(x: Tensor) -> Tensor:
    y = x + 1
    return y if float(y.sum()) > 0 else -y


def change_then_ask(x: Tensor) -> Tensor:
    x.add_(1)
    return x if float(x.sum()) > 0 else -x


def windowed(x: Tensor, weight: Tensor, size: int) -> Tensor:
    shift = [1]
    if size >= x.shape[0]:
        shift[0] = 0
    return F.linear(x.roll(shift[0], 0), weight)


for _name in ("windowed", "project", "unchanged", "by_value", "change_then_ask"):
    fx.wrap(_name)
fx.wrap("len")


class Calls(nn.Module):
    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Any:
        if self.which == "project":
            return project(x, self.weight)
        if self.which == "windowed":
            return windowed(x, self.weight, 3)
        if self.which == "unchanged":
            return unchanged(x, False).relu()
        if self.which == "by_value":
            return by_value(x) * 3
        if self.which == "len":
            return x * len(x)
        return change_then_ask(x * 1)


def captured(which: str) -> tuple[CapturedModel, Calls, set[str]]:
    model = Calls(which).eval()
    result = pipeline.capture(model, (torch.ones(2, 4),))
    names = {str(getattr(node.target, "__name__", node.target)) for node in result.graph.nodes if "call" in node.op}
    return result, model, names


def test_the_inside_is_captured() -> None:
    result, model, names = captured("project")
    assert {"linear", "relu"} <= names and "project" not in names
    x = torch.randn(5, 4)
    assert all(torch.equal(a, b) for a, b in zip(result(x), model(x), strict=True))


def test_a_function_that_returns_its_argument_leaves_no_node() -> None:
    assert captured("unchanged")[2] == {"relu"}


def test_a_function_that_asks_for_values_is_recorded_whole() -> None:
    result, model, names = captured("by_value")
    assert names == {"by_value", "mul"} and not result.state.guards
    for x in (torch.ones(2, 4), -3 * torch.ones(2, 4)):
        assert torch.equal(result(x), model(x))


def test_of_a_function_that_asks_for_sizes_only_the_question_runs_as_python() -> None:
    """torchvision's windowed attention is one, with a third of its network's products inside."""
    result, model, names = captured("windowed")
    assert "linear" in names and "windowed" not in names
    for count in (2, 3, 4, 7):
        x = torch.randn(count, 4)
        assert torch.equal(result(x), model(x))


def test_of_a_function_that_changed_its_argument_before_only_the_question_runs_as_python() -> None:
    result, model, names = captured("change_then_ask")
    assert "add" in names and len(result.state.capture_notes) == 1
    for x in (torch.ones(2, 4), -3 * torch.ones(2, 4)):
        assert torch.equal(result(x), model(x))


def test_builtins_stay_whole_and_marks_are_kept() -> None:
    marked, original = dict(_symbolic_trace._wrapped_fns_to_patch), project
    result, model, names = captured("len")
    assert "len" in names
    assert torch.equal(result(torch.ones(5, 4)), model(torch.ones(5, 4)))
    assert marked.keys() <= _symbolic_trace._wrapped_fns_to_patch.keys() and project is original
