"""Kernels with floats on both sides, run on exact inputs: what they get wrong is their own error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from fxquant.inspect.side import origins
from fxquant.ir.meta import ARRIVING, info
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import StageModule


class ExactKernels(fx.Interpreter):
    """Evaluates units with a mode, such as ``dynamic``, apart from the rest of a model.

    Args:
        model: a reference or a quantized model.

    Attributes:
        units: those with a mode, by the first of their captured nodes.
    """

    def __init__(self, model: StageModule) -> None:
        super().__init__(model, garbage_collect_values=False)
        self.units = {unit.nodes[0]: unit for unit in model.plan.units if unit.mode}
        self.nodes = {node.name: node for node in model.graph.nodes}
        self.captured = frozenset(record.name for record in model.state.captured)
        self.slices = {unit.name: tuple(self._slice(unit)) for unit in self.units.values() if unit.name in self.nodes}

    def result(self, unit: Unit, exact: Mapping[str, Any]) -> Any:
        """What a unit makes of exact inputs, None where they are not known.

        Args:
            unit: with a mode.
            exact: values of the float model by captured name.
        """
        self.env = {}
        for node, name in self.slices.get(unit.name, ()):
            if name and name not in exact:
                return None
            self.env[node] = exact[name] if name else self.run_node(node)
        return self.env.get(self.nodes[unit.name]) if self.env else None

    def _slice(self, unit: Unit) -> Iterator[tuple[fx.Node, str]]:
        """The nodes a unit consists of in execution order, and what it reads, with the captured name of that."""
        found: dict[fx.Node, str] = {}
        waiting = [self.nodes[unit.name]]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found[node] = "" if self._is_inside(node, unit) else self._captured_name(node)
                waiting += [] if found[node] else node.all_input_nodes
        return ((node, found[node]) for node in self.graph.nodes if node in found)

    def _is_inside(self, node: fx.Node, unit: Unit) -> bool:
        facts = info(node)
        with_others = facts.made_by == "lower_dynamic" and not facts.op
        return facts.unit == unit.name or with_others or facts.role == ARRIVING or node.op == "get_attr"

    def _captured_name(self, node: fx.Node) -> str:
        """Of the value that a node computes, or stores in another way."""
        return node.name if node.name in self.captured else info(node).holds or origins(node)[-1]
