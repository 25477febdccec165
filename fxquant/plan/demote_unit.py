"""Plan a unit again whose kernel turned out to be wrong: with the next kernel, at last in float.

Before: ``up: int8, quantized.conv_transpose2d [onednn]``. After: ``up: int8, quantized.conv2d [onednn]``, reason
"onednn's quantized.conv_transpose2d left the reference by 93 quanta on random data; runs on onednn's quantized.conv2d".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fxquant.ir.quant_plan import STANDALONE, Edge, KernelChoice, QuantPlan, Unit

_RUNS_ON = "; runs on "


@dataclass(frozen=True)
class Demotion:
    """A unit to plan again.

    Attributes:
        part: path of the standalone module it is in, "" for the model itself.
        unit: its name.
        why: what its kernel did, such as ``left the reference by 12 quanta on the example``.
    """

    part: str
    unit: str
    why: str


def demote_units(plan: QuantPlan, part: str, demotions: Iterable[Demotion]) -> QuantPlan:
    """The plan of a model, or of a standalone module in it, with its units demoted in the order given.

    Args:
        plan: the plan.
        part: path of the standalone module, "" for the model itself.
        demotions: those of all parts.
    """
    for demotion in demotions:
        if demotion.part == part:
            plan = demote_unit(plan, demotion.unit, demotion.why)
    return plan


def demote_unit(plan: QuantPlan, name: str, why: str) -> QuantPlan:
    """Give a unit its next kernel; without one it computes in float, and what reads it as integers quantizes it.

    Weights have to be quantized again afterwards: their limits are the kernel's.

    Args:
        plan: not changed.
        name: of a unit with an int8 kernel.
        why: what its kernel did.
    """
    unit = next(unit for unit in plan.units if unit.name == name)
    assert unit.kernel is not None, name
    before = unit.reason.rpartition(_RUNS_ON)[0] if _RUNS_ON in unit.reason else unit.reason
    said = f"{before + '; ' if before else ''}{describe_kernel(unit.kernel)} {why}"
    if unit.fallbacks:
        kernel, *others = unit.fallbacks
        reason = f"{said}{_RUNS_ON}{describe_kernel(kernel)}"
        return _replaced(plan, {name: replace(unit, kernel=kernel, fallbacks=tuple(others), reason=reason)})
    changed = {name: _in_float(unit, plan, said)}
    for other in plan.units:  # the elements of a tuple are integers only where the tuple is
        if other.kernel is not None and other.kernel.convention == "element" and other.inputs[0].source == name:
            changed[other.name] = _in_float(other, plan, f"{name} computes in float")
    return _replaced(plan, changed)


def describe_kernel(kernel: KernelChoice) -> str:
    """``onednn's quantized.conv2d``."""
    return f"{kernel.engine}'s {kernel.function}" if kernel.engine else kernel.function


def _in_float(unit: Unit, plan: QuantPlan, reason: str) -> Unit:
    integers = {*plan.quantized_inputs, *(other.name for other in plan.units if other.output)}
    fed = all(edge.source in integers for edge in unit.inputs)
    stored = fed and any(_reads_integers(other, unit.name) for other in plan.units)
    return replace(
        unit,
        outcome="step" if stored else "float",
        inputs=tuple(Edge(edge.operand, edge.source) for edge in unit.inputs),
        output="",
        mode="",
        kernel=None,
        fallbacks=(),
        reason=f"{reason}; computed in float" + (", stored int8" if stored else ""),
    )


def _reads_integers(unit: Unit, name: str) -> bool:
    computes = bool(unit.output) or (unit.kernel is not None and unit.kernel.convention == STANDALONE)
    return computes and any(edge.source == name and edge.range_class for edge in unit.inputs)


def _replaced(plan: QuantPlan, changed: dict[str, Unit]) -> QuantPlan:
    return replace(plan, units=tuple(changed.get(unit.name, unit) for unit in plan.units))
