"""What changed between two stages of one model, which rule or pass did it, and why."""

from __future__ import annotations

import sys
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
from fxquant.inspect.side import INTEGER_STAGES, Side, sides_of
from fxquant.ir.meta import info
from fxquant.ir.stages import StageModule
from fxquant.passes.insert_observers import MADE_BY as OBSERVING

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
    kind = _kind(texts[0], texts[1], old != new and bool(old or new))
    reason = _reason(kind, group, before, after, (old, new))
    rules, by = ([], []) if kind == "unchanged" else _makers(kind, group, before, after)
    place = _place(group, texts, after)
    return Change(
        kind,
        *texts,
        by=", ".join(by),
        reason=reason,
        module_path=place,
        rules=tuple(dict.fromkeys(rules)),
        module_type=types.known.get(place, ""),
    )


def _kind(before: tuple[NodeText, ...], after: tuple[NodeText, ...], facts_differ: bool) -> str:
    if not before or not after:
        return "inserted" if after else "removed"
    if len(before) != len(after):
        return "fused" if len(before) > len(after) else "split"
    same = [node.text for node in before] == [node.text for node in after]
    return "unchanged" if same and not facts_differ else "replaced"


def _facts(nodes: list[fx.Node], side: Side) -> str:
    """The numbers a side holds for these nodes: output range and weight."""
    found = [text for node in nodes for text in (qparams_text(node, side), weight_text(node, side)) if text]
    return "; ".join(dict.fromkeys(found))


def _reason(kind: str, group: Group, before: Side, after: Side, facts: tuple[str, str]) -> str:
    parts = [observer_text(node, after) for node in group.after]
    if kind == "unchanged" or facts[0] == facts[1]:
        shown = ""
    elif facts[0] and facts[1] and before.stage == after.stage:
        shown = f"{facts[0]} → {facts[1]}"
    else:
        shown = facts[1]
    parts += [shown, _plan_reason(kind, group, before, after)]
    return "; ".join(part for part in parts if part)


def _plan_reason(kind: str, group: Group, before: Side, after: Side) -> str:
    """Why the plan left an operator float, or let it go; who reads a value that becomes float again."""
    if group.added:
        return _readers(group.after, after) if kind == "inserted" else ""
    if kind == "removed":
        units = (after.unit_of(node) for node in group.before)
        return next((unit.reason for unit in units if unit is not None and unit.reason), "nothing reads it")
    if after.stage in INTEGER_STAGES and before.stage not in INTEGER_STAGES:
        unit = next((after.unit_of(node) for node in group.after), None)
        if unit is not None and unit.outcome in ("float", "step"):
            return f"{unit.outcome}: {unit.reason}"
    return ""


def _readers(nodes: list[fx.Node], side: Side) -> str:
    """For a value that becomes float: the readers that want it so."""
    if not nodes or info(nodes[0]).holds or info(nodes[0]).unit or info(nodes[0]).made_by == "insert_observers":
        return ""
    return "read as float by " + ", ".join(user.name for user in nodes[0].users)


def _makers(kind: str, group: Group, before: Side, after: Side) -> tuple[list[str], list[str]]:
    """Fusion rules that fired within the group; these, then the passes that made its nodes."""
    later = after if after.plan is not None else before
    fused = kind in ("fused", "split") or any(len(info(node).origins) > 1 for node in (*group.before, *group.after))
    rules = [
        record.rule
        for record in (later.plan.fusions if later.plan is not None and fused and not group.added else ())
        if record.fired and set(record.nodes) <= set(group.names)
    ]
    made = [info(node).made_by for node in (*group.after, *(() if group.after else group.before))]
    passes = [name for name in made if name != "capture"]
    if not rules and not passes:
        passes = _stage_pass(after)
    return rules, list(dict.fromkeys([*rules, *passes]))


def _stage_pass(side: Side) -> list[str]:
    """The pass that builds a stage, where the nodes themselves do not say."""
    made = {info(node).made_by for node in side.added}
    return sorted(made - {"capture"})[:1]


def _place(group: Group, texts: tuple[tuple[NodeText, ...], tuple[NodeText, ...]], after: Side) -> str:
    """The module that encloses all operators of a group; of a value that becomes float, the module that reads it."""
    nodes = [text for side in texts for text in side if text.outcome not in ("border", "observer")]
    if group.added and group.after and not info(group.after[0]).holds and info(group.after[0]).made_by != OBSERVING:
        nodes = [describe(user, after) for user in group.after[0].users if user.op != "output"]
    paths = [node.place.split(".") for node in nodes or [text for side in texts for text in side]]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)
