"""Find the largest magnitude of each parameter, buffer and constant that a graph reads, as plans ask for it.

Before: ``%w = get_attr[conv.weight]`` with ``largest=0``, unknown: capture measures what is computed. After: measured.
"""

from __future__ import annotations

from torch import fx, nn

from fxquant.ir.edit import get_value
from fxquant.ir.meta import info, largest_magnitudes, update_info


def measure_attributes(graph: fx.Graph, root: nn.Module) -> None:
    """Measure the attributes of ``graph``, which are those of ``root``, in place."""
    nodes = [node for node in graph.find_nodes(op="get_attr") if not info(node).largest]
    found = largest_magnitudes([get_value(root, str(node.target)) for node in nodes])
    for node, largest in zip(nodes, found, strict=True):
        if largest:
            update_info(node, largest=largest)
