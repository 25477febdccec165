"""A graph diff as Markdown: a table per module, for issues and pull requests."""

from __future__ import annotations

from fxquant.inspect.arrange_changes import Entry, arrange
from fxquant.inspect.change import Changes
from fxquant.inspect.compare import Comparison
from fxquant.inspect.errors_by_node import ErrorsByNode, level_text
from fxquant.inspect.render_diff import summary


def markdown_of(diff: Changes, comparison: Comparison | None) -> str:
    """The diff as Markdown.

    Args:
        diff: to write.
        comparison: of the same models, for the errors of the values; None leaves them out.
    """
    errors = ErrorsByNode(comparison)
    headers = ["", "what", "by", "why", *(["error by itself", "with all before"] if errors.known else [])]
    lines = [f"# {diff.model}: {diff.before} → {diff.after}".replace("# :", "#"), "", summary(diff), ""]
    for section in arrange(diff):
        kind = f" · {section.type}" if section.type else ""
        lines += [f"## `{section.path or '(root)'}`{kind}", "", _row(headers), _row(["---"] * len(headers))]
        lines += [_row(_cells(entry, errors)) for entry in section.entries]
        lines.append("")
    return "\n".join(lines)


def _cells(entry: Entry, errors: ErrorsByNode) -> list[str]:
    change = entry.changes[0]
    cells = [f"`{entry.mark}`" if entry.mark.strip() else "", entry.title]
    cells += ["", ""] if entry.folded else [change.by_text, change.reason]
    if errors.known:
        row = None if entry.folded else errors.of(change)
        levels = ("", "") if row is None else (row.local_sqnr_db, row.cumulative_sqnr_db)
        cells += [level if isinstance(level, str) else level_text(level) for level in levels]
    return cells


def _row(cells: list[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |"
