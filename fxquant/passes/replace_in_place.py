"""Redirect the readers of a tensor that was changed in place to the node that changed it.

Before::

    %a = conv(x);  %b = relu_(%a);  %c = add(%a, %b)       # %a was changed by relu_

After::

    %a = conv(x);  %b = relu(%a);   %c = add(%b, %b)

``canonicalize_calls`` has made the operation functional; ``mark_aliases`` has set apart those that cannot be.
"""

from __future__ import annotations

from torch import fx

from fxquant.ir.meta import ALIASED, info, update_info, writers_in


def replace_in_place(graph: fx.Graph) -> None:
    """Redirect readers, in place."""
    writers = writers_in(graph)
    if not writers:
        return
    order = {node: position for position, node in enumerate(graph.nodes)}
    by_name = {node.name: node for node in graph.nodes}
    changed_by: dict[fx.Node, fx.Node] = {}
    for node in writers:
        if info(node).op == ALIASED:
            continue
        for name in dict.fromkeys(info(node).mutates):
            target = by_name.get(name)
            if target is None:
                continue
            latest = target
            while latest in changed_by:  # what earlier changes were redirected to
                latest = changed_by[latest]
            changed_by[latest] = node
            for user in [user for user in latest.users if order[user] > order[node]]:
                user.replace_input_with(latest, node)
            if info(node).op:  # functional now: it changes nothing, and its value is the changed tensor
                made = info(node).value  # item assignment returns nothing, in-place views another shape
                update_info(node, mutates=(), value=info(target).value if made is None else made)
