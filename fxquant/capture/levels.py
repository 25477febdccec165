"""What the result of an operation depends on: the model alone, sizes of the inputs, or their values.

A branch on what only sizes decide is built in and checked when the graph runs. One on values would be wrong for the
next input. Where a rule here is not sure, it says ``VALUES`` for numbers; for shapes it may say ``SIZES``, whose
checks raise when they turn out wrong.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.structures import leaves
from fxquant.ir.effects import DATA_SHAPED, RANDOM, name_of

_SHAPE_QUERIES = frozenset(
    ("size", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "__len__", "len", "dim", "sym_size")
)
_SHAPE_ATTRIBUTES = frozenset(("shape", "nbytes", "ndim"))
_SIZED_LIKE = frozenset(
    ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full")
)
_ALWAYS_VALUES = frozenset(("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__array__"))
# The shape of their result is not that of the operand it happens to have on the example.
_TAKE_PARTS = frozenset(
    ("getitem", "narrow", "index_select", "select", "view", "reshape", "expand", "repeat", "take", "gather",
     "unflatten", "resize_", "__getitem__", "slice_scatter", "pad", "split", "chunk", "tensor_split", "arange")
)  # fmt: skip


def depends_of(kind: str, target: Any, args: Any, given: list[ValueProxy], value: Any) -> tuple[Depends, Depends]:
    """What the value, and the shape, of a result depend on.

    Args:
        kind, target, args: of the node; arguments hold proxies.
        given: the proxies in all its arguments.
        value: the result on the example.
    """
    numbers = shapes = values = Depends.NOTHING
    for proxy in given:
        values = max(values, proxy.depends)
        if _tensors_in(proxy.value):
            shapes = max(shapes, proxy.shape_depends)
        if _may_be_size(proxy.value):
            numbers = max(numbers, proxy.depends)
    name = name_of(target)
    if _asks_for_shape(name, args):
        return max(numbers, shapes), Depends.NOTHING
    if name in RANDOM or (kind == "call_function" and not given and not _is_torch(target)):
        return Depends.VALUES, max(numbers, shapes)
    if name in _SIZED_LIKE:
        return max(numbers, shapes), max(numbers, shapes)
    if name in _ALWAYS_VALUES or not _tensors_in(value):
        return values, Depends.NOTHING
    return values, _shape_depends(name, args, given, value, max(numbers, shapes), values)


def _shape_depends(
    name: str, args: Any, given: list[ValueProxy], value: Any, sizes: Depends, values: Depends
) -> Depends:
    if name in DATA_SHAPED or (name == "where" and len(args) == 1) or _counts_repeats(name, given):
        return max(sizes, values)
    if name in ("getitem", "__getitem__"):
        masks = [leaf.depends for leaf in leaves(args[1:]) if isinstance(leaf, ValueProxy) and _is_mask(leaf)]
        if masks:
            return max(sizes, *masks)
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return Depends.NOTHING
        # A parameter says nothing: it may be broadcast, or be a weight that has this shape by chance.
        levels = [proxy.shape_depends for proxy in given if _shape_of(proxy) == value.shape]
        alike = [level for level in levels if level is not Depends.NOTHING]
        if alike and name not in _TAKE_PARTS:
            return min(alike)
    return sizes


def _may_be_size(value: Any) -> bool:
    """Whether a value can be one of the sizes of a result: a number, or a tensor of one integer."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_floating_point()
    return not _tensors_in(value)


def _tensors_in(value: Any) -> bool:
    """Whether a value is a tensor, or holds tensors."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, (int, float, str, torch.Size)) or value is None:
        return False
    return any(isinstance(leaf, Tensor) for leaf in leaves(value))


def _shape_of(proxy: ValueProxy) -> torch.Size | None:
    return proxy.value.shape if isinstance(proxy.value, Tensor) else None


def _is_mask(proxy: ValueProxy) -> bool:
    return isinstance(proxy.value, Tensor) and proxy.value.dtype in (torch.bool, torch.uint8)


def _counts_repeats(name: str, given: list[ValueProxy]) -> bool:
    return name == "repeat_interleave" and sum(isinstance(proxy.value, Tensor) for proxy in given) > 1


def _asks_for_shape(name: str, args: Any) -> bool:
    first = args[0] if args else None
    if not isinstance(first, ValueProxy):
        return False
    if isinstance(first.value, list):  # how many images there are is a size
        return name == "len" and first.node in first.tracer.ranks.lists
    if not isinstance(first.value, Tensor):
        return False
    return name in _SHAPE_QUERIES or (name == "getattr" and args[1] in _SHAPE_ATTRIBUTES)


def _is_torch(target: Any) -> bool:
    module = getattr(target, "__module__", None) or "torch"
    return module.startswith("torch") or target in (operator.getitem, getattr)


def is_fixed(kind: str, target: Any, args: Any, depends: Depends, value: Any) -> bool:
    """Whether a result is a size of a parameter or buffer, which needs no node."""
    asks = kind != "call_module" and depends is Depends.NOTHING and _asks_for_shape(name_of(target), args)
    return asks and isinstance(value, (int, torch.Size))
