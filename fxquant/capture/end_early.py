"""Ending a trace early, where one layer after the other asks for a size that other inputs would answer differently.

Layers run the same code: what the first two ask, all ask. The statement that asks is kept whole in the next trace, and
the rest of this one would find nothing else. The same goes for statements whose results other statements ask for, which
are not kept whole again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING

from fxquant.capture.probe_sizes import probe_sizes
from fxquant.capture.trouble import Spot, Trouble

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_ENOUGH = 2
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
        self.paused = False
        self._times: Counter[Spot] = Counter()
        self._met: set[Hashable] = set()
        self.looked_at: set[Spot] = set()

    def asked(self, statement: Spot) -> None:
        """A statement asks for a size, and the answer is built in.

        Raises:
            EndedEarlyError: it is not the first time, and other sizes answer differently.
        """
        self._times[statement] += 1
        if self.paused or self._times[statement] < _ENOUGH or statement in self.looked_at:
            return
        self.looked_at.update(self._times)
        tracer = self.tracer
        with tracer.nothing_recorded():
            self.found = probe_sizes(tracer.root, tracer.graph, tracer.inputs, tracer.answers.questions)
        if self.found:
            raise EndedEarlyError

    def met(self, statement: Hashable) -> None:
        """There will be another trace because of a statement.

        Raises:
            EndedEarlyError: it is not the first time.
        """
        if statement in self._met and not self.paused:
            raise EndedEarlyError
        self._met.add(statement)
