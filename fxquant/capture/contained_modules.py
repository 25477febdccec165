"""Modules that a model keeps where torch does not look: in plain lists, dictionaries, objects and functions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import nn

from fxquant.capture.structures import leaves
from fxquant.ir.own_functions import cell_content, parts_of_partial

_DEPTH = 3  # of functions in functions


def contained_modules(model: nn.Module) -> set[int]:
    """Ids of the modules, those inside of them included; some may be children of the model, too."""
    return {
        id(inner)
        for module in model.modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        for held in _held_by(value, _DEPTH)
        for inner in held.modules()
    }


def _held_by(value: Any, depth: int) -> Iterator[nn.Module]:
    """The modules in a value: in containers and objects, in a partial, and in the variables of a function."""
    for item in (value, *leaves(value)):
        parts: Any = ()
        if isinstance(item, nn.Module):
            yield item
        elif isinstance(item, functools.partial):
            parts = parts_of_partial(item)
        elif isinstance(item, FunctionType):
            parts = [cell_content(cell) for cell in item.__closure__ or ()]
        if parts and depth:
            yield from _held_by(parts, depth - 1)
