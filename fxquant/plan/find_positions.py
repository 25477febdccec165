"""Values that are positions, lengths or ranks, not activations: 8 bits would move a box or change a length.

``n = ceil(length / stride)``: a quotient of 80.0 stored in 8 bits may come back as 80.3, and the length is 81.
``boxes = anchors + deltas``: in 256 steps, a box in an image of 1000 pixels is 2 pixels off.

Two rules say what such a value is:

- It is made a whole number: the operand of floor, round, ``long()``, or the places that a grid is sampled at; and what
  that is computed from, by arithmetic alone, up to an operator with weights.
- It is ranked or selected by what a graph finds out when it runs (topk, nms, nonzero, a mask), or read by a part that
  runs as Python, and no operator with weights reads it afterwards: what comes after a detector's heads.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from fxquant.ir.effects import DATA_SHAPED, name_of
from fxquant.ir.float_part import EFFECTS
from fxquant.ir.meta import TensorMeta, info
from fxquant.ops import catalogue
from fxquant.ops.opdef import Moves

_ROUNDING = frozenset(("floor", "ceil", "round", "trunc", "floor_divide"))
_RANKING = frozenset(("topk", "sort", "msort", "argsort", "argmax", "argmin", "kthvalue"))
_CONVERSIONS = frozenset(("to", "type", "type_as", "long", "int", "short", "item", "tolist", "float"))
_SAMPLED = {"grid_sample": 1, "grid_sampler": 1, "roi_align": 1, "roi_pool": 1, "ps_roi_align": 1, "ps_roi_pool": 1}
_ALONG = frozenset(("softmax", "log_softmax", "softmin", "max", "min", "amax", "amin", "aminmax", "topk", "sort"))
_WHOLE = "it is made a whole number, such as a position or a length, which 8 bits would change"
_RANKED = "it comes after the last weights, where results are ranked or selected: 8 bits would make ties"


def find_positions(graph: fx.Graph) -> dict[str, str]:
    """Why values are to stay float, by the names of the nodes that compute them.

    Args:
        graph: a canonical captured graph.
    """
    rounded = dict.fromkeys(_made_whole(graph), _WHOLE)
    return {**dict.fromkeys(_ranked(graph), _RANKED), **rounded}


def is_arithmetic(node: fx.Node) -> bool:
    """Whether a node computes with the numbers of its inputs alone, moves them or joins them, without weights."""
    row = catalogue.by_name(info(node).op)
    if row is None:
        return node.target is operator.getitem  # one of several results
    return row.pointwise or row.joins or isinstance(row.output, Moves) or row.name in _ALONG


def _made_whole(graph: fx.Graph) -> set[str]:
    found = set[str]()
    pending = [source for node in graph.nodes for source in _wholes_of(node)]
    while pending:
        node = pending.pop()
        if node.name not in found and _holds_float(info(node).value) and (is_arithmetic(node) or _of_sizes(node)):
            found.add(node.name)
            pending += node.all_input_nodes
    return found


def _is_part(node: fx.Node) -> bool:
    """Whether a node runs Python of the user's."""
    return node.op == "call_module" and not info(node).op


def _of_sizes(node: fx.Node) -> bool:
    """Whether a node runs Python for the sake of sizes, such as a reshape after a question about them."""
    return _is_part(node) and EFFECTS not in node.meta


def _wholes_of(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node of which it makes whole numbers."""
    name, known = name_of(node.target), info(node)
    if known.op in _ROUNDING or (name in _CONVERSIONS and not _holds_float(known.value)):
        return [source for source in node.all_input_nodes if _is_position(source, known.op in _ROUNDING, node)]
    given = node.args[_SAMPLED[name]] if name in _SAMPLED and len(node.args) > _SAMPLED[name] else None
    return [given] if isinstance(given, fx.Node) else []


def _is_position(source: fx.Node, rounds: bool, node: fx.Node) -> bool:
    """A rounded activation that is read as one stays one; a whole number is read as a position or a size."""
    if not info(source).is_float_tensor:
        return False
    return not rounds or any(not _holds_float(info(user).value) for user in _readers(node))


def _readers(node: fx.Node) -> list[fx.Node]:
    """What reads a value, through what keeps or moves it."""
    found: dict[fx.Node, None] = {}
    pending = list(node.users)
    while pending:
        user = pending.pop()
        if user not in found:
            found[user] = None
            pending += user.users if is_arithmetic(user) and _holds_float(info(user).value) else ()
    return [user for user in found if user.op != "output"]


def _ranked(graph: fx.Graph) -> set[str]:
    """Values that only selections and the model's results read; of those, the ones that meet a selection."""
    free = dict[fx.Node, None]()
    for node in reversed(graph.nodes):
        passes = (is_arithmetic(node) and _holds_float(info(node).value)) or _is_part(node)
        if passes and all(_ends(user, free) for user in node.users):
            free[node] = None
    pending = [item for item in free if _selects(item) or any(_selects(user) for user in item.users)]
    found = set[fx.Node]()
    while pending:
        node = pending.pop()
        if node in free and node not in found:
            found.add(node)
            pending += [*node.all_input_nodes, *node.users]
    return {node.name for node in found}


def _ends(user: fx.Node, free: dict[fx.Node, None]) -> bool:
    """Whether a reader is a result, another such value, or gives no activation."""
    return user.op == "output" or user in free or not (_holds_float(info(user).value) or _is_part(user))


def _selects(node: fx.Node) -> bool:
    name, op = name_of(node.target), info(node).op
    if _is_part(node) and not _of_sizes(node):
        return True
    if op in _RANKING or name in DATA_SHAPED or (name == "where" and len(node.args) == 1):
        return True
    indexed = name in ("getitem", "__getitem__", "index_select", "gather") and len(node.args) > 1
    return indexed and any(isinstance(info(item).value, TensorMeta) for item in _nodes_in(node.args[1:]))


def _nodes_in(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _holds_float(value: Any) -> bool:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(item, TensorMeta) and item.is_float for item in items)
