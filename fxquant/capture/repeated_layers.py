"""Layers that repeat: recorded from the one before, without running their Python again.

Deep models run the same few layers over and over. After some calls that look the same (``layer_signature``) and left
the same nodes and facts, the next is recorded from them, node by node, on its own values. Layers that do anything else
than compute are traced each by itself, and so are all of a model in which something changes, or that computes something
else than eager.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from fxquant.capture.cut_gradients import outside_gradients
from fxquant.capture.describe_node import UNWRITTEN, describe_again
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.layer_signature import LayerSignature, UnlikeError
from fxquant.capture.matched import type_for
from fxquant.capture.plain_code import PlainCode
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.run_operation import without_gradients
from fxquant.capture.source import user_line
from fxquant.capture.structures import rebuild
from fxquant.ir.effects import DATA_SHAPED, RANDOM, name_of
from fxquant.ir.float_part import runs_user_code
from fxquant.ir.meta import NodeInfo, describe_value, info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_TRACED_FIRST = 3  # calls of a class that are not looked at
_ALIKE = 4  # calls after each other that left the same
# What is met again in each layer, and is the same for each of them.
_SAME_FOR_ALL = frozenset(
    (FactKind.STATIC, FactKind.LENGTH, FactKind.COMPOSITE, FactKind.UNPACKING, FactKind.FACTORY, FactKind.TYPE_TEST,
     FactKind.TRAINING, FactKind.RECURRENT)
)  # fmt: skip
_OF_INPUTS = (FactKind.STATIC, FactKind.UNPACKING)  # may be about what an input is like
_LITERALS = (int, float, bool, str, type(None))


@dataclass(frozen=True)
class _Place:
    """Where a call of a layer is: its path, how many calls of modules began before it, the user's line around it."""

    path: str
    calls: int
    line: tuple[str, int, str]

    def moved(self, path: str, new: _Place) -> str:
        """What a path is in another layer, where it is one inside this layer."""
        inside = path == self.path or path.startswith(f"{self.path}.")
        return new.path + path[len(self.path) :] if inside else path


@dataclass
class _Recording:
    """What a call of a layer left.

    Attributes:
        place: of the call.
        inputs: nodes of what it was given.
        nodes: that it made.
        facts: that were met in it.
        result: what it returned.
        calls: how many calls of modules began in it.
        times: how many calls after each other left the same, this one included.
    """

    place: _Place
    inputs: list[fx.Node]
    nodes: list[fx.Node]
    facts: list[Fact]
    result: Any
    calls: int
    times: int = 1

    def compared(self) -> Any:
        """What is equal for calls that left the same."""
        origin = _Place("", 0, ("", 0, ""))
        index: dict[fx.Node, Any] = {node: ("input", position) for position, node in enumerate(self.inputs)}
        index |= {node: ("node", position) for position, node in enumerate(self.nodes)}

        def refer(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return index.get(leaf) or ("attribute", self.place.moved(str(leaf.target), origin))
            return type(leaf), leaf

        found = []
        for node in self.nodes:
            known = info(node)
            target = self.place.moved(node.target, origin) if isinstance(node.target, str) else node.target
            where = known.origin.file, known.origin.line, known.origin.call - self.place.calls
            path = self.place.moved(known.origin.module_path, origin)
            changed = [position for position, other in enumerate(self.nodes) if other.name in known.mutates]
            arguments = map_aggregate(node.args, refer), map_aggregate(node.kwargs, refer)
            found.append((node.op, target, arguments, known.value, path, known.origin.module_type, where, changed))
        facts = [replace(fact, module_path=self.place.moved(fact.module_path, origin)) for fact in self.facts]
        result = rebuild(self.result, lambda proxy: (refer(proxy.node), proxy.depends, proxy.shape_depends))
        return found, facts, result


class RepeatedLayers:
    """The layers of one trace.

    Args:
        tracer: of the trace.

    Attributes:
        paused: whether each layer is traced by itself.
        used: whether one was not.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.paused = False
        self.used = False
        self._calls: Counter[type[nn.Module]] = Counter()
        self._known: dict[Hashable, _Recording] = {}
        self._named: dict[fx.Node, bool] = {}
        self._in_vain: Counter[type[nn.Module]] = Counter()
        self._plain = PlainCode()

    def call(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], trace: Callable[[], Any]
    ) -> Any:
        """Record a call of a module.

        Args:
            module, path: what is called.
            args, kwargs: of the call.
            trace: records it by running the module.
        """
        self._calls[type(module)] += 1
        is_operation = not module._modules and type(module).__module__.startswith("torch.nn.")
        skipped = self._calls[type(module)] <= _TRACED_FIRST or self._in_vain[type(module)] >= _ALIKE
        if self.paused or module.training or is_operation or skipped:
            return trace()
        tracer, signature = self.tracer, LayerSignature(self.tracer, self._plain, path)
        tracer.answers.settle()
        try:
            place = _Place(path, tracer.scope.calls, user_line())
            with torch._C.DisableTorchFunction():  # what is looked at is no call of the user's
                holds = signature.of_module(module)
                key = holds, signature.of_arguments(args, kwargs), place.line
            known = self._known.get(key)
            if known is not None and known.times >= _ALIKE:
                return self._record_again(known, place, signature.nodes)
        except UnlikeError:
            self._in_vain[type(module)] += 1
            return trace()
        before, last, count = self._state(), tracer.graph._root._prev, len(tracer.recorder.facts)
        result = trace()
        tracer.answers.settle()
        facts = list(itertools.islice(reversed(tracer.recorder.facts), max(len(tracer.recorder.facts) - count, 0)))
        calls = tracer.scope.calls - place.calls
        made = _Recording(place, list(signature.nodes), _nodes_after(last), facts[::-1], result, calls)
        with torch._C.DisableTorchFunction():
            same = before == self._state() and LayerSignature(tracer, self._plain, path).of_module(module) == holds
            if same and self._only_computes(made):
                made.times = 1 if known is None or known.compared() != made.compared() else known.times + 1
                self._known[key] = made
            else:
                self._in_vain[type(module)] += 1
                self._known.pop(key, None)
        return result

    def _state(self) -> tuple[Any, ...]:
        """How much there is of what a layer that only computes adds nothing to."""
        tracer = self.tracer
        answers, writes, recorder = tracer.answers, tracer.writes, tracer.recorder
        asked = answers.of_state, answers.of_gradients, answers.of_memory, answers.questions, answers.checked
        met = tracer.constants, tracer.unhooked, tracer.rejected, tracer.submodule_paths or {}, tracer.versions
        known: tuple[Sized, ...] = (*asked, *met, writes.pending, writes.replaced, recorder.troubles)
        return outside_gradients(), *map(len, known)

    def _only_computes(self, made: _Recording) -> bool:
        """Whether all that a call left are operations on what it was given, on what it made and on what is its own."""
        own = {*made.inputs, *made.nodes}
        given = {info(node).storage for node in made.inputs} - {0}
        by_name = {node.name: info(node) for node in made.nodes}
        if any(fact.kind not in _SAME_FOR_ALL for fact in made.facts):
            return False
        for node in made.nodes:
            name = name_of(node.target)
            if name in RANDOM or name in DATA_SHAPED or node.target in UNWRITTEN or node.op == "placeholder":
                return False
            if node.op == "call_module" and runs_user_code(self.tracer.root.get_submodule(str(node.target))):
                return False
            if any(source not in own and source.op != "get_attr" for source in node.all_input_nodes):
                return False
            for changed in info(node).mutates:
                if changed not in by_name or by_name[changed].storage in given or _is_attribute(changed, made.nodes):
                    return False
        return _is_made_of(made.result, own)

    # -- recording again ----------------------------------------------------------------------------

    def _record_again(self, known: _Recording, place: _Place, given: dict[fx.Node, ValueProxy]) -> Any:
        """Record what a call left, in another place, on other values.

        Raises:
            UnlikeError: it gives something of another shape, or fails on these values; nothing is recorded.
        """
        tracer = self.tracer
        others = [node for before, node in zip(known.inputs, given, strict=True) if before is not node]
        asks = any(fact.kind in _OF_INPUTS for fact in known.facts)
        if asks and any(map(self._has_unchecked, others)):
            raise UnlikeError
        last = tracer.graph._root._prev
        made = {node: (proxy.node, proxy.value) for node, proxy in zip(known.inputs, given.values(), strict=True)}
        try:
            with tracer.nothing_recorded(), without_gradients(), torch._C.DisableTorchFunction():
                for node in known.nodes:
                    made[node] = self._again(node, known.place, place, made)
        except Exception as error:  # whatever an operation raises
            for node in reversed(_nodes_after(last)):
                if node.op != "get_attr":  # those are made once
                    tracer.graph.erase_node(node)
            self.paused = True
            raise UnlikeError from error
        self.used = True
        tracer.scope.calls += known.calls
        for fact in known.facts:
            tracer.recorder.facts[replace(fact, module_path=known.place.moved(fact.module_path, place))] = None
        return rebuild(known.result, lambda proxy: self._result(proxy, made, given))

    def _has_unchecked(self, node: fx.Node) -> bool:
        """Whether a question for the rank or the dtype of an argument would be the first for an input."""
        checked = {name for name, *_ in self.tracer.answers.checked}
        inputs = self.tracer.dtypes.inputs_of(node)
        return self.tracer.ranks.has_unasked(node) or any(source.name not in checked for source in inputs)

    def _again(
        self, node: fx.Node, old: _Place, new: _Place, made: dict[fx.Node, tuple[fx.Node, Any]]
    ) -> tuple[fx.Node, Any]:
        """A node like another one, and its value."""
        tracer, known = self.tracer, info(node)
        if node.op == "get_attr":
            return self._attribute(node, old, new)
        for source in node.all_input_nodes:
            if source not in made:
                made[source] = self._attribute(source, old, new)
        args = fx.node.map_arg(node.args, lambda source: made[source][1])
        kwargs = fx.node.map_arg(node.kwargs, lambda source: made[source][1])
        target: Any = node.target
        if node.op == "call_module":
            target = old.moved(target, new)
            value = tracer.root.get_submodule(target)(*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            value = target(*args, **kwargs)
        if describe_value(value) != known.value:
            raise UnlikeError
        path = old.moved(known.origin.module_path, new)
        name = path.replace(".", "_") if self._is_named_after_module(node, known) else None
        again = tracer.create_node(
            node.op, target, fx.node.map_arg(node.args, lambda source: made[source][0]),
            fx.node.map_arg(node.kwargs, lambda source: made[source][0]), name,
        )  # fmt: skip
        others = made.items() if known.mutates else ()
        changed = tuple(other.name for source, (other, _) in others if source.name in known.mutates)
        describe_again(again, known, value, path, known.origin.call - old.calls + new.calls, changed)
        return again, value

    def _attribute(self, node: fx.Node, old: _Place, new: _Place) -> tuple[fx.Node, Any]:
        """The node of a parameter or buffer in the place of another, and its value."""
        path, origin = old.moved(str(node.target), new), info(node).origin
        if path in self.tracer.writes.pending:
            raise UnlikeError

        def describe(made: fx.Node, value: Any) -> None:
            call = origin.call - old.calls + new.calls
            describe_again(made, info(node), value, old.moved(origin.module_path, new), call, ())

        proxy = self.tracer.lowering.attribute(path, describe)
        return proxy.node, proxy.value

    def _is_named_after_module(self, node: fx.Node, known: NodeInfo) -> bool:
        """Whether it is an operation of a simple torch.nn module."""
        if node not in self._named:
            path, own = known.origin.module_path, known.origin.from_torch_module and node.op != "call_module"
            self._named[node] = own and bool(path) and not self.tracer.root.get_submodule(path)._modules
        return self._named[node]

    def _result(
        self, proxy: ValueProxy, made: dict[fx.Node, tuple[fx.Node, Any]], given: dict[fx.Node, ValueProxy]
    ) -> ValueProxy:
        """The proxy that stands in the place of another one in a result."""
        node, value = made[proxy.node]
        if node in given:
            return given[node]
        again = type_for(value)(node, self.tracer, value, proxy.depends, proxy.shape_depends)
        again.outside_grad = proxy.outside_grad
        return again


def _nodes_after(last: fx.Node) -> list[fx.Node]:
    """The nodes of a graph behind one of them."""
    found, node = [], last._next
    while node.op != "root":
        found.append(node)
        node = node._next
    return found


def _is_attribute(name: str, nodes: list[fx.Node]) -> bool:
    """Whether a node with a name reads a parameter or buffer, or a view of one is changed in its place."""
    changed = next(node for node in nodes if node.name == name)
    owned = {info(node).storage for node in nodes if node.op == "get_attr"}
    return info(changed).storage in owned


def _is_made_of(result: Any, nodes: Collection[fx.Node]) -> bool:
    """Whether a result is values of some nodes, literals, and tuples, lists and dictionaries of them."""
    if isinstance(result, ValueProxy):
        return result.node in nodes and not result.from_part and result.parts_of is None
    if type(result) in (tuple, list):
        return all(_is_made_of(item, nodes) for item in result)
    if type(result) is dict:
        return all(_is_made_of(item, nodes) for item in result.values())
    return type(result) in _LITERALS
