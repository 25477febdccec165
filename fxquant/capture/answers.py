"""What a proxy answers when Python must know now, and what is written down of it.

The example gives every answer. Where it depends on the model alone, that is all. Where sizes decide, it is built in and
checked when the graph runs, or the statement runs as Python where that costs no int8. Where values of tensors decide,
it is trouble, unless the other answer only raises an exception: then it is checked too.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from fxquant.capture.answer_checks import AnswerChecks
from fxquant.capture.asked_integers import AskedIntegers
from fxquant.capture.asking_frame import asking_frame
from fxquant.capture.branches import Other, catches_operations, in_message, is_caught, other_side
from fxquant.capture.conditions import is_decided_elsewhere
from fxquant.capture.facts import CHECKED, DECIDED_ELSEWHERE, NOT_RAISED, Fact, FactKind
from fxquant.capture.identity_tests import tests_behind, tests_of
from fxquant.capture.layer_recording import DTYPE, RANK
from fxquant.capture.lengths import Lengths
from fxquant.capture.proxy import Depends, ValueProxy, is_of_state
from fxquant.capture.size_regions import may_run_as_python
from fxquant.capture.source import Place, frames_inside, is_user_file, place_of, position, user_frame, user_frames
from fxquant.capture.trouble import ModuleSpot, Spot, StatementSpot, Trouble
from fxquant.ir.checks import type_name

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_CALLERS = 3  # functions, one called by the other
_CHECKS = type_name.__module__
_RANKS = ("dim", "ndim", "ndimension")
_GRADIENTS = ("requires_grad", "grad_fn", "is_leaf", "is_inference", "grad", "retains_grad")
_DTYPES = ("dtype", "is_floating_point", "is_complex", "is_signed", "itemsize", "element_size")


class Answers:
    """Answers for one trace.

    Args:
        tracer: the trace.

    Attributes:
        checks: what the graph checks of the answers.
        lengths, integers: answers to two questions of many forms.
        of_state: what was answered from parameters and buffers, with the node that was asked for and what could be kept
            whole there.
        of_dtype: where dtypes are asked for.
        of_gradients: what could be kept whole where it is asked whether gradients are wanted.
        of_memory: the same where it is asked how what was computed lies in memory.
        caught: operations whose errors forward catches.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.checks = AnswerChecks(tracer)
        self.lengths, self.integers = Lengths(self), AskedIntegers(self)
        self.of_state: list[tuple[Fact, fx.Node, tuple[Spot, ...]]] = []
        self.of_gradients: list[Trouble] = []
        self.of_memory: list[Trouble] = []
        self.of_dtype: list[Fact] = []
        self.caught: dict[fx.Node, None] = {}

    def branch(self, proxy: ValueProxy) -> bool:
        """The truth of a proxy's value."""
        recorder = self.tracer.recorder
        if isinstance(proxy.value, (tuple, list, dict, set, frozenset)):
            return self.lengths.of(proxy) > 0
        try:
            answer = bool(proxy.value)
        except Exception as error:  # of several numbers, or none
            self.error(error, [proxy])
            raise
        if proxy.depends is Depends.NOTHING or not _is_number(proxy.value):
            self.asked_of_state(FactKind.TENSOR_BRANCH, proxy, answer)
            return answer
        frame = user_frame()
        other = Other.COMPUTES if frame is None else other_side(frame, answer)
        if other is Other.WRITES:
            recorder.record(_kind_of_branch(proxy.depends), answer, "the other side only writes messages")
        elif proxy.depends is Depends.SIZES:
            if frame is not None and type(proxy.value) is bool and is_decided_elsewhere(frame, answer):
                recorder.record(FactKind.SIZE_BRANCH, answer, DECIDED_ELSEWHERE)
            elif other is Other.RAISES:
                recorder.record(FactKind.SIZE_BRANCH, answer, CHECKED)
                self.checks.check(proxy, answer)
            elif not self.runs_as_python(FactKind.SIZE_BRANCH, frame, answer, False):
                self.build_in(FactKind.SIZE_BRANCH, proxy, answer, self.movable_spots(frame))
        elif other is Other.RAISES:
            recorder.record(FactKind.TENSOR_BRANCH, answer, CHECKED)
            self.checks.check(proxy, answer)
        else:
            recorder.report(FactKind.TENSOR_BRANCH, answer)
        return answer

    def in_place(self, value: Any) -> Any:
        """Whether an operation writes into its operand: where a size decides that, it is built in."""
        if not isinstance(value, ValueProxy) or value.depends is not Depends.SIZES:
            return value
        answer = bool(value.value)
        self.build_in(FactKind.SIZE_BRANCH, value, answer, ())
        return answer

    def number(self, proxy: ValueProxy) -> Any:
        """A proxy's value as a Python number, or what it is."""
        answer = proxy.value.item() if isinstance(proxy.value, Tensor) else proxy.value
        if proxy.depends is Depends.VALUES:
            self.tracer.recorder.report(FactKind.TENSOR_NUMBER, answer)
        elif proxy.depends is Depends.SIZES:
            self.build_in(FactKind.SIZE, proxy, answer, self.movable_spots(user_frame()))
        else:
            self.asked_of_state(FactKind.TENSOR_NUMBER, proxy, answer)
        return answer

    def text(self, proxy: ValueProxy) -> None:
        """A proxy's value becomes text, which may choose what comes next: ``self.heads[str(k)]``."""
        if self.tracer.executing:
            return
        recorder, frame = self.tracer.recorder, asking_frame()
        shown = frame is None or not is_user_file(frame.f_code.co_filename) or in_message(frame)
        if proxy.depends is Depends.VALUES and (not shown or isinstance(proxy.value, (bool, int))):
            recorder.report(FactKind.TENSOR_NUMBER, "text" if isinstance(proxy.value, Tensor) else proxy.value)
        elif proxy.depends is Depends.SIZES and not shown and not isinstance(proxy.value, Tensor):
            self.build_in(FactKind.FORMAT, proxy, proxy.value, self.movable_spots(frame))
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
            self.rank(FactKind.STATIC, proxy, answer)
            return
        asks = name in _DTYPES and self.tracer.precision is None
        if asks:
            self.checks.asked.append((DTYPE, proxy.node))
        sources = self.tracer.dtypes.inputs_of(proxy.node) if asks else ()
        fact = self.tracer.recorder.record(FactKind.STATIC, answer, CHECKED if sources else "")
        if name in _DTYPES and fact is not None:
            self.of_dtype.append(fact)
        if name in _GRADIENTS and proxy.depends is not Depends.NOTHING:
            self.asked_of_gradients(fact)
        if name == "is_contiguous":
            self._asked_of_memory(fact)
            if proxy.from_part:
                self.checks.check(self.tracer.create_proxy("call_method", name, (proxy,), {}), answer)
        for source in sources:
            self.checks.check_dtype(source)

    def asked_of_gradients(self, fact: Fact | None) -> None:
        """Take note that an answer, new at its line, depends on whether gradients are wanted."""
        if fact is not None:
            self.of_gradients.append(Trouble(fact, self.tracer.recorder.spots()))

    def view(self) -> None:
        """A view is made, which fails for some orders in memory; code that catches that asks for the order."""
        if any(frame.f_code.co_exceptiontable and is_caught(frame) for frame in user_frames()):
            self._asked_of_memory(self.tracer.recorder.record(FactKind.STATIC, "it can be viewed so"))

    def _asked_of_memory(self, fact: Fact | None) -> None:
        """Take note that an answer, new at its line, depends on how what was computed lies in memory."""
        if fact is not None:
            self.of_memory.append(Trouble(fact, self.tracer.recorder.spots()))

    def rank(self, kind: FactKind, proxy: ValueProxy, answer: int) -> None:
        """Build in a number of dimensions, and let the graph check what decides it."""
        self.checks.asked.append((RANK, proxy.node))
        sources = list(self.tracer.ranks.asked_for(proxy.node))
        fact = self.tracer.recorder.record(kind, answer, CHECKED if sources else "")
        spots = self.movable_spots(user_frame()) if not all(given for _, given in sources) else ()
        for rank, given in sources:
            check = self.checks.check(rank, rank.value)
            if not given:
                self.checks.may_change(check, fact, spots)

    def asked_of_state(
        self,
        kind: FactKind,
        proxy: ValueProxy,
        answer: Any,
        place: Place | None = None,
        spots: tuple[Spot, ...] | None = None,
    ) -> None:
        """Build in what parameters and buffers answer; whether the graph writes into one is known at its end.

        Args:
            kind, proxy, answer: the question and what it is answered.
            place, spots: where, and what could be kept whole there; None for the line that is running.
        """
        if _is_number(proxy.value) and is_of_state(proxy):
            handled = "built in: it depends on parameters and buffers alone"
            fact = self.tracer.recorder.record(kind, answer, handled, place)
            if fact is not None:
                spots = self.tracer.recorder.spots() if spots is None else spots
                self.of_state.append((fact, proxy.node, spots))

    def identity(self, answer: bool, depends: Depends) -> None:
        """A truth value is computed, and Python may be asked which one it is: ``flag is True`` asks no proxy."""
        self._report_identity(depends, answer, tests_behind() if depends is not Depends.NOTHING else ())

    def identity_of(self, names: Collection[str], depends: Depends) -> None:
        """A part gives a tensor, and Python may be asked whether it is one that the part was given."""
        self._report_identity(depends, "which tensor it is", tests_of(names))

    def _report_identity(self, depends: Depends, answer: Any, tests: Iterable[tuple[CodeType, int]]) -> None:
        recorder = self.tracer.recorder
        for code, instruction in tests:
            where = position(code, instruction)
            around = [spot for spot in recorder.spots() if isinstance(spot, ModuleSpot)]
            inner = [] if where is None else [StatementSpot(recorder.written.get(code, code), where)]
            recorder.report(_kind_of_branch(depends), answer, place_of(code, instruction), [*inner, *around])

    # -- errors -------------------------------------------------------------------------------------

    def error(self, error: Exception, proxies: list[ValueProxy]) -> None:
        """An operation raised: the graph would have only what the user's code does then, where that goes on."""
        decided = any(max(proxy.depends, proxy.shape_depends) is not Depends.NOTHING for proxy in proxies)
        if decided and any(map(is_caught, user_frames())):
            text = f"{type(error).__name__}: {error}".split("\n", 1)[0][:100]
            self.tracer.recorder.report(FactKind.CAUGHT_ERROR, text)

    def may_raise(self, node: fx.Node) -> None:
        """An operation is recorded where the user's code catches what it raises, and goes another way for other inputs.

        The statement runs as Python where that costs no weights; else the operation stays, and raises what eager
        catches.
        """
        if _only_asks(node.target):
            return
        inside = frames_inside(self.tracer.recorder.boundary)
        frame = next((frame for frame in inside if _catches_operations(frame)), None)
        if frame is None:
            return
        if may_run_as_python(self.tracer, frame, True):
            self.tracer.recorder.report(FactKind.CAUGHT_ERROR, NOT_RAISED, optional=True)
        else:
            self.tracer.recorder.record(FactKind.CAUGHT_ERROR, NOT_RAISED, "the graph raises it")
            self.caught[node] = None

    # -- insides ------------------------------------------------------------------------------------

    def runs_as_python(self, kind: FactKind, frame: FrameType | None, answer: Any, loops: bool) -> bool:
        """Whether the statement around is to run as Python, so that it is right for every size."""
        if frame is None or not may_run_as_python(self.tracer, frame, loops, True):
            return False
        self.tracer.recorder.report(kind, answer, optional=True)
        self.checks.early_end.met((frame.f_code, frame.f_lasti))
        return True

    def movable_spots(self, frame: FrameType | None) -> tuple[Spot, ...]:
        """What could be kept whole so that an answer about sizes need not be built in, even if that costs int8.

        Where a function gives a truth value by size, it is the statement that calls it.
        """
        recorder = self.tracer.recorder
        inside = list(frames_inside(recorder.boundary))
        around = inside[inside.index(frame) :] if frame in inside else [frame] if frame is not None else []
        found = next((each for each in around[:_CALLERS] if may_run_as_python(self.tracer, each, True, True)), None)
        where = None if found is None else position(found.f_code, found.f_lasti)
        if found is None or where is None:
            return ()
        statement = StatementSpot(recorder.written.get(found.f_code, found.f_code), where)
        return tuple(itertools.dropwhile(lambda spot: spot != statement, recorder.spots()))

    def build_in(
        self, kind: FactKind, proxy: ValueProxy, answer: Any, spots: tuple[Spot, ...], place: Place | None = None
    ) -> None:
        """Build in an answer about sizes, and let the graph check it."""
        fact = self.tracer.recorder.record(kind, answer, CHECKED, place)
        check = self.checks.check(proxy, answer, place)
        self.checks.may_change(check, fact, spots)


def _kind_of_branch(depends: Depends) -> FactKind:
    return FactKind.SIZE_BRANCH if depends is Depends.SIZES else FactKind.TENSOR_BRANCH


def _is_number(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float, complex, str)) or type(value).__module__ == "numpy"


def _only_asks(target: Any) -> bool:
    """Whether a call is a question about a value, or a check of capture's own: neither raises what forward catches."""
    return target in (getattr, hasattr, operator.truth) or getattr(target, "__module__", None) == _CHECKS


def _catches_operations(frame: FrameType) -> bool:
    return bool(frame.f_code.co_exceptiontable) and is_caught(frame, catches_operations)
