"""What decides how many dimensions a tensor has: inputs, squeezed sizes, and parts that run as Python.

Code that asks ``x.dim()`` or goes through ``x.shape`` is traced for the answer of the example. Everything else in a
graph has as many dimensions as these make it, so the graph checks these, each once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.ir.effects import name_of
from fxquant.ir.float_part import FloatPart, runs_user_code
from fxquant.ir.meta import TensorMeta, info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


# Their results have as many dimensions as they are given sizes.
_SIZED = frozenset(("reshape", "view", "expand", "broadcast_to", "permute", "repeat"))


class Ranks:
    """The sources of one trace.

    Args:
        tracer: the trace.

    Attributes:
        inputs: tensors that the model is given.
        lists: lists of any length that it is given.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.inputs: set[fx.Node] = set()
        self.lists: set[fx.Node] = set()
        self._seen: set[fx.Node] = set()

    def asked_for(self, node: fx.Node) -> Iterator[tuple[ValueProxy, bool]]:
        """(number of dimensions, whether it is that of an input) of each source of a value that was not asked before.

        Args:
            node: a tensor, or its shape.
        """
        pending = [node]
        while pending:
            node = pending.pop()
            if node in self._seen:
                continue
            self._seen.add(node)
            if self.is_given(node) or self.decides(node):
                yield self._rank(node), self.is_given(node)
            else:
                pending += _operands_of(node)

    def operands_of(self, node: fx.Node) -> list[fx.Node]:
        """The operands that decide how many dimensions a node makes; none where it decides that by itself."""
        return [] if self.decides(node) else _operands_of(node)

    def has_unasked(self, node: fx.Node) -> bool:
        """Whether ``asked_for`` would give something; nothing is asked."""
        pending, walked = [node], set[fx.Node]()
        while pending:
            node = pending.pop()
            if node in self._seen or node in walked:
                continue
            if self.is_given(node) or self.decides(node):
                return True
            walked.add(node)
            pending += _operands_of(node)
        self._seen |= walked  # there is nothing behind them
        return False

    def settle(self, made: Iterable[fx.Node], given: Iterable[fx.Node]) -> None:
        """Note that there is nothing behind some nodes if there is nothing behind what they were made from.

        Args:
            made: none of them decides.
            given: all that they were made from but for parameters and buffers.
        """
        if self._seen.issuperset(given):
            self._seen.update(made)

    def is_given(self, node: fx.Node) -> bool:
        """Whether a value is a tensor that the model is given, by itself or in a list of any length."""
        item = node.target is operator.getitem and node.args[0] in self.lists
        return (node in self.inputs or item) and isinstance(info(node).value, TensorMeta)

    def may_have_another_dtype(self, node: fx.Node) -> bool:
        """Whether a value is a tensor that the model, or code of the user's that runs as Python, is free to choose."""
        if self.is_given(node):
            return True
        by_node = any(isinstance(info(source).value, torch.dtype) for source in node.all_input_nodes)
        return isinstance(info(node).value, TensorMeta) and (by_node or self._is_given_by_user(node))

    def decides(self, node: fx.Node) -> bool:
        """Whether an operation makes as many dimensions as the values or sizes that it is given decide."""
        if not isinstance(info(node).value, TensorMeta):
            return False
        return self._is_given_by_user(node) or name_of(_taken_from(node).target) == "squeeze"

    def _is_given_by_user(self, node: fx.Node) -> bool:
        node = _taken_from(node)
        if node.op != "call_module":
            return False
        module = self.tracer.root.get_submodule(str(node.target))
        return isinstance(module, FloatPart) or runs_user_code(module)

    def _rank(self, node: fx.Node) -> Any:
        """Record the question, which asks for no values."""
        without_data = torch.empty(info(node).value.shape, device="meta")
        tensor = ValueProxy(node, self.tracer, without_data, Depends.VALUES, Depends.SIZES)
        return self.tracer.create_proxy("call_function", getattr, (tensor, "ndim"), {})


def _operands_of(node: fx.Node) -> list[fx.Node]:
    """The operands that decide how many dimensions a node makes, where it does not decide that by itself."""
    if node.op not in ("call_function", "call_method") or name_of(node.target) not in _SIZED or node.kwargs:
        return node.all_input_nodes
    sizes = node.args[1:]
    if len(sizes) != 1:
        return [] if sizes else node.all_input_nodes
    (given,) = sizes
    value = info(given).value if isinstance(given, fx.Node) else given
    if isinstance(value, (tuple, list)):
        return [given] if isinstance(given, fx.Node) else []
    return [] if isinstance(value, int) else node.all_input_nodes


def _taken_from(node: fx.Node) -> fx.Node:
    """What gave a value, or the container that it was taken out of."""
    while node.target is operator.getitem:
        node = node.all_input_nodes[0]
    return node
