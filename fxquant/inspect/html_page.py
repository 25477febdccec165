"""A graph diff as one page: what changed, by module, beside the graph. It loads nothing and needs no network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from importlib import resources

from fxquant.inspect.arrange_changes import Entry, arrange
from fxquant.inspect.change import OUTCOME_ORDER, Change, Changes
from fxquant.inspect.compare import Comparison, ComparisonRow
from fxquant.inspect.describe_node import NodeText
from fxquant.inspect.errors_by_node import ErrorsByNode, level_text
from fxquant.inspect.html_graph import ErrorLevels, graph_of
from fxquant.inspect.render_diff import KINDS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_OUTCOMES = {
    "int8": "int8",
    "step": "step",
    "float": "float",
    "free": "free",
    "border": "conversion",
    "observer": "observer",
    "input": "input",
    "output": "output",
    "removed": "removed",
}
_KEYS = {"step": "step: float between int8"}
# What a kernel is packed for and limited to: in the list it would be on every line.
_KERNEL_NOTES = re.compile(r" \[[^\]]*\]")
_LEVELS = ("below 10 dB", "10 to 20", "20 to 30", "30 to 40", "above 40")


def page_of(diff: Changes, comparison: Comparison | None) -> str:
    """The page.

    Args:
        diff: to show.
        comparison: of the same models, to colour by error; None for outcomes alone.
    """
    errors = ErrorsByNode(comparison)
    title = f"{diff.model}: {diff.before} → {diff.after}" if diff.model else f"{diff.before} → {diff.after}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title><style>{_resource('page.css')}</style></head><body>",
            _header(title, diff, errors),
            '<main><section id="drawing" aria-label="graph"><div id="zoom">'
            '<button data-zoom="0.8" title="smaller">&minus;</button><button data-zoom="fit" title="fit">fit</button>'
            '<button data-zoom="1.25" title="larger">+</button></div>'
            f'<div id="canvas">{graph_of(diff, errors, ErrorLevels())}</div></section>',
            f'<section id="changes" aria-label="changes">{"".join(_list(diff, errors))}'
            '<p id="nothing" hidden>Nothing here has that in its name.</p></section></main>',
            f"<script>{_resource('page.js')}</script></body></html>",
        ]
    )


def _resource(name: str) -> str:
    return (resources.files("fxquant.inspect") / "page" / name).read_text(encoding="utf-8")


def _header(title: str, diff: Changes, errors: ErrorsByNode) -> str:
    kinds = "".join(f"<b>{diff.counts[kind]}</b> {kind} " for kind in KINDS if kind in diff.counts)
    outcomes = Counter(change.outcome for change in diff.changes)
    keys = "".join(
        f'<button class="key outcome-{name}" data-outcome="{name}" aria-pressed="false"><i></i>'
        f"{_KEYS.get(name, _OUTCOMES[name])} "
        f"<b>{outcomes[name]}</b></button>"
        for name in (*OUTCOME_ORDER, "removed")
        if outcomes[name] and name not in ("input", "output")
    )
    levels = "".join(f'<span class="key error-{index}"><i></i>{text}</span>' for index, text in enumerate(_LEVELS))
    colours = (
        '<label class="choice">colour <select id="colour"><option value="outcome">by outcome</option>'
        '<option value="error">by error</option></select></label>'
        if errors.known
        else ""
    )
    shown = (
        f'<div class="keys" id="levels" hidden>error of each value by itself: {levels}</div>' if errors.known else ""
    )
    return (
        f"<header><h1>{escape(title)}</h1><p>{kinds}</p>"
        '<div class="tools"><input id="search" type="search" placeholder="search names, modules, kernels" '
        f'aria-label="search" autocomplete="off"><span id="found"></span>{colours}'
        '<button id="fold">fold all</button><button id="unfold">open all</button></div>'
        f'<div class="keys" id="outcomes">{keys}</div>{shown}</header>'
    )


def _list(diff: Changes, errors: ErrorsByNode) -> Iterator[str]:
    """The modules, one inside the other, with their changes."""
    numbers = {id(change): number for number, change in enumerate(diff.changes)}
    open_paths: list[str] = []
    for section in arrange(diff):
        path = section.path.split(".") if section.path else []
        prefixes = [".".join(path[: depth + 1]) for depth in range(len(path))]
        shared = 0
        while shared < min(len(prefixes), len(open_paths)) and prefixes[shared] == open_paths[shared]:
            shared += 1
        yield "</details>" * (len(open_paths) - shared)
        for prefix in prefixes[shared:]:
            kind = section.type if prefix == section.path else ""
            yield (
                f'<details class="module" open><summary><span class="path">{escape(prefix)}</span> '
                f'<span class="type">{escape(kind)}</span></summary>'
            )
        open_paths = prefixes
        for entry in section.entries:
            yield from _entry(entry, numbers, errors)
    yield "</details>" * len(open_paths)


def _entry(entry: Entry, numbers: dict[int, int], errors: ErrorsByNode) -> Iterator[str]:
    if entry.folded:
        yield f'<details class="stretch"><summary>{escape(entry.title)}</summary>'
    for change in entry.changes:
        yield _change(change, numbers[id(change)], errors.of(change))
    if entry.folded:
        yield "</details>"


def _change(change: Change, number: int, row: ComparisonRow | None) -> str:
    entry, outcome = Entry((change,)), change.outcome
    text = " ".join(
        (change.title, change.module_path, change.by, change.reason, *(n.name for n in (*change.before, *change.after)))
    )
    level = ErrorLevels().css_class(row)
    shown = f'<span class="error">{level_text(row.local_sqnr_db)}</span>' if row is not None else ""
    badge = "" if outcome in ("input", "output") else f'<span class="badge">{_OUTCOMES[outcome]}</span>'
    return (
        f'<details class="change outcome-{outcome} {level}" id="change-{number}" data-outcome="{outcome}" '
        f'data-text="{escape(text.lower(), quote=True)}"><summary><code class="mark">{escape(entry.mark)}</code>'
        f'<span class="title">{escape(_KERNEL_NOTES.sub("", change.title))}</span>{shown}{badge}</summary>'
        f"<dl>{''.join(_facts(change, row))}</dl></details>"
    )


def _facts(change: Change, row: ComparisonRow | None) -> Iterator[str]:
    by = change.by_text or ("nothing" if change.kind == "unchanged" else "")
    facts = [("by", by), ("why", change.reason), ("module", change.module_path)]
    facts += [("before", _node_text(node)) for node in change.before]
    facts += [("after", _node_text(node)) for node in change.after]
    if row is not None:
        facts += _errors(row)
    for name, text in facts:
        if text:
            yield f"<dt>{name}</dt><dd>{escape(text)}</dd>"


def _errors(row: ComparisonRow) -> list[tuple[str, str]]:
    clipped = row.saturated_low + row.saturated_high
    return [
        ("error by itself", level_text(row.local_sqnr_db)),
        ("of its weights", level_text(row.weight_sqnr_db)),
        ("of its rounding", level_text(row.activation_sqnr_db)),
        ("median channel", level_text(row.channel_sqnr_db)),
        ("with all before", level_text(row.cumulative_sqnr_db)),
        ("clipped", f"{100 * clipped:.2g} %" if clipped > 0 else ""),
        ("unused range", f"{100 * row.dead_range:.0f} %" if row.dead_range > 0 else ""),
    ]


def _node_text(node: NodeText) -> str:
    shape = "" if node.shape is None else f"[{', '.join(map(str, node.shape))}]"
    return "  ".join(part for part in (str(node), shape, node.source) if part)
