"""What a call in training mode changes: buffers, and attributes that evaluation reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fxquant.capture.against_eager import same_results
from fxquant.capture.call_history import run_eagerly
from fxquant.capture.copy_module import copy_module
from fxquant.capture.keep_state import Change, ModelState, holds
from fxquant.capture.outer_state import OuterState
from fxquant.ir.walk_modules import OF_EVERY_MODULE, Inventory

_MANY = 10**6  # calls in training, of what counts them


@dataclass(frozen=True)
class ChangedByTraining:
    """What a call in training mode changes; nothing where it fails on the example.

    Attributes:
        buffers: their names.
        modules: paths of those with attributes that evaluation reads. Not those with buffers alone: graphs have these
            in common with the model.
    """

    buffers: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def changed_by_training(model: nn.Module, example_inputs: Any) -> ChangedByTraining:
    """Call a copy of a model in training mode, once, and tell what that changed."""
    copy, untouched = copy_module(model).train(), copy_module(model)
    state, outer = ModelState(Inventory(copy), Inventory(untouched)), OuterState(Inventory(copy))
    try:
        run_eagerly(copy, example_inputs)
        return ChangedByTraining(_buffers(copy, untouched), _modules(model, example_inputs, copy, state))
    except Exception:  # it may want targets
        return ChangedByTraining()
    finally:
        outer.restore()


def _buffers(copy: nn.Module, untouched: nn.Module) -> tuple[str, ...]:
    before = dict(untouched.named_buffers())
    return tuple(name for name, item in copy.named_buffers() if name not in before or not holds(item, before[name]))


def _modules(model: nn.Module, example_inputs: Any, copy: nn.Module, state: ModelState) -> tuple[str, ...]:
    changes = [item for item in state.changes() if not item.tensor and _is_attribute(copy, item)]
    owners = list(dict.fromkeys(item.module_path for item in changes))
    try:
        expected = run_eagerly(copy_module(model).eval(), example_inputs) if changes else None
        return tuple(path for path in owners if not _is_alike(model, example_inputs, copy, changes, path, expected))
    except Exception:  # evaluation may fail on it
        return ()


def _is_attribute(model: nn.Module, change: Change) -> bool:
    """Whether a change is one of a plain attribute, and no mode."""
    owner = model.get_submodule(change.module_path)
    return change.name != "training" and change.name in vars(owner) and change.name not in OF_EVERY_MODULE


def _is_alike(
    model: nn.Module, example_inputs: Any, trained: nn.Module, changes: list[Change], path: str, expected: Any
) -> bool:
    """Whether evaluation computes the same with what training made, and would make, of the attributes of a module."""
    for times in (1, _MANY):
        other = copy_module(model).eval()
        held, made = vars(other.get_submodule(path)), vars(trained.get_submodule(path))
        for change in (item for item in changes if item.module_path == path):
            before, after = held.get(change.name), made[change.name]
            counts = isinstance(before, (int, float)) and isinstance(after, (int, float))
            held[change.name] = before + times * (after - before) if counts and times > 1 else after
        if not same_results(expected, run_eagerly(other, example_inputs)):
            return False
    return True
