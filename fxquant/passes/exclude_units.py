"""Keep operators float that were calibrated as integers, at convert time.

Before: unit ``layer4_conv``: int8. After: float, reason "excluded by qconfig (set_module_name('layer4'))"; ranges
that integer neighbours need stay.
"""

from __future__ import annotations

from dataclasses import replace

from fxquant.errors import ConfigError
from fxquant.ir.quant_plan import STANDALONE, Edge, QuantPlan, Unit
from fxquant.ir.stages import ObservedModel
from fxquant.passes.insert_observers import remove_observers
from fxquant.plan.resolve_qconfig import Resolver
from fxquant.qconfig.mapping import QConfigMapping


def exclude_units(observed: ObservedModel, mapping: QConfigMapping) -> QuantPlan:
    """The plan with the units excluded that ``mapping`` sets to None.

    Raises:
        ConfigError: the mapping names a module that does not exist, or holds entries that are not None where the
            prepared model has none.
    """
    graph = remove_observers(observed)
    resolver = Resolver(mapping, observed.state.module_paths, observed.state.path)
    resolved = resolver.resolve_graph(graph)
    units = []
    for unit in observed.plan.units:
        entry = resolved.get(unit.anchor)
        if unit.kernel is not None and unit.kernel.convention == STANDALONE:
            pass  # what is in it is excluded there
        elif entry is not None and entry.qconfig is None and (unit.output or unit.mode) and unit.kernel:
            unit = _excluded(unit, entry.entry)
        elif entry is not None and entry.qconfig is not None and _was_excluded(unit, observed):
            raise ConfigError(
                f"{entry.entry} asks at convert for {unit.name}, which was prepared without a qconfig",
                remedy="at convert a qconfig_mapping can only exclude; set it at prepare",
            )
        units.append(unit)
    return replace(observed.plan, units=tuple(units))


def _was_excluded(unit: Unit, observed: ObservedModel) -> bool:
    """Whether the prepared model's own configuration, the one that ``mapping`` is a change of, excluded the unit."""
    same = observed.state.config_prefix == observed.state.path
    return same and unit.reason.startswith("excluded by qconfig")


def _excluded(unit: Unit, entry: str) -> Unit:
    edges = tuple(Edge(edge.operand, edge.source) for edge in unit.inputs)
    return replace(
        unit,
        outcome="float",
        inputs=edges,
        output="",
        kernel=None,
        mode="",
        reason=f"excluded by qconfig ({entry})",
        config=entry,
    )
