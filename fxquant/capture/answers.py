"""What a proxy answers when Python must know now, and what is written down of it.

The example gives every answer. Where it depends on the model alone, that is all. Where sizes decide, it is built in and
checked when the graph runs, or the statement runs as Python where that costs no int8. Where values of tensors decide,
it is trouble, unless the other answer only raises an exception: then it is checked too.
"""

from __future__ import annotations

import dis
import operator
import os
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxquant.capture.branches import Other, in_message, is_caught, other_side
from fxquant.capture.end_early import EarlyEnd
from fxquant.capture.facts import CHECKED, Fact, FactKind
from fxquant.capture.layer_recording import DTYPE, RANK, VALUE
from fxquant.capture.part_counts import count
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.size_regions import may_run_as_python
from fxquant.capture.source import Place, frames, is_user_file, place_of, user_frame, user_frames
from fxquant.capture.structures import leaves
from fxquant.capture.trouble import Spot, Trouble
from fxquant.ir.ancestors import with_ancestors
from fxquant.ir.checks import require_same
from fxquant.ir.meta import info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_OWN_FRAMES = tuple(os.path.join("capture", name) for name in ("answers.py", "proxy.py", "tracer.py"))
_RANKS = ("dim", "ndim", "ndimension")
_GRADIENTS = ("requires_grad", "grad_fn", "is_leaf", "is_inference", "grad", "retains_grad")
_DTYPES = ("dtype", "is_floating_point", "is_complex", "is_signed", "itemsize", "element_size")


@dataclass(frozen=True)
class Asked:
    """An integer that was asked for, by Python or by torch's argument parser; which of them is known a moment later.

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


class Answers:
    """Answers for one trace.

    Args:
        tracer: the trace.

    Attributes:
        checked: what the graph checks already: the name of a node, and what is asked or expected of it.
        asked: nodes whose dtype, number of dimensions or value was asked for, which of these first.
        of_state: what was answered from parameters and buffers, with the node that was asked for and what could be kept
            whole there.
        of_dtype: where dtypes are asked for.
        of_gradients: what could be kept whole where it is asked whether gradients are wanted.
        of_memory: the same where it is asked how what was computed lies in memory.
        questions: by the node that checks an answer about sizes, what could be kept whole if it changes with them.
        early_end: looks at them during the trace.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.checked: dict[tuple[Any, ...], None] = {}
        self.asked: list[tuple[str, fx.Node]] = []
        self.of_state: list[tuple[Fact, fx.Node, tuple[Spot, ...]]] = []
        self.of_gradients: list[Trouble] = []
        self.of_memory: list[Trouble] = []
        self.of_dtype: list[Fact] = []
        self.questions: dict[fx.Node, Trouble] = {}
        self.early_end = EarlyEnd(tracer)
        self._waiting: list[Asked] = []

    def branch(self, proxy: ValueProxy) -> bool:
        """The truth of a proxy's value."""
        recorder = self.tracer.recorder
        if isinstance(proxy.value, (tuple, list, dict, set, frozenset)):
            return self.length(proxy) > 0
        answer = bool(proxy.value)
        if proxy.depends is Depends.NOTHING or not _is_number(proxy.value):
            self._asked_of_state(FactKind.TENSOR_BRANCH, proxy, answer)
            return answer
        frame = user_frame()
        other = Other.COMPUTES if frame is None else other_side(frame, answer)
        if other is Other.WRITES:
            kind = FactKind.SIZE_BRANCH if proxy.depends is Depends.SIZES else FactKind.TENSOR_BRANCH
            recorder.record(kind, answer, "the other side only writes messages")
        elif proxy.depends is Depends.SIZES:
            if other is Other.RAISES:
                recorder.record(FactKind.SIZE_BRANCH, answer, CHECKED)
                self._check(proxy, answer)
            elif not self._runs_as_python(FactKind.SIZE_BRANCH, frame, answer, False):
                self._build_in(FactKind.SIZE_BRANCH, proxy, answer, self._movable_spots(frame))
        elif other is Other.RAISES:
            recorder.record(FactKind.TENSOR_BRANCH, answer, CHECKED)
            self._check(proxy, answer)
        else:
            recorder.report(FactKind.TENSOR_BRANCH, answer)
        return answer

    def number(self, proxy: ValueProxy) -> Any:
        """A proxy's value as a Python number, or what it is."""
        answer = proxy.value.item() if isinstance(proxy.value, Tensor) else proxy.value
        if proxy.depends is Depends.VALUES:
            self.tracer.recorder.report(FactKind.TENSOR_NUMBER, answer)
        elif proxy.depends is Depends.SIZES:
            self._build_in(FactKind.SIZE, proxy, answer, self._movable_spots(user_frame()))
        else:
            self._asked_of_state(FactKind.TENSOR_NUMBER, proxy, answer)
        return answer

    def text(self, proxy: ValueProxy) -> None:
        """A proxy's value becomes text, which may choose what comes next: ``self.heads[str(k)]``."""
        if self.tracer.executing:
            return
        recorder, frame = self.tracer.recorder, _asking_frame()
        shown = frame is None or not is_user_file(frame.f_code.co_filename) or in_message(frame)
        if proxy.depends is Depends.VALUES and (not shown or isinstance(proxy.value, (bool, int))):
            recorder.report(FactKind.TENSOR_NUMBER, "text" if isinstance(proxy.value, Tensor) else proxy.value)
        elif proxy.depends is Depends.SIZES and not shown and not isinstance(proxy.value, Tensor):
            self._build_in(FactKind.FORMAT, proxy, proxy.value, self._movable_spots(frame))
        else:
            recorder.record(FactKind.FORMAT, "text")

    def of_input(self, proxy: ValueProxy) -> bool:
        """Whether a value is a tensor that the model is given: callers decide what it is like."""
        return self.tracer.ranks.is_given(proxy.node)

    def static(self, proxy: ValueProxy, name: str, answer: Any) -> None:
        """Build in a fact of the example's type: its number of dimensions, its dtype, its device, ..."""
        if self.tracer.executing:
            return
        if name in _RANKS:
            self._rank(FactKind.STATIC, proxy, answer)
            return
        asks = name in _DTYPES and self.tracer.precision is None
        if asks:
            self.asked.append((DTYPE, proxy.node))
        sources = self.tracer.dtypes.inputs_of(proxy.node) if asks else ()
        fact = self.tracer.recorder.record(FactKind.STATIC, answer, CHECKED if sources else "")
        if name in _DTYPES and fact is not None:
            self.of_dtype.append(fact)
        if name in _GRADIENTS and proxy.depends is not Depends.NOTHING:
            self.asked_of_gradients(fact)
        if name == "is_contiguous":
            self._asked_of_memory(fact)
        for source in sources:
            self._check_dtype(source)

    def asked_of_gradients(self, fact: Fact | None) -> None:
        """Take note that an answer, new at its line, depends on whether gradients are wanted."""
        if fact is not None:
            self.of_gradients.append(Trouble(fact, self.tracer.recorder.spots()))

    def is_dtype_checked(self, source: fx.Node) -> bool:
        """Whether the graph checks the dtype of an input."""
        return (source.name, info(source).value.dtype) in self.checked

    def view(self) -> None:
        """A view is made, which fails for some orders in memory; code that catches that asks for the order."""
        if any(frame.f_code.co_exceptiontable and is_caught(frame) for frame in user_frames()):
            self._asked_of_memory(self.tracer.recorder.record(FactKind.STATIC, "it can be viewed so"))

    def _asked_of_memory(self, fact: Fact | None) -> None:
        """Take note that an answer, new at its line, depends on how what was computed lies in memory."""
        if fact is not None:
            self.of_memory.append(Trouble(fact, self.tracer.recorder.spots()))

    def _check_dtype(self, source: fx.Node) -> None:
        """Let the graph check the dtype of an input, once."""
        expected = info(source).value.dtype
        if not self.is_dtype_checked(source):
            self.checked[source.name, expected] = None
            given = ValueProxy(source, self.tracer, torch.empty(0, dtype=expected), Depends.VALUES, Depends.SIZES)
            self._check(self.tracer.create_proxy("call_function", getattr, (given, "dtype"), {}), expected)

    def _rank(self, kind: FactKind, proxy: ValueProxy, answer: int) -> None:
        """Build in a number of dimensions, and let the graph check what decides it."""
        self.asked.append((RANK, proxy.node))
        sources = list(self.tracer.ranks.asked_for(proxy.node))
        fact = self.tracer.recorder.record(kind, answer, CHECKED if sources else "")
        spots = self._movable_spots(user_frame()) if not all(given for _, given in sources) else ()
        for rank, given in sources:
            check = self._check(rank, rank.value)
            if not given:
                self._may_change(check, fact, spots)

    def _asked_of_state(self, kind: FactKind, proxy: ValueProxy, answer: Any, asked: Asked | None = None) -> None:
        """Build in what parameters and buffers answer; whether the graph writes into one is known at its end.

        Args:
            kind, proxy, answer: the question and what it is answered.
            asked: where, when that was before.
        """
        if _is_number(proxy.value) and _is_of_state(proxy):
            handled = "built in: it depends on parameters and buffers alone"
            fact = self.tracer.recorder.record(kind, answer, handled, None if asked is None else asked.place)
            if fact is not None:
                spots = self.tracer.recorder.spots() if asked is None else asked.spots
                self.of_state.append((fact, proxy.node, spots))

    def length(self, proxy: ValueProxy) -> int:
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
            if not self._runs_as_python(kind, frame, length, loops):
                size = self.tracer.create_proxy("call_method", "size", (proxy, 0), {})
                self._build_in(kind, size, length, self._movable_spots(frame))
        return length

    def keys(self, proxy: ValueProxy) -> None:
        """Code goes through the keys of a dictionary that a part of the model made, and that may have others."""
        if not self._runs_as_python(FactKind.LENGTH, user_frame(), len(proxy.value), True):
            self.part_has(proxy, list(proxy.value), list)

    def part_has(self, proxy: ValueProxy, answer: Any, question: Any) -> None:
        """Build in how many elements, or which keys, a part of the model that runs as Python gives."""
        place = None if user_frame() is not None else Place(code="the model's result")
        self.tracer.recorder.record(FactKind.LENGTH, answer, CHECKED, place)
        self.asked.append((VALUE, proxy.node))
        key = (proxy.node.name, question, tuple(answer) if isinstance(answer, list) else answer)
        if key in self.checked:  # however often the part's result is used
            return
        self.checked[key] = None
        self._check(self.tracer.create_proxy("call_function", question, (proxy,), {}), answer, place)

    def loop_runs_as_python(self) -> bool:
        """Whether the loop over a size that begins here may run as Python."""
        frame = user_frame()
        return frame is not None and may_run_as_python(self.tracer, frame, True)

    def count(self, steps: ValueProxy) -> int:
        """How often a loop over a size is unrolled."""
        self._build_in(FactKind.SIZE_LOOP, steps, steps.value, ())
        return int(steps.value)

    def _container_length(self, proxy: ValueProxy, length: int) -> None:
        recorder = self.tracer.recorder
        if self.tracer.is_whole(proxy):
            if self._runs_as_python(FactKind.LENGTH, user_frame(), length, True):
                return
            recorder.record(FactKind.LENGTH, length, CHECKED)
            self._check(self.tracer.create_proxy("call_function", len, (proxy,), {}), length)
            return
        frame = user_frame()
        unpacked = _instruction(_asking_frame()) == "UNPACK_SEQUENCE"
        if isinstance(proxy.value, torch.Size) and not unpacked:
            self._rank(FactKind.UNPACKING, proxy, length)
            return
        if proxy.from_part and not unpacked and self._runs_as_python(FactKind.LENGTH, frame, length, True):
            return
        recorder.record(FactKind.LENGTH if unpacked else FactKind.UNPACKING, length)
        if unpacked:  # another number of parts fails in eager too
            proxy.parts_of = None
        else:
            self.count_parts(proxy, self._movable_spots(frame))

    def count_parts(self, proxy: ValueProxy, spots: tuple[Spot, ...] | None = None) -> None:
        """Build in how many parts a tensor was taken apart into, where sizes decide that; values are trouble.

        Args:
            proxy: the parts.
            spots: what could be kept whole instead; None for what is around the line that is running.
        """
        if proxy.from_part and isinstance(proxy.value, tuple):
            self.part_has(proxy, len(proxy.value), len)
        if proxy.parts_of is None:
            return
        parts, proxy.parts_of = proxy.parts_of, None
        counted = count(self.tracer, parts)
        if isinstance(counted, ValueProxy) and counted.depends is Depends.VALUES:
            self.tracer.recorder.report(FactKind.TENSOR_SHAPE, counted.value)
        elif isinstance(counted, ValueProxy) and counted.depends is Depends.SIZES:
            spots = self._movable_spots(user_frame()) if spots is None else spots
            self._build_in(FactKind.SIZE_LOOP, counted, counted.value, spots)

    # -- errors -------------------------------------------------------------------------------------

    def error(self, error: Exception, proxies: list[ValueProxy]) -> None:
        """An operation raised: the graph would have only what the user's code does then, where that goes on."""
        decided = any(max(proxy.depends, proxy.shape_depends) is not Depends.NOTHING for proxy in proxies)
        if decided and any(map(is_caught, user_frames())):
            text = f"{type(error).__name__}: {error}".split("\n", 1)[0][:100]
            self.tracer.recorder.report(FactKind.CAUGHT_ERROR, text)

    # -- integers -----------------------------------------------------------------------------------

    def index(self, proxy: ValueProxy) -> Any:
        """A proxy's value as an integer.

        torch's argument parser asks before it hands the call to the tracer, with the proxy itself. Then nothing is
        built in.
        """
        answer = proxy.value.item() if isinstance(proxy.value, Tensor) else proxy.value
        if proxy.depends is Depends.NOTHING and not _is_of_state(proxy):
            return answer
        frame = user_frame()
        code, instruction = (None, 0) if frame is None else (frame.f_code, frame.f_lasti)
        place = Place() if code is None else place_of(code, instruction)
        loops = place.expression.startswith("range(")
        optional = proxy.depends is Depends.SIZES and frame is not None and may_run_as_python(self.tracer, frame, loops)
        spots = self.tracer.recorder.spots() if optional or proxy.depends is not Depends.SIZES else ()
        if not spots:
            spots = self._movable_spots(frame)
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
            self._asked_of_state(FactKind.TENSOR_NUMBER, item.proxy, item.answer, item)
            return
        if item.proxy.depends is Depends.VALUES:
            recorder.report(FactKind.TENSOR_NUMBER, item.answer, item.place, item.spots)
            return
        kind = FactKind.SIZE_LOOP if item.place.expression.startswith("range(") else FactKind.SIZE
        if item.optional:
            recorder.report(kind, item.answer, item.place, item.spots, optional=True)
        else:
            self._build_in(kind, item.proxy, item.answer, item.spots, item.place)

    # -- insides ------------------------------------------------------------------------------------

    def _runs_as_python(self, kind: FactKind, frame: FrameType | None, answer: Any, loops: bool) -> bool:
        """Whether the statement around is to run as Python, so that it is right for every size."""
        if frame is None or not may_run_as_python(self.tracer, frame, loops):
            return False
        self.tracer.recorder.report(kind, answer, optional=True)
        self.early_end.met((frame.f_code, frame.f_lasti))
        return True

    def _movable_spots(self, frame: FrameType | None) -> tuple[Spot, ...]:
        """What could be kept whole so that an answer about sizes need not be built in, even if that costs int8."""
        if frame is None or not may_run_as_python(self.tracer, frame, True):
            return ()
        return self.tracer.recorder.spots()

    def _build_in(
        self, kind: FactKind, proxy: ValueProxy, answer: Any, spots: tuple[Spot, ...], place: Place | None = None
    ) -> None:
        """Build in an answer about sizes, and let the graph check it."""
        fact = self.tracer.recorder.record(kind, answer, CHECKED, place)
        check = self._check(proxy, answer, place)
        self._may_change(check, fact, spots)

    def _may_change(self, check: fx.Node | None, fact: Fact | None, spots: tuple[Spot, ...]) -> None:
        """Note what could be kept whole if an answer, new at its line, changes with sizes."""
        if fact is not None and check is not None and spots:
            self.ask_sizes(check, Trouble(fact, spots, True))

    def ask_sizes(self, check: fx.Node, trouble: Trouble) -> None:
        """Note what could be kept whole if the answer that a node checks changes with sizes.

        Raises:
            EndedEarlyError: it does, and was asked in several layers.
        """
        self.questions[check] = trouble
        self.early_end.asked(trouble.spots[0])

    def _check(self, proxy: ValueProxy, answer: Any, place: Place | None = None) -> fx.Node | None:
        """Let the graph raise when the answer is another one. Each is checked once; returns the node."""
        self.asked.append((VALUE, proxy.node))
        key = (proxy.node.name, tuple(answer) if isinstance(answer, list) else answer)
        if key in self.checked:
            return None
        self.checked[key] = None
        tracer = self.tracer
        if isinstance(answer, bool) and not isinstance(proxy.value, bool):
            proxy = tracer.create_proxy("call_function", operator.truth, (proxy,), {})
        file, line, code = tracer.user_line() if place is None else (place.file, place.line, place.code)
        source = f"{file}:{line}" if file else ""
        check: ValueProxy = tracer.create_proxy("call_function", require_same, (proxy, answer, code, source), {})
        return check.node


def _is_of_state(proxy: ValueProxy) -> bool:
    """Whether parameters or buffers decide a number that depends on no input."""
    return isinstance(proxy.value, Tensor) or _reads_attribute(proxy.node)


def _reads_attribute(node: fx.Node) -> bool:
    """Whether a number was taken out of a parameter or buffer: ``self.scale.item()``."""
    return any(source.op == "get_attr" for source in with_ancestors([node]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float, complex, str)) or type(value).__module__ == "numpy"


def _instruction(frame: FrameType | None) -> str:
    """Name of the instruction of the user's code that is running."""
    return "" if frame is None else dis.opname[frame.f_code.co_code[frame.f_lasti]]


def _goes_through(frame: FrameType | None) -> bool:
    """Whether the user's code is about to go through all elements: ``enumerate(x)``."""
    expression = "" if frame is None else place_of(frame.f_code, frame.f_lasti).expression
    return expression.startswith(("enumerate(", "zip(", "reversed(", "map("))


def _asking_frame() -> FrameType | None:
    """The frame whose code asks a proxy, the user's or not."""
    return next((frame for frame in frames() if not frame.f_code.co_filename.endswith(_OWN_FRAMES)), None)
