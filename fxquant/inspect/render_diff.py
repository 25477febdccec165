"""A graph diff as text: coloured for terminals, plain for pipes and files, HTML for notebooks."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from fxquant.inspect.change import Change, Changes
from fxquant.inspect.describe_node import NodeText

_STYLES = {"-": "red", "+": "green", "=": "yellow", " ": "dim", "@": "bold cyan", "title": "bold"}
_KINDS = ("fused", "split", "replaced", "inserted", "removed", "unchanged")

Line = tuple[str, str]


def to_plain(diff: Changes) -> str:
    """The diff without colour."""
    return "\n".join(text for _, text in _lines(diff))


def to_rich(diff: Changes) -> Text:
    """The diff as a rich renderable."""
    return Text("\n").join(Text(text, style=_STYLES[mark], no_wrap=False) for mark, text in _lines(diff))


def to_terminal(diff: Changes) -> str:
    """The diff with the escape codes of a terminal, wrapped to its width; plain where NO_COLOR is set."""
    out = io.StringIO()
    width = shutil.get_terminal_size((100, 24)).columns
    Console(file=out, force_terminal=True, width=width, highlight=False).print(to_rich(diff))
    return out.getvalue().rstrip("\n")


def to_html(diff: Changes) -> str:
    """The diff as one preformatted block of HTML."""
    console = Console(file=io.StringIO(), record=True, width=160, highlight=False, force_jupyter=False)
    console.print(to_rich(diff))
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')


def _lines(diff: Changes) -> Iterator[Line]:
    """Every line with its mark: a title, module headings, changes, and folded stretches."""
    yield "title", f"{diff.before} → {diff.after}: {_summary(diff)}"
    module, unchanged = "", 0
    for change in diff.changes:
        if change.kind == "unchanged" and not change.reason:
            unchanged += 1
            continue
        if unchanged:
            yield " ", f"  … {unchanged} unchanged"
            unchanged = 0
        if change.module_path != module:
            module = change.module_path
            yield "@", f"@ {module or '(root)'}"
        yield from _change_lines(change)
    if unchanged:
        yield " ", f"  … {unchanged} unchanged"


def _summary(diff: Changes) -> str:
    counts = diff.counts
    return ", ".join(f"{counts[kind]} {kind}" for kind in _KINDS if kind in counts) or "both are empty"


def _change_lines(change: Change) -> Iterator[Line]:
    by = f"  [{change.by}]" if change.by else ""
    if change.kind == "unchanged":
        yield "=", f"  = {_names(change.after)}"
    else:
        if change.before:
            yield "-", f"  - {_names(change.before)}{'' if change.after else by}"
        if change.after:
            yield "+", f"  + {_names(change.after)}{by}"
    if change.reason:
        yield " ", f"      {change.reason}"


def _names(nodes: tuple[NodeText, ...]) -> str:
    return " · ".join(str(node) for node in nodes)
