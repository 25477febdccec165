"""One attempt to trace a model, with some of its parts kept whole."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.against_eager import Marks
from fxquant.capture.copy_module import plain_tensors, prepare_copy
from fxquant.capture.end_early import MOST_ROUNDS
from fxquant.capture.find_outer_state import find_outer_state
from fxquant.capture.find_state import find_state
from fxquant.capture.find_unseen_state import find_unseen_state
from fxquant.capture.float_regions import FloatRegions
from fxquant.capture.half_precision import HalfPrecision, to_float32
from fxquant.capture.inputs import BoundInputs, bind_inputs, copy_tensors
from fxquant.capture.keep_state import ModelState, randomness_kept, version_of
from fxquant.capture.outer_state import OuterState
from fxquant.capture.own_thread import ONE_CAPTURE
from fxquant.capture.patches import patched
from fxquant.capture.shared_parameters import SharedParameters
from fxquant.capture.trace_settings import TraceSettings
from fxquant.capture.tracer import ValueTracer
from fxquant.capture.trouble import Trouble
from fxquant.capture.varying_lists import Path
from fxquant.ir.float_part import FloatPart
from fxquant.ir.walk_modules import Inventory


@dataclass(frozen=True)
class Job:
    """What every attempt to trace a model is given.

    Attributes:
        held: the model, and what it holds.
        example_inputs, leaf_classes: as for ``trace_model``.
        trains: whether the graph is to be trained.
        half: of a model in half precision.
        varying: lists among the inputs that may be of any length.
        versions: see ``ValueTracer``.
        changing: names of buffers that training changes, whatever they are asked for in evaluation.
        parameters: of the model, for all its copies.
        spare: copies that traces which found something left as they were, for the next trace.
    """

    held: Inventory
    example_inputs: Any
    leaf_classes: Collection[type[nn.Module]]
    trains: bool
    half: HalfPrecision | None
    varying: frozenset[Path]
    versions: dict[int, tuple[Tensor, int]]
    changing: frozenset[str]
    parameters: SharedParameters
    spare: list[Copied] = field(default_factory=list)

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self.held.model


@dataclass(frozen=True)
class Copied:
    """A copy of the model, to be traced.

    Attributes:
        held: the copy, and what it holds.
        state, outer: how it, and what is outside of it, are before.
    """

    held: Inventory
    state: ModelState
    outer: OuterState


@dataclass
class Attempt:
    """One trace.

    Attributes:
        job: what it was given.
        root: the copy that was traced. graph: what was recorded.
        tracer: what recorded it.
        state, outer: how the copy, and what is outside of it, were before.
        troubles: what no graph can hold.
        ended_by: what other sizes answer differently, where the trace ended before the model did because of it.
        is_pristine: whether the root is still the copy of the model that it was before the trace, but for parts that
            run as Python and were put on it.
    """

    job: Job
    root: nn.Module
    graph: fx.Graph
    tracer: ValueTracer
    state: ModelState
    outer: OuterState
    troubles: list[Trouble]
    ended_by: list[Trouble]
    is_pristine: bool = False

    def was_called(self) -> None:
        """The copy, or the graph, was called after the trace: what it holds is to be looked at again."""
        self.state.parameters_hold = self.job.parameters.are_as_given = False

    @contextmanager
    def without_parts(self) -> Iterator[nn.Module]:
        """Inside, nothing that the trace put on the root is there."""
        held = vars(self.root)
        every = held["_modules"]
        held["_modules"] = {name: item for name, item in every.items() if name not in self.tracer.constants}
        try:
            yield self.root
        finally:
            held["_modules"] = every


def make_attempt(job: Job, regions: FloatRegions, strict: bool, marks: Marks | None = None) -> Attempt:
    """Trace once, leaving the random state as it was; ``marks`` gets the results of modules."""
    model, half = job.model, job.half
    with torch.inference_mode(False):
        inputs = bind_inputs(model, job.example_inputs)
        plain = plain_tensors(job.held)
        change = to_float32 if half is not None else _as_is
        values = tuple((name, how, copy_tensors(value, change)) for name, how, value in inputs.entries)
        copied = job.spare.pop() if job.spare else _copied(job, plain)
        held, state, outer, root = copied.held, copied.state, copied.outer, copied.held.model
        settings = _settings(job, regions, strict, marks, not inputs.share_memory, plain)
        for tensor in state.loose_tensors():
            job.versions[id(tensor)] = tensor, version_of(tensor)
        tracer = ValueTracer(BoundInputs(values), settings)
        with ExitStack() as stack:
            stack.enter_context(ONE_CAPTURE)
            stack.callback(outer.restore)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(randomness_kept())
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.fx")
            for undo in regions.install(tracer):
                stack.callback(undo)
            stack.enter_context(patched(tracer, held.classes))
            graph = tracer.trace_all(held)
            changed = outer.changed()
    troubles, ended_by, is_pristine = tracer.recorder.troubles, tracer.answers.checks.early_end.found, False
    is_changed = changed or plain or regions.modules or not all(map(_is_part, tracer.constants.values()))
    if (troubles or ended_by) and not (is_changed or tracer.constants) and not state.changes():
        job.parameters.are_as_given = state.parameters_hold
        job.spare.append(copied)
    if not troubles and not regions.whole and not ended_by:
        seen_to = {(item.module_path, item.name) for item in outer.held if item.attribute and not item.place}
        every = state.changes()
        if state.writes_parameters and not job.parameters.in_one_memory:
            job.parameters.in_one_memory = True
            return make_attempt(job, regions, strict, marks)
        job.parameters.are_as_given = state.parameters_hold
        is_pristine = not (every or is_changed)
        changes = [item for item in every if (item.module_path, item.name) not in seen_to]
        changes += tracer.writes.replaced
        if tracer.layers.used and (changes or changed):
            regions.each_layer = True
            return make_attempt(job, regions, strict, marks)
        troubles = find_state(model, root, changes, tracer, job.example_inputs, regions.modules, job.changing)
        if changed:
            troubles += find_outer_state(model, changed, tracer, job.example_inputs, regions.has_line)
        if not troubles:
            troubles = find_unseen_state(job.held, job.example_inputs, regions.has_line_of, bool(regions.modules))
    return Attempt(job, root, graph, tracer, state, outer, troubles, ended_by, is_pristine)


def _copied(job: Job, plain: frozenset[str]) -> Copied:
    root = prepare_copy(job.held, plain, job.parameters)
    held = Inventory(root.float() if job.half is not None else root)
    return Copied(held, ModelState(held, job.held), OuterState(held))


def _settings(
    job: Job, regions: FloatRegions, strict: bool, marks: Marks | None, inputs_apart: bool, plain: frozenset[str]
) -> TraceSettings:
    """How the next trace is done."""
    return TraceSettings(
        leaf_names=frozenset(regions.modules),
        leaf_classes=tuple(job.leaf_classes),
        whole=regions.whole,
        trains=job.trains,
        varying=job.varying,
        precision=job.half,
        inputs_apart=inputs_apart,
        plain_tensors=plain,
        versions=job.versions,
        sizes_built_in=strict,
        refused=regions.refused,
        chosen=regions.chosen,
        rejected_before=regions.rejected,
        looked_at=regions.looked_at,
        ends_early=regions.rounds < MOST_ROUNDS,
        each_layer=regions.each_layer or marks is not None or job.half is not None,
        watched=regions.watched,
        marks=marks,
    )


def _is_part(constant: Any) -> bool:
    return isinstance(constant, FloatPart)


def _as_is(tensor: Tensor) -> Tensor:
    return tensor
