"""Places for the nodes of a graph: in layers from top to bottom, few crossings, straight chains.

Source: K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system structures", 1981:
layers by longest path, dummy nodes on edges that pass layers, order by barycentres.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

_SWEEPS = 6
_DUMMY_WIDTH = 14.0
_GAP = 22.0
# Edges that pass more layers than that are drawn straight: room for all of them would push everything else aside.
_LONGEST = 24

Edge = tuple[str, str]
Point = tuple[float, float]


@dataclass
class Layout:
    """Where everything is, in pixels.

    Attributes:
        places: middle of each node.
        routes: points that each edge passes, from its source's middle to its target's.
        layers: number of each node's layer, from 0 at the top.
        width, height: of the whole.
    """

    places: dict[str, Point] = field(default_factory=dict)
    routes: dict[Edge, list[Point]] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def lay_out(names: Sequence[str], edges: Sequence[Edge], widths: dict[str, float], layer_height: float) -> Layout:
    """Place nodes.

    Args:
        names: in an order in which sources come before targets.
        edges: between them.
        widths: of the nodes in pixels.
        layer_height: distance between layers.
    """
    if not names:
        return Layout()
    known = set(names)
    kept = list(dict.fromkeys(edge for edge in edges if set(edge) <= known))
    layers = _layers(names, kept)
    graph = _Proper(names, kept, layers, widths)
    graph.order()
    x = graph.positions()
    left = min(x[name] - graph.widths[name] / 2 for name in x)
    right = max(x[name] + graph.widths[name] / 2 for name in x)
    middle = layer_height / 2
    points = {name: (x[name] - left, graph.layer[name] * layer_height + middle) for name in x}
    routes = {edge: [points[name] for name in chain] for edge, chain in graph.chains.items()}
    height = (max(layers.values()) + 1) * layer_height
    return Layout({name: points[name] for name in names}, routes, layers, right - left, height)


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way from the top; sources without inputs go right above what reads them."""
    sources, targets = defaultdict(list), defaultdict(list)
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    found: dict[str, int] = {}
    for name in names:
        found[name] = max((found[source] + 1 for source in sources[name] if source in found), default=0)
    for name in names:
        if not sources[name] and targets[name]:
            found[name] = max(0, min(found[target] for target in targets[name]) - 1)
    return found


class _Proper:
    """A layered graph in which every edge goes to the next layer, dummy nodes in between."""

    def __init__(
        self, names: Sequence[str], edges: Sequence[Edge], layers: dict[str, int], widths: dict[str, float]
    ) -> None:
        self.layer, self.widths = dict(layers), dict(widths)
        self.chains: dict[Edge, list[str]] = {}
        self.above: dict[str, list[str]] = defaultdict(list)
        self.below: dict[str, list[str]] = defaultdict(list)
        for source, target in edges:
            self._connect(source, target)
        count = max(layers.values()) + 1
        self.rows: list[list[str]] = [[] for _ in range(count)]
        for name in (*names, *(name for name in self.layer if name not in layers)):
            self.rows[self.layer[name]].append(name)

    def _connect(self, source: str, target: str) -> None:
        chain, start = [source], self.layer[source] + 1
        is_long = self.layer[target] - start > _LONGEST
        for layer in () if is_long else range(start, self.layer[target]):
            dummy = f"{source}>{target}@{layer}"
            self.layer[dummy], self.widths[dummy] = layer, _DUMMY_WIDTH
            chain.append(dummy)
        chain.append(target)
        self.chains[source, target] = chain
        for upper, lower in pairwise(chain):
            self.below[upper].append(lower)
            self.above[lower].append(upper)

    def order(self) -> None:
        """Sort each layer by the mean place of its neighbours, downwards and upwards in turn."""
        for sweep in range(_SWEEPS):
            downwards = sweep % 2 == 0
            near = self.above if downwards else self.below
            place = {name: index for row in self.rows for index, name in enumerate(row)}
            for row in self.rows if downwards else reversed(self.rows):
                keys = {
                    name: fmean(place[other] for other in near[name]) if near[name] else place[name] for name in row
                }
                row.sort(key=lambda name, keys=keys: keys[name])  # type: ignore[misc]
                place.update({name: index for index, name in enumerate(row)})

    def positions(self) -> dict[str, float]:
        """Middles of all nodes: where their neighbours are, as far as the order of the layers allows."""
        x: dict[str, float] = {}
        for row in self.rows:
            edge = 0.0
            for name in row:
                x[name] = edge + self.widths[name] / 2
                edge += self.widths[name] + _GAP
        for sweep in range(2 * _SWEEPS):
            downwards = sweep % 2 == 0
            near = self.above if downwards else self.below
            for row in self.rows if downwards else reversed(self.rows):
                wanted = {name: fmean(x[other] for other in near[name]) if near[name] else x[name] for name in row}
                self._place(row, wanted, x)
        return x

    def _place(self, row: list[str], wanted: dict[str, float], x: dict[str, float]) -> None:
        """Move a layer's nodes to where they want to be; runs that would overlap share the shift.

        Source: pool adjacent violators, M. Ayer et al., "An empirical distribution function for sampling with
        incomplete information", 1955: the least squares of the shifts in an order that is kept.
        """
        offsets = self._offsets(row)
        blocks: list[tuple[float, int]] = []  # sum of the places the first node would have, and how many nodes
        for name, offset in zip(row, offsets, strict=True):
            total, count = wanted[name] - offset, 1
            while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
                before, more = blocks.pop()
                total, count = total + before, count + more
            blocks.append((total, count))
        firsts = [total / count for total, count in blocks for _ in range(count)]
        for name, offset, first in zip(row, offsets, firsts, strict=True):
            x[name] = first + offset

    def _offsets(self, members: list[str]) -> list[float]:
        """Distances of the nodes' middles from the first one's."""
        found = [0.0]
        for one, other in pairwise(members):
            found.append(found[-1] + (self.widths[one] + self.widths[other]) / 2 + _GAP)
        return found
