"""What a graph diff holds, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from fxquant.inspect.describe_node import NodeText


@dataclass(frozen=True)
class Change:
    """Aligned nodes of both sides, and what became of them.

    Attributes:
        kind: ``fused`` (several nodes became fewer), ``split`` (the other way round), ``replaced`` (another
            operation or other numbers), ``inserted``, ``removed`` or ``unchanged``.
        before, after: the nodes, in graph order.
        by: the fusion rules and passes that did it, ``""`` when nothing was done.
        reason: why, or with what parameters, ``""`` when there is nothing to say.
        module_path: module of the user's model that encloses them all.
    """

    kind: str
    before: tuple[NodeText, ...]
    after: tuple[NodeText, ...]
    by: str = ""
    reason: str = ""
    module_path: str = ""

    def moved_to(self, path: str) -> Change:
        """The same change, of a module that is at ``path`` in a larger one."""

        def moved(text: NodeText) -> NodeText:
            return replace(text, name=f"{path}.{text.name}", module_path=f"{path}.{text.module_path}".strip("."))

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
    """

    changes: tuple[Change, ...]
    before: str
    after: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of changes by kind."""
        return dict(Counter(change.kind for change in self.changes))
