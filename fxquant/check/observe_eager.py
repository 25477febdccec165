"""Running the model as eager does, once watched, and once more where something changed that outlives the call."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.inputs import split_inputs
from fxquant.capture.trace_model import copy_module
from fxquant.check.compare import leaves
from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation
from fxquant.check.probes import fresh
from fxquant.check.run_model import call, seed_all
from fxquant.check.source_tree import Sources
from fxquant.check.state_slots import slots_of
from fxquant.check.static_pass import StaticPass
from fxquant.check.user_frames import Places
from fxquant.check.watch_eager import EagerWatch
from fxquant.check.watch_state import StateWatch, changed, read_all
from fxquant.errors import CaptureError


@dataclass(frozen=True)
class EagerRun:
    """What was seen of a model that runs untraced.

    Attributes:
        seen: in the order in which it happened; what is only in the source comes last.
        keeps_state: whether the model changes what outlives a call.
    """

    seen: list[Observation]
    keeps_state: bool


def observe_eager(model: nn.Module, inputs: Any, sources: Sources) -> EagerRun:
    """Run a model, and write down what a graph of it would not hold.

    Args:
        model: not changed.
        inputs: in the form of the example inputs.
        sources: parsed files.

    Raises:
        CaptureError: the model does not run on the inputs.
    """
    _require_runs(model, inputs, sources)
    copy, given = copy_module(model), fresh(inputs)
    places = Places(copy, sources)
    slots = slots_of(copy)
    seed_all()
    before = read_all(slots)
    tensors = [item for _, item in leaves(split_inputs(given)) if isinstance(item, Tensor)]
    watch = EagerWatch(copy, tensors, places)
    watch.call(given)
    later = {(slot.owner, slot.name, slot.kind) for slot in changed(slots, before)}
    seen = [*watch.observations, *(_state_changes(model, inputs, sources, later) if later else ())]
    static = StaticPass(copy, watch.lines, places)
    seen += [*static.training_reads(), *static.run()]
    kept = {kind for _, _, kind in later} - {FindingKind.PYTHON_RANDOM}
    return EagerRun(seen, bool(kept))


def _state_changes(
    model: nn.Module, inputs: Any, sources: Sources, which: set[tuple[str, str, FindingKind]]
) -> list[Observation]:
    copy = copy_module(model)
    slots = [slot for slot in slots_of(copy) if (slot.owner, slot.name, slot.kind) in which]
    args, kwargs = split_inputs(fresh(inputs))
    seed_all()
    watch = StateWatch(slots, Places(copy, sources))
    with torch.no_grad(), warnings.catch_warnings(), watch.watching():
        warnings.simplefilter("ignore")
        copy(*args, **kwargs)
    return list(watch.observations)


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
