"""What else lies in memory that an operation changes in place."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from fxquant.ir.meta import ALIASED, NodeInfo, describe_value, info, set_info
from fxquant.passes.mark_aliases import mark_aliases

SAME_ADDRESS = 4096


@pytest.mark.parametrize(("reads_numbers", "marked"), [(False, set()), (True, {"relu_", "other", "changed"})])
def test_memory_that_is_used_again(reads_numbers: bool, marked: set[str]) -> None:
    """A tensor that is gone, and of which only the shape is asked for later, is no alias of what lies there now."""
    graph, value = fx.Graph(), describe_value(torch.ones(2, 3))
    x = graph.placeholder("x")
    other = graph.create_node("call_function", torch.add, (x, 1), name="other")
    changed = graph.create_node("call_function", torch.mul, (x, 2), name="changed")
    written = graph.call_method("relu_", (changed,))
    later = (
        graph.call_function(torch.neg, (other,)) if reads_numbers else graph.call_function(getattr, (other, "shape"))
    )
    graph.output((written, later))
    set_info(x, NodeInfo(value=value))
    for node in (other, changed):
        set_info(node, NodeInfo(value=value, storage=SAME_ADDRESS))
    set_info(written, NodeInfo(value=value, storage=SAME_ADDRESS, mutates=("changed",)))
    set_info(later, NodeInfo(value=value if reads_numbers else (2, 3)))
    mark_aliases(graph)
    assert {node.name for node in graph.nodes if info(node).op == ALIASED} == marked
