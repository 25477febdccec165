"""What happened to each operator of a model, and why: read off the plan that every stage carries."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tabulate import tabulate

from fxquant.errors import FxquantError
from fxquant.fusion.fuse_units import RULES
from fxquant.inspect.quantized_borders import QuantizedBorders, quantized_borders
from fxquant.inspect.weight_limit import describe_weight_limit
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ir.records import NodeRecord
from fxquant.ir.stages import FusedModel, QuantizedModel, ReferenceModel, StageModule
from fxquant.ops import catalogue

OUTCOMES = ("int8", "step", "float", "folded", "free")
_SHOWN_REASON_WIDTH = 64


@dataclass(frozen=True)
class ExplanationRow:
    """One operator of the captured model.

    Attributes:
        node: name of the captured node.
        op: catalogue name, or how the user spelled an operator that the catalogue does not know.
        module_path: module whose forward called it, ``""`` for the root.
        source: ``file:line`` of the call.
        outcome: ``int8``, ``step`` (float between integer neighbours), ``float``, ``folded`` into another operator, or
            ``free`` (moves numbers, does nothing, has no floating-point result, or calls a standalone module, whose
            operators follow).
        kernel: what runs it, ``""`` for operators without an int8 kernel of their own.
        reason: why, ``""`` when there is nothing to say.
        unit: the planned unit it belongs to.
        macs: multiply-accumulates on the example inputs, 0 where the catalogue does not count them.
    """

    node: str
    op: str
    module_path: str
    source: str
    outcome: str
    kernel: str
    reason: str
    unit: str
    macs: int = 0


@dataclass(frozen=True)
class Explanation:
    """The rows in execution order, and what they sum to. ``str()`` is a table.

    Attributes:
        rows: one per operator.
        counts: operators by outcome, every outcome present.
        macs: multiply-accumulates by outcome, every outcome present.
        notes: one sentence each on the whole model.
        stage: stage of the model that was explained.
        backend: backend and engine the plan was made for, ``native/x86``.
    """

    rows: tuple[ExplanationRow, ...]
    counts: dict[str, int]
    macs: dict[str, int]
    notes: tuple[str, ...] = ()
    stage: str = ""
    backend: str = ""

    @property
    def int8_mac_share(self) -> float:
        """Share of the multiply-accumulates that run int8, 0..1; 0 when none are counted."""
        total = sum(self.macs.values())
        return self.macs["int8"] / total if total else 0.0

    def summary(self) -> str:
        """One line: operators by outcome, and the share of multiply-accumulates in int8."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        share = f"; {100 * self.int8_mac_share:.1f} % of multiply-accumulates int8" if any(self.macs.values()) else ""
        return f"{sum(self.counts.values())} operators: {counts}{share}"

    def __str__(self) -> str:
        headers = ("node", "op", "module", "source", "outcome", "kernel", "reason")
        body = [
            (row.node, row.op, row.module_path, os.path.basename(row.source), row.outcome, row.kernel, row.reason)
            for row in self.rows
        ]
        widths = [None] * (len(headers) - 1) + [_SHOWN_REASON_WIDTH]
        table = tabulate(body, headers, maxcolwidths=widths if body else None, disable_numparse=True)
        lines = [table, "", f"{self.stage} model for {self.backend}", self.summary()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def explain(model: Any) -> Explanation:
    """Say what happens to each operator of ``model``, and why.

    Args:
        model: from ``fuse_fx``, ``prepare_fx``, ``convert_to_reference_fx``, ``convert_fx`` or ``quantize``; also after
            it was pickled.

    Raises:
        FxquantError: ``model`` is none of these, so it carries no plan.
    """
    if not isinstance(model, StageModule):
        raise FxquantError(
            f"explain needs a model that fxquant planned, got {type(model).__name__}",
            remedy="pass what prepare_fx, convert_fx, fuse_fx or quantize returned",
        )
    plan = model.plan
    units = {name: unit for unit in plan.units for name in unit.nodes}
    describe = _member_reasons(model, plan)
    rows: list[ExplanationRow] = []
    for record in model.state.captured:
        if record.name in units:
            rows += [_row(record, units[record.name], model, describe), *_rows_inside(record, model)]
    counts, macs = dict.fromkeys(OUTCOMES, 0), dict.fromkeys(OUTCOMES, 0)
    for row in rows:
        counts[row.outcome] += 1
        macs[row.outcome] += row.macs
    backend = f"{plan.backend}/{plan.engine}" if plan.engine else plan.backend
    return Explanation(tuple(rows), counts, macs, _notes(model, plan), model.stage, backend)


def _rows_inside(record: NodeRecord, model: StageModule) -> list[ExplanationRow]:
    """The rows of a standalone module, after the row of its call."""
    part = _part(record, model)
    if part is None:
        return []
    path = str(record.target)
    return [
        replace(
            row,
            node=f"{path}.{row.node}",
            module_path=f"{path}.{row.module_path}".strip("."),
            unit=f"{path}.{row.unit}",
        )
        for row in explain(part).rows
    ]


def _part(record: NodeRecord, model: StageModule) -> StageModule | None:
    if record.op != "call_module":
        return None
    try:
        part = model.get_submodule(str(record.target))
    except AttributeError:  # folded away
        return None
    return part if isinstance(part, StageModule) else None


def _row(record: NodeRecord, unit: Unit, model: StageModule, describe: Callable[[str, Unit], str]) -> ExplanationRow:
    origin, is_anchor = record.info.origin, record.name == unit.anchor
    folded = not is_anchor and _is_folded(record, unit, model)
    beside = bool(unit.mode) and not is_anchor and not folded
    kernel = str(unit.kernel) if unit.kernel is not None and is_anchor else ""
    limit = describe_weight_limit(unit.kernel) if is_anchor else ""
    reason = describe(record.name, unit) if folded else f"in float beside {unit.anchor}" if beside else unit.reason
    reasons = [reason, limit, _refusal(record.name, model.plan)]
    return ExplanationRow(
        node=record.name,
        op=record.info.op or origin.spelling,
        module_path=origin.module_path,
        source=origin.source,
        outcome="folded" if folded else "float" if beside else unit.outcome,
        kernel=kernel,
        reason="; ".join(reason for reason in reasons if reason),
        unit=unit.name,
        macs=unit.macs if is_anchor else 0,
    )


def _is_folded(record: NodeRecord, unit: Unit, model: StageModule) -> bool:
    """Whether the anchor took the node over. Float units run as written; fusing folds batch norms only."""
    is_norm = record.name in (unit.role("batch_norm_before"), unit.role("batch_norm"))
    if isinstance(model, FusedModel):
        return is_norm
    return bool(unit.output) or (bool(unit.mode) and (is_norm or _clips_at_zero(record)))


def _clips_at_zero(record: NodeRecord) -> bool:
    """Whether a node is a relu, however it is written: kernels with float results do no other clip."""
    row = catalogue.by_name(record.info.op)
    return row is not None and row.clip is not None and row.clip(row.bind(record.args, record.kwargs)) == (0.0, None)


def _member_reasons(model: StageModule, plan: QuantPlan) -> Callable[[str, Unit], str]:
    """A function that says what became of a folded member of a unit."""
    kernels = {node.name for node in model.graph.nodes if info(node).unit}
    fired = {record.nodes: record.rule for record in plan.fusions if record.fired}

    def describe(node: str, unit: Unit) -> str:
        other = "expression" if unit.role("expression") else ""
        role = next((role for role, name in unit.roles if name == node), other)
        rule = next((rule for nodes, rule in fired.items() if node in nodes and _subject(rule, nodes) == node), "")
        text = {
            "batch_norm": f"batch norm folded into {unit.anchor}",
            "batch_norm_before": f"batch norm folded into {unit.anchor}",
            "pad": f"padding folded into {unit.anchor}",
            "add": f"addition computed by the kernel of {unit.anchor}",
            "expression": f"computed by the table of {unit.anchor}",
            "clip": _clip_reason(unit, model, f"{unit.name}_clip" in kernels),
        }.get(role, f"{role or 'part of the unit'} fused into {unit.anchor}")
        return f"{text} [{rule}]" if rule else text

    return describe


def _clip_reason(unit: Unit, model: StageModule, own_kernel: bool) -> str:
    if own_kernel:
        return f"clipped by a kernel after {unit.anchor}: its range is wider than the clip"
    if unit.mode:
        return f"absorbed by {unit.anchor}: its kernel clips at 0"
    if model.stage != "quantized":
        return f"absorbed by {unit.anchor}: costs nothing where the range lies inside the clip"
    calls = (node for node in model.graph.nodes if node.op == "call_module" and info(node).unit == unit.name)
    if any(getattr(model.get_submodule(str(node.target)), "relu", False) for node in calls):
        return f"absorbed by {unit.anchor}: its kernel clips at 0"
    return f"absorbed by {unit.anchor}: costs nothing, the range lies inside the clip"


def _refusal(node: str, plan: QuantPlan) -> str:
    refused = (item.reason for item in plan.fusions if not item.fired and _subject(item.rule, item.nodes) == node)
    return "; ".join(f"not fused: {reason}" for reason in dict.fromkeys(refused))


def _subject(rule: str, nodes: tuple[str, ...]) -> str:
    """The node that a rule would absorb: the first of the pair for rules that absorb the head, else the last."""
    absorbs_head = any(known.name == rule and known.absorbs == "head" for known in RULES)
    return nodes[0] if absorbs_head else nodes[-1]


def _notes(model: StageModule, plan: QuantPlan) -> tuple[str, ...]:
    notes = list(plan.notes)
    if isinstance(model, FusedModel):
        notes.append("fused in float: nothing is quantized yet")
    if model.state.float_dtype is not None:
        name = str(model.state.float_dtype).removeprefix("torch.")
        notes.append(f"the model is {name}: it takes and returns {name} and computes its float operators in float32")
    borders = quantized_borders(model) if isinstance(model, (ReferenceModel, QuantizedModel)) else QuantizedBorders()
    signature = {node.name: str(node.target) for node in model.graph.find_nodes(op="placeholder")}
    for name in (signature[node] for node in plan.quantized_inputs):
        known = borders.inputs.get(name)
        numbers = f": scale {known.scale:.6g}, zero point {known.zero_point}" if known is not None else ""
        notes.append(f"input {name} is uint8 in converted models{numbers}")
    notes += [f"output {index} is uint8 in converted models" for index in plan.quantized_outputs]
    for record in model.state.captured:
        part = _part(record, model)
        notes += [f"{record.target}: {note}" for note in part.plan.notes if note not in notes] if part else []
    if model.state.guards:
        notes.append(f"{len(model.state.guards)} facts of the example inputs are built into the graph (state.guards)")
    return tuple(notes)
