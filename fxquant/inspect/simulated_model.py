"""A reference model in which single units can be switched between int8 and float, without converting again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.fusion.rule import WEIGHTED
from fxquant.inspect.record_values import positional
from fxquant.ir.containers import KERNELS
from fxquant.ir.edit import evaluate_constant
from fxquant.ir.meta import ARRIVING, info
from fxquant.ir.qdq import dequantize, quantize
from fxquant.ir.stages import ObservedModel, ReferenceModel
from fxquant.ops import catalogue
from fxquant.ops.recurrent import RECURRENT
from fxquant.passes.fold_weights import fold_weights
from fxquant.passes.insert_observers import remove_observers


@dataclass
class _Held:
    """A value that the reference holds in integers: exact, and rounded when somebody reads it so.

    Attributes:
        exact: float, arguments: of the quantize node, evaluated; producer: unit that made it, "" at a border.
    """

    exact: Tensor
    arguments: tuple[Any, ...]
    producer: str
    kept: list[Tensor] = field(default_factory=list)

    def integers(self) -> Tensor:
        found: Tensor = quantize(self.exact, *self.arguments)
        return found

    def rounded(self) -> Tensor:
        if not self.kept:
            scale, zero_point = self.arguments[:2]
            self.kept.append(dequantize(self.integers(), scale, zero_point))
        return self.kept[0]


class SimulatedModel(nn.Module):
    """Computes what the reference model would if only some of its units were int8.

    Args:
        observed: calibrated, reference: what it was frozen to. Neither is changed.

    Attributes:
        active: names of the units that are int8; all at first.
        own_errors_only: whether active units read exact values from float ones, so that every error belongs to the
            unit that makes it. A real model rounds what a float operator passes to an int8 one.
    """

    def __init__(self, observed: ObservedModel, reference: ReferenceModel) -> None:
        super().__init__()
        self.reference = reference
        self.all_units = frozenset(unit.name for unit in reference.plan.units if unit.output or unit.mode)
        self.active: Collection[str] = self.all_units
        self.own_errors_only = False
        self.float_tensors = _float_tensors(observed, reference)
        self.by_mode = frozenset(unit.name for unit in reference.plan.units if unit.mode)
        self.float_modules = _float_modules(observed, reference)
        halves = (unit.name for unit in reference.plan.units if unit.mode == "float16" and unit.op in WEIGHTED)
        self.halves = frozenset(f"{KERNELS}.{name}.weight" for name in halves)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; arguments are those of the user's."""
        interpreter = _Simulation(self)
        with torch.no_grad():
            return interpreter.run(*positional(self.reference.graph, args, kwargs))


class _Simulation(fx.Interpreter):
    def __init__(self, model: SimulatedModel) -> None:
        super().__init__(model.reference)
        self.model = model
        self.arrived: dict[fx.Node, Any] = {}  # what was rounded, by the node of its integers and of its floats

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n``, with values held both ways."""
        unit = info(n).unit
        if info(n).role == ARRIVING:
            self._keep_arriving(n)
            return super().run_node(n)
        if unit in self.model.by_mode and unit not in self.model.active:
            return self._run_in_float(n, unit)
        if n.target is quantize:
            exact, *arguments = self.fetch_args_kwargs_from_env(n)[0]
            return exact if isinstance(exact, _Held) else _Held(exact, tuple(arguments), unit)
        if n.target is dequantize and isinstance(held := self._value(n.args[0]), _Held):
            return held.rounded() if self._reads_rounded(unit, held) else held.exact
        if n.target is dequantize and unit in self.model.float_tensors and unit not in self.model.active:
            found = self.model.float_tensors[unit].get(str(n.all_input_nodes[0].target))
            return super().run_node(n) if found is None else found
        if n.op == "get_attr":
            return self._attribute(str(n.target))
        return super().run_node(n)

    def _run_in_float(self, n: fx.Node, unit: str) -> Any:
        """A node of a unit with floats on both sides: on its float weights, and on inputs as they are."""
        if n.target is dequantize:
            return self.model.float_tensors[unit][str(n.all_input_nodes[0].target)]

        def value(argument: fx.Node) -> Any:
            return self.arrived[argument] if argument in self.arrived else _as_stored(self.env[argument])

        args, kwargs = fx.node.map_arg((n.args, n.kwargs), value)
        if unit in self.model.float_modules:
            return self.model.float_modules[unit](*args, **kwargs)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _keep_arriving(self, n: fx.Node) -> None:
        """Keep a value that is rounded as it arrives for units that read it in float."""
        if n.target is quantize:
            self.arrived[n] = _as_stored(self._value(n.args[0]))
        elif n.target is dequantize:
            self.arrived[n] = self.arrived.pop(n.all_input_nodes[0])

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Arguments; operators outside units get the integers that the reference would pass."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        if n.target is quantize:
            return args, kwargs
        return fx.node.map_aggregate(args, _as_stored), fx.node.map_aggregate(kwargs, _as_stored)

    def _value(self, argument: Any) -> Any:
        return self.env[argument] if isinstance(argument, fx.Node) else argument

    def _reads_rounded(self, reader: str, held: _Held) -> bool:
        if held.producer in self.model.active:
            return True
        return reader in self.model.active and not (self.model.own_errors_only and held.producer)

    def _attribute(self, target: str) -> Any:
        unit = target.removeprefix(f"{KERNELS}.").rpartition(".")[0]
        is_bias = target == f"{KERNELS}.{unit}.bias" and unit in self.model.float_tensors
        is_half = target in self.model.halves
        if (is_bias or is_half) and unit not in self.model.active:
            return self.model.float_tensors[unit][target]
        return self.fetch_attr(target)


def _float_modules(observed: ObservedModel, reference: ReferenceModel) -> dict[str, nn.Module]:
    """The user's recurrent modules, by the unit that stands for them."""
    anchors = {unit.anchor: unit.name for unit in reference.plan.units if unit.mode and unit.op in RECURRENT}
    calls = {anchors[node.name]: str(node.target) for node in observed.graph.nodes if node.name in anchors}
    return {name: observed.get_submodule(path) for name, path in calls.items()}


def _as_stored(value: Any) -> Any:
    return value.integers() if isinstance(value, _Held) else value


def _float_tensors(observed: ObservedModel, reference: ReferenceModel) -> Mapping[str, dict[str, Tensor | None]]:
    """Float weight and bias of every unit with weights, by the path of what replaces them."""
    graph = remove_observers(observed)
    nodes = {node.name: node for node in graph.nodes}
    found: dict[str, dict[str, Tensor | None]] = {}
    for unit in reference.plan.units:
        if unit.mode.startswith("weights"):
            table = catalogue.arguments(nodes[unit.anchor], catalogue.row_of(nodes[unit.anchor]))["weight"]
            found[unit.name] = {f"{KERNELS}.{unit.name}.weight": evaluate_constant(table, observed).to(torch.float32)}
        elif unit.op in WEIGHTED and (unit.output or unit.mode):
            folded = fold_weights(unit, nodes, observed)
            prefix = f"{KERNELS}.{unit.name}"
            bias = None if folded.bias is None else folded.bias.to(torch.float32)
            weight = folded.as_called(folded.rows).to(torch.float32)
            found[unit.name] = {f"{prefix}.weight": weight, f"{prefix}.bias": bias}
    return found
