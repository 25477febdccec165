"""What a graph checks when it runs, because Python was answered from the example.

An answer that sizes decide may be another one for other inputs: what could be kept whole instead is noted by the node
that checks it.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxquant.capture.end_early import EarlyEnd
from fxquant.capture.facts import Fact
from fxquant.capture.layer_recording import VALUE
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.source import Place, user_frame
from fxquant.capture.trouble import Spot, Trouble
from fxquant.ir.checks import require_same, type_name
from fxquant.ir.meta import info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


class AnswerChecks:
    """The checks of one trace.

    Args:
        tracer: the trace.

    Attributes:
        made: what the graph checks already: the name of a node, and what is asked or expected of it.
        asked: nodes whose dtype, number of dimensions or value was asked for, which of these first.
        questions: by the node that checks an answer about sizes, what could be kept whole if it changes with them.
        early_end: looks at these during the trace.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.made: dict[tuple[Any, ...], None] = {}
        self.asked: list[tuple[str, fx.Node]] = []
        self.questions: dict[fx.Node, Trouble] = {}
        self.early_end = EarlyEnd(tracer)
        self._compared: dict[tuple[Any, ...], str] = {}

    def check(self, proxy: ValueProxy, answer: Any, place: Place | None = None) -> fx.Node | None:
        """Let the graph raise when the answer is another one. Each is checked once; returns the node."""
        self.asked.append((VALUE, proxy.node))
        first = self._first_alike(proxy.node)
        key = (first, tuple(answer) if isinstance(answer, list) else answer)
        if key in self.made:
            if first != proxy.node.name:  # by what is compared: in a layer that is given something else it is not known
                self.asked += [(VALUE, source) for source in proxy.node.all_input_nodes]
            return None
        self.made[key] = None
        tracer = self.tracer
        if isinstance(answer, bool) and not isinstance(proxy.value, bool):
            proxy = tracer.create_proxy("call_function", operator.truth, (proxy,), {})
        file, line, code = tracer.user_line() if place is None else (place.file, place.line, place.code)
        source = f"{file}:{line}" if file else ""
        check: ValueProxy = tracer.create_proxy("call_function", require_same, (proxy, answer, code, source), {})
        return check.node

    def _first_alike(self, node: fx.Node) -> str:
        """The name of the first node that compares the same numbers in the same way."""
        if node.target not in _COMPARISONS or not all(map(_is_number, node.args)):
            return node.name
        return self._compared.setdefault((node.target, *((type(item), item) for item in node.args)), node.name)

    def is_dtype_checked(self, source: fx.Node) -> bool:
        """Whether the graph checks the dtype of an input."""
        return (source.name, info(source).value.dtype) in self.made

    def check_dtype(self, source: fx.Node) -> None:
        """Let the graph check the dtype of an input, once."""
        expected = info(source).value.dtype
        if not self.is_dtype_checked(source):
            self.made[source.name, expected] = None
            given = ValueProxy(source, self.tracer, torch.empty(0, dtype=expected), Depends.VALUES, Depends.SIZES)
            self.check(self.tracer.create_proxy("call_function", getattr, (given, "dtype"), {}), expected)

    def check_type(self, proxy: ValueProxy) -> None:
        """Let the graph check what kind of object a part of the user's code gives, once."""
        key = proxy.node.name, "type"
        if proxy.from_part and key not in self.made:
            self.made[key] = None
            name: ValueProxy = self.tracer.create_proxy("call_function", type_name, (proxy,), {})
            self.check(name, name.value, None if user_frame() is not None else Place(code="the model's result"))

    def check_missing(self, proxy: ValueProxy, name: str) -> None:
        """Let the graph check that what a part of the user's code gives has no attribute of a name, once."""
        key = proxy.node.name, "missing", name
        if key not in self.made and not self.tracer.executing:
            self.made[key] = None
            answer: ValueProxy = self.tracer.create_proxy("call_function", hasattr, (proxy, name), {})
            self.check(answer, False)

    def may_change(self, check: fx.Node | None, fact: Fact | None, spots: tuple[Spot, ...]) -> None:
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


def _is_number(operand: Any) -> bool:
    return isinstance(info(operand).value if isinstance(operand, fx.Node) else operand, (int, float))
