"""Which lines change what outlives a call: found by reading the slots that changed again after every line."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation, Place
from fxquant.check.source_tree import SourceFile
from fxquant.check.state_slots import Slot
from fxquant.check.user_frames import Places


class StateWatch:
    """Reads slots before and after a run, and after every line of the user's code while it runs.

    Args:
        slots: what to read; few, since all are read after every line.
        places: turns frames into places.

    Attributes:
        observations: the changes, by the line that made them.
    """

    def __init__(self, slots: list[Slot], places: Places) -> None:
        self.slots = slots
        self.places = places
        self.observations: dict[Observation, None] = {}
        self._known = [slot.read() for slot in slots]
        self._last: tuple[FrameType, int] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read the slots after every line."""
        was = sys.gettrace()
        sys.settrace(self._on_frame)
        try:
            yield
        finally:
            sys.settrace(was)
            self._look()

    def _on_frame(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if not self.places.user.owns(frame.f_code):
            return None
        self._look()
        return self._on_line

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        self._look()
        caller = self.places.user.frame(frame.f_back) if event == "return" else frame
        if caller is not None:
            self._last = caller, caller.f_lineno
        return self._on_line

    def _look(self) -> None:
        """Whatever changed since the last look, the line that ran since then changed it."""
        for index, slot in enumerate(self.slots):
            now, was = slot.read(), self._known[index]
            if now != was:
                self._known[index] = now
                self._record(slot, slot.name or ", ".join(sorted(was ^ now)))

    def _record(self, slot: Slot, name: str) -> None:
        if self._last is None:
            return
        frame, line = self._last
        file = self.places.sources.file(frame.f_code.co_filename)
        text = _changing(file, frame, line, slot.name)
        name = name if slot.kind in (FindingKind.PYTHON_RANDOM, FindingKind.GLOBAL_UPDATE) else f"self.{name}"
        path = self.places.module_path(frame)
        place = Place(file.path, line, file.line(line), path, text)
        owner = slot.owner if slot.owner != path else None
        self.observations[Observation(slot.kind, place, name, owner=owner)] = None


def _changing(file: SourceFile, frame: FrameType, line: int, name: str) -> str:
    """The text of what changes a slot on a line: of several statements, the innermost that sets or mentions it."""
    function, found = file.lambda_at(frame.f_code), file.statements_at(line)
    if function is not None:
        return file.source_of(function.body).partition("\n")[0]
    for kinds in ((ast.Store,), (ast.Load, ast.Del)) if len(found) > 1 else ():
        for statement in reversed(found):
            named = (part for part in ast.walk(statement) if isinstance(part, (ast.Attribute, ast.Name)))
            if any(name == getattr(part, "attr", "") and isinstance(part.ctx, kinds) for part in named):
                return file.source_of(statement)
    return file.source_of(found[0]).partition("\n")[0] if found else file.line(line)


def read_all(slots: list[Slot]) -> list[Any]:
    """Fingerprints of all slots."""
    return [slot.read() for slot in slots]


def changed(slots: list[Slot], before: list[Any]) -> list[Slot]:
    """The slots that no longer read as they did."""
    return [slot for slot, value in zip(slots, before, strict=True) if slot.read() != value]
