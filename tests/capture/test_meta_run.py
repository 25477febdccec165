"""Shapes for other sizes: what a graph computes again is not computed again, and is the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxquant import pipeline
from fxquant.capture.layer_recording import LayerRecording, RepeatedCall
from fxquant.capture.meta_run import META, MetaRun
from fxquant.ir.checks import require_same
from fxquant.ir.meta import update_info


class Counted(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def asking(build: Callable[[fx.Graph, fx.Node], fx.Node], answer: int) -> tuple[fx.Graph, fx.Node]:
    """A graph that asks for the last size of what ``build`` makes of its input."""
    graph = fx.Graph()
    made = build(graph, graph.placeholder("x"))
    size = graph.call_method("size", (made, -1))
    check = graph.call_function(require_same, (size, answer, "", ""))
    graph.output(made)
    return graph, check


def fails(graph: fx.Graph, check: fx.Node, *shape: int) -> bool | None:
    """Whether the check fails for an input of a shape; None where that cannot be computed."""
    with META:
        return MetaRun(nn.Module(), graph).answers([torch.empty(shape, device=META)], [check]).get(check)


def layers(graph: fx.Graph, x: fx.Node) -> fx.Node:
    for _ in range(50):
        y = graph.call_method("transpose", (graph.call_function(F.relu, (x,)), 0, 1))
        x = graph.call_function(torch.add, (graph.call_method("transpose", (y, 0, 1)), x))
    return x


def test_layers_are_computed_once() -> None:
    graph, check = asking(layers, 6)
    with Counted() as counted:
        assert fails(graph, check, 4, 6) is False
        assert fails(graph, check, 4, 7) is True
    assert 0 < counted.count < 20


def test_what_does_not_fit_has_no_answer() -> None:
    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        return graph.call_method("view", (graph.call_function(F.relu, (x,)), 2, 3))

    graph, check = asking(build, 3)
    assert fails(graph, check, 6) is False and fails(graph, check, 3, 2) is False
    assert fails(graph, check, 7) is None


@pytest.mark.parametrize("write", ["t_", "unsqueeze_"])
def test_what_is_written_into_may_get_another_shape(write: str) -> None:
    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        one, two = graph.call_method("clone", (x,)), graph.call_method("clone", (x,))
        changed = graph.call_method(write, (one, *([-1] if write == "unsqueeze_" else [])))
        update_info(changed, mutates=(one.name,))
        return two

    graph, check = asking(build, 5)
    assert fails(graph, check, 3, 5) is False


@pytest.mark.parametrize("constants", [(1, True), (1, 1.0), (0.0, -0.0), ((1, 2), (True, 2))])
def test_constants_that_are_equal_are_not_the_same(constants: tuple[Any, Any]) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    made = [graph.call_function(operator.mul, (graph.call_method("size", (x, 0)), item)) for item in constants]
    graph.output(made)
    run = MetaRun(nn.Module(), graph)
    values = run.answers([torch.empty(3, device=META)], made)
    assert [repr(values[node]) for node in made] == [repr(3 * item) for item in constants]


def test_modules_and_attributes_are_computed_too() -> None:
    root = nn.Module()
    root.table, root.norm, root.conv = nn.Parameter(torch.zeros(3, 2)), nn.BatchNorm1d(4), nn.Conv1d(4, 5, 3)
    graph = fx.Graph()
    x = graph.call_module("conv", (graph.call_module("norm", (graph.placeholder("x"),)),))
    y = graph.call_function(F.linear, (x, graph.get_attr("table")))
    size = graph.call_method("size", (y, -1))
    check = graph.call_function(require_same, (size, 3, "", ""))
    graph.output(y)
    with META:
        assert MetaRun(root, graph).answers([torch.empty(2, 4, 4, device=META)], [check]) == {check: False}
        assert MetaRun(root, graph).answers([torch.empty(2, 4, 5, device=META)], [check]) == {}


class Halves(nn.Module):
    """A layer that asks for the length that it is given, which the layer before it changed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if x.shape[1] % 2:
            x = F.pad(x, (0, 0, 0, 1))
        return x[:, ::2]


@pytest.mark.parametrize("length", [64, 33, 17, 80])
def test_deep_models_that_ask_in_each_layer_are_right_at_other_lengths(length: int) -> None:
    model = nn.Sequential(*(Halves() for _ in range(6))).eval()
    captured, x = pipeline.capture(model, (torch.randn(2, 64, 4),)), torch.randn(3, length, 4)
    assert torch.equal(captured(x), model(x))


class Widens(nn.Module):
    """A layer that makes its input longer, and asks for its length."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x))
        if x.shape[1] > 40:
            x = x[:, :5]
        return torch.cat([x, x[:, :1]], 1)


@pytest.mark.parametrize("length", [3, 10, 17, 35, 50])
def test_layers_that_are_given_other_sizes_are_computed_anew(length: int) -> None:
    model = nn.Sequential(*(Widens() for _ in range(16))).eval()
    captured = pipeline.capture(model, (torch.randn(2, 10, 4),))
    x = torch.randn(2, length, 4)
    assert torch.equal(captured(x), model(x))


def test_repeated_calls_are_computed_once_for_the_same_sizes() -> None:
    graph, calls = fx.Graph(), list[RepeatedCall]()
    x = graph.placeholder("x")
    known = cast("LayerRecording", object())
    for _ in range(50):
        given = x
        parts = [graph.call_function(F.relu, (x,)), graph.call_method("repeat", (x, 1, 1))]
        x = graph.call_function(torch.add, tuple(parts))
        calls.append(RepeatedCall(known, [given], [*parts, x]))
    check = graph.call_function(require_same, (graph.call_method("size", (x, -1)), 6, "", ""))
    graph.output(x)
    with META, Counted() as counted:
        answers = [
            MetaRun(nn.Module(), graph, calls).answers([torch.empty(shape, device=META)], [check])
            for shape in ((4, 6), (4, 7))
        ]
    assert answers == [{check: False}, {check: True}]
    assert counted.count < 20
