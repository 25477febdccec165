"""What to keep whole where a trace, or its graph after some calls, computes something else than eager."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch import fx, nn

from fxquant.capture.against_eager import Eager, Marks, first_difference, same_results
from fxquant.capture.attempt import Attempt, Job, make_attempt
from fxquant.capture.copy_module import copy_module
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.float_regions import FloatRegions
from fxquant.capture.inputs import BoundInputs, bind_inputs
from fxquant.capture.outer_state import OuterState
from fxquant.capture.probe_modes import Circumstances
from fxquant.capture.probe_values import calls_to_try, parts_from_eager
from fxquant.capture.trouble import Trouble, spots_around

# What may make two calls from the same random state differ; and a module that is kept whole because they do.
_DRAWS = (FactKind.PYTHON_RANDOM, FactKind.TORCH_RANDOM, FactKind.TIME, FactKind.DIVERGENCE)


def other_than_eager(
    job: Job, attempt: Attempt, regions: FloatRegions, strict: bool, met: list[Trouble]
) -> Iterator[list[Trouble]]:
    """Lists of troubles, the next for where none of one before it helps; none where all is equal.

    Args:
        job, attempt, regions: of the trace.
        strict: whether answers about sizes stay built in.
        met: what was met in traces before it.
    """
    inputs = bind_inputs(job.model, job.example_inputs)
    results, equal, gradients = _called(job, attempt, inputs)
    if not equal and len(results) < 2:
        return
    if not equal and same_results(*results):
        path = _where_it_parts(job, regions, strict, inputs)
        inside = [item for item in met if _is_inside(item.fact.module_path, path)]
        yield inside
        yield [Trouble(_divergence(job.model, path, "the example"), spots_around(path))]
    elif not equal and _differs_unseen(attempt, met):
        path = _where_eager_differs(job, inputs)
        yield [Trouble(_divergence(job.model, path, "the example, and eager not what it does"), spots_around(path))]
    else:
        yield from _other_after_calls(job, attempt, strict, met, inputs, gradients)


def _called(job: Job, attempt: Attempt, inputs: BoundInputs) -> tuple[list[Any], bool, bool]:
    """Call eager, again where it computes something else than a trace, or fails.

    Returns:
        Results of up to two calls; whether the last is that of the trace; whether parameters had gradients in it.
    """
    results, equal = list[Any](), False
    for gradients in (False, True, False):  # forward may ask whether parameters have them, and may refuse it
        is_own = attempt.is_pristine and not results
        try:
            with attempt.without_parts() if is_own else nullcontext(copy_module(job.model, job.parameters)) as copied:
                results.append(Eager(job.model, gradients=gradients, copied=copied).call(inputs))
        except Exception:  # it may run once only: an iterator among its inputs is used up
            continue
        finally:
            attempt.outer.restore()
            if is_own:
                attempt.was_called()
            else:
                job.parameters.put_back()
        equal = same_results(results[-1], attempt.tracer.result)
        if equal or len(results) == 2:
            break
    return results, equal, gradients


def _other_after_calls(
    job: Job, attempt: Attempt, strict: bool, met: list[Trouble], inputs: BoundInputs, gradients: bool
) -> Iterator[list[Trouble]]:
    """The same for a graph that is called several times, and under other circumstances, where that may matter."""

    def restore() -> None:
        attempt.was_called()
        attempt.state.restore()
        attempt.outer.restore()
        attempt.tracer.views.restore()

    answers = attempt.tracer.answers
    titles = calls_to_try(attempt.tracer.constants.values(), attempt.tracer.recorder.facts, inputs)
    if not (titles or answers.of_gradients or answers.of_memory):
        return
    attempt.was_called()
    traced = fx.GraphModule(attempt.root, attempt.graph)  # made before parts are taken off the root
    other = Circumstances(job.model, traced, inputs, restore)
    if answers.of_gradients and not strict and other.matter_for_gradients():
        yield answers.of_gradients
    if answers.of_memory and not strict and other.matter_for_memory():
        yield answers.of_memory
    if titles:
        title = parts_from_eager(job.model, traced, inputs, titles, restore, gradients)
        if title:
            yield met
            yield [Trouble(_divergence(job.model, "", title), spots_around(""))]


def _differs_unseen(attempt: Attempt, met: list[Trouble]) -> bool:
    """Whether nothing that a trace met says why eager gives something else at every call."""
    facts = (*attempt.tracer.recorder.facts, *(item.fact for item in met))
    return not any(fact.kind in _DRAWS for fact in facts)


def _where_eager_differs(job: Job, inputs: BoundInputs) -> str:
    """Path of the module in which eager computes something else than in another call of the same."""
    marks = []
    for _ in range(2):
        marks.append(Marks())
        outer = OuterState(job.held)
        try:
            Eager(job.model, marks[-1]).call(inputs)
        finally:
            outer.restore()
    return first_difference(*marks)


def _where_it_parts(job: Job, regions: FloatRegions, strict: bool, inputs: BoundInputs) -> str:
    """Path of the module in which a trace computes something else than eager."""
    expected, found = Marks(), Marks()
    eager = Eager(job.model, expected)
    try:
        eager.call(inputs)
    finally:
        make_attempt(job, regions, strict, found).outer.restore()
    return first_difference(expected, found)


def _divergence(model: nn.Module, path: str, title: str) -> Fact:
    code = getattr(inspect.unwrap(type(model.get_submodule(path)).forward), "__code__", None)
    file, line = ("", 0) if code is None else (code.co_filename, code.co_firstlineno)
    text = linecache.getline(file, line).strip()
    value = f"what is traced there is not what eager computes on {title}"
    return Fact(FactKind.DIVERGENCE, file, line, text, path, "", value)


def _is_inside(path: str, around: str) -> bool:
    return not around or path == around or path.startswith(f"{around}.")
