"""Finding rows: by how the user wrote an operation, or by name.

The rows are read from the family modules listed here; nothing registers itself on import.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import fx, nn

from fxquant.ir.meta import info
from fxquant.ops import (
    activation,
    arithmetic,
    attention,
    choice,
    conv,
    elementary,
    joining,
    matrix,
    norm,
    pooling,
    queries,
    rearranging,
    recurrent,
    reduction,
    resizing,
    selection,
    shape,
    splitting,
)
from fxquant.ops.opdef import Bound, OpDef

FAMILIES = {
    "Convolution and linear": conv,
    "Activation": activation,
    "Arithmetic": arithmetic,
    "Elementary functions": elementary,
    "Choice": choice,
    "Reduction": reduction,
    "Matrix products": matrix,
    "Attention": attention,
    "Recurrent": recurrent,
    "Pooling": pooling,
    "Normalisation": norm,
    "Shape": shape,
    "Splitting": splitting,
    "Joining and writing": joining,
    "Selection": selection,
    "Rearranging and padding": rearranging,
    "Resizing": resizing,
    "Queries": queries,
}


def all_rows() -> tuple[OpDef, ...]:
    """Every row of the catalogue, by family."""
    return tuple(row for family in FAMILIES.values() for row in family.ROWS)


@cache
def _tables() -> tuple[dict[str, OpDef], dict[Any, OpDef], dict[str, OpDef], dict[type, OpDef]]:
    names: dict[str, OpDef] = {}
    functions: dict[Any, OpDef] = {}
    methods: dict[str, OpDef] = {}
    modules: dict[type, OpDef] = {}
    for row in all_rows():
        assert row.name not in names, f"two rows are called {row.name}"
        names[row.name] = row
        functions.update(dict.fromkeys(row.functions, row))
        if not isinstance(row.target, str):
            functions[row.target] = row
        methods.update(dict.fromkeys(row.methods, row))
        modules.update(dict.fromkeys(row.modules, row))
    return names, functions, methods, modules


def by_name(name: str) -> OpDef | None:
    """The row called ``name``."""
    return _tables()[0].get(name)


def by_function(function: Callable[..., Any]) -> OpDef | None:
    """The row that ``function`` is a spelling of."""
    try:
        return _tables()[1].get(function)
    except TypeError:  # unhashable callable
        return None


def by_method(name: str) -> OpDef | None:
    """The row that tensor method ``name`` is a spelling of."""
    return _tables()[2].get(name)


def by_module(kind: type[nn.Module]) -> OpDef | None:
    """The row whose modules stay modules in a captured graph, subclasses included that compute the same."""
    base: Any = next((base for base in kind.__mro__ if base in _tables()[3]), None)
    return None if base is None or kind.forward is not base.forward else _tables()[3][base]


def row_of(node: fx.Node) -> OpDef:
    """The row of a canonical node, which must have one."""
    row = by_name(info(node).op)
    assert row is not None, f"{node.name} has no catalogue row"
    return row


def describe(row: OpDef, bound: Bound) -> tuple[OpDef, Bound]:
    """The row and arguments that describe a call of ``row``, which may be several operators in one.

    Raises:
        TypeError: no row describes the call.
    """
    if row.redirect is None:
        return row, bound
    name, arguments = row.redirect(bound)
    found = by_name(name)
    if found is None:
        raise TypeError(f"{row.name} called as {name}, which has no row")
    return found, arguments


def replace_arguments(node: fx.Node, changes: Bound) -> None:
    """Give a canonical function or method call other values for the arguments named in ``changes``."""
    row = row_of(node)
    node.args, node.kwargs = row.unbind({**row.bind(node.args, node.kwargs), **changes})


def arguments(node: fx.Node, row: OpDef) -> Bound:
    """Arguments of a canonical node by name; a leaf module's only argument is its input."""
    if node.op == "call_module":
        return {"input": node.args[0]}
    return row.bind(node.args, node.kwargs)
