"""Replace in-place operations by functional ones, where nothing else sees the change.

Before::

    %a = conv(x);  %b = relu_(%a);  %c = add(%a, %b)       # %a was changed by relu_

After::

    %a = conv(x);  %b = relu(%a);   %c = add(%b, %b)

A change made through a view (``x[:, 0].zero_()``), or seen through one, cannot be written as a redirection of uses.
Those nodes keep their in-place form and everything that shares their storage stays float.
"""

from __future__ import annotations

from torch import fx

from fxquant.ir.meta import ALIASED, info, update_info
from fxquant.ops import catalogue


def replace_in_place(graph: fx.Graph) -> None:
    """Functionalize ``graph`` in place."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    by_name = {node.name: node for node in graph.nodes}
    for node in list(graph.nodes):
        for name in info(node).mutates:
            target = by_name.get(name)
            if target is not None:
                _replace_one(node, target, order)


def _replace_one(node: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> None:
    later = [user for user in target.users if order[user] > order[node]]
    aliases = _aliases_seen_later(node, target, order)
    row = catalogue.by_name(info(node).op)
    if aliases or row is None or node.op == "call_module" or target.op == "get_attr":
        if row is None and not aliases:
            return  # an unknown in-place op on a value of its own: it runs in float as written
        for member in (node, target, *aliases):
            if member.op in ("call_function", "call_method"):
                update_info(member, op=ALIASED)
        return
    for user in later:
        user.replace_input_with(target, node)
    update_info(node, mutates=(), storage=0)


def _aliases_seen_later(node: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> list[fx.Node]:
    """Other nodes with the same storage that are read after ``node`` changed it."""
    storage = info(target).storage
    if not storage:
        return []
    return [
        other
        for other in order
        if other not in (node, target)
        and order[other] < order[node]
        and info(other).storage == storage
        and any(order[user] > order[node] for user in other.users)
    ]
