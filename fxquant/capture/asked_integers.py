"""Integers that are asked for through ``__index__``, by Python or by torch's argument parser.

torch's parser asks before it hands the call to the tracer, with the proxy itself: nothing is built in then. Which of
the two asked is known a moment later.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxquant.capture.facts import FactKind
from fxquant.capture.proxy import Depends, ValueProxy, is_of_state
from fxquant.capture.size_regions import may_run_as_python
from fxquant.capture.source import Place, place_of, user_frame
from fxquant.capture.structures import leaves
from fxquant.capture.trouble import Spot

if TYPE_CHECKING:
    from fxquant.capture.answers import Answers


@dataclass(frozen=True)
class Asked:
    """An integer that was asked for.

    Attributes:
        proxy, answer: the question and what was answered.
        code, instruction: where the user's code was then.
        place: the same for people. spots: what could be kept whole there.
        optional: whether the statement may run as Python because only sizes are asked for.
    """

    proxy: ValueProxy
    answer: Any
    code: CodeType | None
    instruction: int
    place: Place
    spots: tuple[Spot, ...]
    optional: bool


class AskedIntegers:
    """The integers that one trace is asked for.

    Args:
        answers: of the trace.
    """

    def __init__(self, answers: Answers) -> None:
        self.tracer = answers.tracer
        self._answers = answers
        self._waiting: list[Asked] = []

    def index(self, proxy: ValueProxy) -> Any:
        """A proxy's value as an integer."""
        answer = proxy.value.item() if isinstance(proxy.value, Tensor) else proxy.value
        if proxy.depends is Depends.NOTHING and not is_of_state(proxy):
            return answer
        frame = user_frame()
        code, instruction = (None, 0) if frame is None else (frame.f_code, frame.f_lasti)
        place = Place() if code is None else place_of(code, instruction)
        loops = place.expression.startswith("range(")
        optional = proxy.depends is Depends.SIZES and frame is not None and may_run_as_python(self.tracer, frame, loops)
        spots = self.tracer.recorder.spots() if optional or proxy.depends is not Depends.SIZES else ()
        if not spots:
            spots = self._answers.movable_spots(frame)
        self._waiting.append(Asked(proxy, answer, code, instruction, place, spots, optional))
        return answer

    def settle(self, arguments: Any = ()) -> None:
        """Write down which integers Python asked for.

        Args:
            arguments: of the torch function that is called, whose parser asked for those among them.
        """
        if not self._waiting:
            return
        asked, self._waiting = self._waiting, []
        given = {id(leaf) for leaf in leaves(arguments)}
        frame = user_frame()
        for item in asked:
            same_call = frame is not None and (frame.f_code, frame.f_lasti) == (item.code, item.instruction)
            if not (same_call and id(item.proxy) in given):
                self._built_in(item)

    def _built_in(self, item: Asked) -> None:
        recorder = self.tracer.recorder
        if item.proxy.depends is Depends.NOTHING:
            self._answers.asked_of_state(FactKind.TENSOR_NUMBER, item.proxy, item.answer, item.place, item.spots)
            return
        if item.proxy.depends is Depends.VALUES:
            recorder.report(FactKind.TENSOR_NUMBER, item.answer, item.place, item.spots)
            return
        kind = FactKind.SIZE_LOOP if item.place.expression.startswith("range(") else FactKind.SIZE
        if item.optional:
            recorder.report(kind, item.answer, item.place, item.spots, optional=True)
        else:
            self._answers.build_in(kind, item.proxy, item.answer, item.spots, item.place)
