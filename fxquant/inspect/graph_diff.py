"""What changed between two stages of one model, which rule or pass did it, and why."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from torch import fx, nn

from fxquant.inspect.align_nodes import Group, align_nodes
from fxquant.inspect.change import Change, Changes
from fxquant.inspect.compare import Comparison
from fxquant.inspect.describe_node import NodeText, describe, observer_text, qparams_text, weight_text
from fxquant.inspect.html_page import page_of
from fxquant.inspect.render_diff import to_notebook, to_plain, to_rich, to_terminal
from fxquant.inspect.render_markdown import markdown_of
from fxquant.inspect.side import INTEGER_STAGES, PLANNED_STAGES, Side, is_watching, sides_of
from fxquant.ir.meta import info
from fxquant.ir.stages import StageModule

Facts = tuple[str, str, str]
_NO_FACTS: Facts = ("", "", "")
Pieces = tuple[tuple[Change, ...], tuple[tuple[str, str], ...]]


class GraphDiff(Changes):
    """All changes, in the order of the second graph. ``print`` shows them, in colour on a terminal."""

    def __str__(self) -> str:
        return to_terminal(self) if sys.stdout.isatty() else to_plain(self)

    def __rich__(self) -> RenderableType:
        return to_rich(self)

    def to_markdown(self, comparison: Comparison | None = None) -> str:
        """The diff as Markdown: a table per module.

        Args:
            comparison: from ``fxquant.compare``, to show the errors of the values.
        """
        return markdown_of(self, comparison)

    def to_html(self, comparison: Comparison | None = None) -> str:
        """The diff as one page that needs nothing else: the graph, what changed, search, folding.

        Args:
            comparison: from ``fxquant.compare``, to colour the graph by error too.
        """
        return page_of(self, comparison)

    def _repr_html_(self) -> str:
        return to_notebook(self)


def graph_diff(before: Any, after: Any, *, context: int = 0) -> GraphDiff:
    """Compare two stages of one model: float, fused, observed, reference, quantized.

    The two may also be one stage under two configurations.

    Args:
        before, after: models of any stage; one of them may be the float module itself.
        context: how many unchanged nodes to show on either side of a change; longer stretches are folded.

    Raises:
        FxquantError: they do not come from the same model, or none of them knows its captured graph.
    """
    first, second = sides_of(before, after)
    changes, edges = _pieces(first, second)
    name = type(after if isinstance(after, StageModule) and not isinstance(before, nn.Module) else before).__name__
    return GraphDiff(changes, first.stage, second.stage, edges, context, name)


def _pieces(before: Side, after: Side) -> Pieces:
    """Changes, and edges of the graph after."""
    types = ModuleTypes(before, after)
    changes: list[Change] = []
    edges = [
        (source.name, node.name) for node in after.shown for source in node.all_input_nodes if source in after.shown
    ]
    for group in align_nodes(before, after):
        inside, more = _inside(group, before, after)
        changes += [_change(group, before, after, types), *inside]
        edges += more
    return tuple(changes), tuple(edges)


def _inside(group: Group, before: Side, after: Side) -> Pieces:
    """The changes of a standalone module, after its call."""
    calls = [node for node in (*group.before, *group.after) if node.op == "call_module"]
    for path in dict.fromkeys(str(node.target) for node in calls):
        parts = [_module_at(side, path) for side in (before, after)]
        if None not in parts and any(isinstance(part, StageModule) for part in parts):
            changes, edges = _pieces(*sides_of(*parts))
            inputs = [node.name for change in changes for node in change.after if node.outcome == "input"]
            entries = [(group.after[0].name, f"{path}.{name}") for name in inputs if group.after]
            moved = tuple((f"{path}.{source}", f"{path}.{target}") for source, target in edges)
            return tuple(change.moved_to(path) for change in changes), (*entries, *moved)
    return (), ()


class ModuleTypes:
    """Class names of the user's modules by path, as far as they are known."""

    def __init__(self, before: Side, after: Side) -> None:
        self.known: dict[str, str] = {}
        for side in (before, after):
            for node in side.graph.nodes:
                origin = info(node).origin
                if origin.module_type:
                    self.known.setdefault(origin.module_path, origin.module_type.rpartition(".")[2])
            if side.stage == "float":
                modules = side.model.named_modules(remove_duplicate=False)
                self.known.update((path, type(module).__name__) for path, module in modules)


def _module_at(side: Side, path: str) -> nn.Module | None:
    try:
        return side.model.get_submodule(path)
    except AttributeError:
        return None


def _change(group: Group, before: Side, after: Side, types: ModuleTypes) -> Change:
    texts = tuple(describe(node, before) for node in group.before), tuple(describe(node, after) for node in group.after)
    old, new = _facts(group.before, before), _facts(group.after, after)
    kind = _kind(texts[0], texts[1], old != new and any((*old, *new)))
    reason = _reason(kind, group, before, after, (old, new))
    made = Makers() if kind == "unchanged" else _makers(kind, group, before, after)
    place = _place(group, texts, after)
    return Change(
        kind,
        *texts,
        by=", ".join(dict.fromkeys((*made.rules, *made.passes))),
        reason=reason,
        module_path=place,
        rules=made.rules,
        module_type=types.known.get(place, ""),
        undone=made.undone,
    )


def _kind(before: tuple[NodeText, ...], after: tuple[NodeText, ...], facts_differ: bool) -> str:
    if not before or not after:
        return "inserted" if after else "removed"
    if len(before) != len(after):
        return "fused" if len(before) > len(after) else "split"
    same = [node.text for node in before] == [node.text for node in after]
    return "unchanged" if same and not facts_differ else "replaced"


def _facts(nodes: list[fx.Node], side: Side) -> Facts:
    """The numbers a side holds for these nodes: what is observed, the output range, the weight."""
    found = [(observer_text(node, side), qparams_text(node, side), weight_text(node, side)) for node in nodes]
    columns = zip(_NO_FACTS, *found, strict=True)
    observed, ranges, weights = ("; ".join(dict.fromkeys(filter(None, texts))) for texts in columns)
    return observed, ranges, weights


def _reason(kind: str, group: Group, before: Side, after: Side, facts: tuple[Facts, Facts]) -> str:
    """The numbers of the side after, within one stage those that are new, and what the plan says."""
    one_stage, parts = before.stage == after.stage, []
    for old, new in zip(*facts, strict=True):
        if kind != "unchanged" and not (one_stage and old == new):
            parts.append(f"{old} → {new.removeprefix('weight ')}" if one_stage and old and new else new)
    parts.append(_plan_reason(kind, group, before, after))
    return "; ".join(part for part in parts if part)


def _plan_reason(kind: str, group: Group, before: Side, after: Side) -> str:
    """Why the plan left an operator float, or let it go; who reads a value that becomes float again."""
    if group.added:
        return _readers(group.after, after) if kind == "inserted" else ""
    if kind == "removed":
        units = (after.unit_of(node) for node in group.before)
        return next((unit.reason for unit in units if unit is not None and unit.reason), "nothing reads it")
    was, now = _left_float(group.before, before), _left_float(group.after, after)
    if now and (now != was or (after.stage in INTEGER_STAGES and before.stage not in INTEGER_STAGES)):
        return now
    return f"before, {was}" if was and not now and after.stage in PLANNED_STAGES else ""


def _left_float(nodes: list[fx.Node], side: Side) -> str:
    """That an operator is float, or a step between integers, and why; ``""`` for others and before there is a plan."""
    units = (side.unit_of(node) for node in nodes) if side.stage in PLANNED_STAGES else ()
    unit = next((unit for unit in units if unit is not None), None)
    return f"{unit.outcome}: {unit.reason}" if unit is not None and unit.outcome in ("float", "step") else ""


def _readers(nodes: list[fx.Node], side: Side) -> str:
    """For a value that becomes float: the readers that want it so."""
    if not nodes or info(nodes[0]).holds or info(nodes[0]).unit or is_watching(info(nodes[0])):
        return ""
    return "read as float by " + ", ".join(user.name for user in nodes[0].users)


@dataclass(frozen=True)
class Makers:
    """Who made a change.

    Attributes:
        rules: fusion rules that fired within it, passes: that made its nodes.
        undone: whether the rules had made what was before.
    """

    rules: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    undone: bool = False


def _makers(kind: str, group: Group, before: Side, after: Side) -> Makers:
    fused = kind in ("fused", "split") or any(len(info(node).origins) > 1 for node in (*group.before, *group.after))
    sides = [side for side, nodes in ((after, group.after), (before, group.before)) if _is_fused(nodes, side)]
    plan = sides[0].plan if sides and fused and not group.added else None
    rules = [
        record.rule
        for record in (plan.fusions if plan is not None else ())
        if record.fired and set(record.nodes) <= set(group.names)
    ]
    made = [info(node).made_by for node in (*group.after, *(() if group.after else group.before))]
    passes = [name for name in made if name != "capture"]
    if not rules and not passes:
        passes = _stage_pass(after)
    return Makers(tuple(dict.fromkeys(rules)), tuple(passes), bool(rules) and sides[0] is before)


def _is_fused(nodes: list[fx.Node], side: Side) -> bool:
    """Whether a side runs an operator as its plan fused it: not before there is int8, and not where it stays float."""
    if side.stage == "fused" or side.stage not in INTEGER_STAGES:
        return side.stage == "fused"
    units = [unit for unit in map(side.unit_of, nodes) if unit is not None]
    return any(unit.output or unit.mode for unit in units)


def _stage_pass(side: Side) -> list[str]:
    """The pass that builds a stage, where the nodes themselves do not say."""
    made = {info(node).made_by for node in side.added}
    return sorted(made - {"capture"})[:1]


def _place(group: Group, texts: tuple[tuple[NodeText, ...], tuple[NodeText, ...]], after: Side) -> str:
    """The module that encloses all operators of a group; of a value that becomes float, the module that reads it."""
    nodes = [text for side in texts for text in side if text.outcome not in ("border", "observer")]
    if group.added and group.after and not info(group.after[0]).holds and not is_watching(info(group.after[0])):
        nodes = [describe(user, after) for user in group.after[0].users if user.op != "output"]
    paths = [node.place.split(".") for node in nodes or [text for side in texts for text in side]]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)
