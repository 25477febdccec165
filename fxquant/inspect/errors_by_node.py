"""Which row of a comparison belongs to which change of a diff."""

from __future__ import annotations

import math

from fxquant.inspect.change import Change
from fxquant.inspect.compare import Comparison, ComparisonRow


class ErrorsByNode:
    """Finds rows by the names of nodes.

    Args:
        comparison: of the same two models, or None.
    """

    def __init__(self, comparison: Comparison | None) -> None:
        rows = () if comparison is None else comparison.rows
        self.known = bool(rows)
        self._by_value = {row.value: row for row in rows if row.value}
        self._by_node = {row.node: row for row in rows}

    def of(self, change: Change) -> ComparisonRow | None:
        """The row of what a change computes; None where nothing is compared."""
        if change.outcome in ("input", "output"):
            return None
        if change.outcome == "border" and not any(node.holds_integers for node in change.after):
            return None
        for node in reversed((*change.before, *change.after)):
            for name in (node.name, node.name.removesuffix("_quantize")):
                found = self._by_value.get(name) or self._by_node.get(name)
                if found is not None:
                    return found
        return None


def level_text(level: float) -> str:
    """``31.2 dB``, ``exact``, or ``""`` when unknown."""
    if math.isnan(level):
        return ""
    return "exact" if level == math.inf else f"{level:.1f} dB"
