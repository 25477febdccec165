"""A graph diff as text: coloured and fitted to the width of terminals, plain for pipes and files."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fxquant.inspect.arrange_changes import Entry, Section, arrange
from fxquant.inspect.change import Changes

KINDS = ("fused", "split", "replaced", "inserted", "removed", "unchanged")
_STYLES = {"-": "red", "+": "green", "~": "cyan", "=": "yellow", " ": "dim"}
_INDENT = 2
# Between the parts of a reason: ranges, weights, why an operator is or was float.
_PARTS = re.compile(r"; (?=weight |float: |step: |before, )")


def to_plain(diff: Changes) -> str:
    """The diff without colour, a line a change, for pipes and files."""
    lines = [title(diff)]
    for section in arrange(diff):
        depth = _depth(section)
        lines.append(f"{' ' * depth}{_heading(section)}")
        for entry in section.entries:
            by, *more = _texts(entry)
            lines.append(f"{' ' * (depth + _INDENT)}{entry.mark} {entry.title}{by}")
            lines += [f"{' ' * (depth + _INDENT + 4)}{text}" for text in more]
    return "\n".join(lines)


def to_rich(diff: Changes) -> RenderableType:
    """The diff as a rich renderable, which wraps within its columns."""
    parts: list[RenderableType] = [Text(title(diff), style="bold")]
    for section in arrange(diff):
        depth = _depth(section)
        heading = Text(section.path or "(root)", style="bold")
        heading.append(f"  {section.type}" if section.type else "", style="dim")
        parts.append(Padding(heading, (0, 0, 0, depth)))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(ratio=1, overflow="fold")
        for entry in section.entries:
            grid.add_row(Text(entry.mark, style=_STYLES[entry.mark]), _paragraph(entry))
        parts.append(Padding(grid, (0, 0, 0, depth + _INDENT)))
    return Group(*parts)


def to_terminal(diff: Changes) -> str:
    """The diff with the escape codes of a terminal, wrapped to its width; plain where NO_COLOR is set."""
    out = io.StringIO()
    width = shutil.get_terminal_size((100, 24)).columns
    Console(file=out, force_terminal=True, width=width, highlight=False).print(to_rich(diff))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def to_notebook(diff: Changes) -> str:
    """The diff as one preformatted block of HTML."""
    console = Console(file=io.StringIO(), record=True, width=140, highlight=False, force_jupyter=False)
    console.print(to_rich(diff))
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')


def title(diff: Changes) -> str:
    """Both stages, and how many changes there are of each kind."""
    return f"{diff.before} → {diff.after}: {summary(diff)}"


def summary(diff: Changes) -> str:
    """How many changes there are of each kind."""
    counts = diff.counts
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if kind in counts) or "both are empty"


def _texts(entry: Entry) -> Iterator[str]:
    """Who did it, to go behind the title, then the reason in lines."""
    change = entry.changes[0]
    if entry.folded:
        yield ""
        return
    yield f"  [{change.by_text}]" if change.by_text else ""
    yield from filter(None, _PARTS.split(change.reason))


def _paragraph(entry: Entry) -> Text:
    by, *more = _texts(entry)
    text = Text(entry.title, style=_STYLES[entry.mark])
    text.append(by, style="blue")
    for line in more:
        text.append(f"\n  {line}", style="dim" if entry.mark != "=" else "")
    return text


def _heading(section: Section) -> str:
    return f"{section.path or '(root)'}{f'  {section.type}' if section.type else ''}"


def _depth(section: Section) -> int:
    return _INDENT * section.path.count(".") if section.path else 0
