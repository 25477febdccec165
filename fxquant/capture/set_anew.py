"""Attributes that forward sets before it reads them, in each call: what decoders keep while they loop over steps.

``self.h = x.new_zeros(...)``, then ``self.h = self.cell(x[:, t], self.h)`` for each step: the attribute is updated from
what it was, and yet no call computes something else because of the call before. Told by calling a copy of the model in
which it is something that notices when it is used.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn

from torch import nn

from fxquant.capture.against_eager import same_results
from fxquant.capture.call_history import run_eagerly
from fxquant.capture.copy_module import copy_module
from fxquant.capture.keep_state import Change, by_name, spaces_of

_OF_OBJECTS = frozenset(("__class__", "__new__", "__init__", "__init_subclass__", "__subclasshook__", "__doc__"))
_SPECIAL = frozenset(
    name
    for kind in (int, float, list, dict, set, str)
    for name in dir(kind)
    if name.startswith("__") and name.endswith("__")
)
_ALL = (_SPECIAL | {"__bool__", "__call__", "__matmul__", "__imatmul__", "__next__", "__index__"}) - _OF_OBJECTS


def set_anew(model: nn.Module, example_inputs: Any, changes: Collection[Change]) -> set[Change]:
    """Those attributes whose value before a call nothing in the call uses.

    Args:
        model: the user's; copies of it are called.
        example_inputs: of the capture.
        changes: attributes of the user's that a call sets.
    """
    if not changes:
        return set()
    try:
        expected = run_eagerly(copy_module(model), example_inputs)
    except Exception:  # it needs the calls before
        return set()
    if _are_unused(model, example_inputs, changes, expected):
        return set(changes)
    names = by_name(changes)
    alike = names if len(names) > 1 else ()
    return {change for found in alike if _are_unused(model, example_inputs, found, expected) for change in found}


def _are_unused(model: nn.Module, example_inputs: Any, changes: Collection[Change], expected: Any) -> bool:
    """Whether a call computes the same, whatever some attributes are before."""
    copied, used = copy_module(model), list[str]()
    stand_in = _noticing(used)
    spaces = spaces_of(copied, changes)
    for change, space in spaces.items():
        space[change.name] = stand_in
    try:
        found = run_eagerly(copied, example_inputs)
    except Exception:  # what the use raises, or what follows from it
        return False
    is_set = all(space.get(change.name) is not stand_in for change, space in spaces.items())
    return is_set and not used and same_results(expected, found)


def _noticing(used: list[str]) -> object:
    """An object that notes whatever is done with it but for passing it on, and raises."""

    def notice(*_: Any, **__: Any) -> NoReturn:
        used.append("used")
        raise TypeError("an attribute is used that was not set")

    special: dict[str, Any] = dict.fromkeys(_ALL, notice)
    return type("Noticing", (), {**special, "__getattr__": notice, "__torch_function__": classmethod(notice)})()
