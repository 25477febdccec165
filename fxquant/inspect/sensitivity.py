"""What each layer's quantization does to the output, and which layers to leave float."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from tabulate import tabulate

from fxquant.fusion.rule import WEIGHTED
from fxquant.inspect.causes_first import causes_first
from fxquant.inspect.simulated_model import SimulatedModel
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ops import catalogue
from fxquant.ops.opdef import Identity, Moves, Selects
from fxquant.qconfig.mapping import QConfigMapping

# A recommendation has to be worth it: this much, and this much more for each share of the MACs that it makes float; in
# dB, and for a user's metric as a share of what quantization lost. Above the last level nothing needs repair: 8 bits
# that fit their values perfectly have 50 dB (6.02 x 8 + 1.76).
_WORTH_DB, _WORTH_DB_PER_MACS = 1.0, 15.0
# Where nothing is worth it by that rule: three quarters of the error, whatever share of the MACs they cost.
_ALWAYS_WORTH_DB = 6.0
# A model with more of its MACs in float is no longer quantized.
_MOST_MACS = 0.9995
_WORTH_SHARE, _WORTH_SHARE_PER_MACS = 0.1, 0.5
_GOOD_DB = 40.0
# The smallest set of layers is taken that gains this share of what any set gains.
_NEARLY_ALL = 0.8
_MOST_STEPS = 4
# A layer within this of one that reads it does about the same harm; for a user's metric, a share of what the worst one
# loses. A reader without weights makes no huge channels itself: it has them from there.
_ALIKE_DB, _CAUSED_DB, _HARMFUL_DB = 1.0, 8.0, 30.0
_ALIKE_SHARE, _CAUSED_SHARE = 0.05, 0.25
_TRIED_LAYERS = 4

Track = Callable[[Iterable[Unit], str, int], Iterable[Unit]]


@dataclass(frozen=True)
class SensitivityRow:
    """One layer.

    Attributes:
        node: name of its operator, as in ``explain``, op: catalogue name, module_path: module that called it.
        unit: name of the planned unit.
        alone: the metric with this layer quantized and all others exact.
        left_float: the metric with this layer float and all others quantized.
        gain: what leaving it float gains over quantizing everything.
        macs_share: its share of the model's multiply-accumulates, 0..1.
    """

    node: str
    module_path: str
    op: str
    unit: str
    alone: float
    left_float: float
    gain: float
    macs_share: float


@dataclass(frozen=True)
class Recommendation:
    """Layers to leave float together, after those of the recommendations before it.

    Attributes:
        nodes: names of operators, module_paths: of the modules that call them.
        units: names of units.
        before, after: the metric without and with it.
        macs_share: share of multiply-accumulates that become float, 0..1.
        in_db: whether the metric is in dB.
    """

    nodes: tuple[str, ...]
    module_paths: tuple[str, ...]
    units: tuple[str, ...]
    before: float
    after: float
    macs_share: float
    in_db: bool

    def __str__(self) -> str:
        shown = [f"`{path or node}`" for node, path in zip(self.nodes, self.module_paths, strict=True)]
        names = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
        gain = f"{self.after - self.before:.1f} dB" if self.in_db else f"{self.after - self.before:.4g}"
        return f"leaving {names} float gains {gain} for {100 * self.macs_share:.1f}% of MACs"


@dataclass(frozen=True)
class Sensitivity:
    """Layers by harm. ``str()`` is a table with the recommendations.

    Attributes:
        rows: the most harmful first: the lowest metric when quantized alone.
        float_metric: of the float model, ``inf`` in dB; quantized_metric: of the model as configured.
        recommendations: in the order in which to follow them.
        qconfig_mapping: the configuration that follows them all, ready for ``quantize`` or ``prepare_fx``.
        recommended_metric: of a model converted with it.
        in_db: whether the metric is the output's SQNR in dB; higher is better in any case.
    """

    rows: tuple[SensitivityRow, ...]
    float_metric: float
    quantized_metric: float
    recommendations: tuple[Recommendation, ...] = ()
    qconfig_mapping: QConfigMapping = field(default_factory=QConfigMapping, repr=False)
    recommended_metric: float = math.nan
    in_db: bool = True

    def __str__(self) -> str:
        title = " (dB)" if self.in_db else ""
        headers = ("node", "module", "op", f"alone{title}", f"left float{title}", "gain", "MACs")
        body = [
            (row.node, row.module_path, row.op, _number(row.alone), _number(row.left_float), f"{row.gain:+.4g}",
             f"{100 * row.macs_share:.1f} %")
            for row in self.rows
        ]  # fmt: skip
        align = ("left", "left", "left", *["right"] * 4)
        lines = [tabulate(body, headers, colalign=align if body else None, disable_numparse=True), ""]
        lines.append(f"all quantized: {_number(self.quantized_metric)}{title}, float: {_number(self.float_metric)}")
        lines += [str(item) for item in self.recommendations]
        if self.recommendations:
            lines.append(f"with all of these, converted: {_number(self.recommended_metric)}{title}")
        else:
            lines.append("no layer is worth leaving float")
        return "\n".join(lines)


class LayerSearch:
    """Measures layers one at a time, then searches for those to leave float.

    Args:
        model: the model, switchable.
        metric: judges it as it is switched; higher is better.
        float_metric: of the float model.
        in_db: whether the metric is in dB.
    """

    def __init__(
        self, model: SimulatedModel, metric: Callable[[SimulatedModel], float], float_metric: float, in_db: bool
    ) -> None:
        self.model, self.metric, self.float_metric, self.in_db = model, metric, float_metric, in_db
        self.plan: QuantPlan = model.reference.plan
        self.origins = {record.name: record.info.origin for record in model.reference.state.captured}
        self.units = {unit.name: unit for unit in self.plan.units}
        self.rounding = {unit.name for unit in self.plan.units if unit.mode or (unit.output and not _is_exact(unit))}
        self.total_macs = sum(unit.macs for unit in self.plan.units)
        self.quantized_metric = self._measure(model.all_units)

    def rows(self, track: Track) -> tuple[SensitivityRow, ...]:
        """One row per layer that rounds numbers, the most harmful first."""
        layers = [unit for unit in self.plan.units if unit.name in self.rounding]
        rows = [self._row(unit) for unit in track(layers, "layers", len(layers))]
        lost = abs(self.float_metric - min(row.alone for row in rows)) if rows and not self.in_db else 1.0
        alike, caused = (_ALIKE_DB, _CAUSED_DB) if self.in_db else (_ALIKE_SHARE * lost, _CAUSED_SHARE * lost)
        return causes_first(
            sorted(rows, key=lambda row: -row.gain),
            level=lambda row: row.alone,
            reads=lambda row, other: row.unit in self._readers(other.unit),
            width=lambda row: alike if row.op in WEIGHTED else caused,
            harmful_below=_HARMFUL_DB if self.in_db else self.float_metric - lost / 2,
        )

    def recommend(self, rows: tuple[SensitivityRow, ...]) -> tuple[Recommendation, ...]:
        """Layers to leave float, the best step first, until the next one is not worth it."""
        found: list[Recommendation] = []
        left: frozenset[str] = frozenset()
        while len(found) < _MOST_STEPS:
            before = found[-1].after if found else self.quantized_metric
            if self.in_db and before >= _GOOD_DB:
                break
            candidates = self._candidates([row for row in rows if row.unit not in left], left)
            tried = [(self._measure(self.model.all_units - left - set(item)) - before, item) for item in candidates]
            worthwhile = [(gain, item) for gain, item in tried if self._worth(gain, item) > 0]
            if not worthwhile and self.in_db:
                worthwhile = [(gain, item) for gain, item in tried if gain >= _ALWAYS_WORTH_DB]
            if not worthwhile:
                break
            most = max(gain for gain, _ in worthwhile)
            near = [pair for pair in worthwhile if pair[0] >= _NEARLY_ALL * most]
            gain, best = min(near, key=lambda pair: (len(pair[1]), -pair[0]))
            found.append(self._recommendation(best, before, before + gain))
            left |= set(best)
        return tuple(found)

    def _row(self, unit: Unit) -> SensitivityRow:
        alone = self._measure({unit.name}, own_errors_only=True)
        left_float = self._measure(self.model.all_units - {unit.name})
        gain = 0.0 if left_float == self.quantized_metric else left_float - self.quantized_metric
        path = self.origins[unit.anchor].module_path
        return SensitivityRow(unit.anchor, path, unit.op, unit.name, alone, left_float, gain, self._macs((unit.name,)))

    def _candidates(self, rows: list[SensitivityRow], left: Collection[str]) -> list[tuple[str, ...]]:
        """Sets of layers to try: single ones, those with the readers of their integers, and several of the latter.

        A layer whose output does not fit integers only gains when those that read it are float too; in a chain, when
        all of it is. None of the sets leaves nothing int8.
        """
        harmful, by_gain = rows[:_TRIED_LAYERS], sorted(rows, key=lambda row: -row.gain)[:_TRIED_LAYERS]
        found: dict[tuple[str, ...], None] = {}
        for row in (*harmful, *by_gain):
            found[(row.unit,)] = None
            found[self._with_readers([row], left)] = None
        for count in range(2, len(harmful) + 1):
            found[self._with_readers(harmful[:count], left)] = None
        return [units for units in found if self._is_int8_without({*left, *units})]

    def _is_int8_without(self, units: Collection[str]) -> bool:
        """Whether something worth the name still runs int8 when these units are float."""
        return bool(self.rounding.difference(units)) and self._macs(units) < _MOST_MACS

    def _with_readers(self, rows: list[SensitivityRow], left: Collection[str]) -> tuple[str, ...]:
        names = {name for row in rows for name in (row.unit, *self._readers(row.unit))} - set(left)
        return tuple(unit.name for unit in self.plan.units if unit.name in names)

    def _readers(self, name: str) -> tuple[str, ...]:
        """Units that read the integers of ``name``, also through units that pass them on as they are."""
        found: list[str] = []
        for unit in self.plan.units:
            if unit.output and any(
                edge.source in (name, *found) and self._passes_on(edge.source, name) for edge in unit.inputs
            ):
                found.append(unit.name)
        return tuple(found)

    def _passes_on(self, source: str, name: str) -> bool:
        return source == name or _is_exact(self.units[source])

    def _recommendation(self, units: tuple[str, ...], before: float, after: float) -> Recommendation:
        shown = [self.units[name] for name in units if not _is_exact(self.units[name])]
        anchors = tuple(unit.anchor for unit in shown)
        paths = tuple(self.origins[anchor].module_path for anchor in anchors)
        return Recommendation(anchors, paths, units, before, after, self._macs(units), self.in_db)

    def _worth(self, gain: float, units: Iterable[str]) -> float:
        """By how much a gain passes what it has to be, for what it costs."""
        macs = self._macs(units)
        if self.in_db:
            return gain - _WORTH_DB - _WORTH_DB_PER_MACS * macs
        lost = self.float_metric - self.quantized_metric
        return gain / lost - _WORTH_SHARE - _WORTH_SHARE_PER_MACS * macs if lost > 0 else -math.inf

    def _macs(self, units: Iterable[str]) -> float:
        return sum(self.units[name].macs for name in units) / self.total_macs if self.total_macs else 0.0

    def _measure(self, active: Collection[str], own_errors_only: bool = False) -> float:
        self.model.active, self.model.own_errors_only = frozenset(active), own_errors_only
        try:
            return float(self.metric(self.model))
        finally:
            self.model.active, self.model.own_errors_only = self.model.all_units, False


def _is_exact(unit: Unit) -> bool:
    """Whether a unit passes numbers on as they are."""
    row = catalogue.by_name(unit.op)
    return row is not None and isinstance(row.output, (Moves, Selects, Identity))


def _number(value: float) -> str:
    return f"{value:.4g}"
