"""Apply the fusion rules to a captured graph; the graph stays as it is, units grow."""

from __future__ import annotations

from torch import fx, nn

from fxquant.fusion import absorb_clip, fold_batch_norm, fold_padding
from fxquant.fusion.rule import Match, Reject, Rule, UnitDraft
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import FusionRecord

# Rules that make a unit's weights final come before those that work on its output.
RULES: tuple[Rule, ...] = (fold_padding.RULE, fold_batch_norm.RULE, absorb_clip.RULE)


def constant_nodes(graph: fx.Graph) -> frozenset[str]:
    """Names of nodes whose value depends on parameters and buffers only."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op in ("call_function", "call_method") and _reads_only(node, found)):
            found.add(node.name)
    return frozenset(found)


def _reads_only(node: fx.Node, names: set[str]) -> bool:
    """Whether the node reads nodes of these names, nothing else, and changes none of them."""
    sources = [source.name for source in node.all_input_nodes]
    return bool(sources) and names.issuperset(sources) and not info(node).mutates


def fuse_units(
    graph: fx.Graph, modules: dict[str, nn.Module], rules: tuple[Rule, ...] = RULES
) -> tuple[list[UnitDraft], tuple[FusionRecord, ...]]:
    """Group the nodes of ``graph`` into units.

    Args:
        graph: a canonical captured graph.
        modules: the model's modules by path.
        rules: applied in order, each over the whole graph.

    Returns:
        Units in execution order of their last nodes, and what each rule did or refused.
    """
    constants = constant_nodes(graph)
    calls = [n for n in graph.nodes if n.op.startswith("call_") and n.name not in constants]
    units = {node: UnitDraft(node, [node]) for node in calls}
    records: list[FusionRecord] = []
    for rule in rules:
        for node in calls:
            if info(node).op in rule.tails:
                record = _try(rule, node, units, modules, constants)
                records += [record] if record else []
    order = {node: position for position, node in enumerate(graph.nodes)}
    distinct = {id(unit): unit for unit in units.values()}.values()
    return sorted(distinct, key=lambda unit: order[unit.last]), tuple(records)


def _try(
    rule: Rule,
    node: fx.Node,
    units: dict[fx.Node, UnitDraft],
    modules: dict[str, nn.Module],
    constants: frozenset[str],
) -> FusionRecord | None:
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source not in units:
        return None
    head, tail = units[source], units[node]
    if info(head.anchor).op not in rule.heads or head.last is not source or tail.nodes[0] is not node:
        return None
    match = Match(head, tail, modules, constants)
    names = tuple(member.name for member in (*head.nodes, *tail.nodes))
    verdict = rule.check(match)
    if isinstance(verdict, Reject):
        return FusionRecord(rule.name, names, verdict.reason)
    keeper, absorbed = (head, tail) if rule.absorbs == "tail" else (tail, head)
    keeper.nodes = [*head.nodes, *tail.nodes]
    keeper.roles[rule.role] = absorbed.anchor
    for member in keeper.nodes:
        units[member] = keeper
    return FusionRecord(rule.name, names)
