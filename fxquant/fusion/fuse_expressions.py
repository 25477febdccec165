"""An expression of one tensor, numbers and constants along one axis becomes one unit: one table describes it.

Before::

    %s = sigmoid(%x);  %y = mul(%x, %s)                       # %y is a function of %x alone, number by number

After::

    %y = silu-like(%x)              # one unit, one rounding; so are x * relu6(x + 3) / 6, where(x > 0, x, 0.1 * x), ...

What is inside an expression is never stored, so it is neither rounded nor observed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.fusion.rule import Accept, Match, Reject, Rule, RuleExample, value_of
from fxquant.ir.meta import info
from fxquant.ops import catalogue
from fxquant.ops.pointwise import axes_of

_POINTWISE = frozenset(row.name for row in catalogue.all_rows() if row.pointwise)


# Larger expressions are no activation functions; the limit bounds the search.
_LARGEST = 64


def _check(match: Match) -> Accept | Reject | None:
    made = value_of(match.tail.last)
    if made is None or not made.is_float:
        return None
    if not all(_is_part(node, match) for node in (*match.tail.nodes, *match.head.nodes)):
        return None
    inside = _find_inside(match)
    if inside is None or isinstance(inside, Reject):
        return inside
    return Accept() if set(match.head.nodes) <= inside else None


def _find_inside(match: Match) -> set[fx.Node] | Reject | None:
    """What lies between the tail and the farthest tensor that it is a function of alone; None without such a tensor.

    Goes back from the tail, always from the latest of the values that are still open: when only one is, the tail is a
    function of that one.
    """
    inside: set[fx.Node] = set()
    best: set[fx.Node] = set()
    refused = ""
    opened = _variables(match.tail.nodes, match) - set(match.tail.nodes)
    while opened and len(inside) < _LARGEST:
        if len(opened) == 1 and inside:
            why = _refuse(next(iter(opened)), inside, match)
            refused = refused or why
            best = best if why else set(inside)
        latest = max(opened, key=lambda node: match.order[node])
        if not _is_part(latest, match):
            break
        inside.add(latest)
        opened = (opened | _variables([latest], match)) - inside - set(match.tail.nodes)
    return best or (Reject(refused) if refused else None)


def _variables(nodes: list[fx.Node], match: Match) -> set[fx.Node]:
    return {s for node in nodes for s in node.all_input_nodes if s.name not in match.constants}


def _is_part(node: fx.Node, match: Match) -> bool:
    """Whether the node treats every number alone, and so does everything that runs with it."""
    unit = match.units.get(node)
    return unit is not None and all(_is_pointwise(member) for member in unit.nodes)


def _is_pointwise(node: fx.Node) -> bool:
    row = catalogue.by_name(info(node).op)
    if row is None or info(node).role or value_of(node) is None or node.op == "call_module":
        return False
    return row.is_pointwise(catalogue.arguments(node, row))


def _refuse(root: fx.Node, inside: set[fx.Node], match: Match) -> str:
    """Why the tail is no function of ``root`` that runs as one unit."""
    members, given = inside | set(match.tail.nodes), value_of(root)
    metas = [value_of(node) for node in members]
    if given is None or given.dtype != torch.float32 or any(m is None or m.shape != given.shape for m in metas):
        return "a tensor in it is broadcast, or is none of numbers"
    for node in inside:
        if not set(match.units[node].nodes) <= inside:
            return f"{node.name} runs with another operator"
        if not set(node.users) <= members:
            return f"{node.name} is also read by others"
        if not match.alike(node, match.tail.anchor):
            return "its parts are configured differently"
    return "its constants vary along several axes" if len(_axes(members, match)) > 1 else ""


def _axes(members: set[fx.Node], match: Match) -> set[int]:
    """The axes along which the constants of the expression vary."""
    axes: set[int] = set()
    for node in members:
        for source in node.all_input_nodes:
            constant, output = value_of(source), value_of(node)
            if source.name in match.constants and constant is not None and output is not None:
                axes |= axes_of(catalogue.row_of(node), len(output.shape), constant.shape)
    return axes


class _Model(nn.Module):
    """A convolution, a function, and another convolution."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), kind
        self.scale, self.shift = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self._function(self.first(x)))
        return y

    def _function(self, x: Tensor) -> Tensor:
        functions = {
            "swish": lambda: x * torch.sigmoid(x),
            "hard swish": lambda: x * F.relu6(x + 3) / 6,
            "gelu": lambda: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
            "leaky relu": lambda: torch.where(x > 0, x, 0.1 * x),
            "affine": lambda: x * self.scale + self.shift,
            "part is read": lambda: self._part_is_read(x),
            "two axes": lambda: (x * self.scale) * self.shift.reshape(1, 1, 4),
        }
        return functions[self.kind]()

    def _part_is_read(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return torch.cat((x * gate, gate))[: x.shape[0]]


def _example(kind: str) -> RuleExample:
    return RuleExample(kind, lambda: _Model(kind).eval(), (2, 3, 6, 4))


RULE = Rule(
    name="fuse_expressions",
    heads=_POINTWISE,
    tails=_POINTWISE,
    absorbs="head",
    role="expression",
    check=_check,
    accepts=tuple(_example(kind) for kind in ("swish", "hard swish", "gelu", "leaky relu", "affine")),
    rejects=tuple(_example(kind) for kind in ("part is read", "two axes")),
    any_operand=True,
)
