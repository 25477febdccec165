"""How much of a model will be int8, and what holds the rest back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxquant import pipeline
from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.select import default_engine
from fxquant.capture.register_module import UNREGISTERED
from fxquant.check.float_regions import FloatRegion
from fxquant.check.run_model import call
from fxquant.errors import FxquantError
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ir.records import NodeRecord
from fxquant.ir.stages import CapturedModel
from fxquant.plan.request import PlanRequest
from fxquant.qconfig import get_default_qconfig_mapping


@dataclass(frozen=True)
class HeldBack:
    """What stays float, and why.

    Attributes:
        name: operator, or module path.
        reason: why, one clause.
        parameters: parameters that it alone uses.
        macs: multiply-accumulates on the example.
        count: operators of this name and reason.
    """

    name: str
    reason: str
    parameters: int
    macs: int
    count: int = 1


@dataclass(frozen=True)
class Coverage:
    """Shares under the default configuration.

    Attributes:
        parameters: of the model, int8_parameters: of those, the ones that int8 operators use.
        macs: multiply-accumulates of eager on the example, int8_macs: of those, the ones in int8 operators.
        held_back: what stays float, the largest first.
        note: why there are no numbers, "" when there are.
    """

    parameters: int = 0
    int8_parameters: int = 0
    macs: int = 0
    int8_macs: int = 0
    held_back: tuple[HeldBack, ...] = ()
    note: str = ""

    @property
    def parameter_share(self) -> float:
        """Share of the parameters that will be int8, 0..1; 0 for a model without any."""
        return self.int8_parameters / self.parameters if self.parameters else 0.0

    @property
    def mac_share(self) -> float:
        """Share of the multiply-accumulates that will be int8, 0..1; 0 when there are none."""
        return self.int8_macs / self.macs if self.macs else 0.0


def measure_coverage(
    captured: CapturedModel, model: nn.Module, inputs: Any, regions: Iterable[FloatRegion]
) -> Coverage:
    """Plan a captured model with the default configuration, and count.

    Args:
        captured: captured from ``model`` in eval mode; not changed.
        model: a copy of the user's model, called once.
        inputs: the example inputs.
        regions: parts kept in float.
    """
    macs_of = _eager_macs(model, inputs)
    engine = default_engine()
    request = PlanRequest(get_default_qconfig_mapping(engine), NativeBackend(engine))
    try:
        observed = pipeline.observe(captured, request)
    except FxquantError as error:
        return Coverage(note=f"the default configuration cannot be planned: {error.message}")
    plan, records = observed.plan, {record.name: record for record in observed.state.captured}
    sizes = {name: parameter.numel() for name, parameter in captured.named_parameters()}
    used = _users_of_parameters(plan, records, sizes)
    int8 = {name for name, units in used.items() if any(unit.outcome == "int8" for unit in units)}
    int8_macs = sum(unit.macs for unit in plan.units if unit.outcome == "int8")
    planned = sum(unit.macs for unit in plan.units)
    inside = {region.node: 0 if region.file else macs_of.get(region.module_path, 0) for region in regions}
    return Coverage(
        parameters=_unique_parameters(model, sizes),
        int8_parameters=sum(sizes[name] for name in int8),
        macs=max(macs_of.get("", 0), planned),
        int8_macs=int8_macs,
        held_back=_held_back(plan, records, used, int8, sizes, inside),
    )


def _eager_macs(model: nn.Module, inputs: Any) -> dict[str, int]:
    """Multiply-accumulates of each module, "" for the whole model."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a second to import

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops})
    with counter:
        call(model, inputs)
    counts = {name: sum(by_op.values()) // 2 for name, by_op in counter.get_flop_counts().items()}
    root = type(model).__name__
    found = {name.removeprefix(f"{root}."): count for name, count in counts.items() if name.startswith(f"{root}.")}
    return {**found, "": counts.get("Global", 0)}


def _recurrent_flops(
    inputs: Sequence[int], by_inputs: Sequence[int], by_state: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Of one layer of an LSTM, which runs as one operator: both weights, at every step of every row."""
    steps, rows = inputs[:2]
    return 2 * steps * rows * (math.prod(by_inputs) + math.prod(by_state))


def _unique_parameters(model: nn.Module, captured: Mapping[str, int]) -> int:
    """Those of the model, and those of modules that it keeps where it does not know of them."""
    lazy = torch.nn.parameter.UninitializedParameter
    unknown = (size for name, size in captured.items() if name.startswith(UNREGISTERED))
    return sum(item.numel() for item in model.parameters() if not isinstance(item, lazy)) + sum(unknown)


def _users_of_parameters(
    plan: QuantPlan, records: Mapping[str, NodeRecord], sizes: Mapping[str, int]
) -> dict[str, list[Unit]]:
    """The units that read each parameter, directly or through nodes that belong to no unit."""
    owner = {name: unit for unit in plan.units for name in unit.nodes}
    used: dict[str, list[Unit]] = {}
    for unit in plan.units:
        waiting, seen = [*unit.nodes], set[str]()
        while waiting:
            name = waiting.pop()
            record = records.get(name)
            if record is None or name in seen or owner.get(name, unit) is not unit:
                continue
            seen.add(name)
            waiting += record.inputs
            for parameter in _parameters_of(record, sizes):
                used.setdefault(parameter, []).append(unit)
    return used


def _parameters_of(record: NodeRecord, sizes: Mapping[str, int]) -> list[str]:
    target = str(record.target)
    if record.op == "get_attr":
        return [target] if target in sizes else []
    return [name for name in sizes if name.startswith(f"{target}.")] if record.op == "call_module" else []


def _held_back(
    plan: QuantPlan,
    records: Mapping[str, NodeRecord],
    used: Mapping[str, list[Unit]],
    int8: set[str],
    sizes: Mapping[str, int],
    inside: Mapping[str, int],
) -> tuple[HeldBack, ...]:
    rows: dict[tuple[str, str], HeldBack] = {}
    for unit in plan.units:
        if unit.outcome in ("int8", "free"):
            continue
        mine = sum(sizes[name] for name, units in used.items() if name not in int8 and units[0] is unit)
        macs = unit.macs or inside.get(unit.anchor, 0)
        record = records.get(unit.anchor)
        name = unit.op or (record.info.origin.spelling if record is not None else unit.anchor)
        reason = "kept whole: it cannot be captured" if unit.anchor in inside else unit.reason
        known = rows.get((name, reason), HeldBack(name, reason, 0, 0, 0))
        rows[name, reason] = HeldBack(name, reason, known.parameters + mine, known.macs + macs, known.count + 1)
    unused = sum(size for name, size in sizes.items() if name not in used)
    if unused:
        rows["", ""] = HeldBack("parameters", "not used on the example", unused, 0, 1)
    ordered = sorted(rows.values(), key=lambda row: (-row.macs, -row.parameters, -row.count))
    return tuple(ordered)
