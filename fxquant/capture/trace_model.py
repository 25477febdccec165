"""Tracing a module: a copy of it and example inputs in, a graph with descriptions of its values out."""

from __future__ import annotations

import inspect
import linecache
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.against_eager import Eager, Marks, first_difference, same_results
from fxquant.capture.check_root import check_root
from fxquant.capture.copy_module import plain_tensors, prepare_copy
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.find_outer_state import find_outer_state
from fxquant.capture.find_state import find_state
from fxquant.capture.float_regions import FloatRegions
from fxquant.capture.half_precision import HalfPrecision, to_float32, widen_inputs
from fxquant.capture.inputs import BoundInputs, bind_inputs, copy_tensors, split_inputs
from fxquant.capture.keep_state import ModelState, randomness_kept
from fxquant.capture.outer_state import OuterState
from fxquant.capture.own_thread import ONE_CAPTURE
from fxquant.capture.patches import patched
from fxquant.capture.probe_sizes import probe_sizes
from fxquant.capture.probe_values import may_depend_on_calls, parts_from_eager
from fxquant.capture.run_eager import run_eager
from fxquant.capture.run_hooks import remove_hooks
from fxquant.capture.tracer import ValueTracer
from fxquant.capture.trouble import Trouble, spots_around
from fxquant.capture.varying_lists import Path, varying_lists
from fxquant.errors import CaptureError
from fxquant.ir.float_part import EFFECTS, FloatPart, runs_user_code

_ROUNDS = 24


@dataclass(frozen=True)
class Traced:
    """What a trace gives.

    Attributes:
        root: copy of the user's model, float32.
        graph: every operation as the user spelled it.
        facts: what was met during the trace.
        notes: what is kept whole and in float because it cannot be captured, one sentence each.
        float_dtype: float16 or bfloat16 when the user's model was in that dtype, else None.
    """

    root: nn.Module
    graph: fx.Graph
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    float_dtype: torch.dtype | None


@dataclass(frozen=True)
class _Job:
    """What every attempt to trace a model is given.

    Attributes:
        model, example_inputs, leaf_classes: as for ``trace_model``.
        trains: whether the graph is to be trained.
        half: of a model in half precision.
        varying: lists among the inputs that may be of any length.
        versions: see ``ValueTracer``.
    """

    model: nn.Module
    example_inputs: Any
    leaf_classes: Collection[type[nn.Module]]
    trains: bool
    half: HalfPrecision | None
    varying: frozenset[Path]
    versions: dict[int, tuple[Tensor, int]]


@dataclass
class _Attempt:
    """One trace: the copy that was traced, what was recorded, and what forward changed."""

    root: nn.Module
    graph: fx.Graph
    tracer: ValueTracer
    state: ModelState
    outer: OuterState
    troubles: list[Trouble]


def trace_model(
    model: nn.Module,
    example_inputs: Any,
    *,
    leaf_names: Collection[str] = (),
    leaf_classes: Collection[type[nn.Module]] = (),
    strict: bool = False,
    trains: bool = False,
) -> Traced:
    """Trace a copy of ``model`` on ``example_inputs``.

    What no graph can hold is kept whole and runs in float: the smallest part of the model around it.

    Args:
        model: any module; neither it nor the inputs are changed.
        example_inputs: tuple, dict of keywords, or one tensor.
        leaf_names: module paths to keep as float leaves.
        leaf_classes: module classes to keep as float leaves.
        strict: raise instead of keeping a part whole.
        trains: whether the graph is to be trained, whatever mode the model is in.

    Returns:
        The trace, in the user's parameter names. float16 and bfloat16 models are traced in float32
        with conversions at their inputs and outputs.

    Raises:
        CaptureError: the model is no plain module, the inputs do not fit, the model fails on them; when ``strict``, the
            model does something that no graph can hold.
    """
    check_root(model, leaf_names)
    regions, met = FloatRegions(set(leaf_names)), list[tuple[Trouble, str]]()
    half = HalfPrecision.of(model, example_inputs)
    varying = varying_lists(model, example_inputs)
    job = _Job(model, example_inputs, leaf_classes, trains or model.training, half, varying, {})
    for _ in range(_ROUNDS):
        attempt = _attempt(job, regions, strict)
        for cut in attempt.tracer.rejected:
            regions.reject(cut)
            met = [(trouble, title) for trouble, title in met if title != str(cut)]
        if attempt.tracer.rejected:
            continue
        if attempt.troubles and not met and not strict:
            _require_eager(model, example_inputs)
        regions.begin_round()
        for troubles in _in_the_way(job, attempt, regions, strict, [trouble for trouble, _ in met]):
            if strict:
                raise _refusal(troubles)
            kept = [(trouble, regions.keep(trouble)) for trouble in troubles]
            met += [(trouble, title) for trouble, title in kept if title]
            if any(title for _, title in kept):
                break
            if attempt.troubles and not any(trouble.optional for trouble in troubles):
                raise _refusal(troubles)
        else:
            if not attempt.troubles:
                return _finish(model, attempt, met, half)
    # What sizes decide is built in.
    attempt = _attempt(job, regions, True)
    if attempt.troubles:
        raise _refusal(attempt.troubles)
    return _finish(model, attempt, met, half)


def _in_the_way(
    job: _Job, attempt: _Attempt, regions: FloatRegions, strict: bool, met: list[Trouble]
) -> Iterator[list[Trouble]]:
    """What a trace met; where that is nothing, what makes its graph wrong: one list after the other until one helps.

    Args:
        job, attempt, regions: of the trace.
        strict: whether answers about sizes stay built in.
        met: what was met in traces before it.
    """
    if attempt.troubles:
        yield attempt.troubles
        return
    if not strict:
        questions = attempt.tracer.answers.questions
        yield probe_sizes(attempt.root, attempt.graph, attempt.tracer.inputs, questions)
    if job.half is None and not regions.whole:
        yield from _other_than_eager(job, attempt, regions, strict, [item for item in met if not item.optional])


def _other_than_eager(
    job: _Job, attempt: _Attempt, regions: FloatRegions, strict: bool, met: list[Trouble]
) -> Iterator[list[Trouble]]:
    """What to keep whole where the trace, or its graph after some calls, computes something else than eager."""
    inputs, results = bind_inputs(job.model, job.example_inputs), []
    for _ in range(2):
        try:
            results.append(Eager(job.model).call(inputs))
        except Exception:  # it runs once only: an iterator among its inputs is used up
            return
        finally:
            attempt.outer.restore()
        if same_results(results[0], attempt.tracer.result):
            break
    if len(results) == 2:
        if same_results(*results):
            path = _where_it_parts(job, regions, strict, inputs)
            inside = [item for item in met if _is_inside(item.fact.module_path, path)]
            yield inside
            yield [Trouble(_divergence(job.model, path, "the example"), spots_around(path))]
    elif may_depend_on_calls(attempt.tracer.constants.values(), attempt.tracer.recorder.facts, inputs):

        def restore() -> None:
            attempt.state.restore(job.model)
            attempt.outer.restore()
            attempt.tracer.views.restore()

        title = parts_from_eager(job.model, attempt.root, attempt.graph, inputs, restore)
        if title:
            yield met
            yield [Trouble(_divergence(job.model, "", title), spots_around(""))]


def _where_it_parts(job: _Job, regions: FloatRegions, strict: bool, inputs: BoundInputs) -> str:
    """Path of the module in which a trace computes something else than eager."""
    expected, found = Marks(), Marks()
    eager = Eager(job.model, expected)
    try:
        eager.call(inputs)
    finally:
        _attempt(job, regions, strict, found).outer.restore()
    return first_difference(expected, found)


def _divergence(model: nn.Module, path: str, title: str) -> Fact:
    code = getattr(inspect.unwrap(type(model.get_submodule(path)).forward), "__code__", None)
    file, line = ("", 0) if code is None else (code.co_filename, code.co_firstlineno)
    text = linecache.getline(file, line).strip()
    value = f"what is traced there is not what eager computes on {title}"
    return Fact(FactKind.DIVERGENCE, file, line, text, path, "", value)


def _is_inside(path: str, around: str) -> bool:
    return not around or path == around or path.startswith(f"{around}.")


def _attempt(job: _Job, regions: FloatRegions, strict: bool, marks: Marks | None = None) -> _Attempt:
    """Trace once, leaving the random state as it was; ``marks`` gets the results of modules."""
    model, half = job.model, job.half
    with torch.inference_mode(False):
        inputs = bind_inputs(model, job.example_inputs)
        root = prepare_copy(model)
        root = root.float() if half is not None else root
        change = to_float32 if half is not None else _as_is
        values = tuple((name, how, copy_tensors(value, change)) for name, how, value in inputs.entries)
        state, outer = ModelState(root), OuterState(root)
        tracer = ValueTracer(BoundInputs(values), regions.modules, job.leaf_classes, regions.whole)
        tracer.plain_tensors, tracer.versions, tracer.precision = plain_tensors(model), job.versions, half
        tracer.trains, tracer.varying, tracer.marks = job.trains, job.varying, marks
        tracer.refused, tracer.rejected_before, tracer.sizes_built_in = regions.refused, regions.rejected, strict
        with ExitStack() as stack:
            stack.enter_context(ONE_CAPTURE)
            stack.callback(outer.restore)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(randomness_kept())
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.fx")
            for undo in regions.install(tracer):
                stack.callback(undo)
            stack.enter_context(patched(tracer, root))
            graph = tracer.trace(root)
            changed = outer.changed()
    troubles = tracer.recorder.troubles
    if not troubles and not regions.whole:
        changes = [*state.changes(), *tracer.writes.replaced]
        troubles = find_state(model, root, changes, tracer, job.example_inputs, regions.modules)
        if changed:
            troubles += find_outer_state(model, changed, tracer, job.example_inputs, regions.has_line)
    return _Attempt(root, graph, tracer, state, outer, troubles)


def _finish(model: nn.Module, attempt: _Attempt, met: list[tuple[Trouble, str]], half: HalfPrecision | None) -> Traced:
    """The result of a trace without trouble: the copy as it was before, with what nodes refer to."""
    root, tracer = attempt.root, attempt.tracer
    attempt.state.restore(model)
    attempt.outer.restore()
    tracer.views.restore()
    causes = _causes(met)
    for name, value in tracer.constants.items():
        if isinstance(value, FloatPart):
            value.why = causes.get(value.title, "")
        if isinstance(value, nn.Module):
            root.add_module(name, value)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            vars(root).pop(name, None)
            root.register_buffer(name, value, persistent=False)
        else:
            setattr(root, name, value)
    for path in tracer.unhooked:
        remove_hooks(root.get_submodule(path))
    _mark_effects(root, attempt.graph)
    if half is not None:
        widen_inputs(attempt.graph, half.dtype)
    kept = [replace(trouble.fact, handled=f"runs as Python, in float: {title}") for trouble, title in met]
    facts = dict.fromkeys((*kept, *tracer.recorder.facts))
    return Traced(root, attempt.graph, tuple(facts), tuple(_notes(met)), None if half is None else half.dtype)


def _mark_effects(root: nn.Module, graph: fx.Graph) -> None:
    """Mark the calls of what may do more than compute: the user's modules and parts."""
    for node in graph.nodes:
        if node.op == "call_module" and runs_user_code(root.get_submodule(str(node.target))):
            node.meta[EFFECTS] = True


def _causes(met: list[tuple[Trouble, str]]) -> dict[str, str]:
    """Why each part is kept whole: what was met first in it, by its title."""
    causes: dict[str, str] = {}
    for trouble, title in met:
        causes.setdefault(title, _why(trouble.fact))
    return causes


def _notes(met: list[tuple[Trouble, str]]) -> list[str]:
    return [f"{title} runs as Python, in float: {cause}" for title, cause in _causes(met).items()]


def _why(fact: Fact) -> str:
    what = f"`{fact.expression or fact.code}`" if fact.code else fact.value
    detail = f" ({fact.value})" if fact.kind == "error" and fact.code else ""
    return f"{fact.kind} at {what}{detail}" + (f", {fact.source}" if fact.source else "")


def _refusal(troubles: list[Trouble]) -> CaptureError:
    """All that is in the way, in one error."""
    facts = list(dict.fromkeys(trouble.fact for trouble in troubles))
    first, lines = facts[0], [f"  {_why(fact)}" for fact in facts]
    return CaptureError(
        "\n".join(["no graph can hold what the model does:", *lines]),
        module_path=first.module_path,
        source=first.source,
        remedy="write it with tensor operations, such as torch.where, or keep the module float: "
        f"PrepareCustomConfig().set_non_traceable_module_names([{first.module_path!r}])",
    )


def _require_eager(model: nn.Module, example_inputs: Any) -> None:
    """Raise when the model itself does not run.

    Raises:
        CaptureError: with its message.
    """
    try:
        run_eager(model, *split_inputs(example_inputs))
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} itself fails on example_inputs: {type(error).__name__}: {error}",
            remedy="pass example_inputs on which the model runs",
        ) from error


def _as_is(tensor: Tensor) -> Tensor:
    return tensor
