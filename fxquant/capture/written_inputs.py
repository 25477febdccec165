"""Check that an input that forward writes into has no memory in common with another one, as it had not in the example.

Before::

    %m = add_(%k, 1);  %y = mul(%m, %v)

After::

    require_apart("k", %k, %v);  %m = add_(%k, 1);  %y = mul(%m, %v)

A graph has no writes into its inputs: where ``v`` is ``k``, it would not see the change.
"""

from __future__ import annotations

import operator

from torch import fx

from fxquant.ir.checks import require_apart
from fxquant.ir.meta import NodeInfo, info, set_info


def check_written_inputs(graph: fx.Graph) -> None:
    """Add the checks to ``graph``, traced on inputs that have no memory in common."""
    by_name = {node.name: node for node in graph.nodes}
    changed = [by_name[name] for node in graph.nodes for name in info(node).mutates if name in by_name]
    written = {info(node).storage for node in changed} - {0}
    given = _given(graph) if written else []
    for node in given:
        others = [other for other in given if info(other).storage != info(node).storage]
        if info(node).storage in written and others:
            with graph.inserting_after(given[-1]):
                check = graph.call_function(require_apart, (node.name, node, *others))
            origin = next(info(item).origin for item in changed if info(item).storage == info(node).storage)
            set_info(check, NodeInfo(origin=origin, origins=(check.name,)))


def _given(graph: fx.Graph) -> list[fx.Node]:
    """Tensors that the model is given, by themselves or in containers, in the order of the graph."""
    containers, found = set[fx.Node](), []
    for node in graph.nodes:
        taken = node.target in (operator.getitem, getattr) and node.args[0] in containers
        if node.op == "placeholder" or taken:
            if info(node).tensor is None:
                containers.add(node)
            elif info(node).storage:
                found.append(node)
    return found
