"""What a node is computed from."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx


def with_ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes, and all that their values are computed from."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found
