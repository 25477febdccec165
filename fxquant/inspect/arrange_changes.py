"""Changes arranged for reading: by module, unchanged stretches folded, neighbours with one reason in one line.

All forms of a diff, text, Markdown and HTML, are written from this arrangement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fxquant.inspect.change import Change, Changes

_LEAST_FOLDED = 2


@dataclass(frozen=True)
class Entry:
    """One line of a diff.

    Attributes:
        changes: one; several where they are folded, or share their reason.
        folded: whether they are a stretch of unchanged nodes.
    """

    changes: tuple[Change, ...]
    folded: bool = False

    @property
    def mark(self) -> str:
        """``+``, ``-``, ``~`` for what became something else, ``=`` for what stayed for a reason, " " for the rest."""
        if self.folded:
            return " "
        change = self.changes[0]
        if change.kind == "unchanged":
            return "=" if change.reason else " "
        return {"inserted": "+", "removed": "-"}.get(change.kind, "~")

    @property
    def title(self) -> str:
        """What happened, without who did it and why."""
        if self.folded:
            return f"… {len(self.changes)} unchanged: {shortened([name_of(change) for change in self.changes])}"
        if len(self.changes) == 1:
            return self.changes[0].title
        return ", ".join(name_of(change) for change in self.changes)


@dataclass(frozen=True)
class Section:
    """Consecutive lines of one module.

    Attributes:
        path: of the module, ``""`` for the root.
        type: its class, ``""`` when unknown.
        entries: its lines.
    """

    path: str
    type: str
    entries: tuple[Entry, ...]


def arrange(diff: Changes) -> tuple[Section, ...]:
    """The sections of a diff, in order; a module that is returned to has several."""
    sections: list[Section] = []
    for place, kind, entries in _by_place(_entries(diff)):
        sections.append(Section(place, kind, tuple(_merged(entries))))
    return tuple(sections)


def name_of(change: Change) -> str:
    """How a list of changes calls one."""
    return " + ".join(node.label or node.text for node in change.after or change.before)


def shortened(names: Sequence[str], most: int = 6) -> str:
    """The names, the first few of many."""
    shown = ", ".join(names[:most])
    return f"{shown}, …" if len(names) > most else shown


def _entries(diff: Changes) -> Iterator[Entry]:
    """Single changes, and the unchanged ones between them folded, without those next to a change."""
    stretch: list[Change] = []
    is_first = True
    for change in diff.changes:
        if change.kind == "unchanged" and not change.reason:
            stretch.append(change)
            continue
        yield from _fold(stretch, 0 if is_first else diff.context, diff.context)
        stretch, is_first = [], False
        yield Entry((change,))
    yield from _fold(stretch, 0 if is_first else diff.context, 0)


def _fold(stretch: list[Change], after: int, before: int) -> Iterator[Entry]:
    """Show ``after`` and ``before`` of a stretch at its ends, fold what is between."""
    end = max(len(stretch) - before, after)
    hidden = stretch[after:end]
    yield from (Entry((change,)) for change in stretch[:after])
    if len(hidden) >= _LEAST_FOLDED or (hidden and not after and not before):
        yield Entry(tuple(hidden), folded=True)
    else:
        yield from (Entry((change,)) for change in hidden)
    yield from (Entry((change,)) for change in stretch[end:])


def _by_place(entries: Iterator[Entry]) -> Iterator[tuple[str, str, list[Entry]]]:
    """Runs of entries of one module. Folded stretches stay with what is before them."""
    run: list[Entry] = []
    place, kind = "", ""
    for entry in entries:
        change = entry.changes[0]
        if entry.folded and run:
            run.append(entry)
            continue
        if run and change.module_path != place:
            yield place, kind, run
            run = []
        place, kind = change.module_path, change.module_type
        run.append(entry)
    if run:
        yield place, kind, run


def _merged(entries: list[Entry]) -> Iterator[Entry]:
    """Neighbours that stayed for the same reason become one."""
    waiting: list[Change] = []
    for entry in entries:
        change = entry.changes[0]
        stays = entry.mark == "="
        if waiting and not (stays and change.reason == waiting[0].reason):
            yield Entry(tuple(waiting))
            waiting = []
        if stays:
            waiting.append(change)
        else:
            yield entry
    if waiting:
        yield Entry(tuple(waiting))
