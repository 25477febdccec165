"""Where something changes: in which calls, and while which module runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from torch import nn

from fxquant.capture.attribute_uses import Functions, is_attribute, spots_of_uses
from fxquant.capture.call_history import run_eagerly
from fxquant.capture.copy_module import copy_module
from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.keep_state import Change
from fxquant.capture.trouble import Spot, spots_around

CLASS = "__class__"
"""The attribute of a module that tells its class: every call reads it."""
_TABLES = ("_modules", "_parameters", "_buffers")
_Key = TypeVar("_Key", bound=Hashable)


def changing_again(model: nn.Module, example_inputs: Any, values: Mapping[_Key, Callable[[], Any]]) -> set[_Key]:
    """Keys of what another call on the same inputs changes again: it counts, or collects.

    Args:
        model: a copy; it is called.
        example_inputs: of the capture.
        values: read what a call may change.
    """
    seen = []
    for _ in range(3):
        try:
            run_eagerly(model, example_inputs)
        except Exception:  # it counts its calls
            return set(values)
        seen.append({key: fingerprint(read(), identity=False) for key, read in values.items()})
    return {key for key in values if seen[1][key] != seen[2][key]}


def spots_of_change(model: nn.Module, change: Change, example_inputs: Any, functions: Functions) -> tuple[Spot, ...]:
    """What could be kept whole around an attribute and all that changes it, be it the forward of another module."""
    path = _changed_inside(model, change, example_inputs)
    if path != change.module_path:
        return spots_around(path)
    module = model.get_submodule(path)
    return (*spots_of_uses(module, functions, functools.partial(is_attribute, change.name)), *spots_around(path))


def _changed_inside(model: nn.Module, change: Change, example_inputs: Any) -> str:
    """Path of the innermost module around an attribute that changes while that module runs, and at no other time."""
    spots = spots_around(change.module_path)
    return next((spot.path for spot in spots if not _changes_outside(model, spot.path, change, example_inputs)), "")


def _changes_outside(model: nn.Module, path: str, change: Change, example_inputs: Any) -> bool:
    """Whether an attribute changes while a module does not run; also where it cannot be told."""
    copied = copy_module(model)
    module, read = copied.get_submodule(path), reading(copied, change)
    left, elsewhere = [fingerprint(read(), identity=False)], list[bool]()

    def enter(*_: Any) -> None:
        elsewhere.append(fingerprint(read(), identity=False) != left[-1])

    def leave(*_: Any) -> None:
        left.append(fingerprint(read(), identity=False))

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
    try:
        run_eagerly(copied, example_inputs)
    except Exception:  # it refuses to be called again
        return True
    enter()
    return any(elsewhere)


def reading(model: nn.Module, change: Change) -> Callable[[], Any]:
    """Reads an attribute of a copy."""
    module = model.get_submodule(change.module_path)
    if change.name == CLASS:
        return lambda: id(type(module))
    space = vars(module)
    tables = [space, *(space[name] for name in _TABLES)]
    return lambda: next((table[change.name] for table in tables if change.name in table), None)
