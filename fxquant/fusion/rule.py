"""What a fusion rule is: a pair of neighbouring operators, a check that says why not, and its own evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from fxquant.ir.meta import TensorMeta, info
from fxquant.ops import catalogue
from fxquant.ops.opdef import Bound, OpDef


@dataclass
class UnitDraft:
    """Nodes that will run as one, growing while rules fire.

    Attributes:
        anchor: the node that computes.
        nodes: members in execution order; the last one's value is the unit's.
        roles: role name to node.
    """

    anchor: fx.Node
    nodes: list[fx.Node]
    roles: dict[str, fx.Node] = field(default_factory=dict)

    @property
    def last(self) -> fx.Node:
        """The node whose value leaves the unit."""
        return self.nodes[-1]


@dataclass(frozen=True)
class Accept:
    """The rule applies."""


@dataclass(frozen=True)
class Reject:
    """The rule does not apply, and why; shown by ``explain``."""

    reason: str


@dataclass(frozen=True)
class Match:
    """Two neighbouring units that fit a rule's pattern.

    Attributes:
        head: the unit that comes first, tail: the unit that reads it.
        modules: the model's modules by path.
        constants: names of nodes whose value is a constant of the model.
        units: the units so far, by member.
        order: position of every node in the graph.
        alike: whether two nodes have the same configuration.
    """

    head: UnitDraft
    tail: UnitDraft
    modules: dict[str, nn.Module]
    constants: frozenset[str]
    units: Mapping[fx.Node, UnitDraft]
    order: Mapping[fx.Node, int]
    alike: Callable[[fx.Node, fx.Node], bool]

    def arguments(self, node: fx.Node) -> Bound:
        """Arguments of ``node`` by name."""
        return catalogue.arguments(node, self.row(node))

    def row(self, node: fx.Node) -> OpDef:
        """Catalogue row of ``node``."""
        return catalogue.row_of(node)

    def head_has_other_users(self) -> bool:
        """Whether anything besides the tail reads the head's value."""
        return set(self.head.last.users) != {self.tail.nodes[0]}


@dataclass(frozen=True)
class RuleExample:
    """A small model on which a rule fires, or refuses."""

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """One fusion rule.

    Attributes:
        name: ``verb_object``, also the file's name.
        heads: operators of the first unit's anchor.
        tails: operators of the second unit's anchor.
        absorbs: ``tail`` when the head's unit grows by the tail, ``head`` the other way round.
        role: what the absorbed node is called in the unit.
        check: says whether the rule applies; None for a pair that the rule is not about.
        accepts, rejects: examples; they are the rule's tests.
        any_operand: whether the head may be any operand of the tail, and the tail grow by several; by default the head
            is the tail's first operand.
    """

    name: str
    heads: frozenset[str]
    tails: frozenset[str]
    absorbs: str
    role: str
    check: Callable[[Match], Accept | Reject | None]
    accepts: tuple[RuleExample, ...]
    rejects: tuple[RuleExample, ...]
    any_operand: bool = False


def value_of(node: Any) -> TensorMeta | None:
    """Tensor facts of an argument, None when it is no tensor node."""
    return info(node).tensor if isinstance(node, fx.Node) else None


CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv3d"))
TRANSPOSED = frozenset(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"))
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear"}


def spatial_rank(op: str) -> int:
    """Spatial dimensions of a convolution, ordinary or transposed, by its catalogue name; 0 for linear."""
    return int(op[-2]) if op in CONVOLUTIONS | TRANSPOSED else 0
