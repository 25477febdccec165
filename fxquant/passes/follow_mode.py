"""Let a graph that was captured in evaluation mode follow ``.train()`` and ``.eval()``.

Before (``training=False`` as captured)::

    %y = dropout(%x, 0.5, training=False)

After::

    %mode = call_module[int8_modes.y_training](False, True);  %y = dropout(%x, 0.5, training=%mode)
"""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from fxquant.capture.training_mode import ByMode, ModeArgument, TrainingOnly
from fxquant.ir.containers import MODES
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.records import NodeRef, unpack_constant, unpack_target
from fxquant.ops import catalogue

MADE_BY = "follow_mode"


class OfModule(nn.Module):
    """Has the mode of a module of the user's model.

    Args:
        module_path: of that module.
    """

    def __init__(self, module_path: str) -> None:
        super().__init__()
        self.module_path = module_path


class Chosen(OfModule):
    """One of two values, by the mode of a module."""

    def forward(self, in_evaluation: Any, in_training: Any) -> Any:
        """The value for the mode."""
        return in_training if self.training else in_evaluation


class OnlyInTraining(OfModule):
    """Calls something in training mode; in evaluation it does nothing and gives None."""

    def forward(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""
        return function(*args, **kwargs) if self.training else None


class Method:
    """A method of the first argument, by name.

    Args:
        name: of the method.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """``x.name(*args, **kwargs)``."""
        return operator.methodcaller(self.name, *args, **kwargs)(x)


class ModeFollower:
    """Rewrites one graph.

    Args:
        graph: changed.

    Attributes:
        modules: what the graph calls, by name in the container ``int8_modes``.
        aliases: nodes that stand for another one in evaluation, by name.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.nodes}
        self.modules: dict[str, nn.Module] = {}
        self.aliases: dict[str, str] = {}

    def follow(self, by_mode: ByMode) -> None:
        """Write operations that only training has, and choose arguments."""
        for item in by_mode:
            if isinstance(item, TrainingOnly):
                self._write(item)
        for item in by_mode:
            if isinstance(item, ModeArgument):
                self._choose(item)

    def _write(self, item: TrainingOnly) -> None:
        record, place = item.record, self.nodes[item.before]
        args, kwargs = self._unpacked(record.args), self._unpacked(record.kwargs)
        with self.graph.inserting_before(place):
            if record.op == "get_attr":
                made = self.graph.create_node("get_attr", record.target, name=record.name)
            else:
                name = f"only_{len(self.modules)}"
                called: Any = unpack_target(record.target)
                if record.op == "call_module":
                    called = self.graph.create_node("get_attr", record.target, name=f"{record.name}_module")
                elif record.op == "call_method":
                    called = Method(record.target)
                self.modules[name] = OnlyInTraining(record.info.origin.module_path)
                args = (self._callable(called, name), *args)
                made = self.graph.create_node("call_module", f"{MODES}.{name}", args, kwargs, record.name)
        written = tuple(node.name for node in made.all_input_nodes) if record.info.mutates else ()
        known = NodeInfo(value=record.info.value, origin=record.info.origin, made_by=MADE_BY, mutates=written)
        set_info(made, known)
        self.nodes[record.name] = made

    def _callable(self, called: Any, name: str) -> Any:
        """An argument of a node: functions are none, so they are kept as modules."""
        if isinstance(called, fx.Node):
            return called
        self.modules[f"{name}_function"] = Function(called)
        made = self.graph.create_node("get_attr", f"{MODES}.{name}_function")
        set_info(made, NodeInfo(made_by=MADE_BY))
        return made

    def _choose(self, item: ModeArgument) -> None:
        node, value = self.nodes[item.node], self._unpacked(item.value)
        if info(node).part_of and info(node).part_of[1] == "scaled_dot_product_attention":
            self._drop_weights(node, value)
            return
        given = _argument(node, item.operand)
        chosen = self._chosen(node, given, value)
        if isinstance(given, fx.Node):
            self.aliases[chosen.name] = given.name
        _set_argument(node, item.operand, chosen)

    def _chosen(self, node: fx.Node, in_evaluation: Any, in_training: Any) -> fx.Node:
        name = f"chosen_{len(self.modules)}"
        self.modules[name] = Chosen(_who_asks(node, in_evaluation, in_training))
        with self.graph.inserting_before(node):
            made = self.graph.create_node(
                "call_module", f"{MODES}.{name}", (in_evaluation, in_training), {}, f"{node.name}_{name}"
            )
        known = info(in_evaluation).value if isinstance(in_evaluation, fx.Node) else None
        set_info(made, NodeInfo(value=known, origin=info(node).origin, made_by=MADE_BY))
        return made

    def _drop_weights(self, product: fx.Node, probability: Any) -> None:
        """Dropout between the softmax and the second product of a divided attention."""
        weights = product.args[0]
        assert isinstance(weights, fx.Node)
        chosen = self._chosen(product, 0.0, probability)
        with self.graph.inserting_before(product):
            made = self.graph.create_node("call_function", F.dropout, (weights, chosen), {}, f"{product.name}_dropout")
        set_info(made, NodeInfo(value=info(weights).value, origin=info(product).origin, made_by=MADE_BY))
        self.aliases[made.name] = weights.name
        product.replace_input_with(weights, made)

    def _unpacked(self, value: Any) -> Any:
        if isinstance(value, NodeRef):
            return self.nodes[value.name]
        if isinstance(value, (tuple, list)):
            items = [self._unpacked(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, dict):
            return {key: self._unpacked(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self._unpacked(part) for part in (value.start, value.stop, value.step)))
        return unpack_constant(value)


class Function(nn.Module):
    """A function as a module, so that a graph can refer to it.

    Args:
        function: what it calls.
    """

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.function(*args, **kwargs)


def _who_asks(node: fx.Node, in_evaluation: Any, in_training: Any) -> str:
    """Path of the module that makes what it has in one mode only, or that gives one of two."""
    for value in (in_training, in_evaluation):
        of_mode = isinstance(value, fx.Node) and (value is in_evaluation or info(value).made_by == MADE_BY)
        if of_mode and isinstance(value, fx.Node):
            return info(value).origin.module_path
    return info(node).origin.module_path


def _argument(node: fx.Node, operand: str | int) -> Any:
    if isinstance(operand, int):
        return node.args[operand]
    if operand in node.kwargs:
        return node.kwargs[operand]
    return catalogue.arguments(node, catalogue.row_of(node))[operand]


def _set_argument(node: fx.Node, operand: str | int, value: Any) -> None:
    if isinstance(operand, int):
        node.update_arg(operand, value)
    elif operand in node.kwargs or catalogue.by_name(info(node).op) is None:
        node.update_kwarg(operand, value)
    else:
        catalogue.replace_arguments(node, {operand: value})
