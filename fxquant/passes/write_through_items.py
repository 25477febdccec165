"""Turn in-place operations on a part of a tensor into functions whose results are assigned to that part.

Before::

    %v = getitem(%x, (..., 0));  %m = iadd(%v, 1)                                # %x is changed through its view
    %v = getitem(%x, (..., 0));  %m = iadd(%v, 1);  setitem(%x, (..., 0), %m)    # x[..., 0] += 1 in Python

After::

    %v = getitem(%x, (..., 0));  %m = iadd(%v, 1);  setitem(%x, (..., 0), %m)    # %m changes nothing any more

``canonicalize_calls`` and ``replace_in_place`` make the rest of it functions. What is seen through a third view
afterwards stays as the user wrote it; ``mark_aliases`` finds it.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from fxquant.ir.meta import NodeInfo, by_storage, info, set_info, update_info, writers_in
from fxquant.ops import catalogue
from fxquant.passes.mark_aliases import FORMS

MADE_BY = "write_through_items"


def write_through_items(graph: fx.Graph) -> None:
    """Rewrite ``graph``, spelled as the user wrote it, in place."""
    if not writers_in(graph):
        return
    order = {node: position for position, node in enumerate(graph.nodes)}
    memory = _Memory(graph)
    for node in list(graph.nodes):
        view = _written_part(node)
        if view is None or _is_seen_elsewhere(node, view, order, memory):
            continue
        update_info(node, mutates=(), storage=0)
        for reader in [user for user in view.users if order[user] > order[node]]:
            reader.replace_input_with(view, node)
        whole, index = view.args
        written = _assignment(node, whole, index)
        if written is None:
            with graph.inserting_after(node):
                written = graph.call_function(operator.setitem, (whole, index, node))
            set_info(written, NodeInfo(origin=info(node).origin, origins=(written.name,), made_by=MADE_BY))
            order[written] = order[node]
        assert isinstance(whole, fx.Node)
        update_info(written, mutates=(whole.name,))
        memory.add(written)


class _Memory:
    """Which nodes have values in the same memory, and which change them."""

    def __init__(self, graph: fx.Graph) -> None:
        self._sharing = by_storage(graph)
        self._writers: dict[str, list[fx.Node]] = {}
        self._nodes = list(graph.nodes)
        for node in self._nodes:
            self.add(node)

    def add(self, writer: fx.Node) -> None:
        """Note what a node changes."""
        for name in info(writer).mutates:
            self._writers.setdefault(name, []).append(writer)

    def sharing(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose values lie where that of ``node`` lies; those of others that were gone by then among them."""
        return self._sharing.get(info(node).storage, [])

    def writers(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that change the value of ``node``."""
        return [other for other in self._writers.get(node.name, ()) if node.name in info(other).mutates]

    def between(self, first: int, last: int) -> list[fx.Node]:
        """The nodes between two places in the graph as it was."""
        return self._nodes[first + 1 : last]


def _written_part(node: fx.Node) -> fx.Node | None:
    """The part of another tensor that a known operator changes in place, and nothing else with it; else None."""
    if node.op not in ("call_function", "call_method") or not node.args:
        return None
    view, row = node.args[0], _row(node)
    if row is None or not isinstance(view, fx.Node) or view.name not in info(node).mutates:
        return None
    operands = {source.name for source in node.all_input_nodes if info(source).storage == info(view).storage}
    if not operands.issuperset(info(node).mutates):  # in x[0] *= x[1], both share the memory that changes
        return None
    if view.target is not operator.getitem or not isinstance(view.args[0], fx.Node) or not _looks_into(view.args[1]):
        return None
    made, before = info(node).tensor, info(view).tensor
    same_memory = info(view).storage == info(view.args[0]).storage != 0
    if made is None or before is None or not same_memory or not before.is_float:
        return None
    return view if (made.shape, made.dtype) == (before.shape, before.dtype) else None


def _row(node: fx.Node) -> Any:
    return catalogue.by_method(node.target) if isinstance(node.target, str) else catalogue.by_function(node.target)


def _looks_into(index: Any) -> bool:
    """Whether an index makes a view: positions and masks copy."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts)


def _is_seen_elsewhere(node: fx.Node, view: fx.Node, order: dict[fx.Node, int], memory: _Memory) -> bool:
    """Whether another view shows the change later, or something changes the part again before it is read."""
    place, last_read = order[node], max(order[user] for user in (*node.users, *view.users))
    if any(other is not node for other in memory.writers(view)):
        return True
    if any(other is not node and not _writes_back(other, view) for other in memory.writers(node)):
        return True
    if any(other.target in FORMS for other in memory.sharing(view)) or _is_written_behind(node, view, order, memory):
        return True
    between = memory.between(place, last_read)
    if any(_changes_memory_of(other, view) and not _writes_back(other, view) for other in between):
        return True
    for other in memory.sharing(view):
        if other.op == "get_attr":
            return True
        earlier = order[other] < place and other not in (view, view.args[0]) and info(other).storage
        if earlier and any(order[user] > place for user in other.users):
            return True
    return False


def _is_written_behind(node: fx.Node, view: fx.Node, order: dict[fx.Node, int], memory: _Memory) -> bool:
    """Whether something that looks into the part, such as ``view.detach()``, is written into later."""
    derived = {view, node}
    for other in memory.sharing(view):
        if other is not view and derived.intersection(other.all_input_nodes):
            derived.add(other)
    return any(
        order[writer] > order[node] and not _writes_back(writer, view)
        for looking in derived - {view, node}
        for writer in memory.writers(looking)
    )


def _changes_memory_of(other: fx.Node, view: fx.Node) -> bool:
    changes = info(other).mutates
    return any(info(source).storage == info(view).storage for source in other.all_input_nodes if source.name in changes)


def _writes_back(other: fx.Node, view: fx.Node) -> bool:
    return other.target is operator.setitem and other.args[:2] == view.args


def _assignment(node: fx.Node, whole: Any, index: Any) -> fx.Node | None:
    """The assignment that Python makes of ``x[index] += y``."""
    return next(
        (user for user in node.users if user.target is operator.setitem and user.args == (whole, index, node)), None
    )
