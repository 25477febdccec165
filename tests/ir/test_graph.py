"""Nodes of our graphs are those that ``fx.Graph`` makes, names and tables included."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from fxquant.ir.graph import Graph

FUNCTIONS: list[Any] = [F.linear, torch.add, operator.add, torch.sum, max, getattr, torch.ops.aten.add.Tensor, F.relu]
CALLS = st.one_of(
    st.tuples(st.just("call_function"), st.sampled_from(FUNCTIONS)),
    st.tuples(st.just("call_method"), st.sampled_from(["view", "sum", "__getitem__", "add_1", "add_", "class", "t"])),
    st.tuples(st.just("get_attr"), st.sampled_from(["layer.0.weight", "weight", "a.b_1"])),
)
NAMES = st.one_of(st.none(), st.sampled_from(["add", "add_1", "linear", "layers_0_linear_2", "max", "1st", "a.b"]))


@given(st.lists(st.tuples(CALLS, NAMES), max_size=30))
def test_names_are_those_of_fx(calls: list[tuple[tuple[str, Any], str | None]]) -> None:
    graphs = fx.Graph(), Graph()
    for graph in graphs:
        last = graph.placeholder("x")
        for (op, target), name in calls:
            args = () if op == "get_attr" else (last, (1, [last]))
            made = graph.create_node(op, target, args, {"other": last} if op == "call_function" else {}, name)
            last = made
        graph.output((last, last))
    expected, found = graphs
    assert list(map(str, found.nodes)) == list(map(str, expected.nodes))
    for node, same in zip(found.nodes, expected.nodes, strict=True):
        assert str((node.args, node.kwargs, list(node.users))) == str((same.args, same.kwargs, list(same.users)))
    for (op, target), _ in calls:
        names = [[str(node) for node in graph.find_nodes(op=op, target=target)] for graph in graphs]
        assert names[0] == names[1]
    assert len(found.nodes) == len(expected.nodes)
    found.lint()


def test_owned_graphs_tell_their_module_of_new_nodes() -> None:
    graph = Graph()
    graph.output(graph.placeholder("x"))
    module, told = fx.GraphModule(nn.Module(), graph), list[fx.Node]()
    module._register_create_node_hook(told.append)
    made = module.graph.create_node("call_function", torch.relu, (next(iter(module.graph.nodes)),))
    assert told == [made]
