"""Rewrite every call that the catalogue knows into its one canonical spelling.

Before::

    %relu  = call_module[nn.ReLU]      %add = call_function[operator.add](x, y)     %v = x.flatten(1)

After::

    %relu  = call_function[F.relu](x)  %add = call_function[torch.add](x, y)        %v = torch.flatten(x, start_dim=1)

Arguments are bound to the row's signature; required ones become positional, others keywords.
In-place spellings become the functional form; ``replace_in_place`` redirects the later uses. Calls that
``mark_aliases`` marked stay as they are.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.ir.edit import set_arguments, set_call
from fxquant.ir.meta import ALIASED, info, update_info
from fxquant.ops import catalogue
from fxquant.ops.opdef import OpDef
from fxquant.ops.recurrent import RECURRENT

_CALLS = ("call_function", "call_method", "call_module")


def canonicalize_calls(graph: fx.Graph, modules: dict[str, type]) -> None:
    """Canonicalize ``graph`` in place.

    Args:
        graph: a captured graph.
        modules: class of each module that a ``call_module`` node refers to, by path.
    """
    for node in graph.nodes:
        if node.op not in _CALLS:
            continue
        if node.target is getattr:
            _take_by_position(node)
        elif node.target in _FROM_THE_OTHER_SIDE:
            _put_tensor_first(node)
        row = _row_of(node, modules)
        if row is None or info(node).op == ALIASED:
            continue
        if node.op == "call_module":
            _put_input_first(node)
            if (len(node.args) == 1 and not node.kwargs) or row.name in RECURRENT:
                update_info(node, op=row.name)
            continue
        if _has_required_only(node, row):
            set_call(node, row.target)
            update_info(node, op=row.name)
            continue
        try:
            row, bound = catalogue.describe(row, row.bind(node.args, node.kwargs, node.target))
        except TypeError:
            continue  # a call the row does not describe stays as written, and float
        if "inplace" in bound:
            bound["inplace"] = False
        if row.target is F.dropout and node.target not in (F.dropout, torch.dropout) and bound["training"]:
            continue  # another distribution than that of plain dropout
        set_call(node, row.target)
        set_arguments(node, *row.unbind(bound))
        update_info(node, op=row.name)


def _has_required_only(node: fx.Node, row: OpDef) -> bool:
    """Whether a call gives the required arguments by position, and no others: as its canonical form does."""
    return not node.kwargs and len(node.args) == row.required and node.target not in row.signatures


# Fields of what torch returns for max, min, sort and their like over a dimension. Source: torch.return_types.
_FIELDS = {"values": 0, "indices": 1, "min": 0, "max": 1}


def _take_by_position(node: fx.Node) -> None:
    """``result.values`` of a named tuple becomes ``result[0]``."""
    source, name = node.args[:2]
    if name in _FIELDS and isinstance(source, fx.Node) and isinstance(info(source).value, tuple):
        node.target, node.args = operator.getitem, (source, _FIELDS[str(name)])


# Operators that torch's functions of the same name take a tensor first for, and what they are from the other side.
_FROM_THE_OTHER_SIDE: dict[Any, Any] = {
    operator.le: operator.ge, operator.lt: operator.gt, operator.ge: operator.le, operator.gt: operator.lt,
    operator.eq: operator.eq, operator.ne: operator.ne, operator.and_: operator.and_, operator.or_: operator.or_,
    operator.xor: operator.xor,
}  # fmt: skip


def _put_tensor_first(node: fx.Node) -> None:
    """``size <= tensor`` becomes ``tensor >= size``, as Python does it."""
    if len(node.args) == 2:
        first, second = (isinstance(item, fx.Node) and info(item).tensor is not None for item in node.args)
        if second and not first:
            node.target, node.args = _FROM_THE_OTHER_SIDE[node.target], node.args[::-1]


def _put_input_first(node: fx.Node) -> None:
    """``module(input=x)`` becomes ``module(x)``."""
    if not node.args and "input" in node.kwargs:
        rest = dict(node.kwargs)
        node.args = (rest.pop("input"),)
        node.kwargs = rest


# What Python does to lists and tuples too.
_OF_SEQUENCES = (operator.setitem, operator.add, operator.iadd, operator.mul, operator.imul)


def _row_of(node: fx.Node, modules: dict[str, type]) -> OpDef | None:
    target: Any = node.target
    if node.op == "call_method":
        row = catalogue.by_method(target)
    else:
        row = catalogue.by_module(modules[target]) if node.op == "call_module" else catalogue.by_function(target)
    if row is None:
        return None
    if node.op == "call_function" and _is_pythons(target):
        operands = node.args[:1] if target is operator.setitem else node.args[:2]
        if target in _OF_SEQUENCES and any(map(_is_sequence, operands)):
            return None  # ``outputs + (x,)``, ``caches[0] = x``
        if any(map(_is_array, operands)):
            return None  # Python's operators take arrays of NumPy's, torch's functions do not
    if (
        row.activations
        and row.name not in RECURRENT  # they take packed sequences too
        and not _is_tensor_call(node)
        and not (row.weights and _values_unknown(node))
    ):
        return None
    return row


@functools.lru_cache(maxsize=1024)
def _is_pythons(target: Any) -> bool:
    """Whether a function is one of Python's operators."""
    return getattr(target, "__module__", "") == "_operator"


def _is_sequence(value: object) -> bool:
    return isinstance(info(value).value if isinstance(value, fx.Node) else value, (tuple, list, dict))


def _is_array(value: object) -> bool:
    return isinstance(value, fx.Node) and isinstance(info(value).value, str) and info(value).storage != 0


def _values_unknown(node: fx.Node) -> bool:
    """Whether the graph was traced without example inputs; an operator with weights is one of tensors all the same."""
    return all(info(source).value is None for source in node.all_input_nodes)


def _is_tensor_call(node: fx.Node) -> bool:
    """Python arithmetic on sizes uses the same operators; those calls are none of the catalogue's."""
    return any(map(_is_tensor, node.args)) or any(map(_is_tensor, node.kwargs.values()))


def _is_tensor(value: object) -> bool:
    """Whether an operand is a tensor, or has one."""
    if isinstance(value, (tuple, list)):
        return any(isinstance(item, fx.Node) and info(item).tensor is not None for item in value)
    return isinstance(value, fx.Node) and info(value).tensor is not None
