"""Tracing a module: a copy of it and example inputs in, a graph with descriptions of its values out."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.attempt import Attempt, Job, make_attempt
from fxquant.capture.check_root import check_root
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.float_regions import FloatRegions
from fxquant.capture.half_precision import HalfPrecision, widen_inputs
from fxquant.capture.inputs import split_inputs
from fxquant.capture.other_than_eager import other_than_eager
from fxquant.capture.own_objects import require_no_identity
from fxquant.capture.probe_sizes import probe_sizes
from fxquant.capture.read_outside import is_read_around, watch_parts
from fxquant.capture.run_eager import run_eager
from fxquant.capture.run_hooks import remove_hooks
from fxquant.capture.shared_parameters import SharedParameters
from fxquant.capture.trouble import Trouble
from fxquant.capture.varying_lists import varying_lists
from fxquant.capture.written_inputs import check_written_inputs
from fxquant.errors import CaptureError
from fxquant.ir.checks import require_computed
from fxquant.ir.float_part import COMPUTES, EFFECTS, HOLDS, PYTHON, WRITES, FloatPart, runs_user_code
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.walk_modules import Inventory

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


def trace_model(
    model: nn.Module,
    example_inputs: Any,
    *,
    leaf_names: Collection[str] = (),
    leaf_classes: Collection[type[nn.Module]] = (),
    strict: bool = False,
    trains: bool = False,
    changing: Collection[str] = (),
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
        changing: names of buffers that training changes: what they are asked for is asked anew at every call.

    Returns:
        The trace, in the user's parameter names. float16 and bfloat16 models are traced in float32
        with conversions at their inputs and outputs.

    Raises:
        CaptureError: the model is no plain module, the inputs do not fit, the model fails on them; when ``strict``, the
            model does something that no graph can hold.
    """
    check_root(model, leaf_names)
    held = Inventory(model)
    regions = FloatRegions(
        set(leaf_names),
        no_containers=_no_containers(held),
        is_read_around=functools.partial(is_read_around, model),
        is_weightless=functools.partial(_is_weightless, model),
    )
    require_no_identity(held, example_inputs)
    half = HalfPrecision.of(held, example_inputs)
    varying = varying_lists(model, example_inputs)
    trains = trains or model.training
    parameters = SharedParameters(held.parameters)
    job = Job(held, example_inputs, leaf_classes, trains, half, varying, {}, frozenset(changing), parameters)
    rounds = _Rounds(job, regions, strict)
    for _ in range(_ROUNDS):
        attempt = make_attempt(job, regions, strict)
        if rounds.is_last(attempt):
            return _finish(model, attempt, rounds.met, half)
    # What sizes decide is built in.
    attempt = make_attempt(job, regions, True)
    if attempt.troubles:
        raise _refusal(attempt.troubles)
    return _finish(model, attempt, rounds.met, half)


class _Rounds:
    """Traces of one model, each with more of its parts kept whole, until nothing is in the way.

    Args:
        job, regions: of the traces.
        strict: whether what is in the way is an error.

    Attributes:
        met: what was in the way, and what is kept whole for it.
    """

    def __init__(self, job: Job, regions: FloatRegions, strict: bool) -> None:
        self.met: list[tuple[Trouble, str]] = []
        self._job, self._regions, self._strict = job, regions, strict
        self._eager_runs = False

    def is_last(self, attempt: Attempt) -> bool:
        """Whether nothing is in the way of a trace; else more is kept whole in the next one.

        Raises:
            CaptureError: nothing can be kept whole for it, or nothing may be; or the model itself fails.
        """
        regions = self._regions
        if self._has_rejected(attempt):
            return False
        failed = any(trouble.fact.kind is FactKind.ERROR for trouble in attempt.troubles)
        if failed and not self._strict and not self._eager_runs:
            _require_eager(self._job.model, self._job.example_inputs)
            self._eager_runs = True
        regions.begin_round()
        before = [trouble for trouble, _ in self.met]
        for troubles in filter(None, _in_the_way(self._job, attempt, regions, self._strict, before)):
            if self._strict:
                raise _refusal(troubles)
            if self._keeps(troubles):
                return False
            if attempt.troubles and not any(trouble.optional for trouble in troubles):
                raise _refusal(troubles)
        if regions.each_layer and attempt.tracer.layers.used:
            return False
        return not attempt.troubles and not attempt.ended_by

    def _has_rejected(self, attempt: Attempt) -> bool:
        """Whether a trace found parts that may not be kept whole."""
        for cut in dict.fromkeys(attempt.tracer.rejected):
            self._regions.reject(cut)
            self.met = [(trouble, title) for trouble, title in self.met if title != str(cut)]
        return bool(attempt.tracer.rejected)

    def _keeps(self, troubles: list[Trouble]) -> bool:
        """Whether something is kept whole for what was met that was not before."""
        kept = [(trouble, self._regions.keep(trouble)) for trouble in troubles]
        found = [(trouble, title) for trouble, title in kept if title]
        self.met += found
        return bool(found)


def _no_containers(held: Inventory) -> frozenset[str]:
    """Names of attributes that are tensors and modules of the model."""
    paths = (path for path, _ in (*held.tensors, *held.plain_tensors, *held.modules))
    return frozenset(path.rpartition(".")[2] for path in paths)


def _is_weightless(model: nn.Module, path: str) -> bool:
    """Whether a part of the model has no weights that could be int8."""
    return bool(path) and not any(item.dim() > 1 for item in model.get_submodule(path).parameters())


def _in_the_way(
    job: Job, attempt: Attempt, regions: FloatRegions, strict: bool, met: list[Trouble]
) -> Iterator[list[Trouble]]:
    """What a trace met; where that is nothing, what makes its graph wrong: one list after the other until one helps.

    Args:
        job, attempt, regions: of the trace.
        strict: whether answers about sizes stay built in.
        met: what was met in traces before it.
    """
    if attempt.troubles or attempt.ended_by:
        yield [*attempt.troubles, *attempt.ended_by]
        return
    if not strict:
        tracer = attempt.tracer
        questions, repeated = tracer.answers.checks.questions, tracer.layers.repeated
        yield probe_sizes(attempt.root, attempt.graph, tracer.inputs, questions, repeated)
    watch_parts(attempt.root, attempt.graph, _parts(attempt))
    if job.half is None and not regions.whole:
        for found in other_than_eager(job, attempt, regions, strict, [item for item in met if not item.optional]):
            if attempt.tracer.layers.used:
                regions.each_layer = True
                return
            yield found


def _parts(attempt: Attempt) -> list[FloatPart]:
    """The parts of a trace that run as Python."""
    return [item for item in attempt.tracer.constants.values() if isinstance(item, FloatPart)]


def _finish(model: nn.Module, attempt: Attempt, met: list[tuple[Trouble, str]], half: HalfPrecision | None) -> Traced:
    """The result of a trace without trouble: the copy as it was before, with what nodes refer to."""
    root, tracer = attempt.root, attempt.tracer
    if half is not None:
        half.require_same(tracer.result, tracer.answers.of_dtype)
    attempt.state.restore()
    attempt.outer.restore()
    tracer.views.restore()
    causes = _causes(met)
    for name, value in tracer.constants.items():
        if isinstance(value, FloatPart):
            value.learns = False
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
    if tracer.answers.caught:
        _keep_caught(attempt.graph, tracer.answers.caught)
    if tracer.settings.inputs_apart:
        check_written_inputs(attempt.graph, tracer.ranks.is_given)
    if half is not None:
        widen_inputs(attempt.graph, half.dtype)
    facts = dict.fromkeys((*_kept(met, tracer.constants.values()), *tracer.recorder.facts))
    return Traced(root, attempt.graph, tuple(facts), tuple(_notes(met)), None if half is None else half.dtype)


def _mark_effects(root: nn.Module, graph: fx.Graph) -> None:
    """Mark the calls of the user's Python, and among them of what may do more than compute."""
    for node in graph.find_nodes(op="call_module"):
        called = root.get_submodule(str(node.target))
        if isinstance(called, FloatPart):
            node.meta[PYTHON], node.meta[WRITES] = HOLDS if called._modules else COMPUTES, called.writes
        if runs_user_code(called):
            node.meta[EFFECTS] = True


def _keep_caught(graph: fx.Graph, caught: Collection[fx.Node]) -> None:
    """Keep operations whose results nobody reads, and whose errors forward catches."""
    for node in [node for node in graph.nodes if node in caught]:  # some were taken out of it again
        if not node.users:
            with graph.inserting_after(node):
                check = graph.call_function(require_computed, (node,))
            set_info(check, NodeInfo(origin=info(node).origin, origins=(check.name,)))


def _kept(met: list[tuple[Trouble, str]], constants: Iterable[object]) -> Iterator[Fact]:
    """What is handled by keeping parts whole, in every module that runs such a part."""
    modules: dict[str, list[str]] = {}
    for part in constants:
        if isinstance(part, FloatPart):
            modules.setdefault(part.title, []).append(part.module_path)
    everywhere = set[Fact]()
    for trouble, title in met:
        fact = replace(trouble.fact, handled=f"runs as Python, in float: {title}")
        yield fact
        anywhere = replace(fact, module_path="")
        if anywhere not in everywhere:  # deep models meet the same in each of many layers
            everywhere.add(anywhere)
            yield from (replace(fact, module_path=path) for path in modules.get(title, ()))


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
        run_eager(model, *split_inputs(example_inputs), gradients=True)  # forward may ask for some
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} itself fails on example_inputs: {type(error).__name__}: {error}",
            remedy="pass example_inputs on which the model runs",
        ) from error
