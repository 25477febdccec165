"""Whether a list, dictionary or set of a part of the model is one that other code holds, too.

A part that runs as Python has its containers for itself, and gives them anew. In ``kept = sizes; if odd: sizes[0] = 3``
both names are one list, and only one of them would be what the part gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from types import FrameType
from typing import Any

import numpy as np
from torch import nn

from fxquant.capture.source import user_frames
from fxquant.capture.structures import has_parts
from fxquant.ir.walk_modules import Inventory

_CONTAINERS = (list, dict, set, deque, np.ndarray)
_DEPTH = 4
_LARGEST = 1000  # containers with more in them are tables, whose contents are not looked at


class Holder(IntEnum):
    """What else holds a container."""

    NOTHING = 0
    CALL = 1  # other names, of this function or of one that calls it
    ALWAYS = 2  # what outlives the call


def holder_of(name: str, names: Mapping[str, Any], defaults: Iterable[Any], model: nn.Module) -> Holder:
    """What, besides a local name, holds its container or one that is in this; what is in it twice counts, too.

    Args:
        name: of a local variable of the function that is being called.
        names: all local names of it.
        defaults: of its arguments.
        model: whose attributes may hold it.
    """
    own = [id(item) for item in _inside(names[name], _DEPTH) if isinstance(item, _CONTAINERS)]
    wanted, frames = set(own), list(user_frames())

    def is_among(values: Iterable[Any]) -> bool:
        return any(id(item) in wanted for value in values for item in _inside(value, _DEPTH))

    if is_among(_outliving(frames, defaults, model)):
        return Holder.ALWAYS
    others = [value for other, value in names.items() if other != name]
    is_twice = len(wanted) < len(own)
    is_held = is_twice or is_among((*others, *(value for frame in frames[1:] for value in frame.f_locals.values())))
    return Holder.CALL if is_held else Holder.NOTHING


def _outliving(frames: list[FrameType], defaults: Iterable[Any], model: nn.Module) -> Iterator[Any]:
    """Globals, defaults of arguments, attributes of modules."""
    for space in {id(frame.f_globals): frame.f_globals for frame in frames}.values():
        yield from _containers(space.values())
    yield from defaults
    for _, _, attributes in Inventory(model).attributes:
        yield from (item for key, item in attributes if not key.startswith("_") and _may_hold(item))


def _containers(values: Iterable[Any]) -> Iterator[Any]:
    return (value for value in list(values) if isinstance(value, _CONTAINERS))


def _may_hold(value: Any) -> bool:
    return isinstance(value, (*_CONTAINERS, tuple)) or has_parts(value)


def _inside(value: Any, depth: int) -> Iterator[Any]:
    """A value, and what it holds."""
    yield value
    if depth == 0:
        return
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple, set, deque)):
        parts = list(value)
    elif has_parts(value) and not isinstance(value, nn.Module):
        parts = list(vars(value).values())
    if isinstance(parts, list) and len(parts) <= _LARGEST:
        for part in parts:
            yield from _inside(part, depth - 1)
