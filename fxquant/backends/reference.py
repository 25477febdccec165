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
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.backends.reference_dynamic import DynamicUnits
from fxquant.backends.reference_modules import freeze_standalone, observed_for_unit, output_qparams
from fxquant.backends.reference_values import MADE_BY
from fxquant.capture.copy_module import copy_module
from fxquant.fusion.rule import WEIGHTED
from fxquant.ir.checks import take_integers
from fxquant.ir.containers import INPUT_STATISTICS, KERNELS, TRAINED, WEIGHT_OBSERVERS
from fxquant.ir.edit import evaluate_constant, holder_of, output_node, put_module, set_tensor
from fxquant.ir.meta import NodeInfo, changed_info, info, set_info
from fxquant.ir.qdq import dequantize
from fxquant.ir.quant_plan import CUSTOM, STANDALONE, QuantPlan, Unit
from fxquant.ir.stages import ObservedModel, ReferenceModel, with_state
from fxquant.numerics.affine import quantize as quantize_tensor
from fxquant.numerics.qparams import choose_qparams
from fxquant.ops import catalogue
from fxquant.ops.queries import asks_for_size
from fxquant.passes.call_batch_norms import call_batch_norms
from fxquant.passes.compute_qparams import QParams, compute_qparams, range_notes
from fxquant.passes.fold_weights import fold_weights
from fxquant.passes.insert_observers import remove_observers
from fxquant.passes.quantize_weights import QuantizedWeight, quantize_unit
from fxquant.passes.remove_dead_nodes import remove_dead_nodes
from fxquant.passes.trained_weights import TrainedWeight
from fxquant.plan.borders import output_elements
from fxquant.plan.leaf_modules import map_arguments


def build_reference(
    observed: ObservedModel,
    plan_of: Callable[[ObservedModel], QuantPlan],
    given: Mapping[str, QParams] | None = None,
) -> ReferenceModel:
    """Freeze an observed model. The observed model is not changed and can be frozen again.

    Args:
        observed: calibrated.
        plan_of: the plan to carry out, for the model and for each standalone module in it.
        given: parameters of quantized inputs by name, for a standalone module.

    Raises:
        CalibrationError: observers that saw no data.
        ConvertError: a weight observer that no kernel can follow.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Builder(observed, plan_of, given).build()


class _Builder(DynamicUnits):
    """Walks the captured graph once and writes the reference graph."""

    def __init__(
        self,
        observed: ObservedModel,
        plan_of: Callable[[ObservedModel], QuantPlan],
        given: Mapping[str, QParams] | None,
    ) -> None:
        self.observed, self.plan_of = observed, plan_of
        plan = plan_of(observed)
        self.source = remove_observers(observed)
        call_batch_norms(self.source, observed, {unit.anchor for unit in plan.units if unit.output})
        super().__init__(plan, {node.name: node for node in self.source.nodes}, _float_parts(observed))
        self.qparams = compute_qparams(observed, plan, given)
        self.key_origins: dict[str, tuple[str, ...]] = {}

    def build(self) -> ReferenceModel:
        """Write every node, then assemble the model."""
        for name, qparams in self.qparams.items():
            self._register_range(name, qparams)
        unit_at = {unit.name: unit for unit in self.plan.units}
        for node in self.source.nodes:
            if node.op == "placeholder":
                self._take_input(node)
            elif node.name in unit_at:
                self._emit(unit_at[node.name])
        output = output_node(self.source)
        made = self.graph.output(self._returned(output.args[0]))
        set_info(made, info(output))
        notes = range_notes(self.observed, self.plan)
        state = with_state(self.observed, plan=self.plan, key_origins=self.key_origins, range_notes=notes)
        remove_dead_nodes(self.graph)
        model = ReferenceModel(self.root, self.graph, "ReferenceModel", state=state)
        return model.eval() if self.observed.training else model  # what the user left in training mode stays in it

    def _take_input(self, node: fx.Node) -> None:
        made = self._copy(node, lambda argument: argument)
        if node.name not in self.plan.quantized_inputs:
            self.floats[node.name] = made
            return
        range_class, known = self.class_of[node.name], info(node)
        dtype = self.plan.range_class(range_class).spec.dtype
        args = (made, *self._qparams_nodes(range_class), dtype, str(node.target))
        taken = self.graph.create_node("call_function", take_integers, args, {}, f"{node.name}_taken")
        set_info(taken, NodeInfo(origin=known.origin, origins=known.origins, holds=node.name, made_by=MADE_BY))
        self.integers[node.name] = taken

    def _returned(self, returned: Any) -> Any:
        """The output in float, but for the elements that leave as integers."""
        elements = [
            fx.node.map_arg(element, self._as_integer if index in self.plan.quantized_outputs else self._as_float)
            for index, element in enumerate(output_elements(returned))
        ]
        if not isinstance(returned, (tuple, list)):
            return elements[0]
        return type(returned)(*elements) if hasattr(returned, "_fields") else type(returned)(elements)

    # -- units ------------------------------------------------------------------------------------

    def _emit(self, unit: Unit) -> None:
        if unit.kernel is not None and unit.kernel.convention == "identity":
            self.aliases[unit.name] = unit.inputs[0].source
        elif unit.kernel is not None and unit.kernel.convention == STANDALONE:
            self._emit_standalone(unit)
        elif unit.output:
            self._emit_integer(unit)
        elif unit.mode:
            self._emit_dynamic(unit)
        else:
            for name in unit.nodes:
                read = self._as_stored if asks_for_size(self.nodes[name]) else self._as_float
                self.floats[name] = self._copy(self.nodes[name], read, unit)

    def _emit_standalone(self, unit: Unit) -> None:
        """Freeze the module with the parameters of what it is passed; its result has those that it gives it."""
        node, path = self.nodes[unit.anchor], str(self.nodes[unit.anchor].target)
        child = freeze_standalone(unit, self.observed.get_submodule(path), self._freeze_part, self.qparams)
        put_module(self.root, path, child)
        for key, origins in child.state.key_origins.items():
            self.key_origins[f"{path}.{key}"] = tuple(f"{path}.{origin}" for origin in origins)
        parameters = tuple(str(item.target) for item in child.graph.find_nodes(op="placeholder"))
        taken = {edge.operand for edge in unit.inputs}

        def change(name: str, value: Any) -> Any:
            return fx.node.map_arg(value, self._as_integer if name in taken else self._as_float)

        args, kwargs = map_arguments(node, parameters, change)
        made = self.graph.create_node("call_module", path, args, kwargs, node.name)
        set_info(made, changed_info(info(node), unit=unit.name, holds=unit.name if unit.output else ""))
        if unit.output:
            self.qparams[unit.output] = output_qparams(child)
            self._register_range(unit.output, self.qparams[unit.output])
        (self.integers if unit.output else self.floats)[unit.name] = made

    def _freeze_part(self, child: ObservedModel, given: Mapping[str, QParams]) -> ReferenceModel:
        return build_reference(child, self.plan_of, given)

    def _emit_integer(self, unit: Unit) -> None:
        """dequantize the inputs, compute the members, quantize the result."""
        local: dict[str, fx.Node] = {}
        for edge in unit.inputs:
            source = self._resolve(edge.source)
            if source not in local:
                local[source] = self._unit_input(source, unit)
        replaced = self._weights(unit) if unit.op in WEIGHTED else self._constant_operands(unit)
        for name in unit.nodes:
            if name in (unit.role("batch_norm_before"), unit.role("batch_norm")):
                local[name] = self._local(self.nodes[name].all_input_nodes[0], local)
                continue
            node = self.nodes[name]
            made = self._copy(node, lambda argument: self._local(argument, local), unit)
            if name == unit.anchor and replaced:
                catalogue.replace_arguments(made, replaced)
            if unit.kernel is not None and unit.kernel.convention == CUSTOM:
                made.target = f"{KERNELS}.{unit.name}"
                put_module(self.root, made.target, observed_for_unit(self.observed, str(node.target), unit.output))
            local[name] = made
        result = local[unit.name]
        if isinstance(info(self.nodes[unit.name]).value, (tuple, list)):
            self.floats[unit.name] = result  # its elements are quantized one by one, as they are taken
        else:
            self.integers[unit.name] = self._quantize(result, unit.name, unit.output, unit.name)

    def _unit_input(self, source: str, unit: Unit) -> fx.Node:
        """Dequantize ``source`` for one unit alone."""
        if source not in self.integers and isinstance(info(self.nodes[source]).value, (tuple, list)):
            return self.floats[source]
        self._as_integer(self.nodes[source])
        return self._dequantize(source, unit.name)

    def _local(self, node: fx.Node, local: dict[str, fx.Node]) -> fx.Node:
        name = self._resolve(node.name)
        return local[name] if name in local else self._as_float(node)

    def _weights(self, unit: Unit) -> dict[str, Any]:
        """Buffers for the unit's weight and bias; returns the nodes that read them, by operand."""
        folded = fold_weights(unit, self.nodes, self.observed)
        trained = self.observed.get_submodule(f"{WEIGHT_OBSERVERS}.{unit.name}")
        if isinstance(trained, TrainedWeight):  # its bias was trained, and is not corrected
            scale = self.qparams[unit.inputs[0].range_class].scale
            return self._register_weight(unit, trained.frozen(unit, folded, scale))
        statistics = self.observed.get_submodule(f"{INPUT_STATISTICS}.{unit.name}")
        observer = copy.deepcopy(trained)
        scale = self.qparams[unit.inputs[0].range_class].scale
        frozen = quantize_unit(unit, folded, observer, scale, statistics)  # type: ignore[arg-type]
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
        if row is None or unit.kernel is None or not unit.kernel.integer_constants:
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


def _float_parts(observed: ObservedModel) -> nn.Module:
    """A copy of the user's modules, without what calibration added: the result shares no tensor with its source."""
    holder = holder_of(observed, observed.state.preserved)
    for name in TRAINED:
        holder._modules.pop(name, None)
    for unit in observed.plan.units:
        if unit.kernel is not None and unit.kernel.convention == STANDALONE:
            path = next(str(node.target) for node in observed.graph.nodes if node.name == unit.anchor)
            put_module(holder, path, nn.Module())  # frozen on its own
    return copy_module(holder)
