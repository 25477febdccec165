"""Which operations an object type of a configuration means, and how closely; and their order in a module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxquant.ir.meta import NodeInfo, Origin, info, qualified_name, qualified_type
from fxquant.ir.records import NodeRecord
from fxquant.ops import catalogue

OTHER_SPELLING, SPELLED, MODULE = 1, 2, 3
"""How closely an object type means an operation: the same one spelled otherwise, as it is spelled, by its module."""


@dataclass(frozen=True)
class Call:
    """One operation of a captured graph, as configurations see it.

    Attributes:
        name: of the operation's node; parts that a pass divided it into share it.
        op: its catalogue name.
        origin: where it came from.
        is_module: whether it belongs to a call of a torch.nn module, or of one that capture left whole.
    """

    name: str
    op: str
    origin: Origin
    is_module: bool

    @property
    def owner(self) -> str:
        """Path of the module that calls it, in which orders count."""
        path = self.origin.module_path
        return path.rpartition(".")[0] if self.is_module else path


def as_call(node: fx.Node | NodeRecord) -> Call | None:
    """The operation that a node, or the record of one, is or is a part of; None for inputs, weights and outputs."""
    if not node.op.startswith("call_"):
        return None
    known: NodeInfo = node.info if isinstance(node, NodeRecord) else info(node)
    name, op = known.part_of or (node.name, known.op)
    return Call(name, op, known.origin, node.op == "call_module" or known.origin.from_torch_module)


def closeness(key: Any, origin: Origin, op: str) -> int:
    """How closely an object type means an operation, 0 for not at all.

    Args:
        key: a module class, a function, or a method name.
        origin: where the operation came from.
        op: its catalogue name.
    """
    if isinstance(key, type):
        return MODULE if qualified_type(key) == origin.module_type else 0
    if origin.from_torch_module:
        return 0
    if qualified_name(key) == origin.spelling:
        return SPELLED
    row = catalogue.by_method(key) if isinstance(key, str) else catalogue.by_function(key)
    return OTHER_SPELLING if row is not None and row.name == op else 0


def count_calls(calls: Iterable[Call], path: str, key: Any) -> dict[str, int]:
    """The order, from 0, of what a module calls of one type, by the operation's name.

    What one call of a torch.nn module does counts once. A function or method counts its own spelling, or every one
    where the module has none written so.

    Args:
        calls: of the whole graph, in its order.
        path: of the module.
        key: a module class, a function, or a method name.
    """
    spelled: dict[str, int] = {}
    others: dict[str, int] = {}
    counted: dict[Any, int] = {}
    for call in calls:
        how = closeness(key, call.origin, call.op) if call.owner == path else 0
        if how == MODULE and call.is_module:
            spelled[call.name] = counted.setdefault(call.origin.call or call.name, len(counted))
        elif how in (OTHER_SPELLING, SPELLED):
            others.setdefault(call.name, len(others))
            if how == SPELLED:
                spelled.setdefault(call.name, len(spelled))
    return spelled or others
