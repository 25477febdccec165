"""Where the time goes: every node of a quantized model, timed beside the float operators it stands for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxquant.errors import FxquantError
from fxquant.inspect.profile_row import ProfileRow
from fxquant.inspect.record_values import positional
from fxquant.inspect.timeline import FloatTimes, TimedRun
from fxquant.inspect.why_slow import why_slow
from fxquant.ir.meta import Origin, info
from fxquant.ir.stages import QuantizedModel

_WARM_UP_RUNS = 2
_LEAST_RUNS = 5
# Times are medians over this share of the runs, the fastest ones: others were interrupted by other programs.
_QUIET_SHARE = 0.25


@dataclass(frozen=True)
class Profile:
    """Rows in execution order. ``str()`` is a table by cost, then the answer to "why is it not faster?".

    Attributes:
        rows: one per call.
        model_ms: median time of the whole quantized model, float_ms: sum of the float model's operators.
        runs: how often each was run, threads: on how many threads.
        why: what keeps it from being faster, one sentence each.
    """

    rows: tuple[ProfileRow, ...]
    model_ms: float
    float_ms: float
    runs: int
    threads: int
    why: tuple[str, ...] = ()

    @property
    def nodes_ms(self) -> float:
        """Sum of the rows."""
        return sum(row.median_ms for row in self.rows)

    @property
    def by_cost(self) -> tuple[ProfileRow, ...]:
        """The rows, the slowest first."""
        return tuple(sorted(self.rows, key=lambda row: -row.median_ms))

    @property
    def overheads(self) -> tuple[ProfileRow, ...]:
        """Float operators, steps and conversions, the slowest first."""
        return tuple(row for row in self.by_cost if row.kind in ("float", "step", "conversion"))

    def __str__(self) -> str:
        headers = ("node", "op", "kind", "kernel", "ms", "share", "float ms", "KiB moved")
        total = self.nodes_ms or 1.0
        body = [
            (row.node, row.op, row.kind, row.kernel, f"{row.median_ms:.3f}", f"{100 * row.median_ms / total:.1f} %",
             f"{row.float_ms:.3f}" if row.float_ms else "", f"{row.bytes_moved / 1024:.0f}")
            for row in self.by_cost
        ]  # fmt: skip
        align = (*["left"] * 4, *["right"] * 4)
        table = tabulate(body, headers, colalign=align if body else None, disable_numparse=True)
        title = (
            f"whole model {self.model_ms:.2f} ms, sum of its nodes {self.nodes_ms:.2f} ms, float operators "
            f"{self.float_ms:.2f} ms; medians of the fastest of {self.runs} runs on {self.threads} threads"
        )
        return "\n".join([table, "", title, *self.why])


def profile_model(
    quantized: QuantizedModel, inputs: Any, float_model: nn.Module | None = None, seconds: float = 2.0
) -> Profile:
    """Time every node of a quantized model, the whole of it, and the float operators, in turns.

    Args:
        quantized: from ``quantize`` or ``convert_fx``.
        inputs: a tuple of positional inputs, a dict of keywords, or one tensor.
        float_model: what was quantized; see ``FloatTimes``.
        seconds: about how long to measure; at least five runs are made.

    Raises:
        FxquantError: ``quantized`` is no quantized model, or does not run on the inputs.
    """
    if not isinstance(quantized, QuantizedModel):
        raise FxquantError(
            f"profile needs a quantized model, got {type(quantized).__name__}",
            remedy="pass what quantize or convert_fx returned",
        )
    args, kwargs = _arguments(inputs)
    given = positional(quantized.graph, args, kwargs)
    quantized.compiled()
    nodes, floats = TimedRun(quantized, quantized.graph), FloatTimes(quantized, float_model)
    widened = pytree.tree_map(lambda item: _widened(item, quantized.state.float_dtype), given)
    whole: list[float] = []
    with torch.inference_mode():
        for _ in range(_WARM_UP_RUNS):
            _warm_up(lambda: _round(quantized, nodes, floats, args, kwargs, given, widened))
        for run in (nodes, floats):
            run.times_s.clear()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(whole) < _LEAST_RUNS:
            whole.append(_round(quantized, nodes, floats, args, kwargs, given, widened))
    float_times = _quiet_medians_ms(floats.times_s)
    rows = _rows(quantized, nodes, float_times)
    float_ms, model_ms = sum(float_times.values()), _quiet_medians_ms({"": whole})[""]
    why = why_slow(rows, quantized.plan, model_ms, float_ms)
    return Profile(rows, model_ms, float_ms, len(whole), torch.get_num_threads(), why)


def _warm_up(run: Callable[[], float]) -> None:
    try:
        run()
    except FxquantError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split()) or "no message"
        raise FxquantError(
            f"the model does not run on the inputs: {type(error).__name__}: {detail}",
            remedy="pass the inputs of one call, as the model takes them",
        ) from error


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _widened(value: Any, half: torch.dtype | None) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == half else value


def _round(
    quantized: QuantizedModel, nodes: TimedRun, floats: FloatTimes, args: Any, kwargs: Any, given: Any, widened: Any
) -> float:
    """Run each once; the seconds that the whole quantized model took. Weights are in the cache."""
    floats.once(list(widened))
    quantized(*args, **kwargs)
    start = nodes.clock()
    quantized(*args, **kwargs)
    taken = nodes.clock() - start
    nodes.once(list(given))
    return taken


def _quiet_medians_ms(times_s: dict[str, list[float]]) -> dict[str, float]:
    """Median time of each node over the fastest runs, in milliseconds."""
    totals = [sum(run) for run in zip(*times_s.values(), strict=True)]
    count = min(len(totals), max(_LEAST_RUNS, round(_QUIET_SHARE * len(totals))))
    quiet = sorted(range(len(totals)), key=lambda run: totals[run])[:count]
    return {name: 1000 * statistics.median(times[run] for run in quiet) for name, times in times_s.items()}


def _rows(quantized: QuantizedModel, nodes: TimedRun, float_times: dict[str, float]) -> tuple[ProfileRow, ...]:
    units = {unit.name: unit for unit in quantized.plan.units}
    pending = {name: set(unit.nodes) for name, unit in units.items()}
    taken, rows = _quiet_medians_ms(nodes.times_s), []
    for node in quantized.graph.nodes:
        if node.name not in taken:
            continue
        unit = units.get(info(node).unit)
        members = pending.pop(unit.name, set()) if unit is not None else set()
        rows.append(
            ProfileRow(
                node=node.name,
                unit=info(node).unit,
                module_path=_origin(node, quantized, unit.anchor if unit is not None else "").module_path,
                op=_conversion(node, nodes) or info(node).op or str(getattr(node.target, "__name__", node.target)),
                kind="conversion" if _conversion(node, nodes) else "other" if unit is None else _kind(unit.outcome),
                kernel=_kernel(node, nodes, unit),
                median_ms=taken[node.name],
                float_ms=sum(float_times.get(name, 0.0) for name in members),
                bytes_moved=nodes.bytes_moved[node.name],
                reads=tuple(source.name for source in node.all_input_nodes),
                readers=tuple(user.name for user in node.users),
            )
        )
    return tuple(rows)


def _kind(outcome: str) -> str:
    return outcome if outcome in ("int8", "step", "float") else "other"


def _conversion(node: fx.Node, nodes: TimedRun) -> str:
    """``quantize``, ``dequantize`` or ``contiguous`` for nodes that only change how numbers are stored, else ""."""
    if node.op == "call_module" and type(nodes.modules[str(node.target)]).__name__ == "Quantize":
        return "quantize"
    if node.op == "call_method" and node.target in ("dequantize", "contiguous") and not info(node).unit:
        return str(node.target)
    return ""


def _kernel(node: fx.Node, nodes: TimedRun, unit: Any) -> str:
    if unit is not None and unit.kernel is not None:
        return str(unit.kernel)
    if node.op == "call_module":
        return type(nodes.modules[str(node.target)]).__name__
    return str(getattr(node.target, "__name__", node.target))


def _origin(node: fx.Node, quantized: QuantizedModel, anchor: str) -> Origin:
    known = {record.name: record.info.origin for record in quantized.state.captured if record.name == anchor}
    return known.get(anchor, info(node).origin)
