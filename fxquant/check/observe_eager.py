"""Running the model as eager does, once watched, and once more where something changed that outlives the call."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import split_inputs
from fxquant.capture.outer_state import OuterState
from fxquant.check.compare import Outcome, compare, leaves
from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation
from fxquant.check.probes import Example, fresh, value_probes
from fxquant.check.run_model import call, gradient_mode, gradients_recorded, seed_all
from fxquant.check.source_tree import Sources
from fxquant.check.state_slots import SlotKey, is_shared, slots_of
from fxquant.check.static_pass import StaticPass
from fxquant.check.user_frames import Places
from fxquant.check.watch_eager import EagerWatch
from fxquant.check.watch_state import StateWatch, changed, read_all
from fxquant.errors import CaptureError
from fxquant.ir.walk_modules import Inventory

_UPDATES = (
    FindingKind.ATTRIBUTE_UPDATE, FindingKind.CONTAINER_UPDATE, FindingKind.BUFFER_UPDATE, FindingKind.GLOBAL_UPDATE,
)  # fmt: skip


@dataclass(frozen=True)
class EagerRun:
    """What was seen of a model that runs untraced.

    Attributes:
        seen: in the order in which it happened; what is only in the source comes last.
        keeps_state: whether the model changes what outlives a call.
        writes_parameters: whether it writes into parameters.
        lines: (file, line) of the user's lines that ran.
        modules: by such a line, paths of the modules whose forward ran it.
        codes: code objects of the user's functions that ran, in either mode.
        needs_gradients: whether the model runs with gradients on only.
    """

    seen: list[Observation]
    keeps_state: bool
    writes_parameters: bool
    lines: set[tuple[str, int]]
    modules: dict[tuple[str, int], set[str]]
    codes: tuple[CodeType, ...]
    needs_gradients: bool = False


def observe_eager(model: nn.Module, inputs: Any, sources: Sources) -> EagerRun:
    """Run a model, and write down what a graph of it would not hold.

    Args:
        model: not changed.
        inputs: in the form of the example inputs.
        sources: parsed files.

    Raises:
        CaptureError: the model does not run on the inputs.
    """
    outer = OuterState(Inventory(model))
    try:
        return _observed(model, inputs, sources)
    except Exception:
        outer.restore()
        needed = call(copy_module(model), inputs, gradients=True).error is None
        if not needed or call(copy_module(model), inputs).error is None:
            _require_runs(model, inputs, sources)
            raise
    outer.restore()
    with gradients_recorded():
        return replace(_observed(model, inputs, sources), needs_gradients=True)


def _observed(model: nn.Module, inputs: Any, sources: Sources) -> EagerRun:
    copy = copy_module(model)
    places = Places(copy, sources)
    slots, outer = slots_of(copy), OuterState(Inventory(copy))
    seed_all()
    before = read_all(slots)
    watch = _watched(copy, inputs, places)
    keys = {slot.key for slot in changed(slots, before)}
    outer.restore()  # what is added to a set a second time does not change it
    settled = _settled(model, inputs) if keys else frozenset()
    outer.restore()
    seen = [*watch.observations, *(_state_changes(model, inputs, sources, keys) if keys else ())]
    outer.restore()
    seen = [_with_settled(item, settled) for item in seen]
    lines = {code: set(ran) for code, ran in watch.lines.items()}
    other, other_writes = _in_the_other_mode(model, inputs, sources, lines, {item.key for item in seen})
    seen += other
    static = StaticPass(copy, watch.lines, lines, places, {(item.place.file, item.place.line) for item in seen})
    seen += [*static.on_lines_that_ran(), *static.run()]
    reached = {(code.co_filename, line) for code, ran in watch.lines.items() for line in ran}
    parameters = {name.rpartition(".")[::2] for name, _ in copy.named_parameters(remove_duplicate=False)}
    writes = other_writes or any(key[:2] in parameters for key in keys)
    modules = {(code.co_filename, line): watch.modules[code] for code, ran in watch.lines.items() for line in ran}
    return EagerRun(seen, any(not is_shared(key) for key in keys), writes, reached, modules, tuple(lines))


def _watched(model: nn.Module, inputs: Any, places: Places) -> EagerWatch:
    given = fresh(inputs)
    tensors = [item for _, item in leaves(split_inputs(given)) if isinstance(item, Tensor)]
    watch = EagerWatch(model, tensors, places)
    watch.call(given)
    return watch


def _state_changes(model: nn.Module, inputs: Any, sources: Sources, which: set[SlotKey]) -> list[Observation]:
    """The lines that change some slots."""
    copy = copy_module(model)
    slots = [slot for slot in slots_of(copy) if slot.key in which]
    args, kwargs = split_inputs(fresh(inputs))
    seed_all()
    watch = StateWatch(slots, Places(copy, sources))
    with gradient_mode(), warnings.catch_warnings(), watch.watching():
        warnings.simplefilter("ignore")
        copy(*args, **kwargs)
    return list(watch.observations)


def _settled(model: nn.Module, inputs: Any) -> frozenset[str]:
    """Names of what a first call sets and a second one leaves equal, when both return the same: caches and scratch."""
    copy = copy_module(model)
    first = call(copy, inputs)
    before = {slot.key: slot.read(identity=False) for slot in slots_of(copy)}
    second = call(copy, inputs)
    after = {slot.key: slot.read(identity=False) for slot in slots_of(copy)}
    other = next(value_probes(Example.of(model, inputs))).inputs
    alone, after_first = call(copy_module(model), other), call(copy, other)
    pairs = [(first, second)] if alone.error is not None else [(first, second), (alone, after_first)]
    if any(compare(one.value, two.value).outcome is not Outcome.EXACT for one, two in pairs):
        return frozenset()
    moved = {key[1] for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return frozenset(key[1] for key in after) - moved


def _with_settled(seen: Observation, settled: frozenset[str]) -> Observation:
    names = seen.value.removeprefix("self.").split(", ")
    if seen.kind not in _UPDATES or not seen.value or "training" in names or not settled.issuperset(names):
        return seen
    return replace(seen, handled="the result does not depend on it: a second call returns the same and leaves it equal")


def _in_the_other_mode(
    model: nn.Module, inputs: Any, sources: Sources, lines: dict[CodeType, set[int]], known: set[object]
) -> tuple[list[Observation], bool]:
    """What happens in the mode that the model is not in, and whether parameters are written to there.

    The lines that run there are added to ``lines``.
    """
    copy = copy_module(model).train(not model.training)
    slots = slots_of(copy)
    before, start = _contents(copy), read_all(slots)
    try:
        watch = _watched(copy, inputs, Places(copy, sources))
    except Exception:  # it may not run there
        return [], True
    for code, ran in watch.lines.items():
        lines.setdefault(code, set()).update(ran)
    mode = "training" if copy.training else "eval"
    writes = _contents(copy) != before
    keys = {slot.key for slot in changed(slots, start)}
    fresh_copy = copy_module(model).train(copy.training)
    seen = [*watch.observations, *(_state_changes(fresh_copy, inputs, sources, keys) if keys else ())]
    return [replace(item, mode=mode) for item in seen if item.key not in known], writes


def _contents(model: nn.Module) -> list[tuple[int, complex]]:
    """Versions and sums of the parameters."""
    with torch.no_grad():
        return [(item._version, complex(item.detach().sum())) for item in model.parameters()]


def _require_runs(model: nn.Module, inputs: Any, sources: Sources) -> None:
    copy = copy_module(model)
    error = call(copy, inputs).error
    if error is None:
        return
    place = Places(copy, sources).of_error(error)
    raise CaptureError(
        f"{type(model).__name__} does not run on the example inputs: {type(error).__name__}: {error}",
        module_path=place.module_path,
        source=f"{place.file}:{place.line}" if place.file else "",
        remedy="pass inputs as the model takes them: a tuple of positional ones, or a dict of keyword ones",
    ) from error
