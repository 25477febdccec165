"""The lines of the user's code that change something: found by running the model once and looking after every line."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import nn

from fxquant.capture.fingerprint import MadeTensors, fingerprint
from fxquant.capture.outer_state import Held
from fxquant.capture.parsed_files import function_of
from fxquant.capture.source import is_user_file
from fxquant.capture.trouble import StatementSpot


@dataclass(frozen=True)
class ChangingLine:
    """A line that changes something.

    Attributes:
        held: what it changes.
        code: of the function it is in, line: its number.
        module_path: module whose forward was running.
    """

    held: Held
    code: CodeType
    line: int
    module_path: str

    def statement(self) -> ast.stmt | None:
        """The innermost statement that the line belongs to."""
        function = function_of(self.code)
        nodes = ast.walk(function) if function is not None else ()
        around = [node for node in nodes if isinstance(node, ast.stmt) and _holds(node, self.line)]
        return max(around, key=lambda node: node.lineno) if around else None

    def spot(self) -> StatementSpot | None:
        """The statement as what could be kept whole."""
        found: Any = self.statement()
        if found is None:
            return None
        for name in ("test", "iter"):  # of a statement with a body, what runs first
            part = getattr(found, name, None)
            found = part if part is not None and _holds(part, self.line) else found
        where = (found.lineno, found.end_lineno or found.lineno, found.col_offset, found.end_col_offset or 0)
        return StatementSpot(self.code, where)


def _holds(node: Any, line: int) -> bool:
    return bool(node.lineno <= line <= (node.end_lineno or node.lineno))


def changing_lines(model: nn.Module, held: list[Held], run: Callable[[], Any]) -> list[ChangingLine]:
    """The lines that change something.

    Args:
        model: what ``run`` calls.
        held: what is looked at; few, since all of it is looked at after every line.
        run: runs the model; what it raises is passed on.
    """
    watch = _Watch(model, held)
    was = sys.gettrace()
    sys.settrace(watch.on_call)
    try:
        run()
    finally:
        sys.settrace(was)
        watch.look()
    return list(watch.found)


class _Watch:
    def __init__(self, model: nn.Module, held: list[Held]) -> None:
        self.found: dict[ChangingLine, None] = {}
        self._held = held
        self._made = MadeTensors()
        self._known = [fingerprint(item.get(), made=self._made) for item in held]
        self._made.are_older()
        self._paths: dict[int, str] = {id(module): path for path, module in model.named_modules()}
        self._last: tuple[CodeType, int, str] | None = None

    def on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A function starts."""
        if not is_user_file(frame.f_code.co_filename):
            return None
        self.look()
        return self._on_line

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.look()
        at: FrameType | None = frame
        if event == "return":
            at = frame.f_back
            while at is not None and not is_user_file(at.f_code.co_filename):
                at = at.f_back
        if at is not None:
            self._last = at.f_code, at.f_lineno, self._path(at)
        return self._on_line

    def _path(self, frame: FrameType | None) -> str:
        """Path of the module whose forward is running."""
        while frame is not None:
            if frame.f_code.co_name == "forward" and frame.f_code.co_argcount:
                found: str | None = self._paths.get(id(frame.f_locals.get(frame.f_code.co_varnames[0])))
                if found is not None:
                    return found
            frame = frame.f_back
        return ""

    def look(self) -> None:
        """What changed since the last look, the line that ran since then changed."""
        for index, item in enumerate(self._held):
            now = fingerprint(item.get(), made=self._made)
            if now != self._known[index]:
                self._known[index] = now
                if self._last is not None:
                    self.found[ChangingLine(item, *self._last)] = None
