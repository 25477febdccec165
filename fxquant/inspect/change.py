"""What a graph diff holds, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from fxquant.inspect.describe_node import NodeText

OUTCOME_ORDER = ("int8", "step", "float", "free", "border", "observer", "input", "output")


@dataclass(frozen=True)
class Change:
    """Aligned nodes of both sides, and what became of them.

    Attributes:
        kind: ``fused`` (several nodes became fewer), ``split`` (the other way round), ``replaced`` (another
            operation or other numbers), ``inserted``, ``removed`` or ``unchanged``.
        before, after: the nodes, in graph order.
        by: the fusion rules and passes that did it, ``""`` when nothing was done.
        rules: the fusion rules alone.
        reason: why, or with what parameters, ``""`` when there is nothing to say.
        module_path: module of the user's model that encloses them all.
        module_type: class of that module, ``""`` when it is not known.
        undone: whether the rules had made what was before, and no longer fire.
    """

    kind: str
    before: tuple[NodeText, ...]
    after: tuple[NodeText, ...]
    by: str = ""
    reason: str = ""
    module_path: str = ""
    rules: tuple[str, ...] = ()
    module_type: str = ""
    undone: bool = False

    @property
    def title(self) -> str:
        """One line: ``conv1 + bn1 + relu → quantized.conv2d [onednn] (relu)``."""
        before = " + ".join(str(node) if node.names_kernel else node.label or node.text for node in self.before)
        after = " + ".join(map(str, self.after))
        if self.kind == "unchanged":
            return after
        if before and after:
            return f"{before} → {after}"
        return ", ".join(
            f"{node.text} {self.kind}{'' if node.name == node.text else f' ({node.name})'}"
            for node in (*self.before, *self.after)
        )

    @property
    def by_text(self) -> str:
        """``fuse: fold_batch_norm, absorb_clip; lower_native``, or ``undo: fold_batch_norm``."""
        passes = [name for name in self.by.split(", ") if name and name not in self.rules]
        parts = [f"{'undo' if self.undone else 'fuse'}: {', '.join(self.rules)}"] if self.rules else []
        return "; ".join([*parts, ", ".join(passes)] if passes else parts)

    @property
    def outcome(self) -> str:
        """Of the nodes after, the most telling one; of what is gone, ``removed``."""
        found = [node.outcome for node in self.after]
        return next((name for name in OUTCOME_ORDER if name in found), "removed")

    def moved_to(self, path: str) -> Change:
        """The same change, of a module that is at ``path`` in a larger one."""

        def moved(text: NodeText) -> NodeText:
            inside = f"{path}.{text.module_path}".strip("."), f"{path}.{text.place}".strip(".")
            return replace(text, name=f"{path}.{text.name}", module_path=inside[0], place=inside[1])

        return replace(
            self,
            before=tuple(map(moved, self.before)),
            after=tuple(map(moved, self.after)),
            module_path=f"{path}.{self.module_path}".strip("."),
        )


@dataclass(frozen=True)
class Changes:
    """All changes, in the order of the second graph.

    Attributes:
        changes: what became of every node, unchanged ones included.
        before, after: the stages compared, such as ``float`` and ``quantized``.
        edges: names of nodes of the second graph, (what gives a value, what reads it).
        context: how many unchanged nodes texts show on either side of a change.
        model: class of the model.
    """

    changes: tuple[Change, ...]
    before: str
    after: str
    edges: tuple[tuple[str, str], ...] = ()
    context: int = 0
    model: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of changes by kind."""
        return dict(Counter(change.kind for change in self.changes))
