"""Values that are others at every call: they depend on parameters and buffers which the graph changes."""

from __future__ import annotations

from torch import fx

from fxquant.ir.meta import info


def changing_nodes(graph: fx.Graph) -> frozenset[str]:
    """Names of the nodes that depend on what the graph changes, and on no input."""
    named = {name for node in graph.nodes for name in info(node).mutates}
    written = {info(node).storage for node in graph.nodes if node.name in named} - {0}
    found: set[fx.Node] = set()
    given: set[fx.Node] = set()
    for node in graph.nodes if written else ():
        sources = node.all_input_nodes
        if node.op == "placeholder" or not given.isdisjoint(sources):
            given.add(node)
        elif (node.op == "get_attr" and info(node).storage in written) or not found.isdisjoint(sources):
            found.add(node)
    return frozenset(node.name for node in found)
