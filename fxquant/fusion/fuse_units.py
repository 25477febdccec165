"""Apply the fusion rules to a captured graph; the graph stays as it is, units grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import fx, nn

from fxquant.fusion import absorb_clip, fold_batch_norm, fold_batch_norm_before, fold_padding, fuse_expressions
from fxquant.fusion.rule import Match, Reject, Rule, UnitDraft
from fxquant.ir.effects import is_random
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import FusionRecord
from fxquant.ir.written import changing_nodes

# Rules that make a unit's weights final come before those that work on its output.
RULES: tuple[Rule, ...] = (
    fold_padding.RULE,
    fold_batch_norm.RULE,
    fold_batch_norm_before.RULE,
    absorb_clip.RULE,
    fuse_expressions.RULE,
)


def constant_nodes(graph: fx.Graph) -> frozenset[str]:
    """Names of nodes whose value depends on parameters and buffers only, and on none that the graph changes."""
    found, changing = set[str](), changing_nodes(graph)
    for node in graph.nodes:
        reads = node.op == "get_attr" or (node.op in ("call_function", "call_method") and _reads_only(node, found))
        if reads and node.name not in changing:
            found.add(node.name)
    return frozenset(found)


def _reads_only(node: fx.Node, names: set[str]) -> bool:
    """Whether the node reads nodes of these names, nothing else, changes none of them, and draws nothing."""
    sources = [source.name for source in node.all_input_nodes]
    return bool(sources) and names.issuperset(sources) and not info(node).mutates and not is_random(node)


def _always(first: fx.Node, second: fx.Node) -> bool:
    return True


def fuse_units(
    graph: fx.Graph,
    modules: dict[str, nn.Module],
    rules: tuple[Rule, ...] = RULES,
    alike: Callable[[fx.Node, fx.Node], bool] = _always,
) -> tuple[list[UnitDraft], tuple[FusionRecord, ...]]:
    """Group the nodes of ``graph`` into units.

    Args:
        graph: a canonical captured graph.
        modules: the model's modules by path.
        rules: applied in order, each over the whole graph.
        alike: whether two nodes have the same configuration.

    Returns:
        Units in execution order of their last nodes, and what each rule did or refused.
    """
    constants = constant_nodes(graph)
    calls = [n for n in graph.nodes if n.op.startswith("call_") and n.name not in constants]
    fusing = _Fusing({node: UnitDraft(node, [node]) for node in calls}, modules, constants, alike)
    fusing.order.update({node: position for position, node in enumerate(graph.nodes)})
    records = [record for rule in rules for node in calls for record in fusing.apply(rule, node)]
    distinct = {id(unit): unit for unit in fusing.units.values()}.values()
    return sorted(distinct, key=lambda unit: fusing.order[unit.last]), tuple(records)


@dataclass
class _Fusing:
    """The units so far, and what rules may ask; attributes as in ``Match``."""

    units: dict[fx.Node, UnitDraft]
    modules: dict[str, nn.Module]
    constants: frozenset[str]
    alike: Callable[[fx.Node, fx.Node], bool]
    order: dict[fx.Node, int] = field(default_factory=dict)

    def apply(self, rule: Rule, node: fx.Node) -> Iterator[FusionRecord]:
        """Try a rule on a tail and its possible heads, again after every success where the tail may grow on."""
        if info(node).op not in rule.tails:
            return
        tried: set[fx.Node] = set()
        pending = self._heads(rule, node)
        while pending:
            source = pending.pop(0)
            tried.add(source)
            record = self._try(rule, source, node)
            if record is not None:
                yield record
            if record is not None and record.fired and rule.any_operand:
                pending = [head for head in self._heads(rule, node) if head not in tried]

    def _heads(self, rule: Rule, node: fx.Node) -> list[fx.Node]:
        """Values that a tail reads and a rule may look at."""
        unit = self.units[node]
        if rule.any_operand:
            found = [source for member in unit.nodes for source in member.all_input_nodes if source not in unit.nodes]
            return list(dict.fromkeys(found))
        return [source for source in node.args[:1] if isinstance(source, fx.Node)]

    def _try(self, rule: Rule, source: fx.Node, node: fx.Node) -> FusionRecord | None:
        if source not in self.units:
            return None
        head, tail = self.units[source], self.units[node]
        if info(head.anchor).op not in rule.heads or head.last is not source:
            return None
        if (tail.anchor if rule.any_operand else tail.nodes[0]) is not node:
            return None
        match = Match(head, tail, self.modules, self.constants, self.units, self.order, self.alike)
        names = tuple(member.name for member in (*head.nodes, *tail.nodes))
        verdict = rule.check(match)
        if verdict is None:
            return None
        if isinstance(verdict, Reject):
            return FusionRecord(rule.name, names, verdict.reason)
        keeper, absorbed = (head, tail) if rule.absorbs == "tail" else (tail, head)
        keeper.nodes = sorted((*head.nodes, *tail.nodes), key=lambda member: self.order[member])
        keeper.roles.setdefault(rule.role, absorbed.anchor)
        for member in keeper.nodes:
            self.units[member] = keeper
        return FusionRecord(rule.name, names)
