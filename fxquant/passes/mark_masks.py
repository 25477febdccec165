"""Find what belongs to the softmax of an attention: its scores once multiplied, and the masks added to them.

Before::

    %scores = matmul(%q, %k);  %both = add(%mask, %padding);  %masked = add(%scores, %both);  %p = softmax(%masked)

After: ``%masked`` and ``%p`` have the role ``scores``; ``%mask``, ``%padding`` and ``%both`` have the role ``mask``.
Both stay float: masks hold -inf or the lowest float, and no 8-bit range holds such values and the scores.
"""

from __future__ import annotations

import operator

from torch import fx

from fxquant.ir.meta import info, update_info
from fxquant.ops import catalogue
from fxquant.ops.opdef import Moves

_PRODUCTS = frozenset(("matmul", "baddbmm", "einsum"))
_BETWEEN = frozenset(
    ("add", "sub", "rsub", "mul", "div", "neg", "masked_fill", "where", "clamp", "clamp_min", "clamp_max", "maximum",
     "max", "tanh", "to", "float", "type_as")
)  # fmt: skip
_MASKED = {"scaled_dot_product_attention": "attn_mask", "attention_softmax": "attn_mask", "baddbmm": "input"}

_Readers = dict[fx.Node, set[fx.Node]]


def mark_masks(graph: fx.Graph) -> None:
    """Give nodes of ``graph``, a canonical captured graph, their roles; in place."""
    readers: _Readers = {}
    for node in graph.nodes:
        name = _name(node)
        if name == "softmax":
            _mark_scores(node.args[0], node, readers)
            if any(info(source).role == "scores" for source in node.all_input_nodes):
                update_info(node, role="scores")
        elif name in _MASKED and name != "baddbmm":
            _read_as_mask(node, readers)
    for node in reversed(graph.nodes):
        if node in readers and readers[node] == set(node.users) and _may_be_mask(node):
            update_info(node, role="mask")
            for source in node.all_input_nodes:
                readers.setdefault(source, set()).add(node)


def _mark_scores(node: object, reader: fx.Node, readers: _Readers) -> bool:
    """Mark what lies between a product and its softmax; whether ``node`` comes from a product."""
    if not isinstance(node, fx.Node) or not info(node).is_float_tensor:
        return False
    name = _name(node)
    if name == "baddbmm":
        _read_as_mask(node, readers)
    if name in _PRODUCTS:
        return True
    if name not in _BETWEEN and not _moves(node):
        return False
    scores = [source for source in node.all_input_nodes if _mark_scores(source, node, readers)]
    if scores:
        update_info(node, role="scores")
        for source in node.all_input_nodes:
            if source not in scores:
                readers.setdefault(source, set()).add(node)
    return bool(scores)


def _read_as_mask(node: fx.Node, readers: _Readers) -> None:
    row = catalogue.by_name(info(node).op)
    mask = catalogue.arguments(node, row)[_MASKED[row.name]] if row is not None else None
    if isinstance(mask, fx.Node):
        readers.setdefault(mask, set()).add(node)


def _may_be_mask(node: fx.Node) -> bool:
    """Inputs, and operators that neither multiply-accumulate nor have weights: a bias made by a network is none.

    Nor is a part of a tuple, whose maker has no role.
    """
    if node.target is operator.getitem and info(node.all_input_nodes[0]).tensor is None:
        return False
    row = catalogue.by_name(info(node).op)
    heavy = row is not None and (bool(row.weights) or row.macs is not None)
    return info(node).is_float_tensor and node.op != "get_attr" and not heavy


def _moves(node: fx.Node) -> bool:
    row = catalogue.by_name(info(node).op)
    return row is not None and isinstance(row.output, Moves)


def _name(node: fx.Node) -> str:
    """Catalogue name, or the name of what is called where the catalogue does not know it."""
    return info(node).op or str(getattr(node.target, "__name__", node.target)).rstrip("_")
