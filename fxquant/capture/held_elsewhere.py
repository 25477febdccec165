"""Whether a list, dictionary or set of a part of the model is one that other code holds, too.

A part that runs as Python has its containers for itself, and gives them anew. In ``kept = sizes; if odd: sizes[0] = 3``
both names are one list, and only one of them would be what the part gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum, auto
from types import FrameType
from typing import Any

import numpy as np
from torch import nn

from fxquant.capture.source import user_frames
from fxquant.capture.structures import has_parts
from fxquant.ir.walk_modules import Inventory

CONTAINERS = (list, dict, set, deque, np.ndarray)
_DEPTH = 4
_LARGEST = 1000  # containers with more in them are tables, whose contents are not looked at


class Holder(Enum):
    """What else holds a container."""

    CALL = auto()  # other names, of this function or of one that calls it
    ALWAYS = auto()  # what outlives the call


def holders_of(
    wanted: Collection[str], names: Mapping[str, Any], defaults: Iterable[Any], model: nn.Module
) -> dict[str, Holder]:
    """What, besides local names, holds their containers or some that are in these; what is in one twice counts, too.

    Args:
        wanted: local variables of the function that is being called.
        names: all local names of it.
        defaults: of its arguments.
        model: whose attributes may hold them.
    """
    if not wanted:
        return {}
    frames, found = list(user_frames()), dict[str, Holder]()
    outliving = _ids_in(_outliving(frames, defaults, model))
    callers = _ids_in(value for frame in frames[1:] for value in frame.f_locals.values())
    for name in wanted:
        own = [id(item) for item in _inside(names[name], _DEPTH) if isinstance(item, CONTAINERS)]
        others = callers | _ids_in(value for other, value in names.items() if other != name)
        if not outliving.isdisjoint(own):
            found[name] = Holder.ALWAYS
        elif len(set(own)) < len(own) or not others.isdisjoint(own):
            found[name] = Holder.CALL
    return found


def _ids_in(values: Iterable[Any]) -> set[int]:
    return {id(item) for value in values for item in _inside(value, _DEPTH)}


def _outliving(frames: list[FrameType], defaults: Iterable[Any], model: nn.Module) -> Iterator[Any]:
    """Globals, defaults of arguments, attributes of modules."""
    for space in {id(frame.f_globals): frame.f_globals for frame in frames}.values():
        yield from _containers(space.values())
    yield from defaults
    for _, _, attributes in Inventory(model).attributes:
        yield from (item for key, item in attributes if not key.startswith("_") and _may_hold(item))


def _containers(values: Iterable[Any]) -> Iterator[Any]:
    return (value for value in list(values) if isinstance(value, CONTAINERS))


def _may_hold(value: Any) -> bool:
    return isinstance(value, (*CONTAINERS, tuple)) or has_parts(value)


def _inside(value: Any, depth: int) -> Iterator[Any]:
    """A value, and what it holds."""
    yield value
    if depth == 0:
        return
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple, set, deque)):
        parts = list(value)
    elif has_parts(value) and not isinstance(value, nn.Module):
        parts = list(vars(value).values())
    for part in parts if len(parts) <= _LARGEST else ():
        yield from _inside(part, depth - 1)
