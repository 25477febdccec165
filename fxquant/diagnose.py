"""The calls that look inside a quantized model with data: where the error comes from, where the time goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxquant.api import convert_fx, convert_to_reference_fx, prepare_fx
from fxquant.backends.select import default_engine
from fxquant.calibration import Batch, calibrate, example_of
from fxquant.inspect.compare import Comparison, compare_batches
from fxquant.inspect.error_sums import ratio_db
from fxquant.inspect.float_mapping import leave_float
from fxquant.inspect.profile import Profile, profile_model
from fxquant.inspect.sensitivity import LayerSearch, Sensitivity
from fxquant.inspect.simulated_model import SimulatedModel
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import ObservedModel, StageModule
from fxquant.qconfig import QConfigMapping, as_mapping, get_default_qconfig_mapping

Metric = Callable[[Any], float]


def compare(
    float_model: nn.Module, quantized: StageModule, data: Iterable[Any], *, example_inputs: Any = None
) -> Comparison:
    """Say where the error of a quantized model comes from: every value against the float model's.

    It costs about three runs of the float model per batch, and memory for single values only.

    Args:
        float_model: what ``quantized`` was made from; it is not changed.
        quantized: from ``quantize``, ``convert_fx`` or ``convert_to_reference_fx``.
        data: batches as ``quantize`` takes them: tensors, tuples, dicts, or (input, label) pairs.
        example_inputs: says what a batch holds where that is not clear, as for ``quantize``.

    Raises:
        FxquantError: the models do not belong together. CalibrationError: no data, or it does not fit ``forward``.
    """
    _, batches = example_of(float_model, data, example_inputs)
    return compare_batches(float_model, quantized, batches)


def sensitivity(
    model: nn.Module,
    data: Iterable[Any],
    *,
    qconfig_mapping: QConfigMapping | Any = None,
    metric: Metric | None = None,
    example_inputs: Any = None,
    backend: str = "auto",
    progress: bool = True,
) -> Sensitivity:
    """Measure what each layer's quantization does to the output, and recommend which layers to leave float.

    The model is calibrated once; then layers are switched between float and int8 in a simulation that rounds as the
    reference model does. It runs ``data`` about twice per layer.

    Args:
        model: float model in eval mode; it is not changed.
        data: batches as ``quantize`` takes them, for calibrating and for judging; all are kept.
        qconfig_mapping: default: ``get_default_qconfig_mapping`` of the backend.
        metric: called with a model to run, returns a number, higher is better, such as an accuracy on data of its
            own. The default is the SQNR of the outputs on ``data`` in dB.
        example_inputs: default: the first batch.
        backend: ``auto``, or an engine: x86, fbgemm, onednn, qnnpack.
        progress: show a bar with the time left, on terminals.

    Raises:
        CalibrationError: no data, or it does not fit ``forward``. ConfigError: the configuration does not fit.
    """
    engine = default_engine() if backend == "auto" else backend
    mapping = get_default_qconfig_mapping(engine) if qconfig_mapping is None else as_mapping(qconfig_mapping)
    example, found = example_of(model, data, example_inputs)
    batches = list(found)
    judge = metric or OutputSqnr(model, batches)
    float_metric = float(judge(model))
    observed = _calibrated(model, mapping, example, engine, batches)
    simulated = SimulatedModel(observed, convert_to_reference_fx(observed))
    search = LayerSearch(simulated, judge, float_metric, in_db=metric is None)
    rows = search.rows(lambda units, title, total: _tracked(units, title, total, progress))
    steps = search.recommend(rows)
    left = {name for step in steps for name in step.units}
    recommended = leave_float(mapping, observed, left)
    reached = search.quantized_metric
    if left:
        reached = float(judge(convert_fx(_calibrated(model, recommended, example, engine, batches))))
    return Sensitivity(rows, float_metric, search.quantized_metric, steps, recommended, reached, metric is None)


def _calibrated(
    model: nn.Module, mapping: QConfigMapping, example: Any, engine: str, batches: list[Batch]
) -> ObservedModel:
    observed = prepare_fx(model, mapping, example, backend_config=engine)
    calibrate(observed, batches, progress=False)
    return observed


def _tracked(units: Iterable[Unit], title: str, total: int, progress: bool) -> Iterator[Unit]:
    """The same units, behind a bar with the time left that shows on terminals only."""
    shown = progress and sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task(title, total=total)
        for unit in units:
            yield unit
            bar.advance(task)


class OutputSqnr:
    """SQNR of models' floating outputs over all batches, in dB.

    Args:
        model: exact; runs once.
        batches: (args, kwargs) pairs.
    """

    def __init__(self, model: nn.Module, batches: list[Batch]) -> None:
        self.batches = batches
        self.expected = [_outputs(model, batch) for batch in batches]

    def __call__(self, model: nn.Module) -> float:
        """The SQNR of ``model`` against the exact one."""
        signal = noise = 0.0
        for batch, expected in zip(self.batches, self.expected, strict=True):
            for exact, found in zip(expected, _outputs(model, batch), strict=True):
                signal += float(exact.square().sum())
                noise += float((found - exact).square().sum())
        return ratio_db(signal, noise)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    args, kwargs = batch
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [item.detach().to(torch.float64) for item in leaves if isinstance(item, Tensor) and item.is_floating_point()]


def profile(
    quantized: StageModule, inputs: Any, *, float_model: nn.Module | None = None, seconds: float = 2.0
) -> Profile:
    """Say where the time of a quantized model goes, node by node, beside the float operators, in one run.

    Args:
        quantized: from ``quantize`` or ``convert_fx``.
        inputs: of one call: a tuple of positional inputs, a dict of keywords, or one tensor.
        float_model: what was quantized. Without it random parameters of the same shapes stand in, which take as long.
        seconds: about how long to measure; at least five runs are made, with torch's number of threads.

    Raises:
        FxquantError: ``quantized`` is no quantized model, or calls a module that cannot be timed without float_model.
    """
    return profile_model(quantized, inputs, float_model, seconds)  # type: ignore[arg-type]
