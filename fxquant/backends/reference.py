"""The reference model: the plan carried out with explicit quantize and dequantize on plain integers.

Before (observed)::

    %relu = relu(conv2d(%x, %w))

After::

    %x_dq = dequantize(%x_quantize, s_x, z_x);  %w_dq = dequantize(%conv.weight, s_w, 0, axis=0)
    %conv = conv2d(%x_dq, %w_dq, bias);  %relu = relu(%conv);  %relu_quantize = quantize(%relu, s_y, z_y)

It uses plain aten operations and shares no code with the kernels it judges. Every unit dequantizes its own inputs,
so a unit can be run alone on given integers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.fusion.rule import WEIGHTED
from fxquant.ir.containers import INPUT_STATISTICS, KERNELS, RANGE_OBSERVERS, RANGES, WEIGHT_OBSERVERS
from fxquant.ir.edit import evaluate_constant, holder_of, output_node, set_tensor
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.qdq import dequantize, quantize
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ir.stages import ObservedModel, ReferenceModel, with_state
from fxquant.numerics.affine import quantize as quantize_tensor
from fxquant.numerics.qparams import choose_qparams
from fxquant.ops import catalogue
from fxquant.passes.compute_qparams import QParams, compute_qparams, range_notes
from fxquant.passes.insert_observers import remove_observers
from fxquant.passes.quantize_weights import QuantizedWeight, fold_unit, groups_of, quantize_unit
from fxquant.passes.remove_dead_nodes import remove_dead_nodes

MADE_BY = "build_reference"


def build_reference(observed: ObservedModel, plan: QuantPlan) -> ReferenceModel:
    """Freeze an observed model. The observed model is not changed and can be frozen again.

    Raises:
        CalibrationError: observers that saw no data.
        ConvertError: a weight observer that no kernel can follow.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Builder(observed, plan).build()


class _Builder:
    """Walks the captured graph once and writes the reference graph."""

    def __init__(self, observed: ObservedModel, plan: QuantPlan) -> None:
        self.observed, self.plan = observed, plan
        self.source = remove_observers(observed)
        self.nodes = {node.name: node for node in self.source.nodes}
        self.qparams = compute_qparams(observed, plan)
        self.root = _float_parts(observed)
        self.graph = fx.Graph()
        self.floats: dict[str, fx.Node] = {}
        self.integers: dict[str, fx.Node] = {}
        self.aliases: dict[str, str] = {}
        self.attributes: dict[str, fx.Node] = {}
        self.class_of = {name: item.name for item in plan.classes for name in item.members}
        self.key_origins: dict[str, tuple[str, ...]] = {}

    def build(self) -> ReferenceModel:
        """Write every node, then assemble the model."""
        for name, qparams in self.qparams.items():
            set_tensor(self.root, f"{RANGES}.{name}.scale", qparams.scale)
            set_tensor(self.root, f"{RANGES}.{name}.zero_point", qparams.zero_point)
        unit_at = {unit.name: unit for unit in self.plan.units}
        for node in self.source.nodes:
            if node.op == "placeholder":
                self.floats[node.name] = self._copy(node, lambda argument: argument)
            elif node.name in unit_at:
                self._emit(unit_at[node.name])
        output = output_node(self.source)
        made = self.graph.output(fx.node.map_arg(output.args[0], self._as_float))
        set_info(made, info(output))
        notes = range_notes(self.observed, self.plan)
        state = with_state(self.observed, plan=self.plan, key_origins=self.key_origins, range_notes=notes)
        remove_dead_nodes(self.graph)
        model = ReferenceModel(self.root, self.graph, "ReferenceModel", state=state)
        return model.eval()

    # -- units ------------------------------------------------------------------------------------

    def _emit(self, unit: Unit) -> None:
        if unit.kernel is not None and unit.kernel.convention == "identity":
            self.aliases[unit.name] = unit.inputs[0].source
        elif unit.output:
            self._emit_integer(unit)
        else:
            for name in unit.nodes:
                self.floats[name] = self._copy(self.nodes[name], self._as_float, unit)

    def _emit_integer(self, unit: Unit) -> None:
        """dequantize the inputs, compute the members, quantize the result."""
        local: dict[str, fx.Node] = {}
        for edge in unit.inputs:
            source = self._resolve(edge.source)
            if source not in local:
                local[source] = self._unit_input(source, unit)
        replaced = self._weights(unit) if unit.op in WEIGHTED else self._constant_operands(unit)
        for name in unit.nodes:
            if name == unit.role("batch_norm"):
                local[name] = local[self.nodes[name].all_input_nodes[0].name]
                continue
            node = self.nodes[name]
            made = self._copy(node, lambda argument: self._local(argument, local), unit)
            if name == unit.anchor and replaced:
                catalogue.replace_arguments(made, replaced)
            local[name] = made
        result = local[unit.name]
        if isinstance(info(self.nodes[unit.name]).value, (tuple, list)):
            self.floats[unit.name] = result  # its elements are quantized one by one, as they are taken
        else:
            self.integers[unit.name] = self._quantize(result, unit.name, unit.output, unit.name)

    def _unit_input(self, source: str, unit: Unit) -> fx.Node:
        """Dequantize ``source`` for one unit alone."""
        if source not in self.integers:
            if isinstance(info(self.nodes[source]).value, (tuple, list)):
                return self.floats[source]
            self.integers[source] = self._quantize(self.floats[source], source, self.class_of[source], "")
        return self._dequantize(source, unit.name)

    def _local(self, node: fx.Node, local: dict[str, fx.Node]) -> fx.Node:
        name = self._resolve(node.name)
        return local[name] if name in local else self._as_float(node)

    def _weights(self, unit: Unit) -> dict[str, Any]:
        """Buffers for the unit's weight and bias; returns the nodes that read them, by operand."""
        folded = fold_unit(unit, self.nodes, self.observed)
        statistics = self.observed.get_submodule(f"{INPUT_STATISTICS}.{unit.name}")
        observer = copy.deepcopy(self.observed.get_submodule(f"{WEIGHT_OBSERVERS}.{unit.name}"))
        scale = self.qparams[unit.inputs[0].range_class].scale
        groups = groups_of(unit, self.nodes)
        frozen = quantize_unit(unit, folded, observer, scale, statistics, groups)  # type: ignore[arg-type]
        return self._register_weight(unit, frozen)

    def _register_weight(self, unit: Unit, frozen: QuantizedWeight) -> dict[str, Any]:
        tensors = {"weight": frozen.weight, "weight_scale": frozen.scale, "weight_zero_point": frozen.zero_point}
        if frozen.bias is not None:
            tensors["bias"] = frozen.bias.to(torch.float32)
        nodes = {}
        for key, tensor in tensors.items():
            set_tensor(self.root, f"{KERNELS}.{unit.name}.{key}", tensor)
            self.key_origins[f"{KERNELS}.{unit.name}.{key}"] = frozen.origins
            nodes[key] = self._attribute(f"{KERNELS}.{unit.name}.{key}")
        args = (nodes["weight"], nodes["weight_scale"], nodes["weight_zero_point"], frozen.axis)
        made = self.graph.create_node("call_function", dequantize, args, {}, f"{unit.name}_weight_dequantize")
        set_info(made, NodeInfo(unit=unit.name, made_by=MADE_BY))
        return {"weight": made, "bias": nodes.get("bias")}

    def _constant_operands(self, unit: Unit) -> dict[str, Any]:
        """Tensor constants among the activations (``x + self.offset``) become integers with a range of their own."""
        node = self.nodes[unit.anchor]
        row = catalogue.by_name(unit.op)
        if row is None or unit.kernel is None or unit.kernel.convention != "binary":
            return {}
        bound, sources = catalogue.arguments(node, row), {edge.source for edge in unit.inputs}
        replaced = {}
        for name in row.activations:
            value = bound[name]
            if not isinstance(value, fx.Node) or self._resolve(value.name) in sources:
                continue
            if info(value).is_float_tensor:
                replaced[name] = self._constant(unit, name, evaluate_constant(value, self.observed))
        return replaced

    def _constant(self, unit: Unit, operand: str, value: Tensor) -> fx.Node:
        low, high = value.min(), value.max()
        scale, zero_point = choose_qparams(low.reshape(1), high.reshape(1), 0, 255, symmetric=False)
        qparams = QParams(scale.reshape(()), zero_point.reshape(()))
        integers = quantize_tensor(value, qparams.scale, qparams.zero_point, 0, 255, torch.uint8)
        nodes = []
        for key, tensor in (("", integers), ("_scale", qparams.scale), ("_zero_point", qparams.zero_point)):
            set_tensor(self.root, f"{KERNELS}.{unit.name}.{operand}{key}", tensor)
            nodes.append(self._attribute(f"{KERNELS}.{unit.name}.{operand}{key}"))
        made = self.graph.create_node(
            "call_function", dequantize, tuple(nodes), {}, f"{unit.name}_{operand}_dequantize"
        )
        set_info(made, NodeInfo(unit=unit.name, made_by=MADE_BY))
        return made

    # -- values -----------------------------------------------------------------------------------

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
        return made

    def _attribute(self, path: str) -> fx.Node:
        if path not in self.attributes:
            self.attributes[path] = node = self.graph.get_attr(path)
            set_info(node, NodeInfo(made_by=MADE_BY))
        return self.attributes[path]

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
        set_info(made, NodeInfo(origin=origin.origin, origins=origin.origins, unit=unit, made_by=MADE_BY))
        return made


def _float_parts(observed: ObservedModel) -> nn.Module:
    """A copy of the user's modules, without what calibration added: the result shares no tensor with its source."""
    holder = holder_of(observed, observed.state.preserved)
    for name in (RANGE_OBSERVERS, INPUT_STATISTICS, WEIGHT_OBSERVERS):
        holder._modules.pop(name, None)
    return copy.deepcopy(holder)
