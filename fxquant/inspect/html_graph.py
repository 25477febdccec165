"""The graph after a diff as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from itertools import groupby

from fxquant.inspect.change import Change, Changes
from fxquant.inspect.compare import ComparisonRow
from fxquant.inspect.describe_node import NodeText
from fxquant.inspect.errors_by_node import ErrorsByNode
from fxquant.inspect.layered_layout import Layout, Point, lay_out

_LETTER, _PADDING, _LEAST = 7.0, 26.0, 76.0
_LAYER, _HEIGHT = 72.0, 42.0
_MARGIN, _BAND = 16.0, 112.0
_LONGEST_TITLE = 26


def graph_of(diff: Changes, errors: ErrorsByNode, levels: ErrorLevels) -> str:
    """The SVG; every node is a link to the line of its change, by ``data-change``."""
    nodes = {node.name: (number, change, node) for number, change in enumerate(diff.changes) for node in change.after}
    titles = {name: _titles(node, change) for name, (_, change, node) in nodes.items()}
    widths = {name: max(_LEAST, _PADDING + _LETTER * max(map(len, lines))) for name, lines in titles.items()}
    order = _ordered(list(nodes), diff.edges)
    layout = lay_out(order, diff.edges, widths, _LAYER)
    width, height = layout.width + 2 * _MARGIN + _BAND, layout.height + 2 * _MARGIN
    parts = [
        f'<svg id="graph" xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="graph of the {escape(diff.after)} model">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<g transform="translate({_MARGIN + _BAND:.0f} {_MARGIN:.0f})">',
        *_bands(order, {name: change for name, (_, change, _) in nodes.items()}, layout),
    ]
    for (source, _), points in layout.routes.items():
        kind = "integers" if nodes[source][2].holds_integers else "floats"
        parts.append(f'<path class="edge {kind}" d="{_route(points)}" marker-end="url(#arrow)"/>')
    for name in order:
        number, change, node = nodes[name]
        level = levels.css_class(errors.of(change))
        parts.append(_node(number, change, node, titles[name], layout.places[name], widths[name], level))
    return "".join([*parts, "</g></svg>"])


class ErrorLevels:
    """Classes of errors for colours, by decibels."""

    _BOUNDS = (10.0, 20.0, 30.0, 40.0)

    def css_class(self, row: ComparisonRow | None) -> str:
        """``error-0`` for the worst to ``error-4``, ``error-none`` where nothing is known."""
        if row is None or row.harm_db == -math.inf:
            return "error-none"
        return f"error-{sum(row.harm_db >= bound for bound in self._BOUNDS)}"


def _ordered(names: list[str], edges: tuple[tuple[str, str], ...]) -> list[str]:
    """The names so that sources come before targets; else as they are."""
    sources: dict[str, list[str]] = {}
    for source, target in edges:
        sources.setdefault(target, []).append(source)
    done: dict[str, None] = {}
    known = set(names)
    for start in names:
        waiting = [start]
        while waiting:
            name = waiting[-1]
            missing = [
                item for item in sources.get(name, ()) if item in known and not (item in done or item in waiting)
            ]
            if missing and name not in done:
                waiting.extend(missing)
            else:
                done.setdefault(waiting.pop())
    return list(done)


def _titles(node: NodeText, change: Change) -> tuple[str, str]:
    """Two lines: what people call it, and what computes it."""
    called = " + ".join(item.label or item.text for item in change.before) if change.before else node.label
    text = node.text.partition(" [")[0]
    upper, lower = (called, text) if called != text else (called, node.name)
    if node.outcome in ("input", "output", "border", "observer"):
        upper, lower = node.outcome if node.outcome in ("input", "output") else node.text, node.name
    return _cut(upper), _cut(lower if lower != upper else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TITLE else f"{text[: _LONGEST_TITLE - 1]}…"


def _node(
    number: int, change: Change, node: NodeText, titles: tuple[str, str], place: Point, width: float, level: str
) -> str:
    x, y = place
    upper, lower = titles
    found = escape(" ".join((node.name, node.text, node.module_path, change.title)).lower(), quote=True)
    about = escape("\n".join(filter(None, (change.title, change.by_text, change.reason, node.source))))
    lines = (
        f'<text y="-3">{escape(upper)}</text><text class="small" y="12">{escape(lower)}</text>'
        if lower
        else f'<text y="4">{escape(upper)}</text>'
    )
    return (
        f'<g class="node outcome-{node.outcome} {level}" tabindex="0" role="link" data-change="{number}" '
        f'data-text="{found}" transform="translate({x:.1f} {y:.1f})"><title>{about}</title>'
        f'<rect x="{-width / 2:.1f}" y="{-_HEIGHT / 2}" width="{width:.1f}" height="{_HEIGHT}" rx="8"/>{lines}</g>'
    )


def _bands(order: list[str], changes: dict[str, Change], layout: Layout) -> Iterator[str]:
    """A stripe with its name for each module of the first two levels, where it has layers of its own."""
    modules: dict[int, set[str]] = {}
    for name in order:
        if name in changes and changes[name].outcome not in ("input", "output"):
            modules.setdefault(layout.layers[name], set()).add(".".join(changes[name].module_path.split(".")[:2]))
    single = [(layer, _enclosing(paths)) for layer, paths in sorted(modules.items())]
    for number, (path, run) in enumerate(groupby(single, key=lambda item: item[1])):
        layers = [layer for layer, _ in run]
        if not path:
            continue
        top, height = min(layers) * _LAYER, (max(layers) - min(layers) + 1) * _LAYER
        shade = "even" if number % 2 else "odd"
        yield (
            f'<g class="band {shade}"><rect x="{-_BAND:.0f}" y="{top + 4:.0f}" width="{layout.width + _BAND + 8:.0f}" '
            f'height="{height - 8:.0f}" rx="10"/><text x="{10 - _BAND:.0f}" y="{top + 24:.0f}">{escape(_cut(path))}'
            "</text></g>"
        )


def _enclosing(paths: set[str]) -> str:
    """The path, where there is one, else what all of them begin with, "" for nothing."""
    first, *others = sorted(paths)
    parent = first.partition(".")[0]
    return first if not others else parent if all(path.partition(".")[0] == parent for path in others) else ""


def _route(points: list[Point]) -> str:
    """A smooth line from below the first node to above the last."""
    (x, y), *rest = points
    y += _HEIGHT / 2
    path = [f"M{x:.1f} {y:.1f}"]
    for index, (to_x, to_y) in enumerate(rest):
        end = to_y - _HEIGHT / 2 - 2 if index == len(rest) - 1 else to_y
        bend = (end - y) / 2
        path.append(f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {end - bend:.1f} {to_x:.1f} {end:.1f}")
        x, y = to_x, end
    return "".join(path)
