"""How many tensors an operation gives that takes one apart: a matter of sizes, where code goes through them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxquant.capture.proxy import ValueProxy
from fxquant.ir.checks import count_chunks, count_parts
from fxquant.ir.effects import name_of

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_COUNTED = {"split": count_parts, "chunk": count_chunks}


def apart(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What decides how many parts a call gives: (name, tensor, number asked for, dimension); None for other calls."""
    name = name_of(target)
    if name not in ("split", "chunk", "unbind") or not args or not isinstance(args[0], ValueProxy):
        return None
    rest = list(args[1:])
    asked: Any = 1
    if name in _COUNTED:
        asked = rest.pop(0) if rest else next((kwargs[key] for key in kwargs if key != "dim"), None)
    dimension = rest[0] if rest else kwargs.get("dim", 0)
    if not isinstance(args[0].value, Tensor) or isinstance(asked, (list, tuple)) or asked is None:
        return None
    return name, args[0], asked, dimension


def count(tracer: ValueTracer, parts: tuple[Any, ...]) -> Any:
    """Record how many parts there are; what ``apart`` found is given."""
    name, tensor, asked, dimension = parts
    size = tracer.create_proxy("call_method", "size", (tensor, dimension), {})
    if name not in _COUNTED or not isinstance(size, ValueProxy):
        return size
    return tracer.create_proxy("call_function", _COUNTED[name], (size, asked), {})
