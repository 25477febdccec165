"""What is wrong with malformed graphs is told; well-formed ones are taken."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from torch import fx, nn

from fxquant.errors import FxquantError
from fxquant.ir.check_graph import check_graph
from fxquant.ir.stages import CapturedModel
from fxquant.ir.verify import verify


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def small() -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_module("block.0", (x,))
    weight = graph.get_attr("block.0.weight")
    z = graph.call_function(operator.add, (y, weight))
    graph.output(graph.call_method("relu", (z,)))
    return fx.GraphModule(Small(), graph)


def named(model: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in model.graph.nodes if node.name == name)


def moved(model: fx.GraphModule) -> None:
    named(model, "add").append(named(model, "block_0"))


def renamed(model: fx.GraphModule) -> None:
    named(model, "add").name = "relu"


def another_graphs(model: fx.GraphModule) -> None:
    named(model, "add").args = (fx.Graph().placeholder("x"), 1)


def no_module(model: fx.GraphModule) -> None:
    named(model, "block_0").target = "block.7"


def attribute_called(model: fx.GraphModule) -> None:
    named(model, "block_0").target = "block.0.weight"


def no_attribute(model: fx.GraphModule) -> None:
    named(model, "block_0_weight").target = "block.0.gain.of"


def text_called(model: fx.GraphModule) -> None:
    named(model, "add").target = "add"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (moved, "block_0 is used by add and is not defined before it"),
        (renamed, "two nodes are called relu"),
        (another_graphs, "x is used by add and is not defined before it"),
        (no_module, "refers to block.7, which is no module"),
        (attribute_called, "refers to block.0.weight, which is no module"),
        (no_attribute, "refers to block.0.gain.of, which is no attribute"),
        (text_called, "the target 'add' of node add is of type str"),
    ],
)
def test_what_is_wrong_is_told(break_it: Callable[[fx.GraphModule], None], said: str) -> None:
    model = small()
    assert check_graph(model) == ""
    model.graph.lint()
    break_it(model)
    assert said in check_graph(model)
    with pytest.raises((RuntimeError, ValueError)):
        model.graph.lint()


def test_a_stage_that_is_malformed_is_a_bug_of_ours() -> None:
    model = small()
    stage = verify(CapturedModel(model, model.graph, "Small"))
    stage.graph.output(named(stage, "x"))
    named(stage, "block_0").target = "block.9"
    with pytest.raises(FxquantError, match=r"internal error in the captured graph: .*block\.9, which is no module"):
        verify(stage)
