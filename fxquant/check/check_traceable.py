"""The check: run, capture, prove, judge, measure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture.copy_module import copy_module, parameters_shared
from fxquant.capture.inputs import split_inputs
from fxquant.capture.outer_state import OuterState
from fxquant.capture.own_objects import require_no_identity
from fxquant.capture.pause_collector import collector_paused
from fxquant.check.compare import leaves
from fxquant.check.coverage import Coverage, measure_coverage
from fxquant.check.finding import FindingKind
from fxquant.check.float_regions import FloatRegion, float_regions
from fxquant.check.judge import Evidence, judge
from fxquant.check.keep_world import world_kept
from fxquant.check.merge import first_use, merge
from fxquant.check.observation import Observation, Place
from fxquant.check.observe_eager import observe_eager
from fxquant.check.plain_tracing import PlainTracing, trace_plainly
from fxquant.check.probes import Example
from fxquant.check.prove import Prover
from fxquant.check.report import TraceReport
from fxquant.check.require_module import require_module
from fxquant.check.run_model import gradients_recorded
from fxquant.check.source_tree import Sources
from fxquant.check.try_edit import EditTrial
from fxquant.check.user_frames import Places
from fxquant.check.whole_model import observe_whole
from fxquant.errors import CaptureError, ConfigError, FxquantError
from fxquant.ir.stages import CapturedModel
from fxquant.ir.walk_modules import Inventory


@dataclass(frozen=True)
class _Attempt:
    """A try at capturing.

    Attributes:
        graph: None when it failed.
        seen: what capture recorded on its way.
    """

    graph: CapturedModel | None
    seen: list[Observation]


@collector_paused()
def check_traceable(model: nn.Module, example_inputs: Any, *, probes: str | Sequence[Any] = "auto") -> TraceReport:
    """Find everything that keeps a model from being captured as a graph, or that a graph of it would get wrong.

    The model runs as eager does, and is watched; it is captured; the graph is compared with eager on the example, on
    other batches, sizes, values and masks, under two seeds, in training and eval mode, and backward; and the source
    that the example does not reach is read. Nothing of the model, the inputs or the random state is changed.

    Args:
        model: any nn.Module.
        example_inputs: a tuple of positional inputs, a dict of keyword inputs, or one tensor.
        probes: ``auto``, or inputs in the form of ``example_inputs`` to compare on, in the place of those made up.

    Returns:
        The report: findings, proof, coverage.

    Raises:
        CaptureError: ``model`` is no plain module, or it, or a copy of it, does not run on the example inputs.
        ConfigError: ``probes`` is neither.
    """
    start = time.perf_counter()
    require_module(model)
    _require_inputs(example_inputs, probes)
    with world_kept(model) as outer, torch.inference_mode(False):
        sources = Sources()
        places = Places(model, sources)
        copied = copy_module(model)
        refusal = _known_by_identity(model, example_inputs)
        try:
            run = observe_eager(model, example_inputs, sources)
        except CaptureError as error:
            raise refusal or error from None
        outer.restore()
        shared = nullcontext if run.writes_parameters else parameters_shared
        with gradients_recorded(run.needs_gradients), shared():
            attempt = _try_capture(copied, example_inputs, places, refusal)
            draws = any(item.kind in _DRAWS for item in (*run.seen, *attempt.seen))
            result = _examine(copied, example_inputs, probes, attempt.graph, places, run.keeps_state, outer, draws)
            plain = trace_plainly(copied, places)
        whole = observe_whole(model, example_inputs, plain.error, sources, first_use)
        seen = merge(attempt.seen, [*run.seen, *whole], model, sources, run.modules)
        seen = [item for item in seen if not plain.disproves(item)]
        seen += _stopped_elsewhere(plain, seen, run.lines)
        trial = EditTrial(copied, example_inputs, sources, run.codes, outer)
        evidence = Evidence(result.captured, model.training, result.proof, result.regions, sources, trial)
        with gradients_recorded(run.needs_gradients), shared():
            findings = tuple(judge(seen, evidence))
    return replace(result, findings=findings, plain_tracing=plain.error, seconds=time.perf_counter() - start)


_DRAWS = (FindingKind.PYTHON_RANDOM, FindingKind.TORCH_RANDOM, FindingKind.TIME, FindingKind.DIVERGENCE)
_MADE = (FindingKind.MODULE_IN_FORWARD, FindingKind.MODULE_IN_CONTAINER)


def _stopped_elsewhere(
    plain: PlainTracing, seen: list[Observation], reached: set[tuple[str, int]]
) -> list[Observation]:
    """Where plain tracing stops, when nothing else was seen on that line and eager gets there too."""
    if plain.stopped is None:
        return []
    if plain.stopped.kind is FindingKind.MODULE_IN_FORWARD and any(item.kind in _MADE for item in seen):
        return []  # where it is made says more than where it is called
    counted = plain.stopped.kind is FindingKind.UNPACKING  # the length of what is unpacked says so too
    saying = [item for item in seen if counted or item.kind is not FindingKind.LENGTH]
    known = {(item.place.file, item.place.line) for item in saying}
    place = plain.stopped.place.file, plain.stopped.place.line
    return [plain.stopped] if place in reached - known else []


def _examine(
    model: nn.Module,
    example_inputs: Any,
    probes: str | Sequence[Any],
    graph: CapturedModel | None,
    places: Places,
    keeps_state: bool,
    outer: OuterState,
    draws: bool,
) -> TraceReport:
    """What can be said of the graph: a report without findings."""
    report = TraceReport(type(model).__name__, str(Example.of(model, example_inputs)))
    if graph is None:
        return report
    regions = float_regions(graph, places.user)
    prover = Prover(model, example_inputs, graph, pipeline.capture, places, keeps_state, outer, draws)
    proof = prover.prove(probes)
    coverage = _coverage(model, example_inputs, graph, regions)
    return replace(report, captured=True, proof=proof, coverage=coverage, regions=regions)


def _require_inputs(example_inputs: Any, probes: Any) -> None:
    if example_inputs is None:
        raise CaptureError("check_traceable needs example_inputs", remedy="pass a tuple of typical inputs")
    if not isinstance(probes, (list, tuple)) and not (isinstance(probes, str) and probes == "auto"):
        given = repr(probes) if isinstance(probes, str) else f"a {type(probes).__name__}"
        raise ConfigError(f"probes cannot be {given}", remedy="pass 'auto', or a list of inputs to compare on")
    args, kwargs = split_inputs(example_inputs)
    if not any(isinstance(item, Tensor) for _, item in leaves((args, kwargs))):
        raise CaptureError("example_inputs has no tensor", remedy="pass a tuple of typical inputs")


def _known_by_identity(model: nn.Module, example_inputs: Any) -> CaptureError | None:
    """Why capture refuses the model, where something knows its objects; what is captured below is a copy of it."""
    try:
        require_no_identity(Inventory(model), example_inputs)
    except CaptureError as error:
        return error
    return None


def _try_capture(
    model: nn.Module, example_inputs: Any, places: Places, refusal: CaptureError | None = None
) -> _Attempt:
    try:
        if refusal is not None:
            raise refusal
        graph = pipeline.capture(model, example_inputs)
    except Exception as error:
        facts = getattr(error, "facts", ())
        seen = [Observation.of(fact) for fact in facts]
        return _Attempt(None, [*seen, _refusal(error, places)])
    return _Attempt(graph, [Observation.of(fact) for fact in graph.state.facts])


def _refusal(error: Exception, places: Places) -> Observation:
    """What capture raised, at the user's line."""
    if not isinstance(error, FxquantError):
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Observation(FindingKind.ERROR, places.of_error(error), text)
    file, _, line = error.source.rpartition(":")
    number = int(line) if line.isdigit() else 0
    code = places.sources.file(file).line(number) if file else ""
    return Observation(
        FindingKind.ERROR, Place(file, number, code, error.module_path), error.message, remedy=error.remedy
    )


def _coverage(
    model: nn.Module, example_inputs: Any, graph: CapturedModel, regions: tuple[FloatRegion, ...]
) -> Coverage:
    copy = copy_module(model).eval()
    if not model.training:
        return measure_coverage(graph, copy, example_inputs, regions)
    try:
        return measure_coverage(pipeline.capture(copy, example_inputs), copy, example_inputs, regions)
    except FxquantError as error:
        return Coverage(note=f"the model is not captured in eval mode: {error.message}")
