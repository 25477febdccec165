"""Give nodes names that can also name a child module.

Before: ``%to = x.to(...)``; a module called ``to`` cannot be registered. After: ``%to_1``.
Range classes, observers and kernels are all named after nodes.
"""

from __future__ import annotations

from torch import fx, nn

from fxquant.ir.meta import info, update_info

_TAKEN = frozenset((*dir(nn.ModuleDict), "training"))


def rename_nodes(graph: fx.Graph) -> None:
    """Rename, in place, nodes that are called like an attribute of ``nn.ModuleDict``. Signatures are not affected."""
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in _TAKEN and node.op != "output":
            old = node.name
            node._rename(f"{old}_1")
            renamed[old] = node.name
    for node in graph.nodes if renamed else ():
        known = info(node)
        if not renamed.keys().isdisjoint(known.origins + known.mutates):
            update_info(
                node,
                origins=tuple(renamed.get(name, name) for name in known.origins),
                mutates=tuple(renamed.get(name, name) for name in known.mutates),
            )
