"""Values that 8 bits cannot hold: masks of -inf or -1e9 among scores, and what is computed from them.

A sum of scores of 5 and a mask of -10000 has a scale of 40 in 8 bits: the scores would be gone. Such values stay float,
and so does what reads them, up to an operator (a softmax) that makes ordinary numbers of them.
"""

from __future__ import annotations

import math

from torch import fx

from fxquant.ir.meta import info
from fxquant.ops import catalogue
from fxquant.ops.opdef import Moves

_JOINING = frozenset(
    ("add", "sub", "rsub", "where", "masked_fill", "maximum", "minimum", "fmax", "fmin", "addcmul", "lerp")
)
_SUMS = frozenset(("add", "sub", "rsub"))
_FILLS = ("value", "input", "other")
# A number below a 255th of the largest is less than half a quantum of a range from 0 to that: it vanishes. Numbers up
# to a thousand are no masks, and a small one may as well vanish beside them.
_RATIO, _LARGEST = 255.0, 1000.0


def find_wide_values(graph: fx.Graph) -> dict[str, str]:
    """Why 8 bits cannot hold a value, by name, for those they cannot; judged by the example inputs.

    Args:
        graph: a canonical captured graph.
    """
    wide: dict[str, str] = {}
    for node in graph.nodes:
        reason = _reason(node, wide) if info(node).is_float_tensor else ""
        if reason:
            wide[node.name] = reason
    return wide


def _reason(node: fx.Node, wide: dict[str, str]) -> str:
    known = info(node)
    if not math.isfinite(known.largest):
        return "its values are not all finite"
    row = catalogue.by_name(known.op)
    if row is None:
        return ""
    if row.pointwise or isinstance(row.output, Moves):
        inherited = next((wide[source.name] for source in node.all_input_nodes if source.name in wide), "")
        if inherited and known.largest > _LARGEST:
            return inherited
    return _dwarfed(node) if row.name in _JOINING else ""


def _dwarfed(node: fx.Node) -> str:
    """Whether one operand of a sum or a choice is so large that the others vanish beside it."""
    row = catalogue.row_of(node)
    bound = catalogue.arguments(node, row)
    values = [bound[name] for name in _FILLS if name in bound]
    if row.name in _SUMS and not all(isinstance(value, fx.Node) for value in values):
        return ""  # a number that is added to all of a tensor is no mask
    sizes = [_size(value) for value in values]
    present = [size for size in sizes if size > 0.0]
    largest = max(info(node).largest, abs(_number(bound.get("value"))))
    if len(present) < 2 or largest <= max(_LARGEST, _RATIO * min(present)):
        return ""
    return f"values of {min(present):.2g} and of {largest:.2g} in one tensor are too far apart for 8 bits"


def _size(value: object) -> float:
    return info(value).largest if isinstance(value, fx.Node) else abs(_number(value))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
