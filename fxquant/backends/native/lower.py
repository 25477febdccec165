"""Lower a reference model to kernels on quantized tensors.

Before::

    %a_dq = dequantize(%a_quantize, ...);  %w_dq = dequantize(%w, ...);  %y = conv2d(%a_dq, %w_dq, %b)
    %y_quantize = quantize(%y, ...)

After::

    %y = call_module[conv1](%a)          # packed int8 weights, uint8 in, uint8 out
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxquant.backends.native.convention import Made, UnitView
from fxquant.backends.native.custom_module import make_custom
from fxquant.backends.native.engine import require_engine
from fxquant.backends.native.kernels.base import Quantize
from fxquant.backends.native.kernels.border import Take
from fxquant.backends.native.lower_dynamic import DynamicLowering
from fxquant.backends.native.make_kernel import make_kernel
from fxquant.ir.checks import take_integers
from fxquant.ir.containers import KERNELS
from fxquant.ir.edit import get_tensor, holder_of, output_node, put_module
from fxquant.ir.graph import Graph
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.qdq import dequantize, quantize
from fxquant.ir.quant_plan import CUSTOM, STANDALONE, Unit
from fxquant.ir.stages import QuantizedModel, ReferenceModel, with_state
from fxquant.ops import catalogue
from fxquant.ops.queries import asks_for_layout

MADE_BY = "lower_native"


def lower_native(
    reference: ReferenceModel, custom_classes: Mapping[type[nn.Module], type[nn.Module]]
) -> QuantizedModel:
    """Build the quantized model; the reference is not changed.

    Args:
        reference: the model to lower, its standalone modules with it.
        custom_classes: class of observed custom modules to the class that computes on integers.

    Raises:
        BackendError: the engine the plan asks for is not in this build of torch.
        ConfigError: a custom module has no class that computes on integers.
    """
    require_engine(reference.plan.engine)
    with torch.inference_mode(False), torch.no_grad():
        return _Lowering(reference, custom_classes).run()


class _Lowering:
    """Walks the reference graph once. Values map to nodes that hold floats or quantized tensors."""

    def __init__(self, reference: ReferenceModel, custom_classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
        self.reference, self.plan, self.custom_classes = reference, reference.plan, custom_classes
        self.root = holder_of(reference, reference.state.preserved)
        self.kernels = self.root._modules[KERNELS] = nn.Module()
        self.graph = Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.units = {unit.name: unit for unit in self.plan.units if unit.output and not _is_standalone(unit)}
        self.members: dict[str, list[fx.Node]] = {}
        for node in reference.graph.nodes:
            if info(node).unit in self.units:
                self.members.setdefault(info(node).unit, []).append(node)
        self.dynamic = DynamicLowering(reference, self.graph, self.kernels, self.made)

    def run(self) -> QuantizedModel:
        """Lower every node, then assemble the model."""
        ends = {nodes[-1]: self.units[name] for name, nodes in self.members.items()}
        for node in self.reference.graph.nodes:
            if node in ends:
                self._lower_unit(ends[node], node)
            elif info(node).unit in self.units or node.op == "output" or _is_parameter(node):
                continue
            elif not self.dynamic.takes(node):
                self._lower_border(node)
        output = output_node(self.reference.graph)
        made = self.graph.output(fx.node.map_arg(output.args[0], self._in_layout))
        set_info(made, info(output))
        for node in reversed(self.graph.nodes):
            if (node.op == "get_attr" or node.target == "dequantize") and not node.users:
                self.graph.erase_node(node)
        state = with_state(self.reference, key_origins=self.dynamic.key_origins)
        return QuantizedModel(self.root, self.graph, "QuantizedModel", state=state)

    def _lower_border(self, node: fx.Node) -> None:
        """Nodes outside integer units: conversions become torch's, the rest is copied."""
        if node.target in (quantize, take_integers):
            source, *parameters = node.all_input_nodes[:3]
            scale, zero_point = (get_tensor(self.reference, str(item.target)) for item in parameters)
            is_ours = node.target is quantize
            kernel = Quantize(scale, zero_point) if is_ours else Take(scale, zero_point, str(source.target))
            self.kernels.add_module(node.name, kernel)
            path = f"{KERNELS}.{node.name}"
            made = self.graph.create_node("call_module", path, (self.made[source],), {}, node.name)
        elif node.target is dequantize:
            source = node.all_input_nodes[0]
            made = self.graph.create_node("call_method", "dequantize", (self.made[source],), {}, node.name)
        else:
            if node.op == "call_module":
                self._lower_part(str(node.target))
            row = catalogue.by_name(info(node).op)
            depends_on_layout = row is None or row.contiguous or asks_for_layout(node)
            made = self.graph.node_copy(node, self._in_layout if depends_on_layout else lambda old: self.made[old])
        set_info(made, info(node))
        self.made[node] = made

    def _lower_part(self, path: str) -> None:
        """Lower the standalone module at a path, once; other modules stay as they are."""
        part = self.reference.get_submodule(path)
        if isinstance(part, ReferenceModel) and not isinstance(self.root.get_submodule(path), QuantizedModel):
            put_module(self.root, path, lower_native(part, self.custom_classes))

    def _in_layout(self, node: fx.Node) -> fx.Node:
        """The lowered value in the memory layout that eager has, for readers that may depend on it.

        Kernels write channels last; the catalogue's operators take any layout, user code (``view``) may not.
        """
        made, meta = self.made[node], info(node).tensor
        if meta is None or not meta.is_float or len(meta.shape) not in (4, 5) or not meta.is_contiguous:
            return made
        if info(node).holds or made.op in ("placeholder", "get_attr") or made.target == "contiguous":
            return made
        contiguous = self.graph.create_node("call_method", "contiguous", (made,), {}, f"{made.name}_contiguous")
        set_info(
            contiguous, NodeInfo(value=meta, origin=info(node).origin, origins=info(node).origins, made_by=MADE_BY)
        )
        return contiguous

    def _lower_unit(self, unit: Unit, end: fx.Node) -> None:
        """Replace the members of a unit by its kernel, and a clip after it where one is needed."""
        anchor = next(node for node in self.members[unit.name] if node.name == unit.anchor)
        view = UnitView(unit, anchor, self.members[unit.name], self.reference, self._input)
        is_custom = unit.kernel is not None and unit.kernel.convention == CUSTOM
        for made in make_custom(view, self.custom_classes) if is_custom else make_kernel(view):
            self.made[end] = self._add(made, unit, end)
            view.previous = self.made[end]

    def _input(self, node: Any) -> Any:
        """The quantized tensor behind a dequantized input of a unit; other arguments as lowered."""
        if not isinstance(node, fx.Node):
            return node
        if node.target is dequantize and node.all_input_nodes[0] in self.made:
            node = node.all_input_nodes[0]
        return self.made[node]

    def _add(self, made: Made, unit: Unit, end: fx.Node) -> fx.Node:
        name = f"{unit.name}{made.suffix}"
        args = made.args
        if made.module is not None:
            self.kernels.add_module(name, made.module)
            node = self.graph.create_node("call_module", f"{KERNELS}.{name}", args, dict(made.kwargs), name)
        else:
            kind = "call_method" if isinstance(made.target, str) else "call_function"
            node = self.graph.create_node(kind, made.target, args, dict(made.kwargs), name)
        origins = tuple(unit.nodes)
        source = info(end)
        set_info(
            node,
            NodeInfo(
                op=unit.op, value=source.value, origin=source.origin, origins=origins, unit=unit.name,
                holds=unit.name if source.holds else "", made_by=MADE_BY,
            ),
        )  # fmt: skip
        return node


def _is_parameter(node: fx.Node) -> bool:
    """Whether ``node`` is the scale or zero point of conversions and nothing else: kernels hold those themselves."""
    conversions = (quantize, dequantize, take_integers)
    return node.op == "get_attr" and all(user.target in conversions and user.args[0] is not node for user in node.users)


def _is_standalone(unit: Unit) -> bool:
    return unit.kernel is not None and unit.kernel.convention == STANDALONE
