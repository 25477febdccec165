"""Parts that run as Python in layers that are recorded again: each layer has one of its own, on its own modules.

What runs in such a part leaves no nodes, whatever way it takes. So a layer may be recorded without the Python around
its part, when this gives what the part of the layer before gave: tensors of the same shape, and the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxquant.ir.float_part import BoundMethod, Child, FloatPart, Hole, Imported, PartCode

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_TOLD = ("sizes_only", "repeats", "learns", "writes", "keeps_nothing")
_LITERALS = (int, float, complex, bool, str, bytes, type(None))


def may_repeat(part: FloatPart, gives: Any) -> bool:
    """Whether another layer may have a part like one of a layer's.

    Args:
        part: of a layer.
        gives: on the example, what code around it gets.
    """
    is_pure = part.sizes_only or (part.keeps_nothing and not part.writes)
    only_computes = is_pure and not part.shared and isinstance(part.code, PartCode)
    is_known = all(part.child_paths.get(name) for name in part._modules) and _is_plain(part.arguments)
    return only_computes and is_known and _is_told(gives)


def likeness(part: FloatPart, moved: Callable[[str], str]) -> tuple[Any, ...]:
    """What is equal for parts of different layers that run the same statements on what the layers have in one place.

    Args:
        part: of a layer.
        moved: gives a path in the layer as it is in all of them.
    """
    children = {name: moved(path) for name, path in part.child_paths.items()}
    return part.title, part.file, part.first_line, repr(part.arguments), children, moved(part.module_path)


def again(tracer: ValueTracer, part: FloatPart, moved: Callable[[str], str]) -> FloatPart:
    """The part of another layer; it is not registered.

    Args:
        tracer: of the trace.
        part: of a layer.
        moved: gives what a path in that layer is in the other one.
    """
    paths = {name: moved(path) for name, path in part.child_paths.items()}
    children = {
        name: tracer.views.again(part.get_submodule(name), tracer.layers.module_at(path))
        for name, path in paths.items()
    }
    lines = part.first_line, part.last_line
    made = FloatPart(part.code, part.arguments, children, part.title, part.file, lines, moved(part.module_path))
    made.child_paths, made.label = paths, part.label
    for name in _TOLD:
        setattr(made, name, getattr(part, name))
    return made


def _is_plain(argument: Any) -> bool:
    """Whether an argument of a part is told by what stands for it."""
    if type(argument) in (tuple, list):
        return all(map(_is_plain, argument))
    if type(argument) is dict:
        return all(map(_is_plain, argument)) and all(map(_is_plain, argument.values()))
    return type(argument) in _LITERALS or isinstance(argument, (Hole, Child, BoundMethod, Imported))


def _is_told(value: Any) -> bool:
    """Whether the description of a value tells all that code may ask it for without leaving a node."""
    if type(value) in (tuple, list):
        return all(map(_is_told, value))
    return type(value) in (Tensor, int, float, bool, type(None))
