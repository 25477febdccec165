"""What is answered where Python asks how many there are: elements, keys, parts that a tensor was taken apart into."""

from __future__ import annotations

import dis
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxquant.capture.asking_frame import asking_frame
from fxquant.capture.facts import CHECKED, FactKind
from fxquant.capture.layer_recording import VALUE
from fxquant.capture.part_counts import count
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.size_regions import may_run_as_python
from fxquant.capture.source import Place, place_of, user_frame
from fxquant.capture.trouble import Spot

if TYPE_CHECKING:
    from fxquant.capture.answers import Answers


class Lengths:
    """The lengths that one trace is asked for.

    Args:
        answers: of the trace.
    """

    def __init__(self, answers: Answers) -> None:
        self.tracer = answers.tracer
        self._answers = answers

    def of(self, proxy: ValueProxy) -> int:
        """The length of a proxy's value."""
        length, recorder = len(proxy.value), self.tracer.recorder
        if isinstance(proxy.value, dict):
            self.keys(proxy)
        elif not isinstance(proxy.value, Tensor):
            self._container_length(proxy, length)
        elif proxy.shape_depends is Depends.VALUES:
            recorder.report(FactKind.TENSOR_SHAPE, length)
        elif proxy.shape_depends is Depends.SIZES:
            frame = user_frame()
            loops = _instruction(frame) in ("GET_ITER", "FOR_ITER") or _goes_through(frame)
            kind = FactKind.SIZE_LOOP if loops else FactKind.SIZE
            if not self._answers.runs_as_python(kind, frame, length, loops):
                size = self.tracer.create_proxy("call_method", "size", (proxy, 0), {})
                self._answers.build_in(kind, size, length, self._answers.movable_spots(frame))
        return length

    def keys(self, proxy: ValueProxy) -> None:
        """Code goes through the keys of a dictionary that a part of the model made, and that may have others."""
        if not self._answers.runs_as_python(FactKind.LENGTH, user_frame(), len(proxy.value), True):
            self.part_has(proxy, list(proxy.value), list)

    def part_has(self, proxy: ValueProxy, answer: Any, question: Any) -> None:
        """Build in how many elements, or which keys, a part of the model that runs as Python gives."""
        place = None if user_frame() is not None else Place(code="the model's result")
        self.tracer.recorder.record(FactKind.LENGTH, answer, CHECKED, place)
        self._answers.checks.asked.append((VALUE, proxy.node))
        key = (proxy.node.name, question, tuple(answer) if isinstance(answer, list) else answer)
        if key in self._answers.checks.made:  # however often the part's result is used
            return
        self._answers.checks.made[key] = None
        self._answers.checks.check(self.tracer.create_proxy("call_function", question, (proxy,), {}), answer, place)

    def loop_runs_as_python(self) -> bool:
        """Whether the loop over a size that begins here may run as Python."""
        frame = user_frame()
        return frame is not None and may_run_as_python(self.tracer, frame, True)

    def of_loop(self, steps: ValueProxy) -> int:
        """How often a loop over a size is unrolled."""
        spots = self._answers.movable_spots(user_frame())
        self._answers.build_in(FactKind.SIZE_LOOP, steps, steps.value, spots)
        return int(steps.value)

    def _container_length(self, proxy: ValueProxy, length: int) -> None:
        recorder = self.tracer.recorder
        if self.tracer.is_whole(proxy):
            if self._answers.runs_as_python(FactKind.LENGTH, user_frame(), length, True):
                return
            recorder.record(FactKind.LENGTH, length, CHECKED)
            self._answers.checks.check(self.tracer.create_proxy("call_function", len, (proxy,), {}), length)
            return
        frame = user_frame()
        unpacked = _instruction(asking_frame()) == "UNPACK_SEQUENCE"
        if isinstance(proxy.value, torch.Size) and not unpacked:
            self._answers.rank(FactKind.UNPACKING, proxy, length)
            return
        if proxy.from_part and not unpacked and self._answers.runs_as_python(FactKind.LENGTH, frame, length, True):
            return
        recorder.record(FactKind.LENGTH if unpacked else FactKind.UNPACKING, length)
        if unpacked:  # another number of parts fails in eager too
            proxy.parts_of = None
        else:
            self.count_parts(proxy, self._answers.movable_spots(frame))

    def count_parts(self, proxy: ValueProxy, spots: tuple[Spot, ...] | None = None) -> None:
        """Build in how many parts a tensor was taken apart into, where sizes decide that; values are trouble.

        Args:
            proxy: the parts.
            spots: what could be kept whole instead; None for what is around the line that is running.
        """
        if proxy.from_part and isinstance(proxy.value, tuple):
            self._answers.checks.check_type(proxy)
            self.part_has(proxy, len(proxy.value), len)
        if proxy.parts_of is None:
            return
        parts, proxy.parts_of = proxy.parts_of, None
        counted = count(self.tracer, parts)
        if isinstance(counted, ValueProxy) and counted.depends is Depends.VALUES:
            self.tracer.recorder.report(FactKind.TENSOR_SHAPE, counted.value)
        elif isinstance(counted, ValueProxy) and counted.depends is Depends.SIZES:
            spots = self._answers.movable_spots(user_frame()) if spots is None else spots
            self._answers.build_in(FactKind.SIZE_LOOP, counted, counted.value, spots)


def _instruction(frame: FrameType | None) -> str:
    """Name of the instruction of the user's code that is running."""
    return "" if frame is None else dis.opname[frame.f_code.co_code[frame.f_lasti]]


def _goes_through(frame: FrameType | None) -> bool:
    """Whether the user's code is about to go through all elements: ``enumerate(x)``."""
    expression = "" if frame is None else place_of(frame.f_code, frame.f_lasti).expression
    return expression.startswith(("enumerate(", "zip(", "reversed(", "map("))
