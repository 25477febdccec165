"""Units with floats on both sides in a reference graph: rounded weights, and inputs rounded as they arrive.

Before (observed)::

    %q = linear(%x, %wq);  %k = linear(%x, %wk)

After::

    %chosen = choose_qparams(%x, 0, 255);  %x_quantize = quantize(%x, %chosen[0], %chosen[1]);  %x_dq = dequantize(...)
    %q = linear(%x_dq, %wq_dq);  %k = linear(%x_dq, %wk_dq)          # one rounding for all readers
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx

from fxquant.backends.reference_recurrent import ReferenceRecurrent, ReferenceStatic
from fxquant.backends.reference_values import MADE_BY, ReferenceValues
from fxquant.fusion.rule import WEIGHTED
from fxquant.ir.containers import KERNELS, RECURRENT_OBSERVERS, WEIGHT_OBSERVERS
from fxquant.ir.edit import put_module, set_tensor
from fxquant.ir.meta import ARRIVING, NodeInfo, info, set_info
from fxquant.ir.qdq import choose_qparams, dequantize, quantize
from fxquant.ir.quant_plan import Unit
from fxquant.ir.recurrent import recurrence_of
from fxquant.ir.stages import ObservedModel
from fxquant.ops import catalogue
from fxquant.ops.recurrent import RECURRENT
from fxquant.passes.compute_qparams import observed_qparams
from fxquant.passes.fold_weights import FloatWeight, fold_weights
from fxquant.passes.quantize_recurrent import quantize_recurrent
from fxquant.passes.quantize_tables import quantize_table
from fxquant.passes.quantize_weights import QuantizedWeight, quantize_unit
from fxquant.passes.trained_tables import TrainedTable
from fxquant.passes.trained_weights import TrainedWeight


class DynamicUnits(ReferenceValues):
    """Writes the units that have a mode.

    Attributes:
        observed: the model that is frozen.
        key_origins: state_dict key to the user's keys.
        arriving: captured values rounded by their own range, by name.
    """

    observed: ObservedModel
    key_origins: dict[str, tuple[str, ...]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arriving: dict[str, fx.Node] = {}

    def _register_weight(self, unit: Unit, frozen: QuantizedWeight) -> dict[str, Any]:
        raise NotImplementedError

    def _emit_dynamic(self, unit: Unit) -> None:
        """Compute the members in float, on weights as they are stored and on inputs as they arrive."""
        if unit.op in RECURRENT:
            self._emit_recurrent(unit)
            return
        replaced = self._stored_weights(unit)
        local: dict[str, fx.Node] = {}

        def as_float(argument: fx.Node) -> fx.Node:
            name = self._resolve(argument.name)
            return local[name] if name in local else self._as_float(argument)

        for name in unit.nodes:
            node = self.nodes[name]
            if name in (unit.role("batch_norm_before"), unit.role("batch_norm")):
                local[name] = as_float(node.all_input_nodes[0])
                continue
            made = self._copy(node, as_float, unit)
            if name == unit.anchor:
                catalogue.replace_arguments(made, {**self._rounded_inputs(unit, made), **replaced})
            local[name] = made
        self.floats[unit.name] = local[unit.name]

    def _emit_recurrent(self, unit: Unit) -> None:
        """A module of its own computes the layer; it takes what the user's module takes."""
        node, path = self.nodes[unit.anchor], f"{KERNELS}.{unit.name}"
        module = self.observed.get_submodule(str(node.target))
        observer = self.observed.get_submodule(f"{WEIGHT_OBSERVERS}.{unit.name}")
        recurrence = recurrence_of(module)
        tensors = quantize_recurrent(unit, module, recurrence, observer)
        for name in tensors:
            self.key_origins[f"{path}.{name}"] = (f"{node.target}.{name.removesuffix('_scale')}",)
        if unit.mode == "static":
            ranges = self._recurrent_ranges(unit)
            self.key_origins.update({f"{path}.{name}": () for name in ranges})
            put_module(self.root, path, ReferenceStatic(recurrence, {**tensors, **ranges}))
        else:
            put_module(self.root, path, ReferenceRecurrent(recurrence, tensors))
        made = self._copy(node, self._as_float, unit)
        made.target = path
        self.floats[unit.name] = made

    def _recurrent_ranges(self, unit: Unit) -> dict[str, torch.Tensor]:
        """Parameters of all places in a recurrent layer, as buffers."""
        observers: Any = self.observed.get_submodule(f"{RECURRENT_OBSERVERS}.{unit.name}.places")
        found: dict[str, torch.Tensor] = {}
        for place, attached in observers.items():
            qparams = observed_qparams(f"{unit.name}.{place}", attached.observer)
            found[f"{place}_scale"], found[f"{place}_zero_point"] = qparams.scale, qparams.zero_point
        return found

    def _rounded_inputs(self, unit: Unit, made: fx.Node) -> dict[str, Any]:
        """The anchor's activations as they arrive, by operand; of modes that leave them in float, none."""
        if unit.mode != "dynamic" or unit.op not in WEIGHTED:
            return {}
        given = catalogue.arguments(made, catalogue.row_of(made))["input"]
        with self.graph.inserting_before(made):
            return {"input": self._as_arriving(given)}

    def _as_arriving(self, source: fx.Node) -> fx.Node:
        """A float of the reference graph rounded to integers of its own range and back, once for all readers."""
        if source.name not in self.arriving:
            chosen = self._arrival(choose_qparams, (source, 0, 255), source, "choose")
            scale = self._arrival(operator.getitem, (chosen, 0), source, "scale")
            zero_point = self._arrival(operator.getitem, (chosen, 1), source, "zero_point")
            args = (source, scale, zero_point, 0, 255, torch.uint8)
            integers = self._arrival(quantize, args, source, "quantize")
            rounded = self._arrival(dequantize, (integers, scale, zero_point), source, "dequantize")
            self.arriving[source.name] = rounded
        return self.arriving[source.name]

    def _arrival(self, target: Any, args: tuple[Any, ...], source: fx.Node, suffix: str) -> fx.Node:
        made = self.graph.create_node("call_function", target, args, {}, f"{source.name}_arriving_{suffix}")
        known = info(source)
        value = known.value if suffix == "dequantize" else None
        set_info(
            made,
            NodeInfo(value=value, origin=known.origin, origins=known.origins, made_by=MADE_BY, role=ARRIVING),
        )
        return made

    def _stored_weights(self, unit: Unit) -> dict[str, Any]:
        """Buffers for the unit's weights; returns the nodes that read them as floats, by operand."""
        if unit.mode == "float16":
            return self._register_half(unit, fold_weights(unit, self.nodes, self.observed))
        observer: Any = copy.deepcopy(self.observed.get_submodule(f"{WEIGHT_OBSERVERS}.{unit.name}"))
        if isinstance(observer, TrainedTable):
            observer = observer.fake.eval()
        if unit.mode.startswith("weights"):
            table = quantize_table(unit, self.nodes, self.observed, observer)
            return {"weight": self._register_weight(unit, table)["weight"]}
        folded = fold_weights(unit, self.nodes, self.observed)
        if isinstance(observer, TrainedWeight):
            return self._register_weight(unit, observer.frozen(unit, folded))
        return self._register_weight(unit, quantize_unit(unit, folded, observer))

    def _register_half(self, unit: Unit, folded: FloatWeight) -> dict[str, Any]:
        largest = torch.finfo(torch.float16).max
        half = folded.as_called(folded.rows).clamp(-largest, largest).to(torch.float16)
        weight = self._register(unit, "weight", half, folded.origins)
        made = self.graph.create_node("call_method", "float", (weight,), {}, f"{unit.name}_weight_float")
        set_info(made, NodeInfo(unit=unit.name, made_by=MADE_BY))
        bias = None if folded.bias is None else self._register(unit, "bias", folded.bias.float(), folded.origins)
        return {"weight": made, "bias": bias}

    def _register(self, unit: Unit, key: str, tensor: torch.Tensor, origins: tuple[str, ...]) -> fx.Node:
        path = f"{KERNELS}.{unit.name}.{key}"
        set_tensor(self.root, path, tensor)
        self.key_origins[path] = origins
        return self._attribute(path)
