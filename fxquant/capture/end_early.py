"""Ending a trace early, where one layer after the other asks for a size that other inputs would answer differently.

Layers run the same code: what the first two ask, all ask. The statement that asks is kept whole in the next trace, and
the rest of this one would find nothing else. The same goes for statements whose results other statements ask for, which
are not kept whole again, and for layers behind any statement that is to be kept whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from types import CodeType
from typing import TYPE_CHECKING

from fxquant.capture.probe_sizes import probe_sizes
from fxquant.capture.source import frames, is_user_file
from fxquant.capture.trouble import Spot, Trouble

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_ENOUGH = 2
_UNDONE_LATER = frozenset(
    ("acquire", "seed", "manual_seed", "use_deterministic_algorithms", "enter_context", "__enter__", "push", "chdir")
)
MOST_ROUNDS = 6  # after as many traces of a model, none ends early


class EndedEarlyError(BaseException):
    """Leaves the model's forward; what catches exceptions there does not catch this one."""


class EarlyEnd:
    """Looks at what is asked about sizes while a model is traced.

    Args:
        tracer: of the trace.

    Attributes:
        found: what other sizes answer differently, if the trace ended because of it.
        paused: whether the trace goes on whatever is asked: it may be forgotten again, or many traces ended early.
        looked_at: statements for which that is known, in this trace or in one before it.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.found: list[Trouble] = []
        self.paused = not tracer.settings.ends_early
        self._times: Counter[Spot] = Counter()
        self._met: set[Hashable] = set()
        self.looked_at = tracer.settings.looked_at

    def asked(self, statement: Spot) -> None:
        """A statement asks for a size, and the answer is built in.

        Raises:
            EndedEarlyError: it is not the first time, and other sizes answer differently.
        """
        self._times[statement] += 1
        if self._times[statement] < _ENOUGH or statement in self.looked_at or not self._may_end():
            return
        self.looked_at.update(self._times)
        tracer = self.tracer
        with tracer.nothing_recorded(), tracer.layers.code.not_watching():
            questions = tracer.answers.checks.questions
            self.found = probe_sizes(tracer.root, tracer.graph, tracer.inputs, questions, tracer.layers.repeated)
        if self.found:
            raise EndedEarlyError

    def met(self, statement: Hashable) -> None:
        """There will be another trace because of a statement.

        Raises:
            EndedEarlyError: it is not the first time.
        """
        if statement in self._met and self._may_end():
            raise EndedEarlyError
        self._met.add(statement)

    def layer_begins(self, times: int) -> None:
        """A module of the user's with modules in it is called.

        Args:
            times: how often one of its class was.

        Raises:
            EndedEarlyError: there will be another trace, and layers have begun to repeat.
        """
        troubles = self.tracer.recorder.troubles
        if times > _ENOUGH and troubles and all(trouble.optional for trouble in troubles) and self._may_end():
            raise EndedEarlyError

    def _may_end(self) -> bool:
        """Whether nothing that runs now is likely to undo something at its end: a lock, the default dtype."""
        written = self.tracer.recorder.written
        return not self.paused and not any(_undoes(written.get(frame.f_code, frame.f_code)) for frame in frames())


def _undoes(code: CodeType) -> bool:
    names = code.co_names if is_user_file(code.co_filename) else ()
    return any(name in _UNDONE_LATER or name.startswith("set_") for name in names)
