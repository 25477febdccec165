"""Which values of a graph lie in the same memory, and which of them are read after one of them was changed."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import fx

from fxquant.ir.effects import name_of
from fxquant.ir.float_part import EFFECTS, HOLDS, PYTHON
from fxquant.ir.meta import by_storage, info

# Give their tensor itself or a copy, whichever its strides call for; those of one row are often fit for both.
_MAY_COPY = frozenset(("contiguous", "reshape", "reshape_as", "flatten", "ravel", "to", "sum_to_size"))


class Values:
    """Some values of a graph.

    Args:
        nodes: of the values.
        order: of all nodes.

    Attributes:
        members: the nodes.
        has_attributes: whether parameters or buffers are among them.
    """

    def __init__(self, nodes: Iterable[fx.Node], order: dict[fx.Node, int]) -> None:
        self.members = set(nodes)
        self.has_attributes = any(node.op == "get_attr" for node in self.members)
        self._order = order
        self._coming = sorted(self.members, key=order.__getitem__, reverse=True)
        self._read: list[tuple[int, fx.Node]] = []

    def read_after(self, node: fx.Node) -> list[fx.Node]:
        """Those that were made before a node and are read after it.

        Deep graphs use memory again and again: what is not read any more is not looked at again.

        Args:
            node: not before that of the last call.
        """
        order = self._order
        while self._coming and order[self._coming[-1]] < order[node]:
            made = self._coming.pop()
            self._read.append((max((order[user] for user in made.users), default=-1), made))
        self._read = [(last, made) for last, made in self._read if last > order[node]]
        return [made for _, made in self._read]


class SharedMemory:
    """The values of one graph by their memory.

    Args:
        graph: what is asked of it holds until ``has_changed``.

    Attributes:
        order: of its nodes.
        by_address: nodes with values in memory, in order; memory may have been used again.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: position for position, node in enumerate(graph.nodes)}
        self.by_address = by_storage(graph)
        self._runs_python = any(map(_runs_python, graph.nodes))
        self._at: dict[int, Values] = {}
        self._tied: dict[fx.Node, Values] = {}
        self._of_parts: dict[fx.Node, bool] = {}

    def has_changed(self) -> None:
        """Other nodes read some values now."""
        self._tied.clear()

    def at(self, address: int) -> Values:
        """The values at an address."""
        if address not in self._at:
            self._at[address] = Values(self.by_address.get(address, ()), self.order)
        return self._at[address]

    def tied_to(self, start: fx.Node, node: fx.Node) -> Values:
        """Values tied to another one by operations that return, or look into, the memory they were given.

        Parts of it may come through a tuple (``split``), which has no memory of its own. What is copied for some sizes
        only is tied to what it may be a copy of, and what the user's code gives to what it was given.

        Args:
            start: a value.
            node: what the user's code gives counts where this code runs before it.
        """
        if start not in self._tied:
            found = Values(self._same_memory(start, node), self.order)
            if self._runs_python:
                return found
            self._tied.update(dict.fromkeys((item for item in found.members if info(item).storage), found))
            self._tied[start] = found
        return self._tied[start]

    def is_of_part(self, node: fx.Node) -> bool:
        """Whether a value was given by the user's code, which may hold it too, or is a view of such a value."""
        storage, walked, found = info(node).storage, list[fx.Node](), None
        while found is None:
            first = node.args[0] if node.args else None
            if node in self._of_parts:
                found = self._of_parts[node]
            elif _may_hold(node) or not isinstance(first, fx.Node):
                found = _may_hold(node)
            elif info(first).storage != storage and not isinstance(info(first).value, (tuple, list)):
                found = _may_hold(first)
            if storage and info(node).storage == storage:  # tuples have none, and may hold what is in several
                walked.append(node)
            if isinstance(first, fx.Node):
                node = first
        self._of_parts.update(dict.fromkeys(walked, found))
        return found

    def _same_memory(self, start: fx.Node, node: fx.Node) -> set[fx.Node]:
        storage = info(start).storage
        waiting = [(start, storage)] if storage else []
        found = set(waiting)
        while waiting:
            value, storage = waiting.pop()
            reached = [(item, info(item).storage) for item in self._through_users_code(value, node)]
            for other in (*value.all_input_nodes, *value.users):
                own = info(other).storage
                if own == storage or isinstance(info(other).value, (tuple, list)):
                    reached.append((other, storage))
                elif own and (_may_copy(value, other) or _may_copy(other, value)):
                    reached.append((other, own))
            fresh = [item for item in reached if item not in found]
            found.update(fresh)
            waiting += fresh
        return {start, *(item for item, _ in found)}

    def _through_users_code(self, value: fx.Node, node: fx.Node) -> list[fx.Node]:
        """What a value may be the same as, or look into, by code of the user's that ran before a node.

        Args:
            value: given by that code, or given to it.
            node: after it.
        """
        if not self._runs_python:
            return []
        giving: Any = value
        while isinstance(giving, fx.Node) and giving.target is operator.getitem:
            giving = giving.args[0]
        ran = isinstance(giving, fx.Node) and self._ran(giving, node)
        found = list(giving.all_input_nodes) if ran and isinstance(giving, fx.Node) else []
        for call in value.users:
            if self._ran(call, node):
                found += [call, *(item for item in call.users if item.target is operator.getitem)]
        kind = info(value).tensor
        return [item for item in found if (own := info(item).tensor) is not None and kind and own.dtype == kind.dtype]

    def _ran(self, call: fx.Node, node: fx.Node) -> bool:
        return _runs_python(call) and self.order[call] < self.order[node]


def _may_copy(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node is another node's tensor or a copy of it, as sizes will have it."""
    return name_of(node.target) in _MAY_COPY and node.args[:1] == (source,)


def _is_users(node: fx.Node) -> bool:
    return node.op == "call_module" and EFFECTS in node.meta


def _runs_python(node: fx.Node) -> bool:
    """Whether a node runs code of the user's, be it code that only computes."""
    return PYTHON in node.meta or _is_users(node)


def _may_hold(node: fx.Node) -> bool:
    """Whether what a node gives may be a tensor that the code which it runs has for itself."""
    return _is_users(node) or node.meta.get(PYTHON) == HOLDS
