"""How many tensors an operation gives that takes one apart: a matter of sizes, where code goes through them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxquant.capture.proxy import ValueProxy
from fxquant.ir.checks import count_chunks, count_parts
from fxquant.ir.effects import name_of

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_COUNTED = {"split": count_parts, "unsafe_split": count_parts, "chunk": count_chunks, "unsafe_chunk": count_chunks}
# Given a list or a tensor, they make a part for each of its elements, and perhaps one more.
_BY_LIST = frozenset(
    ("split", "split_with_sizes", "unsafe_split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit")
)


def apart(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What decides how many parts a call gives: (name, tensor, number asked for, dimension); None for other calls.

    Where a list that the graph makes decides, it stands in the place of the tensor, and ``len`` in that of the name.
    """
    name = name_of(target)
    if not (name in _COUNTED or name in _BY_LIST or name == "unbind") or not args or not _is_tensor(args[0]):
        return None
    rest = list(args[1:])
    asked: Any = 1
    if name != "unbind":
        asked = rest.pop(0) if rest else next((kwargs[key] for key in kwargs if key != "dim"), None)
    if name in _BY_LIST and isinstance(asked, ValueProxy) and not isinstance(asked.value, int):
        return "len", asked, 1, 0
    if not (name in _COUNTED or name == "unbind") or isinstance(asked, (list, tuple)) or asked is None:
        return None
    return name, args[0], asked, rest[0] if rest else kwargs.get("dim", 0)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, ValueProxy) and isinstance(value.value, Tensor)


def count(tracer: ValueTracer, parts: tuple[Any, ...]) -> Any:
    """Record how many parts there are, or are asked for; what ``apart`` found is given."""
    name, source, asked, dimension = parts
    if name == "len":
        return tracer.create_proxy("call_function", len, (source,), {})
    size = tracer.create_proxy("call_method", "size", (source, dimension), {})
    if name not in _COUNTED or not isinstance(size, ValueProxy):
        return size
    return tracer.create_proxy("call_function", _COUNTED[name], (size, asked), {})
