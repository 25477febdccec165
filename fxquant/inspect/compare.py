"""Where the error comes from: a quantized model against the float one, value by value, summed over batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxquant.capture.recurrent_root import with_recurrent_child
from fxquant.errors import FxquantError
from fxquant.fusion.rule import WEIGHTED
from fxquant.inspect.causes_first import causes_first
from fxquant.inspect.error_sums import ErrorSums, Grid, ratio_db
from fxquant.inspect.float_run import FloatRun
from fxquant.inspect.quantized_values import RunValue, main_tensor, matched_nodes, run_values
from fxquant.inspect.record_values import Arguments, positional
from fxquant.ir.edit import output_node
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import QuantizedModel, ReferenceModel, StageModule
from fxquant.ops import catalogue
from fxquant.ops.opdef import Identity, Moves, Selects

# Sound layers have 0 to 5 dB between the level of all values and that of the median channel, rarely more.
_FAR_LOWER_DB = 8.0
# A row within this of one that reads it is about as bad, and first. A reader without weights makes no huge channels
# itself: it has them from there.
_ALIKE_DB, _CAUSED_DB, _HARMFUL_DB = 1.0, 8.0, 25.0


@dataclass(frozen=True)
class ComparisonRow:
    """One value of the model. Levels are in dB; ``inf`` means no error.

    Attributes:
        node: name of the captured operator, as in ``explain``.
        module_path: module that called it, source: ``file:line``.
        value: name of what is compared: the operator's result, or what fused operators after it make of that.
        op: catalogue name, ``quantize`` where a float becomes integers.
        outcome: ``int8``, ``step``, ``float``, ``free`` or ``border``.
        local_sqnr_db: what this operator's own quantization costs, given exact inputs: weights and output. Where a few
            huge channels hold the signal, it is the median channel's: that of all values hides that the others are
            lost. Of layers with weights it is measured on the first half of each batch.
        weight_sqnr_db, activation_sqnr_db: the same, of its weights alone and of its output's rounding alone. NaN for
            kernels that quantize their input when it arrives, which round both in one step.
        cumulative_sqnr_db: as the model runs, with everything before it quantized.
        channel_sqnr_db: local, of the median channel, tensor_sqnr_db: local, of all values alike. The former is far
            below the latter when few channels hold the signal.
        cosine: of the angle between the exact values and those of the run.
        saturated_low, saturated_high: share of exact values clipped at either end, 0..1.
        dead_range: share of the levels that the central 99.9 % of the values leave unused; a few outliers hold them.
        reads: the values it is computed from, through operators that only move numbers.
        grid: scale, zero point and levels, None for floats.
        levels: [512] sampled counts of exact values by level, from -128 to 383; empty for floats.
    """

    node: str
    module_path: str
    op: str
    outcome: str
    local_sqnr_db: float
    cumulative_sqnr_db: float
    weight_sqnr_db: float
    activation_sqnr_db: float
    channel_sqnr_db: float
    cosine: float
    saturated_low: float
    saturated_high: float
    dead_range: float
    source: str = ""
    value: str = ""
    tensor_sqnr_db: float = math.nan
    reads: tuple[str, ...] = ()
    grid: Grid | None = None
    levels: tuple[float, ...] = field(default=(), repr=False)

    @property
    def harm_db(self) -> float:
        """The level rows are ranked by: local, of all values or of the median channel, whichever is worse."""
        levels = [level for level in (self.local_sqnr_db, self.channel_sqnr_db) if not math.isnan(level)]
        return min(levels) if len(levels) == 2 else -math.inf


_HEADERS = (
    "node",
    "module",
    "op",
    "local",
    "weight",
    "activation",
    "channel",
    "cumulative",
    "cosine",
    "clipped",
    "dead",
)


@dataclass(frozen=True)
class Comparison:
    """Rows in execution order. ``str()`` is a table, all levels in dB.

    Attributes:
        rows: one per value that both models compute.
        batches: how many were run.
        output_sqnr_db: of all outputs together, as the model runs; NaN where none of them is compared.
    """

    rows: tuple[ComparisonRow, ...]
    batches: int
    output_sqnr_db: float = math.nan

    @property
    def ranked(self) -> tuple[ComparisonRow, ...]:
        """Rows by the error they make themselves, the worst first; a layer before one that only passes its error on."""
        return causes_first(
            list(self.rows),
            level=lambda row: row.harm_db,
            reads=lambda row, other: other.value in row.reads,
            width=lambda row: _ALIKE_DB if row.op in WEIGHTED else _CAUSED_DB,
            harmful_below=_HARMFUL_DB,
        )

    @property
    def worst(self) -> ComparisonRow | None:
        """The row that makes the largest error itself; None without rows."""
        return next(iter(self.ranked), None)

    def summary(self) -> str:
        """The three worst rows in words."""
        return "\n".join(_in_words(row) for row in self.ranked[:3] if math.isfinite(row.harm_db))

    def __str__(self) -> str:
        body = [_cells(row) for row in self.rows]
        align = ("left", "left", "left", *["right"] * 8)
        table = tabulate(body, _HEADERS, colalign=align if body else None, disable_numparse=True)
        title = f"{len(self.rows)} values over {self.batches} batches; levels in dB, the worst:"
        return f"{table}\n\n{title}\n{self.summary()}"


def compare_batches(float_model: nn.Module, quantized: StageModule, batches: Iterable[Arguments]) -> Comparison:
    """Run both models side by side and sum up their differences. Memory does not grow with batches or layers.

    Args:
        float_model: what ``quantized`` was made from; it is not changed.
        quantized: from ``convert_fx``, ``quantize`` or ``convert_to_reference_fx``. A standalone module is one row.
        batches: (args, kwargs) pairs.

    Raises:
        FxquantError: no batches, or one that the models cannot run; the models do not belong together; the quantized
            model takes integers.
    """
    require_comparable(quantized)
    comparing = _Comparing(float_model, quantized)
    count = 0
    with torch.no_grad():
        for args, kwargs in batches:
            comparing.add_batch(args, kwargs, count)
            count += 1
    if not count:
        raise FxquantError("compare got no batches", remedy="pass at least one batch of inputs")
    return Comparison(comparing.rows(), count, comparing.output_sqnr_db())


def require_comparable(model: Any) -> None:
    """Raise unless ``model`` is a converted model that takes floats.

    Raises:
        FxquantError: saying what to pass instead.
    """
    if not isinstance(model, (QuantizedModel, ReferenceModel)):
        raise FxquantError(
            f"expected a converted model, got {type(model).__name__}",
            remedy="pass what quantize, convert_fx or convert_to_reference_fx returned",
        )
    if model.plan.quantized_inputs:
        raise FxquantError(
            "the quantized model takes integers, which the float model cannot be run on",
            remedy="convert it without set_input_quantized_indexes to compare it",
        )


class _Comparing:
    def __init__(self, float_model: nn.Module, quantized: StageModule) -> None:
        self.half = quantized.state.float_dtype
        float_model = with_recurrent_child(float_model)
        model = float_model if self.half is None else copy.deepcopy(float_model).float()
        self.quantized, self.float_run = quantized, FloatRun(model, quantized)
        self.matched = matched_nodes(quantized)
        self.names = frozenset(self.matched.values())
        self.units = {unit.name: unit for unit in quantized.plan.units}
        self.class_of = {name: item.name for item in quantized.plan.classes for name in item.members}
        self.origins = {record.name: record.info.origin for record in quantized.state.captured}
        self.sums: dict[str, ErrorSums] = {}
        self.grids: dict[str, Grid] = {}

    def add_batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int) -> None:
        """Run both models on the inputs of one call.

        Raises:
            FxquantError: they cannot run them; names the batch, counted from 0.
        """
        try:
            self._add(args, kwargs)
        except FxquantError:
            raise
        except Exception as error:
            detail = " ".join(str(error).split()) or "no message"
            raise FxquantError(
                f"batch {place} cannot be run: {type(error).__name__}: {detail}",
                remedy="pass batches that the float model runs on, and the model that was quantized",
            ) from error

    def _add(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        inputs = positional(self.quantized.graph, args, kwargs)
        self.float_run.begin(pytree.tree_map(self._widened, inputs))
        for found in run_values(self.quantized, self.matched, inputs):
            self._add_value(found)

    def _widened(self, value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == self.half else value

    def _add_value(self, found: RunValue) -> None:
        known = self.float_run.take(found.name, self.names)
        value = None if known is None else main_tensor(known.value)
        if known is None or not isinstance(value, Tensor) or value.shape != found.value.shape:
            return
        exact = value.to(device=found.value.device, dtype=torch.float32)
        sums = self.sums.setdefault(found.name, ErrorSums())
        weighted, made = known.weighted, main_tensor(known.kernel)
        if isinstance(made, Tensor) and made.shape == exact.shape:
            weighted = made.to(device=exact.device, dtype=torch.float32)
        if found.grid is not None:
            self.grids[found.name] = found.grid
            sums.add_levels(exact, found.grid)
        rounds = found.grid is not None and not self._is_exact(self.units.get(found.name))
        runs_kernel = found.grid is None and weighted is not None and known.kernel is not None
        sums.add(exact, found.value)
        if rounds and found.grid is not None:
            sums.add_local(exact if weighted is None else exact[: len(weighted)], weighted, found.grid)
        elif runs_kernel and weighted is not None:
            sums.add_kernel(exact, weighted)

    def _is_exact(self, unit: Unit | None) -> bool:
        """Whether a unit makes no error of its own: it moves or selects numbers within one range."""
        row = None if unit is None else catalogue.by_name(unit.op)
        if unit is None or row is None or not isinstance(row.output, (Moves, Selects, Identity)):
            return False
        return all(edge.range_class == self.class_of.get(unit.name) for edge in unit.inputs)

    def rows(self) -> tuple[ComparisonRow, ...]:
        """The rows, in the order of the captured graph."""
        return tuple(self._row(record.name) for record in self.quantized.state.captured if record.name in self.sums)

    def output_sqnr_db(self) -> float:
        """SQNR of everything that is returned."""
        names: list[str] = []
        graph = self.float_run.graph
        fx.node.map_arg(output_node(graph).args, lambda node: names.append(node.name))
        sums = [self.sums[name] for name in names if name in self.sums]
        return ratio_db(sum(item.signal for item in sums), sum(item.cumulative for item in sums)) if sums else math.nan

    def _reads(self, unit: Unit | None) -> tuple[str, ...]:
        """Values that a unit reads, and those behind units that pass numbers on as they are."""
        found: list[str] = []
        waiting = [] if unit is None else [edge.source for edge in unit.inputs]
        while waiting:
            name = waiting.pop()
            source = self.units.get(name)
            found.append(name)
            if source is not None and self._is_exact(source):
                waiting += [edge.source for edge in source.inputs if edge.source not in found]
        return tuple(found)

    def _row(self, name: str) -> ComparisonRow:
        sums, grid, unit = self.sums[name], self.grids.get(name), self.units.get(name)
        is_border = unit is None or (grid is not None and not unit.output and not unit.mode)
        node = name if unit is None else unit.anchor
        return ComparisonRow(
            node=node,
            value=name,
            module_path=self.origins[node].module_path,
            source=self.origins[node].source,
            op="quantize" if unit is None or is_border else unit.op,
            outcome="border" if unit is None or is_border else unit.outcome,
            local_sqnr_db=_telling(ratio_db(sums.near, sums.local), sums.median_channel_db),
            tensor_sqnr_db=ratio_db(sums.near, sums.local),
            reads=self._reads(unit),
            cumulative_sqnr_db=ratio_db(sums.signal, sums.cumulative),
            weight_sqnr_db=_apart(unit, "weights", sums, sums.weight),
            activation_sqnr_db=_apart(unit, "", sums, sums.activation),
            channel_sqnr_db=sums.median_channel_db,
            cosine=sums.cosine,
            saturated_low=sums.below / sums.count,
            saturated_high=sums.above / sums.count,
            dead_range=0.0 if grid is None else 1 - sums.used_share(grid),
            grid=grid,
            levels=() if grid is None else tuple(sums.levels.tolist()),
        )


def _apart(unit: Unit | None, only: str, sums: ErrorSums, noise: float) -> float:
    """The level of one part of the error; NaN where a kernel rounds weights and inputs in one step.

    Args:
        unit: whose it is, sums: of its value, noise: of the part.
        only: ``weights`` for the part that kernels with integer or half weights make alone, else "".
    """
    if unit is None or not unit.mode or sums.local == 0.0:
        return ratio_db(sums.near, noise)
    if unit.mode not in ("weights", "weights4", "float16"):
        return math.nan
    return ratio_db(sums.near, sums.local if only else 0.0)


def _telling(tensor_db: float, channel_db: float) -> float:
    """The level of all values, or of the median channel where that is far lower."""
    return channel_db if channel_db < tensor_db - _FAR_LOWER_DB else tensor_db


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    levels = (
        row.local_sqnr_db,
        row.weight_sqnr_db,
        row.activation_sqnr_db,
        row.channel_sqnr_db,
        row.cumulative_sqnr_db,
    )
    clipped = row.saturated_low + row.saturated_high
    share = (f"{100 * value:.2g} %" if value else "" for value in (clipped, row.dead_range))
    cosine = f"{row.cosine:.5f}"
    return (
        row.node,
        row.module_path,
        row.op,
        *("" if level == math.inf or math.isnan(level) else f"{level:.1f}" for level in levels),
        cosine,
        *share,
    )


def _in_words(row: ComparisonRow) -> str:
    """What a row's error is made of."""
    causes = []
    if math.isnan(row.weight_sqnr_db):
        causes.append("the rounding of its weights and of its input")
    elif row.weight_sqnr_db < row.activation_sqnr_db:
        causes.append(f"mostly its weights ({row.weight_sqnr_db:.1f} dB)")
    else:
        causes.append(f"mostly the rounding of its output ({row.activation_sqnr_db:.1f} dB)")
    clipped = row.saturated_low + row.saturated_high
    if clipped > 0.001:
        causes.append(f"{100 * clipped:.2g} % of its values are clipped")
    if row.dead_range > 0.75:
        causes.append(f"outliers stretch its range: 99.9 % of the values use {100 * (1 - row.dead_range):.2g} % of it")
    if row.channel_sqnr_db < row.tensor_sqnr_db - 6:
        causes.append(f"few channels hold the signal, the median one has {row.channel_sqnr_db:.1f} dB")
    place = f" ({row.module_path})" if row.module_path and row.module_path != row.node else ""
    return f"{row.node}{place}: {row.local_sqnr_db:.1f} dB by itself, {'; '.join(causes)}"
