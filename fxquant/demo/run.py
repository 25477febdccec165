"""The job behind ``fxquant demo``: build, capture, calibrate, convert, compare."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import Progress as ProgressBar
from tabulate import tabulate
from torch import nn

from fxquant.api import convert_fx, prepare_fx
from fxquant.backends.select import default_engine
from fxquant.calibration import calibrate, example_of
from fxquant.demo import DemoTask, build_task
from fxquant.demo.measure import median_latency_ms, state_bytes
from fxquant.demo.task import format_metric
from fxquant.errors import FxquantError
from fxquant.inspect.explain import Explanation, explain
from fxquant.inspect.graph_diff import graph_diff
from fxquant.ir.stages import QuantizedModel
from fxquant.qconfig import get_default_qconfig_mapping

_LATENCY_SECONDS = 3.0
_METRIC_TITLES = {"accuracy": "accuracy", "top1_agreement": "top-1 agreement", "sqnr_db": "SQNR of the output"}


@dataclass(frozen=True)
class DemoReport:
    """Float and int8 side by side.

    Attributes:
        metrics: name to (float, int8), as the task's ``evaluate`` gives them.
        bytes: of the state_dicts, latency_ms: median of one call, on one thread; (float, int8).
        batch: images in one call of the latency measurement.
        explanation: of the quantized model.
    """

    metrics: dict[str, tuple[float, float]]
    bytes: tuple[int, int]
    latency_ms: tuple[float, float]
    batch: int
    explanation: Explanation


def run_demo(
    name: str, *, backend: str = "auto", batches: int | None = None, quiet: bool = False, show_diff: bool = True
) -> DemoReport:
    """Run the demo and print its results.

    Args:
        name: a key of ``fxquant.demo.TASKS``.
        backend: ``auto`` or an engine.
        batches: how many calibration batches to use, None for all.
        quiet: no progress, and nothing but the table.
        show_diff: print the graph diff from float to int8.

    Raises:
        FxquantError: a package is missing, ``batches`` asks for more than there are, or quantization failed.
    """
    task = _build(name, quiet)
    if batches is not None:
        if batches > len(task.calibration):
            raise FxquantError(
                f"{name} has {len(task.calibration)} calibration batches, not {batches}", remedy="ask for fewer"
            )
        task = replace(task, calibration=task.calibration[:batches])
    engine = default_engine() if backend == "auto" else backend
    if not quiet:
        print(f"{task.description}\nengine {engine}, {len(task.calibration)} calibration batches\n", flush=True)
    quantized = _quantize(task, engine, quiet)
    report = _measure(task, quantized)
    print_report(report)
    if show_diff:
        print()
        print(graph_diff(task.model, quantized))
    return report


def _build(name: str, quiet: bool) -> DemoTask:
    """Build the task behind a progress bar that shows on terminals only."""
    hidden = quiet or not sys.stderr.isatty()
    with ProgressBar(console=Console(stderr=True), disable=hidden, transient=True) as bar:
        row = bar.add_task(f"preparing {name}", total=None)
        return build_task(
            name, lambda done, total, what: bar.update(row, completed=done, total=total, description=what)
        )


def _quantize(task: DemoTask, engine: str, quiet: bool) -> QuantizedModel:
    mapping = get_default_qconfig_mapping(engine)
    observed = prepare_fx(task.model, mapping, task.example_inputs, backend_config=engine)
    _, batches = example_of(task.model, task.calibration, task.example_inputs)
    calibrate(observed, batches, progress=not quiet)
    return convert_fx(observed)


def _measure(task: DemoTask, quantized: nn.Module) -> DemoReport:
    judged = task.evaluate(quantized)
    latency = median_latency_ms((task.model, quantized), task.latency_inputs, seconds=_LATENCY_SECONDS)
    order = [task.headline, *(key for key in judged if key != task.headline)]
    return DemoReport(
        metrics={key: (task.baseline[key], judged[key]) for key in order},
        bytes=(state_bytes(task.model), state_bytes(quantized)),
        latency_ms=(latency[0], latency[1]),
        batch=len(task.latency_inputs[0]),
        explanation=explain(quantized),
    )


def print_report(report: DemoReport) -> None:
    """Print the table of float against int8."""
    rows: list[tuple[str, str, str, str]] = []
    for key, (before, after) in report.metrics.items():
        change = "" if key.endswith("_db") else f"{100 * (after - before):+.2f} points"
        rows.append((_METRIC_TITLES.get(key, key), format_metric(key, before), format_metric(key, after), change))
    rows.append(("size of the state_dict", *(f"{size / 1e6:.3f} MB" for size in report.bytes), _ratio(report.bytes)))  # type: ignore[arg-type]
    title = f"latency, {report.batch} image{'s' if report.batch > 1 else ''}, 1 thread"
    rows.append((title, *(f"{ms:.2f} ms" for ms in report.latency_ms), _ratio(report.latency_ms)))  # type: ignore[arg-type]
    total = len(report.explanation.rows)
    for outcome, count in report.explanation.counts.items():
        in_float = str(total) if outcome == "float" else "0"
        rows.append((f"operators: {OUTCOME_TITLES[outcome]}", in_float, str(count), ""))
    share = f"{100 * report.explanation.int8_mac_share:.1f} %"
    rows.append(("multiply-accumulates in int8", "0.0 %", share, ""))
    print(
        tabulate(rows, ("", "float", "int8", ""), colalign=("left", "right", "right", "right"), disable_numparse=True)
    )
    for note in report.explanation.notes:
        print(f"note: {note}")


OUTCOME_TITLES = {
    "int8": "int8",
    "step": "step, float between int8 neighbours",
    "float": "float",
    "folded": "folded into others",
    "free": "free, moves numbers or does nothing",
}


def _ratio(pair: tuple[float, float]) -> str:
    return f"{pair[1] / pair[0]:.2f} x"
