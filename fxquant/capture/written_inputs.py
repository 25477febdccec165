"""Check that an input that forward writes into has no memory in common with another one, as it had not in the example.

Before::

    %m = add_(%k, 1);  %y = mul(%m, %v)

After::

    require_apart("k", %k, %v);  %m = add_(%k, 1);  %y = mul(%m, %v)

A graph has no writes into its inputs: where ``v`` is ``k``, it would not see the change.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxquant.ir.checks import require_apart
from fxquant.ir.meta import NodeInfo, info, set_info


def check_written_inputs(graph: fx.Graph, is_given: Callable[[fx.Node], bool]) -> None:
    """Add the checks.

    Args:
        graph: traced on inputs that have no memory in common.
        is_given: whether a node is a tensor that the model is given.
    """
    by_name = {node.name: node for node in graph.nodes}
    changed = [by_name[name] for node in graph.nodes for name in info(node).mutates if name in by_name]
    written = {info(node).storage for node in changed} - {0}
    given = [node for node in graph.nodes if written and info(node).storage and is_given(node)]
    for node in given:
        others = [other for other in given if info(other).storage != info(node).storage]
        if info(node).storage in written and others:
            with graph.inserting_after(given[-1]):
                check = graph.call_function(require_apart, (node.name, node, *others))
            origin = next(info(item).origin for item in changed if info(item).storage == info(node).storage)
            set_info(check, NodeInfo(origin=origin, origins=(check.name,)))
