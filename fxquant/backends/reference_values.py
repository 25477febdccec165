"""Values of a reference graph while it is written: each in float, in integers, or both, converted when first read so.

Before: ``%relu`` is known in float. After someone reads its integers::

    %relu_quantize = quantize(%relu, s, z)      # made once, for all readers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxquant.ir.containers import RANGES
from fxquant.ir.edit import set_tensor
from fxquant.ir.float_part import EFFECTS, runs_user_code
from fxquant.ir.graph import Graph
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.qdq import dequantize, quantize
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.passes.compute_qparams import QParams

MADE_BY = "build_reference"


class ReferenceValues:
    """The graph that is written, and what is known of it.

    Args:
        plan: says which values have a range, by which they become integers.
        nodes: nodes of the captured graph by name.
        root: holds the tensors that the graph reads; range parameters are added to it.

    Attributes:
        floats: nodes that hold captured values in float, by their names; integers: in integers.
        aliases: captured values that are another one, by name.
    """

    def __init__(self, plan: QuantPlan, nodes: dict[str, fx.Node], root: nn.Module) -> None:
        self.plan, self.nodes, self.root = plan, nodes, root
        self.graph = Graph()
        self.floats: dict[str, fx.Node] = {}
        self.integers: dict[str, fx.Node] = {}
        self.aliases: dict[str, str] = {}
        self.attributes: dict[str, fx.Node] = {}
        self.class_of = {name: item.name for item in plan.classes for name in item.members}

    def _as_float(self, node: fx.Node) -> fx.Node:
        """The value in float; integers are dequantized once for all float readers, constants copied on demand."""
        name = self._resolve(node.name)
        if name in self.floats:
            return self.floats[name]
        if name in self.integers:
            self.floats[name] = self._dequantize(name, "")
        else:
            self.floats[name] = self._copy(self.nodes[name], self._as_float)
        return self.floats[name]

    def _as_stored(self, node: fx.Node) -> fx.Node:
        """The value in the form it has, for questions that integers can answer."""
        name = self._resolve(node.name)
        return self.integers[name] if name in self.integers and name not in self.floats else self._as_float(node)

    def _as_integer(self, node: fx.Node) -> fx.Node:
        """The value in integers, quantized once for all readers; a value without a range class stays as it is."""
        name = self._resolve(node.name)
        if name not in self.class_of:
            return self._as_float(node)
        if name not in self.integers:
            self.integers[name] = self._quantize(self._as_float(node), name, self.class_of[name], "")
        return self.integers[name]

    def _resolve(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _copy(self, node: fx.Node, change: Callable[[fx.Node], Any], unit: Unit | None = None) -> fx.Node:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args, kwargs = fx.node.map_arg(node.args, change), fx.node.map_arg(dict(node.kwargs), change)
        made = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        set_info(made, NodeInfo(**{**vars(info(node)), "unit": unit.name if unit else ""}))
        if node.op == "call_module" and runs_user_code(self.root.get_submodule(str(node.target))):
            made.meta[EFFECTS] = True
        return made

    def _attribute(self, path: str) -> fx.Node:
        if path not in self.attributes:
            self.attributes[path] = node = self.graph.get_attr(path)
            set_info(node, NodeInfo(made_by=MADE_BY))
        return self.attributes[path]

    def _register_range(self, name: str, qparams: QParams) -> None:
        set_tensor(self.root, f"{RANGES}.{name}.scale", qparams.scale)
        set_tensor(self.root, f"{RANGES}.{name}.zero_point", qparams.zero_point)

    def _qparams_nodes(self, range_class: str) -> tuple[fx.Node, fx.Node]:
        prefix = f"{RANGES}.{range_class}"
        return self._attribute(f"{prefix}.scale"), self._attribute(f"{prefix}.zero_point")

    def _quantize(self, node: fx.Node, value: str, range_class: str, unit: str) -> fx.Node:
        spec = self.plan.range_class(range_class).spec
        args = (node, *self._qparams_nodes(range_class), spec.quant_min, spec.quant_max, spec.dtype)
        made = self.graph.create_node("call_function", quantize, args, {}, f"{value}_quantize")
        origin = info(self.nodes[value])
        set_info(made, NodeInfo(origin=origin.origin, origins=origin.origins, unit=unit, holds=value, made_by=MADE_BY))
        return made

    def _dequantize(self, value: str, unit: str) -> fx.Node:
        args = (self.integers[value], *self._qparams_nodes(self.class_of[value]))
        made = self.graph.create_node("call_function", dequantize, args, {}, f"{value}_dequantize")
        origin = info(self.nodes[value])
        set_info(
            made,
            NodeInfo(value=origin.value, origin=origin.origin, origins=origin.origins, unit=unit, made_by=MADE_BY),
        )
        return made
