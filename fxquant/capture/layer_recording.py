"""What a call of a layer left in a trace."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import fx
from torch.fx.node import map_aggregate

from fxquant.capture.facts import Fact
from fxquant.capture.repeated_parts import likeness
from fxquant.capture.structures import rebuild
from fxquant.capture.trouble import ModuleSpot, Spot, Trouble
from fxquant.ir.edit import nodes_after
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_Key = TypeVar("_Key")
DTYPE, RANK, VALUE = "dtype", "rank", "value"


@dataclass(frozen=True)
class Place:
    """Where a call of a layer is: its path, how many calls of modules began before it, the user's line around it."""

    path: str
    calls: int
    line: tuple[str, int, str]

    def moved(self, path: str, new: Place) -> str:
        """What a path is in another layer, where it is one inside this layer."""
        inside = path == self.path or path.startswith(f"{self.path}.")
        return new.path + path[len(self.path) :] if inside else path

    def moved_trouble(self, trouble: Trouble, new: Place) -> Trouble:
        """What was met in one layer, as it would be in another."""

        def move(spot: Spot) -> Spot:
            return ModuleSpot(self.moved(spot.path, new)) if isinstance(spot, ModuleSpot) else spot

        fact = replace(trouble.fact, module_path=self.moved(trouble.fact.module_path, new))
        return replace(trouble, fact=fact, spots=tuple(map(move, trouble.spots)))


class CallBegun:
    """Where a trace is when a call begins.

    Args:
        tracer: of the trace.
        place: of the call.
    """

    def __init__(self, tracer: ValueTracer, place: Place) -> None:
        checks, recorder = tracer.answers.checks, tracer.recorder
        self._tracer, self._place = tracer, place
        self._last = tracer.graph._root._prev
        self._lengths = len(recorder.facts), len(checks.made), len(checks.asked), len(checks.questions)

    def recorded(self, inputs: list[fx.Node], result: Any) -> LayerRecording:
        """What the call left, which has ended now; ``inputs`` and ``result`` as in ``LayerRecording``."""
        tracer, (facts, checked, asked, questions) = self._tracer, self._lengths
        checks, nodes = tracer.answers.checks, nodes_after(self._last)
        called = [str(node.target) for node in nodes if node.op == "call_module"]
        return LayerRecording(
            self._place,
            inputs,
            nodes,
            _from(tracer.recorder.facts, facts),
            result,
            _from(checks.made, checked),
            checks.asked[asked:],
            [(node, checks.questions[node]) for node in _from(checks.questions, questions)],
            tracer.scope.calls - self._place.calls,
            {name: part for name in called if isinstance(part := tracer.constants.get(name), FloatPart)},
        )


def _from(entries: dict[_Key, Any], count: int) -> list[_Key]:
    """The keys of a dictionary without the first so many."""
    return list(itertools.islice(reversed(entries), max(len(entries) - count, 0)))[::-1]


@dataclass(frozen=True, eq=False)
class RepeatedCall:
    """A call that was recorded from what another one left.

    Attributes:
        known: what that one left.
        inputs: nodes of what this one was given, in the order of ``known.inputs``.
        nodes: that were made for it, one after the other, all in the order of those that ``known`` does again.
    """

    known: LayerRecording
    inputs: list[fx.Node]
    nodes: list[fx.Node]


@dataclass(eq=False)
class LayerRecording:
    """What a call of a layer left.

    Attributes:
        place: of the call.
        inputs: nodes of what it was given.
        nodes: that it made.
        facts: that were met in it.
        result: what it returned.
        checked: what is asked or expected of nodes that it made, see ``Answers``.
        asked: nodes whose dtype, number of dimensions or value was asked for in it, see ``Answers``.
        questions: what was asked about sizes in it, see ``Answers``.
        calls: how many calls of modules began in it.
        parts: that run as Python in it, by the names that they are registered as.
        times: how many calls after each other left the same, this one included.
        decides_ranks: whether one of the nodes does, see ``Ranks``; None until it was looked at.
    """

    place: Place
    inputs: list[fx.Node]
    nodes: list[fx.Node]
    facts: list[Fact]
    result: Any
    checked: list[tuple[Any, ...]]
    asked: list[tuple[str, fx.Node]]
    questions: list[tuple[fx.Node, Trouble]]
    calls: int
    parts: dict[str, FloatPart]
    times: int = 1
    decides_ranks: bool | None = None
    _deciding: dict[str, set[fx.Node]] = field(default_factory=dict)

    def decided_by(self, question: str, operands: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
        """The inputs of the call that decide what a question about tensors in it is answered.

        Args:
            question: ``DTYPE``, ``RANK`` or ``VALUE``.
            operands: those that decide it for what a node computes.
        """
        if question not in self._deciding:
            own, found = set(self.nodes), set[fx.Node]()
            waiting = [node for kind, node in self.asked if kind == question]
            while waiting:
                node = waiting.pop()
                if node not in found:
                    found.add(node)
                    waiting += operands(node) if node in own else ()
            self._deciding[question] = found.intersection(self.inputs)
        return self._deciding[question]

    def compared(self) -> Any:
        """What is equal for calls that left the same."""
        origin = Place("", 0, ("", 0, ""))
        moved = functools.partial(self.place.moved, new=origin)
        index: dict[fx.Node, Any] = {node: ("input", position) for position, node in enumerate(self.inputs)}
        index |= {node: ("node", position) for position, node in enumerate(self.nodes)}

        def refer(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return index.get(leaf) or ("attribute", moved(str(leaf.target)))
            return type(leaf), leaf

        found = []
        for node in self.nodes:
            known = info(node)
            target: Any = node.target
            if target in self.parts:
                target = likeness(self.parts[target], moved)
            elif isinstance(target, str):
                target = moved(target)
            where = known.origin.file, known.origin.line, known.origin.call - self.place.calls
            path = moved(known.origin.module_path)
            changed = [position for position, other in enumerate(self.nodes) if other.name in known.mutates]
            arguments = map_aggregate(node.args, refer), map_aggregate(node.kwargs, refer)
            found.append((node.op, target, arguments, known.value, path, known.origin.module_type, where, changed))
        facts = [replace(fact, module_path=moved(fact.module_path)) for fact in self.facts]
        result = rebuild(self.result, lambda proxy: (refer(proxy.node), proxy.depends, proxy.shape_depends))
        questions = [(index.get(node), self.place.moved_trouble(trouble, origin)) for node, trouble in self.questions]
        return found, facts, questions, result
