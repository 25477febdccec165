"""Lower the units of a reference model that have floats on both sides.

Before::

    %x_dq = dequantize(quantize(%x, *choose_qparams(%x)));  %q = linear(%x_dq, %wq_dq);  %k = linear(%x_dq, %wk_dq)

After: one kernel for all linears of the same input, which rounds it once; one kernel for any other unit::

    %q_together = call_module[q](%x);  %q = %q_together[0];  %k = %q_together[1]
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from fxquant.backends.native.convention import Made, UnitView
from fxquant.backends.native.conventions.table import CONVENTIONS
from fxquant.backends.native.kernels.dynamic import LinearDynamic, LinearsDynamic
from fxquant.ir.containers import KERNELS
from fxquant.ir.meta import ARRIVING, NodeInfo, info, set_info
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import ReferenceModel
from fxquant.ops import catalogue

MADE_BY = "lower_dynamic"
_TOGETHER = "linear_dynamic"


class DynamicLowering:
    """Writes the kernels of units with a mode into the lowered graph.

    Args:
        reference: the model that is lowered.
        graph: the lowered graph.
        kernels: holds the kernel modules.
        made: lowered nodes by node of the reference graph; added to.
    """

    def __init__(
        self, reference: ReferenceModel, graph: fx.Graph, kernels: nn.Module, made: dict[fx.Node, fx.Node]
    ) -> None:
        self.reference, self.graph, self.kernels, self.made = reference, graph, kernels, made
        self.units = {unit.name: unit for unit in reference.plan.units if unit.mode}
        self.members: dict[str, list[fx.Node]] = {name: [] for name in self.units}
        for node in reference.graph.nodes:
            if info(node).unit in self.units:
                self.members[info(node).unit].append(node)
        self.key_origins = dict(reference.state.key_origins)
        self.groups = self._find_groups()
        self.done: set[str] = set()

    def takes(self, node: fx.Node) -> bool:
        """Lower a node if it is this class's to lower; whether it was. Pads and clips beside a kernel are not."""
        if info(node).role == ARRIVING:  # kernels round their inputs themselves
            self.made[node] = self.made[node.all_input_nodes[0]]
            return True
        unit = self.units.get(info(node).unit)
        if unit is None:
            return False
        if node.name == unit.anchor:
            self._lower(unit)
            return True
        if node.name == unit.role("clip") and self._clips(unit):
            self.made[node] = self.made[self._anchor(unit)]
            return True
        return not info(node).origins  # weights, which kernels hold themselves

    def _anchor(self, unit: Unit) -> fx.Node:
        return next(node for node in self.members[unit.name] if node.name == unit.anchor)

    def _clips(self, unit: Unit) -> bool:
        """Whether the unit's kernel does its clip."""
        assert unit.kernel is not None
        clip = next((node for node in self.members[unit.name] if node.name == unit.role("clip")), None)
        if clip is None or not CONVENTIONS[unit.kernel.convention].clips_at_zero:
            return False
        row = catalogue.row_of(clip)
        return row.clip is not None and row.clip(catalogue.arguments(clip, row)) == (0.0, None)

    def _find_groups(self) -> dict[str, tuple[Unit, ...]]:
        """Linears of one input that can run as one, by the name of each."""
        alike: dict[tuple[Any, ...], list[Unit]] = {}
        for unit in self.units.values():
            if unit.kernel is not None and unit.kernel.convention == _TOGETHER:
                key = (self._anchor(unit).args[0], unit.kernel.engine)
                alike.setdefault(key, []).append(unit)
        return {unit.name: tuple(units) for units in alike.values() if len(units) > 1 for unit in units}

    def _lower(self, unit: Unit) -> None:
        if unit.name in self.done:
            return
        group = self.groups.get(unit.name)
        if group is None:
            made = self._kernel(unit)
            self.made[self._anchor(unit)] = self._add(unit, made, self._name(unit))
        else:
            self._lower_together(group)

    def _kernel(self, unit: Unit) -> Made:
        assert unit.kernel is not None
        view = UnitView(unit, self._anchor(unit), self.members[unit.name], self.reference, self._lowered)
        return CONVENTIONS[unit.kernel.convention].make(view, self._clips(unit))

    def _lowered(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self.made[node])

    def _lower_together(self, group: tuple[Unit, ...]) -> None:
        """One kernel, under the name of the first unit, and an element of its result for each."""
        made = [self._kernel(unit) for unit in group]
        kernel = LinearsDynamic([item.module for item in made if isinstance(item.module, LinearDynamic)])
        call = self._add(group[0], Made(made[0].args, module=kernel), f"{group[0].name}_together")
        set_info(call, NodeInfo(origin=info(call).origin, made_by=MADE_BY))
        for index, unit in enumerate(group):
            anchor = self._anchor(unit)
            element = self.graph.create_node("call_function", operator.getitem, (call, index), {}, self._name(unit))
            self._describe(element, unit)
            self.made[anchor] = element
            self.done.add(unit.name)
        self._merge_origins(group)

    def _merge_origins(self, group: tuple[Unit, ...]) -> None:
        for key in ("weight", "weight_scale", "weight_zero_point", "bias"):
            paths = [f"{KERNELS}.{unit.name}.{key}" for unit in group]
            origins = [name for path in paths for name in self.key_origins.pop(path, ())]
            if origins:
                self.key_origins[paths[0]] = tuple(dict.fromkeys(origins))

    def _add(self, unit: Unit, made: Made, name: str) -> fx.Node:
        path = f"{KERNELS}.{unit.name}"
        assert made.module is not None
        self.kernels.add_module(unit.name, made.module)
        node = self.graph.create_node("call_module", path, made.args, dict(made.kwargs), name)
        self._describe(node, unit)
        return node

    def _name(self, unit: Unit) -> str:
        """Name of the node that computes; a clip beside it keeps the name of the unit's value."""
        has_clip = unit.role("clip") is not None and not self._clips(unit)
        return unit.anchor if has_clip else unit.name

    def _describe(self, node: fx.Node, unit: Unit) -> None:
        source = info(self._anchor(unit))
        set_info(
            node,
            NodeInfo(
                op=unit.op, value=source.value, origin=source.origin, origins=tuple(unit.nodes), unit=unit.name,
                made_by=MADE_BY,
            ),
        )  # fmt: skip
