"""Remove nodes whose results nobody reads.

Before: ``%size = x.size(0)`` with no users. After: gone. Placeholders, outputs, run-time checks, nodes that
change something in place, or what is in a container of the caller's, and parts that run as Python stay; so does what
draws random numbers, since what is drawn later depends on it.
"""

from __future__ import annotations

from torch import fx

from fxquant.ir.checks import CHECKS
from fxquant.ir.effects import is_random
from fxquant.ir.float_part import EFFECTS
from fxquant.ir.meta import info
from fxquant.ir.write_back import WRITES

_ACT = frozenset((*CHECKS, *WRITES))


def remove_dead_nodes(graph: fx.Graph, trains: bool = False) -> None:
    """Remove dead nodes from ``graph`` in place, last first; one that ``trains`` draws what dropout drops, too."""
    for node in reversed(graph.nodes):
        draws = is_random(node) or (trains and info(node).op == "dropout")
        acts = bool(info(node).mutates) or node.target in _ACT or EFFECTS in node.meta or draws
        kept = acts or node.op in ("placeholder", "output")
        if not node.users and not kept:
            graph.erase_node(node)
