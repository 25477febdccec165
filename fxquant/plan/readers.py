"""Who reads a value's numbers, and who only asks for its size or takes positions."""

from __future__ import annotations

import operator

from torch import fx

from fxquant.ir.meta import TensorMeta, info
from fxquant.ops.queries import asks_for_size

# Operators whose second argument only lends its shape or dtype.
_LENDERS = frozenset(("expand_as", "reshape_as", "type_as"))


def takes_element(node: fx.Node) -> bool:
    """Whether the node reads one tensor out of a tuple that an operator made."""
    source = node.args[0] if node.args else None
    return (
        node.op == "call_function"
        and node.target is operator.getitem
        and isinstance(source, fx.Node)
        and isinstance(info(source).value, (tuple, list))
    )


def reads_numbers(reader: fx.Node, source: fx.Node) -> bool:
    """Whether ``reader`` needs the floating-point numbers of ``source``."""
    if asks_for_size(reader):
        return False
    if takes_element(reader):
        value = info(reader).value
        return bool(reader.users) and isinstance(value, TensorMeta) and value.is_float
    if info(reader).op in _LENDERS:
        return reader.args[0] is source
    return True
