"""The list of facts of one trace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import CodeType
from typing import Any

from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.source import Place, is_user_file, place_of, user_frame
from fxquant.capture.trouble import Spot, Step, Trouble, failed_steps, live_steps, spots_of

_NUMBERS = re.compile(r"(Parameter containing:\s*)?tensor\([\[\d].*?\](, [^()]*)?\)", re.DOTALL)


class Recorder:
    """Writes down what a trace meets.

    Args:
        boundary: code of the tracer's function that traces into a module.

    Attributes:
        boundary: as given.
        facts: in order, without repeats.
        troubles: those of them that need something kept whole.
        modules: paths of the modules that are being traced into, the innermost last.
        written: code of the user's functions, by the code that stands for it during the trace.
    """

    def __init__(self, boundary: CodeType) -> None:
        self.facts: dict[Fact, None] = {}
        self.troubles: list[Trouble] = []
        self.modules: list[str] = []
        self.written: dict[CodeType, CodeType] = {}
        self.boundary = boundary
        self._seen: set[tuple[Any, ...]] = set()

    @property
    def module_path(self) -> str:
        """The module whose forward is running."""
        return self.modules[-1] if self.modules else ""

    def record(self, kind: FactKind, value: Any, handled: str = "", place: Place | None = None) -> Fact | None:
        """Write down a fact of the user's line that is running; None when it is known."""
        frame = None if place is not None else user_frame()
        text = value if type(value) is str else str(value)
        spot = place if frame is None else (frame.f_code, frame.f_lasti)
        key = (kind, spot, self.module_path, text)
        if key in self._seen:
            return None
        self._seen.add(key)
        found = place or (Place() if frame is None else place_of(frame.f_code, frame.f_lasti))
        fact = Fact(kind, found.file, found.line, found.code, self.module_path, found.expression, text, handled)
        self.facts[fact] = None
        return fact

    def report(
        self,
        kind: FactKind,
        value: Any,
        place: Place | None = None,
        spots: Sequence[Spot] = (),
        optional: bool = False,
    ) -> None:
        """Write down something that no graph can hold, at the user's line that is running, or at a place before."""
        fact = self.record(kind, value, place=place)
        if fact is not None:
            del self.facts[fact]  # kept with the trouble until it is known how it is handled
            self.troubles.append(Trouble(fact, tuple(spots) or self.spots(), optional))

    def spots(self) -> tuple[Spot, ...]:
        """What could be kept whole around the line that is running."""
        return spots_of(live_steps(), self.modules, self.boundary, self.written)

    def report_error(self, error: Exception) -> None:
        """Write down an exception of the user's code, which the caller is handling."""
        steps: Sequence[Step] = failed_steps(error.__traceback__)
        users = (step for step in steps if is_user_file(step[0].f_code.co_filename))
        innermost = next(users, None)
        place = Place() if innermost is None else place_of(innermost[0].f_code, innermost[1])
        text = f"{type(error).__name__}: {_in_words(str(error))}".split("\n", 1)[0][:200]
        fact = self.record(FactKind.ERROR, text, place=place)
        if fact is not None:
            del self.facts[fact]
            spots = spots_of([*steps, *live_steps()], self.modules, self.boundary, self.written)
            self.troubles.append(Trouble(fact, spots))

    def mark(self) -> tuple[Any, ...]:
        """Where the list is now, for ``go_back``."""
        return dict(self.facts), len(self.troubles), set(self._seen)

    def go_back(self, mark: tuple[Any, ...]) -> None:
        """Forget what was met since ``mark``."""
        self.facts, length, self._seen = mark
        del self.troubles[length:]


def _in_words(message: str) -> str:
    """A message of Python's or torch's without the classes that stand for tensors in a trace."""
    for shown in ("<class 'fxquant.capture.proxy.ValueProxy'>", "fxquant.capture.proxy.ValueProxy", "ValueProxy"):
        message = message.replace(shown, "a traced value")
    return _NUMBERS.sub("a tensor", message)
