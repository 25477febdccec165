"""Which nodes of two stages stand for the same captured nodes. Names and texts play no part.

Before (float): ``conv``, ``bn``, ``relu``. After (quantized): ``relu`` with origins ``conv, bn, relu``.
Aligned: one group, {conv, bn, relu} to {relu}.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from fxquant.inspect.side import Side, is_watching, origins
from fxquant.ir.meta import info


@dataclass
class Group:
    """Nodes of both sides that stand for the same part of the captured graph.

    Attributes:
        before, after: nodes in graph order; one side may be empty.
        names: the captured nodes they stand for.
        added: whether the nodes were added by a pass and stand for no operator.
    """

    before: list[fx.Node] = field(default_factory=list)
    after: list[fx.Node] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    added: bool = False


def align_nodes(before: Side, after: Side) -> list[Group]:
    """Group the nodes of two sides, in the order of the after side; what has gone stays where it was."""
    groups = _operator_groups(before, after)
    by_unit = {info(node).unit: group for group in groups for node in (*group.before, *group.after) if info(node).unit}
    groups += _added_groups(before, after, by_unit)
    return _ordered(groups, before, after)


def _operator_groups(before: Side, after: Side) -> list[Group]:
    """Connected components over captured names."""
    parent = {name: name for name in before.captured}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for side in (before, after):
        for node in side.operators:
            first, *rest = origins(node)
            for other in rest:
                parent[find(other)] = find(first)
        for name, holder in _taken_over(side).items():
            parent[find(name)] = find(holder)
    groups: dict[str, Group] = {}
    for side, place in ((before, "before"), (after, "after")):
        for node in side.operators:
            group = groups.setdefault(find(origins(node)[0]), Group())
            getattr(group, place).append(node)
    for name in before.captured:
        if find(name) in groups:
            groups[find(name)].names.append(name)
    return list(groups.values())


def _taken_over(side: Side) -> dict[str, str]:
    """Captured nodes that no node of ``side`` stands for, to the anchor of their unit when that one is there."""
    present = {name for node in side.operators for name in origins(node)}
    return {name: unit.anchor for name, unit in side.units.items() if name not in present and unit.anchor in present}


def _added_groups(before: Side, after: Side, by_unit: dict[str, Group]) -> list[Group]:
    """Pair added nodes that do the same for the same value; those a kernel took over join its group."""
    groups: list[Group] = []
    waiting: dict[tuple[object, ...], list[Group]] = {}
    for node in before.added:
        made = Group(before=[node], names=list(origins(node)), added=True)
        waiting.setdefault(_key(node), []).append(made)
        groups.append(made)
    for node in after.added:
        matches = waiting.get(_key(node))
        if matches:
            matches.pop(0).after.append(node)
        else:
            groups.append(Group(after=[node], names=list(origins(node)), added=True))
    return [group for group in groups if not _absorb(group, by_unit)]


def _key(node: fx.Node) -> tuple[object, ...]:
    """What an added node does: its kind of work, for which value, within which unit."""
    facts = info(node)
    work = "observe" if is_watching(facts) else "quantize" if facts.holds else "dequantize"
    place = node.target if work == "observe" else ""
    return work, place, facts.holds or facts.origins, facts.unit


def _absorb(group: Group, by_unit: dict[str, Group]) -> bool:
    """Join a conversion inside a unit to the unit's kernel, when only one side has it and the other has the kernel."""
    alone = bool(group.before) != bool(group.after)
    if not group.added or not alone:
        return False
    node = (group.before or group.after)[0]
    kernel = by_unit.get(info(node).unit)
    if kernel is None:
        return False
    other = kernel.after if group.before else kernel.before
    if not any(info(item).made_by.startswith("lower") for item in other):
        return False
    (kernel.before if group.before else kernel.after).append(node)
    return True


def _ordered(groups: list[Group], before: Side, after: Side) -> list[Group]:
    place_before = {node: index for index, node in enumerate(before.graph.nodes)}
    place_after = {node: index for index, node in enumerate(after.graph.nodes)}
    for group in groups:
        group.before.sort(key=lambda node: place_before[node])
        group.after.sort(key=lambda node: place_after[node])
    present = sorted((g for g in groups if g.after), key=lambda g: place_after[g.after[0]])
    gone = sorted((g for g in groups if not g.after), key=lambda g: place_before[g.before[0]])
    result: list[Group] = []
    for group in present:
        if group.before:
            while gone and place_before[gone[0].before[0]] < place_before[group.before[0]]:
                result.append(gone.pop(0))
        result.append(group)
    return result + gone
