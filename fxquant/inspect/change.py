"""What a graph diff holds, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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
